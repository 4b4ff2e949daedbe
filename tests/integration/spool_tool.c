/*
 * Standard input into a stream of the log spool through lib/spool_writer, as ecs-task does it:
 * spool_tool SPOOL TASK_ID CONTAINER LOG_JSON MAX_BYTES blocking|non-blocking
 * Prints what was dropped: "<records> <bytes>".
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/parse.h"
#include "lib/spool_writer.h"

static uint64_t realtime_usec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int copy(struct spool_writer *writer)
{
	static char buf[65536];
	const struct timespec pause = {.tv_nsec = 5000000};

	for (;;) {
		ssize_t n;

		if (!spool_writer_has_room(writer)) {
			nanosleep(&pause, NULL);
			continue;
		}
		n = read(STDIN_FILENO, buf, sizeof(buf));
		if (n <= 0)
			return n < 0 ? -errno : 0;
		spool_writer_append(writer, SPOOL_STDOUT, realtime_usec(), buf, (size_t)n, false);
	}
}

static int run(char **argv, struct err *err)
{
	_cleanup_(spool_writer_freep) struct spool_writer *writer = NULL;
	struct spool_stream_options options = {.task_id = argv[2],
	                                       .container = argv[3],
	                                       .log_json = argv[4],
	                                       .log_json_len = strlen(argv[4]),
	                                       .blocking = strcmp(argv[6], "blocking") == 0};
	_cleanup_close_ int spool_fd = -EBADF;
	uint64_t records, bytes;
	int r;

	spool_fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (spool_fd < 0)
		return err_set(err, -errno, "open %s", argv[1]);
	r = parse_u64(argv[5], UINT64_MAX, &options.max_bytes);
	if (r < 0)
		return err_set(err, r, "MAX_BYTES %s", argv[5]);
	r = spool_writer_open(spool_fd, &options, &writer, err);
	if (r < 0)
		return r;
	r = copy(writer);
	if (r < 0)
		return err_set(err, r, "read");
	spool_writer_dropped(writer, &records, &bytes);
	printf("%llu %llu\n", (unsigned long long)records, (unsigned long long)bytes);
	return spool_writer_end(writer, err);
}

int main(int argc, char **argv)
{
	struct err err = {0};

	if (argc != 7) {
		fprintf(stderr,
		        "usage: spool_tool SPOOL TASK_ID CONTAINER LOG_JSON MAX_BYTES MODE\n");
		return 2;
	}
	if (run(argv, &err) < 0) {
		fprintf(stderr, "spool_tool: %s\n", err.text);
		return 1;
	}
	return 0;
}
