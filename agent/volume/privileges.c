/*
 * Capabilities and system calls of ecs-volume. Root without capabilities still owns what mount.efs
 * works with: /run/efs, /var/log/amazon/efs, the keys it makes, /sys/class/bdi.
 */
#include "agent/volume/privileges.h"

#include <linux/capability.h>
#include <stddef.h>

#include "lib/confine.h"

/*
 * CAP_SYS_ADMIN: mounting, a mount namespace, the trusted.* attributes of shared volumes, and for
 *   systemctl(1) with which mount.efs starts its watchdog: systemd asks whether its peer has it.
 * CAP_DAC_READ_SEARCH: host paths to be bound that are below directories of others, whatever
 *   their mode, and opening the root of a file system to flush it.
 */
#define OWN_CAPABILITIES (1ULL << CAP_SYS_ADMIN | 1ULL << CAP_DAC_READ_SEARCH)

/*
 * CAP_NET_BIND_SERVICE: the tunnel of mount.efs listens on transitEncryptionPort, which may be
 * below 1024. Not for NFS itself: its reserved ports are bound by the kernel's own threads.
 */
#define ALL_CAPABILITIES (OWN_CAPABILITIES | 1ULL << CAP_NET_BIND_SERVICE)

/*
 * Modules, keys and helpers that a file system needs are asked for by the kernel, and not with
 * these calls. name_to_handle_at, by which libraries recognise mount points, is not among them.
 */
static const char *const no_mounter_calls[] = {
	/* the kernel, and the machine */
	"init_module",
	"finit_module",
	"delete_module",
	"kexec_load",
	"kexec_file_load",
	"reboot",
	"swapon",
	"swapoff",
	"acct",
	"quotactl",
	"quotactl_fd",
	"syslog",
	"iopl",
	"ioperm",
	"lookup_dcookie",
	"nfsservctl",
	"_sysctl",
	"vhangup",
	"sethostname",
	"setdomainname",
	"settimeofday",
	"clock_settime",
	"clock_adjtime",
	"adjtimex",
	"stime",
	/* other processes, other namespaces, and files without a path */
	"ptrace",
	"process_vm_readv",
	"process_vm_writev",
	"process_madvise",
	"kcmp",
	"pidfd_getfd",
	"setns",
	"chroot",
	"open_by_handle_at",
	/* what is there to run or to watch code in the kernel */
	"bpf",
	"perf_event_open",
	"userfaultfd",
	"io_uring_setup",
	"io_uring_enter",
	"io_uring_register",
	/* keyrings */
	"add_key",
	"request_key",
	"keyctl",
	NULL,
};

int privileges_drop(struct err *err)
{
	const struct confinement confinement = {
		.capabilities = ALL_CAPABILITIES,
		.denied = no_mounter_calls,
	};
	int r = confine(&confinement, err);

	/* Options may hold passwords, and mount.efs has credentials. */
	return r < 0 ? r : confine_no_dumps(err);
}

int privileges_drop_helpers(struct err *err)
{
	static const char *const calls[] = {
		"mount", "umount2", "open_tree", "pivot_root", "syncfs", NULL,
	};

	/* The bounding set stays as it is, which only execve(2) could make use of. */
	return confine(&(struct confinement){.capabilities = OWN_CAPABILITIES, .syscalls = calls},
	               err);
}
