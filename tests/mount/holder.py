"""A vgpufs-mount and a daemon without privileges that gets its mount from it."""
import os
import pwd
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import harness
from harness import (FACTOR, VGPUFS_MOUNT, Vgpufs, alive, descendants_of, unmount, wait_until)

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
