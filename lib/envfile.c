/* KEY=VALUE files. Values are lists of a few dozen entries, so a plain array serves. */
#include "lib/envfile.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "lib/fd.h"

#define ENVFILE_MAX_BYTES   (1024 * 1024)
#define ENVFILE_MAX_ENTRIES 4096

struct entry {
	char *key;
	char *value;
	size_t line;
};

struct envfile {
	struct entry *entries;
	size_t n;
};

struct envfile *envfile_free(struct envfile *file)
{
	if (!file)
		return NULL;
	for (size_t i = 0; i < file->n; i++) {
		free(file->entries[i].key);
		if (file->entries[i].value) /* may be a secret key */
			explicit_bzero(file->entries[i].value, strlen(file->entries[i].value));
		free(file->entries[i].value);
	}
	free(file->entries);
	free(file);
	return NULL;
}

static int set_entry(struct envfile *file, size_t line, const char *key, size_t key_len,
                     const char *value, size_t value_len)
{
	_cleanup_free_ char *k = strndup(key, key_len), *v = strndup(value, value_len);
	struct entry *entries;

	if (!k || !v)
		return -ENOMEM;
	for (size_t i = 0; i < file->n; i++)
		if (strcmp(file->entries[i].key, k) == 0) {
			free(file->entries[i].value);
			file->entries[i].value = TAKE_PTR(v);
			file->entries[i].line = line;
			return 0;
		}
	if (file->n == ENVFILE_MAX_ENTRIES)
		return -E2BIG;
	entries = realloc(file->entries, (file->n + 1) * sizeof(*entries));
	if (!entries)
		return -ENOMEM;
	file->entries = entries;
	file->entries[file->n++] =
		(struct entry){.key = TAKE_PTR(k), .value = TAKE_PTR(v), .line = line};
	return 0;
}

static int parse_line(struct envfile *file, size_t number, const char *line, size_t len)
{
	const char *equals;

	while (len && isspace((unsigned char)line[0]))
		line++, len--;
	while (len && isspace((unsigned char)line[len - 1]))
		len--;
	equals = memchr(line, '=', len);
	if (!equals || line[0] == '#')
		return 0;
	return set_entry(file, number, line, (size_t)(equals - line), equals + 1,
	                 len - (size_t)(equals + 1 - line));
}

int envfile_parse(const char *text, size_t len, struct envfile **ret, struct err *err)
{
	_cleanup_(envfile_freep) struct envfile *file = calloc(1, sizeof(*file));
	size_t line_number = 1;

	if (!file)
		return err_oom(err);
	if (memchr(text, '\0', len))
		return err_text(err, -EINVAL, "contains a NUL byte, so it is not a text file");

	for (const char *p = text, *end = text + len; p < end; line_number++) {
		const char *newline = memchr(p, '\n', (size_t)(end - p));
		size_t n = (size_t)((newline ? newline : end) - p);
		int r = parse_line(file, line_number, p, n);

		if (r < 0)
			return err_set(err, r, "line %zu", line_number);
		p += n + 1;
	}
	*ret = TAKE_PTR(file);
	return 0;
}

int envfile_open(const char *path, struct envfile **ret, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r;

	r = file_read(AT_FDCWD, path, ENVFILE_MAX_BYTES, &text, &len);
	if (r == -ENOENT)
		return envfile_parse("", 0, ret, err);
	if (r < 0)
		return err_set(err, r, "read %s", path);
	r = envfile_parse(text, len, ret, err);
	explicit_bzero(text, len);
	return r < 0 ? err_prefix(err, r, "%s", path) : 0;
}

const char *envfile_get(const struct envfile *file, const char *key)
{
	for (size_t i = 0; i < file->n; i++)
		if (strcmp(file->entries[i].key, key) == 0)
			return file->entries[i].value;
	return NULL;
}

size_t envfile_line(const struct envfile *file, const char *key)
{
	for (size_t i = 0; i < file->n; i++)
		if (strcmp(file->entries[i].key, key) == 0)
			return file->entries[i].line;
	return 0;
}

const char *envfile_key(const struct envfile *file, size_t i, const char **ret_value)
{
	if (i >= file->n)
		return NULL;
	if (ret_value)
		*ret_value = file->entries[i].value;
	return file->entries[i].key;
}
