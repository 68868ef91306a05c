"""Readers that wait: nobody else waits for them, another guest least of all."""
import json

import pytest


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
