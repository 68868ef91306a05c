"""A guest's mount: what it sees of the tree, and jobs that have ended when they are looked at."""
import re
import shlex

import pytest

from rig import EXPORTS


def test_the_tree(guest):
    names = guest.sh(f"ls {guest.dir}").split()
    assert names == ["ctl", "data", "identity", "jobs", "request.txt", "response.txt", "result",
                     "status", "submit"]
    listing = guest.sh(f"ls -ln {guest.dir}")
    assert re.search(r"^-r-------- 1 20003 20003 .* result$", listing, re.M), listing
    assert "vm3" in guest.sh("ls /mnt/vgpu").split()


def test_status_tells_who_one_is(guest):
    assert guest.status()["vm 3"]["held"] == "no"
    assert guest.read("response.txt").startswith(b"0:Ready")


def test_a_job_with_a_directory(rig, guest):
    guest.sh(f"mkdir {guest.dir}/jobs/first && echo 'NOP' > {guest.dir}/jobs/first/command")
    rig.wait_stats(lambda stats: stats["vm 3"]["done"] != "0", what="the job ends")
    result = guest.result("jobs/first/result")
    assert result.header["tag"] == "first" and result.header["status"] == "done"
    guest.sh(f"rmdir {guest.dir}/jobs/first")
    assert "first" not in guest.sh(f"ls {guest.dir}/jobs").split()


def test_both_guests_are_served(rig, guest, other):
    before = rig.stats()
    for machine in (guest, other):
        machine.submit("NOP")
    rig.wait_stats(lambda stats: all(int(stats[vm]["done"]) > int(before[vm]["done"])
                                     for vm in ("vm 3", "vm 4")), what="both jobs end")
    assert guest.newest()["state"] == other.newest()["state"] == "done"


def test_a_shell_is_enough(guest):
    """A shell and cat, and no other program: submits, reads, looks, cancels, keeps data."""
    script = """
        echo 'NOP tag=alone' > submit; cat result jobs/alone/result status
        echo 'L:1:3:SLEEP ms=3600000 timeout=3600 tag=long' > submit
        echo 'cancel long' > ctl; cat jobs/long/result
        echo BOGUS > submit || cat result
        echo kept > data/note; cat data/note"""
    said = guest.sh(f"mkdir -p /tmp/only; ln -sf /bin/cat /tmp/only/cat; cd {guest.dir}; "
                    f"env -i PATH=/tmp/only /bin/dash -ec {shlex.quote(script)}")
    guest.sh(f"rm {guest.dir}/data/note; rmdir {guest.dir}/jobs/alone {guest.dir}/jobs/long")
    words = [line.split()[0] for line in said.splitlines()]
    assert words == ["status=done", "status=done", "vm", "newest", "last_error", "limits",
                     "status=cancelled", "status=rejected", "kept"], said


# What it takes to have --check complain, and of which check.
WRONG = {
    "leases": "sysctl -q fs.leases-enable=1",
    "NFS threads": "rpc.nfsd 8",
    "exports": f"rm -r {EXPORTS.rpartition('/')[0]}; exportfs -ra",
    "guests": None,
}


@pytest.mark.layout(version=("3",), server=("knfsd",))  # elsewhere a delegation could come of it
def test_check_names_what_mends(rig, guest):
    """`vgpufs --check` finds nothing on this host; and what it says to run mends what is wrong."""
    def check():
        return rig.host.run("/payload/bin/vgpufs --check").out

    good = check()
    for name, breaking in WRONG.items():
        assert f"ok       {name}\n" in good, good
        if not breaking:
            continue
        rig.host.sh(breaking)
        said = check()
        found = re.search(rf"^error    {name}: .*?run '(.*?)'", said, re.M)
        assert found and f"ok       {name}\n" not in said, said
        rig.host.sh(f"PATH=/payload/bin:$PATH; {found[1]}")
        assert check() == good
    assert guest.job("NOP", timeout=120).header["status"] == "done"
