/* agent/image/reference: what people write, and what must not pass. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <string.h>

#include "agent/image/reference.h"
#include "lib/cleanup.h"

#define HEX "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static void test_references_get_their_normal_form(void **state)
{
	static const struct {
		const char *text, *normal;
	} cases[] = {
		{"nginx", "docker.io/library/nginx:latest"},
		{"nginx:1.27", "docker.io/library/nginx:1.27"},
		{"docker.io/nginx", "docker.io/library/nginx:latest"},
		{"index.docker.io/nginx", "docker.io/library/nginx:latest"},
		{"team/app", "docker.io/team/app:latest"},
		{"a/b/c/d:t", "docker.io/a/b/c/d:t"},
		{"localhost/app", "localhost/app:latest"},
		{"localhost:5000/app:v1", "localhost:5000/app:v1"},
		{"127.0.0.1:5000/x", "127.0.0.1:5000/x:latest"},
		{"[::1]:5000/x", "[::1]:5000/x:latest"},
		{"[::1]/x:y", "[::1]/x:y"},
		{"REGISTRY/app", "REGISTRY/app:latest"},
		{"r.example.com/a_b/c__d/e-f/g--h/i.j",
	         "r.example.com/a_b/c__d/e-f/g--h/i.j:latest"},
		{"nginx@sha256:" HEX, "docker.io/library/nginx@sha256:" HEX},
		{"nginx:1@sha256:" HEX, "docker.io/library/nginx:1@sha256:" HEX},
		{"111122223333.dkr.ecr.us-west-2.amazonaws.com/app:A_b.c-d",
	         "111122223333.dkr.ecr.us-west-2.amazonaws.com/app:A_b.c-d"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char normal[REFERENCE_TEXT_N];
		struct reference ref, again;
		struct err err = {};

		if (reference_parse(cases[i].text, &ref, &err) < 0)
			fail_msg("%s: %s", cases[i].text, err.text);
		reference_to_string(&ref, normal);
		assert_string_equal(normal, cases[i].normal);
		assert_int_equal(reference_parse(normal, &again, NULL), 0);
		assert_memory_equal(&ref, &again, sizeof(ref));
	}
}

static void test_what_is_no_reference_is_refused_with_words(void **state)
{
	static const char *const cases[] = {
		"",
		"/",
		":tag",
		"@sha256:" HEX,
		"nginx:",
		"nginx:-x",
		"nginx:a/b",
		"Nginx",
		"a//b",
		"a/",
		"/a",
		"a/../b",
		"..",
		".",
		"a/.b",
		"a/-b",
		"a/b-",
		"a___b",
		"a b",
		"a\nb",
		"a\x7f",
		"nginx@",
		"nginx@sha256:",
		"nginx@sha256:abc",
		"nginx@sha512:" HEX HEX,
		"nginx@sha256:" HEX "0",
		"host:/a",
		"host:0/a",
		"host:65536/a",
		"host:5x/a",
		"[::1/a",
		"[zz]/a",
		"[::1]x/a",
		"ho..st/a",
		".host/a",
		"-host.x/a",
		"host.x-/a",
		"https://r.example.com/a",
		"user@host.x/a",
		"nginx:\xc3\xa4",
		"r.x/%2e%2e/a",
	};
	char long_tag[300] = "nginx:", long_name[400] = "r.example.com/", long_normal[300] = "a/";

	(void)state;
	memset(long_tag + 6, 'a', 129);
	memset(long_name + 14, 'a', 300);
	memset(long_normal + 2, 'a', 250); /* too long with "docker.io/" before it */
	const char *const long_cases[] = {long_tag, long_name, long_normal};

	for (size_t i = 0; i < ARRAY_SIZE(cases) + ARRAY_SIZE(long_cases); i++) {
		const char *text =
			i < ARRAY_SIZE(cases) ? cases[i] : long_cases[i - ARRAY_SIZE(cases)];
		struct reference ref;
		struct err err = {};

		if (reference_parse(text, &ref, &err) != -EINVAL)
			fail_msg("\"%s\" was taken", text);
		assert_true(err.text[0]);
	}
}

static void test_addresses_are_known_in_all_spellings(void **state)
{
	static const struct {
		const char *host;
		bool loopback, link_local;
	} cases[] = {
		{"localhost", true, false},
		{"LocalHost", true, false},
		{"127.0.0.1", true, false},
		{"127.8.9.10", true, false},
		{"127.1", true, false},
		{"0x7f000001", true, false},
		{"::1", true, false},
		{"::ffff:127.0.0.1", true, false},
		{"localhost.evil", false, false},
		{"127.0.0.1.evil", false, false},
		{"10.0.0.1", false, false},
		{"169.254.169.254", false, true},
		{"169.254.170.2", false, true},
		{"0xa9fea9fe", false, true},
		{"2852039166", false, true},
		{"::ffff:169.254.169.254", false, true},
		{"fe80::1", false, true},
		{"fe80::1%eth0", false, true},
		{"fd00:ec2::254", false, true},
		{"fd01::1", false, false},
		{"example.com", false, false},
		{"", false, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		if (host_is_loopback(cases[i].host) != cases[i].loopback ||
		    host_is_link_local(cases[i].host) != cases[i].link_local)
			fail_msg("%s", cases[i].host);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_references_get_their_normal_form),
		cmocka_unit_test(test_what_is_no_reference_is_refused_with_words),
		cmocka_unit_test(test_addresses_are_known_in_all_spellings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
