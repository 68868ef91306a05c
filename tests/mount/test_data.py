"""data/: an ordinary flat folder with a quota, and jobs that read and write its files."""
import array
import ctypes
import hashlib
import os
import stat
import subprocess
import time

import pytest

from harness import (FACTOR, IS_ROOT, Background, errno_of, in_child, quoted, read_file, shell,
                     wait_until)

CONFIG = {"vm 1": {"data_quota": "1M"}}
MIB = 1 << 20
REFUSED = ("EPERM", "EACCES")
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
LIBC = ctypes.CDLL(None, use_errno=True)


def renameat2(old, new, flags):
    if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def sync_folder(vm):
    """Waits until names are on the disk."""
    folder = os.open(vm.data, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


def data_bytes(vm):
    return int(vm.status()["limits"]["data_bytes"])


# --- files ---------------------------------------------------------------------------------------

def test_create_write_read(vm):
    before = time.time()
    vm.write_data("x", b"content")
    info = os.lstat(vm.data / "x")
    assert stat.S_IMODE(info.st_mode) == 0o600 and stat.S_ISREG(info.st_mode)
    assert info.st_size == 7 and info.st_nlink == 1
    assert info.st_uid == os.lstat(vm.dir).st_uid
    assert before - 1 <= info.st_mtime <= time.time() + 1
    assert read_file(vm.data / "x") == b"content"
    assert os.listdir(vm.data) == ["x"]
    assert data_bytes(vm) == 7


def test_exclusive_create(vm):
    os.close(os.open(vm.data / "x", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    assert errno_of(os.open, vm.data / "x", os.O_CREAT | os.O_EXCL | os.O_WRONLY) == "EEXIST"
    os.close(os.open(vm.data / "x", os.O_CREAT | os.O_WRONLY))


def test_mode_is_always_0600(vm):
    os.close(os.open(vm.data / "x", os.O_CREAT | os.O_WRONLY, 0o6777))
    assert stat.S_IMODE(os.lstat(vm.data / "x").st_mode) == 0o600
    os.chmod(vm.data / "x", 0o600)
    assert errno_of(os.chmod, vm.data / "x", 0o644) == "EPERM"


def test_offsets_holes_append(vm):
    fd = os.open(vm.data / "x", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"end", 10000)
    os.pwrite(fd, b"start", 0)
    assert os.fstat(fd).st_size == 10003
    assert os.pread(fd, 20000, 0) == b"start" + bytes(9995) + b"end"
    assert os.pread(fd, 10, 10003) == b""
    os.close(fd)
    fd = os.open(vm.data / "x", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"more")
    os.close(fd)
    assert read_file(vm.data / "x")[-7:] == b"endmore"
    assert data_bytes(vm) == 10007, "the quota counts logical size"


def test_truncate(vm):
    vm.write_data("x", b"0123456789")
    os.truncate(vm.data / "x", 4)
    assert read_file(vm.data / "x") == b"0123"
    os.truncate(vm.data / "x", 8)
    assert read_file(vm.data / "x") == b"0123" + bytes(4)
    fd = os.open(vm.data / "x", os.O_RDWR)
    os.ftruncate(fd, 2)
    assert os.fstat(fd).st_size == 2
    os.close(fd)
    os.close(os.open(vm.data / "x", os.O_WRONLY | os.O_TRUNC))
    assert os.lstat(vm.data / "x").st_size == 0
    assert data_bytes(vm) == 0
    assert errno_of(os.truncate, vm.data / "x", (1 << 63) - 1) in ("EDQUOT", "EFBIG")


def test_unlink(vm):
    vm.write_data("x", b"content")
    os.unlink(vm.data / "x")
    assert os.listdir(vm.data) == []
    assert errno_of(os.lstat, vm.data / "x") == "ENOENT"
    assert errno_of(os.unlink, vm.data / "x") == "ENOENT"
    wait_until(lambda: data_bytes(vm) == 0, what="the space is given back")


def test_an_open_file_outlives_its_name(vm):
    fd = os.open(vm.data / "x", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"content")
    os.unlink(vm.data / "x")
    assert os.listdir(vm.data) == []
    assert os.pread(fd, 100, 0) == b"content"
    os.pwrite(fd, b"C", 0)
    assert os.pread(fd, 100, 0) == b"Content"
    vm.write_data("x", b"another")
    assert os.pread(fd, 100, 0) == b"Content"
    os.close(fd)
    assert read_file(vm.data / "x") == b"another"
    wait_until(lambda: data_bytes(vm) == 7, what="the space is given back")


def test_deleted_files_leave_nothing_behind(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(3)
    vm.write_data("x", b"x" * 100000)
    fd = os.open(vm.data / "x", os.O_RDONLY)
    os.unlink(vm.data / "x")
    os.close(fd)
    vm.write_data("y", b"y")
    os.unlink(vm.data / "y")
    folder = daemon.state_dir / "data" / "3"
    wait_until(lambda: not folder.exists() or os.listdir(folder) == [], what=f"{folder} is empty")


def test_rename(vm):
    vm.write_data("x", b"content")
    inode = os.lstat(vm.data / "x").st_ino
    os.rename(vm.data / "x", vm.data / "y")
    assert os.listdir(vm.data) == ["y"]
    assert os.lstat(vm.data / "y").st_ino == inode
    assert read_file(vm.data / "y") == b"content"
    os.rename(vm.data / "y", vm.data / "y")
    assert read_file(vm.data / "y") == b"content"
    assert errno_of(os.rename, vm.data / "x", vm.data / "z") == "ENOENT"


def test_rename_replaces(vm):
    vm.write_data("x", b"new")
    vm.write_data("y", b"older")
    fd = os.open(vm.data / "y", os.O_RDONLY)
    inode = os.lstat(vm.data / "x").st_ino
    os.rename(vm.data / "x", vm.data / "y")
    assert os.listdir(vm.data) == ["y"]
    assert read_file(vm.data / "y") == b"new"
    assert os.lstat(vm.data / "y").st_ino == inode
    assert os.pread(fd, 100, 0) == b"older"
    os.close(fd)
    wait_until(lambda: data_bytes(vm) == 3, what="the space is given back")


def test_rename_flags(vm):
    vm.write_data("x", b"x")
    vm.write_data("y", b"y")
    assert errno_of(renameat2, vm.data / "x", vm.data / "y", RENAME_NOREPLACE) == "EEXIST"
    renameat2(vm.data / "x", vm.data / "z", RENAME_NOREPLACE)
    assert set(os.listdir(vm.data)) == {"y", "z"}
    assert errno_of(renameat2, vm.data / "y", vm.data / "z", RENAME_EXCHANGE) in (None, "EINVAL")
    assert errno_of(renameat2, vm.data / "y", vm.data / "z", 0x80) == "EINVAL"
    assert {read_file(vm.data / name) for name in ("y", "z")} == {b"x", b"y"}


def test_rename_to_elsewhere(mount, vm, unused_vms):
    other = mount.vm(next(unused_vms))
    vm.write_data("x", b"x")
    for target in (other.data / "x", vm.dir / "x", vm.dir / "jobs" / "x", mount.path("x")):
        assert errno_of(os.rename, vm.data / "x", target) in ("EXDEV", *REFUSED), target
    assert read_file(vm.data / "x") == b"x"
    assert os.listdir(other.data) == []


def test_only_plain_files(vm):
    vm.write_data("x", b"x")
    assert errno_of(os.mkdir, vm.data / "folder") in REFUSED
    assert errno_of(os.symlink, "/etc/passwd", vm.data / "link") in REFUSED
    assert errno_of(os.link, vm.data / "x", vm.data / "hard") in REFUSED
    assert errno_of(os.mkfifo, vm.data / "pipe") in REFUSED
    if IS_ROOT:
        assert errno_of(os.mknod, vm.data / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3)) in REFUSED
    assert os.listdir(vm.data) == ["x"]


def test_mknod_of_a_plain_file(vm):
    """What some NFS servers create files with."""
    os.mknod(vm.data / "x", stat.S_IFREG | 0o600)
    assert os.lstat(vm.data / "x").st_size == 0


def test_times(vm):
    vm.write_data("x", b"x")
    os.utime(vm.data / "x", ns=(1_500_000_000_123_456_789, 1_600_000_000_987_654_321))
    info = os.lstat(vm.data / "x")
    assert info.st_atime_ns == 1_500_000_000_123_456_789
    assert info.st_mtime_ns == 1_600_000_000_987_654_321
    assert info.st_ctime_ns > 1_700_000_000_000_000_000
    os.utime(vm.data / "x")
    assert abs(os.lstat(vm.data / "x").st_mtime - time.time()) < 5 * FACTOR


def test_change_times_go_up(vm):
    """ctime is what NFSv4 takes its change attribute from: each change gives a later one."""
    vm.write_data("x", b"x")
    seen, folder = [os.lstat(vm.data / "x").st_ctime_ns], [os.lstat(vm.data).st_ctime_ns]
    fd = os.open(vm.data / "x", os.O_RDWR)
    for i in range(5):
        os.pwrite(fd, b"y", i)
        os.fsync(fd)
        seen.append(os.lstat(vm.data / "x").st_ctime_ns)
        vm.write_data(f"new{i}", b"")
        folder.append(os.lstat(vm.data).st_ctime_ns)
        os.rename(vm.data / f"new{i}", vm.data / f"other{i}")
        folder.append(os.lstat(vm.data).st_ctime_ns)
        os.unlink(vm.data / f"other{i}")
        folder.append(os.lstat(vm.data).st_ctime_ns)
    os.close(fd)
    for times in (seen, folder):
        assert all(a < b for a, b in zip(times, times[1:])), times


def test_fsync_and_fallocate(vm):
    fd = os.open(vm.data / "x", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"content")
    os.fsync(fd)
    os.fdatasync(fd)
    sync_folder(vm)
    assert errno_of(os.posix_fallocate, fd, 0, 4096) in (None, "EOPNOTSUPP", "EINVAL")
    os.close(fd)


def test_mmap(vm):
    """Programs map their input."""
    import mmap
    vm.write_data("x", b"0123456789" * 1000)
    with open(vm.data / "x", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert view[9990:] == b"0123456789"


def test_readers_see_what_others_write(vm):
    """Whoever only writes goes past the page cache, in which readers and maps have the file."""
    import mmap
    vm.write_data("x", b"a" * 10000)
    reader = os.open(vm.data / "x", os.O_RDONLY)
    both = os.open(vm.data / "x", os.O_RDWR)
    view = mmap.mmap(both, 10000)
    assert os.pread(reader, 4, 4094) == b"aaaa" == view[4094:4098]
    writer = os.open(vm.data / "x", os.O_WRONLY)
    os.pwrite(writer, b"bcd", 4095)
    assert os.pread(reader, 5, 4094) == b"abcda" == view[4094:4099] == os.pread(both, 5, 4094)
    os.pwrite(both, b"e", 4095)
    view[0:2] = b"fg"
    view.flush()
    os.pwrite(writer, b"h", 1)
    assert os.pread(reader, 3, 0) == b"fha" == view[0:3]
    for appender in [os.open(vm.data / "x", os.O_WRONLY | os.O_APPEND) for _ in range(2)]:
        os.write(appender, b"end")
        os.close(appender)
    assert os.pread(reader, 100, 9998) == b"aaendend"
    view.close()
    for file in (reader, both, writer):
        os.close(file)
    assert (vm.data / "x").read_bytes() == b"fh" + b"a" * 4093 + b"ecd" + b"a" * 5902 + b"endend"


def test_shell_tools(vm):
    status, output, error = shell(
        f"cd {quoted(vm.data)} && seq 1000 > a && cp a b && mv b c && cmp a c && "
        "sort -rn c | head -1 && dd if=a of=d bs=100 count=3 status=none && wc -c < d && rm a c d && ls")
    assert (status, output, error) == (0, "1000\n300\n", "")


# --- quota ---------------------------------------------------------------------------------------

def test_quota(vgpufs):
    vm = vgpufs({"vm 1": {"data_quota": "1M"}}).vm(1)
    vm.write_data("x", bytes(MIB - 4096))
    assert errno_of(vm.write_data, "y", bytes(4097)) == "EDQUOT"
    fd = os.open(vm.data / "z", os.O_CREAT | os.O_RDWR)
    assert errno_of(os.ftruncate, fd, 2 * MIB) == "EDQUOT"
    assert errno_of(os.pwrite, fd, b"x", 1 << 40) in ("EDQUOT", "EFBIG")
    os.close(fd)
    error = vm.status()["last_error"]
    assert error["errno"] == "EDQUOT" and "quota" in error["text"]
    for name in os.listdir(vm.data):
        os.unlink(vm.data / name)
    wait_until(lambda: data_bytes(vm) == 0, what="all space is given back")
    vm.write_data("x", bytes(MIB))
    assert data_bytes(vm) == MIB
    os.truncate(vm.data / "x", 0)
    vm.write_data("y", bytes(MIB))


def test_quota_over_a_restart(vgpufs):
    daemon = vgpufs({"vm 1": {"data_quota": "1M"}})
    vm = daemon.vm(1)
    vm.write_data("x", bytes(MIB - 10))
    daemon.restart()
    assert data_bytes(vm) == MIB - 10
    assert errno_of(vm.write_data, "y", bytes(11)) == "EDQUOT"
    vm.write_data("y", bytes(10))


def test_quota_is_each_vms_own(vgpufs):
    daemon = vgpufs({"defaults": {"data_quota": "1M"}})
    daemon.vm(1).write_data("x", bytes(MIB))
    daemon.vm(2).write_data("x", bytes(MIB))


def test_statfs(vgpufs):
    daemon = vgpufs({"vm 1": {"data_quota": "8M"}})
    vm = daemon.vm(1)
    empty = os.statvfs(vm.data)
    assert empty.f_frsize * empty.f_blocks == 8 * MIB
    assert empty.f_bavail == empty.f_bfree == empty.f_blocks
    assert empty.f_namemax == 255
    vm.write_data("x", bytes(2 * MIB))
    used = os.statvfs(vm.data / "x")
    assert used.f_frsize * used.f_bavail == 6 * MIB
    assert subprocess.run(["df", vm.data], capture_output=True).returncode == 0


def test_outputs_are_charged(vgpufs):
    vm = vgpufs({"vm 1": {"data_quota": "100K"}}).vm(1)
    write_floats(vm, "a", range(10000))
    write_floats(vm, "b", range(10000))
    result = vm.run("VECTOR_ADD a=a b=b out=c")
    assert result.header["status"] == "failed"
    assert "quota" in result.header["error"]
    assert sorted(os.listdir(vm.data)) == ["a", "b"], "no half-made output"
    os.truncate(vm.data / "a", 4000)
    os.truncate(vm.data / "b", 4000)
    assert vm.run("VECTOR_ADD a=a b=b out=c").header["status"] == "done"
    assert data_bytes(vm) == 12000


@pytest.mark.root
def test_a_full_disk(vgpufs):
    """ENOSPC, and the daemon goes on: reading works, deleting makes room again."""
    daemon = vgpufs(start=False)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", daemon.state_dir], check=True)
    try:
        daemon.start()
        vm = daemon.vm(1)
        vm.write_data("small", b"x")
        assert errno_of(vm.write_data, "big", bytes(32 * MIB)) == "ENOSPC"
        assert read_file(vm.data / "small") == b"x"
        os.unlink(vm.data / "big")
        wait_until(lambda: errno_of(vm.write_data, "again", bytes(MIB)) is None, what="room again")
        assert vm.run("NOP").header["status"] == "done"
        daemon.stop()
    finally:
        if daemon.process:
            daemon.kill9()
        subprocess.run(["umount", "-l", daemon.state_dir], check=True)


# --- large files ---------------------------------------------------------------------------------

@pytest.mark.limit(120)
def test_a_large_file(vm):
    """64 MiB in and out through pipes (splice) and by ordinary calls."""
    digest = hashlib.sha256()
    with open(vm.data / "large", "wb") as file:
        for i in range(64):
            block = hashlib.sha256(str(i).encode()).digest() * (MIB // 32)
            digest.update(block)
            file.write(block)
    assert os.lstat(vm.data / "large").st_size == 64 * MIB
    status, output, _ = shell(f"cat {quoted(vm.data)}/large | tee {quoted(vm.data)}/copy | sha256sum;"
                              f" sha256sum < {quoted(vm.data)}/copy", timeout=100 * FACTOR)
    assert output.split()[0::2] == [digest.hexdigest()] * 2
    assert data_bytes(vm) == 128 * MIB


def test_writers_at_once(vm):
    """Two descriptors on one file, and eight files at once."""
    def write(name, byte):
        with open(vm.data / name, "wb") as file:
            for _ in range(32):
                file.write(byte * 65536)

    writers = [Background(write, f"f{i}", bytes([65 + i])) for i in range(8)]
    for writer in writers:
        writer.value()
    for i in range(8):
        assert read_file(vm.data / f"f{i}") == bytes([65 + i]) * (32 * 65536)
    assert data_bytes(vm) == 8 * 32 * 65536


# --- names ---------------------------------------------------------------------------------------

NAMES = [b"plain.f32", b"with blank", b"-dash", b".hidden", b"...", b"~", b"*", b"a'b", b'a"b',
         b"a\\b", b"a\nb", b"a\rb", b"\x01\x02", b"\x7f", b"\x1b[31m", b"\xff\xfe", b"\xc0\xaf",
         "über-大".encode(), b"'; DROP TABLE files; --", b"%s%n", b"x" * 255, b"a=b", b"#", b"NUL",
         b"status", b"x\xcc\x81", b"X"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_hostile_names(vm, name):
    """Each byte but / and NUL may be in a name; it comes back as it is and reaches nothing else."""
    path = os.fsencode(vm.data) + b"/" + name
    with open(path, "wb") as file:
        file.write(name)
    assert os.listdir(os.fsencode(vm.data)) == [name]
    assert read_file(path) == name
    os.rename(path, path[:-1] + b"_")
    assert os.listdir(os.fsencode(vm.data)) == [name[:-1] + b"_"]
    os.unlink(path[:-1] + b"_")
    vm.status()


def test_names_too_long(vm):
    assert errno_of(vm.write_data, "x" * 256, b"") == "ENAMETOOLONG"
    vm.write_data("x", b"")
    assert errno_of(os.rename, vm.data / "x", vm.data / ("y" * 256)) == "ENAMETOOLONG"


def test_no_name_reaches_the_disk(vgpufs):
    daemon = vgpufs()
    for name in ("secret-name", "..a"):
        daemon.vm(3).write_data(name, b"x")
    files = [path for path in (daemon.state_dir / "data").rglob("*") if path.is_file()]
    assert len(files) == 2
    for path in files:
        assert path.relative_to(daemon.state_dir / "data").as_posix().replace("/", "").isdigit(), path


def test_many_files(vm):
    names = [f"file-with-a-name-{i}" for i in range(2000)]
    for name in names:
        os.close(os.open(vm.data / name, os.O_CREAT | os.O_WRONLY))
    assert sorted(os.listdir(vm.data)) == sorted(names)
    # Deleting while listing, as rm -r does.
    assert shell(f"cd {quoted(vm.data)} && rm -f *")[0] == 0
    assert os.listdir(vm.data) == []


# --- restarts ------------------------------------------------------------------------------------

@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_files_over_a_restart(vgpufs, end):
    daemon = vgpufs()
    vm = daemon.vm(3)
    contents = {name: name * 100 for name in (b"one", b"two\nlines", b"\xff", b"x" * 255)}
    for name, content in contents.items():
        fd = os.open(os.fsencode(vm.data) + b"/" + name, os.O_CREAT | os.O_WRONLY)
        os.write(fd, content)
        os.fsync(fd)
        os.close(fd)
    vm.write_data("temporary", b"x")
    os.rename(vm.data / "temporary", vm.data / "renamed")
    vm.write_data("deleted", b"x")
    os.unlink(vm.data / "deleted")
    contents[b"renamed"] = b"x"
    sync_folder(vm)
    inodes = {name: os.lstat(os.fsencode(vm.data) + b"/" + name).st_ino for name in contents}
    getattr(daemon, end)()
    daemon.start()
    assert set(os.listdir(os.fsencode(vm.data))) == set(contents)
    for name, content in contents.items():
        path = os.fsencode(vm.data) + b"/" + name
        assert read_file(path) == content
        assert os.lstat(path).st_ino == inodes[name]
    assert data_bytes(vm) == sum(map(len, contents.values()))
    # What was deleted is gone from the disk too, at the latest now.
    files = [path for path in (daemon.state_dir / "data" / "3").iterdir() if path.is_file()]
    assert len(files) == len(contents)


@pytest.mark.limit(120)
def test_replacing_survives_kill9(vgpufs):
    """Write a temporary file, rename it over the old one: whenever the daemon dies, the name is there
    with the old content or the new."""
    daemon = vgpufs({"vgpufs": {"vms": "1-3"}})
    vm = daemon.vm(3)
    vm.write_data("file", b"0")
    sync_folder(vm)
    for i in range(1, 21):
        vm.write_data("temporary", str(i).encode())
        os.rename(vm.data / "temporary", vm.data / "file")
        daemon.kill9()
        daemon.start()
        assert "file" in os.listdir(vm.data), f"round {i}"
        assert read_file(vm.data / "file") in (str(i - 1).encode(), str(i).encode())
        vm.write_data("file", str(i).encode())


def test_open_unlinked_files_are_swept_after_a_crash(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(3)
    fd = os.open(vm.data / "x", os.O_CREAT | os.O_WRONLY)
    os.write(fd, bytes(100000))
    os.unlink(vm.data / "x")
    sync_folder(vm)
    daemon.kill9()
    errno_of(os.close, fd)
    daemon.start()
    folder = daemon.state_dir / "data" / "3"
    wait_until(lambda: not folder.exists() or os.listdir(folder) == [], what=f"{folder} is empty")
    assert data_bytes(vm) == 0


# --- jobs ----------------------------------------------------------------------------------------

def write_floats(vm, name, values, dtype="f32"):
    floats = array.array({"f32": "f", "f64": "d"}[dtype], values)
    if os.sys.byteorder == "big":
        floats.byteswap()
    vm.write_data(name, floats.tobytes())


def read_floats(vm, name, dtype="f32"):
    floats = array.array({"f32": "f", "f64": "d"}[dtype])
    floats.frombytes(read_file(vm.data / name))
    if os.sys.byteorder == "big":
        floats.byteswap()
    return list(floats)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("count", [1, 1000, 300_001])
def test_vector_add(vm, dtype, count):
    write_floats(vm, f"x.{dtype}", (float(i % 1000) for i in range(count)), dtype)
    write_floats(vm, f"y.{dtype}", (0.5 for i in range(count)), dtype)
    result = vm.run(f"VECTOR_ADD a=x.{dtype} b=y.{dtype} out=z.{dtype} dtype={dtype}")
    assert result.header["status"] == "done", result.raw
    assert result.body.startswith(f"n={count} dtype={dtype} ".encode())
    assert read_floats(vm, f"z.{dtype}", dtype) == [i % 1000 + 0.5 for i in range(count)]
    assert b" max_abs_error=0" in result.body


def test_matrix_mul(vm):
    write_floats(vm, "a", [1, 2, 3, 4, 5, 6])     # 2 x 3
    write_floats(vm, "b", [7, 8, 9, 10, 11, 12])  # 3 x 2
    result = vm.run("MATRIX_MUL a=a b=b out=c m=2 n=2 k=3")
    assert result.header["status"] == "done", result.raw
    assert read_floats(vm, "c") == [58, 64, 139, 154]


def test_outputs_replace_older_files(vm):
    write_floats(vm, "a", [1, 2])
    write_floats(vm, "b", [10, 20])
    vm.write_data("c", b"something older and longer than it")
    before = os.lstat(vm.data).st_ctime_ns
    assert vm.run("VECTOR_ADD a=a b=b out=c").header["status"] == "done"
    assert read_floats(vm, "c") == [11, 22]
    assert data_bytes(vm) == 24
    assert os.lstat(vm.data).st_ctime_ns > before
    info = os.lstat(vm.data / "c")
    assert stat.S_IMODE(info.st_mode) == 0o600 and info.st_uid == os.lstat(vm.dir).st_uid


def test_the_kernel_is_told_of_a_file_that_is_gone(mount, vm):
    """It remembers a file's attributes for a while; by an older file's links an NFS client tells
    that the name means another one now, and would else show what it has of the older one."""
    write_floats(vm, "a", [1, 2])
    for last in (False, False, True):
        assert vm.run("VECTOR_ADD a=a b=a out=c").header["status"] == "done"
        with open(vm.data / "c", "rb") as older:
            assert os.fstat(older.fileno()).st_nlink == 1
            if last:
                mount.ctl(f"purge vm{vm.number}")
            else:
                assert vm.run("VECTOR_ADD a=a b=a out=c").header["status"] == "done"
            assert os.fstat(older.fileno()).st_nlink == 0


def test_an_input_may_be_the_output(vm):
    write_floats(vm, "a", [1, 2])
    assert vm.run("VECTOR_ADD a=a b=a out=a").header["status"] == "done"
    assert read_floats(vm, "a") == [2, 4]


@pytest.mark.parametrize("a, b, words", [
    (b"123", b"123", ["a"]), (b"1234", b"12345678", []), (b"", b"1234", [])])
def test_inputs_that_do_not_fit(vm, a, b, words):
    """Not a whole number of elements, of different lengths: a clear failure, no output."""
    vm.write_data("a", a)
    vm.write_data("b", b)
    result = vm.run("VECTOR_ADD a=a b=b out=c")
    assert result.header["status"] == "failed"
    assert len(result.header["error"]) > 5
    for word in words:
        assert word in result.header["error"]
    assert sorted(os.listdir(vm.data)) == ["a", "b"]


def test_names_with_blanks_in_commands(vm):
    write_floats(vm, "my file", [1])
    write_floats(vm, 'a"quote', [2])
    result = vm.run('VECTOR_ADD a="my file" b="a\\"quote" out="the sum"')
    assert result.header["status"] == "done", result.raw
    assert read_floats(vm, "the sum") == [3]


def test_inputs_of_another_vm_are_out_of_reach(mount, vm, unused_vms):
    other = mount.vm(next(unused_vms))
    write_floats(other, "theirs", [1])
    result = vm.run("VECTOR_ADD a=theirs b=theirs out=mine")
    assert result.header["status"] == "failed"
    assert os.listdir(vm.data) == []


def test_files_in_use_may_change(mount, vm):
    """Deleting or truncating an input while the job waits or runs fails the job at worst."""
    mount.ctl(f"hold vm{vm.number}")
    write_floats(vm, "a", range(1000))
    vm.submit("VECTOR_ADD a=a b=a out=c tag=deleted")
    os.unlink(vm.data / "a")
    mount.ctl(f"release vm{vm.number}")
    assert vm.job_result("deleted").header["status"] == "failed"
    for _ in range(20):
        write_floats(vm, "a", range(200_000))
        vm.submit("VECTOR_ADD a=a b=a out=c")
        os.truncate(vm.data / "a", 4)
        assert vm.result().header["status"] in ("done", "failed")
    assert vm.run("NOP").header["status"] == "done"
    assert int(mount.stats()["pool A"]["executor_restarts"]) == 0, "no SIGBUS"


@pytest.mark.root
def test_other_users(vm):
    vm.write_data("x", b"x")
    os.chmod(vm.data, 0o700)
    assert errno_of(in_child, lambda: os.listdir(vm.data), 65534) == "EACCES"
    folder = os.open(vm.data, os.O_RDONLY | os.O_DIRECTORY)
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY | os.O_CREAT):
        name = "new" if flags & os.O_CREAT else "x"
        assert errno_of(in_child, lambda: os.open(name, flags, dir_fd=folder), 65534) == "EACCES"
    assert errno_of(in_child, lambda: os.unlink("x", dir_fd=folder), 65534) == "EACCES"
    os.close(folder)
