"""cuFFT, as a stand-in with the documented semantics (cufft/), behind the cuda backend of the real
vgpu-executor: the cpu's output within the bound, what it takes of the device's memory, and what
happens where it fails."""
import array
import math
import os
import random
import tempfile

import pytest

from executor import FACTOR, LIBRARIES, Executor, clean

TYPES = [("f32", "f", 2**-24), ("f64", "d", 2**-53)]
each_type = pytest.mark.parametrize("dtype,typecode,roundoff", TYPES, ids=["f32", "f64"])
each_direction = pytest.mark.parametrize("inverse", ["no", "yes"])
# Without a work area and with one; powers of two, primes, mixed.
TRANSFORMS = [(1, 5), (2, 3), (7, 2), (8, 1), (97, 2), (360, 3), (512, 2), (1000, 1)]
SMALL = {"n": 64, "batch": 3}


def cufft(tmp_path, *options, **standin):
    return Executor("--backend=cuda", *options, library=LIBRARIES, exports=1,
                    cufft_log=tmp_path / "log", **standin)


def info(executor):
    return executor.done("DEVICE_INFO").output


def log(tmp_path, *words):
    """Lines that begin with one of the words."""
    path = tmp_path / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.split()[0] in words]


def bound(n, roundoff):
    """What the workload is verified by."""
    return 21 * (math.log2(n) + 3) * roundoff


def agree(cuda, cpu, roundoff=2**-24, **arguments):
    """The energy of an output is off by twice what its elements are off by, on either side."""
    found, wanted = (executor.done("FFT", **arguments).numbers() for executor in (cuda, cpu))
    assert found.keys() == wanted.keys()
    for key in ("n", "batch", "dtype", "inverse"):
        assert found[key] == wanted[key]
    tolerance = 4 * bound(int(wanted["n"]), roundoff) * float(wanted["energy"])
    assert abs(float(found["energy"]) - float(wanted["energy"])) <= tolerance


def own_kernels(account):
    return sum(count for name, count in account.launches.items() if name.startswith("fft_pass"))


def closed(tmp_path):
    """Every handle is given back."""
    return len(log(tmp_path, "create")) == len(log(tmp_path, "destroy")) > 0


@each_direction
@each_type
def test_transforms(cpu, tmp_path, dtype, typecode, roundoff, inverse):
    """Late streams: cuFFT works in the lane's order. There, and back for the verification."""
    with cufft(tmp_path, late_us=300) as cuda:
        assert 'fft="cuFFT 12.0.3"\n' in info(cuda)
        for n, batch in TRANSFORMS:
            agree(cuda, cpu, roundoff, n=n, batch=batch, dtype=dtype, inverse=inverse)
        assert not own_kernels(clean(cuda))
    turn = (1, -1) if inverse == "yes" else (-1, 1)
    assert log(tmp_path, "exec") == [f"exec {dtype} {n} {batch} {direction}"
                                     for n, batch in TRANSFORMS for direction in turn]
    assert closed(tmp_path)


@each_direction
@each_type
def test_elements(cpu, tmp_path, dtype, typecode, roundoff, inverse):
    """Of each transform; without clearing, the output has nonsense in it before."""
    chooser = random.Random(2)
    n, batch = 100, 3
    values = [chooser.uniform(-1, 1) for _ in range(2 * n * batch)]
    for scrub in ("yes", "no"):
        with cufft(tmp_path, f"--scrub={scrub}") as cuda, tempfile.TemporaryFile() as a, \
                tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as cpu_out:
            a.write(array.array(typecode, values).tobytes())
            a.flush()
            found, wanted = array.array(typecode), array.array(typecode)
            for executor, file, numbers in ((cuda, out, found), (cpu, cpu_out, wanted)):
                executor.done("FFT", n=n, dtype=dtype, inverse=inverse,
                              files={"a": a, "out": file})
                numbers.frombytes(os.pread(file.fileno(), 1 << 20, 0))
            assert len(found) == len(wanted) == len(values)
            for first in range(0, len(values), 2 * n):
                norm = math.hypot(*wanted[first:first + 2 * n])
                distance = math.dist(found[first:first + 2 * n], wanted[first:first + 2 * n])
                assert distance <= 2 * bound(n, roundoff) * norm
            if scrub == "yes":
                assert not own_kernels(clean(cuda))
    assert len(log(tmp_path, "exec")) == 4


def test_groups(cpu, tmp_path):
    """More transforms than are on the device at a time: the last group is by the same plan."""
    with cufft(tmp_path) as cuda:
        agree(cuda, cpu, n=2, batch=(1 << 19) + 3)
        clean(cuda)
    assert log(tmp_path, "plan") == ["plan f32 2 524288"]
    assert len(log(tmp_path, "exec")) == 4


def test_one_plan(cpu, tmp_path):
    """It stays for the next job of that kind, whose work area is its own, and goes for another."""
    with cufft(tmp_path) as cuda:
        for arguments in (SMALL, SMALL, dict(SMALL, dtype="f64"),
                          dict(SMALL, dtype="f64", batch=4),
                          dict(n=65, dtype="f64", batch=4), SMALL):
            agree(cuda, cpu, **arguments)
            # Other memory in the place of what the job before had.
            cuda.done("VECTOR_ADD", n=1000, vm=4)
        assert not own_kernels(clean(cuda))
    assert log(tmp_path, "plan") == ["plan f32 64 3", "plan f64 64 3", "plan f64 64 4",
                                     "plan f64 65 4", "plan f32 64 3"]
    assert len(log(tmp_path, "exec")) == 12
    assert closed(tmp_path)


def test_the_work_area_is_the_jobs(cpu, tmp_path):
    """It counts as the job's memory, and is cleared with it, also where the job has failed; without
    room for it, own kernels do."""
    array_bytes = 8 * 64 * 3
    work_bytes = array_bytes + 24
    for limit, by_cufft in ((3 * array_bytes + work_bytes, True),
                            (3 * array_bytes + work_bytes - 1, False)):
        (tmp_path / "log").unlink(missing_ok=True)
        with cufft(tmp_path, f"--device-memory={limit}") as cuda:
            agree(cuda, cpu, **SMALL)
            assert 'fft="cuFFT' in info(cuda)
            account = clean(cuda)
            assert account.peak <= limit
        assert bool(log(tmp_path, "exec")) == by_cufft
        assert bool(own_kernels(account)) == (not by_cufft)


@pytest.mark.parametrize("fail,words", [
    ("version:5", "error 5 at its start"), ("create:7", "error 7 at its start"),
    ("create:2:2", "error 2"), ("plan:2", "error 2"), ("plan:5:2", "error 5"),
    ("exec:6", "error 6"), ("exec:6:2", "error 6"), ("exec:6:3", "error 6")])
def test_cufft_that_fails_is_left_out(cpu, tmp_path, fail, words):
    """Also between there and back, and in a later job."""
    with cufft(tmp_path, cufft_fail=fail) as cuda:
        for n in (60, 64, 64):
            agree(cuda, cpu, n=n, batch=3, inverse="yes")
        assert 'fft="own kernels (' in info(cuda) and words in info(cuda)
        assert own_kernels(clean(cuda))
        warnings = cuda.log().count("own kernels transform from now on")
        assert warnings == ("at its start" not in words)
    assert len(log(tmp_path, "create")) == len(log(tmp_path, "destroy"))


def test_a_wrong_inverse_is_found(tmp_path):
    """The device does nothing where it should divide what cuFFT has left."""
    with Executor() as probe:
        probes = sum(clean(probe).launches.values())
    with cufft(tmp_path, skip=probes + 1) as cuda:
        result = cuda.run("FFT", **SMALL)
        assert result.status == "failed" and "cannot be trusted" in result.error
        cuda.done("FFT", **SMALL)
        clean(cuda)


def test_a_sticky_error_ends_the_executor(tmp_path):
    with Executor() as probe:
        probes = sum(clean(probe).launches.values())
    with cufft(tmp_path, fail=f"launched:{probes + 1}:700") as cuda:
        result = cuda.run("FFT", **SMALL)
        assert result.status == "failed" and "(700)" in result.error
        assert (result.fields["fault"], result.fields["leaving"]) == ("sticky", "yes")
        assert cuda.process.wait(30 * FACTOR) == 1


def test_no_library_for_a_driver_without_tables():
    """It would be loaded for nothing."""
    with Executor(library=LIBRARIES) as cuda:
        assert 'fft="own kernels (cuFFT: this driver is for the driver API alone)"' in info(cuda)
