"""What nvcc makes of the kernels: every architecture that the package is to have, both dialects of
PTX, and the registers and spills of each kernel, which are printed and bounded."""
import os
import re
import subprocess

import pytest

NVCC = os.environ["NVCC"]
SOURCE = os.environ["KERNELS_SOURCE"]
FATBIN = os.environ["KERNELS_FATBIN"]
INCLUDE = os.path.dirname(os.path.dirname(os.path.dirname(SOURCE)))

# kernel -> registers that a thread may have. 256 threads of a block at 128 registers fill half of a
# multiprocessor's 65,536, two blocks all; at 168 one block fits for certain.
REGISTERS = {
    "clear": 40,
    "fill_f32": 48,
    "fill_f64": 48,
    "add_f32": 80,
    "add_f64": 80,
    "saxpy_f32": 80,
    "saxpy_f64": 80,
    "verify_f32": 64,
    "verify_f64": 64,
    "verify_saxpy_f32": 64,
    "verify_saxpy_f64": 64,
    "sum_f32": 64,
    "sum_f64": 64,
    "sum_reference_f32": 64,
    "sum_reference_f64": 64,
    "dot_f32": 72,
    "dot_f64": 72,
    "dot_reference_f32": 72,
    "dot_reference_f64": 72,
    "extreme_f32": 64,
    "extreme_f64": 64,
    "extreme_reference_f32": 48,
    "extreme_reference_f64": 48,
    "scan_sum_f32": 64,
    "scan_sum_f64": 64,
    "scan_f32": 72,
    "scan_f64": 72,
    "verify_scan_f32": 72,
    "verify_scan_f64": 72,
    "histogram_f32": 48,
    "histogram_f64": 48,
    "histogram_reference_f32": 56,
    "histogram_reference_f64": 56,
    "transpose_f32": 32,
    "transpose_f64": 32,
    "verify_transpose_f32": 40,
    "verify_transpose_f64": 40,
    "checksum_f32": 64,
    "checksum_f64": 64,
    "count_points": 56,
    "multiply_f32": 168,
    "multiply_f32_small": 96,
    "multiply_f64": 128,
    "sort_encode_f32": 32,
    "sort_encode_f64": 32,
    "sort_count_f32": 32,
    "sort_count_f64": 32,
    "sort_offsets": 48,
    "sort_move_f32": 80,
    "sort_move_f64": 96,
    "sort_decode_f32": 40,
    "sort_decode_f64": 40,
    "fft_roots_f32": 40,
    "fft_roots_f64": 40,
    "fft_chirp_f32": 40,
    "fft_chirp_f64": 40,
    "fft_pass_f32": 64,
    "fft_pass_f64": 72,
    "fft_spread_f32": 32,
    "fft_spread_f64": 40,
    "fft_multiply_f32": 32,
    "fft_multiply_f64": 32,
    "fft_gather_f32": 32,
    "fft_gather_f64": 40,
    "fft_divide_f32": 32,
    "fft_divide_f64": 32,
    "convolve_f32": 96,
    "convolve_f64": 104,
    "price_f32": 56,
    "price_f64": 72,
    "accelerate_f32": 72,
    "accelerate_f64": 56,
    "potential_f32": 48,
    "potential_f64": 48,
    "move_f32": 32,
    "move_f64": 32,
    "sha256_fill": 40,
    "sha256_chunks": 72,
    "sanity_write": 32,
    "sanity_copy": 48,
    "sanity_check": 32,
    "sanity_compute": 32,
}
WANTED = ["75", "80", "86", "89", "90", "100", "120"]


def nvcc(*arguments):
    done = subprocess.run([NVCC, "-std=c++17", "-O3", "-I", INCLUDE, *arguments], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240)
    assert done.returncode == 0, done.stdout
    return done.stdout


KNOWN = re.findall(r"sm_(\d+)$", nvcc("--list-gpu-code"), re.M)
ARCHITECTURES = [number for number in WANTED if number in KNOWN]


@pytest.mark.parametrize("number", ARCHITECTURES)
def test_machine_code(number, tmp_path):
    said = nvcc("-cubin", f"-arch=sm_{number}", "-Xptxas", "-v", "-o", str(tmp_path / "cubin"), SOURCE)
    found = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill "
                       r"loads.*?Used (\d+) registers", said, re.S)
    print(f"\nsm_{number}:", ", ".join(f"{name} {registers} registers {stores}+{loads} spilled"
                                       for name, stores, loads, registers in found))
    assert {name for name, *_ in found} == set(REGISTERS)
    for name, stores, loads, registers in found:
        assert (stores, loads) == ("0", "0"), f"{name} spills registers to memory"
        assert int(registers) <= REGISTERS[name], f"{name} takes {registers} registers"


@pytest.mark.parametrize("number", [number for number in ("75", "100") if number in ARCHITECTURES])
def test_ptx(number, tmp_path):
    """Up to compute_90 nvcc writes an older dialect, from compute_100 a newer one."""
    file = tmp_path / "ptx"
    nvcc("-ptx", f"-arch=compute_{number}", "-o", str(file), SOURCE)
    text = file.read_text()
    assert f".target sm_{number}" in text
    assert set(re.findall(r"\.entry (\w+)\(", text)) == set(REGISTERS)
    entries = re.split(r"\.entry ", text)[1:]
    for entry in entries:
        name = entry.split("(")[0]
        if name.startswith(("add", "saxpy", "fill", "clear", "scan_f")):
            assert re.search(r"\.global\.v[24]\.", entry), f"{name} has no access of 16 bytes"
        if name.startswith("multiply"):
            assert re.search(r"ld\.shared\.v[24]\.", entry), f"{name} reads single elements"
            assert "fma.rn" in entry


def test_the_fatbin_has_them_all():
    """nvcc's fatbin names what is in it in plain text where it is not compressed."""
    content = open(FATBIN, "rb").read()
    assert content[:4] == b"\x50\xed\x55\xba"
    assert b".target sm_75" in content
    for name in REGISTERS:
        # In the PTX, and in each piece of machine code.
        assert content.count(name.encode() + b"\0") >= len(ARCHITECTURES) - 1, name
