"""Ways out of a container that once worked in runtimes of others, each tried on ours.

Canaries on the host must stay as they are and must not be seen, and what another container of the
task has must not be had.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
import uuid
from pathlib import Path

import pytest

from builddir import needs_root, program
from runtime import BUSYBOX, DEFAULT_CAPS, DEFAULT_CAPS_MASK, RequestError, Task
from test_exec import read_terminal, sh as exec_sh, terminal
from test_health import shell
from waiting import wait_for

pytestmark = needs_root

RENAME_EXCHANGE = 2
AT_FDCWD = -100
SECRET = "canary-" + uuid.uuid4().hex


@pytest.fixture
def canary(host):
    """A directory of the host with one file; checked to be as it was."""
    directory = host.base / "canary"
    directory.mkdir()
    (directory / "secret").write_text(SECRET)
    yield directory
    assert os.listdir(directory) == ["secret"]
    assert (directory / "secret").read_text() == SECRET


def fields(status, *names):
    values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return [values[name].strip() for name in names]


def bind(source, destination, *options):
    return {"type": "bind", "source": str(source), "destination": str(destination),
            "options": ["rbind", *options]}


def image(host, fill):
    return [host.busybox_layer(), host.layer(fill)]


@pytest.fixture(scope="module")
def attacker(tmp_path_factory):
    """A static program of ours for what a shell cannot do."""
    directory = tmp_path_factory.mktemp("attacker")
    (directory / "a.c").write_text(ATTACKER)
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    subprocess.run(["gcc", "-static", "-O1", "-o", directory / "a", directory / "a.c"], check=True)
    return directory / "a"


ATTACKER = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

static int say(const char *what, long r)
{
	printf("%s %s\n", what, r < 0 ? strerror(errno) : "worked");
	return 0;
}

/* CVE-2022-0492: a cgroup v1 mount of one's own has release_agent. */
static int release_agent(void)
{
	say("unshare-user-cgroup", unshare(CLONE_NEWUSER | CLONE_NEWCGROUP | CLONE_NEWNS));
	say("unshare-cgroup", unshare(CLONE_NEWCGROUP));
	mkdir("/tmp/cg", 0700);
	say("mount-cgroup", mount("none", "/tmp/cg", "cgroup", 0, "rdma"));
	say("mount-cgroup2", mount("none", "/tmp/cg", "cgroup2", 0, NULL));
	say("remount-sys", mount(NULL, "/sys/fs/cgroup", NULL, MS_REMOUNT | MS_BIND, NULL));
	return 0;
}

/* What the kernel lets the host's administrator write, and nobody else. */
static int host_files(void)
{
	static const char *const files[] = {
		"/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/modprobe",
		"/sys/kernel/uevent_helper", "/proc/sys/fs/binfmt_misc/register", "/proc/1/oom_score_adj",
		"/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent",
		"/sys/fs/cgroup/cgroup.procs", "/proc/irq/default_smp_affinity", "/dev/mem", "/dev/kmsg",
		"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware/memmap",
	};
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		int fd = open(files[i], O_WRONLY);
		/* Our own score may only go up; that file is ours. */
		if (fd >= 0 && strcmp(files[i], "/proc/1/oom_score_adj") == 0)
			fd = write(fd, "-1000", 5) < 0 ? -1 : fd;
		struct stat st;
		if (fd >= 0 && fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))
			printf("%s masked\n", files[i]);
		else
			say(files[i], fd);
	}
	return 0;
}

/* CVE-2024-21626, CVE-2016-9962: does any descriptor, of us or of anybody we see, lead outside? */
static int descriptors(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	char path[512], link[4096];
	while ((entry = readdir(proc))) {
		if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
			continue;
		for (int fd = 0; fd < 1024; fd++) {
			snprintf(path, sizeof(path), "/proc/%s/fd/%d", entry->d_name, fd);
			ssize_t n = readlink(path, link, sizeof(link) - 1);
			if (n < 0)
				continue;
			link[n] = 0;
			if (atoi(entry->d_name) == getpid() && fd == dirfd(proc))
				continue;
			printf("%d %s\n", fd, link);
			strcat(path, "/../../../../../canary/secret");
			if (access(path, F_OK) == 0)
				printf("OUT through %s\n", path);
		}
		snprintf(path, sizeof(path), "/proc/%s/cwd", entry->d_name);
		ssize_t n = readlink(path, link, sizeof(link) - 1);
		if (n > 0) {
			link[n] = 0;
			printf("cwd %s\n", link);
		}
	}
	return 0;
}

/* The host's disks by number: made, and opened. */
static int disks(void)
{
	for (int major = 1; major < 512; major++) {
		if (major == 1 || major == 5 || major == 10 || (major >= 136 && major <= 143))
			continue;
		for (int kind = 0; kind < 2; kind++) {
			unlink("/tmp/d");
			if (mknod("/tmp/d", (kind ? S_IFBLK : S_IFCHR) | 0600, makedev(major, 0)) < 0)
				continue;
			int fd = open("/tmp/d", O_RDONLY | O_NONBLOCK);
			if (fd >= 0)
				printf("OPENED %c %d\n", kind ? 'b' : 'c', major);
			else if (errno != EPERM)
				printf("%c %d %s\n", kind ? 'b' : 'c', major, strerror(errno));
		}
	}
	return 0;
}

/* The old way out of a chroot(2). */
static int chroot_out(void)
{
	int fd = open("/", O_RDONLY);
	mkdir("/tmp/c", 0700);
	say("chroot", chroot("/tmp/c"));
	if (fchdir(fd) == 0)
		for (int i = 0; i < 64; i++)
			if (chdir("..") < 0)
				break;
	(void)!chroot(".");
	return execl("/bin/ls", "ls", "/", NULL);
}

/* By handle, past every mount: the shocker of 2014. */
static int by_handle(void)
{
	struct {
		struct file_handle h;
		unsigned char data[8];
	} handle = {{8, 1, {0}}, {2, 0, 0, 0, 0, 0, 0, 0}};
	int fd = open("/", O_RDONLY);
	say("open_by_handle_at", open_by_handle_at(fd, &handle.h, O_RDONLY));
	return 0;
}

static int groups(void)
{
	gid_t list[256];
	int n = getgroups(256, list);
	printf("%d:%d", (int)getuid(), (int)getgid());
	for (int i = 0; i < n; i++)
		printf(" %d", (int)list[i]);
	printf("\n");
	int fd = open("/denied", O_RDONLY);
	return say("open-denied-to-group", fd);
}

static int is_ours(const char *pid)
{
	char path[64], name[32];
	snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, name, sizeof(name) - 1);
	close(fd);
	name[n > 0 ? n : 0] = 0;
	return strcmp(name, "ecs-task\n") == 0 || strcmp(name, "pause\n") == 0;
}

/* One line for each different thing that worked while the process was not yet the program. */
static void got(const char *pid, const char *format, const char *what)
{
	if (!is_ours(pid))
		return;

	static char known[64][256];
	char line[256];
	snprintf(line, sizeof(line), format, what);
	for (int i = 0; i < 64; i++) {
		if (strcmp(known[i], line) == 0)
			return;
		if (!known[i][0]) {
			strcpy(known[i], line);
			puts(line);
			return;
		}
	}
}

/* CVE-2019-5736, CVE-2016-9962: a process of the runtime's, seen before it runs the program. */
static void peek_at(const char *pid, int may_trace)
{
	static const char *const files[] = {"mem", "environ", "maps", "exe", "auxv"};
	static const char *const links[] = {"exe", "cwd", "root", "fd/0", "fd/3"};
	char path[4200], text[4096];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%s/status", pid);
	fd = open(path, O_RDONLY);
	n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	if (strstr(text, "CapPrm:")) {
		char *caps = strstr(text, "CapPrm:") + 8;
		caps[16] = 0;
		got(pid, "seen with %s", caps);
	}
	snprintf(path, sizeof(path), "/proc/%s/exe", pid);
	fd = open(path, O_WRONLY);
	if (fd >= 0)
		got(pid, "WROTE %s", "exe");
	snprintf(path, sizeof(path), "/proc/%s/root%s", pid, getenv("CANARY"));
	if (access(path, F_OK) == 0)
		got(pid, "OUT through %s", "root");
	if (may_trace)
		return;
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		snprintf(path, sizeof(path), "/proc/%s/%s", pid, files[i]);
		fd = open(path, O_RDONLY);
		if (fd >= 0 && read(fd, text, 1) == 1)
			got(pid, "READ %s", files[i]);
		close(fd);
	}
	for (size_t i = 0; i < sizeof(links) / sizeof(*links); i++) {
		snprintf(path, sizeof(path), "/proc/%s/%s", pid, links[i]);
		if (readlink(path, text, sizeof(text)) > 0)
			got(pid, "FOLLOWED %s", links[i]);
	}
	fd = syscall(SYS_pidfd_open, atoi(pid), 0);
	for (int i = 0; fd >= 0 && i < 16; i++) {
		int taken = syscall(SYS_pidfd_getfd, fd, i, 0);
		if (taken >= 0)
			got(pid, "TOOK %s", "a descriptor");
		close(taken);
	}
	close(fd);
	/* As ptrace(2) is allowed, but without a trace. */
	struct iovec own = {text, 1}, its = {(void *)8, 1};
	if (process_vm_readv(atoi(pid), &own, 1, &its, 1, 0) >= 0 || errno == EFAULT)
		got(pid, "TRACED %s", "it");
}

/* Whatever has our name, until somebody ends us. A program can give itself any name, but these do
 * not. */
static int peek(void)
{
	int may_trace = getenv("MAY_TRACE") != NULL;

	puts("ready");
	for (;;) {
		DIR *proc = opendir("/proc");
		struct dirent *entry;
		while ((entry = readdir(proc))) {
			if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && is_ours(entry->d_name))
				peek_at(entry->d_name, may_trace);
		}
		closedir(proc);
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} table[] = {{"release-agent", release_agent}, {"host-files", host_files},
	             {"descriptors", descriptors}, {"disks", disks}, {"chroot-out", chroot_out},
	             {"by-handle", by_handle}, {"groups", groups}, {"peek", peek}};
	setbuf(stdout, NULL);
	for (size_t i = 0; argc > 1 && i < sizeof(table) / sizeof(*table); i++)
		if (strcmp(argv[1], table[i].name) == 0)
			return table[i].run();
	return 2;
}
"""


def attack(host, task, attacker, what, name="app", fill=None, **changes):
    """Run one of the attacker's ways in a container; the lines it printed."""

    def fill_layer(path):
        (path / "bin").mkdir()
        (path / "bin/attack").write_bytes(attacker.read_bytes())
        (path / "bin/attack").chmod(0o755)
        if fill:
            fill(path)

    event = task.run(["/bin/attack", what], name=name, layers=image(host, fill_layer), **changes)
    assert event["exitCode"] == 0, task.output(name)
    return task.output(name).splitlines()


class Swapper:
    """Exchanges two names of a directory as fast as it can, as a container sharing it would."""

    def __init__(self, one, other):
        self.names = os.fsencode(one), os.fsencode(other)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.count = 0

    def _run(self):
        libc = ctypes.CDLL(None, use_errno=True)
        while not self.ended.is_set():
            if libc.renameat2(AT_FDCWD, self.names[0], AT_FDCWD, self.names[1], RENAME_EXCHANGE):
                raise OSError(ctypes.get_errno(), "renameat2")
            self.count += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        assert self.count > 0


# --- the runtime's own program and descriptors


def test_cve_2019_5736_the_runtime_cannot_be_overwritten(host, task, canary):
    """The command and the interpreter are /proc/self/exe, and another container waits to write."""
    digest = hashlib.sha256(Path(program("ecs-task")).read_bytes()).hexdigest()

    def fill(path):
        (path / "script").write_text("#!/proc/self/exe\n")
        (path / "script").chmod(0o755)
        (path / "exe").symlink_to("/proc/self/exe")

    layers = image(host, fill)
    for n, args in enumerate((["/proc/self/exe"], ["/script"], ["/exe"], ["/proc/1/exe"])):
        task.create(args, name=f"c{n}", layers=layers)
        with contextlib.suppress(RequestError):
            task.call("start", container=f"c{n}")
            assert task.connection.event("exited", f"c{n}")["exitCode"] != 0
    # From inside, every process that can be seen is the container's own.
    code, out = task.sh("for p in /proc/[0-9]*; do readlink $p/exe; done", name="look")
    assert code == 0 and set(out.split()) <= {"/bin/busybox"}, out
    assert hashlib.sha256(Path(program("ecs-task")).read_bytes()).hexdigest() == digest


def test_cve_2024_21626_no_descriptor_or_working_directory_leads_out(host, task, attacker, canary):
    lines = attack(host, task, attacker, "descriptors")
    assert not [line for line in lines if line.startswith("OUT")], lines
    for line in lines:
        word, target = line.split(" ", 1)
        assert word in ("0", "1", "2", "cwd"), f"an inherited descriptor: {line}"
        assert re.fullmatch(r"pipe:\[\d+\]|/dev/null|/", target), line


@pytest.mark.parametrize("mode,may_trace", [("task", False), ("task", True), ("host", False)])
def test_cve_2019_5736_and_2016_9962_a_neighbour_that_sees_our_processes_has_no_use_of_them(
        host, attacker, canary, mode, may_trace):
    """Of a shared process namespace: starts, execs and health checks, before they run a program."""
    task = Task(host, pidMode=mode)
    exe = Path(program("ecs-task"))
    digest = hashlib.sha256(exe.read_bytes()).hexdigest()

    def fill(path):
        (path / "bin").mkdir()
        shutil.copy(attacker, path / "bin/attack")

    caps = DEFAULT_CAPS + (["CAP_SYS_PTRACE"] if may_trace else [])
    task.create(["/bin/attack", "peek"], name="peek", layers=image(host, fill), config={"process": {
        "env": [f"CANARY={canary}/secret", *(["MAY_TRACE=1"] if may_trace else [])],
        "capabilities": {"bounding": caps, "permitted": caps, "effective": caps}}})
    task.call("start", container="peek")
    wait_for(lambda: "ready" in task.output("peek"))

    def seen():
        return set(re.findall(r"^seen with (\w+)", task.output("peek"), re.M))

    task.create(["/bin/sleep", "1000"], name="checked", user="app",
                healthCheck=shell("true", interval=0.02))
    task.call("start", container="checked")
    # The last thing that ours do is to look for the program: the longer, the sooner they are met.
    path = {"process": {"env": ["PATH=" + "/nowhere:" * 4000 + "/bin"]}}
    for n in range(200):
        name = f"v{n}"
        event = task.run(["true"], name=name, user="app" if n % 2 else "", init=n % 3 == 0,
                         config=path)
        assert event["exitCode"] == 0
        assert exec_sh(task, "true", container="checked")[0] == 0
        if n >= 3 and len(seen()) >= 2:
            break
    # Meanwhile it has met some, by then with nothing that their container has not got.
    lines = set(task.output("peek").splitlines()) - {"ready"}
    assert seen(), "none was met, so nothing was tried"
    if mode == "task":
        assert seen() <= {"0" * 16, DEFAULT_CAPS_MASK}, lines
    assert not [line for line in lines if not line.startswith("seen")], lines
    assert hashlib.sha256(exe.read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("cwd", ["/proc/self/fd/7", "/proc/self/fd/3/../..", "/proc/1/cwd",
                                 "/proc/self/root/../..", "/link"])
def test_cve_2024_21626_a_working_directory_of_the_host_is_not_taken(host, task, canary, cwd):
    def fill(path):
        (path / "link").symlink_to("/proc/self/fd/5/../../../../../../../..")

    try:
        task.create(["/bin/ls", "-a", "."], layers=image(host, fill),
                    config={"process": {"cwd": cwd}})
        task.call("start", container="app")
    except RequestError as error:
        assert re.search("working directory|process.cwd", error.message)
    else:
        task.connection.event("exited", "app")
        assert "script" not in task.output() and "canary" not in task.output()


# --- mount targets


def race(host, task, canary, make, rounds=25):
    """Start containers while names of a shared volume are being exchanged; what they printed."""
    shared = host.base / "shared"
    (shared / "real/below").mkdir(parents=True)
    (shared / "link").symlink_to(canary.parent)  # an absolute path of the host
    layers = [host.busybox_layer()]
    outputs = []
    with Swapper(shared / "real", shared / "link"):
        for n in range(rounds):
            name = f"c{n}"
            task.create(
                ["/bin/sh", "-c", "find / -name proc -prune -o -name secret -print; "
                                   "ls -R /shared 2>/dev/null"],
                name=name, layers=layers, config={"mounts": make(shared)},
            )  # fmt: skip
            with contextlib.suppress(RequestError):
                task.call("start", container=name)
                task.connection.event("exited", name)
                outputs.append(task.output(name))
    assert outputs, "every start failed, so nothing was tried"
    return outputs


@pytest.mark.parametrize("deep", ["real", "real/below", "real/new"])
def test_cve_2021_30465_a_swapped_link_leads_no_mount_outside(host, task, canary, deep):
    source = host.base / "source"
    source.mkdir()
    (source / "mark").write_text("m")
    outputs = race(host, task, canary, lambda shared: [
        bind(shared, "/shared"), bind(source, f"/shared/{deep}")])
    for out in outputs:
        assert "secret" not in out, out


def test_cve_2024_45310_a_swapped_link_makes_no_file_outside(host, task, canary):
    source = host.base / "file"
    source.write_text("f")
    race(host, task, canary, lambda shared: [
        bind(shared, "/shared"), bind(source, "/shared/real/made/by/mount")])
    # The canary fixture sees whether anything was made beside the secret.
    assert not (canary.parent / "made").exists()


def test_a_link_in_a_volume_leads_no_mount_to_procfs(host, task, canary):
    """CVE-2019-16884, CVE-2025-52881: what reads and writes /proc must reach procfs."""
    volume = host.base / "volume"
    volume.mkdir()
    (volume / "way").symlink_to("/proc/self")
    task.create(["/bin/true"], config={"mounts": [
        bind(volume, "/volume"), bind(canary, "/volume/way/attr")]})
    with pytest.raises(RequestError, match="mount at /volume/way/attr"):
        task.call("start", container="app")


# --- masked and read-only paths


def console_traps(volume, canary, pattern):
    """What a container would put in the way of /dev/console and of its devpts."""
    (volume / "pts").mkdir(parents=True, exist_ok=True)
    (volume / "console").symlink_to(pattern)
    (volume / "ptmx").symlink_to(canary / "secret")
    (volume / "pts/ptmx").symlink_to(canary / "secret")
    for n in range(3):
        (volume / f"pts/{n}").symlink_to(pattern)
    (volume / "link").symlink_to(canary)


def test_cve_2025_52565_the_console_is_bound_to_nothing_of_the_container_s(host, task, canary):
    """Terminals of starts and of execs, while names of a volume at /dev and /dev/pts are exchanged."""
    pattern = Path("/proc/sys/kernel/core_pattern")
    before, volume = pattern.read_text(), host.base / "volume"
    console_traps(volume, canary, pattern)
    console_traps(volume / "dev", canary, pattern)
    swapped = [bind(volume, "/volume"), bind(volume / "dev", "/dev/below")]
    script = ("tty; stat -c %t:%T /dev/console; grep -c ' /dev/console devpts' /proc/self/mounts; "
              "echo attack > /dev/console; sleep 1000")
    with Swapper(volume / "dev/pts", volume / "link"):
        for n in range(6):
            name = f"c{n}"
            task.create(["/bin/sh", "-c", script], name=name, config={
                "process": {"terminal": True},
                "mounts": [*swapped, *([bind(volume / "dev", "/dev/pts")] if n % 2 else [])]})
            task.call("start", container=name)
            wait_for(lambda name=name: "attack" in task.output(name))
            # 0x88: /dev/pts/0 of its own devpts, bound over a file that we have made.
            assert "88:0\r\n1\r\n" in task.output(name)
            for _ in range(4):
                if n % 2 == 0:
                    master = terminal(task, ["/bin/tty"], container=name)
                    assert "/dev/pts/1" in read_terminal(master, None)
                    os.close(master)
                    task.connection.event("exec-exited", name)
                else:  # what is there is no devpts
                    with pytest.raises(RequestError, match="make the terminal"):
                        terminal(task, ["/bin/tty"], container=name)
            task.call("stop", container=name, timeoutUsec=0)
            task.connection.event("exited", name)
    assert pattern.read_text() == before


@pytest.mark.parametrize("null", ["link", "missing", "file"])
def test_cve_2025_31133_masks_do_not_depend_on_the_container_s_dev_null(host, task, canary, null):
    """A volume in the place of /dev decides what /dev/null is, but not what masks /proc."""
    volume = host.base / "dev"
    volume.mkdir()
    if null == "link":
        (volume / "null").symlink_to("/proc/sys/kernel/core_pattern")
    elif null == "file":
        (volume / "null").write_text("not null")
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    task.create(["/bin/sh", "-c", "cat /proc/keys /proc/timer_list | wc -c; "
                                  "ls /sys/firmware | wc -l; echo x > /proc/keys"],
                config={"mounts": [bind(volume, "/dev")]})
    try:
        task.call("start", container="app")
    except RequestError as error:
        assert "/dev" in error.message
    else:
        task.connection.event("exited", "app")
        assert task.output().split() == ["0", "0"]
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern
    assert (volume / "null").is_symlink() or not (volume / "null").exists() \
        or (volume / "null").read_text() == "not null"


def test_cve_2025_52881_writes_of_ours_reach_procfs_and_nothing_else(host, task, canary):
    """A tmpfs or volume beside procfs cannot catch sysctls and labels that we write."""
    for n, target in enumerate(("/proc", "/proc/sys", "/proc/self/attr", "//proc/sys/net")):
        with pytest.raises(RequestError, match="/proc"):
            task.create(["/bin/true"], name=f"c{n}", config={
                "mounts": [{"type": "tmpfs", "destination": target, "source": "tmpfs",
                            "options": []}],
                "linux": {"sysctl": {"kernel.msgmax": "4096"}}})
            task.call("start", container=f"c{n}")


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_cve_2023_28642_kernel_file_systems_are_not_mounted_through_links(host, task, canary, name):
    def fill(path):
        (path / "elsewhere").mkdir()
        (path / name).symlink_to("elsewhere")

    task.create(["/bin/true"], layers=image(host, fill))
    with pytest.raises(RequestError, match=f"the image's /{name} is a symbolic link"):
        task.call("start", container="app")


def test_an_etc_that_is_a_link_gets_its_files_inside(host, task, canary):
    def fill(path):
        (path / "etc").symlink_to(canary)

    def base(path):
        (path / "bin").mkdir()
        (path / "bin/sh").write_bytes(Path(BUSYBOX).read_bytes())
        (path / "bin/sh").chmod(0o755)

    code, out = task.sh("read line < /etc/hosts; echo $line",
                        layers=[host.layer(base), host.layer(fill)])
    assert code == 0 and "localhost" in out


# --- the kernel's ways out


def test_cve_2022_0492_no_cgroup_with_a_release_agent_can_be_had(host, task, attacker, canary):
    lines = attack(host, task, attacker, "release-agent")
    assert len(lines) == 5
    assert not [line for line in lines if line.endswith("worked")], lines


def test_files_that_command_the_host_cannot_be_written(host, task, attacker):
    lines = attack(host, task, attacker, "host-files")
    assert len(lines) > 10
    assert not [line for line in lines if line.endswith("worked")], lines


def test_no_disk_or_other_device_of_the_host_opens(host, task, attacker):
    assert attack(host, task, attacker, "disks") == []


def test_chroot_and_file_handles_do_not_lead_out(host, task, attacker, canary):
    lines = attack(host, task, attacker, "chroot-out", name="chroot")
    assert "canary" not in lines and "proc" in lines
    assert attack(host, task, attacker, "by-handle", name="handle") == [
        "open_by_handle_at Operation not permitted"]


# --- identities


@pytest.mark.parametrize("user", ["", "1000", "app", "65534:65534"])
def test_cve_2022_29162_no_capability_is_inheritable(task, user):
    code, out = task.sh("cat /proc/self/status", **({"user": user} if user else {}))
    assert code == 0
    assert fields(out, "CapInh", "CapAmb") == ["0" * 16] * 2
    if user:
        assert fields(out, "CapPrm", "CapEff") == ["0" * 16] * 2


def test_cve_2023_25173_supplementary_groups_are_set_up_and_not_inherited(host, task, attacker):
    """A file that is denied to a group is denied to a user whom the image puts into it, and the
    groups of whoever started us are nobody's."""

    def fill(path):
        (path / "denied").write_text("x")
        (path / "denied").chmod(0o604)
        os.chown(path / "denied", 0, 2000)

    for name, user, identity, opened in (
        ("app", "app", "1000:1001 2000", "Permission denied"),
        ("number", "1000", "1000:1001 2000", "Permission denied"),
        ("other", "4321:4321", "4321:4321", "worked"),
    ):
        lines = attack(host, task, attacker, "groups", name=name, fill=fill, user=user)
        ids, *groups = lines[0].split()
        expected_ids, *expected = identity.split()
        assert ids == expected_ids
        assert set(groups) - {ids.split(":")[1]} == set(expected), lines
        assert lines[1] == f"open-denied-to-group {opened}"


def test_cve_2021_21334_the_environment_is_the_container_s_own(task):
    path = "PATH=/bin"
    for n in range(6):
        task.create(["/bin/sh", "-c", "env; sleep 1000"], name=f"c{n}",
                    config={"process": {"env": [path, f"OWN_{n}=secret-{n}"]}})
    for n in range(6):
        task.call("start", container=f"c{n}")
    for n in range(6):
        wait_for(lambda n=n: f"secret-{n}" in task.output(f"c{n}"))
        found = re.findall(r"^(\w+)=", task.output(f"c{n}"), re.M)
        assert set(found) <= {"PATH", f"OWN_{n}", "HOSTNAME", "HOME", "PWD", "SHLVL", "_"}, found
    # Nor can one look at another's processes.
    code, out = task.sh("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/environ; done", name="look")
    assert "secret-" not in out


def memory(pid):
    """All that can be read of a process."""
    found = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, last = (int(word, 16) for word in line.split()[0].split("-"))
            if line.split()[1].startswith("r") and not line.endswith(("[vvar]", "[vsyscall]")):
                file.seek(first)
                with contextlib.suppress(OSError):
                    found.append(file.read(last - first))
    return b"".join(found)


def test_cve_2016_9962_and_2019_5736_an_init_process_has_nothing_of_the_supervisor(task):
    """Neither what other containers were given nor a file of ours that can be written. It is what an
    image finds under Docker, with a filter that lets no more than execve(2) through, too."""
    task.create(["/bin/sh", "-c", "exec sleep 1000"], config={"process": {"env": [f"PASSWORD={SECRET}"]}})
    task.call("start", container="app")
    look = ("trap 'exit 5' TERM; tr '\\0' ' ' < /proc/1/cmdline; echo; tr '\\0' '\\n' < /proc/1/environ;"
            "echo by number 1 > /proc/1/fd/1; while :; do sleep 0.05; done")
    profile = {"defaultAction": "SCMP_ACT_ALLOW",
               "syscalls": [{"names": ["execveat"], "action": "SCMP_ACT_ERRNO"}]}
    task.create(["/bin/sh", "-c", look, "x"], name="user", user="app", init=True, restart=True,
                seccomp={"profile": json.dumps(profile)}, config={"process": {"env": ["PATH=/bin", "OWN=x"]}})
    task.create(["/bin/sh", "-c", "echo x > /proc/1/exe; exec sleep 1000"], name="root", init=True)
    pids = {name: task.call("start", container=name)["pid"] for name in ("user", "root")}
    wait_for(lambda: "by number 1\n" in task.output("user"))
    command, *others = task.output("user").splitlines()
    assert command.split() == ["/sbin/docker-init", "--", "/bin/sh", "-c", *look.split(), "x"]
    assert {"PATH=/bin", "OWN=x", "HOME=/home/app"} <= set(others)
    wait_for(lambda: "Text file busy" in task.output("root", 2))

    assert SECRET.encode() in memory(task.container_pid()), "the test can find it"
    for pid in pids.values():
        found = memory(pid)
        assert b"docker-init" in found and SECRET.encode() not in found
        with open(f"/proc/{pid}/exe", "rb") as file:
            seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
        assert seals & fcntl.F_SEAL_WRITE and seals & fcntl.F_SEAL_SEAL
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        assert sum(int(n) for n in re.findall(r"^Private_\w+: +(\d+) kB", rollup, re.M)) <= 64
    task.call("stop", container="user", timeoutUsec=30_000_000)
    assert task.connection.event("exited", "user")["exitCode"] == 5
    task.call("start", container="user")
    wait_for(lambda: task.output("user").count("by number 1\n") == 2)


def test_cve_2020_15257_no_abstract_socket_of_ours_is_in_the_host_s_network(task):
    code, out = task.sh("grep -c @.*ecs /proc/net/unix")
    assert out.strip() == "0"
