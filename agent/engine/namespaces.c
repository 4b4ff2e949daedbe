/* Two words of a task definition, and the members of hostConfig that are about the same. */
#include "agent/engine/namespaces.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/json.h"

#define PAUSE_NAME  "~internal~ecs~pause~namespace"
#define PAUSE_IMAGE "amazon/amazon-ecs-pause:0.1.0"

static const char *const pid_modes[_TASK_PID_MODE_MAX] = {
	[TASK_PID_PRIVATE] = "",
	[TASK_PID_TASK] = "task",
	[TASK_PID_HOST] = "host",
};

static const char *const ipc_modes[_TASK_IPC_MODE_MAX] = {
	[TASK_IPC_PRIVATE] = "",
	[TASK_IPC_NONE] = "none",
	[TASK_IPC_TASK] = "task",
	[TASK_IPC_HOST] = "host",
};

static int mode_parse(struct json_object *obj, const char *name, const char *const *words, size_t n,
                      const char *expected, unsigned int *ret, struct err *err)
{
	const char *word = "";
	int r = json_optional(json_get_string(obj, name, &word, err));

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		if (strcmp(word, words[i]) == 0) {
			*ret = (unsigned int)i;
			return 0;
		}
	return err_text(err, -EINVAL, "%s is \"%.40s\", it must be %s", name, word, expected);
}

int namespaces_parse(struct json_object *obj, struct task *task, struct err *err)
{
	unsigned int pid_mode = 0, ipc_mode = 0;
	int r;

	r = mode_parse(obj, "pidMode", pid_modes, _TASK_PID_MODE_MAX, "host or task", &pid_mode,
	               err);
	if (r == 0)
		r = mode_parse(obj, "ipcMode", ipc_modes, _TASK_IPC_MODE_MAX, "host, task or none",
		               &ipc_mode, err);
	if (r < 0)
		return r;
	task->pid_mode = (enum task_pid_mode)pid_mode;
	task->ipc_mode = (enum task_ipc_mode)ipc_mode;
	return 0;
}

static int get_mode(const struct container *c, const char *name, const char **ret, struct err *err)
{
	*ret = "";
	return json_optional(json_get_string(c->host_config, name, ret, err));
}

/* For a container of a task that has no ipcMode: the word of agent/task/protocol.h, or NULL. */
static const char *own_ipc_mode(const char *word)
{
	static const char *const known[] = {"private", "none", "host"};

	if (strcmp(word, "shareable") == 0)
		return "private";
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strcmp(word, known[i]) == 0)
			return known[i];
	return NULL;
}

static int check_ipc_mode(const struct task *task, const struct container *c, struct err *err)
{
	const char *word;
	int r = get_mode(c, "IpcMode", &word, err);

	if (r < 0 || !*word || strcmp(word, ipc_modes[task->ipc_mode]) == 0)
		return r;
	if (task->ipc_mode != TASK_IPC_PRIVATE)
		return err_text(err, -EINVAL,
		                "hostConfig.IpcMode is \"%.64s\" in a task of ipcMode %s", word,
		                ipc_modes[task->ipc_mode]);
	if (!own_ipc_mode(word))
		return err_text(err, -EOPNOTSUPP,
		                "hostConfig.IpcMode is \"%.64s\", it must be private, shareable, "
		                "none or host",
		                word);
	return 0;
}

static int check_pid_mode(const struct task *task, const struct container *c, struct err *err)
{
	const char *word;
	int r = get_mode(c, "PidMode", &word, err);

	if (r < 0 || !*word || strcmp(word, pid_modes[task->pid_mode]) == 0)
		return r;
	return err_text(err, -EINVAL,
	                "hostConfig.PidMode is \"%.64s\" in a task of pidMode \"%s\"; it must be "
	                "the task's",
	                word, pid_modes[task->pid_mode]);
}

static bool is_own_shm(const struct task *task, const char *word)
{
	if (task->ipc_mode != TASK_IPC_PRIVATE)
		return false;
	return strcmp(word, "none") != 0 && strcmp(word, "host") != 0;
}

bool namespaces_own_shm(const struct task *task, const struct container *c)
{
	const char *word = json_text(c->host_config, "IpcMode");

	return is_own_shm(task, word ? word : "");
}

static int check_shm(const struct task *task, const struct container *c, struct err *err)
{
	int64_t bytes = 0;
	int r = json_optional(json_get_i64(c->host_config, "ShmSize", 0, INT64_MAX, &bytes, err));

	if (r < 0 || bytes == 0 || namespaces_own_shm(task, c) || task->ipc_mode == TASK_IPC_TASK)
		return r;
	return err_text(err, -EINVAL,
	                "sharedMemorySize has no effect with ipcMode host and none; leave one out");
}

static int check_others(const struct container *c, struct err *err)
{
	const char *uts, *cgroupns;
	int r;

	r = get_mode(c, "UTSMode", &uts, err);
	if (r == 0)
		r = get_mode(c, "CgroupnsMode", &cgroupns, err);
	if (r < 0)
		return r;
	if (*uts)
		return err_text(err, -EOPNOTSUPP,
		                "hostConfig.UTSMode \"%.64s\" is not supported by this agent", uts);
	if (*cgroupns && strcmp(cgroupns, "private") != 0)
		return err_text(
			err, -EOPNOTSUPP,
			"hostConfig.CgroupnsMode \"%.64s\" is not supported, only private is",
			cgroupns);
	return 0;
}

int namespaces_check(const struct task *task, const struct container *c, struct err *err)
{
	int r = check_pid_mode(task, c, err);

	if (r == 0)
		r = check_ipc_mode(task, c, err);
	if (r == 0)
		r = check_shm(task, c, err);
	if (r == 0)
		r = check_others(c, err);
	return r < 0 ? err_prefix(err, r, "container %s", c->name) : 0;
}

static int64_t shared_shm_bytes(const struct task *task)
{
	int64_t max = 0;

	for (size_t i = 0; i < task->n_containers; i++) {
		int64_t bytes = 0;

		(void)json_get_i64(task->containers[i].host_config, "ShmSize", 0, INT64_MAX, &bytes,
		                   NULL); /* checked when it was parsed */
		if (bytes > max)
			max = bytes;
	}
	return max;
}

int namespaces_add_to_task(const struct task *task, struct json_object *obj)
{
	int64_t bytes = task->ipc_mode == TASK_IPC_TASK ? shared_shm_bytes(task) : 0;

	/* An older ecs-task knows none of these, and needs none where nothing is asked for. */
	if ((task->pid_mode != TASK_PID_PRIVATE &&
	     json_add_string(obj, "pidMode", pid_modes[task->pid_mode]) < 0) ||
	    (task->ipc_mode != TASK_IPC_PRIVATE &&
	     json_add_string(obj, "ipcMode", ipc_modes[task->ipc_mode]) < 0) ||
	    (bytes > 0 && json_add_i64(obj, "shmBytes", bytes) < 0))
		return -ENOMEM;
	return 0;
}

int namespaces_add_to_container(const struct container *c, struct json_object *obj)
{
	const char *word = json_text(c->host_config, "IpcMode");

	/* What is not known here is the task's, and holds for all. */
	word = word ? own_ipc_mode(word) : NULL;
	return word ? json_add_string(obj, "ipcMode", word) : 0;
}

/* --- the pausing container --- */

static enum task_status pause_status(const struct task *task)
{
	if (task->known == TASK_STATUS_STOPPED)
		return TASK_STATUS_STOPPED;
	for (size_t i = 0; i < task->n_containers; i++)
		if (task->containers[i].known >= TASK_STATUS_CREATED)
			return TASK_STATUS_RUNNING;
	return TASK_STATUS_NONE;
}

bool namespaces_pause_container(const struct task *task, struct container *ret)
{
	if (task->n_containers == 0 ||
	    (task->pid_mode != TASK_PID_TASK && task->ipc_mode != TASK_IPC_TASK))
		return false;
	*ret = (struct container){
		.name = (char *)PAUSE_NAME,
		.image = (char *)PAUSE_IMAGE,
		.desired = task->desired,
		.known = pause_status(task),
	};
	/* An id of its own that needs no memory: that of the first container, mirrored. */
	for (size_t i = 0, n = strlen(task->containers[0].runtime_id); i < n; i++)
		ret->runtime_id[i] = task->containers[0].runtime_id[n - 1 - i];
	return true;
}

bool namespaces_is_pause_container(const struct container *c)
{
	return strcmp(c->name, PAUSE_NAME) == 0;
}
