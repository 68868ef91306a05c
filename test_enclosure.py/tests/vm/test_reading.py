"""Every way in which programs read `result` while its job still runs."""
import shlex

import pytest

from length_executor import expected
from rig import guest_json, parse_result

MILLISECONDS = 800
LENGTH = 20000

# What a shell has to read a file, and which bytes of it that gives. RESULT is the file's path.
# stat is not among them: without an open a client tells the attributes that it has cached.
TOOLS = {
    "cat": ("cat RESULT", lambda raw: raw),
    "head": ("head -n 1 RESULT", lambda raw: raw[:raw.index(b"\n") + 1]),
    "head-bytes": ("head -c 5000 RESULT", lambda raw: raw[:5000]),
    "dd-64k": ("dd if=RESULT bs=64k status=none", lambda raw: raw),
    "dd-direct": ("dd if=RESULT bs=64k iflag=direct status=none", lambda raw: raw),
    "wc": ("wc -c < RESULT", lambda raw: b"%d\n" % len(raw)),
    "wc-open": ("wc -c RESULT | cut -d ' ' -f 1", lambda raw: b"%d\n" % len(raw)),
    "cp": ("cp RESULT /tmp/copy && cat /tmp/copy", lambda raw: raw),
    "tail": ("tail -n 3 RESULT", lambda raw: b"".join(raw.splitlines(keepends=True)[-3:])),
    "tail-bytes": ("tail -c 100 RESULT", lambda raw: raw[-100:]),
    "python": ("python3 -c 'import sys; sys.stdout.buffer.write(open(sys.argv[1], \"rb\").read())' "
               "RESULT", lambda raw: raw),
    "shell": ("IFS= read -r line < RESULT; echo \"$line\"", lambda raw: raw[:raw.index(b"\n") + 1]),
}

seeds = iter(range(1, 1000000))


def job(guest, length=LENGTH, milliseconds=MILLISECONDS, words=""):
    """The shell's command that submits a job of that length and time, and its result's body."""
    seed = next(seeds)
    line = f"L:1:{guest.number}:NBODY n={length} steps={milliseconds} seed={seed}{words}"
    return f"echo '{line}' > {guest.dir}/submit && ", expected(length, seed)


def submit(guest, *job_words, **job_keys):
    command, body = job(guest, *job_words, **job_keys)
    guest.sh(command + "true")
    return body


def check(raw, body):
    result = parse_result(raw)
    assert result.header["status"] == "done"
    assert result.body == body, f"{len(result.body)} bytes, {result.body.count(0)} NUL"
    return result


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_that_waits(guest, tool):
    script, cut = TOOLS[tool]
    command, body = job(guest)
    got = guest.sh(command + script.replace("RESULT", f"{guest.dir}/result")).encode("latin-1")
    raw = guest.read()  # now that the job has ended, as plainly as can be
    check(raw, body)
    assert got == cut(raw)


def test_byte_by_byte(guest):
    command, body = job(guest, 300)
    got = guest.sh(command + f"dd if={guest.dir}/result bs=1 status=none").encode("latin-1")
    check(got, body)


def test_a_descriptor_that_stays_open(rig, guest):
    """Opened before the submission, read after it. A client asks the server again only at the next
    open or when it believes its attributes no more; with actimeo=0 it never believes them."""
    rig.mount(guest, "/mnt/exact", "actimeo=0")
    try:
        assert guest_json(guest, "held", 5, LENGTH, 2_000_000,
                          environment="MOUNT=/mnt/exact") == []
    finally:
        guest.sh("umount /mnt/exact")


def test_three_readers_at_once(guest):
    command, body = job(guest)
    guest.sh(command + f"for i in 1 2 3; do cat {guest.dir}/result > /tmp/reader$i & done; wait")
    for index in (1, 2, 3):
        check(guest.sh(f"cat /tmp/reader{index}").encode("latin-1"), body)


def test_a_reader_in_the_background(guest):
    """The shell goes on, looks at other things, and finds what the reader has read."""
    command, body = job(guest)
    got = guest.sh(command + f"true; cat {guest.dir}/result > /tmp/background & reader=$!\n"
                   f"cat {guest.dir}/response.txt > /tmp/other\n"
                   "wait $reader && cat /tmp/background").encode("latin-1")
    check(got, body)


def test_a_reader_that_came_first(guest):
    """A reader that waits when another job is submitted gets the one it came for, or the newer."""
    first = submit(guest)
    reader = guest.call(f"cat {guest.dir}/result")
    second = submit(guest, LENGTH + 1)
    outcome = reader.wait()
    assert outcome.code == 0, outcome
    assert parse_result(outcome.out.encode("latin-1")).body in (first, second)
    check(guest.read(), second)


def test_the_directory_of_a_job(guest):
    body = submit(guest, words=" tag=mine")
    check(guest.read("jobs/mine/result"), body)
    later = submit(guest, 500, 1)
    check(guest.read(), later)
    check(guest.read("jobs/mine/result"), body)
    guest.sh(f"rmdir {guest.dir}/jobs/mine")


def test_listing_never_waits(guest):
    """`ls -l` of a VM's directory, of jobs/ and of a job's, while a job is held for ever."""
    guest.submit(f"L:1:{guest.number}:SLEEP ms=3600000 tag=long timeout=3600")
    try:
        for where in ("", "/jobs", "/jobs/long"):
            listing = guest.sh(f"ls -l {guest.dir}{where}", timeout=60)
            assert listing.startswith("total "), listing
            assert guest.sh(f"cat {guest.dir}/status", timeout=60).startswith("vm 3 ")
    finally:
        guest.sh(f"echo 'cancel long' > {guest.dir}/ctl")
    assert guest.result("jobs/long/result").header["status"] == "cancelled"
    guest.sh(f"rmdir {guest.dir}/jobs/long")
    assert "result" in guest.sh(f"ls {guest.dir}").split()


def test_size_is_that_of_the_content(guest):
    for name in ("result", "status", "identity", "response.txt", "request.txt"):
        path = shlex.quote(f"{guest.dir}/{name}")
        size, count = guest.sh(f"stat -c %s {path}; cat {path} | wc -c").split()
        assert size == count, name


def test_a_result_read_before_any_other(guest, other):
    """The other guest has its own newest job, or none: never this one's."""
    body = submit(guest, 700, 1)
    check(guest.read(), body)
    raw = other.read()
    assert raw.startswith(b"status=") and body not in raw


def test_rounds(guest):
    """The main thing, 200 times: random lengths and times, each result whole and of its own job."""
    answer = guest_json(guest, "rounds", 200, 7, timeout=600)
    assert answer["count"] == 0, answer
    assert answer["seconds"] > 0


def test_rounds_through_directories(guest):
    answer = guest_json(guest, "rounds", 40, 8, "jobs", timeout=600)
    assert answer["count"] == 0, answer
