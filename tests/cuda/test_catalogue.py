"""The workloads on arrays, on the stand-in of the driver: the same output as the cpu's, around and
beyond what lanes, parts and chunks hold; from files and made up; cancelled, failing, verified."""
import array
import random
import tempfile

import pytest

from executor import CANCEL, PROGRESS, RESERVE, RESERVED, Executor, clean, content, file_of

PART = 16384
# One more than two chunks of a staging that three, or fewer, arrays share.
TYPES = [("f32", "f", 2**-24), ("f64", "d", 2**-53)]
CHUNK = {"f": (4 << 20) // 4, "d": (4 << 20) // 8}
SIZES = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000, PART - 1, PART, PART + 1, 5 * PART + 33]
SIDES = [(1, 1), (1, 33), (33, 1), (31, 32), (32, 31), (65, 33), (200, 130)]

# Command, parameters, inputs, output. Made-up input has sums that are exact in any order.
WORKLOADS = [
    ("VECTOR_ADD", {}, ("a", "b"), "out"),
    ("SAXPY", {"alpha": 0.375}, ("x", "y"), "out"),
    ("DOT", {}, ("a", "b"), None),
    ("REDUCE", {"op": "sum"}, ("a",), None),
    ("REDUCE", {"op": "min"}, ("a",), None),
    ("REDUCE", {"op": "max"}, ("a",), None),
    ("SCAN", {"exclusive": "no"}, ("a",), "out"),
    ("SCAN", {"exclusive": "yes"}, ("a",), "out"),
    ("HISTOGRAM", {"bins": 64}, ("a",), None),
    ("HISTOGRAM", {"bins": 4096, "low": -20, "high": 900}, ("a",), None),
]
NAMES = ["-".join([name, *map(str, arguments.values())]) for name, arguments, *_ in WORKLOADS]
each_workload = pytest.mark.parametrize("command,parameters,inputs,output", WORKLOADS, ids=NAMES)
each_type = pytest.mark.parametrize("dtype,typecode,roundoff", TYPES, ids=["f32", "f64"])


def numbers(typecode, count, seed):
    """Of many sizes and both signs."""
    chooser = random.Random(seed)
    some = [chooser.uniform(-1000, 1000) * 2.0**chooser.randint(-12, 0) for _ in range(4099)]
    return array.array(typecode, (some * (count // len(some) + 1))[:count])


def fields_of(result):
    """All of the output but the errors of rounding, whose own last digits may differ."""
    assert "backend" not in result.fields  # it ran where the executor says
    return {key: value for key, value in
            (pair.split("=", 1) for pair in result.answer.split()) if "error" not in key}


@each_type
@each_workload
def test_made_up(cpu, cuda, command, parameters, inputs, output, dtype, typecode, roundoff):
    for n in SIZES:
        arguments = {"n": n, "seed": n, "dtype": dtype, **parameters}
        assert cuda.done(command, **arguments).answer == cpu.done(command, **arguments).answer


@pytest.mark.parametrize("command", ["SAXPY", "DOT", "REDUCE", "HISTOGRAM"])
def test_made_up_in_chunks(cpu, command):
    """What is made up on the device has chunks of 64 MiB: two and a bit."""
    with Executor(late_us=20000) as cuda:
        n = 2 * (64 << 20) // 8 + PART + 1
        arguments = {"n": n, "dtype": "f64"}
        assert cuda.done(command, **arguments).answer == cpu.done(command, **arguments).answer
        assert len(cuda.progress) >= 1
        clean(cuda)


def close(found, wanted, values, typecode, roundoff):
    """Prefix sums: each is off by what SCAN allows, of the sum of the absolute values before it."""
    absolute = 0.0
    for one, other, value in zip(found, wanted, values):
        absolute += abs(value)
        limit = 2 * (roundoff * abs(other) + 2 * (PART + 4) * 2**-52 * absolute)
        if not abs(one - other) <= limit:
            return False
    return len(found) == len(wanted)


@pytest.mark.parametrize("dtype,typecode,roundoff,late_us", [(*TYPES[0], 2000), (*TYPES[1], 0)],
                         ids=["f32", "f64"])
@each_workload
def test_files(cpu, command, parameters, inputs, output, dtype, typecode, roundoff, late_us):
    """Two chunks and a bit: both lanes are used again. Late streams: nothing is read, or written
    again, before it is there."""
    count = 2 * CHUNK[typecode] + PART + 7
    values = [numbers(typecode, count, seed) for seed in range(len(inputs))]
    files = {name: file_of(each.typecode, each) for name, each in zip(inputs, values)}
    with Executor(late_us=late_us) as cuda, tempfile.TemporaryFile() as out, \
            tempfile.TemporaryFile() as cpu_out:
        found = cuda.done(command, dtype=dtype, files={**files, **({output: out} if output else {})},
                          **parameters)
        wanted = cpu.done(command, dtype=dtype,
                          files={**files, **({output: cpu_out} if output else {})}, **parameters)
        if command == "SCAN":
            assert close([float(fields_of(found)["last"])], [float(fields_of(wanted)["last"])],
                         [sum(map(abs, values[0]))], typecode, roundoff)
            assert close(content(out, typecode), content(cpu_out, typecode), values[0], typecode,
                         roundoff)
        else:
            assert fields_of(found) == fields_of(wanted)
            if output:
                assert content(out, typecode) == content(cpu_out, typecode)
        assert int(found.fields["copy_us"]) > 0
        assert int(found.fields["compute_us"]) > 0
        clean(cuda)


@each_workload
def test_small_files(cpu, cuda, command, parameters, inputs, output):
    for count in (1, 17, PART, PART + 1):
        files = {name: file_of("f", numbers("f", count, seed)) for seed, name in enumerate(inputs)}
        found, wanted = (executor.done(command, files=files, **parameters)
                         for executor in (cuda, cpu))
        if command != "SCAN":
            assert fields_of(found) == fields_of(wanted)


@each_workload
def test_empty_files(cpu, cuda, command, parameters, inputs, output):
    files = {name: file_of("f", []) for name in inputs}
    found, wanted = (executor.run(command, files=files, **parameters) for executor in (cuda, cpu))
    assert (found.status, found.error, found.answer) == (wanted.status, wanted.error, wanted.answer)


@each_workload
def test_infinities_and_nans(cpu, cuda, command, parameters, inputs, output):
    inf, nan = float("inf"), float("nan")
    for special in (inf, -inf, nan, 3e38, -0.0):
        values = numbers("f", 100, 1)
        values[37] = special
        files = {name: file_of(values.typecode, values) for name in inputs}
        found, wanted = (executor.done(command, files=files, **parameters)
                         for executor in (cuda, cpu))
        assert fields_of(found) == fields_of(wanted), special


def test_counts_are_written(cpu, cuda):
    values = file_of("f", numbers("f", 3 * PART + 5, 2))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as cpu_out:
        for executor, file in ((cuda, out), (cpu, cpu_out)):
            executor.done("HISTOGRAM", bins=777, low=-900, high=900, files={"a": values, "out": file})
        assert content(out, "Q") == content(cpu_out, "Q")
        assert sum(content(out, "Q")) > 0


@each_type
def test_transposed(cpu, dtype, typecode, roundoff):
    with Executor() as cuda:
        for m, n in SIDES:
            arguments = {"m": m, "n": n, "seed": 4, "dtype": dtype}
            assert cuda.done("TRANSPOSE", **arguments).answer == \
                cpu.done("TRANSPOSE", **arguments).answer
            values = numbers(typecode, m * n, 3)
            with tempfile.TemporaryFile() as out:
                cuda.done("TRANSPOSE", files={"a": file_of(values.typecode, values), "out": out}, **arguments)
                found = content(out, typecode)
                assert all(found[j * m + i] == values[i * n + j] for i in range(m) for j in range(n))
        clean(cuda)


def test_a_matrix_of_more_than_two_pieces(cpu):
    m, n = 1024, 2100
    values = file_of("f", [index % 1021 for index in range(m * n)])
    with Executor(late_us=20000) as cuda, tempfile.TemporaryFile() as out, \
            tempfile.TemporaryFile() as cpu_out:
        found = cuda.done("TRANSPOSE", m=m, n=n, files={"a": values, "out": out})
        wanted = cpu.done("TRANSPOSE", m=m, n=n, files={"a": values, "out": cpu_out})
        assert found.answer == wanted.answer
        assert content(out, "f") == content(cpu_out, "f")
        clean(cuda)


@pytest.mark.parametrize("n", [1, 2, 3, 65535, 65536, 65537, (1 << 24) + (1 << 16) + 1, 3 << 24])
def test_points(cpu, n):
    """The first 65,536 alone, then 2^24 at a time."""
    with Executor(late_us=1000) as cuda:
        for seed in (1, 1 << 63):
            assert cuda.done("MONTE_CARLO_PI", n=n, seed=seed).answer == \
                cpu.done("MONTE_CARLO_PI", n=n, seed=seed).answer
        clean(cuda)


# --- what goes wrong -----------------------------------------------------------------------------

def launches_before_jobs():
    with Executor() as idle:
        return sum(clean(idle).launches.values())


JOBS = [(command, {"n": 100, **parameters}) for command, parameters, *_ in WORKLOADS] + \
    [("TRANSPOSE", {"m": 40, "n": 40}), ("MONTE_CARLO_PI", {"n": 5000})]
each_job = pytest.mark.parametrize("command,arguments", JOBS, ids=NAMES + ["TRANSPOSE", "PI"])


@each_job
def test_a_kernel_that_does_nothing_is_found(cpu, command, arguments):
    """Each launch of the job in turn. What computes is caught; input that was not made up may do."""
    before = launches_before_jobs()
    wanted = cpu.done(command, **arguments).answer
    with Executor() as whole:
        whole.done(command, **arguments)
        count = sum(clean(whole).launches.values()) - before
    failed = 0
    for number in range(1, count + 1):
        with Executor(skip=before + number) as cuda:
            result = cuda.run(command, **arguments)
            if result.status == "failed":
                assert "verification failed" in result.error
                failed += 1
            assert cuda.done(command, **arguments).answer == wanted
            clean(cuda)
    assert failed >= 1


@pytest.mark.parametrize("command,arguments", [("SAXPY", {"n": 1 << 32}),
                                               ("MONTE_CARLO_PI", {"n": 1 << 40})])
def test_cancelled_between_chunks(command, arguments):
    """With an output the chunks are small."""
    with Executor() as cuda, tempfile.TemporaryFile() as out:
        cuda.start(command, files={"out": out} if command == "SAXPY" else {}, **arguments)
        kind = None
        while kind != PROGRESS:  # it is at work
            kind, *_ = cuda.receive()
            if kind == RESERVE:
                cuda.send(RESERVED)
        cuda.send(CANCEL)
        assert cuda.result().status == "cancelled"
        cuda.done("REDUCE", n=1000)
        clean(cuda)
