#!/usr/bin/env python3
"""Kills the daemon again and again while clients submit, and checks it against what they know.

Each client is a process that keeps a ledger: a line of JSON for every submission, written before
and after the close, and for every result that it has read. After each kill the daemon starts on the
same state, and what it has is compared with all ledgers:

- a submission whose close returned 0 has a result, or is queued or running;
- a result that was read before has the same bytes now, and a tag has one job number for good;
- what is queued has its priority, and stands in the order in which it was submitted, for each VM
  and priority: in some rounds the pools are held, so that all of it is;
- a tag that is submitted again is the same job, with the same result, whether it was known that the
  daemon had it or not;
- no job's number is used twice.

What was under way when the daemon died may be there or not, but as a whole.
"""
import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KILL_POINTS = [  # the places in the daemon (KILL_POINT), in a build with -Dkill_points=true
    "asked", "group-begun", "group-applied", "group-committed", "announcing", "announced",
    "end-asked", "ended", "answering", "answered", "replying", "replied", "starting", "restoring",
    "log-applied",
]
ENDING = ("end-asked", "ended", "answering", "answered")  # not reached while the pools are held
VMS = 4
TAGS = 40  # a client leaves so many unread at most
HELD = 100  # it submits so many at most while the pools are held
AGAIN = 5  # so many of the last round's it submits again


class Failed(AssertionError):
    """The daemon has broken a promise."""


# --- a client ------------------------------------------------------------------------------------

def client(mount, vm, ledger_path, seed, first, again=(), held=False):
    """Submits lines with tags of its own until the mount dies; notes what it did. One system call a
    note: what was written into a file outlives SIGKILL. `again` are (tag, line) of before; `held`:
    nothing ends meanwhile, so nothing is read."""
    rng = random.Random(seed)
    ledger = os.open(ledger_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(*words):
        os.write(ledger, (json.dumps(words) + "\n").encode())

    def put(path, line):
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

    folder, number, alive = f"{mount}/vm{vm}", first, True
    waiting = collections.deque()
    try:
        for tag, line in again:
            put(f"{folder}/submit", line.encode())
            note("again", tag, line)
            if not held:
                read_one(folder, tag, note)
    except OSError as error:
        alive = os.path.exists(f"{mount}/stats")
        if alive:
            note("another", tag, error.errno)
    while alive and number < first + (HELD if held else 10 ** 9):
        tags = [f"t{vm}x{number + i}" for i in range(rng.choice((1, 1, 1, 2, 5)))]
        number += len(tags)
        priority = rng.randrange(3)
        # Some are awaited: then it is their end that wakes the reader.
        awaited = rng.random() < 0.03
        work = "SLEEP ms=10" if awaited else rng.choice(("NOP", "NOP", "NOP", "VECTOR_ADD n=16"))
        lines = "".join(f"A:{priority}:{vm}:{work} tag={tag}\n" for tag in tags)
        note("try", tags, lines)
        try:
            if len(tags) == 1 and rng.random() < 0.3:
                os.mkdir(f"{folder}/jobs/{tags[0]}")
                put(f"{folder}/jobs/{tags[0]}/command", lines.encode())
            else:
                put(f"{folder}/submit", lines.encode())
            note("accepted", tags, priority)
            waiting.extend(tags)
            if not held and awaited:
                read_one(folder, waiting.pop(), note)
            elif not held and (len(waiting) > TAGS or rng.random() < 0.5):
                read_one(folder, waiting.popleft(), note)
        except OSError as error:
            note("refused", tags, error.errno)
            alive = os.path.exists(f"{mount}/stats")
            if alive:
                time.sleep(0.05)  # a disk that is full, or fails
    os.close(ledger)


def read_one(folder, tag, note):
    with open(f"{folder}/jobs/{tag}/result", "rb", buffering=0) as file:
        pieces = []
        while piece := file.read(1 << 16):
            pieces.append(piece)
    note("result", tag, b"".join(pieces).decode())


# --- the ledgers ---------------------------------------------------------------------------------

def command(line):
    """Of A:1:2:VECTOR_ADD n=16 tag=x: VECTOR_ADD."""
    return line.split(":")[3].split(" ")[0]


class Ledger:
    """What all clients of a VM know."""

    def __init__(self):
        self.order = []  # (tag, priority), as accepted
        self.accepted, self.tried, self.refused = set(), set(), set()
        self.batches = []
        self.results, self.numbers = {}, {}
        self.lines = {}  # of the last round: tag -> line
        self.commands = {}

    def take(self, path):
        self.lines = {}
        for line in path.read_text().splitlines():
            kind, what, third = json.loads(line)
            if kind == "try":
                self.tried.update(what)
                self.batches.append(what)
                lines = dict(zip(what, third.splitlines(keepends=True)))
                self.lines.update(lines)
                self.commands.update((tag, command(line)) for tag, line in lines.items())
            elif kind == "accepted":
                self.accepted.update(what)
                self.order += [(tag, third) for tag in what]
            elif kind == "again":
                self.accepted.add(what)
            elif kind == "refused":
                self.refused.update(what)
            elif kind == "another":
                raise Failed(f"{what} is refused (errno {third}) when it is submitted again")
            else:
                self.result(what, third)

    def result(self, tag, content):
        header = dict(word.split("=", 1) for word in content.split("\n")[0].split(" ") if "=" in word)
        if header.get("tag") != tag or header.get("status") not in ("done", "failed", "timeout",
                                                                    "cancelled"):
            raise Failed(f"{tag}: {content!r} is no end of it")
        if header["command"] != self.commands.get(tag, header["command"]):
            raise Failed(f"{tag} was {self.commands[tag]} and is {header['command']}")
        if self.results.setdefault(tag, content) != content:
            raise Failed(f"{tag} has two results:\n{self.results[tag]}{content}")
        self.number(tag, header["job"])

    def number(self, tag, number):
        if self.numbers.setdefault(tag, number) != number:
            raise Failed(f"{tag} was job {self.numbers[tag]} and is job {number}")


# --- the check -----------------------------------------------------------------------------------

def queued(text):
    """Of the file `queue`, in its order: (VM, tag, priority) of what waits."""
    lines = [line.split(" ", 7) for line in text.splitlines()]
    return [(int(line[2][2:]), line[4], int(line[1])) for line in lines if line[5] == "queued"]


class Check:
    """Compares what a daemon has with self.ledgers. Who inherits it says what it has: jobs(vm),
    status(vm, tag), result(vm, tag), which waits for it, and queue()."""

    def check(self, drain=False):
        queue = self.queue()
        for vm, ledger in self.ledgers.items():
            there = set(self.jobs(vm))
            if lost := ledger.accepted - there:
                raise Failed(f"vm{vm} has lost {sorted(lost)[:5]}, accepted before the kill")
            if strange := there - ledger.tried:
                raise Failed(f"vm{vm} has {sorted(strange)[:5]}, which nobody submitted")
            self.check_batches(vm, ledger, there)
            place = {tag: i for i, (tag, _) in enumerate(ledger.order)}
            levels = dict(ledger.order)
            for number, tag, level in queue:
                if number == vm and levels.get(tag, level) != level:
                    raise Failed(f"vm{vm}: {tag} has priority {level}, not {levels[tag]}")
            for priority in range(3):
                tags = [tag for number, tag, level in queue
                        if (number, level) == (vm, priority) and tag in place]
                if tags != sorted(tags, key=place.get):
                    raise Failed(f"vm{vm}: the order in priority {priority} is {tags[:20]}")
            self.check_results(vm, ledger, there, drain)

    def check_batches(self, vm, ledger, there):
        for tags in ledger.batches:
            if 0 < len(there.intersection(tags)) < len(tags):
                raise Failed(f"vm{vm}: of the batch {tags} only a part is there")
        ledger.batches.clear()

    def check_results(self, vm, ledger, there, drain):
        for tag in there:
            status = self.status(vm, tag)
            ledger.number(tag, status["job"])
            if status["state"] == "new":
                if tag in ledger.accepted:
                    raise Failed(f"vm{vm}: {tag} was accepted and has lost its command")
            elif drain or status["state"] not in ("queued", "running"):
                ledger.result(tag, self.result(vm, tag))
            elif tag in ledger.results:
                raise Failed(f"vm{vm}: {tag} had a result and is {status['state']} again")
        numbers = list(ledger.numbers.values())
        if len(set(numbers)) != len(numbers):
            raise Failed(f"vm{vm}: a job's number was used twice")


# --- the daemon ----------------------------------------------------------------------------------

class Campaign(Check):
    def __init__(self, build, root, state=None, extra=""):
        self.build, self.root = Path(build), Path(root)
        self.mount, self.state = self.root / "mnt", Path(state) if state else self.root / "state"
        self.log_path, self.config = self.root / "log", self.root / "vgpufs.conf"
        self.mount.mkdir()
        self.state.mkdir(exist_ok=True)
        self.config.write_text(
            f"[vgpufs]\nmountpoint = {self.mount}\nstate_dir = {self.state}\nvms = 1-{VMS}\n"
            f"log_jobs = no\n{extra}\n[defaults]\nmax_queued = 100000\nmax_jobs = 1000000\n"
            f"retain_jobs = 1000000\nuid_base = 0\n"
            + "".join(f"[pool {pool}]\nbackend = cpu\nmax_queued = 1000000\n"
                      f"executor = \"{self.build}/vgpufs/executor/vgpu-executor\"\n"
                      for pool in "AB"))
        self.ledgers = {vm: Ledger() for vm in range(1, VMS + 1)}
        self.first = {vm: 0 for vm in self.ledgers}
        self.daemon = None
        self.kills = self.rounds = 0
        self.points = collections.Counter()

    def start(self, kill_point=None, preload=None):
        environment = dict(os.environ)
        if kill_point:
            environment["VGPUFS_KILL_POINT"] = kill_point
        if preload:
            environment.update(preload)
        log = open(self.log_path, "ab")
        self.daemon = subprocess.Popen(
            [self.build / "vgpufs" / "vgpufs", "-f", "-c", self.config], env=environment,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.daemon.poll() is not None:
                return False  # it was killed at its start
            try:
                os.stat(self.mount / "stats")
                return True
            except OSError:
                time.sleep(0.01)
        raise Failed("the daemon does not start:\n" + self.log_tail())

    def log_tail(self):
        return self.log_path.read_text(errors="replace")[-3000:]

    def kill(self, number=signal.SIGKILL):
        if self.daemon.poll() is None:
            self.daemon.send_signal(number)
        status = self.daemon.wait(60)
        if number != signal.SIGKILL or status not in (-signal.SIGKILL,):
            if status != 0:
                raise Failed(f"the daemon ended with status {status}:\n" + self.log_tail())
        self.kills += number == signal.SIGKILL

    # Rounds

    def clients_start(self, rng, held):
        clients = []
        for vm in self.ledgers:
            path = self.root / f"ledger-{vm}"
            path.write_text("")
            seed, again = rng.random(), self.again(vm, rng)
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    client(self.mount, vm, path, seed, self.first[vm], again, held)
                    status = 0
                finally:
                    os._exit(status)
            clients.append((vm, path, pid))
        return clients

    def clients_end(self, clients):
        deadline = time.monotonic() + 120
        for vm, path, pid in clients:
            while True:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    break
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    raise Failed(f"the client of vm{vm} hangs")
                time.sleep(0.005)
            if status:
                raise Failed(f"the client of vm{vm} ended with status {status}")
            ledger = self.ledgers[vm]
            ledger.take(path)
            self.first[vm] = max([self.first[vm]] + [int(tag.split("x")[1]) + 1
                                                     for tag in ledger.tried])

    def again(self, vm, rng):
        """What the client submits once more: of the last round, and that nobody has removed."""
        lines = sorted(self.ledgers[vm].lines.items())
        return rng.sample(lines, min(AGAIN, len(lines)))

    def hold(self, verb):
        """Holds or releases the pools. False if the daemon died of it, which it may."""
        try:
            for pool in "AB":
                (self.mount / "ctl").write_text(f"{verb} {pool}\n")
            return True
        except OSError:
            return False

    def round(self, rng, point=None, wait=0.3):
        """Starts, lets the clients work, kills; starts again and checks. In each third round the
        pools are held until then."""
        self.rounds += 1
        name = f"{point}:{rng.randrange(1, 60)}" if point else None
        held = False
        if self.start(name):
            held = self.rounds % 3 == 0 and point not in ENDING and self.hold("hold")
            clients = self.clients_start(rng, held)
            try:
                self.daemon.wait(wait * (0.2 + rng.random()) * (4 if point else 1))
                self.points[point] += 1
            except subprocess.TimeoutExpired:
                pass
            self.kill()
            self.clients_end(clients)
        else:
            self.points[point] += 1
            self.kill()
        if not self.start():
            raise Failed("the daemon ended at its start:\n" + self.log_tail())
        if held and (self.mount / "stats").read_text().count(" state=held ") != 2:
            raise Failed("the pools were held, and are not")
        self.check()
        if not self.hold("release"):
            raise Failed("the pools cannot be released:\n" + self.log_tail())
        self.kill()

    # What the ledgers are compared with

    def jobs(self, vm):
        return os.listdir(self.mount / f"vm{vm}" / "jobs")

    def status(self, vm, tag):
        text = (self.mount / f"vm{vm}" / "jobs" / tag / "status").read_text()
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def result(self, vm, tag):
        return (self.mount / f"vm{vm}" / "jobs" / tag / "result").read_text()

    def queue(self):
        return queued((self.mount / "queue").read_text())

    def forget(self, keep):
        """What was checked goes, as clients do it, so that the tree does not grow without end."""
        for vm, ledger in self.ledgers.items():
            ended = [tag for tag in self.jobs(vm)
                     if self.status(vm, tag)["state"] not in ("queued", "running")]
            for tag in ended[keep:]:
                os.rmdir(self.mount / f"vm{vm}" / "jobs" / tag)
                ledger.accepted.discard(tag)
                ledger.lines.pop(tag, None)
            folder = os.open(self.mount / f"vm{vm}" / "jobs", os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
            ledger.order = [(tag, level) for tag, level in ledger.order if tag in ledger.accepted]

    def end(self):
        """All that is queued ends, and a clean stop changes nothing."""
        self.start()
        self.check(drain=True)
        self.kill(signal.SIGTERM)
        self.start()
        self.check(drain=True)
        self.kill(signal.SIGTERM)

    def submissions(self):
        return sum(len(ledger.tried) for ledger in self.ledgers.values())

    def close(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        subprocess.run(["umount", "-l", self.mount] if os.geteuid() == 0 else
                       ["fusermount3", "-u", "-z", self.mount], stderr=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description="Kills vgpufs while clients submit; checks it.")
    parser.add_argument("build", help="build folder")
    parser.add_argument("--kills", type=int, default=40, help="at least so many")
    parser.add_argument("--submissions", type=int, default=0, help="at least so many")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--kill-points", action="store_true",
                        help="die at every named place too (a build with -Dkill_points=true)")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    rng = random.Random(seed)
    root = Path(tempfile.mkdtemp(prefix="vgpufs-campaign-"))
    root.chmod(0o755)
    campaign = Campaign(options.build, root)
    started = time.monotonic()
    try:
        while campaign.kills < options.kills or campaign.submissions() < options.submissions:
            point = None
            if options.kill_points and campaign.rounds % 2:
                point = KILL_POINTS[campaign.rounds // 2 % len(KILL_POINTS)]
            campaign.round(rng, point)
            if campaign.rounds % 10 == 0:
                campaign.start()
                campaign.forget(keep=20)
                campaign.kill()
                print(f"{campaign.kills} kills, {campaign.submissions()} submissions, "
                      f"{time.monotonic() - started:.0f} s", flush=True)
        campaign.end()
    except Failed as failure:
        print(f"campaign: {failure}\nseed {seed}; state and log are left in {root}",
              file=sys.stderr)
        campaign.close()
        return 1
    results = sum(len(ledger.results) for ledger in campaign.ledgers.values())
    print(f"ledger clean: {campaign.kills} kills, {campaign.submissions()} submissions, {results} "
          f"results, {time.monotonic() - started:.0f} s; died at "
          + ", ".join(f"{name} {count}" for name, count in campaign.points.items() if name)
          + f"; seed {seed}")
    campaign.close()
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
