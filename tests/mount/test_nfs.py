"""What an NFS server is answered: bounded waits, lines that are sent twice, sizes that are true."""
import os
import threading

import pytest

from harness import errno_of, parse_result, read_file, wait_until, write_file
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
    raw = read_file(vm.dir / what)
    assert parse_result(raw).header["status"] == "done"
    assert call.value()[0] == len(raw)
    fd = opening.value()
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


def test_a_newer_entry_is_told_of(mount, server, vm):
    """Who waits for the newest entry hears of a rejected line at once, though the job still waits."""
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP")
    call = server.begin("stat", vm.dir / "result")
    assert call.waits()
    assert errno_of(vm.submit, "BOGUS") == "EINVAL"
    raw = read_file(vm.dir / "result")
    assert parse_result(raw).header["status"] == "rejected"
    assert call.value()[0] == len(raw)
    mount.ctl(f"release vm{vm.number}")


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
    newer = read_file(vm.dir / "result")
    assert call.value()[0] == len(newer)
    assert server.do("pread", fd, 65536, 0).encode() == newer
    server.do("close", fd)


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


def test_a_stop_answers_who_waits(vgpufs, server):
    mount = vgpufs({"nfs": {"hold": "600s"}})
    vm = mount.vm(3)
    vm.submit("SLEEP ms=600000")
    call = server.begin("stat", vm.dir / "result")
    assert call.waits()
    stopping = threading.Thread(target=mount.stop)
    stopping.start()
    call.value(60)
    stopping.join()
