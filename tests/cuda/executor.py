"""Speaks to the real vgpu-executor as the daemon does (vgpufs-executor(7)), with the stand-in of the
driver or without."""
import array
import os
import re
import socket
import struct
import subprocess
import tempfile

EXECUTOR = os.environ.get("VGPU_EXECUTOR", "VGPU_EXECUTOR-is-not-set")
STANDIN = os.environ.get("STANDIN_DIRECTORY", "STANDIN_DIRECTORY-is-not-set")
# The stand-in with NVIDIA's libraries, all of them: one of the machine's own is not to be found.
LIBRARIES = ":".join([STANDIN, os.path.join(STANDIN, "cublas"), os.path.join(STANDIN, "cufft")])
FACTOR = float(os.environ.get("VGPUFS_TIME_FACTOR", "1"))

HELLO, JOB, CANCEL, OUTPUT, PROGRESS, RESERVE, RESERVED, DONE, REFUSE, READING = range(1, 11)
HEADER = struct.Struct("<4sHHQII")
LEFT_NOTHING = "memory=0 allocations=0 host=0 streams=0 events=0 modules=0 contexts=0"

# A small job of each workload; those that have no kernels run on the host's processors.
SMALL = {
    "VECTOR_ADD": {"n": 3000}, "MATRIX_MUL": {"m": 20, "n": 20, "k": 20}, "SAXPY": {"n": 3000},
    "REDUCE": {"n": 3000}, "SORT": {"n": 300}, "MONTE_CARLO_PI": {"n": 3000},
    "FFT": {"n": 64, "batch": 3}, "DOT": {"n": 3000}, "SCAN": {"n": 3000}, "HISTOGRAM": {"n": 3000},
    "TRANSPOSE": {"m": 20, "n": 30}, "SHA256": {"n": 3000}, "CONV2D": {"h": 20, "w": 30, "k": 3},
    "BLACK_SCHOLES": {"n": 3000}, "NBODY": {"n": 20, "steps": 2}, "NOP": {},
}


class Ended(Exception):
    """The executor has closed its end."""


class Result:
    def __init__(self, fields, output):
        self.status, self.error = fields["status"], fields.get("error", "")
        self.fields, self.output = fields, output
        # Less what computing and moving data took this time.
        self.answer = re.sub(r" compute_us=\d+ copy_us=\d+ verify_us=\d+$", "", output, flags=re.M)

    def numbers(self):
        return dict(pair.split("=", 1) for pair in self.output.split())


class Executor:
    """One executor process, started with backend=cuda on the stand-in unless told otherwise.
    Other words are the stand-in's settings; `environment` replaces all of that. `readings`: it is
    asked for them."""

    def __init__(self, *options, library=STANDIN, environment=None, readings=False, **standin):
        self.account_file = tempfile.NamedTemporaryFile(suffix=".account")
        self.log_file = tempfile.TemporaryFile()
        if environment is None:
            environment = {name: value for name, value in os.environ.items()
                           if not name.startswith(("STANDIN_", "CUDA_", "LD_LIBRARY_PATH"))}
            environment.update({"STANDIN_" + name.upper(): str(value)
                                for name, value in standin.items()})
            environment["STANDIN_ACCOUNT"] = self.account_file.name
            if library:
                environment["LD_LIBRARY_PATH"] = library
        ours, theirs = socket.socketpair()
        ours.settimeout(30 * FACTOR)
        self.socket, self.attempt, self.buffer, self.readings = ours, 0, b"", []
        self.process = subprocess.Popen([EXECUTOR, *(options or ["--backend=cuda"])], stdin=theirs,
                                        stdout=theirs, stderr=self.log_file, env=environment)
        theirs.close()
        with open("/dev/null", "rb") as null:
            hello = {"protocol": 1, "pool": "A", "slot": 0}
            self.send(HELLO, dict(hello, readings="yes") if readings else hello, [null.fileno()])
        kind, self.hello, _ = self.receive()
        self.refused = self.hello.get("error", "") if kind == REFUSE else ""
        assert kind in (HELLO, REFUSE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def send(self, kind, fields=None, descriptors=()):
        packed = b"".join(f"{key}={value}".encode() + b"\0" for key, value in (fields or {}).items())
        attempt = self.attempt if kind != HELLO else 0
        frame = HEADER.pack(b"VGPU", kind, 0, attempt, len(packed), 0) + packed
        socket.send_fds(self.socket, [frame], list(descriptors))

    def take(self, size):
        while len(self.buffer) < size:
            piece = self.socket.recv(1 << 16)
            if not piece:
                raise Ended
            self.buffer += piece
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def receive(self):
        magic, kind, _, _, fields_size, payload_size = HEADER.unpack(self.take(HEADER.size))
        assert magic == b"VGPU"
        fields = dict(field.decode().split("=", 1)
                      for field in self.take(fields_size).split(b"\0")[:-1])
        payload = self.take(payload_size)
        if kind == READING:
            self.readings.append(fields)
            return self.receive()
        return kind, fields, payload

    def reading(self):
        """The next one, of an executor that has nothing to do."""
        count = len(self.readings)
        while len(self.readings) == count:
            header = HEADER.unpack(self.take(HEADER.size))
            assert header[1] == READING
            self.readings.append(dict(field.decode().split("=", 1)
                                      for field in self.take(header[4]).split(b"\0")[:-1]))
        return self.readings[-1]

    def start(self, command, vm=3, files=(), **arguments):
        """`files`: parameter name -> open file."""
        self.attempt += 1
        fields = {"command": command, "vm": vm, "job": self.attempt, "max_result": 1 << 20}
        fields.update({f"arg.{name}": value for name, value in arguments.items()})
        descriptors = []
        for name, file in dict(files).items():
            fields[f"arg.{name}"], fields[f"file.{name}"] = "x.bin", len(descriptors)
            descriptors.append(file.fileno())
        self.send(JOB, fields, descriptors)

    def result(self):
        output, self.progress = b"", []
        while True:
            kind, fields, payload = self.receive()
            if kind == OUTPUT:
                output += payload
            elif kind == PROGRESS:
                self.progress.append(float(fields["value"]))
            elif kind == RESERVE:
                self.send(RESERVED)
            else:
                assert kind == DONE
                return Result(fields, output.decode())

    def run(self, command, **arguments):
        self.start(command, **arguments)
        return self.result()

    def done(self, command, **arguments):
        result = self.run(command, **arguments)
        assert result.status == "done", (command, arguments, result.error, self.log())
        return result

    def end(self):
        """Closes our end; returns the process's status."""
        self.socket.close()
        return self.process.wait(30 * FACTOR)

    def log(self):
        self.log_file.seek(0)
        return self.log_file.read().decode()

    def account(self):
        """What the stand-in has counted, after the process's end."""
        return Account(open(self.account_file.name).read())


class Account:
    def __init__(self, text):
        assert text.count("process ") == 1, text
        self.text = text
        self.left = re.search(r"^left (.*)$", text, re.M)[1]
        self.unclear, self.peak, self.sticky, self.threshold, self.unwiped, self.seen = (
            int(re.search(rf"^{name} (\d+)$", text, re.M)[1])
            for name in ("unclear", "peak", "sticky", "threshold", "unwiped", "seen"))
        self.mps = re.search(r"^mps (.*)$", text, re.M)[1]
        self.calls = {name: int(count) for name, count in re.findall(r"^call (\w+) (\d+)$", text, re.M)}
        self.launches = {name: int(count)
                         for name, count in re.findall(r"^launch (\w+) (\d+)$", text, re.M)}


def clean(executor):
    """The executor ends as it should and leaves nothing on the device."""
    assert executor.end() == 0, executor.log()
    account = executor.account()
    assert account.left == LEFT_NOTHING
    assert account.unclear == 0
    assert account.sticky == 0
    return account


# --- files of numbers ----------------------------------------------------------------------------

def file_of(typecode, values):
    file = tempfile.TemporaryFile()
    file.write(array.array(typecode, values).tobytes())
    file.flush()
    return file


def content(file, typecode):
    found = array.array(typecode)
    found.frombytes(os.pread(file.fileno(), 1 << 28, 0))
    return found
