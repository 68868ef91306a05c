"""Two guests at once: whose job goes first, and pools, sustained use and looks beside each other."""
import json
import time

from rig import guest_json


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
    """Numbers grow while stats is read, in pieces: no NUL, and always a whole last line."""
    rig.mount(guest, "/mnt/pages", "rsize=4096")
    load = guest.call("/payload/guest.py rounds 20 77 result 200", timeout=200)
    try:
        for _ in range(15):
            text = guest.sh("cat /mnt/pages/stats; echo; cat /mnt/pages/stats.json")
            assert "\0" not in text
            first, _, second = text.partition("\n\n")
            assert "data_bytes=" in first.splitlines()[-1]
            assert len(second) > 4096
            json.loads(second)
            time.sleep(0.1)
        assert json.loads(load.wait().out)["count"] == 0
    finally:
        guest.sh("umount /mnt/pages")
    assert guest_json(guest, "rounds", 1, 78)["count"] == 0
