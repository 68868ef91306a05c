#!/usr/bin/python3
"""./dev gpu-check: every workload on this machine's NVIDIA device and on its processors, compared.

Prints a table; the exit status is 0 if all outputs agree. --small takes sizes that are good for
nothing but trying this program."""
import argparse
import math
import os
import sys

from executor import Executor

# Device name contains -> memory in GB/s, f32 and f64 in Tflop/s outside of tensor cores. The first
# that fits; nothing for a part of a device (MIG). From NVIDIA's data sheets; held in November 2026
# against glennklockwood.com/garden/processors/h100 and .../A100, the table at
# archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html (H100 SXM and PCIe), that at
# thundercompute.com/blog/nvidia-a100-specs-full-guide (the four A100s) and that at
# itcreations.com/nvidia-gpu/nvidia-l40s-gpu-accelerator. What cuBLAS does in f64 by tensor cores can
# be twice the roof.
PEAKS = [
    ("MIG", None), ("H200", (4800, 67, 34)), ("H100 NVL", (3900, 60, 30)),
    ("H100 PCIe", (2000, 51, 26)), ("H100", (3350, 67, 34)), ("A100-SXM4-80GB", (2039, 19.5, 9.7)),
    ("A100 80GB", (1935, 19.5, 9.7)), ("A100", (1555, 19.5, 9.7)), ("L40S", (864, 91.6, 1.4)),
    ("L40", (864, 90.5, 1.4)), ("L4", (300, 30.3, 0.47)), ("RTX 4090", (1008, 82.6, 1.29)),
    ("T4", (320, 8.1, 0.25)),
]
# A number of the output may differ by so much of its size: sums in another order.
TOLERANCE = {"f32": 1e-5, "f64": 1e-12}


def arrays(count):
    """Bytes: so many arrays made, read or written, the verification's too; no arithmetic to speak of."""
    def cost(arguments):
        size = 8 if arguments["dtype"] == "f64" else 4
        elements = arguments["n"] * arguments.get("m", 1)
        return count * size * elements, 0
    return cost


def monte_carlo_pi(arguments):
    """60 integer operations a point. A multiprocessor does half as many a clock as of f32."""
    return 0, 2 * 60 * arguments["n"]


def matrix_mul(arguments):
    return 0, 2 * arguments["m"] * arguments["n"] * arguments["k"]


def sizes(**more):
    """Large and small arrays of each type."""
    return ([{"n": n, "dtype": dtype, **more} for n in (1 << 20, 1 << 28) for dtype in TOLERANCE],
            [{"n": 5000, "dtype": dtype, **more} for dtype in TOLERANCE])


def size_of(arguments):
    return 8 if arguments["dtype"] == "f64" else 4


def sort(arguments):
    """Made, encoded, decoded, and for each byte counted and moved."""
    size = size_of(arguments)
    return size * (3 * size + 5) * arguments["n"], 0


def fft(arguments):
    """There and back."""
    elements = arguments["n"] * arguments["batch"]
    return 8 * size_of(arguments) * elements, 10 * elements * math.log2(arguments["n"])


def conv2d(arguments):
    elements = arguments["h"] * arguments["w"]
    return 2 * size_of(arguments) * elements, 2 * arguments["k"]**2 * elements


def black_scholes(arguments):
    return 5 * size_of(arguments) * arguments["n"], 0


def nbody(arguments):
    return 0, 20 * arguments["n"]**2 * (arguments["steps"] + 1)


def sha256(arguments):
    return arguments["n"], 0


def typed(*cases):
    return [{**case, "dtype": dtype} for case in cases for dtype in TOLERANCE]


# Workload -> (large cases, small cases, what a case moves and computes). A workload that is not here
# runs once, with its defaults.
CASES = {
    "VECTOR_ADD": (*sizes(), arrays(8)),
    "SAXPY": (*sizes(alpha=2.5), arrays(8)),
    "DOT": (*sizes(), arrays(6)),
    "REDUCE": ([case for op in ("sum", "min", "max") for case in sizes(op=op)[0]],
               [case for op in ("sum", "min", "max") for case in sizes(op=op)[1]], arrays(3)),
    "SCAN": (*sizes(), arrays(6)),
    "HISTOGRAM": (*sizes(bins=256), arrays(3)),
    "TRANSPOSE": ([{"m": n, "n": n, "dtype": dtype} for n in (1000, 16384) for dtype in TOLERANCE],
                  [{"m": 50, "n": 70, "dtype": dtype} for dtype in TOLERANCE], arrays(6)),
    "MONTE_CARLO_PI": ([{"n": 1 << 24}, {"n": 1 << 32}], [{"n": 5000}], monte_carlo_pi),
    "MATRIX_MUL": ([{"m": n, "n": n, "k": n, "dtype": dtype} for n in (512, 4096)
                    for dtype in TOLERANCE],
                   [{"m": 40, "n": 30, "k": 20, "dtype": dtype} for dtype in TOLERANCE], matrix_mul),
    "SORT": (typed({"n": 1 << 20}, {"n": 1 << 28}), typed({"n": 300}), sort),
    "FFT": (typed({"n": 1 << 10, "batch": 1 << 12}, {"n": 1 << 20, "batch": 16},
                  {"n": 1000003 // 7, "batch": 8}), typed({"n": 60, "batch": 2}), fft),
    "CONV2D": (typed({"h": 8192, "w": 8192, "k": 3}, {"h": 8192, "w": 8192, "k": 31}),
               typed({"h": 20, "w": 40, "k": 3}), conv2d),
    "BLACK_SCHOLES": (typed({"n": 1 << 22}), typed({"n": 500}), black_scholes),
    "NBODY": (typed({"n": 1 << 16, "steps": 4, "dt": 0.0001}),
              typed({"n": 50, "steps": 2, "dt": 0.0001}), nbody),
    "SHA256": ([{"n": 1 << 30, "chunk": 1 << 12}, {"n": 1 << 28, "chunk": 1 << 20}],
               [{"n": 1000, "chunk": 100}], sha256),
    "SANITY": ([{"mib": 1024}], [{"mib": 1}], None),
    "SLEEP": ([{"ms": 1}], [{"ms": 1}], None),
}
DIFFERENT = {"DEVICE_INFO", "SANITY", "SLEEP"}  # whose output says something about the machine


def agree(found, wanted, tolerance):
    """None, or the first word that differs."""
    left, right = found.split(), wanted.split()
    if len(left) != len(right):
        return found.strip()
    for one, other in zip(left, right):
        (key, _, value), (other_key, _, reference) = one.partition("="), other.partition("=")
        try:
            near = abs(float(value) - float(reference)) <= tolerance * abs(float(reference))
        except ValueError:
            near = False
        if key != other_key or (value != reference and not near and "error" not in key
                                 and key != "energy_drift"):
            return f"{one}, not {other}"
    return None


def rates(arguments, cost, result, device):
    """GB/s, Gflop/s and the fraction of the device's roofline, as far as they are known."""
    seconds = int(result.fields["compute_us"]) / 1e6
    if not cost or seconds == 0:
        return "-", "-", "-"
    moved, operations = cost(arguments)
    peak = next((peak for name, peak in PEAKS if name in device), None)
    fraction = "-"
    if peak:
        least = max(moved / peak[0] / 1e9,
                    operations / (peak[2] if arguments.get("dtype") == "f64" else peak[1]) / 1e12)
        fraction = f"{100 * least / seconds:.0f} %"
    return (f"{moved / seconds / 1e9:.1f}" if moved else "-",
            f"{operations / seconds / 1e9:.1f}" if operations else "-", fraction)


ROW = "{:<46} {:>10} {:>10} {:>10} {:>9} {:>10} {:>6}  {}"


def check(cuda, cpu, name, small):
    """Runs a workload's cases; returns how many went wrong."""
    large_cases, small_cases, cost = CASES.get(name, ([{}], [{}], None))
    wrong = 0
    for arguments in small_cases if small else large_cases:
        # The first run pays for what is made once.
        runs = [executor.run(name, **arguments) for executor in (cuda, cuda, cpu)]
        failed = [run.error for run in runs if run.status != "done"]
        found, wanted = runs[1:]
        verdict = "ok"
        if failed:
            verdict = failed[0]
        elif name not in DIFFERENT:
            tolerance = TOLERANCE.get(arguments.get("dtype"), TOLERANCE["f32"])
            verdict = agree(found.answer, wanted.answer, tolerance) or "ok"
        wrong += verdict != "ok"
        line = " ".join([name] + [f"{key}={value}" for key, value in arguments.items()])
        if found.fields.get("backend") == "cpu":
            print(f"{line:<46} has no kernels: it ran on the host's processors")
            return wrong
        print(ROW.format(line, wanted.fields["compute_us"], found.fields["compute_us"],
                         found.fields["copy_us"], *rates(arguments, cost, found, cuda.hello["device"]),
                         verdict))
    return wrong


def main():
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__)
    parser.add_argument("--device", default="0", help="number, GPU-uuid or MIG-uuid")
    parser.add_argument("--small", action="store_true", help="sizes that take no time")
    options = parser.parse_args()
    with Executor("--backend=cuda", f"--device={options.device}", environment=os.environ) as cuda, \
            Executor("--backend=cpu", environment=os.environ) as cpu:
        if cuda.refused:
            print(f"gpu-check: {cuda.refused}", file=sys.stderr)
            return 1
        print(cuda.done("DEVICE_INFO").output)
        print(ROW.format("", "cpu us", "cuda us", "copy us", "GB/s", "Gflop/s", "roof", ""))
        wrong = sum(check(cuda, cpu, name, options.small)
                    for name in cuda.hello["workloads"].split(","))
        print(f"\n{wrong} of the outputs above are wrong" if wrong else "\nall outputs agree")
        print("Times of MATRIX_MUL, FFT, CONV2D, BLACK_SCHOLES, NBODY and SHA256 have the verification by "
              "the host in them.")
        return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
