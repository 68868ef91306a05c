"""What the service manager is told, and that the watchdog is fed while every loop answers only."""
import contextlib
import ctypes
import os
import re
import select
import signal
import socket
import time

import pytest

from harness import FACTOR, Background, Vgpufs, read_file, wait_until

# ptrace(2) stops one thread, as a deadlock would, and lets the others run.
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
PTRACE_SYSCALL, PTRACE_GET_SYSCALL_INFO, PTRACE_O_TRACESYSGOOD = 24, 0x420e, 1
# The number differs between machines; the daemon is linked with the library that knows it.
RECVFROM = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name(b"recvfrom")
WALL = 0x40000000  # waitpid(2): a thread of another process, too
INTERVAL = 0.25  # a quarter of WATCHDOG_USEC: the daemon looks so often


class Watched(Vgpufs):
    """A daemon whose words to the service manager are heard."""

    watchdog = {"WATCHDOG_USEC": str(int(4 * INTERVAL * 1e6))}

    def environment(self):
        return dict(super().environment(), **self.watchdog)

    def await_ready(self, notify):
        self.notify = notify.dup()
        super().await_ready(notify)

    def hear(self, seconds, most=1000000):
        """What comes within that time, or until so many lines have come."""
        heard, deadline = [], time.monotonic() + seconds
        while len(heard) < most and (left := deadline - time.monotonic()) > 0:
            if select.select([self.notify], [], [], left)[0]:
                heard += self.notify.recv(4096).decode().split("\n")
        return heard

    def wait_for(self, *wanted):
        """Until each of these expressions has been heard, in this order. Returns all lines."""
        heard, wanted, deadline = [], list(wanted), time.monotonic() + 60 * FACTOR
        while wanted:
            assert time.monotonic() < deadline, (wanted, heard)
            for line in self.hear(INTERVAL / 4):
                heard.append(line)
                if wanted and re.fullmatch(wanted[0], line):
                    wanted.pop(0)
        return heard


def threads_of(daemon, name):
    """Those whose name begins so."""
    folder = f"/proc/{daemon.pid}/task"
    threads = [int(thread) for thread in os.listdir(folder)
               if read_file(f"{folder}/{thread}/comm").decode().startswith(name)]
    assert threads, name
    return threads


def trace(request, thread, address=None, data=None):
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    result = call(request, thread, address, data)
    assert result >= 0, os.strerror(ctypes.get_errno())
    return result


@contextlib.contextmanager
def stopped(threads):
    """They do not run."""
    for thread in threads:
        trace(PTRACE_SEIZE, thread)
        trace(PTRACE_INTERRUPT, thread)
        os.waitpid(thread, WALL)
    yield
    for thread in threads:
        trace(PTRACE_DETACH, thread)


@contextlib.contextmanager
def stopped_in(thread, number, begin):
    """It does not run on from where it enters that system call, for which `begin` gives the cause."""
    trace(PTRACE_SEIZE, thread, data=PTRACE_O_TRACESYSGOOD)
    trace(PTRACE_INTERRUPT, thread)
    deadline, entered, begun = time.monotonic() + 60 * FACTOR, None, None
    while entered != number:
        assert time.monotonic() < deadline
        stop = os.waitpid(thread, WALL)[1] >> 8 & 0xff
        begun = begun or begin()
        if stop == signal.SIGTRAP | 0x80:
            # struct ptrace_syscall_info: op (1: entry), …, at 24 the number (linux/ptrace.h).
            info = ctypes.create_string_buffer(88)
            trace(PTRACE_GET_SYSCALL_INFO, thread, len(info), info)
            entered = int.from_bytes(info.raw[24:32], "little") if info.raw[0] == 1 else None
        if entered != number:
            trace(PTRACE_SYSCALL, thread)
    try:
        yield begun
    finally:
        trace(PTRACE_DETACH, thread)


@pytest.fixture
def watched():
    daemon = Watched()
    daemon.start()
    yield daemon
    daemon.close()


def test_what_the_manager_is_told(watched):
    heard = watched.wait_for("WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1")
    assert "STATUS=0 jobs queued, 0 running" in heard
    watched.ctl("hold A")
    watched.vm(3).submit("NOP", "NOP")
    watched.wait_for("STATUS=2 jobs queued, 0 running")
    watched.kill(signal.SIGHUP)
    heard = watched.wait_for("RELOADING=1", "READY=1", "WATCHDOG=1")
    watched.kill(signal.SIGTERM)
    watched.wait_for("STOPPING=1")
    assert watched.wait_end() == 0


@pytest.mark.parametrize("thread, words", [
    ("pool A", "A"), ("pool B", "B"), ("state write", "the journal"), ("state tell", "the journal"),
    ("spawner", "what starts executors"),
    ("interrupts", "the thread that answers interrupts"), ("nfs wait", "the thread that ends .*"),
    ("mount", "a thread that serves the mount")])
def test_a_loop_that_hangs(watched, thread, words):
    named = False
    while not named:
        watched.wait_for("WATCHDOG=1", "WATCHDOG=1")
        with stopped(threads_of(watched, thread)):
            heard = True
            while heard and not named:
                # Who was stopped with a lock in its hands stops who asks, too: nothing is said.
                heard = watched.hear(10 * INTERVAL, 1)
                named = any(re.fullmatch(f"STATUS=.*; no answer from: {words}", line)
                            for line in heard)
            if named:
                assert "WATCHDOG=1" not in watched.hear(3 * INTERVAL)
    watched.wait_for("WATCHDOG=1", r"STATUS=\d+ jobs queued, \d+ running", "WATCHDOG=1")
    assert re.search(f"watchdog: no answer from: {words}\n", watched.log())
    assert watched.vm(3).run("NOP").header["status"] == "done"


def test_a_loop_that_hangs_with_a_lock(watched):
    """Who looks needs that lock too, and feeds the watchdog no more, whoever else still runs."""
    watched.wait_for("WATCHDOG=1", "WATCHDOG=1")
    [pool] = threads_of(watched, "pool A")
    # What an executor has sent is read with the pool locked.
    with stopped_in(pool, RECVFROM, lambda: Background(watched.vm(3).run, "NOP")) as job:
        silences = 0  # of the manager's patience each, in a row: a busy machine makes one, too
        while silences < 3:
            silences = 0 if "WATCHDOG=1" in watched.hear(4 * INTERVAL) else silences + 1
        assert watched.vm(4).run("B:1:4:NOP").header["status"] == "done", "the others still run"
    assert job.value().header["status"] == "done"
    watched.wait_for("WATCHDOG=1", "WATCHDOG=1")


def test_the_managers_signal_ends_it(watched):
    """SIGABRT (WatchdogSignal= of systemd.service(5)): the main thread takes it."""
    def takes(mask):
        status = read_file(f"/proc/{watched.pid}/status").decode()
        value = int(re.search(f"^{mask}:\t(.*)$", status, re.M)[1], 16)
        return not value >> signal.SIGABRT - 1 & 1

    assert takes("SigIgn")
    # While it makes a thread it takes none for a moment: the C library's doing.
    wait_until(lambda: takes("SigBlk"), what="the main thread takes SIGABRT")


def test_a_spawner_that_hangs(watched):
    """The thread that talks to it waits for it, and so says nothing."""
    spawner = watched.spawner_pid()
    watched.wait_for("WATCHDOG=1", "WATCHDOG=1")
    os.kill(spawner, signal.SIGSTOP)
    watched.wait_for(r"STATUS=.*; no answer from: what starts executors")
    assert "WATCHDOG=1" not in watched.hear(3 * INTERVAL)
    os.kill(spawner, signal.SIGCONT)
    watched.wait_for("WATCHDOG=1", r"STATUS=\d+ jobs queued, \d+ running", "WATCHDOG=1")
    assert watched.vm(3).run("NOP").header["status"] == "done"


def test_a_kick_that_comes_too_early(watched):
    """The signal that is to wake a thread of the mount finds it on its way to its next read, which
    then waits for a request that never comes: it is woken once more."""
    thread = threads_of(watched, "mount")[0]
    trace(PTRACE_SEIZE, thread)
    stop = os.waitpid(thread, WALL)[1] >> 8
    assert stop & 0xff == signal.SIGUSR1
    trace(PTRACE_DETACH, thread)  # without the signal
    watched.wait_for("WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1")


def test_a_manager_that_does_not_watch():
    """It is told nothing all the time."""
    daemon = Watched()
    daemon.watchdog = {}
    try:
        daemon.start()
        assert daemon.vm(3).run("NOP").header["status"] == "done"
        assert not daemon.hear(INTERVAL)
    finally:
        daemon.close()


def test_threads_have_names(vgpufs):
    daemon = vgpufs()
    names = {read_file(f"/proc/{daemon.pid}/task/{thread}/comm").decode().strip()
             for thread in os.listdir(f"/proc/{daemon.pid}/task")}
    assert {"pool A", "pool B", "state write", "spawner", "interrupts"} <= names, names
