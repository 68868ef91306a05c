"""Planned restarts of a daemon behind vgpufs-mount, with guests that wait, write and read: none of
them notices. The machines' daemon mounts for itself otherwise, so this file starts another pair."""
import pytest

from length_executor import expected
from rig import LOG, MOUNT, guest_json, parse_result

SOCKET = "/run/vgpufs/mount.sock"
HOLDER_LOG = "/run/vgpufs-mount.log"


def start(rig, *options):
    """Returns when the daemon has the mount and serves it."""
    rig.host.sh(f"ulimit -n 65536; setsid /payload/bin/vgpufs -f --mount-socket={SOCKET} "
                f"{' '.join(options)} >>{LOG} 2>&1 & echo $! > /run/vgpufs.pid; "
                f"timeout 60 cat {MOUNT}/stats > /dev/null || {{ tail {LOG}; exit 1; }}",
                timeout=90)


def export_again(rig):
    """The NFS server takes the mount that is there now. Behind nfs-ganesha handles are of one mount:
    the guests have ESTALE for those that they had, and mount anew."""
    rig.export_again()
    if rig.layout.server == "ganesha":
        for guest in rig.guests.values():
            guest.sh(f"umount -l {MOUNT}", timeout=120)
            rig.mount(guest)


def restart(rig):
    rig.stop_daemon()
    start(rig)


@pytest.fixture(scope="module", autouse=True)
def held(rig):
    rig.stop_daemon()
    rig.host.sh(f"umount -l {MOUNT} 2>/dev/null; mkdir -p /run/vgpufs; setsid "
                f"/payload/bin/vgpufs-mount --user=root --socket={SOCKET} {MOUNT} "
                f">{HOLDER_LOG} 2>&1 & echo $! > /run/vgpufs-mount.pid; "
                f"for i in $(seq 300); do test -S {SOCKET} && exit 0; sleep 0.1; done; "
                f"cat {HOLDER_LOG}; exit 1", timeout=60)
    start(rig)
    export_again(rig)
    yield
    rig.stop_daemon()
    rig.host.sh("kill $(cat /run/vgpufs-mount.pid); while kill -0 $(cat /run/vgpufs-mount.pid) "
                "2>/dev/null; do sleep 0.05; done", timeout=60)
    rig.start_daemon()
    export_again(rig)


def holder_log(rig):
    return rig.host.sh(f"cat {HOLDER_LOG}")


def wait_answered(guest):
    guest.sh(f"for i in $(seq 90); do cat {guest.dir}/status >/dev/null && exit 0; sleep 1; done; "
             "exit 1", timeout=180)


def test_readers_go_on(rig, guest, other):
    """One waits for a job that runs and is run again, others for queued ones of two guests."""
    wait_answered(guest), wait_answered(other)
    rig.ctl("hold A")
    for machine in (guest, other):
        machine.sh(f"mkdir {machine.dir}/jobs/queued && "
                   f"echo 'A:1:{machine.number}:NOP' > {machine.dir}/jobs/queued/command")
    guest.sh(f"mkdir {guest.dir}/jobs/runs && "
             f"echo 'L:1:3:NBODY n=9000 steps=12000 seed=91' > {guest.dir}/jobs/runs/command")
    rig.wait_stats(lambda stats: stats["vm 3"]["running"] == "1")
    readers = [machine.call(f"cat {machine.dir}/jobs/queued/result", timeout=200)
               for machine in (guest, guest, other)]
    runs = guest.call(f"cat {guest.dir}/jobs/runs/result", timeout=200)
    newest = other.call(f"cat {other.dir}/result", timeout=200)
    rig.host.sh("sleep 1")  # the guests' READs are here, or they come later: both must do
    for _ in range(2):
        restart(rig)
    assert not any(reader.done() for reader in [*readers, newest])
    rig.ctl("release A")
    for reader in [*readers, newest]:
        outcome = reader.wait()
        assert outcome.code == 0, outcome
        assert parse_result(outcome.out.encode("latin-1")).header["status"] == "done"
    outcome = runs.wait()
    assert outcome.code == 0, outcome
    assert parse_result(outcome.out.encode("latin-1")).body == expected(9000, 91)
    for machine, tags in ((guest, "queued runs"), (other, "queued")):
        machine.sh(f"cd {machine.dir}/jobs && rmdir {tags}")


def test_rounds_go_on(rig, guest, other):
    """Two guests submit and read all the time; no call fails, and every result is that of its job."""
    rounds = [machine.call(f"/payload/guest.py rounds 30 {seed}", timeout=400)
              for machine, seed in ((guest, 92), (other, 93))]
    restarts = 0
    while not all(call.done() for call in rounds) and restarts < 6:
        restart(rig)
        restarts += 1
    assert restarts >= 2
    for call in rounds:
        outcome = call.wait()
        assert outcome.code == 0 and '"count": 0' in outcome.out, outcome


def test_data_goes_on(rig, guest):
    """A file that is open on the guest is written on through a restart."""
    writer = guest.call(f"{{ for i in $(seq 60); do echo line $i; sleep 0.1; done; }} "
                        f"> {guest.dir}/data/lines", timeout=200)
    restart(rig)
    assert writer.wait().code == 0
    assert guest.sh(f"cat {guest.dir}/data/lines").splitlines() == [f"line {i}"
                                                                    for i in range(1, 61)]
    guest.sh(f"rm {guest.dir}/data/lines")


def test_take_over(rig, guest):
    """The second daemon has the first one leave."""
    guest.submit("L:1:3:NBODY n=8000 steps=4000 seed=94")
    reader = guest.call(f"cat {guest.dir}/result", timeout=200)
    before = rig.host.sh("cat /run/vgpufs.pid").strip()
    start(rig, "--take-over")  # the first one still answers meanwhile
    rig.host.sh(f"while kill -0 {before} 2>/dev/null; do sleep 0.1; done", timeout=60)
    outcome = reader.wait()
    assert outcome.code == 0, outcome
    assert parse_result(outcome.out.encode("latin-1")).body == expected(8000, 94)
    assert guest_json(guest, "rounds", 5, 95)["count"] == 0


def test_the_mount_was_one(rig):
    """All that was on one connection to the kernel."""
    log = holder_log(rig)
    assert log.count("is mounted") == 1 and "has died" not in log, log
    assert "going on with" in rig.log(100000)
