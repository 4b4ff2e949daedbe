/* The mount itself, by mount(2) or by mount.efs. Texts leave out options: they may hold passwords.
 */
#include "agent/volume/mounter.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "agent/task/host_path.h"
#include "agent/volume/mount_options.h"
#include "agent/volume/privileges.h"
#include "lib/fd.h"

/* Source: Amazon EFS User Guide, "Recommended NFS mount options". */
#define EFS_OPTIONS "nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"

int mounter_check(const struct mounter *mounter, struct err *err)
{
	const struct efs_request *efs = &mounter->request->efs;
	const char *what = NULL;

	if (!mounter->request->is_efs || mounter->helper)
		return 0;
	if (efs->credentials_path)
		what = "authorizationConfig.iam";
	else if (efs->access_point_id)
		what = "authorizationConfig.accessPointId";
	else if (efs->tls)
		what = "transitEncryption";
	if (what)
		return err_text(err, -EOPNOTSUPP,
		                "%s needs mount.efs of amazon-efs-utils, which is not installed on "
		                "this host",
		                what);
	if (efs->server[0] == '\0')
		return err_text(err, -EINVAL, "server of file system %s is missing",
		                efs->file_system_id);
	return 0;
}

/* --- mount(2) --- */

static int resolve(const char *host, char *buf, size_t n, struct err *err)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *found = NULL;
	int r = getaddrinfo(host, NULL, &hints, &found);

	if (r == 0)
		r = getnameinfo(found->ai_addr, found->ai_addrlen, buf, (socklen_t)n, NULL, 0,
		                NI_NUMERICHOST);
	if (found)
		freeaddrinfo(found);
	return r != 0 ? err_text(err, -EHOSTUNREACH, "address of server %s: %s", host,
	                         gai_strerror(r))
	              : 0;
}

/* "host:/share", "[fe80::1]:/share" and "//host/share"; false for ":/share" and the like. */
static bool host_of_device(const char *device, char *buf, size_t n)
{
	bool cifs = strncmp(device, "//", 2) == 0, bracket = device[0] == '[';
	const char *start = device + (cifs ? 2 : bracket);
	size_t len = strcspn(start, cifs ? "/" : bracket ? "]" : ":");

	if (len == 0 || len >= n || start[len] == '\0')
		return false;
	memcpy(buf, start, len);
	buf[len] = '\0';
	return true;
}

/* The kernel takes addresses only. */
static int set_address(const char *device, struct mount_options *options, struct err *err)
{
	char host[256], option[NI_MAXHOST + 8] = "addr=";
	int r;

	if (!mount_options_get(options, "addr", host, sizeof(host)) &&
	    !host_of_device(device, host, sizeof(host)))
		return err_text(err, -EINVAL,
		                "driverOpts: \"o\" must have addr=, the server of %.100s", device);
	r = resolve(host, option + strlen(option), sizeof(option) - strlen(option), err);
	if (r < 0)
		return r;
	mount_options_remove(options, "addr");
	return mount_options_add(options, option, err);
}

static int mount_server(const char *type, const char *device, const char *text, const char *place,
                        struct err *err)
{
	struct mount_options options;
	bool nfs = strncmp(type, "nfs", 3) == 0;
	int r;

	r = mount_options_parse(text, &options, err);
	if (r == 0 && options.bind)
		r = err_text(err, -EINVAL, "driverOpts: option bind in \"o\" is for type none");
	if (r == 0)
		r = set_address(device, &options, err);
	/* Otherwise tasks that mount the same share one connection and its cache, and giving up
	 * what one task waits for would fail the others. */
	if (r == 0 && nfs && !mount_options_has(&options, "sharecache") &&
	    !mount_options_has(&options, "nosharecache"))
		r = mount_options_add(&options, "nosharecache", err);
	if (r < 0)
		return r;
	if (mount(device, place, type, options.flags, options.data) < 0)
		return errno == ENODEV ? err_text(err, -errno, "this kernel has no %s", type)
		                       : err_set(err, -errno, "mount %.200s (%s)", device, type);
	return 0;
}

static int mount_tmpfs(const struct volume_request *request, const char *place, struct err *err)
{
	struct mount_options options;
	int r = mount_options_parse(request->options, &options, err);

	if (r == 0 && options.bind)
		r = err_text(err, -EINVAL, "driverOpts: option bind in \"o\" is for type none");
	if (r < 0)
		return r;
	if (mount("tmpfs", place, "tmpfs", options.flags, options.data) < 0)
		return err_set(err, -errno, "mount tmpfs with options \"%.300s\"",
		               request->options);
	return 0;
}

/* The policy is about the place itself, wherever links of the host lead. */
static int check_host_path(const struct policy *policy, int fd, const char *device, struct err *err)
{
	int r = host_path_is_allowed(policy, fd);

	if (r < 0)
		return err_set(err, r, "find out where %.200s is", device);
	if (r > 0)
		return 0;
	return err_text(err, -EACCES, "host path %.200s is not one of ECS_ALLOWED_HOST_PATHS",
	                device);
}

static int mount_bind(const struct mounter *mounter, struct err *err)
{
	const char *device = mounter->request->device, *place = mounter->place;
	struct mount_options options;
	_cleanup_close_ int fd = -EBADF;
	char source[32];
	int r;

	r = mount_options_parse(mounter->request->options, &options, err);
	if (r < 0)
		return r;
	if (!options.bind || options.data[0] != '\0')
		return err_text(err, -EINVAL,
		                "driverOpts: type none is for bind mounts: \"o\" must have bind "
		                "and options such as ro, not \"%.200s\"",
		                mounter->request->options);
	if (device[0] != '/')
		return err_text(err, -EINVAL,
		                "driverOpts: device is \"%.200s\", it must be an absolute path",
		                device);
	fd = open(device, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, -errno, "driverOpts: device %.200s", device);
	r = check_host_path(mounter->policy, fd, device, err);
	if (r < 0)
		return r;
	snprintf(source, sizeof(source), "/proc/self/fd/%d", fd);
	if (mount(source, place, NULL, MS_BIND | (options.recursive ? MS_REC : 0), NULL) < 0 ||
	    (options.flags &&
	     mount(NULL, place, NULL, MS_REMOUNT | MS_BIND | options.flags, NULL) < 0))
		return err_set(err, -errno, "bind mount of %.200s", device);
	return 0;
}

static int mount_efs(const struct efs_request *efs, const char *place, struct err *err)
{
	char device[PATH_MAX], options[512];

	snprintf(device, sizeof(device), ":%s", efs->root);
	snprintf(options, sizeof(options), "addr=%s," EFS_OPTIONS, efs->server);
	return mount_server("nfs", device, options, place, err);
}

/* --- mount.efs --- */

static void run_helper(const struct mounter *mounter, struct err *err)
{
	const struct efs_request *efs = &mounter->request->efs;
	char device[PATH_MAX], options[2048] = "rw";
	size_t n = strlen(options);

	snprintf(device, sizeof(device), "%s:%s", efs->file_system_id, efs->root);
	if (efs->tls)
		n += (size_t)snprintf(options + n, sizeof(options) - n, ",tls");
	if (efs->tls && efs->tls_port)
		n += (size_t)snprintf(options + n, sizeof(options) - n, ",tlsport=%u",
		                      efs->tls_port);
	if (efs->credentials_path)
		n += (size_t)snprintf(options + n, sizeof(options) - n, ",iam,awscredsuri=%s",
		                      efs->credentials_path);
	if (efs->access_point_id)
		n += (size_t)snprintf(options + n, sizeof(options) - n, ",accesspoint=%s",
		                      efs->access_point_id);
	execl(mounter->helper, mounter->helper, device, mounter->place, "-o", options,
	      (char *)NULL);
	(void)err_set(err, -errno, "run %s", mounter->helper);
}

static int mount_here(const struct mounter *mounter, struct err *err)
{
	const struct volume_request *request = mounter->request;
	int r = privileges_drop_helpers(err);

	if (r < 0)
		return r;
	if (request->is_efs)
		return mount_efs(&request->efs, mounter->place, err);
	if (strcmp(request->type, "none") == 0)
		return mount_bind(mounter, err);
	if (strcmp(request->type, "tmpfs") == 0)
		return mount_tmpfs(request, mounter->place, err);
	return mount_server(request->type, request->device, request->options, mounter->place, err);
}

void mounter_run(const struct mounter *mounter)
{
	struct err err = {0};
	int r = -EINVAL;

	if (mounter->helper)
		run_helper(mounter, &err);
	else
		r = mount_here(mounter, &err);
	if (r < 0)
		(void)fd_write_all(STDERR_FILENO, err.text, strlen(err.text));
	_exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}
