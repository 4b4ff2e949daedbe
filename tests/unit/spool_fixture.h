/* A stream directory of the log spool in a temporary place, and records to put there. */
#pragma once

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/spool.h"
#include "tests/unit/cmocka_prelude.h"

struct spool_fixture {
	char path[64];
	int dir_fd;
};

static inline int spool_fixture_setup(void **state)
{
	static struct spool_fixture f;

	snprintf(f.path, sizeof(f.path), "/tmp/ecs-spool-test-XXXXXX");
	if (!mkdtemp(f.path))
		return -1;
	f.dir_fd = open(f.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = &f;
	return f.dir_fd < 0 ? -1 : 0;
}

static inline int spool_fixture_teardown(void **state)
{
	struct spool_fixture *f = *state;

	close(f->dir_fd);
	return dir_remove_all(AT_FDCWD, f->path);
}

static inline void spool_put_bytes(struct spool_fixture *f, const char *file, const void *bytes,
                                   size_t n)
{
	int fd = openat(f->dir_fd, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, bytes, n), 0);
	close(fd);
}

static inline void spool_put(struct spool_fixture *f, unsigned int segment,
                             enum spool_stream stream, uint64_t time_usec, const void *data,
                             size_t len)
{
	char name[SPOOL_SEGMENT_NAME_BYTES];
	uint8_t header[SPOOL_HEADER_BYTES];

	spool_segment_name(segment, name);
	spool_header_encode(stream, time_usec, data, len, header);
	spool_put_bytes(f, name, header, sizeof(header));
	spool_put_bytes(f, name, data, len);
}

static inline void spool_put_text(struct spool_fixture *f, unsigned int segment,
                                  enum spool_stream stream, uint64_t time_usec, const char *text)
{
	spool_put(f, segment, stream, time_usec, text, strlen(text));
}

static inline void spool_put_gap(struct spool_fixture *f, unsigned int segment, uint64_t time_usec,
                                 uint64_t records, uint64_t bytes)
{
	uint8_t data[SPOOL_GAP_BYTES];

	spool_gap_encode(records, bytes, data);
	spool_put(f, segment, SPOOL_GAP, time_usec, data, sizeof(data));
}

static inline void spool_put_end(struct spool_fixture *f)
{
	spool_put_bytes(f, SPOOL_END_FILE, "", 0);
}

#define spool_test(name)                                                                           \
	cmocka_unit_test_setup_teardown(name, spool_fixture_setup, spool_fixture_teardown)
