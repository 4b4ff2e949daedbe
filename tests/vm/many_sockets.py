"""Runs in a guest, as root and with ecs-agent away: gives ecs-metadata as many endpoint sockets as its
argument says, restarts it, and prints what came back and what remains after they are released."""

import array
import ctypes
import json
import resource
import socket
import struct
import subprocess
import sys
import time

CLONE_NEWNET = 0x40000000
ADDRESS = "169.254.170.2"
PER_TASK = 10


class Control:
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect("/run/ecs/metadata/control.sock")
        self.seq = 0

    def send(self, fds=(), **message):
        self.seq += 1
        data = json.dumps({"seq": self.seq, **message}).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [f.fileno() for f in fds]))]
        self.socket.sendmsg([struct.pack("<I", len(data)) + data], rights if fds else [])
        (length,) = struct.unpack("<I", self.exactly(4))
        answer = json.loads(self.exactly(length))
        assert answer["type"] != "error", answer
        return answer

    def exactly(self, n):
        data = b""
        while len(data) < n:
            part = self.socket.recv(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data


def stored():
    show = ["systemctl", "show", "--property=NFileDescriptorStore", "--value", "ecs-metadata"]
    return int(subprocess.run(show, check=True, capture_output=True, text=True).stdout)


def settled(n):
    """The number in the store, once it is n or has had time to become it."""
    deadline = time.monotonic() + 60
    while stored() != n and time.monotonic() < deadline:
        time.sleep(0.1)
    return stored()


def served():
    return sum(len(names) for names in Control().send(type="hello")["served"].values())


def main(n):
    resource.setrlimit(resource.RLIMIT_NOFILE, (n + 100, n + 100))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNET) == 0
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
    before, served_before = stored(), served()
    control = Control()
    for i in range(n):
        with socket.create_server((ADDRESS, 10000 + i)) as s:
            control.send([s], type="serve", taskId=f"many-{i // PER_TASK}", container=f"c{i % PER_TASK}")
    result = {"stored": settled(before + n) - before}
    began = time.monotonic()
    subprocess.run(["systemctl", "restart", "ecs-metadata"], check=True)
    result["seconds"] = round(time.monotonic() - began, 2)
    result["served"] = served() - served_before
    with socket.create_connection((ADDRESS, 10000 + n - 1), timeout=30) as s:
        s.sendall(b"GET /v2/credentials/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        result["answer"] = s.recv(100).split(b"\r\n")[0].decode()
    control = Control()
    for i in range((n + PER_TASK - 1) // PER_TASK):
        control.send(type="release", taskId=f"many-{i}", all=True)
    result["left"] = settled(before) - before
    print(json.dumps(result))


main(int(sys.argv[1]))
