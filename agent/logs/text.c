/* A growing buffer. It doubles, so that a body of a MiB costs twenty reallocations, not thousands.
 */
#include "agent/logs/text.h"

#include <errno.h>
#include <stdlib.h>

#define TEXT_ROOM_MIN  256
#define TEXT_KEEP_ROOM 4096 /* beyond this an empty text gives its memory back */

int text_reserve(struct text *text, size_t n)
{
	size_t room = text->room ? text->room : TEXT_ROOM_MIN, need;
	char *p;

	if (__builtin_add_overflow(text->len, n, &need))
		return -ENOMEM;
	if (need <= text->room)
		return 0;
	while (room < need)
		if (__builtin_mul_overflow(room, 2, &room))
			return -ENOMEM;
	p = realloc(text->p, room);
	if (!p)
		return -ENOMEM;
	text->p = p;
	text->room = room;
	return 0;
}

int text_append(struct text *text, const void *bytes, size_t n)
{
	int r;

	if (n == 0)
		return 0;
	r = text_reserve(text, n);
	if (r < 0)
		return r;
	memcpy(text->p + text->len, bytes, n);
	text->len += n;
	return 0;
}

int text_append_string(struct text *text, const char *string)
{
	return text_append(text, string, strlen(string));
}

void text_drop_front(struct text *text, size_t n)
{
	text->len -= n;
	if (text->len > 0)
		memmove(text->p, text->p + n, text->len);
	else if (text->room > TEXT_KEEP_ROOM)
		text_done(text);
}

int text_copy(const struct text *text, struct text *ret)
{
	return text_append(ret, text->p, text->len);
}

void text_done(struct text *text)
{
	free(text->p);
	*text = (struct text){0};
}
