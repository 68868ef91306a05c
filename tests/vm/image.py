#!/usr/bin/python3
"""The disk that the test rig's machines boot, and their kernels: `image.py FOLDER` makes them.

Everything is Debian's, from wherever this machine's own apt gets its packages. What was made is
kept in FOLDER/<hash of the recipe>, so the next run finds it; the recipe is this file.
"""
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SUITE = "bookworm"
# What runs in the machines: the NFS servers and clients, and what the daemon is linked to.
PACKAGES = """
    nfs-kernel-server nfs-common rpcbind nfs-ganesha nfs-ganesha-vfs
    fuse3 libfuse3-3 libinih1 libsqlite3-0 libjansson4 libsystemd0 libopenblas0-pthread
    libfftw3-double3 libfftw3-single3 libnettle8 libseccomp2 libncursesw6
    iproute2 iputils-ping kmod procps netbase util-linux mount e2fsprogs python3-minimal systemd
""".split()
# Name of a kernel in the rig -> the package that depends on its newest version.
KERNELS = {"6.1": "linux-image-cloud-amd64", "6.12": "linux-image-6.12-cloud-amd64"}
# What the initial RAM disk loads, in this order: the disks.
BOOT_MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev",
                "virtio_pci", "virtio_blk"]
IMAGE_MIB = 1200
UNWANTED = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*",
            "/var/cache/apt/*"]

# The second disk is made for each run: its `init` decides what the machine is.
INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for module in %s; do
    test -f /modules/$module.ko && insmod /modules/$module.ko
done
mount -t ext4 /dev/vda /root || { echo "no root disk"; poweroff -f; }
mkdir -p /root/payload
mount -t ext4 -o ro /dev/vdb /root/payload || { echo "no second disk"; poweroff -f; }
mount --move /dev /root/dev
umount /proc
exec switch_root /root /payload/init
""" % " ".join(BOOT_MODULES)


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def recipe_hash():
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def run(*command, **kwargs):
    """A command to its end; its output is shown when it fails."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)
    if done.returncode != 0:
        sys.stderr.buffer.write(done.stdout[-8000:])
        raise SystemExit(f"image.py: {command[0]} failed with {done.returncode}: see above")
    return done.stdout.decode("utf-8", "replace")


# --- this machine's way to Debian ----------------------------------------------------------------

def apt_sources():
    """This machine's own lists of sources that have the suite."""
    folder = Path("/etc/apt")
    lists = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.list")),
             *sorted((folder / "sources.list.d").glob("*.sources"))]
    found = [path for path in lists if path.is_file() and SUITE in path.read_text()]
    if not found:
        raise SystemExit(f"image.py: no source of {SUITE} in /etc/apt: the machines' disk is made "
                         f"of its packages")
    return found


def apt_options():
    """This machine's own way to its sources: proxies, how often to try, which dates to believe."""
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check-")
    return [f"--aptopt={line}" for line in run("apt-config", "dump").splitlines()
            if line.startswith(wanted) and not line.endswith(' "";')]


# --- the pieces ----------------------------------------------------------------------------------

def make_root(root):
    excluded = [f"--dpkgopt=path-exclude={path}" for path in UNWANTED]
    run("mmdebstrap", "--variant=minbase", "--mode=root", f"--include={','.join(PACKAGES)}",
        *apt_options(), *excluded, SUITE, root, *apt_sources())
    # nfs-ganesha and fusermount3 read it.
    (root / "etc/mtab").unlink(missing_ok=True)
    (root / "etc/mtab").symlink_to("/proc/self/mounts")


def kernel_package(meta):
    """The package with the newest kernel: what the metapackage depends on."""
    depends = [line.split()[1] for line in run("apt-cache", "depends", meta).splitlines()
               if line.split()[:1] == ["Depends:"]]
    if len(depends) != 1:
        raise SystemExit(f"image.py: {meta} depends on {depends}, not on one kernel: "
                         "apt-get update?")
    return depends[0]


def unpack_kernel(meta, scratch):
    """Fetches a kernel without installing it; gives its folder and its release."""
    folder = scratch / meta
    folder.mkdir()
    run("apt-get", "download", "-q", kernel_package(meta), cwd=folder)
    package = next(folder.glob("*.deb"))
    run("dpkg-deb", "-x", package, folder)
    modules = next((folder / "lib/modules").iterdir())
    return folder, modules.name


def make_initrd(modules, path, scratch):
    """Busybox and the disks' drivers: what finds the root disk."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    for name in ("bin", "dev", "proc", "root", "modules"):
        (folder / name).mkdir()
    shutil.copy("/bin/busybox", folder / "bin")
    (folder / "init").write_text(INIT)
    (folder / "init").chmod(0o755)
    found = {file.name.split(".")[0]: file for file in modules.rglob("*.ko*")}
    for name in BOOT_MODULES:
        if name not in found:
            continue  # built into this kernel
        if found[name].suffix == ".xz":
            with open(folder / "modules" / f"{name}.ko", "wb") as file:
                subprocess.run(["xz", "-dc", found[name]], stdout=file, check=True)
        else:
            shutil.copy(found[name], folder / "modules")
    names = "\n".join(str(file.relative_to(folder)) for file in folder.rglob("*"))
    with open(path, "wb") as file:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), stdout=file,
                       cwd=folder, check=True)


def make(folder, scratch):
    root = scratch / "root"
    say("fetching Debian for the machines (about 45 s)")
    make_root(root)
    for name, meta in KERNELS.items():
        say(f"fetching kernel {name}")
        unpacked, release = unpack_kernel(meta, scratch)
        (root / "lib/modules").mkdir(exist_ok=True)
        shutil.copytree(unpacked / "lib/modules" / release, root / "lib/modules" / release,
                        symlinks=True)
        run("chroot", root, "depmod", release)
        shutil.copy(unpacked / "boot" / f"vmlinuz-{release}", folder / f"vmlinuz-{name}")
        make_initrd(unpacked / "lib/modules" / release, folder / f"initrd-{name}", scratch)
    say("making the machines' disk")
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1",
        "-d", root, folder / "root.img", f"{IMAGE_MIB}M")


# --- the cache -----------------------------------------------------------------------------------

@contextlib.contextmanager
def locked(folder):
    """One process at a time makes the image; the others wait and find it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find(cache):
    """The folder with root.img, vmlinuz-* and initrd-*; made if it is not there yet."""
    cache = Path(cache)
    if os.geteuid() != 0:
        raise SystemExit("image.py: the machines' disk is made by root: run this as root")
    with locked(cache):
        made = cache / recipe_hash()
        if not made.exists():
            started = time.monotonic()
            with tempfile.TemporaryDirectory(dir=cache, prefix="scratch-") as scratch:
                folder = Path(scratch) / "made"
                folder.mkdir()
                make(folder, Path(scratch))
                folder.rename(made)
            say(f"the machines' disk is ready after {time.monotonic() - started:.0f} s")
    return made


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: image.py FOLDER")
    print(find(sys.argv[1]))
