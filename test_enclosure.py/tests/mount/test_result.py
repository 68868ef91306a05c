"""Reading results: the header, waiting, interrupts, poll, offsets, and a thousand readers."""
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from harness import (BACKEND, FACTOR, HEADER_KEYS, Background, blocked_in_read, errno_of,
                     parse_fields, parse_result, read_fd, read_file, wait_until, without_times)


def cat(path):
    """A reader of its own process, blocked in read(2)."""
    process = subprocess.Popen(["cat", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: blocked_in_read(process.pid), what=f"cat {path} blocks")
    return process


# --- the header ----------------------------------------------------------------------------------

def test_before_any_submission(vm):
    assert read_file(vm.dir / "result") == (
        b"status=idle job=- tag=- command=- pool=A priority=1 backend=- device=- wait_us=- "
        b"run_us=- bytes=0\n")
    assert errno_of(os.lstat, vm.job("1")) == "ENOENT"


def test_done(vm):
    result = vm.run("VECTOR_ADD n=1048576 seed=7")
    header = result.header
    assert header["status"] == "done"
    assert (header["job"], header["tag"], header["command"]) == ("1", "1", "VECTOR_ADD")
    assert (header["pool"], header["priority"], header["backend"]) == ("A", "1", BACKEND)
    assert len(header["device"]) > 1
    assert re.search(rb' device="[^"]+" ', result.raw)
    assert header["wait_us"].isdigit() and int(header["run_us"]) > 0
    assert re.fullmatch(rb"n=1048576 dtype=f32 sum=\d+\.?\d* max_abs_error=0"
                        rb" compute_us=\d+ copy_us=\d+\n", result.body)
    assert list(header) == HEADER_KEYS


def test_run_time_is_measured(vm):
    assert 100_000 <= int(vm.run("SLEEP ms=100").header["run_us"]) < 100_000 + 2_000_000 * FACTOR


def test_wait_time_is_measured(mount, vm):
    vm.submit("SLEEP ms=200 tag=first", "NOP tag=second")
    assert int(vm.job_result("second").header["wait_us"]) >= 150_000


def test_results_are_reproducible(vm):
    first = without_times(vm.run("VECTOR_ADD n=1000 seed=3").body)
    assert without_times(vm.run("VECTOR_ADD n=1000 seed=3").body) == first
    assert without_times(vm.run("VECTOR_ADD n=1000 seed=4").body) != first


@pytest.mark.parametrize("line", ["VECTOR_ADD n=1", "VECTOR_ADD n=65537 dtype=f64",
                                  "MATRIX_MUL m=3 n=5 k=7", "MATRIX_MUL m=3 n=5 k=7 dtype=f64"])
def test_the_error_is_computed(vm, line):
    (error,) = re.findall(rb"max_abs_error=(\S+)", vm.run(line).body)
    assert float(error) < 1e-3


def test_failed(vm):
    result = vm.run("VECTOR_ADD a=none b=none out=z")
    assert result.header["status"] == "failed"
    assert "none" in result.header["error"]
    assert list(result.header)[-1] == "error"


# --- waiting -------------------------------------------------------------------------------------

def test_read_blocks_until_the_end(vm):
    vm.submit("SLEEP ms=500")
    reader = Background(vm.result).blocked()
    assert reader.value().header["status"] == "done"
    assert vm.newest()["state"] == "done"


def test_status_and_stats_never_block(mount, vm):
    vm.submit("SLEEP ms=55000")
    reader = Background(vm.result)
    for _ in range(20):
        vm.status(), mount.stats(), mount.queue(), os.listdir(vm.dir / "jobs")
        os.stat(vm.dir / "result"), os.stat(vm.job(1) / "result"), vm.job_status(1)
    assert vm.newest()["state"] in ("queued", "running")
    vm.ctl("cancel all")
    assert reader.value().header["status"] == "cancelled"


def test_open_does_not_wait(vm):
    vm.submit("SLEEP ms=300")
    fd = os.open(vm.dir / "result", os.O_RDONLY)
    assert vm.newest()["state"] in ("queued", "running")
    assert parse_result(read_fd(fd)).header["status"] == "done"
    os.close(fd)


def test_before_the_command(vm):
    """There is nothing to wait for: idle, at once, and it says of which job."""
    os.mkdir(vm.job("x"))
    header = vm.job_result("x").header
    assert (header["status"], header["tag"], header["job"]) == ("idle", "x", "1")


def test_a_job_result_never_changes(vm):
    vm.make_job("x", "VECTOR_ADD n=100 seed=1")
    first = vm.job_result("x")
    vm.run("NOP")
    assert errno_of(vm.submit, "BOGUS") == "EINVAL"
    for _ in range(3):
        assert vm.job_result("x") == first


def test_the_newest_job_is_taken_at_the_read(vm):
    fd = os.open(vm.dir / "result", os.O_RDONLY)
    for i in range(1, 4):
        vm.submit(f"NOP tag=t{i}")
        assert parse_fields(os.pread(fd, 4096, 0).split(b"\n")[0].decode())["tag"] == f"t{i}"
    os.close(fd)


def test_later_offsets_go_on_with_that_job(vm):
    whole = vm.run("VECTOR_ADD n=100 seed=1").raw
    fd = os.open(vm.dir / "result", os.O_RDONLY)
    pieces = [os.read(fd, 1)]
    vm.run("NOP tag=other")
    while piece := os.read(fd, 1):
        pieces.append(piece)
    assert b"".join(pieces) == whole
    os.close(fd)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 4096, 1 << 20])
def test_small_reads(vm, size):
    whole = vm.run("DEVICE_INFO").raw
    fd = os.open(vm.dir / "result", os.O_RDONLY)
    assert read_fd(fd, size) == whole
    assert os.read(fd, size) == b""
    os.close(fd)


def test_reads_at_offsets(vm):
    whole = vm.run("DEVICE_INFO").raw
    for path in (vm.dir / "result", vm.job(1) / "result"):
        fd = os.open(path, os.O_RDONLY)
        assert os.pread(fd, 10, 0) == whole[:10]
        assert os.pread(fd, 10, 5) == whole[5:15]
        assert os.pread(fd, 4096, len(whole) - 3) == whole[-3:]
        assert os.pread(fd, 10, len(whole)) == b""
        assert os.pread(fd, 10, len(whole) + 1000) == b""
        assert os.pread(fd, 10, 1 << 40) == b""
        os.close(fd)


def test_two_handles_follow_their_own_job(vm):
    vm.run("VECTOR_ADD n=10 seed=1")
    one = os.open(vm.dir / "result", os.O_RDONLY)
    first = os.read(one, 20)
    vm.run("VECTOR_ADD n=10 seed=2")
    two = os.open(vm.dir / "result", os.O_RDONLY)
    second = os.read(two, 20)
    assert parse_result(first + read_fd(one)).header["job"] == "1"
    assert parse_result(second + read_fd(two)).header["job"] == "2"
    os.close(one)
    os.close(two)


def test_a_waiting_read_ends_when_its_job_is_removed(vm):
    vm.submit("SLEEP ms=60000 tag=long")
    reader = Background(vm.result).blocked()
    job_reader = Background(vm.job_result, "long").blocked()
    vm.wait_state("long", "running")
    os.rmdir(vm.job("long"))
    assert reader.value().header["status"] == "cancelled"
    assert job_reader.value().header["status"] == "cancelled"


# --- interrupts ----------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("where", ["result", "jobs/long/result"])
def test_interrupt(mount, vm, number, where):
    """Ctrl-C ends the reader and nothing else: the job goes on, the daemon keeps nothing."""
    vm.submit("SLEEP ms=60000 tag=long")
    vm.wait_state("long", "running")
    threads, descriptors = mount.threads(), mount.descriptors()
    for _ in range(3):
        reader = cat(vm.dir / where)
        reader.send_signal(number)
        assert reader.wait(20 * FACTOR) == -number
        assert reader.stdout.read() == b""
        reader.stdout.close(), reader.stderr.close()
    assert vm.newest()["state"] == "running"
    assert (mount.threads(), mount.descriptors()) == (threads, descriptors)
    vm.ctl("cancel long")
    assert vm.result().header["status"] == "cancelled"


def test_interrupt_is_eintr(vm):
    """A handler that returns: read(2) fails with EINTR where the caller asked for it."""
    vm.submit("SLEEP ms=60000 tag=long")
    script = textwrap.dedent("""
        import ctypes, os, signal, sys
        libc = ctypes.CDLL(None, use_errno=True)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.siginterrupt(signal.SIGUSR1, True)
        fd = os.open(sys.argv[1], os.O_RDONLY)
        print("ready", flush=True)
        got = libc.read(fd, ctypes.create_string_buffer(100), 100)
        print(got, ctypes.get_errno())
        """)
    reader = subprocess.Popen([sys.executable, "-c", script, vm.dir / "result"],
                              stdout=subprocess.PIPE, text=True)
    assert reader.stdout.readline() == "ready\n"
    wait_until(lambda: blocked_in_read(reader.pid), what="the reader blocks")
    reader.send_signal(signal.SIGUSR1)
    assert reader.communicate(timeout=20 * FACTOR)[0].split() == ["-1", "4"]
    vm.ctl("cancel all")


def test_one_of_many_readers_is_interrupted(vm):
    vm.submit("SLEEP ms=60000 tag=long")
    readers = [cat(vm.dir / "result") for _ in range(5)]
    readers[2].send_signal(signal.SIGINT)
    assert readers[2].wait(20 * FACTOR) == -signal.SIGINT
    assert [reader.poll() for i, reader in enumerate(readers) if i != 2] == [None] * 4
    vm.ctl("cancel long")
    for i, reader in enumerate(readers):
        output, _ = reader.communicate(timeout=20 * FACTOR)
        if i != 2:
            assert parse_result(output).header["status"] == "cancelled"


def test_interrupts_race_with_the_end(mount, vm):
    """Readers that are killed while the job ends: each is answered or ends, none hangs."""
    for _ in range(20):
        vm.submit("SLEEP ms=20")
        readers = [subprocess.Popen(["cat", vm.dir / "result"], stdout=subprocess.PIPE)
                   for _ in range(4)]
        for reader in readers[::2]:
            reader.send_signal(signal.SIGINT)
        for i, reader in enumerate(readers):
            output, _ = reader.communicate(timeout=20 * FACTOR)
            if i % 2:
                assert parse_result(output).header["status"] == "done"
    assert vm.run("NOP").header["status"] == "done"


# --- poll ----------------------------------------------------------------------------------------

def poll(fd, milliseconds):
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(milliseconds))


@pytest.mark.parametrize("where", ["result", "jobs/slow/result"])
def test_poll(vm, where):
    vm.submit("SLEEP ms=60000 tag=slow")
    fd = os.open(vm.dir / where, os.O_RDONLY)
    assert not poll(fd, 0)
    waiter = Background(poll, fd, 30_000 * FACTOR)
    wait_until(lambda: vm.newest()["state"] == "running", what="running")
    assert waiter.is_alive()
    vm.ctl("cancel slow")
    assert waiter.value() is True, "poll is woken"
    assert poll(fd, 0)
    assert parse_result(read_fd(fd)).header["status"] == "cancelled"
    os.close(fd)


def test_poll_before_any_submission(vm):
    fd = os.open(vm.dir / "result", os.O_RDONLY)
    assert poll(fd, 0), "the read would not block"
    os.close(fd)


def test_poll_over_several_jobs(vm):
    fd = os.open(vm.dir / "result", os.O_RDONLY)
    for i in range(3):
        vm.submit("SLEEP ms=100")
        waiter = Background(poll, fd, 30_000 * FACTOR)
        assert waiter.value() is True
        assert parse_fields(os.pread(fd, 4096, 0).split(b"\n")[0].decode())["job"] == str(i + 1)
    os.close(fd)


@pytest.mark.parametrize("line, status", [("BOGUS", "rejected"), ("B:1:{}:NOP", "done")])
def test_poll_sees_a_newer_entry(vm, line, status):
    """The VM's result is that of its newest entry: poll does not wait for an older job."""
    vm.submit("SLEEP ms=60000 tag=slow")
    fd = os.open(vm.dir / "result", os.O_RDONLY)
    assert not poll(fd, 0)
    waiter = Background(poll, fd, 30_000 * FACTOR)
    time.sleep(0.2)  # it waits for the slow job now
    assert waiter.is_alive()
    errno_of(vm.submit, line.format(vm.number))
    assert waiter.value(5) is True
    assert parse_result(read_fd(fd)).header["status"] == status
    assert vm.job_status("slow")["state"] == "running"
    os.close(fd)


def test_epoll(vm):
    vm.submit("SLEEP ms=200")
    fd = os.open(vm.dir / "result", os.O_RDONLY)
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN)
        assert epoll.poll(0) == []
        assert epoll.poll(20 * FACTOR) == [(fd, select.EPOLLIN)]
    assert parse_result(read_fd(fd)).header["status"] == "done"
    os.close(fd)


# --- many ----------------------------------------------------------------------------------------

READERS = 1000

# One process with a thread for each reader, so that the machine holds them; it says when all are
# about to read, and prints how many distinct answers there were.
MANY = textwrap.dedent("""
    import collections, os, sys, threading
    threading.stack_size(128 * 1024)
    path, count = sys.argv[1], int(sys.argv[2])
    answers, lock = collections.Counter(), threading.Lock()

    def read():
        fd = os.open(path, os.O_RDONLY)
        data = os.read(fd, 65536)
        os.close(fd)
        with lock:
            answers[data] += 1

    threads = [threading.Thread(target=read) for _ in range(count)]
    for thread in threads:
        thread.start()
    print("started", flush=True)
    for thread in threads:
        thread.join()
    for answer, times in answers.items():
        print(times, answer.split()[0].decode())
    """)


@pytest.mark.limit(120)
def test_a_thousand_blocked_readers(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=60000 tag=long")
    vm.wait_state("long", "running")
    before = daemon.threads()
    readers = subprocess.Popen([sys.executable, "-c", MANY, vm.dir / "result", str(READERS)],
                               stdout=subprocess.PIPE, text=True)
    assert readers.stdout.readline() == "started\n"
    tasks = f"/proc/{readers.pid}/task"
    wait_until(lambda: sum(blocked_in_read(f"{readers.pid}/task/{task}")
                           for task in os.listdir(tasks)) == READERS, 60, "1,000 blocked readers")
    assert daemon.threads() == before
    # All the others are served meanwhile, by a reader process too.
    assert daemon.vm(4).run("B:1:4:NOP").header["status"] == "done"
    interrupted = cat(vm.dir / "result")
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(20 * FACTOR) == -signal.SIGINT
    vm.ctl("cancel long")
    output, _ = readers.communicate(timeout=60 * FACTOR)
    assert output == f"{READERS} status=cancelled\n"
    assert daemon.threads() == before


@pytest.mark.limit(120)
def test_blocked_readers_are_killed_together(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=60000 tag=long")
    vm.wait_state("long", "running")
    readers = subprocess.Popen([sys.executable, "-c", MANY, vm.dir / "result", str(READERS)],
                               stdout=subprocess.PIPE, text=True)
    readers.stdout.readline()
    readers.kill()
    readers.communicate(timeout=60 * FACTOR)
    vm.ctl("cancel long")
    assert vm.result().header["status"] == "cancelled"
    assert vm.run("NOP").header["status"] == "done"
