"""The three machines of a run, and what a failure leaves of them."""
import os
import tempfile
import threading
from pathlib import Path

import pytest

import rig as rigs

LAYOUT = rigs.Layout(*os.environ["VGPUFS_VM_LAYOUT"].split())
# Several versions of NFS, as in "3+4.2", share the machines: all tests are run with each in turn.
VERSIONS = LAYOUT.version.split("+")
# meson ends a test that takes longer, and then nothing would be left to look at.
SECONDS = float(os.environ["VGPUFS_VM_SECONDS"])
LOGS = rigs.BUILD / "meson-logs" / os.environ["VGPUFS_VM_NAME"]

FAILURES = LOGS.with_suffix(LOGS.suffix + ".failures")

failed = []


def give_up(machines):
    print(f"\nnot done within {SECONDS:.0f} s", flush=True)
    try:
        machines.save(LOGS)
    finally:
        machines.close()
        os._exit(1)


@pytest.fixture(scope="session")
def started():
    with tempfile.TemporaryDirectory(prefix="vgpufs-vm-") as folder:
        machines = rigs.Rig(Path(folder), LAYOUT._replace(version=VERSIONS[0]))
        watchdog = threading.Timer(SECONDS, give_up, [machines])
        watchdog.daemon = True
        watchdog.start()
        complete = False
        try:
            machines.start()
            complete = True
            yield machines
        finally:
            try:
                if failed or not complete:
                    machines.save(LOGS)
            finally:
                watchdog.cancel()
                machines.close()


@pytest.fixture(scope="session", params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture(scope="module")
def rig(started, version):
    """The machines; fails when a file's tests leave a process that nothing can end, a complaint of
    a kernel, or no daemon."""
    started.use_version(version)
    yield started
    trouble = started.trouble()
    assert not trouble, "\n".join(trouble)


@pytest.fixture(scope="module")
def configured(rig):
    """Has the daemon run with other keys, as often as it is called; in the end with the usual ones."""
    def configure(**changes):
        if {name.replace("_", " "): keys for name, keys in changes.items()} != rig.changes:
            rig.restart_daemon(**changes)
    yield configure
    configure()


@pytest.fixture
def guest(rig):
    return rig[3]


@pytest.fixture
def other(rig):
    return rig[4]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    report = (yield).get_result()
    item.failed_in_call = report.failed or getattr(item, "failed_in_call", False)
    if report.failed:
        failed.append(item.nodeid)
        with open(FAILURES, "a", encoding="utf-8") as file:  # while the others still run
            file.write(f"== {item.nodeid}, {report.when}\n{report.longreprtext}\n\n")
        machines = item.funcargs.get("started")
        if machines and machines.host.process:
            report.sections.append(("the daemon's log", machines.log()))


def pytest_collection_modifyitems(items):
    """Leaves out what means nothing in this layout: `@pytest.mark.layout(version=("3", "4.2"))`."""
    kept = []
    for item in items:
        callspec = getattr(item, "callspec", None)
        version = callspec.params.get("version", LAYOUT.version) if callspec else LAYOUT.version
        layout = LAYOUT._replace(version=version)
        wanted = [mark.kwargs for mark in item.iter_markers("layout")]
        if all(getattr(layout, key) in values for keys in wanted for key, values in keys.items()):
            kept.append(item)
    items[:] = kept


def pytest_configure(config):
    FAILURES.unlink(missing_ok=True)
    config.addinivalue_line("markers", "layout(KEY=VALUES): the layouts in which the test is run")
