"""The packages: what is in them, whose it is, and what their scripts do, in which order."""

import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import pytest
from users import ensure_users

TOP = pathlib.Path(__file__).resolve().parents[2]
PACKAGING = TOP / "packaging"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PROGRAMS = ("agent", "image", "keeper", "launcher", "logs", "metadata", "network", "task",
            "volume")  # fmt: skip
FILES = {
    "/etc/ecs/ecs.config",
    "/etc/logrotate.d/ecs-agent",
    "/usr/lib/sysusers.d/ecs-agent.conf",
    "/usr/lib/tmpfiles.d/ecs-agent.conf",
    "/usr/sbin/ecs-agent",
    "/usr/sbin/ecs-image",
    "/usr/share/bash-completion/completions/ecs-agent",
    "/usr/share/bash-completion/completions/ecs-image",
    "/usr/share/man/man1/ecs-image.1",
    "/usr/share/man/man5/ecs.config.5",
    "/usr/share/man/man8/ecs-agent.8",
    "/usr/share/zsh/site-functions/_ecs-agent",
} | {f"/usr/libexec/ecs/ecs-{name}" for name in PROGRAMS}
UNITS = {path.name.removesuffix(".in") for path in (PACKAGING / "systemd").glob("*.in")}
CONFFILES = {"/etc/ecs/ecs.config", "/etc/logrotate.d/ecs-agent"}
# Of Debian's alone: what keeps needrestart from stopping tasks, and the AppArmor profile of containers.
OF_DEBIAN = {"/etc/needrestart/conf.d/ecs-agent.conf", "/etc/apparmor.d/ecs-default"}
# In the order in which the daemons need each other.
UPGRADE = ["ecs-metadata.service", "ecs-logs.path", "ecs-logs.service", "ecs-launcher.service", "ecs.service"]
REMOVAL = ["ecs.service", "ecs-launcher.service", "ecs-tasks.service", "ecs-network --remove", "ecs-logs.path",
           "ecs-logs.service", "ecs-metadata.service"]  # fmt: skip


def run(*command, **more):
    ran = subprocess.run(
        [str(word) for word in command], check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, stdin=subprocess.DEVNULL, **more,
    )  # fmt: skip
    assert ran.returncode == 0, f"{command} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def tree_of_top():
    """Every file of the source tree, to see that a build leaves none behind."""
    found = {}
    for path, folders, files in os.walk(TOP):
        # Tests of others write into these while this one runs.
        folders[:] = [name for name in folders if name not in (".git", "__pycache__")]
        found |= {os.path.join(path, name): None for name in files}
    return set(found)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    path = tmp_path_factory.mktemp("packages")
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Deb:
    def __init__(self, path, tree):
        self.path = path
        self.tree = tree  # the unpacked tarball that it was built from


@pytest.fixture(scope="module")
def deb(scratch):
    """The package of ECS_DEB_DIR, built from ECS_DEB_TREE, or one that is built now."""
    folder = os.environ.get("ECS_DEB_DIR")
    tree = os.environ.get("ECS_DEB_TREE")
    if not folder or not tree:
        before = tree_of_top()
        folder, tree = scratch / "deb", scratch / "build/tree"
        run(PACKAGING / "build-deb", "--no-check", "--output", folder, "--keep", scratch / "build")
        assert tree_of_top() == before
    (path,) = pathlib.Path(folder).glob("ecs-agent_*.deb")
    return Deb(path, pathlib.Path(tree))


@pytest.fixture(scope="module")
def installed(deb, scratch):
    """What the package holds, unpacked."""
    root = scratch / "root"
    run("dpkg-deb", "-x", deb.path, root)
    return root


@pytest.fixture(scope="module")
def scripts(deb, scratch):
    """The maintainer scripts, as debhelper has completed them."""
    control = scratch / "control"
    run("dpkg-deb", "-e", deb.path, control)
    return control


@pytest.fixture(scope="module")
def rpm(scratch):
    before = tree_of_top()
    # What is looked at is not what the compiler made of it, which takes a minute.
    cpu = run("rpm", "--eval", "%_target_cpu").strip()
    (scratch / ".rpmrc").write_text(f"optflags: {cpu} -O0\n")
    run(PACKAGING / "build-rpm", "--no-check", "--output", scratch / "rpm", env=os.environ | {"HOME": str(scratch)})
    assert tree_of_top() == before
    # The only one, so that the command of the README installs this and nothing else.
    (path,) = (scratch / "rpm").glob("ecs-agent-*.rpm")
    return path


# The tarball


def test_the_tarball_has_every_file_of_the_repository(deb):
    ran = subprocess.run(
        ["git", "-c", f"safe.directory={TOP}", "-C", str(TOP), "ls-files", "-z"], check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    if ran.returncode != 0:
        pytest.skip("this tree is no clone: nothing says what belongs to it")
    tracked = {name for name in ran.stdout.split("\0") if name}
    missing = {name for name in tracked if not (deb.tree / name).exists() and (TOP / name).exists()}
    assert missing == {".gitignore"}


def test_versions_agree():
    (version,) = re.findall(r"^AC_INIT\(\[ecs-agent\], \[(.*)\]\)", (TOP / "configure.ac").read_text(), re.M)
    changelog = run("dpkg-parsechangelog", "-l", PACKAGING / "deb/changelog", "-S", "Version").strip()
    assert changelog.split("-")[0] == version
    spec = (PACKAGING / "rpm/ecs-agent.spec").read_text()
    assert f"%{{!?ecs_version:{version}}}" in spec
    assert re.search(rf"^\* .* - {re.escape(version)}-1$", spec, re.M)
    # The systemd that the units need.
    (systemd,) = re.findall(r"^Requires: +systemd >= (.*)$", spec, re.M)
    assert f"Breaks: systemd (<< {systemd})" in (PACKAGING / "deb/control").read_text().splitlines()
    assert f"systemd {systemd} or later" in (TOP / "README.md").read_text()


# The Debian package


def listing(deb):
    """Mode, owner and target by path."""
    found = {}
    for line in run("dpkg-deb", "-c", deb.path).splitlines():
        mode, owner, _, _, _, path = line.split(None, 5)
        path, _, target = path.partition(" -> ")
        found[path.removeprefix(".").rstrip("/")] = (mode, owner, target)
    return found


def test_the_package_holds_what_an_installation_needs(deb):
    expected = FILES | OF_DEBIAN | {f"/lib/systemd/system/{name}" for name in UNITS}
    files = {path.removesuffix(".gz") for path, (mode, _, _) in listing(deb).items() if mode[0] != "d"}
    files = {path for path in files if not path.startswith(("/usr/share/doc/", "/usr/share/lintian/"))}
    assert files == expected


def test_everything_is_roots_and_nobody_else_can_write(deb):
    for path, (mode, owner, _) in listing(deb).items():
        assert owner == "root/root", path
        expected = {"d": "drwxr-xr-x", "l": "lrwxrwxrwx"}.get(mode[0])
        is_program = path.startswith("/usr/libexec/")
        assert mode == (expected or ("-rwxr-xr-x" if is_program else "-rw-r--r--")), path


def test_commands_of_people_lead_to_the_programs(installed):
    for name in ("ecs-agent", "ecs-image"):
        assert os.readlink(installed / "usr/sbin" / name) == f"../libexec/ecs/{name}"
        assert "Usage: " + name in run(installed / "usr/sbin" / name, "--help")


def test_programs_are_hardened_and_stripped(installed):
    for name in PROGRAMS:
        path = installed / f"usr/libexec/ecs/ecs-{name}"
        assert "DYN" in run("readelf", "-hW", path), f"{name} is not position-independent"
        dynamic = run("readelf", "-dW", path)
        assert "BIND_NOW" in dynamic, name
        assert "NEEDED" in dynamic and "asan" not in dynamic, name
        segments = run("readelf", "-lW", path)
        assert "GNU_RELRO" in segments and re.search(r"GNU_STACK .* RW ", segments), name
        assert ".debug_info" not in run("readelf", "-SW", path), name


def test_configuration_is_kept_as_conffiles(scripts):
    assert set((scripts / "conffiles").read_text().split()) == CONFFILES | OF_DEBIAN


def test_lintian_has_nothing_to_say(deb):
    ran = subprocess.run(
        ["lintian", "--allow-root", "--no-cfg", "--display-info", "--pedantic", str(deb.path)], check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_maintainer_scripts_are_sound(scripts, name):
    run("sh", "-n", scripts / name)
    run("shellcheck", "-s", "sh", PACKAGING / "deb" / name)


# No unit has been enabled, says deb-systemd-helper.
STUB = """#!/bin/sh
set -f
echo "${0##*/} $*" >>"$LOG"
for pattern in $FAIL "deb-systemd-helper *"; do
	case "${0##*/} $*" in $pattern) exit 1 ;; esac
done
exit 0
"""


@pytest.fixture
def on_systemd(tmp_path, installed):
    """Run a maintainer script where systemd seems to run, and see which commands it uses."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name in ("deb-systemd-invoke", "deb-systemd-helper", "systemctl", "systemd-sysusers", "systemd-tmpfiles",
                 "chown", "ecs-network"):  # fmt: skip
        (stubs / name).write_text(STUB)
        (stubs / name).chmod(0o755)

    def ran(script, *arguments, fail="", expected=0):
        log = tmp_path / "log"
        log.write_text("")
        # The programs where prerm has them, and a configuration, in a mount namespace of its own.
        setup = f"""
            mount -t tmpfs none /run && mkdir -p /run/systemd/system
            mkdir -p {tmp_path}/etc && mount -t tmpfs none /etc && mkdir /etc/ecs && touch /etc/ecs/ecs.config
            mount -t tmpfs none /usr/libexec && mkdir /usr/libexec/ecs && cp {stubs}/ecs-network /usr/libexec/ecs
            mount -t tmpfs none /var/log && mount -t tmpfs none /var/lib/misc
            export DPKG_MAINTSCRIPT_PACKAGE=ecs-agent DPKG_MAINTSCRIPT_NAME={script.name}
            exec sh {script} "$@"
        """
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", setup, script.name, *arguments], check=False,
            capture_output=True, text=True,
            env={"PATH": f"{stubs}:{os.environ['PATH']}", "LOG": str(log), "FAIL": fail},
        )  # fmt: skip
        assert done.returncode == expected, done.stderr
        return log.read_text().splitlines()

    return ran


def units(lines, verb):
    """Units in the order in which they were acted on."""
    return [line.split()[-1] for line in lines if line.split()[:2] == ["deb-systemd-invoke", verb]]


def test_an_upgrade_restarts_what_runs_in_order_and_never_the_tasks(scripts, on_systemd):
    for arguments in (["configure", "0.0.1-1"], ["configure", "9.9-1"], ["abort-upgrade", "9.9-1"]):
        lines = on_systemd(scripts / "postinst", *arguments)
        assert units(lines, "try-restart") == UPGRADE
        assert not [line for line in lines if "ecs-tasks" in line or " start " in line or " enable " in line]
        first = [line.split()[0] for line in lines]
        assert first.index("systemd-sysusers") < first.index("systemd-tmpfiles")
        assert first.index("systemd-tmpfiles") < first.index("deb-systemd-invoke")


def test_a_daemon_that_cannot_be_restarted_does_not_fail_the_upgrade(scripts, on_systemd):
    lines = on_systemd(scripts / "postinst", "configure", "0.0.1-1", fail="deb-systemd-invoke*")
    assert units(lines, "try-restart") == UPGRADE


def test_a_first_installation_protects_the_configuration_and_starts_nothing(scripts, on_systemd):
    lines = on_systemd(scripts / "postinst", "configure", "")
    assert "chown root:ecs-agent /etc/ecs/ecs.config" in lines
    assert not units(lines, "start") and not units(lines, "restart")
    assert not [line for line in lines if " enable " in line]


def test_later_installations_leave_the_configurations_owner_alone(scripts, on_systemd):
    lines = on_systemd(scripts / "postinst", "configure", "0.0.1-1")
    assert not [line for line in lines if line.startswith("chown")]


def test_a_removal_stops_the_agent_then_the_tasks_then_what_serves_them(scripts, on_systemd):
    lines = on_systemd(scripts / "prerm", "remove")
    acted = [line.removeprefix("deb-systemd-invoke stop ") for line in lines]
    assert acted[: len(REMOVAL)] == REMOVAL


def test_a_removal_goes_on_where_a_unit_cannot_be_stopped(scripts, on_systemd):
    lines = on_systemd(scripts / "prerm", "remove", fail="*ecs-tasks* ecs-network*")
    assert units(lines, "stop")[:3] == ["ecs.service", "ecs-launcher.service", "ecs-tasks.service"]
    assert "deb-systemd-invoke stop ecs-metadata.service" in lines


@pytest.mark.parametrize("arguments", [["upgrade", "9.9-1"], ["failed-upgrade", "0.0.1-1"], ["deconfigure", "in-favour", "x", "1"]])  # fmt: skip
def test_nothing_is_stopped_when_the_package_stays(scripts, on_systemd, arguments):
    assert on_systemd(scripts / "prerm", *arguments) == []


def test_a_removal_that_was_given_up_starts_what_is_enabled(scripts, on_systemd):
    assert units(on_systemd(scripts / "postinst", "abort-remove"), "start") == ["ecs.service"]


def test_only_a_purge_removes_state(scripts, tmp_path):
    def folders():
        return [tmp_path / name for name in ("var/lib/ecs/data", "var/log/ecs", "run/ecs", "etc/ecs")]

    for folder in folders():
        folder.mkdir(parents=True)
    (tmp_path / "var/lib/ecs/data/agent.db").touch()
    environment = os.environ | {"DPKG_ROOT": str(tmp_path)}
    for argument in ("remove", "upgrade", "disappear", "failed-upgrade", "abort-install", "abort-upgrade"):
        run("sh", scripts / "postrm", argument, env=environment)
        assert all(folder.exists() for folder in folders()), argument
    run("sh", scripts / "postrm", "purge", env=environment)
    assert not [folder for folder in folders() if folder.exists()]
    run("sh", scripts / "postrm", "purge", env=environment)  # once more does no harm


# As ecs-volume does it: the folder of mounts is a mount by itself, and what has been mounted there is seen elsewhere.
MOUNTS = """
mkdir -p efs disk/data run/ecs/mounts/task/volume var/lib/ecs
mount --bind run/ecs/mounts run/ecs/mounts
mount -t tmpfs none efs && touch efs/canary && mount --bind efs run/ecs/mounts/task/volume
"""


@pytest.mark.parametrize(
    "disk, complaint, left",
    [
        ("mount -t tmpfs none var/lib/ecs && mkdir var/lib/ecs/data", "could not be removed altogether", []),
        ("mkdir var/lib/ecs/images && mount --bind disk var/lib/ecs/images", "/var/lib/ecs/images is mounted",
         ["images", "images/data"]),
    ],
    ids=["all of the state", "a part of it"],
)  # fmt: skip
def test_a_purge_removes_nothing_that_is_mounted(scripts, tmp_path, disk, complaint, left):
    setup = f"""{MOUNTS}{disk}
        sh {scripts}/postrm purge 2>&1
        test -e efs/canary
        test ! -e run/ecs
        find var/lib/ecs -mindepth 1 -printf 'left %P\\n'
    """
    environment = os.environ | {"DPKG_ROOT": str(tmp_path)}
    said = run("unshare", "--mount", "sh", "-ec", setup, cwd=tmp_path, env=environment).splitlines()
    assert complaint in "\n".join(said)
    assert [line.split()[1] for line in said if line.startswith("left ")] == left


def test_make_install_lets_nobody_else_read_the_configuration(deb, tmp_path):
    path = tmp_path / "etc/ecs/ecs.config"
    for text in (None, "ECS_CLUSTER=mine\n"):
        if text:
            path.write_text(text)
        run("make", "-s", "-C", deb.tree / "build", "install-data-local", f"DESTDIR={tmp_path}")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_text() == text


def test_another_version_of_a_package_has_the_same_files(deb, scratch):
    printed = run(PACKAGING / "build-deb", "--from", deb.path, "--version", "99.1", "--output", scratch / "99").strip()
    other = Deb(pathlib.Path(printed), None)
    assert run("dpkg-deb", "-f", other.path, "Version").strip() == "99.1-1"
    assert listing(other) == listing(deb)
    (scratch / "compare").mkdir()
    for package in (deb, other):
        run("dpkg-deb", "-x", package.path, scratch / "compare" / package.path.name)
    run("diff", "-r", "--no-dereference", *(scratch / "compare").iterdir())


@pytest.mark.parametrize(
    "name, arguments, complaint",
    [
        ("build-deb", ["--version"], "option --version needs a value"),
        ("build-deb", ["--version", "v1"], "version v1: must be"),
        ("build-deb", ["--version", "1 2"], "version 1 2: must be"),
        ("build-deb", ["--from", "/nonexistent"], "there is no package /nonexistent"),
        ("build-deb", ["--wersion", "1"], "unexpected argument --wersion"),
        ("build-deb", ["--keep", "/"], "--keep /: must be a folder that does not exist yet"),
        ("build-rpm", ["--version", "1-2"], "version 1-2: must be"),
        ("build-rpm", ["--output", ""], "option --output needs a value"),
        ("build-rpm", ["now"], "unexpected argument now"),
    ],
)
def test_bad_options_of_the_commands_are_named(name, arguments, complaint, tmp_path):
    ran = subprocess.run(
        [str(PACKAGING / name), *arguments], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert ran.returncode == 1
    assert complaint in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_build_rpm_says_how_to_install_what_is_missing(tmp_path):
    for name in ("bash", "cat", "dirname", "grep", "mktemp", "rm", "sed", "mkdir"):
        (tmp_path / name).symlink_to(shutil.which(name))
    environment = {"PATH": str(tmp_path)}
    ran = subprocess.run(
        ["bash", str(PACKAGING / "build-rpm"), "--output", str(tmp_path)], check=False, capture_output=True,
        text=True, env=environment,
    )  # fmt: skip
    assert ran.returncode == 1
    command = re.search(r"rpmbuild is missing; run: (sudo dnf install rpm-build && .*)", ran.stderr)[1]
    asked = re.search(r"rpmspec .*\$1 }'", command)[0]
    wanted = run("sh", "-c", asked, cwd=TOP).split()
    assert {"autoconf", "automake", "gcc", "wslay-devel", "pkgconfig(sqlite3)"} <= set(wanted)
    assert run(PACKAGING / "build-rpm", "--help").count(command) == 1


# Installing what commands need


# A package whose service starts at boot, as those of Debian do.
APT_GET = """#!/bin/sh
[ "$1" != update ] || exit 0
test -x /usr/sbin/policy-rc.d && echo "policy $(/usr/sbin/policy-rc.d; echo $?)" >>"$LOG"
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -s /nonexistent /etc/systemd/system/multi-user.target.wants/noisy.service
[ -z "$INTERRUPT" ] || kill -TERM 0
"""
INSTALL = """
mount -t tmpfs none /usr/sbin && mount -t tmpfs none /run && mkdir -p /run/systemd/system
mount -t tmpfs none /etc/systemd && mkdir -p /etc/systemd/system/sockets.target.wants
ln -s /nonexistent /etc/systemd/system/sockets.target.wants/mine.socket
trap : TERM
bash -c '. "$SETUP"; trap "exit 130" INT TERM; ecs_install no-such-package' || r=$?
ls /usr/sbin
exit ${r:-0}
"""


@pytest.mark.parametrize("interrupt, expected", [("", 0), ("yes", 130)])
def test_installing_what_is_missing_starts_nothing_now_or_later(tmp_path, interrupt, expected):
    log = tmp_path / "log"
    for name, text in (("apt-get", APT_GET), ("systemctl", '#!/bin/sh\necho "$*" >>"$LOG"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:/usr/bin:/bin", "LOG": str(log), "INTERRUPT": interrupt,
                                "SETUP": str(PACKAGING / "setup.sh")}  # fmt: skip
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", INSTALL], check=False, capture_output=True, text=True,
        env=environment, start_new_session=True,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (expected, ""), ran.stderr
    assert log.read_text().splitlines() == ["policy 101", "--quiet disable noisy.service"]


# Users, directories and log files


def test_directories_are_those_that_the_launcher_makes():
    text = (TOP / "agent/launcher/directories.c").read_text()
    table = re.findall(r'\{(true|false), "([^"]+)", (NULL|"[^"]+"), (NULL|"[^"]+"), (\d+)\}', text)
    assert len(table) == text[text.index("directories[] = {") : text.index("};")].count("\t{")
    made = set()
    for in_state, path, user, group, mode in table:
        top = "/var/lib/ecs" if in_state == "true" else "/run/ecs"
        path = top if path == "." else f"{top}/{path}"
        made.add((path, mode, *("root" if name == "NULL" else name.strip('"') for name in (user, group))))
    lines = [line.split() for line in (PACKAGING / "tmpfiles.conf").read_text().splitlines() if line[:1] == "d"]
    described = {(path, mode, user, group) for _, path, mode, user, group, _ in lines}
    assert described - {entry for entry in described if entry[0].startswith("/var/log/")} == made


def test_users_and_directories_are_made(installed, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(installed / "usr/lib", root / "usr/lib")
    (root / "etc").mkdir()
    (root / "run").mkdir()
    for _ in range(2):
        run("systemd-sysusers", f"--root={root}", "ecs-agent.conf")
        run("systemd-tmpfiles", f"--root={root}", "--create", "ecs-agent.conf")
    users = dict(line.split(":", 1) for line in (root / "etc/passwd").read_text().splitlines())
    assert set(users) == {"ecs-agent", "ecs-image", "ecs-metadata", "ecs-logs"}
    for name, rest in users.items():
        assert 0 < int(rest.split(":")[1]) < 1000, f"{name} is no system user"
        assert rest.endswith("nologin"), rest
    data = root / "var/lib/ecs/data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert str(data.stat().st_uid) == users["ecs-agent"].split(":")[1]


WRITER = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
print("open", flush=True)
sys.stdin.readline()
os.write(fd, b"after\\n")
"""


def test_a_log_that_is_held_open_is_rotated(tmp_path):
    """The file is cut under its writer, keeps its owner, and what comes later is at its start."""
    ensure_users()
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(parent.stat().st_mode | 0o055)
    logs = tmp_path / "ecs"
    logs.mkdir()
    log = logs / "audit.log"
    log.write_text("before\n")
    log.chmod(0o600)
    for path in (logs, log):
        shutil.chown(path, "ecs-agent", "ecs-agent")
    config = tmp_path / "logrotate.conf"
    config.write_text((PACKAGING / "logrotate").read_text().replace("/var/log/ecs/", f"{logs}/"))
    with subprocess.Popen([sys.executable, "-c", WRITER, str(log)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as writer:  # fmt: skip
        assert writer.stdout.readline() == "open\n"
        inode = log.stat().st_ino
        run("logrotate", "--force", "--state", tmp_path / "state", config)
        assert (logs / "audit.log.1").read_text() == "before\n"
        writer.communicate("go\n")
    assert (log.read_text(), log.stat().st_ino) == ("after\n", inode)
    for path in logs.iterdir():
        assert (path.owner(), stat.S_IMODE(path.stat().st_mode)) == ("ecs-agent", 0o600), path


# The RPM package


def test_the_rpm_holds_what_the_deb_holds(rpm):
    folder = run("rpm", "--eval", "%{?_unitdir}").strip() or "/usr/lib/systemd/system"
    expected = FILES | {f"{folder}/{name}" for name in UNITS}
    listed = set(run("rpm", "-qpl", rpm).split())
    skipped = ("/usr/lib/.build-id", "/usr/share/doc/", "/usr/share/licenses/")
    listed = {path.removesuffix(".gz") for path in listed if not path.startswith(skipped)}
    folders = {"/etc/ecs", "/usr/libexec/ecs", "/usr/share/zsh", "/usr/share/zsh/site-functions"}
    assert listed - folders == expected
    assert set(run("rpm", "-qpc", rpm).split()) == CONFFILES


def test_the_rpm_says_whose_the_files_are(rpm):
    query = "[%{FILENAMES} %{FILEMODES:octal} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEFLAGS:fflags}\\n]"
    found = {line.split()[0]: line.split()[1:] for line in run("rpm", "-qp", "--qf", query, rpm).splitlines()}
    assert found.pop("/etc/ecs/ecs.config") == ["100640", "root:ecs-agent", "cn"]
    for path, (mode, owner, *_) in found.items():
        assert owner == "root:root", path
        assert int(mode, 8) & 0o022 == 0 or mode.startswith("12"), path


def rpm_scripts(rpm):
    text = run("rpm", "-qp", "--scripts", rpm)
    parts = re.split(r"^(\w+) scriptlet \(using /bin/sh\):\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def test_scripts_of_the_rpm_act_in_the_same_order(rpm, tmp_path):
    found = rpm_scripts(rpm)
    assert set(found) == {"preinstall", "postinstall", "preuninstall", "postuninstall"}
    for name, text in found.items():
        assert "%" not in text, f"a macro is left in {name}: {text}"
        (tmp_path / name).write_text(text)
        run("sh", "-n", tmp_path / name)
    for name in ("ecs-agent", "ecs-image", "ecs-metadata", "ecs-logs"):
        assert re.search(rf"^u {name} ", found["preinstall"], re.M)
    restarted = re.search(r"for unit in (.*?);", found["postuninstall"])[1]
    assert restarted.split() == UPGRADE
    body = found["preuninstall"]
    places = [body.index(what) for what in REMOVAL]
    assert places == sorted(places)


@pytest.mark.parametrize("distribution, isal", [("fedora 41", True), ("amzn 2023", False)])
def test_the_spec_names_the_packages_of_each_distribution(distribution, isal):
    spec = PACKAGING / "rpm/ecs-agent.spec"
    command = ["rpmspec", "-q", "--define", distribution]
    required = run(*command, "--buildrequires", spec).splitlines()
    assert ("isa-l-devel" in required) == isal
    # Those of .autogen.sh, too: build-rpm begins with a source tree.
    assert {"autoconf", "automake", "wslay-devel", "libmicrohttpd-devel", "nftables-devel",
            "systemd-rpm-macros"} <= set(required)  # fmt: skip
    assert "Conflicts" not in run("rpmspec", "--parse", "--define", distribution, spec).split("%description")[1]
    assert run(*command, "--conflicts", spec).split() == ["ecs-init"]
