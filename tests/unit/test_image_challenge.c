/* agent/image/challenge: WWW-Authenticate as registries send it, and as they must not. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <string.h>

#include "agent/image/challenge.h"
#include "lib/cleanup.h"

static void test_challenges_of_registries_are_understood(void **state)
{
	static const struct {
		const char *header;
		enum challenge_scheme scheme;
		const char *realm, *service, *scope;
	} cases[] = {
		{"Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\","
	         "scope=\"repository:library/nginx:pull\"",
	         CHALLENGE_BEARER, "https://auth.docker.io/token", "registry.docker.io",
	         "repository:library/nginx:pull"},
		{"bearer REALM=\"https://a/b\"", CHALLENGE_BEARER, "https://a/b", "", ""},
		{"Bearer realm = https://a/b , service = s", CHALLENGE_BEARER, "https://a/b", "s",
	         ""},
		{"Basic realm=\"https://111122223333.dkr.ecr.us-west-2.amazonaws.com/\",service=\"ecr\"",
	         CHALLENGE_BASIC, "https://111122223333.dkr.ecr.us-west-2.amazonaws.com/", "ecr",
	         ""},
		{"Basic realm=x, Bearer realm=\"https://t\", error=\"invalid_token\"",
	         CHALLENGE_BEARER, "https://t", "", ""},
		{"Bearer realm=\"https://t\", Basic realm=x", CHALLENGE_BEARER, "https://t", "",
	         ""},
		{"Bearer realm=\"a\\\"b,c\"", CHALLENGE_BEARER, "a\"b,c", "", ""},
		{"Basic", CHALLENGE_BASIC, "", "", ""},
		{"Digest realm=\"x\", nonce=\"y\"", CHALLENGE_NONE, "", "", ""},
		{"", CHALLENGE_NONE, "", "", ""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct challenge challenge;
		struct err err = {};

		if (challenge_parse(cases[i].header, &challenge, &err) < 0)
			fail_msg("%s: %s", cases[i].header, err.text);
		assert_int_equal(challenge.scheme, cases[i].scheme);
		assert_string_equal(challenge.realm, cases[i].realm);
		assert_string_equal(challenge.service, cases[i].service);
		assert_string_equal(challenge.scope, cases[i].scope);
	}
}

static void test_malformed_challenges_are_refused(void **state)
{
	char long_realm[4096] = "Bearer realm=\"";
	const char *const cases[] = {
		"Bearer realm=\"cut off",
		"Bearer service=\"x\"",
		"Bearer realm=\"\"",
		"=x",
		"\"x\"",
		long_realm,
	};

	(void)state;
	memset(long_realm + strlen(long_realm), 'a', 3000);
	strcat(long_realm, "\"");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct challenge challenge;
		struct err err = {};

		if (challenge_parse(cases[i], &challenge, &err) != -EBADMSG)
			fail_msg("%.80s was taken", cases[i]);
		assert_true(err.text[0]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_challenges_of_registries_are_understood),
		cmocka_unit_test(test_malformed_challenges_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
