/* Private to agent/config/: the table of all variables, and reading one of them. */
#pragma once

#include "agent/config/config.h"

enum setting_support {
	SETTING_WORKS,
	SETTING_PASSED_ON,   /* read by libraries and programs of ours under the same name */
	SETTING_UNSUPPORTED, /* a warning, unless the value asks for what happens anyway */
	SETTING_FOREIGN,     /* means something only where Docker or Windows is */
};

enum setting_kind {
	KIND_STRING,
	KIND_WORD,
	KIND_BOOL,
	KIND_NUMBER,
	KIND_DURATION,
	KIND_PORTS,
	KIND_PAIRS,
	KIND_URL,
	KIND_LOGGING_DRIVERS,
	KIND_LIST, /* separated by commas */
	KIND_PULL_BEHAVIOR,
	KIND_PORT_RANGE,
	KIND_RATE,
	KIND_BRIDGE_NAME,
	KIND_BRIDGE_SUBNET,
	KIND_HOST_PATHS,
	KIND_USERNS_REMAP,
	KIND_TEXT, /* passed on or unsupported: not parsed here */
};

/* What happens below min: the reference has both. Above max it is always the default. */
enum range_policy {
	RANGE_DEFAULT, /* the default counts */
	RANGE_CLAMP,   /* min counts */
};

struct setting {
	const char *name;
	enum setting_support support;
	enum setting_kind kind;
	size_t offset;     /* in struct config */
	uint64_t min, max; /* numbers and durations (usec); max 0: no limit */
	enum range_policy policy;
	bool is_fatal; /* a bad value ends the start */
	bool is_secret;
	bool is_file_only; /* the environment does not count: root's programs read the file alone */
	const char *default_text; /* as if it had been set to this */
	const char *inert;        /* unsupported: the value that changes nothing */
	const char *note;         /* what to do instead, for the warning */
};

extern const struct setting settings[];
extern const size_t n_settings;

enum config_source {
	SOURCE_DEFAULT,
	SOURCE_FILE,
	SOURCE_ENVIRONMENT,
};

struct config_origin {
	enum config_source source;
	size_t line; /* of ecs.config */
};

struct config_origins {
	struct config_origin *items; /* one per setting */
	char **warnings;
	size_t n_warnings;
};

/* -ENOMEM, which the caller forwards. */
int config_warn(struct config *config, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * Read text into the member of config that setting describes. Returns 0, -EINVAL with what is wrong
 * with the value (config is untouched), or -ENOMEM. A value out of range is taken as the table
 * says, with a warning.
 */
int setting_parse(struct config *config, const struct setting *setting, const char *text,
                  struct err *err);

/* Write the member as text. */
void setting_print(const struct config *config, const struct setting *setting, FILE *out);
