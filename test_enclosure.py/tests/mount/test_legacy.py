"""The older file protocol: request.txt and response.txt, with a client that polls."""
import re
import time

import pytest

from harness import errno_of, quoted, read_file, shell, wait_until, write_file

CONFIG = {"vm 1": {"pool": "A", "priority": "2"}}


def request(vm, line):
    write_file(vm.dir / "request.txt", line)


def response(vm):
    return read_file(vm.dir / "response.txt").decode()


def answer(vm):
    """What the older client does: polls for anything that does not begin with 0:."""
    wait_until(lambda: not response(vm).startswith("0:"), what="an answer")
    return response(vm)


def test_before_any_job(vm):
    assert response(vm).startswith("0:Ready")


@pytest.mark.parametrize("end", ["", "\n"])
def test_success(vm, end):
    request(vm, f"A:2:{vm.number}:VECTOR_ADD{end}")
    assert answer(vm).startswith("1:")
    assert vm.result().header["status"] == "done"
    assert vm.result().header["priority"] == "2"


def test_states(mount, vm):
    mount.ctl(f"hold vm{vm.number}")
    request(vm, f"A:1:{vm.number}:SLEEP ms=300")
    assert response(vm).startswith("0:Queued")
    mount.ctl(f"release vm{vm.number}")
    wait_until(lambda: response(vm).startswith("0:Running"), what="0:Running")
    assert answer(vm).startswith("1:")


def test_it_never_shows_the_previous_answer(vm):
    """The write has returned: from now on the old answer is gone."""
    for i in range(20):
        request(vm, f"A:1:{vm.number}:SLEEP ms=20")
        assert response(vm).startswith(("0:", "1:"))
        first = answer(vm)
        request(vm, f"A:1:{vm.number}:VECTOR_ADD a=none{i} b=none out=z")
        while (text := response(vm)).startswith("0:"):
            time.sleep(0.001)
        assert text.startswith("2:") and text != first, text


def test_an_error(vm):
    request(vm, f"A:1:{vm.number}:VECTOR_ADD a=none b=none out=z")
    assert answer(vm).startswith("2:")
    assert "none" in answer(vm)


@pytest.mark.parametrize("line, expected", [
    ("BOGUS", "EINVAL"), ("A:1:999:NOP", "EACCES"), ("A:1:x:NOP", "EINVAL"), ("garbage", "EINVAL")])
def test_a_rejected_request(vm, line, expected):
    """The older client may not look at the error of its write: the answer says it too."""
    assert errno_of(request, vm, line) == expected
    assert response(vm).startswith("2:")
    request(vm, f"A:1:{vm.number}:NOP")
    assert answer(vm).startswith("1:")


def test_one_job_at_a_time(mount, vm):
    mount.ctl(f"hold vm{vm.number}")
    request(vm, f"A:1:{vm.number}:NOP")
    assert errno_of(request, vm, f"A:1:{vm.number}:SLEEP ms=1") == "EDQUOT"
    assert response(vm).startswith("0:Queued"), "the pending one is still answered"
    mount.ctl(f"release vm{vm.number}")
    assert answer(vm).startswith("1:")


def test_it_reads_back_what_was_accepted(vm):
    text = f"A:1:{vm.number}:NOP\n"
    request(vm, text)
    answer(vm)
    assert read_file(vm.dir / "request.txt") == text.encode()


def test_the_configuration_holds_here_too(mount):
    vm = mount.vm(1)
    assert errno_of(request, vm, "B:2:1:NOP") == "EACCES"
    request(vm, "A:2:1:NOP")
    assert answer(vm).startswith("1:")


def test_jobs_by_submit_do_not_answer_here(vm):
    request(vm, f"A:1:{vm.number}:NOP")
    before = answer(vm)
    vm.run("VECTOR_ADD a=none b=none out=z")
    assert response(vm) == before


def test_the_answer_is_one_line_without_control_bytes(vm):
    for line in ("VECTOR_ADD n=8", "DEVICE_INFO", 'VECTOR_ADD a="x y" b=y out=z'):
        request(vm, f"A:1:{vm.number}:{line}")
        assert re.fullmatch(r"[12]:[^\x00-\x09\x0b-\x1f\x7f]*\n?", answer(vm))


def test_an_old_client_in_shell(vm):
    status, output, error = shell(f"""
        cd {quoted(vm.dir)}
        printf 'A:2:{vm.number}:VECTOR_ADD' > request.txt
        while answer=$(cat response.txt); [ "${{answer#0:}}" != "$answer" ]; do sleep 0.05; done
        echo "$answer" | head -1
        """)
    assert (status, error) == (0, "")
    assert output.startswith("1:")


def test_cancelled(vm):
    request(vm, f"A:1:{vm.number}:SLEEP ms=60000")
    wait_until(lambda: response(vm).startswith("0:Running"), what="0:Running")
    vm.ctl("cancel all")
    assert answer(vm).startswith("2:")
