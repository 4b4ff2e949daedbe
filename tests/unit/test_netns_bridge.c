/* The bridge's configuration: names and subnets from ecs.config, and which addresses there are. */
#include "tests/unit/cmocka_prelude.h"

#include "netns/bridge_config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int configure(const char *text, struct bridge *ret, struct err *err)
{
	_cleanup_(envfile_freep) struct envfile *config = NULL;

	assert_int_equal(envfile_parse(text, strlen(text), &config, NULL), 0);
	return bridge_configure(config, ret, err);
}

static void test_the_defaults_are_ecs0_and_172_29(void **state)
{
	struct bridge bridge;
	char text[BRIDGE_ADDRESS_TEXT_MAX];

	(void)state;
	assert_int_equal(configure("", &bridge, NULL), 0);
	assert_string_equal(bridge.name, "ecs0");
	assert_string_equal(bridge_subnet_to_string(&bridge, text), "172.29.0.0/16");
	assert_string_equal(address_to_string(bridge.address, text), "172.29.0.1");
}

static void test_good_settings_are_taken(void **state)
{
	static const struct {
		const char *config, *name, *subnet, *address;
	} cases[] = {
		{"ECS_BRIDGE_NAME=\nECS_BRIDGE_SUBNET=", "ecs0", "172.29.0.0/16", "172.29.0.1"},
		{"ECS_BRIDGE_NAME=a", "a", "172.29.0.0/16", "172.29.0.1"},
		{"ECS_BRIDGE_NAME=fifteen-letters", "fifteen-letters", "172.29.0.0/16",
	         "172.29.0.1"},
		{"ECS_BRIDGE_SUBNET=10.0.0.0/8", "ecs0", "10.0.0.0/8", "10.0.0.1"},
		{"ECS_BRIDGE_SUBNET=192.168.255.248/29", "ecs0", "192.168.255.248/29",
	         "192.168.255.249"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bridge bridge;
		char text[BRIDGE_ADDRESS_TEXT_MAX];

		print_message("%s\n", cases[i].config);
		assert_int_equal(configure(cases[i].config, &bridge, NULL), 0);
		assert_string_equal(bridge.name, cases[i].name);
		assert_string_equal(bridge_subnet_to_string(&bridge, text), cases[i].subnet);
		assert_string_equal(address_to_string(bridge.address, text), cases[i].address);
	}
}

static void test_bad_settings_are_refused_with_name_and_value(void **state)
{
	static const char *const cases[] = {
		"ECS_BRIDGE_NAME=sixteen-letters0",
		"ECS_BRIDGE_NAME=lo",
		"ECS_BRIDGE_NAME=all",
		"ECS_BRIDGE_NAME=default",
		"ECS_BRIDGE_NAME=.",
		"ECS_BRIDGE_NAME=../x",
		"ECS_BRIDGE_NAME=a b",
		"ECS_BRIDGE_NAME=a\"b",
		"ECS_BRIDGE_SUBNET=/16",
		"ECS_BRIDGE_SUBNET=10.0.0.0",
		"ECS_BRIDGE_SUBNET=10.0.0.0/",
		"ECS_BRIDGE_SUBNET=10.0.0.0/7",
		"ECS_BRIDGE_SUBNET=10.0.0.0/30",
		"ECS_BRIDGE_SUBNET=10.0.0.0/33",
		"ECS_BRIDGE_SUBNET=10.0.0.0/+8",
		"ECS_BRIDGE_SUBNET=10.0.0.0/8x",
		"ECS_BRIDGE_SUBNET=10.0.0.1/8",
		"ECS_BRIDGE_SUBNET=10.0.0/8",
		"ECS_BRIDGE_SUBNET=10.0.0.0000000000000000/8",
		"ECS_BRIDGE_SUBNET=0.0.0.0/8",
		"ECS_BRIDGE_SUBNET=127.0.0.0/8",
		"ECS_BRIDGE_SUBNET=169.254.170.0/24",
		"ECS_BRIDGE_SUBNET=169.0.0.0/8",
		"ECS_BRIDGE_SUBNET=224.0.0.0/8",
		"ECS_BRIDGE_SUBNET=fd00::/8",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bridge bridge = {.name = "untouched"};
		struct err err = {0};

		print_message("%s\n", cases[i]);
		assert_int_equal(configure(cases[i], &bridge, &err), -EINVAL);
		assert_memory_equal(err.text, cases[i], strlen(cases[i]));
		assert_string_equal(bridge.name, "untouched");
	}
}

static void test_the_network_is_named_when_the_address_has_host_bits(void **state)
{
	struct bridge bridge;
	struct err err = {0};

	(void)state;
	assert_int_equal(configure("ECS_BRIDGE_SUBNET=10.1.2.3/20", &bridge, &err), -EINVAL);
	assert_non_null(strstr(err.text, "10.1.0.0/20"));
}

static void test_addresses_that_a_container_can_have(void **state)
{
	static const struct {
		uint32_t address;
		bool expected;
	} cases[] = {
		{0x0a000007, false}, {0x0a000008, false}, {0x0a000009, false},
		{0x0a00000a, true},  {0x0a00000e, true},  {0x0a00000f, false},
		{0x0a000010, false}, {0, false},          {UINT32_MAX, false},
	};
	struct bridge bridge;

	(void)state;
	assert_int_equal(configure("ECS_BRIDGE_SUBNET=10.0.0.8/29", &bridge, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		print_message("%08x\n", cases[i].address);
		assert_int_equal(bridge_can_give(&bridge, cases[i].address), cases[i].expected);
	}
}

static void test_the_mac_address_is_0a_58_and_the_address(void **state)
{
	uint8_t mac[6];

	(void)state;
	address_to_mac(0xac1d00fe, mac);
	assert_memory_equal(mac, ((uint8_t[]){0x0a, 0x58, 0xac, 0x1d, 0x00, 0xfe}), 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_defaults_are_ecs0_and_172_29),
		cmocka_unit_test(test_good_settings_are_taken),
		cmocka_unit_test(test_bad_settings_are_refused_with_name_and_value),
		cmocka_unit_test(test_the_network_is_named_when_the_address_has_host_bits),
		cmocka_unit_test(test_addresses_that_a_container_can_have),
		cmocka_unit_test(test_the_mac_address_is_0a_58_and_the_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
