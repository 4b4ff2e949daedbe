"""Disk images of a Debian 12 host with systemd, made natively and cached between runs.

Two stages, both in /var/cache/ecs-agent-tests (ECS_TEST_CACHE) and named by a hash of what they are
made from: the tarball of Debian's packages, and the image with the packages under test installed
from it by apt, as a user would. A guest never writes to an image, see guest.py.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass

CACHE = pathlib.Path(os.environ.get("ECS_TEST_CACHE", "/var/cache/ecs-agent-tests"))
KEEP = 8  # images; a tarball of Debian for a week, then its updates are wanted
KEEP_DAYS = 7
DISK_SIZE = "8G"

# Everything that a package of ours or a test may want: apt in a guest without KVM is slow.
HOST = """systemd systemd-sysv dbus udev linux-image-cloud-amd64 openssh-server iproute2 nftables curl
    ca-certificates procps kmod busybox-static libcap2-bin logrotate apparmor"""
DEPENDENCIES = """libcurl4 libjson-c5 libsystemd0 libcap2 libseccomp2 libsqlite3-0 libarchive13 zlib1g
    libzstd1 libisal2 libssl3 libnl-route-3-200 libnftables1 libmicrohttpd12 libwslay1"""
# The integration tests, run in the guest, and file systems of volumes.
TESTS = """python3 python3-pytest python3-aiohttp python3-botocore python3-boto3 python3-cryptography
    docker-registry skopeo umoci attr acl zstd libarchive-tools sqlite3 strace libcmocka0 nfs-kernel-server
    nfs-common"""

EXCLUDE = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
# What needs time at boot or wakes up later, and has no part in the tests.
MASK = """apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
    e2scrub_reap.service getty@tty1.service systemd-networkd-wait-online.service
    systemd-random-seed.service systemd-pstore.service systemd-update-utmp.service
    systemd-update-utmp-runlevel.service systemd-logind.service sys-kernel-debug.mount
    sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount
    dev-hugepages.mount kmod-static-nodes.service modprobe@configfs.service
    modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service
    modprobe@fuse.service modprobe@loop.service apparmor.service systemd-binfmt.service
    proc-sys-fs-binfmt_misc.automount"""
DISABLE = "docker-registry.service nfs-server.service nfs-client.target rpcbind.service rpcbind.socket"

MODULES = "virtio_pci virtio_blk"  # ext4 is built in; udev loads the rest

FILES = {
    "etc/hostname": "guest\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 guest\n",
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    "etc/fstab": "/dev/vda / ext4 errors=remount-ro 0 0\n",
    # What qemu's user-mode network hands out; fixed, since nothing has to wait for it then.
    "etc/systemd/network/guest.network": (
        "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nLinkLocalAddressing=no\n"
    ),
    # A connection that is asked for too early is lost for seconds in qemu's network, see guest.py.
    "etc/systemd/system/guest-ready.service": (
        "[Unit]\nAfter=ssh.service\n[Service]\nType=oneshot\nStandardOutput=tty\nTTYPath=/dev/console\n"
        "ExecStart=/bin/busybox sh -c '"
        "until read up </sys/class/net/eth0/carrier && [ $$up = 1 ] && grep -q 10.0.2.15 /proc/net/fib_trie; "
        "do usleep 50000; done; echo guest is ready'\n[Install]\nWantedBy=multi-user.target\n"
    ),
    "etc/systemd/journald.conf.d/guest.conf": "[Journal]\nStorage=persistent\nRateLimitBurst=0\n",
    "etc/modprobe.d/guest.conf": "blacklist kvm_amd\nblacklist kvm_intel\n",
    # The port is forwarded from the host's loopback only, to a machine that is thrown away.
    "etc/ssh/sshd_config.d/guest.conf": (
        "UsePAM no\nUseDNS no\nPermitRootLogin yes\nPermitEmptyPasswords yes\n"
        "MaxSessions 100\nMaxStartups 100\nLogLevel FATAL\n"
    ),
}

INIT = """#!/bin/busybox sh
set -e
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do /bin/busybox insmod "$module"; done
until [ -b /dev/vda ]; do /bin/busybox usleep 10000; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox umount /proc
/bin/busybox umount /sys
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""


@dataclass(frozen=True)
class Image:
    """What a guest boots from: a raw ext4 disk, a kernel and its initial file system."""

    disk: pathlib.Path
    kernel: pathlib.Path
    initrd: pathlib.Path


def make(packages=()):
    """The image with these .deb files installed, from the cache where it is there already."""
    packages = sorted(pathlib.Path(package).resolve() for package in packages)
    name = "vm-" + _hash(pathlib.Path(__file__).read_bytes(), *(p.read_bytes() for p in packages))
    directory = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked():
        if not directory.exists():
            _forget_old()
            _make(directory, _base(), packages)
        os.utime(directory)
    return Image(directory / "disk", directory / "kernel", directory / "initrd")


def _hash(*parts):
    state = hashlib.sha256()
    for part in parts:
        state.update(hashlib.sha256(part).digest())
    return state.hexdigest()[:16]


@contextlib.contextmanager
def _locked():
    with open(CACHE / "vm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget_old():
    by_age = sorted(CACHE.glob("vm-*/"), key=lambda path: path.stat().st_mtime)
    for path in by_age[: -KEEP + 1]:
        shutil.rmtree(path)
    for path in CACHE.glob("vm-base-*.tar"):
        if time.time() - path.stat().st_ctime > KEEP_DAYS * 86400:
            path.unlink()


def _base():
    """The tarball of Debian and of what the packages under test depend on."""
    include = ",".join(f"{HOST} {DEPENDENCIES} {TESTS}".split())
    options = [f"--dpkgopt=path-exclude={path}" for path in EXCLUDE]
    # The initial file system is ours, see INIT.
    hook = (
        'mkdir -p "$1/etc/initramfs-tools" && '
        'echo update_initramfs=no >"$1/etc/initramfs-tools/update-initramfs.conf"'
    )
    command = [
        "mmdebstrap", "--quiet", "--variant=minbase", '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=force-confold", *options, f"--essential-hook={hook}", f"--include={include}", "bookworm",
    ]  # fmt: skip
    path = CACHE / f"vm-base-{_hash(repr(command).encode())}.tar"
    if not path.exists():
        with _temporary_file(path) as partial:
            subprocess.run([*command, partial], check=True, stdin=subprocess.DEVNULL)
    return path


@contextlib.contextmanager
def _temporary_file(path):
    partial = path.with_name(f"partial-{path.name}")
    try:
        yield partial
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _make(directory, base, packages):
    with tempfile.TemporaryDirectory(prefix="partial-", dir=CACHE) as work:
        tree = pathlib.Path(work) / "tree"
        image = pathlib.Path(work) / "image"
        tree.mkdir()
        image.mkdir(mode=0o755)
        subprocess.run(["tar", "-C", tree, "-xf", base], check=True)
        _configure(tree)
        _install(tree, packages)
        _boot_files(tree, image)
        subprocess.run(
            ["mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0",
             "-d", tree, image / "disk", DISK_SIZE],
            check=True,
        )  # fmt: skip
        image.rename(directory)


def _configure(tree):
    for path, text in FILES.items():
        path = tree / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
    # What was left out of Debian's packages is to be there of ours.
    (tree / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").unlink()
    (tree / "var/log/journal").mkdir(exist_ok=True)
    _in(
        tree,
        f"""
        passwd --quiet --delete root
        systemctl --quiet mask {" ".join(MASK.split())}
        systemctl --quiet disable {DISABLE}
        systemctl --quiet enable systemd-networkd.service guest-ready.service
        systemd-machine-id-setup
        """,
    )


def _install(tree, packages):
    if not packages:
        return
    for package in packages:
        shutil.copy(package, tree / "tmp")
    names = " ".join(f"/tmp/{package.name}" for package in packages)
    _in(tree, f"apt-get install -y -q --no-install-recommends {names}; rm {names}")


def _in(tree, script):
    """Run a script in the tree, as in a host on which no service may be started."""
    outside = """
        mount -t proc proc "$1/proc"
        mount --rbind /dev "$1/dev"
        exec chroot "$1" /bin/sh -ec "$2"
    """
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        ran = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "sh", "-ec", outside, "sh", tree, script],
            env=environment, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    finally:
        policy.unlink()
    if ran.returncode != 0:
        raise RuntimeError(f"in the tree of the image, exit code {ran.returncode}:\n{script}\n{ran.stdout}")


def _boot_files(tree, image):
    """The kernel, and an initial file system that loads two drivers and mounts the disk."""
    (kernel,) = tree.glob("boot/vmlinuz-*")
    version = kernel.name.removeprefix("vmlinuz-")
    shutil.copy(kernel, image / "kernel")
    shown = subprocess.run(
        ["chroot", tree, "modprobe", "--set-version", version, "--show-depends", "--all", *MODULES.split()],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    paths = [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("insmod ")]
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        for directory in ("bin", "dev", "modules"):
            (root / directory).mkdir()
        shutil.copy(tree / "bin/busybox", root / "bin")
        for number, path in enumerate(dict.fromkeys(paths)):
            shutil.copy(tree / path.lstrip("/"), root / f"modules/{number:02}.ko")
        (root / "init").write_text(INIT)
        (root / "init").chmod(0o755)
        subprocess.run(
            ["bsdtar", "-c", "--format=newc", "-f", image / "initrd", "-C", root, "."], check=True
        )


def main():
    parser = argparse.ArgumentParser(description="Make an image of a host and print where it is.")
    parser.add_argument("packages", nargs="*", help=".deb files to install in it")
    print(make(parser.parse_args().packages).disk)


if __name__ == "__main__":
    main()
