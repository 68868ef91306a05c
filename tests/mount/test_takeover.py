"""A planned restart behind vgpufs-mount: who uses the mount does not notice it."""
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from harness import (HERE, Background, StartError, blocked_in_read, errno_of, order_of_ends,
                     parse_result, read_fd, read_file, wait_until, write_file)
from nfs_server import NfsServer

pytestmark = pytest.mark.root


def ctl(daemon, line):
    write_file(daemon.mountpoint / "ctl", line + "\n")


def restart(daemon):
    """The connection to the kernel is the same before and after."""
    before = os.stat(daemon.mountpoint).st_dev
    mounted = daemon.holder.log().count("is mounted")
    daemon.restart()
    assert os.stat(daemon.mountpoint).st_dev == before
    assert daemon.holder.log().count("is mounted") == mounted, daemon.holder.log()
    assert "going on with" in daemon.log()


def take_over(daemon):
    """The other way: a second daemon asks the first one to leave."""
    first = daemon.process
    daemon.process = None
    daemon.options.append("--take-over")
    daemon.start()
    daemon.options.remove("--take-over")
    assert first.wait(20) == 0
    assert "another vgpufs takes over" in daemon.log()


WAYS = {"restart": restart, "take-over": take_over}


@pytest.fixture(params=WAYS)
def go_on(request):
    return WAYS[request.param]


@pytest.fixture
def nfs(tmp_path):
    servers = []

    def make():
        servers.append(NfsServer(tmp_path))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def agent(tmp_path):
    """A process of its own that has files open: a test that starts the daemon closes what it has open
    in the child between fork and exec, and that close would wait for the daemon."""
    process = NfsServer(tmp_path, "somebody")
    yield process
    process.stop()


# --- readers -------------------------------------------------------------------------------------

def test_a_waiting_reader(held, go_on):
    """Of the newest entry and of a job's own result; over several restarts."""
    daemon = held()
    vm = daemon.vm(3)
    ctl(daemon, "hold A")
    vm.submit("NOP tag=first", "NOP tag=last")
    readers = [Background(vm.result).blocked(), Background(vm.job_result, "first").blocked()]
    for _ in range(3):
        go_on(daemon)
        assert all(reader.is_alive() for reader in readers)
    ctl(daemon, "release A")
    assert [reader.value().header["tag"] for reader in readers] == ["last", "first"]


@pytest.mark.parametrize("on_restart", ["rerun", "fail"])
def test_a_running_job(held, on_restart):
    """It is run again, whatever on_restart says of other ends, and has one result."""
    daemon = held({"vgpufs": {"on_restart": on_restart, "stop_timeout": "0"}})
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=2000 tag=running", "NOP tag=queued")
    vm.wait_state("running", "running")
    readers = [Background(vm.job_result, tag).blocked() for tag in ("running", "queued")]
    restart(daemon)
    for reader in readers:
        assert reader.value().header["status"] == "done"
    assert int(vm.job_result("running").header["run_us"]) >= 2000000


def test_a_running_job_that_ends_in_time(held):
    """stop_timeout is for it; who comes meanwhile is served, and a job that comes is the next
    daemon's."""
    daemon = held({"vgpufs": {"stop_timeout": "60s"}})
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=1500 tag=running")
    vm.wait_state("running", "running")
    reader = Background(vm.job_result, "running").blocked()
    daemon.kill(signal.SIGTERM)
    daemon.wait_log("stopping")
    vm.submit("NOP tag=later")
    assert daemon.wait_end() == 0
    daemon.start()
    assert reader.value().header["status"] == "done"
    assert vm.job_result("later").header["status"] == "done"
    assert vm.job_result("running").raw == reader.value().raw


CLIENT = """
import select, sys
sys.path.insert(0, sys.argv[1])
from harness import Vm
vm, count = Vm(sys.argv[2], 4), 0
while not select.select([sys.stdin], [], [], 0)[0]:
    vm.submit(f"B:0:4:NOP tag=loop{count}")
    header = vm.job_result(f"loop{count}").header
    print(header["tag"], header["status"], header["job"], flush=True)
    count += 1
"""


def test_many(held):
    """20 readers, jobs queued and one running, 10 restarts, and a client that goes on all the time:
    no call fails, every job has its one result, in the order in which they came."""
    daemon = held({"vgpufs": {"stop_timeout": "0"}, "pool A": {"slots": "1"}})
    vm, seen = daemon.vm(3), []
    vm.submit("SLEEP ms=2000 tag=running", *(f"NOP tag=t{i}" for i in range(19)))
    tags = ["running"] + [f"t{i}" for i in range(19)]
    readers = [Background(vm.job_result, tag).blocked() for tag in tags]

    client = subprocess.Popen([sys.executable, "-c", CLIENT, HERE, daemon.mountpoint],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def listen():
        for line in client.stdout:
            tag, status, number = line.split()
            seen.append((tag, status, int(number)))

    loop = Background(listen)
    for _ in range(10):
        restart(daemon)
        done = len(seen)
        wait_until(lambda: len(seen) > done or not loop.is_alive(), what="the client goes on")
    client.stdin.close()
    loop.value()
    assert client.wait(20) == 0
    assert [status for _, status, _ in seen] == ["done"] * len(seen)
    assert [tag for tag, _, _ in seen] == [f"loop{i}" for i in range(len(seen))]
    assert sorted(number for _, _, number in seen) == [number for _, _, number in seen]
    assert [reader.value().header["status"] for reader in readers] == ["done"] * 20
    ends = [os.stat(vm.job(tag) / "result").st_mtime_ns for tag in tags]
    assert ends == sorted(ends)


def test_half_read(held, go_on):
    """Who has read the beginning of a result gets the rest of that one, and of the same text."""
    daemon = held()
    vm = daemon.vm(3)
    vm.submit("VECTOR_ADD n=8")
    result = vm.result().raw
    newest = os.open(vm.dir / "result", os.O_RDONLY)
    stats = os.open(daemon.path("stats"), os.O_RDONLY)
    whole = os.pread(stats, 1 << 20, 0)
    head = [os.read(newest, 10), os.read(stats, 10)]
    go_on(daemon)
    vm.run("NOP")
    assert head[0] + read_fd(newest) == result
    assert head[1] + read_fd(stats) == whole
    os.close(newest), os.close(stats)


def test_poll(held, go_on):
    daemon = held()
    vm = daemon.vm(3)
    ctl(daemon, "hold A")
    vm.submit("NOP")
    fd = os.open(vm.dir / "result", os.O_RDONLY)
    poller, epoll = select.poll(), select.epoll()
    poller.register(fd, select.POLLIN)
    epoll.register(fd, select.EPOLLIN)
    assert poller.poll(0) == []
    waiting = Background(poller.poll), Background(epoll.poll, 120)
    go_on(daemon)
    # Nothing here may ask once more: that would have the second daemon know of all who wait.
    assert all(one.is_alive() for one in waiting)
    ctl(daemon, "release A")
    assert [one.value() for one in waiting] == [[(fd, select.POLLIN)]] * 2
    os.close(fd)


def test_an_interrupt(held, go_on):
    """Ctrl-C ends a `cat` that waits for the second daemon already; the others go on."""
    daemon = held()
    vm = daemon.vm(3)
    ctl(daemon, "hold A")
    vm.submit("NOP")
    cat = subprocess.Popen(["cat", vm.dir / "result"], stdout=subprocess.PIPE)
    wait_until(lambda: blocked_in_read(cat.pid), what="cat reads")
    other = Background(vm.result).blocked()
    go_on(daemon)
    cat.send_signal(signal.SIGINT)
    assert cat.wait(20) == -signal.SIGINT
    assert other.is_alive()
    ctl(daemon, "release A")
    assert other.value().header["status"] == "done"


def test_an_interrupt_while_no_daemon_runs(held):
    daemon = held()
    vm = daemon.vm(3)
    ctl(daemon, "hold A")
    vm.submit("NOP")
    cat = subprocess.Popen(["cat", vm.dir / "result"], stdout=subprocess.PIPE)
    wait_until(lambda: blocked_in_read(cat.pid), what="cat reads")
    daemon.stop()
    cat.send_signal(signal.SIGINT)
    daemon.start()
    assert cat.wait(20) == -signal.SIGINT
    ctl(daemon, "release A")
    assert vm.result().header["status"] == "done"


# --- open files ----------------------------------------------------------------------------------

def test_half_a_line(held, agent, go_on):
    daemon = held()
    vm = daemon.vm(3)
    fd = agent.do("open", vm.dir / "submit", os.O_WRONLY)
    agent.do("pwrite", fd, "NOP tag=one\nNOP tag", 0)
    go_on(daemon)
    agent.do("pwrite", fd, "=two\nNOP", 0)
    go_on(daemon)
    agent.do("pwrite", fd, " tag=three", 0)
    agent.do("close", fd)
    assert [vm.job_result(tag).header["status"] for tag in ("one", "two", "three")] == ["done"] * 3


def test_data_files(held, agent, go_on):
    """Read, written, and without a name; their quota is right afterwards."""
    daemon = held()
    vm = daemon.vm(3)
    vm.write_data("kept", b"0123456789" * 1000)
    reader = agent.do("open", vm.data / "kept", os.O_RDONLY)
    writer, gone, replaced = (agent.do("open", vm.data / name, os.O_RDWR | os.O_CREAT)
                              for name in ("new", "gone", "replaced"))
    agent.do("pwrite", writer, "before ", 0)
    agent.do("pwrite", gone, "still here", 0)
    agent.do("pwrite", replaced, "the old one", 0)
    os.unlink(vm.data / "gone")
    vm.write_data("over", b"the new one")
    os.rename(vm.data / "over", vm.data / "replaced")
    for _ in range(2):
        go_on(daemon)
    assert agent.do("pread", reader, 20000, 0) == "0123456789" * 1000
    agent.do("pwrite", writer, "and after", 7)
    assert read_file(vm.data / "new") == b"before and after"
    agent.do("pwrite", gone, ", and more", 10)
    assert agent.do("pread", gone, 100, 0) == "still here, and more"
    assert agent.do("pread", replaced, 100, 0) == "the old one"
    assert read_file(vm.data / "replaced") == b"the new one"
    assert set(os.listdir(vm.data)) == {"kept", "new", "replaced"}
    backing = daemon.state_dir / "data" / "3"
    assert len(os.listdir(backing)) == 5
    for fd in (reader, writer, gone, replaced):
        agent.do("close", fd)
    wait_until(lambda: len(os.listdir(backing)) == 3, what="the bytes without a name go")
    free = os.statvfs(vm.data)
    assert (free.f_blocks - free.f_bfree) * free.f_bsize < 20000


def test_a_directory_that_is_being_read(held, go_on):
    """No name twice, none missing."""
    daemon = held()
    vm = daemon.vm(3)
    names = {f"file-{i:04}-{'x' * 100}" for i in range(200)}
    for name in names:
        vm.write_data(name, b"")
    seen = []
    with os.scandir(vm.data) as entries:  # the kernel asks for 4 KiB at a time
        seen.append(next(entries).name)
        go_on(daemon)
        seen += [entry.name for entry in entries]
    assert len(seen) == 200 and set(seen) == names


def test_what_is_gone(held, go_on):
    """A result whose directory was removed stays with who has it open."""
    daemon = held()
    vm = daemon.vm(3)
    vm.submit("NOP tag=x")
    vm.job_result("x")
    fd, status = (os.open(vm.job("x") / name, os.O_RDONLY) for name in ("result", "status"))
    result = os.pread(fd, 4096, 0)
    os.rmdir(vm.job("x"))
    go_on(daemon)
    assert os.pread(fd, 4096, 0) == result
    assert b"tag=x" in os.pread(status, 4096, 0)
    go_on(daemon)
    assert os.pread(fd, 4096, 0) == result
    os.close(fd), os.close(status)
    assert vm.run("NOP").header["status"] == "done"


def test_a_vm_that_is_gone(held, agent):
    """The next daemon's configuration has it no more: its files fail, nobody else's do."""
    daemon = held({"vgpufs": {"vms": "1-10"}})
    vm, other = daemon.vm(9), daemon.vm(3)
    ctl(daemon, "hold A")
    vm.submit("NOP")
    other.submit("NOP")
    waiting = Background(vm.result).blocked()
    stays = Background(other.result).blocked()
    submit = agent.do("open", vm.dir / "submit", os.O_WRONLY)
    agent.do("pwrite", submit, "NOP tag=half", 0)
    daemon.stop()
    daemon.write_config({"vgpufs": {"vms": "1-5"}})
    daemon.start()
    assert errno_of(waiting.value) == "ESTALE"
    assert errno_of(agent.do, "pwrite", submit, "\n", 0) == "ESTALE"
    agent.do("close", submit)
    ctl(daemon, "release A")
    assert stays.value().header["status"] == "done"


def test_handles_are_not_leaked(held):
    """Files that were closed and opened around a restart do not meet."""
    daemon = held()
    vm = daemon.vm(3)
    vm.run("NOP tag=a")
    fds = [os.open(daemon.path("stats"), os.O_RDONLY) for _ in range(50)]
    for fd in fds[::2]:
        os.close(fd)
    restart(daemon)
    more = [os.open(vm.dir / "status", os.O_RDONLY) for _ in range(50)]
    for fd in fds[1::2]:
        assert os.pread(fd, 1 << 16, 0).startswith(b"version 1\n")
    for fd in more:
        assert os.pread(fd, 1 << 16, 0).startswith(b"vm 3 ")
    for fd in fds[1::2] + more:
        os.close(fd)


# --- NFS -----------------------------------------------------------------------------------------

def test_nfs_readers(held, nfs, go_on):
    """GETATTR and OPEN wait on in the next daemon; a READ does too, or is told to ask again."""
    daemon = held({"nfs": {"hold": "100s"}})
    vm, server = daemon.vm(3), nfs()
    vm.run("NOP")
    fd = server.do("open", vm.dir / "result", os.O_RDONLY)
    ctl(daemon, "hold A")
    vm.submit("NOP tag=waited")
    size = server.begin("stat", vm.dir / "result")
    opened = server.begin("open", vm.dir / "result", os.O_RDONLY)
    assert size.waits() and opened.waits(0)
    go_on(daemon)
    assert size.waits() and opened.waits(0)
    ctl(daemon, "release A")
    expected = vm.job_result("waited").raw
    assert size.value()[0] == len(expected)
    assert server.do("pread", opened.value(), 4096, 0).encode() == expected
    server.do("close", fd)


def test_nfs_reads_ask_again(held, nfs, go_on):
    """A READ that waits keeps pages of the kernel's locked on newer ones, so it is let go."""
    daemon = held({"nfs": {"hold": "100s"}})
    vm, server = daemon.vm(3), nfs()
    fd = server.do("open", vm.dir / "status", os.O_RDONLY)
    ctl(daemon, "hold A")
    vm.submit("NOP tag=waited")
    read = server.begin("pread", fd, 4096, 0)
    result = server.begin("open", vm.dir / "jobs" / "waited" / "result", os.O_RDONLY)
    assert read.value() and result.waits()
    go_on(daemon)
    ctl(daemon, "release A")
    assert "status=done" in server.do("pread", result.value(), 4096, 0)


def test_nfs_half_a_line(held, nfs, go_on):
    """A client goes on behind what it has written, and sends it again; nothing runs twice."""
    daemon = held()
    vm, server = daemon.vm(3), nfs()
    path = vm.dir / "submit"
    server.do("truncate", path, 0)
    fd = server.do("open", path, os.O_WRONLY)
    server.do("pwrite", fd, "NOP tag=one\n", 0)
    assert vm.job_result("one").header["status"] == "done"
    os.rmdir(vm.job("one"))  # a second one would be seen
    go_on(daemon)
    assert server.size(path) == 12
    server.do("pwrite", fd, "NOP tag=one\nNOP tag=two\n", 0)
    server.do("close", fd)
    assert vm.job_result("two").header["status"] == "done"
    assert vm.jobs() == {"two"}


def test_nfs_what_was_told(held, nfs, go_on):
    """The size that a client was told is that of what it then reads, whatever came between."""
    daemon = held()
    vm, server = daemon.vm(3), nfs()
    vm.submit("DEVICE_INFO")
    fd = server.do("open", vm.dir / "result", os.O_RDONLY)
    size = server.size(vm.dir / "result")
    text = vm.result().raw
    assert size == len(text)
    vm.run("NOP")
    go_on(daemon)
    assert server.do("pread", fd, 1 << 16, 0).encode("latin-1") == text
    server.do("close", fd)


# --- limits --------------------------------------------------------------------------------------

def test_crashes_in_a_row_go_on(held, go_on):
    """A planned restart is no job done in between."""
    daemon = held({"pool B": {"executor": f'/usr/bin/python3 "{HERE}/fault_executor.py" crash'},
                   "defaults": {"max_crashes": "3"}})
    vm = daemon.vm(3)
    for i in range(1, 4):
        assert vm.run("B:1:3:SLEEP ms=1").header["status"] == "failed"
        wait_until(lambda: vm.status()["vm 3"]["crashes"] == str(i), what=f"{i} crashes")
        if i < 3:
            assert vm.status()["vm 3"]["held"] == "no"
            go_on(daemon)
    wait_until(lambda: vm.status()["vm 3"]["held"] == "yes", what="the VM is held")


def test_a_device_share_goes_on(held, go_on):
    """Who has had more than its share goes on to wait for others."""
    daemon = held({"vm 1": {"device_share": "1%"}})
    assert daemon.vm(1).run("SLEEP ms=1000").header["status"] == "done"
    ctl(daemon, "hold A")
    daemon.vm(1).submit("A:2:1:SLEEP ms=100 tag=greedy")
    daemon.vm(2).submit("A:0:2:SLEEP ms=100 tag=other")
    paths = [daemon.vm(1).job("greedy") / "result", daemon.vm(2).job("other") / "result"]
    ends = Background(order_of_ends, *paths)
    for _ in range(2):
        go_on(daemon)
    ctl(daemon, "release A")
    assert ends.value() == paths[::-1]


# --- stats ---------------------------------------------------------------------------------------

COUNTED = ("done", "failed", "cancelled", "timeout", "device_us", "crashes", "wait_us_p50",
           "wait_us_p99", "run_us_p50", "run_us_p99", "submitted")


def counters(daemon):
    """What only grows, of the daemon, the pools and the VMs."""
    return {(record, key): value for record, fields in daemon.stats().items()
            for key, value in fields.items()
            if key in COUNTED and record.split(" ")[0] in ("vgpufs", "pool", "vm")}


def test_counters_go_on(held, go_on):
    """Over two restarts: nothing is forgotten, nothing counted twice."""
    daemon = held()
    for vm, line in ((3, "NOP"), (3, "VECTOR_ADD a=none b=none out=z"), (4, "SLEEP ms=20")):
        daemon.vm(vm).run(line)
    before = counters(daemon)
    assert before["vm 3", "done"] == before["vm 3", "failed"] == before["vm 4", "done"] == "1"
    assert int(before["pool A", "run_us_p99"]) >= 20000
    for _ in range(2):
        go_on(daemon)
        assert counters(daemon) == before
    daemon.vm(3).run("NOP")
    after = counters(daemon)
    assert (after["vm 3", "done"], after["pool A", "done"]) == ("2", "3")
    assert after["vgpufs", "submitted"] == "4"
    daemon.kill(signal.SIGKILL)
    assert daemon.wait_end() != 0
    daemon.start()
    assert set(counters(daemon).values()) == {"0"}, "but not over its death"


# --- what cannot go on ---------------------------------------------------------------------------

def leave_something_else(daemon, change):
    """Takes what the daemon has left, and leaves something else."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(daemon.holder.socket))
        client.send(b"hello 1")
        device, left = socket.recv_fds(client, 8192, 2)[1]
        changed = os.memfd_create("changed")
        os.write(changed, change(os.pread(left, 1 << 24, 0)))
        socket.send_fds(client, [b"leave"], [changed])
        assert client.recv(4096) == b""
        for fd in (device, left, changed):
            os.close(fd)


@pytest.mark.parametrize("change, words", [
    (lambda left: b"", "none of vgpufs"),
    (lambda left: left[:8] + b"\xff" + left[9:], "of form 255"),
    (lambda left: left[:-1], "damaged"),
    (lambda left: left[:200] + bytes([left[200] ^ 1]) + left[201:], "damaged"),
], ids=["empty", "version", "short", "bit"])
def test_something_else_was_left(held, change, words):
    """The daemon says so, who waits gets an error, and the mount serves again."""
    daemon = held()
    vm = daemon.vm(3)
    ctl(daemon, "hold A")
    vm.submit("NOP")
    reader = Background(vm.result).blocked()
    daemon.stop()
    leave_something_else(daemon, change)
    daemon.start()
    assert f"what the daemon before has left is {words}" in daemon.log()
    assert errno_of(reader.value) in ("ECONNABORTED", "ENOTCONN")
    daemon.holder.wait_log("has died: mounting")
    ctl(daemon, "release A")
    assert vm.result().header["status"] == "done"


def test_no_daemon_comes(held):
    """Who waits gets an error after --wait; nobody waits for ever."""
    daemon = held(holder_options=["--wait=1"])
    vm = daemon.vm(3)
    ctl(daemon, "hold A")
    vm.submit("NOP")
    reader = Background(vm.result).blocked()
    daemon.stop()
    assert errno_of(reader.value) in ("ECONNABORTED", "ENOTCONN")
    daemon.holder.wait_log("no vgpufs has come")
    daemon.start()
    ctl(daemon, "release A")
    assert vm.result().header["status"] == "done"


def test_a_successor_that_cannot_start(held):
    """It gives back what it was given, and the next one goes on with it."""
    daemon = held()
    vm = daemon.vm(3)
    ctl(daemon, "hold A")
    vm.submit("NOP")
    reader = Background(vm.result).blocked()
    good = daemon.config_file.read_text()
    daemon.write_config({"vgpufs": {"vms": "1-10"}, "pool A": {"executor": "/nonexistent"}})
    first = daemon.process
    daemon.process = None
    daemon.options.append("--take-over")
    with pytest.raises(StartError):
        daemon.start()
    daemon.options.remove("--take-over")
    assert first.wait(20) == 0
    daemon.config_file.write_text(good)
    daemon.start()
    ctl(daemon, "release A")
    assert reader.value().header["status"] == "done"


def test_a_successor_dies(held):
    """kill -9 of the second daemon is a crash like any other."""
    daemon = held()
    vm = daemon.vm(3)
    ctl(daemon, "hold A")
    vm.submit("NOP")
    reader = Background(vm.result).blocked()
    restart(daemon)
    daemon.kill9()
    assert errno_of(reader.value) in ("ECONNABORTED", "ENOTCONN")
    daemon.start()
    ctl(daemon, "release A")
    assert vm.result().header["status"] == "done"


def test_the_gap(held, capsys):
    """How long calls take over a planned restart, in which none fails, and when they are answered
    again after a kill -9, in which some may. The figures are printed, and nothing is said of them."""
    daemon = held()
    over, calls = threading.Event(), []

    def read_on():
        while not over.is_set():
            began = time.monotonic()
            failure = errno_of(read_file, daemon.path("stats"))
            calls.append((began, time.monotonic(), failure))

    def wait_calls(since):
        wait_until(lambda: [end for begin, end, failure in calls if begin > since and not failure],
                   what="calls are answered again")

    reader = Background(read_on)
    wait_calls(time.monotonic())
    restart(daemon)
    wait_calls(time.monotonic())
    assert not [failure for _, _, failure in calls if failure]
    planned = max(end - begin for begin, end, _ in calls)
    killed = time.monotonic()
    daemon.kill9()
    daemon.start()
    wait_calls(time.monotonic())
    over.set()
    reader.value()
    crash = min(end for begin, end, failure in calls if begin > killed and not failure) - killed
    with capsys.disabled():
        print(f"\ngap: planned restart {planned * 1000:.0f} ms, no error; kill -9 {crash * 1000:.0f} ms")


def test_take_over_of_nothing(held):
    """Where no daemon serves it is a start like any other."""
    daemon = held(start=False)
    daemon.holder.start()
    daemon.options.append("--take-over")
    daemon.start()
    assert parse_result(daemon.vm(3).run("NOP").raw).header["status"] == "done"
