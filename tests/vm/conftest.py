"""What tests on a real host share: images, a registry, and a guest with the package installed."""

import pathlib
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import image  # noqa: E402
from harness import images  # noqa: E402
from harness.registry import Registry  # noqa: E402
from host import Host, packages_to_test  # noqa: E402


def pytest_sessionstart():
    # As with a SIGINT: guests and what else was started are ended.
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", 143))


@pytest.fixture(scope="session")
def packages():
    return packages_to_test()


@pytest.fixture(scope="session")
def base_image():
    """Debian as it is before the package is installed, with what the package depends on."""
    return image.make()


@pytest.fixture(scope="session")
def installed_image(packages):
    return image.make(packages)


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


@pytest.fixture(scope="module")
def guest(installed_image, registry, busybox, request):
    """A booted host whose agent is enabled and connected; thrown away after the module's tests."""
    name = request.module.__name__.removeprefix("test_")
    with Host(installed_image, registry, busybox, name=name) as host:
        host.boot()
        host.configure()
        host.enable()
        yield host
        host.standin.assert_no_violations()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With a failure comes what the guest had to say."""
    outcome = yield
    report = outcome.get_result()
    host = item.funcargs.get("guest")
    if not report.failed or host is None:
        return
    report.sections.append(("console of the guest", host.console()[-4000:]))
    if host.process is None:
        return
    try:
        report.sections.append(("journal of the guest", host.run(
            "journalctl --no-pager --boot --lines=200", timeout=30, check=False).stdout))  # fmt: skip
    except Exception as error:
        report.sections.append(("journal of the guest", f"cannot be read: {error}"))
