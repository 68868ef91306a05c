"""Who a VM is: fixed, claimed within limits, required, kept; and what vgpu-identity reads."""
import struct

import pytest

from harness import (VGPU_IDENTITY, VGPUCTL, assert_one_line_error, errno_of, read_file, run,
                     write_file)

CONFIG = {
    "vm 1": {"pool": "B", "priority": "2"},
    "vm 2": {"pools": "A", "max_priority": "1"},
    "vm 3": {"identity": "required"},
}


def claim(vm, pool, priority, number=None):
    write_file(vm.dir / "identity", f"pool={pool} priority={priority} vm_id={number or vm.number}\n")


def effective(vm):
    record = vm.status()[f"vm {vm.number}"]
    return record["pool"], record["priority"]


def rejected(mount, vm):
    return int(mount.stats()[f"vm {vm.number}"]["identity_rejected"])


# --- the file ------------------------------------------------------------------------------------

def test_before_any_claim(vm):
    assert effective(vm) == ("A", "1")
    assert read_file(vm.dir / "identity") == f"pool=A priority=1 vm_id={vm.number}\n".encode()
    assert vm.run("NOP").header["pool"] == "A"


@pytest.mark.parametrize("form", ["pool={} priority={} vm_id={}\n", "{}:{}:{}\n", "{}:{}:{}"])
def test_a_claim(vm, form):
    text = form.format("B", 2, vm.number)
    write_file(vm.dir / "identity", text)
    assert effective(vm) == ("B", "2")
    assert read_file(vm.dir / "identity") == text.encode()
    header = vm.run("NOP").header
    assert (header["pool"], header["priority"]) == ("B", "2")
    claim(vm, "A", 0)
    assert effective(vm) == ("A", "0")


def test_a_fixed_identity(mount):
    vm = mount.vm(1)
    assert effective(vm) == ("B", "2")
    assert vm.status()["vm 1"]["identity"] == "config"
    before = rejected(mount, vm)
    claim(vm, "B", 2)  # what it is anyway
    for pool, priority in (("A", 2), ("B", 1)):
        assert errno_of(claim, vm, pool, priority) == "EACCES"
    assert errno_of(claim, vm, "B", 2, 3) == "EACCES"
    assert rejected(mount, vm) == before + 3
    assert vm.status()["last_error"]["errno"] == "EACCES"
    assert effective(vm) == ("B", "2")


def test_limits(mount):
    vm = mount.vm(2)
    assert vm.status()["vm 2"]["identity"] != "config"
    claim(vm, "A", 1)
    assert effective(vm) == ("A", "1")
    before = rejected(mount, vm)
    for pool, priority in (("A", 2), ("B", 1)):
        assert errno_of(claim, vm, pool, priority) == "EACCES"
    assert rejected(mount, vm) == before + 2
    assert effective(vm) == ("A", "1")


def test_required(vgpufs):
    vm = vgpufs({"vm 3": {"identity": "required"}}).vm(3)
    assert errno_of(vm.submit, "NOP") == "EACCES"
    assert "identity" in vm.status()["last_error"]["text"]
    assert errno_of(vm.make_job, "x", "NOP") == "EACCES"
    claim(vm, "A", 1)
    assert vm.run("NOP").header["status"] == "done"


@pytest.mark.parametrize("text", [
    "bogus\n", "A:2\n", "A:2:3:4\n", "A:x:3\n", "pool=A\n", "pool=A priority=3 vm_id={vm}\n",
    "A:3:{vm}\n", "A:-1:{vm}\n", "A:2:{vm}x\n", "pool=A priority=2 vm_id={vm} bogus=1\n",
    "A:2:99999999999999999999\n", "\x01:2:{vm}\n", "AA" * 50 + ":2:{vm}\n"])
def test_malformed(vm, text):
    text = text.format(vm=vm.number)
    assert errno_of(write_file, vm.dir / "identity", text) in ("EINVAL", "EACCES")
    assert effective(vm) == ("A", "1")


@pytest.mark.parametrize("wrong, expected", [("bogus", "EINVAL"), ("A:1:9999", None),
                                             ("Z:1:{}", None)])
def test_a_batch_is_all_or_none(vm, wrong, expected):
    before = read_file(vm.dir / "identity")
    wrong = wrong.format(vm.number)
    for batch in (f"B:2:{vm.number}\n{wrong}\n", f"{wrong}\nB:2:{vm.number}\n"):
        error = errno_of(write_file, vm.dir / "identity", batch)
        assert error == expected or (not expected and error in ("EINVAL", "EACCES"))
        assert effective(vm) == ("A", "1")
        assert read_file(vm.dir / "identity") == before
        assert vm.status()["last_error"]["line"] == wrong
    write_file(vm.dir / "identity", f"A:0:{vm.number}\nB:2:{vm.number}\n")
    assert effective(vm) == ("B", "2"), "the last line holds"


def test_an_unknown_pool(vm):
    assert errno_of(claim, vm, "Z", 1) in ("EINVAL", "EACCES")
    assert "pool" in vm.status()["last_error"]["text"]


def test_another_vm(vm):
    assert errno_of(claim, vm, "A", 1, vm.number + 1) == "EACCES"


@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_kept_over_a_restart(vgpufs, end):
    daemon = vgpufs()
    vm = daemon.vm(3)
    claim(vm, "B", 2)
    getattr(daemon, end)()
    daemon.start()
    assert effective(vm) == ("B", "2")
    assert vm.run("NOP").header["pool"] == "B"


def test_configuration_goes_before_a_kept_claim(vgpufs):
    daemon = vgpufs()
    claim(daemon.vm(3), "B", 2)
    daemon.stop()
    daemon.write_config({"vm 3": {"pool": "A", "priority": "0"}})
    daemon.start()
    assert effective(daemon.vm(3)) == ("A", "0")
    daemon.stop()
    daemon.write_config({"vm 3": {"pools": "A", "max_priority": "1"}})
    daemon.start()
    assert effective(daemon.vm(3)) == ("A", "1"), "what is no longer allowed is not kept"


def test_queued_jobs_keep_theirs(mount, vm):
    mount.ctl(f"hold vm{vm.number}")
    vm.submit("NOP tag=before")
    claim(vm, "B", 2)
    vm.submit("NOP tag=after")
    mount.ctl(f"release vm{vm.number}")
    assert [vm.job_result(tag).header["pool"] for tag in ("before", "after")] == ["A", "B"]


# --- vgpu-identity -------------------------------------------------------------------------------

POOL, PRIORITY, VM_ID = 0x008, 0x00C, 0x010
# PCI configuration space: vendor, device, command with memory decoding on, … (PCI 3.0, 6.1).
COMMAND_MEMORY = 0x0002


class Sysfs:
    """A made-up /sys with one vGPU stub, as Linux lays it out (Documentation/PCI/sysfs-pci.rst)."""

    def __init__(self, folder):
        self.folder = folder

    def add(self, address="0000:00:06.0", vendor=0x1af4, device=0x1111, kind=0x120000, bar=0,
            size=4096, pool=ord("A"), priority=2, vm_id=3):
        page = bytearray(size)
        for offset, value in ((POOL, pool), (PRIORITY, priority), (VM_ID, vm_id)):
            struct.pack_into("<I", page, offset, value & 0xffffffff)
        place = self.folder / "bus" / "pci" / "devices" / address
        place.mkdir(parents=True)
        (place / "vendor").write_text(f"0x{vendor:04x}\n")
        (place / "device").write_text(f"0x{device:04x}\n")
        (place / "class").write_text(f"0x{kind:06x}\n")
        (place / "enable").write_text("1\n")
        lines = ["0x0000000000000000 0x0000000000000000 0x0000000000000000"] * 7
        lines[bar] = f"0x{0xfebd0000:016x} 0x{0xfebd0000 + size - 1:016x} 0x{0x40200:016x}"
        (place / "resource").write_text("\n".join(lines) + "\n")
        (place / f"resource{bar}").write_bytes(page)
        header = struct.pack("<HHHHBBBBBBBB", vendor, device, COMMAND_MEMORY, 0, 0,
                             kind & 0xff, kind >> 8 & 0xff, kind >> 16, 0, 0, 0, 0)
        (place / "config").write_bytes(header.ljust(256, b"\0"))
        return self


@pytest.fixture
def sysfs(tmp_path):
    (tmp_path / "bus" / "pci" / "devices").mkdir(parents=True)
    return Sysfs(tmp_path)


def identify(mount, sysfs, *options):
    return run(VGPU_IDENTITY, f"--sysfs={sysfs.folder}", f"--mount={mount.mountpoint}", *options)


@pytest.mark.parametrize("pool, priority", [("A", 0), ("A", 2), ("B", 0), ("B", 2)])
def test_the_stub_sets_the_identity(mount, vm, sysfs, pool, priority):
    sysfs.add(pool=ord(pool), priority=priority, vm_id=vm.number)
    status, _, error = identify(mount, sysfs)
    assert status == 0, error
    assert effective(vm) == (pool, str(priority))
    header = vm.run("NOP").header
    assert (header["pool"], header["priority"]) == (pool, str(priority))


def test_the_stub_by_its_class(mount, vm, sysfs):
    sysfs.add(address="0000:00:02.0", vendor=0x8086, device=0x1237, kind=0x060000, vm_id=9)
    sysfs.add(vendor=0x5853, device=0x4321, kind=0x120000, pool=ord("B"), vm_id=vm.number)
    assert identify(mount, sysfs)[0] == 0
    assert effective(vm) == ("B", "2")


def test_ivshmem(mount, vm, sysfs):
    sysfs.add(device=0x1110, kind=0x050000, bar=2, pool=ord("B"), vm_id=vm.number)
    status, _, error = identify(mount, sysfs, "--device=0000:00:06.0", "--bar=2")
    assert status == 0, error
    assert effective(vm) == ("B", "2")


def test_no_stub(mount, sysfs):
    sysfs.add(vendor=0x8086, device=0x1237, kind=0x060000)
    status, _, error = identify(mount, sysfs)
    assert status == 2
    assert_one_line_error("vgpu-identity", status, error)


def test_print_sets_nothing(mount, vm, sysfs):
    sysfs.add(pool=ord("B"), priority=0, vm_id=vm.number)
    status, output, _ = identify(mount, sysfs, "--print")
    assert status == 0
    assert output.startswith(f"pool=B priority=0 vm_id={vm.number} ")
    assert effective(vm) == ("A", "1")


@pytest.mark.parametrize("registers", [{"pool": 0x58}, {"pool": 0}, {"priority": 3},
                                       {"priority": 0xffffffff}, {"pool": 0x4141},
                                       {"pool": 0xffffffff, "priority": 0xffffffff}])
def test_invalid_registers(mount, vm, sysfs, registers):
    """An error that names what it read, or the older client's fallback: never another identity."""
    sysfs.add(**{"vm_id": vm.number, **registers})
    status, _, error = identify(mount, sysfs)
    if status == 0:
        assert effective(vm) == ("A", "1")
    else:
        assert_one_line_error("vgpu-identity", status, error)
        assert effective(vm) == ("A", "1")


@pytest.mark.parametrize("vm_id", [0, 0xffffffff, 999])
def test_an_invalid_vm_id(mount, sysfs, vm_id):
    sysfs.add(vm_id=vm_id)
    status, _, error = identify(mount, sysfs)
    assert_one_line_error("vgpu-identity", status, error)
    assert status == 1


def test_a_stub_against_the_configuration(mount, sysfs):
    """A register page that claims more than the configuration allows is refused by the host."""
    vm = mount.vm(1)
    before = rejected(mount, vm)
    sysfs.add(pool=ord("A"), priority=0, vm_id=1)
    status, _, error = identify(mount, sysfs)
    assert_one_line_error("vgpu-identity", status, error)
    assert status == 1
    assert effective(vm) == ("B", "2")
    assert rejected(mount, vm) == before + 1


def test_the_page_that_vgpuctl_writes(mount, vm, sysfs, tmp_path):
    """register-page on the host, vgpu-identity in the guest: they agree."""
    page = tmp_path / "page"
    claim(vm, "B", 0)
    status, _, error = run(VGPUCTL, f"--config={mount.config_file}", "register-page", page, "vm", 1)
    assert status == 0, error
    content = page.read_bytes()
    assert len(content) == 4096
    assert struct.unpack_from("<III", content, POOL) == (ord("B"), 2, 1)
    sysfs.add(device=0x1110, kind=0x050000, bar=2)
    (sysfs.folder / "bus/pci/devices/0000:00:06.0/resource2").write_bytes(content)
    status, output, error = identify(mount, sysfs, "--device=0000:00:06.0", "--bar=2", "--print")
    assert status == 0, error
    assert output.startswith("pool=B priority=2 vm_id=1 ")
