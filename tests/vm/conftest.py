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


class SharedHost:
    """Hosts cost half a minute each, so modules share one, until a test of theirs fails on it."""

    def __init__(self, *arguments):
        self.arguments = arguments
        self.host = None

    def take(self):
        if self.host is None:
            self.host = Host(*self.arguments, name="shared")
            self.host.boot()
            self.host.configure()
            self.host.enable()
        return self.host

    def throw_away(self):
        if self.host is not None:
            self.host.remove()
            self.host = None


@pytest.fixture(scope="session")
def shared(installed_image, registry, busybox):
    hosts = SharedHost(installed_image, registry, busybox)
    yield hosts
    hosts.throw_away()


@pytest.fixture(scope="module")
def guest(shared, request):
    """A booted host whose agent is enabled and connected. What a module does to it, it undoes: the next one goes on
    with it."""
    failed = request.session.testsfailed
    try:
        yield shared.take()
        shared.host.standin.assert_no_violations()
    except BaseException:
        shared.throw_away()
        raise
    if request.session.testsfailed > failed:
        shared.throw_away()


# Modules of the shared host, in this order: as it was installed first, as a copy in another instance last.
ON_SHARED_HOST = ("test_host", "test_units", "test_cgroups_v2", "test_nfs", "test_upgrade", "test_reboot")


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(items):
    """Modules are the groups that workers of xdist take, those of the shared host together. They come first, since
    they take longest."""
    order = {name: n for n, name in enumerate(ON_SHARED_HOST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("shared" if item.path.stem in order else item.path.stem))


@pytest.fixture
def tell(record_property):
    """A function for what a test has measured: its text is shown at the end, whatever runs the test."""
    return lambda text: record_property("told", text)


def pytest_terminal_summary(terminalreporter):
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, text in report.user_properties:
                    if name == "told":
                        terminalreporter.write_line(f"{report.nodeid.split('@')[0]}: {text}")


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
