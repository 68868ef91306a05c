"""Two guests at once: whose job goes first, and that nobody waits for another's reader."""
import json
import time

import pytest

from rig import guest_json


def waiting_readers(rig, guest, count, milliseconds=3600000):
    """A job of the guest that runs until it is cancelled, and `count` readers that wait for it."""
    guest.submit(f"L:1:{guest.number}:SLEEP ms={milliseconds} timeout=3600")
    job = guest.newest()["job"]
    guest.sh("rm -f /tmp/readers.pid")
    readers = guest.call("echo $$ > /tmp/readers.pid; "
                         f"exec /payload/guest.py wait_together {count}", timeout=600)
    guest.sh("for i in $(seq 600); do test -s /tmp/readers.pid && "
             f"test $(ls /proc/$(cat /tmp/readers.pid)/task | wc -l) -gt {count} && exit 0; "
             "sleep 0.1; done; exit 1", timeout=180)
    return job, readers


def end_readers(rig, guest, job, readers, count):
    """The job ends: every reader gets its result, whole."""
    rig.ctl(f"cancel vm{guest.number} {job}")
    outcome = readers.wait()
    assert outcome.code == 0, outcome
    answers = json.loads(outcome.out)
    assert len(answers) == count
    assert len(set(answers)) == 1 and f"status=cancelled job={job} " in answers[0], set(answers)


@pytest.mark.parametrize("count", [10, 100])
def test_a_newcomer(rig, guest, other, count):
    """However many readers of one guest wait, another guest's echo and cat end."""
    job, readers = waiting_readers(rig, guest, count)
    try:
        for _ in range(3):
            assert other.job("NOP", timeout=120).header["status"] == "done"
        assert not readers.done()
    finally:
        end_readers(rig, guest, job, readers, count)


def test_the_waiting_guest_itself(rig, guest):
    """While it waits for one result the guest reads status, submits and reads another's."""
    job, readers = waiting_readers(rig, guest, 1)
    try:
        assert guest.status()["newest"]["job"] == job
        guest.sh(f"mkdir {guest.dir}/jobs/aside; echo A:1:3:NOP > {guest.dir}/jobs/aside/command",
                 timeout=120)
        assert guest.result("jobs/aside/result", timeout=120).header["status"] == "done"
        guest.sh(f"rmdir {guest.dir}/jobs/aside", timeout=120)
        assert rig.stats()["vm 3"]["running"] == "1"
    finally:
        rig.ctl(f"cancel vm3 {job}")
        assert readers.wait().code == 0


# A read beside one that waits takes 0.02 s where opens do not take turns, in an idle machine.
DELAY_SECONDS = 1


@pytest.mark.layout(version=("4.0",))
def test_opens_of_v40_take_turns(rig, guest, other):
    """The one exception of v4.0, as vgpufs(7) tells it: a reader that waits holds up the opens of
    its own guest, for some seconds; not what needs no open, and not the other guest."""
    job, readers = waiting_readers(rig, guest, 1)
    try:
        delayed = guest.call(f"cat {guest.dir}/status", timeout=180)
        assert f"{guest.dir}/status" in guest.sh(f"ls {guest.dir}/status", timeout=60)
        assert other.job("NOP", timeout=120).header["status"] == "done"
        outcome = delayed.wait()
        assert outcome.code == 0 and f"newest job={job} " in outcome.out, outcome
        assert delayed.seconds > DELAY_SECONDS
        assert not readers.done()
    finally:
        end_readers(rig, guest, job, readers, 1)


def test_a_reader_is_interrupted(rig, guest):
    """Ctrl-C, or a kill, ends a cat that waits; the job goes on, and the next one reads its result."""
    guest.submit("L:1:3:SLEEP ms=3600000 timeout=3600")
    job = guest.newest()["job"]
    try:
        for name, code in (("INT", -2), ("TERM", -15), ("KILL", -9)):
            reader = guest.call(f"echo $$ > /tmp/waiting.pid; exec cat {guest.dir}/result", 300)
            guest.sh("for i in $(seq 600); do grep -q '^cat' /proc/$(cat /tmp/waiting.pid)/comm && "
                     "! grep -qx 0 /proc/$(cat /tmp/waiting.pid)/wchan && exit 0; "
                     "sleep 0.1; done; exit 1", timeout=120)
            time.sleep(0.5)  # it is in the request, not on its way to it
            assert not reader.done()
            guest.sh(f"kill -{name} $(cat /tmp/waiting.pid)")
            outcome = reader.wait()
            assert outcome.code == code and outcome.out == "", (name, outcome)
            assert reader.seconds < 250, "it was not the signal that ended it"
        assert rig.stats()["vm 3"]["running"] == "1"
    finally:
        rig.ctl(f"cancel vm3 {job}")
    assert guest.result(timeout=120).header["job"] == job


def test_priorities(rig, guest, other):
    """What was submitted later with a higher priority runs first, whoever submitted it."""
    rig.ctl("hold L")
    try:
        for _ in range(3):
            other.submit("L:0:4:NOP")
        other.submit("L:1:4:NOP")
        guest.submit("L:2:3:NOP")
        order = [line.split()[1:3] for line in rig.host.sh("cat /mnt/vgpu/queue").splitlines()]
    finally:
        rig.ctl("release L")
    assert order == [["2", "vm3"], ["1", "vm4"], ["0", "vm4"], ["0", "vm4"], ["0", "vm4"]]
    guest.read()
    other.read()
    log = [line.split("vm=")[1][0] for line in rig.log(20000).splitlines()
           if "[PROCESS] Pool L" in line]
    assert log[-5:] == ["3", "4", "4", "4", "4"]


def test_pools_are_apart(rig, guest, other):
    """Pool L has work for an hour; jobs of pools A and B of both guests end."""
    other.submit("L:1:4:SLEEP ms=3600000 timeout=3600 tag=block")
    for _ in range(5):
        guest.submit("L:1:3:SLEEP ms=1000")
    try:
        for machine in (guest, other):
            for pool in "AB":
                result = machine.job(f"{pool}:1:{machine.number}:VECTOR_ADD n=1000")
                assert result.header["status"] == "done" and result.header["pool"] == pool
        assert rig.stats()["pool L"]["queued"] == "5"
    finally:
        for vm in (3, 4):
            rig.ctl(f"cancel vm{vm} all")


def test_sustained_mixed_use(rig, guest, other):
    """Both guests at once: results of several rsize, jobs in directories, data, and looks at
    everything."""
    for machine in (guest, other):
        rig.mount(machine, "/mnt/small", "rsize=16384,wsize=16384")
    try:
        calls = []
        for machine in (guest, other):
            number = machine.number
            calls += [
                machine.call(f"MOUNT=/mnt/small /payload/guest.py rounds 15 {number}1 jobs 200000",
                             timeout=300),
                machine.call(f"/payload/guest.py rounds 15 {number}2 jobs 100000", timeout=300),
                machine.call("set -e; for i in $(seq 6); do "
                             f"head -c 300000 /dev/urandom > /tmp/x; cp /tmp/x {machine.dir}/data/x; "
                             f"cmp /tmp/x {machine.dir}/data/x; cat {machine.dir}/status "
                             "/mnt/vgpu/stats /mnt/vgpu/stats.json > /tmp/looks; "
                             "! grep -q -P '\\x00' /tmp/looks; done; echo '{\"count\": 0}'",
                             timeout=300)]
        for call in calls:
            outcome = call.wait()
            assert outcome.code == 0, outcome
            assert json.loads(outcome.out)["count"] == 0, outcome.out
    finally:
        for machine in (guest, other):
            machine.sh(f"rm -f {machine.dir}/data/x; umount /mnt/small")


def test_stats_do_not_change_under_a_reader(rig, guest):
    """Numbers grow while stats is read: no NUL, and always a whole last line."""
    load = guest.call("/payload/guest.py rounds 20 77 result 200", timeout=200)
    for _ in range(15):
        text = guest.sh("cat /mnt/vgpu/stats; echo; cat /mnt/vgpu/stats.json")
        assert "\0" not in text
        first, _, second = text.partition("\n\n")
        assert "data_bytes=" in first.splitlines()[-1]
        json.loads(second)
        time.sleep(0.1)
    assert json.loads(load.wait().out)["count"] == 0
    assert guest_json(guest, "rounds", 1, 78)["count"] == 0
