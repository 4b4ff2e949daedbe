/* What is written for the next process is what it reads. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "iam-creds/snapshot.h"
#include "lib/cleanup.h"

static const struct credentials_input input = {
	.id = "id-1",
	.task_id = "t1",
	.task_arn = "arn:t1",
	.role_type = ROLE_TASK_EXECUTION,
	.role_arn = "arn:role",
	.access_key_id = "ASIA1",
	.secret_access_key = "se/cret",
	.session_token = "to\"ken\\\n",
	.expiration = "2036-07-01T10:00:00Z",
};

static char heard[4096];

static void hear(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void hear(const char *fmt, ...)
{
	size_t n = strlen(heard);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(heard + n, sizeof(heard) - n, fmt, ap);
	va_end(ap);
}

static void on_settings(const struct snapshot_settings *s, void *userdata)
{
	(void)userdata;
	hear("settings %d %d %s %s\n", (int)s->requests_per_second, (int)s->burst, s->cluster,
	     s->instance_arn);
}

static void on_credentials(const struct snapshot_credentials *c, void *userdata)
{
	struct store *store = userdata;
	const struct credentials_input in = {.id = c->id,
	                                     .task_id = c->task_id,
	                                     .task_arn = c->task_arn,
	                                     .role_type = c->role_type};

	hear("credentials %s %s %s\n", c->id, c->task_id, role_type_to_string(c->role_type));
	if (store)
		assert_int_equal(store_put_credentials_body(store, &in, c->body, c->body_len, NULL),
		                 0);
}

static void on_endpoint(uint64_t cookie, const char *task_id, const char *container, void *userdata)
{
	(void)userdata;
	hear("endpoint %llx %s/%s\n", (unsigned long long)cookie, task_id, container);
}

static void on_cgroup(uint64_t id, const char *task_id, const char *container, void *userdata)
{
	(void)userdata;
	hear("cgroup %llu %s/%s\n", (unsigned long long)id, task_id, container);
}

static const struct snapshot_handlers handlers = {.settings = on_settings,
                                                  .credentials = on_credentials,
                                                  .endpoint = on_endpoint,
                                                  .cgroup = on_cgroup};

static uint8_t bytes[65536];

static void fill(struct snapshot *snapshot, struct store *store)
{
	const struct snapshot_settings settings = {40, 60, "blue", "arn:ci"};
	struct container *container;

	assert_int_equal(store_put_credentials(store, &input, NULL), 0);
	assert_int_equal(store_get_container(store, "t1", "app", &container, NULL), 0);
	assert_int_equal(store_set_cgroup(store, container, 77, NULL), 0);
	snapshot_add_settings(snapshot, &settings);
	snapshot_add_credentials(snapshot, store_credentials_at(store, 0));
	snapshot_add_endpoint(snapshot, 0x123456789abcdef0, container, false);
	snapshot_add_endpoint(snapshot, 1, NULL, true);
	snapshot_add_endpoint(snapshot, 2, NULL, false);
	snapshot_add_cgroup(snapshot, container);
}

static const char everything[] = "settings 40 60 blue arn:ci\n"
				 "credentials id-1 t1 TaskExecution\n"
				 "endpoint 123456789abcdef0 t1/app\n"
				 "endpoint 1 /link\n"
				 "endpoint 2 /\n"
				 "cgroup 77 t1/app\n";

static void test_what_was_written_is_read(void **state)
{
	_cleanup_(store_freep) struct store *before = NULL, *after = NULL;
	struct snapshot snapshot = {.bytes = bytes, .size = sizeof(bytes)};
	const struct credentials *a, *b;

	(void)state;
	assert_int_equal(store_new(&before), 0);
	assert_int_equal(store_new(&after), 0);
	fill(&snapshot, before);
	heard[0] = '\0';
	assert_int_equal(snapshot_read(bytes, snapshot.len, &handlers, after, NULL), 0);
	assert_string_equal(heard, everything);
	a = store_find_credentials(before, "id-1");
	b = store_find_credentials(after, "id-1");
	assert_string_equal(body_bytes(a->body), body_bytes(b->body));
	assert_string_equal(a->task_arn, b->task_arn);
	assert_string_equal(a->task->id, b->task->id);
	assert_int_equal(a->role_type, b->role_type);
	assert_int_equal(a->expiration_realtime_usec, b->expiration_realtime_usec);
}

static void note_for_mounts(const struct snapshot_credentials *c, void *userdata)
{
	(void)userdata;
	hear("%s %d\n", c->id, c->for_mounts);
}

static void test_credentials_of_an_older_process_are_for_no_mounts(void **state)
{
	static const struct snapshot_handlers noting = {.credentials = note_for_mounts};
	_cleanup_(store_freep) struct store *store = NULL;
	struct snapshot snapshot = {.bytes = bytes, .size = sizeof(bytes)};
	struct credentials_input in = input;
	uint32_t length;

	(void)state;
	assert_int_equal(store_new(&store), 0);
	in.role_type = ROLE_TASK_APPLICATION;
	assert_int_equal(store_put_credentials(store, &in, NULL), 0);
	in.id = "id-2";
	in.for_mounts = true;
	assert_int_equal(store_put_credentials(store, &in, NULL), 0);
	snapshot_add_credentials(&snapshot, store_find_credentials(store, "id-1"));
	snapshot_add_credentials(&snapshot, store_find_credentials(store, "id-2"));
	heard[0] = '\0';
	assert_int_equal(snapshot_read(bytes, snapshot.len, &noting, NULL, NULL), 0);
	assert_string_equal(heard, "id-1 0\nid-2 1\n");

	/* Its records end before the flags. */
	snapshot.len = 0;
	snapshot_add_credentials(&snapshot, store_find_credentials(store, "id-2"));
	memcpy(&length, bytes + 4, sizeof(length));
	length -= 8;
	memcpy(bytes + 4, &length, sizeof(length));
	heard[0] = '\0';
	assert_int_equal(snapshot_read(bytes, snapshot.len - 8, &noting, NULL, NULL), 0);
	assert_string_equal(heard, "id-2 0\n");
}

static void test_what_does_not_fit_is_left_out_whole(void **state)
{
	_cleanup_(store_freep) struct store *store = NULL;
	struct snapshot whole = {.bytes = bytes, .size = sizeof(bytes)};
	static uint8_t small[65536];

	(void)state;
	assert_int_equal(store_new(&store), 0);
	fill(&whole, store);
	for (size_t size = 0; size < whole.len; size++) {
		_cleanup_(store_freep) struct store *another = NULL;
		struct snapshot snapshot = {.bytes = small, .size = size};

		assert_int_equal(store_new(&another), 0);
		memset(small, 0xee, sizeof(small));
		fill(&snapshot, another);
		assert_true(snapshot.n_left_out > 0);
		assert_true(snapshot.len <= size);
		assert_int_equal(small[size], 0xee);
		assert_int_equal(snapshot_read(small, snapshot.len, &handlers, NULL, NULL), 0);
		/* Nothing of a record that was cut off. */
		if (!memmem(small, snapshot.len, "se/cret", 7))
			assert_null(memmem(small, size, "se/cret", 7));
	}
}

static void test_what_is_cut_off_is_an_error_unless_between_records(void **state)
{
	_cleanup_(store_freep) struct store *store = NULL;
	struct snapshot snapshot = {.bytes = bytes, .size = sizeof(bytes)};
	int good = 0;

	(void)state;
	assert_int_equal(store_new(&store), 0);
	fill(&snapshot, store);
	for (size_t len = 0; len <= snapshot.len; len++) {
		/* Of exactly this size, so that a sanitizer sees one byte too many. */
		_cleanup_free_ uint8_t *copy = malloc(len ? len : 1);
		struct err err = {0};
		int r;

		memcpy(copy, bytes, len);
		r = snapshot_read(copy, len, &handlers, NULL, &err);
		if (r == 0)
			good++;
		else
			assert_non_null(strstr(err.text, "byte"));
	}
	assert_int_equal(good, 7); /* six records */
}

static void test_newer_records_and_members_are_passed_over(void **state)
{
	/* A record of type 99; one of type 4 with 3 bytes behind what is known of it. */
	static const uint8_t newer[] = {99, 0, 0,   0, 2, 0, 0, 0, 'x', 'y', 4, 0, 0, 0,
	                                23, 0, 0,   0, 7, 0, 0, 0, 0,   0,   0, 0, 1, 0,
	                                0,  0, 't', 0, 1, 0, 0, 0, 'c', 0,   1, 2, 3};

	(void)state;
	heard[0] = '\0';
	assert_int_equal(snapshot_read(newer, sizeof(newer), &handlers, NULL, NULL), 0);
	assert_string_equal(heard, "cgroup 7 t/c\n");
}

static void test_malformed_records_are_refused(void **state)
{
	static const struct {
		const char *what;
		uint8_t bytes[32];
		size_t len;
	} cases[] = {
		{"length beyond the end", {4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, 8},
		{"string beyond the record",
	         {4, 0, 0, 0, 13, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0},
	         21},
		{"string without its end",
	         {4, 0, 0, 0, 18, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 't', 1, 0, 0, 0, 0},
	         26},
		{"NUL within a string",
	         {4, 0, 0, 0, 19, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	         27},
		{"role type", {2, 0, 0, 0, 24, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0}, 32},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if (snapshot_read(cases[i].bytes, cases[i].len, &handlers, NULL, NULL) != -EBADMSG)
			fail_msg("%s", cases[i].what);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_was_written_is_read),
		cmocka_unit_test(test_credentials_of_an_older_process_are_for_no_mounts),
		cmocka_unit_test(test_what_does_not_fit_is_left_out_whole),
		cmocka_unit_test(test_what_is_cut_off_is_an_error_unless_between_records),
		cmocka_unit_test(test_newer_records_and_members_are_passed_over),
		cmocka_unit_test(test_malformed_records_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
