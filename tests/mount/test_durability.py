"""What survives the end of the daemon: kill -9, SIGTERM, a disk that is full."""
import os
import signal
import sqlite3
import subprocess
import time

import pytest

from harness import (FACTOR, HERE, Background, errno_of, parse_result, read_file, wait_until, write_file)

ENDS = ["kill9", "stop"]


def end_and_start(daemon, end):
    getattr(daemon, end)()
    daemon.start()


def hold(daemon, *names):
    for name in names:
        write_file(daemon.mountpoint / "ctl", f"hold {name}\n")


def sync_directory(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def release(daemon, *names):
    for name in names:
        write_file(daemon.mountpoint / "ctl", f"release {name}\n")


@pytest.mark.parametrize("end", ENDS)
def test_queued_jobs_are_queued_again(vgpufs, end):
    """In the same order, over VMs, pools and priorities; a hold stays too."""
    daemon = vgpufs({"vm 1": {"max_priority": "2"}})
    hold(daemon, "A", "B")
    for i in range(4):
        daemon.vm(1).submit(f"A:0:1:NOP tag=low{i}", f"A:2:1:NOP tag=high{i}", f"B:1:1:NOP tag=b{i}")
        daemon.vm(2).submit(f"A:1:2:NOP tag=mid{i} timeout=5", f"A:2:2:NOP tag=top{i}")
    write_file(daemon.mountpoint / "ctl", "priority vm1 low3 2\n")
    before = [(line.pool, line.priority, line.vm, line.job, line.tag) for line in daemon.queue()]
    assert len(before) == 20
    for _ in range(2):
        end_and_start(daemon, end)
        after = [(line.pool, line.priority, line.vm, line.job, line.tag) for line in daemon.queue()]
        assert after == before
    daemon.vm(2).submit("A:2:2:NOP tag=later")
    order = [line.tag for line in daemon.queue() if (line.pool, line.priority) == ("A", "2")]
    assert order == ["high0", "top0", "high1", "top1", "high2", "top2", "low3", "high3", "top3",
                     "later"]
    release(daemon, "A", "B")
    for vm, tags in ((1, [f"{name}{i}" for name in ("low", "high", "b") for i in range(4)]),
                     (2, [f"{name}{i}" for name in ("mid", "top") for i in range(4)])):
        for tag in tags:
            assert daemon.vm(vm).job_result(tag).header["status"] == "done"


@pytest.mark.parametrize("end", ENDS)
def test_results_and_tags_are_kept(vgpufs, end):
    daemon = vgpufs()
    vm = daemon.vm(3)
    done = vm.run("VECTOR_ADD n=8 tag=one")
    vm.submit("VECTOR_ADD a=missing b=missing tag=two")
    failed = vm.job_result("two")
    os.mkdir(vm.job("three"))
    assert errno_of(write_file, vm.job("four_is_missing") / "command", "NOP\n") == "ENOENT"
    inode = os.stat(vm.job("three") / "result").st_ino
    sync_directory(vm.dir / "jobs")  # mkdir waits for nothing
    end_and_start(daemon, end)
    assert vm.jobs() == {"one", "two", "three"}
    assert os.stat(vm.job("three") / "result").st_ino == inode
    assert vm.job_result("one").raw == done.raw
    assert vm.job_result("two").raw == failed.raw
    assert vm.result().raw == failed.raw, "the newest entry is the same"
    assert vm.job_status("one")["state"] == "done"
    assert read_file(vm.job("one") / "command") == b"VECTOR_ADD n=8 tag=one\n"
    # The tag still means that job.
    assert errno_of(vm.submit, "VECTOR_ADD n=9 tag=one") == "EEXIST"
    vm.submit("VECTOR_ADD n=8 tag=one")
    assert vm.result().raw == done.raw
    end_and_start(daemon, end)
    assert vm.result().raw == done.raw, "the newest is the one that was submitted again"
    number = int(vm.run("NOP").header["job"])
    assert number > max(int(done.header["job"]), int(failed.header["job"])) + 1
    write_file(vm.job("three") / "command", "NOP\n")
    assert vm.job_result("three").header["status"] == "done"


@pytest.mark.parametrize("end", ENDS)
def test_the_newest_entry(vgpufs, end):
    """A rejected line, nothing, and the answer of response.txt are what they were."""
    daemon = vgpufs()
    rejected, removed, legacy, wrong = (daemon.vm(number) for number in (1, 2, 3, 4))
    rejected.run("NOP")
    assert errno_of(rejected.submit, "BOGUS") == "EINVAL"
    removed.run("NOP tag=x")
    os.rmdir(removed.job("x"))
    write_file(legacy.dir / "request.txt", "A:1:3:VECTOR_ADD n=4\n")
    answer = wait_until(lambda: (text := read_file(legacy.dir / "response.txt"))[:1] == b"1" and text)
    legacy.run("NOP")
    assert errno_of(write_file, wrong.dir / "request.txt", "A:1:4:BOGUS\n") == "EINVAL"
    assert read_file(wrong.dir / "response.txt").startswith(b"2:")
    before = [vm.result().raw for vm in (rejected, removed, legacy, wrong)]
    error = read_file(wrong.dir / "response.txt")
    sync_directory(wrong.dir / "jobs")
    end_and_start(daemon, end)
    assert [vm.result().raw for vm in (rejected, removed, legacy, wrong)] == before
    assert rejected.result().header["status"] == "rejected"
    assert removed.result().header["status"] == "idle"
    assert read_file(legacy.dir / "response.txt") == answer
    assert read_file(legacy.dir / "request.txt") == b"A:1:3:VECTOR_ADD n=4\n"
    assert read_file(wrong.dir / "response.txt") == error


@pytest.mark.parametrize("end", ENDS)
def test_the_last_request(vgpufs, end):
    """A request that is submitted again through `submit` is no later request for that."""
    daemon = vgpufs()
    accepted, refused = daemon.vm(1), daemon.vm(2)

    def response(vm):
        return read_file(vm.dir / "response.txt")

    def request(vm, line):
        write_file(vm.dir / "request.txt", line)
        wait_until(lambda: not response(vm).startswith(b"0:"), what="an answer")

    for vm in (accepted, refused):
        request(vm, "VECTOR_ADD n=4 tag=one\n")
    request(accepted, "VECTOR_ADD n=5 tag=two\n")
    assert errno_of(request, refused, "BOGUS\n") == "EINVAL"
    for vm in (accepted, refused):
        vm.submit("VECTOR_ADD n=4 tag=one")
    before = response(accepted), response(refused)
    assert before[1].startswith(b"2:")
    for _ in range(2):
        end_and_start(daemon, end)
        assert (response(accepted), response(refused)) == before
        assert read_file(accepted.dir / "request.txt") == b"VECTOR_ADD n=5 tag=two\n"
    request(accepted, "VECTOR_ADD n=4 tag=one\n")  # now it is
    before = response(accepted), before[1]
    sync_directory(accepted.dir / "jobs")
    end_and_start(daemon, end)
    assert (response(accepted), response(refused)) == before


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("on_restart", ["rerun", "fail"])
def test_a_running_job(vgpufs, on_restart, end):
    daemon = vgpufs({"vgpufs": {"on_restart": on_restart, "stop_timeout": "0"}})
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=60000 timeout=1 tag=running" if on_restart == "rerun" else
              "SLEEP ms=60000 tag=running", "NOP tag=queued")
    vm.wait_state("running", "running")
    end_and_start(daemon, end)
    header = vm.job_result("running").header
    assert header["status"] == ("timeout" if on_restart == "rerun" else "failed")
    if on_restart == "fail":
        assert "vgpufs" in header["error"]
    assert vm.job_result("queued").header["status"] == "done"


def test_a_job_that_ends_the_daemon(vgpufs):
    """It is run again so often and not for ever; a planned restart is no crash of its."""
    daemon = vgpufs({"vgpufs": {"max_reruns": "2", "stop_timeout": "0"}})
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=60000 tag=running", "NOP tag=queued")
    for end in ("kill9", "stop", "kill9", "stop"):
        vm.wait_state("running", "running")
        end_and_start(daemon, end)
    vm.wait_state("running", "running")
    end_and_start(daemon, "kill9")
    header = vm.job_result("running").header
    assert header["status"] == "failed"
    assert "3 times" in header["error"] and "max_reruns" in header["error"]
    assert vm.job_result("queued").header["status"] == "done"


def test_who_runs_no_longer_is_not_blamed(vgpufs):
    """What has ended, or was cancelled, does not count for a job that comes later."""
    daemon = vgpufs({"vgpufs": {"max_reruns": "1"}})
    vm = daemon.vm(3)
    for i in range(4):
        vm.run(f"NOP tag=ended{i}")
    wait_until(lambda: not any((daemon.state_dir / "running").read_bytes()), what="the notes go")
    hold(daemon, "A")
    vm.submit("NOP tag=queued")
    for _ in range(3):
        end_and_start(daemon, "kill9")
    release(daemon, "A")
    assert vm.job_result("queued").header["status"] == "done"


def test_a_cancelled_job_does_not_run_again(vgpufs):
    """The daemon dies between the request and the end of the job, which does not heed it."""
    daemon = vgpufs({"pool B": {
        "executor": f'/usr/bin/python3 "{HERE}/fault_executor.py" hang'}})
    vm = daemon.vm(3)
    vm.submit("B:1:3:SLEEP ms=1 tag=x")
    vm.wait_state("x", "running")
    vm.ctl("cancel x")
    end_and_start(daemon, "kill9")
    header = vm.job_result("x").header
    assert (header["status"], header["error"]) == ("cancelled", "cancelled by the VM")


@pytest.mark.parametrize("end", ENDS)
def test_a_drain_outlives_a_restart(vgpufs, end):
    daemon = vgpufs()
    vm = daemon.vm(3)
    hold(daemon, "A")
    vm.submit("NOP tag=before")
    daemon.ctl("drain")
    end_and_start(daemon, end)
    assert daemon.stats()["vgpufs"]["state"] == "draining"
    assert errno_of(vm.submit, "NOP") == "EROFS"
    release(daemon, "A")
    assert vm.job_result("before").header["status"] == "done"
    daemon.ctl("resume")
    end_and_start(daemon, end)
    assert vm.run("NOP").header["status"] == "done"


def test_a_deadline_goes_on(vgpufs):
    """One that passes while no daemon runs has passed; a longer one has not."""
    daemon = vgpufs()
    vm = daemon.vm(3)
    hold(daemon, "A")
    vm.submit("NOP tag=short deadline=1", "NOP tag=long deadline=1000")
    daemon.kill9()
    time.sleep(1.2)
    daemon.start()
    header = vm.job_result("short").header
    assert header["status"] == "timeout"
    assert int(header["wait_us"]) >= 1000000
    assert vm.job_status("long")["state"] == "queued"
    release(daemon, "A")
    assert vm.job_result("long").header["status"] == "done"


def test_readers_at_a_clean_stop(vgpufs):
    """Nobody is told an end that is none; the job is there again."""
    daemon = vgpufs({"vgpufs": {"stop_timeout": "0"}})
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=3000 tag=running", "NOP tag=queued")
    vm.wait_state("running", "running")
    readers = [Background(vm.job_result, tag).blocked() for tag in ("running", "queued")]
    daemon.stop()
    for reader in readers:
        with pytest.raises(OSError):
            reader.value()
    daemon.start()
    assert vm.job_result("running").header["status"] == "done"
    assert vm.job_result("queued").header["status"] == "done"


def test_what_was_forgotten_stays_forgotten(vgpufs):
    daemon = vgpufs({"defaults": {"retain_jobs": "3"}})
    vm = daemon.vm(3)
    for i in range(6):
        vm.run(f"NOP tag=t{i}")
    newest = vm.result().raw
    vm.submit("NOP tag=gone")
    vm.job_result("gone")
    os.rmdir(vm.job("gone"))
    kept = vm.jobs()
    assert len(kept) <= 3
    sync_directory(vm.dir / "jobs")
    daemon.kill9()
    daemon.start()
    assert vm.jobs() == kept
    assert newest
    daemon.stop()
    with sqlite3.connect(daemon.state_dir / "state.db") as database:
        (rows,) = database.execute("SELECT count(*) FROM job").fetchone()
    assert rows <= 4, "the database holds what is retained"


def test_who_goes_first_after_a_restart(vgpufs):
    """As before: those that were read, then the oldest; and what was kept too long goes at once."""
    daemon = vgpufs({"defaults": {"retain_jobs": "3", "retain_for": "30d"}})
    vm = daemon.vm(3)
    hold(daemon, "A")
    vm.submit("NOP tag=a", "NOP tag=b", "NOP tag=c")
    release(daemon, "A")
    wait_until(lambda: vm.job_status("c")["state"] == "done", what="they have ended")
    vm.job_result("b")
    sync_directory(vm.dir / "jobs")
    end_and_start(daemon, "kill9")
    vm.run("NOP tag=d")
    assert vm.jobs() == {"a", "c", "d"}, "b was read"
    vm.job_result("d")
    daemon.stop()
    with sqlite3.connect(daemon.state_dir / "state.db") as database:
        database.execute("UPDATE job SET kept_us = kept_us - 1000 * ? WHERE tag IN (?, ?)",
                         (31 * 86400 * 1000, b"a", b"d"))
    daemon.start()
    daemon.kill(signal.SIGHUP)  # the daemon looks whenever it wakes up
    wait_until(lambda: vm.jobs() == {"c"}, what="the others were kept for a month")


def test_order_over_two_restarts(vgpufs):
    """What came between them stands behind what was there before."""
    daemon = vgpufs()
    hold(daemon, "A")
    for end in ("kill9", "stop"):
        daemon.vm(3).submit(*(f"NOP tag={end}{i}" for i in range(3)))
        end_and_start(daemon, end)
    assert [line.tag for line in daemon.queue()] == [f"{end}{i}" for end in ("kill9", "stop")
                                                     for i in range(3)]


def test_room_is_kept_and_given_back(vgpufs):
    """For what is queued, also after a restart; when it has ended the room is free for others."""
    many = {"max_queued": "10000", "max_jobs": "10000", "retain_jobs": "10"}
    daemon = vgpufs({"defaults": many})
    reserve, vm = daemon.state_dir / "reserve", daemon.vm(3)
    lines = ["NOP" + " " * 3900] * 100
    least = 1000 * (4096 + 2 * 3900)  # VM_JOB_ROOM, and the line in the log and in the table
    for end in ("kill9", "stop", "kill9"):
        hold(daemon, "A")
        for _ in range(10):
            vm.submit(*lines)
        assert reserve.stat().st_size >= least
        end_and_start(daemon, end)
        for _ in range(10):
            vm.submit(*lines)
        assert reserve.stat().st_size >= 2 * least, "it is not kept twice"
        vm.submit(f"NOP tag={end}")
        release(daemon, "A")
        assert vm.job_result(end).header["status"] == "done"
    assert reserve.stat().st_size < 4 * least


def test_the_newest_result_outlives_its_directory(vgpufs):
    daemon = vgpufs({"defaults": {"retain_jobs": "0"}})
    vm = daemon.vm(3)
    before = vm.run("NOP").raw
    assert vm.jobs() == set()
    sync_directory(vm.dir / "jobs")
    daemon.kill9()
    daemon.start()
    assert vm.result().raw == before
    assert vm.jobs() == set()
    vm.run("NOP")
    daemon.stop()
    with sqlite3.connect(daemon.state_dir / "state.db") as database:
        assert database.execute("SELECT count(*) FROM job").fetchone() == (1,), "the newest"


def test_who_is_gone_takes_nobody_along(vgpufs):
    """A job whose directory was removed while it ran does not count as one that is kept."""
    daemon = vgpufs({"defaults": {"retain_jobs": "2"}})
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=60000 tag=gone")
    vm.wait_state("gone", "running")
    os.rmdir(vm.job("gone"))
    wait_until(lambda: daemon.stats()["vm 3"]["cancelled"] == "1", what="it has ended")
    for i in range(4):
        vm.run(f"NOP tag=t{i}")
        assert vm.jobs() == {f"t{j}" for j in range(max(0, i - 1), i + 1)}


def test_holding_a_vm_outlives_a_restart(vgpufs):
    daemon = vgpufs()
    hold(daemon, "vm3")
    daemon.vm(3).submit("NOP tag=x")
    daemon.stop()
    daemon.start()
    assert daemon.vm(3).status()["vm 3"]["held"] == "yes"
    assert daemon.vm(3).job_status("x")["state"] == "queued"
    release(daemon, "vm3")
    assert daemon.vm(3).job_result("x").header["status"] == "done"


def test_purge_is_for_good(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(3)
    vm.run("NOP tag=x")
    write_file(daemon.mountpoint / "ctl", "purge vm3\n")
    daemon.stop()
    daemon.start()
    assert vm.jobs() == set()
    assert vm.result().header["status"] == "idle"
    assert int(vm.run("NOP").header["job"]) > 1
