"""The cuda backend of the real vgpu-executor on the stand-in of the driver: what comes out, what is
left behind, and what becomes of every error."""
import array
import os
import random
import struct
import subprocess
import tempfile
import time

import pytest

from executor import (CANCEL, EXECUTOR, FACTOR, LEFT_NOTHING, LIBRARIES, SMALL, STANDIN, Executor,
                      clean, content, file_of)


# --- the same output as on the cpu ---------------------------------------------------------------

ADD_SIZES = [1, 3, 4, 63, 65, 1000, 65535, 65536, 65537, 300001]
PRODUCTS = [(1, 1, 1), (3, 5, 7), (64, 64, 16), (65, 63, 33), (128, 128, 128), (200, 130, 77)]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_made_up_sums_are_the_cpus(cpu, dtype):
    with Executor() as cuda:
        for n in ADD_SIZES:
            wanted = cpu.done("VECTOR_ADD", n=n, seed=n, dtype=dtype)
            assert cuda.done("VECTOR_ADD", n=n, seed=n, dtype=dtype).answer == wanted.answer
        clean(cuda)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_made_up_products_are_the_cpus(cpu, dtype):
    with Executor() as cuda:
        for m, n, k in PRODUCTS:
            arguments = {"m": m, "n": n, "k": k, "seed": 9, "dtype": dtype}
            assert cuda.done("MATRIX_MUL", **arguments).answer == \
                cpu.done("MATRIX_MUL", **arguments).answer
        clean(cuda)


@pytest.mark.parametrize("late_us", [0, 300])
@pytest.mark.parametrize("dtype,typecode", [("f32", "f"), ("f64", "d")])
def test_files_are_added_as_on_the_cpu(cpu, dtype, typecode, late_us):
    """Large enough for three chunks: both lanes are used again. Late streams: nothing is read, or
    written again, before it is there."""
    chooser = random.Random(5)
    some = [chooser.uniform(-1000, 1000) for _ in range(4096)]
    count = {"f": (9 << 20) // 4, "d": (9 << 20) // 8}[typecode] + 17
    a = file_of(typecode, (some * (count // 4096 + 1))[:count])
    b = file_of(typecode, (some[::-1] * (count // 4096 + 1))[7:count + 7])
    with Executor(late_us=late_us) as cuda, tempfile.TemporaryFile() as out, \
            tempfile.TemporaryFile() as cpu_out:
        found = cuda.done("VECTOR_ADD", dtype=dtype, files={"a": a, "b": b, "out": out})
        wanted = cpu.done("VECTOR_ADD", dtype=dtype, files={"a": a, "b": b, "out": cpu_out})
        assert found.answer == wanted.answer
        assert content(out, typecode) == content(cpu_out, typecode)
        assert int(found.fields["copy_us"]) > 0
        assert int(found.fields["compute_us"]) > 0
        assert int(found.fields["verify_us"]) > 0
        for name in ("compute_us", "copy_us", "verify_us"):
            assert found.numbers()[name] == found.fields[name]
        clean(cuda)


def test_made_up_sums_are_written(cpu):
    with Executor() as cuda, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as cpu_out:
        found = cuda.done("VECTOR_ADD", n=70001, files={"out": out})
        assert found.answer == cpu.done("VECTOR_ADD", n=70001, files={"out": cpu_out}).answer
        assert content(out, "f") == content(cpu_out, "f")
        clean(cuda)


@pytest.mark.parametrize("dtype,typecode,roundoff", [("f32", "f", 2**-24), ("f64", "d", 2**-53)])
def test_files_are_multiplied_within_the_bound(cpu, dtype, typecode, roundoff):
    m, n, k = 70, 33, 129
    chooser = random.Random(6)
    a = file_of(typecode, [chooser.uniform(-1, 1) for _ in range(m * k)])
    b = file_of(typecode, [chooser.uniform(-1, 1) for _ in range(k * n)])
    with Executor(late_us=100) as cuda, tempfile.TemporaryFile() as out, \
            tempfile.TemporaryFile() as cpu_out:
        arguments = {"m": m, "n": n, "k": k, "dtype": dtype}
        cuda.done("MATRIX_MUL", files={"a": a, "b": b, "out": out}, **arguments)
        cpu.done("MATRIX_MUL", files={"a": a, "b": b, "out": cpu_out}, **arguments)
        left, right = content(a, typecode), content(b, typecode)
        for i, (found, wanted) in enumerate(zip(content(out, typecode), content(cpu_out, typecode))):
            absolute = sum(abs(left[i // n * k + d] * right[d * n + i % n]) for d in range(k))
            assert abs(found - wanted) <= 2 * 1.01 * (k + 1) * roundoff * absolute
        clean(cuda)


def test_matrices_of_more_than_two_chunks(cpu):
    """32 MiB, through two lanes of 12 MiB: small whole numbers, so that the sums are exact."""
    m, k = 65536, 128
    a = file_of("f", [index % 1021 % 5 for index in range(1021)] * (m * k // 1021 + 1))
    a.truncate(m * k * 4)
    b = file_of("f", [index % 7 for index in range(k)])
    with Executor(late_us=20000) as cuda:
        for arguments in ({"m": m, "n": 1, "k": k, "files": {"a": a, "b": b}},
                          {"m": m, "n": k, "k": 1}):
            assert cuda.done("MATRIX_MUL", **arguments).answer == \
                cpu.done("MATRIX_MUL", **arguments).answer
        clean(cuda)


def test_infinities_and_nans(cpu):
    inf, nan = float("inf"), float("nan")
    for values in ([inf, 1.0], [inf, -inf], [nan, 1.0], [3e38, 3e38], [-0.0, -0.0]):
        a, b = file_of("f", values[:1]), file_of("f", values[1:])
        with Executor() as cuda:
            assert cuda.done("VECTOR_ADD", files={"a": a, "b": b}).answer == \
                cpu.done("VECTOR_ADD", files={"a": a, "b": b}).answer


def test_small_workloads():
    with Executor() as cuda:
        assert cuda.hello["backend"] == "cuda"
        assert "stand-in" in cuda.hello["device"]
        cuda.done("NOP")
        assert int(cuda.done("SLEEP", ms=5).numbers()["slept_ms"]) >= 5
        output = cuda.done("DEVICE_INFO").output
        for line in ("backend=cuda", "compute_capability=7.5", "multiprocessors=2",
                     f"memory_bytes={1 << 30}", "temperature_c=-", "driver_cuda=13.0",
                     "uuid=GPU-00112233-4455-6677-8899-aabbccddee00"):
            assert line + "\n" in output
        clean(cuda)


def test_readings_of_the_management_library():
    nvml = os.path.join(STANDIN, "nvml")
    with Executor(library=f"{STANDIN}:{nvml}") as cuda:
        numbers = dict(line.split("=", 1) for line in cuda.done("DEVICE_INFO").output.splitlines())
        assert numbers["temperature_c"] == "41"
        assert numbers["utilisation_percent"] == "73"
        assert numbers["memory_used_bytes"] == "300"
        clean(cuda)


NVML = os.path.join(STANDIN, "nvml")
WHOLE = 2**32 - 1


def test_readings_are_told_to_who_asks(tmp_path):
    xid = tmp_path / "xid"
    xid.write_text("")
    steady = {"temperature_c": "41", "utilisation_percent": "73", "memory_used_bytes": "300",
              "memory_bytes": "1000"}
    with Executor(library=f"{STANDIN}:{NVML}", readings=True, xid=xid) as cuda:
        assert cuda.reading() == dict(steady, xid_events="0")
        xid.write_text(f"13 {WHOLE}\n31 2\n")
        assert cuda.reading() == dict(steady, xid_events="2", last_xid="31")
        assert cuda.reading() == dict(steady, xid_events="0", last_xid="31")
        output = cuda.done("DEVICE_INFO").output
        for line in ('product="vgpufs test stand-in"', "xid_events=2", "last_xid=31"):
            assert line + "\n" in output
        cuda.readings.clear()
        cuda.done("SLEEP", ms=5000)
        assert 1 <= len(cuda.readings) <= 5
    for library, asks in ((f"{STANDIN}:{NVML}", False), (STANDIN, True)):
        with Executor(library=library, readings=asks) as cuda:
            cuda.done("SLEEP", ms=2500)
            assert cuda.readings == []


def test_the_last_reading_says_why(tmp_path):
    """An executor that leaves tells what the driver has reported before it says so."""
    xid = tmp_path / "xid"
    xid.write_text("")
    with Executor() as probe:
        probes = sum(clean(probe).launches.values())
    with Executor(library=f"{STANDIN}:{NVML}", readings=True, xid=xid,
                  fail=f"launched:{probes + 1}:700") as cuda:
        cuda.reading()
        xid.write_text(f"31 {WHOLE}\n")
        result = cuda.run("VECTOR_ADD", n=1000)
        assert (result.fields["leaving"], result.fields["fault"]) == ("yes", "sticky")
        assert cuda.readings[-1]["last_xid"] == "31"


def test_a_part_of_a_device(tmp_path):
    """Memory is the part's, temperature the device's; errors of other parts are not ours."""
    xid = tmp_path / "xid"
    xid.write_text(f"13 4\n31 3\n13 5\n43 {WHOLE}\n")
    with Executor("--backend=cuda", f"--device=MIG-{UUID}00", readings=True, xid=xid,
                  library=f"{STANDIN}:{NVML}") as cuda:
        assert cuda.reading() == {"temperature_c": "41", "memory_used_bytes": "30",
                                  "memory_bytes": "100", "xid_events": "2", "last_xid": "43"}


def test_a_rejected_job_is_the_jobs_fault(cpu):
    with Executor() as cuda:
        a, b = file_of("f", [1, 2]), file_of("f", [1])
        for executor in (cpu, cuda):
            assert "must be of one size" in executor.run("VECTOR_ADD", files={"a": a, "b": b}).error
        cuda.done("NOP")
        clean(cuda)


def test_cancelled_between_chunks():
    with Executor(late_us=20000) as cuda:
        cuda.start("VECTOR_ADD", n=1 << 34)
        time.sleep(0.2)
        cuda.send(CANCEL)
        assert cuda.result().status == "cancelled"
        cuda.done("VECTOR_ADD", n=1000)
        clean(cuda)


def test_the_pool_keeps_memory_and_nothing_is_made_in_a_job():
    with Executor() as idle:
        before = clean(idle).calls
    with Executor() as cuda:
        cuda.done("VECTOR_ADD", n=100000)
        cuda.done("MATRIX_MUL", m=64, n=64, k=64)
        account = clean(cuda)
    for call in ("cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate",
                 "cuModuleLoadData", "cuModuleGetFunction", "cuCtxSetCurrent"):
        assert account.calls.get(call, 0) == before.get(call, 0), call
    assert account.threshold >= 1 << 28


# --- libraries -----------------------------------------------------------------------------------

def info(executor):
    return executor.done("DEVICE_INFO").output


def cublas(tmp_path, *options, **standin):
    return Executor("--backend=cuda", *options, library=LIBRARIES, exports=1,
                    cublas_log=tmp_path / "log", **standin)


@pytest.mark.parametrize("scrub", ["yes", "no"])
@pytest.mark.parametrize("dtype,typecode,roundoff", [("f32", "f", 2**-24), ("f64", "d", 2**-53)])
def test_products_by_cublas(cpu, tmp_path, dtype, typecode, roundoff, scrub):
    """Made-up input gives the cpu's digits, files its numbers within the bound; without clearing,
    C has nonsense in it before. Late streams: cuBLAS works in the lane's order."""
    with cublas(tmp_path, f"--scrub={scrub}", late_us=300) as cuda:
        assert 'blas="cuBLAS 13.1.2"\n' in info(cuda)
        for m, n, k in PRODUCTS:
            arguments = {"m": m, "n": n, "k": k, "seed": 9, "dtype": dtype}
            assert cuda.done("MATRIX_MUL", **arguments).answer == \
                cpu.done("MATRIX_MUL", **arguments).answer
        wanted = "".join(f"{dtype} {n} {m} {k}\n" for m, n, k in PRODUCTS)
        assert (tmp_path / "log").read_text() == wanted
        m, n, k = 7, 5, 11
        chooser = random.Random(6)
        left, right = ([chooser.uniform(-1, 1) for _ in range(count)] for count in (m * k, k * n))
        a, b = file_of(typecode, left), file_of(typecode, right)
        with tempfile.TemporaryFile() as out:
            cuda.done("MATRIX_MUL", m=m, n=n, k=k, dtype=dtype, files={"a": a, "b": b, "out": out})
            for i, found in enumerate(content(out, typecode)):
                terms = [left[i // n * k + d] * right[d * n + i % n] for d in range(k)]
                assert abs(found - sum(terms)) <= 4 * (k + 1) * roundoff * sum(map(abs, terms))
        if scrub == "yes":
            clean(cuda)


def test_products_by_cublas_in_bands(cpu, tmp_path):
    """More operations than go between two looks at the clock: each band has its rows of A and C."""
    arguments = {"m": 2112, "n": 256, "k": 1024}
    with cublas(tmp_path) as cuda:
        assert cuda.done("MATRIX_MUL", **arguments).answer == \
            cpu.done("MATRIX_MUL", **arguments).answer
    rows = [int(line.split()[2]) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(rows) > 1 and sum(rows) == 2112


@pytest.mark.parametrize("fail,words", [("create:1", "error 1 at its start"), ("gemm:13", "error 13"),
                                        ("gemm:3", "error 3")])
def test_cublas_that_fails_is_left_out(cpu, tmp_path, fail, words):
    with cublas(tmp_path, cublas_fail=fail) as cuda:
        for _ in range(2):
            assert cuda.done("MATRIX_MUL", m=65, n=40, k=30).answer == \
                cpu.done("MATRIX_MUL", m=65, n=40, k=30).answer
        assert 'blas="own kernels (' in info(cuda) and words in info(cuda)
        assert not (tmp_path / "log").exists()
        account = clean(cuda)
        assert sum(count for name, count in account.launches.items()
                   if name.startswith("multiply")) == 2


def test_without_room_for_cublas(cpu, tmp_path):
    """Its workspace counts as the job's memory; a job does not fail for it."""
    with cublas(tmp_path, "--device-memory=1048576") as cuda:
        assert cuda.done("MATRIX_MUL", m=65, n=40, k=30).answer == \
            cpu.done("MATRIX_MUL", m=65, n=40, k=30).answer
        assert not (tmp_path / "log").exists()
        assert 'blas="cuBLAS' in info(cuda)
        clean(cuda)


def test_no_library_for_a_driver_without_tables(tmp_path):
    """It would be loaded for nothing."""
    with Executor(library=LIBRARIES) as cuda:
        assert 'blas="own kernels (cuBLAS: this driver is for the driver API alone)"' in info(cuda)


def test_libraries_of_the_host(cpu):
    output = info(cpu)
    for words in ('blas="OpenBLAS ', 'fft="fftw-3', 'sha256="Nettle '):
        assert "\n" + words in output


# --- which device --------------------------------------------------------------------------------

UUID = "00112233-4455-6677-8899-aabbccddee"


@pytest.mark.parametrize("wanted,number", [("0", 0), ("2", 2), (f"GPU-{UUID}01", 1),
                                           (f"MIG-{UUID}02", 2), (f"GPU-{UUID}", 0)])
def test_device(wanted, number):
    with Executor("--backend=cuda", f"--device={wanted}", devices=3) as cuda:
        assert f"stand-in {number} " in cuda.hello["device"], cuda.refused
        assert cuda.end() == 0


@pytest.mark.parametrize("wanted", ["3", "99999999999", f"GPU-{UUID}07", "MIG-1", "x"])
def test_no_such_device(wanted):
    with Executor("--backend=cuda", f"--device={wanted}", devices=3) as cuda:
        assert "device" in cuda.refused
        assert "nvidia-smi" in cuda.refused
        assert cuda.end() == 1


# --- what is missing -----------------------------------------------------------------------------

def test_no_library():
    with Executor("--backend=cuda", library=None) as cuda:
        assert "libcuda.so.1" in cuda.refused
        assert "install" in cuda.refused
        assert "\n" not in cuda.refused
        assert cuda.end() == 1


@pytest.mark.parametrize("standin,words", [
    ({"stub": 1}, "stub"),
    ({"devices": 0}, "no device"),
    ({"fail": "cuInit:1:803"}, "restart the machine"),
    ({"fail": "cuInit:1:999"}, "nvidia_uvm"),
    ({"driver": 12040}, "the driver knows CUDA 12.4"),
    ({"missing": "cuLaunchKernel"}, "has no cuLaunchKernel"),
    ({"skip": 1}, "computes wrongly"),
])
def test_refused(standin, words):
    with Executor(**standin) as cuda:
        assert words in cuda.refused
        assert "\n" not in cuda.refused
        assert cuda.end() == 1
        if "stub" not in standin and "missing" not in standin:
            assert cuda.account().left == LEFT_NOTHING


@pytest.mark.parametrize("library,words", [(None, "libcuda.so.1"), (STANDIN, "no device")])
def test_auto_takes_the_cpu_and_says_so_once(library, words):
    with Executor("--backend=auto", "--device=0", library=library, devices=0) as auto:
        assert auto.hello["backend"] == "cpu"
        auto.done("VECTOR_ADD", n=1000)
        assert auto.end() == 0
        lines = [line for line in auto.log().splitlines() if "cuda" in line]
        assert len(lines) == 1 and "takes cpu" in lines[0] and words in lines[0]


def test_auto_takes_cuda():
    with Executor("--backend=auto", "--device=0") as auto:
        assert auto.hello["backend"] == "cuda"
        clean(auto)
        assert auto.log() == ""


def test_ptx_alone():
    with Executor(no_fatbin=1) as cuda:
        cuda.done("VECTOR_ADD", n=1000)
        clean(cuda)


# --- memory --------------------------------------------------------------------------------------

def test_a_jobs_memory_is_cleared():
    """A pattern is planted by one VM; the stand-in looks at every byte that is given back."""
    secret = array.array("f", [1.0]).tobytes()
    planted = file_of("f", [1.0] * 100000)
    for missing in ("", "cuMemsetD8Async", "cuMemAllocAsync"):
        with Executor(missing=missing) as cuda:
            cuda.done("VECTOR_ADD", vm=3, files={"a": planted, "b": planted})
            cuda.done("MATRIX_MUL", vm=4, m=40, n=40, k=40)
            account = clean(cuda)
            assert account.peak > 100000 * len(secret)


@pytest.mark.parametrize("scrub", ["yes", "no"])
def test_a_planted_pattern(scrub):
    """What one VM plants, another's job finds where clearing was switched off, and only there: the
    stand-in hands memory out again as it was given back."""
    pattern = struct.unpack("<I", struct.pack("<f", 1.5))[0]
    planted = file_of("f", [1.5] * 100000)
    with Executor("--backend=cuda", f"--scrub={scrub}", pattern=pattern) as cuda:
        cuda.done("VECTOR_ADD", vm=3, files={"a": planted, "b": planted})
        cuda.done("VECTOR_ADD", vm=4, files={"a": planted, "b": planted})
        assert cuda.end() == 0
        account = cuda.account()
        assert account.left == LEFT_NOTHING
        assert (account.seen == 0, account.unclear == 0, account.unwiped == 0) == \
            (scrub == "yes",) * 3, account.text


def test_without_clearing_the_output_is_the_same():
    """No kernel relies on memory that was cleared: the stand-in's is full of nonsense."""
    with Executor("--backend=cuda", "--scrub=no") as other, Executor("--backend=cuda") as cuda:
        for command, arguments in SMALL.items():
            assert other.done(command, **arguments).answer == cuda.done(command, **arguments).answer


def test_the_pools_device_memory():
    """It is the limit of all that a job has at one time."""
    wanted = 3 * 64 * 64 * 4
    for limit, status in ((wanted - 1, "failed"), (wanted, "done")):
        with Executor("--backend=cuda", f"--device-memory={limit}") as cuda:
            for _ in range(2):
                result = cuda.run("MATRIX_MUL", m=64, n=64, k=64)
                assert result.status == status, result.error
                assert ("device_memory" in result.error) == (status == "failed")
                # A job that is small enough runs, after one that was not too.
                cuda.done("MATRIX_MUL", m=32, n=32, k=32)
            assert f"job_memory_bytes={limit}\n" in cuda.done("DEVICE_INFO").output
            account = clean(cuda)
            assert account.peak <= limit and account.threshold <= limit


@pytest.mark.parametrize("percent", ["", "25"])
def test_the_share_under_mps(percent):
    options = [f"--mps-percent={percent}"] if percent else []
    with Executor("--backend=cuda", *options) as cuda:
        assert clean(cuda).mps == percent


@pytest.mark.parametrize("option", ["--scrub=maybe", "--device-memory=0", "--device-memory=1G",
                                    "--mps-percent=101", "--mps-percent=0", "--mps-percent="])
def test_a_wrong_option(option):
    done = subprocess.run([EXECUTOR, option], capture_output=True, text=True, timeout=30 * FACTOR)
    assert done.returncode == 2
    assert done.stderr.startswith("vgpu-executor: " + option) and done.stderr.count("\n") == 1


def test_cleared_after_a_failure_too():
    planted = file_of("f", [1.0] * 100000)
    with Executor() as probe:
        probes = sum(clean(probe).launches.values())
    with Executor(skip=probes + 1) as cuda: # the addition is not done
        result = cuda.run("VECTOR_ADD", files={"a": planted, "b": planted})
        assert result.status == "failed"
        assert "verification failed" in result.error
        cuda.done("VECTOR_ADD", n=1000)
        clean(cuda)


def test_a_wrong_product_is_found():
    with Executor() as probe:
        probes = sum(clean(probe).launches.values())
    with Executor(skip=probes + 3) as cuda:
        result = cuda.run("MATRIX_MUL", m=40, n=40, k=40)
        assert "verification failed" in result.error
        cuda.done("MATRIX_MUL", m=40, n=40, k=40)
        clean(cuda)


def test_more_than_the_device_has():
    with Executor(memory=1 << 20) as cuda:
        result = cuda.run("VECTOR_ADD", n=1 << 20)
        assert result.status == "failed"
        assert "memory" in result.error and "smaller" in result.error
        cuda.done("VECTOR_ADD", n=1000)
        clean(cuda)


# --- programs ------------------------------------------------------------------------------------

@pytest.mark.parametrize("skip,status,words", [(0, 0, "all outputs agree"),
                                               (4, 1, "verification failed")])
def test_gpu_check(skip, status, words):
    """What a person with a device runs: ./dev gpu-check."""
    environment = dict(os.environ, LD_LIBRARY_PATH=STANDIN, STANDIN_SKIP=str(skip))
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpu_check.py")
    done = subprocess.run(["/usr/bin/python3", program, "--small"], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * FACTOR)
    assert done.returncode == status, done.stdout
    assert words in done.stdout


def test_gpu_check_without_a_device():
    environment = dict(os.environ, LD_LIBRARY_PATH="/none")
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpu_check.py")
    done = subprocess.run(["/usr/bin/python3", program], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * FACTOR)
    assert done.returncode == 1
    assert done.stdout.startswith("gpu-check: libcuda.so.1") and done.stdout.count("\n") == 1


def test_list():
    for library, words in ((STANDIN, "stand-in 1 (no GPU)"), (None, "none: libcuda.so.1")):
        # meson has put the stand-in's directory into LD_LIBRARY_PATH.
        environment = dict(os.environ, STANDIN_DEVICES="2", LD_LIBRARY_PATH=library or "/none")
        listed = subprocess.run([EXECUTOR, "--list"], env=environment, capture_output=True,
                                text=True, check=True, timeout=30 * FACTOR).stdout
        assert words in listed
