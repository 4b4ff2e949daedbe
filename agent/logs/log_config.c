/* log.json was checked by the engine before the container started; here it is checked again, since
 * an upgrade may have come in between. */
#include "agent/logs/log_config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/logs/options.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/parse.h"
#include "lib/spool.h"

#define LOG_JSON_MAX (64 * 1024)

struct log_config *log_config_free(struct log_config *config)
{
	if (!config)
		return NULL;
	free(config->task_arn);
	free(config->group);
	free(config->stream);
	free(config->region);
	free(config->endpoint);
	free(config->credentials_id);
	free(config);
	return NULL;
}

int log_endpoint(const char *region, char *buf, size_t n)
{
	static const struct {
		const char *prefix, *suffix;
	} partitions[] = {
		{"cn-", "amazonaws.com.cn"},    {"us-isob-", "sc2s.sgov.gov"},
		{"us-isof-", "csp.hci.ic.gov"}, {"us-iso-", "c2s.ic.gov"},
		{"eu-isoe-", "cloud.adc-e.uk"}, {"eusc-", "amazonaws.eu"},
	};
	const char *suffix = "amazonaws.com";

	for (size_t i = 0; i < ARRAY_SIZE(partitions); i++)
		if (strncmp(region, partitions[i].prefix, strlen(partitions[i].prefix)) == 0) {
			suffix = partitions[i].suffix;
			break;
		}
	return snprintf(buf, n, "https://logs.%s.%s", region, suffix) < (int)n ? 0 : -ENAMETOOLONG;
}

static int copy(char **ret, const char *value)
{
	*ret = strdup(value);
	return *ret ? 0 : -ENOMEM;
}

static bool option_bool(struct json_object *options, const char *name, bool otherwise)
{
	const char *value = json_text(options, name);
	bool b = otherwise;

	if (value)
		(void)parse_bool(value, &b); /* was checked */
	return b;
}

static uint64_t option_u64(struct json_object *options, const char *name, uint64_t otherwise)
{
	const char *value = json_text(options, name);
	uint64_t n = otherwise;

	if (value)
		(void)parse_u64(value, UINT64_MAX, &n); /* was checked */
	return n;
}

/* The stream's own name, else <prefix>/<container>/<task id>, else the id of the container. */
static int name_stream(struct log_config *config, struct json_object *body,
                       struct json_object *options, struct err *err)
{
	const char *stream = json_text(options, "awslogs-stream");
	const char *prefix = json_text(options, "awslogs-stream-prefix");
	const char *container, *task;
	char buf[1024];
	int r;

	if (stream)
		return copy(&config->stream, stream);
	if (!prefix) {
		r = json_get_string(body, "containerId", &stream, err);
		return r < 0 ? r : copy(&config->stream, stream);
	}
	r = json_get_string(body, "containerName", &container, err);
	if (r == 0)
		r = json_get_string(body, "taskId", &task, err);
	if (r < 0)
		return r;
	snprintf(buf, sizeof(buf), "%s/%s/%s", prefix, container, task);
	return copy(&config->stream, buf);
}

static int find_endpoint(struct log_config *config, struct json_object *options,
                         const struct log_defaults *defaults, struct err *err)
{
	const char *endpoint = json_text(options, "awslogs-endpoint");
	char buf[256];

	if (!endpoint)
		endpoint = defaults->endpoint;
	if (endpoint)
		return copy(&config->endpoint, endpoint);
	if (log_endpoint(config->region, buf, sizeof(buf)) < 0)
		return err_text(err, -EINVAL, "region %.64s is too long", config->region);
	return copy(&config->endpoint, buf);
}

static int read_awslogs(struct log_config *config, struct json_object *body,
                        struct json_object *options, const struct log_defaults *defaults,
                        struct err *err)
{
	const char *region = json_text(options, "awslogs-region"),
		   *credentials = LOG_CREDENTIALS_INSTANCE;
	int r;

	if (!region)
		region = defaults->region;
	if (!region)
		return err_text(
			err, -EINVAL,
			"log option awslogs-region is not given, and AWS_DEFAULT_REGION is not set");
	r = json_optional(json_get_string(body, "credentialsId", &credentials, err));
	if (r == 0)
		r = name_stream(config, body, options, err);
	if (r == 0)
		r = copy(&config->group, json_text(options, "awslogs-group"));
	if (r == 0)
		r = copy(&config->region, region);
	if (r == 0)
		r = find_endpoint(config, options, defaults, err);
	if (r == 0)
		r = copy(&config->credentials_id, credentials);
	if (r < 0)
		return r;
	config->driver = LOG_DRIVER_AWSLOGS;
	config->create_group = option_bool(options, "awslogs-create-group", false);
	config->create_stream = option_bool(options, "awslogs-create-stream", true);
	config->emf = json_text(options, "awslogs-format") != NULL;
	config->flush_usec = 1000000 * option_u64(options, "awslogs-force-flush-interval-seconds",
	                                          LOG_FLUSH_SECONDS_DEFAULT);
	return 0;
}

static int read_json_file(struct log_config *config, struct json_object *options)
{
	const char *size = json_text(options, "max-size");

	config->driver = LOG_DRIVER_JSON_FILE;
	config->flush_usec = 200000; /* somebody may be following the file */
	config->max_size_bytes = LOG_MAX_SIZE_DEFAULT;
	if (size && log_size_parse(size, &config->max_size_bytes) < 0)
		config->max_size_bytes = UINT64_MAX; /* "-1" */
	config->max_file = (unsigned int)option_u64(options, "max-file", LOG_MAX_FILE_DEFAULT);
	return 0;
}

int log_config_load(int dir_fd, const struct log_defaults *defaults, struct log_config **ret,
                    struct err *err)
{
	_cleanup_(log_config_freep) struct log_config *config = NULL;
	_cleanup_json_ struct json_object *body = NULL;
	_cleanup_free_ char *text = NULL;
	struct json_object *options = NULL;
	const char *driver, *arn = "";
	size_t len = 0;
	int r;

	r = file_read(dir_fd, SPOOL_LOG_FILE, LOG_JSON_MAX, &text, &len);
	if (r < 0)
		return err_set(err, r, "read " SPOOL_LOG_FILE);
	r = json_parse_object(text, len, LOG_JSON_MAX, &body, err);
	if (r < 0 && r != -ENOMEM)
		return err_prefix(err, -EBADMSG, SPOOL_LOG_FILE);
	if (r == 0)
		r = json_get_string(body, "driver", &driver, err);
	if (r == 0)
		r = json_optional(json_get_object(body, "options", &options, err));
	if (r == 0)
		r = json_optional(json_get_string(body, "taskArn", &arn, err));
	if (r == 0)
		r = log_options_check(driver, options, err);
	if (r < 0)
		return err_prefix(err, r == -ENOENT ? -EINVAL : r, SPOOL_LOG_FILE);

	config = calloc(1, sizeof(*config));
	if (!config)
		return err_oom(err);
	if (strcmp(driver, "awslogs") == 0)
		r = read_awslogs(config, body, options, defaults, err);
	else if (strcmp(driver, "json-file") == 0)
		r = read_json_file(config, options);
	else
		r = err_text(err, -EOPNOTSUPP, "log driver %s has nothing to spool", driver);
	if (r == 0)
		r = copy(&config->task_arn, arn);
	if (r == -ENOMEM)
		return err_oom(err);
	if (r < 0)
		return err_prefix(err, r == -ENOENT ? -EINVAL : r, SPOOL_LOG_FILE);
	*ret = TAKE_PTR(config);
	return 0;
}
