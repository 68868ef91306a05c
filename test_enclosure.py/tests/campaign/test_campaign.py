"""The campaign in its short form, and the disk under it: full, failing, slow."""
import errno
import mmap
import os
import random
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from campaign import KILL_POINTS, Campaign, Failed

BUILD = Path(os.environ["VGPUFS_BUILD"])
HAS_KILL_POINTS = os.environ.get("VGPUFS_KILL_POINTS") == "1"
FACTOR = float(os.environ.get("VGPUFS_TIME_FACTOR", "1"))


@pytest.fixture
def root():
    folder = Path(tempfile.mkdtemp(prefix="vgpufs-campaign-"))
    folder.chmod(0o755)
    made = []
    yield folder, made
    for campaign in made:
        campaign.close()
    subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


def campaign_in(root, **kwargs):
    folder, made = root
    made.append(Campaign(BUILD, folder, **kwargs))
    return made[-1]


def put(path, line):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def result(campaign, vm, tag):
    return (campaign.mount / f"vm{vm}" / "jobs" / tag / "result").read_text()


def wait_until(predicate, what, timeout=60):
    deadline = time.monotonic() + timeout * FACTOR
    while not predicate():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_kills(root):
    """At random moments, and in a build with kill points at each of those."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    campaign = campaign_in(root)
    for _ in range(8):
        campaign.round(rng)
    for point in KILL_POINTS if HAS_KILL_POINTS else []:
        campaign.round(rng, point)
    campaign.end()
    assert campaign.submissions() > 100
    if HAS_KILL_POINTS:
        reached = [point for point in KILL_POINTS if campaign.points[point]]
        assert len(reached) >= len(KILL_POINTS) // 2, reached


def test_what_the_ledger_finds(root):
    """With durability = none a kill loses what was accepted: the campaign says so."""
    campaign = campaign_in(root, extra="durability = none")
    rng = random.Random(1)
    with pytest.raises(Failed, match="has lost|has two results|is queued again|is running again"):
        for _ in range(20):
            campaign.round(rng)


# --- the disk ------------------------------------------------------------------------------------

class Disk:
    """What disk.c reads."""

    def __init__(self, folder):
        self.path = folder / "disk"
        self.path.write_bytes(bytes(4096))
        with open(self.path, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), 4096)
        self.preload = {"LD_PRELOAD": os.environ["VGPUFS_DISK_LIBRARY"],
                        "VGPUFS_TEST_DISK": str(self.path)}

    def set(self, fails=0, slow_ms=0):
        self.page[:8] = struct.pack("=II", fails, slow_ms)

    def syncs(self):
        return struct.unpack("=I", self.page[8:12])[0]


def test_a_slow_disk_is_shared(root):
    """64 writers at once wait for a few syncs, not for one each; nobody else waits with them."""
    disk = Disk(root[0])
    campaign = campaign_in(root)
    assert campaign.start(preload=disk.preload)
    disk.set(slow_ms=300)
    before = disk.syncs()
    writers = [threading.Thread(target=put, args=(campaign.mount / "vm1" / "submit",
                                                  f"NOP tag=w{i}\n")) for i in range(64)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        os.listdir(campaign.mount / "vm2" / "jobs")  # answered while all of them wait
        time.sleep(0.01)
    used = disk.syncs() - before
    assert 1 <= used <= 16, used
    for i in range(64):
        assert result(campaign, 1, f"w{i}").startswith("status=done")
    disk.set()
    campaign.kill()
    assert campaign.start()
    assert set(campaign.jobs(1)) == {f"w{i}" for i in range(64)}


def test_mkdir_and_rmdir_do_not_wait(root):
    disk = Disk(root[0])
    campaign = campaign_in(root)
    assert campaign.start(preload=disk.preload)
    disk.set(slow_ms=5000)
    writer = threading.Thread(target=put, args=(campaign.mount / "vm1" / "submit", "NOP\n"))
    writer.start()
    os.mkdir(campaign.mount / "vm1" / "jobs" / "a")
    os.rmdir(campaign.mount / "vm1" / "jobs" / "a")
    assert writer.is_alive(), "the submission waits, they have not"
    disk.set()
    writer.join()


def test_a_disk_that_fails(root):
    """EIO: a close that waits says so, the next submissions are refused, results wait; when the
    disk is well again all that was accepted ends."""
    disk = Disk(root[0])
    campaign = campaign_in(root)
    assert campaign.start(preload=disk.preload)
    submit = campaign.mount / "vm1" / "submit"
    put(submit, "NOP tag=before\n")
    put(submit, "SLEEP ms=500 tag=running\n")
    disk.set(fails=1)
    with pytest.raises(OSError) as refused:
        put(submit, "NOP tag=during\n")
    assert refused.value.errno == errno.EIO
    with pytest.raises(OSError) as refused:
        put(submit, "NOP tag=after\n")
    assert refused.value.errno in (errno.ENOSPC, errno.EIO)
    assert result(campaign, 1, "before").startswith("status=done"), "it can still be read"
    disk.set()
    assert result(campaign, 1, "running").startswith("status=done")
    kept = result(campaign, 1, "during")

    def accepts():
        try:
            put(submit, "NOP tag=again\n")
            return True
        except OSError:
            return False
    wait_until(accepts, "it accepts again")
    campaign.kill()
    assert campaign.start()
    assert result(campaign, 1, "during") == kept
    assert {"before", "running", "during", "again"} <= set(campaign.jobs(1))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")
def test_a_disk_that_fills(root):
    """ENOSPC at the submission; what was accepted before ends and keeps its result."""
    state = root[0] / "small"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", state], check=True)
    try:
        campaign = campaign_in(root, state=state)
        assert campaign.start()
        put(campaign.mount / "ctl", "hold A\n")
        submit = campaign.mount / "vm1" / "submit"
        accepted = []
        for i in range(300):
            put(submit, f"VECTOR_ADD n=4 tag=first{i}\n")
            accepted.append(f"first{i}")
        fill(state / "fill")
        for i in range(100000):
            try:
                put(submit, f"VECTOR_ADD n=4 tag=more{i}\n")
            except OSError as error:
                assert error.errno == errno.ENOSPC
                break
            accepted.append(f"more{i}")
            fill(state / "fill")
        else:
            raise AssertionError("a full disk was never noticed")
        put(campaign.mount / "ctl", "release A\n")
        results = {tag: result(campaign, 1, tag) for tag in accepted}
        assert all(text.startswith("status=done") for text in results.values())
        campaign.kill()
        assert campaign.start()
        assert {tag: result(campaign, 1, tag) for tag in accepted} == results
        (state / "fill").unlink()
        wait_until(lambda: accepts_again(submit), "there is room again")
        campaign.close()
    finally:
        subprocess.run(["umount", "-l", state], check=True)


def accepts_again(submit):
    try:
        put(submit, "NOP\n")
        return True
    except OSError as error:
        assert error.errno == errno.ENOSPC
        return False


def fill(path):
    """Takes what is left on the disk."""
    with open(path, "ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
