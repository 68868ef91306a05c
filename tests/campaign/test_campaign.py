"""The campaign in its short form, and the disk under it: full, failing, slow."""
import contextlib
import errno
import mmap
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from campaign import KILL_POINTS, Campaign, Failed

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "mount"))
from harness import Background  # noqa: E402

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

    def set_data(self, fails=0, slow_ms=0):
        self.page[16:24] = struct.pack("=II", fails, slow_ms)

    def data_syncs(self):
        """Of data files: begun, and made."""
        return struct.unpack("=II", self.page[24:32])

    def syncs(self):
        return struct.unpack("=I", self.page[8:12])[0]

    def table_syncs(self):
        return struct.unpack("=I", self.page[12:16])[0]

    def folders(self):
        """Those that were synced."""
        return Path(f"{self.path}.folders").read_text().splitlines()


def test_a_slow_disk_is_shared(root):
    """64 writers at once wait for a few syncs, not for one each."""
    disk = Disk(root[0])
    campaign = campaign_in(root)
    assert campaign.start(preload=disk.preload)
    disk.set(slow_ms=300)
    before = disk.syncs()
    writers = [threading.Thread(target=put, args=(campaign.mount / "vm1" / "submit",
                                                  f"NOP tag=w{i}\n")) for i in range(64)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    used = disk.syncs() - before
    assert 1 <= used <= 16, used
    for i in range(64):
        assert result(campaign, 1, f"w{i}").startswith("status=done")
    disk.set()
    campaign.kill()
    assert campaign.start()
    assert set(campaign.jobs(1)) == {f"w{i}" for i in range(64)}


def test_who_waits_for_the_disk(root):
    """A close does, and a job's end; a write does not, nor who reads, makes or removes something,
    in the same VM or another."""
    disk = Disk(root[0])
    campaign = campaign_in(root)
    assert campaign.start(preload=disk.preload)
    put(campaign.mount / "vm2" / "submit", "NOP tag=old\n")
    old = result(campaign, 2, "old")
    disk.set(slow_ms=3600000)
    syncs = disk.syncs()
    submit = os.open(campaign.mount / "vm1" / "submit", os.O_WRONLY)
    os.write(submit, b"NOP tag=new\n")
    closer = threading.Thread(target=os.close, args=(submit,))
    closer.start()
    reader = threading.Thread(target=result, args=(campaign, 1, "new"))
    reader.start()
    try:
        os.mkdir(campaign.mount / "vm1" / "jobs" / "a")
        os.rmdir(campaign.mount / "vm1" / "jobs" / "a")
        for vm in (1, 2):
            assert (campaign.mount / f"vm{vm}" / "status").read_text()
            assert os.listdir(campaign.mount / f"vm{vm}" / "jobs")
        assert result(campaign, 2, "old") == old
        assert (campaign.mount / "stats").read_text()
        assert (campaign.mount / "queue").read_text() is not None
        again = os.open(campaign.mount / "vm2" / "submit", os.O_WRONLY)
        os.write(again, b"NOP\n")
        wait_until(lambda: re.search(r"pool A .* done=3 ", (campaign.mount / "stats").read_text()),
                   "all have run")
        reader.join(0.5)
        assert disk.syncs() == syncs, "the disk has answered nobody meanwhile"
        assert closer.is_alive() and reader.is_alive()
    finally:
        disk.set()
    os.close(again)
    closer.join()
    reader.join()


def put_file(campaign, vm, name, content):
    with open(campaign.mount / f"vm{vm}" / "data" / name, "wb") as file:
        file.write(content)


ONES = struct.pack("<4f", 1, 1, 1, 1)
TWOS = struct.pack("<4f", 2, 2, 2, 2)


def test_an_output_is_on_disk_before_its_result(root):
    """While it is not, the slot, the pool and the VM's other jobs go on, but for some bound on
    outputs; and a daemon that is killed meanwhile makes them again."""
    disk = Disk(root[0])
    campaign = campaign_in(root)
    assert campaign.start(preload=disk.preload)
    put_file(campaign, 1, "x", ONES)
    disk.set_data(slow_ms=3600000)
    for i in range(40):
        put(campaign.mount / "vm1" / "submit", f"VECTOR_ADD a=x b=x out=z{i} tag=out{i}\n")
    put(campaign.mount / "vm2" / "submit", "A:2:2:NOP tag=other\n")
    assert result(campaign, 2, "other").startswith("status=done")

    def states():
        return [campaign.status(1, f"out{i}")["state"] for i in range(40)]

    wait_until(lambda: states().count("running") >= 16, "16 of them have their outputs")
    put(campaign.mount / "vm2" / "submit", "A:2:2:NOP tag=another\n")
    assert result(campaign, 2, "another").startswith("status=done")
    assert 16 <= states().count("running") <= 17, "and one was started before the last had ended"
    assert set(states()) == {"running", "queued"}
    assert disk.data_syncs() == (1, 0)
    assert os.listdir(campaign.mount / "vm1" / "data") == ["x"]
    campaign.kill()
    disk.set_data()
    assert campaign.start(preload=disk.preload)
    for i in range(40):
        assert result(campaign, 1, f"out{i}").startswith("status=done")
        assert (campaign.mount / "vm1" / "data" / f"z{i}").read_bytes() == TWOS
    begun, made = disk.data_syncs()
    assert (begun, made) == (41, 40)


def test_a_clean_stop_waits_for_outputs(root):
    disk = Disk(root[0])
    campaign = campaign_in(root)
    assert campaign.start(preload=disk.preload)
    put_file(campaign, 1, "x", ONES)
    disk.set_data(slow_ms=3600000)
    put(campaign.mount / "vm1" / "submit", "VECTOR_ADD a=x b=x out=z tag=out\n")
    wait_until(lambda: disk.data_syncs() == (1, 0), "its output is being synced")
    reader = Background(result, campaign, 1, "out").blocked()
    stop = threading.Thread(target=campaign.kill, args=(signal.SIGTERM,))
    stop.start()
    wait_until(lambda: "stopping" in campaign.log_tail(), "it stops")
    reader.join(1)
    assert reader.is_alive(), "nobody is sent away meanwhile"
    disk.set_data()
    stop.join()
    assert reader.value().startswith("status=done"), "who waits gets it"
    assert disk.data_syncs() == (1, 1)
    assert campaign.start(preload=disk.preload)
    assert result(campaign, 1, "out").startswith("status=done")
    assert (campaign.mount / "vm1" / "data" / "z").read_bytes() == TWOS
    assert disk.data_syncs() == (1, 1), "it was not made again"


def test_an_output_that_cannot_be_on_disk(root):
    disk = Disk(root[0])
    campaign = campaign_in(root)
    assert campaign.start(preload=disk.preload)
    put_file(campaign, 1, "x", ONES)
    disk.set_data(fails=errno.EIO)
    put(campaign.mount / "vm1" / "submit", "VECTOR_ADD a=x b=x out=z tag=out\n")
    text = result(campaign, 1, "out")
    assert text.startswith("status=failed") and "cannot have the file on disk" in text, text
    assert os.listdir(campaign.mount / "vm1" / "data") == ["x"]


def test_a_group_is_synced(root):
    """durability = group: nobody waits for the disk, and what was accepted is synced all the
    same."""
    disk = Disk(root[0])
    campaign = campaign_in(root, extra="durability = group 50ms")
    assert campaign.start(preload=disk.preload)
    put(campaign.mount / "ctl", "hold A\nhold B\n")
    put(campaign.mount / "vm1" / "submit", "NOP\n")  # its number's block is synced too
    wait_until(lambda: disk.syncs() > 0, "the first sync")
    disk.set(slow_ms=3600000)
    before = disk.syncs()
    put(campaign.mount / "vm1" / "submit", "NOP\n")
    assert disk.syncs() == before, "the close has not waited"
    disk.set()
    wait_until(lambda: disk.syncs() > before, "a sync that nobody has asked for")


def test_none_is_not_synced(root):
    disk = Disk(root[0])
    campaign = campaign_in(root, extra="durability = none")
    assert campaign.start(preload=disk.preload)
    submit, log = campaign.mount / "vm1" / "submit", campaign.state / "state.db-wal"
    put(submit, "NOP tag=first\n")
    assert result(campaign, 1, "first")
    jobs = os.open(campaign.mount / "vm1" / "jobs", os.O_RDONLY)
    os.fsync(jobs)  # what is synced always, numbers and executors, is
    os.close(jobs)
    before, written = disk.syncs(), log.stat().st_mtime_ns
    put(submit, "NOP tag=second\n")
    assert result(campaign, 1, "second")
    wait_until(lambda: log.stat().st_mtime_ns > written, "it is written")
    assert disk.syncs() == before
    put_file(campaign, 1, "x", ONES)
    put(submit, "VECTOR_ADD a=x b=x out=z tag=third\n")
    assert result(campaign, 1, "third").startswith("status=done")
    assert disk.data_syncs() == (0, 0)


def test_fsync_of_what_was_written_unsynced(root):
    """mkdir's row is written soon, without a sync: an fsync of jobs/ makes up for that."""
    disk = Disk(root[0])
    campaign = campaign_in(root)
    assert campaign.start(preload=disk.preload)
    jobs, log = campaign.mount / "vm1" / "jobs", campaign.state / "state.db-wal"
    os.mkdir(jobs / "first")
    folder = os.open(jobs, os.O_RDONLY)
    os.fsync(folder)
    written = log.stat().st_mtime_ns
    os.mkdir(jobs / "second")
    wait_until(lambda: log.stat().st_mtime_ns > written, "it is written")
    before = disk.syncs()
    os.fsync(folder)
    os.close(folder)
    assert disk.syncs() > before


def test_folders_are_on_disk(root):
    """A power cut takes nothing away that was made: each folder's own folder is synced."""
    disk = Disk(root[0])
    campaign = campaign_in(root)
    campaign.state.rmdir()
    assert campaign.start(preload=disk.preload)
    file = os.open(campaign.mount / "vm1" / "data" / "x", os.O_WRONLY | os.O_CREAT)
    os.fsync(file)
    os.close(file)
    wanted = {root[0], campaign.state, campaign.state / "data", campaign.state / "data" / "1"}
    assert {str(path) for path in wanted} <= set(disk.folders())


def test_a_log_that_failed_is_not_built_upon(root):
    """After a sync that failed the kernel may have dropped what it could not write: what is in the
    log is copied into the tables, and those are synced, before anything else is promised."""
    disk = Disk(root[0])
    campaign = campaign_in(root)
    assert campaign.start(preload=disk.preload)
    submit = campaign.mount / "vm1" / "submit"
    put(submit, "NOP tag=before\n")
    before = disk.table_syncs()
    disk.set(fails=errno.EIO)
    with pytest.raises(OSError):
        put(submit, "NOP tag=during\n")
    disk.set()
    wait_until(lambda: accepts_again(submit), "it accepts again")
    assert disk.table_syncs() > before


def test_a_quota_is_a_full_disk(root):
    """EDQUOT is told as ENOSPC, after the room that was kept was tried."""
    disk = Disk(root[0])
    campaign = campaign_in(root)
    assert campaign.start(preload=disk.preload)
    submit = campaign.mount / "vm1" / "submit"
    put(submit, "NOP tag=before\n")
    disk.set(fails=errno.EDQUOT)
    with pytest.raises(OSError) as refused:
        put(submit, "NOP tag=during\n")
    assert refused.value.errno == errno.ENOSPC
    wait_until(lambda: (campaign.state / "reserve").stat().st_size == 0, "the reserve is used")
    disk.set()
    wait_until(lambda: (campaign.state / "reserve").stat().st_size > 0, "the reserve is back")
    wait_until(lambda: accepts_again(submit), "it accepts again")


def test_a_disk_that_fails(root):
    """EIO: a close that waits says so, the next submissions are refused, results wait; when the
    disk is well again all that was accepted ends."""
    disk = Disk(root[0])
    campaign = campaign_in(root)
    assert campaign.start(preload=disk.preload)
    submit = campaign.mount / "vm1" / "submit"
    put(submit, "NOP tag=before\n")
    put(submit, "SLEEP ms=500 tag=running\n")
    disk.set(fails=errno.EIO)
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
    wait_until(lambda: accepts_again(submit, "tag=again"), "it accepts again")
    campaign.kill()
    assert campaign.start()
    assert result(campaign, 1, "during") == kept
    assert {"before", "running", "during", "again"} <= set(campaign.jobs(1))


def test_a_disk_that_fails_is_owed_little(root):
    """What a VM changes meanwhile is kept in memory: so many changes, and then nothing is taken any
    more from this VM, directories for jobs neither. Others have their own share."""
    disk = Disk(root[0])
    campaign = campaign_in(root)
    assert campaign.start(preload=disk.preload)
    for vm in (1, 2):
        put(campaign.mount / f"vm{vm}" / "submit", "NOP tag=first\n")
    data = campaign.mount / "vm1" / "data"
    (data / "x0").touch()
    disk.set(fails=errno.EIO)
    with pytest.raises(OSError) as refused:
        for number in range(3000):
            os.rename(data / f"x{number}", data / f"x{number + 1}")
    assert refused.value.errno == errno.ENOSPC and number > 500
    with pytest.raises(OSError) as refused:
        os.mkdir(campaign.mount / "vm1" / "jobs" / "a")
    assert refused.value.errno == errno.ENOSPC
    os.mkdir(campaign.mount / "vm2" / "jobs" / "a")
    disk.set()

    def made():
        with contextlib.suppress(OSError):
            os.mkdir(campaign.mount / "vm1" / "jobs" / "a")
            return True
        return False
    wait_until(made, "directories are made again")
    assert os.listdir(data) == [f"x{number}"]


def test_an_end_that_is_not_on_disk_is_not_shown(root):
    """Nor at a stop: who waits gets an error, and the job has another end later."""
    disk = Disk(root[0])
    campaign = campaign_in(root, extra="stop_timeout = 0")
    assert campaign.start(preload=disk.preload)
    put(campaign.mount / "vm1" / "submit", "SLEEP ms=600000 tag=x\n")
    wait_until(lambda: campaign.status(1, "x")["state"] == "running", "it runs")
    disk.set(fails=errno.EIO)
    reader = Background(result, campaign, 1, "x").blocked()
    cancel(campaign)
    wait_until(lambda: " cancelled=1 " in (campaign.mount / "stats").read_text(), "it has ended")
    assert campaign.status(1, "x")["state"] == "running" and reader.is_alive()
    campaign.kill(signal.SIGTERM)
    with pytest.raises(OSError):
        reader.value()
    disk.set()
    assert campaign.start()
    cancel(campaign)
    assert result(campaign, 1, "x").startswith("status=cancelled")


def cancel(campaign):
    try:
        put(campaign.mount / "vm1" / "ctl", "cancel x\n")
    except OSError as error:
        assert error.errno in (errno.EIO, errno.ENOSPC)  # of close: the disk refuses to know it


LARGE = f"""
[pool L]
executor = /usr/bin/python3 "{Path(__file__).resolve().parents[1]}/mount/fault_executor.py" large
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")
def test_a_disk_that_fills(root):
    """ENOSPC at the submission; what was accepted before ends and keeps its result, of which a
    large one is cut."""
    state = root[0] / "small"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", state], check=True)
    try:
        campaign = campaign_in(root, state=state, extra=LARGE)
        assert campaign.start()
        put(campaign.mount / "ctl", "hold A\nhold L\n")
        submit = campaign.mount / "vm1" / "submit"
        accepted = []
        for i in range(300):
            put(submit, f"VECTOR_ADD n=4 tag=first{i}\n")
            accepted.append(f"first{i}")
        put(submit, "L:0:1:SLEEP ms=1 tag=large\n")
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
        put(campaign.mount / "ctl", "release A\nrelease L\n")
        accepted.append("large")
        results = {tag: result(campaign, 1, tag) for tag in accepted}
        assert all(text.startswith("status=done") for text in results.values())
        cut = results["large"]
        assert " truncated=yes" in cut and len(cut.partition("\n")[2]) == 2048, cut[:300]
        campaign.kill()
        assert campaign.start()
        assert {tag: result(campaign, 1, tag) for tag in accepted} == results
        (state / "fill").unlink()
        wait_until(lambda: accepts_again(submit), "there is room again")
        campaign.close()
    finally:
        subprocess.run(["umount", "-l", state], check=True)


def accepts_again(submit, tag=""):
    try:
        put(submit, f"NOP {tag}\n")
        return True
    except OSError as error:
        assert error.errno in (errno.ENOSPC, errno.EIO)
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
