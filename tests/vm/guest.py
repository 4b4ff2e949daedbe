"""A machine of its own: qemu without KVM, a throw-away overlay over an image, commands by ssh.

What the guest has not flushed is lost with kill(), as with a power cut: new clusters of the overlay
are known only to qemu until a flush. In the guest the host's loopback is 10.0.2.2.
"""

import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import tempfile
import time

from controlplane.client import wait_for

HOST = "10.0.2.2"
BOOT_SECONDS = 180
READY = "guest is ready"  # on its console, see image.py
APPEND = "root=/dev/vda console=ttyS0 net.ifnames=0 panic=-1 mitigations=off quiet loglevel=4 systemd.show_status=1 TERM=dumb"
# Programs that lie elsewhere each time are translated by qemu each time: starting one takes three times as long.
APPEND += " nokaslr norandmaps"
# What each page costs that is given out, and each look at the clock.
APPEND += " init_on_alloc=0 tsc=reliable"


class GuestError(Exception):
    """The guest did not do what it was told; the text has the end of its console."""


class Guest:
    """One machine. boot() it; as a context manager it is killed and forgotten at the end.

    Its disk lives as long as the object: kill() and boot() again is a power cut.
    """

    def __init__(self, image, name="guest", memory=2048, cpus=2):
        self.image = image
        self.name = name
        self.memory = memory
        self.cpus = cpus
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"ecs-vm-{name}-", dir="/var/tmp"))
        self.console_path = self.dir / "console.log"
        self.console_begin = 0  # of this boot
        self.process = None
        self.port = None
        try:
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-b", image.disk, "-F", "raw", self.dir / "disk"],
                check=True,
            )  # fmt: skip
        except BaseException:
            self.remove()
            raise

    # Life

    def boot(self, timeout=BOOT_SECONDS):
        """Start it and wait until commands can be run; returns how long that took."""
        began = time.monotonic()
        self.start()
        self.wait_answers(timeout)
        return time.monotonic() - began

    def start(self):
        assert self.process is None, f"{self.name} runs already"
        self.port = _free_port()
        self.console_begin = len(self.console())
        command = [
            "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-M", "q35", "-cpu", "max",
            "-accel", "tcg,thread=multi", "-smp", str(self.cpus), "-m", str(self.memory), "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-serial", "chardev:console",
            "-chardev", f"file,id=console,path={self.console_path},append=on",
            "-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd), "-append", APPEND,
            "-drive", self.drive(),
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:22",
            "-device", "virtio-net-pci,netdev=net,romfile=",
        ]  # fmt: skip
        with open(self.dir / "qemu.log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def drive(self):
        """The disk, as an option of qemu."""
        return f"if=virtio,format=qcow2,file={self.dir / 'disk'},cache=writeback,discard=unmap"

    def wait_answers(self, timeout=BOOT_SECONDS):
        """Wait until sshd answers, and keep a connection for the commands to come."""
        deadline = time.monotonic() + timeout
        # Before, qemu would accept connections and come back to them when seconds have passed.
        while READY not in self.console()[self.console_begin :] or not self._connect():
            if self.process.poll() is not None:
                raise self._error(f"qemu ended with {self.process.returncode}")
            if time.monotonic() > deadline:
                raise self._error(f"no answer within {timeout} s")
            time.sleep(0.1)

    def _connect(self):
        self._disconnect()
        return subprocess.run(
            [*self._ssh(), "-M", "-N", "-f", "root@127.0.0.1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ).returncode == 0  # fmt: skip

    def _disconnect(self):
        control = self.dir / "ssh"
        if control.exists():
            subprocess.run(
                [*self._ssh(), "-O", "exit", "root@127.0.0.1"], capture_output=True, stdin=subprocess.DEVNULL
            )
            control.unlink(missing_ok=True)

    def _ssh(self):
        options = {
            "ControlPath": self.dir / "ssh", "Port": self.port, "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null", "LogLevel": "ERROR", "ConnectTimeout": 60,
            "ServerAliveInterval": 30, "ServerAliveCountMax": 10, "IdentityFile": "none",
            "PreferredAuthentications": "none", "KexAlgorithms": "curve25519-sha256",
            "HostKeyAlgorithms": "ssh-ed25519", "Ciphers": "aes128-gcm@openssh.com",
        }  # fmt: skip
        return ["ssh", "-F", "none", *(f"-o{name}={value}" for name, value in options.items())]

    def kill(self):
        """A power cut: what was not flushed to the disk is lost."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        self._disconnect()

    def shutdown(self, timeout=180):
        """Power off in order."""
        self._leave("poweroff", timeout)

    def reboot(self, timeout=BOOT_SECONDS):
        """Restart in order, and wait until commands can be run again."""
        self._leave("reboot", timeout)
        self.boot(timeout)

    def _leave(self, verb, timeout):
        self.run(f"systemctl --no-block {verb}")
        self.wait_off(timeout)

    def wait_off(self, timeout=180):
        """Wait until the machine has switched itself off."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._error(f"still running after {timeout} s") from None
        self.process = None
        self._disconnect()

    def remove(self):
        """End it and delete its disk."""
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    # Commands

    def run(self, command, check=True, timeout=120, input=None, text=True):
        """Run a command (a string for sh, or a list) as root; a CompletedProcess."""
        if not isinstance(command, str):
            command = shlex.join(str(word) for word in command)
        result = subprocess.run(
            [*self._ssh(), "root@127.0.0.1", command], capture_output=True, timeout=timeout, text=text,
            **({"stdin": subprocess.DEVNULL} if input is None else {"input": input}),
        )  # fmt: skip
        if check and result.returncode != 0:
            raise self._error(
                f"exit code {result.returncode} of: {command}\n{result.stdout}{result.stderr}"
            )
        return result

    def output(self, command, **more):
        """What a command writes to its standard output."""
        return self.run(command, **more).stdout

    def interactive(self, command=()):
        """A terminal in the guest, or a command with ours; its exit code."""
        terminal = ["-t"] if os.isatty(0) else []
        return subprocess.run([*self._ssh(), *terminal, "root@127.0.0.1", *command]).returncode

    def put(self, local, remote):
        """Copy a file, with its mode, or a directory with all that is in it."""
        local = pathlib.Path(local)
        remote = pathlib.PurePosixPath(remote)
        if local.is_dir():
            self._put_tree(local, remote)
            return
        mode = f"{local.stat().st_mode & 0o7777:o}"
        quoted = shlex.quote(str(remote))
        self.run(
            f"mkdir -p {shlex.quote(str(remote.parent))} && cat >{quoted} && chmod {mode} {quoted}",
            input=local.read_bytes(), text=False,
        )  # fmt: skip

    def _put_tree(self, local, remote):
        quoted = shlex.quote(str(remote))
        tar = subprocess.Popen(["tar", "-C", local, "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(
            [*self._ssh(), "root@127.0.0.1", f"mkdir -p {quoted} && tar -C {quoted} -x --no-same-owner"],
            stdin=tar.stdout, check=True,
        )  # fmt: skip
        tar.stdout.close()
        if tar.wait() != 0:
            raise GuestError(f"{local} could not be read")

    def write(self, remote, text, mode=0o644):
        """Make a file of this text."""
        quoted = shlex.quote(str(remote))
        directory = shlex.quote(str(pathlib.PurePosixPath(remote).parent))
        self.run(f"mkdir -p {directory} && cat >{quoted} && chmod {mode:o} {quoted}", input=text)

    def get(self, remote):
        return self.run(["cat", remote], text=False).stdout

    # Looking

    def journal(self, unit=None, *options):
        """The journal of all boots, or of one unit; options as of journalctl."""
        unit = ["--unit", unit] if unit else []
        return self.output(["journalctl", "--no-pager", "--output=short-precise", *unit, *options])

    def unit(self, name, *properties):
        """Properties of a unit, as strings by name."""
        text = self.output(["systemctl", "show", "--property", ",".join(properties), name])
        return dict(line.split("=", 1) for line in text.splitlines())

    def wait_unit(self, name, state="active", timeout=60):
        """Wait for an ActiveState."""

        def reached():
            return self.run(["systemctl", "show", "--property=ActiveState", "--value", name]).stdout.strip() == state

        wait_for(reached, timeout, lambda: f"{name} is not {state}:\n" + self.run(
            f"systemctl --no-pager status {shlex.quote(name)}", check=False).stdout)  # fmt: skip

    def console(self):
        """What it wrote to its serial console."""
        return self.console_path.read_text(errors="replace") if self.console_path.exists() else ""

    def _error(self, text):
        qemu = (self.dir / "qemu.log").read_text(errors="replace")
        return GuestError(f"{self.name}: {text}\n{qemu}--- console\n{self.console()[-4000:]}")


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
