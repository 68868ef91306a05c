#!/usr/bin/python3
"""A test executor whose results have a chosen length: no built-in workload's output has.

It greets as vgpufs-executor(7) says. NBODY n=LENGTH steps=MILLISECONDS seed=SEED waits so long and
answers with LENGTH bytes that expected() tells: a NUL, or a byte of another job, is seen. SLEEP
waits, everything else answers at once.
"""
import os
import socket
import struct
import sys
import time

MAGIC, HEADER = 0x55504756, struct.Struct("<IHHQII")
HELLO, JOB, _, OUTPUT, _, _, _, DONE, _ = range(1, 10)


PLACES = [b":%011d\n" % line for line in range(262144 // 24 + 1)]


def expected(length, seed):
    """`length` bytes of text in which every line tells its seed and its place."""
    begin = b"%011d" % seed
    return (begin + begin.join(PLACES[:(length + 23) // 24]))[:length]


def receive_exactly(connection, size):
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            sys.exit(0)  # the daemon has gone
        data += piece
    return data


def serve(connection):
    def send(kind, attempt, fields=None, payload=b""):
        packed = b"".join(b"%s=%s\0" % (key.encode(), str(value).encode())
                          for key, value in (fields or {}).items())
        connection.sendall(HEADER.pack(MAGIC, kind, 0, attempt, len(packed), len(payload)) +
                           packed + payload)

    def receive():
        _, kind, _, attempt, fields_size, size = HEADER.unpack(
            receive_exactly(connection, HEADER.size))
        fields = receive_exactly(connection, fields_size).decode().split("\0")[:-1]
        receive_exactly(connection, size)
        return kind, attempt, dict(field.split("=", 1) for field in fields)

    while True:
        kind, attempt, fields = receive()
        if kind == HELLO:
            send(HELLO, 0, {"protocol": 1, "version": "0", "backend": "cpu",
                            "device": "chosen lengths", "host": "localhost", "pid": os.getpid(),
                            "descriptors": "no", "workloads": "NOP,SLEEP,NBODY"})
        elif kind == JOB:
            body = b""
            if fields["command"] == "NBODY":
                time.sleep(int(fields.get("arg.steps", 10)) / 1000)
                body = expected(int(fields.get("arg.n", 1024)), int(fields.get("arg.seed", 1)))
            elif fields["command"] == "SLEEP":
                time.sleep(int(fields.get("arg.ms", 1000)) / 1000)
            for start in range(0, len(body), 1 << 16):
                send(OUTPUT, attempt, payload=body[start:start + (1 << 16)])
            send(DONE, attempt, {"status": "done", "device_us": 1})


if __name__ == "__main__":
    serve(socket.socket(fileno=os.dup(0)))
