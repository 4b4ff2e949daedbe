/*
 * ecs-logs: ships the log spool to where the containers' log drivers say. It works alone: neither
 * ecs-agent nor the supervisors of tasks have to be there.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "agent/logs/shipper.h"
#include "lib/confine.h"
#include "lib/envfile.h"
#include "lib/http.h"
#include "lib/log.h"
#include "lib/loop.h"
#include "lib/options.h"

#define LOGS_USER "ecs-logs"

/* Three descriptors for each stream: its directory, and a connection now and then. */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit); /* fewer streams at once, then */
}

/* The directory of the json-file driver, where ecs-launcher has not made it. */
static int make_logs_dir(const char *state_dir, struct err *err)
{
	char path[PATH_MAX];
	uid_t uid;
	gid_t gid;
	int r;

	r = user_lookup(LOGS_USER, &uid, &gid, err);
	if (r < 0)
		return r;
	if (snprintf(path, sizeof(path), "%s/logs", state_dir) >= (int)sizeof(path))
		return err_text(err, -ENAMETOOLONG, "%s is too long", state_dir);
	if (mkdir(path, 0750) == 0)
		return lchown(path, uid, gid) < 0 ? err_set(err, -errno, "own %s", path) : 0;
	return errno == EEXIST ? 0 : err_set(err, -errno, "make %s", path);
}

static int give_up_privileges(const struct options *options, struct err *err)
{
	const struct confinement confinement = {
		.user = geteuid() == 0 ? LOGS_USER : NULL,
		.syscalls = (const char *const[]){NULL},
	};
	int r = 0;

	if (geteuid() == 0)
		r = make_logs_dir(options->state_dir, err);
	if (r == 0)
		r = confine(&confinement, err);
	return r < 0 ? r : confine_no_dumps(err);
}

static const char *setting(const struct envfile *file, const char *name)
{
	const char *value = getenv(name);

	if (!value || !*value)
		value = file ? envfile_get(file, name) : NULL;
	return value && *value ? value : NULL;
}

static const char *first_setting(const struct envfile *file, const char *name, const char *other)
{
	const char *value = setting(file, name);

	return value ? value : setting(file, other);
}

/* ecs.config is for root and ecs-agent; where it can't be read, the environment says it all. */
static int read_config(const char *path, struct envfile **ret, struct err *err)
{
	int r = envfile_open(path, ret, err);

	return r == -EACCES ? 0 : r;
}

static int on_stop(sd_event_source *s, const struct signalfd_siginfo *info, void *userdata)
{
	struct shipper **shipper = userdata;

	(void)info;
	if (!*shipper)
		return sd_event_exit(sd_event_source_get_event(s), 0);
	shipper_stop(*shipper);
	return 0;
}

static int run(const struct options *options, bool exit_when_idle, struct err *err)
{
	_cleanup_(envfile_freep) struct envfile *file = NULL;
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	_cleanup_(http_client_freep) struct http_client *http = NULL;
	_cleanup_(shipper_freep) struct shipper *shipper = NULL;
	struct http_settings settings;
	int r;

	r = read_config(options->config, &file, err);
	if (r < 0)
		return err_prefix(err, r, "%s", options->config);
	http_settings_load(file, &settings);
	r = loop_new_with_stop(on_stop, &shipper, &loop, err);
	if (r == 0)
		r = http_client_new(loop, &settings, "ecs-logs/" PACKAGE_VERSION, &http, err);
	if (r < 0)
		return r;
	const struct shipper_options shipper_options = {
		.state_dir = options->state_dir,
		.runtime_dir = options->runtime_dir,
		.defaults = {.region = first_setting(file, "AWS_REGION", "AWS_DEFAULT_REGION"),
	                     .endpoint = first_setting(file, "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS",
	                                               "AWS_ENDPOINT_URL")},
		.http = http,
		.exit_when_idle = exit_when_idle,
	};
	r = shipper_new(loop, &shipper_options, &shipper, err);
	if (r < 0)
		return r;
	(void)sd_notify(0, "READY=1"); /* no service manager is fine */
	r = sd_event_loop(loop);
	return r < 0 ? err_set(err, r, "run the event loop") : 0;
}

int main(int argc, char **argv)
{
	bool exit_when_idle = false;
	const struct option_spec specs[] = {
		{.name = "exit-when-idle",
	         .help = "end when the spool was empty for 30 seconds",
	         .flag = &exit_when_idle},
	};
	struct options options;
	struct err err = {0};
	int r, first = 0;

	log_init("ecs-logs");
	r = options_parse(argc, argv, "ecs-logs [OPTION]...", specs, 1, &options, &first, &err);
	if (r > 0)
		return 0;
	if (r == 0 && first < argc)
		r = err_text(&err, -EINVAL, "there are no arguments but options: %s", argv[first]);
	if (r < 0) {
		fprintf(stderr, "ecs-logs: %s\n", err.text);
		return 2;
	}
	if (getenv("ECS_LOGLEVEL") && log_set_level(getenv("ECS_LOGLEVEL")) < 0)
		log_warning(NULL, 0, "ECS_LOGLEVEL %s is none of crit, error, warn, info, debug",
		            getenv("ECS_LOGLEVEL"));

	umask(0027);
	raise_descriptor_limit();
	r = give_up_privileges(&options, &err);
	if (r == 0)
		r = run(&options, exit_when_idle, &err);
	if (r < 0) {
		log_err(NULL, 0, "%s", err.text);
		return 1;
	}
	return 0;
}
