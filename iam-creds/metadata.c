/*
 * ecs-metadata: the one store of credentials and the server of 169.254.170.2. Runs as the user
 * ecs-metadata without capabilities, confined before it reads anything, and keeps all in memory,
 * the part of it that survives a restart in memory that the service manager holds for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "iam-creds/audit.h"
#include "iam-creds/control.h"
#include "iam-creds/fdstore.h"
#include "iam-creds/host_cgroups.h"
#include "iam-creds/http.h"
#include "iam-creds/keep.h"
#include "iam-creds/landlock.h"
#include "iam-creds/protocol.h"
#include "iam-creds/store.h"
#include "lib/confine.h"
#include "lib/fd.h"
#include "lib/ipc.h"
#include "lib/log.h"
#include "lib/loop.h"
#include "lib/options.h"

#define DESCRIPTORS (FDSTORE_MAX + HTTP_CONNECTIONS_MAX + 1024) /* and control connections */

static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= DESCRIPTORS)
		return;
	limit.rlim_cur = limit.rlim_max < DESCRIPTORS ? limit.rlim_max : DESCRIPTORS;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		log_warning(NULL, -errno, "raise the limit of open descriptors");
}

static int give_up_privileges(struct err *err)
{
	static const char *const syscalls[] = {"landlock_create_ruleset", "landlock_add_rule",
	                                       "landlock_restrict_self", NULL};
	const struct confinement confinement = {.user = geteuid() == 0 ? "ecs-metadata" : NULL,
	                                        .syscalls = syscalls};
	int r;

	r = confine(&confinement, err);
	/* After the change of user, which makes a process dumpable again. */
	return r < 0 ? r : confine_no_dumps(err);
}

static int look_up_users(struct control_config *config, struct err *err)
{
	gid_t gid;
	int r;

	r = user_lookup("ecs-agent", &config->agent_uid, &gid, err);
	if (r == 0)
		r = user_lookup("ecs-logs", &config->logs_uid, &gid, err);
	if (r == 0)
		r = user_lookup("ecs-image", &config->image_uid, &gid, err);
	return r;
}

/* Anyone may connect, since several users must; who may ask is decided by SO_PEERCRED. */
static int listen_for_control(const struct options *options, struct err *err)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/%s", options->runtime_dir, METADATA_SOCKET) >=
	    (int)sizeof(path))
		return err_text(err, -ENAMETOOLONG, "runtime directory %s is too long",
		                options->runtime_dir);
	return ipc_listen(path, 0666, (gid_t)-1, err);
}

/* Everything that lives as long as the process. */
struct daemon {
	sd_event *loop;
	struct host_cgroups *host; /* NULL: of cgroup v1 */
	struct fdstore *fdstore;
	struct store *store;
	struct audit *audit;
	struct http *http;
	struct keep *keep;
	struct control *control;
};

static void daemon_done(struct daemon *d)
{
	control_free(d->control);
	keep_free(d->keep);
	http_free(d->http);
	audit_free(d->audit);
	store_free(d->store);
	fdstore_free(d->fdstore);
	sd_event_unref(d->loop);
	host_cgroups_free(d->host);
}

static void on_drained(void *userdata)
{
	struct daemon *d = userdata;

	(void)sd_event_exit(d->loop, 0);
}

/* Requests that have begun are answered; new ones wait for the next process. */
static int on_stop(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
	struct daemon *d = userdata;

	(void)source;
	(void)info;
	(void)sd_notify(0, "STOPPING=1");
	return d->http ? http_drain_start(d->http, on_drained, d) : sd_event_exit(d->loop, 0);
}

/* To tell its processes from those of tasks. */
static void find_host(struct daemon *d)
{
	struct err err = {0};

	if (host_cgroups_open(&d->host, &err) < 0)
		log_debug(NULL, "mount.efs gets the role of no task: %s", err.text);
	http_set_host(d->http, d->host);
}

/* With what an earlier process has left. */
static int start_serving(struct daemon *d, struct err *err)
{
	const struct keep_config config = {.loop = d->loop,
	                                   .store = d->store,
	                                   .http = d->http,
	                                   .audit = d->audit,
	                                   .fdstore = d->fdstore};

	return keep_new(&config, &d->keep, err);
}

static int run(const struct options *options, struct err *err)
{
	_cleanup_(daemon_done) struct daemon d = {0};
	struct control_config config = {0};
	int fd, r;

	/* What is freed is overwritten: json-c and libmicrohttpd leave copies of what passes
	 * through them, which nobody could wipe by name. */
	(void)mallopt(M_PERTURB, 0xa5);
	r = give_up_privileges(err);
	if (r == 0)
		r = look_up_users(&config, err);
	if (r == 0)
		r = fdstore_new(&d.fdstore, err);
	if (r == 0)
		r = loop_new_with_stop(on_stop, &d, &d.loop, err);
	if (r < 0)
		return r;
	raise_descriptor_limit();
	if (store_new(&d.store) < 0 || audit_new(&d.audit) < 0)
		return err_oom(err);
	r = http_new(d.loop, d.store, d.audit, d.fdstore, &d.http, err);
	if (r < 0)
		return r;

	find_host(&d);
	fd = listen_for_control(options, err);
	if (fd < 0)
		return fd;
	/* From here on it serves what it is given, and opens nothing but directories of cgroups. */
	r = landlock_close_files(d.host ? host_cgroups_fd(d.host) : -EBADF, err);
	if (r == 0)
		r = start_serving(&d, err);
	if (r < 0) {
		fd_close(fd);
		return r;
	}
	config.store = d.store;
	config.http = d.http;
	config.audit = d.audit;
	config.keep = d.keep;
	r = control_new(d.loop, fd, &config, &d.control, err);
	if (r < 0)
		return r;

	/* Also where nothing has come back and ecs-agent has not sent anything yet: it waits for
	 * us, not we for it, and requests wait for both. */
	(void)sd_notify(0, "READY=1"); /* no service manager is fine */
	log_info(NULL, "ready");
	r = sd_event_loop(d.loop);
	return r < 0 ? err_set(err, r, "event loop") : 0;
}

int main(int argc, char **argv)
{
	const char *level = getenv("ECS_LOGLEVEL");
	struct options options;
	struct err err = {0};
	int r, first;

	log_init("ecs-metadata");
	if (level && log_set_level(level) < 0)
		log_warning(
			NULL, 0,
			"ECS_LOGLEVEL \"%s\" must be crit, error, warn, info or debug; using info",
			level);
	r = options_parse(argc, argv, "ecs-metadata [OPTION]...", NULL, 0, &options, &first, &err);
	if (r == 0 && first < argc)
		r = err_text(&err, -EINVAL, "ecs-metadata takes no argument: %s", argv[first]);
	if (r == 0)
		r = run(&options, &err);
	if (r < 0) {
		log_err(NULL, 0, "%s", err.text);
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
