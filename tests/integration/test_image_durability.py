"""What of the image store is on disk when: the order of its system calls, and its life after being killed in each.

The calls are recorded, and broken off, by strace(1). What a power loss then leaves of them is the matter of tests/vm.
"""

import dataclasses
import hashlib
import json
import os
import re
import subprocess

import pytest
from builddir import needs_root
from fake_registry import FakeRegistry, Image, entry, tar
from image_store import DIR, Store, environment
from image_store import store as store  # noqa: F401: a fixture
from users import ensure_users

pytestmark = needs_root

SYNCS = ("fsync", "fdatasync", "syncfs")
RENAMES = ("rename", "renameat", "renameat2")
CHANGES = (
    "write", "pwrite64", "ftruncate", "mkdirat", "mknodat", "symlinkat", "linkat", "unlinkat", "fchown", "fchownat",
    "fchmod", "fsetxattr", "utimensat",
)  # fmt: skip


@dataclasses.dataclass
class Call:
    """One system call; begin and end are its places in the order of all."""

    pid: int
    name: str
    arguments: str
    result: str
    begin: int
    end: int

    def paths(self):
        """Of the descriptors among its arguments."""
        return re.findall(r"\d+<([^<>]*)>", self.arguments)

    def names(self):
        return re.findall(r'"((?:[^"\\]|\\.)*)"', self.arguments)

    def full_names(self):
        """<directory>/<name> of each pair of arguments."""
        return [f"{d}/{n}" for d, n in re.findall(r'\d+<([^<>]*)>, "((?:[^"\\]|\\.)*)"', self.arguments)]


def parse(text):
    calls, unfinished = [], {}
    for i, line in enumerate(text.splitlines()):
        if match := re.match(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>$", line):
            pid, name, arguments = match.groups()
            unfinished[pid] = (name, arguments, i)
        elif match := re.match(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (.*)$", line):
            pid, name, rest, result = match.groups()
            begun = unfinished.pop(pid)
            assert begun[0] == name
            calls.append(Call(int(pid), name, begun[1] + rest, result, begun[2], i))
        elif match := re.match(r"(\d+) +(\w+)\((.*)\) += (.*)$", line):
            pid, name, arguments, result = match.groups()
            calls.append(Call(int(pid), name, arguments, result, i, i))
    return sorted(calls, key=lambda call: call.begin)


def strace(store, *arguments, options=()):
    """Runs ecs-image under strace."""
    log = store.state.parent / "strace"
    done = subprocess.run(
        ["strace", "-f", "-y", "-s", "120", "-o", log, *options, store.program, *store.options, *arguments],
        capture_output=True, text=True, timeout=120, env=environment({"ASAN_OPTIONS": "detect_leaks=0"}),
    )  # fmt: skip
    return done, parse(log.read_text()) if log.exists() else []


def record(store, *arguments):
    done, calls = strace(
        store, *arguments, options=["-e", "trace=" + ",".join((*SYNCS, *RENAMES, *CHANGES, "sendmsg", "sendto"))]
    )
    assert done.returncode == 0, done.stderr
    return [call for call in calls if not call.result.startswith("-1")]


def synced_between(calls, path, after, before, names=("fsync",)):
    """Is there a sync of path that begins after the one moment and has ended at the other?"""
    return any(
        call.name in names and call.begin > after and call.end < before and path in call.paths()
        for call in calls
    )  # fmt: skip


@pytest.fixture
def fake():
    with FakeRegistry() as running:
        yield running


def make_image(n=3):
    layers = []
    for i in range(n):
        layers.append(
            tar(entry(f"d{i}", kind=DIR, mode=0o755), *(entry(f"d{i}/f{k}", os.urandom(3000)) for k in range(4)))
        )
    return Image(layers)


def contents(directory):
    """Of all files in it."""
    return {
        str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(directory.rglob("*")) if p.is_file()
    }  # fmt: skip


def test_a_layer_is_on_disk_before_it_is_shown_and_an_image_before_it_is_answered(store, fake):
    image = make_image()
    calls = record(store, "pull", fake.put("app:1", image))
    staging, layers, index = (str(store.images / name) for name in ("staging", "layers", "index"))

    shown = [c for c in calls if c.name in RENAMES and layers in c.paths()]
    assert {name for c in shown for name in c.names()} == {d.removeprefix("sha256:") for d in image.diff_ids}
    for call in shown:
        work = f"{staging}/{call.names()[0]}"
        changes = [
            c for c in calls
            if c.name in CHANGES and c.begin < call.begin
            and any(p == work or p.startswith(work + "/") for p in c.paths() + c.full_names())
        ]  # fmt: skip
        assert changes and not any(c.end > call.begin for c in changes)
        last = max(c.end for c in changes)
        assert synced_between(calls, work, last, call.begin, ("syncfs",)), call

    (put,) = [c for c in calls if c.name in RENAMES and index in c.paths()]
    temporary = f"{index}/{put.names()[0]}"
    written = max(c.end for c in calls if c.name == "write" and temporary in c.paths())
    assert synced_between(calls, temporary, written, put.begin)
    assert synced_between(calls, layers, max(c.end for c in shown), put.begin)

    answers = [c for c in calls if '\\"type\\":\\"pulled\\"' in c.arguments]
    assert answers, "no answer was seen"
    assert synced_between(calls, index, put.end, min(c.begin for c in answers))

    made = [c for c in calls if c.name == "mkdirat" and str(store.images) in c.paths()]
    assert {c.names()[0] for c in made} == {"layers", "index", "staging"}
    for call in made:
        assert synced_between(calls, str(store.images), call.end, min(c.begin for c in shown)), call


def test_a_layer_that_was_there_is_synced_too_before_an_image_says_so(store, fake):
    base = tar(entry("base", os.urandom(2000)))
    store.pull(fake.put("one:1", Image([base], {"Cmd": ["one"]})))
    calls = record(store, "pull", fake.put("two:1", Image([base], {"Cmd": ["two"]})))
    layers, index = str(store.images / "layers"), str(store.images / "index")
    assert not [c for c in calls if c.name in RENAMES and layers in c.paths()]
    (put,) = [c for c in calls if c.name in RENAMES and index in c.paths()]
    assert synced_between(calls, layers, -1, put.begin)


def test_an_image_goes_before_its_layers_and_a_layer_before_its_files(store, fake):
    image = make_image(2)
    reference = fake.put("app:1", image)
    store.pull(reference)
    calls = record(store, "rm", reference)
    staging, layers, index = (str(store.images / name) for name in ("staging", "layers", "index"))

    (gone,) = [c for c in calls if c.name == "unlinkat" and index in c.paths()]
    hidden = [c for c in calls if c.name in RENAMES and layers in c.paths()]
    assert len(hidden) == 2
    assert synced_between(calls, index, gone.end, min(c.begin for c in hidden))
    for call in hidden:
        work = f"{staging}/{call.names()[0]}"
        first = min(
            c.begin for c in calls
            if c.name == "unlinkat" and any(p == work or p.startswith(work + "/") for p in c.full_names())
        )  # fmt: skip
        assert synced_between(calls, layers, call.end, first), call
    store.has_only()


@pytest.mark.parametrize("call", ["syncfs", "fsync", "renameat2", "renameat"])
def test_a_process_killed_at_any_sync_or_rename_leaves_what_the_next_pull_mends(tmp_path, fake, call):
    ensure_users()
    image = make_image(2)
    reference = fake.put("app:1", image)
    expected = None
    for n in range(1, 40):
        directory = tmp_path / str(n)
        directory.mkdir()
        store = Store(directory)
        done, _ = strace(store, "pull", reference, options=["-e", f"inject={call}:signal=KILL:when={n}"])
        shown = {p.name for p in (store.images / "layers").iterdir()} if store.images.exists() else set()
        if expected is not None:
            for name in shown:
                assert contents(store.images / "layers" / name) == expected[name]
        if done.returncode != 0:
            for path in (store.images / "index").glob("*.json") if store.images.exists() else ():
                assert set(json.loads(path.read_text())["layers"]) <= shown
            store.pull(reference)
        store.has_only(image)
        assert [p.suffix for p in (store.images / "index").iterdir()] == [".json"]
        found = {p.name: contents(p) for p in (store.images / "layers").iterdir()}
        expected = expected or found
        assert found == expected
        if done.returncode == 0:
            break
    assert 1 < n < 39, "no call was hit, or there was no end of them"


@pytest.mark.parametrize("call", ["fsync", "renameat2", "unlinkat"])
def test_a_removal_killed_half_way_shows_no_half_layer(tmp_path, fake, call):
    ensure_users()
    image, other = make_image(2), Image([tar(entry("o", b"o"))])
    references = fake.put("app:1", image), fake.put("other:1", other)
    for n in range(1, 60):
        directory = tmp_path / str(n)
        directory.mkdir()
        store = Store(directory)
        for reference in references:
            store.pull(reference)
        whole = {p.name: contents(p) for p in (store.images / "layers").iterdir()}
        done, _ = strace(store, "rm", references[0], options=["-e", f"inject={call}:signal=KILL:when={n}"])
        for path in (store.images / "layers").iterdir():
            assert contents(path) == whole[path.name]
        for path in (store.images / "index").glob("*.json"):
            layers = json.loads(path.read_text())["layers"]
            assert all((store.images / "layers" / name).exists() for name in layers)
        store.run("rm", references[1])
        store.run("rm", references[0])  # says that it is not there, if the first one got so far
        store.has_only()
        if done.returncode == 0:
            break
    assert 1 < n < 59, "no call was hit, or there was no end of them"


def test_a_disk_that_cannot_sync_gives_no_layer(store, fake):
    image = make_image(1)
    reference = fake.put("app:1", image)
    done, _ = strace(store, "pull", reference, options=["-e", "inject=syncfs:error=EIO"])
    assert done.returncode == 1 and "sync layer" in done.stderr, done.stderr
    store.has_only()
    store.pull(reference)
    store.has_only(image)


def test_a_damaged_record_hinders_neither_a_pull_nor_a_removal(store, fake):
    image, other = make_image(1), Image([tar(entry("o", b"o"))])
    reference, second = fake.put("app:1", image), fake.put("other:1", other)
    store.pull(reference)
    (path,) = (store.images / "index").iterdir()
    for damage in (b"", bytes(512), b'{"layers":[5]}', b'{"layers":"x"}'):
        path.write_bytes(damage)
        store.pull(reference)
        assert json.loads(path.read_text())["layers"] == [image.diff_ids[0].removeprefix("sha256:")]
        path.write_bytes(damage)
        store.pull(second)
        done = store.run("rm", second)
        assert done.returncode == 0, done.stderr
        store.has_only()
        assert not path.exists()
