"""Everything that can go wrong with a device, planted in the stand-in of the driver one by one: each
fault is of the right class, the next job is right, and nothing is left on the device."""
import re
import signal
import time

import pytest

from executor import FACTOR, LEFT_NOTHING, SMALL, Ended, Executor, clean

GONE = (Ended, BrokenPipeError, ConnectionResetError)
# A call that gives something back, and what is left when it fails.
RELEASES = {"cuMemFree": {"memory", "allocations"}, "cuMemFreeAsync": {"memory", "allocations"},
            "cuMemFreeHost": {"host"}, "cuStreamDestroy": {"streams"}, "cuEventDestroy": {"events"},
            "cuModuleUnload": {"modules"}, "cuDevicePrimaryCtxRelease": {"contexts"}}
# Calls by which memory is cleared and given back: when they fail, all goes with the process.
CLEARS = {"cuMemsetD8Async", "cuStreamSynchronize", "cuMemFreeAsync"}
# Calls whose failure costs nobody anything.
HARMLESS = {*RELEASES, "cuCtxSetCurrent", "cuDriverGetVersion", "cuModuleLoadData", "cuDeviceGetUuid",
            "cuMemPoolSetAttribute", "cuDeviceGetDefaultMemPool", "cuMemGetInfo",
            "cuDeviceGetAttribute"}


def learn():
    """What each workload answers without a fault, and how often it makes each call: (those made when
    the executor starts and ends, {workload: (answer, calls up to its end, launches)})."""
    with Executor() as idle:
        started = clean(idle)
    jobs = {}
    for command, arguments in SMALL.items():
        with Executor() as cuda:
            result = cuda.done(command, **arguments)
            account = clean(cuda)
        if result.fields.get("backend") != "cpu":
            jobs[command] = (result.answer, account.calls, sum(account.launches.values()))
    return started, jobs


START, JOBS = learn()
STARTED, PROBES = START.calls, sum(START.launches.values())
NEXT = "VECTOR_ADD"


def closing(call):
    """How many of those are made when the executor ends: it ends a job that does nothing."""
    return JOBS["NOP"][1][call] - STARTED[call] if call in STARTED else 0


def made_by(command):
    """The calls of a job, by name: the numbers of the first and the last."""
    return {call: (STARTED.get(call, 0) - closing(call) + 1, count - closing(call))
            for call, count in JOBS[command][1].items() if count > STARTED.get(call, 0)}


def leaks(account):
    return {name for name, count in re.findall(r"(\w+)=(\d+)", account.left) if count != "0"}


def check_next(cuda):
    assert cuda.done(NEXT, **SMALL[NEXT]).answer == JOBS[NEXT][0]


def test_which_workloads_have_kernels():
    """What is planted below meets something."""
    assert {"VECTOR_ADD", "MATRIX_MUL", "NOP", "SORT", "FFT", "SHA256", "CONV2D", "BLACK_SCHOLES",
            "NBODY"} <= set(JOBS)


# --- out of memory -------------------------------------------------------------------------------

@pytest.mark.parametrize("call", sorted(STARTED))
def test_out_of_memory_at_the_start_and_the_end(call):
    """The executor refuses to serve, or does without; either way nothing is left."""
    for number in range(1, STARTED[call] + 1):
        with Executor(fail=f"{call}:{number}:2") as cuda:
            at_the_end = number > STARTED[call] - closing(call)
            if cuda.refused:
                assert call in cuda.refused or "memory" in cuda.refused
                assert cuda.end() == 1
            else:
                if not at_the_end:
                    check_next(cuda)
                assert cuda.end() == 0
            account = cuda.account()
            if not (call in CLEARS and (cuda.refused or at_the_end)):
                assert leaks(account) <= RELEASES.get(call, set()), (number, account.left)
            assert account.unclear == 0
            assert cuda.refused or call in HARMLESS or at_the_end, number


@pytest.mark.parametrize("command", sorted(JOBS))
def test_out_of_memory_at_every_call(command):
    """The job fails and says which call, and the next is right; or, where memory could not be
    cleared, it goes with the process."""
    for call, (first, last) in made_by(command).items():
        for number in range(first, last + 1):
            with Executor(fail=f"{call}:{number}:2") as cuda:
                result = cuda.run(command, **SMALL[command])
                if result.status == "failed":
                    assert call in result.error or "memory" in result.error, result.error
                    assert result.fields.get("fault", "job") == "job"
                else:
                    assert result.answer == JOBS[command][0]
                if "leaving" in result.fields:
                    assert cuda.process.wait(30 * FACTOR) == 1
                    assert "cannot be cleared" in cuda.log() and call in CLEARS
                    continue
                check_next(cuda)
                assert cuda.end() == 0
                account = cuda.account()
                assert account.left == LEFT_NOTHING, (call, number)
                assert account.unclear == 0
                assert result.status == "failed" or call in HARMLESS, (call, number)


# --- errors after which a process can do no more -------------------------------------------------

@pytest.mark.parametrize("code", [700, 702, 714, 715, 716, 717, 718, 719])
def test_a_sticky_error_ends_the_executor(code):
    for launched in range(PROBES + 1, JOBS["VECTOR_ADD"][2] + 1):
        with Executor(fail=f"launched:{launched}:{code}") as cuda:
            result = cuda.run("VECTOR_ADD", **SMALL["VECTOR_ADD"])
            assert result.status == "failed"
            assert f"({code})" in result.error
            assert (result.fields["fault"], result.fields["leaving"]) == ("sticky", "yes")
            with pytest.raises(GONE):
                cuda.run("NOP")
            assert cuda.process.wait(30 * FACTOR) == 1
            assert f"({code})" in cuda.log()


@pytest.mark.parametrize("command", sorted(JOBS))
def test_a_sticky_error_in_every_kernel(command):
    for launched in range(PROBES + 1, JOBS[command][2] + 1):
        with Executor(fail=f"launched:{launched}:700") as cuda:
            result = cuda.run(command, **SMALL[command])
            assert result.status == "failed" and "(700)" in result.error
            assert (result.fields["fault"], result.fields["leaving"]) == ("sticky", "yes")
            assert cuda.process.wait(30 * FACTOR) == 1


@pytest.mark.parametrize("command", sorted(JOBS))
def test_a_sticky_error_at_every_call(command):
    for call, (first, last) in made_by(command).items():
        for number in range(first, last + 1):
            with Executor(fail=f"{call}:{number}:700") as cuda:
                result = cuda.run(command, **SMALL[command])
                if result.status == "failed":
                    assert "(700)" in result.error
                assert result.fields.get("leaving") == "yes" or call in HARMLESS, (call, number)
                if "leaving" in result.fields:
                    assert cuda.process.wait(30 * FACTOR) == 1
                    assert "(700)" in cuda.log()


@pytest.mark.parametrize("code", [3, 100, 214, 220, 999])
def test_a_device_in_doubt_is_left_to_a_new_process(code):
    with Executor(fail=f"cuLaunchKernel:{STARTED['cuLaunchKernel'] + 1}:{code}") as cuda:
        result = cuda.run("VECTOR_ADD", n=1000)
        assert "probes the device" in result.error
        assert (result.fields["fault"], result.fields["leaving"]) == ("device", "yes")
        assert cuda.process.wait(30 * FACTOR) == 1


# --- errors of one job ---------------------------------------------------------------------------

@pytest.mark.parametrize("code,fault,words", [
    (1, "job", "cuLaunchKernel"), (701, "job", "cuLaunchKernel"), (98, "job", "cuLaunchKernel"),
    (46, "retryable", "try again later"), (802, "retryable", "try again later"),
    (805, "retryable", "try again later"), (807, "retryable", "try again later")])
def test_an_error_that_is_the_jobs_leaves_the_executor(code, fault, words):
    with Executor(fail=f"cuLaunchKernel:{STARTED['cuLaunchKernel'] + 1}:{code}") as cuda:
        result = cuda.run("VECTOR_ADD", n=1000)
        assert result.status == "failed"
        assert f"({code})" in result.error and words in result.error
        assert result.fields["fault"] == fault and "leaving" not in result.fields
        check_next(cuda)
        clean(cuda)


def test_a_kernel_that_never_ends_can_be_killed():
    with Executor(endless=PROBES + 1) as cuda:
        cuda.start("VECTOR_ADD", n=1000)
        time.sleep(0.3)
        assert cuda.process.poll() is None
        cuda.process.send_signal(signal.SIGKILL)
        assert cuda.process.wait(30 * FACTOR) == -signal.SIGKILL


@pytest.mark.parametrize("command", sorted(JOBS))
def test_late_streams(command):
    """Nothing is read, written again or given back before it is there."""
    with Executor(late_us=3000) as cuda:
        assert cuda.done(command, **SMALL[command]).answer == JOBS[command][0]
        check_next(cuda)
        clean(cuda)


@pytest.mark.parametrize("command", sorted(set(JOBS) - {"NOP", "SLEEP"}))
def test_a_kernel_that_does_nothing(command):
    """A device that computes wrongly is found out, or what the kernel did made no difference."""
    failed = 0
    for launched in range(PROBES + 1, JOBS[command][2] + 1):
        with Executor(skip=launched) as cuda:
            result = cuda.run(command, **SMALL[command])
            failed += result.status == "failed"
            check_next(cuda)
            clean(cuda)
    assert failed


# --- entry points that are missing ---------------------------------------------------------------

def entry_points(table):
    """Of a table in api.h."""
    source = open(f"{__file__.rsplit('/', 3)[0]}/vgpufs/executor/cuda/api.h").read()
    found = re.findall(r"ENTRY\((\w+),", source.split(f"#define {table}(ENTRY)")[1].split("\n\n")[0])
    assert found
    return found


@pytest.mark.parametrize("call", entry_points("FOR_EACH_NEEDED_CALL"))
def test_without_a_needed_call(call):
    with Executor(missing=call) as cuda:
        assert f"has no {call}: install" in cuda.refused
        assert cuda.end() == 1


@pytest.mark.parametrize("call", entry_points("FOR_EACH_OPTIONAL_CALL"))
def test_without_an_optional_call(call):
    """It does with less, and says so once."""
    with Executor(missing=call) as cuda:
        for command, (answer, _, _) in JOBS.items():
            assert cuda.done(command, **SMALL[command]).answer == answer
        cuda.done("DEVICE_INFO")
        assert cuda.end() == 0
        assert cuda.log().count(call) == 1
        account = cuda.account()
        assert account.unclear == 0
        assert leaks(account) == ({"modules"} if call == "cuModuleUnload" else set())
