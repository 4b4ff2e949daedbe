/* The administrator's limits on what a task specification may ask for. */
#include "agent/task/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/envfile.h"
#include "lib/parse.h"

#define CLEANUP_WAIT_USEC     (3 * 3600 * 1000000ull)
#define CLEANUP_WAIT_MIN_USEC 1000000ull

static int add_path(struct policy *policy, const char *path, struct err *err)
{
	size_t len = strlen(path);

	if (path[0] != '/' || strstr(path, "//") || strstr(path, "/../") ||
	    (len >= 3 && strcmp(path + len - 3, "/..") == 0))
		return err_text(err, -EINVAL,
		                "ECS_ALLOWED_HOST_PATHS has \"%.200s\"; it must be absolute paths, "
		                "separated by ':'",
		                path);
	if (policy->n_host_paths == POLICY_PATHS_MAX)
		return err_text(err, -EINVAL, "ECS_ALLOWED_HOST_PATHS has more than %d paths",
		                POLICY_PATHS_MAX);
	while (len > 0 && path[len - 1] == '/')
		len--;
	policy->host_paths[policy->n_host_paths] = strndup(path, len);
	if (!policy->host_paths[policy->n_host_paths])
		return err_oom(err);
	policy->n_host_paths++;
	return 0;
}

static int parse_host_paths(struct policy *policy, const char *text, struct err *err)
{
	_cleanup_free_ char *copy = strdup(text);
	char *rest = copy, *path;
	int r = 0;

	if (!copy)
		return err_oom(err);
	while (r == 0 && (path = strsep(&rest, ":")))
		r = add_path(policy, path, err);
	return r;
}

static int read_flag(const struct envfile *file, const char *name, bool *ret, struct err *err)
{
	const char *text = envfile_get(file, name);

	if (text && *text && parse_bool(text, ret) < 0)
		return err_text(err, -EINVAL, "%s is \"%.64s\"; it must be true or false", name,
		                text);
	return 0;
}

/* What ecs-agent would not take has no effect here either: it warns, and takes the default. */
static uint64_t cleanup_wait(const struct envfile *file)
{
	const char *text = envfile_get(file, "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION");
	uint64_t usec;

	if (text && parse_duration(text, &usec) == 0 && usec >= CLEANUP_WAIT_MIN_USEC)
		return usec;
	return CLEANUP_WAIT_USEC;
}

static int get_userns_remap(const struct envfile *file, struct policy *policy, struct err *err)
{
	const char *text = envfile_get(file, "ECS_USERNS_REMAP");
	bool on = true;

	if (!text || !*text || (parse_bool(text, &on) == 0 && !on))
		return 0;
	policy->userns_remap = strdup(text);
	return policy->userns_remap ? 0 : err_oom(err);
}

int policy_read(const char *config, struct policy *ret, struct err *err)
{
	_cleanup_(envfile_freep) struct envfile *file = NULL;
	struct policy policy = {};
	const char *text;
	int r;

	r = envfile_open(config, &file, err);
	if (r < 0)
		return r;

	r = read_flag(file, "ECS_DISABLE_PRIVILEGED", &policy.privileged_disabled, err);
	if (r == 0)
		r = read_flag(file, "ECS_DISABLE_HOST_PID_IPC", &policy.host_pid_ipc_disabled, err);
	if (r == 0)
		r = read_flag(file, "ECS_USERNS_REMAP_ALLOW_HOST", &policy.userns_host_allowed,
		              err);
	if (r == 0)
		r = get_userns_remap(file, &policy, err);
	policy.task_cleanup_wait_usec = cleanup_wait(file);
	text = envfile_get(file, "ECS_ALLOWED_HOST_PATHS");
	policy.host_paths_limited = text != NULL;
	if (r == 0 && text)
		r = parse_host_paths(&policy, text, err);
	if (r < 0) {
		policy_done(&policy);
		return r;
	}
	*ret = policy;
	return 0;
}

int policy_check_host_paths(const char *text, struct err *err)
{
	struct policy policy = {};
	int r = parse_host_paths(&policy, text, err);

	policy_done(&policy);
	return r;
}

void policy_done(struct policy *policy)
{
	for (size_t i = 0; i < policy->n_host_paths; i++)
		free(policy->host_paths[i]);
	free(policy->userns_remap);
	*policy = (struct policy){};
}

bool policy_allows_host_path(const struct policy *policy, const char *path)
{
	if (!policy->host_paths_limited)
		return true;
	for (size_t i = 0; i < policy->n_host_paths; i++) {
		size_t len = strlen(policy->host_paths[i]);

		if (strncmp(path, policy->host_paths[i], len) == 0 &&
		    (path[len] == '/' || path[len] == '\0'))
			return true;
	}
	return false;
}
