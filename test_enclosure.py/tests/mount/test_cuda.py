"""The cuda backend behind a real mount, on the stand-in of the driver (tests/cuda/): what a guest and
an administrator see of a device's errors."""
import json
import os
import signal
import subprocess

import pytest

from harness import (BUILD, EXECUTOR, Background, StartError, read_file, wait_until, without_times)

STANDIN = BUILD / "tests" / "cuda"
PROBE = "VECTOR_ADD n=1000 seed=7"


def executor(**standin):
    settings = " ".join(f"STANDIN_{name.upper()}={value}" for name, value in standin.items())
    return f'env LD_LIBRARY_PATH="{STANDIN}" {settings} "{EXECUTOR}"'


def config(**standin):
    """Pool A has the stand-in, pool B the machine's processors."""
    return {"pool A": {"backend": "cuda", "executor": executor(**standin)}}


def test_results_say_cuda_and_are_the_cpus(vgpufs):
    daemon = vgpufs(config())
    vm = daemon.vm(3)
    vm.write_data("x", bytes(range(200)) * 2)
    for line in (PROBE, "VECTOR_ADD n=70000 dtype=f64", "MATRIX_MUL m=65 n=40 k=30",
                 "SAXPY n=20001 alpha=0.5", "DOT n=20001 dtype=f64", "REDUCE n=20001 op=max",
                 "SCAN n=20001 exclusive=yes", "HISTOGRAM n=20001 bins=300",
                 "TRANSPOSE m=33 n=70", "MONTE_CARLO_PI n=70001",
                 "SORT n=5000", "CONV2D h=30 w=40 k=5", "SHA256 n=9999 chunk=1000",
                 "VECTOR_ADD a=x b=x out=y"):
        found, wanted = vm.run(line), daemon.vm(4).run("B:1:4:" + line.split(" a=")[0])
        assert found.header["status"] == "done"
        assert found.header["backend"] == "cuda"
        assert "stand-in" in found.header["device"]
        assert wanted.header["backend"] == "cpu"
        if "a=" not in line:
            assert without_times(found.body) == without_times(wanted.body)
    assert daemon.stats()["slot A.0"]["backend"] == "cuda"


# The stand-in's fault in the job, whose trial of the device comes first: how the job ends, what its
# error says, and how many executors that costs.
FAULTS = {
    "sticky": ({"fail": "launched:3:700"}, "failed", "(700)", 1),
    "sticky at a call": ({"fail": "cuMemcpyDtoHAsync:2:719"}, "failed", "(719)", 1),
    "out of memory": ({"fail": "cuMemAllocAsync:2:2"}, "failed", "memory left", 0),
    "the job's": ({"fail": "cuLaunchKernel:2:1"}, "failed", "cuLaunchKernel: ", 0),
    "retryable": ({"fail": "cuLaunchKernel:2:802"}, "failed", "try again later", 0),
    "not cleared": ({"fail": "cuMemsetD8Async:4:2"}, "failed", "cuMemsetD8Async: ", 1),
    "wrong numbers": ({"skip": 4}, "failed", "verification failed", 0),
    "endless": ({"endless": 2}, "timeout", "time limit", 1),
    "late": ({"late_us": 20000}, "done", "", 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_one_job(vgpufs, fault):
    """The next job is right, on a new executor where that was necessary, and the other pool notices
    nothing."""
    standin, status, words, restarts = FAULTS[fault]
    daemon = vgpufs(config(**standin))
    vm, other = daemon.vm(3), daemon.vm(4)
    wait_until(lambda: daemon.executor_pid("A.0") and daemon.executor_pid("B.0"))
    old, old_b = daemon.executor_pid("A.0"), daemon.executor_pid("B.0")
    others = Background(lambda: [other.run("B:1:4:" + PROBE) for _ in range(20)])
    timeout = 1 if status == "timeout" else 50
    header = vm.run(f"{PROBE} timeout={timeout}").header
    assert header["status"] == status, header
    assert words in header.get("error", "")
    again = vm.run("NOP").header
    assert (again["status"], again["backend"]) == ("done", "cuda")
    if restarts == 0:
        found, wanted = vm.run(PROBE), others.value()[0]
        assert without_times(found.body) == without_times(wanted.body)
    assert (daemon.executor_pid("A.0") != old) == bool(restarts)
    assert [each.header["status"] for each in others.value()] == ["done"] * 20
    assert daemon.executor_pid("B.0") == old_b
    stats = daemon.stats()
    assert (stats["pool A"]["executor_restarts"], stats["pool B"]["executor_restarts"]) == \
        (str(restarts), "0")
    assert stats["pool A"]["state"] == "running"


@pytest.mark.parametrize("backend", ["cuda", "auto"])
def test_a_device_that_is_lost(vgpufs, tmp_path, backend):
    """The pool fails, and does not go on with the machine's processors; its jobs wait until the
    device is back."""
    lost = tmp_path / "lost"
    settings = config(lost=lost)
    settings["pool A"]["backend"] = backend
    daemon = vgpufs(settings)
    vm, other = daemon.vm(3), daemon.vm(4)
    assert vm.run(PROBE).header["status"] == "done"
    lost.touch()
    failed = vm.run(PROBE).header
    assert failed["status"] == "failed" and "999" in failed["error"], failed
    wait_until(lambda: daemon.stats()["pool A"]["state"] == "failing", what="the pool is failing")
    vm.submit(PROBE + " tag=waits")
    assert other.run("B:1:4:" + PROBE).header["status"] == "done"
    assert vm.job_status("waits")["state"] == "queued"
    lost.unlink()
    header = vm.job_result("waits").header
    assert (header["status"], header["backend"]) == ("done", "cuda")
    assert daemon.stats()["pool A"]["state"] == "running"
    assert vm.status()["vm 3"]["crashes"] == "0"
    assert daemon.stats()["pool B"]["executor_restarts"] == "0"


def test_readings(vgpufs, tmp_path):
    """What NVIDIA's management library knows is in all statistics of the slot that has it."""
    xid = tmp_path / "xid"
    xid.write_text("")
    settings = config(xid=xid)
    settings["pool A"]["executor"] = settings["pool A"]["executor"].replace(
        f'"{STANDIN}"', f'"{STANDIN}:{STANDIN}/nvml"')
    daemon = vgpufs(settings)
    wait_until(lambda: "xid_events" in daemon.stats()["slot A.0"], what="a reading")
    xid.write_text("31 4294967295\n79 4294967295\n")
    wait_until(lambda: daemon.stats()["slot A.0"]["xid_events"] == "2", what="errors are counted")
    wanted = {"temperature_c": "41", "utilisation_percent": "73", "memory_used_bytes": "300",
              "memory_bytes": "1000", "xid_events": "2", "last_xid": "79"}
    slot = daemon.stats()["slot A.0"]
    assert list(slot.items())[5:] == list(wanted.items())
    assert list(daemon.stats()["slot B.0"])[5:] == []
    pools = json.loads(read_file(daemon.path("stats.json")))["pools"]
    slots = {each["name"]: each for pool in pools for each in pool["slots"]}
    assert {key: str(slots["A.0"].get(key)) for key in wanted} == wanted
    assert not wanted.keys() & slots["B.0"].keys()
    metrics = read_file(daemon.path("metrics")).decode()
    for line in ("temperature_celsius{A} 41", "utilisation_ratio{A} 0.73", "memory_used_bytes{A} 300",
                 "memory_bytes{A} 1000", "xid_events_total{A} 2"):
        assert "vgpufs_slot_" + line.replace("A", 'pool="A",slot="0"') + "\n" in metrics
    assert 'temperature_celsius{pool="B"' not in metrics
    checked = subprocess.run(["promtool", "check", "metrics"], input=metrics, text=True,
                             capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
    daemon.wait_log("XID 79")
    # A new executor begins anew; the daemon does not.
    old = daemon.executor_pid("A.0")
    xid.write_text("")
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: daemon.executor_pid("A.0") != old and
               "temperature_c" in daemon.stats()["slot A.0"], what="a new reading")
    assert daemon.stats()["slot A.0"]["xid_events"] == "2"


def test_no_readings(vgpufs):
    daemon = vgpufs(config())
    daemon.vm(3).run("SLEEP ms=300")
    assert len(daemon.stats()["slot A.0"]) == 5
    assert "temperature" not in read_file(daemon.path("metrics")).decode()


def test_what_the_configuration_says_of_the_device(vgpufs):
    settings = config()
    settings["pool A"].update(device_memory="1M", mps_percent="30%", scrub="no")
    daemon = vgpufs(settings)
    vm = daemon.vm(3)
    failed = vm.run("MATRIX_MUL m=512 n=512 k=512").header
    assert failed["status"] == "failed" and "device_memory of 1 MiB" in failed["error"]
    assert vm.run("MATRIX_MUL m=64 n=64 k=64").header["status"] == "done"
    with open(f"/proc/{daemon.executor_pid('A.0')}/cmdline") as file:
        options = file.read().split("\0")
    assert {"--device-memory=1048576", "--mps-percent=30", "--scrub=no"} <= set(options)


def test_out_of_memory_is_the_jobs(vgpufs):
    daemon = vgpufs(config(memory=1 << 20, late_us=5000))
    vm = daemon.vm(3)
    old = daemon.executor_pid("A.0")
    failed = vm.run("MATRIX_MUL m=512 n=512 k=512").header
    assert failed["status"] == "failed" and "memory" in failed["error"]
    assert vm.run(PROBE).header["status"] == "done"
    assert daemon.executor_pid("A.0") == old


@pytest.mark.parametrize("standin, words", [
    ({"stub": 1}, "stub"), ({"devices": 0}, "no device"), ({"driver": 12040}, "CUDA 12.4"),
    ({"skip": 1}, "computes wrongly"), (None, "libcuda.so.1: cannot open")])
def test_a_device_that_cannot_serve(vgpufs, standin, words):
    """backend=cuda without one fails the start, in one line."""
    settings = config(**standin) if standin else {"pool A": {
        "backend": "cuda", "executor": f'env LD_LIBRARY_PATH= "{EXECUTOR}"'}}
    daemon = vgpufs(settings, start=False)
    with pytest.raises(StartError) as ended:
        daemon.start()
    assert len([line for line in ended.value.error.splitlines()
                if "pool A: " in line and words in line]) == 1, ended.value.error


def test_auto(vgpufs):
    """Where a device answers it is used without a setting; elsewhere the log says why not, once."""
    daemon = vgpufs({"pool A": {"backend": "auto", "executor": executor()},
                     "pool B": {"backend": "auto", "executor": executor(devices=0)}})
    assert daemon.vm(3).run(PROBE).header["backend"] == "cuda"
    assert daemon.vm(4).run("B:1:4:" + PROBE).header["backend"] == "cpu"
    lines = [line for line in daemon.log().splitlines() if "takes cpu" in line]
    assert len(lines) == 1 and "no device" in lines[0]
