/* Ended logs that are refused, as the disk has them. */
#include "agent/logs/leftover.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "lib/fd.h"
#include "lib/loop.h"
#include "lib/spool.h"

#define SECOND_USEC 1000000ull
#define DAY_USEC    (24 * 3600 * SECOND_USEC)

static int count_segments(int dir_fd, uint64_t *ret_bytes)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	uint32_t number;
	struct stat st;
	int r;

	r = dir_open(dir_fd, ".", &dir);
	if (r < 0)
		return r;
	*ret_bytes = 0;
	while ((errno = 0, entry = readdir(dir)))
		if (spool_segment_number(entry->d_name, &number) == 0 &&
		    fstatat(dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			*ret_bytes += (uint64_t)st.st_size;
	return -errno;
}

int leftover_measure(int dir_fd, struct leftover *ret)
{
	struct leftover leftover = {0};
	struct stat st;
	int r;

	if (fstatat(dir_fd, SPOOL_END_FILE, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (st.st_mtim.tv_sec > 0)
		leftover.ended_realtime_usec = (uint64_t)st.st_mtim.tv_sec * SECOND_USEC;
	r = count_segments(dir_fd, &leftover.bytes);
	if (r < 0)
		return r;
	*ret = leftover;
	return 1;
}

uint64_t leftover_cost_bytes(const struct leftover *leftover)
{
	return leftover->bytes > SPOOL_SEGMENT_BYTES ? leftover->bytes : SPOOL_SEGMENT_BYTES;
}

bool leftover_is_too_old(const struct leftover *leftover)
{
	return now_realtime_usec() > leftover->ended_realtime_usec + LEFTOVER_DAYS_MAX * DAY_USEC;
}

uint64_t leftovers_bytes_max(int spool_fd)
{
	struct statvfs fs;
	uint64_t part;

	if (fstatvfs(spool_fd, &fs) < 0)
		return LEFTOVERS_BYTES_MAX;
	part = (uint64_t)fs.f_blocks * fs.f_frsize / LEFTOVERS_FS_PART;
	return part < LEFTOVERS_BYTES_MAX ? part : LEFTOVERS_BYTES_MAX;
}
