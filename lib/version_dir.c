/* A folder is read once; what its names are is decided by their numbers, however long those are. */
#include "lib/version_dir.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"

#define DIGITS "0123456789"

static bool is_version(const char *name)
{
	if (strlen(name) > VERSION_DIR_NAME_MAX)
		return false;
	for (;;) {
		size_t n = strspn(name, DIGITS);

		if (n == 0)
			return false;
		if (name[n] == '\0')
			return true;
		if (name[n] != '.')
			return false;
		name += n + 1;
	}
}

/* Numbers of any length: without leading zeros the longer one is the greater. */
static int compare_numbers(const char *a, size_t n_a, const char *b, size_t n_b)
{
	while (n_a > 1 && *a == '0')
		a++, n_a--;
	while (n_b > 1 && *b == '0')
		b++, n_b--;
	if (n_a != n_b)
		return n_a < n_b ? -1 : 1;
	return strncmp(a, b, n_a);
}

int version_compare(const char *a, const char *b)
{
	if (!is_version(a) || !is_version(b))
		return (int)is_version(a) - (int)is_version(b);
	for (;;) {
		size_t n_a = strspn(a, DIGITS), n_b = strspn(b, DIGITS);
		int order = compare_numbers(a, n_a, b, n_b);

		if (order != 0)
			return order;
		a += n_a;
		b += n_b;
		if (!*a || !*b)
			return (int)(*a != '\0') - (int)(*b != '\0');
		a++;
		b++;
	}
}

static bool has_all(int dir_fd, const char *name, const char *const *files, size_t n)
{
	_cleanup_close_ int fd = openat(dir_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if (fstatat(fd, files[i], &st, 0) < 0 || !S_ISREG(st.st_mode) ||
		    (st.st_mode & 0111) == 0)
			return false;
	return true;
}

int version_dir_newest(int dir_fd, const char *const *files, size_t n,
                       char ret[static VERSION_DIR_NAME_MAX + 1])
{
	_cleanup_(closedirp) DIR *dir = NULL;
	char newest[VERSION_DIR_NAME_MAX + 1] = "";
	struct dirent *entry;
	int r = dir_open(dir_fd, ".", &dir);

	if (r < 0)
		return r;
	while ((entry = readdir(dir)))
		if (is_version(entry->d_name) && version_compare(entry->d_name, newest) > 0 &&
		    has_all(dir_fd, entry->d_name, files, n))
			snprintf(newest, sizeof(newest), "%.*s", VERSION_DIR_NAME_MAX,
			         entry->d_name);
	if (!newest[0])
		return -ENOENT;
	memcpy(ret, newest, sizeof(newest));
	return 0;
}
