/* Requests and the answers that SDKs and applications know. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "iam-creds/route.h"
#include "lib/fd.h"
#include "lib/json.h"

#define NOW_REALTIME 1782900000000000 /* 2026-07-01T10:00:00Z */

static const struct route_config config = {.metadata = {40, 60}, .credentials = {1000, 1000}};

struct fixture {
	struct store *store;
	struct container *app, *other, *strangers;
};

static void put(struct store *store, const char *id, const char *task, enum role_type type,
                const char *expiration)
{
	const struct credentials_input input = {.id = id,
	                                        .task_id = task,
	                                        .task_arn = task ? "arn:task" : NULL,
	                                        .role_type = type,
	                                        .role_arn = "r",
	                                        .access_key_id = "k",
	                                        .secret_access_key = "s",
	                                        .session_token = "t",
	                                        .expiration = expiration};

	assert_int_equal(store_put_credentials(store, &input, NULL), 0);
}

static void put_for_mounts(struct store *store, const char *id, const char *task)
{
	const struct credentials_input input = {.id = id,
	                                        .task_id = task,
	                                        .task_arn = "arn:task",
	                                        .role_type = ROLE_TASK_APPLICATION,
	                                        .role_arn = "r",
	                                        .access_key_id = "k",
	                                        .secret_access_key = "s",
	                                        .session_token = "t",
	                                        .expiration = "2026-07-01T10:00:01Z",
	                                        .for_mounts = true};

	assert_int_equal(store_put_credentials(store, &input, NULL), 0);
}

#define DOCUMENTS                                                                                  \
	"{\"/v4/e1\":{\"DockerId\":\"d\"},\"/v4/e1/task\":{\"Family\":\"f\"},\"/v3/e1\":{},"       \
	"\"/v2/metadata\":{}}"

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct store *store_of_strangers;
	_cleanup_json_ struct json_object *documents = NULL;

	if (!f || store_new(&f->store) < 0 || store_new(&store_of_strangers) < 0)
		return -1;
	store_get_container(f->store, "t1", "app", &f->app, NULL);
	store_get_container(f->store, "t2", "app", &f->other, NULL);
	store_get_container(store_of_strangers, "none", "none", &f->strangers, NULL);
	container_ref(f->strangers);
	store_release(store_of_strangers, "none", true);
	store_free(store_of_strangers);
	put(f->store, "app", "t1", ROLE_TASK_APPLICATION, "2026-07-01T10:00:01Z");
	put(f->store, "exec", "t1", ROLE_TASK_EXECUTION, "2026-07-01T10:00:01Z");
	put(f->store, "expired", "t1", ROLE_TASK_APPLICATION, "2026-07-01T10:00:00Z");
	put(f->store, "theirs", "t2", ROLE_TASK_APPLICATION, "2026-07-01T10:00:01Z");
	put(f->store, "instance", NULL, ROLE_INSTANCE, "2026-07-01T10:00:01Z");
	json_parse_object(DOCUMENTS, strlen(DOCUMENTS), 4096, &documents, NULL);
	store_set_documents(f->store, "t1", documents, NULL);
	store_set_complete(f->store);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	container_unref(f->strangers);
	store_free(f->store);
	free(f);
	return 0;
}

static unsigned ask(struct fixture *f, struct container *container, const char *path,
                    const char *id, char *body, size_t n)
{
	struct route_request request = {.container = container,
	                                .path = path,
	                                .id_argument = id,
	                                .now_usec = 1,
	                                .now_realtime_usec = NOW_REALTIME};
	struct answer answer;

	assert_int_equal(route_answer(f->store, &config, f->strangers, &request, &answer), 0);
	assert_true(body_len(answer.body) < n);
	memcpy(body, body_bytes(answer.body), body_len(answer.body) + 1);
	answer_done(&answer);
	return answer.status;
}

#define FOUND                                                                                      \
	"{\"RoleArn\":\"r\",\"AccessKeyId\":\"k\",\"SecretAccessKey\":\"s\",\"Token\":\"t\",\"Expiration\":\"2026-07-01T10:00:01Z\"}"
#define ERROR_OF(version, code, message, status)                                                   \
	"{\"code\":\"" code "\",\"message\":\"CredentialsV" version "Request: " message            \
	"\",\"HTTPErrorCode\":" status "}"

static void test_answers_are_those_that_clients_know(void **state)
{
	struct fixture *f = *state;
	const struct {
		struct container *from;
		const char *path, *id;
		unsigned status;
		const char *body;
	} cases[] = {
		{f->app, "/v2/credentials/app", NULL, 200, FOUND},
		{f->app, "/v2/credentials/exec", NULL, 200, FOUND},
		{f->app, "/v1/credentials", "app", 200, FOUND},
		{f->other, "/v2/credentials/theirs", NULL, 200, FOUND},
		{f->app, "/v2/credentials/", NULL, 400,
	         ERROR_OF("2", "NoIdInRequest", "No Credential ID in the request", "400")},
		{f->app, "/v2/credentials", NULL, 400,
	         ERROR_OF("2", "NoIdInRequest", "No Credential ID in the request", "400")},
		{f->app, "/v1/credentials", NULL, 400,
	         ERROR_OF("1", "NoIdInRequest", "No Credential ID in the request", "400")},
		{f->app, "/v1/credentials", "", 400,
	         ERROR_OF("1", "NoIdInRequest", "No Credential ID in the request", "400")},
		{f->app, "/v2/credentials/unknown", NULL, 400,
	         ERROR_OF("2", "InvalidIdInRequest", "Credentials not found", "400")},
		{f->app, "/v2/credentials/app/", NULL, 400,
	         ERROR_OF("2", "InvalidIdInRequest", "Credentials not found", "400")},
		{f->app, "/v2/credentials/theirs", NULL, 400,
	         ERROR_OF("2", "InvalidIdInRequest", "Credentials not found", "400")},
		{f->other, "/v1/credentials", "app", 400,
	         ERROR_OF("1", "InvalidIdInRequest", "Credentials not found", "400")},
		{f->app, "/v2/credentials/instance", NULL, 400,
	         ERROR_OF("2", "InvalidIdInRequest", "Credentials not found", "400")},
		{NULL, "/v2/credentials/app", NULL, 400,
	         ERROR_OF("2", "InvalidIdInRequest", "Credentials not found", "400")},
		{NULL, "/v2/credentials/instance", NULL, 400,
	         ERROR_OF("2", "InvalidIdInRequest", "Credentials not found", "400")},
		{f->app, "/v2/credentials/expired", NULL, 503,
	         ERROR_OF("2", "CredentialsExpired", "Credentials expired", "503")},
		{f->app, "/v4/e1", NULL, 200, "{\"DockerId\":\"d\"}"},
		{f->app, "/v4/e1/task", NULL, 200, "{\"Family\":\"f\"}"},
		{f->app, "/v4/e1/task/", NULL, 404, "404 page not found\n"},
		{f->other, "/v4/e1", NULL, 404,
	         "\"V4 container metadata handler: unable to get container ID from request: unable to get docker ID from v3 endpoint ID: e1\""},
		{NULL, "/v4/e1/task", NULL, 404,
	         "\"V4 task metadata handler: unable to get task arn from request: unable to get task Arn from v3 endpoint ID: e1\""},
		{f->app, "/v4/e9/taskWithTags", NULL, 404,
	         "\"V4 task metadata handler: unable to get task arn from request: unable to get task Arn from v3 endpoint ID: e9\""},
		{f->app, "/v4/e9/stats", NULL, 404,
	         "\"V4 container stats handler: unable to get container ID from request: unable to get docker ID from v3 endpoint ID: e9\""},
		{f->app, "/v4/e9/task/stats", NULL, 404,
	         "\"V4 task stats handler: unable to get task arn from request: unable to get task Arn from v3 endpoint ID: e9\""},
		{f->app, "/v4/e1/stats", NULL, 500, "\"Unable to get container stats for: e1\""},
		{f->app, "/v4/e1/associations/gpu", NULL, 200, "{\"Associations\":null}"},
		{f->app, "/v4/e1/associations/gpu/0", NULL, 400,
	         "\"Unable to write container association response: unable to get association from association type gpu and association name 0\""},
		{f->app, "/v4/e9/associations/gpu", NULL, 400,
	         "\"V4 container associations handler: unable to get container ID from request: unable to get docker ID from v3 endpoint ID: e9\""},
		{f->app, "/v3/e9", NULL, 500,
	         "\"V3 container metadata handler: unable to get container ID from request: unable to get docker ID from v3 endpoint ID: e9\""},
		{f->app, "/v3/e9/stats", NULL, 400,
	         "\"V3 container stats handler: unable to get container ID from request: unable to get docker ID from v3 endpoint ID: e9\""},
		{f->other, "/v2/metadata", NULL, 400,
	         "\"Unable to get task arn from request: unable to associate '169.254.170.2' with task\""},
		{f->app, "/v2/metadata/x", NULL, 400,
	         "\"Unable to generate metadata for container 'x'\""},
		{f->app, "/v2/stats/x", NULL, 400, "\"Unable to get container stats for: x\""},
		{f->app, "/v2/stats", NULL, 400, "\"Unable to get container stats for: \""},
		{f->app, "/", NULL, 404, "404 page not found\n"},
		{f->app, "/v2/credentialsx", NULL, 404, "404 page not found\n"},
		{f->app, "/v4/", NULL, 404, "404 page not found\n"},
		{f->app, "/v4//task", NULL, 404, "404 page not found\n"},
		{f->app, "/v4/e\"1", NULL, 404,
	         "\"V4 container metadata handler: unable to get container ID from request: unable to get docker ID from v3 endpoint ID: e\\\"1\""},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char body[1024];

		print_message("case: %s %s\n", cases[i].path, cases[i].id ? cases[i].id : "");
		assert_int_equal(
			ask(f, cases[i].from, cases[i].path, cases[i].id, body, sizeof(body)),
			cases[i].status);
		assert_string_equal(body, cases[i].body);
	}
}

static void test_until_everything_was_sent_unknown_means_not_yet(void **state)
{
	static const struct {
		const char *path;
		unsigned status;
	} cases[] = {{"/v2/credentials/unknown", 503},
	             {"/v2/credentials/", 400},
	             {"/v4/e1", 503},
	             {"/v4/e1/task/stats", 503},
	             {"/v3/x", 503},
	             {"/v2/metadata", 503},
	             {"/nothing", 404}};
	struct fixture f = *(struct fixture *)*state;
	char body[1024];

	assert_int_equal(store_new(&f.store), 0);
	assert_int_equal(store_get_container(f.store, "t1", "app", &f.app, NULL), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		print_message("case: %s\n", cases[i].path);
		assert_int_equal(ask(&f, f.app, cases[i].path, NULL, body, sizeof(body)),
		                 cases[i].status);
	}
	ask(&f, f.app, "/v2/credentials/unknown", NULL, body, sizeof(body));
	assert_non_null(strstr(body, "CredentialsUninitialized"));
	/* What is there is served meanwhile. */
	put(f.store, "app", "t1", ROLE_TASK_APPLICATION, "2026-07-01T10:00:01Z");
	assert_int_equal(ask(&f, f.app, "/v2/credentials/app", NULL, body, sizeof(body)), 200);
	store_free(f.store);
}

static void test_a_released_task_has_nothing_any_more(void **state)
{
	struct fixture *f = *state;
	struct container *connection = container_ref(f->app);
	char body[1024];

	store_release(f->store, "t1", false);
	assert_int_equal(ask(f, connection, "/v2/credentials/app", NULL, body, sizeof(body)), 400);
	assert_int_equal(ask(f, connection, "/v2/credentials/exec", NULL, body, sizeof(body)), 400);
	assert_int_equal(ask(f, connection, "/v4/e1", NULL, body, sizeof(body)), 404);
	container_unref(connection);
}

static uint64_t make_directory(int fd, const char *name)
{
	struct stat st;

	assert_int_equal(mkdirat(fd, name, 0755), 0);
	assert_int_equal(fstatat(fd, name, &st, 0), 0);
	return st.st_ino;
}

static unsigned ask_as_root(const struct fixture *f, struct host_cgroups *host, const char *path,
                            uint64_t cgroup_id)
{
	const struct route_config with_host = {
		.metadata = {40, 60}, .credentials = {1000, 1000}, .host = host};
	const struct route_request request = {.root_cgroup_id = cgroup_id,
	                                      .path = path,
	                                      .now_usec = 1,
	                                      .now_realtime_usec = NOW_REALTIME};
	struct answer answer;

	assert_int_equal(route_answer(f->store, &with_host, f->strangers, &request, &answer), 0);
	answer_done(&answer);
	return answer.status;
}

static void test_root_of_the_host_gets_roles_for_mounts_alone(void **state)
{
	_cleanup_(host_cgroups_freep) struct host_cgroups *host = NULL;
	char dir[] = "/dev/shm/ecs-test-route-XXXXXX";
	struct fixture *f = *state;
	uint64_t service, task;
	int fd;

	assert_non_null(mkdtemp(dir));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	service = make_directory(fd, "service");
	task = make_directory(fd, "ecstasks-1");
	assert_int_equal(host_cgroups_new(fd, &host), 0);
	put_for_mounts(f->store, "mounts", "t1");

	assert_int_equal(ask_as_root(f, host, "/v2/credentials/mounts", service), 200);
	assert_int_equal(ask_as_root(f, host, "/v2/credentials/mounts", task), 400);
	assert_int_equal(ask_as_root(f, host, "/v2/credentials/mounts", 0), 400);
	assert_int_equal(ask_as_root(f, NULL, "/v2/credentials/mounts", service), 400);
	assert_int_equal(ask_as_root(f, host, "/v2/credentials/app", service), 400);
	assert_int_equal(ask_as_root(f, host, "/v2/credentials/exec", service), 400);
	assert_int_equal(ask_as_root(f, host, "/v2/credentials/instance", service), 400);
	assert_int_equal(ask_as_root(f, host, "/v4/e1", service), 404);
	store_release(f->store, "t1", false);
	assert_int_equal(ask_as_root(f, host, "/v2/credentials/mounts", service), 400);
	assert_int_equal(dir_remove_all(AT_FDCWD, dir), 0);
}

static void test_metadata_is_limited_by_path_and_credentials_are_not(void **state)
{
	struct fixture *f = *state;
	char body[1024];

	for (int i = 0; i < 60; i++)
		assert_int_equal(ask(f, f->app, "/v4/e1", NULL, body, sizeof(body)), 200);
	assert_int_equal(ask(f, f->app, "/v4/e1", NULL, body, sizeof(body)), 429);
	assert_string_equal(body, "You have reached maximum request limit.");
	assert_int_equal(ask(f, f->app, "/v4/e1/task", NULL, body, sizeof(body)), 200);
	for (int i = 0; i < 900; i++)
		assert_int_equal(ask(f, f->app, "/v2/credentials/app", NULL, body, sizeof(body)),
		                 200);
	/* Another task is not touched by any of it. */
	assert_int_equal(ask(f, f->other, "/v4/e1", NULL, body, sizeof(body)), 404);
	for (int i = 0; i < 200; i++)
		ask(f, f->app, "/v2/credentials/app", NULL, body, sizeof(body));
	assert_int_equal(ask(f, f->app, "/v2/credentials/app", NULL, body, sizeof(body)), 429);
	assert_int_equal(ask(f, f->other, "/v2/credentials/theirs", NULL, body, sizeof(body)), 200);
}

static void test_unclean_targets_have_a_clean_form(void **state)
{
	static const struct {
		const char *target, *clean; /* NULL: it is clean */
	} cases[] = {{"/", NULL},
	             {"/v2/credentials/x", NULL},
	             {"/v4/x/task/", NULL},
	             {"/v1/credentials?id=a//b", NULL},
	             {"//", "/"},
	             {"//v2/credentials/x", "/v2/credentials/x"},
	             {"/v2//credentials///x", "/v2/credentials/x"},
	             {"/v2/credentials//", "/v2/credentials/"},
	             {"/a/./b", "/a/b"},
	             {"/a/../b", "/b"},
	             {"/../../b", "/b"},
	             {"/a/..", "/"},
	             {"/v1//credentials?id=x&y=/", "/v1/credentials?id=x&y=/"}};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		_cleanup_free_ char *clean = route_clean_target(cases[i].target);

		print_message("case: %s\n", cases[i].target);
		if (cases[i].clean)
			assert_string_equal(clean, cases[i].clean);
		else
			assert_null(clean);
	}
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		CASE(test_answers_are_those_that_clients_know),
		CASE(test_until_everything_was_sent_unknown_means_not_yet),
		CASE(test_a_released_task_has_nothing_any_more),
		CASE(test_root_of_the_host_gets_roles_for_mounts_alone),
		CASE(test_metadata_is_limited_by_path_and_credentials_are_not),
		CASE(test_unclean_targets_have_a_clean_form),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
