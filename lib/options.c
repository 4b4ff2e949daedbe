/* --long options by a table; getopt_long() cannot name the bad option in an error of ours. */
#include "lib/options.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/cleanup.h"

static void print_usage(const char *synopsis, const struct option_spec *specs, size_t n)
{
	printf("Usage: %s\n\n", synopsis);
	for (size_t i = 0; i < n; i++) {
		char left[64];

		snprintf(left, sizeof(left), "--%s%s%s", specs[i].name,
		         specs[i].argument ? " " : "", specs[i].argument ? specs[i].argument : "");
		printf("  %-24s %s\n", left, specs[i].help);
	}
}

static const struct option_spec *find(const struct option_spec *specs, size_t n, const char *name,
                                      size_t len)
{
	for (size_t i = 0; i < n; i++)
		if (strlen(specs[i].name) == len && strncmp(specs[i].name, name, len) == 0)
			return &specs[i];
	return NULL;
}

/* One "--name", "--name=value" or "--name value"; advances *i over what it takes. */
static int take_option(int argc, char **argv, int *i, const struct option_spec *specs, size_t n,
                       struct err *err)
{
	const char *text = argv[*i] + 2, *equals = strchr(text, '=');
	size_t len = equals ? (size_t)(equals - text) : strlen(text);
	const struct option_spec *spec = find(specs, n, text, len);

	if (!spec)
		return err_text(err, -EINVAL, "unknown option --%.*s (see --help)", (int)len, text);
	if (spec->flag) {
		if (equals)
			return err_text(err, -EINVAL, "option --%s takes no value", spec->name);
		*spec->flag = true;
		return 0;
	}
	if (!equals && *i + 1 >= argc)
		return err_text(err, -EINVAL, "option --%s needs a value: %s", spec->name,
		                spec->argument);
	*spec->value = equals ? equals + 1 : argv[++*i];
	if (!**spec->value)
		return err_text(err, -EINVAL, "option --%s has an empty value", spec->name);
	return 0;
}

#define OPTIONS_MAX 32

int options_parse(int argc, char **argv, const char *synopsis, const struct option_spec *specs,
                  size_t n_specs, struct options *ret, int *ret_first, struct err *err)
{
	bool help = false, version = false;
	const struct option_spec shared[] = {
		{"config", "FILE", "configuration (" OPTIONS_CONFIG_DEFAULT ")", NULL,
	         &ret->config},
		{"state-dir", "DIR", "what must survive a reboot (" OPTIONS_STATE_DIR_DEFAULT ")",
	         NULL, &ret->state_dir},
		{"runtime-dir", "DIR", "sockets and exits (" OPTIONS_RUNTIME_DIR_DEFAULT ")", NULL,
	         &ret->runtime_dir},
		{"help", NULL, "show this text", &help, NULL},
		{"version", NULL, "show the version", &version, NULL},
	};
	struct option_spec all[OPTIONS_MAX];
	size_t n = n_specs + ARRAY_SIZE(shared);
	int i, r;

	if (n > OPTIONS_MAX)
		return err_text(err, -E2BIG, "too many options");
	for (size_t k = 0; k < n_specs; k++)
		all[k] = specs[k];
	for (size_t k = 0; k < ARRAY_SIZE(shared); k++)
		all[n_specs + k] = shared[k];
	*ret = (struct options){.config = OPTIONS_CONFIG_DEFAULT,
	                        .state_dir = OPTIONS_STATE_DIR_DEFAULT,
	                        .runtime_dir = OPTIONS_RUNTIME_DIR_DEFAULT};

	for (i = 1; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
		if (strcmp(argv[i], "--") == 0) {
			i++;
			break;
		}
		r = take_option(argc, argv, &i, all, n, err);
		if (r < 0)
			return r;
	}
	*ret_first = i;
	if (help)
		print_usage(synopsis, all, n);
	else if (version)
		printf("%s %s (%s)\n", PACKAGE_NAME, PACKAGE_VERSION, ECS_VERSION_HASH);
	return help || version;
}

int program_dir(char *buf, size_t n, struct err *err)
{
	ssize_t k = readlink("/proc/self/exe", buf, n);
	char *slash;

	if (k < 0)
		return err_set(err, -errno, "read /proc/self/exe");
	if ((size_t)k >= n)
		return err_text(err, -ENAMETOOLONG, "the path of this program is too long");
	buf[k] = '\0';
	slash = strrchr(buf, '/');
	if (!slash || slash == buf)
		return err_text(err, -ENOENT, "this program has no directory of its own: %s", buf);
	*slash = '\0';
	return 0;
}

int program_find(const char *name, char *buf, size_t n)
{
	const char *path = getenv("PATH");
	char dirs[4096];
	char *rest = dirs, *dir;

	if (snprintf(dirs, sizeof(dirs), "%s:/usr/sbin:/sbin", path ? path : "") >=
	    (int)sizeof(dirs))
		return -ENAMETOOLONG;
	while ((dir = strsep(&rest, ":")))
		if (*dir == '/' && snprintf(buf, n, "%s/%s", dir, name) < (int)n &&
		    access(buf, X_OK) == 0)
			return 0;
	return -ENOENT;
}
