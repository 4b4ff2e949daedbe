/* agent/logs/watch: directories are watched, each by itself, and stop being so. */
#include "tests/unit/spool_fixture.h"

#include <errno.h>
#include <sys/stat.h>

#include "agent/logs/watch.h"
#include "lib/loop.h"

struct seen {
	uint32_t mask;
	char name[64];
	unsigned int n;
	struct watch **freed_inside;
};

static void on_event(uint32_t mask, const char *name, void *userdata)
{
	struct seen *seen = userdata;

	seen->mask |= mask;
	snprintf(seen->name, sizeof(seen->name), "%s", name);
	seen->n++;
	if (seen->freed_inside)
		*seen->freed_inside = watch_free(*seen->freed_inside);
}

/* Runs the loop until nothing is left to do. */
static void run(sd_event *loop)
{
	while (sd_event_run(loop, 0) > 0)
		;
}

static void test_each_watch_is_told_of_its_own_directory(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	_cleanup_(watcher_freep) struct watcher *watcher = NULL;
	struct watch *top = NULL, *sub = NULL;
	struct seen at_top = {0}, at_sub = {0};
	char path[128];

	assert_true(sd_event_new(&loop) >= 0);
	assert_int_equal(watcher_new(loop, &watcher, NULL), 0);
	assert_int_equal(watch_new(watcher, f->path, IN_CREATE, on_event, &at_top, &top, NULL), 0);
	assert_int_equal(mkdirat(f->dir_fd, "sub", 0700), 0);
	run(loop);
	assert_int_equal(at_top.n, 1);
	assert_string_equal(at_top.name, "sub");

	snprintf(path, sizeof(path), "%s/sub", f->path);
	assert_int_equal(
		watch_new(watcher, path, IN_CREATE | IN_DELETE_SELF, on_event, &at_sub, &sub, NULL),
		0);
	spool_put_bytes(f, "sub/x", "1", 1);
	run(loop);
	assert_int_equal(at_top.n, 1);
	assert_int_equal(at_sub.n, 1);
	assert_string_equal(at_sub.name, "x");

	/* A write is not in the mask, then it is. */
	spool_put_bytes(f, "sub/x", "2", 1);
	run(loop);
	assert_int_equal(at_sub.n, 1);
	assert_int_equal(watch_set_mask(sub, IN_MODIFY | IN_DELETE_SELF, NULL), 0);
	spool_put_bytes(f, "sub/x", "3", 1);
	run(loop);
	assert_int_equal(at_sub.n, 2);
	assert_true(at_sub.mask & IN_MODIFY);

	assert_int_equal(dir_remove_all(f->dir_fd, "sub"), 0);
	run(loop);
	assert_true(at_sub.mask & (IN_DELETE_SELF | IN_IGNORED));
	watch_free(sub);
	watch_free(top);
}

static void test_a_watch_may_be_freed_while_it_is_told(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	_cleanup_(watcher_freep) struct watcher *watcher = NULL;
	struct watch *watch = NULL;
	struct seen seen = {.freed_inside = &watch};

	assert_true(sd_event_new(&loop) >= 0);
	assert_int_equal(watcher_new(loop, &watcher, NULL), 0);
	assert_int_equal(watch_new(watcher, f->path, IN_CREATE, on_event, &seen, &watch, NULL), 0);
	spool_put_bytes(f, "a", "", 0);
	spool_put_bytes(f, "b", "", 0);
	run(loop);
	assert_int_equal(seen.n, 1);
	assert_null(watch);
}

static void test_what_is_no_directory_is_refused(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	_cleanup_(watcher_freep) struct watcher *watcher = NULL;
	struct watch *watch = NULL;
	struct err err = {0};
	char path[128];

	assert_true(sd_event_new(&loop) >= 0);
	assert_int_equal(watcher_new(loop, &watcher, NULL), 0);
	assert_int_equal(
		watch_new(watcher, "/nonexistent", IN_CREATE, on_event, NULL, &watch, &err),
		-ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent"));
	spool_put_bytes(f, "file", "", 0);
	snprintf(path, sizeof(path), "%s/file", f->path);
	assert_int_equal(watch_new(watcher, path, IN_CREATE, on_event, NULL, &watch, &err),
	                 -ENOTDIR);
	assert_null(watch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		spool_test(test_each_watch_is_told_of_its_own_directory),
		spool_test(test_a_watch_may_be_freed_while_it_is_told),
		spool_test(test_what_is_no_directory_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
