"""Fixtures: `vgpufs` makes mounts for one test, `mount` is shared by a file (by its CONFIG)."""
import os
import signal
import sys
import threading

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import harness  # noqa: E402  (the folder must be on the path first)


def pytest_configure(config):
    config.addinivalue_line("markers", "root: needs uid 0; not collected for a plain user's run")
    config.addinivalue_line("markers", "limit(seconds): how long the test may take, default 60")


def pytest_collection_modifyitems(config, items):
    if harness.IS_ROOT:
        return
    others = [item for item in items if item.get_closest_marker("root")]
    items[:] = [item for item in items if item not in others]
    config.hook.pytest_deselected(items=others)
    config.only_for_root = bool(others) and not items


def pytest_sessionfinish(session, exitstatus):
    """A file all of whose tests need root is no failure of a plain user's run."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and \
            getattr(session.config, "only_for_root", False):
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(autouse=True)
def time_limit(request):
    """A test that hangs is interrupted; if the daemon does not let go of it, the daemon is killed,
    which ends every call into its mount."""
    marker = request.node.get_closest_marker("limit")
    seconds = (marker.args[0] if marker else 60) * harness.FACTOR

    def interrupt(_signal, _frame):
        raise TimeoutError(f"the test took longer than {seconds:g} s")

    def kill():
        for daemon in list(harness.LIVE):
            os.kill(daemon.pid, signal.SIGKILL)

    previous = signal.signal(signal.SIGALRM, interrupt)
    watchdog = threading.Timer(seconds + 10 * harness.FACTOR, kill)
    watchdog.daemon = True
    watchdog.start()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)
    watchdog.cancel()


@pytest.fixture
def vgpufs(request):
    """vgpufs({section: {key: value}}, start=True, …) gives a running daemon."""
    made = []

    def make(config=None, start=True, **kwargs):
        daemon = harness.Vgpufs(config, **kwargs)
        made.append(daemon)
        return daemon.start() if start else daemon

    yield make
    close_all(reversed(made))


def close_all(daemons):
    problems = []
    for daemon in daemons:
        try:
            daemon.close()
        except (AssertionError, OSError) as problem:
            problems.append(problem)
    if problems:
        raise problems[0]


@pytest.fixture(scope="module")
def shared_mount(request):
    daemon = harness.Vgpufs(getattr(request.module, "CONFIG", None))
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


@pytest.fixture
def mount(shared_mount):
    """One mount for all tests of a file that do each other no harm. The test that kills its daemon
    is the one that fails."""
    yield shared_mount
    shared_mount.revive()


@pytest.fixture(scope="module")
def unused_vms():
    return iter(range(20, 201))


@pytest.fixture
def vm(mount, unused_vms):
    """A VM of the file's mount that no other test has used."""
    vm = mount.vm(next(unused_vms))
    yield vm
    # What a failed test has left behind must not hold up the next one.
    harness.errno_of(vm.ctl, "cancel all")
