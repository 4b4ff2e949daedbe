/* agent/image/layer: what a hostile or odd tar leaves on disk. Needs no more than a directory. */
#include "tests/unit/cmocka_prelude.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "agent/image/layer.h"
#include "lib/cleanup.h"
#include "lib/fd.h"

struct fixture {
	char path[64];
	int outer_fd; /* holds the canary and "layer" */
	int root_fd;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->path, "/tmp/test_image_layer.XXXXXX");
	assert_non_null(mkdtemp(f->path));
	f->outer_fd = open(f->path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	assert_int_equal(mkdirat(f->outer_fd, "layer", 0755), 0);
	f->root_fd = openat(f->outer_fd, "layer", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	close(openat(f->outer_fd, "canary", O_CREAT | O_WRONLY, 0600));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close(f->root_fd);
	close(f->outer_fd);
	assert_int_equal(dir_remove_all(AT_FDCWD, f->path), 0);
	free(f);
	return 0;
}

struct entry {
	const char *path;
	mode_t mode;
	const char
		*text; /* content of a file, target of a symbolic link; of a hard link if mode 0 */
	const char *xattr;
};

static struct archive *archive_new(int fd)
{
	struct archive *a = archive_write_new();

	archive_write_set_format_pax(a);
	archive_write_set_bytes_per_block(a, 0);
	archive_write_open_fd(a, fd);
	return a;
}

static void add(struct archive *a, const struct entry *e)
{
	struct archive_entry *entry = archive_entry_new();
	bool is_file = S_ISREG(e->mode);

	archive_entry_set_pathname(entry, e->path);
	archive_entry_set_mode(entry, e->mode ? e->mode : S_IFREG | 0644);
	archive_entry_set_uid(entry, getuid());
	archive_entry_set_gid(entry, getgid());
	archive_entry_set_mtime(entry, 1000000000, 0);
	if (!e->mode)
		archive_entry_set_hardlink(entry, e->text);
	if (S_ISLNK(e->mode))
		archive_entry_set_symlink(entry, e->text);
	if (is_file)
		archive_entry_set_size(entry, (la_int64_t)strlen(e->text));
	if (e->xattr)
		archive_entry_xattr_add_entry(entry, e->xattr, "y", 1);
	assert_int_equal(archive_write_header(a, entry), ARCHIVE_OK);
	if (is_file)
		archive_write_data(a, e->text, strlen(e->text));
	archive_entry_free(entry);
}

static int unpack_with(struct fixture *f, const struct entry *entries, size_t n,
                       const struct layer_limits *limits, struct digest *ret, struct err *err)
{
	_cleanup_close_ int fd = memfd_create("tar", MFD_CLOEXEC);
	struct archive *a = archive_new(fd);

	for (size_t i = 0; i < n; i++)
		add(a, &entries[i]);
	archive_write_free(a);
	lseek(fd, 0, SEEK_SET);
	return layer_unpack(fd, f->root_fd, limits, ret, err);
}

static const struct layer_limits plenty = {.bytes_max = 1 << 30, .entries_max = 1000};

static int unpack(struct fixture *f, const struct entry *entries, size_t n, struct err *err)
{
	struct digest digest;

	return unpack_with(f, entries, n, &plenty, &digest, err);
}

static void assert_text(struct fixture *f, const char *path, const char *text)
{
	_cleanup_free_ char *got = NULL;
	size_t n;

	if (file_read(f->root_fd, path, 4096, &got, &n) < 0)
		fail_msg("%s is not there", path);
	assert_string_equal(got, text);
}

static void test_files_come_with_content_mode_and_time(void **state)
{
	struct fixture *f = *state;
	static const struct entry entries[] = {
		{"./", S_IFDIR | 0711, NULL, NULL},
		{"bin/", S_IFDIR | 0755, NULL, NULL},
		{"bin/su", S_IFREG | 04755, "binary", NULL},
		{"bin/link", S_IFLNK | 0777, "/etc/../../su", NULL},
		{"bin/hard", 0, "./bin/su", NULL},
		{"no/parent/here", S_IFREG | 0600, "x", NULL},
		{"tmp", S_IFDIR | 01777, NULL, NULL},
		{"pipe", S_IFIFO | 0640, NULL, NULL},
	};
	struct stat st, hard;
	struct err err = {};
	char target[64] = "";

	if (unpack(f, entries, ARRAY_SIZE(entries), &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(fstat(f->root_fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0711);
	assert_int_equal(fstatat(f->root_fd, "bin/su", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(st.st_mode & 07777, 04755);
	assert_int_equal(st.st_mtime, 1000000000);
	assert_text(f, "bin/su", "binary");
	assert_int_equal(fstatat(f->root_fd, "bin/hard", &hard, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(st.st_ino, hard.st_ino);
	assert_int_equal(readlinkat(f->root_fd, "bin/link", target, sizeof(target)), 13);
	assert_string_equal(target, "/etc/../../su");
	assert_int_equal(fstatat(f->root_fd, "no/parent", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
	assert_int_equal(fstatat(f->root_fd, "bin", &st, 0), 0);
	assert_int_equal(st.st_mtime, 1000000000);
	assert_int_equal(fstatat(f->root_fd, "tmp", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 01777);
	assert_int_equal(fstatat(f->root_fd, "pipe", &st, 0), 0);
	assert_true(S_ISFIFO(st.st_mode) && (st.st_mode & 07777) == 0640);
}

static void test_a_later_entry_takes_the_place_of_an_earlier_one(void **state)
{
	struct fixture *f = *state;
	static const struct entry entries[] = {
		{"a", S_IFLNK | 0777, "/somewhere", NULL},
		{"a", S_IFREG | 0644, "file over link", NULL},
		{"d/x/y", S_IFREG | 0644, "deep", NULL},
		{"d", S_IFREG | 0644, "file over directory", NULL},
		{"l", S_IFLNK | 0777, ".", NULL},
		{"l", S_IFDIR | 0755, NULL, NULL},
		{"l/in", S_IFREG | 0644, "directory over link", NULL},
		{"k", S_IFDIR | 0755, NULL, NULL},
		{"k/stays", S_IFREG | 0644, "yes", NULL},
		{"k", S_IFDIR | 0700, NULL, NULL},
		{"one", S_IFREG | 0644, "first", NULL},
		{"two", 0, "one", NULL},
		{"one", S_IFREG | 0644, "second", NULL},
		{"two", 0, "two", NULL},
	};
	struct stat st;
	struct err err = {};

	if (unpack(f, entries, ARRAY_SIZE(entries), &err) < 0)
		fail_msg("%s", err.text);
	assert_text(f, "a", "file over link");
	assert_text(f, "d", "file over directory");
	assert_int_equal(fstatat(f->root_fd, "l", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_text(f, "l/in", "directory over link");
	assert_text(f, "k/stays", "yes");
	assert_int_equal(fstatat(f->root_fd, "k", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_text(f, "one", "second");
	assert_text(f, "two", "first");
}

static void test_nothing_leaves_the_layer(void **state)
{
	struct fixture *f = *state;
	static const struct {
		struct entry entries[3];
		size_t n;
		int r; /* 1: any error */
	} cases[] = {
		{{{"../canary", S_IFREG | 0644, "x", NULL}}, 1, -EBADMSG},
		{{{"a/../../canary", S_IFREG | 0644, "x", NULL}}, 1, -EBADMSG},
		{{{"h", 0, "../canary", NULL}}, 1, -EBADMSG},
		{{{"h", 0, "/canary", NULL}}, 1, -ENOENT},
		{{{"up", S_IFLNK | 0777, "..", NULL}, {"up/canary", S_IFREG | 0644, "x", NULL}},
	         2,
	         0},
		{{{"up", S_IFLNK | 0777, "../..", NULL}, {"h", 0, "up/canary", NULL}}, 2, 0},
		{{{"abs", S_IFLNK | 0777, "/tmp", NULL}, {"abs/canary", S_IFREG | 0644, "x", NULL}},
	         2,
	         1},
		{{{"s", S_IFLNK | 0777, "../canary", NULL}, {"s", S_IFREG | 0644, "x", NULL}},
	         2,
	         0},
		{{{"t", S_IFLNK | 0777, "../canary", NULL}, {"u", 0, "t", NULL}}, 2, 0},
		{{{"m", S_IFLNK | 0777, "/proc/self/cwd", NULL},
	          {"m/x", S_IFREG | 0644, "x", NULL}},
	         2,
	         1},
		{{{"..", S_IFDIR | 0700, NULL, NULL}}, 1, -EBADMSG},
		{{{".", S_IFREG | 0700, "x", NULL}}, 1, -EBADMSG},
		{{{".wh...", S_IFREG | 0700, "", NULL}}, 1, -EBADMSG},
		{{{"a/.wh..", S_IFREG | 0700, "", NULL}}, 1, -EBADMSG},
		{{{".wh.", S_IFREG | 0700, "", NULL}}, 1, -EBADMSG},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = {};
		struct stat st;
		int r = unpack(f, cases[i].entries, cases[i].n, &err);

		if (cases[i].r == 1 ? r >= 0 : r != cases[i].r)
			fail_msg("case %zu: %d (%s)", i, r, err.text);
		assert_int_equal(fstatat(f->outer_fd, "canary", &st, 0), 0);
		assert_int_equal(st.st_size, 0);
		assert_int_equal(st.st_nlink, 1);
		assert_int_equal(fstat(f->outer_fd, &st), 0);
		assert_int_equal(st.st_mode & 07777, 0700);
	}
}

static void needs_trusted_xattrs(struct fixture *f)
{
	if (fsetxattr(f->root_fd, "trusted.probe", "y", 1, 0) < 0)
		skip();
	fremovexattr(f->root_fd, "trusted.probe");
}

static void test_whiteouts_speak_overlayfs(void **state)
{
	struct fixture *f = *state;
	static const struct entry entries[] = {
		{"etc/.wh.gone", S_IFREG | 0644, "", NULL},
		{"var/.wh..wh..opq", S_IFREG | 0644, "", NULL},
		{"var/new", S_IFREG | 0644, "new", NULL},
		{".wh.replaced", S_IFREG | 0644, "", NULL},
		{"replaced/x", S_IFREG | 0644, "new", NULL},
		{"kept", S_IFREG | 0644, "kept", NULL},
		{".wh.kept", S_IFREG | 0644, "", NULL},
		{"dir/x", S_IFREG | 0644, "kept", NULL},
		{".wh.dir", S_IFREG | 0644, "", NULL},
		{".wh..wh.plnk", S_IFREG | 0644, "", NULL},
	};
	static const char *const opaque[] = {"var", "replaced", "dir"};
	struct err err = {};
	struct stat st;

	needs_trusted_xattrs(f);
	if (unpack(f, entries, ARRAY_SIZE(entries), &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(fstatat(f->root_fd, "etc/gone", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_true(S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0));
	for (size_t i = 0; i < ARRAY_SIZE(opaque); i++) {
		_cleanup_close_ int fd = openat(f->root_fd, opaque[i], O_DIRECTORY | O_RDONLY);
		char value[4] = "";

		assert_int_equal(fgetxattr(fd, "trusted.overlay.opaque", value, 4), 1);
		assert_int_equal(value[0], 'y');
	}
	assert_text(f, "kept", "kept");
	assert_text(f, "dir/x", "kept");
	assert_text(f, "var/new", "new");
	assert_true(faccessat(f->root_fd, ".wh..wh.plnk", F_OK, 0) < 0);
}

static void test_attributes_for_overlayfs_are_dropped(void **state)
{
	struct fixture *f = *state;
	static const struct entry entries[] = {
		{"d", S_IFDIR | 0755, NULL, "trusted.overlay.opaque"},
		{"e", S_IFDIR | 0755, NULL, "user.overlay.opaque"},
		{"f", S_IFREG | 0755, "x", "security.selinux"},
		{"g", S_IFREG | 0755, "x", "user.comment"},
	};
	struct err err = {};

	if (unpack(f, entries, ARRAY_SIZE(entries), &err) < 0)
		fail_msg("%s", err.text);
	for (size_t i = 0; i < 3; i++) {
		_cleanup_close_ int fd = openat(f->root_fd, entries[i].path, O_RDONLY);

		assert_int_equal(fgetxattr(fd, entries[i].xattr, NULL, 0), -1);
		assert_int_equal(errno, ENODATA);
	}
	_cleanup_close_ int fd = openat(f->root_fd, "g", O_RDONLY);

	if (fsetxattr(fd, "user.probe", "y", 1, 0) == 0)
		assert_int_equal(fgetxattr(fd, "user.comment", NULL, 0), 1);
}

static void test_limits_are_kept(void **state)
{
	struct fixture *f = *state;
	static const struct entry entries[] = {
		{"a", S_IFREG | 0644, "0123456789", NULL},
		{"b", S_IFREG | 0644, "0123456789", NULL},
	};
	static const struct layer_limits tight[] = {
		{.bytes_max = 15, .entries_max = 10},
		{.bytes_max = 1 << 20, .entries_max = 1},
		{.bytes_max = 1 << 20, .entries_max = 10, .reserve_bytes = UINT64_MAX},
	};
	static const int expected[] = {-EBADMSG, -EBADMSG, -ENOSPC};

	for (size_t i = 0; i < ARRAY_SIZE(tight); i++) {
		struct digest digest = {};
		struct err err = {};

		assert_int_equal(unpack_with(f, entries, 2, &tight[i], &digest, &err), expected[i]);
		assert_true(err.text[0]);
		assert_string_equal(digest.hex, "");
	}
}

static void test_the_digest_is_that_of_the_whole_stream(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = memfd_create("tar", MFD_CLOEXEC);
	char bytes[8192] = {0};
	struct digest expected, found;

	/* An archive of nothing, and bytes behind its end. */
	memcpy(bytes + 7000, "tail", 4);
	assert_int_equal(digest_of(bytes, sizeof(bytes), &expected), 0);
	assert_int_equal(fd_write_all(fd, bytes, sizeof(bytes)), 0);
	lseek(fd, 0, SEEK_SET);
	assert_int_equal(layer_unpack(fd, f->root_fd, &plenty, &found, NULL), 0);
	assert_string_equal(found.hex, expected.hex);
}

static void test_what_is_no_tar_is_refused(void **state)
{
	struct fixture *f = *state;
	static const char *const cases[] = {"no tar", "\x1f\x8b\x08", "!<arch>\n", "PK\x03\x04"};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_close_ int fd = memfd_create("tar", MFD_CLOEXEC);
		char bytes[2048];
		struct digest found;
		struct err err = {};

		memset(bytes, 'x', sizeof(bytes));
		memcpy(bytes, cases[i], strlen(cases[i]));
		assert_int_equal(fd_write_all(fd, bytes, sizeof(bytes)), 0);
		lseek(fd, 0, SEEK_SET);
		assert_int_equal(layer_unpack(fd, f->root_fd, &plenty, &found, &err), -EBADMSG);
		assert_true(err.text[0]);
	}
}

#define LAYER_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LAYER_TEST(test_files_come_with_content_mode_and_time),
		LAYER_TEST(test_a_later_entry_takes_the_place_of_an_earlier_one),
		LAYER_TEST(test_nothing_leaves_the_layer),
		LAYER_TEST(test_whiteouts_speak_overlayfs),
		LAYER_TEST(test_attributes_for_overlayfs_are_dropped),
		LAYER_TEST(test_limits_are_kept),
		LAYER_TEST(test_the_digest_is_that_of_the_whole_stream),
		LAYER_TEST(test_what_is_no_tar_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
