"""What all integration tests share: the import path, a network namespace, nodes, tasks and images."""

import contextlib
import os
import pathlib
import sys

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from harness import images, netns  # noqa: E402
from harness.node import Node, programs_dir  # noqa: E402
from harness.registry import Registry  # noqa: E402
from runtime import Host, Task  # noqa: E402


def pytest_sessionstart(session):
    # The machine's own links, nft tables and sysctls stay untouched, whatever a test does.
    if os.geteuid() == 0 and not session.config.option.collectonly:
        netns.enter_new()


def pytest_runtest_setup(item):
    if "node" in item.fixturenames and not (programs_dir() / "ecs-agent").exists():
        pytest.skip(f"ecs-agent is not installed in {programs_dir()} (ECS_PROGRAMS)")


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def busybox(registry, tmp_path_factory):
    """Reference of a busybox image."""
    reference = f"{registry.host}/busybox:1"
    images.push_busybox(tmp_path_factory.mktemp("busybox"), reference)
    return reference


@pytest.fixture
def node():
    """A running node with a stand-in of its own; checked for violations and leftovers after use."""
    with Node() as running:
        yield running
        running.standin.assert_no_violations()


@pytest.fixture
def host():
    """Where ecs-task is driven directly (runtime.py): what runs there ends with it."""
    with contextlib.closing(Host()) as it:
        yield it


@pytest.fixture
def task(host):
    return Task(host)
