/* A volume of scope shared is one thing under one name: the first task decides what it is. */
#include "agent/volume/shared.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "agent/task/volume.h"
#include "lib/fd.h"
#include "lib/json.h"

#define DRIVER_MAX 3600 /* of an extended attribute on ext4 */

static int write_attributes(int fd, const struct volume_request *request, const char *driver,
                            struct err *err)
{
	const char *labels = request->labels ? json_to_text(request->labels, NULL) : NULL;

	if (fsetxattr(fd, VOLUME_XATTR_DRIVER, driver, strlen(driver), 0) < 0 ||
	    (labels && fsetxattr(fd, VOLUME_XATTR_LABELS, labels, strlen(labels), 0) < 0))
		return err_set(err, -errno, "write driverOpts and labels of volume %s",
		               request->name);
	return 0;
}

static int check_driver(int fd, const struct volume_request *request, const char *driver,
                        struct err *err)
{
	char made[DRIVER_MAX + 1];
	ssize_t n = fgetxattr(fd, VOLUME_XATTR_DRIVER, made, sizeof(made));

	if (n < 0 && errno != ENODATA && errno != EOPNOTSUPP)
		return err_set(err, -errno, "read driverOpts of volume %s", request->name);
	if (n < 0)
		return err_text(err, -EEXIST, "volume %s exists, and was made without driverOpts",
		                request->name);
	if ((size_t)n != strlen(driver) || memcmp(made, driver, (size_t)n) != 0)
		return err_text(err, -EEXIST,
		                "volume %s exists, and was made with other driverOpts",
		                request->name);
	return 0;
}

int shared_volume_check(const char *state_dir, const struct volume_request *request,
                        struct err *err)
{
	const char *driver = json_to_text(request->driver, NULL);
	_cleanup_close_ int fd = -EBADF;
	char path[PATH_MAX];
	bool made = false;
	int r;

	if (!driver)
		return err_oom(err);
	if (strlen(driver) > DRIVER_MAX)
		return err_text(err, -E2BIG, "driverOpts of more than %d bytes", DRIVER_MAX);
	if (snprintf(path, sizeof(path), "%s/volumes/%s", state_dir, request->name) >= PATH_MAX)
		return err_text(err, -ENAMETOOLONG, "the path of the volumes is too long");
	if (!request->existing) {
		made = mkdir(path, 0755) == 0;
		if (!made && errno != EEXIST)
			return err_set(err, -errno, "make %s", path);
	}
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return err_text(err, -ENOENT, "volume %s does not exist", request->name);
	if (fd < 0)
		return err_set(err, -errno, "open %s", path);
	if (!made)
		return check_driver(fd, request, driver, err);
	r = write_attributes(fd, request, driver, err);
	if (r < 0)
		(void)rmdir(path); /* it would be a volume without a driver */
	return r;
}
