/* Text only: what is a link on disk is the business of tree.c. */
#include "agent/image/entry_path.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

int entry_path_clean(const char *name, char *buf, size_t n, struct err *err)
{
	size_t len = 0, depth = 0;
	const char *p = name;

	for (;;) {
		size_t component;

		p += strspn(p, "/");
		component = strcspn(p, "/");
		if (component == 0)
			break;

		if (component == 2 && p[0] == '.' && p[1] == '.') {
			if (len == 0)
				return err_text(err, -EBADMSG,
				                "\"%.200s\" points outside of the layer", name);
			while (len > 0 && buf[--len] != '/')
				;
			depth--;
		} else if (component != 1 || p[0] != '.') {
			if (component > NAME_MAX || len + 1 + component + 1 > n)
				return err_text(err, -ENAMETOOLONG, "\"%.60s...\" is too long",
				                name);
			if (++depth > ENTRY_DEPTH_MAX)
				return err_text(err, -ENAMETOOLONG,
				                "\"%.60s...\" is deeper than %d directories", name,
				                ENTRY_DEPTH_MAX);
			if (len > 0)
				buf[len++] = '/';
			memcpy(buf + len, p, component);
			len += component;
		}
		p += component;
	}
	buf[len] = '\0';
	return 0;
}
