"""A real mount for each test: starts the daemon, speaks to its files, and takes it all away again.

Nothing here skips: a machine without /dev/fuse fails the tests.
"""
import collections
import contextlib
import errno
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

BUILD = Path(os.environ.get("VGPUFS_BUILD", "VGPUFS_BUILD-is-not-set"))
SOURCE = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
# Sanitizers make everything slower; the build says by how much.
FACTOR = float(os.environ.get("VGPUFS_TIME_FACTOR", "1"))
# What the pools compute with. cuda is that of tests/cuda/: a stand-in of the driver.
BACKEND = os.environ.get("VGPUFS_TEST_BACKEND", "cpu")
IS_ROOT = os.geteuid() == 0

VGPUFS = BUILD / "vgpufs" / "vgpufs"
EXECUTOR = BUILD / "vgpufs" / "executor" / "vgpu-executor"
VGPUFS_MOUNT = BUILD / "vgpufs" / "mount" / "vgpufs-mount"
VGPUCTL = BUILD / "vgpufs" / "ctl" / "vgpuctl"
VGPU_RUN = BUILD / "guest-tools" / "vgpu-run"
VGPU_IDENTITY = BUILD / "guest-tools" / "vgpu-identity"

HEADER_KEYS = ["status", "job", "tag", "command", "pool", "priority", "backend", "device",
               "wait_us", "run_us", "bytes"]
HEADER_OPTIONAL = ["truncated", "exit_code", "error"]

SANITIZER_REPORT = re.compile(r"(ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:)")

LIVE = set()  # daemons that the watchdog of conftest.py ends when a test hangs


# --- waiting -------------------------------------------------------------------------------------

def wait_until(predicate, timeout=20, what=""):
    """Returns the first true value of predicate(); fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout * FACTOR
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout * FACTOR:g} s: {what or predicate}")
        time.sleep(0.005)


class Background(threading.Thread):
    """Runs a function in a thread; value() joins it and gives its value or raises its exception."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self.function, self.args = function, args
        self.outcome = self.exception = self.ended_at = None
        self.start()

    def run(self):
        try:
            self.outcome = self.function(*self.args)
        except BaseException as exception:  # handed to value()
            self.exception = exception
        self.ended_at = time.monotonic()

    def blocked(self):
        """Waits until the thread is inside read(2); returns itself."""
        wait_until(lambda: self.native_id and blocked_in_read(f"{os.getpid()}/task/{self.native_id}"),
                   what="the reader blocks")
        return self

    def value(self, timeout=30):
        self.join(timeout * FACTOR)
        assert not self.is_alive(), f"still blocked after {timeout * FACTOR:g} s"
        if self.exception:
            raise self.exception
        return self.outcome


# --- files ---------------------------------------------------------------------------------------

def as_bytes(content):
    return content if isinstance(content, bytes) else content.encode()


def read_file(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_fd(fd)
    finally:
        os.close(fd)


def read_fd(fd, size=1 << 16):
    pieces = []
    while piece := os.read(fd, size):
        pieces.append(piece)
    return b"".join(pieces)


def write_file(path, content):
    """One open, one write(2), one close: any of the three may raise."""
    fd = os.open(path, os.O_WRONLY)
    try:
        content = as_bytes(content)
        written = os.write(fd, content)
        assert written == len(content), f"short write of {written} bytes"
    except BaseException:
        # close() would report the same mistake again, and hide the first report.
        try:
            os.close(fd)
        except OSError:
            pass
        raise
    os.close(fd)


def errno_of(function, *args, **kwargs):
    """The name of the errno that the call fails with, or None if it does not fail."""
    try:
        function(*args, **kwargs)
    except OSError as error:
        return errno.errorcode[error.errno]
    return None


def in_child(function, uid=None):
    """Calls function() in a child process, as another user; gives back its value (as JSON), or
    raises its OSError."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            try:
                answer = {"value": function()}
            except OSError as error:
                answer = {"errno": error.errno}
            os.write(writing, json.dumps(answer).encode())
            status = 0
        except BaseException as error:
            os.write(2, f"child: {error!r}\n".encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child failed, status {status}"
    answer = json.loads(answer)
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]))
    return answer["value"]


# --- formats -------------------------------------------------------------------------------------

FIELD = re.compile(r'([a-z0-9_]+)=("(?:[^"\\\x00-\x1f\x7f]|\\["\\]|\\x[0-9a-fA-F]{2})*"|'
                   r'[^ "\x00-\x1f\x7f]*)')
ESCAPE = re.compile(rb'\\(?:x(..)|(.))')


def unquote(value):
    """The bytes that a quoted value stands for, decoded as UTF-8 with surrogates for the others."""
    if not value.startswith('"'):
        return value
    raw = ESCAPE.sub(lambda match: match[2] or bytes.fromhex(match[1].decode()), value[1:-1].encode())
    return raw.decode("utf-8", "surrogateescape")


def parse_fields(text):
    """`key=value key="quoted"` as a dict in the order of the text. Strict: what does not follow the
    grammar to the letter fails the test."""
    fields, position = {}, 0
    while position < len(text):
        match = FIELD.match(text, position)
        assert match, f"no key=value at {position} of {text!r}"
        assert match[1] not in fields, f"{match[1]} twice in {text!r}"
        fields[match[1]] = unquote(match[2])
        position = match.end()
        if position < len(text):
            assert text[position] == " ", f"no blank at {position} of {text!r}"
            position += 1
            assert position < len(text), f"a blank at the end of {text!r}"
    return fields


def parse_header(line):
    """The first line of a result, and that it is one: known keys, in the contract's order."""
    line = line.decode("utf-8") if isinstance(line, bytes) else line
    fields = parse_fields(line)
    keys = list(fields)
    assert keys[:len(HEADER_KEYS)] == HEADER_KEYS, line
    rest = keys[len(HEADER_KEYS):]
    assert rest == [key for key in HEADER_OPTIONAL if key in rest], line
    assert len(as_bytes(fields.get("error", "").encode("utf-8", "surrogateescape"))) <= 512, line
    return fields


def without_times(body):
    """A workload's output, less what computing and moving data took this time."""
    return re.sub(rb" compute_us=\d+ copy_us=\d+ verify_us=\d+$", b"", body, flags=re.M)


Result = collections.namedtuple("Result", "header body raw")


def parse_result(raw):
    line, newline, body = raw.partition(b"\n")
    assert newline, f"a result without a header: {raw[:200]!r}"
    header = parse_header(line)
    assert int(header["bytes"]) == len(body), raw[:400]
    return Result(header, body, raw)


def parse_records(text):
    """`name words key=value …` lines as {name: fields}; a record's name is its words before the
    first key."""
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    assert text.endswith("\n") or not text, f"no newline at the end of {text!r}"
    records = {}
    for line in text.split("\n")[:-1]:
        words = line.split(" ")
        count = next((i for i, word in enumerate(words) if "=" in word), len(words))
        name = " ".join(words[:count])
        assert name and name not in records, f"record {name!r} twice or without a name: {line!r}"
        records[name] = parse_fields(" ".join(words[count:]))
    return records


QueueLine = collections.namedtuple("QueueLine", "pool priority vm job tag state age command")


def parse_queue(text):
    lines = []
    for line in text.decode().split("\n")[:-1]:
        fields = line.split(" ", 7)
        assert len(fields) == 8, line
        assert re.fullmatch(r"\d+ms", fields[6]), line
        lines.append(QueueLine(*fields))
    return lines


# --- processes -----------------------------------------------------------------------------------

def process_fields(pid):
    """/proc/PID/status as a dict, or None if there is no such process (or only its zombie)."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return None if fields["State"].startswith("Z") else fields


def alive(pid):
    return process_fields(pid) is not None


def leaving(marker):
    """Arguments of fault_executor.py: from its first start on it leaves two children, and what they
    are known by."""
    marker.touch()
    return f"leaves_children {marker}", f"{marker}.child"


def check_children_end(daemon, child):
    """What the executor of pool B leaves behind ends with it, and with the daemon."""
    vm = daemon.vm(3)
    assert vm.run("B:1:3:SLEEP ms=1").header["status"] == "done"
    wait_until(lambda: len(processes_with(child)) == 2, what="its children run")
    os.kill(daemon.executor_pid("B.0"), signal.SIGKILL)
    wait_until(lambda: not processes_with(child), what="they are gone with it")
    assert vm.run("B:1:3:SLEEP ms=1").header["status"] == "done"
    wait_until(lambda: len(processes_with(child)) == 2, what="there are others")
    daemon.stop()
    # Killed they are by then; how soon the kernel takes them away is its own affair.
    wait_until(lambda: not processes_with(child), what="nothing outlives the daemon's end")


def children_of(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = process_fields(int(entry))
            if fields and int(fields["PPid"]) == pid:
                found.append(int(entry))
    return found


def descendants_of(pid):
    found = children_of(pid)
    for child in list(found):
        found += descendants_of(child)
    return found


def processes_with(argument):
    """The processes on whose command line `argument` stands."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if os.fsencode(argument) in words and alive(int(entry)):
                found.append(int(entry))
    return found


def blocked_in_read(pid):
    """True while the process (or thread: PID/task/TID) waits inside read(2) or pread(2)."""
    try:
        words = Path(f"/proc/{pid}/syscall").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return bool(words) and words[0] in READ_CALLS


# The numbers of read and pread64; other machines give 63 and 67.
READ_CALLS = {"x86_64": ("0", "17")}.get(os.uname().machine, ("63", "67"))


def mounted(path):
    """True if something is mounted there, even a mount whose daemon is dead."""
    wanted = str(path).replace(" ", "\\040")
    with open("/proc/self/mountinfo") as mounts:
        return any(line.split()[4] == wanted for line in mounts)


def unmount(path):
    command = ["umount", "-l", str(path)] if IS_ROOT else ["fusermount3", "-u", "-z", str(path)]
    while mounted(path):
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0:
            break


def run(*command, **kwargs):
    """A command to its end: (exit status, standard output, standard error)."""
    kwargs.setdefault("timeout", 30 * FACTOR)
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)
    return done.returncode, done.stdout, done.stderr


def assert_one_line_error(program, status, error, *words):
    """What every program promises: one line on standard error, its name first, and the words."""
    assert status != 0
    assert error.count("\n") == 1 and error.endswith("\n"), error
    assert error.startswith(f"{program}: "), error
    for word in words:
        assert str(word) in error, f"{word!r} is not in {error!r}"


def program_path():
    folders = [VGPUFS.parent, VGPUFS_MOUNT.parent, EXECUTOR.parent, VGPUCTL.parent, VGPU_RUN.parent]
    return ":".join([str(folder) for folder in folders] + [os.environ.get("PATH", "/usr/bin:/bin")])


# --- a VM's directory ----------------------------------------------------------------------------

class Vm:
    def __init__(self, mountpoint, number):
        self.number = number
        self.dir = Path(mountpoint) / f"vm{number}"
        self.data = self.dir / "data"

    def submit(self, *lines):
        write_file(self.dir / "submit", b"".join(as_bytes(line) + b"\n" for line in lines))

    def result(self):
        return parse_result(read_file(self.dir / "result"))

    def run(self, line):
        self.submit(line)
        return self.result()

    def status(self):
        return parse_records(read_file(self.dir / "status"))

    def newest(self):
        return self.status()["newest"]

    def ctl(self, line):
        write_file(self.dir / "ctl", line + "\n")

    def job(self, tag):
        return self.dir / "jobs" / str(tag)

    def make_job(self, tag, line):
        os.mkdir(self.job(tag))
        write_file(self.job(tag) / "command", line + "\n")

    def job_status(self, tag):
        return parse_records(read_file(self.job(tag) / "status"))["newest"]

    def job_result(self, tag):
        return parse_result(read_file(self.job(tag) / "result"))

    def jobs(self):
        return set(os.listdir(self.dir / "jobs"))

    def wait_state(self, tag, state):
        wait_until(lambda: self.job_status(tag)["state"] == state, what=f"job {tag} {state}")

    def write_data(self, name, content):
        with open(self.data / name, "wb") as file:
            file.write(content)


# --- the daemon ----------------------------------------------------------------------------------

DEFAULTS = {
    "vgpufs": {"vms": "1-200", "stats_log_interval": "0"},
    "pool A": {"backend": BACKEND},
    "pool B": {"backend": BACKEND},
}
if FACTOR != 1:
    # Their leak checker traces the process, and ThreadSanitizer reads other threads that way.
    for pool in ("pool A", "pool B"):
        DEFAULTS[pool]["sandbox"] = "no"


class StartError(AssertionError):
    """The daemon ended instead of becoming ready."""

    def __init__(self, status, error):
        super().__init__(f"vgpufs ended with {status} before it was ready:\n{error}")
        self.status, self.error = status, error


class Vgpufs:
    """One daemon with a folder of its own: configuration, state, mountpoint and log.

    `config` is {section: {key: value}} on top of DEFAULTS; a value None removes a default, a
    section None too. `uid` runs it as a plain user. `prepare` is called in the child before exec.
    """

    def __init__(self, config=None, uid=None, prepare=None, options=()):
        self.uid, self.prepare, self.options = uid, prepare, list(options)
        self.dir = Path(tempfile.mkdtemp(prefix="vgpufs-test-"))
        self.dir.chmod(0o755)
        self.mountpoint, self.state_dir = self.dir / "mnt", self.dir / "state"
        self.config_file, self.log_file = self.dir / "vgpufs.conf", self.dir / "log"
        self.mountpoint.mkdir()
        self.state_dir.mkdir()
        if uid is not None:
            for path in (self.dir, self.mountpoint, self.state_dir):
                os.chown(path, uid, uid)
        self.process = None
        self.write_config(config or {})

    # Configuration

    def write_config(self, config):
        sections = {name: dict(keys) for name, keys in DEFAULTS.items()}
        sections["vgpufs"].update(mountpoint=self.mountpoint, state_dir=self.state_dir)
        for name, keys in config.items():
            if keys is None:
                sections.pop(name, None)
            else:
                sections.setdefault(name, {}).update(keys)
        with open(self.config_file, "w") as file:
            for name, keys in sections.items():
                file.write(f"[{name}]\n")
                file.writelines(f"{key} = {value}\n" for key, value in keys.items()
                                if value is not None)

    # Life

    def environment(self):
        return dict(os.environ, PATH=program_path())

    def command(self):
        return [str(VGPUFS), "-f", "-c", str(self.config_file)] + self.options

    def start(self):
        """Returns when the daemon says READY=1; raises StartError when it ends instead."""
        assert self.process is None
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            # An abstract name: it needs no folder that a plain user may enter.
            name = f"vgpufs-test-{os.getpid()}-{id(self):x}"
            notify.bind(f"\0{name}")
            with open(self.log_file, "ab") as log:
                self.log_start = log.tell()
                self.process = subprocess.Popen(
                    self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env=dict(self.environment(), NOTIFY_SOCKET=f"@{name}"),
                    preexec_fn=self.prepare, start_new_session=True,
                    **({"user": self.uid, "group": self.uid, "extra_groups": []}
                       if self.uid is not None else {}))
            LIVE.add(self)
            self.await_ready(notify)
        return self

    def await_ready(self, notify):
        process = os.pidfd_open(self.process.pid)
        try:
            deadline = time.monotonic() + 20 * FACTOR
            while True:
                left = deadline - time.monotonic()
                assert left > 0, "neither READY=1 nor an end:\n" + self.log()
                readable, _, _ = select.select([notify, process], [], [], left)
                if notify in readable and "READY=1" in notify.recv(4096).decode().split("\n"):
                    return
                if process in readable:
                    status = self.process.wait()
                    self.process = None
                    LIVE.discard(self)
                    raise StartError(status, self.log()[self.log_start:])
        finally:
            os.close(process)

    @property
    def pid(self):
        return self.process.pid

    def kill(self, number):
        os.kill(self.pid, number)

    def spawner_pids(self):
        """The process that starts executors, and those that it is about to make executors."""
        found = []
        for pid in children_of(self.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/comm").read_text() == "vgpufs-spawner\n":
                    found.append(pid)
        return found

    def spawner_pid(self):
        found = self.spawner_pids()
        assert len(found) == 1, found
        return found[0]

    def wait_end(self, timeout=30):
        status = self.process.wait(timeout * FACTOR)
        self.process = None
        LIVE.discard(self)
        return status

    def stop(self, number=signal.SIGTERM, timeout=30):
        """A clean stop: exit status 0, nothing mounted, no executor left."""
        executors = descendants_of(self.pid)
        self.kill(number)
        try:
            status = self.wait_end(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end after SIGTERM:\n{self.evidence()}") from None
        assert status == 0, f"exit status {status} after a stop:\n{self.evidence()}"
        assert not mounted(self.mountpoint), "still mounted after a clean stop"
        wait_until(lambda: not any(map(alive, executors)), what=f"executors {executors} end")

    def kill9(self):
        """What starts executors ends with it."""
        spawners = self.spawner_pids()
        self.kill(signal.SIGKILL)
        assert self.wait_end() == -signal.SIGKILL
        wait_until(lambda: not any(map(alive, spawners)), what=f"spawners {spawners} end")

    def restart(self):
        self.stop()
        return self.start()

    def revive(self):
        """Fails if the daemon has ended by itself, and starts it again for the next test."""
        status = self.process and self.process.poll()
        if status is None:
            return
        self.wait_end()
        unmount(self.mountpoint)
        self.start()
        raise AssertionError(f"the daemon ended with {status}:\n{self.evidence()}")

    def close(self):
        """The end of every test. Raises if the daemon did not end well or a sanitizer spoke."""
        try:
            if self.process:
                self.stop()
        finally:
            if self.process:
                self.kill9()
            unmount(self.mountpoint)
            evidence = self.evidence()
            shutil.rmtree(self.dir, ignore_errors=True)
        assert not SANITIZER_REPORT.search(evidence), evidence

    # What it says

    def log(self):
        if not self.log_file.exists():
            return ""
        return self.log_file.read_bytes().decode("utf-8", "backslashreplace")

    def evidence(self):
        """What of the log belongs into a failure: a sanitizer's report, or else its end."""
        log = self.log()
        report = SANITIZER_REPORT.search(log)
        return log[max(0, report.start() - 300):][:8000] if report else log[-4000:]

    def wait_log(self, text):
        wait_until(lambda: text in self.log(), what=f"{text!r} in the log:\n{self.log()[-2000:]}")

    def vm(self, number):
        return Vm(self.mountpoint, number)

    def path(self, name):
        return self.mountpoint / name

    def ctl(self, line):
        write_file(self.path("ctl"), line + "\n")

    def stats(self):
        return parse_records(read_file(self.path("stats")))

    def queue(self):
        return parse_queue(read_file(self.path("queue")))

    def threads(self):
        return int(process_fields(self.pid)["Threads"])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def executor_pid(self, slot="A.0"):
        """The executor's process, once the slot is ready for a job or busy with one."""
        def ready():
            pid = self.stats()[f"slot {slot}"]["pid"]
            return int(pid) if pid.isdigit() and int(pid) > 0 and alive(int(pid)) else None
        return wait_until(ready, what=f"slot {slot} has a process")


def order_of_ends(*results):
    """Reads the results (paths) of jobs at once; gives them back in the order in which they ended,
    which is that of their times: ends that share a write to the disk are seen at once."""
    readers = [Background(read_file, path) for path in results]
    for reader in readers:
        parse_result(reader.value(60))
    return sorted(results, key=lambda path: os.stat(path).st_mtime_ns)


def shell(script, **kwargs):
    """A shell script to its end: (exit status, standard output, standard error)."""
    return run("bash", "-c", script, **kwargs)


def quoted(path):
    return shlex.quote(str(path))
