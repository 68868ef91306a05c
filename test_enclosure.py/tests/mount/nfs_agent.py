"""Runs file system calls for nfs_server.py: one JSON object a line in, one out, each in a thread of
its own. The interpreter is started under the name ganesha.nfsd, so that the daemon takes what comes
from here for the requests of an NFS server."""
import ctypes
import json
import os
import signal
import sys
import threading

lock = threading.Lock()
threads = {}  # number of a call that runs -> its thread


def stat(path):
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def pwrite(fd, text, offset):
    return os.pwrite(fd, text.encode("latin-1"), offset)


def pread(fd, size, offset):
    return os.pread(fd, size, offset).decode("latin-1")


def splice(fd, size, offset):
    """Reads through the page cache, as the kernel's server does since Linux 6.5."""
    reading, writing = os.pipe()
    try:
        count = os.splice(fd, writing, size, offset_src=offset)
        return os.read(reading, size).decode("latin-1") if count else ""
    finally:
        os.close(reading), os.close(writing)


def cached_pages(fd):
    """cachestat(2), number 451 everywhere: how many pages of the file the kernel holds."""
    numbers = (ctypes.c_uint64 * 5)()
    everything = (ctypes.c_uint64 * 2)(0, 0)
    if ctypes.CDLL(None, use_errno=True).syscall(451, fd, everything, numbers, 0) != 0:
        raise OSError(ctypes.get_errno(), "cachestat")
    return numbers[0]


def utime(path, times):
    os.utime(path, times and tuple(times))


def interrupt(number):
    """Sends a signal to the thread of another call, as the end of an NFS server's threads does."""
    signal.pthread_kill(threads[number].ident, signal.SIGUSR1)


CALLS = {function.__name__: function for function in
         (stat, pwrite, pread, utime, splice, cached_pages, interrupt, os.open, os.close, os.listdir,
          os.truncate, os.chmod)}


def run(order):
    try:
        answer = {"value": CALLS[order["call"]](*order["arguments"])}
    except OSError as error:
        answer = {"errno": error.errno}
    del threads[order["id"]]
    with lock:
        sys.stdout.write(json.dumps(dict(answer, id=order["id"])) + "\n")
        sys.stdout.flush()


signal.signal(signal.SIGUSR1, lambda *_: None)
for line in sys.stdin:
    order = json.loads(line)
    thread = threading.Thread(target=run, args=(order,), daemon=True)
    threads[order["id"]] = thread
    thread.start()
os._exit(0)
