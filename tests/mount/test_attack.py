"""A guest that floods: what it does is bounded, costs nothing that stays, and keeps nobody else
waiting. What one VM may cost in all is in test_limits.py; lines and names that are wrong are in
test_submit.py and test_data.py; other VMs' handles in test_tree.py."""
import contextlib
import errno
import os
import sqlite3
import threading
import time

import pytest

from harness import BUILD, FACTOR, HERE, Background, Vgpufs, errno_of, read_fd, read_file, wait_until
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


def test_a_flood_of_listings(vgpufs):
    """A listing is a copy of all names."""
    daemon = vgpufs({"vm 1": {"max_open": "100000", "max_open_bytes": "8M"}})
    vm = daemon.vm(1)
    for i in range(1000):
        os.close(os.open(vm.data / f"{i:0250}", os.O_CREAT | os.O_WRONLY))
    with many_descriptors() as fds, memory_bounded(daemon, 24):
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
        with memory_bounded(daemon, 24):
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
    more of them, and nobody else."""
    def attempt(daemon):
        daemon.ctl("hold A")
        other = daemon.vm(2)
        other.write_data("first", b"") # this reserves the numbers of its files
        threads = daemon.threads()
        with stuck_database(daemon):
            floods = [Flood(Canceller(daemon.vm(1), "NOP")) for _ in range(24)]
            wait_still(floods)
            assert_served(other)
            assert daemon.threads() <= threads + 1, "one thread waits for that VM"
        assert_end_well(floods)
        daemon.ctl("release A")
        assert other.job_result("served").header["status"] == "done"

    with_stuck_database(vgpufs, attempt)


@pytest.mark.limit(120)
@pytest.mark.parametrize("what", ["jobs", "data"])
def test_names_beyond_the_reserved_numbers(vgpufs, what):
    def attempt(daemon):
        vm, other = daemon.vm(1), daemon.vm(2)
        vm.write_data("first", b"")
        other.write_data("first", b"")

        def make(i):
            name = vm.dir / what / f"t{i}-{threading.get_native_id()}"
            if what == "jobs":
                os.mkdir(name)
                os.rmdir(name)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
                os.unlink(name)

        with stuck_database(daemon):
            floods = [Flood(make) for _ in range(24)]
            wait_still(floods, 200)
            assert_served(other)
        assert_end_well(floods)
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
