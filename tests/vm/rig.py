"""Three machines as a site would have them: a host with vgpufs and an NFS server, and two guests,
each with a link of its own to the host. Guest N mounts by NFS and is VM N, 3 or 4.
"""
import collections
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import image
from machine import Machine, ScriptError, last_traffic

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
sys.path.insert(0, str(SOURCE / "tests" / "mount"))
from harness import parse_fields, parse_records, parse_result  # noqa: E402

BUILD = Path(os.environ.get("VGPUFS_BUILD", "VGPUFS_BUILD-is-not-set"))
# Where the machines' disk is kept: `./dev clean` knows build-*/.
CACHE = Path(os.environ.get("VGPUFS_VM_CACHE", SOURCE / "build-vm"))

PROGRAMS = ["vgpufs/vgpufs", "vgpufs/mount/vgpufs-mount", "vgpufs/executor/vgpu-executor",
            "vgpufs/ctl/vgpuctl", "guest-tools/vgpu-run", "guest-tools/vgpu-identity"]
SCRIPTS = ["agent.py", "length_executor.py", "guest.py", "raw_nfs.py"]
HOST_MEMORY, GUEST_MEMORY = 1536, 768
GUESTS = (3, 4)
MOUNT = "/mnt/vgpu"
LOG = "/run/vgpufs.log"
EXPORTS = "/etc/exports.d/vgpufs.exports"

# Pool L's executor makes a result of a chosen length after a chosen time: see length_executor.py.
CONFIG = {
    "vgpufs": {"mountpoint": MOUNT, "state_dir": "/var/lib/vgpufs", "vms": "3-5",
               "stats_log_interval": "0", "stop_timeout": "1s"},
    "pool A": {"backend": "cpu", "executor": "/payload/bin/vgpu-executor"},
    "pool B": {"backend": "cpu", "executor": "/payload/bin/vgpu-executor"},
    "pool L": {"executor": "/usr/bin/python3 /payload/length_executor.py",
               "max_run": "3600s"},
    "pool F": {"executor": "/usr/bin/python3 /payload/length_executor.py", "max_queued": "3"},
    "vm 3": {"address": "10.0.3.2"},
    "vm 4": {"address": "10.0.4.2", "pools": "A B L", "max_priority": "1", "data_quota": "8M"},
}

STOPPING = ("pid=$(cat /run/vgpufs.pid); kill $pid; while kill -0 $pid 2>/dev/null; "
            "do sleep 0.1; done")

# One record of the page that stands for a vGPU stub's registers.
REGISTERS = struct.Struct("<8xIII")


def guest_json(guest, *words, timeout=120, environment=""):
    """What a function of guest.py gives back there."""
    command = " ".join(map(str, words))
    return json.loads(guest.sh(f"{environment} /payload/guest.py {command}", timeout))


def make_payload(folder, more=()):
    """The second disk: this build's programs and the rig's own scripts; `more` files beside."""
    tree = folder / "payload"
    (tree / "bin").mkdir(parents=True)
    for program in PROGRAMS:
        subprocess.run(["strip", "-o", tree / "bin" / Path(program).name, BUILD / program],
                       check=True)
    for script in SCRIPTS:
        shutil.copy(HERE / script, tree)
    for path in more:
        shutil.copy(path, tree)
    shutil.copy(HERE / "init.sh", tree / "init")
    (tree / "init").chmod(0o755)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree,
                    folder / "payload.img", "32M"], check=True, stdout=subprocess.DEVNULL)
    return folder / "payload.img"


def config_text(changes):
    sections = {name: dict(keys) for name, keys in CONFIG.items()}
    for name, keys in changes.items():
        sections.setdefault(name, {}).update(keys)
    lines = []
    for name, keys in sections.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {value}" for key, value in keys.items() if value is not None]
    return "\n".join(lines) + "\n"


# Guest 4 has guest 3's kernel if it has none of its own.
Layout = collections.namedtuple("Layout", "version server host_kernel guest_kernel other_kernel",
                                defaults=("knfsd", "6.1", "6.1", None))


class Guest(Machine):
    """A guest, and what it does most: to submit and to read."""

    def __init__(self, number, *arguments):
        super().__init__(f"guest{number}", *arguments)
        self.number = number
        self.dir = f"{MOUNT}/vm{number}"

    def submit(self, line, **kwargs):
        return self.sh(f"echo '{line}' > {self.dir}/submit", **kwargs)

    def read(self, name="result", timeout=60):
        raw = self.sh(f"cat {self.dir}/{name}", timeout).encode("latin-1")
        assert b"\0" not in raw, f"{name} has NULs: {raw!r}"
        return raw

    def result(self, name="result", timeout=60):
        return parse_result(self.read(name, timeout))

    def job(self, line, timeout=60):
        """Submits, and reads the result: the two commands of every guest."""
        raw = self.sh(f"echo '{line}' > {self.dir}/submit && cat {self.dir}/result", timeout)
        assert "\0" not in raw, f"the result has NULs: {raw!r}"
        return parse_result(raw.encode("latin-1"))

    def status(self):
        # An NFS server is shown it padded with blanks, so that its size does not change.
        return parse_records(re.sub(rb" +\n", b"\n", self.read("status")))

    def newest(self):
        return self.status()["newest"]


class Rig:
    def __init__(self, folder, layout, config=None):
        self.folder, self.layout = folder, layout
        self.changes = config or {}
        made = image.find(CACHE)
        payload = make_payload(folder)
        disks = []
        for path in (made / "root.img", payload):
            disks += ["-drive", f"file={path},if=virtio,format=raw,snapshot=on,cache=unsafe"]
        kernels = {name: (made / f"vmlinuz-{name}", made / f"initrd-{name}")
                   for name in image.KERNELS}
        links = []
        for number in GUESTS:
            links += ["-netdev", f"stream,id=net{number},server=on,addr.type=unix,"
                      f"addr.path={self.link(number)}",
                      "-device", f"virtio-net-pci,netdev=net{number},romfile=",
                      "-object", f"filter-dump,id=dump{number},netdev=net{number},"
                      f"file={folder}/link{number}.pcap,maxlen=512"]
        self.host = Machine("host", folder, disks + links, [f"10.0.{number}.1/24"
                            for number in GUESTS], kernels[layout.host_kernel], HOST_MEMORY)
        self.host.arguments += ["-smp", "2"]
        self.guests = {}
        for number in GUESTS:
            link = ["-netdev", f"stream,id=net,server=off,addr.type=unix,"
                    f"addr.path={self.link(number)}", "-device",
                    "virtio-net-pci,netdev=net,romfile="]
            page = self.page_arguments() if number == 3 else []
            kernel = layout.other_kernel if number == 4 else None
            self.guests[number] = Guest(number, folder, disks + link + page,
                                        [f"10.0.{number}.2/24"],
                                        kernels[kernel or layout.guest_kernel], GUEST_MEMORY)

    def link(self, number):
        return self.folder / f"link{number}"

    def __getitem__(self, number):
        return self.guests[number]

    def machines(self):
        return [self.host, *self.guests.values()]

    # The registers' page of guest 3

    def page_arguments(self):
        self.page = self.folder / "registers"
        self.page.write_bytes(bytes(4096))
        self.write_registers("A", 2, 3)
        return ["-object", f"memory-backend-file,id=page,mem-path={self.page},size=4096,share=on",
                "-device", "ivshmem-plain,memdev=page"]

    def write_registers(self, pool, priority, vm):
        with open(self.page, "r+b") as page:
            page.write(REGISTERS.pack(ord(pool), priority, vm))

    # Life

    def start(self):
        image.say(f"starting three machines: {self.layout}")
        started = time.monotonic()
        self.host.start()
        deadline = time.monotonic() + 30
        while not all(self.link(number).exists() for number in GUESTS):
            assert time.monotonic() < deadline and self.host.process.poll() is None, \
                self.host.evidence()
            time.sleep(0.05)
        for guest in self.guests.values():
            guest.start()
        for machine in self.machines():
            machine.wait_ready()
        image.say(f"booted after {time.monotonic() - started:.0f} s")
        self.start_daemon()
        SERVERS[self.layout.server](self.host)
        self.host.sh("date +%s > /run/nfs.started")
        for guest in self.guests.values():
            self.mount(guest)
        image.say(f"mounted after {time.monotonic() - started:.0f} s")

    def close(self):
        for machine in self.machines():
            machine.end()

    # The daemon

    def configure(self, **changes):
        """Other keys, from the next start of the daemon on: section (blanks as _) = {key: value}."""
        self.changes = {name.replace("_", " "): keys for name, keys in changes.items()}

    def starting(self):
        """The script that starts the daemon, and ends when it has mounted."""
        text = config_text(self.changes)
        return ("modprobe fuse; ulimit -n 65536; mkdir -p /etc/vgpufs /var/lib/vgpufs; "
                f"cat > /etc/vgpufs/vgpufs.conf <<'END'\n{text}END\n"
                f"setsid /payload/bin/vgpufs -f >>{LOG} 2>&1 & echo $! > /run/vgpufs.pid\n"
                f"for i in $(seq 600); do mountpoint -q {MOUNT} && break; "
                "kill -0 $(cat /run/vgpufs.pid) || break; sleep 0.1; done; "
                f"mountpoint -q {MOUNT} || {{ tail {LOG}; exit 1; }}\n")

    def start_daemon(self):
        self.host.sh(self.starting(), timeout=90)

    def kill_daemon(self):
        self.host.sh("kill -9 $(cat /run/vgpufs.pid); while kill -0 $(cat /run/vgpufs.pid) "
                     "2>/dev/null; do sleep 0.05; done")

    def revive_daemon(self):
        """What follows the daemon's sudden end: the dead mount is taken away, a new one exported."""
        self.host.sh(f"umount -l {MOUNT}")
        self.start_daemon()
        self.export_again()

    def stop_daemon(self):
        self.host.sh(STOPPING, timeout=90)

    def restart_daemon(self, **changes):
        """A planned restart, with other keys; the guests go on with their mounts."""
        self.configure(**changes)
        self.host.sh(f"{STOPPING}; mountpoint -q {MOUNT} && umount -l {MOUNT}\n"
                     f"{self.starting()}{EXPORTING[self.layout.server]}", timeout=180)

    def export_again(self):
        """The NFS server takes the mount that is there now."""
        self.host.sh(EXPORTING[self.layout.server], timeout=120)

    def fsid(self):
        """The number of the exported tree in NFS handles."""
        return int(re.search(r"fsid=(\d+)", self.host.sh(f"cat {EXPORTS}"))[1])

    def ctl(self, line):
        self.host.sh(f"echo '{line}' > {MOUNT}/ctl")

    def log(self, last=4000):
        return self.host.run(f"tail -c {last} {LOG}").out

    def stats(self):
        return parse_records(self.host.sh(f"cat {MOUNT}/stats"))

    def wait_stats(self, predicate, timeout=60, what=""):
        """Waits on the host until predicate(stats) is true; gives the stats."""
        deadline = time.monotonic() + timeout
        while True:
            stats = self.stats()
            if predicate(stats):
                return stats
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}\n{stats}"
            time.sleep(0.1)

    def wait_waiting(self, number, least, timeout=120):
        """Waits until the daemon has so many requests of that VM that wait for a result."""
        deadline = time.monotonic() + timeout
        while True:
            status = parse_records(self.host.sh(f"cat {MOUNT}/vm{number}/status"))
            if int(status["limits"]["waiting"]) >= least:
                return
            assert time.monotonic() < deadline, f"fewer than {least} wait: {status}"
            time.sleep(0.1)

    # Mounts

    def mount(self, guest, where=MOUNT, options=""):
        version = self.layout.version
        lock = ",nolock" if version == "3" else ""
        extra = f",{options}" if options else ""
        guest.sh(f"mkdir -p {where}; mount -t nfs -o vers={version},hard,sync,"
                 f"lookupcache=positive{lock}{extra} 10.0.{guest.number}.1:{MOUNT} {where}",
                 timeout=120)
        shown = guest.sh(f"grep ' {where} nfs' /proc/mounts")
        assert f"vers={version}," in shown, shown

    def use_version(self, version):
        """The guests mount with another version of NFS from now on."""
        if version == self.layout.version:
            return
        self.layout = self.layout._replace(version=version)
        for guest in self.guests.values():
            guest.sh(f"umount {MOUNT}", timeout=120)
            self.mount(guest)

    # Evidence

    def trouble(self):
        """What is wrong with the machines, whatever the test was about: a list of lines."""
        looks = [(machine, machine.look()) for machine in self.machines()]
        daemon = self.host.call("kill -0 $(cat /run/vgpufs.pid)")
        found = [f"{machine.name}: {line}" for machine, look in looks
                 for line in machine.trouble(look)]
        if daemon.wait().code != 0:
            found.append("the daemon has ended")
        return found

    def save(self, target):
        """What a failure leaves: logs of daemon and kernels, the links' last traffic."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for machine in self.machines():
            for suffix in ("console", "qemu"):
                path = self.folder / f"{machine.name}.{suffix}"
                if path.exists():
                    shutil.copy(path, target)
            if machine.process and machine.ready.done():
                state = machine.run("dmesg; ps -eLo pid,tid,stat,wchan:32,args; cat /proc/mounts",
                                    timeout=20)
                (target / f"{machine.name}.state").write_text(state.out)
        if self.host.process and self.host.ready.done():
            log = self.host.run(f"cat {LOG} /run/ganesha.log 2>/dev/null; exportfs -v; "
                                f"timeout 5 cat {MOUNT}/stats", timeout=30)
            (target / "vgpufs.log").write_text(log.out)
        for number in GUESTS:
            last_traffic(self.folder / f"link{number}.pcap", target / f"link{number}.pcap")
        image.say(f"logs and traffic are in {target}")


# --- NFS servers ---------------------------------------------------------------------------------

def start_knfsd(host):
    host.sh("modprobe nfsd; sysctl -q fs.leases-enable=0; mount -t nfsd nfsd /proc/fs/nfsd\n"
            f"mkdir -p /etc/exports.d; /payload/bin/vgpufs --exports > {EXPORTS}\n"
            "rpcbind -w; nfsdcld; exportfs -ra; echo 10 > /proc/fs/nfsd/nfsv4gracetime\n"
            "rpc.statd; rpc.mountd; rpc.nfsd --no-udp 32", timeout=120)


GANESHA = """
NFS_CORE_PARAM { Enable_UDP = false; Protocols = 3, 4; mount_path_pseudo = true; }
NFSv4 { Grace_Period = 5; Delegations = false; Minor_Versions = 0, 1, 2; }
MDCACHE { Dir_Chunk = 0; }
EXPORT_DEFAULTS { SecType = sys; Protocols = 3, 4; Transports = TCP; Attr_Expiration_Time = 0; }
EXPORT {
    Export_Id = 77; Path = %(mount)s; Pseudo = %(mount)s; Filesystem_Id = 77.77;
    Access_Type = None; FSAL { Name = VFS; }
    %(clients)s
}
"""


GANESHA_STARTING = (
    "ganesha.nfsd -f /etc/ganesha.conf -L /run/ganesha.log -p /run/ganesha/pid\n"
    "for i in $(seq 300); do rpcinfo -t 127.0.0.1 nfs 3 >/dev/null 2>&1 && exit 0; "
    "sleep 0.2; done; cat /run/ganesha.log; exit 1")


def start_ganesha(host):
    clients = "".join(f"CLIENT {{ Clients = 10.0.{number}.2; Access_Type = RW; Squash = All; "
                      f"Anonymous_Uid = {20000 + number}; Anonymous_Gid = {20000 + number}; }}\n"
                      for number in GUESTS)
    text = GANESHA % {"mount": MOUNT, "clients": clients}
    host.sh(f"cat > /etc/ganesha.conf <<'END'\n{text}END\n"
            "rpcbind -w; rpc.statd; mkdir -p /run/ganesha /var/lib/nfs/ganesha\n"
            f"{GANESHA_STARTING}", timeout=120)


SERVERS = {"knfsd": start_knfsd, "ganesha": start_ganesha}
# A new mount where the old one was.
EXPORTING = {"knfsd": "exportfs -f",
             "ganesha": "pid=$(cat /run/ganesha/pid); kill $pid; while kill -0 $pid 2>/dev/null; "
                        f"do sleep 0.1; done; {GANESHA_STARTING}"}

__all__ = ["BUILD", "Layout", "Rig", "ScriptError", "guest_json", "parse_fields", "parse_records",
           "parse_result"]
