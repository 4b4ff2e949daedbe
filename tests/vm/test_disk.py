"""The disk that forgets, without a machine: what a flush promises holds, and nothing else does."""

import random
import shutil
import subprocess

import pytest
from disk import BLOCK, Disk, ForgetfulDisk


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "base").write_bytes(b"b" * BLOCK * 16)
    return Disk(tmp_path / "base", tmp_path / "data")


def block(text):
    return text * BLOCK


def test_what_is_written_is_read_at_once_across_blocks(disk):
    disk.write(BLOCK - 2, b"1234")
    assert disk.read(BLOCK - 3, 6) == b"b1234b"
    disk.flush()
    disk.write(BLOCK, b"x")
    assert disk.read(BLOCK - 3, 6) == b"b12x4b"
    assert disk.read(0, 3 * BLOCK) == b"b" * (BLOCK - 2) + b"12x4" + b"b" * (2 * BLOCK - 2)


def test_a_cut_keeps_what_was_flushed_or_written_through(disk):
    disk.write(0, block(b"1"))
    disk.flush()
    disk.write(0, block(b"2"))
    disk.write(BLOCK, block(b"3"), through=True)
    disk.write(2 * BLOCK, block(b"4"))
    assert disk.cut(random.Random(1), 0) == (0, 2)
    assert disk.read(0, 3 * BLOCK) == block(b"1") + block(b"3") + block(b"b")


def test_a_cut_keeps_any_part_of_the_rest_in_any_version(disk):
    seen = set()
    for seed in range(200):
        disk.write(0, block(b"0") * 2)
        disk.flush()
        for text in (b"1", b"2"):
            disk.write(0, block(text) * 2)
        kept, lost = disk.cut(random.Random(seed), 0.5)
        assert kept + lost == 2
        data = disk.read(0, 2 * BLOCK)
        assert data == block(data[:1]) + block(data[-1:])
        seen.add((data[:1], data[-1:]))
    assert seen == {(a, b) for a in (b"0", b"1", b"2") for b in (b"0", b"1", b"2")}


@pytest.mark.skipif(not shutil.which("qemu-io"), reason="qemu-io is not installed")
def test_it_speaks_nbd_and_freezes(tmp_path):
    (tmp_path / "base").write_bytes(bytes(BLOCK * 256))
    disk = ForgetfulDisk(tmp_path / "base", tmp_path)
    try:
        url = f"nbd+unix:///?socket={disk.socket}"
        words = [w for c in ("write -P 7 0 64k", "flush", "write -P 9 4096 4096", "abort") for w in ("-c", c)]
        subprocess.run(["qemu-io", "-f", "raw", "-t", "writeback", *words, url], check=False, capture_output=True)
        assert disk.cut(1, 0) == {"kept": 0, "lost": 1}
        checked = subprocess.run(
            ["qemu-io", "-f", "raw", "-c", "read -P 7 0 64k", url], check=True, capture_output=True, text=True
        )
        assert "verification failed" not in checked.stdout, checked.stdout

        disk.freeze(2)
        writes = [w for n in range(4) for w in ("-c", f"write -P 5 {n * BLOCK} {BLOCK}")]
        hanging = subprocess.Popen(
            ["qemu-io", "-f", "raw", "-t", "writeback", *writes, url], stdout=subprocess.DEVNULL
        )
        assert disk.wait_frozen(20)
        assert hanging.poll() is None
        hanging.kill()
        hanging.wait()
        assert disk.cut(1, 1) == {"kept": 2, "lost": 0}
    finally:
        disk.stop()
