"""vgpufs as it is shipped: its units under a real systemd, with executors that have a user and
cgroups of their own. One machine, without NFS; readers are local processes.

What an executor may take is held by the kernel's real controllers here, memory.max and pids.max;
where the other tests run there are often none (tests/mount/test_enclosure.py).
"""
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

import image
from machine import Machine
from rig import BUILD, CACHE, SOURCE, make_payload, parse_fields, parse_result

LOGS = BUILD / "meson-logs" / os.environ["VGPUFS_VM_NAME"]
MOUNT, GROUP = "/mnt/vgpu", "/sys/fs/cgroup/system.slice/vgpufs.service"
FAULT = "/usr/bin/python3 /payload/fault_executor.py"
MEMORY, PROCESSES = 96 << 20, 24
CONFIG = f"""
[vgpufs]
mountpoint = {MOUNT}
executor_user = vgpufs-executor
vms = 3-4
stop_timeout = 1s
stats_log_interval = 0
[pool A]
backend = cpu
executor = /payload/bin/vgpu-executor
[pool B]
executor = {FAULT} eats
host_memory = {MEMORY}
[pool C]
executor = {FAULT} forks
max_processes = {PROCESSES}
[pool D]
executor = {FAULT} pries
sandbox = no
[pool H]
executor = {FAULT} hang
max_run = 2s
"""
UNITS = ("vgpufs.service", "vgpufs-mount.service")
INSTALL = f"""
modprobe fuse
systemd-sysusers /payload/vgpufs.sysusers
systemd-tmpfiles --create /payload/vgpufs.tmpfiles
mkdir -p /etc/vgpufs /etc/systemd/system/vgpufs.service.d
cat > /etc/vgpufs/vgpufs.conf <<'END'
{CONFIG}
END
cat > /etc/systemd/system/vgpufs.service.d/pry.conf <<'END'
[Service]
Environment=PRY_STATE=/var/lib/vgpufs PRY_CGROUP={GROUP}
END
for unit in {' '.join(UNITS)}; do
    sed 's,^ExecStart=[^ ]*/,ExecStart=/payload/bin/,' /payload/$unit > /etc/systemd/system/$unit
done
systemctl daemon-reload
systemctl start vgpufs
"""
# Another daemon than the process $before serves.
SERVED_AGAIN = """
for i in $(seq 600); do
    now=$(systemctl show -P MainPID vgpufs)
    systemctl -q is-active vgpufs && [ "$now" != "$before" ] && exit 0
    sleep 0.1
done
exit 1
"""


class Host(Machine):
    def __init__(self, folder):
        made = image.find(CACHE)
        payload = make_payload(folder, [
            *(BUILD / "config" / unit for unit in UNITS), SOURCE / "config/vgpufs.sysusers",
            SOURCE / "config/vgpufs.tmpfiles",
            SOURCE / "tests/mount/fault_executor.py"])
        arguments = ["-smp", "2"]
        for path in (made / "root.img", payload):
            arguments += ["-drive", f"file={path},if=virtio,format=raw,snapshot=on,cache=unsafe"]
        super().__init__("host", folder, arguments, [],
                         (made / "vmlinuz-6.1", made / "initrd-6.1"), 1024)
        self.words = "rig.INIT=systemd"

    def job(self, line, vm=3):
        """The result, which comes when the job has ended."""
        text = self.sh(f"echo '{line}' > {MOUNT}/vm{vm}/submit && cat {MOUNT}/vm{vm}/result", 120)
        return parse_result(text.encode("latin-1"))

    def daemon(self):
        return int(self.sh("systemctl show -P MainPID vgpufs"))

    def executor(self, slot):
        return int(self.sh(f"cat {GROUP}/executor-{slot}/cgroup.procs").split()[0])

    def status(self, pid):
        text = self.sh(f"cat /proc/{pid}/status")
        return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)

    def ids(self, user):
        return self.sh(f"id -u {user}").strip(), self.sh(f"id -G {user}").split()

    def counted(self, slot, name):
        """A number of one of the slot's files of events, and the bound beside it."""
        folder, (file, key), bound = f"{GROUP}/executor-{slot}", name.split(":"), name.split(".")[0]
        events = parse_fields(self.sh(f"tr ' \\n' '= ' < {folder}/{file}").strip())
        return int(events[key]), self.sh(f"cat {folder}/{bound}.max").strip()

    def journal(self):
        return self.sh("journalctl -u vgpufs --no-pager -o cat")


@pytest.fixture(scope="module")
def host():
    with tempfile.TemporaryDirectory(prefix="vgpufs-vm-") as folder:
        machine = Host(Path(folder))
        try:
            machine.start()
            machine.wait_ready()
            machine.sh(INSTALL, 240)
            yield machine
        finally:
            shutil.rmtree(LOGS, ignore_errors=True)
            LOGS.mkdir(parents=True)
            if machine.socket and machine.ready.done():
                state = machine.run("systemctl status --no-pager -l vgpufs vgpufs-mount; "
                                    "journalctl --no-pager -n 200; dmesg", 60)
                (LOGS / "state").write_text(state.out)
            (LOGS / "console").write_text(machine.evidence())
            machine.end()


def test_who_they_are(host):
    """None of them is root, and none has a capability."""
    (daemon_uid, _), (uid, groups) = host.ids("vgpufs"), host.ids("vgpufs-executor")
    daemon, executor = host.status(host.daemon()), host.status(host.executor("A.0"))
    assert daemon["Uid"].split() == [daemon_uid] * 4
    assert executor["Uid"].split() == [uid] * 4 and uid not in (daemon_uid, "0")
    assert set(executor["Groups"].split()) <= set(groups)
    for fields in (daemon, executor):
        assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
        assert fields["NoNewPrivs"] == "1"
    assert host.job("VECTOR_ADD n=1000").header["status"] == "done"


def test_check_as_root(host):
    """It tries the executors as their user, and says where that one has no home."""
    command = "/payload/bin/vgpufs --check --mount-socket=/run/vgpufs/mount.sock || true"
    told, home = host.sh(command), "/var/lib/vgpufs-executor"
    assert "executors: pool B: " in told  # Python's, which knows no --list
    assert "executors: pool A: " not in told and "no folder of its own" not in told, told
    told = host.sh(f"chown root {home}; {command}; chown vgpufs-executor {home}")
    assert f"vgpufs-executor has no folder of its own at {home}: " in told, told


def test_what_they_cannot_reach(host):
    assert host.job("D:1:3:SLEEP ms=1").body == b"could: nothing\n"


def test_memory(host):
    """Who takes more is killed by the kernel, and its job says why; the next one is done."""
    header = host.job("B:1:3:SLEEP ms=1").header
    assert header["status"] == "failed"
    assert "killed by signal 9" in header["error"] and "host_memory" in header["error"], header
    assert host.job("B:1:3:NOP").header["status"] == "done"
    kills, bound = host.counted("B.0", "memory.events:oom_kill")
    assert kills >= 1 and bound == str(MEMORY)


def test_processes(host):
    """Forking ends at the bound; the daemon, and what else runs, is not in it."""
    result = host.job("C:1:3:SLEEP ms=1")
    assert result.header["status"] == "done", result.header
    # The executor itself is one of them.
    assert result.body == f"{PROCESSES - 1} children, then EAGAIN\n".encode()
    refused, bound = host.counted("C.0", "pids.events:max")
    assert refused >= 1 and bound == str(PROCESSES)
    assert host.job("C:1:3:NOP").header["status"] == "done"


@pytest.mark.parametrize("stop", [False, True])
def test_one_that_hangs(host, stop):
    """The daemon may not signal it, and ends it."""
    host.job("H:1:4:NOP", 4)
    pid = host.executor("H.0")
    outcome = host.call(f"echo 'H:1:4:SLEEP ms=1' > {MOUNT}/vm4/submit && cat {MOUNT}/vm4/result",
                        120)
    if stop:
        host.sh(f"kill -STOP {pid}")
    result = parse_result(outcome.wait().out.encode("latin-1"))
    assert result.header["status"] == "timeout", result.header
    host.sh(f"while kill -0 {pid}; do sleep 0.1; done 2>/dev/null", 60)
    assert host.job("H:1:4:NOP", 4).header["status"] == "done"


def test_a_restart_without_a_gap(host):
    """Who waits for a queued job does not notice `systemctl restart`."""
    host.sh(f"echo 'hold A' > {MOUNT}/ctl; echo 'A:1:3:NOP tag=queued' > {MOUNT}/vm3/submit")
    readers = [host.call(f"cat {MOUNT}/vm3/{name}", 200) for name in ("result",
                                                                      "jobs/queued/result")]
    before = host.daemon()
    host.sh("systemctl restart vgpufs", 120)
    assert host.daemon() != before
    assert not any(reader.done() for reader in readers)
    host.sh(f"echo 'release A' > {MOUNT}/ctl")
    for reader in readers:
        outcome = reader.wait()
        assert outcome.code == 0, outcome
        assert parse_result(outcome.out.encode("latin-1")).header["status"] == "done"
    assert len(re.findall("going on with", host.journal())) == 1


def test_a_daemon_that_is_killed(host):
    """Nothing of it is left, and it is started again."""
    before, executor = host.daemon(), host.executor("A.0")
    host.sh(f"before={before}; kill -STOP {executor}; kill -KILL $before\n"
            f"while kill -0 {executor}; do sleep 0.1; done 2>/dev/null\n{SERVED_AGAIN}", 120)
    assert host.job("NOP").header["status"] == "done"


def test_a_spawner_that_is_killed(host):
    host.sh(f"before={host.daemon()}; kill -KILL $(pgrep -P $before -x vgpufs-spawner)\n"
            f"{SERVED_AGAIN}", 120)
    assert "the process that starts executors has ended (killed by signal 9" in host.journal()
    assert host.job("NOP").header["status"] == "done"
