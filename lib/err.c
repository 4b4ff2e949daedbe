/* Error texts of fixed size: they work when memory has run out, and travel by value. */
#include "lib/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* One line of printable text: a newline or an escape sequence from outside must not forge a log
 * line or a reason. */
static void make_printable(char *text)
{
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
}

__attribute__((format(printf, 2, 0))) static void set_text(struct err *err, const char *fmt,
                                                           va_list ap)
{
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	make_printable(err->text);
}

int err_text(struct err *err, int r, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return r;

	va_start(ap, fmt);
	set_text(err, fmt, ap);
	va_end(ap);
	return r;
}

int err_set(struct err *err, int r, const char *fmt, ...)
{
	size_t n;
	va_list ap;

	if (!err)
		return r;

	va_start(ap, fmt);
	set_text(err, fmt, ap);
	va_end(ap);

	n = strlen(err->text);
	snprintf(err->text + n, sizeof(err->text) - n, ": %s", strerror(-r));
	return r;
}

int err_prefix(struct err *err, int r, const char *fmt, ...)
{
	char rest[sizeof(err->text)];
	size_t n;
	va_list ap;

	if (!err)
		return r;

	memcpy(rest, err->text, sizeof(rest));
	va_start(ap, fmt);
	set_text(err, fmt, ap);
	va_end(ap);

	n = strlen(err->text);
	snprintf(err->text + n, sizeof(err->text) - n, ": %s", rest);
	return r;
}

int err_oom(struct err *err)
{
	return err_text(err, -ENOMEM, "out of memory");
}
