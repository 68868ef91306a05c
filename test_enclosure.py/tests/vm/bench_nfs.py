#!/usr/bin/python3
"""What a job costs a guest, by NFS: prints figures, and fails on none. The machines are emulated, so
only ratios mean anything: to the same system calls on files in data/, and to an idle host."""
import sys
import tempfile
from pathlib import Path

from rig import Layout, Rig, guest_json

COUNT = 60
READERS = 100


def measure(rig, version):
    guest, other = rig[3], rig[4]
    alone = guest_json(guest, "latency", COUNT, timeout=600)
    print(f"{version}: NOP, submit to result, p50 {alone['job']:.0f} us; the same calls on files in "
          f"data/ {alone['files']:.0f} us: {alone['job'] / alone['files']:.2f} times")
    quiet = guest_json(other, "latency", COUNT, timeout=600)["job"]
    guest.submit("L:1:3:SLEEP ms=3600000 timeout=3600")
    readers = guest.call(f"/payload/guest.py wait_together {READERS}", timeout=900)
    guest.sh("for i in $(seq 600); do test $(ls /proc/$(pgrep -of wait_together)/task | wc -l) "
             f"-gt {READERS} && exit 0; sleep 0.1; done; exit 1", timeout=90)
    busy = guest_json(other, "latency", COUNT, timeout=600)["job"]
    assert not readers.done(), "the readers have not waited"
    print(f"{version}: with {READERS} readers of another guest waiting, p50 {busy:.0f} us instead of "
          f"{quiet:.0f} us: {busy / quiet:.2f} times", flush=True)
    rig.ctl("cancel vm3 all")
    readers.wait()


def main():
    for version in sys.argv[1:] or ["3", "4.2"]:
        with tempfile.TemporaryDirectory(prefix="vgpufs-vm-") as folder:
            rig = Rig(Path(folder), Layout(version))
            try:
                rig.start()
                measure(rig, version)
            finally:
                rig.close()


if __name__ == "__main__":
    main()
