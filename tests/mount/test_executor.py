"""Executors that die, hang, lie or speak nonsense: that job fails, the next runs, the other pool
notices nothing."""
import json
import os
import re
import signal
import time

import pytest

from harness import (EXECUTOR, FACTOR, HERE, Background, StartError, alive, children_of,
                     descendants_of, mounted, process_fields, read_file, wait_until, without_times)

EVIL_LINE = b"[ENQUEUE] FORGED"


def faulty(mode, marker=""):
    """A configuration whose pool B runs the faulty executor."""
    return {"pool B": {"executor": f'/usr/bin/python3 "{HERE}/fault_executor.py" {mode} {marker}'}}


def slot(daemon, name="B.0"):
    return daemon.stats()[f"slot {name}"]


def restarts(daemon, pool="B"):
    return int(daemon.stats()[f"pool {pool}"]["executor_restarts"])


# --- the real one --------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_killed_in_the_middle(vgpufs, number):
    daemon = vgpufs()
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=60000 tag=victim", "NOP tag=next")
    other = daemon.vm(4)
    other.submit("B:1:4:SLEEP ms=1000 tag=other")
    vm.wait_state("victim", "running")
    pid_b = daemon.executor_pid("B.0")
    reader = Background(vm.job_result, "victim").blocked()
    old = daemon.executor_pid("A.0")
    os.kill(old, number)
    header = reader.value().header
    assert header["status"] == "failed"
    assert "executor" in header["error"]
    assert re.search(f"signal|{signal.Signals(number).name}|{int(number)}", header["error"])
    assert vm.job_result("next").header["status"] == "done"
    assert daemon.executor_pid("A.0") != old
    assert restarts(daemon, "A") == 1
    assert vm.status()["vm 3"]["crashes"] == "1"
    assert other.job_result("other").header["status"] == "done"
    assert (daemon.executor_pid("B.0"), restarts(daemon, "B")) == (pid_b, 0)


def test_a_parent_that_ignores_the_end_of_children(vgpufs):
    """An ignored SIGCHLD is inherited, and takes waitpid(2) its answers."""
    daemon = vgpufs(prepare=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=60000 tag=victim")
    vm.wait_state("victim", "running")
    os.kill(daemon.executor_pid("A.0"), signal.SIGKILL)
    header = vm.job_result("victim").header
    assert header["status"] == "failed" and "signal 9" in header["error"], header
    assert vm.run("NOP").header["status"] == "done"


def test_killed_while_idle(vgpufs):
    """No job is harmed, and no VM is blamed."""
    daemon = vgpufs()
    vm = daemon.vm(3)
    vm.run("NOP")
    for _ in range(3):
        old = daemon.executor_pid("A.0")
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: daemon.executor_pid("A.0") != old, what="a new executor")
        assert vm.run("NOP").header["status"] == "done"
    assert vm.status()["vm 3"]["crashes"] == "0"


def test_stopped_executor(vgpufs):
    """SIGSTOP: it does not answer, the time limit ends it."""
    daemon = vgpufs()
    vm = daemon.vm(3)
    vm.run("NOP")
    old = daemon.executor_pid("A.0")
    os.kill(old, signal.SIGSTOP)
    assert vm.run("SLEEP ms=1 timeout=1").header["status"] == "timeout"
    assert vm.run("NOP").header["status"] == "done"
    wait_until(lambda: not alive(old), what="the stopped executor is gone")


def test_a_running_executor_takes_no_time_of_the_other_pool(vgpufs):
    daemon = vgpufs()
    daemon.vm(3).submit("SLEEP ms=60000 tag=long")
    daemon.vm(3).wait_state("long", "running")
    started = time.monotonic()
    for _ in range(10):
        assert daemon.vm(4).run("B:1:4:NOP").header["status"] == "done"
    assert time.monotonic() - started < 10 * FACTOR
    daemon.vm(3).ctl("cancel all")


def test_no_descriptors_leak_to_executors(vgpufs):
    daemon = vgpufs()
    daemon.vm(3).run("NOP")
    for pid in descendants_of(daemon.pid):
        targets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert not [target for target in targets if "/dev/fuse" in target or ".db" in target
                    or str(daemon.state_dir) in target], targets


def test_descriptors_over_many_jobs(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(3)
    vm.write_data("x", bytes(400))
    vm.run("VECTOR_ADD a=x b=x out=y")
    executor = daemon.executor_pid("A.0")
    before = daemon.descriptors(), len(os.listdir(f"/proc/{executor}/fd"))
    for _ in range(50):
        assert vm.run("VECTOR_ADD a=x b=x out=y").header["status"] == "done"
    after = daemon.descriptors(), len(os.listdir(f"/proc/{executor}/fd"))
    # Each thread of the daemon keeps a pipe for splice(2) from its first use on.
    assert after[0] < before[0] + 25 and after[1] == before[1]


# --- jobs that go wrong --------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["crash", "segfault", "leave", "close", "garbage", "noisy_garbage",
                                  "huge", "partial", "unended_fields", "unknown_type",
                                  "wrong_direction"])
def test_a_fault(vgpufs, mode):
    daemon = vgpufs(faulty(mode))
    vm = daemon.vm(3)
    other = Background(lambda: [daemon.vm(4).run("NOP").header["status"] for _ in range(20)])
    vm.submit("B:1:3:SLEEP ms=1 tag=victim timeout=30", "B:1:3:NOP tag=next")
    result = vm.job_result("victim")
    assert result.header["status"] == "failed", result.raw
    assert "executor" in result.header["error"]
    assert vm.job_result("next").header["status"] == "done"
    assert restarts(daemon) == 1
    assert other.value() == ["done"] * 20
    assert restarts(daemon, "A") == 0
    wait_until(lambda: len(children_of(daemon.pid)) <= 4, what="the faulty executor is gone")


@pytest.mark.parametrize("end", ["timeout", "cancel", "rmdir"])
def test_a_hang(vgpufs, end):
    daemon = vgpufs(faulty("hang"))
    vm = daemon.vm(3)
    timeout = 1 if end == "timeout" else 50
    vm.submit(f"B:1:3:SLEEP ms=1 tag=victim timeout={timeout}", "B:1:3:NOP tag=next")
    vm.wait_state("victim", "running")
    old = daemon.executor_pid("B.0")
    reader = Background(vm.job_result, "victim").blocked()
    if end == "cancel":
        vm.ctl("cancel victim")
    elif end == "rmdir":
        os.rmdir(vm.job("victim"))
    assert reader.value().header["status"] == ("timeout" if end == "timeout" else "cancelled")
    assert vm.job_result("next").header["status"] == "done"
    wait_until(lambda: not alive(old), what="the hanging executor is gone")


def test_killing_for_cancelled_jobs_costs_no_time(vgpufs):
    """An executor that had to be killed for its job is started again at once, for all VMs."""
    daemon = vgpufs(faulty("hang"))
    vm = daemon.vm(3)
    waits = []
    for i in range(8):
        vm.submit(f"B:1:3:SLEEP ms=1 timeout=50 tag=t{i}")
        started = time.monotonic()
        vm.wait_state(f"t{i}", "running")
        waits.append(time.monotonic() - started)
        vm.ctl(f"cancel t{i}")
        assert vm.job_result(f"t{i}").header["status"] == "cancelled"
    assert max(waits) < 2 * FACTOR, waits
    assert vm.status()["vm 3"]["held"] == "no"


def test_a_deaf_executor(vgpufs):
    """A job that cannot be sent does not wait for its time limit."""
    daemon = vgpufs(faulty("deaf"))
    vm = daemon.vm(3)
    assert vm.run("B:1:3:SLEEP ms=1").header["status"] == "done"
    old = daemon.executor_pid("B.0")
    started = time.monotonic()
    vm.submit("B:1:3:NOP tag=victim", "B:1:3:NOP tag=next")
    victim = vm.job_result("victim").header
    assert victim["status"] == "failed" and "executor" in victim["error"]
    assert vm.job_result("next").header["status"] == "done"
    assert time.monotonic() - started < 10 * FACTOR
    wait_until(lambda: not alive(old), what="the deaf executor is gone")


@pytest.mark.parametrize("mode", ["late_answer", "twice"])
def test_answers_to_other_attempts_are_dropped(vgpufs, mode):
    daemon = vgpufs(faulty(mode))
    vm = daemon.vm(3)
    for i in range(5):
        vm.submit(f"B:1:3:NOP tag=before{i}", f"B:1:3:SLEEP ms=1 tag=odd{i}",
                  f"B:1:3:NOP tag=after{i}")
        for tag in (f"before{i}", f"odd{i}", f"after{i}"):
            result = vm.job_result(tag)
            # A second answer may as well end the executor, but never be taken for another job's.
            if result.header["status"] == "done":
                assert result.body == b"well\n", tag
            else:
                assert mode == "twice" and tag.startswith("after"), result.raw


def memory_kib(pid):
    return int(process_fields(pid)["VmRSS"].split()[0])


def test_a_flood(vgpufs):
    """100 MiB of output: the result is cut at max_result and the daemon keeps no more than that."""
    daemon = vgpufs(faulty("flood"))
    vm = daemon.vm(3)
    vm.run("B:1:3:NOP")
    before = memory_kib(daemon.pid)
    result = vm.run("B:1:3:SLEEP ms=1 timeout=50")
    if result.header["status"] == "done":
        assert result.header["truncated"] == "yes"
        assert result.body == b"x" * (1 << 20)
    else:
        assert result.header["status"] == "failed"
    assert memory_kib(daemon.pid) < before + 32 * 1024 * max(1, FACTOR)
    assert vm.run("B:1:3:NOP").header["status"] == "done"


def test_a_flood_of_log_lines(vgpufs):
    """The log takes the first of them, of a job and of what is said between two."""
    daemon = vgpufs(faulty("chatters"))
    vm = daemon.vm(3)
    assert vm.run("B:1:3:SLEEP ms=1").header["status"] == "done"
    daemon.wait_log("chatter")
    old = daemon.executor_pid("B.0")
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: daemon.executor_pid("B.0") != old, what="all it has said is read")
    assert vm.run("B:1:3:NOP").header["status"] == "done"
    assert daemon.log().count("chatter") < 100


def test_an_endless_flood(vgpufs):
    """The time limit holds for a job whose output has no end, and its pool answers meanwhile."""
    daemon = vgpufs(faulty("endless_flood"))
    vm = daemon.vm(3)
    vm.submit("B:1:3:SLEEP ms=1 timeout=2 tag=x", "B:1:3:NOP tag=next")
    vm.wait_state("x", "running")
    before = memory_kib(daemon.pid)
    for _ in range(20):
        assert daemon.stats()["pool B"]["queued"] in "01"
    assert vm.job_result("x").header["status"] == "timeout"
    assert memory_kib(daemon.pid) < before + 32 * 1024 * max(1, FACTOR)
    assert vm.job_result("next").header["status"] == "done"


@pytest.mark.parametrize("mode, expected", [
    ("evil_error", "failed"), ("evil_output", "done"), ("evil_progress", None),
    ("evil_log", "done"), ("greedy", None), ("bad_status", "failed"),
    ("fails_silently", "failed")])
def test_nothing_that_a_program_says_forges_anything(vgpufs, mode, expected):
    daemon = vgpufs(faulty(mode))
    vm = daemon.vm(3)
    vm.submit("B:1:3:SLEEP ms=1 tag=x timeout=30")
    result = vm.job_result("x")  # the strict grammar of the header
    assert result.header["status"] == (expected or result.header["status"])
    vm.status(), daemon.stats(), daemon.queue()
    assert expected != "failed" or result.header["error"], "there is always a reason"
    if mode == "evil_output":
        assert result.body.startswith(b"status=done job=1 tag=1\n\0\x01\xff")
    if mode == "evil_error":
        assert result.header["error"].startswith('evil"\n[ENQUEUE] FORGED')
    assert vm.run("B:1:3:NOP").header["status"] == "done"
    assert_clean_log(daemon)


def assert_clean_log(daemon):
    log = daemon.log_file.read_bytes()
    log.decode("utf-8")
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", log)
    assert not [line for line in log.splitlines() if line.startswith(EVIL_LINE)]
    assert len(log) < 1 << 20


# --- the system-call filter ------------------------------------------------------------------------

def escapes(daemon):
    result = daemon.vm(3).run("B:1:3:SLEEP ms=1")
    assert result.header["status"] == "done", result.raw
    return dict(re.split(r":\s+", line) for line in result.body.decode().splitlines())


def sandboxed(value):
    config = faulty("escape")
    config["pool B"]["sandbox"] = value
    return config


def test_the_filter_denies_what_no_workload_needs(vgpufs):
    found = escapes(vgpufs(sandboxed("yes")))
    assert found.pop("NoNewPrivs") == "1" and found.pop("Seccomp") == "2"
    assert len(found) == 8 and set(found.values()) == {"EPERM"}, found


@pytest.mark.root
def test_sandbox_no_leaves_the_filter_out(vgpufs):
    with open("/proc/self/status") as status:
        outside = dict(re.split(r":\s*", line.rstrip(), 1) for line in status)
    found = escapes(vgpufs(sandboxed("no")))
    assert found["NoNewPrivs"] == outside["NoNewPrivs"] and found["Seccomp"] == outside["Seccomp"]
    if outside["Seccomp"] == "0":
        assert "EPERM" not in found.values(), found


# --- greetings that go wrong ---------------------------------------------------------------------

SILENT_FAULTS = [("no_hello", "executor"), ("refuse", "no device today"),
                 ("refuse_silently", "gives no reason"), ("bad_protocol", "protocol"),
                 ("garbage_hello", "executor")]


@pytest.mark.parametrize("mode, words", SILENT_FAULTS)
def test_an_executor_that_never_serves(vgpufs, mode, words):
    """The start fails, in one line: a person is there to read it."""
    daemon = vgpufs(faulty(mode), start=False)
    with pytest.raises(StartError) as ended:
        daemon.start()
    lines = ended.value.error.splitlines()
    assert [line for line in lines if "pool B" in line and words in line], ended.value.error
    assert_clean_log(daemon)
    assert not mounted(daemon.mountpoint)


def test_an_executor_that_is_not_there(vgpufs):
    daemon = vgpufs({"pool B": {"executor": "/nonexistent/vgpu-executor"}}, start=False)
    with pytest.raises(StartError) as ended:
        daemon.start()
    assert "/nonexistent/vgpu-executor" in ended.value.error


@pytest.mark.parametrize("mode, words", SILENT_FAULTS)
def test_an_executor_that_serves_no_longer(vgpufs, mode, words, tmp_path):
    """Its pool waits and says so; the daemon and the other pool go on."""
    daemon = vgpufs(faulty(mode, marker=tmp_path / "started"))
    vm = daemon.vm(3)
    assert vm.run("B:1:3:NOP").header["status"] == "done"
    os.kill(daemon.executor_pid("B.0"), signal.SIGKILL)
    daemon.wait_log(words)
    wait_until(lambda: daemon.stats()["pool B"]["state"] == "failing", what="the pool is failing")
    vm.submit("B:1:3:NOP tag=waits deadline=2")
    assert daemon.vm(4).run("NOP").header["status"] == "done"
    assert vm.job_result("waits").header["status"] == "timeout"
    assert restarts(daemon) < 20, "it is started again with pauses"
    assert vm.status()["vm 3"]["crashes"] == "0"
    assert_clean_log(daemon)


def test_pauses_between_starts_grow(vgpufs, tmp_path):
    """A start that fails at once must not keep the machine busy with starting. (A slow machine makes
    pauses longer only.)"""
    program, starts = tmp_path / "executor", tmp_path / "starts"
    program.symlink_to(EXECUTOR)
    daemon = vgpufs({"pool B": {"executor": str(program)}})
    failing = tmp_path / "failing"
    failing.write_text(f"#!/bin/sh\ncat /proc/uptime >> {starts}\nexit 1\n")
    failing.chmod(0o755)
    program.unlink()
    program.symlink_to(failing)
    os.kill(daemon.executor_pid("B.0"), signal.SIGKILL)

    def times():
        lines = starts.read_text().splitlines(keepends=True) if starts.exists() else []
        return [float(line.split()[0]) for line in lines if line.endswith("\n")]

    wait_until(lambda: len(times()) >= 5, what="it is started again and again")
    began = times()
    pauses = [later - earlier for earlier, later in zip(began, began[1:])]
    for pause, least in zip(pauses, (0.1, 0.2, 0.4, 0.8)):
        assert pause > least - 0.02, pauses  # the kernel tells hundredths


def test_a_silent_executor(vgpufs):
    """No hello at all, as from an ssh that waits for a password: the daemon starts without it."""
    daemon = vgpufs(faulty("silent"))
    daemon.vm(3).submit("B:1:3:NOP tag=waits deadline=1")
    assert daemon.vm(4).run("NOP").header["status"] == "done"
    assert daemon.vm(3).job_result("waits").header["status"] == "timeout"
    assert slot(daemon)["state"] not in ("idle", "busy")


def test_an_evil_hello(vgpufs):
    daemon = vgpufs(faulty("evil_hello"))
    header = daemon.vm(3).run("B:1:3:NOP").header
    assert header["status"] == "done"
    assert header["device"].startswith('evil"')
    assert slot(daemon)["device"].startswith('evil"')
    assert_clean_log(daemon)


def test_readings_that_are_none(vgpufs):
    """Only numbers that can be are shown; and counted, where they are counts."""
    daemon = vgpufs(faulty("evil_reading"))
    assert list(slot(daemon))[5:] == []
    for count in (1, 2):
        assert daemon.vm(3).run("B:1:3:SLEEP ms=1").header["status"] == "done"
        assert list(slot(daemon).items())[5:] == [
            ("temperature_c", "7"), ("utilisation_percent", "7"), ("memory_used_bytes", "7"),
            ("xid_events", str((7 + 1001) * count)), ("last_xid", "7")]
    assert restarts(daemon) == 0
    assert_clean_log(daemon)


# --- devices in doubt ----------------------------------------------------------------------------

def pool_state(daemon, pool="B"):
    return daemon.stats()[f"pool {pool}"]["state"]


def document_of(daemon, pool="B"):
    return next(each for each in json.loads(read_file(daemon.path("stats.json")))["pools"]
                if each["name"] == pool)


@pytest.mark.parametrize("how", ["fail", "crash"])
def test_a_lost_device(vgpufs, tmp_path, how):
    """Its job fails; the pool is failing from the first failed probe on to the first that passes.
    What is submitted meanwhile waits. Nobody is blamed, and the other pool runs."""
    bad = tmp_path / "marker.bad"
    daemon = vgpufs(faulty("probed_device", tmp_path / "marker"))
    vm = daemon.vm(3)
    assert vm.run("B:1:3:NOP").header["status"] == "done"
    assert "the probe" not in daemon.log(), "who starts well is not probed"
    bad.write_text(how)
    failed = vm.run("B:1:3:SLEEP ms=1").header
    assert (failed["status"], failed["error"]) == ("failed", "device lost")
    wait_until(lambda: pool_state(daemon) == "failing", what="the pool is failing")
    wait_until(lambda: slot(daemon)["state"] == "failing", what="its slot is")
    assert document_of(daemon)["state"] == "failing"
    assert 'vgpufs_pool_failing{pool="B"} 1\n' in read_file(daemon.path("metrics")).decode()
    vm.submit("B:1:3:NOP tag=waits")
    assert daemon.vm(4).run("NOP").header["status"] == "done"
    assert pool_state(daemon, "A") == "running"
    wait_until(lambda: daemon.log().count("the probe fails") >= 3, what="it is probed again")
    assert vm.job_status("waits")["state"] == "queued"
    bad.unlink()
    assert vm.job_result("waits").header["status"] == "done"
    assert pool_state(daemon) == "running"
    assert 'vgpufs_pool_failing{pool="B"} 0\n' in read_file(daemon.path("metrics")).decode()
    assert vm.status()["vm 3"]["crashes"] == "0"
    assert daemon.log().count("is failing") == daemon.log().count("it serves again") == 1


def test_a_probe_that_passes_changes_nothing(vgpufs, tmp_path):
    daemon = vgpufs(faulty("probed_device", tmp_path / "marker"))
    vm = daemon.vm(3)
    assert vm.run("B:1:3:SLEEP ms=1").header["status"] == "failed"
    assert vm.run("B:1:3:NOP").header["status"] == "done"
    assert daemon.log().count("the probe passes") == 1
    assert "is failing" not in daemon.log()


@pytest.mark.parametrize("mode", ["probed_crash", "probed_sticky"])
def test_crashing_jobs_do_not_make_a_pool_fail(vgpufs, tmp_path, mode):
    """However many in a row: what comes between them are probes, and these pass."""
    config = faulty(mode, tmp_path / "marker")
    config["defaults"] = {"max_crashes": "0"}
    daemon = vgpufs(config)
    vm, other = daemon.vm(3), daemon.vm(4)
    for i in range(8):
        assert vm.run("B:1:3:SLEEP ms=1").header["status"] == "failed"
        assert pool_state(daemon) == "running"
        wait_until(lambda: vm.status()["vm 3"]["crashes"] == str(i + 1), what="it is counted")
    assert other.run("B:1:4:NOP").header["status"] == "done"
    assert daemon.log().count("the probe passes") >= 5
    assert "is failing" not in daemon.log()


def test_an_executor_that_serves_again(vgpufs, tmp_path):
    """Starts that fail make the pool failing, and one that does not takes it back."""
    program = tmp_path / "executor"
    config = {"pool B": {"executor": str(program)}}
    program.symlink_to(EXECUTOR)
    daemon = vgpufs(config)
    vm = daemon.vm(3)
    assert vm.run("B:1:3:NOP").header["status"] == "done"
    program.unlink()
    os.kill(daemon.executor_pid("B.0"), signal.SIGKILL)
    wait_until(lambda: pool_state(daemon) == "failing", what="the pool is failing")
    vm.submit("B:1:3:NOP tag=waits")
    assert daemon.vm(4).run("NOP").header["status"] == "done"
    program.symlink_to(EXECUTOR)
    assert vm.job_result("waits").header["status"] == "done"
    assert pool_state(daemon) == "running"


# --- VMs that crash executors --------------------------------------------------------------------

def test_max_crashes(vgpufs):
    """After so many in a row the VM is held; the others are served; the administrator releases it."""
    config = faulty("crash")
    config["defaults"] = {"max_crashes": "3"}
    daemon = vgpufs(config)
    vm = daemon.vm(3)
    for i in range(1, 4):
        assert vm.run("B:1:3:SLEEP ms=1").header["status"] == "failed"
        wait_until(lambda: vm.status()["vm 3"]["crashes"] == str(i), what=f"{i} crashes")
    wait_until(lambda: vm.status()["vm 3"]["held"] == "yes", what="the VM is held")
    vm.submit("B:1:3:NOP tag=held")
    assert daemon.vm(4).run("B:1:4:NOP").header["status"] == "done"
    assert vm.job_status("held")["state"] == "queued"
    assert daemon.stats()["vm 3"]["crashes"] == "3"
    daemon.ctl("release vm3")
    assert vm.job_result("held").header["status"] == "done"
    assert vm.status()["vm 3"]["held"] == "no"


def test_time_outs_count(vgpufs):
    """A job that has to be killed for its time is as good as one that crashes."""
    config = faulty("hang")
    config["defaults"] = {"max_crashes": "2"}
    daemon = vgpufs(config)
    vm = daemon.vm(3)
    for i in range(1, 3):
        header = vm.run("B:1:3:SLEEP ms=1 timeout=1").header
        assert header["status"] == "timeout"
        assert int(header["run_us"]) >= 1000000, "it had its time"
        wait_until(lambda: vm.status()["vm 3"]["crashes"] == str(i), what=f"{i} are counted")
    wait_until(lambda: vm.status()["vm 3"]["held"] == "yes", what="the VM is held")
    assert daemon.vm(4).run("B:1:4:NOP").header["status"] == "done"


def test_crashes_in_between_do_not_count(vgpufs):
    config = faulty("crash")
    config["defaults"] = {"max_crashes": "2"}
    daemon = vgpufs(config)
    vm = daemon.vm(3)
    for _ in range(3):
        assert vm.run("B:1:3:SLEEP ms=1").header["status"] == "failed"
        assert vm.run("B:1:3:NOP").header["status"] == "done"
    assert vm.status()["vm 3"]["held"] == "no"
    assert restarts(daemon) == 3


# --- one process, jobs of many VMs ---------------------------------------------------------------

# Small jobs whose arrays come from the heap, with all that they can write.
COMPUTING = [
    "VECTOR_ADD n=3001 out=out", "MATRIX_MUL m=20 n=21 k=22 out=out", "SAXPY n=3001 out=out",
    "REDUCE n=3001", "SORT n=3001 out=out", "MONTE_CARLO_PI n=3001", "FFT n=64 batch=3 out=out",
    "DOT n=3001", "SCAN n=3001 out=out", "HISTOGRAM n=3001 out=out", "TRANSPOSE m=21 n=30 out=out",
    "SHA256 n=3001 out=out", "CONV2D h=20 w=31 k=3 out=out",
    "BLACK_SCHOLES n=3001 call=out put=put", "NBODY n=21 steps=2 out=out"]


def test_results_hold_nothing_of_the_heap(vgpufs):
    """What an earlier job has left in an executor's memory must not get into a result: it does not
    change when that memory is filled with other bytes (mallopt(3), M_PERTURB)."""
    daemon = vgpufs({f"pool {pool}": {"executor": f"env MALLOC_PERTURB_={byte} {EXECUTOR}"}
                     for pool, byte in (("A", 85), ("B", 170))})
    found = {}
    for pool, number in (("A", 3), ("B", 4)):
        vm = daemon.vm(number)
        found[pool] = []
        for line in COMPUTING:
            result = vm.run(f"{pool}:1:{number}:{line}")
            assert result.header["status"] == "done", result.raw
            files = {name: read_file(vm.data / name) for name in sorted(os.listdir(vm.data))}
            found[pool].append((line, without_times(result.body), files))
    for one, other in zip(found["A"], found["B"], strict=True):
        assert one == other
