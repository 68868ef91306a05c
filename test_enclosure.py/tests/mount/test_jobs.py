"""jobs/<tag>/: the directory flow, cancelling, and many writers at once."""
import multiprocessing
import os
import time

import pytest

from harness import (FACTOR, Background, errno_of, parse_result, quoted, read_file, shell,
                     wait_until, without_times, write_file)


# --- the flow ------------------------------------------------------------------------------------

def test_the_contracts_session(vm):
    status, output, error = shell(f"cd {quoted(vm.dir)} && mkdir jobs/fft1 && "
                                  "echo 'VECTOR_ADD n=8' > jobs/fft1/command && "
                                  "cat jobs/fft1/result && rmdir jobs/fft1")
    assert (status, error) == (0, "")
    header = parse_result(output.encode()).header
    assert (header["status"], header["tag"], header["job"]) == ("done", "fft1", "1")
    assert vm.jobs() == set()


def test_status_over_a_life(mount, vm):
    os.mkdir(vm.job("x"))
    status = vm.job_status("x")
    assert (status["job"], status["tag"]) == ("1", "x")
    assert list(status)[:6] == ["job", "tag", "state", "position", "age_ms", "progress"]
    mount.ctl(f"hold vm{vm.number}")
    write_file(vm.job("x") / "command", "SLEEP ms=200\n")
    assert vm.job_status("x")["state"] == "queued"
    assert vm.job_status("x")["position"] == "1"
    mount.ctl(f"release vm{vm.number}")
    vm.wait_state("x", "running")
    assert vm.job_result("x").header["status"] == "done"
    assert vm.job_status("x")["state"] == "done"


def test_positions_count_those_ahead(vgpufs):
    daemon = vgpufs()
    daemon.ctl("hold A")
    vm = daemon.vm(1)
    vm.submit("NOP tag=a", "NOP tag=b", "A:2:1:NOP tag=c", "A:0:1:NOP tag=d")
    positions = {tag: vm.job_status(tag)["position"] for tag in "abcd"}
    assert positions == {"c": "1", "a": "2", "b": "3", "d": "4"}
    assert [line.tag for line in daemon.queue()] == ["c", "a", "b", "d"]
    daemon.ctl("release A")


def test_progress_of_a_running_job(vm):
    vm.submit("SLEEP ms=1500 tag=x")
    vm.wait_state("x", "running")
    wait_until(lambda: vm.job_status("x")["state"] != "running"
               or vm.job_status("x")["progress"] != "-", what="progress or the end")
    progress = vm.job_status("x")["progress"]
    assert progress == "-" or 0 <= float(progress.rstrip("%")) <= 100


def test_submitted_jobs_have_a_directory(vm):
    vm.submit("VECTOR_ADD n=8 seed=1")
    assert vm.jobs() == {"1"}
    assert read_file(vm.job(1) / "command").rstrip(b"\n") == b"VECTOR_ADD n=8 seed=1"
    assert vm.job_result(1) == vm.result()


def test_rmdir_forgets(vm):
    vm.make_job("x", "NOP")
    vm.job_result("x")
    os.rmdir(vm.job("x"))
    assert vm.jobs() == set()
    assert errno_of(os.lstat, vm.job("x")) == "ENOENT"
    assert errno_of(os.rmdir, vm.job("x")) == "ENOENT"
    os.mkdir(vm.job("x"))
    assert vm.job_status("x")["job"] == "2", "a number is never used twice"


def test_rmdir_of_the_newest_job(vm):
    vm.run("NOP tag=x")
    os.rmdir(vm.job("x"))
    assert vm.result().header["status"] == "idle"
    assert vm.newest()["state"] == "idle"


def test_rmdir_cancels(mount, vm):
    vm.submit("SLEEP ms=60000 tag=running", "SLEEP ms=60000 tag=queued")
    vm.wait_state("running", "running")
    reader = Background(vm.job_result, "queued").blocked()
    wait_until(lambda: vm.status()[f"vm {vm.number}"]["queued"] == "1", what="one queued")
    os.rmdir(vm.job("queued"))
    assert reader.value().header["status"] == "cancelled"
    os.rmdir(vm.job("running"))
    assert vm.jobs() == set()
    wait_until(lambda: vm.status()[f"vm {vm.number}"]["running"] == "0", what="nothing runs")
    assert vm.run("NOP").header["status"] == "done"


def test_open_files_of_a_removed_job(vm):
    """As with any unlinked file: a descriptor opened before is no way to crash."""
    vm.make_job("x", "NOP")
    whole = vm.job_result("x").raw
    fds = [os.open(vm.job("x") / "result", os.O_RDONLY), os.open(vm.job("x") / "status", os.O_RDONLY)]
    command = os.open(vm.job("x") / "command", os.O_RDWR)
    os.rmdir(vm.job("x"))
    try:
        assert os.pread(fds[0], 4096, 0) == whole
    except OSError as error:
        assert error.errno == 116  # ESTALE
    assert errno_of(os.pread, fds[1], 4096, 0) in (None, "ESTALE")
    assert errno_of(os.write, command, b"NOP\n") in ("ESTALE", "EEXIST")
    for fd in (*fds, command):
        errno_of(os.close, fd)
    assert vm.run("NOP").header["status"] == "done"


def test_the_command_of_a_removed_job(mount, vm):
    """The same line once more is accepted as long as there is a job for it."""
    mount.ctl(f"hold vm{vm.number}")
    os.mkdir(vm.job("x"))
    command = os.open(vm.job("x") / "command", os.O_WRONLY)
    for _ in range(2):
        assert os.write(command, b"NOP\n") == 4
    os.rmdir(vm.job("x"))
    assert errno_of(os.write, command, b"NOP\n") == "ESTALE"
    assert vm.newest()["state"] == "rejected"
    errno_of(os.close, command)
    assert vm.jobs() == set()
    mount.ctl(f"release vm{vm.number}")


def test_the_working_directory_is_removed(vm):
    os.mkdir(vm.job("here"))
    status, _, _ = shell(f"cd {quoted(vm.job('here'))} && rmdir ../here && ls; cat status")
    assert status != 0
    assert vm.run("NOP").header["status"] == "done"


# --- cancel --------------------------------------------------------------------------------------

@pytest.mark.parametrize("state", ["running", "queued"])
def test_cancel(vm, state):
    vm.submit("SLEEP ms=60000 tag=running", "SLEEP ms=60000 tag=queued")
    vm.wait_state("running", "running")
    vm.ctl(f"cancel {state}")
    header = vm.job_result(state).header
    assert header["status"] == "cancelled"
    assert vm.job_status(state)["state"] == "cancelled"
    vm.ctl("cancel all")
    assert {vm.job_result(tag).header["status"] for tag in ("running", "queued")} == {"cancelled"}
    assert vm.run("NOP").header["status"] == "done"


def test_cancel_all_is_the_vms_own(mount, vm, unused_vms):
    other = mount.vm(next(unused_vms))
    other.submit("SLEEP ms=300 tag=other")
    vm.submit(*[f"SLEEP ms=60000 tag=t{i}" for i in range(10)])
    vm.ctl("cancel all")
    assert {vm.job_result(f"t{i}").header["status"] for i in range(10)} == {"cancelled"}
    assert other.job_result("other").header["status"] == "done"


def test_cancel_of_what_is_not_there(vm):
    assert errno_of(vm.ctl, "cancel nothing") == "EINVAL"
    assert vm.status()["last_error"]["errno"] == "EINVAL"
    vm.run("NOP tag=ended")
    vm.ctl("cancel ended")
    assert vm.job_result("ended").header["status"] == "done"
    vm.ctl("cancel all")


@pytest.mark.parametrize("wrong", ["cancel nothing", "bogus", "cancel", "cancel a b"])
def test_ctl_is_all_or_none(mount, vm, wrong):
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP tag=a", "NOP tag=b")
    assert errno_of(vm.ctl, f"cancel a\n{wrong}\ncancel b") == "EINVAL"
    assert vm.status()["last_error"]["line"] == wrong
    assert [vm.job_status(tag)["state"] for tag in "ab"] == ["queued", "queued"]
    vm.ctl("cancel a\ncancel b")
    assert [vm.job_status(tag)["state"] for tag in "ab"] == ["cancelled", "cancelled"]
    mount.ctl(f"release vm{vm.number}")


def test_cancel_of_a_running_job_frees_the_slot(vm):
    vm.submit("SLEEP ms=60000 tag=long", "NOP tag=next")
    vm.wait_state("long", "running")
    started = time.monotonic()
    vm.ctl("cancel long")
    assert vm.job_result("next").header["status"] == "done"
    assert time.monotonic() - started < 15 * FACTOR


# --- retention -----------------------------------------------------------------------------------

def test_retained_jobs(vgpufs):
    """Of ended jobs those that were read go first."""
    vm = vgpufs({"defaults": {"retain_jobs": "4"}}).vm(1)
    vm.submit(*[f"NOP tag=t{i}" for i in range(4)])
    for i in (1, 2):
        vm.job_result(f"t{i}")
    wait_until(lambda: all(vm.job_status(f"t{i}")["state"] == "done" for i in range(4)),
               what="all four end")
    vm.run("NOP tag=t4")
    wait_until(lambda: len(vm.jobs()) == 4, what="4 jobs are retained")
    assert {"t0", "t3", "t4"} <= vm.jobs()
    assert len(vm.jobs() & {"t1", "t2"}) == 1


def test_retained_for_a_time(vgpufs):
    vm = vgpufs({"defaults": {"retain_for": "1s"}}).vm(1)
    vm.run("NOP tag=old")
    assert vm.jobs() == {"old"}
    # The end of another job is when the daemon looks.
    wait_until(lambda: vm.run("NOP") and "old" not in vm.jobs(), what="the job is forgotten")
    assert errno_of(read_file, vm.job("old") / "result") == "ENOENT"


# --- many writers --------------------------------------------------------------------------------

# The contract's size; sanitizers and small machines take a tenth.
JOBS = 1000 if FACTOR == 1 else 100
PROCESSES, VMS, SEEDS = 8, (1, 2), 50


def by_submit(vm, tag, line):
    vm.submit(f"{line} tag={tag}")


def by_directory(vm, tag, line):
    vm.make_job(tag, line)


def work(daemon, number, process, expected, answers):
    """One process of one VM: half by `submit` with tags, half by directories; every result read."""
    vm, numbers = daemon.vm(number), []
    try:
        for i in range(JOBS):
            tag, seed = f"p{process}-{i}", (process * JOBS + i * 7) % SEEDS
            (by_submit, by_directory)[i % 2](vm, tag, f"VECTOR_ADD n=64 seed={seed}")
            result = vm.job_result(tag)
            assert result.header["status"] == "done", result.raw
            assert result.header["tag"] == tag, result.raw
            assert without_times(result.body) == expected[seed], (seed, result.raw)
            numbers.append(int(result.header["job"]))
            if i % 4 == 0:
                os.rmdir(vm.job(tag))
        answers.put((number, process, numbers, None))
    except BaseException as problem:
        answers.put((number, process, numbers, repr(problem)))


@pytest.mark.limit(400)
def test_many_writers(vgpufs):
    total = PROCESSES * JOBS
    daemon = vgpufs({
        "defaults": {"max_queued": "10000", "max_jobs": "20000", "retain_jobs": "20000"},
        "pool A": {"slots": "2", "max_queued": "100000"}, "vm 2": {"pool": "B", "priority": "1"},
        "vgpufs": {"log_level": "warning"}})
    # What each seed gives, from a VM of its own, one at a time.
    expected = [without_times(daemon.vm(3).run(f"VECTOR_ADD n=64 seed={seed}").body)
                for seed in range(SEEDS)]
    assert len(set(expected)) == SEEDS
    answers = multiprocessing.Queue()
    processes = [multiprocessing.Process(target=work, args=(daemon, vm, i, expected, answers))
                 for vm in VMS for i in range(PROCESSES)]
    for process in processes:
        process.start()
    numbers = {vm: [] for vm in VMS}
    try:
        for _ in processes:
            vm, process, jobs, problem = answers.get(timeout=350 * FACTOR)
            assert problem is None, f"vm{vm} process {process}: {problem}"
            assert len(jobs) == JOBS
            numbers[vm] += jobs
    finally:
        for process in processes:
            process.kill()
            process.join()
    stats = daemon.stats()
    for vm in VMS:
        assert sorted(numbers[vm]) == list(range(1, total + 1)), "each number once, none left out"
        assert stats[f"vm {vm}"]["done"] == str(total), "none ran twice, none was lost"
        assert stats[f"vm {vm}"]["queued"] == stats[f"vm {vm}"]["running"] == "0"
        assert len(daemon.vm(vm).jobs()) == total - total // 4
    assert int(stats["vgpufs"]["done"]) == int(stats["vgpufs"]["submitted"]) == 2 * total + SEEDS


def test_a_full_queue_in_one_batch(vgpufs):
    """Thousands of queued jobs: each tag is answered by its own job."""
    vm = vgpufs({"defaults": {"max_queued": "5000", "max_jobs": "5000", "retain_jobs": "5000"}}).vm(1)
    vm.submit(*[f"VECTOR_ADD n={i + 1} seed=1 tag=t{i}" for i in range(3000)])
    for i in range(3000):
        result = vm.job_result(f"t{i}")
        assert result.header["status"] == "done"
        assert result.body.startswith(f"n={i + 1} ".encode()), result.raw


def test_mkdir_and_rmdir_race(vm):
    """Many threads fight for one name; one wins each time, and nothing breaks."""
    def fight(seed):
        wins = 0
        for _ in range(100):
            try:
                os.mkdir(vm.job("one"))
            except FileExistsError:
                continue
            wins += 1
            errno_of(write_file, vm.job("one") / "command", f"NOP timeout={seed + 1}\n")
            os.rmdir(vm.job("one"))
        return wins

    fighters = [Background(fight, seed) for seed in range(8)]
    assert sum(fighter.value() for fighter in fighters) > 0
    assert vm.jobs() == set()
    assert vm.run("NOP").header["status"] == "done"
