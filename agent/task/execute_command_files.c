/*
 * Folders are opened one below the other, and each is checked before it is gone into: /var/log/ecs
 * belongs to ecs-agent, whose part in this ends with asking.
 */
#include "agent/task/execute_command_files.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "agent/task/execute_command_paths.h"
#include "agent/task/mount.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/options.h"
#include "lib/parse.h"
#include "lib/version_dir.h"

#define CONFIG_MAX      (64 * 1024)
#define QUIET           (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
#define REMOVED_AT_ONCE 64 /* log directories of ended tasks */
#define TASK_ID_MAX     255

/* The format of seelog, the log library of the SSM agent; at most 22 MB for each container. */
static const char seelog_xml[] =
	"<seelog minlevel=\"info\">\n"
	"  <outputs formatid=\"line\">\n"
	"    <rollingfile type=\"size\" filename=\"/var/log/amazon/ssm/amazon-ssm-agent.log\" "
	"maxsize=\"10000000\" maxrolls=\"1\"/>\n"
	"    <filter levels=\"error,critical\">\n"
	"      <rollingfile type=\"size\" filename=\"/var/log/amazon/ssm/errors.log\" "
	"maxsize=\"1000000\" maxrolls=\"1\"/>\n"
	"    </filter>\n"
	"  </outputs>\n"
	"  <formats>\n"
	"    <format id=\"line\" format=\"%UTCDate %UTCTime %LEVEL %Msg%n\"/>\n"
	"  </formats>\n"
	"</seelog>\n";

void execute_command_files_init(struct execute_command_files *files)
{
	*files = (struct execute_command_files){.log_fd = -EBADF};
	for (size_t i = 0; i < EXECUTE_COMMAND_MOUNTS; i++)
		files->mounts[i].fd = -EBADF;
}

void execute_command_mounts_done(struct execute_command_mount mounts[EXECUTE_COMMAND_MOUNTS])
{
	for (size_t i = 0; i < EXECUTE_COMMAND_MOUNTS; i++)
		mounts[i].fd = fd_close(mounts[i].fd);
}

void execute_command_files_done(struct execute_command_files *files)
{
	execute_command_mounts_done(files->mounts);
	if (files->log_fd >= 0)
		(void)futimens(files->log_fd, NULL); /* its age counts from here */
	files->log_fd = fd_close(files->log_fd);
}

/* --- folders --- */

/* flags: O_NOFOLLOW where others than root could put a link. */
static int open_dir(int parent_fd, const char *name, int flags, const char *where, struct err *err)
{
	_cleanup_close_ int fd =
		openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | flags);
	struct stat st;

	if (fd < 0)
		return err_set(err, -errno, "open %s", where);
	if (fstat(fd, &st) < 0)
		return err_set(err, -errno, "look at %s", where);
	if (st.st_uid != 0 || (st.st_mode & 022) != 0)
		return err_text(
			err, -EPERM,
			"%s belongs to uid %u and has mode %04o; it must belong to root, and "
			"nobody else may write to it",
			where, st.st_uid, st.st_mode & 07777);
	return TAKE_FD(fd);
}

static int make_dir(int parent_fd, const char *name, mode_t mode, const char *where,
                    struct err *err)
{
	bool made = mkdirat(parent_fd, name, mode) == 0;
	int fd;

	if (!made && errno != EEXIST)
		return err_set(err, -errno, "make %s", where);
	fd = open_dir(parent_fd, name, O_NOFOLLOW, where, err);
	if (fd >= 0 && made && fchmod(fd, mode) < 0) { /* whatever the umask is */
		int r = err_set(err, -errno, "set the mode of %s", where);

		fd_close(fd);
		return r;
	}
	return fd;
}

/* --- what is mounted --- */

static int add_file(struct execute_command_files *files, size_t i, int dir_fd, const char *path,
                    const char *where, struct err *err)
{
	struct execute_command_mount *mount = &files->mounts[i];
	struct stat st;

	mount->attr = QUIET | MOUNT_ATTR_RDONLY;
	mount->fd = openat(dir_fd, path, O_PATH | O_CLOEXEC);
	if (mount->fd < 0)
		return err_set(err, -errno, "open %s/%s", where, path);
	if (fstat(mount->fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_text(err, -EINVAL, "%s/%s is no regular file", where, path);
	return 0;
}

static int add_programs(struct execute_command_files *files, int deps_fd, const char *deps,
                        struct err *err)
{
	static const char *const programs[] = EXECUTE_COMMAND_PROGRAMS;
	_cleanup_close_ int bin_fd = -EBADF, version_fd = -EBADF;
	char version[VERSION_DIR_NAME_MAX + 1], where[PATH_MAX];
	int r = 0;

	snprintf(where, sizeof(where), "%.2000s/bin", deps);
	bin_fd = open_dir(deps_fd, "bin", 0, where, err);
	if (bin_fd < 0)
		return bin_fd;
	r = version_dir_newest(bin_fd, programs, ARRAY_SIZE(programs), version);
	if (r == -ENOENT)
		return err_text(err, r, "no version in %s has all of %s, %s and %s", where,
		                programs[0], programs[1], programs[2]);
	if (r < 0)
		return err_set(err, r, "read %s", where);
	snprintf(where, sizeof(where), "%.2000s/bin/%s", deps, version);
	version_fd = open_dir(bin_fd, version, 0, where, err);
	if (version_fd < 0)
		return version_fd;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(programs); i++)
		r = add_file(files, i, version_fd, programs[i], where, err);
	return r;
}

/* FNV-1a, 64 bits. Not against anybody: the folder is root's, and the content is compared. */
static uint64_t hash(const char *text)
{
	uint64_t h = 0xcbf29ce484222325;

	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 0x100000001b3;
	return h;
}

static int add_config(struct execute_command_files *files, size_t i, int config_fd,
                      const char *where, const char *kind, const char *suffix, const char *text,
                      struct err *err)
{
	_cleanup_free_ char *old = NULL;
	char name[64];
	int r;

	snprintf(name, sizeof(name), "%s-%016llx.%s", kind, (unsigned long long)hash(text), suffix);
	if (file_read(config_fd, name, CONFIG_MAX, &old, NULL) < 0 || strcmp(old, text) != 0) {
		r = file_replace(config_fd, name, text, strlen(text), 0644);
		if (r < 0)
			return err_set(err, r, "write %s/%s", where, name);
	}
	return add_file(files, i, config_fd, name, where, err);
}

static int add_configs(struct execute_command_files *files, int deps_fd, const char *deps,
                       unsigned int session_limit, struct err *err)
{
	_cleanup_close_ int config_fd = -EBADF;
	char where[PATH_MAX], text[256];
	int r;

	snprintf(where, sizeof(where), "%.2000s/config", deps);
	config_fd = make_dir(deps_fd, "config", 0755, where, err);
	if (config_fd < 0)
		return config_fd;
	snprintf(text, sizeof(text),
	         "{\"Mgs\":{\"StopTimeoutMillis\":20000,\"SessionWorkersLimit\":%u},"
	         "\"Agent\":{\"ContainerMode\":true,\"UseDualStackEndpoint\":false}}\n",
	         session_limit);
	r = add_config(files, 3, config_fd, where, EXECUTE_COMMAND_PROGRAM, "json", text, err);
	return r < 0 ? r : add_config(files, 4, config_fd, where, "seelog", "xml", seelog_xml, err);
}

static int add_certificates(struct execute_command_files *files, int deps_fd, const char *deps,
                            struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	char where[PATH_MAX];

	snprintf(where, sizeof(where), "%.2000s/certs", deps);
	fd = open_dir(deps_fd, "certs", 0, where, err);
	if (fd < 0)
		return fd;
	return add_file(files, 5, fd, strrchr(EXECUTE_COMMAND_CERTS, '/') + 1, where, err);
}

/* --- the log directory --- */

/* One that nobody holds a lock on, and that was let go of long enough ago. */
static bool is_over(int fd, uint64_t keep_usec)
{
	struct timespec now;
	struct stat st;
	int64_t age;

	clock_gettime(CLOCK_REALTIME, &now);
	if (fstat(fd, &st) < 0)
		return false;
	age = (int64_t)now.tv_sec - (int64_t)st.st_mtim.tv_sec;
	return age >= 0 && (uint64_t)age >= keep_usec / 1000000 &&
	       flock(fd, LOCK_EX | LOCK_NB) == 0;
}

/* The next that is over, locked; name: of NAME_MAX + 1 bytes. -ENOENT: none is left. */
static int find_old_logs(DIR *dir, uint64_t keep_usec, char *name)
{
	struct dirent *entry;

	while ((entry = readdir(dir))) {
		_cleanup_close_ int fd = -EBADF;

		if (!name_is_component(entry->d_name, TASK_ID_MAX))
			continue;
		fd = openat(dirfd(dir), entry->d_name,
		            O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 || !is_over(fd, keep_usec))
			continue;
		snprintf(name, NAME_MAX + 1, "%s", entry->d_name);
		return TAKE_FD(fd);
	}
	return -ENOENT;
}

/* In the child. It must hold nothing of the supervisor's: pipes, sockets, locks on layers. */
static void become_remover(int logs_fd, int lock_fd)
{
	const int keep[] = {logs_fd < lock_fd ? logs_fd : lock_fd,
	                    logs_fd < lock_fd ? lock_fd : logs_fd};

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 ||
	    fd_close_from(STDERR_FILENO + 1, keep, ARRAY_SIZE(keep)) < 0)
		_exit(1);
	log_init("ecs-task"); /* that descriptor is closed, too */
}

static _Noreturn void remove_in_child(int logs_fd, int lock_fd, char *name, uint64_t keep_usec)
{
	DIR *dir;

	become_remover(logs_fd, lock_fd);
	if (dir_open(logs_fd, ".", &dir) < 0)
		_exit(1);
	for (int i = 0; i < REMOVED_AT_ONCE && lock_fd >= 0; i++) {
		int r = dir_remove_all(logs_fd, name);

		if (r < 0)
			log_warning(NULL, r, "remove the ECS Exec logs of task %s", name);
		fd_close(lock_fd);
		lock_fd = find_old_logs(dir, keep_usec, name);
	}
	_exit(0);
}

/*
 * In a child that nobody waits for: containers wrote these directories, as large and as deep as
 * they liked, and the task that comes next must not wait for it. The child's copy of the descriptor
 * keeps the lock, so that no other supervisor removes the same.
 */
static void remove_old_logs(int logs_fd, uint64_t keep_usec)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	_cleanup_close_ int lock_fd = -EBADF;
	char name[NAME_MAX + 1];

	if (dir_open(logs_fd, ".", &dir) < 0)
		return; /* tried again by the next container */
	lock_fd = find_old_logs(dir, keep_usec, name);
	if (lock_fd >= 0 && fork() == 0)
		remove_in_child(logs_fd, lock_fd, name, keep_usec);
}

/* The task's own, held by a lock: anew if another supervisor removed it before we had that. */
static int take_task_logs(int logs_fd, const char *where, const char *task_id, int *ret,
                          struct err *err)
{
	for (int tries = 0; tries < 10; tries++) {
		_cleanup_close_ int fd = make_dir(logs_fd, task_id, 0700, where, err);
		struct stat st;

		if (fd < 0)
			return fd;
		if (flock(fd, LOCK_SH) < 0 || fstat(fd, &st) < 0)
			return err_set(err, -errno, "lock %s", where);
		if (st.st_nlink > 0) {
			*ret = TAKE_FD(fd);
			return 0;
		}
	}
	return err_text(err, -EAGAIN, "%s is removed again and again", where);
}

static int open_logs(const char *state_dir, char *where, size_t n, struct err *err)
{
	bool is_default = strcmp(state_dir, OPTIONS_STATE_DIR_DEFAULT) == 0;
	_cleanup_close_ int parent_fd = -EBADF;
	char parent[PATH_MAX];
	const char *name;
	int r;

	if (is_default) {
		snprintf(where, n, "%s", EXECUTE_COMMAND_LOGS);
	} else if (snprintf(where, n, "%.2000s/%s", state_dir, EXECUTE_COMMAND_OTHER_LOGS) >=
	           (int)n) {
		return err_text(err, -ENAMETOOLONG, "the state directory's path is too long");
	}
	name = strrchr(where, '/') + 1;
	snprintf(parent, sizeof(parent), "%.*s", (int)(name - where - 1), where);
	r = dir_create_all(parent, 0755);
	if (r < 0)
		return err_set(err, r, "make %s", parent);
	parent_fd = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (parent_fd < 0)
		return err_set(err, -errno, "open %s", parent);
	/* Containers write there as root: no user of the host may reach what they put in. */
	return make_dir(parent_fd, name, 0700, where, err);
}

static int add_logs(struct execute_command_files *files,
                    const struct execute_command_request *request, struct err *err)
{
	struct execute_command_mount *mount = &files->mounts[6];
	_cleanup_close_ int logs_fd = -EBADF;
	char where[3000], path[4000];
	int r;

	logs_fd = open_logs(request->state_dir, where, sizeof(where), err);
	if (logs_fd < 0)
		return logs_fd;
	snprintf(path, sizeof(path), "%s/%s", where, request->task_id);
	r = take_task_logs(logs_fd, path, request->task_id, &files->log_fd, err);
	if (r < 0)
		return r;
	remove_old_logs(logs_fd, request->keep_logs_usec);

	snprintf(path, sizeof(path), "%s/%s/%s", where, request->task_id, request->container);
	mount->is_directory = true;
	mount->attr = QUIET | MOUNT_ATTR_NOEXEC;
	mount->fd = make_dir(files->log_fd, request->container, 0755, path, err);
	return mount->fd < 0 ? mount->fd : 0;
}

/* --- all of it --- */

/* The places in the container, in the order of the mounts above. */
static int name_targets(struct execute_command_files *files, struct err *err)
{
	static const char *const names[EXECUTE_COMMAND_MOUNTS - 1] = {
		"amazon-ssm-agent",         "ssm-agent-worker",
		"ssm-session-worker",       "configuration/amazon-ssm-agent.json",
		"configuration/seelog.xml", "certs/amazon-ssm-agent.crt",
	};
	unsigned char b[16];

	if (getrandom(b, sizeof(b), 0) != (ssize_t)sizeof(b))
		return err_set(err, -EIO, "read random bytes");
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		snprintf(files->mounts[i].target, sizeof(files->mounts[i].target),
		         "/ecs-execute-command-%02x%02x%02x%02x-%02x%02x-4%x%02x-%02x%02x-"
		         "%02x%02x%02x%02x%02x%02x/%s",
		         b[0], b[1], b[2], b[3], b[4], b[5], b[6] & 15, b[7], 0x80 | (b[8] & 0x3f),
		         b[9], b[10], b[11], b[12], b[13], b[14], b[15], names[i]);
	snprintf(files->mounts[6].target, sizeof(files->mounts[6].target), "/var/log/amazon/ssm");
	snprintf(files->program, sizeof(files->program), "%s", files->mounts[0].target);
	return 0;
}

int execute_command_files_open(struct execute_command_files *files,
                               const struct execute_command_request *request, struct err *err)
{
	_cleanup_close_ int deps_fd = -EBADF;
	char deps[PATH_MAX];
	int r;

	if (snprintf(deps, sizeof(deps), "%s/" EXECUTE_COMMAND_DEPS, request->state_dir) > 2000)
		return err_text(err, -ENAMETOOLONG, "the state directory's path is too long");
	deps_fd = open_dir(AT_FDCWD, deps, 0, deps, err);
	if (deps_fd < 0)
		return deps_fd;
	r = name_targets(files, err);
	if (r == 0)
		r = add_programs(files, deps_fd, deps, err);
	if (r == 0)
		r = add_configs(files, deps_fd, deps, request->session_limit, err);
	if (r == 0)
		r = add_certificates(files, deps_fd, deps, err);
	return r < 0 ? r : add_logs(files, request, err);
}

int execute_command_mounts_make(const struct execute_command_files *files,
                                struct execute_command_mount ret[EXECUTE_COMMAND_MOUNTS],
                                struct err *err)
{
	for (size_t i = 0; i < EXECUTE_COMMAND_MOUNTS; i++) {
		ret[i] = files->mounts[i];
		ret[i].fd = -EBADF;
	}
	for (size_t i = 0; i < EXECUTE_COMMAND_MOUNTS; i++) {
		int fd = mount_clone(files->mounts[i].fd, false);

		if (fd < 0) {
			execute_command_mounts_done(ret);
			return err_set(err, fd, "make a mount for %s", ret[i].target);
		}
		ret[i].fd = fd;
	}
	return 0;
}
