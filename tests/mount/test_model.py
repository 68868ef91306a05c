"""Sequences of operations on a live mount, against a model of what the contract says of them.

Hypothesis invents the sequences, and shortens one that fails. The pool is held while a sequence
runs, so that the model knows what is queued; a rule releases it and waits for all of it.
VGPUFS_MODEL_EXAMPLES says how many sequences (`./dev fuzz model`).
"""
import itertools
import os
import signal

import hypothesis
import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from harness import IS_ROOT, errno_of, parse_result, read_file, unmount, wait_until, write_file
from nfs_server import NfsServer

EXAMPLES = int(os.environ.get("VGPUFS_MODEL_EXAMPLES", "40"))
MAX_QUEUED = 5
MAX_JOBS = 6
QUOTA = 1 << 16

CONFIG = {"defaults": {"max_queued": str(MAX_QUEUED), "max_jobs": str(MAX_JOBS),
                       "data_quota": str(QUOTA), "retain_jobs": "100"}}

tags = st.sampled_from(["t0", "t1", "t2", "t3", "t4", "t5", "t6", "a.b-c_d"])
requests = st.sampled_from(["r0", "r1", "r2"])
any_tags = st.one_of(tags, requests)
names = st.sampled_from(["x", "y", "z.f32", "with blank", "\u00fc", "-", "..."])
# Same and other lines for one tag; commands that are refused have their errno.
commands = st.sampled_from(["NOP", "SLEEP ms=1", "VECTOR_ADD n=8 seed=1"])
refused = st.sampled_from([
    "BOGUS", "NOP x=1", "SLEEP ms=-1", "NOP tag=all", "NOP tag=1", "NOP tag=a/b", 'NOP tag="', "nop",
    "VECTOR_ADD a=../x b=y out=z", "NOP timeout=0", "A:9:1:NOP", "NOP\0", "A:1:"])


class Job:
    def __init__(self, line):
        self.line = line  # None: a directory without a command
        self.pool, self.priority = "A", 1
        self.state = "new" if line is None else "queued"
        self.result = None
        self.read = False


class Machine(RuleBasedStateMachine):
    daemon = None
    numbers = None
    echo = staticmethod(write_file)  # as an NFS client, where there can be one

    @initialize()
    def begin(self):
        self.vm = self.daemon.vm(next(self.numbers))
        self.jobs = {}     # tag -> Job, in the order of acceptance
        self.order = []    # tags that are queued
        self.newest = "idle"
        self.files = {}
        self.pool, self.priority = "A", 1
        self.requested = None  # the Job of the last request
        self.daemon.ctl("hold A"), self.daemon.ctl("hold B")

    def teardown(self):
        self.daemon.ctl(f"purge vm{self.vm.number}")
        self.daemon.ctl(f"release vm{self.vm.number}")

    def queued(self):
        """The tags of its queued jobs by their place in each pool, as `queue` has them."""
        lines = [line for line in self.daemon.queue() if line.vm == f"vm{self.vm.number}"]
        return {pool: [line.tag for line in lines if line.pool == pool] for pool in "AB"}

    def expected_queue(self):
        """By priority, and inside one by acceptance."""
        def key(tag):
            return -self.jobs[tag].priority
        return {pool: sorted((tag for tag in self.order if self.jobs[tag].pool == pool), key=key)
                for pool in "AB"}

    # What the contract says

    def expect_submission(self, tag, line):
        """The errno of a submission of one line with that tag, or None."""
        job = self.jobs.get(tag)
        if job and job.line is not None:
            return None if job.line == line else "EEXIST"
        if len(self.order) >= MAX_QUEUED:
            return "EDQUOT"
        if not job and not self.room():
            return "EDQUOT"
        return None

    def room(self):
        """Ended jobs give way to new ones."""
        return len(self.jobs) < MAX_JOBS or any(job.state == "ended" for job in self.jobs.values())

    def accept(self, tag, line):
        job = self.jobs.get(tag)
        if job and job.line is not None:
            self.newest = tag
            return
        if not job:
            self.jobs[tag] = Job(line)
            self.forget_one()
        else:
            job.line, job.state = line, "queued"
        self.jobs[tag].pool, self.jobs[tag].priority = self.pool, self.priority
        self.order.append(tag)
        self.newest = tag

    def forget_one(self):
        """If there are too many, the real tree has forgotten one that had ended: this one does too."""
        if len(self.jobs) <= MAX_JOBS:
            return
        present = self.vm.jobs()
        gone = [tag for tag in self.jobs if tag not in present]
        assert len(gone) == 1, (gone, present)
        victim = self.jobs.pop(gone[0])
        assert victim.state == "ended", (gone, victim.state)
        if any(job.read and job.state == "ended" for job in self.jobs.values()):
            assert victim.read, "one that was read goes first"

    def refuse(self):
        self.newest = "rejected"

    # What a guest does

    @rule(tag=tags, command=commands)
    def submit(self, tag, command):
        line = f"{command} tag={tag}"
        expected = self.expect_submission(tag, line)
        assert errno_of(self.vm.submit, line) == expected
        if expected:
            self.refuse()
        else:
            self.accept(tag, line)

    @rule(line=refused)
    def submit_nonsense(self, line):
        assert errno_of(self.vm.submit, line) == "EINVAL"
        self.refuse()

    @rule(first=commands, second=refused)
    def submit_half_good_batch(self, first, second):
        """All or none."""
        assert errno_of(self.vm.submit, first, second) == "EINVAL"
        self.refuse()

    @rule(tag=tags)
    def mkdir(self, tag):
        expected = "EEXIST" if tag in self.jobs else None if self.room() else "EDQUOT"
        assert errno_of(os.mkdir, self.vm.job(tag)) == expected
        if not expected:
            self.jobs[tag] = Job(None)
            self.forget_one()

    @rule(tag=tags, command=commands)
    def write_command(self, tag, command):
        job = self.jobs.get(tag)
        outcome = errno_of(write_file, self.vm.job(tag) / "command", command + "\n")
        if not job:
            assert outcome == "ENOENT"
        elif job.line is not None:
            assert outcome == (None if job.line == command else "EEXIST")
            self.newest = tag if outcome is None else "rejected"
        elif len(self.order) >= MAX_QUEUED:
            assert outcome == "EDQUOT"
            job.state = "rejected"
            self.refuse()
        else:
            assert outcome is None
            self.accept(tag, command)

    @rule(tag=tags, line=refused)
    def write_nonsense(self, tag, line):
        job = self.jobs.get(tag)
        outcome = errno_of(write_file, self.vm.job(tag) / "command", line + "\n")
        assert outcome == ("EINVAL" if job else "ENOENT")
        if job:
            self.refuse()
            job.state = "rejected" if job.line is None else job.state

    @rule(tag=any_tags)
    def rmdir(self, tag):
        assert errno_of(os.rmdir, self.vm.job(tag)) == (None if tag in self.jobs else "ENOENT")
        gone = self.jobs.pop(tag, None)
        if gone and self.newest == tag:
            self.newest = "idle"
        if gone:
            gone.state = "gone"
        if gone and gone is self.requested:  # its end shows when it is on disk
            wait_until(lambda: not read_file(self.vm.dir / "response.txt").startswith(b"0:"),
                       what="the end of the request")
        if tag in self.order:
            self.order.remove(tag)

    @rule(tag=any_tags)
    def cancel(self, tag):
        outcome = errno_of(self.vm.ctl, f"cancel {tag}")
        assert outcome == (None if tag in self.jobs else "EINVAL")
        if outcome:
            self.refuse()
        if tag in self.order:
            self.order.remove(tag)
            self.jobs[tag].state = "ended"

    @rule()
    def cancel_all(self):
        self.vm.ctl("cancel all")
        for tag in self.order:
            self.jobs[tag].state = "ended"
        self.order.clear()

    @rule(tag=any_tags)
    def read_result(self, tag):
        job = self.jobs.get(tag)
        if not job or job.state != "ended":
            return
        raw = read_file(self.vm.job(tag) / "result")
        header = parse_result(raw).header
        assert header["tag"] == tag and header["status"] in ("done", "cancelled")
        assert job.result in (None, raw), "its bytes never change"
        job.result, job.read = raw, True

    @rule()
    def run_all(self):
        assert self.queued() == self.expected_queue()
        self.daemon.ctl(f"release vm{self.vm.number}")
        self.daemon.ctl("release A"), self.daemon.ctl("release B")
        for tag in self.order:
            job = self.jobs[tag]
            header = self.vm.job_result(tag).header
            assert header["status"] == "done"
            assert (header["pool"], header["priority"]) == (job.pool, str(job.priority))
            job.state, job.read = "ended", True
        self.order.clear()
        self.daemon.ctl("hold A"), self.daemon.ctl("hold B")

    # What its identity is, and what the administrator does meanwhile

    @rule(pool=st.sampled_from("AB"), priority=st.integers(0, 2))
    def claim(self, pool, priority):
        """Jobs stay where they were queued."""
        write_file(self.vm.dir / "identity", f"{pool}:{priority}:{self.vm.number}\n")
        self.pool, self.priority = pool, priority

    @rule(wrong=st.sampled_from(["Z:1:{}", "A:3:{}", "A:1:{}1", "A:1:", "pool=A", "\0"]))
    def claim_nonsense(self, wrong):
        line = wrong.format(self.vm.number) + "\n"
        assert errno_of(write_file, self.vm.dir / "identity", line) in ("EINVAL", "EACCES")
        self.refuse()

    @rule(held=st.booleans())
    def hold(self, held):
        self.daemon.ctl(f"{'hold' if held else 'release'} vm{self.vm.number}")

    @rule(tag=any_tags, priority=st.integers(0, 2))
    def move(self, tag, priority):
        outcome = errno_of(self.daemon.ctl, f"priority vm{self.vm.number} {tag} {priority}")
        assert outcome == (None if tag in self.order else "EINVAL")
        if not outcome:
            self.jobs[tag].priority = priority

    @rule()
    def reload(self):
        """The same configuration changes nothing; it is in force when the log says so."""
        before = self.daemon.log().count("configuration reloaded")
        self.daemon.kill(signal.SIGHUP)
        wait_until(lambda: self.daemon.log().count("configuration reloaded") > before,
                   what="the reload")

    # What older clients and NFS clients do

    @rule(command=commands, tag=requests)
    def request(self, command, tag):
        """request.txt takes one job at a time."""
        line = f"{command} tag={tag}"
        pending = self.requested is not None and self.requested.state == "queued"
        expected = "EDQUOT" if pending else self.expect_submission(tag, line)
        assert errno_of(write_file, self.vm.dir / "request.txt", line + "\n") == expected
        if expected:
            self.refuse()
        else:
            self.accept(tag, line)
            self.requested = self.jobs[tag]
        answer = read_file(self.vm.dir / "response.txt").decode()
        waits = self.requested is not None and self.requested.state == "queued"
        assert answer.startswith("0:Queued") if waits else answer[:2] in ("1:", "2:"), answer

    @rule(tag=tags, command=commands)
    def submit_by_nfs(self, tag, command):
        line = f"{command} tag={tag}"
        expected = self.expect_submission(tag, line)
        assert errno_of(self.echo, self.vm.dir / "submit", line + "\n") == expected
        if expected:
            self.refuse()
        else:
            self.accept(tag, line)

    @rule()
    def crash(self):
        """All is there again, queued in the same order. Names of directories and files are on disk
        for sure after a fsync."""
        data = os.open(self.vm.data, os.O_RDONLY)
        os.fsync(data)
        os.close(data)
        self.daemon.kill9()
        unmount(self.daemon.mountpoint)
        self.daemon.start()
        assert self.queued() == self.expected_queue()
        for tag, job in self.jobs.items():
            if job.result is not None:
                assert read_file(self.vm.job(tag) / "result") == job.result

    # data/

    @rule(name=names, content=st.binary(max_size=3000))
    def write_data(self, name, content):
        self.vm.write_data(name, content)
        self.files[name] = content

    @rule(name=names, more=st.binary(min_size=1, max_size=100), hole=st.integers(0, 5000))
    def write_beyond(self, name, more, hole):
        if name not in self.files:
            return
        old = self.files[name]
        with open(self.vm.data / name, "r+b") as file:
            file.seek(len(old) + hole)
            file.write(more)
        self.files[name] = old + b"\0" * hole + more
        if sum(map(len, self.files.values())) > QUOTA // 2:
            os.unlink(self.vm.data / name)
            del self.files[name]

    @rule(name=names, size=st.integers(0, 4000))
    def truncate(self, name, size):
        outcome = errno_of(os.truncate, self.vm.data / name, size)
        assert outcome == (None if name in self.files else "ENOENT")
        if not outcome:
            self.files[name] = self.files[name][:size].ljust(size, b"\0")

    @rule(name=names)
    def exceed_quota(self, name):
        if name in self.files:
            assert errno_of(os.truncate, self.vm.data / name, QUOTA + 1) == "EDQUOT"

    @rule(name=names, other=names)
    def rename(self, name, other):
        outcome = errno_of(os.rename, self.vm.data / name, self.vm.data / other)
        assert outcome == (None if name in self.files else "ENOENT")
        if not outcome and name != other:
            self.files[other] = self.files.pop(name)

    @rule(name=names)
    def unlink(self, name):
        outcome = errno_of(os.unlink, self.vm.data / name)
        assert outcome == (None if name in self.files else "ENOENT")
        self.files.pop(name, None)

    @rule(name=st.sampled_from(["x" * 256, "data/../x", "sub/x"]))
    def no_such_name(self, name):
        assert errno_of(self.vm.write_data, name, b"") in ("ENAMETOOLONG", "ENOENT", "ENOTDIR")

    # What can be seen at any time

    @invariant()
    def seen_from_outside(self):
        if not hasattr(self, "vm"):
            return
        status = self.vm.status()
        assert self.vm.jobs() == set(self.jobs)
        assert status[f"vm {self.vm.number}"]["queued"] == str(len(self.order))
        newest = status["newest"]
        if self.newest in ("idle", "rejected"):
            assert newest["state"] == self.newest
            assert self.vm.result().header["status"] == self.newest
        else:
            assert newest["tag"] == self.newest
        for tag, job in self.jobs.items():
            state = self.vm.job_status(tag)["state"]
            allowed = ("done", "cancelled") if job.state == "ended" else (job.state,)
            assert state in allowed, (tag, state)
        assert set(os.listdir(self.vm.data)) == set(self.files)
        for name, content in self.files.items():
            assert read_file(self.vm.data / name) == content
        # The kernel tells of a close() later: until then a removed file is an open one.
        wait_until(lambda: int(self.vm.status()["limits"]["data_bytes"])
                   == sum(map(len, self.files.values())), what="data_bytes")


@pytest.mark.limit(1000)
def test_model(mount, monkeypatch, tmp_path):
    """In CI always the same sequences, and none is shortened: that takes minutes."""
    monkeypatch.setattr(Machine, "daemon", mount)
    long = "VGPUFS_MODEL_EXAMPLES" in os.environ
    phases = [hypothesis.Phase.generate] + long * [hypothesis.Phase.shrink]
    monkeypatch.setattr(Machine, "numbers", itertools.cycle(range(20, 201)))
    server = NfsServer(tmp_path) if IS_ROOT else None
    if server:
        monkeypatch.setattr(Machine, "echo", staticmethod(server.echo))
    try:
        hypothesis.stateful.run_state_machine_as_test(Machine, settings=hypothesis.settings(
            max_examples=EXAMPLES, stateful_step_count=60, deadline=None, database=None,
            derandomize=not long, phases=phases,
            suppress_health_check=list(hypothesis.HealthCheck)))
    finally:
        if server:
            server.stop()
