"""The tree itself: names, modes, owners, inode numbers, sizes, and what cannot be done to it."""
import ctypes
import os
import stat
import subprocess

import pytest

from harness import (IS_ROOT, errno_of, in_child, read_file, run, wait_until, write_file)

CONFIG = {"vgpufs": {"vms": "1-10 20-200"}, "vm 3": {"pool": "A", "priority": "2"},
          "vm 7": {"uid": "4242" if IS_ROOT else os.geteuid()}}

ROOT = {"stats": 0o444, "stats.json": 0o444, "metrics": 0o444, "queue": 0o400, "ctl": 0o600}
VM = {"submit": 0o200, "result": 0o400, "status": 0o400, "identity": 0o600, "ctl": 0o200,
      "request.txt": 0o600, "response.txt": 0o400}
VM_DIRS = {"jobs": 0o700, "data": 0o700}
JOB = {"command": 0o600, "status": 0o400, "result": 0o400}
# EXDEV: a rename from one directory to another; the rest is how a fixed tree refuses.
REFUSED = ("EPERM", "EACCES", "EXDEV")


def mode_of(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def owner_of(path):
    return os.lstat(path).st_uid


def vm_uid(number):
    return 20000 + number if IS_ROOT else os.geteuid()


def test_root_names_modes_owner(mount):
    assert mode_of(mount.mountpoint) == 0o755
    assert owner_of(mount.mountpoint) == os.geteuid()
    vms = {f"vm{n}" for n in [*range(1, 11), *range(20, 201)]}
    assert set(os.listdir(mount.mountpoint)) == set(ROOT) | vms
    for name, mode in ROOT.items():
        assert mode_of(mount.path(name)) == mode, name
        assert stat.S_ISREG(os.lstat(mount.path(name)).st_mode), name
        assert owner_of(mount.path(name)) == os.geteuid(), name


@pytest.mark.parametrize("number", [1, 3, 10])
def test_vm_names_modes_owner(mount, number):
    vm = mount.vm(number)
    assert mode_of(vm.dir) == 0o700
    assert owner_of(vm.dir) == vm_uid(number)
    assert set(os.listdir(vm.dir)) == set(VM) | set(VM_DIRS)
    for name, mode in (VM | VM_DIRS).items():
        assert mode_of(vm.dir / name) == mode, name
        assert owner_of(vm.dir / name) == vm_uid(number), name
        assert stat.S_ISDIR(os.lstat(vm.dir / name).st_mode) == (name in VM_DIRS), name


def test_job_names_modes_owner(mount, vm):
    vm.make_job("fft1", "NOP")
    vm.job_result("fft1")
    assert mode_of(vm.job("fft1")) == 0o700
    assert set(os.listdir(vm.job("fft1"))) == set(JOB)
    for name, mode in JOB.items():
        assert mode_of(vm.job("fft1") / name) == mode, name
        assert owner_of(vm.job("fft1") / name) == vm_uid(vm.number), name


def test_uid_from_the_configuration(mount):
    assert owner_of(mount.vm(7).dir) == int(CONFIG["vm 7"]["uid"])


@pytest.mark.parametrize("mode", ["0440", "0400"])
def test_stats_mode(vgpufs, mode):
    daemon = vgpufs({"vgpufs": {"stats_mode": mode}})
    for name in ("stats", "stats.json", "metrics"):
        assert mode_of(daemon.path(name)) == int(mode, 8)


def test_names_that_are_not_there(mount, vm):
    for path in (mount.path("nothing"), mount.path("vm11"), mount.path("vm03"), mount.path("vm"),
                 mount.path("vm3x"), mount.path("vm99999999999999999999"), vm.dir / "nothing",
                 vm.job("nothing"), vm.data / "nothing"):
        assert errno_of(os.lstat, path) == "ENOENT", path
    assert errno_of(os.listdir, vm.dir / "status") == "ENOTDIR"
    assert errno_of(os.lstat, vm.dir / ("x" * 300)) in ("ENAMETOOLONG", "ENOENT")


def test_dot_and_dot_dot(mount, vm):
    """ls -a shows both, with the numbers that stat gives."""
    vm.make_job("dots", "NOP")
    for folder in (mount.mountpoint, vm.dir, vm.dir / "jobs", vm.job("dots"), vm.data):
        listed = dict(reversed(line.split()) for line in subprocess.run(
            ["ls", "-aif", folder], check=True, capture_output=True, text=True).stdout.splitlines())
        assert int(listed["."]) == os.lstat(folder).st_ino, folder
        if folder != mount.mountpoint:
            assert int(listed[".."]) == os.lstat(folder.parent).st_ino, folder
        for name in os.listdir(folder):
            assert int(listed[name]) == os.lstat(folder / name).st_ino, folder / name


def every_inode(daemon, numbers):
    paths = [daemon.mountpoint] + [daemon.path(name) for name in ROOT]
    for number in numbers:
        vm = daemon.vm(number)
        paths += [vm.dir] + [vm.dir / name for name in [*VM, *VM_DIRS]]
        paths += [vm.data / name for name in os.listdir(vm.data)]
    return {str(path): os.lstat(path).st_ino for path in paths}


def test_inode_numbers_over_a_restart(vgpufs):
    daemon = vgpufs()
    daemon.vm(3).write_data("x", b"x")
    daemon.vm(3).write_data("y", b"y")
    before = every_inode(daemon, range(1, 20))
    assert len(set(before.values())) == len(before)
    assert all(before.values())
    daemon.restart()
    assert every_inode(daemon, range(1, 20)) == before


def test_inode_numbers_are_not_reused(mount, vm):
    """A job and a file that come after others under the same name are other inodes."""
    seen = set()
    for _ in range(3):
        os.mkdir(vm.job("again"))
        vm.write_data("again", b"x")
        numbers = {os.lstat(vm.job("again")).st_ino, os.lstat(vm.data / "again").st_ino,
                   os.lstat(vm.job("again") / "command").st_ino}
        assert not numbers & seen
        seen |= numbers
        os.rmdir(vm.job("again"))
        os.unlink(vm.data / "again")


def test_big_directories_are_listed_once(vgpufs):
    """More names than one getdents64 buffer holds: each one once."""
    vm = vgpufs({"defaults": {"max_jobs": "2048"}}).vm(1)
    for i in range(1500):
        os.mkdir(vm.job(f"job-with-a-rather-long-name-{i}"))
    names = os.listdir(vm.dir / "jobs")
    assert len(names) == 1500
    assert len(set(names)) == 1500


def test_sizes_are_those_of_the_content(mount, vm):
    vm.make_job("size", "NOP")
    vm.job_result("size")
    for path in (vm.dir / "identity", vm.dir / "response.txt", vm.job("size") / "command",
                 vm.job("size") / "result"):
        assert os.stat(path).st_size == len(read_file(path)), path
    # These grow and shrink by themselves: the size is that of some moment.
    for path in (vm.dir / "status", *map(mount.path, ("stats", "metrics", "stats.json"))):
        wait_until(lambda: os.stat(path).st_size == len(read_file(path)), 5, f"the size of {path}")


def test_small_reads_give_the_same_bytes(mount):
    """A program that reads in pieces sees one moment of a file that changes all the time."""
    for name in ("stats", "metrics"):
        with open(mount.path(name), "rb", buffering=0) as file:
            pieces = b"".join(iter(lambda: file.read(7), b""))
        assert pieces.endswith(b"\n")
        if name == "stats":
            assert pieces.startswith(b"version 1\n")


def test_what_is_refused(mount, vm):
    vm.make_job("fixed", "NOP")
    vm.job_result("fixed")
    for name in JOB:
        assert errno_of(os.unlink, vm.job("fixed") / name) == "EPERM", name
    for path in [mount.path(name) for name in ROOT] + [vm.dir / name for name in VM]:
        assert errno_of(os.unlink, path) in REFUSED, path
    for path in (vm.dir, vm.dir / "jobs", vm.data):
        assert errno_of(os.rmdir, path) in (*REFUSED, "ENOTEMPTY"), path
    for folder in (mount.mountpoint, vm.dir, vm.job("fixed")):
        assert errno_of(os.mkdir, folder / "new") in REFUSED, folder
        assert errno_of(os.open, folder / "new", os.O_CREAT | os.O_WRONLY) in REFUSED, folder
        assert errno_of(os.symlink, "x", folder / "new") in REFUSED, folder
        assert errno_of(os.mkfifo, folder / "new") in REFUSED, folder
    assert errno_of(os.open, vm.dir / "jobs" / "new", os.O_CREAT | os.O_WRONLY) in REFUSED
    assert errno_of(os.link, vm.dir / "status", vm.dir / "other") in REFUSED
    assert errno_of(os.rename, vm.dir / "status", vm.dir / "other") in REFUSED
    assert errno_of(os.rename, vm.job("fixed"), vm.job("other")) in REFUSED
    assert vm.job_result("fixed").header["status"] == "done"


def test_chmod_and_chown(mount, vm):
    vm.make_job("mode", "NOP")
    nodes = [(mount.path("stats"), 0o444), (vm.dir, 0o700), (vm.dir / "submit", 0o200),
             (vm.job("mode"), 0o700), (vm.job("mode") / "command", 0o600)]
    for path, mode in nodes:
        owner = os.lstat(path)
        os.chmod(path, mode)
        os.chown(path, owner.st_uid, owner.st_gid)
        os.chown(path, -1, -1)
        assert errno_of(os.chmod, path, mode ^ 0o044) == "EPERM", path
        if IS_ROOT:
            assert errno_of(os.chown, path, owner.st_uid + 1, -1) == "EPERM", path
        assert mode_of(path) == mode
        assert owner_of(path) == owner.st_uid


def test_a_file_cannot_be_used_against_its_direction(mount, vm):
    for path in (mount.path("stats"), vm.dir / "status", vm.dir / "result", vm.dir / "response.txt"):
        assert errno_of(write_file, path, "x\n") is not None, path
    if not IS_ROOT:
        for name in ("submit", "ctl"):
            assert errno_of(read_file, vm.dir / name) == "EACCES"


def test_truncating_open_is_harmless(mount, vm):
    """`echo > file` opens with O_TRUNC: nothing happens before the write."""
    fd = os.open(vm.dir / "submit", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"NOP tag=trunc\n")
    os.close(fd)
    assert vm.result().header["tag"] == "trunc"
    fd = os.open(vm.dir / "submit", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"NOP tag=append\n")
    os.close(fd)
    assert vm.result().header["tag"] == "append"


@pytest.mark.root
@pytest.mark.parametrize("name", [*VM, *VM_DIRS, ""])
def test_other_users_are_kept_out(mount, vm, name):
    path = vm.dir / name
    def write(path):
        write_file(path, "x\n")

    for action in [os.listdir] if name in VM_DIRS or not name else [read_file, write]:
        assert errno_of(in_child, lambda: action(path) and None, 20001) == "EACCES", name


@pytest.mark.root
def test_other_users_see_the_root(mount, vm):
    """As with any 0400 file in a 0755 folder: its name, mode and owner; but its size, which has to
    be made, is that of nothing."""
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP")

    def sizes():
        return {name: os.lstat(mount.path(name)).st_size for name in ROOT}

    own = sizes()
    assert all(own.values()), own
    other = in_child(sizes, 20001)
    assert (other["queue"], other["ctl"]) == (0, 0)
    assert all(other[name] for name, mode in ROOT.items() if mode & 0o004)
    assert all(sizes().values()), "nothing is kept from one user for another"
    done = in_child(lambda: list(run("ls", "-l", mount.mountpoint)), 20001)
    assert (done[0], done[2]) == (0, ""), done
    assert "?" not in done[1]
    for name in ("queue", "ctl"):
        assert errno_of(in_child, lambda: str(read_file(mount.path(name))), 20001) == "EACCES"
    mount.ctl(f"release vm{vm.number}")


@pytest.mark.root
def test_handles_do_not_pass_the_directory(mount, vm):
    """An NFS handle reaches a file without crossing its directory; so does a directory descriptor
    that was opened before the privileges were dropped."""
    vm.make_job("secret", "NOP")
    jobs = os.open(vm.job("secret"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in JOB:
            def reach():
                os.close(os.open(name, os.O_RDONLY, dir_fd=jobs))
            assert errno_of(in_child, reach, 20001) == "EACCES", name
    finally:
        os.close(jobs)


@pytest.mark.root
def test_attributes_by_handle_are_the_owners(mount, vm):
    """The kernel asks nobody's permission for the attributes of what is open by its handle, as an
    NFS client's GETATTR has it: the daemon looks at the user itself."""
    for path in (vm.dir / "submit", vm.dir / "jobs"):
        fd = open_handle(mount, handle_of(path), os.O_PATH)
        try:
            size = os.fstat(fd).st_size
            assert errno_of(in_child, lambda: os.fstat(fd).st_size, 20001) == "EACCES", path
            uid = os.lstat(vm.dir).st_uid
            assert in_child(lambda: os.fstat(fd).st_size, uid) == size
        finally:
            os.close(fd)


@pytest.mark.root
def test_the_owner_uses_all_of_it(mount, vm):
    """What root can do must not hide what the VM's own user cannot."""
    def session():
        vm.submit("NOP tag=mine")
        first = vm.result().header
        vm.make_job("second", "NOP")
        second = vm.job_result("second").header
        vm.write_data("file", b"content")
        os.unlink(vm.data / "file")
        os.rmdir(vm.job("second"))
        write_file(vm.dir / "identity", f"A:2:{vm.number}\n")
        vm.ctl("cancel all")
        return [first["status"], second["status"], vm.status()[f"vm {vm.number}"]["priority"]]

    assert in_child(session, vm_uid(vm.number)) == ["done", "done", "2"]
    for name in ("queue", "ctl"):
        assert errno_of(in_child, lambda: read_file(mount.path(name)) and None,
                        vm_uid(vm.number)) == "EACCES"
    assert in_child(lambda: len(read_file(mount.path("stats"))) > 0, vm_uid(vm.number))


# --- handles -------------------------------------------------------------------------------------

class Handle(ctypes.Structure):
    """struct file_handle of name_to_handle_at(2), with room for what FUSE puts there."""
    _fields_ = [("size", ctypes.c_uint), ("type", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128)]


LIBC = ctypes.CDLL(None, use_errno=True)


def handle_of(path):
    handle, mount_id = Handle(size=128), ctypes.c_int()
    if LIBC.name_to_handle_at(-100, os.fsencode(path), ctypes.byref(handle),
                              ctypes.byref(mount_id), 0) != 0:
        raise OSError(ctypes.get_errno(), f"name_to_handle_at {path}")
    return handle


def open_handle(daemon, handle, flags=os.O_PATH):
    mount = os.open(daemon.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fd = LIBC.open_by_handle_at(mount, ctypes.byref(handle), flags)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "open_by_handle_at")
        return fd
    finally:
        os.close(mount)


def inode_of_handle(daemon, handle):
    fd = open_handle(daemon, handle)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


@pytest.mark.root
def test_handles_over_a_restart(vgpufs):
    daemon = vgpufs()
    daemon.vm(3).write_data("x", b"content")
    paths = [daemon.mountpoint, daemon.path("stats"), daemon.vm(3).dir, daemon.vm(3).dir / "submit",
             daemon.vm(3).data, daemon.vm(3).data / "x"]
    handles = {path: (handle_of(path), os.lstat(path).st_ino) for path in paths}
    daemon.restart()
    for path, (handle, inode) in handles.items():
        assert inode_of_handle(daemon, handle) == inode, path
    fd = open_handle(daemon, handles[paths[-1]][0], os.O_RDONLY)
    assert os.read(fd, 100) == b"content"
    os.close(fd)


def as_server_thread(uid):
    """What a thread of the kernel's NFS server is while it looks a handle up: a user, with root's
    capabilities."""
    LIBC.setfsuid(uid)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert LIBC.capget(header, sets) == 0
    for word in (0, 3):
        sets[word] = sets[word + 1]  # effective: what is permitted
    assert LIBC.capset(header, sets) == 0


@pytest.mark.root
def test_handles_are_found_by_anybody(vgpufs):
    """Such a thread still has the ids of another VM's request then: the right one's handles must not
    be stale for that. What may be done with them is asked later."""
    daemon = vgpufs()
    vm = daemon.vm(3)
    vm.make_job("a", "NOP")
    vm.job_result("a")
    vm.write_data("x", b"content")
    paths = [vm.dir, vm.dir / "submit", vm.dir / "result", vm.dir / "status",
             vm.job("a") / "result", vm.data / "x"]
    handles = [handle_of(path) for path in paths]
    daemon.restart()  # so that the kernel knows none of them

    def find():
        as_server_thread(vm_uid(4))
        for path, handle in zip(paths, handles):
            os.close(open_handle(daemon, handle))
            assert errno_of(open_handle, daemon, handle, os.O_RDONLY) == "EACCES", path

    in_child(find, 0)
    for path, handle in zip(paths, handles):
        assert inode_of_handle(daemon, handle) == os.lstat(path).st_ino, path


@pytest.mark.root
def test_stale_handles(mount, vm):
    vm.make_job("gone", "NOP")
    vm.job_result("gone")
    vm.write_data("gone", b"x")
    paths = [vm.job("gone"), vm.job("gone") / "result", vm.data / "gone"]
    handles = [handle_of(path) for path in paths]
    for handle, path in zip(handles, paths):
        assert inode_of_handle(mount, handle) == os.lstat(path).st_ino
    os.rmdir(vm.job("gone"))
    os.unlink(vm.data / "gone")
    for handle, path in zip(handles, paths):
        assert errno_of(open_handle, mount, handle) == "ESTALE", path


def open_number(mount, nodeid):
    """Opens what has that inode number, by a handle that was made up for it."""
    handle = handle_of(mount.path("stats"))
    # The kernel's fuse_encode_fh: nodeid high, nodeid low, generation (fs/fuse/inode.c).
    words = ctypes.cast(handle.bytes, ctypes.POINTER(ctypes.c_uint32))
    assert (words[0] << 32) | words[1] == os.lstat(mount.path("stats")).st_ino != nodeid
    words[0], words[1] = nodeid >> 32, nodeid & 0xffffffff
    return open_handle(mount, handle)


@pytest.mark.root
@pytest.mark.parametrize("nodeid", [0, 2, 1 << 40, (1 << 63) + 12345, (1 << 64) - 1])
def test_made_up_handles(mount, nodeid):
    try:
        fd = open_number(mount, nodeid)
    except OSError as error:
        assert error.errno == 116  # ESTALE
    else:
        # The number may name a real node; then it must be one, whole.
        inode = os.fstat(fd).st_ino
        os.close(fd)
        assert inode == nodeid


@pytest.mark.root
def test_numbers_beside_those_of_a_node(mount, vm):
    """One node has one number: with one more in it, of a VM or a job, it is none."""
    own, stats = os.lstat(vm.dir / "submit").st_ino, os.lstat(mount.path("stats")).st_ino
    for nodeid in (own | 5, stats | 5, stats | vm.number << 40, own | 0xffff << 40):
        assert errno_of(open_number, mount, nodeid) == "ESTALE", hex(nodeid)
