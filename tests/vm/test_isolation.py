"""Guest 4 tries everything on vm3: through its mount, and with handles that it guesses."""
import json

import pytest

NFS_OK, NFS3ERR_PERM, NFS3ERR_ACCES, NFS3ERR_STALE = 0, 1, 13, 70

# The FUSE handles of all files below a directory, as name_to_handle_at(2) gives them on the host.
HANDLES = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]
def show(path):
    handle, mount = Handle(size=128), ctypes.c_int()
    if libc.name_to_handle_at(-100, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0):
        raise OSError(ctypes.get_errno(), path)
    print(path.replace(sys.argv[1], "") or "/", handle.type, bytes(handle.data[:handle.size]).hex())
for folder, folders, files in os.walk(sys.argv[1]):
    # Of all the jobs, two are enough.
    folders[:] = [name for name in folders if name in ("jobs", "data", "mine", "long")]
    show(folder)
    for name in files:
        show(os.path.join(folder, name))
"""


def handles_of(rig, vm):
    return rig.host.python(HANDLES, f"/mnt/vgpu/vm{vm}")


def attack(rig, guest, handles):
    answer = json.loads(guest.sh(f"/payload/raw_nfs.py 10.0.{guest.number}.1 {rig.fsid()} <<'END'\n"
                                 f"{handles}END\n", timeout=300))
    assert answer["waited"] == []
    return answer["answers"]


@pytest.fixture(scope="module")
def secret(rig):
    """vm3 with a file, an ended job and a running one."""
    guest = rig[3]
    guest.sh(f"echo secret > {guest.dir}/data/secret; mkdir {guest.dir}/jobs/mine; "
             f"echo NOP > {guest.dir}/jobs/mine/command; cat {guest.dir}/jobs/mine/result; "
             f"echo 'L:1:3:SLEEP ms=3600000 timeout=3600 tag=long' > {guest.dir}/submit")
    yield guest
    rig.ctl("cancel vm3 all")
    guest.sh(f"rm {guest.dir}/data/secret; rmdir {guest.dir}/jobs/mine {guest.dir}/jobs/long "
             "2>/dev/null || true")


@pytest.mark.parametrize("script", [
    "ls VM", "ls -l VM/jobs", "cat VM/status", "timeout 60 cat VM/result", "cat VM/data/secret",
    "echo NOP > VM/submit", "echo 'cancel all' > VM/ctl", "mkdir VM/jobs/x", "rmdir VM/jobs/mine",
    "echo x > VM/data/x", "rm VM/data/secret", "echo pool=A priority=2 vm_id=3 > VM/identity",
    "echo A:2:3:NOP > VM/request.txt", "chmod 777 VM", "chown 20004 VM", "mv VM /mnt/vgpu/vm9",
    "rmdir VM", "mv VM/data/secret /mnt/vgpu/vm4/data/", "ln VM/data/secret /mnt/vgpu/vm4/data/l"])
def test_through_the_mount(secret, other, script):
    outcome = other.run(script.replace("VM", secret.dir))
    assert outcome.code not in (0, 124), outcome
    assert "ermission denied" in outcome.err or "not permitted" in outcome.err, outcome
    assert "secret\n" not in outcome.out


def test_its_own_handles_do_work(rig, other):
    """The tool can do what it tries: with its own VM's handles the guest gets what it asks for."""
    answers = attack(rig, other, handles_of(rig, 4))
    assert answers["/status"]["READ uid=0"] == NFS_OK
    assert answers["/"]["READDIR uid=20003"] == NFS_OK
    assert answers["/"]["LOOKUP uid=20004"] == NFS_OK
    assert answers["/jobs"]["MKDIR uid=0"] == NFS_OK
    assert answers["/submit"]["WRITE uid=0"] == NFS_OK
    other.sh(f"rmdir {other.dir}/jobs/*; rm -f {other.dir}/data/*")


def assert_refused(answers):
    for name, tries in answers.items():
        for what, status in tries.items():
            assert status not in (NFS_OK, 10008), (name, what, status)
            # What a directory is asked of a file, and the other way round, is another error.
            assert status in (NFS3ERR_PERM, NFS3ERR_ACCES, NFS3ERR_STALE, 20, 21, 22), \
                (name, what, status)


def test_with_guessed_handles(rig, secret, other):
    before = secret.newest()["job"]
    answers = attack(rig, other, handles_of(rig, 3))
    assert {"/", "/submit", "/result", "/data/secret", "/jobs/mine/command"} <= set(answers)
    assert_refused(answers)
    for name, what in (("/status", "READ"), ("/submit", "WRITE"), ("/data/secret", "READ")):
        assert answers[name][f"{what} uid=0"] == answers[name][f"{what} uid=20003"] == NFS3ERR_ACCES
    assert secret.newest()["job"] == before
    assert secret.sh(f"cat {secret.dir}/data/secret") == "secret\n"
    assert {"long", "mine"} <= set(secret.sh(f"ls {secret.dir}/jobs").split())


def test_with_handles_from_before_a_restart(rig, secret, other):
    """The same numbers after a restart are the same files, or none: never another's."""
    old = handles_of(rig, 3)
    rig.restart_daemon()
    answers = attack(rig, other, old)
    assert_refused(answers)
    # Numbers that nothing has: kind, VM and number of the inode are in the handle's first 8 bytes.
    kind, data = next(line.split()[1:] for line in old.splitlines()
                      if line.startswith("/data/secret"))
    guesses = "".join(f"guess{index} {kind} {data[:8]}{index * 37 % 256:02x}{data[10:]}\n"
                      for index in range(12))
    for tries in attack(rig, other, guesses).values():
        assert NFS_OK not in tries.values(), tries
    assert secret.sh(f"cat {secret.dir}/data/secret") == "secret\n"
