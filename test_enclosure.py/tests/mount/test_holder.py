"""vgpufs-mount holds the mount of a vgpufs without privileges: restarts, crashes, strangers."""
import os
import pwd
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

import harness
from harness import (FACTOR, IS_ROOT, VGPUFS_MOUNT, Background, StartError, Vgpufs, alive,
                     assert_one_line_error, descendants_of, errno_of, in_child, mounted,
                     process_fields, read_file, run, unmount, wait_until)

NOBODY = pwd.getpwnam("nobody").pw_uid


class Holder:
    """A vgpufs-mount for the mountpoint of a daemon, and a folder with its socket. `exportfs` is
    replaced by a script that counts its calls."""

    def __init__(self, mountpoint, *options):
        self.dir = Path(tempfile.mkdtemp(prefix="vgpufs-mount-test-"))
        self.dir.chmod(0o755)
        self.socket, self.mountpoint = self.dir / "mount.sock", mountpoint
        self.options, self.process = list(options), None
        self.log_file, self.calls = self.dir / "log", self.dir / "exportfs.calls"
        script = self.dir / "exportfs"
        script.write_text(f'#!/bin/sh\necho "$@" >> {self.calls}\n')
        script.chmod(0o755)

    def command(self, *options):
        return [VGPUFS_MOUNT, f"--socket={self.socket}", "--user=nobody", *self.options, *options,
                self.mountpoint]

    def environment(self):
        return dict(os.environ, PATH=f"{self.dir}:{os.environ['PATH']}")

    def start(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            name = f"vgpufs-mount-test-{os.getpid()}-{id(self):x}"
            notify.bind(f"\0{name}")
            with open(self.log_file, "ab") as log:
                self.process = subprocess.Popen(
                    self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env=dict(self.environment(), NOTIFY_SOCKET=f"@{name}"))
            notify.settimeout(20 * FACTOR)
            assert notify.recv(4096) == b"READY=1", self.log()
        return self

    def log(self):
        return self.log_file.read_text() if self.log_file.exists() else ""

    def wait_log(self, text, times=1):
        wait_until(lambda: self.log().count(text) >= times,
                   what=f"{text!r} in vgpufs-mount's log:\n{self.log()}")

    def flushes(self):
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def kill9(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self):
        self.process.terminate()
        assert self.process.wait(20 * FACTOR) == 0, self.log()
        self.process = None

    def close(self):
        if self.process:
            self.stop()
        unmount(self.mountpoint)
        assert not harness.SANITIZER_REPORT.search(self.log()), self.log()
        harness.shutil.rmtree(self.dir, ignore_errors=True)


class Held(Vgpufs):
    """A daemon without privileges. Its mount is not its own: a stop leaves it in place."""

    def __init__(self, config=None, holder_options=(), **kwargs):
        super().__init__({"vgpufs": {"vms": "1-10"}, **(config or {})}, uid=NOBODY, **kwargs)
        self.holder = Holder(self.mountpoint, *holder_options)
        self.options.append(f"--mount-socket={self.holder.socket}")

    def stop(self, number=signal.SIGTERM, timeout=30):
        executors = descendants_of(self.pid)
        self.kill(number)
        assert self.wait_end(timeout) == 0, self.evidence()
        wait_until(lambda: not any(map(alive, executors)), what="the executors end")

    def close(self):
        try:
            if self.process:
                self.stop()
        finally:
            if self.process:
                self.kill9()
            self.holder.close()
        super().close()


@pytest.fixture
def held():
    made = []

    def make(config=None, start=True, **kwargs):
        daemon = Held(config, **kwargs)
        made.append(daemon)
        if start:
            daemon.holder.start()
            daemon.start()
        return daemon

    yield make
    for daemon in reversed(made):
        daemon.close()


def fails_to_start(daemon):
    with pytest.raises(StartError) as ended:
        daemon.start()
    assert ended.value.status == 1
    return ended.value.error.splitlines()[-1]


def mounts_on(path):
    with open("/proc/self/mountinfo") as lines:
        return [line.split() for line in lines if line.split()[4] == str(path)]


# --- what it is for ------------------------------------------------------------------------------

@pytest.mark.root
def test_a_daemon_without_privileges(held):
    """It serves root's mount: the VMs keep their own users, which a plain user's mount cannot."""
    daemon = held()
    assert process_fields(daemon.pid)["CapEff"].strip() == "0000000000000000"
    assert daemon.vm(3).run("VECTOR_ADD n=8").header["status"] == "done"
    assert os.lstat(daemon.mountpoint).st_uid == 0
    assert os.lstat(daemon.vm(3).dir).st_uid == 20003
    assert in_child(lambda: daemon.vm(3).run("NOP").header["status"], 20003) == "done"
    with pytest.raises(PermissionError):
        in_child(lambda: os.listdir(daemon.vm(3).dir), 20004)
    with pytest.raises(PermissionError):  # the daemon's own user is nobody special
        in_child(lambda: os.listdir(daemon.vm(3).dir), NOBODY)


@pytest.mark.root
def test_the_mount_options(held):
    daemon = held()
    ((*_, kind, source, options),) = mounts_on(daemon.mountpoint)
    assert (kind, source) == ("fuse.vgpufs", "vgpufs-mount")
    assert {"default_permissions", "allow_other"} <= set(options.split(","))
    assert {"nosuid", "nodev", "noexec"} <= set(mounts_on(daemon.mountpoint)[0][5].split(","))


@pytest.mark.root
def test_data_files_of_a_vm(held):
    """Written by the VM's user through a daemon of another user."""
    daemon = held()
    vm = daemon.vm(3)

    def session():
        vm.write_data("x", bytes(400))
        os.rename(vm.data / "x", vm.data / "y")
        header = vm.run("VECTOR_ADD a=y b=y out=z").header
        return [header["status"], os.lstat(vm.data / "z").st_uid]

    assert in_child(session, 20003) == ["done", 20003]


# --- restart and crash of the daemon -------------------------------------------------------------

@pytest.mark.root
def test_a_planned_restart(held):
    """Who comes meanwhile waits for the next daemon."""
    daemon = held()
    before = daemon.vm(3).run("NOP").header
    daemon.stop()
    daemon.holder.wait_log("is mounted", 2)
    waiting = Background(lambda: read_file(daemon.path("stats")))
    daemon.start()
    assert waiting.value().startswith(b"version 1\n")
    after = daemon.vm(3).run("NOP").header
    assert after["status"] == "done" and int(after["job"]) > int(before["job"])
    assert len(mounts_on(daemon.mountpoint)) == 1
    assert "has stopped" in daemon.holder.log() and "has died" not in daemon.holder.log()
    wait_until(lambda: daemon.holder.flushes() == ["-f", "-f"], what="exportfs, once for each mount")


@pytest.mark.root
def test_kill9_of_the_daemon(held):
    """Who waited gets an error instead of waiting for ever; then the mount comes back."""
    daemon = held()
    vm = daemon.vm(3)
    vm.submit("SLEEP ms=60000")
    reader = Background(vm.result).blocked()
    daemon.kill9()
    with pytest.raises(OSError):
        reader.value()
    daemon.holder.wait_log("has died")
    daemon.holder.wait_log("is mounted", 2)
    waiting = Background(lambda: read_file(daemon.path("stats")))
    daemon.start()
    assert waiting.value().startswith(b"version 1\n")
    vm.ctl("cancel all")  # the job runs again
    assert vm.run("NOP").header["status"] == "done"
    assert len(mounts_on(daemon.mountpoint)) == 1
    wait_until(lambda: daemon.holder.flushes() == ["-f", "-f"], what="exportfs is called")


@pytest.mark.root
def test_many_crashes(held):
    daemon = held()
    for _ in range(5):
        daemon.kill9()
        daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"
    assert len(mounts_on(daemon.mountpoint)) == 1
    descriptors = os.listdir(f"/proc/{daemon.holder.process.pid}/fd")
    assert len(descriptors) < 12, descriptors


@pytest.mark.root
def test_no_daemon_comes(held):
    """Calls wait for one, but not for ever; a later one is welcome."""
    daemon = held(start=False, holder_options=["--wait=1"])
    daemon.holder.start()
    assert errno_of(os.listdir, daemon.mountpoint) in ("ENOTCONN", "ECONNABORTED")
    daemon.holder.wait_log("no vgpufs has come")
    assert mounted(daemon.mountpoint), "not the bare folder below"
    daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"


@pytest.mark.root
def test_what_a_daemon_leaves_for_the_next(held):
    """With `leave` and a file the connection stays: the same device, and the file, go to the next
    one; without a next one it is aborted as ever."""
    daemon = held(start=False, holder_options=["--wait=2"])
    daemon.holder.start()

    def take():
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(str(daemon.holder.socket))
        client.send(b"hello 1")
        return client, socket.recv_fds(client, 8192, 4)[1]

    def leave(client):
        state = os.memfd_create("state")
        os.write(state, b"what is left")
        socket.send_fds(client, [b"leave"], [state])
        os.close(state)
        assert client.recv(4096) == b"", "the connection is closed"
        client.close()

    connection = mounts_on(daemon.mountpoint)[0][2]
    first, descriptors = take()
    assert len(descriptors) == 1
    leave(first)
    os.close(descriptors[0])
    second, descriptors = take()
    device, state = descriptors
    assert os.pread(state, 100, 0) == b"what is left"
    assert mounts_on(daemon.mountpoint)[0][2] == connection
    os.close(state)
    leave(second)
    daemon.holder.wait_log("no vgpufs has come")
    assert errno_of(os.read, device, 1 << 20) in ("ENODEV", "ECONNABORTED")
    os.close(device)
    daemon.start()  # a new mount, and nothing of what was left
    assert daemon.vm(3).run("NOP").header["status"] == "done"


# --- end of the holder ---------------------------------------------------------------------------

@pytest.mark.root
def test_stop_in_order(held):
    daemon = held()
    daemon.stop()
    daemon.holder.stop()
    assert not mounted(daemon.mountpoint)
    assert not daemon.holder.socket.exists()


@pytest.mark.root
def test_the_holder_stops_first(held):
    """The daemon notices, and ends with an error, so that a service manager starts it again."""
    daemon = held()
    daemon.holder.stop()
    assert daemon.wait_end() == 1
    assert "has taken" in daemon.log()
    assert not mounted(daemon.mountpoint)


@pytest.mark.root
def test_kill9_of_the_holder(held):
    """The daemon goes on; the next holder takes the old mount away, and makes one."""
    daemon = held()
    daemon.holder.kill9()
    assert daemon.vm(3).run("NOP").header["status"] == "done"
    daemon.holder.start()
    assert daemon.wait_end() == 1
    daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"
    assert len(mounts_on(daemon.mountpoint)) == 1


@pytest.mark.root
def test_both_are_killed(held):
    daemon = held()
    daemon.holder.kill9()
    daemon.kill9()
    daemon.holder.start()
    daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"
    assert len(mounts_on(daemon.mountpoint)) == 1


# --- who may have it -----------------------------------------------------------------------------

@pytest.mark.root
def test_a_second_daemon(held):
    """It is told so, and the first one does not notice."""
    daemon = held()
    second = held(start=False)
    second.options = [f"--mount-socket={daemon.holder.socket}"]
    second.write_config({"vgpufs": {"vms": "1-10", "mountpoint": daemon.mountpoint}})
    assert "another vgpufs has the mount" in fails_to_start(second)
    assert daemon.vm(3).run("NOP").header["status"] == "done"


@pytest.mark.root
def test_a_stranger(held):
    """The socket's mode keeps other users out; and should that fail, who they are is looked at."""
    daemon = held()

    def connect():
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(str(daemon.holder.socket))
            client.settimeout(20 * FACTOR)
            try:
                client.send(b"hello 1")
                return client.recv(4096).decode()
            except (ConnectionResetError, BrokenPipeError):
                return ""

    with pytest.raises(PermissionError):
        in_child(connect, 20003)
    daemon.stop()
    daemon.holder.socket.chmod(0o666)
    assert not in_child(connect, 20003).startswith("mount")
    daemon.holder.wait_log("neither root's nor that of --user")
    daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"


@pytest.mark.root
@pytest.mark.root
@pytest.mark.parametrize("said", [b"", b"\0", b"hello", b"hello 2", b"hello 1 ", b"leave", b"mount /",
                                  b"x" * 100000, b"hello 1\0x"])
def test_wrong_words(held, said):
    """From the right user: the connection ends, the mount stays with the daemon that has it."""
    daemon = held()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(daemon.holder.socket))
        client.settimeout(20 * FACTOR)
        client.send(said)
        try:
            answer = client.recv(4096)
        except ConnectionResetError:
            answer = b""
    assert answer == b"" or answer.startswith(b"refused "), answer
    assert daemon.vm(3).run("NOP").header["status"] == "done"
    assert "has died" not in daemon.holder.log()


@pytest.mark.root
def test_the_connected_daemon_says_something_wrong(held):
    """As after a crash: nobody else holds the descriptor that it was given."""
    daemon = held(start=False)
    daemon.holder.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(daemon.holder.socket))
        client.send(b"hello 1")
        text, descriptors, _, _ = socket.recv_fds(client, 8192, 4)
        assert text == b"mount " + os.fsencode(daemon.mountpoint)
        assert len(descriptors) == 1
        client.send(b"nonsense")
        daemon.holder.wait_log("is mounted", 2)
        assert client.recv(4096) == b""
    for descriptor in descriptors:
        assert errno_of(os.read, descriptor, 1 << 20) in ("ENODEV", "ECONNABORTED")
        os.close(descriptor)
    daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"


@pytest.mark.root
def test_many_idle_connections(held):
    """More than there are places for: the daemon that is served does not suffer."""
    daemon = held()
    clients = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(20)]
    for client in clients:
        client.connect(str(daemon.holder.socket))
    daemon.holder.wait_log("too many connections")
    assert daemon.vm(3).run("NOP").header["status"] == "done"
    for client in clients:
        client.close()
    daemon.restart()
    assert daemon.vm(3).run("NOP").header["status"] == "done"


# --- start ---------------------------------------------------------------------------------------

def holder_fails(holder, *options):
    status, output, error = run(*holder.command(*options), env=holder.environment())
    assert output == ""
    assert_one_line_error("vgpufs-mount", status, error)
    return error


@pytest.mark.root
def test_a_second_holder(held):
    daemon = held()
    assert "another vgpufs-mount listens" in holder_fails(daemon.holder)
    assert daemon.vm(3).run("NOP").header["status"] == "done"
    assert daemon.holder.socket.exists()


@pytest.mark.root
def test_a_socket_of_a_dead_holder(held):
    daemon = held(start=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(daemon.holder.socket))
        dead.listen()
    daemon.holder.start()
    daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"


@pytest.mark.root
def test_a_file_in_place_of_the_socket(held):
    daemon = held(start=False)
    daemon.holder.socket.write_text("content")
    assert "is no socket" in holder_fails(daemon.holder)
    assert daemon.holder.socket.read_text() == "content"
    assert not mounted(daemon.mountpoint)


@pytest.mark.root
def test_a_mount_by_hand_is_left_alone(held, vgpufs):
    by_hand = vgpufs()
    holder = Holder(by_hand.mountpoint)
    assert "started by hand" in holder_fails(holder)
    assert by_hand.vm(3).run("NOP").header["status"] == "done"
    by_hand.kill9()
    holder.start()
    assert "left behind" in holder.log(), holder.log()
    holder.close()


@pytest.mark.root
def test_no_holder(held):
    daemon = held(start=False)
    assert "vgpufs-mount" in fails_to_start(daemon)


@pytest.mark.root
def test_the_mountpoints_differ(held):
    daemon = held(start=False)
    daemon.holder.start()
    daemon.write_config({"vgpufs": {"vms": "1-10", "mountpoint": "/nonexistent"}})
    line = fails_to_start(daemon)
    assert f"has mounted {daemon.mountpoint}" in line and "/nonexistent" in line


@pytest.mark.parametrize("options, word", [
    (["--user=no-such-user"], "no-such-user"), (["--wait=0"], "--help"), (["--bogus"], "--help"),
    (["--socket=relative"], "absolute"), (["/a", "/b"], "one mountpoint"), (["relative"], "absolute"),
    (["/"], "below /"), (["/nonexistent/mnt"], "/nonexistent/mnt"),
])
def test_usage(options, word):
    status, output, error = run(VGPUFS_MOUNT, "--user=0", *options)
    assert output == ""
    assert_one_line_error("vgpufs-mount", status, error, word)


def test_without_root():
    """It says so, and leaves nothing behind."""
    user = NOBODY if IS_ROOT else os.geteuid()
    done = subprocess.run([VGPUFS_MOUNT, f"--user={user}", "--socket=/tmp/vgpufs-mount-test.sock",
                           "/tmp"], stderr=subprocess.PIPE, text=True, cwd="/",
                          **({"user": NOBODY, "group": NOBODY, "extra_groups": []} if IS_ROOT else {}))
    assert_one_line_error("vgpufs-mount", done.returncode, done.stderr, "only root can")
    assert not os.path.lexists("/tmp/vgpufs-mount-test.sock")


@pytest.mark.root
def test_the_mountpoint_is_made(held):
    daemon = held(start=False)
    daemon.mountpoint.rmdir()
    daemon.holder.start()
    daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"


@pytest.mark.root
def test_a_blank_in_the_mountpoints_path(held):
    """/proc/self/mounts has \\040 for it."""
    daemon = held(start=False)
    daemon.mountpoint = daemon.holder.mountpoint = daemon.dir / "m n t"
    daemon.write_config({"vgpufs": {"vms": "1-10"}})
    daemon.holder.start()
    daemon.start()
    daemon.kill9()
    daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"
    daemon.stop()
    daemon.holder.stop()
    assert os.listdir(daemon.mountpoint) == []


@pytest.mark.root
def test_a_link_in_the_mountpoints_path(held):
    """/proc/self/mounts has the real path: the mount is found there again."""
    daemon = held(start=False)
    link = daemon.holder.dir / "link"
    link.symlink_to(daemon.dir)
    daemon.holder.mountpoint = link / "mnt"
    daemon.holder.start()
    daemon.start()
    daemon.kill9()
    daemon.start()
    assert daemon.vm(3).run("NOP").header["status"] == "done"
    assert len(mounts_on(daemon.mountpoint)) == 1
