/* One read(2), one record, one write(2): the bytes pass through unseen. */
#include "agent/task/output.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <time.h>

#include "lib/fd.h"

#define TERMINAL_MAX (1024 * 1024)

/* As much as a pipe holds by default. One for all containers: each read is written at once. */
static char buffer[65536];

static const enum spool_stream streams[2] = {SPOOL_STDOUT, SPOOL_STDERR};

void output_init(struct output *output)
{
	*output = (struct output){
		.read_fds = {-EBADF, -EBADF},
		.write_fds = {-EBADF, -EBADF},
	};
}

void output_done(struct output *output)
{
	output_close_write_ends(output);
	for (int i = 0; i < 2; i++)
		output->read_fds[i] = fd_close(output->read_fds[i]);
	output->writer = spool_writer_free(output->writer);
}

int output_open_pipes(struct output *output, struct err *err)
{
	if (!output->writer)
		return 0;
	for (int i = 0; i < 2; i++) {
		int fds[2], r;

		if (pipe2(fds, O_CLOEXEC) < 0)
			return err_set(err, -errno, "make a pipe for the output");
		fd_close(output->read_fds[i]);
		fd_close(output->write_fds[i]);
		output->read_fds[i] = fds[0];
		output->write_fds[i] = fds[1];
		r = fd_set_nonblock(fds[0], true);
		if (r < 0)
			return err_set(err, r, "make the output pipe non-blocking");
	}
	return 0;
}

void output_close_write_ends(struct output *output)
{
	for (int i = 0; i < 2; i++)
		output->write_fds[i] = fd_close(output->write_fds[i]);
}

int output_set_terminal(struct output *output, int fd, struct err *err)
{
	int r = fd_set_nonblock(fd, true);

	fd_close(output->read_fds[0]);
	output->read_fds[0] = fd;
	output->terminal = true;
	return r < 0 ? err_set(err, r, "make the terminal non-blocking") : 0;
}

bool output_has_room(struct output *output)
{
	return !output->writer || spool_writer_has_room(output->writer);
}

/* Bytes taken; 0 at end of file (the pipe is closed then) or when nothing is there. */
static size_t transfer(struct output *output, int i, bool beyond)
{
	struct timespec now;
	ssize_t n;

	do
		n = read(output->read_fds[i], buffer, sizeof(buffer));
	while (n < 0 && errno == EINTR);
	if (n == 0 || (n < 0 && errno != EAGAIN))
		output->read_fds[i] = fd_close(output->read_fds[i]);
	if (n <= 0)
		return 0;

	if (!output->writer)
		return (size_t)n; /* a terminal that nobody reads would stop the container */
	clock_gettime(CLOCK_REALTIME, &now);
	spool_writer_append(output->writer, streams[i],
	                    (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000, buffer,
	                    (size_t)n, beyond);
	return (size_t)n;
}

void output_read(struct output *output, int i)
{
	if (output->read_fds[i] >= 0)
		(void)transfer(output, i, false);
}

/* How much it holds cannot be asked for; it is less than this. */
static void drain_terminal(struct output *output)
{
	for (size_t taken = 0, n = 1; output->read_fds[0] >= 0 && n > 0 && taken < TERMINAL_MAX;
	     taken += n)
		n = transfer(output, 0, true);
	output->read_fds[0] = fd_close(output->read_fds[0]);
	output->terminal = false;
}

void output_drain(struct output *output)
{
	output_close_write_ends(output);
	if (output->terminal)
		drain_terminal(output);
	for (int i = 0; i < 2; i++) {
		int left = 0;

		if (output->read_fds[i] >= 0 && ioctl(output->read_fds[i], FIONREAD, &left) < 0)
			left = 0;
		while (output->read_fds[i] >= 0 && left > 0) {
			size_t n = transfer(output, i, true);

			if (n == 0)
				break;
			left -= (int)n;
		}
		output->read_fds[i] = fd_close(output->read_fds[i]);
	}
}
