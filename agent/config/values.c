/* One value of a variable: from text to its member, and back to text for people. */
#include "agent/config/checks.h"
#include "agent/config/settings.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "lib/json.h"
#include "lib/parse.h"
#include "lib/url.h"
#include "netns/bridge_config.h"

#define JSON_VALUE_MAX (64 * 1024)
#define ITEMS_MAX      1024

#define MEMBER(config, setting, type) ((type *)(void *)((char *)(config) + (setting)->offset))

static const char *const pull_behaviors[] = {"default", "always", "once", "prefer-cached"};

static int replace_string(char **slot, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		return -ENOMEM;
	free(*slot);
	*slot = copy;
	return 0;
}

static int parse_string(struct config *config, const struct setting *setting, const char *text)
{
	return replace_string(MEMBER(config, setting, char *), text);
}

/* Something that becomes part of a name or a host name. */
static int parse_word(struct config *config, const struct setting *setting, const char *text,
                      struct err *err)
{
	_cleanup_free_ char *lower = strdup(text);
	size_t max = setting->max ? setting->max : 63;

	if (!lower)
		return -ENOMEM;
	if (!name_is_component(text, max))
		return err_text(err, -EINVAL,
		                "it takes 1 to %zu letters, digits, '-', '_' and '.' only", max);
	if (strcmp(setting->name, "ECS_LOGLEVEL") == 0) {
		static const char *const words[] = {"crit", "error", "warn", "info", "debug"};
		bool known = false;

		for (char *p = lower; *p; p++)
			*p = (char)tolower((unsigned char)*p);
		for (size_t i = 0; i < ARRAY_SIZE(words); i++)
			known = known || strcmp(lower, words[i]) == 0;
		if (!known)
			return err_text(err, -EINVAL, "it takes crit, error, warn, info or debug");
	}
	return replace_string(MEMBER(config, setting, char *), lower);
}

static int parse_boolean(struct config *config, const struct setting *setting, const char *text,
                         struct err *err)
{
	if (parse_bool(text, MEMBER(config, setting, bool)) < 0)
		return err_text(err, -EINVAL, "it takes true or false");
	return 0;
}

/* Bring a value into the range of its variable, with a warning. */
static int fit(struct config *config, const struct setting *setting, const char *text,
               uint64_t value, struct err *err)
{
	bool too_large = setting->max && value > setting->max;
	char bound[32];

	if (value >= setting->min && !too_large) {
		*MEMBER(config, setting, uint64_t) = value;
		return 0;
	}
	if (too_large || setting->policy == RANGE_DEFAULT || value == 0)
		return err_text(err, -EINVAL, "it is out of range");
	duration_to_string(setting->min, bound, sizeof(bound));
	*MEMBER(config, setting, uint64_t) = setting->min;
	return config_warn(config, "%s=%s is below the minimum; %s is used", setting->name, text,
	                   bound);
}

static int parse_time(struct config *config, const struct setting *setting, const char *text,
                      struct err *err)
{
	uint64_t usec;

	if (parse_duration(text, &usec) < 0)
		return err_text(err, -EINVAL, "it takes a duration such as 90s, 10m or 1h30m");
	return fit(config, setting, text, usec, err);
}

static int parse_number(struct config *config, const struct setting *setting, const char *text,
                        struct err *err)
{
	uint64_t value;

	if (parse_u64(text, UINT64_MAX, &value) < 0)
		return err_text(err, -EINVAL, "it takes a number from %" PRIu64 " to %" PRIu64,
		                setting->min, setting->max);
	if (fit(config, setting, text, value, err) < 0)
		return err_text(err, -EINVAL, "it takes a number from %" PRIu64 " to %" PRIu64,
		                setting->min, setting->max);
	return 0;
}

static int parse_json(const char *text, enum json_type type, struct json_object **ret,
                      struct err *err)
{
	int r = json_parse(text, strlen(text), JSON_VALUE_MAX, ret, err);

	if (r < 0)
		return r;
	if (json_object_get_type(*ret) != type)
		return err_text(err, -EINVAL, "it takes a JSON %s",
		                type == json_type_array ? "array" : "object");
	return 0;
}

static int parse_ports(struct config *config, const struct setting *setting, const char *text,
                       struct err *err)
{
	_cleanup_json_ struct json_object *array = NULL;
	struct config_ports *ports = MEMBER(config, setting, struct config_ports);
	_cleanup_free_ uint16_t *items = NULL;
	size_t n;
	int r;

	r = parse_json(text, json_type_array, &array, err);
	if (r < 0)
		return r;
	n = json_object_array_length(array);
	if (n > 65536)
		return err_text(err, -EINVAL, "it lists more ports than there are");
	items = calloc(n + 1, sizeof(*items));
	if (!items)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(array, i);
		int64_t port = json_object_get_int64(item);

		if (!json_object_is_type(item, json_type_int) || port < 0 || port > 65535)
			return err_text(err, -EINVAL, "it takes a JSON array of port numbers");
		items[i] = (uint16_t)port;
	}
	free(ports->items);
	*ports = (struct config_ports){.items = TAKE_PTR(items), .n = n};
	return 0;
}

static void pairs_done(struct config_pairs *pairs)
{
	for (size_t i = 0; i < pairs->n; i++) {
		free(pairs->items[i].name);
		free(pairs->items[i].value);
	}
	free(pairs->items);
	*pairs = (struct config_pairs){0};
}

static int parse_pairs(struct config *config, const struct setting *setting, const char *text,
                       struct err *err)
{
	_cleanup_json_ struct json_object *object = NULL;
	_cleanup_(pairs_done) struct config_pairs pairs = {0};
	int r;

	r = parse_json(text, json_type_object, &object, err);
	if (r < 0)
		return r;
	if (json_object_object_length(object) > ITEMS_MAX)
		return err_text(err, -EINVAL, "it has more than %d members", ITEMS_MAX);
	pairs.items = calloc((size_t)json_object_object_length(object) + 1, sizeof(*pairs.items));
	if (!pairs.items)
		return -ENOMEM;
	json_object_object_foreach (object, name, value) {
		struct config_pair *pair = &pairs.items[pairs.n];

		if (!json_object_is_type(value, json_type_string))
			return err_text(err, -EINVAL, "the value of '%.64s' is not a string", name);
		pairs.n++;
		pair->name = strdup(name);
		pair->value = strdup(json_object_get_string(value));
		if (!pair->name || !pair->value)
			return -ENOMEM;
	}
	pairs_done(MEMBER(config, setting, struct config_pairs));
	*MEMBER(config, setting, struct config_pairs) = pairs;
	pairs = (struct config_pairs){0};
	return 0;
}

static int parse_url(struct config *config, const struct setting *setting, const char *text,
                     struct err *err)
{
	_cleanup_free_ char *url = NULL;
	struct url parts;
	size_t n;
	int r;

	if (asprintf(&url, "%s%s", strstr(text, "://") ? "" : "https://", text) < 0) {
		url = NULL;
		return -ENOMEM;
	}
	r = url_split(url, &parts, err);
	if (r < 0)
		return r;
	if ((parts.scheme_len != 5 || strncasecmp(parts.scheme, "https", 5) != 0) &&
	    (parts.scheme_len != 4 || strncasecmp(parts.scheme, "http", 4) != 0))
		return err_text(err, -EINVAL, "it takes an https:// or http:// URL");
	if (parts.query_len)
		return err_text(err, -EINVAL, "a URL with a query is no endpoint");
	for (n = strlen(url); n > 0 && url[n - 1] == '/';)
		url[--n] = '\0';
	return replace_string(MEMBER(config, setting, char *), url);
}

static void strings_done(struct config_strings *strings)
{
	for (size_t i = 0; i < strings->n; i++)
		free(strings->items[i]);
	free(strings->items);
	*strings = (struct config_strings){0};
}

enum driver_support {
	DRIVER_BUILT_IN,
	DRIVER_KNOWN,
	DRIVER_UNKNOWN,
};

static enum driver_support driver_support(const char *name)
{
	static const char *const built_in[] = {"json-file", "awslogs", "none"};
	static const char *const known[] = {"syslog", "journald",   "gelf",      "fluentd",
	                                    "splunk", "logentries", "sumologic", "awsfirelens"};

	for (size_t i = 0; i < ARRAY_SIZE(built_in); i++)
		if (strcmp(name, built_in[i]) == 0)
			return DRIVER_BUILT_IN;
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strcmp(name, known[i]) == 0)
			return DRIVER_KNOWN;
	return DRIVER_UNKNOWN;
}

static int take_driver(struct config *config, struct config_strings *drivers, const char *name,
                       struct err *err)
{
	switch (driver_support(name)) {
	case DRIVER_BUILT_IN:
		drivers->items[drivers->n] = strdup(name);
		return drivers->items[drivers->n++] ? 0 : -ENOMEM;
	case DRIVER_KNOWN:
		return config_warn(
			config,
			"ECS_AVAILABLE_LOGGING_DRIVERS: this agent has no log driver '%s'; "
			"it is not advertised",
			name);
	default:
		return err_text(err, -EINVAL, "there is no log driver '%.64s'", name);
	}
}

/* As with the agent that users know, no JSON means the default, but an unknown name is fatal. */
static int parse_logging_drivers(struct config *config, const struct setting *setting,
                                 const char *text, struct err *err)
{
	_cleanup_json_ struct json_object *array = NULL;
	_cleanup_(strings_done) struct config_strings drivers = {0};
	size_t n;
	int r;

	if (parse_json(text, json_type_array, &array, err) < 0)
		return config_warn(config,
		                   "%s=%s: it takes a JSON array of names; the default is used",
		                   setting->name, text);
	n = json_object_array_length(array);
	if (n > ITEMS_MAX)
		return err_text(err, -EINVAL, "it has more than %d names", ITEMS_MAX);
	drivers.items = calloc(n + 1, sizeof(*drivers.items));
	if (!drivers.items)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(array, i);

		if (!json_object_is_type(item, json_type_string))
			return err_text(err, -EINVAL, "it takes a JSON array of names");
		r = take_driver(config, &drivers, json_object_get_string(item), err);
		if (r < 0)
			return r;
	}
	strings_done(MEMBER(config, setting, struct config_strings));
	*MEMBER(config, setting, struct config_strings) = drivers;
	drivers = (struct config_strings){0};
	return 0;
}

/* "a, b": spaces around and empty items mean nothing. */
static int parse_list(struct config *config, const struct setting *setting, const char *text,
                      struct err *err)
{
	_cleanup_(strings_done) struct config_strings list = {0};

	list.items = calloc(ITEMS_MAX, sizeof(*list.items));
	if (!list.items)
		return -ENOMEM;
	while (*text) {
		size_t length = strcspn(text, ","), n;

		n = strspn(text, " \t");
		text += n;
		length -= n < length ? n : length;
		for (n = length; n > 0 && strchr(" \t", text[n - 1]); n--)
			;
		if (n > 0 && list.n == ITEMS_MAX)
			return err_text(err, -EINVAL, "it has more than %d items", ITEMS_MAX);
		if (n > 0) {
			list.items[list.n] = strndup(text, n);
			if (!list.items[list.n++])
				return -ENOMEM;
		}
		text += length;
		text += *text == ',';
	}
	strings_done(MEMBER(config, setting, struct config_strings));
	*MEMBER(config, setting, struct config_strings) = list;
	list = (struct config_strings){0};
	return 0;
}

static int parse_pull_behavior(struct config *config, const struct setting *setting,
                               const char *text, struct err *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(pull_behaviors); i++)
		if (strcmp(text, pull_behaviors[i]) == 0) {
			*MEMBER(config, setting, enum image_pull_behavior) =
				(enum image_pull_behavior)i;
			return 0;
		}
	return err_text(err, -EINVAL, "it takes default, always, once or prefer-cached");
}

/* Two numbers with one character between them. */
static int parse_two(const char *text, char separator, uint64_t max, uint64_t *ret_first,
                     uint64_t *ret_second)
{
	_cleanup_free_ char *first = strdup(text);
	char *middle = first ? strchr(first, separator) : NULL;

	if (!first)
		return -ENOMEM;
	if (!middle)
		return -EINVAL;
	*middle = '\0';
	if (parse_u64(first, max, ret_first) < 0 || parse_u64(middle + 1, max, ret_second) < 0)
		return -EINVAL;
	return 0;
}

static int parse_port_range(struct config *config, const char *text, struct err *err)
{
	uint64_t first, last;
	int r = parse_two(text, '-', 65535, &first, &last);

	if (r == -ENOMEM)
		return r;
	if (r < 0 || first == 0 || first > last)
		return err_text(err, -EINVAL, "it takes two ports such as 49153-65535");
	config->dynamic_port_first = (uint16_t)first;
	config->dynamic_port_last = (uint16_t)last;
	return 0;
}

static int parse_rate(struct config *config, const char *text, struct err *err)
{
	uint64_t rate, burst;
	int r = parse_two(text, ',', 1000000, &rate, &burst);

	if (r == -ENOMEM)
		return r;
	if (r < 0 || rate == 0 || burst == 0)
		return err_text(err, -EINVAL,
		                "it takes requests per second and burst, such as 40,60");
	config->metadata_rate = rate;
	config->metadata_burst = burst;
	return 0;
}

/* By the functions that ecs-network works by, whose words begin with the name of the setting. */

static int parse_bridge_name(struct config *config, const struct setting *setting, const char *text,
                             struct err *err)
{
	int r = bridge_name_configure(text, &(struct bridge){0}, err);

	return r < 0 ? r : replace_string(MEMBER(config, setting, char *), text);
}

static int parse_bridge_subnet(struct config *config, const struct setting *setting,
                               const char *text, struct err *err)
{
	int r = bridge_subnet_configure(text, &(struct bridge){0}, err);

	return r < 0 ? r : replace_string(MEMBER(config, setting, char *), text);
}

static int parse_host_paths(struct config *config, const struct setting *setting, const char *text,
                            struct err *err)
{
	int r = check_host_paths(text, err);

	return r < 0 ? r : replace_string(MEMBER(config, setting, char *), text);
}

static int parse_userns_remap(struct config *config, const struct setting *setting,
                              const char *text, struct err *err)
{
	int r = check_userns_remap(config, text, err);

	return r < 0 ? r : replace_string(MEMBER(config, setting, char *), text);
}

int setting_parse(struct config *config, const struct setting *setting, const char *text,
                  struct err *err)
{
	switch (setting->kind) {
	case KIND_STRING:
		return parse_string(config, setting, text);
	case KIND_WORD:
		return parse_word(config, setting, text, err);
	case KIND_BOOL:
		return parse_boolean(config, setting, text, err);
	case KIND_NUMBER:
		return parse_number(config, setting, text, err);
	case KIND_DURATION:
		return parse_time(config, setting, text, err);
	case KIND_PORTS:
		return parse_ports(config, setting, text, err);
	case KIND_PAIRS:
		return parse_pairs(config, setting, text, err);
	case KIND_URL:
		return parse_url(config, setting, text, err);
	case KIND_LOGGING_DRIVERS:
		return parse_logging_drivers(config, setting, text, err);
	case KIND_LIST:
		return parse_list(config, setting, text, err);
	case KIND_PULL_BEHAVIOR:
		return parse_pull_behavior(config, setting, text, err);
	case KIND_PORT_RANGE:
		return parse_port_range(config, text, err);
	case KIND_RATE:
		return parse_rate(config, text, err);
	case KIND_BRIDGE_NAME:
		return parse_bridge_name(config, setting, text, err);
	case KIND_BRIDGE_SUBNET:
		return parse_bridge_subnet(config, setting, text, err);
	case KIND_HOST_PATHS:
		return parse_host_paths(config, setting, text, err);
	case KIND_USERNS_REMAP:
		return parse_userns_remap(config, setting, text, err);
	case KIND_TEXT:
		return 0;
	}
	return -EINVAL;
}

/* ---- back to text ---- */

static void print_pairs(const struct config_pairs *pairs, FILE *out)
{
	_cleanup_json_ struct json_object *object = json_object_new_object();

	for (size_t i = 0; object && i < pairs->n; i++)
		(void)json_add_string(object, pairs->items[i].name, pairs->items[i].value);
	fputs(object ? json_to_text(object, NULL) : "", out);
}

static void print_ports(const struct config_ports *ports, FILE *out)
{
	fputc('[', out);
	for (size_t i = 0; i < ports->n; i++)
		fprintf(out, "%s%u", i ? "," : "", ports->items[i]);
	fputc(']', out);
}

static void print_drivers(const struct config_strings *drivers, FILE *out)
{
	fputc('[', out);
	for (size_t i = 0; i < drivers->n; i++)
		fprintf(out, "%s\"%s\"", i ? "," : "", drivers->items[i]);
	fputc(']', out);
}

static void print_list(const struct config_strings *list, FILE *out)
{
	for (size_t i = 0; i < list->n; i++)
		fprintf(out, "%s%s", i ? "," : "", list->items[i]);
}

static void print_duration(uint64_t usec, FILE *out)
{
	char text[32];

	duration_to_string(usec, text, sizeof(text));
	fputs(text, out);
}

void setting_print(const struct config *config, const struct setting *setting, FILE *out)
{
	const char *text;

	switch (setting->kind) {
	case KIND_STRING:
	case KIND_WORD:
	case KIND_URL:
	case KIND_BRIDGE_NAME:
	case KIND_BRIDGE_SUBNET:
	case KIND_HOST_PATHS:
	case KIND_USERNS_REMAP:
		text = *MEMBER(config, setting, char *);
		fputs(text ? text : "", out);
		break;
	case KIND_BOOL:
		fputs(*MEMBER(config, setting, bool) ? "true" : "false", out);
		break;
	case KIND_NUMBER:
		if (*MEMBER(config, setting, uint64_t) || setting->default_text)
			fprintf(out, "%" PRIu64, *MEMBER(config, setting, uint64_t));
		break;
	case KIND_DURATION:
		print_duration(*MEMBER(config, setting, uint64_t), out);
		break;
	case KIND_PORTS:
		print_ports(MEMBER(config, setting, struct config_ports), out);
		break;
	case KIND_PAIRS:
		print_pairs(MEMBER(config, setting, struct config_pairs), out);
		break;
	case KIND_LOGGING_DRIVERS:
		print_drivers(MEMBER(config, setting, struct config_strings), out);
		break;
	case KIND_LIST:
		print_list(MEMBER(config, setting, struct config_strings), out);
		break;
	case KIND_PULL_BEHAVIOR:
		fputs(pull_behaviors[config->image_pull_behavior], out);
		break;
	case KIND_PORT_RANGE:
		fprintf(out, "%u-%u", config->dynamic_port_first, config->dynamic_port_last);
		break;
	case KIND_RATE:
		fprintf(out, "%" PRIu64 ",%" PRIu64, config->metadata_rate, config->metadata_burst);
		break;
	case KIND_TEXT:
		break;
	}
}
