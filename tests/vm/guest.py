#!/usr/bin/python3
"""What the tests do in a guest that is too much for a line of shell: `guest.py FUNCTION WORD...`.

Prints what the function gives back, as JSON. The guest's VM is the one directory that it may enter.
"""
import collections
import json
import os
import random
import sys
import threading
import time

sys.path.insert(0, "/payload")
from length_executor import expected  # noqa: E402

MOUNT = os.environ.get("MOUNT", "/mnt/vgpu")
NUMBER = int(os.uname().nodename.removeprefix("guest"))
VM = f"{MOUNT}/vm{NUMBER}"


def write(path, text):
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def read(path, size=1 << 17):
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_fd(fd, size)
    finally:
        os.close(fd)


def read_fd(fd, size=1 << 17):
    pieces = []
    while piece := os.read(fd, size):
        pieces.append(piece)
    return b"".join(pieces)


def line_of(length, milliseconds, seed, *words):
    return " ".join([f"L:1:{NUMBER}:NBODY n={length} steps={milliseconds} seed={seed}", *words])


def mistake(raw, length, seed):
    """What is wrong with the result of such a line, or None."""
    header, newline, body = raw.partition(b"\n")
    if not newline or not header.startswith(b"status=done "):
        return f"header {raw[:300]!r}"
    if body == expected(length, seed):
        return None
    return (f"{len(body)} bytes for {length}, {body.count(0)} NUL, header {header!r}, "
            f"begins {body[:48]!r}, ends {body[-48:]!r}")


def rounds(count, seed, way="result", longest=60000):
    """Submits and reads, again and again, with random lengths and times; tells what went wrong."""
    dice, wrong, started = random.Random(int(seed)), [], time.monotonic()
    for number in range(int(count)):
        length, wait = dice.randint(80, int(longest)), dice.randint(1, 120)
        which = int(seed) * 1000 + number
        if way == "result":
            write(f"{VM}/submit", line_of(length, wait, which) + "\n")
            raw = read(f"{VM}/result")
        else:  # the job's own directory
            folder = f"{VM}/jobs/r{which}"
            os.mkdir(folder)
            write(f"{folder}/command", line_of(length, wait, which) + "\n")
            raw = read(f"{folder}/result")
            os.rmdir(folder)
        fault = mistake(raw, length, which)
        if fault:
            wrong.append(f"round {number}: {fault}")
    return {"wrong": wrong[:5], "count": len(wrong), "seconds": time.monotonic() - started}


def writers(processes, count, seed):
    """Several processes at once, each with directories of its own under jobs/."""
    children = []
    for process in range(int(processes)):
        reading, writing = os.pipe()
        if os.fork() == 0:
            answer = rounds(count, int(seed) + process, "jobs", 2000)
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        children.append(reading)
    answers = []
    for reading in children:
        with open(reading, "rb") as pipe:
            answers.append(json.loads(pipe.read()))
    return {"wrong": [line for answer in answers for line in answer["wrong"]],
            "count": sum(answer["count"] for answer in answers)}


def wait_together(count, *paths):
    """So many readers at once of these results, or of the VM's: what each read."""
    answers = [None] * int(count)

    def wait(index):
        path = paths[index % len(paths)] if paths else "result"
        try:
            answers[index] = read(f"{VM}/{path}").decode("latin-1")
        except OSError as error:
            answers[index] = str(error)

    threads = [threading.Thread(target=wait, args=(index,)) for index in range(int(count))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def held(count, length, seed, milliseconds=300):
    """Reads `count` results through one descriptor that stays open: how often one was wrong."""
    fd, wrong = os.open(f"{VM}/result", os.O_RDONLY), []
    for number in range(int(count)):
        which = int(seed) + number
        write(f"{VM}/submit", line_of(length, milliseconds, which) + "\n")
        os.lseek(fd, 0, os.SEEK_SET)
        fault = mistake(read_fd(fd), int(length), which)
        if fault:
            wrong.append(f"read {number}: {fault}")
    return wrong


def held_many(count, length, seed):
    """After each of many jobs a descriptor is opened and stays open; each is read when it is new,
    and the first and the newest again."""
    fds, wrong = [], []
    for number in range(int(count)):
        which = int(seed) + number
        write(f"{VM}/submit", line_of(length, 30, which) + "\n")
        fds.append(os.open(f"{VM}/result", os.O_RDONLY))
        for name, fd in (("newest", fds[-1]), ("first", fds[0])):
            os.lseek(fd, 0, os.SEEK_SET)
            fault = mistake(read_fd(fd), int(length), which)
            if fault:
                wrong.append(f"{name} descriptor, job {number}: {fault}")
    return {"wrong": wrong[:5], "count": len(wrong)}


def calls_made():
    """How often the mount has sent each of its NFS procedures, and how many milliseconds it has
    waited for the answers: the lines behind "per-op statistics" in mountstats, of each the first
    number and the seventh (rpc_print_iostats in Linux's net/sunrpc/stats.c)."""
    with open("/proc/self/mountstats", encoding="ascii") as file:
        entry = file.read().split(f" mounted on {MOUNT} ")[1].split("\ndevice ")[0]
    lines = entry.split("per-op statistics")[1].split("\n")
    numbers = {name.strip(): words.split() for name, _, words in
               (line.partition(":") for line in lines) if words}
    return (collections.Counter({name: int(words[0]) for name, words in numbers.items()}),
            collections.Counter({name: int(words[6]) for name, words in numbers.items()}))


def latency(count, beside=None):
    """The middle time, in microseconds, of submitting a NOP and reading its result, and of the same
    system calls on two files of data/, in turns; the jobs' longest time; how many NFS calls each
    takes, and how many milliseconds go by between a call and its answer. What is read of `files` is
    in this kernel's cache after the first round, as no result can be. Of `changed` somebody else
    has written it before each round: this guest through `beside`, another mount of the same tree
    that shares no cache with the first."""
    ways = {"job": (f"{VM}/submit", f"{VM}/result"), "files": (f"{VM}/data/in", f"{VM}/data/out")}
    if beside:
        ways["changed"] = (f"{VM}/data/in", f"{VM}/data/changed")
    spent = {way: [] for way in ways}
    calls, waits = ({way: collections.Counter() for way in ways} for _ in range(2))

    def turn(way):
        to, source = ways[way]
        text = "%0150d" % len(spent[way])
        if way == "changed":
            write(f"{beside}/vm{NUMBER}/data/changed", text)
        before = calls_made()
        started = time.perf_counter()
        write(to, "A:1:%d:NOP\n" % NUMBER)
        raw = read(source)
        spent[way].append((time.perf_counter() - started) * 1e6)
        after = calls_made()
        calls[way] += after[0] - before[0]
        waits[way] += after[1] - before[1]
        assert way != "changed" or raw.decode() == text, (raw, text)

    paths = {path for pair in ways.values() for path in pair if "/data/" in path}
    for path in paths:
        with open(path, "w", encoding="ascii") as file:
            file.write("x" * 150)
    def rounds_of(number):
        for _ in range(number):
            for way in ways:  # one after the other: a busy machine slows all of them down
                turn(way)

    rounds_of(5)
    for kept in (spent, calls, waits):
        for figures in kept.values():
            figures.clear()
    rounds_of(int(count))
    for path in paths:
        os.unlink(path)
    answer = {way: sorted(times)[len(times) // 2] for way, times in spent.items()}
    answer["longest"] = max(spent["job"])
    answer["calls"] = {way: {name: [number / len(spent[way]), waits[way][name] / number]
                             for name, number in made.items()} for way, made in calls.items()}
    return answer


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
