"""The part of systemd that a service with a file descriptor store meets: its notify socket, the store,
and the start of a process with what is in it (sd_notify(3), sd_listen_fds(3))."""

import array
import fcntl
import os
import select
import socket
import subprocess
import threading


class Stored:
    def __init__(self, name, fd):
        self.name, self.fd, self.file = name, fd, file_of(fd)


def file_of(fd):
    """What tells open files apart, as systemd does by kcmp(2): this is as good for sockets and memfds."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class ServiceManager:
    """Keeps what a daemon stores, for as long as it lives; limit as FileDescriptorStoreMax=."""

    def __init__(self, directory, limit=1024):
        self.path = str(directory / "notify")
        self.limit = limit
        self.stored = []
        self.states = []
        self.dropped = 0
        self.lock = threading.Condition()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        os.chmod(self.path, 0o777)
        self.ended, self.end = os.pipe()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        while True:
            ready, _, _ = select.select([self.socket, self.ended], [], [])
            if self.socket in ready:
                with self.lock:
                    self.receive_all()
            elif self.ended in ready:
                return

    def receive_all(self):
        """Every message that has been sent so far. The lock is held, so that none is in between."""
        try:
            while True:
                self.receive()
        except BlockingIOError:
            self.lock.notify_all()

    def receive(self):
        room = socket.CMSG_LEN(253 * 4)
        data, rights, _, _ = self.socket.recvmsg(65536, room, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
        fds = array.array("i")
        for level, kind, payload in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        lines = data.decode().splitlines()
        fields = dict(line.split("=", 1) for line in lines if "=" in line)
        self.apply(fields, list(fds))
        self.states += [line for line in lines if line in ("READY=1", "STOPPING=1")]

    def apply(self, fields, fds):
        name = fields.get("FDNAME", "stored")
        assert 0 < len(name) <= 255 and ":" not in name and name.isprintable(), name
        if fields.get("FDSTOREREMOVE") == "1":
            for entry in [e for e in self.stored if e.name == name]:
                os.close(entry.fd)
                self.stored.remove(entry)
        if fields.get("FDSTORE") != "1":
            assert not fds
            return
        for fd in fds:
            if len(self.stored) >= self.limit:
                self.dropped += 1
                os.close(fd)
            elif file_of(fd) in {e.file for e in self.stored}:
                os.close(fd)
            else:
                self.stored.append(Stored(name, fd))

    def wait(self, condition, seconds=20):
        """Until condition(self) is true; messages are processed meanwhile."""
        with self.lock:
            assert self.lock.wait_for(lambda: condition(self), seconds), (self.names(), self.states)

    def names(self):
        return sorted(e.name for e in self.stored)

    def named(self, name):
        (found,) = [e for e in self.stored if e.name == name]
        return found

    def forget(self):
        """As a stop of the service does."""
        with self.lock:
            for entry in self.stored:
                os.close(entry.fd)
            self.stored = []

    def popen(self, command, env, **kwargs):
        """Start a service: what is stored is descriptor 3 and up, under its name, in the order of the
        store, with what a process that has ended sent before. The command must end in an exec by the same
        process."""
        with self.lock:
            self.receive_all()
            entries = list(self.stored)
            self.states = []
        variables = {**env, "NOTIFY_SOCKET": self.path}
        if entries:
            variables["LISTEN_FDS"] = str(len(entries))
            variables["LISTEN_FDNAMES"] = ":".join(e.name for e in entries)
            command = ["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *command]
        # To numbers above what they become, so that none is overwritten before it has been moved.
        high = [fcntl.fcntl(e.fd, fcntl.F_DUPFD_CLOEXEC, 3 + len(entries)) for e in entries]

        def arrange():
            for i, fd in enumerate(high):
                os.dup2(fd, 3 + i, inheritable=True)

        try:
            return subprocess.Popen(command, env=variables, preexec_fn=arrange, close_fds=False, **kwargs)
        finally:
            for fd in high:
                os.close(fd)

    def stop(self):
        os.close(self.end)
        self.thread.join()
        os.close(self.ended)
        self.socket.close()
        self.forget()
