/* The bytes of the program come from the build (Makefile.inc), which compiles it for itself. */
#include "agent/task/init_program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/task/init_image.h"
#include "lib/cleanup.h"
#include "lib/fd.h"
#include "lib/memfd.h"

static int make_file(const struct labels *labels, struct err *err)
{
	_cleanup_close_ int fd = memfd_program_new("ecs-init");
	int r;

	if (fd < 0)
		return err_set(err, fd, "make a memory file for the init process");
	r = fd_write_all(fd, init_image, sizeof(init_image));
	if (r == 0)
		r = memfd_program_seal(fd);
	if (r == 0) /* one that the container may execute */
		r = label_file_private(labels, fd);
	return r < 0 ? err_set(err, r, "fill the memory file of the init process") : TAKE_FD(fd);
}

int init_program_open(const char *const *args, const char *name, const struct labels *labels,
                      struct init_program *ret, struct err *err)
{
	struct init_program program = INIT_PROGRAM_EMPTY;
	size_t n_args = 0;

	while (args && args[n_args])
		n_args++;
	/* In front of them two, after them the number and the end. */
	program.argv = calloc(n_args + 4, sizeof(*program.argv));
	if (!program.argv)
		return err_oom(err);
	program.argv[program.n++] = args ? "/sbin/docker-init" : name;
	if (args)
		program.argv[program.n++] = "--";
	for (size_t i = 0; i < n_args; i++)
		program.argv[program.n++] = args[i];

	program.fd = make_file(labels, err);
	if (program.fd < 0) {
		free(program.argv);
		return program.fd;
	}
	*ret = program;
	return 0;
}

void init_program_done(struct init_program *program)
{
	program->fd = fd_close(program->fd);
	free(program->argv);
	program->argv = NULL;
}

int init_program_execute(const struct init_program *program, pid_t main_pid, char *const *env)
{
	char number[16], path[32];

	snprintf(number, sizeof(number), "%d", (int)main_pid);
	program->argv[program->n] = main_pid > 0 ? number : NULL; /* the last is NULL in any case */
	/* A seccomp profile of a task need not have execveat(2); that there is no /proc means that
	 * the filter is ours. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", program->fd);
	execve(path, (char **)program->argv, env);
	if (errno == ENOENT)
		(void)syscall(SYS_execveat, program->fd, "", program->argv, env, AT_EMPTY_PATH);
	return -errno;
}
