"""EFS and NFS volumes against a real server, which is here in the same host, and stops answering."""

import json

import pytest

from controlplane.client import wait_for
from harness.taskdef import task

FILE_SYSTEM = "fs-0123456789abcdef0"
EXPORTS = "/srv/nfs *(rw,no_root_squash,insecure,fsid=0,no_subtree_check)\n"
SERVER = "[nfsd]\nvers3=n\nlease-time=10\ngrace-time=10\n[mountd]\nmanage-gids=n\n"
HANG = "add table inet hang; add chain inet hang in { type filter hook input priority 0; tcp dport 2049 drop; tcp sport 2049 drop; }"
IDLE = "trap 'exit 0' TERM; while :; do sleep 0.1; done"

# Does what the real one does as far as anybody can see it, without the tunnel.
MOUNT_EFS = f"""#!/bin/sh
set -e
echo "$@" >/root/mount.efs.log
[ "$1" = "{FILE_SYSTEM}:/" ] && [ "$3" = -o ] || {{ echo "unexpected arguments: $*" >&2; exit 1; }}
uri=$(echo "$4" | sed -n 's/.*,awscredsuri=\\([^,]*\\).*/\\1/p')
curl --silent --fail "http://169.254.170.2$uri" >/root/mount.efs.credentials ||
	{{ echo "Unsuccessful retrieval of AWS security credentials" >&2; exit 1; }}
exec mount -t nfs4 -o nfsvers=4.1,noresvport 127.0.0.1:/ "$2"
"""


def efs(**more):
    return {"name": "efs", "efsVolumeConfiguration": {"fileSystemId": FILE_SYSTEM, **more}}


def nfs(options="addr=localhost,nfsvers=4.1,hard,noresvport"):
    return {"name": "efs", "dockerVolumeConfiguration": {"scope": "task", "driverOpts": {
        "type": "nfs", "device": ":/", "o": options}}}  # fmt: skip


def with_volume(guest, command, volume, **more):
    points = [{"sourceVolume": "efs", "containerPath": "/efs"}]
    return (guest.container(command, mountPoints=points, **more),), {"volumes": [volume]}


@pytest.fixture(scope="module")
def server(guest):
    guest.write("/etc/exports", EXPORTS)
    guest.write("/etc/nfs.conf.d/test.conf", SERVER)
    domain = f"{FILE_SYSTEM}.efs.{guest.standin.region}.amazonaws.com"
    # In a small host the server would offer less than what clients of EFS ask for.
    guest.run(
        f"mkdir -p /srv/nfs && echo '127.0.0.1 {domain}' >>/etc/hosts && systemctl start proc-fs-nfsd.mount && "
        "echo 1048576 >/proc/fs/nfsd/max_block_size && systemctl start nfs-server"
    )
    yield guest
    guest.run("systemctl stop nfs-server; rm -f /usr/sbin/mount.efs")


def volume_processes(guest):
    return guest.run("pgrep -x ecs-volume", check=False).stdout.split()


def test_tasks_share_a_file_system_and_the_host_sees_none_of_it(server):
    guest = server
    containers, more = with_volume(
        guest, "grep ' /efs ' /proc/mounts; echo written >/efs/file; " + IDLE, efs(), logs="one")  # fmt: skip
    one = guest.run_task(*containers, **more)
    (line,) = guest.wait_logs(lambda lines: len(lines) == 1, "one")
    options = set(line.split()[3].split(","))
    assert options >= {"vers=4.1", "rsize=1048576", "wsize=1048576", "hard", "timeo=600", "retrans=2", "noresvport",
                       "addr=127.0.0.1", "nosharecache"}  # fmt: skip
    assert line.split()[2] == "nfs4"
    assert guest.run("grep nfs4 /proc/mounts", check=False).stdout == ""
    (pid,) = volume_processes(guest)
    status = guest.output(f"grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/{pid}/status").split()
    # CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH; CAP_NET_BIND_SERVICE is for mount.efs.
    assert status[1::2] == [f"{0x200004:016x}", f"{0x200404:016x}", "1", "2"]
    containers, more = with_volume(guest, "cat /efs/file; echo more >>/efs/file", nfs(), logs="two")
    guest.run_to_end(*containers, **more)
    assert guest.wait_logs(lambda lines: len(lines) == 1, "two") == ["written"]
    assert guest.output("cat /srv/nfs/file") == "written\nmore\n"
    # It is the supervisor's: none of these is needed for it.
    guest.run("systemctl restart ecs-launcher ecs")
    assert len(volume_processes(guest)) == 1
    guest.standin.stop_task(one["arn"])
    guest.wait_task(one["arn"], "STOPPED")
    wait_for(lambda: not volume_processes(guest), 30, lambda: "ecs-volume is left")
    guest.wait_clean()


@pytest.fixture
def hang(server):
    """Hangs the server; it answers again when called with False, and after the test."""
    table = {"added": False}

    def hang(wanted):
        if wanted != table["added"]:
            server.run(["nft", HANG if wanted else "delete table inet hang"])
        table["added"] = wanted

    yield hang
    hang(False)


def test_a_server_that_hangs_holds_up_nobody_else(server, hang):
    guest = server
    # The open file has something to be written when it is closed, which waits uninterruptibly.
    write = "trap '' TERM; exec 3>/efs/big; while :; do echo line >&3; sleep 0.1; done"
    containers, more = with_volume(guest, write, efs(), logs=None, stopTimeout=2)
    hung = guest.run_task(*containers, **more)
    wait_for(lambda: guest.run("test -e /srv/nfs/big", check=False).returncode == 0, 60, lambda: "no file is open")
    hang(True)
    containers, more = with_volume(guest, "true", efs(), logs=None)
    late = guest.standin.run_task(task(*containers, **more))
    guest.standin.stop_task(hung["arn"])
    other = guest.run_to_end(guest.container("exit 7", logs=None))
    assert other["containers"][0]["exitCode"] == 7
    guest.restart("ecs-launcher")
    guest.restart()
    # One whose mount waits can be stopped.
    guest.standin.stop_task(late)
    guest.wait_task(late, "STOPPED")
    guest.wait_task(hung["arn"], "STOPPED")
    assert "giving up requests of the task's volumes" in guest.journal_of_ours()
    guest.wait_clean()
    hang(False)
    wait_for(lambda: not volume_processes(guest), 60, lambda: "ecs-volume is left")


def test_what_needs_efs_utils_is_done_by_mount_efs_or_refused(server):
    guest = server
    wanted = efs(transitEncryption="ENABLED", transitEncryptionPort=20049,
                 authorizationConfig={"accessPointId": "fsap-0123456789abcdef0", "iam": "ENABLED"})  # fmt: skip
    containers, more = with_volume(guest, "ls -d /efs/file; " + IDLE, wanted, logs="efs")
    refused = guest.run_task(*containers, status="STOPPED", **more)
    assert "needs mount.efs of amazon-efs-utils, which is not installed" in refused["stoppedReason"]

    guest.write("/usr/sbin/mount.efs", MOUNT_EFS, 0o755)
    running = guest.run_task(*containers, **more)
    assert guest.wait_logs(lambda lines: len(lines) == 1, "efs") == ["/efs/file"]
    device, place, _, options = guest.output("cat /root/mount.efs.log").split()
    assert place == f"/run/ecs/mounts/{running['arn'].rsplit('/', 1)[1]}/efs"
    before, uri, after = options.partition(",awscredsuri=/v2/credentials/")
    assert before == "rw,tls,tlsport=20049,iam" and uri and after.endswith(",accesspoint=fsap-0123456789abcdef0")
    assert json.loads(guest.output("cat /root/mount.efs.credentials"))["AccessKeyId"]
    assert place in guest.output("cat /proc/mounts"), "its watchdog looks for it"
    plain = guest.run_task(
        guest.container("echo $AWS_CONTAINER_CREDENTIALS_RELATIVE_URI; " + IDLE, logs="plain"))  # fmt: skip
    (other,) = guest.wait_logs(lambda lines: len(lines) == 1, "plain")
    ask = "curl --silent --output /dev/null --write-out '%{http_code}' http://169.254.170.2"
    assert guest.output(f"{ask}/v2/credentials/{after.split(',')[0]}") == "200", "the watchdog is in a service of its own"
    assert guest.output(ask + other) == "400", "a role that nothing is mounted with is its task's alone"
    guest.standin.stop_task(plain["arn"])
    # The reaper finds what a holder that was killed has left.
    guest.run("pkill -KILL -x ecs-volume")
    guest.standin.stop_task(running["arn"])
    guest.wait_task(running["arn"], "STOPPED")
    guest.wait_clean()
