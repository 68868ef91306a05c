"""What an NFS server is answered: bounded waits, lines that are sent twice, sizes that are true."""
import errno
import json
import os
import re
import threading

import pytest

from harness import errno_of, parse_records, parse_result, read_file, wait_until, write_file
from nfs_server import NfsServer

pytestmark = pytest.mark.root

CONFIG = {"nfs": {"hold": "600s", "threads": "64", "waiting_per_vm": "8"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = NfsServer(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


# --- waiting for a result ------------------------------------------------------------------------

def test_idle_result(server, vm):
    assert server.read(vm.dir / "result") == read_file(vm.dir / "result")


@pytest.mark.parametrize("what", ["result", "jobs/x/result"])
def test_attributes_wait_for_the_job(mount, server, vm, what):
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP tag=x")
    call = server.begin("stat", vm.dir / what)
    opening = server.begin("open", vm.dir / what, os.O_RDONLY)
    assert call.waits() and opening.waits(0)
    mount.ctl(f"release vm{vm.number}")
    size, fd = call.value()[0], opening.value()
    raw = read_file(vm.dir / what)
    assert parse_result(raw).header["status"] == "done"
    assert size == len(raw)
    assert server.do("pread", fd, 65536, 0).encode() == raw
    server.do("close", fd)


def test_a_local_process_waits_only_in_read(mount, vm, tmp_path):
    """The same calls, from a process of another name, and of the name but not root's."""
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP")
    local = NfsServer(tmp_path, "ganesha.nfs")
    try:
        assert local.size(vm.dir / "result") == 0
        fd = local.do("open", vm.dir / "result", os.O_RDONLY)
        assert "result" in local.do("listdir", vm.dir)
        reading = local.begin("pread", fd, 4096, 0)
        assert reading.waits()
        mount.ctl(f"release vm{vm.number}")
        assert "status=done" in reading.value()
    finally:
        local.stop()


@pytest.mark.parametrize("what", ["result", "jobs/x/result"])
def test_a_listing_leaves_a_pending_result_out(mount, server, vm, what):
    folder = (vm.dir / what).parent
    assert "result" in server.do("listdir", vm.dir)
    before = server.do("stat", vm.dir)
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP tag=x")
    assert server.do("stat", vm.dir)[2] > before[2]
    pending = server.do("stat", folder)
    names = server.do("listdir", folder)
    assert "result" not in names and "status" in names
    for name in names:
        server.do("stat", folder / name)
    assert "result" in os.listdir(folder)
    mount.ctl(f"release vm{vm.number}")
    read_file(vm.dir / what)
    assert "result" in server.do("listdir", folder)
    assert server.do("stat", folder)[2] > pending[2]


def test_jobs_leave_the_directory_that_nobody_lists(server, vm):
    """A guest looks up again whatever it knows in a directory that has another time: two calls more
    for each file that a job takes. So only what was listed since the time changed, changes it."""
    def changes():
        before = server.do("stat", vm.dir)[1:3], server.do("stat", vm.dir / "status")[2]
        vm.run("NOP")
        after = server.do("stat", vm.dir)[1:3], server.do("stat", vm.dir / "status")[2]
        assert after[1] > before[1]
        return after[0] != before[0]

    assert not changes() and not changes()
    server.do("listdir", vm.dir)
    assert changes()
    wait_until(lambda: not changes())
    os.listdir(vm.dir)
    assert not changes()


def test_a_job_that_ends_leaves_submit_as_it_is(mount, server, vm):
    """A guest asks for its rights anew when a file has another time than its own write gave it."""
    mount.ctl(f"hold vm{vm.number}")
    before = server.do("stat", vm.dir / "submit")
    vm.submit("NOP")
    written = server.do("stat", vm.dir / "submit")
    assert written[1] > before[1] and written[2] > before[2]
    mount.ctl(f"release vm{vm.number}")
    read_file(vm.dir / "result")
    assert server.do("stat", vm.dir / "submit") == written


def test_a_newer_entry_is_told_of(mount, server, vm):
    """Who waits for the newest entry hears of a rejected line at once, though the job still waits."""
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP")
    call = server.begin("stat", vm.dir / "result")
    assert call.waits()
    assert errno_of(vm.submit, "BOGUS") == "EINVAL"
    size = call.value()[0]
    raw = read_file(vm.dir / "result")
    assert parse_result(raw).header["status"] == "rejected"
    assert size == len(raw)
    mount.ctl(f"release vm{vm.number}")


@pytest.mark.parametrize("what", ["submit", "ctl"])
def test_what_is_only_written_may_be_opened_for_both(server, vm, what):
    """nfs-ganesha does, with root's rights; there is nothing to read."""
    fd = server.do("open", vm.dir / what, os.O_RDWR)
    assert server.do("pread", fd, 4096, 0) == ""
    server.do("pwrite", fd, "NOP tag=x\n" if what == "submit" else "cancel all\n", 0)
    assert server.do("pread", fd, 4096, 0) == ""
    server.do("close", fd)
    assert what == "ctl" or vm.job_result("x").header["status"] == "done"
    assert errno_of(os.open, vm.dir / what, os.O_RDWR) == "EACCES"


def test_a_removed_job_is_stale(mount, server, vm):
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP tag=x")
    call = server.begin("stat", vm.job("x") / "result")
    assert call.waits()
    os.rmdir(vm.job("x"))
    # The file system answers ESTALE; the kernel then looks the path up again.
    assert errno_of(call.value) in ("ESTALE", "ENOENT")
    mount.ctl(f"release vm{vm.number}")


def test_what_was_told_is_what_is_read(mount, server, vm):
    """Between a client's attributes and its READ another job may begin: READ neither waits for it
    nor gives other bytes than were promised."""
    vm.run("NOP tag=first")
    raw = read_file(vm.dir / "result")
    fd = server.do("open", vm.dir / "result", os.O_RDONLY)
    assert server.size(vm.dir / "result") == len(raw)
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP tag=a-much-longer-tag-than-the-first-one")
    assert server.do("pread", fd, 65536, 0).encode() == raw
    assert server.do("pread", fd, 10, 5).encode() == raw[5:15]
    call = server.begin("stat", vm.dir / "result")
    assert call.waits()
    mount.ctl(f"release vm{vm.number}")
    size = call.value()[0]
    newer = read_file(vm.dir / "result")
    assert size == len(newer)
    assert server.do("pread", fd, 65536, 0).encode() == newer
    server.do("close", fd)


CACHES = tuple(map(int, re.match(r"(\d+)\.(\d+)", os.uname().release).groups())) >= (6, 5)


@pytest.mark.parametrize("newer", ["NOP", "BOGUS"])
def test_cached_results_go(server, vm, newer):
    """Since Linux 6.5 the kernel's server reads through the page cache. What that holds of a result
    goes with the first attributes that are told of a newer one."""
    vm.run("NOP")
    path = vm.dir / "result"
    fd = server.do("open", path, os.O_RDONLY)
    size = server.size(path)
    assert len(server.do("splice", fd, 65536, 0)) == size
    if CACHES:
        assert server.do("cached_pages", fd) == 1
    errno_of(vm.submit, newer)
    size = server.size(path)
    if CACHES:
        assert server.do("cached_pages", fd) == 0
    raw = server.do("splice", fd, 65536, 0).encode()
    assert raw == read_file(path)
    assert size == len(raw)
    server.do("close", fd)


def test_the_cache_is_as_long_as_what_was_told(server, vm):
    """Reading through the cache ends where the kernel believes that the file does: what a GETATTR
    that has waited was told must be what it believes."""
    path = vm.dir / "result"
    fd = server.do("open", path, os.O_RDONLY)
    for turn in range(40):
        server.echo(vm.dir / "submit", f"NOP tag=t{'x' * (turn % 20 + 1)}{turn}\n")
        size = server.size(path)
        assert len(server.do("splice", fd, 65536, 0)) == size
    server.do("close", fd)


@pytest.mark.parametrize("what", ["result", "jobs/looked-at/result"])
def test_a_look_at_what_is_waited_for(mount, server, vm, what):
    """A local look at the attributes makes the kernel ignore those that a waiting GETATTR is told:
    it has to be sent again."""
    path = vm.dir / what
    vm.run("NOP tag=x")
    server.size(vm.dir / "result")
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP tag=looked-at")
    call = server.begin("stat", path)
    assert call.waits()
    os.stat(path)
    mount.ctl(f"release vm{vm.number}")
    assert errno_of(call.value) == ("EAGAIN" if CACHES else None)
    size = server.size(path)
    fd = server.do("open", path, os.O_RDONLY)
    raw = server.do("splice", fd, 65536, 0).encode()
    assert raw == read_file(path) and len(raw) == size
    call = server.begin("stat", path)  # it has ended: nobody has to ask twice
    assert call.value()[0] == size
    server.do("close", fd)


def test_a_look_of_its_own(mount, server, vm):
    """Who asks for attributes after it has looked the name up has taken those that this told, old
    as they are: it need not ask twice, for which NFSv3 takes five seconds."""
    vm.run("NOP")
    server.size(vm.dir / "result")
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP tag=fresh")
    call = server.begin("stat", vm.job("fresh") / "result")
    assert call.waits()
    mount.ctl(f"release vm{vm.number}")
    assert call.value()[0] == len(read_file(vm.job("fresh") / "result"))


def test_hold(vgpufs, server):
    """After `hold` the guest is asked to come again, and is then told."""
    mount = vgpufs({"nfs": {"hold": "100ms"}})
    vm = mount.vm(3)
    mount.ctl("hold vm3")
    vm.submit("NOP")
    for call in ("stat", vm.dir / "result"), ("open", vm.dir / "result", os.O_RDONLY):
        assert errno_of(server.do, *call) == "EAGAIN"
    mount.ctl("release vm3")
    read_file(vm.dir / "result")
    assert parse_result(server.read(vm.dir / "result")).header["status"] == "done"


def test_who_waits_and_who_is_sent_away(vgpufs, server):
    """Half of 8 threads wait, at most 3 for one VM; and when another VM comes it gets a place."""
    mount = vgpufs({"nfs": {"hold": "600s", "threads": "8", "waiting_per_vm": "3"}})
    vms = [mount.vm(number) for number in (1, 2, 3)]
    for vm in vms:
        mount.ctl(f"hold vm{vm.number}")
        vm.submit("NOP")

    def begin(vm):
        return server.begin("stat", vm.dir / "result")

    first = [begin(vms[0]) for _ in range(3)]
    assert all(call.waits() for call in first)
    assert errno_of(begin(vms[0]).value) == "EAGAIN"
    second = begin(vms[1])
    assert second.waits()
    # All four places are taken: the third VM's request is sent away, and makes a place for its next.
    assert errno_of(begin(vms[2]).value) == "EAGAIN"
    wait_until(lambda: any(call.done.is_set() for call in first), what="a place is given up")
    assert [errno_of(call.value) for call in first if call.done.is_set()] == ["EAGAIN"]
    third = begin(vms[2])
    assert third.waits()
    for vm in vms:
        mount.ctl(f"release vm{vm.number}")
    for call in [call for call in first if not call.done.is_set()] + [second, third]:
        call.value()


def test_more_vms_than_places(vgpufs, server):
    """Nobody has more than one place: who finds none is sent away each time, until its job has
    ended; that needs none."""
    mount = vgpufs({"nfs": {"hold": "600s", "threads": "2", "waiting_per_vm": "3"}})
    first, second = (mount.vm(number) for number in (1, 2))
    for vm in (first, second):
        mount.ctl(f"hold vm{vm.number}")
        vm.submit("NOP")
    waiting = server.begin("stat", first.dir / "result")
    assert waiting.waits()
    for call in ("stat", second.dir / "result"), ("open", second.dir / "result", os.O_RDONLY):
        assert errno_of(server.do, *call) == "EAGAIN"
    mount.ctl("release vm2")
    expected = read_file(second.dir / "result")
    assert server.read(second.dir / "result") == expected
    assert parse_result(expected).header["status"] == "done"
    assert waiting.waits()
    mount.ctl("release vm1")
    assert waiting.value()[0] == len(read_file(first.dir / "result"))


def test_an_interrupted_wait(mount, server, vm):
    """A restart of the NFS server interrupts its threads: NFS cannot carry EINTR, which would become
    EIO at the guest, so that is told to ask again. Who else waits goes on."""
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP")
    calls = [server.begin("stat", vm.dir / "result") for _ in range(2)]
    assert all(call.waits() for call in calls)
    calls[0].interrupt()
    assert errno_of(calls[0].value) == "EAGAIN"
    assert calls[1].waits()
    mount.ctl(f"release vm{vm.number}")
    assert calls[1].value()[0] == len(read_file(vm.dir / "result"))


def test_a_stop_answers_who_waits(vgpufs, server):
    mount = vgpufs({"vgpufs": {"stop_timeout": "0"}, "nfs": {"hold": "600s"}})
    vm = mount.vm(3)
    vm.submit("SLEEP ms=600000")
    call = server.begin("stat", vm.dir / "result")
    assert call.waits()
    stopping = threading.Thread(target=mount.stop)
    stopping.start()
    with pytest.raises(OSError) as answer:
        call.value(60)
    assert answer.value.errno == errno.EAGAIN, "its client asks again"
    stopping.join()


# --- writing lines -------------------------------------------------------------------------------

class Client:
    """An NFS client's writes to one file: WRITEs on a handle that stays open, as v3's server has it;
    closing it is the FLUSH of a v4 client's CLOSE."""

    def __init__(self, server, path):
        self.server, self.path = server, path
        self.fd = server.do("open", path, os.O_RDWR if path.name != "submit" and path.name != "ctl"
                            else os.O_WRONLY)

    def write(self, text, offset=0):
        return self.server.do("pwrite", self.fd, text, offset)

    def truncate(self):
        self.server.do("truncate", self.path, 0)

    def size(self):
        return self.server.size(self.path)

    def close(self):
        self.server.do("close", self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def submitted(vm):
    """The accepted lines, in their order."""
    return [read_file(vm.job(tag) / "command").decode() for tag in sorted(vm.jobs(), key=int)]


def test_bytes_that_are_sent_again(server, vm):
    """`{ echo A; echo B; } > submit`: the second WRITE brings the first one's bytes too."""
    with Client(server, vm.dir / "submit") as client:
        client.write("NOP timeout=1\n")
        assert client.size() == 14
        client.write("NOP timeout=1\nNOP timeout=2\n")
        client.write("NOP timeout=1\nNOP timeout=2\n")
        assert client.size() == 28
    assert submitted(vm) == ["NOP timeout=1\n", "NOP timeout=2\n"]


def test_the_same_echo_twice(server, vm):
    for _ in range(3):
        assert server.echo(vm.dir / "submit", "NOP\n") == 4
        assert server.size(vm.dir / "submit") == 4
    assert submitted(vm) == ["NOP\n"] * 3


def test_the_same_line_without_truncation(server, vm):
    """A program that only opens, writes and closes: its line is another one each time."""
    for _ in range(3):
        with Client(server, vm.dir / "submit") as client:
            client.write("NOP\n")
    assert submitted(vm) == ["NOP\n"] * 3


def test_appending(server, vm):
    """`>>`: at the end, and of a v4.2 client the whole page."""
    for _ in range(2):
        with Client(server, vm.dir / "submit") as client:
            client.write("NOP\n", client.size())
    with Client(server, vm.dir / "submit") as client:
        client.write("NOP\nNOP\nNOP\n")
    assert submitted(vm) == ["NOP\n"] * 3


def test_overwriting(server, vm):
    with Client(server, vm.dir / "submit") as client:
        client.write("NOP timeout=11\n")
        client.write("NOP timeout=12\n")
        client.write("NOP\n")
        assert client.size() == 15
    assert submitted(vm) == ["NOP timeout=11\n", "NOP timeout=12\n", "NOP\n"]


def test_a_line_in_pieces(server, vm):
    with Client(server, vm.dir / "submit") as client:
        client.write("NOP timeo")
        client.write("ut=1\nN", 9)
        client.write("OP\n", 15)
    assert submitted(vm) == ["NOP timeout=1\n", "NOP\n"]


def test_pieces_out_of_order(server, vm):
    with Client(server, vm.dir / "submit") as client:
        client.write("2\nNOP timeout=3\n", 26)
        client.write("NOP timeout=1\nNOP timeout=")
    assert submitted(vm) == ["NOP timeout=1\n", "NOP timeout=2\n", "NOP timeout=3\n"]


def test_a_line_without_newline_at_close(server, vm):
    with Client(server, vm.dir / "submit") as client:
        client.write("NOP")
    assert submitted(vm) == ["NOP"]


def test_a_line_without_newline_in_the_quiet(server, vm):
    """v3 says nothing of a close: the line is taken when nothing more comes, and counts once."""
    with Client(server, vm.dir / "submit") as client:
        client.write("NOP")
        wait_until(lambda: submitted(vm) == ["NOP"], what="the line is taken")
        client.write("NOP\n")
        client.write("BOGUS", 4)
        wait_until(lambda: vm.newest()["state"] == "rejected", what="its error shows")
        assert client.size() == 9
    assert submitted(vm) == ["NOP"]
    assert parse_result(server.read(vm.dir / "result")).header["status"] == "rejected"


def test_missing_bytes_that_never_come(server, vm):
    with Client(server, vm.dir / "submit") as client:
        client.write("NOP\n", 100)
        wait_until(lambda: submitted(vm) == ["NOP\n"], what="the line is taken")
        client.write("NOP timeout=1\n", 104)
    assert submitted(vm) == ["NOP\n", "NOP timeout=1\n"]


def test_truncation_ends_what_was_unfinished(server, vm):
    with Client(server, vm.dir / "submit") as client:
        client.write("NOP timeout=1")
        client.truncate()
        client.write("NOP timeout=2\n")
    assert submitted(vm) == ["NOP timeout=1", "NOP timeout=2\n"]


def test_each_line_stands_alone(server, vm):
    with Client(server, vm.dir / "submit") as client:
        text = "NOP timeout=1\nBOGUS\nNOP timeout=2\n"
        assert errno_of(client.write, text) == "EINVAL"
        assert submitted(vm) == ["NOP timeout=1\n", "NOP timeout=2\n"]
        assert vm.status()["last_error"]["line"] == "BOGUS"
        assert client.size() == len(text)
        client.write(text + "NOP\n")  # the error was told; what was written stays written
    assert submitted(vm) == ["NOP timeout=1\n", "NOP timeout=2\n", "NOP\n"]


@pytest.mark.parametrize("what", ["submit", "jobs/x/command"])
def test_an_error_that_the_kernel_swallowed(server, vm, what):
    """A client's WRITE reaches the daemon in two parts; the second one fails, and the client is told
    that the first one was written. It sends the second one again: that is its answer."""
    os.mkdir(vm.job("x"))
    with Client(server, vm.dir / what) as client:
        for text, name in ("NOP tag=" + "y" * 4200 + "\n", "EFBIG"), ("#" + "y" * 3995 + "\nBOGUS\n",
                                                                    "EINVAL"):
            client.truncate()
            client.write(text[:3916])
            for _ in range(3):
                assert errno_of(client.write, text[3916:], 3916) == name
        client.truncate()
        client.write("NOP\n")
    assert vm.newest()["state"] != "rejected"


def test_a_rejected_line_is_the_newest_entry(server, vm):
    vm.run("NOP")
    assert errno_of(server.echo, vm.dir / "submit", "BOGUS\n") == "EINVAL"
    assert parse_result(server.read(vm.dir / "result")).header["status"] == "rejected"
    assert b"state=rejected" in server.read(vm.dir / "status")


def test_errors_of_a_line(server, vm):
    path = vm.dir / "submit"
    assert errno_of(server.echo, path, "x" * 5000 + "\n") == "EFBIG"
    assert errno_of(server.echo, path, "NOP tag=" + "x" * 5000) == "EFBIG"
    server.echo(path, "NOP tag=t\n")
    assert errno_of(server.echo, path, "NOP tag=t timeout=1\n") == "EEXIST"
    with Client(server, path) as client:
        assert errno_of(client.write, "NOP\n", 1 << 40) == "EFBIG"
    assert "behind" in vm.status()["last_error"]["text"]
    assert errno_of(server.do, "truncate", path, 7) == "EINVAL"
    assert vm.jobs() == {"t"}


def test_what_makes_no_lines_is_bounded(server, vm):
    """Pieces after a hole are kept until it is filled; a VM's share of memory for them is bounded."""
    os.mkdir(vm.job("a")), os.mkdir(vm.job("b")), os.mkdir(vm.job("c"))
    block, errors = "#" + "x" * 1023 + "\n", set()
    clients = [Client(server, vm.job(tag) / "command") for tag in "abc"]
    try:
        for client in clients:
            errors.add(errno_of(client.write, block * 900, 4 << 20))
        assert errors == {None, "EDQUOT"}
        assert "no lines" in vm.status()["last_error"]["text"]
    finally:
        for client in clients:
            errno_of(client.close)
    server.echo(vm.job("a") / "command", "NOP\n")


TURN = 512  # LINES_A_TURN of nfs_lines.c


def test_the_memory_of_lines_is_counted_once(server, vm):
    """Behind a hole the same bytes come again and again: more than may be kept, if they were added
    up."""
    block = ("#" + "x" * 1023 + "\n") * 400
    with Client(server, vm.dir / "submit") as client:
        for _ in range(24):
            assert client.write(block, 5) == len(block)
        client.write("NOP \n")
    assert submitted(vm) == ["NOP \n"]


def refused_lines(mount, vm):
    text = read_file(mount.path("metrics")).decode()
    return int(re.search(rf'^vgpufs_vm_rejected_lines_total{{vm="{vm.number}"}} (\d+)', text, re.M)[1])


def test_a_flood_of_lines_is_taken_in_turns(mount, server, vm):
    """However many lines a WRITE has, it keeps a thread for those of one turn: it is answered short,
    and the client sends the rest again."""
    with Client(server, vm.dir / "submit") as client:
        text = "# a comment\n" * (3 * TURN) + "NOP\n"
        written = 0
        for _ in range(3):
            count = client.write(text[written:], written)
            assert count == TURN * len("# a comment\n")
            written += count
        assert client.write(text[written:], written) == len("NOP\n")
        assert client.size() == len(text)
        assert submitted(vm) == ["NOP\n"]
        client.truncate()
        assert errno_of(client.write, "BOGUS\n" * 100_000) == "EINVAL"
        assert refused_lines(mount, vm) == TURN


def test_lines_behind_a_hole_are_taken_in_turns(mount, server, vm):
    """What a filled hole completes is more than one WRITE may take: ticks take the rest, in order,
    and a truncation is asked for again until that is done."""
    piece = "BOGUS\n" * TURN
    with Client(server, vm.dir / "submit") as client:
        for turn in range(4):
            client.write(piece, 6 + turn * len(piece))
        client.write("NOP timeout=1\nNOP timeout=2\n", 6 + 4 * len(piece))
        assert errno_of(client.write, "BOGUS\n") == "EINVAL"
        wait_until(lambda: len(vm.jobs()) == 2, what="the last lines are taken")
        assert refused_lines(mount, vm) == 4 * TURN + 1
        assert submitted(vm) == ["NOP timeout=1\n", "NOP timeout=2\n"]
        client.truncate()
        for turn in range(4):  # nobody fills this hole
            client.write(piece, 6 + turn * len(piece))
        wait_until(lambda: errno_of(client.truncate) is None, what="the truncation")
        assert refused_lines(mount, vm) == 8 * TURN + 1


def test_times_are_accepted(server, vm):
    before = server.do("stat", vm.dir / "submit")
    server.do("utime", vm.dir / "submit", [1, 1])
    server.do("utime", vm.dir / "submit", None)
    assert server.do("stat", vm.dir / "submit") == before


def test_the_mode_of_a_new_data_file(server, vm):
    """The SETATTR that follows an exclusive CREATE of v3 and v4.0: taken, and without effect."""
    fd = server.do("open", vm.data / "x", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    server.do("chmod", vm.data / "x", 0o644)
    server.do("pwrite", fd, "bytes", 0)
    server.do("close", fd)
    assert os.stat(vm.data / "x").st_mode & 0o7777 == 0o600
    assert read_file(vm.data / "x") == b"bytes"
    assert errno_of(os.chmod, vm.data / "x", 0o644) == "EPERM"
    assert errno_of(server.do, "chmod", vm.dir / "submit", 0o644) == "EPERM"


def test_size_and_time_follow_what_is_written(server, vm):
    path, seen = vm.dir / "submit", []
    with Client(server, path) as client:
        for text in "NOP", "NOP\n", "NOP\n#":
            client.write(text)
            size, mtime, ctime, _ = server.do("stat", path)
            assert size == len(text) and mtime == ctime
            seen.append(ctime)
    client.truncate()
    seen.append(server.do("stat", path)[2])
    assert seen == sorted(set(seen))
    assert server.size(path) == 0


def test_command(server, vm):
    os.mkdir(vm.job("x"))
    path = vm.job("x") / "command"
    assert server.read(path) == b""
    server.echo(path, "NOP timeout=1\n")
    assert server.read(path) == b"NOP timeout=1\n"
    server.echo(path, "NOP timeout=1\n")
    assert errno_of(server.echo, path, "NOP timeout=2\n") == "EEXIST"
    wait_until(lambda: server.read(path) == b"NOP timeout=1\n", what="it reads as accepted")
    assert submitted_tags(vm) == {"x"}


def submitted_tags(vm):
    return {tag for tag in vm.jobs() if read_file(vm.job(tag) / "command")}


def test_identity(server, vm):
    path = vm.dir / "identity"
    server.echo(path, f"A:2:{vm.number}\n")
    assert server.read(path) == f"A:2:{vm.number}\n".encode()
    assert vm.status()[f"vm {vm.number}"]["priority"] == "2"
    assert errno_of(server.echo, path, "A:9:1\n") == "EINVAL"
    wait_until(lambda: server.read(path) == f"A:2:{vm.number}\n".encode(), what="as accepted")
    server.do("truncate", path, 0)  # by itself no change
    wait_until(lambda: server.size(path) == len(f"A:2:{vm.number}\n"), what="as accepted")
    assert server.read(path) == f"A:2:{vm.number}\n".encode()


def test_request(server, vm):
    """The older client, over NFS: written anew each time, polled until it is no longer pending."""
    for _ in range(2):
        server.echo(vm.dir / "request.txt", f"A:2:{vm.number}:NOP\n")
        wait_until(lambda: server.read(vm.dir / "response.txt").startswith(b"1:"), what="an answer")
    assert len(vm.jobs()) == 2


def test_cancelling(mount, server, vm):
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP tag=x", "NOP tag=y")
    server.echo(vm.dir / "ctl", "cancel x\n")
    assert vm.job_status("x")["state"] == "cancelled"
    server.echo(vm.dir / "ctl", "cancel all\n")
    assert vm.job_status("y")["state"] == "cancelled"


def test_the_administrators_ctl(mount, server, vm):
    server.echo(mount.path("ctl"), f"hold vm{vm.number}\n")
    assert vm.status()[f"vm {vm.number}"]["held"] == "yes"
    server.echo(mount.path("ctl"), f"release vm{vm.number}\n")
    assert vm.status()[f"vm {vm.number}"]["held"] == "no"


def test_local_writers_have_no_part_in_it(server, vm):
    """A local writer's offset and repetitions mean nothing, also after an NFS server has written."""
    server.echo(vm.dir / "submit", "NOP timeout=1\n")
    vm.submit("NOP timeout=1")
    fd = os.open(vm.dir / "submit", os.O_WRONLY)
    os.pwrite(fd, b"NOP timeout=1\n", 0)
    os.pwrite(fd, b"NOP timeout=1\n", 1 << 40)
    os.close(fd)
    assert submitted(vm) == ["NOP timeout=1\n"] * 4
    assert server.size(vm.dir / "submit") == 14


# --- what is read --------------------------------------------------------------------------------

def test_what_is_promised_is_read(mount, server, vm):
    """read() compares each size with the bytes that come."""
    paths = [mount.path(name) for name in ("stats", "stats.json", "metrics", "queue", "ctl")]
    paths += [vm.dir / name for name in ("status", "result", "identity", "request.txt",
                                         "response.txt")]
    for number in range(5):
        for path in paths:
            content = server.read(path)
            assert b"\0" not in content
        server.echo(vm.dir / "submit", f"NOP tag=t{number}\n")
        server.read(vm.job(f"t{number}") / "status")
    json.loads(server.read(mount.path("stats.json")))
    assert server.read(mount.path("stats")).rstrip(b" \n").split(b"\n")[0] == b"version 1"


def test_sizes_do_not_change_with_what_is_said(mount, server, vm):
    """A size that changed between the attributes and READ would be NULs, or an end that is cut."""
    names = [vm.dir / "status", vm.dir / "response.txt", mount.path("stats"), mount.path("metrics")]
    sizes = [server.size(path) for path in names]
    server.echo(vm.dir / "request.txt", f"A:2:{vm.number}:NOP\n")
    assert errno_of(server.echo, vm.dir / "submit", "BOGUS\n") == "EINVAL"
    assert [server.size(path) for path in names] == sizes
    status = server.read(vm.dir / "status")
    assert b'line="BOGUS"' in status and status.endswith(b" \n")
    assert parse_records(re.sub(b" +\n$", b"\n", status))["newest"]["state"] == "rejected"


def test_a_snapshot_does_not_change_between_its_pieces(mount, server, vm):
    path = mount.path("stats")
    fd = server.do("open", path, os.O_RDONLY)
    size = server.size(path)
    first = server.do("pread", fd, 1000, 0)
    vm.run("NOP")
    assert server.size(path) == size
    whole = first + server.do("pread", fd, size, 1000)
    assert len(whole) == size and f"vm {vm.number} pool=A priority=1 queued=0 running=0 done=0" in whole
    server.do("close", fd)
    assert f"vm {vm.number} pool=A priority=1 queued=0 running=0 done=1".encode() in server.read(path)


def test_a_change_shows_at_once(server, vm):
    before = server.do("stat", vm.dir / "status")
    assert b"state=idle" in server.read(vm.dir / "status")
    assert errno_of(server.echo, vm.dir / "submit", "BOGUS\n") == "EINVAL"
    after = server.do("stat", vm.dir / "status")
    assert b"state=rejected" in server.read(vm.dir / "status")
    assert after[2] > before[2] and after[1] == after[2]


@pytest.mark.parametrize("what", ["status", "response.txt", "queue"])
def test_what_grows_between_attributes_and_read(mount, server, vm, what):
    """Before each READ the kernel's server asks for the attributes again, for the permissions. The
    client has been told a size and asks for so many bytes: it gets the version that has them, not
    the beginning of a longer one. Who has been told of that one, or asks for more, gets it."""
    path = mount.path(what) if what == "queue" else vm.dir / what
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP")
    fd = server.do("open", path, os.O_RDONLY)
    before = server.read(path)
    told = server.size(path)
    if what == "queue":
        vm.submit(*[f"NOP tag={'t' * 60}{number}" for number in range(60)])
    elif what == "response.txt":
        errno_of(write_file, vm.dir / "request.txt", "BOGUS" * 40)
    else:
        errno_of(vm.submit, '"' * 255)
    grown = server.size(path)
    assert grown > told == len(before)
    piece = server.do("pread", fd, told, 0).encode()
    assert len(piece) == told
    assert piece.split()[:4] == before.split()[:4] and piece.endswith(b" \n"), "the end is cut off"
    for size in grown, 65536:
        newer = server.do("pread", fd, size, 0).encode()
        assert len(newer) == grown and newer.endswith(b" \n")
        assert not newer.startswith(piece)
    server.do("close", fd)
    mount.ctl(f"release vm{vm.number}")


# --- inodes --------------------------------------------------------------------------------------

def test_inode_numbers_outlive_a_restart(vgpufs, server):
    mount = vgpufs()
    vm = mount.vm(3)
    paths = [vm.dir, vm.dir / "submit", vm.dir / "result", vm.data / "x", mount.path("stats")]
    vm.write_data("x", b"1")
    before = [os.stat(path).st_ino for path in paths]
    times = os.stat(vm.dir).st_ctime_ns
    mount.restart()
    assert [os.stat(path).st_ino for path in paths] == before
    assert os.stat(vm.dir).st_ctime_ns > times
