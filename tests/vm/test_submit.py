"""Writing lines from a guest: what is taken, how often, and what is refused with which error."""
import time

import pytest

from rig import guest_json


def accepted(guest, script):
    """How many jobs a script in the guest has added."""
    if guest.newest()["job"] == "-":  # the newest one was removed, and its number went with it
        guest.job("NOP")
    before = int(guest.newest()["job"])
    guest.sh(script)
    deadline = time.monotonic() + 5  # v3: a line without a newline is complete after quiet
    while int(guest.newest()["job"]) == before and time.monotonic() < deadline:
        time.sleep(0.2)
    guest.read()
    return int(guest.newest()["job"]) - before


WRITES = {
    "echo": ("echo NOP > SUBMIT", 1),
    "append": ("echo NOP >> SUBMIT", 1),
    "twice the same": ("echo NOP > SUBMIT; echo NOP > SUBMIT", 2),
    "appended twice": ("echo NOP >> SUBMIT; echo NOP >> SUBMIT", 2),
    "one redirection": ("{ echo NOP; sleep 0.3; echo 'NOP timeout=9'; } > SUBMIT", 2),
    "one redirection, the same": ("{ echo NOP; echo NOP; echo NOP; } > SUBMIT", 3),
    "no newline": ("printf NOP > SUBMIT", 1),
    "no newline, twice": ("printf NOP > SUBMIT; sleep 0.5; printf NOP > SUBMIT", 2),
    "comments": ("printf '# a comment\\n\\nNOP\\n' > SUBMIT", 1),
    "batch": ("printf 'NOP\\nNOP timeout=5\\nNOP\\n' > /tmp/batch; cat /tmp/batch > SUBMIT", 3),
    "cp": ("printf 'NOP\\n' > /tmp/line; cp /tmp/line SUBMIT", 1),
    "tee": ("echo NOP | tee SUBMIT >/dev/null", 1),
    "dd": ("echo NOP | dd of=SUBMIT conv=fsync status=none", 1),
    "more than a page": ("x=$(printf '%0300d' 0); for i in $(seq 50); do "
                         "echo \"NOP timeout=9 deadline=$((i + 20))\"; echo \"# $x\"; done "
                         "> /tmp/many; test $(stat -c %s /tmp/many) -gt 12000 && cat /tmp/many > SUBMIT", 50),
}


@pytest.mark.parametrize("way", WRITES)
def test_each_line_is_one_job(guest, way):
    script, count = WRITES[way]
    assert accepted(guest, script.replace("SUBMIT", f"{guest.dir}/submit")) == count


def test_a_batch_is_taken_in_order(guest):
    guest.sh("for i in 1 2 3 4 5; do echo \"SLEEP ms=$i\"; done > /tmp/batch; "
             f"cat /tmp/batch > {guest.dir}/submit")
    last = int(guest.result().header["job"])
    lines = [guest.read(f"jobs/{last - 4 + index}/command") for index in range(5)]
    assert lines == [b"SLEEP ms=%d\n" % number for number in range(1, 6)]


REFUSED = {
    "an unknown command": ("BOGUS", "Invalid argument", "EINVAL"),
    "a bad value": ("VECTOR_ADD n=x", "Invalid argument", "EINVAL"),
    "another VM's number": ("A:1:4:NOP", "Permission denied", "EACCES"),
    "a line too long": ("NOP # " + "x" * 5000, "File too large", "EFBIG"),
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_wrong_line(guest, line):
    """The mount has `sync`: echo notices. And who does not look at that sees it in `result`."""
    text, message, name = REFUSED[line]
    guest.job("NOP")
    newest = guest.newest()["job"]
    outcome = guest.run(f"echo '{text}' > {guest.dir}/submit")
    assert outcome.code == 1 and message in outcome.err, outcome
    raw = guest.read()
    assert raw.startswith(b"status=rejected ") and b"error=" in raw, raw
    assert guest.status()["last_error"]["errno"] == name
    assert guest.job("NOP").header["job"] == str(int(newest) + 1)


def test_a_wrong_line_without_sync(rig, guest):
    """Without `sync` a shell's echo need not notice; the reader of `result` does."""
    rig.mount(guest, "/mnt/async", "async")
    try:
        guest.run("echo BOGUS > /mnt/async/vm3/submit")
        raw = guest.sh("cat /mnt/async/vm3/result")
        assert raw.startswith("status=rejected ") and "BOGUS" in raw, raw
    finally:
        guest.sh("umount /mnt/async")
    assert guest.job("NOP").header["status"] == "done"


def test_a_claim_above_the_limit(other):
    outcome = other.run(f"echo 'A:2:4:NOP' > {other.dir}/submit")
    assert outcome.code == 1 and "Permission denied" in outcome.err, outcome


def test_a_tag_in_use(guest):
    """EEXIST, as the guest sees it: another line with the tag, another command, the directory."""
    guest.sh(f"echo 'NOP tag=once' > {guest.dir}/submit")
    first = guest.result("jobs/once/result").header["job"]
    guest.sh(f"echo 'NOP tag=once' > {guest.dir}/submit")
    assert guest.result().header["job"] == first, "the same line again enqueues nothing"
    for script in (f"echo 'NOP timeout=3 tag=once' > {guest.dir}/submit",
                   f"echo 'SLEEP ms=1' > {guest.dir}/jobs/once/command",
                   f"mkdir {guest.dir}/jobs/once"):
        outcome = guest.run(script)
        assert outcome.code == 1 and "File exists" in outcome.err, (script, outcome)
    guest.sh(f"rmdir {guest.dir}/jobs/once")


def test_a_host_that_drains(rig, guest):
    """EROFS, as the guest sees it."""
    rig.ctl("drain")
    try:
        outcome = guest.run(f"echo NOP > {guest.dir}/submit")
        assert outcome.code == 1 and "Read-only file system" in outcome.err, outcome
    finally:
        rig.ctl("resume")
    assert guest.job("NOP").header["status"] == "done"


def test_full_queues(rig, guest):
    """EDQUOT for the VM's own limit, ENOSPC for the pool's; afterwards everything runs."""
    rig.ctl("hold F")
    rig.ctl("hold L")
    try:
        guest.sh(f"for i in 1 2 3; do echo F:1:3:NOP > {guest.dir}/submit; done")
        outcome = guest.run(f"echo F:1:3:NOP > {guest.dir}/submit")
        assert outcome.code == 1 and "No space left" in outcome.err, outcome
        guest.sh("for i in $(seq 61); do echo L:1:3:NOP; done > /tmp/many; "
                 f"cat /tmp/many > {guest.dir}/submit")
        outcome = guest.run(f"echo L:1:3:NOP > {guest.dir}/submit")
        assert outcome.code == 1 and "quota" in outcome.err, outcome
    finally:
        rig.ctl("release F")
        rig.ctl("release L")
    rig.wait_stats(lambda stats: stats["vm 3"]["queued"] == stats["vm 3"]["running"] == "0")


def test_many_writers(guest):
    """Several processes of one guest, each with directories of its own."""
    answer = guest_json(guest, "writers", 5, 8, 100, timeout=300)
    assert answer == {"wrong": [], "count": 0}


def test_a_directory_of_a_job(guest):
    folder = f"{guest.dir}/jobs/keep"
    guest.sh(f"mkdir {folder} && echo NOP > {folder}/command && cat {folder}/result")
    outcome = guest.run(f"rm -f {folder}/command")
    assert outcome.code == 1 and "not permitted" in outcome.err, outcome
    assert guest.sh(f"cat {folder}/command") == "NOP\n"
    guest.sh(f"rmdir {folder}")
    assert guest.run(f"cat {folder}/status").code == 1


def test_rmdir_cancels(rig, guest):
    rig.ctl("hold L")
    try:
        guest.sh(f"mkdir {guest.dir}/jobs/gone; echo L:1:3:NOP > {guest.dir}/jobs/gone/command; "
                 f"rmdir {guest.dir}/jobs/gone")
        assert rig.stats()["vm 3"]["queued"] == "0"
    finally:
        rig.ctl("release L")


def test_the_older_protocol(guest):
    """A client that writes, then polls once a second for anything that does not begin with 0:."""
    poll = (f"for i in $(seq 30); do answer=$(cat {guest.dir}/response.txt); "
            "case $answer in 0:*) sleep 1 ;; *) echo \"$answer\"; exit ;; esac; done; exit 1")
    for line, wanted in (("A:2:3:VECTOR_ADD n=1000", "1:"), ("L:1:3:SLEEP ms=1500", "1:"),
                         ("A:1:3:VECTOR_ADD a=none b=none", "2:"), ("A:1:3:NOP", "1:"),
                         ("L:1:3:SLEEP ms=1200", "1:")):
        answer = guest.sh(f"echo '{line}' > {guest.dir}/request.txt; {poll}")
        assert answer.startswith(wanted), (line, answer)


def test_a_job_needs_no_name_looked_up_again(guest):
    """A guest drops what it knows of a directory's names when that has another time, so a job must
    not give it one: that was two LOOKUP for each job on v3."""
    calls = guest_json(guest, "latency", 20, timeout=300)["calls"]
    assert calls["job"]["WRITE"][0] >= 1, calls
    assert calls["job"].get("LOOKUP", [0])[0] < 1, calls
