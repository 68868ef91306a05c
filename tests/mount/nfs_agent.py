"""Runs file system calls for nfs_server.py: one JSON object a line in, one out, each in a thread of
its own. The interpreter is started under the name ganesha.nfsd, so that the daemon takes what comes
from here for the requests of an NFS server."""
import json
import os
import sys
import threading

lock = threading.Lock()


def stat(path):
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def pwrite(fd, text, offset):
    return os.pwrite(fd, text.encode("latin-1"), offset)


def pread(fd, size, offset):
    return os.pread(fd, size, offset).decode("latin-1")


def utime(path, times):
    os.utime(path, times and tuple(times))


CALLS = {function.__name__: function for function in
         (stat, pwrite, pread, utime, os.open, os.close, os.listdir, os.truncate)}


def run(order):
    try:
        answer = {"value": CALLS[order["call"]](*order["arguments"])}
    except OSError as error:
        answer = {"errno": error.errno}
    with lock:
        sys.stdout.write(json.dumps(dict(answer, id=order["id"])) + "\n")
        sys.stdout.flush()


for line in sys.stdin:
    threading.Thread(target=run, args=(json.loads(line),), daemon=True).start()
os._exit(0)
