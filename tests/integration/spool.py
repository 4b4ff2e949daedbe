"""The log spool as ecs-task writes it (lib/spool.h), and an ecs-metadata that knows a few keys."""

import json
import os
import pathlib
import socket
import struct
import threading
import time
import zlib

MAGIC = 0x53434C01
SEGMENT_BYTES = 1024 * 1024
RECORD_MAX = 256 * 1024
STDOUT, STDERR, GAP = 1, 2, 3


class SpoolStream:
    """Writes one stream, in this process. Times are given or those of now."""

    def __init__(self, spool, task, container, driver, options, segment_bytes=SEGMENT_BYTES, **more):
        self.dir = pathlib.Path(spool) / task / container
        self.segment_bytes = segment_bytes
        self.segment = 0
        self.size = 0
        self.file = None
        gid = os.stat(spool).st_gid
        for directory in (self.dir.parent, self.dir):
            try:
                directory.mkdir()
            except FileExistsError:
                continue
            os.chown(directory, -1, gid)
            directory.chmod(0o770)
        document = {
            "taskId": task,
            "taskArn": f"arn:aws:ecs:us-west-2:111122223333:task/default/{task}",
            "cluster": "default",
            "containerName": container,
            "containerId": "c" * 64,
            "driver": driver,
            "options": options,
            "credentialsId": "instance",
            "maxBytes": 64 * 1024 * 1024,
            "mode": "blocking",
        } | more
        temporary = self.dir / ".log.json"
        self._own(temporary, json.dumps(document).encode(), gid)
        temporary.rename(self.dir / "log.json")
        self.gid = gid

    @staticmethod
    def _own(path, data, gid):
        path.write_bytes(data)
        os.chown(path, -1, gid)
        path.chmod(0o640)

    def record(self, data, stream=STDOUT, time_usec=None):
        if isinstance(data, str):
            data = data.encode()
        time_usec = time.time_ns() // 1000 if time_usec is None else time_usec
        assert len(data) <= RECORD_MAX
        if self.file is None or self.size + 24 + len(data) > self.segment_bytes:
            self._next_segment()
        rest = struct.pack("<B3xQ", stream, time_usec)
        crc = zlib.crc32(data, zlib.crc32(rest))
        self.file.write(struct.pack("<III", MAGIC, len(data), crc) + rest + data)
        self.size += 24 + len(data)

    def lines(self, *lines, **more):
        for i in range(0, len(lines), 200):
            self.record("".join(line + "\n" for line in lines[i : i + 200]), **more)
        self.flush()

    def gap(self, records, size, **more):
        self.record(struct.pack("<QQ", records, size), stream=GAP, **more)
        self.flush()

    def _next_segment(self):
        if self.file:
            self.file.close()
        self.segment += 1
        path = self.dir / f"{self.segment:08}.seg"
        self._own(path, b"", self.gid)
        self.file = open(path, "ab", buffering=1 << 16)
        self.size = 0

    def flush(self):
        if self.file:
            self.file.flush()

    def end(self):
        self.flush()
        (self.dir / "end").touch()  # the directory may be gone from here on

    def is_gone(self):
        return not self.dir.exists()

    def segments(self):
        return sorted(path.name for path in self.dir.glob("*.seg"))

    def position(self):
        return json.loads((self.dir / "position").read_bytes().split(b"\n", 1)[0])


class Metadata:
    """<run>/metadata/control.sock with "get-credentials"; answers are set by the test."""

    def __init__(self, runtime_dir):
        self.path = pathlib.Path(runtime_dir) / "metadata" / "control.sock"
        self.path.parent.mkdir(exist_ok=True)
        self.path.parent.chmod(0o755)
        self.answers = {}  # credentials id -> dict of keys, or the name of an errno
        self.asked = []
        self.listener = None

    def put(self, credentials_id, access_key_id, secret, token="", expiration="2999-01-01T00:00:00Z"):
        self.answers[credentials_id] = {
            "type": "credentials", "accessKeyId": access_key_id, "secretAccessKey": secret,
            "sessionToken": token, "expiration": expiration, "roleArn": "arn:aws:iam::1:role/r",
        }  # fmt: skip

    def start(self):
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))
        self.path.chmod(0o666)
        self.listener.listen(16)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()
        return self

    def stop(self):
        if self.listener:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile("rb") as reader:
            while len(head := reader.read(4)) == 4:
                request = json.loads(reader.read(struct.unpack("<I", head)[0]))
                assert request["type"] == "get-credentials", request
                self.asked.append(request["credentialsId"])
                answer = self.answers.get(request["credentialsId"], "ENOENT")
                if isinstance(answer, str):
                    answer = {"type": "error", "code": answer, "message": f"no keys: {answer}"}
                body = json.dumps(answer | {"seq": request["seq"]}).encode()
                connection.sendall(struct.pack("<I", len(body)) + body)
