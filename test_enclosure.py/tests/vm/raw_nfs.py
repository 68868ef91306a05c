#!/usr/bin/python3
"""A guest that does not keep to its mount: NFSv3 (RFC 1813) by hand, with handles that it guesses.

`raw_nfs.py SERVER FSID` reads lines "NAME TYPE HANDLE" from standard input: a node's name, the
handle type that FUSE gives it and its bytes (name_to_handle_at(2) on the host gives both). To each
it does what a client could do to somebody else's file, as several users; prints, as JSON, the
status of each try, {"answers": {name: {"READ uid=0": 13, …}}, …}, and which of them had to wait.
"""
import json
import os
import random
import socket
import struct
import sys
import time

PROGRAM, VERSION, PORT = 100003, 3, 2049
GETATTR, SETATTR, LOOKUP, READ, WRITE, CREATE, MKDIR = 1, 2, 3, 6, 7, 8, 9
REMOVE, RMDIR, READDIR, READDIRPLUS = 12, 13, 16, 17
SLOW_SECONDS = 10  # what has waited for a job, or for an error's end
USERS = (0, 20003, 20004)


def opaque(data):
    return struct.pack(">I", len(data)) + data + b"\0" * (-len(data) % 4)


class Client:
    def __init__(self, server):
        self.socket = socket.socket()
        for port in random.sample(range(700, 1000), 50):  # the export is `secure`
            try:
                self.socket.bind(("", port))
                break
            except OSError:
                continue
        self.socket.settimeout(60)
        self.socket.connect((server, PORT))
        self.number = 0

    def exactly(self, size):
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise EOFError("the server has closed the connection")
            data += piece
        return data

    def call(self, procedure, uid, arguments):
        """The reply's NFS status and what follows it."""
        self.number += 1
        credentials = struct.pack(">I", 1) + opaque(b"x") + struct.pack(">III", uid, uid, 0)
        message = (struct.pack(">IIIIII", self.number, 0, 2, PROGRAM, VERSION, procedure) +
                   struct.pack(">I", 1) + opaque(credentials) + struct.pack(">II", 0, 0) +
                   arguments)
        self.socket.sendall(struct.pack(">I", 0x80000000 | len(message)) + message)
        reply = b""
        last = 0
        while not last:
            mark, = struct.unpack(">I", self.exactly(4))
            last = mark & 0x80000000
            reply += self.exactly(mark & 0x7fffffff)
        number, kind, state = struct.unpack_from(">III", reply)
        assert (number, kind, state) == (self.number, 1, 0), reply[:24]
        verifier, = struct.unpack_from(">I", reply, 16)
        at = 20 + verifier + (-verifier % 4)
        accepted, = struct.unpack_from(">I", reply, at)
        if accepted != 0:
            return 1000 + accepted, b""
        status, = struct.unpack_from(">I", reply, at + 4)
        return status, reply[at + 8:]


def tries(handle):
    fh = opaque(handle)
    name = opaque(b"status")
    new = fh + opaque(b"intruder")
    mode = struct.pack(">IIIIIII", 1, 0o700, 0, 0, 0, 0, 0)
    empty = struct.pack(">IIIIII", 0, 0, 0, 0, 0, 0)
    truncate = struct.pack(">IIIIQII", 0, 0, 0, 1, 0, 0, 0)
    return {
        "READ": (READ, fh + struct.pack(">QI", 0, 4096)),
        "WRITE": (WRITE, fh + struct.pack(">QII", 0, 4, 2) + opaque(b"NOP\n")),
        "SETATTR": (SETATTR, fh + truncate + struct.pack(">I", 0)),
        "LOOKUP": (LOOKUP, fh + name),
        "READDIR": (READDIR, fh + struct.pack(">QQI", 0, 0, 4096)),
        "READDIRPLUS": (READDIRPLUS, fh + struct.pack(">QQII", 0, 0, 4096, 8192)),
        "CREATE": (CREATE, new + struct.pack(">I", 0) + empty),
        "MKDIR": (MKDIR, new + mode),
        "REMOVE": (REMOVE, fh + opaque(b"secret")),
        "RMDIR": (RMDIR, fh + opaque(b"mine")),
    }


def main():
    client, fsid = Client(sys.argv[1]), int(sys.argv[2])
    found, waited = {}, []
    for line in sys.stdin:
        name, kind, data = line.split()
        # linux/nfsd/nfsfh.h: version 1, no auth, FSID_NUM, the filesystem's own type of handle
        handle = bytes([1, 0, 1, int(kind)]) + struct.pack("=I", fsid) + bytes.fromhex(data)
        answers = found.setdefault(name, {})
        for uid in USERS:
            for what, (procedure, arguments) in tries(handle).items():
                started = time.monotonic()
                answers[f"{what} uid={uid}"], _ = client.call(procedure, uid, arguments)
                if time.monotonic() - started > SLOW_SECONDS:
                    waited.append(f"{name}: {what} uid={uid}")
    print(json.dumps({"answers": found, "waited": waited}))


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    main()
