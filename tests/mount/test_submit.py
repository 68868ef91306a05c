"""Submitting: the grammar, pieces and batches, every row of the error table, and hostile bytes."""
import os
import re

import pytest

from harness import errno_of, parse_fields, quoted, read_file, shell, write_file

CONFIG = {
    "vm 1": {"pool": "A", "priority": "2"},
    "vm 2": {"pools": "B", "max_priority": "1"},
    "vm 4": {"identity": "required"},
    "pool C": {"backend": "cpu", "max_run": "5s"},
}
MAX_LINE = 4095
# fuse_direct_io splits longer writes at FUSE_MAX_MAX_PAGES; what arrives whole is this at most.
MAX_BATCH = 1044480


def submissions(mount):
    return int(mount.stats()["vgpufs"]["submitted"])


# --- what is accepted ----------------------------------------------------------------------------

@pytest.mark.parametrize("line", [
    "NOP",
    "NOP ",
    " NOP",
    "NOP  tag=blanks   timeout=5",
    'NOP tag="quoted"',
    "SLEEP ms=1",
    'SLEEP ms="1"',
    "VECTOR_ADD n=8 seed=1 dtype=f32",
    "VECTOR_ADD n=8 seed=1 dtype=f64",
    "VECTOR_ADD n=8 deadline=30 timeout=30 tag=all-keys",
    "MATRIX_MUL m=4 n=4 k=4 seed=1",
    "DEVICE_INFO",
    "NOP tag=A.b_c-9",
    "NOP tag=" + "x" * 64,
])
def test_accepted(vm, line):
    result = vm.run(line)
    assert result.header["status"] == "done", result.raw
    assert result.header["command"] == line.split()[0]
    assert vm.newest()["state"] == "done"


def test_every_workload_runs_without_parameters(vm):
    for name in ("NOP", "DEVICE_INFO", "VECTOR_ADD", "MATRIX_MUL"):
        assert vm.run(name).header["status"] == "done", name


@pytest.mark.parametrize("text", ["\n", "\n\n\n", "# a comment\n", "#\n", "   \n", "# no newline"])
def test_ignored(mount, vm, text):
    write_file(vm.dir / "submit", text)
    assert vm.newest()["job"] == "-"
    assert vm.status()["last_error"]["errno"] == "-"
    assert vm.jobs() == set()


def test_comments_between_commands(vm):
    vm.submit("# first", "NOP tag=one", "", "NOP tag=two", "# last")
    assert vm.jobs() == {"one", "two"}
    assert vm.result().header["tag"] == "two"


def test_job_numbers_count_per_vm(mount, vm, unused_vms):
    other = mount.vm(next(unused_vms))
    assert [vm.run("NOP").header["job"] for _ in range(3)] == ["1", "2", "3"]
    assert other.run("NOP").header["job"] == "1"
    os.mkdir(vm.job("four"))
    assert vm.job_status("four")["job"] == "4"
    assert vm.run("NOP").header["job"] == "5"
    assert vm.jobs() == {"1", "2", "3", "four", "5"}


def test_default_tag_is_the_number(vm):
    header = vm.run("NOP").header
    assert header["tag"] == header["job"] == "1"


def test_echo_and_cat(vm):
    status, output, error = shell(
        f"echo 'VECTOR_ADD n=1024 seed=7' > {quoted(vm.dir)}/submit; cat {quoted(vm.dir)}/result")
    assert (status, error) == (0, "")
    first, second = output.splitlines()
    header = parse_fields(first)
    assert header["status"] == "done"
    assert re.fullmatch(r"n=1024 dtype=f32 sum=-?[0-9.e+]+ max_abs_error=0"
                        r" compute_us=\d+ copy_us=\d+ verify_us=\d+", second)
    assert int(header["bytes"]) == len(second) + 1


# --- pieces and batches --------------------------------------------------------------------------

def test_pieces_of_a_line(vm):
    fd = os.open(vm.dir / "submit", os.O_WRONLY)
    for piece in (b"NO", b"P tag=pie", b"ces"):
        os.write(fd, piece)
        assert vm.jobs() == set()
    os.write(fd, b"\n")
    assert vm.jobs() == {"pieces"}
    os.close(fd)
    assert vm.jobs() == {"pieces"}


def test_close_completes_a_line(vm):
    fd = os.open(vm.dir / "submit", os.O_WRONLY)
    os.write(fd, b"NOP tag=closed")
    assert vm.jobs() == set()
    os.close(fd)
    assert vm.jobs() == {"closed"}


def test_close_reports_what_it_completed(vm):
    fd = os.open(vm.dir / "submit", os.O_WRONLY)
    os.write(fd, b"BOGUS")
    assert errno_of(os.close, fd) == "EINVAL"
    assert vm.status()["last_error"]["errno"] == "EINVAL"


def test_unfinished_lines_belong_to_the_open_file(vm):
    one = os.open(vm.dir / "submit", os.O_WRONLY)
    two = os.open(vm.dir / "submit", os.O_WRONLY)
    os.write(one, b"NOP tag=o")
    os.write(two, b"NOP tag=t")
    os.write(one, b"ne\n")
    os.write(two, b"wo\n")
    os.close(one)
    os.close(two)
    assert vm.jobs() == {"one", "two"}


def test_offsets_are_ignored(vm):
    fd = os.open(vm.dir / "submit", os.O_WRONLY)
    os.pwrite(fd, b"NOP tag=far\n", 1 << 30)
    os.pwrite(fd, b"NOP tag=near\n", 0)
    os.pwrite(fd, b"NOP tag=middle\n", 77)
    os.close(fd)
    assert vm.jobs() == {"far", "near", "middle"}


def test_a_batch_keeps_its_order(vm):
    vm.submit(*[f"NOP tag=j{i}" for i in range(20)])
    numbers = [int(vm.job_result(f"j{i}").header["job"]) for i in range(20)]
    assert numbers == list(range(1, 21))
    assert vm.result().header["tag"] == "j19"


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_a_batch_is_all_or_none(vm, wrong):
    lines = ["NOP tag=a", "NOP tag=b", "NOP tag=c"]
    lines[wrong] = "BOGUS tag=x"
    assert errno_of(vm.submit, *lines) == "EINVAL"
    assert vm.jobs() == set()
    assert vm.status()["last_error"]["line"] == "BOGUS tag=x"
    assert vm.result().header["status"] == "rejected"
    vm.submit("NOP tag=a")  # nothing of the batch holds the tag
    assert vm.result().header["job"] == "1"


def test_a_batch_with_a_tag_twice(vm):
    """The second line is judged with the first one in place."""
    assert errno_of(vm.submit, "NOP tag=a", "SLEEP ms=1 tag=a") == "EEXIST"
    assert vm.jobs() == set()


def test_a_batch_over_the_limit_is_none(vgpufs):
    vm = vgpufs({"defaults": {"max_queued": "4"}}).vm(1)
    assert errno_of(vm.submit, *["SLEEP ms=1"] * 20) == "EDQUOT"
    assert vm.jobs() == set()


def test_a_complete_line_before_an_unfinished_one(vm):
    fd = os.open(vm.dir / "submit", os.O_WRONLY)
    os.write(fd, b"NOP tag=whole\nNOP tag=ha")
    assert vm.jobs() == {"whole"}
    os.write(fd, b"lf\n")
    assert vm.jobs() == {"whole", "half"}
    os.close(fd)


def test_after_an_error_the_file_goes_on(vm):
    fd = os.open(vm.dir / "submit", os.O_WRONLY)
    assert errno_of(os.write, fd, b"BOGUS\n") == "EINVAL"
    assert os.write(fd, b"NOP tag=next\n") == len(b"NOP tag=next\n")
    os.close(fd)
    assert vm.result().header["tag"] == "next"


def padded(line, size):
    """`line` with blanks in its middle, `size` bytes long."""
    word, rest = line.split(" ", 1)
    return word + " " * (size - len(word) - len(rest)) + rest


@pytest.mark.parametrize("size, expected", [
    (MAX_LINE - 1, None), (MAX_LINE, None), (MAX_LINE + 1, "EFBIG"), (MAX_LINE + 2, "EFBIG"),
    (100000, "EFBIG")])
def test_length_of_a_line(vm, size, expected):
    line = padded("NOP tag=long", size)
    assert len(line) == size
    assert errno_of(vm.submit, line) == expected
    assert vm.jobs() == (set() if expected else {"long"})


def test_a_line_too_long_in_pieces(vm):
    """The writer is told as soon as the limit is passed, or at the latest by close()."""
    fd = os.open(vm.dir / "submit", os.O_WRONLY)
    errors = [errno_of(os.write, fd, b"NOP" + b" " * 997) for _ in range(8)]
    errors.append(errno_of(os.close, fd))
    assert "EFBIG" in errors
    assert set(errors) <= {None, "EFBIG", "EINVAL"}
    assert vm.jobs() == set()


def test_length_of_a_batch(vm):
    comment = b"#" + b"x" * 1022 + b"\n"
    tail = b"NOP tag=tail\n"
    whole = comment * ((MAX_BATCH - 2 * len(tail)) // len(comment)) + tail
    write_file(vm.dir / "submit", whole)
    assert vm.jobs() == {"tail"}
    assert errno_of(write_file, vm.dir / "submit", comment * 2048 + b"NOP tag=other\n") == "EFBIG"
    assert vm.jobs() == {"tail"}


# --- tags ----------------------------------------------------------------------------------------

def test_a_tag_makes_it_idempotent(mount, vm):
    first = vm.run("VECTOR_ADD n=8 seed=1 tag=once")
    before = int(mount.stats()[f"vm {vm.number}"]["done"])
    vm.run("NOP tag=other")
    vm.submit("VECTOR_ADD n=8 seed=1 tag=once")
    assert vm.result() == first, "the same line is the newest entry again"
    assert int(mount.stats()[f"vm {vm.number}"]["done"]) == before + 1, "and ran only once"
    assert vm.jobs() == {"once", "other"}


def test_a_tag_for_another_line(vm):
    vm.run("NOP tag=mine")
    assert errno_of(vm.submit, "SLEEP ms=1 tag=mine") == "EEXIST"
    assert "tag" in vm.status()["last_error"]["text"]
    assert vm.result().header["status"] == "rejected"
    assert vm.job_result("mine").header["command"] == "NOP"


def test_a_tag_is_free_after_rmdir(vm):
    vm.run("NOP tag=mine")
    os.rmdir(vm.job("mine"))
    assert vm.run("SLEEP ms=1 tag=mine").header["job"] == "2"


def test_a_number_is_never_chosen(vm):
    for tag in ("1", "17", "0"):
        assert errno_of(vm.submit, f"NOP tag={tag}") == "EINVAL"
        assert errno_of(os.mkdir, vm.job(tag)) == "EINVAL"


# --- claims --------------------------------------------------------------------------------------

def test_a_claim_holds_for_its_job_only(vm):
    assert vm.run("NOP").header["priority"] == "1"
    header = vm.run(f"B:2:{vm.number}:NOP").header
    assert (header["pool"], header["priority"], header["command"]) == ("B", "2", "NOP")
    header = vm.run("NOP").header
    assert (header["pool"], header["priority"]) == ("A", "1")


def test_a_claim_with_parameters(vm):
    header = vm.run(f"B:0:{vm.number}:VECTOR_ADD n=8 tag=claimed").header
    assert (header["pool"], header["priority"], header["tag"]) == ("B", "0", "claimed")


@pytest.mark.parametrize("number, line, expected", [
    (1, "A:2:1:NOP", None),
    (1, "B:2:1:NOP", "EACCES"),
    (1, "A:1:1:NOP", "EACCES"),
    (1, "A:2:2:NOP", "EACCES"),
    (2, "B:1:2:NOP", None),
    (2, "B:0:2:NOP", None),
    (2, "B:2:2:NOP", "EACCES"),
    (2, "A:1:2:NOP", "EACCES"),
    (3, "C:0:3:NOP", None),
    (3, "A:0:4:NOP", "EACCES"),
    (4, "NOP", "EACCES"),
])
def test_claims_are_judged(mount, number, line, expected):
    vm = mount.vm(number)
    before = int(mount.stats()[f"vm {number}"]["identity_rejected"])
    assert errno_of(vm.submit, line) == expected
    if expected:
        assert vm.status()["last_error"]["errno"] == expected
        assert vm.result().header["status"] == "rejected"
        if ":" in line:
            assert int(mount.stats()[f"vm {number}"]["identity_rejected"]) == before + 1
    else:
        assert vm.result().header["status"] == "done"


@pytest.mark.parametrize("line", ["A:NOP", "A:2:NOP", ":2:3:NOP", "A::3:NOP", "A:2::NOP", "A:2:3:",
                                  "A:x:3:NOP", "A:2:x:NOP", "A:-1:3:NOP", "A:2:99999999999:NOP"])
def test_malformed_claims(vm, line):
    assert errno_of(vm.submit, line.replace("3", str(vm.number))) in ("EINVAL", "EACCES")
    assert vm.jobs() == set()


# --- the error table -----------------------------------------------------------------------------

def assert_rejected(vm, action, name, line=None, words=()):
    """The writer sees the errno, `status` says it in words, and `result` shows the rejection."""
    assert errno_of(action) == name
    status = vm.status()
    error = status["last_error"]
    assert error["errno"] == name
    assert int(error["time"]) > 1600000000
    if line is not None:
        assert error["line"] == line
    assert len(error["text"]) > 5
    for word in words:
        assert word in error["text"], error["text"]
    header = vm.result().header
    assert header["status"] == "rejected"
    assert header["error"] == error["text"]
    assert status["newest"]["state"] == "rejected"
    return error["text"]


INVALID = {
    "unknown command": ("BOGUS", ["BOGUS", "VECTOR_ADD"]),
    "lower case": ("vector_add n=8", ["vector_add"]),
    "a key first": ("n=8", []),
    "unknown key": ("VECTOR_ADD bogus=1", ["bogus"]),
    "unknown key of a command without any": ("NOP n=8", ["n"]),
    "upper-case key": ("VECTOR_ADD N=8", []),
    "no value": ("VECTOR_ADD n=", ["n"]),
    "no equals sign": ("VECTOR_ADD n", ["n"]),
    "no key": ("VECTOR_ADD =8", []),
    "a number with letters": ("VECTOR_ADD n=8x", ["n"]),
    "a negative number": ("VECTOR_ADD n=-8", ["n"]),
    "a sign": ("VECTOR_ADD n=+8", ["n"]),
    "hexadecimal": ("VECTOR_ADD n=0x8", ["n"]),
    "a number over 64 bits": ("VECTOR_ADD n=18446744073709551624", ["n"]),
    "a choice that is none": ("VECTOR_ADD dtype=f16", ["dtype", "f32"]),
    "a key twice": ("VECTOR_ADD n=8 n=9", ["n"]),
    "an open quote": ('VECTOR_ADD n="8', []),
    "bytes after a quote": ('VECTOR_ADD n="8"9', []),
    "a path": ("VECTOR_ADD a=../x b=y out=z", ["a"]),
    "an absolute path": ("VECTOR_ADD a=/etc/passwd b=y out=z", ["a"]),
    "dot": ("VECTOR_ADD a=. b=y out=z", ["a"]),
    "dot dot": ("VECTOR_ADD a=.. b=y out=z", ["a"]),
    "a path as output": ("VECTOR_ADD a=x b=y out=a/b", ["out"]),
    "a file name too long": ("VECTOR_ADD a=" + "x" * 256 + " b=y out=z", ["a"]),
    "tag all": ("NOP tag=all", ["tag"]),
    "tag of digits": ("NOP tag=17", ["tag"]),
    "tag with a digit first": ("NOP tag=1a", ["tag"]),
    "tag with a slash": ("NOP tag=a/b", ["tag"]),
    "tag dot dot": ("NOP tag=..", ["tag"]),
    "tag with a blank": ('NOP tag="a b"', ["tag"]),
    "tag too long": ("NOP tag=" + "x" * 65, ["tag"]),
    "tag empty": ("NOP tag=", ["tag"]),
    "timeout no number": ("NOP timeout=soon", ["timeout"]),
    "timeout over max_run": ("NOP timeout=61", ["timeout", "60"]),
    "deadline no number": ("NOP deadline=-1", ["deadline"]),
    "control byte": (b"NOP \x01", []),
    "NUL": (b"NOP\0", []),
    "NUL in a value": (b"NOP tag=a\0b", []),
    "invalid UTF-8": (b"NOP tag=\xff\xfe", []),
    "escape sequence": (b"\x1b[2JNOP", []),
}


@pytest.mark.parametrize("line, words", INVALID.values(), ids=INVALID.keys())
def test_einval(vm, line, words):
    assert_rejected(vm, lambda: vm.submit(line), "EINVAL", words=words)
    assert vm.jobs() == set()
    if isinstance(line, str):
        # A long line is cut.
        assert vm.status()["last_error"]["line"][:200] == line[:200]


@pytest.mark.parametrize("line, words", [INVALID[name] for name in (
    "unknown command", "unknown key", "an open quote", "NUL", "a path")])
def test_einval_of_a_command_file(vm, line, words):
    """jobs/<tag>/command takes the same rules; the directory stays and takes a better line."""
    os.mkdir(vm.job("j"))
    line = line if isinstance(line, bytes) else line.encode()
    assert errno_of(write_file, vm.job("j") / "command", line + b"\n") == "EINVAL"
    assert vm.status()["last_error"]["errno"] == "EINVAL"
    assert vm.result().header["status"] == "rejected"
    write_file(vm.job("j") / "command", "NOP\n")
    assert vm.job_result("j").header["status"] == "done"


def test_a_rejected_line_of_a_command_file(vm):
    """Who reads the directory alone, as over NFS, is told too, until a better line comes."""
    for tag in ("j", "other"):
        os.mkdir(vm.job(tag))
    assert vm.job_result("j").header["status"] == "idle"
    for line in ("BOGUS", "NOP bogus=1"):
        assert errno_of(write_file, vm.job("j") / "command", line + "\n") == "EINVAL"
        header, status = vm.job_result("j").header, vm.job_status("j")
        assert (header["status"], header["job"], header["tag"]) == ("rejected", "1", "j")
        assert header["error"] == vm.status()["last_error"]["text"]
        assert (status["state"], status["job"], status["tag"]) == ("rejected", "1", "j")
        assert vm.result().header["status"] == "rejected"
    assert vm.job_result("other").header["status"] == "idle"
    assert read_file(vm.job("j") / "command") == b""
    write_file(vm.job("j") / "command", "SLEEP ms=300\n")
    assert vm.job_status("j")["state"] in ("queued", "running")
    assert vm.job_result("j").header["status"] == "done"
    assert vm.job_status("j")["state"] == "done"
    # A line that comes too late changes nothing.
    assert errno_of(write_file, vm.job("j") / "command", "BOGUS\n") == "EINVAL"
    assert vm.job_result("j").header["status"] == "done"


@pytest.mark.parametrize("tag", ["all", "17", "1a", "-x", ".x", "a b", "a\nb", "é", "x" * 65])
def test_einval_of_mkdir(vm, tag):
    assert errno_of(os.mkdir, vm.job(tag)) == "EINVAL"
    assert vm.jobs() == set()


def test_efbig(vm):
    line = padded("NOP tag=x", MAX_LINE + 1)
    text = assert_rejected(vm, lambda: vm.submit(line), "EFBIG", words=[str(MAX_LINE)])
    assert len(text) < 512


def test_eacces(mount):
    vm = mount.vm(1)
    assert_rejected(vm, lambda: vm.submit("B:2:1:NOP"), "EACCES", "B:2:1:NOP")
    assert_rejected(vm, lambda: vm.submit("A:2:9:NOP"), "EACCES", "A:2:9:NOP", ["9"])


def test_eexist(vm):
    vm.run("NOP tag=x")
    assert_rejected(vm, lambda: vm.submit("SLEEP ms=1 tag=x"), "EEXIST", "SLEEP ms=1 tag=x",
                    ["tag"])


def test_eexist_of_a_second_command(vm):
    vm.make_job("x", "NOP")
    assert vm.job_result("x").header["status"] == "done"
    write_file(vm.job("x") / "command", "NOP\n")  # the same line is no mistake
    assert errno_of(write_file, vm.job("x") / "command", "SLEEP ms=1\n") == "EEXIST"
    assert vm.status()["last_error"]["errno"] == "EEXIST"
    assert vm.job_result("x").header["command"] == "NOP"
    assert errno_of(os.mkdir, vm.job("x")) == "EEXIST"


def test_edquot_of_queued_jobs(vgpufs):
    daemon = vgpufs({"vm 1": {"max_queued": "2"}})
    vm = daemon.vm(1)
    daemon.ctl("hold A")
    vm.submit("NOP tag=one")
    vm.submit("NOP tag=two")
    assert_rejected(vm, lambda: vm.submit("NOP tag=three"), "EDQUOT", "NOP tag=three",
                    ["2"])
    os.mkdir(vm.job("four"))
    assert errno_of(write_file, vm.job("four") / "command", "NOP\n") == "EDQUOT"
    daemon.vm(2).submit("NOP")  # another VM's limit is its own
    daemon.ctl("release A")
    for tag in ("one", "two"):
        assert vm.job_result(tag).header["status"] == "done"
    assert vm.run("NOP tag=three").header["status"] == "done"


def test_edquot_of_job_directories(vgpufs):
    vm = vgpufs({"vm 1": {"max_jobs": "3"}}).vm(1)
    for tag in ("one", "two", "three"):
        os.mkdir(vm.job(tag))
    assert errno_of(os.mkdir, vm.job("four")) == "EDQUOT"
    assert vm.status()["last_error"]["errno"] == "EDQUOT"
    os.rmdir(vm.job("one"))
    os.mkdir(vm.job("four"))


def test_enospc_of_a_full_queue(vgpufs):
    daemon = vgpufs({"pool A": {"max_queued": "2"}})
    daemon.ctl("hold A")
    daemon.vm(1).submit("NOP")
    daemon.vm(2).submit("NOP")
    assert_rejected(daemon.vm(3), lambda: daemon.vm(3).submit("NOP"), "ENOSPC", "NOP", ["A"])
    assert daemon.vm(3).run("B:1:3:NOP").header["status"] == "done"


def test_erofs_while_draining(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(1)
    vm.submit("SLEEP ms=300 tag=before")
    daemon.ctl("drain")
    assert_rejected(vm, lambda: vm.submit("NOP"), "EROFS", "NOP", ["drain"])
    assert errno_of(os.mkdir, vm.job("new")) == "EROFS"
    assert daemon.stats()["vgpufs"]["state"] == "draining"
    assert vm.job_result("before").header["status"] == "done", "what is queued still runs"
    daemon.ctl("resume")
    assert daemon.stats()["vgpufs"]["state"] == "running"
    assert vm.run("NOP").header["status"] == "done"


def test_a_rejection_lasts_until_the_next_submission(vm):
    vm.run("NOP tag=before")
    assert errno_of(vm.submit, "BOGUS") == "EINVAL"
    for _ in range(2):
        assert vm.result().header["status"] == "rejected"
    assert vm.job_result("before").header["status"] == "done"
    assert vm.run("NOP").header["status"] == "done"
    assert vm.status()["last_error"]["line"] == "BOGUS", "the last error stays to be read"


def test_a_missing_input_file_fails_the_job(vm):
    result = vm.run("VECTOR_ADD a=nothing.f32 b=nothing.f32 out=z.f32")
    assert result.header["status"] == "failed"
    assert "nothing.f32" in result.header["error"]


def test_ctl_errors(mount, vm):
    for line in ("", "bogus", "cancel", "cancel nothing", "cancel 99", "cancel a b", "cancel all all",
                 "hold A"):
        expected = None if not line else "EINVAL"
        assert errno_of(vm.ctl, line) == expected, line
    for line in ("bogus", "hold", "hold Z", "release", "cancel", "cancel vm3", "cancel vm999 1",
                 "cancel vm3 nothing", "priority vm3 1", "priority vm3 99 1", "priority vm3 1 3",
                 "purge", "purge vm999", "drain now", "resume now"):
        assert errno_of(mount.ctl, line) == "EINVAL", line


# --- hostile bytes -------------------------------------------------------------------------------

FORGERIES = [
    b'BOGUS "\\" status=done job=1',
    b"BOGUS\rstatus=done job=77 tag=77",
    b"BOGUS\x0bstatus=done",
    b'BOGUS " errno=0 text="nothing happened',
    b'NOP tag="x\\nstatus=done',
    b'VECTOR_ADD n="8\\" status=done error="',
    b"BOGUS \x00status=done",
    b"BOGUS \x1b]0;forged\x07\x1b[31m",
    b"BOGUS \xff\xfe\xc0\xaf\xed\xa0\x80\xf8\x88\x80\x80\x80",
    "BOGUS \u2028status=done \u202estatus".encode(),
    b"BOGUS \\x0astatus=done",
    b"\\",
    b'"',
    b'""""""',
    b"=" * 200,
    b'\\"' * 1500,
    bytes(range(1, 10)) + bytes(range(11, 256)),
]


@pytest.mark.parametrize("line", FORGERIES, ids=range(len(FORGERIES)))
def test_nothing_forges_a_header_or_a_record(mount, vm, line):
    assert errno_of(vm.submit, line) == "EINVAL"
    raw = read_file(vm.dir / "result")
    assert raw.count(b"\n") == 1
    header = vm.result().header  # parsed by the strict grammar
    assert header["status"] == "rejected"
    assert header["job"] == "-"
    records = vm.status()
    assert set(records) == {f"vm {vm.number}", "newest", "last_error", "limits"}
    assert records["last_error"]["errno"] == "EINVAL"
    # The line can be read back out of its escape, but for its end and for NULs.
    shown = records["last_error"]["line"].encode("utf-8", "surrogateescape")
    assert shown and line.replace(b"\0", b"\1").startswith(shown), (shown, line)


def test_nothing_forges_a_log_line(vgpufs):
    daemon = vgpufs({"vgpufs": {"log_level": "debug"}})
    vm = daemon.vm(1)
    for line in FORGERIES:
        assert errno_of(vm.submit, line + b" FORGED\x01") == "EINVAL"
        assert errno_of(write_file, vm.dir / "identity", line + b"\n") == "EINVAL"
        assert errno_of(write_file, vm.dir / "request.txt", line + b"\n") is not None
        assert errno_of(write_file, daemon.path("ctl"), line + b"\n") == "EINVAL"
    assert errno_of(os.mkdir, bytes(vm.dir) + b"/jobs/a\n[ENQUEUE] FORGED") == "EINVAL"
    vm.write_data("in\n[ENQUEUE] FORGED\x1b", b"")
    vm.run("NOP")
    daemon.stop()
    log = daemon.log_file.read_bytes()
    log.decode("utf-8")
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", log)
    for line in log.splitlines():
        assert not line.startswith((b"[ENQUEUE] FORGED", b"status=", b"FORGED")), line


def test_queue_and_stats_keep_their_grammar(vgpufs):
    """Quotes and blanks in an accepted line stay inside their field."""
    daemon = vgpufs()
    daemon.ctl("hold A")
    vm = daemon.vm(1)
    vm.submit('VECTOR_ADD a="x status=done" b="y" out="z\'s" tag=odd')
    (line,) = daemon.queue()
    assert (line.pool, line.vm, line.tag, line.state) == ("A", "vm1", "odd", "held")
    assert line.command.startswith("VECTOR_ADD")
    assert daemon.stats()["vm 1"]["queued"] == "1"
    vm.ctl("cancel odd")


def test_a_file_reads_back_what_was_accepted(vm):
    os.mkdir(vm.job("x"))
    assert read_file(vm.job("x") / "command") == b""
    write_file(vm.job("x") / "command", "NOP   timeout=5\n")
    assert read_file(vm.job("x") / "command") == b"NOP   timeout=5\n"
    os.mkdir(vm.job("y"))
    assert errno_of(write_file, vm.job("y") / "command", "BOGUS\n") == "EINVAL"
    assert read_file(vm.job("y") / "command") == b""
    write_file(vm.dir / "identity", f"A:2:{vm.number}\n")
    assert read_file(vm.dir / "identity") == f"A:2:{vm.number}\n".encode()
    assert errno_of(write_file, vm.dir / "identity", "nonsense\n") == "EINVAL"
    assert read_file(vm.dir / "identity") == f"A:2:{vm.number}\n".encode()
