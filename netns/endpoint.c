/*
 * The link-local endpoint, without libnl and libbpf: one netlink message for the address, and a
 * BPF program of some twenty instructions, assembled below.
 */
#include "netns/endpoint.h"

#include "lib/fd.h"
#include "netns/netns.h"

#include <arpa/inet.h>
#include <linux/bpf.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENDPOINT_STEERED_PORT 80

struct listener {
	int socket_fd;
	bool address_added;
};

static uint32_t endpoint_address(void)
{
	return inet_addr(ENDPOINT_ADDRESS); /* network byte order */
}

/* Add or delete 169.254.170.2/32 on lo of the namespace that the thread is in. -EEXIST and
 * -EADDRNOTAVAIL as the kernel says them. */
static int loopback_address_change(uint16_t type, struct err *err)
{
	_cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	struct {
		struct nlmsghdr header;
		struct ifaddrmsg address;
		struct rtattr local_attribute;
		uint32_t local;
	} request = {
		.header = {.nlmsg_len = sizeof(request),
	                   .nlmsg_type = type,
	                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK |
	                                  (type == RTM_NEWADDR ? NLM_F_CREATE | NLM_F_EXCL : 0)},
		/* Host scope: never the source address of a packet that leaves. */
		.address = {.ifa_family = AF_INET,
	                    .ifa_prefixlen = 32,
	                    .ifa_scope = RT_SCOPE_HOST,
	                    .ifa_index = if_nametoindex("lo")},
		.local_attribute = {.rta_len = RTA_LENGTH(sizeof(request.local)),
	                            .rta_type = IFA_LOCAL},
		.local = endpoint_address(),
	};
	struct {
		struct nlmsghdr header;
		struct nlmsgerr body;
		char rest[256];
	} answer;
	ssize_t n;

	if (fd < 0)
		return err_set(err, -errno, "netlink socket");
	if (send(fd, &request, sizeof(request), 0) < 0)
		return err_set(err, -errno, "netlink send");
	n = recv(fd, &answer, sizeof(answer), 0);
	if (n < 0)
		return err_set(err, -errno, "netlink receive");
	if (n < (ssize_t)offsetof(typeof(answer), rest) || answer.header.nlmsg_type != NLMSG_ERROR)
		return err_set(err, -EPROTO, "netlink answer");
	if (answer.body.error < 0)
		return err_set(err, answer.body.error, "%s " ENDPOINT_ADDRESS " on lo",
		               type == RTM_NEWADDR ? "add" : "delete");
	return 0;
}

/* Runs in the namespace. */
static int address_remove(void *arg, struct err *err)
{
	(void)arg;
	return loopback_address_change(RTM_DELADDR, err);
}

static int listener_bind(struct listener *listener, struct err *err)
{
	_cleanup_close_ int fd =
		socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
	struct sockaddr_in address = {.sin_family = AF_INET,
	                              .sin_port = htons(ENDPOINT_PORT),
	                              .sin_addr.s_addr = endpoint_address()};

	if (fd < 0)
		return err_set(err, -errno, "socket");
	/* Connections of an earlier listener may linger in TIME_WAIT. */
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) < 0)
		return err_set(err, -errno, "SO_REUSEADDR");
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, SOMAXCONN) < 0)
		return err_set(err, -errno, "listen on %s:%d", ENDPOINT_ADDRESS, ENDPOINT_PORT);
	listener->socket_fd = TAKE_FD(fd);
	return 0;
}

/* Runs in the namespace. */
static int listener_open(void *arg, struct err *err)
{
	struct listener *listener = arg;
	int r;

	r = loopback_address_change(RTM_NEWADDR, err);
	if (r < 0 && r != -EEXIST)
		return r;
	listener->address_added = r == 0;

	r = listener_bind(listener, err);
	if (r < 0 && listener->address_added)
		(void)loopback_address_change(RTM_DELADDR, NULL);
	return r;
}

/* The kernel refuses bytes that it does not know unless they are zero, so each attr is cleared as a
 * whole: an initialiser of a union need not do that. */
static void attr_clear(union bpf_attr *attr)
{
	memset(attr, 0, sizeof(*attr));
}

static int bpf(int command, union bpf_attr *attr)
{
	int r = (int)syscall(SYS_bpf, command, attr, sizeof(*attr));

	return r < 0 ? -errno : r;
}

/*
 * Before Linux 5.11 maps and programs count against RLIMIT_MEMLOCK of the user, which is 64 KiB
 * for all of root's processes, and are refused with EPERM. So that is tried again without a limit;
 * the limit is put back, since containers inherit it.
 */
static int bpf_unlimited(int command, union bpf_attr *attr)
{
	struct rlimit unlimited = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
	struct rlimit before;
	int r = bpf(command, attr);

	if (r != -EPERM || getrlimit(RLIMIT_MEMLOCK, &before) < 0 ||
	    setrlimit(RLIMIT_MEMLOCK, &unlimited) < 0)
		return r;
	r = bpf(command, attr);
	(void)setrlimit(RLIMIT_MEMLOCK, &before); /* lowering is always allowed */
	return r;
}

/* A map of one socket. It does not keep the socket alive: closing the socket empties it. */
static int socket_map_create(int socket_fd, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	union bpf_attr attr;
	uint32_t key = 0;
	uint64_t value = (uint64_t)socket_fd;
	int r;

	attr_clear(&attr);
	attr.map_type = BPF_MAP_TYPE_SOCKMAP;
	attr.key_size = sizeof(key);
	attr.value_size = sizeof(value);
	attr.max_entries = 1;
	memcpy(attr.map_name, "ecs_endpoint", sizeof("ecs_endpoint"));
	fd = bpf_unlimited(BPF_MAP_CREATE, &attr);
	if (fd < 0)
		return err_set(err, fd, "create a BPF socket map");

	attr_clear(&attr);
	attr.map_fd = (uint32_t)fd;
	attr.key = (uintptr_t)&key;
	attr.value = (uintptr_t)&value;
	r = bpf(BPF_MAP_UPDATE_ELEM, &attr);
	if (r < 0)
		return err_set(err, r, "put the endpoint's socket into a BPF map");
	return TAKE_FD(fd);
}

/* Instructions, as in the kernel's Documentation/bpf/standardization/instruction-set.rst. */
#define INSN(c, d, s, o, i)                                                                        \
	((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
#define MOV_REG(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define MOV_IMM(d, i) INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADD_IMM(d, i) INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
/* d = the 32 bit member of the context that register 6 points to */
#define LOAD_CTX(d, member)                                                                        \
	INSN(BPF_LDX | BPF_MEM | BPF_W, d, BPF_REG_6, offsetof(struct bpf_sk_lookup, member), 0)
#define STORE_STACK(o, i) INSN(BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, o, i)
/* d = the map, in two instructions */
#define LOAD_MAP(d, fd)                                                                            \
	INSN(BPF_LD | BPF_IMM | BPF_DW, d, BPF_PSEUDO_MAP_FD, 0, fd), INSN(0, 0, 0, 0, 0)
#define CALL(function) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_##function)
#define EXIT           INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
/* Jumps skip the next n instructions. The comparison is of 32 bits, the bytes of i as they are. */
#define SKIP_IF_EQUAL(d, i, n) INSN(BPF_JMP32 | BPF_JEQ | BPF_K, d, 0, n, (int32_t)(i))
#define SKIP_IF_OTHER(d, i, n) INSN(BPF_JMP32 | BPF_JNE | BPF_K, d, 0, n, (int32_t)(i))
#define SKIP_IF_NULL(d, n)     INSN(BPF_JMP | BPF_JEQ | BPF_K, d, 0, n, 0)

/* Runs for each packet that would open a connection, before the listening sockets are looked at.
 * local_ip4 is 0 for IPv6. local_port is in host byte order, the addresses in network order. */
static int program_load(int map_fd, struct err *err)
{
	const uint32_t address = endpoint_address();
	const struct bpf_insn instructions[] = {
		/* Anything but TCP to 169.254.170.2:80 and :51679 is not ours. */
		MOV_REG(BPF_REG_6, BPF_REG_1),
		LOAD_CTX(BPF_REG_2, local_ip4),
		SKIP_IF_EQUAL(BPF_REG_2, address, 2),
		MOV_IMM(BPF_REG_0, SK_PASS),
		EXIT,
		LOAD_CTX(BPF_REG_2, protocol),
		SKIP_IF_EQUAL(BPF_REG_2, IPPROTO_TCP, 2),
		MOV_IMM(BPF_REG_0, SK_PASS),
		EXIT,
		LOAD_CTX(BPF_REG_3, remote_ip4),
		LOAD_CTX(BPF_REG_2, local_port),
		SKIP_IF_EQUAL(BPF_REG_2, ENDPOINT_STEERED_PORT, 6),

		/* The port we listen on: for ourselves only. */
		SKIP_IF_OTHER(BPF_REG_2, ENDPOINT_PORT, 3),
		SKIP_IF_EQUAL(BPF_REG_3, address, 2),
		MOV_IMM(BPF_REG_0, SK_DROP),
		EXIT,
		MOV_IMM(BPF_REG_0, SK_PASS),
		EXIT,

		/* Port 80, for a neighbour: what it would get without us. */
		SKIP_IF_EQUAL(BPF_REG_3, address, 2),
		MOV_IMM(BPF_REG_0, SK_PASS),
		EXIT,

		/* Port 80, for ourselves: our socket, or nothing (never a socket of the container).
	         */
		STORE_STACK(-4, 0), /* key 0 */
		LOAD_MAP(BPF_REG_1, map_fd),
		MOV_REG(BPF_REG_2, BPF_REG_10),
		ADD_IMM(BPF_REG_2, -4),
		CALL(map_lookup_elem),
		SKIP_IF_NULL(BPF_REG_0, 9),
		MOV_REG(BPF_REG_7, BPF_REG_0),
		MOV_REG(BPF_REG_1, BPF_REG_6),
		MOV_REG(BPF_REG_2, BPF_REG_7),
		MOV_IMM(BPF_REG_3, 0),
		CALL(sk_assign),
		MOV_REG(BPF_REG_6, BPF_REG_0),
		MOV_REG(BPF_REG_1, BPF_REG_7),
		CALL(sk_release),
		SKIP_IF_NULL(BPF_REG_6, 2), /* assigned */
		MOV_IMM(BPF_REG_0, SK_DROP),
		EXIT,
		MOV_IMM(BPF_REG_0, SK_PASS),
		EXIT,
	};
	union bpf_attr attr;
	int fd;

	attr_clear(&attr);
	attr.prog_type = BPF_PROG_TYPE_SK_LOOKUP;
	attr.expected_attach_type = BPF_SK_LOOKUP;
	attr.insns = (uintptr_t)instructions;
	attr.insn_cnt = ARRAY_SIZE(instructions);
	attr.license = (uintptr_t) "Apache-2.0";
	memcpy(attr.prog_name, "ecs_endpoint", sizeof("ecs_endpoint"));
	fd = bpf_unlimited(BPF_PROG_LOAD, &attr);
	return fd < 0 ? err_set(err, fd, "load the sk_lookup BPF program") : fd;
}

/* Map and program live as long as the link does. */
static int steering_open(int netns_fd, int socket_fd, struct err *err)
{
	_cleanup_close_ int map_fd = -EBADF;
	_cleanup_close_ int program_fd = -EBADF;
	union bpf_attr attr;
	int r;

	map_fd = socket_map_create(socket_fd, err);
	if (map_fd < 0)
		return map_fd;
	program_fd = program_load(map_fd, err);
	if (program_fd < 0)
		return program_fd;
	attr_clear(&attr);
	attr.link_create.prog_fd = (uint32_t)program_fd;
	attr.link_create.target_fd = (uint32_t)netns_fd;
	attr.link_create.attach_type = BPF_SK_LOOKUP;
	r = bpf(BPF_LINK_CREATE, &attr);
	return r < 0 ? err_set(err, r, "attach the sk_lookup BPF program") : r;
}

int endpoint_open(int netns_fd, struct endpoint *ret, struct err *err)
{
	struct listener listener = {.socket_fd = -EBADF};
	_cleanup_close_ int socket_fd = -EBADF;
	int link_fd, r;

	r = netns_run(netns_fd, listener_open, &listener, err);
	if (r < 0)
		return err_prefix(err, r, "open the endpoint " ENDPOINT_ADDRESS);
	socket_fd = listener.socket_fd;

	link_fd = steering_open(netns_fd, socket_fd, err);
	if (link_fd < 0) {
		socket_fd = fd_close(socket_fd);
		if (listener.address_added)
			(void)netns_run(netns_fd, address_remove, NULL, NULL);
		return err_prefix(err, link_fd, "open the endpoint " ENDPOINT_ADDRESS);
	}

	*ret = (struct endpoint){.socket_fd = TAKE_FD(socket_fd), .link_fd = link_fd};
	return 0;
}

void endpoint_close(struct endpoint *endpoint)
{
	union bpf_attr attr;

	/* Whoever has a copy of the link, the program is off from here on. */
	if (endpoint->link_fd >= 0) {
		attr_clear(&attr);
		attr.link_detach.link_fd = (uint32_t)endpoint->link_fd;
		(void)bpf(BPF_LINK_DETACH, &attr);
	}
	endpoint->link_fd = fd_close(endpoint->link_fd);
	endpoint->socket_fd = fd_close(endpoint->socket_fd);
}

int endpoint_address_remove(struct err *err)
{
	int r = loopback_address_change(RTM_DELADDR, err);

	return r == -EADDRNOTAVAIL ? 0 : r;
}
