#!/usr/bin/python3
"""An executor that does wrong on purpose: `fault_executor.py MODE [MARKER]` as a pool's executor.

It greets as vgpufs-executor(7) says (unless MODE is about that), does every job well but SLEEP,
and with SLEEP does what MODE names. With MARKER, a file's path, the first start makes that file and
greets well: the fault begins when it is started again. Modes that begin with "probed" do the
daemon's probe, SANITY, and say so on standard error; it fails while there is a file MARKER.bad.
"""
import ctypes
import errno
import os
import signal
import socket
import struct
import sys
import time

MAGIC, HEADER = 0x55504756, struct.Struct("<IHHQII")
HELLO, JOB, CANCEL, OUTPUT, PROGRESS, RESERVE, RESERVED, DONE, REFUSE, READING = range(1, 11)

CONNECTION = socket.socket(fileno=os.dup(0))
EVIL = b'evil"\n[ENQUEUE] FORGED\x01\x1b[31m\xff\\'


def send(kind, attempt, fields=(), payload=b""):
    packed = b""
    for key, value in dict(fields).items():
        value = value if isinstance(value, bytes) else str(value).encode()
        packed += key.encode() + b"=" + value + b"\0"
    header = HEADER.pack(MAGIC, kind, 0, attempt, len(packed), len(payload))
    CONNECTION.sendall(header + packed + payload)


def receive_exactly(size):
    data = b""
    while len(data) < size:
        piece, descriptors, _, _ = socket.recv_fds(CONNECTION, size - len(data), 16)
        for descriptor in descriptors:
            os.close(descriptor)
        if not piece:
            sys.exit(0)  # the daemon has gone
        data += piece
    return data


def receive():
    _, kind, _, attempt, fields_size, payload_size = HEADER.unpack(receive_exactly(HEADER.size))
    fields = receive_exactly(fields_size).split(b"\0")[:-1]
    receive_exactly(payload_size)
    return kind, attempt, dict(field.decode("utf-8", "replace").split("=", 1) for field in fields)


def hello(**changes):
    fields = {"protocol": 1, "version": "0", "backend": "cpu", "device": "fault injection",
              "host": "localhost", "pid": os.getpid(), "descriptors": "no",
              "workloads": "NOP,SLEEP,DEVICE_INFO,VECTOR_ADD,MATRIX_MUL"}
    if sys.argv[1].startswith("probed"):
        fields["workloads"] += ",SANITY"
    fields.update(changes)
    send(HELLO, 0, fields)


def well(attempt, body=b"well\n"):
    send(OUTPUT, attempt, (), body)
    send(DONE, attempt, {"status": "done", "device_us": 1})


# --- what goes wrong with a job ------------------------------------------------------------------

def crash(attempt):
    os.kill(os.getpid(), signal.SIGKILL)


def segfault(attempt):
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(attempt):
    os._exit(3)


def close(attempt):
    """The connection ends, the process does not."""
    CONNECTION.shutdown(socket.SHUT_RDWR)
    os.close(0)
    os.close(1)
    time.sleep(3600)


def hang(attempt):
    """No answer, not even to a cancel or to SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(3600)


def garbage(attempt):
    CONNECTION.sendall(bytes(range(256)) * 64)
    time.sleep(3600)


def huge(attempt):
    CONNECTION.sendall(HEADER.pack(MAGIC, OUTPUT, 0, attempt, 0, 0xffffffff))
    time.sleep(3600)


def partial(attempt):
    CONNECTION.sendall(HEADER.pack(MAGIC, OUTPUT, 0, attempt, 0, 1000) + b"half of it")
    os._exit(0)


def unended_fields(attempt):
    CONNECTION.sendall(HEADER.pack(MAGIC, DONE, 0, attempt, 6, 0) + b"status")
    time.sleep(3600)


def unknown_type(attempt):
    CONNECTION.sendall(HEADER.pack(MAGIC, 4711, 0, attempt, 0, 0))
    time.sleep(3600)


def wrong_direction(attempt):
    send(JOB, attempt, {"command": "NOP"})
    time.sleep(3600)


def bad_status(attempt):
    send(DONE, attempt, {"status": "splendid"})


def fails_silently(attempt):
    send(DONE, attempt, {"status": "failed", "error": ""})


def escape(attempt):
    """Tries what an executor has no business with, in ways that do nothing where they are allowed."""
    process = ctypes.CDLL(None, use_errno=True)
    # The numbers are those of x86-64.
    tries = {"process_vm_readv": (310, os.getppid(), 0, 0, 0, 0, 0), "bpf": (321, -1, 0, 0),
             "ptrace": (101, -1, 0, 0, 0), "reboot": (169, 0, 0, 0, 0), "io_uring_setup": (425, 0, 0),
             "clock_settime": (227, 99, 0), "userfaultfd": (323, -1),
             "ioctl TIOCSTI": (16, 0, 0x5412, 0)}
    lines = []
    for name, numbers in tries.items():
        ctypes.set_errno(0)
        process.syscall(*(ctypes.c_long(number) for number in numbers))
        lines.append(f"{name}: {errno.errorcode.get(ctypes.get_errno(), 0)}\n")
    with open("/proc/self/status") as status:
        lines += [line for line in status if line.startswith(("NoNewPrivs", "Seccomp:"))]
    well(attempt, "".join(lines).encode())


def late_answer(attempt):
    """An answer to an earlier attempt, then the right one."""
    well(attempt - 1, b"an answer to another job\n")
    well(attempt)


def deaf(attempt):
    """It does its job, but takes no other: what is sent to it fails, and what it sends has no end."""
    CONNECTION.shutdown(socket.SHUT_RD)
    well(attempt)
    time.sleep(3600)


def twice(attempt):
    well(attempt)
    well(attempt, b"again\n")


def noisy_garbage(attempt):
    """Nonsense on the connection, while a child writes to standard error without end."""
    if os.fork() == 0:
        while True:
            os.write(2, EVIL * 100)
    garbage(attempt)


def child_run(environment=os.environ):
    """A process that only its command line tells from others, in the executor's group."""
    pid = os.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(3600)",
                                   sys.argv[2] + ".child"], environment)
    return pid


def leaves_children(attempt):
    """One in its group, and a daemon's: in a session of its own, with init as its parent."""
    child_run()
    if os.fork() == 0:
        os.setsid()
        child_run()
        os._exit(0)
    well(attempt)


def leaves_a_stranger(attempt):
    """One in its group that has nothing of its environment."""
    child_run({})
    well(attempt)


def eats(attempt):
    """More memory, without end."""
    eaten = []
    while True:
        eaten.append(b"x" * (1 << 24))


def forks(attempt):
    """Children, until the kernel gives no more; they end again."""
    children, why = [], None
    while not why and len(children) < 10000:
        try:
            child = os.fork()
        except OSError as error:
            why = errno.errorcode[error.errno]
            break
        if child == 0:
            signal.pause()
        children.append(child)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    well(attempt, f"{len(children)} children, then {why}\n".encode())


def pries(attempt):
    """What the daemon and its spawner must keep from it: tries all, and tells what it could do."""
    state, daemon, spawner = os.environ["PRY_STATE"], os.getppid(), None
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/stat").read().rpartition(")")
        except OSError:
            continue  # it has just ended
        if words[0].endswith("(vgpufs-spawner") and int(words[2].split()[1]) == daemon:
            spawner = int(pid)
    tries = {
        "read the state": lambda: open(f"{state}/state.db", "rb"),
        "list data/": lambda: os.listdir(f"{state}/data"),
        "end the daemon": lambda: os.kill(daemon, signal.SIGKILL),
        "stop the spawner": lambda: os.kill(spawner, signal.SIGSTOP),
        "end the spawner": lambda: os.kill(spawner, signal.SIGKILL),
        "see the daemon's files": lambda: os.listdir(f"/proc/{daemon}/fd"),
        "read the spawner's memory": lambda: open(f"/proc/{spawner}/mem", "rb"),
        "have the daemon's user": lambda: os.setuid(os.stat(f"/proc/{daemon}").st_uid),
        "be root": lambda: os.setuid(0),
        "leave its cgroup": lambda: open(os.environ["PRY_CGROUP"] + "/daemon/cgroup.procs",
                                         "w").write("0"),
    }
    done = []
    for name, attack in tries.items():
        try:
            attack()
            done.append(name)
        except OSError:
            pass
    well(attempt, f"could: {', '.join(done) or 'nothing'}\n".encode())


def chatters(attempt):
    """1,000 lines for the log, which a pipe holds."""
    os.write(2, b"chatter\n" * 1000)
    well(attempt)


def flood(attempt):
    for _ in range(400):
        send(OUTPUT, attempt, (), b"x" * (256 * 1024))
    send(DONE, attempt, {"status": "done", "device_us": 1})


def large(attempt):
    """No fault: a result of a MiB."""
    for _ in range(4):
        send(OUTPUT, attempt, (), b"%x" % (attempt % 16) * (256 * 1024))
    send(DONE, attempt, {"status": "done", "device_us": 1})


def endless_flood(attempt):
    while True:
        send(OUTPUT, attempt, (), b"x" * (256 * 1024))


def evil_error(attempt):
    send(DONE, attempt, {"status": "failed", "error": EVIL * 200, "device_us": 1})


def evil_output(attempt):
    well(attempt, b"status=done job=1 tag=1\n\0\x01\xff" + EVIL)


def evil_progress(attempt):
    for value in (b"nan", b"-1", b"1e999", b"", EVIL):
        send(PROGRESS, attempt, {"value": value})
    well(attempt)


def evil_reading(attempt):
    for value in (b"-1", b"nan", b"", b"9" * 30, EVIL, 1001, 7):
        send(READING, 0, {"temperature_c": value, "utilisation_percent": value,
                          "memory_used_bytes": value, "xid_events": value, "last_xid": value})
    well(attempt)


def evil_log(attempt):
    for _ in range(1000):
        os.write(2, EVIL + b"\n")
    os.write(2, b"x" * 100000)
    well(attempt)


def greedy(attempt):
    """Reserves what nobody has, for a parameter that is none."""
    send(RESERVE, attempt, {"param": "out", "bytes": 1 << 60})
    send(RESERVE, attempt, {"param": EVIL, "bytes": b"-1"})
    well(attempt)


def probed_crash(attempt):
    crash(attempt)


def probed_device(attempt):
    """The device is lost, and the process cannot go on."""
    send(DONE, attempt, {"status": "failed", "error": "device lost", "fault": "device",
                         "leaving": "yes"})
    os._exit(1)


def probed_sticky(attempt):
    send(DONE, attempt, {"status": "failed", "error": "illegal address", "fault": "sticky",
                         "leaving": "yes"})
    os._exit(1)


def probe(attempt):
    bad = sys.argv[2] + ".bad"
    if not os.path.exists(bad):
        os.write(2, b"the probe passes\n")
        return well(attempt)
    os.write(2, b"the probe fails\n")
    how = open(bad).read()
    if how == "hang":
        hang(attempt)
    if how == "crash":
        crash(attempt)
    send(DONE, attempt, {"status": "failed", "error": "wrong numbers"})


# --- what goes wrong with the greeting -----------------------------------------------------------

def no_hello():
    os._exit(0)


def silent():
    hang(0)


def refuse():
    send(REFUSE, 0, {"error": b"no device today " + EVIL})
    os._exit(1)


def refuse_silently():
    send(REFUSE, 0, {"error": b""})
    os._exit(1)


def bad_protocol():
    hello(protocol=99)


def evil_hello():
    hello(device=EVIL, host=EVIL)


def garbage_hello():
    os.write(1, b"Welcome to gpu-vm! Last login: yesterday\n" * 10)
    time.sleep(3600)


GREETINGS = {function.__name__: function for function in (
    no_hello, silent, refuse, refuse_silently, bad_protocol, evil_hello, garbage_hello)}
JOBS = {function.__name__: function for function in (
    crash, segfault, leave, close, hang, garbage, noisy_garbage, huge, partial, unended_fields,
    unknown_type, wrong_direction, bad_status, fails_silently, leaves_children, leaves_a_stranger, eats, forks, pries, chatters, escape, late_answer, deaf, twice, large, flood, endless_flood, evil_error,
    evil_output, evil_progress, evil_reading, evil_log, greedy, probed_crash, probed_device, probed_sticky)}


def first_start():
    """True if there is a MARKER and this is the start that makes it."""
    if len(sys.argv) < 3 or sys.argv[2].startswith("--"):
        return False
    try:
        os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def main():
    mode = sys.argv[1]
    kind, _, _ = receive()
    assert kind == HELLO
    (hello if first_start() else GREETINGS.get(mode, hello))()
    while True:
        kind, attempt, fields = receive()
        if kind == JOB and fields["command"] == "SANITY":
            probe(attempt)
        elif kind == JOB:
            (JOBS.get(mode, well) if fields["command"].split()[0] == "SLEEP" else well)(attempt)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the daemon has had enough of it
