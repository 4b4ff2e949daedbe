"""ecs-image against a real registry and against one that misbehaves, as ecs-agent and operators use it."""

import gzip
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tarfile
import threading

import pytest
from builddir import needs_root, program
from controlplane.client import wait_for
from fake_registry import OCI, FakeRegistry, Image, entry, gzip_members, sha256, tar
from users import ensure_users

pytestmark = needs_root

DIR, SYM, LNK, CHR, BLK, FIFO = (
    tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
)  # fmt: skip

SMALL = tar(entry("etc", kind=DIR, mode=0o755), entry("etc/hello", b"hello\n"))


def environment(more=None):
    """Ours without what points HTTP clients to proxies and CAs."""
    own = re.compile(r"(AWS_CA_BUNDLE|SSL_CERT_(FILE|DIR)|(HTTPS?|NO|ALL)_PROXY)$", re.I)
    return {**{k: v for k, v in os.environ.items() if not own.match(k)}, **(more or {})}


class Connection:
    """A client of "ecs-image --serve": length-prefixed JSON on the socket that it has as descriptor 3."""

    def __init__(self, store, env=None):
        ours, theirs = socket.socketpair()

        def child():
            os.dup2(theirs.fileno(), 3)  # inheritable

        self.process = subprocess.Popen(
            [store.program, *store.options, "--serve"],
            pass_fds=(3,) if theirs.fileno() == 3 else (),
            close_fds=False, preexec_fn=child, env=environment(env),
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        theirs.close()
        self.socket = ours
        self.socket.settimeout(60)

    def send(self, **message):
        body = json.dumps(message).encode()
        self.socket.sendall(struct.pack("<I", len(body)) + body)

    def _read(self, n):
        data = b""
        while len(data) < n:
            piece = self.socket.recv(n - len(data))
            if not piece:
                raise EOFError(self.process.stderr.read().decode())
            data += piece
        return data

    def receive(self):
        return json.loads(self._read(struct.unpack("<I", self._read(4))[0]))

    def ask(self, **message):
        """The answer to a request, and the messages before it."""
        self.send(seq=7, **message)
        before = []
        while True:
            answer = self.receive()
            assert answer["seq"] == 7
            if answer["type"] not in ("resolved", "progress"):
                return answer, before
            before.append(answer)

    def halves(self):
        """Pids of the unpack half and of the network half."""
        pid = self.process.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
        return pid, int(wait_for(lambda: children.read_text().split(), 10, "no network half")[0])

    def close(self):
        self.socket.close()
        self.process.wait(timeout=30)
        self.process.stderr.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Store:
    """A state directory and the program on it."""

    def __init__(self, directory):
        self.program = program("ecs-image")
        self.state = pathlib.Path(directory) / "state"
        self.runtime = pathlib.Path(directory) / "run"
        self.state.mkdir(exist_ok=True)
        self.runtime.mkdir(exist_ok=True)
        self.images = self.state / "images"
        self.config = pathlib.Path(directory) / "ecs.config"
        self.config.write_text("")
        self.options = [
            "--config", str(self.config), "--state-dir", str(self.state), "--runtime-dir", str(self.runtime),
        ]  # fmt: skip

    def run(self, *arguments, env=None, **more):
        return subprocess.run(
            [self.program, *self.options, *arguments],
            capture_output=True, text=True, timeout=120, env=environment(env), **more,
        )  # fmt: skip

    def pull(self, reference, env=None):
        done = self.run("pull", reference, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def pull_fails(self, reference, env=None):
        done = self.run("pull", reference, env=env)
        assert done.returncode == 1
        assert done.stdout == ""
        return done.stderr

    def connect(self, env=None):
        return Connection(self, env)

    def layer(self, image, n=0):
        return self.images / "layers" / image.diff_ids[n].removeprefix("sha256:")

    def has_only(self, *images):
        """Nothing but the layers of these images is in the store."""
        expected = {d.removeprefix("sha256:") for image in images for d in image.diff_ids}
        assert set(os.listdir(self.images / "layers")) == expected
        assert os.listdir(self.images / "staging") == []


def let_others_in(directory):
    """pytest's directories are for their owner only, and the network half is another user."""
    for path in (directory, *directory.parents):
        if path.stat().st_mode & 0o005 != 0o005:
            path.chmod(path.stat().st_mode | 0o055)


@pytest.fixture
def store(tmp_path):
    ensure_users()
    return Store(tmp_path)


@pytest.fixture
def fake():
    with FakeRegistry() as running:
        yield running


# --- what is on disk ---------------------------------------------------------------------------


def describe_tree(root):
    """All that a container could see of each file below root."""
    found, inodes = {}, {}
    for directory, names, files in os.walk(root):
        for name in [""] * (directory == str(root)) + names + files:
            path = os.path.join(directory, name) if name else directory
            st = os.lstat(path)
            kind = stat.S_IFMT(st.st_mode)
            facts = {
                "mode": oct(st.st_mode), "owner": (st.st_uid, st.st_gid), "rdev": st.st_rdev,
                "mtime": None if kind == stat.S_IFDIR else int(st.st_mtime),
            }  # fmt: skip
            if kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    facts["content"] = hashlib.sha256(file.read()).hexdigest()
                facts["same"] = inodes.setdefault(st.st_ino, os.path.relpath(path, root))
            if kind == stat.S_IFLNK:
                facts["target"] = os.readlink(path)
            facts["xattrs"] = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
                if key.startswith(("user.", "security.capability"))
            }
            found[os.path.relpath(path, root)] = facts
    # Which name of a hard link comes first is up to the directory.
    groups = {}
    for path, facts in found.items():
        if "same" in facts:
            groups.setdefault(facts["same"], []).append(path)
    for facts in found.values():
        if "same" in facts:
            facts["same"] = sorted(groups[facts["same"]])
    return found


def mount_layers(layers, where):
    """The layers, lowest first, stacked by overlayfs."""
    where.mkdir()
    empty = where.parent / "empty"
    empty.mkdir(exist_ok=True)
    lower = ":".join([str(path) for path in reversed(layers)] + [str(empty)])
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={lower}", str(where)], check=True)


CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000"[:40])

EVERYTHING = [
    entry("bin", kind=DIR, mode=0o755),
    entry("bin/su", b"su\n", mode=0o4755),
    entry("bin/ping", b"ping\n", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": CAPABILITY.decode("latin1")}),
    entry("bin/mail", b"mail\n", mode=0o2755, uid=8, gid=12),
    entry("tmp", kind=DIR, mode=0o1777),
    entry("etc", kind=DIR, mode=0o755, uid=3, gid=4),
    entry("etc/shadow", b"secret\n", mode=0o640, gid=42),
    entry("etc/removed", b"gone soon\n"),
    entry("etc/link", kind=SYM, linkname="../../../../etc/shadow", mode=0o777),
    entry("etc/hard", kind=LNK, linkname="etc/shadow"),
    entry("usr/share/dir", kind=DIR, mode=0o700, uid=1000, gid=1000),
    entry("usr/share/dir/old", b"old\n"),
    entry("usr/share/dir/sub", kind=DIR, mode=0o755),
    entry("usr/share/dir/sub/old", b"old\n"),
    entry("usr/share/grüße", "ü\n".encode()),
    entry("usr/share/" + "long" * 60, b"long name\n"),
    entry("usr/share/commented", b"x\n", pax_headers={"SCHILY.xattr.user.comment": "hello"}),
    entry("dev", kind=DIR, mode=0o755),
    entry("dev/null", kind=CHR, mode=0o666, devmajor=1, devminor=3),
    entry("dev/loop9", kind=BLK, mode=0o660, gid=6, devmajor=7, devminor=9),
    entry("run/fifo", kind=FIFO, mode=0o600),
    entry("big-ids", b"", uid=3_000_000_000, gid=2_999_999_999),
    entry("empty", b"", mode=0),
]  # fmt: skip

CHANGES = [
    entry("etc", kind=DIR, mode=0o750, uid=3, gid=4),
    entry("etc/.wh.removed", b""),
    entry("etc/new", b"new\n"),
    entry("usr/share/dir", kind=DIR, mode=0o755),
    entry("usr/share/dir/.wh..wh..opq", b""),
    entry("usr/share/dir/fresh", b"fresh\n"),
    entry("bin/su", b"other\n", mode=0o755),
    entry("dev/.wh.loop9", b""),
    entry("tmp", kind=SYM, linkname="run", mode=0o777),
]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_pulled_image_is_what_umoci_unpacks(store, registry, tmp_path, format):
    from harness import images

    everything = [e for e in EVERYTHING if format == tarfile.PAX_FORMAT or not e[0].pax_headers]
    # Parents with entries of their own: what else they look like is up to each unpacker.
    parents = [entry(p, kind=DIR, mode=0o755) for p in ("usr", "usr/share", "run")]
    layers = [tar(*parents, *everything, format=format), tar(*CHANGES, format=format)]
    layout = tmp_path / "layout"
    digest = images.write_layout(layout, layers)
    reference = f"{registry.host}/everything:{format}"
    images.push(layout, reference)

    assert store.pull(reference) == digest
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:image", str(tmp_path / "bundle")], check=True)
    expected = describe_tree(tmp_path / "bundle/rootfs")
    paths = [store.images / "layers" / hashlib.sha256(layer).hexdigest() for layer in layers]
    mount_layers(paths, tmp_path / "mounted")
    try:
        found = describe_tree(tmp_path / "mounted")
    finally:
        subprocess.run(["umount", str(tmp_path / "mounted")], check=True)

    del expected["."], found["."]  # has no entry
    assert found == expected
    assert "etc/removed" not in found and "usr/share/dir/old" not in found
    if format == tarfile.PAX_FORMAT:
        assert found["bin/ping"]["xattrs"]["security.capability"] == CAPABILITY
        assert found["usr/share/commented"]["xattrs"]["user.comment"] == b"hello"


@pytest.mark.parametrize("compression", ["", "+gzip", "+zstd"])
def test_each_compression_gives_the_same_layer(store, fake, compression):
    data = os.urandom(300_000) + bytes(3_000_000)
    image = Image([tar(entry("data", data))], compression=compression)
    store.pull(fake.put(f"a/b{compression.strip('+')}:1", image))
    assert (store.layer(image) / "data").read_bytes() == data
    store.has_only(image)


@pytest.mark.parametrize("tail", [b"", bytes(512)])
def test_gzip_members_and_padding_are_read_to_the_end(store, fake, tail):
    data = os.urandom(50_000)
    image = Image([tar(entry("data", data))], compress=lambda plain: gzip_members(plain) + tail)
    store.pull(fake.put("members:1", image))
    assert (store.layer(image) / "data").read_bytes() == data


def test_a_layer_that_comes_twice_is_fetched_and_named_once(store, fake):
    again, other = tar(entry("x", b"1")), tar(entry("y", b"2"))
    image = Image([again, other, again])
    reference = fake.put("twice:1", image)
    with store.connect() as connection:
        answer, _ = connection.ask(type="pull", reference=reference)
    assert answer["layers"] == [image.diff_ids[1][7:], image.diff_ids[2][7:]]
    assert len(fake.requests_for(image.layer_digest)) == 1


def test_layers_that_are_there_are_not_downloaded_again(store, fake):
    base = tar(entry("base", b"b"))
    first, second = Image([base]), Image([base, SMALL])
    store.pull(fake.put("first:1", first))
    store.pull(fake.put("second:1", second))
    assert len(fake.requests_for(first.layer_digest)) == 1
    store.has_only(first, second)


# --- hostile layers ----------------------------------------------------------------------------

HOSTILE = {
    "name above the root": [entry("../canary", b"x")],
    "hard link above the root": [entry("h", kind=LNK, linkname="../../canary")],
    "file through an absolute link": [entry("a", kind=SYM, linkname="/"), entry("a/../../canary", b"x")],
    "hard link to nothing": [entry("h", kind=LNK, linkname="absent")],
    "hard link to a directory": [entry("d", kind=DIR), entry("h", kind=LNK, linkname="d")],
    "file below a file": [entry("f", b"x"), entry("f/g", b"x")],
    "root that is a file": [entry(".", b"x")],
    "whiteout of the parent": [entry("d/.wh...", b"")],
    "name of 300 bytes": [entry("n" * 300, b"x")],
    "path of 5000 bytes": [entry("/".join(["n" * 99] * 50), b"x")],
    "path of 300 directories": [entry("d/" * 300 + "x", b"x")],
    "link that leads nowhere as parent": [entry("s", kind=SYM, linkname="/absent"), entry("s/x", b"x")],
    "pax header of 2 MiB": [entry("p", b"x", pax_headers={"comment": "c" * (2 << 20)})],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_layer_is_refused_as_a_whole(store, fake, case):
    image = Image([tar(*HOSTILE[case])])
    before = describe_tree(store.state.parent)
    error = store.pull_fails(fake.put("hostile:1", image))
    assert "CannotPullContainerError: unpack layer " + image.diff_ids[0] in error
    store.has_only()
    after = describe_tree(store.state.parent)
    assert {p: f for p, f in after.items() if not p.startswith("state")} == {
        p: f for p, f in before.items() if not p.startswith("state")
    }


def test_links_stay_inside_the_layer_and_a_file_may_replace_one(store, fake):
    image = Image([
        tar(
            entry("up", kind=SYM, linkname="../../../.."),
            entry("up/inside", b"1"),
            entry("etc", kind=SYM, linkname="/usr/etc"),
            entry("usr/etc", kind=DIR, mode=0o755),
            entry("etc/through", b"2"),
            entry("passwd", kind=SYM, linkname="/etc/passwd"),
            entry("passwd", b"3"),
        )
    ])  # fmt: skip
    store.pull(fake.put("links:1", image))
    root = store.layer(image)
    assert (root / "inside").read_bytes() == b"1"
    assert (root / "usr/etc/through").read_bytes() == b"2"
    assert not (root / "passwd").is_symlink() and (root / "passwd").read_bytes() == b"3"


def test_attributes_that_speak_to_overlayfs_are_dropped(store, fake):
    hostile = {"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y",
               "SCHILY.xattr.trusted.overlay.redirect": "/etc"}  # fmt: skip
    image = Image([tar(entry("d", kind=DIR, pax_headers=hostile), entry("f", b"x", pax_headers=hostile))])
    store.pull(fake.put("xattrs:1", image))
    for name in ("d", "f"):
        assert [x for x in os.listxattr(store.layer(image) / name) if "overlay" in x] == []


@pytest.mark.parametrize(
    "damage, word",
    [
        (lambda image: gzip.compress(b"no tar at all" * 100), "tar"),
        (lambda image: b"no gzip at all", "gzip"),
        (lambda image: image.blobs[image.layer_digest][:-9], "cut off"),
        (lambda image: gzip.compress(tar(entry("other", b"x"))), "unpacked layer has digest"),
    ],
)
def test_a_blob_that_is_not_the_layer_of_the_configuration_is_refused(store, fake, damage, word):
    image = Image([SMALL])
    image.document["layers"] = [image.add(damage(image), OCI + "layer.v1.tar+gzip")]
    error = store.pull_fails(fake.put("damaged:1", image))
    assert "CannotPullContainerError" in error and word in error
    assert os.listdir(store.images / "index") == [] and os.listdir(store.images / "staging") == []
    # Where only the compressed form is damaged, the layer itself may have been whole.
    assert set(os.listdir(store.images / "layers")) <= {image.diff_ids[0].removeprefix("sha256:")}


# --- digests and manifests ---------------------------------------------------------------------


def test_a_corrupt_blob_in_the_registry_is_refused(store, registry, tmp_path):
    from harness import images

    layout = tmp_path / "layout"
    layer = tar(entry("x", os.urandom(1000)))
    images.write_layout(layout, [layer])
    reference = f"{registry.host}/corrupt:1"
    images.push(layout, reference)
    digest = sha256(gzip.compress(layer, 1, mtime=0))
    path = registry.blob_path(digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    error = store.pull_fails(reference)
    assert error.startswith("ecs-image: CannotPullContainerError: layer " + digest)
    store.has_only()
    assert store.run("inspect", reference).returncode == 1


def test_a_manifest_must_have_the_digest_of_the_reference(store, fake):
    image, other = Image([SMALL]), Image([tar(entry("x", b"x"))])
    fake.put("app:1", image)
    reference = f"{fake.host}/app@{sha256(image.manifest)}"
    assert store.pull(reference) == sha256(image.manifest)
    fake.manifests["app", sha256(image.manifest)] = (other.manifest, OCI + "manifest.v1+json")
    error = store.pull_fails(reference)
    assert "CannotPullContainerError" in error and "instead of " + sha256(image.manifest) in error


def test_the_announced_digest_must_be_that_of_the_manifest(store, fake):
    reference = fake.put("app:1", Image([SMALL]))
    wrong = "sha256:" + "0" * 64

    def lie(handler):
        if "/manifests/" in handler.path:
            body, media_type = fake.manifests["app", "1"]
            handler.answer(200, body, Content_Type=media_type, Docker_Content_Digest=wrong)
            return True

    fake.on_request = lie
    assert "CannotPullImageManifestError" in (error := store.pull_fails(reference)) and wrong in error


def bent(**changes):
    image = Image([SMALL])
    image.document.update(changes)
    return image


@pytest.mark.parametrize(
    "image, media_type, words",
    [
        (bent(manifests=[]), None, "manifest and an index at once"),
        (bent(), "application/vnd.docker.distribution.manifest.v2+json", "differ"),
        (bent(schemaVersion=1), None, "schema 1 are not supported"),
        (bent(mediaType="text/html"), "text/html", "not supported"),
        (bent(layers=[{"mediaType": OCI + "layer.v1.tar", "digest": "sha256:" + "0" * 64, "size": 1 << 40}]),
         None, "over the limit"),
        (bent(layers=[{"mediaType": OCI + "layer.nondistributable.v1.tar+gzip", "digest": "sha256:" + "0" * 64,
                       "size": 1, "urls": ["http://169.254.169.254/"]}]), None, "nondistributable"),
        (Image([SMALL], os_="windows"), None, "windows"),
    ],
)  # fmt: skip
def test_manifests_that_pretend_are_refused(store, fake, image, media_type, words):
    error = store.pull_fails(fake.put("bent:1", image, media_type))
    assert re.match(r"ecs-image: CannotPull(ImageManifest|Container)Error: ", error)
    assert words in error
    store.has_only()


def test_an_index_leads_to_the_image_of_this_machine(store, fake):
    image = Image([SMALL])
    fake.put("multi:only", image)
    manifest = {"mediaType": OCI + "manifest.v1+json", "digest": sha256(image.manifest), "size": len(image.manifest)}
    machine = {"architecture": json.loads(image.config)["architecture"], "os": "linux"}
    other = {**manifest, "digest": "sha256:" + "0" * 64, "platform": {"architecture": "s390x", "os": "linux"}}
    index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json",
             "manifests": [other, {**manifest, "platform": machine}]}  # fmt: skip
    body = json.dumps(index).encode()
    assert store.pull(fake.put("multi:1", body)) == sha256(body)
    store.has_only(image)

    index["manifests"] = [other]
    error = store.pull_fails(fake.put("multi:2", json.dumps(index).encode()))
    assert "no matching manifest for linux/" in error


# --- authorisation -----------------------------------------------------------------------------


class Tokens:
    """Bearer tokens as registries ask for them, given to one user."""

    def __init__(self, fake, user=("me", "pä:ss"), realm=None):
        self.fake, self.user, self.realm = fake, user, realm or f"{fake.url}/token"
        self.given, self.valid, self.headers_elsewhere = 0, set(), []
        fake.on_request = self

    def __call__(self, handler):
        if handler.path.startswith("/token"):
            if self.user and handler.basic() != self.user:
                handler.refuse(401, "UNAUTHORIZED", "incorrect username or password")
                return True
            self.given += 1
            self.valid = {f"token-{self.given}"}
            handler.answer(200, json.dumps({"token": f"token-{self.given}", "expires_in": 60}).encode())
            return True
        if handler.path.startswith("/v2/"):
            kind, _, token = handler.headers.get("Authorization", "").partition(" ")
            if kind != "Bearer" or token not in self.valid:
                challenge = f'Bearer realm="{self.realm}",service="here",scope="repository:team/app:pull"'
                handler.refuse(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)
                return True
        return False


def pull_with(store, reference, username, password):
    return store.run("--username", username, "pull", reference, input=password + "\n")


def test_one_token_serves_all_of_a_pull(store, fake):
    tokens = Tokens(fake)
    image = Image([tar(entry(f"f{i}", os.urandom(100))) for i in range(5)])
    done = pull_with(store, fake.put("team/app:1", image), *tokens.user)
    assert done.returncode == 0, done.stderr
    assert tokens.given == 1
    query = fake.requests_for("/token")[0][1]
    assert query == "/token?service=here&scope=repository%3Ateam%2Fapp%3Apull"
    store.has_only(image)


def test_a_token_that_expires_on_the_way_is_renewed(store, fake):
    tokens = Tokens(fake)
    image = Image([SMALL])
    reference = fake.put("team/app:1", image)

    def expire(handler):
        if "/blobs/" in handler.path and tokens.given == 1:
            tokens.valid = set()
        return tokens(handler)

    fake.on_request = expire
    assert pull_with(store, reference, *tokens.user).returncode == 0
    assert tokens.given == 2


@pytest.mark.parametrize("password", ["wrong", ""])
def test_without_the_right_password_access_is_denied(store, fake, password):
    tokens = Tokens(fake)
    reference = fake.put("team/app:1", Image([SMALL]))
    done = pull_with(store, reference, "me", password) if password else store.run("pull", reference)
    assert done.returncode == 1
    assert "CannotPullImageManifestError: pull access denied for team/app" in done.stderr
    assert tokens.given == 0 and len(fake.requests_for("/token")) == 1
    store.has_only()


def test_basic_authentication(store, fake):
    def basic(handler):
        if handler.basic() != ("AWS", "password"):
            handler.refuse(401, "DENIED", "Not Authorized", WWW_Authenticate='Basic realm="x",service="ecr"')
            return True

    fake.on_request = basic
    image = Image([SMALL])
    reference = fake.put("team/app:1", image)
    assert "denied: Not Authorized" in pull_with(store, reference, "AWS", "other").stderr
    assert pull_with(store, reference, "AWS", "password").returncode == 0


def test_a_cached_image_is_not_given_without_the_right_to_pull_it(store, fake):
    reference = fake.put("team/app:1", Image([SMALL]))
    store.pull(reference)
    Tokens(fake)
    assert "access denied" in store.pull_fails(reference)


def test_credentials_do_not_follow_a_redirect(store, fake):
    image = Image([SMALL])
    with FakeRegistry() as elsewhere:
        elsewhere.on_request = lambda handler: (
            handler.answer(200, image.blobs[handler.path.rsplit("/", 1)[1]]) or True
        )
        tokens = Tokens(fake)

        def redirect(handler):
            if tokens(handler):
                return True
            if "/blobs/" in handler.path:
                target = f"{elsewhere.url}/store/{handler.path.rsplit('/', 1)[1]}"
                handler.answer(307, Location=target)
                return True

        fake.on_request = redirect
        done = pull_with(store, fake.put("team/app:1", image), *tokens.user)
        assert done.returncode == 0, done.stderr
        assert len(elsewhere.requests) == 2
        assert [h for _, _, h in elsewhere.requests if "Authorization" in h] == []

        # Nor does another host get a password by asking for it.
        elsewhere.on_request = lambda handler: (
            handler.refuse(401, "X", "x", WWW_Authenticate=f'Bearer realm="{elsewhere.url}/token"') or True
        )
        store.run("rm", fake.put("team/app:1", image))
        assert pull_with(store, fake.put("team/app:1", image), *tokens.user).returncode == 1
        assert [h for _, _, h in elsewhere.requests if "Authorization" in h] == []


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest/meta-data", "http://[fe80::1]/x", "https://[fd00:ec2::254]/x",
     "http://0xa9fea9fe/x", "http://example.com/x", "ftp://127.0.0.1/x", "file:///etc/shadow"],
)  # fmt: skip
@pytest.mark.parametrize("how", ["redirect", "realm"])
def test_no_registry_sends_us_to_forbidden_places(store, fake, target, how):
    def send_away(handler):
        if how == "redirect":
            handler.answer(307, Location=target)
        else:
            handler.refuse(401, "X", "x", WWW_Authenticate=f'Bearer realm="{target}"')
        return True

    fake.on_request = send_away
    error = store.pull_fails(fake.put("away:1", Image([SMALL])))
    assert "CannotPullImageManifestError: " in error
    assert re.search("link-local|without TLS|neither http nor https|no host|URL", error), error
    assert len(fake.requests) == 1


# --- addresses and certificates ----------------------------------------------------------------


@pytest.fixture
def outside_address():
    """An address of this host that is not loopback."""
    address = "192.0.2.77"
    subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
    try:
        yield address
    finally:
        subprocess.run(["ip", "addr", "del", f"{address}/32", "dev", "lo"], check=True)


def test_plain_http_is_for_loopback_only(store, outside_address):
    with FakeRegistry(outside_address) as outside:
        error = store.pull_fails(outside.put("app:1", Image([SMALL])))
        assert outside.requests == []
    assert "CannotPullImageManifestError" in error and outside_address in error


def test_a_registry_elsewhere_does_not_send_us_to_this_host(store, outside_address, tmp_path):
    certificate = make_certificate(tmp_path, outside_address)
    with FakeRegistry(outside_address, certificate) as outside, FakeRegistry() as inside:
        outside.on_request = lambda handler: handler.answer(307, Location=inside.url + "/secret") or True
        error = store.pull_fails(
            outside.put("app:1", Image([SMALL])), env={"SSL_CERT_FILE": str(certificate)}
        )
        assert "which is this host" in error
        assert inside.requests == [] and len(outside.requests) == 1


def make_certificate(directory, address):
    """Key and self-signed certificate in one file."""
    path = directory / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", directory / "key", "-out", directory / "cert", "-days", "2", "-subj", "/CN=registry",
         "-addext", f"subjectAltName=IP:{address}"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes((directory / "key").read_bytes() + (directory / "cert").read_bytes())
    path.chmod(0o644)
    let_others_in(directory)
    return path


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_certificates_are_checked_against_the_given_bundle(store, tmp_path, variable):
    certificate = make_certificate(tmp_path, "127.0.0.1")
    with FakeRegistry(certificate=certificate) as secure:
        image = Image([SMALL])
        reference = secure.put("app:1", image)
        assert "certificate" in store.pull_fails(reference)
        assert secure.requests == []  # not even without TLS
        store.pull(reference, env={variable: str(certificate)})
        store.has_only(image)
        store.config.write_text(f"{variable}={certificate}\n")
        store.pull(reference)


def test_a_ca_of_one_registry_is_taken_from_certs_d(store, tmp_path):
    certificate = make_certificate(tmp_path, "127.0.0.1")
    with FakeRegistry(certificate=certificate) as secure:
        image = Image([SMALL])
        reference = secure.put("app:1", image)
        directory = pathlib.Path("/etc/docker/certs.d") / secure.host
        made = next(p for p in reversed([directory, *directory.parents]) if not p.exists())
        directory.mkdir(parents=True)
        try:
            shutil.copy(tmp_path / "cert", directory / "ca.crt")
            store.pull(reference)
        finally:
            shutil.rmtree(made)
        store.has_only(image)


class Proxy:
    """An HTTP proxy that knows CONNECT, and who was asked for."""

    def __init__(self):
        self.asked = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        request = b""
        while b"\r\n\r\n" not in request:
            request += client.recv(4096)
        target = request.split()[1].decode()
        self.asked.append(target)
        server = socket.create_connection(target.rsplit(":", 1))
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=self.copy, args=(server, client), daemon=True).start()
        self.copy(client, server)

    @staticmethod
    def copy(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def test_a_proxy_is_used_but_for_the_hosts_of_no_proxy(store, outside_address, tmp_path):
    certificate = make_certificate(tmp_path, outside_address)
    proxy = Proxy()
    try:
        with FakeRegistry(outside_address, certificate) as outside, FakeRegistry() as inside:
            settings = [f"SSL_CERT_FILE={certificate}", f"HTTPS_PROXY={proxy.url}", f"HTTP_PROXY={proxy.url}"]
            store.config.write_text("\n".join(settings) + "\n")
            image = Image([SMALL])
            store.pull(outside.put("app:1", image))
            assert set(proxy.asked) == {outside.host}
            store.pull(inside.put("app:1", image))  # loopback
            assert set(proxy.asked) == {outside.host}
            proxy.asked.clear()
            store.config.write_text("\n".join([*settings, f"NO_PROXY={outside_address}"]) + "\n")
            store.pull(outside.put("app:2", image))
            assert proxy.asked == []
    finally:
        proxy.close()


def test_localhost_is_a_registry_on_this_host(store, fake):
    image = Image([SMALL])
    fake.put("app:1", image)
    store.pull(f"localhost:{fake.port}/app:1")
    store.has_only(image)


# --- registries and connections that fail --------------------------------------------------------


def test_what_is_not_there_is_named(store, registry):
    error = store.pull_fails(f"{registry.host}/absent:1")
    assert error.startswith("ecs-image: CannotPullImageManifestError: ref not found: ")
    assert f"{registry.host}/absent:1: manifest unknown" in error
    with store.connect() as connection:
        answer, _ = connection.ask(type="pull", reference=f"{registry.host}/absent@sha256:{'0' * 64}")
    assert answer["type"] == "error" and answer["code"] == "ENOENT"
    assert answer["name"] == "CannotPullContainerError"


def test_a_registry_that_is_down_is_named(store):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        with store.connect() as connection:
            answer, _ = connection.ask(type="pull", reference=f"{host}/app:1", manifestTimeoutUsec=2_000_000)
    assert answer["type"] == "error" and answer["code"] == "ETIMEDOUT"
    assert answer["name"] == "CannotPullImageManifestError"
    assert host in answer["message"]
    assert "Check your network configuration" in answer["message"]


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_passing_failures_are_tried_again(store, fake, status):
    failures = {"/manifests/": 2, "/blobs/": 1}

    def fail(handler):
        for part in failures:
            if part in handler.path and failures[part] > 0:
                failures[part] -= 1
                handler.refuse(status, "TOOMANYREQUESTS", "slow down", Retry_After="1")
                return True

    fake.on_request = fail
    image = Image([SMALL])
    store.pull(fake.put("flaky:1", image))
    assert failures == {"/manifests/": 0, "/blobs/": 0}
    store.has_only(image)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("compression", ["+gzip", "+zstd"])
def test_a_broken_download_goes_on_where_it_broke_off(store, fake, ranges, compression):
    data = os.urandom(3_000_000)
    image = Image([tar(entry("data", data))], compression=compression)
    breaks = [2_000_000, 500_000]

    def break_off(handler):
        if image.layer_digest not in handler.path:
            return False
        if not ranges and "Range" in handler.headers:
            del handler.headers["Range"]
        if not breaks:
            return False
        blob = image.blobs[image.layer_digest]
        start = int(re.sub(r"\D", "", handler.headers.get("Range", "0")))
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(blob) - 1}/{len(blob)}")
        handler.send_header("Content-Length", str(len(blob) - start))
        handler.end_headers()
        handler.wfile.write(blob[start : start + breaks.pop()])
        handler.close_connection = True
        return True

    fake.on_request = break_off
    store.pull(fake.put("broken:1", image))
    assert (store.layer(image) / "data").read_bytes() == data
    asked = [h.get("Range") for _, _, h in fake.requests_for(image.layer_digest)]
    assert asked[0] is None and len(asked) == 3 and (asked[1] or not ranges)


def hang_on(fake, part, release, send=b""):
    def hang(handler):
        if part in handler.path:
            if send:
                handler.send_response(200)
                handler.send_header("Content-Length", str(1 << 30))
                handler.end_headers()
                handler.wfile.write(send)
                handler.wfile.flush()
            release.wait(60)
            handler.close_connection = True
            return True

    fake.on_request = hang


def test_silence_ends_a_pull(store, fake):
    image, release = Image([tar(entry("x", os.urandom(100_000)))]), threading.Event()
    hang_on(fake, image.layer_digest, release, send=image.blobs[image.layer_digest][:1000])
    try:
        with store.connect() as connection:
            answer, before = connection.ask(
                type="pull", reference=fake.put("app:1", image), inactivityTimeoutUsec=1_000_000
            )
    finally:
        release.set()
    assert answer["code"] == "ETIMEDOUT" and answer["name"] == "CannotPullContainerError"
    assert "inactivity time exceeded timeout while pulling image" in answer["message"]
    assert before[0]["type"] == "resolved"
    store.has_only()


@pytest.mark.parametrize("part, limit, name", [
    ("/manifests/", "manifestTimeoutUsec", "CannotPullImageManifestError"),
    ("/blobs/", "timeoutUsec", "CannotPullContainerError"),
])  # fmt: skip
def test_each_part_of_a_pull_has_a_deadline(store, fake, part, limit, name):
    release = threading.Event()
    hang_on(fake, part, release)
    try:
        with store.connect() as connection:
            answer, _ = connection.ask(
                type="pull", reference=fake.put("app:1", Image([SMALL])), **{limit: 1_000_000}
            )
    finally:
        release.set()
    assert answer["code"] == "ETIMEDOUT" and answer["name"] == name


# --- processes -----------------------------------------------------------------------------------


def test_the_protocol_on_descriptor_3(store, fake):
    config = {"Env": ["A=b"], "Cmd": ["/bin/sh"], "Labels": {"x": "y"}, "User": "app"}
    image = Image([SMALL, tar(entry("big", os.urandom(4_000_000)))], config)
    reference = fake.put("team/app:1", image)
    with store.connect() as connection:
        answer, _ = connection.ask(type="inspect", reference=reference)
        assert answer["type"] == "error" and answer["code"] == "ENOENT"
        answer, before = connection.ask(
            type="pull", reference=reference, manifestTimeoutUsec=60_000_000,
            inactivityTimeoutUsec=60_000_000, timeoutUsec=600_000_000,
        )  # fmt: skip
        assert before[0] == {"type": "resolved", "seq": 7, "digest": sha256(image.manifest)}
        assert answer == {
            "type": "pulled", "seq": 7, "digest": sha256(image.manifest), "imageId": sha256(image.config),
            "layers": [d.removeprefix("sha256:") for d in image.diff_ids], "config": config,
        }  # fmt: skip
        inspected, _ = connection.ask(type="inspect", reference=reference)
        assert inspected == answer
        for bad in ({"type": "dance"}, {"type": "pull"}, {"type": "pull", "reference": "UPPER/../x"},
                    {"type": "pull", "reference": reference, "timeoutUsec": 0},
                    {"type": "pull", "reference": reference, "timeoutUsec": "1"},
                    {"type": "pull", "reference": reference, "auth": {"username": "x"}}):  # fmt: skip
            answer, _ = connection.ask(**bad)
            assert answer["type"] == "error" and answer["code"] == "EINVAL" and answer["message"], bad


def status(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def wait_confined(connection):
    unpack, network = connection.halves()
    for pid in (unpack, network):
        wait_for(lambda pid=pid: status(pid)["Seccomp"] == "2", 10, f"{pid} has no filter")
    return unpack, network


def test_the_halves_have_no_more_rights_than_they_need(store):
    import pwd

    with store.connect() as connection:
        unpack, network = wait_confined(connection)
        assert status(network)["Uid"].split() == [str(pwd.getpwnam("ecs-image").pw_uid)] * 4
        for field in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"):
            assert int(status(network)[field], 16) == 0
        # CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SYS_ADMIN, MKNOD, SETFCAP
        allowed = sum(1 << n for n in (0, 1, 3, 4, 21, 27, 31))
        for field in ("CapPrm", "CapEff", "CapBnd"):
            assert int(status(unpack)[field], 16) == allowed
        assert os.readlink(f"/proc/{unpack}/root") == str(store.images)
        assert os.readlink(f"/proc/{unpack}/ns/net") != os.readlink("/proc/self/ns/net")
        for pid in (unpack, network):
            assert status(pid)["NoNewPrivs"] == "1"


def test_what_the_filters_forbid_is_refused(store):
    import errno

    from syscall_in import EXECVE, GETPID, KEYCTL, MOUNT, PTRACE, UNSHARE, syscall_in

    chroot, setns, bpf, setuid = 161, 308, 321, 105
    with store.connect() as connection:
        for pid in wait_confined(connection):
            assert syscall_in(pid, GETPID) == pid
            for number in (EXECVE, MOUNT, PTRACE, UNSHARE, KEYCTL, chroot, setns, bpf, setuid):
                assert syscall_in(pid, number) == -errno.EPERM, number


def test_hanging_up_ends_the_pull_and_all_its_processes(store, fake):
    image, release = Image([tar(entry("x", os.urandom(100_000)))]), threading.Event()
    hang_on(fake, image.layer_digest, release, send=image.blobs[image.layer_digest][:50_000])
    connection = store.connect()
    try:
        connection.send(type="pull", reference=fake.put("app:1", image))
        name = image.diff_ids[0].removeprefix("sha256:")
        wait_for(lambda: (store.images / "staging" / name).exists(), 20, "no staging")
        assert connection.receive()["type"] == "resolved"
        connection.close()  # waits for the process
    finally:
        release.set()
    store.has_only()
    assert list((store.images / "index").iterdir()) == []


@pytest.mark.parametrize("victim", ["unpack", "network", "both"])
def test_what_sigkill_leaves_is_removed_by_the_next_pull(store, fake, victim):
    image, release = Image([SMALL, tar(entry("x", os.urandom(100_000)))]), threading.Event()
    blob = image.document["layers"][1]["digest"]
    hang_on(fake, blob, release, send=image.blobs[blob][:50_000])
    reference = fake.put("app:1", image)
    connection = store.connect()
    try:
        connection.send(type="pull", reference=reference)
        name = image.diff_ids[1].removeprefix("sha256:")
        wait_for(lambda: (store.images / "staging" / name).exists(), 20, "no staging")
        wait_for(lambda: store.layer(image, 0).exists(), 20, "first layer is not there")
        unpack, network = connection.halves()
        for pid in {"unpack": [unpack], "network": [network], "both": [unpack, network]}[victim]:
            os.kill(pid, signal.SIGKILL)
        connection.close()
    finally:
        release.set()
    assert not store.layer(image, 1).exists()
    fake.on_request = lambda handler: False
    fake.requests.clear()
    store.pull(reference)
    store.has_only(image)
    assert fake.requests_for(image.layer_digest) == []  # a finished layer stays


def test_two_pulls_at_once_share_each_layer(store, fake):
    image = Image([tar(entry(f"f{i}", os.urandom(500_000))) for i in range(6)])
    reference = fake.put("app:1", image)
    gate = threading.Barrier(2)

    def together(handler):
        if "/manifests/" in handler.path:
            gate.wait(30)

    fake.on_request = together
    with store.connect() as one, store.connect() as other:
        for connection in (one, other):
            connection.send(type="pull", seq=7, reference=reference)
        for connection in (one, other):
            while (answer := connection.receive())["type"] in ("resolved", "progress"):
                pass
            assert answer["type"] == "pulled", answer
    for layer in image.document["layers"]:
        assert len(fake.requests_for(layer["digest"])) == 1
    store.has_only(image)


# --- disk ------------------------------------------------------------------------------------------


@pytest.fixture
def small_store(tmp_path):
    ensure_users()
    (tmp_path / "state").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "small", str(tmp_path / "state")], check=True)
    try:
        yield Store(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path / "state")], check=True)


def test_a_full_disk_is_named_and_left_clean(small_store, fake):
    big, fits = Image([SMALL, tar(entry("x", bytes(40_000_000)))]), Image([SMALL])
    with small_store.connect() as connection:
        answer, _ = connection.ask(type="pull", reference=fake.put("big:1", big))
    assert answer["code"] == "ENOSPC" and answer["name"] == "CannotPullContainerError", answer
    assert "no space left on device" in answer["message"].lower()
    assert str(small_store.images) in answer["message"]
    assert os.listdir(small_store.images / "staging") == []
    assert not small_store.layer(big, 1).exists()
    free = os.statvfs(small_store.state)
    assert free.f_bavail * free.f_frsize > 12 << 20
    small_store.pull(fake.put("fits:1", fits))


# --- the operator's commands -------------------------------------------------------------------------


def test_images_are_listed_inspected_and_removed(store, fake):
    base = tar(entry("base", b"b"))
    first, second = Image([base], {"Cmd": ["one"]}), Image([base, SMALL], {"Cmd": ["two"]})
    one, two = fake.put("first:1", first), fake.put("second:1", second)
    store.pull(one)
    store.pull(two)
    listed = store.run("ls").stdout
    assert one in listed and two in listed
    shown = json.loads(store.run("inspect", two).stdout)
    assert shown["config"] == {"Cmd": ["two"]} and len(shown["layers"]) == 2

    assert store.run("rm", one).returncode == 0
    store.has_only(second)  # the base is the other image's as well
    gone = store.run("inspect", one)
    assert gone.returncode == 1 and "is not in the store" in gone.stderr
    assert store.run("rm", one).returncode == 1
    assert store.run("rm", two).returncode == 0
    store.has_only()


def test_layers_in_use_stay_until_they_are_released(store, fake):
    import fcntl

    image, other = Image([SMALL]), Image([tar(entry("o", b"o"))])
    reference = fake.put("app:1", image)
    store.pull(reference)
    store.pull(fake.put("other:1", other))
    mounted = os.open(store.layer(image), os.O_RDONLY)
    fcntl.flock(mounted, fcntl.LOCK_SH)
    assert store.run("rm", reference).returncode == 0
    store.has_only(image, other)
    os.close(mounted)
    store.run("rm", fake.put("other:1", other))
    store.has_only()


def test_a_sweep_takes_what_a_broken_pull_has_left_but_not_during_another(store, fake):
    image, release = Image([SMALL, tar(entry("x", os.urandom(100_000)))]), threading.Event()
    reference, other = fake.put("app:1", image), fake.put("other:1", Image([tar(entry("o", b"o"))]))
    blob = image.document["layers"][1]["digest"]
    hang_on(fake, blob, release, send=image.blobs[blob][:50_000])
    with store.connect() as pulling, store.connect() as asking:
        pulling.send(type="pull", reference=reference)
        wait_for(lambda: store.layer(image, 0).exists(), 20, "first layer is not there")
        answer, _ = asking.ask(type="sweep")
        assert answer["type"] == "error" and answer["code"] == "EAGAIN", answer
        assert store.layer(image, 0).exists()
    release.set()
    fake.on_request = lambda handler: False
    store.pull(other)
    with store.connect() as connection:
        answer, _ = connection.ask(type="sweep")
        assert answer["type"] == "swept" and answer["layersRemoved"] == 1, answer
        store.has_only(Image([tar(entry("o", b"o"))]))


def test_the_list_tells_what_an_operator_has_pulled(store, fake):
    image = Image([SMALL])
    by_hand, by_agent = fake.put("hand:1", image), fake.put("agent:1", image)
    store.pull(by_hand)
    with store.connect() as connection:
        assert connection.ask(type="pull", reference=by_agent)[0]["type"] == "pulled"
        listed = {i["reference"]: i.get("byOperator") for i in connection.ask(type="list")[0]["images"]}
        assert listed == {by_hand: True, by_agent: None}
        # A task that pulls it makes it one of its own.
        assert connection.ask(type="pull", reference=by_hand)[0]["type"] == "pulled"
        listed = {i["reference"]: i.get("byOperator") for i in connection.ask(type="list")[0]["images"]}
        assert listed == {by_hand: None, by_agent: None}


def test_a_tag_that_moved_is_followed(store, fake):
    old, new = Image([SMALL], {"Cmd": ["old"]}), Image([SMALL], {"Cmd": ["new"]})
    assert store.pull(fake.put("app:1", old)) == sha256(old.manifest)
    assert store.pull(fake.put("app:1", new)) == sha256(new.manifest)
    shown = json.loads(store.run("inspect", f"{fake.host}/app:1").stdout)
    assert shown["config"] == {"Cmd": ["new"]}


@pytest.mark.parametrize("arguments, word", [
    ((), "command is missing"), (("dance",), "dance"), (("pull",), "one image reference"),
    (("pull", "a", "b"), "one image reference"), (("ls", "x"), "no arguments"), (("--oops",), "--oops"),
    (("pull", "Bad Reference"), '"Bad"'), (("--serve",), "descriptor 3"), (("--serve", "ls"), "--serve"),
    (("--username", "x", "ls"), "--username"),
])  # fmt: skip
def test_a_wrong_command_line_is_explained(store, arguments, word):
    done = store.run(*arguments, input="")
    assert done.returncode == 1
    assert word in done.stderr


def test_help_and_version(store):
    done = store.run("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("pull REF", "ls ", "inspect REF", "rm REF", "--state-dir"))
    assert store.run("--version").stdout.startswith("ecs-")


# --- ECR -----------------------------------------------------------------------------------------------


class Metadata:
    """ecs-metadata's control socket, answering get-credentials."""

    def __init__(self, runtime, answers):
        self.answers, self.asked = list(answers), []
        (runtime / "metadata").mkdir()
        self.socket = socket.socket(socket.AF_UNIX)
        path = runtime / "metadata/control.sock"
        self.socket.bind(str(path))
        path.chmod(0o666)
        self.socket.listen()
        let_others_in(path.parent)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                size = struct.unpack("<I", connection.recv(4, socket.MSG_WAITALL))[0]
                self.asked.append(json.loads(connection.recv(size, socket.MSG_WAITALL)))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                body = json.dumps(answer).encode()
                connection.sendall(struct.pack("<I", len(body)) + body)

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


CREDENTIALS = {
    "type": "credentials", "roleArn": "arn:aws:iam::111122223333:role/execution", "accessKeyId": "AKIAEXAMPLE",
    "secretAccessKey": "verysecret", "sessionToken": "sessiontoken", "expiration": "2099-01-01T00:00:00Z",
}  # fmt: skip


def ecr_auth(fake):
    return {"ecr": {"region": "us-west-2", "registryId": "111122223333", "endpoint": fake.url,
                    "credentialsId": "execution-1"}}  # fmt: skip


def test_ecr_gives_the_password(store, fake):
    import base64

    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    calls = []

    def ecr(handler):
        if handler.command == "POST":
            calls.append((handler.path, dict(handler.headers), handler.body))
            token = base64.b64encode(b"AWS:ecr:password").decode()
            body = {"authorizationData": [{"authorizationToken": token, "expiresAt": 4e9, "proxyEndpoint": "x"}]}
            handler.answer(200, json.dumps(body).encode())
            return True
        if handler.basic() != ("AWS", "ecr:password"):
            handler.refuse(401, "X", "x", WWW_Authenticate='Basic realm="ecr"')
            return True

    fake.on_request = ecr
    image = Image([SMALL])
    reference = fake.put("team/app:1", image)
    pending = {"type": "error", "code": "EAGAIN", "message": "announced, not here yet"}
    metadata = Metadata(store.runtime, [pending, CREDENTIALS])
    try:
        with store.connect() as connection:
            answer, _ = connection.ask(type="pull", reference=reference, auth=ecr_auth(fake))
    finally:
        metadata.close()
    assert answer["type"] == "pulled", answer
    assert [a["credentialsId"] for a in metadata.asked] == ["execution-1"] * 2

    path, headers, body = calls[0]
    assert json.loads(body) == {"registryIds": ["111122223333"]}
    assert headers["X-Amz-Target"] == "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
    signed = re.search("SignedHeaders=([^,]+)", headers["Authorization"])[1].split(";")
    request = AWSRequest("POST", fake.url + path, {k: v for k, v in headers.items() if k.lower() in signed}, body)
    request.context["timestamp"] = headers["X-Amz-Date"]
    signer = SigV4Auth(Credentials("AKIAEXAMPLE", "verysecret", "sessiontoken"), "ecr", "us-west-2")
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    assert headers["Authorization"].endswith("Signature=" + signature)


@pytest.mark.parametrize("answer, words", [
    ({"type": "error", "code": "ENOENT", "message": "unknown credentials"}, "unknown credentials"),
    ({**CREDENTIALS, "expiration": "2001-01-01T00:00:00Z"}, "expired"),
    (CREDENTIALS, "AccessDeniedException"),
])  # fmt: skip
def test_without_a_token_the_pull_fails_by_its_name(store, fake, answer, words):
    body = json.dumps({"__type": "AccessDeniedException", "message": "not authorized to perform"}).encode()
    fake.on_request = lambda handler: handler.answer(400, body) or True
    metadata = Metadata(store.runtime, [answer])
    try:
        with store.connect() as connection:
            found, _ = connection.ask(
                type="pull", reference=fake.put("team/app:1", Image([SMALL])), auth=ecr_auth(fake)
            )
    finally:
        metadata.close()
    assert found["type"] == "error" and found["name"] == "CannotPullECRContainerError"
    assert words in found["message"] and "verysecret" not in found["message"]
