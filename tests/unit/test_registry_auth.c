/* agent/config/registry_auth: private registries' users and passwords. */
#include "tests/unit/cmocka_prelude.h"

#include "agent/config/registry_auth.h"

#include <errno.h>
#include <string.h>

static const char teams[] =
	"{\"https://r.example/team/\":{\"username\":\"team\",\"password\":\"p\"},"
	"\"r.example\":{\"username\":\"all\",\"password\":\"p\"},"
	"\"r.example/team/app\":{\"username\":\"app\",\"password\":\"p\"},"
	"\"registry-1.docker.io/team\":{\"username\":\"hub-team\",\"password\":\"p\"},"
	"\"https://index.docker.io/v1/\":{\"username\":\"hub\",\"password\":\"p\"}}";

static void test_both_forms_are_found_by_registry(void **state)
{
	static const struct {
		const char *type, *data, *registry, *repository, *username, *password;
	} cases[] = {
		{"docker", "{\"r.example:5000\":{\"username\":\"u\",\"password\":\"p:w\"}}",
	         "r.example:5000", "app", "u", "p:w"},
		{"docker",
	         "{\"https://index.docker.io/v1/\":{\"username\":\"u\",\"password\":\"p\"}}",
	         "docker.io", "library/busybox", "u", "p"},
		{"dockercfg", "{\"https://r.example/v2\":{\"auth\":\"dTpwOnc=\",\"email\":\"\"}}",
	         "r.example", "app", "u", "p:w"},
		{"docker", teams, "r.example", "team/app:1", "app", "p"},
		{"docker", teams, "r.example", "team/other", "team", "p"},
		{"docker", teams, "r.example", "app", "all", "p"},
		{"docker", teams, "docker.io", "team/app", "hub-team", "p"},
		{"docker", teams, "docker.io", "busybox", "hub", "p"},
		/* the only one of its host is for all of it */
		{"docker", "{\"r/team\":{\"username\":\"u\",\"password\":\"p\"}}", "r", "app", "u",
	         "p"},
		{"docker", "{}", "docker.io", "busybox", NULL, NULL},
		{"docker", "{\"r\":{\"username\":\"u\",\"password\":\"p\"}}", "s", "app", NULL,
	         NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(registry_auth_freep) struct registry_auth *auth = NULL;
		const struct secret *password = NULL;
		const char *username = NULL;
		bool found;

		assert_int_equal(registry_auth_parse(cases[i].type, cases[i].data, &auth, NULL), 0);
		found = registry_auth_lookup(auth, cases[i].registry, cases[i].repository,
		                             &username, &password);
		if (found != !!cases[i].username)
			fail_msg("row %zu", i);
		if (found) {
			assert_string_equal(username, cases[i].username);
			assert_string_equal(secret_bytes(password), cases[i].password);
		}
	}
	assert_false(registry_auth_lookup(NULL, "r", "", &(const char *){NULL},
	                                  &(const struct secret *){NULL}));
}

static void test_bad_data_is_refused_without_quoting_it(void **state)
{
	static const char *const cases[][2] = {
		{"Docker", "{}"},
		{"docker", "CANARY"},
		{"docker", "{\"r\":{\"username\":\"u\"}}"},
		{"docker", "{\"r\":\"CANARY\"}"},
		{"dockercfg", "{\"r\":{\"auth\":\"CANARY\"}}"},
		{"dockercfg", "{\"r\":{\"auth\":\"dXA=\"}}"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(registry_auth_freep) struct registry_auth *auth = NULL;
		struct err err = {0};

		if (registry_auth_parse(cases[i][0], cases[i][1], &auth, &err) != -EINVAL)
			fail_msg("row %zu was taken", i);
		assert_non_null(strstr(err.text, "ECS_ENGINE_AUTH"));
		assert_null(strstr(err.text, "CANARY"));
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_forms_are_found_by_registry),
		cmocka_unit_test(test_bad_data_is_refused_without_quoting_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
