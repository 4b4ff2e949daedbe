/*
 * dockerSecurityOptions, as Docker's --security-opt has them (Docker Engine API, "HostConfig.
 * SecurityOpt"; docker run reference), each with '=' or ':':
 *
 *   no-new-privileges[=BOOL]
 *   seccomp=unconfined|builtin|/path/of/profile.json|{"defaultAction":...}
 *   apparmor=PROFILE|unconfined
 *   label=disable|user:USER|role:ROLE|type:TYPE|filetype:TYPE|level:LEVEL
 *   systempaths=unconfined      nothing in /proc and /sys is masked or read-only; refused where
 *                               ECS_DISABLE_PRIVILEGED is set
 *
 * The last of a kind counts; labels add up. What is none of these is refused by name. Whether the
 * host can do it is found out by ecs-task, which refuses as well.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>

#include "agent/engine/spec.h"
#include "agent/engine/task.h"
#include "lib/err.h"

#define SECURITY_LABEL_MAX 1024

/* Add what they say to the "container" of protocol.h and its "config". -EINVAL, -EOPNOTSUPP: err
 * names the option; -ENOMEM. */
int security_apply(const struct task *task, const struct container *c,
                   const struct spec_options *options, struct json_object *container,
                   struct json_object *config, struct err *err);

/* Does one of them leave the host's /proc and /sys open (systempaths). */
bool security_opens_system_paths(struct json_object *host_config);

/* SELinux labels of a process and of its files. */
struct security_labels {
	char process[SECURITY_LABEL_MAX + 1], mount[SECURITY_LABEL_MAX + 1];
};

/*
 * The labels that containers of a task get: those of the policy's lxc_contexts, else those of
 * container-selinux, with two categories that follow from the task's id, so that tasks cannot touch
 * each other's files while containers of one task share theirs.
 * etc_dir: "/etc/selinux".
 */
int security_labels_default(const char *etc_dir, const char *task_id, struct security_labels *ret,
                            struct err *err);

/* Change them as one "label" option says, such as "type:svirt_t". -EINVAL. */
int security_labels_change(struct security_labels *labels, const char *option, struct err *err);
