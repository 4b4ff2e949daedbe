/*
 * Which device nodes the processes of a cgroup may use. v1 has a controller with a list; on v2 the
 * same is a BPF program that the kernel asks, put together here instruction by instruction (raw
 * bpf(2), so that no library comes with it).
 *
 * Source: Linux Documentation/admin-guide/cgroup-v1/devices.rst; cgroup-v2.rst "Device controller".
 */
#include "cgroups/hierarchy.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fd.h"

#define RULES_MAX 512

/* Docker's list: any node may be made, and these may be used. */
const struct cgroup_device cgroup_default_devices[] = {
	{'c', -1, -1, "m"},    {'b', -1, -1, "m"}, {'c', 1, 3, "rwm"}, /* null */
	{'c', 1, 5, "rwm"},                                            /* zero */
	{'c', 1, 7, "rwm"},                                            /* full */
	{'c', 1, 8, "rwm"},                                            /* random */
	{'c', 1, 9, "rwm"},                                            /* urandom */
	{'c', 5, 0, "rwm"},                                            /* tty */
	{'c', 5, 1, "rwm"},                                            /* console */
	{'c', 5, 2, "rwm"},                                            /* ptmx */
	{'c', 136, -1, "rwm"},                                         /* pts */
};
const size_t cgroup_n_default_devices = ARRAY_SIZE(cgroup_default_devices);

static int check_device(const struct cgroup_device *d, struct err *err)
{
	if ((d->type == 'b' || d->type == 'c' || d->type == 'a') && d->access[0] != '\0' &&
	    strspn(d->access, "rwm") == strlen(d->access) && strlen(d->access) <= 3 &&
	    d->major >= -1 && d->major <= UINT32_MAX && d->minor >= -1 && d->minor <= UINT32_MAX)
		return 0;
	return err_text(err, -EINVAL,
	                "device '%c' %" PRId64 ":%" PRId64
	                " \"%.8s\" must be b, c or a, numbers or -1, and access of \"rwm\"",
	                d->type, d->major, d->minor, d->access);
}

static void append_number(char *buf, size_t n, int64_t number, char end)
{
	size_t used = strlen(buf);

	if (number < 0)
		snprintf(buf + used, n - used, "*%c", end);
	else
		snprintf(buf + used, n - used, "%" PRId64 "%c", number, end);
}

void device_rule_to_string(const struct cgroup_device *device, char *buf, size_t n)
{
	size_t used;

	snprintf(buf, n, "%c ", device->type);
	append_number(buf, n, device->major, ':');
	append_number(buf, n, device->minor, ' ');
	used = strlen(buf);
	snprintf(buf + used, n - used, "%s", device->access);
}

/* One rule a write, as the kernel wants it; the file stays open meanwhile. */
static int allow_v1(int fd, const struct cgroup *cgroup, const struct cgroup_device *devices,
                    size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		/* 'a' with numbers would mean every device there: two lines say what was meant. */
		const char types[] = {devices[i].type == 'a' ? 'b' : devices[i].type,
		                      devices[i].type == 'a' ? 'c' : '\0'};

		for (size_t k = 0; k < sizeof(types) && types[k]; k++) {
			struct cgroup_device device = devices[i];
			char text[64];

			device.type = types[k];
			device_rule_to_string(&device, text, sizeof(text));
			if (write(fd, text, strlen(text)) < 0)
				return err_set(err, -errno, "allow device \"%s\" in cgroup %s",
				               text, cgroup->path);
		}
	}
	return 0;
}

static int set_devices_v1(const struct cgroup *cgroup, bool all,
                          const struct cgroup_device *devices, size_t n, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	const struct hierarchy *h;
	int r;

	r = root_controller(cgroup->root, CONTROLLER_DEVICES, &h, err);
	if (r < 0)
		return r;
	if (all)
		return hierarchy_write(h, cgroup->path, "devices.allow", "a", err);
	r = hierarchy_write(h, cgroup->path, "devices.deny", "a", err);
	if (r < 0)
		return r;
	fd = hierarchy_open(h, cgroup->path, "devices.allow", O_WRONLY);
	if (fd < 0)
		return err_set(err, fd, "open devices.allow of %s/%s", h->path, cgroup->path);
	r = allow_v1(fd, cgroup, cgroup_default_devices, cgroup_n_default_devices, err);
	return r < 0 ? r : allow_v1(fd, cgroup, devices, n, err);
}

#define INSN(c, d, s, o, i)                                                                        \
	((struct bpf_insn){                                                                        \
		.code = (c), .dst_reg = (d), .src_reg = (s), .off = (short)(o), .imm = (int)(i)})
#define LOAD32(dst, offset)     INSN(BPF_LDX | BPF_MEM | BPF_W, dst, BPF_REG_1, offset, 0)
#define SET(dst, value)         INSN(BPF_ALU | BPF_MOV | BPF_K, dst, 0, 0, value)
#define COPY(dst, src)          INSN(BPF_ALU | BPF_MOV | BPF_X, dst, src, 0, 0)
#define AND(dst, value)         INSN(BPF_ALU | BPF_AND | BPF_K, dst, 0, 0, value)
#define SHIFT_RIGHT(dst, value) INSN(BPF_ALU | BPF_RSH | BPF_K, dst, 0, 0, value)
#define UNLESS(reg, value)      INSN(BPF_JMP32 | BPF_JNE | BPF_K, reg, 0, 0, value)
#define EXIT()                  INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)

static unsigned access_bits(const char *access)
{
	return (strchr(access, 'r') ? BPF_DEVCG_ACC_READ : 0) |
	       (strchr(access, 'w') ? BPF_DEVCG_ACC_WRITE : 0) |
	       (strchr(access, 'm') ? BPF_DEVCG_ACC_MKNOD : 0);
}

/* Registers: 2 type, 3 access asked for, 4 major, 5 minor, 6 scratch. */
static size_t rule_program(const struct cgroup_device *device, struct bpf_insn *insns)
{
	size_t tests[4], n_tests = 0, n = 0;

	if (device->type != 'a') {
		tests[n_tests++] = n;
		insns[n++] = UNLESS(BPF_REG_2,
		                    device->type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR);
	}
	/* No bit may be asked for that the rule does not have. */
	insns[n++] = COPY(BPF_REG_6, BPF_REG_3);
	insns[n++] = AND(BPF_REG_6, ~access_bits(device->access));
	tests[n_tests++] = n;
	insns[n++] = UNLESS(BPF_REG_6, 0);
	if (device->major >= 0) {
		tests[n_tests++] = n;
		insns[n++] = UNLESS(BPF_REG_4, (uint32_t)device->major);
	}
	if (device->minor >= 0) {
		tests[n_tests++] = n;
		insns[n++] = UNLESS(BPF_REG_5, (uint32_t)device->minor);
	}
	insns[n++] = SET(BPF_REG_0, 1);
	insns[n++] = EXIT();
	for (size_t i = 0; i < n_tests; i++)
		insns[tests[i]].off = (short)(n - tests[i] - 1);
	return n;
}

size_t device_program(const struct cgroup_device *devices, size_t n, struct bpf_insn *insns)
{
	size_t k = 0;

	insns[k++] = LOAD32(BPF_REG_2, offsetof(struct bpf_cgroup_dev_ctx, access_type));
	insns[k++] = COPY(BPF_REG_3, BPF_REG_2);
	insns[k++] = AND(BPF_REG_2, 0xffff);
	insns[k++] = SHIFT_RIGHT(BPF_REG_3, 16);
	insns[k++] = LOAD32(BPF_REG_4, offsetof(struct bpf_cgroup_dev_ctx, major));
	insns[k++] = LOAD32(BPF_REG_5, offsetof(struct bpf_cgroup_dev_ctx, minor));
	for (size_t i = 0; i < n; i++)
		k += rule_program(&devices[i], insns + k);
	insns[k++] = SET(BPF_REG_0, 0);
	insns[k++] = EXIT();
	return k;
}

static int bpf(int command, union bpf_attr *attr)
{
	long r = syscall(SYS_bpf, command, attr, sizeof(*attr));

	return r < 0 ? -errno : (int)r;
}

static int load_program(const struct cgroup_device *devices, size_t n, struct err *err)
{
	_cleanup_free_ struct bpf_insn *insns = calloc(DEVICE_PROGRAM_INSNS(n), sizeof(*insns));
	union bpf_attr attr;
	int fd;

	if (!insns)
		return err_oom(err);
	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
	attr.insn_cnt = (uint32_t)device_program(devices, n, insns);
	attr.insns = (uint64_t)(uintptr_t)insns;
	attr.license = (uint64_t)(uintptr_t) "Apache-2.0";
	snprintf(attr.prog_name, sizeof(attr.prog_name), "ecs_devices");
	fd = bpf(BPF_PROG_LOAD, &attr);
	return fd < 0 ? err_set(err, fd, "load the device program") : fd;
}

/* Attached without flags a program replaces the one before it on this cgroup; those that systemd
 * put on cgroups above still have their say. */
static int set_devices_v2(const struct cgroup *cgroup, bool all,
                          const struct cgroup_device *devices, size_t n, struct err *err)
{
	_cleanup_close_ int prog_fd = -EBADF;
	union bpf_attr attr;
	int r;

	memset(&attr, 0, sizeof(attr));
	attr.target_fd = (uint32_t)cgroup->unified_fd;
	attr.attach_type = BPF_CGROUP_DEVICE;
	if (all) {
		r = bpf(BPF_PROG_DETACH, &attr);
		return r < 0 && r != -ENOENT
		               ? err_set(err, r, "detach the device program of %s", cgroup->path)
		               : 0;
	}

	prog_fd = load_program(devices, n, err);
	if (prog_fd < 0)
		return prog_fd;
	attr.attach_bpf_fd = (uint32_t)prog_fd;
	r = bpf(BPF_PROG_ATTACH, &attr);
	return r < 0 ? err_set(err, r, "attach the device program to %s", cgroup->path) : 0;
}

int cgroup_set_devices(struct cgroup *cgroup, bool all, const struct cgroup_device *devices,
                       size_t n, struct err *err)
{
	_cleanup_free_ struct cgroup_device *rules = NULL;
	size_t n_default = cgroup_n_default_devices;

	if (n > RULES_MAX)
		return err_text(err, -E2BIG, "%zu devices are more than %d", n, RULES_MAX);
	for (size_t i = 0; i < n; i++) {
		int r = check_device(&devices[i], err);

		if (r < 0)
			return r;
	}
	if (!cgroup->root->v2)
		return set_devices_v1(cgroup, all, devices, n, err);

	rules = calloc(n_default + n, sizeof(*rules));
	if (!rules)
		return err_oom(err);
	memcpy(rules, cgroup_default_devices, n_default * sizeof(*rules));
	if (n > 0)
		memcpy(rules + n_default, devices, n * sizeof(*rules));
	return set_devices_v2(cgroup, all, rules, n_default + n, err);
}
