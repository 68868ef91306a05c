#!/usr/bin/python3
"""What a job costs a guest, by NFS: prints figures, and fails on none. The machines are emulated, so
only ratios mean anything: to the same system calls on files in data/, and to an idle host.

usage: bench_nfs.py [--short] [VERSION...]     3, 4.0, 4.1 and 4.2 if none is named
"""
import os
import sys
import tempfile
import time
from pathlib import Path

from rig import Layout, Rig, guest_json

COUNT, SHORT_COUNT = 200, 20
READERS = 100
# Another mount of the same tree, which has no cache in common with the first.
BESIDE = "/mnt/beside"


def words_of(calls):
    return ", ".join(f"{name} {number:.2f} ({wait:.1f} ms)"
                     for name, (number, wait) in sorted(calls.items()))


def show(figure, value, against, unit):
    print(f"  {figure:<46} {value:8.0f} us {against:8.0f} us  {value / against:5.2f} x  {unit}",
          flush=True)


def measure(rig, version, count):
    guest, other = rig[3], rig[4]
    print(f"NFS {version}, host {rig.layout.host_kernel}, guests {rig.layout.guest_kernel}, "
          f"{count} rounds, p50", flush=True)
    rig.mount(guest, BESIDE, "nosharecache")
    alone = guest_json(guest, "latency", count, BESIDE, timeout=900)
    guest.sh(f"umount {BESIDE}")
    show("NOP, submit to result | the same on files", alone["job"], alone["files"], "goal <= 1.5")
    show("  | on files that somebody else has changed", alone["job"], alone["changed"], "")
    for way, name in (("job", "a job"), ("files", "files"), ("changed", "changed files")):
        print(f"    NFS calls of {name}: {words_of(alone['calls'][way])}")
    quiet = guest_json(other, "latency", count, timeout=600)
    guest.submit("L:1:3:SLEEP ms=3600000 timeout=3600")
    readers = guest.call(f"/payload/guest.py wait_together {READERS}", timeout=1800)
    guest.sh("for i in $(seq 3000); do test $(ls /proc/$(pgrep -of wait_together)/task | wc -l) "
             f"-gt {READERS} && exit 0; sleep 0.1; done; exit 1", timeout=600)
    rig.wait_waiting(guest.number, 1)
    time.sleep(2)  # they have asked once, and wait or have been told to ask again
    busy = guest_json(other, "latency", count, timeout=600)
    assert not readers.done(), "the readers have not waited"
    show(f"with {READERS} waiting readers of another guest", busy["job"], quiet["job"],
         "goal <= 2")
    print(f"    the longest: {busy['longest']:.0f} us, {quiet['longest']:.0f} us without them")
    show("  the same on files in data/", busy["files"], quiet["files"], "")
    rig.ctl("cancel vm3 all")
    readers.wait()


def main():
    versions = [word for word in sys.argv[1:] if word != "--short"] or ["3", "4.0", "4.1", "4.2"]
    count = SHORT_COUNT if "--short" in sys.argv else COUNT
    kernels = os.environ.get("VGPUFS_VM_KERNELS", "6.1 6.1").split()
    for version in versions:
        with tempfile.TemporaryDirectory(prefix="vgpufs-vm-") as folder:
            rig = Rig(Path(folder), Layout(version, "knfsd", *kernels))
            try:
                rig.start()
                measure(rig, version, count)
            finally:
                rig.close()


if __name__ == "__main__":
    main()
