"""Start, stop, crash, reload; as a plain user; on a kernel without the newer system calls."""
import ctypes
import errno
import fcntl
import os
import pwd
import re
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from harness import (FACTOR, IS_ROOT, VGPUFS, Background, StartError, alive, assert_one_line_error,
                     descendants_of, errno_of, in_child, mounted, processes_with, read_file, run,
                     wait_until, write_file)

NOBODY = pwd.getpwnam("nobody").pw_uid


def fails_to_start(daemon):
    """The end of a daemon that cannot start: (exit status, standard error)."""
    with pytest.raises(StartError) as ended:
        daemon.start()
    return ended.value.status, ended.value.error


def last_line(text):
    """The error, behind what -f has logged before."""
    return text.splitlines(keepends=True)[-1]


# --- start ---------------------------------------------------------------------------------------

def test_without_f_the_parent_ends_when_mounted(vgpufs):
    daemon = vgpufs(start=False)
    done = subprocess.run([VGPUFS, "-c", daemon.config_file], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, env=daemon.environment(),
                          timeout=30 * FACTOR)
    try:
        assert done.returncode == 0, done.stderr
        assert mounted(daemon.mountpoint)
        assert daemon.vm(3).run("NOP").header["status"] == "done"
        names = {read_file(f"/proc/{pid}/comm"): pid
                 for pid in processes_with(str(daemon.config_file))}
        assert set(names) == {b"vgpufs\n", b"vgpufs-spawner\n"}
        for pid in names.values():
            assert os.getsid(pid) != os.getsid(0), "it has left the terminal"
            assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
        os.kill(names[b"vgpufs\n"], signal.SIGTERM)
        wait_until(lambda: not any(map(alive, names.values())), what="their end")
        assert not mounted(daemon.mountpoint)
    finally:
        for pid in processes_with(str(daemon.config_file)):
            os.kill(pid, signal.SIGKILL)


def test_without_f_a_bad_start_is_seen(vgpufs):
    daemon = vgpufs({"vgpufs": {"bogus": "1"}}, start=False)
    status, output, error = run(VGPUFS, "-c", daemon.config_file)
    assert_one_line_error("vgpufs", status, error, "bogus")
    assert output == ""


def test_ready_means_usable(vgpufs):
    daemon = vgpufs()
    assert mounted(daemon.mountpoint)
    assert daemon.stats()["vgpufs"]["state"] == "running"


def test_the_mountpoint_of_the_command_line(vgpufs):
    daemon = vgpufs({"vgpufs": {"mountpoint": "/nonexistent"}}, start=False)
    daemon.options = [str(daemon.mountpoint)]
    daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"


@pytest.mark.parametrize("durability", ["sync", "group 50ms", "none"])
def test_durability(vgpufs, durability):
    daemon = vgpufs({"vgpufs": {"durability": durability}})
    vm = daemon.vm(3)
    vm.write_data("x", b"content")
    assert vm.run("NOP").header["status"] == "done"
    daemon.restart()
    assert read_file(vm.data / "x") == b"content"
    assert int(vm.run("NOP").header["job"]) > 1


def test_mount_options(vgpufs):
    daemon = vgpufs()
    with open("/proc/self/mountinfo") as mounts:
        (line,) = [line for line in mounts if line.split()[4] == str(daemon.mountpoint)]
    before, after = line.split(" - ")
    assert {"nosuid", "nodev"} <= set(before.split()[5].split(","))
    assert "default_permissions" in after
    assert after.split()[0].startswith("fuse")


def test_relative_paths_are_relative_to_the_file(vgpufs):
    daemon = vgpufs({"vgpufs": {"mountpoint": "mnt", "state_dir": "state"}})
    assert daemon.vm(3).run("NOP").header["status"] == "done"


@pytest.mark.parametrize("config, words", [
    ({"bogus": {"x": "1"}}, ["bogus", ":"]),
    ({"vgpufs": {"mountpiont": "/mnt"}}, ["mountpiont", "mountpoint"]),
    ({"vgpufs": {"stop_timeout": "soon"}}, ["stop_timeout", "soon"]),
    ({"vgpufs": {"vms": "1-"}}, ["vms"]),
    ({"vgpufs": {"durability": "maybe"}}, ["durability", "maybe"]),
    ({"vm 3": {"pool": "Z"}}, ["Z"]),
    ({"vm 3": {"priority": "3"}}, ["priority"]),
    ({"vm x": {"priority": "1"}}, ["'x'"]),
    ({"vm 0": {"priority": "99999999999999999999"}}, []),
    ({"pool A": {"slots": "0"}}, ["slots"]),
    ({"pool A": {"order": "random"}}, ["order", "random"]),
    ({"pool A": {"executor": '"open'}}, ["executor"]),
    ({"defaults": {"device_share": "101%"}}, ["device_share"]),
])
def test_a_bad_configuration(vgpufs, config, words):
    """One line with file:line, what is wrong, and the nearest known name; --check says the same."""
    daemon = vgpufs(config, start=False)
    status, error = fails_to_start(daemon)
    assert_one_line_error("vgpufs", status, error, daemon.config_file, *words)
    assert re.search(rf"{re.escape(str(daemon.config_file))}:\d+: ", error), error
    check_status, _, check_error = run(VGPUFS, "-c", daemon.config_file, "--check")
    assert (check_status != 0, check_error) == (True, error)


def test_check_of_a_good_configuration(vgpufs):
    daemon = vgpufs(start=False)
    status, output, error = run(VGPUFS, "-c", daemon.config_file, "--check",
                                env=daemon.environment())
    assert (status, error) == (0, ""), output
    assert "no mistakes: 200 VMs, 2 pools\nok       state_dir\n" in output
    assert not mounted(daemon.mountpoint)


def test_check_finds_what_is_wrong(vgpufs):
    """On standard output, like all that it finds; the status says that there is something."""
    daemon = vgpufs({"pool B": {"executor": "/nonexistent/executor"}}, start=False)
    status, output, error = run(VGPUFS, "-c", daemon.config_file, "--check",
                                env=daemon.environment())
    assert (status, error) == (1, "")
    assert "error    executors: pool B: '/nonexistent/executor --list': No such file" in output


def test_exports(vgpufs):
    daemon = vgpufs({"vm 3": {"address": "192.0.2.3"}}, start=False)
    status, output, error = run(VGPUFS, "-c", daemon.config_file, "--exports")
    assert (status, error) == (0, "")
    uid = 20003 if IS_ROOT else os.geteuid()
    line, comment = output.splitlines()
    assert line.startswith(f"{daemon.mountpoint} 192.0.2.3(rw,sync,")
    assert line.endswith(f",all_squash,anonuid={uid},anongid={uid})")
    assert comment.startswith("# not exported: vm1-2 vm4-200:")
    daemon.write_config({})
    assert_one_line_error("vgpufs", *run(VGPUFS, "-c", daemon.config_file, "--exports")[::2], "address")


def test_no_configuration(vgpufs):
    daemon = vgpufs(start=False)
    daemon.config_file.unlink()
    status, error = fails_to_start(daemon)
    assert_one_line_error("vgpufs", status, error, daemon.config_file)


def test_a_mountpoint_that_cannot_be(vgpufs):
    daemon = vgpufs({"vgpufs": {"mountpoint": "/nonexistent/mnt"}}, start=False)
    status, error = fails_to_start(daemon)
    assert_one_line_error("vgpufs", status, last_line(error), "/nonexistent/mnt")


def test_a_mountpoint_that_is_a_file(vgpufs):
    daemon = vgpufs(start=False)
    daemon.mountpoint.rmdir()
    daemon.mountpoint.write_text("")
    status, error = fails_to_start(daemon)
    assert_one_line_error("vgpufs", status, last_line(error), daemon.mountpoint)


def test_a_mountpoint_is_made(vgpufs):
    daemon = vgpufs(start=False)
    daemon.mountpoint.rmdir()
    daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"


def test_two_daemons_on_one_state(vgpufs):
    """The second refuses, and the first does not notice."""
    first = vgpufs()
    second = vgpufs({"vgpufs": {"state_dir": first.state_dir}}, start=False)
    status, error = fails_to_start(second)
    assert_one_line_error("vgpufs", status, error, first.state_dir)
    assert first.vm(3).run("NOP").header["status"] == "done"


def test_two_daemons_on_one_mountpoint(vgpufs):
    first = vgpufs()
    second = vgpufs({"vgpufs": {"mountpoint": first.mountpoint}}, start=False)
    status, error = fails_to_start(second)
    assert_one_line_error("vgpufs", status, last_line(error), first.mountpoint)
    assert first.vm(3).run("NOP").header["status"] == "done"


@pytest.mark.parametrize("content", [b"this is no database" * 100, b""], ids=["garbage", "empty"])
def test_a_damaged_state(vgpufs, content):
    """A state that is no database is set aside with data/, which is said; an empty one is a new
    one."""
    daemon = vgpufs()
    daemon.vm(3).write_data("x", b"bytes of before")
    daemon.stop()
    database = daemon.state_dir / "state.db"
    database.write_bytes(content)
    daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"
    folders = list(daemon.state_dir.glob("damaged-*"))
    if content:
        (folder,) = folders
        assert (folder / "state.db").read_bytes() == content
        assert [file.read_bytes() for file in (folder / "data" / "3").iterdir()] == [
            b"bytes of before"]
        assert str(folder) in daemon.log(), "the log says where it is"
    else:
        assert folders == []


def test_usage_errors():
    for options in (["--bogus"], ["-c"], ["one", "two"]):
        status, output, error = run(VGPUFS, *options)
        assert_one_line_error("vgpufs", status, error)
        assert output == ""


def test_help_and_version():
    for option in ("--help", "--version"):
        status, output, error = run(VGPUFS, option)
        assert (status, error) == (0, "")
        assert "vgpufs" in output


# --- stop ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop(vgpufs, number):
    daemon = vgpufs()
    daemon.vm(3).run("NOP")
    daemon.stop(number)
    assert os.listdir(daemon.mountpoint) == []


def test_stop_does_not_wait_for_what_does_not_end(vgpufs):
    """Its readers are told that there is no result yet: the next daemon goes on with it."""
    daemon = vgpufs({"vgpufs": {"stop_timeout": "1s"}})
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=60000 tag=running", "NOP tag=queued")
    vm.wait_state("running", "running")
    readers = {tag: Background(vm.job_result, tag).blocked() for tag in ("running", "queued")}
    started = time.monotonic()
    daemon.stop()
    assert time.monotonic() - started < 6 * FACTOR
    for tag, reader in readers.items():
        assert errno_of(reader.value) == "EIO", tag


def test_stop_waits_for_running_jobs(vgpufs):
    daemon = vgpufs({"vgpufs": {"stop_timeout": "30s"}})
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=1000 tag=running")
    vm.wait_state("running", "running")
    reader = Background(vm.result).blocked()
    daemon.stop()
    assert reader.value().header["status"] == "done"


def test_a_second_signal_stops_at_once(vgpufs):
    """Who says it twice does not want to wait for running jobs."""
    daemon = vgpufs({"vgpufs": {"stop_timeout": "50s"}})
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=60000 tag=running")
    vm.wait_state("running", "running")
    reader = Background(vm.result).blocked()
    daemon.kill(signal.SIGTERM)
    wait_until(lambda: daemon.stats()["vgpufs"]["state"] != "running", what="it says that it stops")
    time.sleep(0.5)
    assert vm.job_status("running")["state"] == "running", "the first signal waits"
    daemon.kill(signal.SIGTERM)
    assert daemon.wait_end(10) == 0
    assert errno_of(reader.value) == "EIO"


def test_nothing_is_accepted_while_it_stops(vgpufs):
    daemon = vgpufs({"vgpufs": {"stop_timeout": "30s"}})
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=1500 tag=running")
    vm.wait_state("running", "running")
    reader = Background(vm.result).blocked()
    daemon.kill(signal.SIGTERM)
    wait_until(lambda: daemon.stats()["vgpufs"]["state"] != "running", what="it says that it stops")
    assert errno_of(vm.submit, "NOP") == "EROFS"
    assert reader.value().header["status"] == "done"
    assert daemon.wait_end() == 0


def test_stop_with_open_files(vgpufs):
    """A shell that stands in the mount does not keep the daemon."""
    daemon = vgpufs()
    shell = subprocess.Popen(["sleep", "1000"], cwd=daemon.vm(3).dir)
    fd = os.open(daemon.vm(3).dir / "status", os.O_RDONLY)
    try:
        daemon.stop()
    finally:
        errno_of(os.close, fd)
        shell.kill()
        shell.wait()


@pytest.mark.root
def test_unmounted_by_hand(vgpufs):
    """umount(8) ends the daemon as SIGTERM does."""
    daemon = vgpufs()
    subprocess.run(["umount", daemon.mountpoint], check=True)
    assert daemon.wait_end() == 0


# --- crash ---------------------------------------------------------------------------------------

def test_recovery_after_kill9(vgpufs):
    """The next start on the same mountpoint works, numbers go on, no executor is left."""
    daemon = vgpufs({"pool A": {"slots": "2"}})
    vm = daemon.vm(3)
    numbers = [int(vm.run("NOP").header["job"]) for _ in range(3)]
    vm.submit("SLEEP ms=60000 tag=running", "NOP tag=queued")
    vm.wait_state("running", "running")
    numbers.append(int(vm.job_status("queued")["job"]))
    old = descendants_of(daemon.pid)
    assert len(old) >= 3
    daemon.kill9()
    assert errno_of(os.listdir, daemon.mountpoint) == "ENOTCONN", "a dead mount is left behind"
    daemon.start()
    wait_until(lambda: not any(map(alive, old)), what="the old executors are gone")
    header = vm.run("NOP").header
    assert header["status"] == "done"
    assert int(header["job"]) > max(numbers)
    # One mount, not a second one on top of the dead one.
    daemon.stop()
    assert os.listdir(daemon.mountpoint) == []


def test_executors_end_with_the_daemon(vgpufs):
    """By themselves, without a next start."""
    daemon = vgpufs()
    daemon.vm(3).submit("SLEEP ms=60000 tag=long")
    daemon.vm(3).wait_state("long", "running")
    old = descendants_of(daemon.pid)
    daemon.kill9()
    wait_until(lambda: not any(map(alive, old)), what="the executors are gone")


def test_numbers_go_on_over_many_restarts(vgpufs):
    daemon = vgpufs()
    vm, numbers = daemon.vm(3), []
    for i in range(4):
        os.mkdir(vm.job(f"made{i}"))
        numbers.append(int(vm.job_status(f"made{i}")["job"]))
        numbers.append(int(vm.run("NOP").header["job"]))
        (daemon.kill9, daemon.stop)[i % 2]()
        daemon.start()
    assert numbers == sorted(set(numbers)), numbers


def test_blocked_readers_of_a_killed_daemon(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=60000")
    reader = Background(vm.result).blocked()
    daemon.kill9()
    with pytest.raises(OSError) as ended:
        reader.value()
    assert ended.value.errno in (errno.ECONNABORTED, errno.ENOTCONN)


def test_a_standard_error_that_takes_nothing(vgpufs):
    """Lines are lost then, and counted; no pool, no VM and no end waits for them."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 8192)
    daemon = vgpufs(prepare=lambda: os.dup2(writing, 2))
    os.close(writing)
    vm = daemon.vm(3)
    for i in range(200):
        assert vm.run(f"NOP tag=t{i}").header["status"] == "done"
    old = daemon.executor_pid("A.0")
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: daemon.executor_pid("A.0") != old, what="another executor")
    assert vm.run("NOP").header["status"] == "done"
    said = os.read(reading, 65536)
    daemon.ctl("hold A")
    said += os.read(reading, 65536)
    assert re.search(rb"vgpufs: \d+ lines lost: standard error", said), said
    assert said.endswith(b"vgpufs: ctl: hold A\n")
    daemon.stop()
    os.close(reading)


# --- reload --------------------------------------------------------------------------------------

def reload(daemon, config):
    daemon.write_config(config)
    daemon.kill(signal.SIGHUP)


def test_reload_adds_a_vm(vgpufs):
    daemon = vgpufs({"vgpufs": {"vms": "1-3"}})
    assert errno_of(os.lstat, daemon.vm(42).dir) == "ENOENT"
    daemon.vm(3).submit("SLEEP ms=1000 tag=running")
    reload(daemon, {"vgpufs": {"vms": "1-3"}, "vm 42": {"pool": "B", "priority": "2"}})
    wait_until(daemon.vm(42).dir.exists, what="vm42")
    assert "vm42" in os.listdir(daemon.mountpoint)
    assert daemon.vm(42).run("NOP").header["pool"] == "B"
    assert daemon.vm(3).job_result("running").header["status"] == "done"


def test_reload_changes_limits(vgpufs):
    daemon = vgpufs()
    vm = daemon.vm(3)
    assert vm.status()["limits"]["max_queued"] == "64"
    reload(daemon, {"vm 3": {"max_queued": "2", "pool": "B", "priority": "0"}})
    wait_until(lambda: vm.status()["limits"]["max_queued"] == "2", what="the new limit")
    header = vm.run("NOP").header
    assert (header["pool"], header["priority"]) == ("B", "0")


def test_reload_removes_a_vm(vgpufs):
    """It drains: what is queued still runs, nothing new is taken, then it is gone."""
    daemon = vgpufs({"vgpufs": {"vms": "1-3"}})
    vm = daemon.vm(3)
    vm.write_data("kept", b"x")
    vm.submit("SLEEP ms=1500 tag=running")
    reader = Background(vm.result).blocked()
    reload(daemon, {"vgpufs": {"vms": "1-2"}})
    wait_until(lambda: errno_of(vm.submit, "NOP") in ("EROFS", "ENOENT", "ESTALE"), what="it drains")
    assert reader.value().header["status"] == "done"
    reload(daemon, {"vgpufs": {"vms": "1-3"}})
    wait_until(lambda: errno_of(vm.submit, "NOP") is None, what="it is back")
    assert read_file(vm.data / "kept") == b"x"


def test_reload_brings_a_vm_back(vgpufs):
    """One that this daemon has never seen, but the state knows: its numbers, identity and data."""
    daemon = vgpufs({"vgpufs": {"vms": "1-3"}})
    vm = daemon.vm(3)
    numbers = [int(vm.run("NOP").header["job"]) for _ in range(3)]
    vm.write_data("kept", b"content")
    write_file(vm.dir / "identity", "B:2:3\n")
    daemon.stop()
    daemon.write_config({"vgpufs": {"vms": "1-2"}})
    daemon.start()
    assert not vm.dir.exists()
    reload(daemon, {"vgpufs": {"vms": "1-3"}})
    wait_until(vm.dir.exists, what="it is back")
    header = vm.run("NOP").header
    assert int(header["job"]) > max(numbers), "a number is never used twice"
    assert (header["pool"], header["priority"]) == ("B", "2")
    assert read_file(vm.data / "kept") == b"content"
    fd = os.open(vm.data / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(fd, b"more")
    os.close(fd)
    assert read_file(vm.data / "kept") == b"content"
    daemon.restart()
    assert sorted(os.listdir(vm.data)) == ["kept", "new"]
    assert int(vm.run("NOP").header["job"]) > int(header["job"])


def test_a_vm_that_could_not_be_read(vgpufs):
    """It is not shown without its jobs: the next reload reads them again."""
    daemon = vgpufs({"vgpufs": {"vms": "1-3"}})
    vm = daemon.vm(3)
    before = vm.run("NOP tag=kept").raw
    daemon.stop()
    daemon.write_config({"vgpufs": {"vms": "1-2"}})
    daemon.start()
    with sqlite3.connect(daemon.state_dir / "state.db") as database:
        database.execute("ALTER TABLE job RENAME TO elsewhere")
    reload(daemon, {"vgpufs": {"vms": "1-3"}})
    daemon.wait_log("vm3: not all of its jobs could be read")
    assert not vm.dir.exists()
    with sqlite3.connect(daemon.state_dir / "state.db") as database:
        database.execute("ALTER TABLE elsewhere RENAME TO job")
    daemon.kill(signal.SIGHUP)
    wait_until(vm.dir.exists, what="it is back")
    assert vm.jobs() == {"kept"}
    assert vm.job_result("kept").raw == vm.result().raw == before


def test_a_vm_is_back_as_a_whole(vgpufs):
    """Nobody sees it while its jobs are being read, or submits something that they would hide."""
    daemon = vgpufs({"vgpufs": {"vms": "1-3", "durability": "none"},
                     "defaults": {"max_queued": "10000", "max_jobs": "10000", "retain_jobs": "10000"}})
    vm = daemon.vm(3)
    vm.submit(*["NOP"] * 9000)
    assert vm.result().header["job"] == "9000"
    daemon.stop()
    daemon.write_config({"vgpufs": {"vms": "1-2"}})
    daemon.start()
    reload(daemon, {"vgpufs": {"vms": "1-3"}, "defaults": {"max_jobs": "10000", "retain_jobs": "10000"}})
    while not vm.dir.exists():
        pass
    assert vm.newest()["job"] == "9000"
    assert len(vm.jobs()) == 9000


def test_reload_makes_statistics_more_frequent(vgpufs):
    """The pause that had begun does not last its old length."""
    daemon = vgpufs({"vgpufs": {"stats_log_interval": "3600"}})
    reload(daemon, {"vgpufs": {"stats_log_interval": "1"}})
    daemon.wait_log("[STATS]")


@pytest.mark.parametrize("config, word", [
    ({"vgpufs": {"state_dir": "/nonexistent"}}, "state_dir"),
    ({"vgpufs": {"mountpoint": "/nonexistent"}}, "mountpoint"),
    ({"defaults": {"uid_base": "30000"}}, "uid_base"),
    ({"pool C": {"backend": "cpu"}}, "pool"),
    ({"vgpufs": {"bogus": "1"}}, "bogus"),
])
def test_reload_refuses(vgpufs, config, word):
    """With the line, and the old configuration goes on."""
    daemon = vgpufs()
    reload(daemon, {**config, "vm 3": {"max_queued": "2"}})
    daemon.wait_log(f"{daemon.config_file}:")
    line = next(line for line in daemon.log().splitlines() if f"{daemon.config_file}:" in line)
    assert word in line, line
    assert daemon.vm(3).status()["limits"]["max_queued"] == "64"
    assert daemon.vm(3).run("NOP").header["status"] == "done"


# --- a plain user --------------------------------------------------------------------------------

def test_a_plain_user(vgpufs):
    """Through fusermount3: everything belongs to that user, and nobody else is let in."""
    uid = NOBODY if IS_ROOT else None
    daemon = vgpufs({"vgpufs": {"vms": "1-3"}}, uid=uid)

    def session():
        vm = daemon.vm(3)
        vm.write_data("x", b"content")
        owners = {os.lstat(path).st_uid for path in (daemon.mountpoint, vm.dir, vm.data / "x",
                                                     daemon.path("stats"))}
        return [vm.run("VECTOR_ADD n=8").header["status"], sorted(owners)]

    assert in_child(session, uid) == ["done", [os.geteuid() if uid is None else uid]]
    daemon.stop()


def test_a_plain_user_after_a_crash(vgpufs):
    uid = NOBODY if IS_ROOT else None
    daemon = vgpufs({"vgpufs": {"vms": "1-3"}}, uid=uid)
    daemon.kill9()
    daemon.start()
    assert in_child(lambda: daemon.vm(3).run("NOP").header["status"], uid) == "done"


def test_a_plain_user_has_no_other_uids(vgpufs):
    daemon = vgpufs({"defaults": {"uid_base": "30000"}}, uid=NOBODY if IS_ROOT else None, start=False)
    status, error = fails_to_start(daemon)
    assert_one_line_error("vgpufs", status, error, "uid_base")


# --- an older kernel -----------------------------------------------------------------------------

# What Linux has got since 4.19 (XCP-ng's Dom0), as syscalls(2) lists it.
NEWER = """pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount
    fsopen fsconfig fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2
    process_madvise epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule
    landlock_restrict_self memfd_secret process_mrelease""".split()
SCMP_ACT_ALLOW, SCMP_ACT_ENOSYS = 0x7fff0000, 0x00050000 | errno.ENOSYS


def deny_newer_calls():
    """Called in the child before exec: from here on those calls are as if unknown to the kernel."""
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(SCMP_ACT_ALLOW)))
    for name in NEWER:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        assert number >= 0, name
        assert seccomp.seccomp_rule_add(context, ctypes.c_uint32(SCMP_ACT_ENOSYS), number, 0) == 0
    assert seccomp.seccomp_load(context) == 0


seccomp = ctypes.CDLL("libseccomp.so.2")


def test_the_filter_denies():
    """What the next test relies on."""
    script = "import os\ntry:\n os.pidfd_open(os.getpid())\nexcept OSError as e:\n print(e.errno)"
    done = subprocess.run([sys.executable, "-c", script], preexec_fn=deny_newer_calls,
                          capture_output=True, text=True)
    assert done.stdout == f"{errno.ENOSYS}\n", done.stderr


@pytest.mark.root  # a filter takes fusermount3 its setuid bit (no_new_privs)
def test_without_the_newer_system_calls(vgpufs):
    """All of the main path works on an older kernel."""
    daemon = vgpufs(prepare=deny_newer_calls)
    assert "Seccomp:\t2" in open(f"/proc/{daemon.pid}/status").read()
    vm = daemon.vm(3)
    assert vm.run("VECTOR_ADD n=1000").header["status"] == "done"
    assert daemon.vm(4).run("B:2:4:MATRIX_MUL").header["status"] == "done"
    vm.write_data("x", bytes(400))
    os.rename(vm.data / "x", vm.data / "y")
    assert vm.run("VECTOR_ADD a=y b=y out=z").header["status"] == "done"
    vm.submit("SLEEP ms=60000 tag=long")
    vm.wait_state("long", "running")
    os.kill(daemon.executor_pid("A.0"), signal.SIGKILL)
    assert vm.job_result("long").header["status"] == "failed"
    assert vm.run("NOP").header["status"] == "done"
    daemon.kill9()
    daemon.start()
    assert read_file(vm.data / "y") == bytes(400)
    reload(daemon, {"vm 3": {"max_queued": "2"}})
    wait_until(lambda: vm.status()["limits"]["max_queued"] == "2", what="the reload")
    daemon.stop()
