/* What of cgroups/ needs no kernel: mount tables, conversions, and the device program, which a
 * small interpreter runs here. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cgroups/hierarchy.h"
#include "lib/cleanup.h"

#define BIT(c) (1u << CONTROLLER_##c)

static int parse(const char *text, const char *base, struct cgroup_mount *ret, struct err *err)
{
	_cleanup_free_ char *copy = strdup(text);

	assert_non_null(copy);
	return cgroup_mounts_parse(copy, base, ret, err);
}

static void test_hybrid_mounts_give_one_entry_per_hierarchy(void **state)
{
	static const char text[] =
		"23 1 8:1 / / rw,relatime - ext4 /dev/root rw\n"
		"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
		"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
		"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:3 master:2 - cgroup cgroup rw,memory\n"
		"39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"
		"42 31 0:39 / /sys/fs/cgroup/perf_event rw,relatime - cgroup cgroup rw,perf_event\n"
		"40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
		"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
		"50 23 0:50 / /mnt/cgroup rw - cgroup cgroup rw,devices\n";
	static const struct {
		const char *path;
		unsigned controllers;
		bool unified;
	} want[] = {{"/sys/fs/cgroup/cpu,cpuacct", BIT(CPU) | BIT(CPUACCT), false},
	            {"/sys/fs/cgroup/memory", BIT(MEMORY), false},
	            {"/sys/fs/cgroup/pids", BIT(PIDS), false},
	            {"/sys/fs/cgroup/systemd", BIT(SYSTEMD), false},
	            {"/sys/fs/cgroup/unified", 0, true}};
	struct cgroup_mount mounts[HIERARCHIES_MAX];

	(void)state;
	assert_int_equal(parse(text, "/sys/fs/cgroup", mounts, NULL), ARRAY_SIZE(want));
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		assert_string_equal(mounts[i].path, want[i].path);
		assert_int_equal(mounts[i].controllers, want[i].controllers);
		assert_int_equal(mounts[i].unified, want[i].unified);
	}
}

static void test_v2_mount_is_the_base_itself(void **state)
{
	struct cgroup_mount mounts[HIERARCHIES_MAX];

	(void)state;
	assert_int_equal(
		parse("30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
	              "/sys/fs/cgroup", mounts, NULL),
		1);
	assert_true(mounts[0].unified);
	assert_string_equal(mounts[0].path, "/sys/fs/cgroup");
}

static void test_a_mount_on_top_hides_what_was_there(void **state)
{
	struct cgroup_mount mounts[HIERARCHIES_MAX];

	(void)state;
	assert_int_equal(parse("31 23 0:28 / /cg rw - tmpfs tmpfs rw\n"
	                       "32 31 0:29 / /cg/memory rw - cgroup cgroup rw,memory\n"
	                       "33 23 0:30 / /cg rw - cgroup2 cgroup2 rw\n",
	                       "/cg", mounts, NULL),
	                 1);
	assert_true(mounts[0].unified);
}

static void test_escaped_blanks_in_mount_points_are_read(void **state)
{
	struct cgroup_mount mounts[HIERARCHIES_MAX];

	(void)state;
	assert_int_equal(parse("32 31 0:29 / /my\\040cg/a\\134b rw - cgroup2 cgroup2 rw\n",
	                       "/my cg", mounts, NULL),
	                 1);
	assert_string_equal(mounts[0].path, "/my cg/a\\b");
}

static void test_malformed_mountinfo_is_refused(void **state)
{
	static const char *const cases[] = {"31 23 0:28 / /sys/fs/cgroup rw\n",
	                                    "31 23 - cgroup2 a b\n",
	                                    "31 23 0:28 / /sys/fs/cgroup rw - cgroup2\n",
	                                    "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2\n"};
	struct cgroup_mount mounts[HIERARCHIES_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = {0};

		print_message("case: %s", cases[i]);
		assert_int_equal(parse(cases[i], "/sys/fs/cgroup", mounts, &err), -EINVAL);
		assert_true(err.text[0] != '\0');
	}
}

static void test_more_mounts_than_hierarchies_stay_within_bounds(void **state)
{
	struct cgroup_mount mounts[HIERARCHIES_MAX];
	char text[8192] = "";

	(void)state;
	for (int i = 0; i < 40; i++) {
		size_t n = strlen(text);

		snprintf(text + n, sizeof(text) - n,
		         "%d 1 0:1 / /cg/m%d rw - cgroup cgroup rw,memory\n", i, i);
	}
	assert_int_equal(parse(text, "/cg", mounts, NULL), HIERARCHIES_MAX);
}

static void test_shares_become_weight_over_the_whole_range(void **state)
{
	static const struct {
		uint64_t shares, weight;
	} cases[] = {{2, 1},     {128, 5},     {512, 20},      {1024, 39},
	             {2048, 79}, {10240, 391}, {262144, 10000}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(cpu_weight_of_shares(cases[i].shares), cases[i].weight);
}

static void test_device_rules_are_written_as_v1_reads_them(void **state)
{
	static const struct {
		struct cgroup_device device;
		const char *text;
	} cases[] = {{{'c', 1, 3, "rwm"}, "c 1:3 rwm"},
	             {{'b', -1, -1, "m"}, "b *:* m"},
	             {{'c', 136, -1, "rw"}, "c 136:* rw"}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char text[64];

		device_rule_to_string(&cases[i].device, text, sizeof(text));
		assert_string_equal(text, cases[i].text);
	}
}

/* The instructions that device_program() uses, as the kernel runs them. */
static uint64_t run(const struct bpf_insn *insns, size_t n, const struct bpf_cgroup_dev_ctx *ctx)
{
	uint64_t reg[11] = {0};

	for (size_t pc = 0; pc < n; pc++) {
		const struct bpf_insn *i = &insns[pc];
		uint32_t imm = (uint32_t)i->imm;

		switch (i->code) {
		case BPF_LDX | BPF_MEM | BPF_W: {
			uint32_t word;

			assert_int_equal(i->src_reg, BPF_REG_1);
			memcpy(&word, (const char *)ctx + i->off, sizeof(word));
			reg[i->dst_reg] = word;
			break;
		}
		case BPF_ALU | BPF_MOV | BPF_K:
			reg[i->dst_reg] = imm;
			break;
		case BPF_ALU | BPF_MOV | BPF_X:
			reg[i->dst_reg] = (uint32_t)reg[i->src_reg];
			break;
		case BPF_ALU | BPF_AND | BPF_K:
			reg[i->dst_reg] = (uint32_t)reg[i->dst_reg] & imm;
			break;
		case BPF_ALU | BPF_RSH | BPF_K:
			reg[i->dst_reg] = (uint32_t)reg[i->dst_reg] >> imm;
			break;
		case BPF_JMP32 | BPF_JNE | BPF_K:
			if ((uint32_t)reg[i->dst_reg] != imm)
				pc += (size_t)i->off;
			break;
		case BPF_JMP | BPF_EXIT:
			return reg[0];
		default:
			fail_msg("instruction %zu has code %#x", pc, i->code);
		}
	}
	fail_msg("the program runs off its end");
	return 0;
}

static void test_device_program_allows_what_the_rules_say_and_no_more(void **state)
{
	static const struct cgroup_device rules[] = {
		{'c', -1, -1, "m"}, {'c', 1, 3, "rwm"}, {'b', 8, -1, "r"}, {'a', 10, 200, "rw"}};
	enum {
		R = BPF_DEVCG_ACC_READ,
		W = BPF_DEVCG_ACC_WRITE,
		M = BPF_DEVCG_ACC_MKNOD
	};
	enum {
		B = BPF_DEVCG_DEV_BLOCK,
		C = BPF_DEVCG_DEV_CHAR
	};
	static const struct {
		unsigned type, access, major, minor;
		bool allowed;
	} cases[] = {
		{C, M, 77, 5, true},       {B, M, 77, 5, false},
		{C, M | R, 77, 5, false},  {C, R, 1, 3, true},
		{C, R | W, 1, 3, true},    {C, R | W | M, 1, 3, true},
		{C, R, 1, 5, false},       {B, R, 1, 3, false},
		{B, R, 8, 0, true},        {B, R, 8, 17, true},
		{B, W, 8, 17, false},      {B, R | W, 8, 17, false},
		{B, R, 9, 17, false},      {C, R | W, 10, 200, true},
		{B, R | W, 10, 200, true}, {B, R | W | M, 10, 200, false},
		{C, W, 10, 201, false},    {C, 0, 200, 1, true},
	};
	struct bpf_insn insns[DEVICE_PROGRAM_INSNS(ARRAY_SIZE(rules))];
	size_t n;

	(void)state;
	n = device_program(rules, ARRAY_SIZE(rules), insns);
	assert_in_range(n, 1, ARRAY_SIZE(insns));
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bpf_cgroup_dev_ctx ctx = {.access_type =
		                                         cases[i].access << 16 | cases[i].type,
		                                 .major = cases[i].major,
		                                 .minor = cases[i].minor};

		print_message("row %zu\n", i);
		assert_int_equal(run(insns, n, &ctx), cases[i].allowed);
	}
}

static void test_a_device_program_without_rules_denies_everything(void **state)
{
	struct bpf_cgroup_dev_ctx ctx = {.access_type =
	                                         BPF_DEVCG_ACC_READ << 16 | BPF_DEVCG_DEV_CHAR,
	                                 .major = 1,
	                                 .minor = 3};
	struct bpf_insn insns[DEVICE_PROGRAM_INSNS(0)];

	(void)state;
	assert_int_equal(run(insns, device_program(NULL, 0, insns), &ctx), 0);
}

static void test_bad_parents_are_refused_by_name(void **state)
{
	static const char *const cases[] = {"", "/ecs", "../ecs", "ecs/../x", "ecs\n", ".hidden"};
	struct cgroup_root *root = NULL;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = {0};

		print_message("case: %s\n", cases[i]);
		assert_int_equal(cgroup_root_open("/nonexistent", cases[i], &root, &err), -EINVAL);
		assert_non_null(strstr(err.text, "cgroup parent"));
	}
	assert_int_equal(cgroup_root_open("/nonexistent", "ecs", &root, NULL), -EOPNOTSUPP);
	assert_null(root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hybrid_mounts_give_one_entry_per_hierarchy),
		cmocka_unit_test(test_v2_mount_is_the_base_itself),
		cmocka_unit_test(test_a_mount_on_top_hides_what_was_there),
		cmocka_unit_test(test_escaped_blanks_in_mount_points_are_read),
		cmocka_unit_test(test_malformed_mountinfo_is_refused),
		cmocka_unit_test(test_more_mounts_than_hierarchies_stay_within_bounds),
		cmocka_unit_test(test_shares_become_weight_over_the_whole_range),
		cmocka_unit_test(test_device_rules_are_written_as_v1_reads_them),
		cmocka_unit_test(test_device_program_allows_what_the_rules_say_and_no_more),
		cmocka_unit_test(test_a_device_program_without_rules_denies_everything),
		cmocka_unit_test(test_bad_parents_are_refused_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
