"""One software-emulated machine: its QEMU process, and scripts that run in it."""
import collections
import itertools
import json
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import threading
import time

# The machine that runs the tests may be slow, or busy with something else.
FACTOR = float(os.environ.get("VGPUFS_TIME_FACTOR", "1"))
BOOT_SECONDS = 240
TRAFFIC_SECONDS = 30  # of the link's traffic, what a failure leaves

Outcome = collections.namedtuple("Outcome", "code out err")

# What a kernel says when it, or something in it, has gone wrong.
KERNEL_TROUBLE = re.compile(r"(BUG:|Oops|general protection|Call Trace|WARNING: CPU|Kernel panic|"
                            r"blocked for more than|Out of memory|fuse: root )")
# nfsd complains once of the errors that a mount gives whose daemon was killed, as tests do:
# ENOTCONN and ECONNABORTED. Of another one, which the daemon has given, a line tells.
DEAD_MOUNT = re.compile(r"WARNING: CPU.* nfserrno\+")
WRONG_ERRNO = re.compile(r"nfsd: non-standard errno: -(?!107$|103$)")


class ScriptError(AssertionError):
    pass


class Call:
    """A script that runs in a machine; wait() gives its outcome."""

    def __init__(self, machine, identifier, script, timeout):
        self.machine, self.identifier, self.script = machine, identifier, script
        self.timeout = timeout
        self.ended, self.outcome, self.ended_at = threading.Event(), None, None
        self.started_at = time.monotonic()

    def done(self):
        return self.ended.is_set()

    def finish(self, outcome):
        self.outcome, self.ended_at = outcome, time.monotonic()
        self.ended.set()

    def wait(self):
        # The agent ends it in time; more than that means that the machine is gone.
        if not self.ended.wait(self.timeout + 60 * FACTOR):
            raise ScriptError(f"{self.machine.name}: no answer to {self.script!r}")
        return self.outcome

    def kill(self):
        self.machine.send({"id": next(self.machine.identifiers), "kill": self.identifier})

    @property
    def seconds(self):
        return self.ended_at - self.started_at


class Machine:
    def __init__(self, name, folder, arguments, addresses, kernel_files, memory):
        self.name, self.folder = name, folder
        self.arguments, self.addresses, self.memory = arguments, addresses, memory
        self.vmlinuz, self.initrd = kernel_files
        self.console = folder / f"{name}.console"
        self.identifiers = itertools.count(1)
        self.calls, self.lock = {}, threading.Lock()
        self.process = self.socket = self.release = None
        self.words = ""  # for its init, rig.NAME=value
        self.trouble_from = 0

    # Its life

    def start(self):
        path = self.folder / f"{self.name}.agent"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1)
            self.process = subprocess.Popen(
                self.command(path), stdin=subprocess.DEVNULL, cwd=self.folder,
                stdout=open(self.folder / f"{self.name}.qemu", "ab"), stderr=subprocess.STDOUT)
            listener.settimeout(30 * FACTOR)
            self.socket, _ = listener.accept()
        self.ready = Call(self, 0, "boot", BOOT_SECONDS * FACTOR)
        self.calls = {0: self.ready}
        threading.Thread(target=self.receive, args=(self.socket,), daemon=True).start()

    def command(self, agent):
        # The check of the timer, and watchdogs, take a busy host for broken hardware.
        kernel = ("console=ttyS0 quiet panic=-1 oops=panic net.ifnames=0 mitigations=off "
                  "no_timer_check nosoftlockup rcupdate.rcu_cpu_stall_suppress=1 "
                  f"rig.NAME={self.name} rig.ADDRESSES={','.join(self.addresses)} {self.words}")
        return ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max",
                "-m", str(self.memory), "-nodefaults", "-display", "none", "-no-reboot",
                "-kernel", str(self.vmlinuz), "-initrd", str(self.initrd), "-append", kernel,
                "-chardev", f"file,id=console,path={self.console},append=on",
                "-serial", "chardev:console",
                "-device", "virtio-serial-pci",
                "-chardev", f"socket,id=agent,path={agent}",
                "-device", "virtserialport,chardev=agent,name=agent",
                "-object", "rng-random,id=rng,filename=/dev/urandom",
                "-device", "virtio-rng-pci,rng=rng",
                "-qmp", f"unix:{self.folder}/{self.name}.qmp,server=on,wait=off",
                *self.arguments]

    def wait_ready(self):
        """Waits until the agent has spoken."""
        while not self.ready.ended.wait(0.2):
            status = self.process.poll()
            assert status is None, f"{self.name}: qemu ended with {status}:\n{self.evidence()}"
            assert time.monotonic() - self.ready.started_at < self.ready.timeout, \
                f"{self.name} has not booted:\n{self.evidence()}"
        assert self.ready.outcome.code == 0, f"{self.name} has not booted:\n{self.evidence()}"
        self.release = self.ready.outcome.out

    def reset(self):
        """As if its power had gone for a moment: nothing is written, nothing said to anybody."""
        self.end()
        self.start()
        self.wait_ready()

    def end(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
        if self.socket:
            self.socket.close()
            self.socket = None

    # Scripts

    def send(self, request):
        data = json.dumps(request).encode() + b"\n"
        with self.lock:
            self.socket.sendall(data)

    def receive(self, connection):
        pending = b""
        try:
            while piece := connection.recv(1 << 16):
                *lines, pending = (pending + piece).split(b"\n")
                for line in lines:
                    answer = json.loads(line)
                    call = self.calls.pop(answer["id"], None)
                    if call:
                        call.finish(Outcome(answer["code"], answer["out"], answer["err"]))
        except OSError:
            pass  # end() has closed it
        for call in list(self.calls.values()):
            call.finish(Outcome(-3, "", f"{self.name} has ended"))

    def call(self, script, timeout=60):
        """Starts a script and gives its Call."""
        identifier = next(self.identifiers)
        call = Call(self, identifier, script, timeout * FACTOR)
        self.calls[identifier] = call
        try:
            self.send({"id": identifier, "script": script, "timeout": timeout * FACTOR})
        except OSError as error:
            call.finish(Outcome(-3, "", f"{self.name} is gone: {error}"))
        return call

    def run(self, script, timeout=60):
        """A script to its end, whatever that is."""
        return self.call(script, timeout).wait()

    def sh(self, script, timeout=60):
        """A script that must succeed; gives what it printed."""
        outcome = self.run(script, timeout)
        if outcome.code != 0:
            raise ScriptError(f"{self.name}: {script!r} ended with {outcome.code}\n"
                              f"{outcome.out[-2000:]}{outcome.err[-2000:]}")
        return outcome.out

    def python(self, program, *words, timeout=120):
        """A Python program that must succeed; gives what it printed."""
        arguments = " ".join(shlex.quote(str(word)) for word in words)
        return self.sh(f"python3 - {arguments} <<'END_OF_PROGRAM'\n{program}\nEND_OF_PROGRAM\n",
                       timeout)

    # What it says

    def evidence(self):
        text = ""
        for suffix in ("console", "qemu"):
            path = self.folder / f"{self.name}.{suffix}"
            if path.exists():
                text += path.read_bytes().decode("latin-1")[-3000:]
        return text

    def look(self):
        """Starts the look that trouble() takes at its outcome."""
        return self.call("dmesg; echo; ps -eo pid=,ppid=,stat=,wchan:32=,args=")

    def trouble(self, look):
        """What its kernel has complained of since the last look, and the processes that nothing
        can end: those in D state, kernel threads aside."""
        code, text, _ = look.wait()
        if code != 0:
            return [f"no look at {self.name}: {code}"]
        messages, _, processes = text.rpartition("\n\n")
        fresh, self.trouble_from = messages[self.trouble_from:], len(messages)
        found, excused = [], 0
        for line in fresh.splitlines():
            if DEAD_MOUNT.search(line):
                excused += 1
            elif excused and "Call Trace" in line:
                excused -= 1
            elif KERNEL_TROUBLE.search(line) or WRONG_ERRNO.search(line):
                found.append(line)
        for line in processes.splitlines():
            _, parent, state, _ = line.split(None, 3)
            if state.startswith("D") and parent != "2":
                found.append(line)
        return found


def last_traffic(source, target, seconds=TRAFFIC_SECONDS):
    """The end of a capture (pcap, see pcap-savefile(5)) as another one."""
    data = source.read_bytes()
    if len(data) < 24:
        return
    position, records = 24, []
    while position + 16 <= len(data):
        at, micros, captured, _ = struct.unpack_from("<IIII", data, position)
        records.append((at + micros / 1e6, position))
        position += 16 + captured
    if records:
        first = next(where for at, where in records if at >= records[-1][0] - seconds)
        target.write_bytes(data[:24] + data[first:])
