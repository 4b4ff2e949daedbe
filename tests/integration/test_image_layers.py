"""What ecs-image makes of the layers of an image, honest and hostile ones."""

import gzip
import hashlib
import os
import stat
import subprocess
import tarfile

import pytest

from builddir import needs_root
from fake_registry import OCI, Image, entry, gzip_members, tar
from image_store import BLK, CHR, DIR, FIFO, LNK, SMALL, SYM
from image_store import fake as fake, store as store  # noqa: F401: fixtures

pytestmark = needs_root


# --- what is on disk -----------------------------------------------------------------------------


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


# --- hostile layers ------------------------------------------------------------------------------


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
