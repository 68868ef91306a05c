"""vgpu-run and vgpuctl against a real mount."""
import os
import re
import signal
import subprocess

import pytest

from harness import FACTOR, VGPU_RUN, VGPUCTL, assert_one_line_error, run, wait_until

CONFIG = {"vm 1": {"pool": "B", "priority": "0"}, "pool A": {"slots": "2"}}


def vgpu_run(mount, vm, *words):
    return run(VGPU_RUN, f"--mount={mount.mountpoint}", f"--vm={vm.number}", *words)


def vgpuctl(mount, *words):
    return run(VGPUCTL, f"--mount={mount.mountpoint}", *words)


# --- vgpu-run ------------------------------------------------------------------------------------

def test_run_done(mount, vm):
    status, output, error = vgpu_run(mount, vm, "VECTOR_ADD", "n=1024", "seed=7")
    assert status == 0, error
    assert re.search(r"^n=1024 dtype=f32 sum=\S+ max_abs_error=0 compute_us=\d+ copy_us=\d+$",
                     output, re.M)
    assert vm.jobs() == set(), "it leaves nothing behind"


def test_run_failed(mount, vm):
    status, _, error = vgpu_run(mount, vm, "VECTOR_ADD", "a=none", "b=none", "out=z")
    assert status == 1
    assert "none" in error


def test_run_needs_no_shell_quotes(mount, vm):
    """A value with blanks is one word for the shell, and one value for the daemon."""
    vm.write_data("my file", bytes(8))
    status, _, error = vgpu_run(mount, vm, "VECTOR_ADD", "a=my file", "b=my file", 'out=the "sum"')
    assert status == 0, error
    assert set(os.listdir(vm.data)) == {"my file", 'the "sum"'}


def test_run_with_a_tag(mount, vm):
    assert vgpu_run(mount, vm, "--tag=mine", "NOP")[0] == 0
    assert vm.jobs() == {"mine"}
    assert vm.job_result("mine").header["status"] == "done"
    assert vgpu_run(mount, vm, "--tag=mine", "NOP")[0] == 0
    assert vm.job_status("mine")["job"] == "1", "the same again is the same job"


def test_run_cannot_submit(mount, vm):
    status, _, error = vgpu_run(mount, vm, "BOGUS")
    assert_one_line_error("vgpu-run", status, error, "BOGUS")
    assert status == 4
    status, _, error = run(VGPU_RUN, f"--mount={mount.mountpoint}", "--vm=999", "NOP")
    assert_one_line_error("vgpu-run", status, error, "999")
    assert status == 4


def test_run_usage(mount, vm):
    for words in ((), ("--bogus", "NOP"), ("--timeout=soon", "NOP")):
        status, _, error = vgpu_run(mount, vm, *words)
        assert_one_line_error("vgpu-run", status, error)
        assert status == 2, words


def test_run_times_out_and_the_job_goes_on(mount, vm):
    status, _, error = vgpu_run(mount, vm, "--timeout=0.5", "SLEEP", "ms=60000")
    assert status == 3
    (tag,) = vm.jobs()
    assert f"jobs/{tag}/result" in error, "it says how to fetch the result"
    assert vm.job_status(tag)["state"] == "running"
    vm.ctl("cancel all")


def test_run_times_out_and_cancels(mount, vm):
    assert vgpu_run(mount, vm, "--timeout=0.5", "--cancel", "SLEEP", "ms=60000")[0] == 3
    wait_until(lambda: vm.status()[f"vm {vm.number}"]["running"] == "0", what="nothing runs")


def test_run_interrupted(mount, vm):
    """Ctrl-C cancels the job."""
    process = subprocess.Popen([VGPU_RUN, f"--mount={mount.mountpoint}", f"--vm={vm.number}",
                                "SLEEP", "ms=60000"], stderr=subprocess.DEVNULL)
    wait_until(lambda: vm.status()[f"vm {vm.number}"]["running"] == "1", what="it runs")
    process.send_signal(signal.SIGINT)
    assert process.wait(20 * FACTOR) == 130
    wait_until(lambda: vm.status()[f"vm {vm.number}"]["running"] == "0", what="nothing runs")


@pytest.mark.root
def test_run_finds_its_vm(vgpufs):
    """As the VM's own user: the only vm* that it may enter."""
    daemon = vgpufs({"vgpufs": {"vms": "1-5"}})
    done = subprocess.run([VGPU_RUN, f"--mount={daemon.mountpoint}", "NOP"], user=20004, group=20004,
                          extra_groups=[], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert daemon.stats()["vm 4"]["done"] == "1"


# --- vgpuctl -------------------------------------------------------------------------------------

def test_ctl_status_and_queue(mount, vm):
    vm.submit("SLEEP ms=60000 tag=shown")
    vm.wait_state("shown", "running")
    status, output, error = vgpuctl(mount, "status")
    assert (status, error) == (0, "")
    assert re.search(r"\bA\b", output) and re.search(r"\bB\b", output)
    status, output, error = vgpuctl(mount, "queue")
    assert (status, error) == (0, "")
    assert "shown" in output
    vm.ctl("cancel all")


def test_ctl_commands(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(3)
    assert vgpuctl(daemon, "hold", "A")[0] == 0
    vm.submit("NOP tag=a", "NOP tag=b")
    assert vgpuctl(daemon, "priority", "vm3", "b", "2")[0] == 0
    assert [line.tag for line in daemon.queue()] == ["b", "a"]
    assert vgpuctl(daemon, "cancel", "vm3", "a")[0] == 0
    assert vm.job_result("a").header["status"] == "cancelled"
    assert vgpuctl(daemon, "release", "A")[0] == 0
    assert vm.job_result("b").header["status"] == "done"
    assert vgpuctl(daemon, "drain")[0] == 0
    assert daemon.stats()["vgpufs"]["state"] == "draining"
    assert vgpuctl(daemon, "resume")[0] == 0
    assert vgpuctl(daemon, "hold", "vm3")[0] == 0
    assert vm.status()["vm 3"]["held"] == "yes"
    assert vgpuctl(daemon, "release", "vm3")[0] == 0
    assert vgpuctl(daemon, "--yes", "purge", "vm3")[0] == 0
    assert vm.jobs() == set()


@pytest.mark.parametrize("words", [("hold", "Z"), ("cancel", "vm3", "nothing"), ("cancel", "vm999", "1"),
                                   ("priority", "vm3", "1", "9"), ("bogus",), ("hold",)])
def test_ctl_errors(mount, words):
    status, output, error = vgpuctl(mount, *words)
    assert_one_line_error("vgpuctl", status, error)
    assert output == ""


def test_ctl_without_a_mount(tmp_path):
    status, _, error = run(VGPUCTL, f"--mount={tmp_path}", "status")
    assert_one_line_error("vgpuctl", status, error, tmp_path)


def test_ctl_top(mount):
    """It draws on a terminal, again and again, and ends at q."""
    leader, follower = os.openpty()
    process = subprocess.Popen([VGPUCTL, f"--mount={mount.mountpoint}", "top"], stdin=follower,
                               stdout=follower, stderr=follower,
                               env=dict(os.environ, TERM="xterm", LINES="24", COLUMNS="80"))
    os.close(follower)
    shown = b""
    while b"A" not in shown:
        shown += os.read(leader, 65536)
    os.write(leader, b"q")
    while True:  # drain what it still draws, or it could not end
        try:
            if not os.read(leader, 65536):
                break
        except OSError:  # EIO: the other side is closed
            break
    os.close(leader)
    assert process.wait(20 * FACTOR) == 0
