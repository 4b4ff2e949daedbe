/* Names are looked for one by one: an environment is short, and made once for a process. */
#include "agent/task/environment.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_ENTRY "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define TERM_ENTRY "TERM=xterm"

static size_t count(const char *const *list)
{
	size_t n = 0;

	while (list && list[n])
		n++;
	return n;
}

/* The place of the variable that entry ("NAME=VALUE") is about, or the end. */
static size_t find(const struct environment *environment, const char *entry)
{
	size_t len = strcspn(entry, "=") + 1, i = 0;

	while (i < environment->n && strncmp(environment->list[i], entry, len) != 0)
		i++;
	return i;
}

static void set_default(struct environment *environment, const char *entry)
{
	if (find(environment, entry) == environment->n)
		environment->list[environment->n++] = (char *)entry;
}

int environment_make(const struct container_spec *spec, const char *hostname,
                     const char *const *additions, struct environment *ret, struct err *err)
{
	size_t n_own = count(spec->env), n_added = count(additions);

	*ret = (struct environment){
		.list = calloc(n_own + n_added + 5, sizeof(*ret->list)),
	};
	if (!ret->list)
		return err_oom(err);
	for (; ret->n < n_own; ret->n++)
		ret->list[ret->n] = (char *)spec->env[ret->n];
	for (size_t i = 0; i < n_added; i++) {
		size_t place = find(ret, additions[i]);

		ret->list[place] = (char *)additions[i];
		ret->n += place == ret->n;
	}
	if (spec->bare)
		return 0;
	snprintf(ret->hostname, sizeof(ret->hostname), "HOSTNAME=%s", hostname);
	set_default(ret, PATH_ENTRY);
	set_default(ret, ret->hostname);
	if (spec->terminal)
		set_default(ret, TERM_ENTRY);
	return 0;
}

void environment_done(struct environment *environment)
{
	free(environment->list);
	*environment = (struct environment){};
}
