"""Executors that run as a user of their own: what they cannot reach, and that they are ended all
the same. The daemon is root, or has no more privilege than vgpufs.service gives it (`service`)."""
import os
import pwd
import signal
import struct

import pytest

from harness import (HERE, IS_ROOT, StartError, Vgpufs, alive, check_children_end, descendants_of,
                     leaving, process_fields, read_file, wait_until)
from holder import Held
from test_enclosure import ROOT, Delegated

pytestmark = pytest.mark.skipif(not IS_ROOT, reason="a plain user has no other user to give")

USER = pwd.getpwnam("games")  # Debian's base-passwd has it; it owns nothing
GROUPS = sorted(os.getgrouplist(USER.pw_name, USER.pw_gid))
NOBODY = pwd.getpwnam("nobody")
FAULT = f'/usr/bin/python3 "{HERE}/fault_executor.py"'


class Delegation(Delegated):
    """One that belongs to the daemon's user, as systemd gives it to a unit with User=."""

    def __init__(self, uid):
        super().__init__()
        for path in (self.path, *(self.path / name for name in (
                "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"))):
            os.chown(path, uid, uid)


def config_of(config):
    config = {name: dict(keys) for name, keys in (config or {}).items()}
    config.setdefault("vgpufs", {}).setdefault("executor_user", USER.pw_name)
    return config


class AsRoot(Vgpufs):
    cgroup = None

    def environment(self):
        return dict(super().environment(), PRY_STATE=str(self.state_dir), HOME="/root",
                    PRY_CGROUP=str(self.cgroup.path) if self.cgroup else "/nonexistent")


class AsService(AsRoot, Held):
    """As vgpufs.service starts it: a user of its own, CAP_SETUID and CAP_SETGID."""

    def __init__(self, config, cgroup=True, capabilities="+setuid,+setgid"):
        self.capabilities = capabilities
        self.cgroup = Delegation(NOBODY.pw_uid) if cgroup else None
        super().__init__(config, prepare=self.cgroup.enter if cgroup else None)
        self.uid = None  # not Popen's to change: setpriv(1) does

    def command(self):
        return ["setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups",
                f"--inh-caps={self.capabilities}", f"--ambient-caps={self.capabilities}",
                *super().command()]

    def start(self):
        if not self.holder.process:
            self.holder.start()
        return super().start()

    def close(self):
        try:
            super().close()
        finally:
            if self.cgroup:
                self.cgroup.remove()


KINDS = {"root": AsRoot, **({"service": AsService} if ROOT else {})}


@pytest.fixture(params=KINDS)
def other(request):
    """other({section: …}) gives a daemon whose executors have another user."""
    made = []

    def make(config=None):
        made.append(KINDS[request.param](config_of(config)))
        made[-1].start()
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()


def fault(mode, **keys):
    return {"pool B": {"executor": f"{FAULT} {mode}", **keys}}


def test_who_they_are(other):
    daemon = other()
    executor = process_fields(daemon.executor_pid("A.0"))
    assert executor["Uid"].split() == [str(USER.pw_uid)] * 4
    assert executor["Gid"].split() == [str(USER.pw_gid)] * 4
    assert sorted(map(int, executor["Groups"].split())) == GROUPS
    assert {executor[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    environment = read_file(f"/proc/{daemon.executor_pid('A.0')}/environ").split(b"\0")
    assert f"HOME={USER.pw_dir}".encode() in environment
    spawner = process_fields(daemon.spawner_pid())
    own = process_fields(daemon.pid)["Uid"].split()[0]
    assert spawner["Uid"].split() == [own, str(USER.pw_uid), own, str(USER.pw_uid)]
    assert {spawner[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    if own != "0":
        daemon_has = process_fields(daemon.pid)
        assert {daemon_has[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    # Data files come and go as descriptors.
    vm = daemon.vm(3)
    vm.write_data("a", struct.pack("<2f", 1, 2))
    assert vm.run("VECTOR_ADD a=a b=a out=sum").header["status"] == "done"
    assert struct.unpack("<2f", (vm.data / "sum").read_bytes()) == (2, 4)


def test_what_they_cannot_reach(other):
    daemon = other(fault("pries", sandbox="no"))
    assert (daemon.state_dir / "state.db").exists() and (daemon.state_dir / "data").is_dir()
    daemon.state_dir.chmod(0o755)
    result = daemon.vm(3).run("B:1:3:SLEEP ms=1")
    assert result.body == b"could: nothing\n"


@pytest.mark.parametrize("stop", [False, True])
def test_a_job_that_takes_too_long(other, stop):
    daemon = other(fault("hang", max_run="500ms"))
    vm = daemon.vm(3)
    vm.run("B:1:3:NOP")
    pid = daemon.executor_pid("B.0")
    if stop:
        daemon.vm(3).submit("B:1:3:SLEEP ms=1")
        os.kill(pid, signal.SIGSTOP)
        header = vm.result().header
    else:
        header = vm.run("B:1:3:SLEEP ms=1").header
    assert header["status"] == "timeout"
    wait_until(lambda: not alive(pid), what="its executor ends")
    assert vm.run("B:1:3:NOP").header["status"] == "done"


def test_what_they_leave_behind(other, tmp_path):
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    words, child = leaving(tmp_path / "marker")
    check_children_end(other(fault(words)), child)


def test_a_killed_daemon(other):
    """Also one that hangs, and so does not notice it, and with a spawner that was stopped."""
    daemon = other({**fault("hang"), "vgpufs": {"stop_timeout": "100ms"}})
    daemon.vm(4).submit("B:1:4:SLEEP ms=1")
    wait_until(lambda: daemon.stats()["vm 4"]["running"] == "1", what="it hangs")
    left = descendants_of(daemon.pid)
    assert len(left) == 3
    os.kill(daemon.executor_pid("A.0"), signal.SIGSTOP)
    os.kill(daemon.spawner_pid(), signal.SIGSTOP)
    daemon.kill9()
    wait_until(lambda: not any(map(alive, left)), what="all end with the daemon")
    daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"


def test_a_spawner_that_ends(other):
    """The daemon ends in order, so that it is started again: nothing that was accepted is lost."""
    daemon = other()
    daemon.ctl("hold A")
    daemon.vm(3).submit("NOP tag=later")
    os.kill(daemon.spawner_pid(), signal.SIGKILL)
    assert daemon.wait_end() == 1
    assert "has ended (killed by signal 9 (Killed)): start vgpufs again" in daemon.log()
    daemon.start()
    daemon.ctl("release A")
    assert daemon.vm(3).job_result("later").header["status"] == "done"


@pytest.mark.parametrize("kind", ["service"] if ROOT else [])
def test_a_take_over(kind):
    daemon = AsService(config_of({}))
    try:
        daemon.start()
        before = daemon.process
        left = descendants_of(daemon.pid)
        daemon.ctl("hold A")
        daemon.vm(3).submit("NOP tag=later")
        daemon.process, daemon.options = None, [*daemon.options, "--take-over"]
        daemon.start()
        assert before.wait() == 0
        wait_until(lambda: not any(map(alive, left)), what="nothing of the first is left")
        daemon.ctl("release A")
        assert daemon.vm(3).job_result("later").header["status"] == "done"
        uids = process_fields(daemon.executor_pid("A.0"))["Uid"].split()
        assert uids == [str(USER.pw_uid)] * 4
    finally:
        daemon.close()


def refused(daemon):
    """The words with which it does not start."""
    try:
        with pytest.raises(StartError) as error:
            daemon.start()
        return error.value.error
    finally:
        daemon.close()


def test_no_such_user():
    assert "executor_user = 'no-such-user': there is no such user" in refused(
        AsRoot({"vgpufs": {"executor_user": "no-such-user"}}))


def test_without_the_privilege():
    daemon = Vgpufs(config_of({}), uid=NOBODY.pw_uid)
    assert f"executor_user = '{USER.pw_name}': Operation not permitted: start vgpufs as root" in \
        refused(daemon)


def test_never_root():
    daemon = AsService(config_of({"vgpufs": {"executor_user": "root"}}), cgroup=False)
    assert "executors must not be root" in refused(daemon)


def test_without_a_way_to_end_them():
    daemon = AsService(config_of({}), cgroup=False)
    assert "they could not be ended" in refused(daemon)
