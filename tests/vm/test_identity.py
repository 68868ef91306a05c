"""vgpu-identity in a guest: the registers' page is a real PCI device of this machine, in sysfs."""
import pytest

TOOL = "/payload/bin/vgpu-identity"


@pytest.fixture(autouse=True)
def registers(rig):
    rig.write_registers("A", 2, 3)
    yield
    rig.write_registers("A", 2, 3)


def rejected(rig, vm):
    return int(rig.stats()[f"vm {vm}"]["identity_rejected"])


def test_the_device_is_there(guest):
    assert guest.sh("cat /sys/bus/pci/devices/*/device | grep -c 0x1110").strip() == "1"


def test_what_the_page_says(guest):
    printed = guest.sh(f"{TOOL} --print")
    assert "pool=A priority=2 vm_id=3" in printed


@pytest.mark.parametrize("pool, priority", [("B", 0), ("A", 2), ("L", 1)])
def test_it_is_set(rig, guest, pool, priority):
    rig.write_registers(pool, priority, 3)
    assert f"pool={pool} priority={priority} vm_id=3" in guest.sh(TOOL)
    header = guest.job("NOP").header
    assert (header["pool"], header["priority"]) == (pool, str(priority))
    assert guest.status()["vm 3"]["identity"] != "default"
    assert guest.read("identity").startswith(f"pool={pool} priority={priority}".encode())


def test_a_wrong_number(rig, guest):
    """The page claims to be guest 4: its directory is not for this guest."""
    guest.sh(TOOL)
    rig.write_registers("A", 1, 4)
    outcome = guest.run(TOOL)
    assert outcome.code == 1 and outcome.err.startswith("vgpu-identity: "), outcome
    assert outcome.err.count("\n") == 1
    assert guest.job("NOP").header["priority"] == "2"


@pytest.mark.parametrize("pool, priority", [("A", 7), ("\0", 1)])
def test_nonsense_in_the_page(rig, guest, pool, priority):
    rig.write_registers(pool, priority, 3)
    outcome = guest.run(TOOL)
    assert outcome.code in (1, 2) and outcome.err.startswith("vgpu-identity: "), outcome


def test_a_guest_without_a_stub(other):
    outcome = other.run(TOOL)
    assert outcome.code == 2 and outcome.err.count("\n") == 1, outcome


def test_vgpu_run_in_a_guest(guest):
    """The other guest tool, statically told nothing: it finds its VM."""
    printed = guest.sh("/payload/bin/vgpu-run --timeout=60 VECTOR_ADD n=1000")
    assert "n=1000" in printed


@pytest.mark.parametrize("changes, registers_say, allowed", [
    ({"max_priority": "1"}, ("A", 2), False),
    ({"max_priority": "1"}, ("A", 1), True),
    ({"pools": "B"}, ("A", 1), False),
    ({"pools": "B"}, ("B", 2), True),
    ({"pool": "B", "priority": "0"}, ("B", 2), False),
    ({"pool": "B", "priority": "0"}, ("B", 0), True),
])
def test_the_host_decides(rig, guest, configured, changes, registers_say, allowed):
    configured(vm_3={"address": "10.0.3.2", **changes})
    before = rejected(rig, 3)
    rig.write_registers(*registers_say, 3)
    outcome = guest.run(TOOL)
    assert (outcome.code == 0) == allowed, outcome
    if not allowed:
        assert "ermission denied" in outcome.err or "refuse" in outcome.err, outcome
        assert rejected(rig, 3) == before + 1
    effective = guest.read("identity").decode()
    if allowed:
        assert effective.startswith("pool={} priority={}".format(*registers_say))
    else:
        assert not effective.startswith("pool={} priority={} ".format(*registers_say))


def test_an_identity_that_is_required(rig, guest, configured):
    configured(vm_3={"address": "10.0.3.2", "identity": "required"})
    rig.ctl("purge vm3")  # an identity that was set is kept over restarts
    outcome = guest.run(f"echo NOP > {guest.dir}/submit")
    assert outcome.code == 1 and "Permission denied" in outcome.err, outcome
    guest.sh(TOOL)
    assert guest.job("NOP").header["status"] == "done"
