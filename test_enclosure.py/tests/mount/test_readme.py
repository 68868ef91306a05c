"""The README's sessions, typed into a shell against a real mount, give what the README shows.

A block is a session when its fence says so: ```console session. Lines that begin with `$ ` are
typed, the lines below each are what it prints. Numbers, and quoted names of devices, may differ.
"""
import re
import subprocess

import pytest

from harness import FACTOR, SOURCE, VGPUFS, program_path, quoted

README = (SOURCE / "README.md")
MOUNTPOINT = "/mnt/vgpu"
BLOCK = re.compile(r"^```console session\n(.*?)^```$", re.M | re.S)
END = "---end-of-command---"


def sessions():
    """[[(command, expected output)]]: a list of steps for each block."""
    found = []
    for block in BLOCK.findall(README.read_text() if README.exists() else ""):
        steps = []
        for line in block.splitlines(keepends=True):
            if line.startswith(("$ ", "# ")):
                steps.append([line[2:], ""])
            elif line.startswith("> "):
                steps[-1][0] += line[2:]
            else:
                steps[-1][1] += line
        found.append(steps)
    return found


def normalised(text):
    """Numbers and quoted strings are of the machine and the moment; blanks may align."""
    text = re.sub(r'"[^"]*"', '"…"', text)
    text = re.sub(r"(?<![A-Za-z0-9])\d+(\.\d+)?(e[+-]\d+)?", "N", text)  # but vm3 and f32 are names
    return re.sub(r"[ \t]+", " ", text).strip()


def test_configurations(tmp_path):
    """What the README shows as a configuration is one."""
    blocks = re.findall(r"^```ini\n(.*?)^```$", README.read_text(), re.M | re.S)
    assert blocks
    for block in blocks:
        (tmp_path / "readme.conf").write_text(block)
        # What it finds on this machine, in which nothing of the README is set up, does not matter.
        done = subprocess.run([VGPUFS, "-c", tmp_path / "readme.conf", "--check"], text=True,
                              stdout=subprocess.PIPE)
        assert "no mistakes" in done.stdout


def test_files_that_it_names():
    """What is to be copied or edited is in the repository."""
    names = set(re.findall(r"`((?:config|tests|vgpufs|man)/[\w./-]*)`", README.read_text()))
    assert {"config/guest/mnt-vgpu.mount", "config/guest/60-vgpu.rules"} <= names
    missing = [name for name in names if not (SOURCE / name).exists()]
    assert not missing


def test_mount_options_for_guests():
    """README, manual and mount unit say the same."""
    unit = (SOURCE / "config/guest/mnt-vgpu.mount").read_text()
    options = re.search(r"^Options=(.*)", unit, re.M)[1]
    for name in ("README.md", "man/vgpufs.7"):
        said = re.findall(r"^.*mount -t nfs -o (\S+)", (SOURCE / name).read_text(), re.M)
        assert set(said) <= {options}, name
    assert options in README.read_text()


def test_there_is_a_session():
    assert sessions(), "README.md has no ```console session block"


@pytest.mark.parametrize("number", range(len(sessions())))
def test_session(vgpufs, number):
    daemon = vgpufs({"vgpufs": {"vms": "1-10"}})
    steps = sessions()[number]
    # One shell for the whole block, as a person types it; sudo adds nothing for whom it may be.
    script = ["sudo() { \"$@\"; }", f"cd {quoted(daemon.mountpoint)}"]
    for command, _ in steps:
        script.append(command.replace(MOUNTPOINT, str(daemon.mountpoint)))
        script.append(f"printf '%s\\n' '' {END}")
    done = subprocess.run(["bash"], input="\n".join(script) + "\n", text=True, timeout=50 * FACTOR,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=dict(daemon.environment(), PATH=program_path()))
    outputs = done.stdout.split(END + "\n")[:-1]
    assert len(outputs) == len(steps), done.stdout
    for (command, expected), output in zip(steps, outputs):
        output = output.replace(str(daemon.mountpoint), MOUNTPOINT)
        assert normalised(output) == normalised(expected), f"$ {command}{output}"
