"""A disk that keeps its promises and nothing more: for qemu over NBD, it forgets at a power cut what was not flushed.

Killing qemu alone takes too little: what the guest wrote over blocks that its image file has already is in the host's
page cache and stays. Here a write waits in memory until the guest flushes. At a cut each block that waits is written
by chance, or not, and in any version that was written to it since the flush; so the order is any order, as it is on a
disk with a cache of its own. Blocks of 4096 bytes are written whole.

A cut by the clock finds most of the time a disk that has nothing to do. So it can also freeze by itself: from the
N-th write on it answers nothing more, and the cut comes in the middle of whatever was being written.

    disk.py BASE DIRECTORY    serves BASE, which stays as it is, at DIRECTORY/nbd, until its standard input ends.
                              There "freeze N" is answered at the N-th write from then on, and "cut SEED CHANCE",
                              once qemu is gone, with what was kept and lost; before that it thaws.
"""

import json
import os
import pathlib
import random
import select
import socket
import struct
import subprocess
import sys
import threading

BLOCK = 4096

# https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
HANDSHAKE_FLAGS = 1 << 0 | 1 << 1  # fixed newstyle, no zeroes
TRANSMISSION_FLAGS = 1 << 0 | 1 << 2 | 1 << 3  # has flags, sends flush, sends FUA
OPT_ABORT, OPT_INFO, OPT_GO = 2, 6, 7
REP_ACK, REP_INFO, REP_ERR_UNSUP = 1, 3, 1 << 31 | 1
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH = 0, 1, 2, 3
FLAG_FUA = 1 << 0
EINVAL = 22


class Disk:
    """Blocks of a base file, those that were flushed in a file of our own, and those that wait in memory."""

    def __init__(self, base, data):
        self.base = os.open(base, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self.base).st_size
        assert self.size % BLOCK == 0
        self.data = os.open(data, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.ftruncate(self.data, self.size)
        self.ours = bytearray(self.size // BLOCK)  # 1: the block is in data
        self.waiting = {}  # block: its versions since it was flushed, oldest first
        self.writes_left = None  # until it freezes

    def _block(self, n):
        if n in self.waiting:
            return self.waiting[n][-1]
        return os.pread(self.data if self.ours[n] else self.base, BLOCK, n * BLOCK)

    def read(self, offset, length):
        first, end = offset // BLOCK, (offset + length + BLOCK - 1) // BLOCK
        if not any(n in self.waiting for n in range(first, end)):
            if self.ours.find(1, first, end) < 0:
                return os.pread(self.base, length, offset)
            if self.ours.find(0, first, end) < 0:
                return os.pread(self.data, length, offset)
        blocks = b"".join(self._block(n) for n in range(first, end))
        return blocks[offset - first * BLOCK :][:length]

    def write(self, offset, data, through=False):
        end = offset + len(data)
        for n in range(offset // BLOCK, (end + BLOCK - 1) // BLOCK):
            begin = max(offset, n * BLOCK)
            part = data[begin - offset : min(end, (n + 1) * BLOCK) - offset]
            if len(part) < BLOCK:
                old = self._block(n)
                at = begin - n * BLOCK
                part = old[:at] + part + old[at + len(part) :]
            if through:
                self.waiting.pop(n, None)
                self._keep(n, part)
            else:
                self.waiting.setdefault(n, []).append(bytes(part))

    def _keep(self, n, block):
        os.pwrite(self.data, block, n * BLOCK)
        self.ours[n] = 1

    def flush(self):
        for n, versions in self.waiting.items():
            self._keep(n, versions[-1])
        self.waiting.clear()

    def cut(self, rng, chance):
        """The power goes. Returns how many blocks that waited were kept, and how many lost."""
        kept = 0
        for n in sorted(self.waiting):
            if rng.random() < chance:
                self._keep(n, rng.choice(self.waiting[n]))
                kept += 1
        lost = len(self.waiting) - kept
        self.waiting.clear()
        return kept, lost


class Connection:
    """One client: the handshake, then commands one after the other."""

    def __init__(self, sock, disk, frozen):
        self.socket = sock
        self.disk = disk
        self.frozen = frozen  # called when it freezes

    def _receive(self, n):
        data = bytearray(n)
        view = memoryview(data)
        while view:
            k = self.socket.recv_into(view)
            if k == 0:
                raise EOFError
            view = view[k:]
        return bytes(data)

    def _reply_option(self, option, kind, data=b""):
        self.socket.sendall(struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data)

    def handshake(self):
        """Whether transmission follows."""
        self.socket.sendall(b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", HANDSHAKE_FLAGS))
        self._receive(4)
        while True:
            magic, option, length = struct.unpack(">8sII", self._receive(16))
            assert magic == b"IHAVEOPT"
            self._receive(length)
            if option in (OPT_GO, OPT_INFO):
                export = struct.pack(">HQH", INFO_EXPORT, self.disk.size, TRANSMISSION_FLAGS)
                self._reply_option(option, REP_INFO, export)
                self._reply_option(option, REP_INFO, struct.pack(">HIII", INFO_BLOCK_SIZE, 512, BLOCK, 32 << 20))
                self._reply_option(option, REP_ACK)
                if option == OPT_GO:
                    return True
            elif option == OPT_ABORT:
                self._reply_option(option, REP_ACK)
                return False
            else:
                self._reply_option(option, REP_ERR_UNSUP)

    def command(self):
        """Carry out one; whether more follow."""
        magic, flags, command, cookie, offset, length = struct.unpack(">IHHQQI", self._receive(28))
        assert magic == 0x25609513
        error, answer = 0, b""
        if command == CMD_DISC:
            return False
        data = self._receive(length) if command == CMD_WRITE else b""
        if command in (CMD_READ, CMD_WRITE) and offset + length > self.disk.size:
            error = EINVAL
        elif command == CMD_READ:
            answer = self.disk.read(offset, length)
        elif command == CMD_WRITE:
            self.disk.write(offset, data, bool(flags & FLAG_FUA))
            if self.disk.writes_left:
                self.disk.writes_left -= 1
        elif command == CMD_FLUSH:
            self.disk.flush()
        else:
            error = EINVAL
        self.socket.sendall(struct.pack(">IIQ", 0x67446698, error, cookie) + answer)
        return True

    def _freeze(self):
        """Until the client is gone; what it has sent is not read."""
        self.frozen()
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        poll.poll()
        raise EOFError

    def serve(self):
        try:
            if self.handshake():
                while self.command():
                    if self.disk.writes_left == 0:
                        self._freeze()
        except (EOFError, ConnectionError):
            pass  # qemu was killed
        finally:
            self.socket.close()


def serve(base, directory):
    directory = pathlib.Path(directory)
    disk = Disk(base, directory / "blocks")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / "nbd"))
    listener.listen(1)
    one_client = threading.Lock()

    def accept():
        while True:
            sock, _ = listener.accept()
            with one_client:
                Connection(sock, disk, lambda: print(json.dumps({"frozen": True}), flush=True)).serve()

    threading.Thread(target=accept, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        word, *arguments = line.split()
        if word == "freeze":
            disk.writes_left = int(arguments[0])
            continue
        assert word == "cut"
        seed, chance = arguments
        with one_client:  # the last one has ended
            disk.writes_left = None
            kept, lost = disk.cut(random.Random(int(seed)), float(chance))
        print(json.dumps({"kept": kept, "lost": lost}), flush=True)


class ForgetfulDisk:
    """The server as a process of its own."""

    def __init__(self, base, directory):
        self.socket = pathlib.Path(directory) / "nbd"
        self.process = subprocess.Popen(
            [sys.executable, __file__, base, directory],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        if self.process.stdout.readline() != "ready\n":
            self.stop()
            raise RuntimeError(f"no disk is served for {base}")

    def _say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def freeze(self, writes):
        """To answer nothing more from the so manieth write on."""
        self._say(f"freeze {writes}")

    def wait_frozen(self, timeout):
        """Whether it has come to that in time."""
        return bool(select.select([self.process.stdout], [], [], timeout)[0])

    def cut(self, seed, chance):
        """After qemu was killed. What was kept of the blocks that waited, and lost."""
        self._say(f"cut {seed} {chance}")
        while "kept" not in (answer := json.loads(self.process.stdout.readline())):
            pass
        return answer

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


if __name__ == "__main__":
    serve(*sys.argv[1:])
