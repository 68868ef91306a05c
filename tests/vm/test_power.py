"""The power of the host is cut: QEMU is killed, and with it what the machine's kernel had not
written. What a client was told is kept outside: it writes its ledger into a virtio port, and what
it has written there outlives the machine.

One machine of its own, the host of the other tests without guests; state_dir is on a disk that
stays. tests/campaign/campaign.py has the client, and the check.
"""
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import image
from machine import FACTOR, Machine
from rig import BUILD, CACHE, LOG, SOURCE, config_text, make_payload

sys.path.insert(0, str(SOURCE / "tests" / "campaign"))
from campaign import Check, Failed, Ledger, queued  # noqa: E402

CUTS = 4
MEMORY = 1024
VMS = (3, 4)
MOUNT = "/mnt/vgpu"
LOGS = BUILD / "meson-logs" / os.environ["VGPUFS_VM_NAME"]

# In the machine: one client until the power goes. Words: VM, first number, seed, tags of before.
CLIENT = """
import json, sys
sys.path.insert(0, "/payload")
from campaign import client
vm, first, seed, again = json.loads(sys.argv[1])
client("/mnt/vgpu", vm, f"/dev/ledger{vm}", seed, first, again)
"""

# All that the daemon has, as one line of JSON; it waits for the results of those that it names.
SNAPSHOT = """
import json, os, sys
from pathlib import Path
mount, drain = Path("/mnt/vgpu"), len(sys.argv) > 1
there = {"queue": (mount / "queue").read_text(), "vms": {}}
for vm in (3, 4):
    jobs = {}
    for tag in os.listdir(mount / f"vm{vm}" / "jobs"):
        job = mount / f"vm{vm}" / "jobs" / tag
        words = (job / "status").read_text().split()
        status = dict(word.split("=", 1) for word in words if "=" in word)
        ended = status["state"] not in ("new", "queued", "running")
        jobs[tag] = [status, (job / "result").read_text() if ended or drain else None]
    there["vms"][vm] = jobs
    there.setdefault("data", {})[vm] = {
        file.name: file.read_bytes().hex() for file in (mount / f"vm{vm}" / "data").iterdir()}
print(json.dumps(there))
"""

# A file, its bytes and its name on disk; and one that a job makes of it, whose result is read.
KEEP = """
import os
file = os.open("/mnt/vgpu/vm3/data/{name}", os.O_WRONLY | os.O_CREAT)
os.write(file, b"{name} is kept!!!")
os.fsync(file)
command = "/mnt/vgpu/vm3/jobs/{name}"
os.mkdir(command)
with open(command + "/command", "w") as file:
    file.write("VECTOR_ADD a={name} b={name} out=twice-{name}")
with open(command + "/result") as file:
    assert file.read().startswith("status=done")
os.rmdir(command)
os.fsync(os.open("/mnt/vgpu/vm3/jobs", os.O_RDONLY))
"""


def twice(content):
    """What VECTOR_ADD makes of that and that, taken for floats."""
    floats = struct.unpack(f"<{len(content) // 4}f", content.encode())
    return struct.pack(f"<{len(floats)}f", *(2 * number for number in floats))


class Host(Check):
    """The machine, and what the ledgers say of it."""

    def __init__(self, folder, durability):
        self.folder, self.durability = folder, durability
        self.ledgers = {vm: Ledger() for vm in VMS}
        self.first = {vm: 0 for vm in VMS}
        self.cuts, self.kept, self.there = 0, {}, None
        self.config = config_text({
            "vgpufs": {"state_dir": "/state/vgpufs", "durability": durability, "log_jobs": "no"},
            "pool L": {"executor": "/payload/bin/vgpu-executor", "backend": "cpu"},
            "pool F": {"executor": "/payload/bin/vgpu-executor", "backend": "cpu"},
            "defaults": {"max_queued": "100000", "max_jobs": "100000", "retain_jobs": "100000"},
            "vm 4": {"max_priority": "2", "pools": None, "data_quota": None}})
        made = image.find(CACHE)
        payload = make_payload(folder, [SOURCE / "tests" / "campaign" / "campaign.py"])
        self.disk = folder / "state.img"
        subprocess.run(["mke2fs", "-q", "-t", "ext4", self.disk, "128M"], check=True,
                       stdout=subprocess.DEVNULL)
        arguments = ["-smp", "2"]
        for path in (made / "root.img", payload):
            arguments += ["-drive", f"file={path},if=virtio,format=raw,snapshot=on,cache=unsafe"]
        arguments += ["-drive", f"file={self.disk},if=virtio,format=raw,cache=writeback"]
        for vm in VMS:
            arguments += ["-chardev", f"file,id=ledger{vm},path={self.ledger(vm)},append=on",
                          "-device", f"virtserialport,chardev=ledger{vm},name=ledger{vm}"]
        self.machine = Machine("host", folder, arguments, [],
                               (made / "vmlinuz-6.1", made / "initrd-6.1"), MEMORY)

    def ledger(self, vm):
        return self.folder / f"ledger-{vm}"

    # Its life

    def start(self):
        self.machine.start()
        self.machine.wait_ready()
        self.machine.sh(
            "mkdir -p /state /etc/vgpufs; mount -t ext4 /dev/vdc /state; modprobe fuse\n"
            "for port in /sys/class/virtio-ports/*/name; do case $(cat $port) in ledger*)\n"
            "ln -sf $(basename $(dirname $port)) /dev/$(cat $port);; esac; done\n"
            f"cat > /etc/vgpufs/vgpufs.conf <<'END'\n{self.config}END\n"
            f"setsid /payload/bin/vgpufs -f >{LOG} 2>&1 &\n"
            f"for i in $(seq 600); do mountpoint -q {MOUNT} && exit 0; sleep 0.1; done\n"
            f"tail {LOG}; exit 1", timeout=120)

    def cut(self):
        self.machine.end()
        self.cuts += 1
        for vm, ledger in self.ledgers.items():
            path = self.ledger(vm)
            whole = path.read_text().rpartition("\n")[0]  # the last line may be a piece of one
            path.write_text(whole + "\n" if whole else "")
            ledger.take(path)
            path.write_text("")
            self.first[vm] = max([self.first[vm]] + [int(tag.split("x")[1]) + 1
                                                     for tag in ledger.tried])

    def work(self, rng, least, seconds):
        """Lets the clients work until so many submissions are known, and a moment longer."""
        name = f"kept{self.cuts}"
        self.machine.python(KEEP.format(name=name))
        content = f"{name} is kept!!!"
        self.kept[name] = content.encode().hex()
        if self.durability != "none":
            self.kept[f"twice-{name}"] = twice(content).hex()
        for vm in VMS:
            again = rng.sample(sorted(self.ledgers[vm].lines.items()),
                               min(3, len(self.ledgers[vm].lines)))
            words = json.dumps([vm, self.first[vm], rng.random(), again])
            self.machine.call(f"python3 -c '{CLIENT}' '{words}'", timeout=3600)
        deadline = time.monotonic() + 120 * FACTOR
        while any(self.ledger(vm).read_text().count('["accepted"') < least for vm in VMS):
            assert time.monotonic() < deadline, self.machine.run(f"tail {LOG}").out
            time.sleep(0.05)
        time.sleep(rng.random() * seconds)

    # What it has

    def look(self, drain=False):
        text = self.machine.python(SNAPSHOT, *["drain"] if drain else [], timeout=300)
        self.there = json.loads(text)
        for name, content in self.kept.items():
            if self.there["data"]["3"].get(name) != content:
                raise Failed(f"data/{name} was synced and is {self.there['data']['3'].get(name)!r}")

    def jobs(self, vm):
        return list(self.there["vms"][str(vm)])

    def status(self, vm, tag):
        return self.there["vms"][str(vm)][tag][0]

    def result(self, vm, tag):
        return self.there["vms"][str(vm)][tag][1]

    def queue(self):
        return queued(self.there["queue"])


@pytest.fixture
def host_with(request):
    """host_with(durability) makes the machine; a failure leaves its console and ledgers."""
    made = []
    with tempfile.TemporaryDirectory(prefix="vgpufs-power-") as folder:

        def make(durability):
            made.append(Host(Path(folder), durability))
            return made[-1]
        yield make
        for host in made:
            if request.node.failed_in_call:
                LOGS.mkdir(parents=True, exist_ok=True)
                for path in (host.machine.console, *map(host.ledger, VMS)):
                    if path.exists():
                        shutil.copy(path, LOGS)
                if host.machine.process:
                    (LOGS / "vgpufs.log").write_text(host.machine.run(f"cat {LOG}").out)
            host.machine.end()


def test_nothing_acknowledged_is_lost(host_with):
    """durability = sync: each cut comes while both VMs submit and read. Each submission whose close
    returned is there, and each result that was read is the same; names and bytes that were synced
    are too; nothing is there twice. What was under way is there as a whole or not at all."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    host = host_with("sync")
    host.start()
    for _ in range(CUTS):
        host.work(rng, least=5, seconds=3)
        host.cut()
        host.start()
        host.look()
        host.check()
    host.look(drain=True)
    host.check(drain=True)
    assert all(len(ledger.accepted) >= 5 * CUTS for ledger in host.ledgers.values())


def test_what_was_not_promised(host_with):
    """durability = none: the daemon starts, with all of a batch or nothing of it, and goes on."""
    rng = random.Random(1)
    host = host_with("none")
    host.start()
    host.work(rng, least=20, seconds=1)
    host.cut()
    host.start()
    host.look()
    for vm, ledger in host.ledgers.items():
        there = set(host.jobs(vm))
        assert there <= ledger.tried
        host.check_batches(vm, ledger, there)
    host.machine.sh(f"echo NOP tag=later > {MOUNT}/vm3/submit; "
                    f"grep status=done {MOUNT}/vm3/jobs/later/result")
