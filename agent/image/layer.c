/*
 * libarchive reads the archive through our callback, which hashes what it hands over: the digest
 * is that of the very bytes that were unpacked.
 */
#include "agent/image/layer.h"

#include "agent/image/entry_path.h"
#include "agent/image/tree.h"
#include "lib/fd.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

DEFINE_CLEANUP(struct archive *, archive_read_free)

#define READ_BYTES           (256 * 1024)
#define XATTRS_MAX           64
#define SPACE_CHECK_BYTES    (32ull << 20)
#define SPACE_CHECK_ENTRIES  4096
#define WHITEOUT_PREFIX      ".wh."
#define WHITEOUT_META_PREFIX ".wh..wh."
#define WHITEOUT_OPAQUE      ".wh..wh..opq"

struct layer {
	int tar_fd;
	int root_fd;
	const struct layer_limits *limits;
	struct digester *digester;
	struct tree *tree;
	char *buf;

	uint64_t stream_bytes;
	uint64_t file_bytes;
	uint64_t entries;
	uint64_t unchecked_bytes; /* since the last look at the file system */
	int read_error;           /* of our callback: libarchive keeps a text only */
	struct err read_err;
};

static ssize_t read_stream(struct layer *layer, struct err *err)
{
	ssize_t n;

	do
		n = read(layer->tar_fd, layer->buf, READ_BYTES);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_set(err, -errno, "read layer");

	layer->stream_bytes += (uint64_t)n;
	if (layer->stream_bytes > layer->limits->bytes_max)
		return err_text(err, -EBADMSG, "layer is over the limit of %llu bytes",
		                (unsigned long long)layer->limits->bytes_max);
	if (digester_update(layer->digester, layer->buf, (size_t)n) < 0)
		return err_text(err, -EIO, "hash layer");
	return n;
}

static la_ssize_t on_read(struct archive *archive, void *userdata, const void **ret)
{
	struct layer *layer = userdata;
	ssize_t n = read_stream(layer, &layer->read_err);

	if (n < 0) {
		layer->read_error = (int)n;
		archive_set_error(archive, (int)-n, "%s", layer->read_err.text);
		return ARCHIVE_FATAL;
	}
	*ret = layer->buf;
	return n;
}

static int archive_error(struct layer *layer, struct archive *archive, struct err *err)
{
	if (layer->read_error) {
		if (err)
			*err = layer->read_err;
		return layer->read_error;
	}
	return err_text(err, -EBADMSG, "layer is no valid tar archive: %s",
	                archive_error_string(archive));
}

/* Pulls stop before the node has no room left for the state of its tasks. */
static int check_space(struct layer *layer, uint64_t new_bytes, struct err *err)
{
	struct statfs fs;

	layer->unchecked_bytes += new_bytes;
	if (layer->unchecked_bytes < SPACE_CHECK_BYTES && layer->entries % SPACE_CHECK_ENTRIES != 1)
		return 0;
	layer->unchecked_bytes = 0;

	if (fstatfs(layer->root_fd, &fs) < 0)
		return err_set(err, -errno, "look at free space");
	if ((uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize < layer->limits->reserve_bytes)
		return err_text(err, -ENOSPC,
		                "no space left on device: the last %llu MiB are kept free",
		                (unsigned long long)(layer->limits->reserve_bytes >> 20));
	return 0;
}

static bool keeps_xattr(const char *name)
{
	if (strcmp(name, "security.capability") == 0)
		return true;
	return strncmp(name, "user.", 5) == 0 && strncmp(name, "user.overlay.", 13) != 0;
}

static int read_xattrs(struct archive_entry *entry, struct tree_xattr xattrs[static XATTRS_MAX],
                       size_t *ret_n, struct err *err)
{
	const char *name;
	const void *value;
	size_t size, n = 0;

	archive_entry_xattr_reset(entry);
	while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
		if (!name || !keeps_xattr(name))
			continue;
		if (n == XATTRS_MAX)
			return err_text(err, -EBADMSG, "more than %d extended attributes",
			                XATTRS_MAX);
		xattrs[n++] = (struct tree_xattr){name, value, size};
	}
	*ret_n = n;
	return 0;
}

static int read_meta(struct archive_entry *entry, struct tree_meta *ret, struct err *err)
{
	la_int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);
	struct timespec mtime = {archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)};

	/* The last one means "unchanged" to chown(2). */
	if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
		return err_text(err, -EBADMSG, "owner %lld:%lld is out of range", (long long)uid,
		                (long long)gid);
	if (mtime.tv_nsec < 0 || mtime.tv_nsec > 999999999)
		mtime.tv_nsec = 0;
	ret->uid = (uid_t)uid;
	ret->gid = (gid_t)gid;
	ret->mode = archive_entry_mode(entry) & 07777;
	ret->times[0] = ret->times[1] = mtime;
	if (archive_entry_atime_is_set(entry))
		ret->times[0].tv_sec = archive_entry_atime(entry);
	return 0;
}

static int write_all_at(int fd, const char *data, size_t n, la_int64_t offset)
{
	while (n > 0) {
		ssize_t k = pwrite(fd, data, n, offset);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		data += k;
		n -= (size_t)k;
		offset += k;
	}
	return 0;
}

/* Sparse files come as blocks with offsets; what is between them stays a hole. */
static int copy_data(struct layer *layer, struct archive *archive, int fd, uint64_t size,
                     struct err *err)
{
	for (;;) {
		const void *data;
		la_int64_t offset;
		size_t n;
		int r = archive_read_data_block(archive, &data, &n, &offset);

		if (r == ARCHIVE_EOF)
			break;
		if (r != ARCHIVE_OK)
			return archive_error(layer, archive, err);
		if (offset < 0 || (uint64_t)offset > size || n > size - (uint64_t)offset)
			return err_text(err, -EBADMSG, "data beyond the size of the file");
		r = write_all_at(fd, data, n, offset);
		if (r < 0)
			return err_set(err, r, "write");
		r = check_space(layer, n, err);
		if (r < 0)
			return r;
	}
	if (ftruncate(fd, (off_t)size) < 0)
		return err_set(err, -errno, "set size");
	return 0;
}

static int make_file(struct layer *layer, struct archive *archive, struct archive_entry *entry,
                     const char *path, const struct tree_meta *meta, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	la_int64_t size = archive_entry_size(entry);
	int r;

	if (size < 0 || (uint64_t)size > layer->limits->bytes_max - layer->file_bytes)
		return err_text(err, -EBADMSG,
		                "files of the layer are over the limit of %llu bytes",
		                (unsigned long long)layer->limits->bytes_max);
	layer->file_bytes += (uint64_t)size;

	r = tree_open_file(layer->tree, path, &fd, err);
	if (r < 0)
		return r;
	r = copy_data(layer, archive, fd, (uint64_t)size, err);
	if (r < 0)
		return r;
	return tree_finish_file(fd, meta, err);
}

static int make_link(struct layer *layer, const char *path, const char *target, struct err *err)
{
	char clean[PATH_MAX];
	int r;

	r = entry_path_clean(target, clean, sizeof(clean), err);
	if (r < 0)
		return err_prefix(err, r, "hard link target");
	if (!*clean)
		return err_text(err, -EBADMSG, "hard link to the root of the layer");
	return tree_make_link(layer->tree, path, clean, err);
}

/* path's last component is name, which begins with ".wh.". */
static int apply_whiteout(struct layer *layer, char *path, char *name, struct err *err)
{
	const char *hidden = name + strlen(WHITEOUT_PREFIX);

	if (strcmp(name, WHITEOUT_OPAQUE) == 0) {
		name[name > path ? -1 : 0] = '\0';
		return tree_make_opaque(layer->tree, path, err);
	}
	/* Marks of aufs, such as ".wh..wh.plnk", mean nothing outside of it. */
	if (strncmp(name, WHITEOUT_META_PREFIX, strlen(WHITEOUT_META_PREFIX)) == 0)
		return 0;
	if (!*hidden || strcmp(hidden, ".") == 0 || strcmp(hidden, "..") == 0)
		return err_text(err, -EBADMSG, "whiteout hides no name");
	memmove(name, hidden, strlen(hidden) + 1);
	return tree_make_whiteout(layer->tree, path, err);
}

static int make_by_type(struct layer *layer, struct archive *archive, struct archive_entry *entry,
                        const char *path, struct err *err)
{
	struct tree_xattr xattrs[XATTRS_MAX];
	struct tree_meta meta = {.xattrs = xattrs};
	const char *target = archive_entry_hardlink(entry);
	mode_t type = archive_entry_filetype(entry);
	int r;

	if (!*path && (target || type != AE_IFDIR))
		return err_text(err, -EBADMSG, "the root of the layer must be a directory");
	if (target)
		return make_link(layer, path, target, err);

	r = read_meta(entry, &meta, err);
	if (r < 0)
		return r;
	r = read_xattrs(entry, xattrs, &meta.n_xattrs, err);
	if (r < 0)
		return r;

	switch (type) {
	case AE_IFREG:
		return make_file(layer, archive, entry, path, &meta, err);
	case AE_IFDIR:
		return tree_make_directory(layer->tree, path, &meta, err);
	case AE_IFLNK:
		target = archive_entry_symlink(entry);
		if (!target || !*target)
			return err_text(err, -EBADMSG, "symbolic link without a target");
		return tree_make_symlink(layer->tree, path, target, &meta, err);
	case AE_IFCHR:
	case AE_IFBLK:
		return tree_make_node(layer->tree, path, type,
		                      makedev((unsigned int)archive_entry_rdevmajor(entry),
		                              (unsigned int)archive_entry_rdevminor(entry)),
		                      &meta, err);
	case AE_IFIFO:
		return tree_make_node(layer->tree, path, type, 0, &meta, err);
	default:
		return err_text(err, -EBADMSG, "file type 0%o is not supported", type);
	}
}

static int apply_entry(struct layer *layer, struct archive *archive, struct archive_entry *entry,
                       struct err *err)
{
	const char *raw = archive_entry_pathname(entry);
	char path[PATH_MAX], *name;
	int r;

	if (++layer->entries > layer->limits->entries_max)
		return err_text(err, -EBADMSG, "layer has more than %llu entries",
		                (unsigned long long)layer->limits->entries_max);
	if (!raw)
		return err_text(err, -EBADMSG, "entry %llu has no usable name",
		                (unsigned long long)layer->entries);
	r = entry_path_clean(raw, path, sizeof(path), err);
	if (r < 0)
		return err_prefix(err, r, "entry");
	r = check_space(layer, 0, err);
	if (r < 0)
		return r;

	name = strrchr(path, '/');
	name = name ? name + 1 : path;
	if (strncmp(name, WHITEOUT_PREFIX, strlen(WHITEOUT_PREFIX)) == 0)
		r = apply_whiteout(layer, path, name, err);
	else
		r = make_by_type(layer, archive, entry, path, err);
	return r < 0 ? err_prefix(err, r, "entry %.200s", raw) : 0;
}

static int read_entries(struct layer *layer, struct err *err)
{
	_cleanup_(archive_read_freep) struct archive *archive = archive_read_new();
	struct archive_entry *entry;
	int r;

	if (!archive)
		return err_oom(err);
	/* Filters stay out: what looks compressed here was not what the manifest announced. */
	if (archive_read_support_format_tar(archive) != ARCHIVE_OK ||
	    archive_read_support_format_empty(archive) != ARCHIVE_OK)
		return archive_error(layer, archive, err);
	if (archive_read_open(archive, layer, NULL, on_read, NULL) != ARCHIVE_OK)
		return archive_error(layer, archive, err);

	for (;;) {
		r = archive_read_next_header(archive, &entry);
		if (r == ARCHIVE_EOF)
			return 0;
		/* A warning is about names that are no UTF-8, which are kept as they are. */
		if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
			return archive_error(layer, archive, err);
		r = apply_entry(layer, archive, entry, err);
		if (r < 0)
			return r;
	}
}

/* The digest covers what tar(1) padded the archive with, too. */
static int drain(struct layer *layer, struct err *err)
{
	ssize_t n;

	do
		n = read_stream(layer, err);
	while (n > 0);
	return (int)n;
}

static void layer_done(struct layer *layer)
{
	layer->tree = tree_free(layer->tree);
	layer->digester = digester_free(layer->digester);
	free(layer->buf);
}

int layer_unpack(int tar_fd, int root_fd, const struct layer_limits *limits,
                 struct digest *ret_diff_id, struct err *err)
{
	_cleanup_(layer_done) struct layer layer = {
		.tar_fd = tar_fd,
		.root_fd = root_fd,
		.limits = limits,
		.buf = malloc(READ_BYTES),
	};
	int r;

	if (!layer.buf || digester_new(&layer.digester) < 0 || tree_new(root_fd, &layer.tree) < 0)
		return err_oom(err);

	r = read_entries(&layer, err);
	if (r < 0)
		return r;
	r = drain(&layer, err);
	if (r < 0)
		return r;
	r = tree_finish(layer.tree, err);
	if (r < 0)
		return r;
	if (digester_finish(layer.digester, ret_diff_id) < 0)
		return err_text(err, -EIO, "hash layer");
	return 0;
}
