"""Queues: priorities, turns, holds, deadlines, limits and shares."""
import time

import pytest

from harness import (FACTOR, Background, errno_of, order_of_ends, wait_until)


def result_path(vm, tag):
    return vm.job(tag) / "result"


def test_priorities(vgpufs):
    """Behind one 2-second job: priorities 0, 2, 1 from three VMs run as 2, 1, 0, two of the same
    priority in the order of submission, and pool B does not wait for pool A."""
    daemon = vgpufs({"vm 1": {"pool": "A", "priority": "0"}, "vm 2": {"pool": "A", "priority": "2"},
                     "vm 3": {"pool": "A", "priority": "1"}, "vm 4": {"pool": "B", "priority": "0"}})
    daemon.vm(5).submit("SLEEP ms=2000 tag=first")
    daemon.vm(5).wait_state("first", "running")
    submitted = [(1, "low"), (2, "high"), (3, "medium"), (2, "high2"), (1, "low2"), (3, "medium2"),
                 (4, "other")]
    for number, tag in submitted:
        daemon.vm(number).submit(f"SLEEP ms=100 tag={tag}")
    order = order_of_ends(result_path(daemon.vm(5), "first"),
                          *[result_path(daemon.vm(number), tag) for number, tag in submitted])
    assert [path.parent.name for path in order] == [
        "other", "first", "high", "high2", "medium", "medium2", "low", "low2"]


def submit_held(daemon, jobs):
    """Submits (vm, line) while pool A is held, then lets it go: the order in which they end."""
    daemon.ctl("hold A")
    for number, line in jobs:
        daemon.vm(number).submit(line)
    paths = [result_path(daemon.vm(number), line.rsplit("tag=", 1)[1]) for number, line in jobs]
    release = Background(order_of_ends, *paths)
    daemon.ctl("release A")
    return [path.parent.name for path in release.value(60)]


@pytest.mark.parametrize("order, expected", [
    ("fifo", ["a1", "a2", "a3", "b1", "b2", "b3", "c1"]),
    ("fair", ["a1", "b1", "c1", "a2", "b2", "a3", "b3"]),
])
def test_order(vgpufs, order, expected):
    daemon = vgpufs({"pool A": {"order": order}})
    jobs = [(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (2, "b2"), (2, "b3"), (3, "c1")]
    assert submit_held(daemon, [(n, f"SLEEP ms=80 tag={tag}") for n, tag in jobs]) == expected
    assert daemon.stats()["pool A"]["order"] == order


def test_fair_is_inside_one_priority(vgpufs):
    daemon = vgpufs({"pool A": {"order": "fair"}})
    jobs = [(1, "A:2:1:SLEEP ms=80 tag=a1"), (1, "A:2:1:SLEEP ms=80 tag=a2"),
            (2, "A:1:2:SLEEP ms=80 tag=b1"), (3, "A:2:3:SLEEP ms=80 tag=c1")]
    assert submit_held(daemon, jobs) == ["a1", "c1", "a2", "b1"]


@pytest.mark.parametrize("max_wait, expected", [
    ("0", ["high", "low"]), ("1", ["low", "high"])])
def test_max_wait(vgpufs, max_wait, expected):
    daemon = vgpufs({"pool A": {"max_wait": max_wait}})
    vm = daemon.vm(1)
    vm.submit("SLEEP ms=2000 tag=first", "A:0:1:SLEEP ms=100 tag=low")
    wait_until(lambda: int(vm.job_status("low")["age_ms"]) > 1200, what="the low job is old")
    vm.submit("A:2:1:SLEEP ms=100 tag=high")
    order = order_of_ends(result_path(vm, "low"), result_path(vm, "high"))
    assert [path.parent.name for path in order] == expected


def test_slots_run_side_by_side(vgpufs):
    daemon = vgpufs({"pool A": {"slots": "3"}})
    vm = daemon.vm(1)
    vm.submit(*[f"SLEEP ms=60000 tag=t{i}" for i in range(4)])
    wait_until(lambda: daemon.stats()["pool A"]["running"] == "3", what="three run")
    assert daemon.stats()["pool A"]["queued"] == "1"
    pids = {daemon.executor_pid(f"A.{i}") for i in range(3)}
    assert len(pids) == 3
    vm.ctl("cancel all")


# --- hold, drain, cancel, priority ---------------------------------------------------------------

def test_hold_a_pool(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(1)
    daemon.ctl("hold A")
    assert daemon.stats()["pool A"]["state"] == "held"
    assert daemon.stats()["pool B"]["state"] == "running"
    vm.submit("NOP tag=waits")
    assert vm.run("B:1:1:NOP").header["status"] == "done"
    assert vm.job_status("waits")["state"] == "queued"
    daemon.ctl("release A")
    assert vm.job_result("waits").header["status"] == "done"
    assert daemon.stats()["pool A"]["state"] == "running"


def test_hold_lets_the_running_job_end(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(1)
    vm.submit("SLEEP ms=300 tag=running", "NOP tag=queued")
    vm.wait_state("running", "running")
    daemon.ctl("hold A")
    assert vm.job_result("running").header["status"] == "done"
    assert vm.job_status("queued")["state"] == "queued"
    daemon.ctl("hold A")  # again: no mistake
    daemon.ctl("release A")
    assert vm.job_result("queued").header["status"] == "done"


def test_hold_a_vm(vgpufs):
    daemon = vgpufs()
    held, other = daemon.vm(3), daemon.vm(4)
    daemon.ctl("hold vm3")
    assert held.status()["vm 3"]["held"] == "yes"
    assert daemon.stats()["vm 3"]["held"] == "yes"
    held.submit("A:2:3:NOP tag=waits")
    assert other.run("A:0:4:NOP").header["status"] == "done", "lower, but not held"
    assert held.job_status("waits")["state"] == "queued"
    daemon.ctl("release vm3")
    assert held.job_result("waits").header["status"] == "done"
    assert held.status()["vm 3"]["held"] == "no"


def test_cancel_by_the_administrator(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=60000 tag=long", "NOP tag=next")
    vm.wait_state("long", "running")
    assert [line.tag for line in daemon.queue()] == ["long", "next"]
    daemon.ctl("cancel vm3 long")
    assert vm.job_result("long").header["status"] == "cancelled"
    vm.submit("SLEEP ms=60000")
    number = vm.newest()["job"]
    daemon.ctl(f"cancel vm3 {number}")
    assert vm.result().header["status"] == "cancelled"
    assert vm.job_result("next").header["status"] == "done"
    assert daemon.queue() == []


def test_priority_by_the_administrator(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(3)
    daemon.ctl("hold A")
    vm.submit("SLEEP ms=80 tag=a", "SLEEP ms=80 tag=b", "A:0:3:SLEEP ms=80 tag=c")
    daemon.ctl("priority vm3 c 2")
    daemon.ctl("priority vm3 a 0")
    assert [line.tag + line.priority for line in daemon.queue()] == ["c2", "b1", "a0"]
    readers = Background(order_of_ends, *[result_path(vm, tag) for tag in "abc"])
    daemon.ctl("release A")
    assert [path.parent.name for path in readers.value()] == ["c", "b", "a"]
    assert vm.job_result("c").header["priority"] == "2"


@pytest.mark.parametrize("wrong", ["bogus", "hold Z", "hold", "cancel vm3 nothing", "purge vm9999",
                                   "priority vm3 queued 3", "priority vm3 running 2"])
def test_ctl_is_all_or_none(vgpufs, wrong):
    daemon = vgpufs()
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=60000 tag=running", "NOP tag=queued")
    vm.wait_state("running", "running")
    assert errno_of(daemon.ctl, f"hold B\ndrain\ncancel vm3 queued\n{wrong}") == "EINVAL"
    assert daemon.stats()["vgpufs"]["state"] == "running"
    assert vm.job_status("queued")["state"] == "queued"
    assert daemon.stats()["pool B"]["state"] == "running"
    daemon.ctl("hold B\ncancel vm3 all")
    assert daemon.stats()["pool B"]["state"] == "held"
    assert vm.job_result("queued").header["status"] == "cancelled"


def test_purge(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(3)
    vm.run("NOP tag=ended")
    vm.write_data("file", b"content")
    (vm.dir / "identity").write_text("B:2:3\n")
    vm.submit("SLEEP ms=60000 tag=running")
    vm.wait_state("running", "running")
    reader = Background(vm.job_result, "running").blocked()
    daemon.ctl("purge vm3")
    assert reader.value().header["status"] == "cancelled"
    assert vm.jobs() == set()
    assert list(vm.data.iterdir()) == []
    assert vm.status()["limits"]["data_bytes"] == "0"
    assert vm.result().header["status"] == "idle"
    header = vm.run("NOP").header
    assert (header["pool"], header["priority"], header["job"]) == ("A", "1", "3")


def test_the_queue_file(vgpufs):
    daemon = vgpufs({"vm 3": {"pool": "A", "priority": "2"}})
    daemon.vm(3).submit("SLEEP ms=60000 tag=fft1")
    daemon.vm(3).wait_state("fft1", "running")
    daemon.vm(4).submit("VECTOR_ADD n=8")
    daemon.vm(5).submit("B:0:5:SLEEP ms=60000")
    daemon.vm(5).wait_state("1", "running")
    lines = {line.vm: line for line in daemon.queue()}
    assert lines["vm3"][:6] == ("A", "2", "vm3", "1", "fft1", "running")
    assert lines["vm4"][:6] == ("A", "1", "vm4", "1", "1", "queued")
    assert lines["vm5"][:6] == ("B", "0", "vm5", "1", "1", "running")
    assert lines["vm4"].command.split()[0] == "VECTOR_ADD"
    daemon.vm(3).ctl("cancel all")
    daemon.vm(5).ctl("cancel all")


# --- time ----------------------------------------------------------------------------------------

def test_deadline_while_another_job_runs(vgpufs):
    vm = vgpufs().vm(1)
    vm.submit("SLEEP ms=60000 tag=long", "NOP tag=late deadline=1")
    started = time.monotonic()
    header = vm.job_result("late").header
    assert header["status"] == "timeout"
    assert "deadline" in header["error"]
    assert 0.8 < time.monotonic() - started < 1 + 3 * FACTOR, "on time, not when the slot is free"
    assert vm.job_status("long")["state"] == "running"
    vm.ctl("cancel long")


def test_deadline_of_a_held_pool(vgpufs):
    daemon = vgpufs()
    daemon.ctl("hold A")
    daemon.vm(1).submit("NOP deadline=1")
    assert daemon.vm(1).result().header["status"] == "timeout"
    assert daemon.stats()["pool A"]["timeout"] == "1"


def test_deadline_met(vgpufs):
    """It limits the wait, not the run."""
    assert vgpufs().vm(1).run("SLEEP ms=1500 deadline=1").header["status"] == "done"


@pytest.mark.parametrize("config, line", [
    ({}, "SLEEP ms=60000 timeout=1"), ({"pool A": {"max_run": "1s"}}, "SLEEP ms=60000")])
def test_run_time_limit(vgpufs, config, line):
    daemon = vgpufs(config)
    vm = daemon.vm(1)
    header = vm.run(line).header
    assert header["status"] == "timeout"
    assert header["error"]
    assert int(header["run_us"]) >= 900_000
    assert vm.run("NOP").header["status"] == "done"
    assert daemon.stats()["pool A"]["timeout"] == "1"


# --- limits --------------------------------------------------------------------------------------

def test_max_running(vgpufs):
    daemon = vgpufs({"pool A": {"slots": "2"}, "vm 1": {"max_running": "1"}})
    greedy, other = daemon.vm(1), daemon.vm(2)
    greedy.submit("SLEEP ms=60000 tag=one", "SLEEP ms=60000 tag=two")
    greedy.wait_state("one", "running")
    other.submit("SLEEP ms=60000 tag=three")
    other.wait_state("three", "running")
    assert greedy.job_status("two")["state"] == "queued"
    greedy.ctl("cancel one")
    greedy.wait_state("two", "running")
    for vm in (greedy, other):
        vm.ctl("cancel all")


def test_max_queued_counts_what_waits(vgpufs):
    vm = vgpufs({"vm 1": {"max_queued": "2"}}).vm(1)
    vm.submit("SLEEP ms=60000 tag=running")
    vm.wait_state("running", "running")
    vm.submit("NOP tag=a", "NOP tag=b")
    assert errno_of(vm.submit, "NOP tag=c") == "EDQUOT"
    vm.ctl("cancel a")
    vm.submit("NOP tag=c")
    vm.ctl("cancel running")
    assert vm.job_result("c").header["status"] == "done"


def test_device_share(vgpufs):
    """A VM above its share waits, whatever its priority, while another has jobs, and only then."""
    daemon = vgpufs({"vm 1": {"device_share": "1%"}})
    greedy = daemon.vm(1)
    assert greedy.run("SLEEP ms=1000").header["status"] == "done"
    assert greedy.run("SLEEP ms=100").header["status"] == "done", "nobody else wants the device"
    jobs = [(1, "A:2:1:SLEEP ms=100 tag=greedy"), (2, "A:0:2:SLEEP ms=100 tag=other1"),
            (2, "A:0:2:SLEEP ms=100 tag=other2")]
    assert submit_held(daemon, jobs) == ["other1", "other2", "greedy"]


def test_pools_by_configuration(vgpufs):
    """A and B are always there; more by configuration, each with its own executor."""
    daemon = vgpufs({"pool Fast": {"backend": "cpu"}, "pool Slow-1": {"backend": "cpu"}})
    vm = daemon.vm(1)
    assert vm.run("NOP").header["pool"] == "A"
    for pool in ("Fast", "Slow-1"):
        assert vm.run(f"{pool}:2:1:NOP").header["pool"] == pool
    pools = ["A", "B", "Fast", "Slow-1"]
    assert [name for name in daemon.stats() if name.startswith("pool ")] == [f"pool {p}" for p in pools]
    assert len({daemon.executor_pid(f"{pool}.0") for pool in pools}) == 4
