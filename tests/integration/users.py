"""The users that the programs run as; made on the host that runs the tests where they are missing."""

import pwd
import subprocess

NAMES = ("ecs-agent", "ecs-image", "ecs-metadata", "ecs-logs")


def ensure_users():
    for name in NAMES:
        try:
            pwd.getpwnam(name)
        except KeyError:
            subprocess.run(
                ["useradd", "--system", "--user-group", "--no-create-home",
                 "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", name],
                check=False, capture_output=True,
            )
            pwd.getpwnam(name)  # another test run may have been quicker


def uid(name):
    return pwd.getpwnam(name).pw_uid


def as_user(name, command):
    """The command line that runs command as this user without capabilities."""
    return ["setpriv", "--reuid", name, "--regid", name, "--clear-groups", "--inh-caps=-all",
            "--bounding-set=-all", "--no-new-privs", *command]
