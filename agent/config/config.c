/* Defaults from the table, then each variable over them; what stays undone is warned of. */
#include "agent/config/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "agent/config/checks.h"
#include "agent/config/settings.h"
#include "lib/fd.h"
#include "lib/parse.h"

#define WARNINGS_MAX 256

int config_warn(struct config *config, const char *fmt, ...)
{
	struct config_origins *origins = config->origins;
	char **grown, *text;
	va_list ap;
	int r;

	if (origins->n_warnings == WARNINGS_MAX)
		return 0;
	va_start(ap, fmt);
	r = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (r < 0)
		return -ENOMEM;
	grown = realloc(origins->warnings, (origins->n_warnings + 1) * sizeof(*grown));
	if (!grown) {
		free(text);
		return -ENOMEM;
	}
	origins->warnings = grown;
	origins->warnings[origins->n_warnings++] = text;
	return 0;
}

const char *config_warning(const struct config *config, size_t i)
{
	return i < config->origins->n_warnings ? config->origins->warnings[i] : NULL;
}

static void origins_free(struct config_origins *origins)
{
	if (!origins)
		return;
	for (size_t i = 0; i < origins->n_warnings; i++)
		free(origins->warnings[i]);
	free(origins->warnings);
	free(origins->items);
	free(origins);
}

static void pairs_free(struct config_pairs *pairs)
{
	for (size_t i = 0; i < pairs->n; i++) {
		free(pairs->items[i].name);
		free(pairs->items[i].value);
	}
	free(pairs->items);
}

struct config *config_free(struct config *config)
{
	if (!config)
		return NULL;
	free(config->cluster);
	free(config->region);
	free(config->backend_host);
	free(config->reserved_ports.items);
	free(config->reserved_ports_udp.items);
	pairs_free(&config->instance_attributes);
	pairs_free(&config->instance_tags);
	free(config->detailed_os_family);
	for (size_t i = 0; i < config->logging_drivers.n; i++)
		free(config->logging_drivers.items[i]);
	free(config->logging_drivers.items);
	for (size_t i = 0; i < config->image_cleanup_excluded.n; i++)
		free(config->image_cleanup_excluded.items[i]);
	free(config->image_cleanup_excluded.items);
	free(config->allowed_host_paths);
	free(config->userns_remap);
	free(config->bridge_name);
	free(config->bridge_subnet);
	free(config->audit_log);
	free(config->log_level);
	envfile_free(config->file);
	origins_free(config->origins);
	free(config);
	return NULL;
}

static bool is_file_only(const char *name)
{
	for (size_t i = 0; i < n_settings; i++)
		if (strcmp(settings[i].name, name) == 0)
			return settings[i].is_file_only;
	return false;
}

/* A value and where it is from; NULL if there is none. */
static const char *find_value(const struct config *config, const char *name,
                              struct config_origin *ret)
{
	const char *value = is_file_only(name) ? NULL : getenv(name);

	if (value && *value) {
		ret->source = SOURCE_ENVIRONMENT;
		return value;
	}
	value = envfile_get(config->file, name);
	if (value && *value) {
		ret->source = SOURCE_FILE;
		ret->line = envfile_line(config->file, name);
		return value;
	}
	return NULL;
}

const char *config_get(const struct config *config, const char *name)
{
	struct config_origin origin;

	return find_value(config, name, &origin);
}

/* Owned by the caller. */
static char *trimmed(const char *text)
{
	size_t n;

	while (isspace((unsigned char)*text))
		text++;
	for (n = strlen(text); n > 0 && isspace((unsigned char)text[n - 1]);)
		n--;
	return strndup(text, n);
}

/* Does the value ask for what this agent does anyway? */
static bool is_inert(const struct setting *setting, const char *text)
{
	bool wanted, given;

	if (!setting->inert)
		return false;
	if (parse_bool(setting->inert, &wanted) == 0 && parse_bool(text, &given) == 0)
		return wanted == given;
	return strcmp(setting->inert, text) == 0;
}

static int warn_unsupported(struct config *config, const struct setting *setting, const char *text)
{
	if (is_inert(setting, text))
		return 0;
	return config_warn(config, "%s=%s has no effect: %s%s%s", setting->name,
	                   setting->is_secret ? "***" : text,
	                   setting->support == SETTING_FOREIGN ? ""
	                                                       : "this agent does not support it",
	                   setting->note && setting->support != SETTING_FOREIGN ? "; " : "",
	                   setting->note ? setting->note : "");
}

/* By the words of ecs-task or ecs-network, which are the same here. */
static bool is_named(const struct setting *setting, const struct err *err)
{
	return strncmp(err->text, setting->name, strlen(setting->name)) == 0;
}

static int take_value(struct config *config, const struct setting *setting, const char *text,
                      struct err *err)
{
	int r;

	if (setting->support == SETTING_UNSUPPORTED || setting->support == SETTING_FOREIGN)
		return warn_unsupported(config, setting, text);
	r = setting_parse(config, setting, text, err);
	if (r == -ENOMEM)
		return err_oom(err);
	if (r < 0 && setting->is_fatal && is_named(setting, err))
		return r;
	if (r < 0 && setting->is_fatal)
		return err_prefix(err, r, "%s=%.128s", setting->name, text);
	if (r < 0)
		return config_warn(config, "%s=%s: %s; the default is used", setting->name, text,
		                   err->text);
	return 0;
}

/* It looks as if it were in force. */
static int warn_of_environment(struct config *config, const struct setting *setting)
{
	const char *value = getenv(setting->name);
	const char *of_file = envfile_get(config->file, setting->name);

	if (!setting->is_file_only || !value || !*value || (of_file && strcmp(of_file, value) == 0))
		return 0;
	return config_warn(config,
	                   "%s=%s in the environment has no effect: it is read from ecs.config "
	                   "alone",
	                   setting->name, value);
}

static int load_setting(struct config *config, size_t i, struct err *err)
{
	const struct setting *setting = &settings[i];
	struct config_origin *origin = &config->origins->items[i];
	const char *value = find_value(config, setting->name, origin);
	_cleanup_free_ char *text = value ? trimmed(value) : NULL;

	if (warn_of_environment(config, setting) < 0)
		return err_oom(err);
	if (!value)
		return 0;
	if (!text)
		return err_oom(err);
	if (!*text) {
		*origin = (struct config_origin){0};
		return 0;
	}
	return take_value(config, setting, text, err);
}

static int set_defaults(struct config *config, struct err *err)
{
	for (size_t i = 0; i < n_settings; i++) {
		int r = settings[i].default_text
		                ? setting_parse(config, &settings[i], settings[i].default_text, err)
		                : 0;

		if (r < 0)
			return err_prefix(err, r, "default of %s", settings[i].name);
	}
	return 0;
}

/* Docker's way: dynamic ports are the kernel's own ephemeral ones. */
static void set_port_range_of_kernel(struct config *config)
{
	_cleanup_free_ char *text = NULL;
	unsigned first, last;

	if (file_read(AT_FDCWD, "/proc/sys/net/ipv4/ip_local_port_range", 64, &text, NULL) < 0)
		return;
	if (sscanf(text, "%5u %5u", &first, &last) != 2 || first == 0 || first > last ||
	    last > 65535)
		return;
	config->dynamic_port_first = (uint16_t)first;
	config->dynamic_port_last = (uint16_t)last;
}

static bool is_known(const char *name)
{
	for (size_t i = 0; i < n_settings; i++)
		if (strcmp(settings[i].name, name) == 0)
			return true;
	return false;
}

/* A misspelt name in the file is more likely than a variable for somebody else. */
static int warn_of_unknown_names(struct config *config)
{
	const char *name;
	int r;

	for (size_t i = 0; (name = envfile_key(config->file, i, NULL)); i++) {
		if (is_known(name) || !(strstr(name, "ECS_") || strstr(name, "AWS_")))
			continue;
		r = config_warn(config, "ecs.config line %zu: there is no setting '%s'",
		                envfile_line(config->file, name), name);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool is_set(const struct config *config, const char *name)
{
	const char *value = config_get(config, name);

	while (value && isspace((unsigned char)*value))
		value++;
	return value && *value;
}

/* What follows from several variables at once. */
static void combine(struct config *config)
{
	config->cluster_is_set = is_set(config, "ECS_CLUSTER");
	config->task_cpu_mem_limit_is_set = is_set(config, "ECS_ENABLE_TASK_CPU_MEM_LIMIT");
	if (config->audit_log_disabled) {
		free(config->audit_log);
		config->audit_log = NULL;
	}
}

static int load(struct config *config, struct err *err)
{
	int r;

	r = set_defaults(config, err);
	if (r < 0)
		return r;
	set_port_range_of_kernel(config);
	for (size_t i = 0; i < n_settings; i++) {
		r = load_setting(config, i, err);
		if (r < 0)
			return r;
	}
	r = check_no_host_paths(envfile_get(config->file, "ECS_ALLOWED_HOST_PATHS"), err);
	if (r < 0)
		return r;
	if (warn_of_unknown_names(config) < 0)
		return err_oom(err);
	combine(config);
	return 0;
}

int config_load(const char *path, struct config **ret, struct err *err)
{
	_cleanup_(config_freep) struct config *config = calloc(1, sizeof(*config));
	struct err local = {0};
	int r;

	if (!config)
		return err_oom(err);
	config->origins = calloc(1, sizeof(*config->origins));
	if (!config->origins)
		return err_oom(err);
	config->origins->items = calloc(n_settings, sizeof(*config->origins->items));
	if (!config->origins->items)
		return err_oom(err);
	r = envfile_open(path, &config->file, &local);
	if (r == 0)
		r = load(config, &local);
	if (r < 0) {
		if (err)
			*err = local;
		return r;
	}
	*ret = TAKE_PTR(config);
	return 0;
}
