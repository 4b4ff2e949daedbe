"""The disk that forgets (tests/vm/disk.py) for the kernel that runs here: a file of a FUSE mount, to be a loop device.

    fuse_disk.py BASE DIRECTORY    mounts on the file DIRECTORY/disk, until its standard input ends. There
                                   "cut N" ends the power at the N-th write from now on (0: at once), from when on
                                   everything fails with EIO; that is answered when it happens.
                                   "restore SEED CHANCE" is answered with what was kept and lost.
"""

import ctypes
import errno
import json
import os
import pathlib
import random
import select
import stat
import struct
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from vm.disk import Disk  # noqa: E402

# linux/fuse.h, version 7.31
FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE = 2, 3, 4, 14, 15, 16, 17, 18
FSYNC, FLUSH, INIT, INTERRUPT, DESTROY, BATCH_FORGET = 20, 25, 26, 36, 38, 42
FOPEN_DIRECT_IO = 1
MAX_WRITE = 128 * 1024


class Server:
    def __init__(self, disk, file):
        self.disk = disk
        self.file = file
        self.dead = False
        self.writes_left = None
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        file.touch()
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self.fd},rootmode={stat.S_IFREG:o},user_id=0,group_id=0"
        if libc.mount(b"forgetful", os.fsencode(file), b"fuse", 0, options.encode()) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(file))

    def _attributes(self):
        size = self.disk.size
        return struct.pack("<QII", 3600, 0, 0) + struct.pack(
            "<6Q3I7I", 1, size, size // 512, 0, 0, 0, 0, 0, 0, stat.S_IFREG | 0o600, 1, 0, 0, 0, 4096, 0
        )

    def _die(self):
        self.dead, self.writes_left = True, None
        print(json.dumps({"dead": True}), flush=True)

    def _answer(self, opcode, body):
        """Bytes, or a negative errno."""
        if opcode == INIT:
            return struct.pack("<4IHHIIHHII6I", 7, 31, 0, 0, 16, 12, MAX_WRITE, 1, 0, 0, 0, 0, *(0,) * 6)
        if opcode in (GETATTR, SETATTR):
            return self._attributes()
        if opcode == OPEN:
            return struct.pack("<QII", 0, FOPEN_DIRECT_IO, 0)
        if opcode in (RELEASE, FLUSH, DESTROY):
            return b""
        if opcode == STATFS:
            return bytes(80)
        if opcode not in (READ, WRITE, FSYNC):
            return -errno.ENOSYS
        if self.dead:
            return -errno.EIO
        if opcode == FSYNC:
            self.disk.flush()
            return b""
        _, offset, size = struct.unpack_from("<QQI", body)
        if opcode == READ:
            return self.disk.read(offset, min(size, self.disk.size - offset))
        self.disk.write(offset, body[40 : 40 + size])
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left == 0:
                self._die()
        return struct.pack("<II", size, 0)

    def serve_one(self):
        """Whether there is more to come: not once it is unmounted."""
        try:
            request = os.read(self.fd, MAX_WRITE + 64 * 1024)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        _, opcode, unique = struct.unpack_from("<IIQ", request)
        if opcode in (FORGET, INTERRUPT, BATCH_FORGET):
            return True
        answer = self._answer(opcode, request[40:])
        error, answer = (answer, b"") if isinstance(answer, int) else (0, answer)
        try:
            os.write(self.fd, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)
        except FileNotFoundError:
            pass  # it was interrupted
        return True

    def obey(self, line):
        word, *arguments = line.split()
        if word == "cut" and arguments[0] == "0":
            self._die()
        elif word == "cut":
            self.writes_left = int(arguments[0])
        elif word == "restore":
            kept, lost = self.disk.cut(random.Random(int(arguments[0])), float(arguments[1]))
            self.dead, self.writes_left = False, None
            print(json.dumps({"kept": kept, "lost": lost}), flush=True)

    def run(self):
        print(json.dumps({"ready": True}), flush=True)
        commands = os.fdopen(sys.stdin.fileno(), "rb", buffering=0)
        while True:
            for fd in select.select([self.fd, commands], [], [])[0]:
                if fd is commands:
                    line = commands.readline()
                    if not line:
                        return
                    self.obey(line.decode())
                elif not self.serve_one():
                    return


class FuseDisk:
    """The server as a process of its own."""

    def __init__(self, base, directory):
        self.file = pathlib.Path(directory) / "disk"
        self.process = subprocess.Popen(
            [sys.executable, __file__, base, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if "ready" not in self._hear():
            self.stop()
            raise RuntimeError("no FUSE mount")

    def _hear(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else {}

    def _say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def cut_at(self, writes):
        self._say(f"cut {writes}")

    def wait_cut(self, timeout):
        """Cuts at once when it has not come to that."""
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            self._say("cut 0")

    def restore(self, seed, chance):
        """Once nothing uses the file; what was kept and lost of the blocks that waited."""
        self._say(f"restore {seed} {chance}")
        while "kept" not in (answer := self._hear()):
            assert answer, "the disk's server has ended"
        return answer

    def stop(self):
        subprocess.run(["umount", "-l", self.file], check=False, stderr=subprocess.DEVNULL)
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


def main(base, directory):
    server = Server(Disk(base, pathlib.Path(directory) / "blocks"), pathlib.Path(directory) / "disk")
    server.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
