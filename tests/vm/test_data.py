"""Files of data/: written by the guest, used by a job, read back."""
import re

MAKE = """
import array, hashlib, sys
# 16 Mi numbers of type float32, each 1 to 65521: their sum is exact in binary64. They repeat after
# a prime number of them, so that no pieces of a transfer are equal.
PERIOD, COUNT = 65521, 1 << 20
numbers = [i * 7919 % PERIOD + 1 for i in range(PERIOD)]
block = array.array("f", numbers * (COUNT // PERIOD) + numbers[:COUNT % PERIOD])
total = sum(numbers) * (COUNT // PERIOD) + sum(numbers[:COUNT % PERIOD]) - numbers[0]
total, digest = 16 * total, hashlib.sha256()
with open(sys.argv[1], "wb") as file:
    for turn in range(16):
        block[0] = turn + 1
        total += turn + 1
        data = block.tobytes()
        digest.update(data)
        file.write(data)
print(total, digest.hexdigest())
"""


def test_64_mib(guest):
    """Written by NFS, summed by a job, read back after the guest has forgotten its pages."""
    path = f"{guest.dir}/data/big.f32"
    total, digest = guest.python(MAKE, path, timeout=300).split()
    assert guest.sh(f"stat -c %s {path}").strip() == str(64 << 20)
    result = guest.job("REDUCE a=big.f32 op=sum dtype=f32", timeout=120)
    assert result.header["status"] == "done", result
    found = re.search(rb"(?:sum|value|result)=([-+.e0-9]+)", result.body)
    assert abs(float(found[1]) / float(total) - 1) < 1e-6, (result.body, total)
    back = guest.sh(f"echo 3 > /proc/sys/vm/drop_caches; sha256sum < {path}", timeout=300)
    assert back.split()[0] == digest
    result = guest.job("SHA256 file=big.f32 chunk=16777216 out=digests", timeout=120)
    assert result.header["status"] == "done", result
    assert guest.sh(f"stat -c %s {guest.dir}/data/digests").strip() == str(4 * 32)
    guest.sh(f"rm {path} {guest.dir}/data/digests")
    assert guest.sh(f"ls {guest.dir}/data") == ""


def test_an_output_that_changes(guest):
    """A job writes over a file that the guest has just read: the guest sees the new one."""
    where = f"{guest.dir}/data"
    guest.sh(f"head -c 4000 /dev/zero > {where}/x; head -c 4000 /dev/zero > {where}/y")
    for size in (4000, 8000, 400):
        guest.sh(f"head -c {size} /dev/zero | tr '\\0' '?' > {where}/x; cp {where}/x {where}/y")
        result = guest.job("VECTOR_ADD a=x b=y out=z")
        assert result.header["status"] == "done", result
        # '????' is the number 0x3f3f3f3f; twice that has the exponent's next value, 0x3fbf3f3f.
        assert guest.sh(f"cat {where}/z") == "\x3f\x3f\xbf\x3f" * (size // 4)
    guest.sh(f"rm {where}/x {where}/y {where}/z")


def test_names_and_renames(guest):
    where = f"{guest.dir}/data"
    guest.sh(f"echo one > {where}/a; mv {where}/a {where}/b; cat {where}/b | grep -qx one; "
             f"! test -e {where}/a; echo two >> {where}/b; test $(wc -l < {where}/b) = 2; "
             f"rm {where}/b; test -z \"$(ls {where})\"")


def test_the_quota(rig, guest, other):
    """EDQUOT: vm4 may keep 8 MiB."""
    outcome = other.run(f"dd if=/dev/zero bs=1000000 count=9 status=none of={other.dir}/data/big")
    assert outcome.code != 0 and "quota" in outcome.err, outcome
    other.sh(f"rm -f {other.dir}/data/big; echo small > {other.dir}/data/small; "
             f"rm {other.dir}/data/small")
