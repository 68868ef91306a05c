"""What executors may take from the host, and that nothing of theirs is left behind."""
import contextlib
import os
import signal
from pathlib import Path

import pytest

from harness import (HERE, IS_ROOT, Vgpufs, check_children_end, descendants_of, leaving,
                     processes_with, read_file, wait_until)


def cgroup_root():
    """Where cgroups of version 2 are mounted and can be made, or None."""
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            words = line.split(" ")
            if words[words.index("-") + 1] == "cgroup2" and IS_ROOT:
                probe = Path(words[4]) / f"vgpufs-probe-{os.getpid()}"
                with contextlib.suppress(OSError):
                    probe.mkdir()
                    probe.rmdir()
                    return Path(words[4])
    return None


ROOT = cgroup_root()


class Delegated:
    """A cgroup as systemd would give it to the daemon of a unit with Delegate=yes."""

    def __init__(self):
        self.path = ROOT / f"vgpufs-test-{os.getpid()}"
        self.path.mkdir()
        os.setxattr(self.path, "user.delegate", b"1")

    def enter(self):
        (self.path / "cgroup.procs").write_text("0")

    def remove(self):
        for folder in [*self.path.iterdir(), self.path]:
            if folder.is_dir():
                wait_until(lambda: not (folder / "cgroup.procs").read_text(), what=f"{folder} empty")
                folder.rmdir()


@pytest.fixture(params=["marks"] + (["cgroups"] if ROOT else []))
def enclosed(request):
    """enclosed({section: …}) gives a daemon, which has a cgroup of its own or has none."""
    made = []
    delegated = Delegated() if request.param == "cgroups" else None

    def make(config):
        daemon = Vgpufs(config, prepare=delegated.enter if delegated else None)
        made.append(daemon)
        daemon.start()
        assert ("executors have cgroups in" in daemon.log()) == (delegated is not None)
        return daemon

    yield make
    try:
        for daemon in made:
            daemon.close()
    finally:
        if delegated:
            delegated.remove()


def leaver(tmp_path):
    words, child = leaving(tmp_path / "marker")
    return child, {"pool B": {"executor": f'/usr/bin/python3 "{HERE}/fault_executor.py" {words}'}}


def test_children_that_an_executor_leaves(enclosed, tmp_path):
    child, config = leaver(tmp_path)
    check_children_end(enclosed(config), child)


def test_a_child_that_hides_its_mark(vgpufs, tmp_path):
    """Without cgroups only the group tells whose it is."""
    _, child = leaving(tmp_path / "marker")
    daemon = vgpufs({"pool B": {
        "executor": f'/usr/bin/python3 "{HERE}/fault_executor.py" leaves_a_stranger '
                    f'{tmp_path}/marker'}})
    assert "executors have cgroups in" not in daemon.log()
    assert daemon.vm(3).run("B:1:3:SLEEP ms=1").header["status"] == "done"
    wait_until(lambda: len(processes_with(child)) == 1, what="its child runs")
    os.kill(daemon.executor_pid("B.0"), signal.SIGKILL)
    wait_until(lambda: not processes_with(child), what="it is gone with its executor")


def test_children_that_a_killed_daemon_leaves(enclosed, tmp_path):
    """Their parent has ended with the daemon: its number says nothing any more."""
    child, config = leaver(tmp_path)
    daemon = enclosed(config)
    assert daemon.vm(3).run("B:1:3:SLEEP ms=1").header["status"] == "done"
    wait_until(lambda: len(processes_with(child)) == 2, what="its children run")
    executors = descendants_of(daemon.pid)
    daemon.kill9()
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in executors
                               if pid not in processes_with(child)), what="executors end")
    assert len(processes_with(child)) == 2
    daemon.start()
    wait_until(lambda: not processes_with(child), what="the next start kills them")
    assert daemon.vm(3).run("NOP").header["status"] == "done"


def test_each_slot_has_a_cgroup(enclosed):
    daemon = enclosed({"pool A": {"slots": "2"}})
    groups = {pid: read_file(f"/proc/{pid}/cgroup").decode().strip().rsplit("0::", 1)[1]
              for pid in [daemon.pid] + [daemon.executor_pid(slot) for slot in ("A.0", "A.1", "B.0")]}
    names = [group.rsplit("/", 1)[1] for group in groups.values()]
    if "executors have cgroups in" in daemon.log():
        assert names == ["daemon", "executor-A.0", "executor-A.1", "executor-B.0"]
    else:
        assert len(set(groups.values())) == 1, "what was not given to us is left alone"


def test_memory_is_bounded(vgpufs, tmp_path):
    """Who takes more ends, its job says why, and the others go on."""
    daemon = vgpufs({"pool B": {
        "host_memory": "512M",
        "executor": f'/usr/bin/python3 "{HERE}/fault_executor.py" eats'}})
    vm = daemon.vm(3)
    vm.submit("B:1:3:SLEEP ms=1 tag=eats", "B:1:3:NOP tag=next")
    header = vm.job_result("eats").header
    assert header["status"] == "failed"
    assert "MemoryError" in header["error"] or "host_memory" in header["error"], header
    assert vm.job_result("next").header["status"] == "done"
    assert daemon.vm(4).run("NOP").header["status"] == "done"


def test_what_the_kernel_kills_first(vgpufs):
    """When the host's memory ends it is an executor, not the daemon; and no dump shows results."""
    daemon = vgpufs()
    pid = daemon.executor_pid("A.0")
    assert int(read_file(f"/proc/{pid}/oom_score_adj")) == 500
    assert int(read_file(f"/proc/{daemon.pid}/oom_score_adj")) < 500
    limits = read_file(f"/proc/{pid}/limits").decode()
    assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]
