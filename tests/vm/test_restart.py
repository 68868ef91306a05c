"""Ends: of the daemon, of the NFS server, of a guest; and that the guests go on with their mounts."""
import json
import re
import time

import pytest

from length_executor import expected
from rig import guest_json

# Keeps its directory and a file open, and looks through them when a line comes.
HOLDER = """
import os, sys, time
folder = os.open("{dir}", os.O_RDONLY)
file = os.open("status", os.O_RDONLY, dir_fd=folder)
open("/tmp/holding", "w").close()
while not os.path.exists("/tmp/go"):
    time.sleep(0.1)
answers = []
for name in ("status", "result", "identity"):
    fd = os.open(name, os.O_RDONLY, dir_fd=folder)
    answers.append(os.read(fd, 65536).decode())
    os.close(fd)
print("\\n---\\n".join(answers))
"""


def numbers(guest):
    return int(guest.newest()["job"])


def wait_answer(guest, script, timeout=90):
    """A guest tries until it is answered again: the server may still be in its grace."""
    return guest.sh(f"for i in $(seq {timeout}); do {script} && exit 0; sleep 1; done; exit 1",
                    timeout=timeout * 2)


def test_kill_9(rig, guest, other):
    """Nothing is queued; the old mount, directory and handles go on, and no old result is shown."""
    first = guest.job("L:1:3:NBODY n=3000 steps=1 seed=41")
    assert first.body == expected(3000, 41)
    other.job("NOP")
    before = numbers(guest)
    guest.sh("rm -f /tmp/holding /tmp/go")
    holder = guest.call(f"python3 -c '{HOLDER.format(dir=guest.dir)}'", timeout=300)
    guest.sh("while ! test -e /tmp/holding; do sleep 0.1; done")
    mount = guest.sh("grep /mnt/vgpu /proc/mounts")

    rig.kill_daemon()
    outcome = guest.run(f"timeout 100 cat {guest.dir}/status", timeout=120)
    assert outcome.code != 0 or outcome.out.startswith("vm 3 "), outcome
    rig.revive_daemon()

    wait_answer(guest, f"cat {guest.dir}/status")
    guest.sh("touch /tmp/go")
    held = holder.wait()
    assert held.code == 0 and "Traceback" not in held.err, held
    status, result, identity = held.out.split("\n---\n")
    assert status.startswith("vm 3 ") and identity.startswith("pool=")
    assert result.startswith("status=idle") or f" job={before} " in result, result
    second = guest.job("L:1:3:NBODY n=4000 steps=1 seed=42")
    assert second.body == expected(4000, 42)
    assert int(second.header["job"]) > before
    assert other.job("NOP").header["status"] == "done"
    assert guest.sh("grep /mnt/vgpu /proc/mounts") == mount
    assert guest_json(guest, "rounds", 10, 51)["count"] == 0


def test_a_reader_waits_while_the_daemon_dies(rig, guest):
    """It gets an error or a result, in any case an end."""
    guest.submit("L:1:3:SLEEP ms=3600000 timeout=3600")
    reader = guest.call(f"cat {guest.dir}/result", timeout=200)
    rig.wait_stats(lambda stats: stats["vm 3"]["running"] == "1")
    time.sleep(1)
    assert not reader.done()
    rig.kill_daemon()
    rig.revive_daemon()
    rig.ctl("cancel vm3 all")
    outcome = reader.wait()
    assert outcome.code in (0, 1), outcome
    assert outcome.code == 1 or outcome.out.startswith("status="), outcome
    assert "\0" not in outcome.out
    wait_answer(guest, f"cat {guest.dir}/status")
    assert guest.job("NOP").header["status"] == "done"


def test_nfsd_is_restarted(rig, guest, other):
    """A reader that waits goes on when the NFS server is back."""
    guest.submit("L:1:3:NBODY n=9000 steps=8000 seed=61")
    reader = guest.call(f"cat {guest.dir}/result", timeout=300)
    rig.wait_stats(lambda stats: stats["vm 3"]["running"] == "1")
    rig.host.sh("rpc.nfsd 0; rpc.nfsd --no-udp 32", timeout=120)
    outcome = reader.wait()
    assert outcome.code == 0, outcome
    assert outcome.out.partition("\n")[2].encode() == expected(9000, 61)
    assert other.job("NOP", timeout=180).header["status"] == "done"
    assert guest_json(guest, "rounds", 10, 52, timeout=180)["count"] == 0


def test_a_guest_is_reset(rig, guest, other):
    """In the middle of writes: the other guest does not notice, its own VM is whole, and half a
    line is no job."""
    before = int(other.job("NOP").header["job"])
    other.call(f"while :; do head -c 3000000 /dev/urandom > {other.dir}/data/half; done", 600)
    other.call(f"{{ printf 'NOP timeo'; sleep 600; }} > {other.dir}/submit", 700)
    other.sh("for i in $(seq 300); do test $(stat -c %s "
             f"{other.dir}/data/half 2>/dev/null || echo 0) -gt 300000 && exit 0; sleep 0.1; done; "
             "exit 1", timeout=120)
    other.reset()
    assert guest_json(guest, "rounds", 5, 53)["count"] == 0
    rig.mount(other)
    size = int(other.sh(f"stat -c %s {other.dir}/data/half"))
    assert size == int(other.sh(f"wc -c < {other.dir}/data/half", timeout=120)) <= 3000000
    other.sh(f"rm {other.dir}/data/half", timeout=120)
    result = other.job("NOP", timeout=120)
    assert result.header["status"] == "done" and int(result.header["job"]) == before + 1
    stats = rig.stats()
    assert stats["vm 4"]["queued"] == stats["vm 4"]["running"] == "0"


def test_restart_keeps_inodes(rig, guest):
    script = f"stat -c '%i %n' {guest.dir} {guest.dir}/*"
    before = guest.sh(script)
    rig.restart_daemon()
    assert wait_answer(guest, script) == before
    assert len(set(re.findall(r"^\d+", before, re.M))) == len(before.splitlines())
    assert json.loads(guest.sh("cat /mnt/vgpu/stats.json"))


# Keeps directories open, and works in them when it is told to.
WORKER = """
import os, time
vm = os.open("{dir}", os.O_RDONLY)
data, jobs = (os.open(name, os.O_RDONLY, dir_fd=vm) for name in ("data", "jobs"))
open("/tmp/holding", "w").close()
while not os.path.exists("/tmp/go"):
    time.sleep(0.1)
names = [os.listdir(data), "a" in os.listdir(jobs)]
names.append(os.read(os.open("x", os.O_RDONLY, dir_fd=data), 100).decode())
names.append(len(os.listdir(vm)) > 4)
print(names)
"""


@pytest.mark.layout(server=("knfsd",))
def test_another_guest_comes_first(rig, guest, other):
    """After a restart the host's kernel knows no file any more. The thread that looks guest 3's
    handles up still has the ids of guest 4's request then: they are not stale for that."""
    guest.sh(f"echo content > {guest.dir}/data/x; mkdir {guest.dir}/jobs/a; "
             "rm -f /tmp/holding /tmp/go")
    worker = guest.call(f"python3 -c '{WORKER.format(dir=guest.dir)}'", timeout=300)
    guest.sh("while ! test -e /tmp/holding; do sleep 0.1; done")
    rig.host.sh("rpc.nfsd 1")
    try:
        rig.restart_daemon()
        wait_answer(other, f"cat {other.dir}/status")
        other.sh(f"cat {other.dir}/status; touch {other.dir}/data/y; rm {other.dir}/data/y")
        guest.sh("touch /tmp/go")
        done = worker.wait()
        assert done.out == "[['x'], True, 'content\\n', True]\n", done
        for denied in ("ls {}", "ls {}/jobs", "cat {}/status", "cat {}/data/x"):
            assert other.run(denied.format(guest.dir)).code != 0, denied
    finally:
        rig.host.sh("rpc.nfsd 32")
    guest.sh(f"rm {guest.dir}/data/x; rmdir {guest.dir}/jobs/a")
