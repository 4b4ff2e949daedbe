/* ECS Exec's agent: started, and started again. Who asked for the container is told what becomes of
 * it, and has no part in it. */
#include "agent/task/execute_command.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/task/execute_command_paths.h"
#include "agent/task/spec_parse.h"
#include "lib/json.h"
#include "lib/log.h"

#define SESSIONS_DEFAULT 2
#define BACKOFF_MIN_USEC 1000000ull
#define BACKOFF_MAX_USEC (15 * 60 * 1000000ull)
#define STEADY_USEC      (60 * 1000000ull) /* one that has lasted so long was well */
#define SETTLED_USEC     (5 * 1000000ull) /* one that has lasted so long after trouble is RUNNING */
#define TELL_USEC        500000ull        /* by then its container has ended, if that was it */

enum status {
	STATUS_PENDING,
	STATUS_RUNNING,
	STATUS_STOPPED,
};

struct execute_command {
	struct execute_command_files files;
	char *name; /* of the container, for the log */
	bool unusable;
	enum status status;
	char reason[sizeof(((struct err *)NULL)->text) + 64];
	bool news;

	/* while the container runs */
	struct exec_set *set;
	struct container *container;
	struct exec *exec;
	bool was_started;
	uint64_t started_usec, due_usec, settled_usec, tell_usec; /* monotonic; 0: not */
	uint64_t backoff_usec;
	char trouble[128]; /* at tell_usec: what to tell */
};

int execute_command_parse(struct json_object *obj, unsigned int *ret_session_limit, struct err *err)
{
	uint64_t limit = SESSIONS_DEFAULT;
	int r;

	r = ONLY_MEMBERS(obj, "executeCommandAgent", err, "sessionLimit");
	if (r == 0)
		r = json_optional(json_get_u64(obj, "sessionLimit", EXECUTE_COMMAND_SESSIONS_MAX,
		                               &limit, err));
	if (r < 0)
		return err_prefix(err, r, "executeCommandAgent");
	if (limit == 0)
		return err_text(err, -EINVAL,
		                "executeCommandAgent: sessionLimit is 0; it must be 1 to %d",
		                EXECUTE_COMMAND_SESSIONS_MAX);
	*ret_session_limit = (unsigned int)limit;
	return 0;
}

static void set_status(struct execute_command *ec, enum status status, const char *reason)
{
	if (ec->status == status && strcmp(ec->reason, reason) == 0)
		return;
	ec->status = status;
	snprintf(ec->reason, sizeof(ec->reason), "%s", reason);
	ec->news = true;
	if (status == STATUS_STOPPED)
		log_warning(NULL, 0, "container %s: %s", ec->name, ec->reason);
}

static void make_unusable(struct execute_command *ec, const struct err *err)
{
	char reason[sizeof(ec->reason)];

	ec->unusable = true;
	snprintf(reason, sizeof(reason), EXECUTE_COMMAND_NAME " Initialization failed - %s",
	         err->text);
	set_status(ec, STATUS_STOPPED, reason);
}

int execute_command_new(const struct execute_command_request *request, struct execute_command **ret)
{
	_cleanup_(execute_command_freep) struct execute_command *ec = calloc(1, sizeof(*ec));
	struct err err = {};

	if (!ec)
		return -ENOMEM;
	execute_command_files_init(&ec->files);
	ec->backoff_usec = BACKOFF_MIN_USEC;
	ec->name = strdup(request->container);
	if (!ec->name)
		return -ENOMEM;
	if (execute_command_files_open(&ec->files, request, &err) < 0)
		make_unusable(ec, &err);
	*ret = TAKE_PTR(ec);
	return 0;
}

struct execute_command *execute_command_free(struct execute_command *ec)
{
	if (!ec)
		return NULL;
	exec_free(ec->exec);
	execute_command_files_done(&ec->files);
	free(ec->name);
	free(ec);
	return NULL;
}

bool execute_command_get_mounts(struct execute_command *ec,
                                struct execute_command_mount ret[EXECUTE_COMMAND_MOUNTS])
{
	struct err err = {};

	for (size_t i = 0; i < EXECUTE_COMMAND_MOUNTS; i++)
		ret[i].fd = -EBADF;
	if (ec->unusable)
		return false;
	if (execute_command_mounts_make(&ec->files, ret, &err) == 0)
		return true;
	make_unusable(ec, &err);
	return false;
}

void execute_command_mount_failed(struct execute_command *ec, int error, int i)
{
	const char *target =
		i >= 0 && i < EXECUTE_COMMAND_MOUNTS ? ec->files.mounts[i].target : "its files";
	struct err err = {};

	(void)err_set(&err, error, "mount at %s", target);
	make_unusable(ec, &err);
}

/* --- running --- */

static void try_later(struct execute_command *ec)
{
	ec->due_usec = now_monotonic_usec() + ec->backoff_usec;
	ec->backoff_usec =
		ec->backoff_usec < BACKOFF_MAX_USEC / 2 ? 2 * ec->backoff_usec : BACKOFF_MAX_USEC;
}

static void on_running(struct execute_command *ec)
{
	uint64_t now = now_monotonic_usec();

	ec->started_usec = now;
	if (ec->status == STATUS_STOPPED)
		ec->settled_usec = now + SETTLED_USEC;
	else
		set_status(ec, STATUS_RUNNING,
		           ec->was_started ? EXECUTE_COMMAND_NAME " restarted"
		                           : EXECUTE_COMMAND_NAME " started");
	ec->was_started = true;
}

/*
 * One that was well is not missed for the second until the next; more than that is told. When the
 * container ends, the kernel ends this process before the container's first one, so it waits a
 * moment for that.
 */
static void on_ended(struct execute_command *ec, const struct exec_result *result)
{
	uint64_t now = now_monotonic_usec();

	if (now - ec->started_usec >= STEADY_USEC)
		ec->backoff_usec = BACKOFF_MIN_USEC;
	if (result->exit_signal)
		snprintf(ec->trouble, sizeof(ec->trouble),
		         EXECUTE_COMMAND_NAME " was ended by signal %d", result->exit_signal);
	else
		snprintf(ec->trouble, sizeof(ec->trouble),
		         EXECUTE_COMMAND_NAME " exited with exit code %d", result->exit_code);
	if (ec->backoff_usec > BACKOFF_MIN_USEC)
		ec->tell_usec = now + TELL_USEC;
	try_later(ec);
}

static void on_failed(struct execute_command *ec, const char *text)
{
	char reason[sizeof(ec->reason)];

	snprintf(reason, sizeof(reason), EXECUTE_COMMAND_NAME " could not be started: %s", text);
	set_status(ec, STATUS_STOPPED, reason);
	try_later(ec);
}

static void on_exec(struct exec *exec, void *userdata)
{
	struct execute_command *ec = userdata;
	const struct exec_result *result = exec_result(exec);

	ec->settled_usec = 0;
	switch (result->status) {
	case EXEC_STARTING:
		return;
	case EXEC_RUNNING:
		on_running(ec);
		return;
	case EXEC_EXITED:
		on_ended(ec, result);
		break;
	case EXEC_FAILED:
		on_failed(ec, result->err.text);
		break;
	}
	ec->exec = exec_free(exec);
}

static void run(struct execute_command *ec)
{
	const char *const args[] = {ec->files.program, NULL};
	const struct exec_request request = {
		.args = args,
		.user = "0",
		.stdio = EXEC_NO_STDIO,
	};
	struct err err = {};

	ec->due_usec = 0;
	if (exec_start(ec->set, ec->container, &request, on_exec, ec, &ec->exec, &err) < 0)
		on_failed(ec, err.text);
}

void execute_command_start(struct execute_command *ec, struct exec_set *set,
                           struct container *container)
{
	ec->set = set;
	ec->container = container;
	if (ec->unusable)
		return;
	ec->was_started = false;
	ec->status = STATUS_PENDING; /* of an earlier run of the container */
	ec->backoff_usec = BACKOFF_MIN_USEC;
	run(ec);
}

void execute_command_stop(struct execute_command *ec)
{
	ec->exec = exec_free(ec->exec);
	ec->due_usec = ec->settled_usec = ec->tell_usec = 0;
}

uint64_t execute_command_deadline(const struct execute_command *ec)
{
	/* It comes before the next start; and one that runs has neither. */
	if (ec->tell_usec)
		return ec->tell_usec;
	return ec->due_usec ? ec->due_usec : ec->settled_usec;
}

void execute_command_due(struct execute_command *ec, uint64_t now_usec)
{
	if (ec->tell_usec && now_usec >= ec->tell_usec) {
		ec->tell_usec = 0;
		set_status(ec, STATUS_STOPPED, ec->trouble);
	}
	if (ec->due_usec && now_usec >= ec->due_usec)
		run(ec);
	if (ec->settled_usec && now_usec >= ec->settled_usec) {
		ec->settled_usec = 0;
		set_status(ec, STATUS_RUNNING, EXECUTE_COMMAND_NAME " restarted");
	}
}

bool execute_command_take_news(struct execute_command *ec)
{
	bool news = ec->news;

	ec->news = false;
	return news;
}

int execute_command_to_json(const struct execute_command *ec, struct json_object *obj)
{
	if (json_add_string(obj, "name", EXECUTE_COMMAND_NAME) < 0)
		return -ENOMEM;
	if (ec->status == STATUS_PENDING)
		return 0;
	if (json_add_string(obj, "status", ec->status == STATUS_RUNNING ? "RUNNING" : "STOPPED") <
	    0)
		return -ENOMEM;
	return json_add_string(obj, "reason", ec->reason);
}
