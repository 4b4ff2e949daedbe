/* One table: driver, option, check. What is not in it is refused by name. */
#include "agent/logs/options.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/json.h"
#include "lib/parse.h"

/* Returns NULL when the value is right, else what would be. */
typedef const char *(*check_fn)(const char *value);

static const char *check_bool(const char *value)
{
	bool b;

	return parse_bool(value, &b) == 0 ? NULL : "true or false";
}

static bool consists_of(const char *value, const char *others)
{
	for (; *value; value++) {
		bool letter = (*value >= 'a' && *value <= 'z') || (*value >= 'A' && *value <= 'Z');

		if (!letter && !(*value >= '0' && *value <= '9') && !strchr(others, *value))
			return false;
	}
	return true;
}

static const char *check_group(const char *value)
{
	size_t n = strlen(value);

	if (n < 1 || n > 512 || !consists_of(value, "_-/.#"))
		return "1 to 512 letters, digits and any of _ - / . #";
	return NULL;
}

static const char *check_stream(const char *value)
{
	size_t n = strlen(value);

	if (n < 1 || n > 512 || strpbrk(value, ":*"))
		return "1 to 512 characters without ':' and '*'";
	return NULL;
}

static const char *check_prefix(const char *value)
{
	size_t n = strlen(value);

	/* The container's name (255) and the task's id are added to it. */
	if (n < 1 || n > 200 || strpbrk(value, ":*"))
		return "1 to 200 characters without ':' and '*'";
	return NULL;
}

static const char *check_region(const char *value)
{
	if (!name_is_component(value, 64) || !consists_of(value, "-"))
		return "a region such as us-west-2";
	return NULL;
}

static const char *check_endpoint(const char *value)
{
	const char *host = NULL;

	if (strncmp(value, "https://", 8) == 0)
		host = value + 8;
	else if (strncmp(value, "http://", 7) == 0)
		host = value + 7;
	if (!host || !*host || strlen(value) > 1024 || strpbrk(value, " \t\r\n?#@"))
		return "a URL such as https://logs.us-west-2.amazonaws.com";
	return NULL;
}

static const char *check_interval(const char *value)
{
	uint64_t n;

	if (parse_u64(value, LOG_FLUSH_SECONDS_MAX, &n) < 0 || n == 0)
		return "a number of seconds from 1 to 3600";
	return NULL;
}

static const char *check_format(const char *value)
{
	return strcmp(value, "json/emf") == 0 ? NULL : "json/emf";
}

static const char *check_size(const char *value)
{
	uint64_t bytes;

	return log_size_parse(value, &bytes) == 0 && bytes > 0 ? NULL : "a size such as 10m";
}

static const char *check_max_size(const char *value)
{
	return strcmp(value, "-1") == 0 || !check_size(value) ? NULL : "a size such as 10m, or -1";
}

static const char *check_max_file(const char *value)
{
	uint64_t n;

	if (parse_u64(value, LOG_MAX_FILE_MAX, &n) < 0 || n == 0)
		return "a number from 1 to 100";
	return NULL;
}

static const char *check_mode(const char *value)
{
	if (strcmp(value, "blocking") != 0 && strcmp(value, "non-blocking") != 0)
		return "blocking or non-blocking";
	return NULL;
}

struct option {
	const char *driver; /* NULL: every one */
	const char *name;
	check_fn check;
};

static const struct option options_table[] = {
	{"awslogs", "awslogs-group", check_group},
	{"awslogs", "awslogs-region", check_region},
	{"awslogs", "awslogs-stream", check_stream},
	{"awslogs", "awslogs-stream-prefix", check_prefix},
	{"awslogs", "awslogs-create-group", check_bool},
	{"awslogs", "awslogs-create-stream", check_bool},
	{"awslogs", "awslogs-endpoint", check_endpoint},
	{"awslogs", "awslogs-force-flush-interval-seconds", check_interval},
	{"awslogs", "awslogs-format", check_format},
	{"json-file", "max-size", check_max_size},
	{"json-file", "max-file", check_max_file},
	{NULL, "mode", check_mode},
	{NULL, "max-buffer-size", check_size},
};

static const struct option *option_find(const char *driver, const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(options_table); i++) {
		const struct option *option = &options_table[i];

		if (option->driver ? strcmp(option->driver, driver) != 0
		                   : strcmp(driver, "none") == 0)
			continue;
		if (strcmp(option->name, name) == 0)
			return option;
	}
	return NULL;
}

static void list_options(const char *driver, char *buf, size_t n)
{
	size_t used = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(options_table) && used < n; i++) {
		if (option_find(driver, options_table[i].name) != &options_table[i])
			continue;
		used += (size_t)snprintf(buf + used, n - used, "%s%s", used ? ", " : "",
		                         options_table[i].name);
	}
}

static int check_option(const char *driver, const char *name, struct json_object *value,
                        struct err *err)
{
	const struct option *option = option_find(driver, name);
	const char *text, *right;
	char list[384];

	if (!option) {
		list_options(driver, list, sizeof(list));
		return err_text(err, -EOPNOTSUPP,
		                "log option %.64s is not supported with driver %s (%s%s)", name,
		                driver, *list ? "supported: " : "it has no options", list);
	}
	if (!json_object_is_type(value, json_type_string))
		return err_text(err, -EINVAL, "log option %s must be a string", name);
	text = json_object_get_string(value);
	if (strlen(text) != (size_t)json_object_get_string_len(value))
		return err_text(err, -EINVAL, "log option %s holds a NUL byte", name);
	right = option->check(text);
	if (right)
		return err_text(err, -EINVAL, "log option %s is \"%.128s\", which must be %s", name,
		                text, right);
	return 0;
}

int log_options_check(const char *driver, struct json_object *options, struct err *err)
{
	const char *mode;
	int r;

	if (strcmp(driver, "awslogs") != 0 && strcmp(driver, "json-file") != 0 &&
	    strcmp(driver, "none") != 0)
		return err_text(
			err, -EOPNOTSUPP,
			"log driver %.64s is not supported (supported: awslogs, json-file, none)",
			driver);
	if (options && !json_object_is_type(options, json_type_object))
		return err_text(err, -EINVAL, "log options must be an object of strings");

	if (options) {
		json_object_object_foreach (options, name, value) {
			r = check_option(driver, name, value, err);
			if (r < 0)
				return r;
		}
	}
	if (strcmp(driver, "awslogs") == 0 && !json_text(options, "awslogs-group"))
		return err_text(err, -EINVAL,
		                "log option awslogs-group is required with driver awslogs");
	mode = json_text(options, "mode");
	if (json_text(options, "max-buffer-size") && (!mode || strcmp(mode, "non-blocking") != 0))
		return err_text(
			err, -EINVAL,
			"log option max-buffer-size is supported with mode=non-blocking only");
	return 0;
}

int log_size_parse(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "kmgt";
	size_t n = strspn(text, "0123456789");
	const char *unit = text + n, *at;
	unsigned int shift = 0;
	char digits[24];
	uint64_t value;
	int r;

	if (n == 0 || n >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, text, n);
	digits[n] = '\0';
	r = parse_u64(digits, UINT64_MAX, &value);
	if (r < 0)
		return r;

	if (*unit && (at = strchr(units, *unit | 0x20))) {
		shift = 10 * (unsigned int)(at - units + 1);
		unit++;
		if (strcmp(unit, "ib") == 0 || strcmp(unit, "iB") == 0)
			unit += 2;
	}
	if (strcmp(unit, "b") == 0 || strcmp(unit, "B") == 0)
		unit++;
	if (*unit)
		return -EINVAL;
	if (value > UINT64_MAX >> shift)
		return -ERANGE;
	*ret_bytes = value << shift;
	return 0;
}
