"""What an NFS server's process does to the mount, without NFS: the daemon recognises nfs-ganesha by
its name and its uids, so a copy of the interpreter under that name is one, for as much as the daemon
can tell. The kernel's server cannot be imitated: it is tested in tests/vm, with real guests."""
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time

from harness import FACTOR, HERE


class Call:
    """A call under way in the server's process."""

    def __init__(self, server, number):
        self.server, self.number = server, number
        self.done, self.answer = threading.Event(), None

    def interrupt(self):
        self.server.do("interrupt", self.number)

    def waits(self, seconds=0.3):
        """Has it no answer after that time?"""
        return not self.done.wait(seconds)

    def value(self, timeout=30):
        assert self.done.wait(timeout * FACTOR), f"no answer after {timeout * FACTOR:g} s"
        if "errno" in self.answer:
            raise OSError(self.answer["errno"], os.strerror(self.answer["errno"]))
        return self.answer["value"]


class NfsServer:
    """A process that the daemon takes for nfs-ganesha."""

    def __init__(self, folder, name="ganesha.nfsd"):
        program = os.path.join(folder, name)
        if not os.path.exists(program):
            shutil.copy(os.path.realpath(sys.executable), program)
        self.calls, self.numbers, self.lock = {}, itertools.count(), threading.Lock()
        self.process = subprocess.Popen(
            [program, "-S", str(HERE / "nfs_agent.py")], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONHOME=sys.base_prefix))
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            with self.lock:
                call = self.calls.pop(answer["id"])
            call.answer = answer
            call.done.set()

    def begin(self, name, *arguments):
        with self.lock:
            number = next(self.numbers)
            call = self.calls[number] = Call(self, number)
            self.process.stdin.write(json.dumps(
                {"id": number, "call": name,
                 "arguments": [os.fspath(a) if isinstance(a, os.PathLike) else a
                               for a in arguments]}) + "\n")
            self.process.stdin.flush()
        return call

    def do(self, name, *arguments):
        return self.begin(name, *arguments).value()

    def stop(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()

    # What a server does for a client.

    def stat(self, path):
        """A client asks again when it is told to."""
        for _ in range(200):
            try:
                return self.do("stat", path)
            except BlockingIOError:
                time.sleep(0.05)
        raise AssertionError(f"{path}: again and again")

    def size(self, path):
        return self.stat(path)[0]

    def read(self, path, size=1 << 20):
        """As a client reads: attributes, then open, then as many bytes as there are said to be."""
        length = self.size(path)
        fd = self.do("open", path, os.O_RDONLY)
        try:
            text = self.do("pread", fd, size, 0)
        finally:
            self.do("close", fd)
        assert len(text) == length, f"{length} bytes were promised, {len(text)} read"
        return text.encode("latin-1")

    def echo(self, path, text):
        """As v4's `echo text > path`: SETATTR size=0, OPEN, WRITE, CLOSE."""
        self.do("truncate", path, 0)
        fd = self.do("open", path, os.O_WRONLY)
        try:
            return self.do("pwrite", fd, text, 0)
        finally:
            self.do("close", fd)
