"""stats, stats.json, metrics and queue: one snapshot in three forms, and numbers that agree."""
import json
import re
import subprocess
import threading

import pytest

from harness import (BACKEND, FACTOR, VGPUCTL, Background, errno_of, read_file, run,
                     wait_until)

POOL_KEYS = ("state order queued queued_high queued_medium queued_low running oldest_wait_ms done "
             "failed cancelled timeout wait_us_p50 wait_us_p99 run_us_p50 run_us_p99 device_us "
             "executor_restarts").split()
VM_KEYS = ("pool priority queued running done failed cancelled timeout device_us crashes "
           "identity_rejected data_bytes held").split()


def mixed_work(daemon):
    """Some of everything: 6 done, 1 failed, 1 cancelled, 1 timeout in pool A; 2 done in B."""
    vm = daemon.vm(3)
    for i in range(5):
        vm.run(f"VECTOR_ADD n=1000 seed={i}")
    vm.run("VECTOR_ADD a=none b=none out=z")
    vm.submit("SLEEP ms=60000 tag=long", "NOP tag=late deadline=1")
    vm.job_result("late")
    vm.ctl("cancel long")
    vm.job_result("long")
    vm.run("NOP")
    for _ in range(2):
        daemon.vm(4).run("B:2:4:NOP")
    wait_until(lambda: daemon.stats()["vgpufs"]["submitted"] == "11", what="11 submissions")


def test_before_any_job(vgpufs):
    daemon = vgpufs({"vgpufs": {"vms": "1-3"}})
    stats = daemon.stats()
    assert list(stats)[:4] == ["version 1", "vgpufs", "pool A", "pool B"]
    assert list(stats["vgpufs"])[:5] == ["state", "uptime_s", "submitted", "done", "failed"]
    assert list(stats["pool A"])[:len(POOL_KEYS)] == POOL_KEYS
    assert list(stats["vm 3"])[:len(VM_KEYS)] == VM_KEYS
    assert {name for name in stats if name.startswith("vm ")} == {"vm 1", "vm 2", "vm 3"}
    for key in ("queued", "running", "done", "failed", "cancelled", "timeout", "executor_restarts"):
        assert stats["pool A"][key] == "0"
    assert read_file(daemon.path("queue")) == b""


def test_slots(vgpufs):
    daemon = vgpufs({"pool A": {"slots": "2"}})
    pid = daemon.executor_pid("A.1")
    wait_until(lambda: daemon.stats()["slot A.1"]["state"] == "idle", what="A.1 is idle")
    slot = daemon.stats()["slot A.1"]
    assert list(slot)[:5] == ["state", "backend", "device", "host", "pid"]
    assert slot["backend"] == BACKEND and int(slot["pid"]) == pid
    daemon.vm(3).submit("SLEEP ms=60000")
    wait_until(lambda: "busy" in [daemon.stats()[f"slot A.{i}"]["state"] for i in (0, 1)],
               what="one is busy")
    daemon.vm(3).ctl("cancel all")


def test_numbers_agree(vgpufs):
    daemon = vgpufs()
    mixed_work(daemon)
    stats = daemon.stats()
    a, b, vm = stats["pool A"], stats["pool B"], stats["vm 3"]
    assert [a[key] for key in ("done", "failed", "cancelled", "timeout")] == ["6", "1", "1", "1"]
    assert [vm[key] for key in ("done", "failed", "cancelled", "timeout")] == ["6", "1", "1", "1"]
    assert b["done"] == stats["vm 4"]["done"] == "2"
    assert stats["vgpufs"]["done"] == "8"
    assert int(a["wait_us_p50"]) <= int(a["wait_us_p99"])
    assert 0 < int(a["run_us_p50"]) <= int(a["run_us_p99"])
    # Each counts for itself when it hears of the end.
    assert abs(int(a["device_us"]) - int(vm["device_us"])) < 100_000 * FACTOR
    assert int(vm["device_us"]) > 900_000


def test_queued_and_oldest(vgpufs):
    daemon = vgpufs()
    daemon.ctl("hold A")
    for priority, count in ((0, 3), (1, 2), (2, 1)):
        for _ in range(count):
            daemon.vm(5).submit(f"A:{priority}:5:NOP")
    stats = daemon.stats()
    queued = [stats["pool A"][f"queued{end}"] for end in ("", "_high", "_medium", "_low")]
    assert queued == ["6", "1", "2", "3"]
    assert stats["vm 5"]["queued"] == "6"
    wait_until(lambda: int(daemon.stats()["pool A"]["oldest_wait_ms"]) > 100, what="it grows")
    assert [line.priority for line in daemon.queue()] == ["2", "1", "1", "0", "0", "0"]
    daemon.ctl("release A")


def flatten(value, prefix=""):
    """Every leaf of a JSON document: {path: value}."""
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, child in pairs
                for path, leaf in flatten(child, f"{prefix}/{key}").items()}
    return {prefix: value}


def test_json(vgpufs):
    daemon = vgpufs({"vgpufs": {"vms": "3-4"}})
    mixed_work(daemon)
    document = json.loads(read_file(daemon.path("stats.json")))
    assert document["version"] == 1
    leaves = flatten(document)
    # A quantile is {"wait_us": {"p50": …}} here and wait_us_p50 in the text.
    names = {"_".join(path.split("/")[-count:]) for path in leaves for count in (1, 2)}
    assert set(POOL_KEYS) <= names and set(VM_KEYS) <= names
    # The same numbers as in the text, each as a number (a process has its name, not a number).
    done = [value for path, value in leaves.items() if path.endswith("/done")]
    assert sorted(done) == sorted([8, 6, 2, 6, 2])
    assert [path for path, value in leaves.items() if isinstance(value, str) and value.isdigit()
            and not path.endswith("/pid")] == []


SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)'
                    r'(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def samples(text):
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            key = match[1], tuple(sorted(LABEL.findall(match[2] or "")))
            assert key not in found, f"{line}: a second sample"
            found[key] = float(match[3])
    return found


def metrics(daemon):
    return read_file(daemon.path("metrics")).decode()


def test_metrics(vgpufs):
    daemon = vgpufs()
    mixed_work(daemon)
    text = metrics(daemon)
    found = samples(text)
    assert all(name.startswith("vgpufs_") for name, _ in found)
    declared = set(re.findall(r"^# TYPE (\S+) ", text, re.M))
    assert declared == set(re.findall(r"^# HELP (\S+) ", text, re.M))
    for name, _ in found:
        assert name in declared or re.sub(r"_(bucket|sum|count)$", "", name) in declared, name


@pytest.mark.parametrize("what", ["wait", "run"])
def test_histograms(vgpufs, what):
    daemon = vgpufs()
    mixed_work(daemon)
    found = samples(metrics(daemon))
    (name,) = {name for name, _ in found if re.search(rf"_{what}_\w*bucket$", name)}
    buckets = sorted((float(dict(labels)["le"]), value) for (key, labels), value in found.items()
                     if key == name and dict(labels)["pool"] == "B")
    assert buckets[-1][0] == float("inf")
    assert [value for _, value in buckets] == sorted(value for _, value in buckets), "cumulative"
    count = found[(name.replace("_bucket", "_count"), (("pool", "B"),))]
    assert buckets[-1][1] == count == 2
    assert found[(name.replace("_bucket", "_sum"), (("pool", "B"),))] > 0


def test_promtool(vgpufs):
    """Prometheus's own checker (Debian: prometheus) takes it, and finds nothing to lint."""
    daemon = vgpufs()
    mixed_work(daemon)
    checked = subprocess.run(["promtool", "check", "metrics"], input=metrics(daemon), text=True,
                             capture_output=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stderr == ""


def test_the_three_under_load(vgpufs):
    """They can be read at any time, their counters never go back, and they agree in the end."""
    daemon = vgpufs({"vgpufs": {"vms": "1-3"},
                     "defaults": {"max_queued": "1000", "max_jobs": "9000"}})
    stop = threading.Event()

    def load(number):
        vm = daemon.vm(number)
        while not stop.is_set():
            assert errno_of(vm.submit, *["NOP"] * 20) in (None, "EDQUOT")
            vm.result()

    workers = [Background(load, number) for number in (1, 2, 3)]
    try:
        last = 0
        for _ in range(60):
            stats = daemon.stats()
            assert last <= int(stats["vgpufs"]["done"]) <= int(stats["vgpufs"]["submitted"])
            last = int(stats["vgpufs"]["done"])
            json.loads(read_file(daemon.path("stats.json")))
            samples(metrics(daemon))
    finally:
        stop.set()
    for worker in workers:
        worker.value()
    wait_until(lambda: daemon.queue() == [], what="the queue is empty")
    stats = daemon.stats()
    done = int(stats["vgpufs"]["done"])
    assert done == int(stats["vgpufs"]["submitted"]) > 0
    for kind, names in (("vm", (1, 2, 3)), ("pool", "AB")):
        assert sum(int(stats[f"{kind} {name}"]["done"]) for name in names) == done


def test_the_log(vgpufs):
    daemon = vgpufs({"vgpufs": {"stats_log_interval": "1"}})
    vm = daemon.vm(3)
    vm.run("A:2:3:VECTOR_ADD n=8 tag=x")
    for event in (r"\[ENQUEUE\] Pool A: vm=3, prio=2, cmd=VECTOR_ADD, job=1", r"\[PROCESS\] Pool A: ",
                  r"\[RESPONSE\] Sent to vm3: "):
        wait_until(lambda: re.search(event, daemon.log()), what=event)
    wait_until(lambda: re.search(r"queued=\d+.*running=\d+|done=\d+", daemon.log()),
               what="a line of statistics")


def test_the_log_is_limited(vgpufs):
    """At most 100 job lines a second, then a count: in sum each event is there."""
    daemon = vgpufs({"defaults": {"max_queued": "50000", "max_jobs": "50000"},
                     "pool A": {"max_queued": "50000"}})
    vm = daemon.vm(3)
    daemon.ctl("hold A")  # so that nothing but their coming is written
    jobs = 2000
    vm.submit(*["NOP"] * jobs)
    assert daemon.log().count("[ENQUEUE]") <= 200 * FACTOR

    def all_counted():
        nonlocal jobs
        vm.submit("NOP")  # in a later second it has the count written
        jobs += 1
        log = daemon.log()
        left_out = sum(map(int, re.findall(r"(\d+) more lines about jobs were left out", log)))
        assert left_out + log.count("[ENQUEUE]") <= jobs
        return left_out > 0 and left_out + log.count("[ENQUEUE]") == jobs

    wait_until(all_counted, what="the count of all lines about jobs")


def test_log_jobs_off(vgpufs):
    daemon = vgpufs({"vgpufs": {"log_jobs": "no"}})
    daemon.vm(3).run("NOP")
    assert "[ENQUEUE]" not in daemon.log()


@pytest.mark.parametrize("command", ["status", "queue"])
def test_vgpuctl_shows_it(vgpufs, command):
    daemon = vgpufs()
    daemon.vm(3).submit("SLEEP ms=60000 tag=fft1")
    daemon.vm(3).wait_state("fft1", "running")
    status, output, error = run(VGPUCTL, f"--mount={daemon.mountpoint}", command)
    assert (status, error) == (0, "")
    assert ("fft1" if command == "queue" else "A") in output
    daemon.vm(3).ctl("cancel all")
