/* /etc/hosts and /etc/resolv.conf of containers, as Docker writes them. */
#include "agent/task/etc_files.h"

#include <errno.h>
#include <string.h>

#include "lib/cleanup.h"
#include "tests/unit/cmocka_prelude.h"

#define LOCAL                                                                                      \
	"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n"  \
	"ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"

static void test_hosts(void **state)
{
	static const struct {
		const char *address, *gateway;
		const char *extra[3];
		const char *text; /* after the local lines; NULL: refused */
	} rows[] = {
		{NULL, NULL, {NULL}, ""},
		{"172.29.0.5", "172.29.0.1", {NULL}, "172.29.0.5\tweb\n"},
		{"172.29.0.5",
	         "172.29.0.1",
	         {"db:10.0.0.9", "six:fe80::1"},
	         "10.0.0.9\tdb\nfe80::1\tsix\n172.29.0.5\tweb\n"},
		{"172.29.0.5",
	         "172.29.0.1",
	         {"gw:host-gateway"},
	         "172.29.0.1\tgw\n172.29.0.5\tweb\n"},
		{NULL, NULL, {"gw:host-gateway"}, NULL},
		{NULL, NULL, {"noaddress"}, NULL},
		{NULL, NULL, {"db:not-an-address"}, NULL},
		{NULL, NULL, {":10.0.0.9"}, NULL},
		{NULL, NULL, {"two words:10.0.0.9"}, NULL},
		{NULL, NULL, {"a\n1.2.3.4 b:10.0.0.9"}, NULL},
		{NULL, NULL, {"a#:10.0.0.9"}, NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct network_address address = {rows[i].address, rows[i].gateway};
		_cleanup_free_ char *text = NULL;
		struct err err = {};
		int r = etc_hosts_text("web", &address, rows[i].extra, NULL, &text, &err);

		print_message("row %zu\n", i);
		if (!rows[i].text) {
			assert_int_equal(r, -EINVAL);
			assert_null(text);
			assert_non_null(strstr(err.text, "extra host"));
			continue;
		}
		assert_int_equal(r, 0);
		assert_memory_equal(text, LOCAL, strlen(LOCAL));
		assert_string_equal(text + strlen(LOCAL), rows[i].text);
	}
}

static void test_a_name_with_a_domain_stands_there_without_it_too(void **state)
{
	static const char line[] = "172.29.0.5\tweb.shop.example web\n";
	struct network_address address = {"172.29.0.5", "172.29.0.1"};
	_cleanup_free_ char *text = NULL;

	(void)state;
	assert_int_equal(etc_hosts_text("web.shop.example", &address, NULL, NULL, &text, NULL), 0);
	assert_string_equal(text + strlen(LOCAL), line);
}

static void test_linked_hosts(void **state)
{
	static const char *const bad[] = {"172.29.0.3",
	                                  "172.29.0.3 ",
	                                  "172.29.0.3 a  b",
	                                  "172.29.0.3 a\n1.2.3.4 b",
	                                  "172.29.0.3 a\tb",
	                                  "c 172.29.0.3",
	                                  ""};
	static const char *const extra[] = {"db:10.0.0.9", NULL};
	static const char *const good[] = {"172.29.0.3 c 0123456789ab ecs-c", "172.29.0.4 d", NULL};
	struct network_address address = {"172.29.0.5", "172.29.0.1"};
	_cleanup_free_ char *text = NULL;
	struct err err = {};

	(void)state;
	assert_int_equal(etc_hosts_text("web", &address, extra, good, &text, &err), 0);
	assert_string_equal(text + strlen(LOCAL), "10.0.0.9\tdb\n172.29.0.3\tc 0123456789ab ecs-c\n"
	                                          "172.29.0.4\td\n172.29.0.5\tweb\n");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *const list[] = {bad[i], NULL};
		char *none = NULL;

		print_message("row %zu\n", i);
		assert_int_equal(etc_hosts_text("web", &address, NULL, list, &none, &err), -EINVAL);
		assert_null(none);
		assert_non_null(strstr(err.text, "linked host"));
	}
}

static void test_resolv_conf(void **state)
{
	static const struct {
		const char *servers[3], *search[3], *options[3];
		const char *host, *text; /* NULL: refused */
		bool host_mode;
	} rows[] = {
		{.host = "nameserver 10.0.0.2\nsearch a b\noptions ndots:1\n",
	         .text = "nameserver 10.0.0.2\nsearch a b\noptions ndots:1\n"},
		{.host = "# nameserver 1.1.1.1\n;x\nnameserver 127.0.0.53\nnameserver\t10.0.0.3 # y\n"
	                 "nameserver ::1\nsearch one\nsearch two",
	         .text = "nameserver 10.0.0.3\nsearch two\n"},
		{.host = "nameserver 10.0.0.2\nnameserver fd00::2\n",
	         .text = "nameserver 10.0.0.2\n"},
		{.host = "nameserver fd00::2\n",
	         .text = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"},
		{.host = "search old\ndomain new.example\noptions a\noptions b c\nsortlist 10.0.0.0\n"
	                 "nameserver 10.0.0.2\n",
	         .text = "nameserver 10.0.0.2\nsearch new.example\nsortlist 10.0.0.0\noptions a\n"
	                 "options b c\n"},
		{.host = "domain old\nsearch new\nnameserver 10.0.0.2\n",
	         .text = "nameserver 10.0.0.2\nsearch new\n"},
		{.host = "nameserver 127.0.0.53\nnameserver fd00::2\nsearch a\n",
	         .search = {"b"},
	         .text = "nameserver 127.0.0.53\nnameserver fd00::2\nsearch b\n",
	         .host_mode = true},
		{.host = "nameserver 127.0.0.53\n",
	         .text = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"},
		{.host = "", .text = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"},
		{.host = "nameserver 10.0.0.2\nsearch a\n",
	         .servers = {"10.1.1.1", "fe80::2"},
	         .text = "nameserver 10.1.1.1\nnameserver fe80::2\nsearch a\n"},
		{.host = "nameserver 10.0.0.2\nsearch a\n",
	         .search = {"b.example", "c.example"},
	         .options = {"ndots:2", "rotate"},
	         .text = "nameserver 10.0.0.2\nsearch b.example c.example\noptions ndots:2 rotate\n"},
		{.host = "nameserver 10.0.0.2\nsearch a\n",
	         .search = {"."},
	         .text = "nameserver 10.0.0.2\n"},
		{.host = "", .servers = {"dns.example"}, .text = NULL},
		{.host = "", .search = {"a\nnameserver 6.6.6.6"}, .text = NULL},
		{.host = "", .options = {"two words"}, .text = NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct dns_spec dns = {
			.servers = (const char **)rows[i].servers,
			.search = (const char **)rows[i].search,
			.options = (const char **)rows[i].options,
		};
		_cleanup_free_ char *text = NULL;
		struct err err = {};
		int r = etc_resolv_text(&dns, rows[i].host, rows[i].host_mode, &text, &err);

		print_message("row %zu\n", i);
		if (!rows[i].text) {
			assert_int_equal(r, -EINVAL);
			assert_non_null(strstr(err.text, "DNS"));
			continue;
		}
		assert_int_equal(r, 0);
		assert_string_equal(text, rows[i].text);
	}
}

static void test_a_host_with_local_resolvers_only(void **state)
{
	(void)state;
	assert_true(etc_resolv_is_local("nameserver 127.0.0.53\noptions edns0\n"));
	assert_true(etc_resolv_is_local("nameserver ::1\n"));
	assert_false(etc_resolv_is_local("nameserver 127.0.0.53\nnameserver 10.0.0.2\n"));
	assert_false(etc_resolv_is_local(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hosts),
		cmocka_unit_test(test_a_name_with_a_domain_stands_there_without_it_too),
		cmocka_unit_test(test_linked_hosts),
		cmocka_unit_test(test_resolv_conf),
		cmocka_unit_test(test_a_host_with_local_resolvers_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
