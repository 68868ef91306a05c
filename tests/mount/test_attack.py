"""A guest that floods: what it does is bounded, costs nothing that stays, and keeps nobody else
waiting. What one VM may cost in all is in test_limits.py; lines and names that are wrong are in
test_submit.py and test_data.py; other VMs' handles in test_tree.py."""
import contextlib
import errno
import functools
import os
import sqlite3
import threading
import time

import pytest

from harness import (BUILD, FACTOR, HERE, Background, Vgpufs, errno_of, read_fd, read_file, run,
                     wait_until, write_file)
from nfs_server import NfsServer
from test_limits import many_descriptors, memory_bounded

MIB = 1 << 20


# --- what may be open, and what that keeps in memory ---------------------------------------------

def limits(vm):
    return {key: int(value) for key, value in vm.status()["limits"].items()}


def open_until_refused(fds, path, flags, most=100_000):
    """Opens it again and again; gives back the errno that ends that."""
    for _ in range(most):
        error = errno_of(lambda: fds.append(os.open(path, flags)))
        if error:
            return error
    return None


@pytest.mark.parametrize("name", ["submit", "status", "result", "identity", "jobs", "data", "jobs/a/result", ""])
def test_open_files_are_bounded(vgpufs, name):
    daemon = vgpufs({"vm 1": {"max_open": "40"}})
    vm, other = daemon.vm(1), daemon.vm(2)
    os.mkdir(vm.job("a"))
    flags = os.O_WRONLY if name == "submit" else os.O_RDONLY
    with many_descriptors() as fds:
        assert open_until_refused(fds, vm.dir / name, flags, 100) == "EDQUOT"
        assert len(fds) == 40 if name == "status" else 30 <= len(fds) < 40
        if name != "status": # who looks what is wrong, and mends it, still can
            assert limits(vm)["open"] >= len(fds)
            assert vm.status()["last_error"]["text"] == "max_open files are open"
            vm.ctl("cancel all")
        assert other.run("NOP").header["status"] == "done"
    wait_until(lambda: errno_of(read_file, vm.dir / "status") is None, what="room again")
    wait_until(lambda: limits(vm)["open"] == 1, what="none open but this one")
    assert vm.run("NOP").header["status"] == "done"


@pytest.mark.root
@pytest.mark.parametrize("name", ["", "stats", "metrics"])
def test_what_a_vm_opens_in_the_root_counts(vgpufs, name):
    """Each is a copy of what all VMs have: the VM's that asks for it, and nobody else's."""
    daemon = vgpufs({"vm 1": {"max_open": "40"}})
    vm = daemon.vm(1)
    uid = os.stat(vm.dir).st_uid
    script = ("import os, sys; fds = []\n"
              "try:\n"
              "    while len(fds) < 100: fds.append(os.open(sys.argv[1], os.O_RDONLY))\n"
              "except OSError as error: print(len(fds), error.errno)")
    status, out, error = run("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
                             "/usr/bin/python3", "-c", script, daemon.path(name))
    assert status == 0, error
    count, number = map(int, out.split())
    assert number == errno.EDQUOT and 30 <= count < 40
    assert vm.status()["last_error"]["text"] == "max_open files are open"
    with many_descriptors() as fds: # the host's own do not count
        assert open_until_refused(fds, daemon.path(name), os.O_RDONLY, 100) is None


def test_a_flood_of_listings(vgpufs):
    """A listing is a copy of all names."""
    daemon = vgpufs({"vm 1": {"max_open": "100000", "max_open_bytes": "8M"}})
    vm = daemon.vm(1)
    for i in range(1000):
        os.close(os.open(vm.data / f"{i:0250}", os.O_CREAT | os.O_WRONLY))
    with many_descriptors() as fds, memory_bounded(daemon, 60):
        assert open_until_refused(fds, vm.data, os.O_RDONLY, 1000) == "EDQUOT"
        assert 20 < len(fds) < 40, "each takes some 300 bytes for a name"
        assert vm.status()["last_error"]["text"] == "what is open takes max_open_bytes"
        assert limits(vm)["open_bytes"] >= 8 * MIB
    wait_until(lambda: limits(vm)["open_bytes"] < MIB, what="none of them kept")
    assert len(os.listdir(vm.data)) == 1000


COUNT = 60 if FACTOR == 1 else 12 # memory is measured without sanitizers only


def large_results(vgpufs, count, config):
    """A VM in whose jobs/ there are so many results of a MiB, under the names of numbers."""
    executor = f'/usr/bin/python3 "{HERE}/fault_executor.py" large'
    daemon = vgpufs({"pool A": {"executor": executor}, "vgpufs": {"durability": "none"},
                     "vm 1": {"max_queued": "100", **config}})
    vm = daemon.vm(1)
    vm.submit(*["SLEEP ms=1"] * count)
    assert vm.job_result(count).header["status"] == "done"
    return daemon, vm


def test_open_results(vgpufs):
    """A result is kept for who has begun to read it, but not without end."""
    daemon, vm = large_results(vgpufs, COUNT, {"max_open_bytes": "4M"})
    with many_descriptors() as fds:
        with memory_bounded(daemon, 40):
            for number in range(1, COUNT + 1):
                fds.append(os.open(vm.job(number) / "result", os.O_RDONLY))
                os.read(fds[-1], 4096)
            assert 4 * MIB <= limits(vm)["open_bytes"] < 6 * MIB
        # What is not kept is read again, and the same.
        whole = read_file(vm.job(COUNT) / "result")
        assert len(whole) > MIB
        assert read_fd(fds[COUNT - 1]) == whole[4096:]
        # What is kept outlives its directory, the other does not.
        os.rmdir(vm.job(1)), os.rmdir(vm.job(COUNT - 1))
        assert len(read_fd(fds[0])) > MIB - 4096
        assert errno_of(read_fd, fds[COUNT - 2]) == "ESTALE"


@pytest.mark.root
def test_results_for_an_nfs_server(vgpufs, tmp_path):
    """What it was told a result holds stays readable; for a few of them in memory."""
    daemon, vm = large_results(vgpufs, COUNT, {})
    daemon.restart() # what it has had in memory before would be used again
    server = NfsServer(tmp_path)
    try:
        with memory_bounded(daemon, 40):
            for number in range(1, COUNT + 1):
                assert server.size(vm.job(number) / "result") > MIB
        fd = server.do("open", vm.job(1) / "result", os.O_RDONLY)
        whole = read_file(vm.job(1) / "result").decode()
        for number in range(2, 10): # more than stay
            server.size(vm.job(number) / "result")
        assert server.do("pread", fd, 65536, 0) == whole[:65536]
        assert server.do("pread", fd, 65536, 900_000) == whole[900_000:965_536]
    finally:
        server.stop()


# --- reads that wait -----------------------------------------------------------------------------

def test_waiting_reads_are_bounded(vgpufs):
    daemon = vgpufs({"vm 1": {"max_waiting": "20"}})
    vm, other = daemon.vm(1), daemon.vm(2)
    vm.submit("SLEEP ms=60000 tag=long")
    readers = [Background(read_file, vm.dir / "result") for _ in range(20)]
    wait_until(lambda: limits(vm)["waiting"] == 20, what="all of them wait")
    assert errno_of(read_file, vm.job("long") / "result") == "EDQUOT"
    assert vm.status()["last_error"]["text"] == "max_waiting reads wait for results"
    assert other.run("B:1:2:NOP").header["status"] == "done"
    vm.ctl("cancel all")
    for reader in readers:
        assert reader.value().startswith(b"status=cancelled")
    assert limits(vm)["waiting"] == 0
    assert vm.run("NOP").header["status"] == "done"


# --- names ---------------------------------------------------------------------------------------

class SlowSort(Vgpufs):
    """Sorting many names takes as long as a file exists (slow_sort.c)."""

    def environment(self):
        return dict(super().environment(), VGPUFS_TEST_SORT=str(self.dir / "sorting"),
                    LD_PRELOAD=str(BUILD / "tests" / "mount" / "libslow-sort.so"))

    def sorting(self):
        return (self.dir / "sorting").stat().st_size


@pytest.fixture
def slow_sort():
    daemon = SlowSort().start()
    yield daemon
    (daemon.dir / "sorting").unlink(missing_ok=True)
    daemon.close()


def make_names(vm, what, count=600):
    for i in range(count):
        if what == "jobs":
            os.mkdir(vm.job(f"t{i}"))
        else:
            os.mknod(vm.data / f"t{i}")


@pytest.mark.parametrize("what", ["jobs", "data"])
def test_a_listing_takes_long(slow_sort, what):
    """Whoever lists a large directory waits, and whoever lists it at the same time; nobody else."""
    daemon = slow_sort
    vm, other = daemon.vm(1), daemon.vm(2)
    threads = daemon.threads()
    make_names(vm, what)
    (daemon.dir / "sorting").touch()
    listers = [Background(os.listdir, vm.dir / what) for _ in range(24)]
    wait_until(lambda: daemon.sorting() > 0, what="one makes a listing")
    assert other.run("NOP").header["status"] == "done"
    assert vm.run("NOP").header["status"] == "done"
    vm.write_data("x", b"x")
    os.mkdir(vm.job("x"))
    assert read_file(vm.data / "x") == b"x"
    assert os.listdir(other.data) == []
    assert daemon.sorting() == 1
    wait_until(lambda: daemon.threads() == threads + 1, what="one thread waits for that VM")
    (daemon.dir / "sorting").unlink()
    for lister in listers:
        assert len(lister.value()) >= 600
    wait_until(lambda: daemon.threads() == threads, what="that thread ends")
    assert len(os.listdir(vm.dir / what)) >= 601


def test_names_are_copied_once(slow_sort):
    """Until one comes or goes: who lists in a loop keeps nobody busy."""
    daemon = slow_sort
    vm = daemon.vm(1)
    make_names(vm, "data")
    assert len(os.listdir(vm.data)) == 600
    (daemon.dir / "sorting").touch()
    for _ in range(3):
        assert len(os.listdir(vm.data)) == 600
    assert daemon.sorting() == 0
    os.unlink(vm.data / "t0")
    lister = Background(os.listdir, vm.data)
    wait_until(lambda: daemon.sorting() > 0, what="another listing is made")
    (daemon.dir / "sorting").unlink()
    assert len(lister.value()) == 599


if FACTOR != 1: # a library cannot be loaded in front of a sanitizer's
    del test_a_listing_takes_long, test_names_are_copied_once


# --- names, bytes and numbers --------------------------------------------------------------------

def test_names_in_data_are_bounded(vgpufs):
    daemon = vgpufs({"vm 1": {"max_data_files": "20"}})
    vm, other = daemon.vm(1), daemon.vm(2)
    for i in range(20):
        vm.write_data(f"x{i}", b"")
    assert errno_of(vm.write_data, "one more", b"") == "EDQUOT"
    assert limits(vm)["data_files"] == limits(vm)["max_data_files"] == 20
    other.write_data("x", b"")
    os.rename(vm.data / "x0", vm.data / "x1")
    # The kernel tells of the close of what was replaced after close(2).
    wait_until(lambda: errno_of(vm.write_data, "one more", b"") is None, what="room for one")
    assert errno_of(vm.write_data, "another", b"") == "EDQUOT"


def test_a_line_without_end(vgpufs):
    """It is refused when it is too long, not when it ends; all that came with it too."""
    vm = vgpufs().vm(1)
    for first in (b"", b"NOP\n"):
        fd = os.open(vm.dir / "submit", os.O_WRONLY)
        try:
            assert errno_of(os.write, fd, first + b"x" * 4096) == "EFBIG"
            assert os.write(fd, b"NOP ") == 4
            assert errno_of(os.write, fd, b"x" * 4092) == "EFBIG"
            assert os.write(fd, b"NOP ") == 4
        finally:
            os.close(fd)
        assert vm.status()["last_error"]["errno"] == "EFBIG"
    assert vm.jobs() == {"1", "2"}, "the two that close() completed"


TAG_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"


def test_every_byte(vgpufs):
    """In a line, a tag and a name: it is taken as what the contract says, or refused; and what is
    told of it stays one record."""
    daemon = vgpufs({"vm 1": {"max_queued": "300", "max_data_files": "300"}})
    daemon.ctl("hold A")
    vm = daemon.vm(1)
    jobs, files = set(), set()
    for value in range(256):
        byte = bytes([value])
        # A newline ends the line, a blank the value: what is left is one of another tag.
        tag = b"t" + (b"" if value in b"\t\n " else byte) + b"%d" % value
        line = b"NOP tag=" + tag + b"\n"
        expected = None if value in TAG_BYTES + b"\t\n " else "EINVAL"
        assert errno_of(write_file, vm.dir / "submit", line) == expected, byte
        assert errno_of(write_file, vm.dir / "submit", byte + b"OP\n") == (
            "EINVAL" if value not in b"#N" else None), byte
        jobs |= set() if expected else {tag.decode()}
        assert vm.status()["newest"]["state"] in ("queued", "rejected")
        if value in b"\0/":
            continue
        tree = os.fsencode(vm.dir)
        expected = None if value in TAG_BYTES else "EINVAL"
        assert errno_of(os.mkdir, tree + b"/jobs/m" + byte) == expected, byte
        jobs |= set() if expected else {"m" + byte.decode()}
        with open(tree + b"/data/m" + byte, "wb"):
            pass
        files.add(b"m" + byte)
    assert {name for name in vm.jobs() if not name.isdigit()} == jobs
    assert set(os.listdir(os.fsencode(vm.data))) == files
    assert int(vm.status()["vm 1"]["queued"]) == len(jobs) - len(TAG_BYTES) + 1, "NOP, once"
    assert len(daemon.queue()) == len(jobs) - len(TAG_BYTES) + 1


BEYOND = [str(number) for number in (2**31, 2**32, 2**32 + 1, 2**40, 2**63, 2**64 - 1, 2**64,
                                     2**64 + 1, 10**40)]


def test_numbers_at_their_bounds(vgpufs):
    """None wraps round to one that is allowed."""
    daemon = vgpufs()
    vm = daemon.vm(1)
    daemon.ctl("hold A")
    vm.submit("NOP")
    for line in ["SLEEP ms={}", "NBODY n={}", "NOP timeout={}", "NOP deadline={}",
                 "A:{}:1:NOP", "A:1:{}:NOP"]:
        for number in ["", "-1", "+1", " ", "1x", "0x1", "-0", *BEYOND]:
            assert errno_of(vm.submit, line.format(number)) in ("EINVAL", "EACCES"), (line, number)
    for line in ["NOP timeout=0", "NOP deadline=0", "NBODY n=0", "A:3:1:NOP", "A:1:0:NOP"]:
        assert errno_of(vm.submit, line) in ("EINVAL", "EACCES"), line
    for number in ["0", "01", "1 ", "-1", "+1", *BEYOND]:
        assert errno_of(os.stat, vm.job(number)) == "ENOENT", number
        assert errno_of(os.rmdir, vm.job(number)) == "ENOENT", number
        if number.strip() == number:
            assert errno_of(vm.ctl, f"cancel {number}") == "EINVAL", number
        assert errno_of(write_file, vm.dir / "identity", f"A:1:{number}x\n") == "EINVAL", number
    for number in BEYOND:
        assert errno_of(write_file, vm.dir / "identity", f"A:{number}:1\n") == "EINVAL"
        assert errno_of(write_file, vm.dir / "identity", f"A:1:{number}\n") in ("EINVAL", "EACCES")
        assert errno_of(os.stat, daemon.path(f"vm{number}")) == "ENOENT"
    for size in [2**31, 2**40, 2**62, 2**63 - 1]:
        vm.write_data("x", b"")
        assert errno_of(os.truncate, vm.data / "x", size) in ("EDQUOT", "EFBIG"), size
        fd = os.open(vm.data / "x", os.O_WRONLY)
        assert errno_of(os.pwrite, fd, b"x", size - 1) in ("EDQUOT", "EFBIG"), size
        os.close(fd)
    assert limits(vm)["data_bytes"] == 0
    assert vm.jobs() == {"1"} and len(daemon.queue()) == 1


def test_identity_changes_while_jobs_are_queued(vgpufs):
    """A job stays where it was queued, and another VM's in its place."""
    daemon = vgpufs({"vm 1": {"max_queued": "100"}})
    vm, other = daemon.vm(1), daemon.vm(2)
    daemon.ctl("hold A"), daemon.ctl("hold B")
    other.submit("A:1:2:NOP tag=first")
    expected = []
    for i in range(60):
        pool, priority = "AB"[i % 2], str(i % 3)
        write_file(vm.dir / "identity", f"{pool}:{priority}:1\n")
        vm.submit(f"NOP tag=t{i}")
        expected.append((f"t{i}", pool, priority))
    write_file(vm.dir / "identity", "B:0:1\n")
    listed = [(line.tag, line.pool, line.priority) for line in daemon.queue() if line.vm == "vm1"]
    assert sorted(listed) == sorted(expected)
    order = [line.tag for line in daemon.queue() if line.pool == "A" and line.priority == "1"]
    assert order[0] == "first"
    daemon.ctl("release A"), daemon.ctl("release B")
    for tag, pool, priority in expected:
        header = vm.job_result(tag).header
        assert (header["status"], header["pool"], header["priority"]) == ("done", pool, priority)
    assert other.job_result("first").header["status"] == "done"


# --- more than the disk can take -----------------------------------------------------------------

@contextlib.contextmanager
def stuck_database(daemon):
    """Nothing is written into the state meanwhile. SQLite gives up after five seconds."""
    database = sqlite3.connect(daemon.state_dir / "state.db", isolation_level=None, timeout=60)
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        database.execute("ROLLBACK")
        database.close()


def with_stuck_database(vgpufs, attempt):
    """attempt(daemon) with a new daemon, again if it was so slow that SQLite gave up."""
    for _ in range(8):
        daemon = vgpufs({"vgpufs": {"durability": "none"}})
        try:
            return attempt(daemon)
        except (AssertionError, OSError):
            if "state: cannot write" not in daemon.log():
                raise
        daemon.kill9()
    raise AssertionError("too slow each time")


class Flood(threading.Thread):
    """Does it again and again until it is told to stop."""

    def __init__(self, action):
        super().__init__(daemon=True)
        self.action, self.times, self.stopping, self.error = action, 0, False, None
        self.start()

    def run(self):
        while not self.stopping and self.error is None:
            try:
                self.action(self.times)
            except OSError as error:
                self.error = error.errno
            self.times += 1

    def stop(self):
        self.stopping = True
        self.join(60 * FACTOR)
        assert not self.is_alive(), "the flood hangs"


def wait_still(floods, least=1):
    """Waits until they have done so much together and none of them goes on."""
    def still():
        before = [flood.times for flood in floods]
        time.sleep(0.3)
        return sum(before) >= least and before == [flood.times for flood in floods]
    wait_until(still, 40, "all of them wait")


def assert_end_well(floods):
    counts = [flood.times for flood in floods]
    wait_until(lambda: all(flood.times > count for flood, count in zip(floods, counts)), 60,
               "all of them go on")
    for flood in floods:
        flood.stop()
        assert flood.error is None


# More than there are threads; fewer where a sanitizer makes each of them slow.
GREEDY = range(3, 15 if FACTOR == 1 else 8)


class Canceller:
    """Submits the most that may be queued and cancels it: there is room again, and what was
    submitted is still to be written."""

    def __init__(self, vm, line):
        self.vm, self.batch = vm, (line + "\n").encode() * 60

    def __call__(self, _):
        submit = os.open(self.vm.dir / "submit", os.O_WRONLY)
        try:
            os.write(submit, self.batch)
            self.vm.ctl("cancel all")
        except OSError as error:
            if error.errno != errno.EDQUOT: # the other writers' jobs
                raise
        finally:
            os.close(submit)


def assert_served(vm):
    """Accepted and seen, though nothing can be written."""
    vm.submit("NOP tag=served")
    assert vm.status()["newest"]["tag"] == "served"
    vm.write_data("x", b"x")
    os.mkdir(vm.job("made"))
    assert read_file(vm.data / "x") == b"x"


@pytest.mark.limit(120)
def test_who_uses_up_its_numbers_waits(vgpufs):
    """Job numbers are reserved on the disk; while it is slow, a VM that has used them up waits for
    more of them, and nobody else. The kernel lets one writer of a file through at a time, so it
    takes several VMs to keep all threads busy."""
    def attempt(daemon):
        daemon.ctl("hold A")
        other = daemon.vm(2)
        other.write_data("first", b"") # this reserves the numbers of its files
        threads = daemon.threads()
        with stuck_database(daemon):
            floods = [Flood(Canceller(daemon.vm(number), "NOP")) for number in GREEDY]
            wait_still(floods, len(GREEDY))
            assert_served(other)
            assert daemon.threads() <= threads + len(GREEDY), "one thread waits for each of them"
        assert_end_well(floods)
        daemon.ctl("release A")
        assert other.job_result("served").header["status"] == "done"

    with_stuck_database(vgpufs, attempt)


@pytest.mark.limit(120)
@pytest.mark.parametrize("what", ["jobs", "data"])
def test_names_beyond_the_reserved_numbers(vgpufs, what):
    def attempt(daemon):
        vms, other = [daemon.vm(number) for number in GREEDY], daemon.vm(2)
        for vm in [*vms, other]:
            vm.write_data("first", b"")

        def make(vm, i):
            name = vm.dir / what / f"t{i}-{threading.get_native_id()}"
            if what == "jobs":
                os.mkdir(name)
                os.rmdir(name)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
                os.unlink(name)

        with stuck_database(daemon):
            floods = [Flood(functools.partial(make, vm)) for vm in vms]
            wait_still(floods, 200 * len(vms))
            assert_served(other)
        assert_end_well(floods)
        for vm in vms:
            assert vm.jobs() == set() and set(os.listdir(vm.data)) == {"first"}

    with_stuck_database(vgpufs, attempt)


@pytest.mark.limit(120)
def test_who_outruns_the_disk_waits(vgpufs):
    """Whoever asks for more than the disk takes is slowed down, without an error and without a
    thread."""
    def attempt(daemon):
        vm, other = daemon.vm(1), daemon.vm(2)
        other.write_data("first", b"")
        daemon.ctl("hold A")
        warm_up, again = Canceller(vm, "NOP"), Canceller(vm, "NOP" + " " * 4000)
        for i in range(500 if FACTOR == 1 else 50): # many used numbers mean that many are reserved
            warm_up(i)
        threads = daemon.threads()
        with memory_bounded(daemon, 160):
            with stuck_database(daemon):
                flood = Flood(again)
                wait_still([flood], 50 if FACTOR == 1 else 1)
                assert flood.error is None
                assert_served(other)
                assert daemon.threads() == threads or FACTOR > 1 # a slow one runs out of numbers
            assert_end_well([flood])
        daemon.ctl("release A")
        assert other.job_result("served").header["status"] == "done"

    with_stuck_database(vgpufs, attempt)
