"""What only shows after a while: descriptors held over many results, and delegations, which an NFS
server begins to give some 95 s after its start."""
from rig import guest_json

MINUTES_2 = 120


def test_many_descriptors_held_open(guest):
    answer = guest_json(guest, "held_many", 40, 9000, 81_000, timeout=300)
    assert answer["count"] == 0, answer


def test_after_two_minutes(rig, guest):
    """No delegation is given out, and every result is that of its job."""
    rig.host.sh(f"while test $(($(date +%s) - $(cat /run/nfs.started))) -le {MINUTES_2}; "
                "do sleep 0.5; done", timeout=MINUTES_2 + 60)
    for turn in range(2):
        answer = guest_json(guest, "rounds", 40, 83 + turn, timeout=300)
        assert answer["count"] == 0, answer
    answer = guest_json(guest, "held_many", 15, 5000, 87_000, timeout=300)
    assert answer["count"] == 0, answer
    assert "DELEG" not in rig.host.sh("cat /proc/locks")
