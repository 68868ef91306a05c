"""SORT, FFT, CONV2D, BLACK_SCHOLES, NBODY, SHA256 and SANITY on the stand-in of the driver: the cpu's
output within each one's bound, at the edges of tiles, groups and chunks; wrong results found; cancelled
and failed jobs leave nothing behind."""
import math
import random
import tempfile

import pytest

from executor import CANCEL, Executor, clean, content, file_of

TYPES = [("f32", "f", 2**-24), ("f64", "d", 2**-53)]
each_type = pytest.mark.parametrize("dtype,typecode,roundoff", TYPES, ids=["f32", "f64"])

# Small jobs of each, which go through all of their kernels.
JOBS = [
    ("SORT", {"n": 300}), ("SORT", {"n": 100, "dtype": "f64"}), ("FFT", {"n": 64, "batch": 3}),
    ("FFT", {"n": 6000, "dtype": "f64", "inverse": "yes"}), ("CONV2D", {"h": 20, "w": 33, "k": 5}),
    ("CONV2D", {"h": 9, "w": 7, "k": 3, "dtype": "f64"}), ("BLACK_SCHOLES", {"n": 300}),
    ("BLACK_SCHOLES", {"n": 300, "dtype": "f64"}), ("NBODY", {"n": 130, "steps": 2}),
    ("NBODY", {"n": 30, "steps": 2, "dtype": "f64"}), ("SHA256", {"n": 1000, "chunk": 100}),
    ("SANITY", {"mib": 1})]
NAMES = [f"{name}-{arguments.get('dtype', '')}" for name, arguments in JOBS]
each_job = pytest.mark.parametrize("command,arguments", JOBS, ids=NAMES)


@pytest.fixture(scope="module")
def launches_at_start():
    """How many kernels try the device."""
    with Executor() as probe:
        return sum(clean(probe).launches.values())


def near(found, wanted, tolerance):
    """The same output, but for numbers that rounding touches: errors are the run's own."""
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        if key.endswith("_us") or "error" in key or key == "energy_drift":
            continue
        if found[key] != value:
            assert abs(float(found[key]) - float(value)) <= tolerance * abs(float(value)), key


def agree(cuda, cpu, tolerance, command, **arguments):
    near(cuda.done(command, **arguments).numbers(), cpu.done(command, **arguments).numbers(),
         tolerance)


# --- the same output as on the cpu ---------------------------------------------------------------

@each_type
def test_sort(cuda, cpu, dtype, typecode, roundoff):
    for n in (1, 2, 2047, 2048, 2049, 9000):
        arguments = {"n": n, "dtype": dtype, "seed": n}
        assert cuda.done("SORT", **arguments).answer == cpu.done("SORT", **arguments).answer


@each_type
def test_sort_files(cuda, cpu, dtype, typecode, roundoff):
    """NaNs of both signs, infinities, both zeros, and many duplicates: totalOrder."""
    chooser = random.Random(1)
    nan, inf = float("nan"), float("inf")
    special = [nan, -nan, inf, -inf, 0.0, -0.0, 1.5, -1.5]
    for values in (special, [chooser.choice(special) for _ in range(5000)], [1.0] * 700, []):
        with file_of(typecode, values) as a, tempfile.TemporaryFile() as out, \
                tempfile.TemporaryFile() as cpu_out:
            found = cuda.done("SORT", dtype=dtype, files={"a": a, "out": out})
            wanted = cpu.done("SORT", dtype=dtype, files={"a": a, "out": cpu_out})
            assert found.answer == wanted.answer
            assert content(out, typecode).tobytes() == content(cpu_out, typecode).tobytes()
            assert not values or math.isnan(content(out, typecode)[0]) or values[0] == 1.0


# Powers of two around a pass (4096 in f32, 2048 in f64), primes, mixed; the energy of an output is off
# by twice what its elements are off by.
TRANSFORMS = [(1, 5), (2, 3), (3, 7), (7, 1), (16, 300), (97, 2), (360, 3), (1024, 3), (2048, 2),
              (4096, 1), (8192, 2), (5000, 2), (65536, 1), (10007, 1)]


def transform_bound(n, roundoff):
    return 21 * (math.log2(n) + 3) * roundoff


@pytest.mark.parametrize("inverse", ["no", "yes"])
@each_type
def test_fft(cuda, cpu, dtype, typecode, roundoff, inverse):
    for n, batch in TRANSFORMS:
        agree(cuda, cpu, 4 * transform_bound(n, roundoff), "FFT", n=n, batch=batch, dtype=dtype,
              inverse=inverse)


@pytest.mark.parametrize("inverse", ["no", "yes"])
@each_type
def test_fft_files(cuda, cpu, dtype, typecode, roundoff, inverse):
    chooser = random.Random(2)
    for n, batch in ((64, 3), (100, 3), (8192, 1)):
        values = [chooser.uniform(-1, 1) for _ in range(2 * n * batch)]
        with file_of(typecode, values) as a, tempfile.TemporaryFile() as out, \
                tempfile.TemporaryFile() as cpu_out:
            arguments = {"n": n, "dtype": dtype, "inverse": inverse}
            cuda.done("FFT", files={"a": a, "out": out}, **arguments)
            cpu.done("FFT", files={"a": a, "out": cpu_out}, **arguments)
            found, wanted = content(out, typecode), content(cpu_out, typecode)
            assert len(found) == len(wanted) == 2 * n * batch
            for first in range(0, 2 * n * batch, 2 * n):
                norm = math.sqrt(sum(x * x for x in wanted[first:first + 2 * n]))
                distance = math.dist(found[first:first + 2 * n], wanted[first:first + 2 * n])
                assert distance <= 2 * transform_bound(n, roundoff) * norm


def test_fft_groups(cuda, cpu):
    """More transforms than are on the device at a time."""
    agree(cuda, cpu, 1e-5, "FFT", n=2, batch=(1 << 19) + 3)


@each_type
def test_conv2d(cuda, cpu, dtype, typecode, roundoff):
    """Made-up images have sums that are exact in any order."""
    for h, w, k in ((1, 1, 1), (1, 1, 31), (32, 32, 3), (33, 31, 5), (5, 70, 31), (65, 3, 7)):
        arguments = {"h": h, "w": w, "k": k, "dtype": dtype}
        assert cuda.done("CONV2D", **arguments).answer == cpu.done("CONV2D", **arguments).answer


@each_type
def test_conv2d_files(cuda, cpu, dtype, typecode, roundoff):
    h, w, k = 40, 37, 5
    chooser = random.Random(3)
    image = [chooser.uniform(-1, 1) for _ in range(h * w)]
    with file_of(typecode, image) as a, tempfile.TemporaryFile() as out, \
            file_of(typecode, image[:k * k]) as kernel, tempfile.TemporaryFile() as cpu_out:
        arguments = {"h": h, "w": w, "k": k, "dtype": dtype}
        cuda.done("CONV2D", files={"a": a, "kernel": kernel, "out": out}, **arguments)
        cpu.done("CONV2D", files={"a": a, "kernel": kernel, "out": cpu_out}, **arguments)
        most = sum(map(abs, image[:k * k]))
        for found, wanted in zip(content(out, typecode), content(cpu_out, typecode), strict=True):
            assert abs(found - wanted) <= 2 * (k * k + 1) * roundoff * most


@each_type
def test_black_scholes(cuda, cpu, dtype, typecode, roundoff):
    for n in (1, 255, 16385, 131073):
        agree(cuda, cpu, 300 * roundoff, "BLACK_SCHOLES", n=n, dtype=dtype, rate=0.05)


@each_type
def test_black_scholes_files(cuda, cpu, dtype, typecode, roundoff):
    chooser = random.Random(4)
    arrays = {name: [chooser.uniform(low, high) for _ in range(1000)]
              for name, low, high in (("spot", 50, 150), ("strike", 50, 150), ("years", 0.25, 2))}
    arrays["spot"][7], arrays["strike"][9], arrays["years"][11] = 0, -1, float("nan")
    inputs = {name: file_of(typecode, values) for name, values in arrays.items()}
    outs = [{name: tempfile.TemporaryFile() for name in ("call", "put")} for _ in range(2)]
    cuda.done("BLACK_SCHOLES", dtype=dtype, files={**inputs, **outs[0]})
    cpu.done("BLACK_SCHOLES", dtype=dtype, files={**inputs, **outs[1]})
    for name in ("call", "put"):
        found, wanted = content(outs[0][name], typecode), content(outs[1][name], typecode)
        assert len(found) == 1000
        for i in set(range(1000)) - {7, 9, 11}:
            assert abs(found[i] - wanted[i]) <= 2 * 150 * 100 * roundoff


@each_type
def test_nbody(cuda, cpu, dtype, typecode, roundoff):
    for n, steps in ((1, 3), (2, 1), (127, 2), (128, 1), (129, 3), (300, 2)):
        agree(cuda, cpu, 100 * n * roundoff, "NBODY", n=n, steps=steps, dtype=dtype, dt=0.0001)


@each_type
def test_nbody_files(cuda, cpu, dtype, typecode, roundoff):
    """The bodies move; after a few short steps both are at the same places."""
    n, chooser = 150, random.Random(5)
    bodies = [chooser.uniform(0.01, 1) for _ in range(7 * n)]
    with file_of(typecode, bodies) as a, tempfile.TemporaryFile() as out, \
            tempfile.TemporaryFile() as cpu_out:
        arguments = {"steps": 3, "dt": 0.0001, "dtype": dtype}
        cuda.done("NBODY", files={"a": a, "out": out}, **arguments)
        cpu.done("NBODY", files={"a": a, "out": cpu_out}, **arguments)
        found, wanted = content(out, typecode), content(cpu_out, typecode)
        assert list(found) != bodies and len(found) == 7 * n
        for left, right in zip(found, wanted, strict=True):
            assert abs(left - right) <= 1000 * n * roundoff * max(1, abs(right))


@pytest.mark.parametrize("chunk", [1, 55, 56, 64, 100, 1000])
def test_sha256(cuda, cpu, chunk):
    for n in (1, chunk - 1 or 1, chunk, chunk + 1, 65 * chunk, 65 * chunk + 7):
        arguments = {"n": n, "chunk": chunk, "seed": 3}
        assert cuda.done("SHA256", **arguments).answer == cpu.done("SHA256", **arguments).answer


def test_sha256_files(cuda, cpu):
    """A chunk of more blocks than a launch takes, one that is shorter, and an empty file."""
    for size, chunk in (((1 << 21) + 5, 3 << 19), (1000, 100), (0, 10)):
        with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as out, \
                tempfile.TemporaryFile() as cpu_out:
            file.write(random.Random(6).randbytes(size))
            file.flush()
            found = cuda.done("SHA256", chunk=chunk, files={"file": file, "out": out})
            wanted = cpu.done("SHA256", chunk=chunk, files={"file": file, "out": cpu_out})
            assert found.answer == wanted.answer
            assert content(out, "B") == content(cpu_out, "B")
            assert len(content(out, "B")) == -(-size // chunk) * 32


def test_sanity(cuda):
    result = cuda.done("SANITY", mib=13) # more than a lane's staging
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [
        f"step={name}" for name in ("allocate", "write", "copy", "check", "compute", "copy_out",
                                    "copy_in", "check_in")]
    assert all("result=ok wrong_words=0 us=" in line for line in lines[:-1])
    assert all("gb_per_s=" in line or "gflop_per_s=" in line for line in lines[:-1])
    assert lines[-1].startswith("result=ok mib=13 processors=2 compute_us=")


def test_empty_files(cuda, cpu):
    for command, inputs in (("SORT", ("a",)), ("BLACK_SCHOLES", ("spot", "strike", "years"))):
        files = {name: file_of("f", []) for name in inputs}
        assert cuda.done(command, files=files).answer == cpu.done(command, files=files).answer


# --- late streams, parts of a driver that are missing --------------------------------------------

@pytest.mark.parametrize("standin", [
    {"late_us": 300}, {"missing": "cuEventCreate"}, {"missing": "cuMemAllocAsync"},
    {"missing": "cuMemHostAlloc"}, {"missing": "cuMemsetD8Async"}], ids=str)
def test_on_another_driver(cpu, standin):
    with Executor(**standin) as cuda:
        for command, arguments in JOBS:
            found, wanted = cuda.done(command, **arguments), cpu.done(command, **arguments)
            assert "backend" not in found.fields # the device itself
            assert int(found.fields["compute_us"]) > 0
            for name in ("compute_us", "copy_us", "verify_us"):
                assert f" {name}={found.fields[name]}" in found.output
            if command != "SANITY":
                near(found.numbers(), wanted.numbers(), 1e-5)
        clean(cuda)


def test_files_of_more_than_two_chunks(cpu):
    """Through two lanes of 12 MiB, late: nothing is read or written again before it is there."""
    size = (37 << 20) + 3
    with tempfile.TemporaryFile() as file, Executor(late_us=20000) as cuda:
        file.write(random.Random(7).randbytes(1 << 20) * 38)
        file.truncate(size)
        arguments = {"chunk": 1 << 12, "files": {"file": file}}
        assert cuda.done("SHA256", **arguments).answer == cpu.done("SHA256", **arguments).answer
        clean(cuda)


# --- wrong results, failures, cancellation -------------------------------------------------------

# Kernels of a small job whose absence must be found, counted from the job's first.
SKIPPED = [
    ("SORT", {"n": 300}, (3, 4, 5, 6, 9, 16)), ("FFT", {"n": 64, "batch": 3}, (2,)),
    ("FFT", {"n": 60}, (2, 4, 5, 6, 7, 8)), ("CONV2D", {"h": 20, "w": 33, "k": 5}, (1,)),
    ("BLACK_SCHOLES", {"n": 300}, (1,)), ("NBODY", {"n": 130, "steps": 2}, (9,)),
    ("SHA256", {"n": 1000, "chunk": 100}, (1, 2)), ("SANITY", {"mib": 1}, (4, 6))]


@pytest.mark.parametrize("command,arguments,kernels", SKIPPED, ids=[row[0] for row in SKIPPED])
def test_a_wrong_result_is_found(launches_at_start, command, arguments, kernels):
    for kernel in kernels:
        with Executor(skip=launches_at_start + kernel) as cuda:
            result = cuda.run(command, **arguments)
            assert result.status == "failed", (kernel, result.output)
            assert "cannot be trusted" in result.error
            cuda.done(command, **arguments)
            clean(cuda)


LONG = [("SORT", {"n": 200000}), ("FFT", {"n": 1000, "batch": 1 << 20}),
        ("BLACK_SCHOLES", {"n": 1 << 30}), ("NBODY", {"n": 100, "steps": 100000}),
        ("SHA256", {"n": 1 << 25, "chunk": 1 << 22}), ("SANITY", {"mib": 50})]


@pytest.mark.parametrize("command,arguments", LONG, ids=[row[0] for row in LONG])
def test_cancelled(command, arguments):
    with Executor(late_us=30000, memory=1 << 32) as cuda:
        cuda.start(command, **arguments)
        cuda.send(CANCEL)
        assert cuda.result().status == "cancelled"
        cuda.done("NOP")
        clean(cuda)


def test_progress(cpu):
    with Executor(late_us=20000) as cuda:
        cuda.done("NBODY", n=10, steps=8)
        assert len(cuda.progress) > 2
        assert cuda.progress == sorted(cuda.progress)
        assert 0 <= cuda.progress[0] and cuda.progress[-1] <= 1
        clean(cuda)


@each_job
def test_more_than_the_device_has(command, arguments):
    large = {"SORT": {"n": 100000}, "FFT": {"n": 100000}, "CONV2D": {"h": 500, "w": 500},
             "BLACK_SCHOLES": {"n": 100000}, "NBODY": {"n": 30000}, "SHA256": {"n": 1 << 20},
             "SANITY": {"mib": 1}}[command]
    with Executor(memory=400000) as cuda:
        result = cuda.run(command, **{**arguments, **large, **(
            {"chunk": 1 << 20} if command == "SHA256" else {})})
        assert result.status == "failed"
        assert "memory" in result.error and "smaller" in result.error
        cuda.done("VECTOR_ADD", n=1000)
        clean(cuda)

