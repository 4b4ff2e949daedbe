/*
 * What ecs-agent asks for in "setup" and "create" (protocol.h), checked: every member is known,
 * of its type and within its bounds, or refused by name. Nothing here touches the system.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "agent/task/idmap.h"
#include "agent/task/label.h"
#include "agent/task/seccomp_task.h"
#include "agent/task/volume.h"
#include "cgroups/cgroup.h"
#include "lib/cleanup.h"
#include "lib/err.h"

enum network_mode {
	NETWORK_BRIDGE,
	NETWORK_HOST,
	NETWORK_NONE,
};

/* namespaces.h has what they mean. */
enum pid_mode {
	PID_MODE_PRIVATE,
	PID_MODE_TASK,
	PID_MODE_HOST,
};

enum ipc_mode {
	IPC_MODE_PRIVATE,
	IPC_MODE_NONE, /* private, and without /dev/shm */
	IPC_MODE_TASK,
	IPC_MODE_HOST,
};

struct task_spec {
	char *arn; /* owned; may be NULL */
	enum network_mode network_mode;
	enum pid_mode pid_mode;
	enum ipc_mode ipc_mode;
	uint64_t shm_bytes; /* of the /dev/shm that ipc_mode task shares; 0: 64 MiB */
	struct cgroup_limits limits;
};

int task_spec_parse(struct json_object *task, struct task_spec *ret, struct err *err);
void task_spec_done(struct task_spec *spec);

enum mount_type {
	MOUNT_BIND,
	MOUNT_TMPFS,
	MOUNT_VOLUME,
};

#define SPEC_MOUNT_OPTIONS_MAX 16
struct mount_spec {
	enum mount_type type;
	const char *source; /* host path of a bind */
	struct volume volume;
	bool nocopy;        /* a volume is not filled from the image */
	const char *target; /* absolute, in the container */
	unsigned int attr;  /* MOUNT_ATTR_* */
	bool recursive;     /* rbind, also of the attributes with rro */
	bool recursive_attr;
	unsigned long propagation;    /* MS_PRIVATE, MS_SLAVE or MS_SHARED, perhaps | MS_REC */
	struct mount_option *options; /* of tmpfs; owned, keys and values too */
	size_t n_options;
};

#define SPEC_DEVICES_MAX 256
struct device_spec {
	const char *path; /* absolute, in the container */
	char *own_path;   /* path, if it is not borrowed */
	mode_t mode;      /* with S_IFCHR or S_IFBLK */
	dev_t rdev;
	uid_t uid;
	gid_t gid;
};

/* A device of the host, or a directory of them, before it is looked up (host_devices.h). */
struct host_device_spec {
	const char *host_path, *path, *access;
};

struct sysctl_spec {
	const char *path; /* below /proc/sys, with '/'; owned */
	const char *value;
};

#define SPEC_RLIMITS_MAX 16
struct rlimit_spec {
	int resource;
	struct rlimit limit;
};

struct dns_spec {
	const char **servers, **search,
		**options; /* NULL-terminated, owned arrays; NULL: the host's */
};

#define SPEC_GIDS_MAX 64

struct container_spec {
	struct json_object *json; /* owned; the strings below are borrowed from it, or from text */
	char *text;               /* owned; of container_spec_for_exec() */
	size_t text_len;

	const char *name; /* one path component */
	const char *id;   /* 64 hex digits */
	const char **layers;
	size_t n_layers;

	const char **args, **env; /* NULL-terminated; arrays owned, as all below */
	const char *cwd;
	char *user, *group; /* owned; NULL for none */
	uint64_t cap_bounding, cap_permitted, cap_effective;
	struct rlimit_spec rlimits[SPEC_RLIMITS_MAX];
	size_t n_rlimits;
	int oom_score_adj;
	bool no_new_privs;
	bool privileged;
	bool seccomp;                         /* a filter, */
	struct seccomp_source seccomp_source; /* of this profile; none: of Docker's default */
	struct labels labels;
	bool init;
	bool restart;
	bool terminal;         /* a pseudo-terminal is standard input, output and error */
	bool network_disabled; /* bridge mode without a bridge: nothing but lo */
	bool interactive;      /* standard input stays open, though nobody writes */
	enum ipc_mode ipc_mode;
	bool userns_host; /* asks to stay in the host's user namespace */
	unsigned short console_rows, console_columns; /* 0: as the kernel makes it */

	/* Of the OCI command line (oci.h); tasks have none of it. */
	const char *rootfs; /* absolute: this directory is the root, in place of layers */
	const char *netns;  /* path of a network namespace to use; NULL: as network_mode says */
	bool bare;          /* nothing that Docker adds: /etc/hosts, variables, default limits */
	bool hold;          /* the start stops before the program is run */
	struct id_maps *id_maps; /* owned; NULL: no user namespace of its own */
	gid_t additional_gids[SPEC_GIDS_MAX];
	size_t n_additional_gids;

	const char *hostname; /* NULL: the first 12 digits of the id, or the host's in host mode */
	const char *domainname; /* what follows it in the name as a whole; NULL: nothing */
	bool readonly_root;
	struct mount_spec *mounts; /* fewer components first */
	size_t n_mounts;
	const char **masked_paths, **readonly_paths;
	struct sysctl_spec *sysctls;
	size_t n_sysctls;
	struct device_spec *devices;
	size_t n_devices;
	struct host_device_spec *host_devices;
	size_t n_host_devices;
	struct cgroup_device *device_rules; /* cgroup access */
	size_t n_device_rules;
	struct cgroup_limits limits;

	struct dns_spec dns;
	const char **extra_hosts;  /* "name:ip" */
	const char **linked_hosts; /* "ip name name ..." */
	int stop_signal;

	struct json_object *health_check;    /* borrowed from json, not looked into; NULL: none */
	struct json_object *execute_command; /* the same */
	struct json_object *log;             /* borrowed from json; NULL: discard */
	uint64_t log_max_bytes;
	bool log_blocking;
};

/*
 * Takes a reference to container. err->name is CannotCreateContainerError.
 * -EINVAL names what is wrong; -ENOMEM.
 */
int container_spec_parse(struct json_object *container, const struct task_spec *task,
                         struct container_spec **ret, struct err *err);
struct container_spec *container_spec_free(struct container_spec *spec);

/*
 * What an exec needs of it, in a few kilobytes: env, cwd, user, capabilities, limits, labels,
 * flags. args are none, nor is the source of a seccomp profile. Nothing of spec is borrowed. NULL:
 * out of memory.
 */
struct container_spec *container_spec_for_exec(const struct container_spec *spec);

/* Set user and group from "user:group". -EINVAL: too long; -ENOMEM. */
int container_spec_set_user(struct container_spec *spec, const char *text, struct err *err);
DEFINE_CLEANUP(struct container_spec *, container_spec_free)

/* "SIGTERM", "term", "15", "SIGRTMIN+3": the number, or -EINVAL. */
int signal_from_name(const char *name);
/* "RLIMIT_NOFILE", for messages. */
const char *rlimit_name(int resource);
