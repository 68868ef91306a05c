"""Readers that wait: nobody else waits for them, another guest least of all."""
import json

import pytest

# A request waits so long that nobody is saved by its end. With v4.0 a guest's opens wait for each
# other: there each takes that long, and the usual time has to do.
HOLDS = {"4.0": "20s"}
PER_VM = 4  # requests may wait, as vgpufs.conf(5) has it


@pytest.fixture
def nfs_keys(version):
    return {"hold": HOLDS.get(version, "600s")}


def waiting_readers(rig, guest, count, directories=0, milliseconds=3600000):
    """A job of the guest that runs until it is cancelled, and `count` readers that wait for it; or
    for the jobs in so many directories."""
    line = f"L:1:{guest.number}:SLEEP ms={milliseconds} timeout=3600"
    paths = " ".join(f"jobs/wait{number}/result" for number in range(directories))
    if directories:
        guest.sh(f"cd {guest.dir}/jobs; for i in $(seq 0 {directories - 1}); do mkdir wait$i; "
                 f"echo '{line}' > wait$i/command; done", timeout=180)
    else:
        guest.submit(line)
    job = guest.newest()["job"]
    guest.sh("rm -f /tmp/readers.pid")
    readers = guest.call("echo $$ > /tmp/readers.pid; "
                         f"exec /payload/guest.py wait_together {count} {paths}", timeout=600)
    guest.sh("for i in $(seq 600); do test -s /tmp/readers.pid && "
             f"test $(ls /proc/$(cat /tmp/readers.pid)/task | wc -l) -gt {count} && exit 0; "
             "sleep 0.1; done; exit 1", timeout=180)
    # Their requests are there, as many as may wait; with v4.0 the guest makes one after the other.
    together = min(count, directories) if rig.layout.version != "4.0" else 1
    rig.wait_waiting(guest.number, min(max(together, 1), PER_VM))
    return job, readers


def end_readers(rig, guest, job, readers, count, directories=0):
    """The job ends: every reader gets its result, whole."""
    rig.ctl(f"cancel vm{guest.number} {'all' if directories else job}")
    outcome = readers.wait()
    if directories:
        guest.sh(f"rmdir {guest.dir}/jobs/wait*", timeout=120)
    assert outcome.code == 0, outcome
    answers = json.loads(outcome.out)
    assert len(answers) == count
    assert len(set(answers)) == max(directories, 1), set(answers)
    assert all(answer.startswith("status=cancelled job=") for answer in answers), set(answers)
    assert any(f" job={job} " in answer for answer in answers)


@pytest.mark.parametrize("count, directories", [(10, 0), (100, 0), (100, 40)])
def test_a_newcomer(rig, configured, nfs_keys, guest, other, count, directories):
    """However many readers of one guest wait, another guest's echo and cat end. Readers of one file
    hold few of the server's threads, whoever lets them wait; those of 40 would hold all, of which
    there are then 8: a session of 4.1 has some 24 calls at once, where the server has 32 threads."""
    few = {"threads": "8"} if directories else {}
    configured(nfs={**nfs_keys, **few})
    if few and rig.layout.server == "knfsd":
        rig.host.sh("rpc.nfsd 8")
    job, readers = waiting_readers(rig, guest, count, directories)
    try:
        for _ in range(3):
            assert other.job("NOP", timeout=120).header["status"] == "done"
        assert not readers.done()
    finally:
        end_readers(rig, guest, job, readers, count, directories)
        if few and rig.layout.server == "knfsd":
            rig.host.sh("rpc.nfsd 32")


def test_the_waiting_guest_itself(rig, configured, nfs_keys, guest):
    """While it waits for one result the guest reads status, submits and reads another's."""
    configured(nfs=nfs_keys)
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


@pytest.mark.layout(server=("knfsd",))
def test_more_guests_than_places(rig, configured, nfs_keys, guest, other):
    """With two threads one request may wait, and that one is guest 3's: guest 4 is told to ask
    again, and has its result nevertheless."""
    configured(nfs={**nfs_keys, "threads": "2"})
    job, readers = waiting_readers(rig, guest, 1)
    try:
        # In another pool: pool L is busy for an hour.
        assert other.job("A:1:4:SLEEP ms=3000", timeout=120).header["status"] == "done"
        assert not readers.done()
    finally:
        end_readers(rig, guest, job, readers, 1)


@pytest.mark.layout(version=("4.0",))
def test_opens_of_v40_take_turns(rig, configured, nfs_keys, guest, other):
    """The one exception of v4.0, as vgpufs(7) tells it: a reader that waits may hold up the opens of
    its own guest, for some seconds. They all end, while it still waits; and what needs no open is
    not held up, nor the other guest."""
    configured(nfs=nfs_keys)
    job, readers = waiting_readers(rig, guest, 1)
    try:
        delayed = guest.call(f"cat {guest.dir}/status", timeout=180)
        assert f"{guest.dir}/status" in guest.sh(f"ls {guest.dir}/status", timeout=60)
        assert other.job("NOP", timeout=120).header["status"] == "done"
        outcome = delayed.wait()
        assert outcome.code == 0 and f"newest job={job} " in outcome.out, outcome
        assert not readers.done()
    finally:
        end_readers(rig, guest, job, readers, 1)
