"""What one VM may cost: descriptors, memory, the state's disk, and other jobs' results."""
import contextlib
import os
import re
import resource
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from harness import FACTOR, errno_of, process_fields, wait_until, write_file

MOST_OPEN = 512
# What the daemon keeps for the state's disk at most, and some: it looks before each line.
MANY_CHANGES = 20_000
MIB = 1 << 20


def peak_kib(daemon):
    return int(process_fields(daemon.pid)["VmHWM"].split()[0])


@contextlib.contextmanager
def memory_bounded(daemon, mib):
    """The daemon's memory grows by less than that at any time. (Not with a sanitizer, which keeps
    what was freed.)"""
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")  # the peak begins at what it has now
    before = peak_kib(daemon)
    yield
    grown = peak_kib(daemon) - before
    assert grown < mib * 1024 or FACTOR > 1, f"{grown} KiB"


# --- descriptors ---------------------------------------------------------------------------------

@contextlib.contextmanager
def many_descriptors():
    """For the test's own process; and closes what it has opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fds = []
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_all(fds, path, flags):
    """As many as one VM may have; a file that was just closed may still count for a moment."""
    for _ in range(MOST_OPEN):
        wait_until(lambda: errno_of(lambda: fds.append(os.open(path, flags))) is None,
                   what="room for one more")


def usual_limit():
    """Called in the daemon before exec: what a login shell and systemd give."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))


def test_open_data_files(vgpufs):
    """Each is a descriptor of the daemon, which all VMs and all executors share."""
    daemon = vgpufs(prepare=usual_limit)
    vm, other = daemon.vm(1), daemon.vm(2)
    vm.write_data("x", bytes(400))
    with many_descriptors() as fds:
        open_all(fds, vm.data / "x", os.O_RDONLY)
        assert errno_of(os.open, vm.data / "x", os.O_RDWR) == "EDQUOT"
        error = vm.status()["last_error"]
        assert (error["errno"], error["line"]) == ("EDQUOT", "data/")
        assert "open" in error["text"]
        # Its own jobs take none of these, and another VM has its own.
        assert vm.run("VECTOR_ADD a=x b=x out=y").header["status"] == "done"
        open_all(fds, other.data / "x", os.O_RDWR | os.O_CREAT)
        assert daemon.vm(3).run("NOP").header["status"] == "done"
        # A new executor needs some too.
        old = daemon.executor_pid("A.0")
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: daemon.executor_pid("A.0") != old, what="a new executor")
        assert daemon.vm(3).run("NOP").header["status"] == "done"
        # Each that is closed makes room for another.
        os.close(fds.pop(0))
        wait_until(lambda: errno_of(lambda: fds.append(os.open(vm.data / "x", os.O_RDONLY))) is None,
                   what="room for one more")
        assert errno_of(os.open, vm.data / "x", os.O_RDONLY) == "EDQUOT"


def test_a_refused_open_creates_nothing(vgpufs):
    vm = vgpufs().vm(1)
    with many_descriptors() as fds:
        open_all(fds, vm.data / "x", os.O_RDWR | os.O_CREAT)
        assert errno_of(os.open, vm.data / "new", os.O_WRONLY | os.O_CREAT) == "EDQUOT"
        assert os.listdir(vm.data) == ["x"]


def test_executors_have_the_usual_limit(vgpufs):
    """The daemon's own is raised; a program that uses select(2) must not get that."""
    daemon = vgpufs(prepare=usual_limit)
    limits = Path(f"/proc/{daemon.executor_pid('A.0')}/limits").read_text()
    assert int(re.search(r"Max open files +(\d+)", limits)[1]) <= 1024


# --- the state's disk ----------------------------------------------------------------------------

@contextlib.contextmanager
def small_disk(daemon):
    """The daemon, started with a disk of its own for its state."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", daemon.state_dir], check=True)
    try:
        yield daemon.start()
        daemon.stop()
    finally:
        if daemon.process:
            daemon.kill9()
        subprocess.run(["umount", "-l", daemon.state_dir], check=True)


def fill(path):
    with open(path, "wb", buffering=0) as file:
        while errno_of(file.write, bytes(4096)) is None:
            pass


@contextlib.contextmanager
def log_without_room(daemon):
    """SQLite's log is as long as what is in it, and stays so: who changes a row needs room. Else a
    log that was copied into the tables is used again from its start, for ever if the rows are few.
    A reader keeps it from being copied (https://sqlite.org/wal.html, "Avoiding excessively large WAL
    files")."""
    path = f"file:{daemon.state_dir / 'state.db'}"
    with contextlib.closing(sqlite3.connect(path, uri=True, timeout=60 * FACTOR)) as database:
        database.isolation_level = None  # BEGIN is ours
        busy, *_ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy
        database.execute("BEGIN")
        database.execute("SELECT count(*) FROM vm").fetchone()
        yield


def first_error(action, times):
    """The errno of the first of so many calls that fails."""
    return next((error for error in (errno_of(action, i) for i in range(times)) if error), None)


@pytest.mark.root
@pytest.mark.limit(120)
@pytest.mark.parametrize("what", ["identity", "rename"])
def test_a_full_state_disk(vgpufs, what):
    """What cannot be written waits in memory: the guest is told before that is much."""
    with small_disk(vgpufs(start=False)) as daemon, contextlib.ExitStack() as held:
        vm = daemon.vm(1)
        vm.write_data("0", b"")
        os.truncate(daemon.state_dir / "reserve", 0)  # what is kept for accepted jobs would do for these
        held.enter_context(log_without_room(daemon))
        fill(daemon.state_dir / "fill")
        identity = os.open(vm.dir / "identity", os.O_WRONLY)
        claim = b"pool=A" + b" " * 3900 + b"priority=1 vm_id=1\n"
        actions = {
            "identity": lambda i: os.write(identity, claim * 5),
            "rename": lambda i: os.rename(vm.data / str(i), vm.data / str(i + 1)),
        }
        with memory_bounded(daemon, 40):
            assert first_error(actions[what], MANY_CHANGES) == "ENOSPC"
        # So is any other change.
        assert errno_of(os.write, identity, b"A:1:1\n") == "ENOSPC"
        assert vm.status()["last_error"]["errno"] == "ENOSPC"
        assert errno_of(vm.write_data, "new", b"") == "ENOSPC"
        (name,) = os.listdir(vm.data)
        assert errno_of(os.rename, vm.data / name, vm.data / "renamed") == "ENOSPC"
        os.unlink(vm.data / name)  # this makes room, and must be possible
        errno_of(os.close, identity)
        (daemon.state_dir / "fill").unlink()
        # The writer tries again after a second; until then it has nothing better to say.
        wait_until(lambda: errno_of(write_file, vm.dir / "identity", "A:2:1\n") is None,
                   what="room again")
        vm.write_data("new", b"x")
        assert vm.run("NOP").header["priority"] == "2"


# --- memory --------------------------------------------------------------------------------------

def test_a_batch_beyond_all_limits(vgpufs):
    """It is refused before there is a job for each line."""
    daemon = vgpufs()
    vm = daemon.vm(1)
    vm.run("NOP")
    with memory_bounded(daemon, 40):
        assert errno_of(write_file, vm.dir / "submit", b"NOP\n" * 250_000) == "EDQUOT"
    assert vm.status()["last_error"]["errno"] == "EDQUOT"
    assert vm.result().header["status"] == "rejected"
    assert vm.jobs() == {"1"}
    assert vm.run("NOP").header["job"] == "2", "no number was used up"


def test_unfinished_bytes_after_large_batches(vgpufs):
    """A handle keeps what is unfinished, not the room of the batch before."""
    daemon = vgpufs()
    vm = daemon.vm(1)
    comments = (b"#" + b"x" * 4000 + b"\n") * 255
    with many_descriptors() as fds:
        fds += [os.open(vm.dir / "submit", os.O_WRONLY) for _ in range(200)]
        with memory_bounded(daemon, 40):
            for fd in fds:
                assert os.write(fd, comments + b"N") == len(comments) + 1
        for i, fd in enumerate(fds[:20]):
            os.write(fd, b"OP tag=t%d\n" % i)
        assert vm.jobs() == {f"t{i}" for i in range(20)}
        for fd in fds:
            errno_of(os.write, fd, b"\n")  # what is left is no command


# --- results -------------------------------------------------------------------------------------

@pytest.mark.parametrize("refusal", ["EDQUOT", "ENOSPC"])
def test_a_refused_batch_costs_no_results(vgpufs, refusal):
    """Ended jobs make room for new ones, but only for those that are taken."""
    made = 6 if refusal == "EDQUOT" else 4
    daemon = vgpufs({"vm 1": {"max_jobs": "10"}, "pool A": {"max_queued": "2"},
                     "pool B": {"max_queued": "2" if refusal == "ENOSPC" else "100"}})
    vm = daemon.vm(1)
    ended = {f"ended{i}" for i in range(4)}
    for tag in sorted(ended):
        assert vm.run(f"NOP tag={tag}").header["status"] == "done"
    waiting = {f"made{i}" for i in range(made)}
    for tag in waiting:
        os.mkdir(vm.job(tag))
    daemon.ctl("hold B")
    assert errno_of(vm.submit, *["B:1:1:NOP"] * 5) == refusal
    assert vm.jobs() == ended | waiting
    for tag in ended:
        assert vm.job_result(tag).header["status"] == "done"
    # One that is taken does cost one.
    vm.submit("B:1:1:NOP tag=taken")
    daemon.ctl("release B")
    assert vm.job_result("taken").header["status"] == "done"
    assert waiting < vm.jobs() and len(vm.jobs()) <= 10
