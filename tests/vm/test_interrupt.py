"""A guest's reader that waits and is interrupted."""
import time


def test_a_reader_is_interrupted(rig, guest):
    """Ctrl-C, or a kill, ends a cat that waits; the job goes on, and the next one reads its result."""
    guest.submit("L:1:3:SLEEP ms=3600000 timeout=3600")
    job = guest.newest()["job"]
    try:
        for name, code in (("INT", -2), ("TERM", -15), ("KILL", -9)):
            reader = guest.call(f"echo $$ > /tmp/waiting.pid; exec cat {guest.dir}/result", 300)
            guest.sh("for i in $(seq 600); do grep -q '^cat' /proc/$(cat /tmp/waiting.pid)/comm && "
                     "! grep -qx 0 /proc/$(cat /tmp/waiting.pid)/wchan && exit 0; "
                     "sleep 0.1; done; exit 1", timeout=120)
            time.sleep(0.5)  # it is in the request, not on its way to it
            assert not reader.done()
            guest.sh(f"kill -{name} $(cat /tmp/waiting.pid)")
            outcome = reader.wait()
            assert outcome.code == code and outcome.out == "", (name, outcome)
            assert reader.seconds < 250, "it was not the signal that ended it"
        assert rig.stats()["vm 3"]["running"] == "1"
    finally:
        rig.ctl(f"cancel vm3 {job}")
    assert guest.result(timeout=120).header["job"] == job
