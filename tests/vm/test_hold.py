"""Jobs that last longer than an NFS request may wait: the client asks again by itself."""
import pytest

from length_executor import expected
from rig import guest_json, parse_result

HOLD = 1


@pytest.fixture(scope="module", autouse=True)
def short_hold(rig):
    rig.restart_daemon(nfs={"hold": f"{HOLD}s"})
    yield
    rig.restart_daemon()


@pytest.mark.parametrize("tool", ["cat", "tail -n 400", "dd bs=64k status=none if=", "cat <"])
def test_a_long_job(guest, tool):
    separator = "" if tool.endswith("=") else " "
    guest.submit("L:1:3:NBODY n=8000 steps=3500 seed=71")
    raw = guest.sh(f"{tool}{separator}{guest.dir}/result", timeout=120).encode("latin-1")
    assert parse_result(raw).body == expected(8000, 71)


def test_several_readers_of_a_long_job(guest):
    guest.submit("L:1:3:NBODY n=8000 steps=4000 seed=72")
    calls = [guest.call(f"sleep {wait}; cat {guest.dir}/result", timeout=120)
             for wait in (0, 0, 1, 2)]
    for call in calls:
        outcome = call.wait()
        assert outcome.code == 0, outcome
        assert parse_result(outcome.out.encode("latin-1")).body == expected(8000, 72)


def test_a_descriptor_held_over_it(rig, guest):
    rig.mount(guest, "/mnt/exact", "actimeo=0")
    try:
        assert guest_json(guest, "held", 1, 8000, 730, 3500, environment="MOUNT=/mnt/exact") == []
    finally:
        guest.sh("umount /mnt/exact")
