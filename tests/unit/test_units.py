#!/usr/bin/python3
"""The units of config/ as systemd understands them: no mistakes, the sandbox is rated OK or better,
and holds what it promises in its comments. Needs Debian's package systemd, but no running one.

test_units.py BUILD: with BUILD/config/*.service.
"""
import configparser
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent.parent
BUILD = Path(sys.argv[1]).resolve()
PROGRAMS = {
    "vgpufs": "vgpufs/vgpufs",
    "vgpufs-mount": "vgpufs/mount/vgpufs-mount",
    "vgpu-identity": "guest-tools/vgpu-identity",
}
UNITS = ["vgpufs.service", "vgpufs-mount.service"]
GUEST_UNITS = ["mnt-vgpu.mount", "vgpu-identity.service"]
HOLDER = 52  # root, which mounts where the host sees it: nothing with a mount namespace can be set
OK = 50  # systemd-analyze's exposure of 0 to 100; OK is below 50


def analyze(*arguments):
    done = subprocess.run(["systemd-analyze", *map(str, arguments)], text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=120)
    return done.returncode, done.stdout


class Several(configparser.RawConfigParser):
    """A unit, in which a key may stand more than once."""
    optionxform = staticmethod(str)

    def __init__(self, path):
        super().__init__(strict=False, delimiters=("=",), comment_prefixes=("#",))
        self.read(path)

    def words(self, key):
        return self.get("Service", key).split()


class Units(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """Copies in which the programs are where they were built: they must exist."""
        cls.folder = Path(tempfile.mkdtemp(prefix="vgpufs-units-"))
        for name in UNITS + GUEST_UNITS:
            path = BUILD / "config" / name if name in UNITS else SOURCE / "config/guest" / name
            text = re.sub(r"^(ExecStart=)\S*/([a-z-]+)",
                          lambda match: match[1] + str(BUILD / PROGRAMS[match[2]]),
                          path.read_text(), flags=re.M)
            (cls.folder / name).write_text(text)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def test_no_mistakes(self):
        status, output = analyze("verify", "--man=no", *(self.folder / name
                                                         for name in UNITS + GUEST_UNITS))
        self.assertEqual((status, output), (0, ""))

    def test_verify_finds_mistakes(self):
        """What the test above relies on."""
        wrong = self.folder / "wrong.service"
        wrong.write_text("[Service]\nType=oneshot\nExecStart=/nonexistent\nProtectSistem=yes\n")
        status, output = analyze("verify", "--man=no", wrong)
        wrong.unlink()
        self.assertIn("ProtectSistem", output)
        self.assertNotEqual(status, 0)

    def test_rating(self):
        for name, most in (("vgpufs.service", OK), ("vgpufs-mount.service", HOLDER)):
            status, output = analyze("security", "--offline=yes", "--no-pager",
                                     f"--threshold={most}", self.folder / name)
            self.assertEqual(status, 0, output)
            if most == OK:
                self.assertRegex(output, rf"exposure level for {name}: \S+ (OK|SAFE|PERFECT)")

    def test_the_daemon_has_no_privilege(self):
        unit = Several(BUILD / "config/vgpufs.service")
        self.assertEqual(unit.words("User"), ["vgpufs"])
        # For the executors' user; given up before a guest is heard (mount/test_user.py).
        for key in ("CapabilityBoundingSet", "AmbientCapabilities"):
            self.assertEqual(unit.words(key), ["CAP_SETUID", "CAP_SETGID"])

    def test_the_watchdog(self):
        """Who is not fed is started again; a program that cannot feed is not watched."""
        unit = Several(BUILD / "config/vgpufs.service")
        expected = {"notify": ["60s"], "exec": ["0"]}[unit.get("Service", "Type")]
        self.assertEqual(unit.words("WatchdogSec"), expected)
        self.assertEqual(unit.words("Restart"), ["on-failure"])

    def test_what_must_not_be_used(self):
        """Each of these has its reason in a comment of the unit, and is nowhere else."""
        text = (BUILD / "config/vgpufs.service").read_text()
        unit = Several(BUILD / "config/vgpufs.service")
        forbidden = ["ProtectProc", "ProcSubset", "PrivateDevices", "MemoryDenyWriteExecute",
                     "RestrictNamespaces", "ProtectHostname", "ProtectKernelTunables",
                     "ProtectKernelLogs", "ProtectControlGroups"]
        for key in forbidden:
            self.assertFalse(unit.has_option("Service", key), key)
            self.assertRegex(text, rf"(?m)^# ?.*\b{key}=", key)
        self.assertEqual(unit.get("Service", "ProtectSystem"), "full")
        self.assertIn("@service_type@", (SOURCE / "config/vgpufs.service.in").read_text())

    def test_the_holder_mounts_where_the_host_sees_it(self):
        """No setting that gives the unit a mount namespace: systemd.exec(5)."""
        unit = Several(BUILD / "config/vgpufs-mount.service")
        for key in unit["Service"]:
            self.assertNotRegex(key, r"^(Protect|Private|ReadOnly|ReadWrite|Inaccessible|Bind|Temp"
                                     r"oraryFile|Root|Mount|DynamicUser|Exec(Paths|Search))", key)

    def test_order_of_start(self):
        """Mounted before the NFS server exports it; the daemon ends with its mount."""
        for name in UNITS:
            text = (BUILD / "config" / name).read_text()
            self.assertRegex(text, r"(?m)^Before=nfs-server.service$", name)
        daemon = (BUILD / "config/vgpufs.service").read_text()
        self.assertRegex(daemon, r"(?m)^Requires=vgpufs-mount.service$")
        self.assertRegex(daemon, r"(?m)^After=vgpufs-mount.service\b")

    def test_both_name_the_same_socket_and_mountpoint(self):
        holder = Several(BUILD / "config/vgpufs-mount.service").words("ExecStart")
        daemon = Several(BUILD / "config/vgpufs.service").words("ExecStart")
        socket = [word for word in holder if word.startswith("--socket=")][0].split("=")[1]
        self.assertIn(f"--mount-socket={socket}", daemon)
        configured = Several(SOURCE / "config/vgpufs.conf").get("vgpufs", "mountpoint")
        self.assertEqual(holder[-1], configured)
        mount = Several(self.folder / "mnt-vgpu.mount")
        self.assertEqual(mount.get("Mount", "Where"), configured)

    def made(self):
        """The root folder of a machine that systemd-sysusers and systemd-tmpfiles have seen to."""
        root = Path(tempfile.mkdtemp(dir=self.folder))
        (root / "etc").mkdir()
        for command, file in (("systemd-sysusers", "vgpufs.sysusers"),
                              ("systemd-tmpfiles --create", "vgpufs.tmpfiles")):
            done = subprocess.run([*command.split(), f"--root={root}", SOURCE / "config" / file],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True)
            self.assertEqual(done.returncode, 0, done.stdout)
        return root

    def test_the_users_are_made(self):
        """Those that the unit and the configuration name; the executors' has a home of its own."""
        root = self.made()
        users = (root / "etc/passwd").read_text()
        self.assertRegex(users, r"(?m)^vgpufs:.*:/var/lib/vgpufs:\S*nologin$")
        executor = Several(SOURCE / "config/vgpufs.conf").get("vgpufs", "executor_user")
        video = re.search(r"(?m)^video:.*:(\S*)$", (root / "etc/group").read_text())
        self.assertEqual(set(video[1].split(",")), {"vgpufs", executor})
        entry = re.search(rf"(?m)^{executor}:x:(\d+):\d+:[^:]*:([^:]*):\S*nologin$", users)
        home = (root / entry[2].lstrip("/")).stat()
        self.assertEqual((home.st_uid, home.st_mode & 0o777), (int(entry[1]), 0o700))

    def test_options_of_the_guests_mount(self):
        options = Several(self.folder / "mnt-vgpu.mount").get("Mount", "Options")
        self.assertEqual(set(options.split(",")),
                         {"vers=4.2", "hard", "sync", "lookupcache=positive"})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
