"""What the service manager is told, the watchdog included."""
import os
import re
import select
import signal
import socket
import time

import pytest

from harness import FACTOR, Vgpufs, read_file

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
    assert {"pool A", "pool B", "state write", "interrupts"} <= names, names
