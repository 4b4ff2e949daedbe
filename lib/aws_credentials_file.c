/* Read line by line without copying more than the three values. */
#include "lib/aws_credentials_file.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "lib/secret.h"

#define FILE_MAX_BYTES (256 * 1024)

struct profile_keys {
	char *access_key_id;
	char *secret_access_key;
	char *session_token;
};

static void profile_keys_done(struct profile_keys *keys)
{
	free(keys->access_key_id);
	secret_string_free(keys->secret_access_key);
	secret_string_free(keys->session_token);
}

static char *trim(char *text)
{
	size_t n;

	while (isspace((unsigned char)*text))
		text++;
	for (n = strlen(text); n > 0 && isspace((unsigned char)text[n - 1]);)
		text[--n] = '\0';
	return text;
}

static int set_value(struct profile_keys *keys, const char *name, const char *value)
{
	char **slot = NULL, *copy;

	if (strcmp(name, "aws_access_key_id") == 0)
		slot = &keys->access_key_id;
	else if (strcmp(name, "aws_secret_access_key") == 0)
		slot = &keys->secret_access_key;
	else if (strcmp(name, "aws_session_token") == 0)
		slot = &keys->session_token;
	if (!slot)
		return 0;
	copy = strdup(value);
	if (!copy)
		return -ENOMEM;
	secret_string_free(*slot);
	*slot = copy;
	return 0;
}

/* [name]; the file's length bounds it. */
static bool is_section(const char *line, const char *profile)
{
	size_t n = strlen(profile);

	return strncmp(line + 1, profile, n) == 0 && strcmp(line + 1 + n, "]") == 0;
}

static int read_lines(char *text, const char *profile, struct profile_keys *keys)
{
	bool inside = false;
	char *rest = NULL;

	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char *equals;

		line = trim(line);
		if (*line == '[') {
			inside = is_section(line, profile);
			continue;
		}
		equals = strchr(line, '=');
		if (!inside || !equals || *line == '#' || *line == ';')
			continue;
		*equals = '\0';
		if (set_value(keys, trim(line), trim(equals + 1)) < 0)
			return -ENOMEM;
	}
	return 0;
}

int aws_credentials_file_read(const char *path, const char *profile, struct aws_keys **ret,
                              struct err *err)
{
	_cleanup_(profile_keys_done) struct profile_keys found = {0};
	struct aws_keys *keys;
	char *text = NULL;
	size_t len = 0;
	int r;

	r = file_read(AT_FDCWD, path, FILE_MAX_BYTES, &text, &len);
	if (r < 0)
		return err_set(err, r, "read %s", path);
	r = read_lines(text, profile, &found);
	explicit_bzero(text, len);
	free(text);
	if (r < 0)
		return err_oom(err);
	if (!found.access_key_id && !found.secret_access_key)
		return err_text(err, -ENOENT, "%s has no keys of the profile '%s'", path, profile);
	if (!found.access_key_id || !found.secret_access_key)
		return err_text(err, -EINVAL, "%s has half a key in the profile '%s'", path,
		                profile);
	keys = aws_keys_new(found.access_key_id, found.secret_access_key, found.session_token,
	                    AWS_KEYS_NO_EXPIRY);
	if (!keys)
		return err_oom(err);
	*ret = keys;
	return 0;
}
