/* /etc/passwd and /etc/group of an image: never more than fits, whatever they hold. */
#include "agent/task/user.h"

#include <assert.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char root[] = "/tmp/fuzz_task_user.XXXXXX";
static int root_fd = -EBADF;

static void remove_root(void)
{
	(void)dir_remove_all(AT_FDCWD, root); /* the next run makes another */
}

static void make_root(void)
{
	if (root_fd >= 0)
		return;
	if (!mkdtemp(root))
		abort();
	atexit(remove_root);
	root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root_fd < 0 || mkdirat(root_fd, "etc", 0755) < 0)
		abort();
}

static void write_file(const char *path, const uint8_t *data, size_t size)
{
	_cleanup_close_ int fd =
		openat(root_fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || fd_write_all(fd, data, size) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const users[][2] = {
		{"", ""}, {"app", ""}, {"1000", ""}, {"app", "web"}, {"7", "8"}};

	make_root();
	write_file("etc/passwd", data, size);
	write_file("etc/group", data, size);
	for (size_t i = 0; i < ARRAY_SIZE(users); i++) {
		static struct user_ids ids;

		if (user_resolve(root_fd, users[i][0], users[i][1], &ids) < 0)
			continue;
		assert(ids.n_groups >= 1 && ids.n_groups <= USER_GROUPS_MAX);
		assert(ids.groups[0] == ids.gid && ids.home[0] == '/');
	}
	return 0;
}
