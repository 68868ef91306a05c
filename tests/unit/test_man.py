#!/usr/bin/python3
"""Holds man pages, --help, completions and the tables in the code against each other.

test_man.py SOURCE NAME=FILE...: where the programs and the generated pages are.
"""
import re
import subprocess
import sys
import unittest
from pathlib import Path

SOURCE = Path(sys.argv[1])
BUILT = dict(argument.split("=", 1) for argument in sys.argv[2:])
# program -> its page and the file of its options
PROGRAMS = {
    "vgpufs": ("vgpufs.8", "vgpufs/main.c"),
    "vgpufs-mount": ("vgpufs-mount.8", "vgpufs/mount/main.c"),
    "vgpu-executor": ("vgpu-executor.8", "vgpufs/executor/main.c"),
    "vgpuctl": ("vgpuctl.8", "vgpufs/ctl/main.c"),
    "vgpu-run": ("vgpu-run.1", "guest-tools/vgpu-run.c"),
    "vgpu-identity": ("vgpu-identity.8", "guest-tools/vgpu-identity.c"),
}
# Nobody types the options of what others start.
COMPLETED = sorted(set(PROGRAMS) - {"vgpu-executor", "vgpufs-mount"})
OPTION = re.compile(r"--([a-z][a-z-]*)")
# The names that vgpufs(7) gives to what has a name of its own.
SAMPLES = {"NODE_VM": "vm3", "NODE_JOB": "fft1", "NODE_FILE": "x.f32"}


def code(name):
    return (SOURCE / name).read_text(encoding="utf-8")


def page(name):
    path = Path(BUILT[name]) if name in BUILT else SOURCE / "man" / name
    return path.read_text(encoding="utf-8")


def section(text, heading):
    """What stands below a heading of mdoc, up to the next of its kind or a higher one."""
    kinds = ".Sh" if heading.startswith(".Sh") else ".S[hs]"
    return re.search(rf"^{re.escape(heading)}\n(.*?)(?=^{kinds} |\Z)", text, re.M | re.S)[1]


def run(program, *arguments):
    done = subprocess.run([BUILT[program], *arguments], text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    return done.returncode, done.stdout


def printed(program, *arguments):
    status, output = run(program, *arguments)
    assert status == 0, f"{program} {arguments} ended with status {status}"
    return output


def items(text, macro):
    """The first words behind `.It MACRO`."""
    return re.findall(rf"^\.It {macro} (\S+)", text, re.M)


def page_options(name):
    heads = re.findall(r"^\.It (.*)", page(name), re.M)
    return {option for head in heads for option in re.findall(r"Fl (?:Fl |-)([a-z][a-z-]+)", head)}


def help_options(program):
    return set(OPTION.findall(printed(program, "--help")))


def completed_words(program, *words):
    """What bash offers for the last of the words on the line; "=" is a word of its own."""
    script = """compopt() { :; }; complete() { :; }; source "$1"; function=$2; shift 2
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        "$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\\n' "${COMPREPLY[@]}" """
    file = SOURCE / "config/completion" / program
    done = subprocess.run(["bash", "-c", script, "bash", file, f"_{program.replace('-', '_')}", *words],
                          text=True, stdout=subprocess.PIPE, check=True, timeout=60)
    return set(done.stdout.split())


def exit_codes_of_code(text):
    codes = {0, 1} if "EXIT_FAILURE" in text else {0}
    codes |= {int(code) for code in re.findall(r"^#define EXIT_\w+\s+(\d+)", text, re.M)}
    for enum in re.findall(r"enum \{([^}]*\bEXIT_[^}]*)\}", text):
        value = -1
        for name, given in re.findall(r"(\w+)(?:\s*=\s*(\d+))?\s*,?(?:\s*/\*.*?\*/)?", enum):
            value = int(given) if given else value + 1
            if name.startswith("EXIT_"):
                codes.add(value)
    return codes


def catalogue():
    """{workload: [parameters]} as the executor knows it."""
    workloads = {}
    for line in printed("vgpu-executor", "--list").split("Workloads:\n")[1].splitlines():
        name = re.match(r"  ([A-Z][A-Z0-9_]*)$", line)
        param = re.match(r"      ([a-z_0-9]+)=[A-Z]", line)
        if name:
            params = workloads[name[1]] = []
        elif param:
            params.append(param[1])
    return workloads


def node_table():
    """{path: mode} of the static table of nodes."""
    text = code("vgpufs/nodes.c")
    text = text[text.index("const struct node_type node_types"):]
    text = text[:text.index("\n};")]
    nodes = {}  # kind -> (parent, name, mode)
    for kind, name in re.findall(r'PUBLIC\((\w+), "([^"]+)"', text):
        nodes[kind] = ("NODE_ROOT", name, "0444")
    for kind, parent in re.findall(r"RESULT\((\w+), (\w+)\)", text):
        nodes[kind] = (parent, "result", "0400")
    for kind, parent, name, mode in re.findall(
            r'(?:TEXT|PERSISTENT|JOURNALED|DIRECTORY)\((\w+), (\w+), ("[^"]+"|NULL), (\d+)', text):
        nodes[kind] = (parent, name.strip('"'), mode)
    for kind, parent, mode in re.findall(
            r"\[(\w+)\] = \{.kind = \w+, .parent = (\w+), .mode = (\d+)", text):
        nodes[kind] = (parent, "NULL", mode)
    nodes.pop("NODE_ROOT", None)
    kinds = re.findall(r"NODE_[A-Z_]+", code("vgpufs/nodes.h").split("enum node_kind")[1]
                       .split("}")[0])
    assert set(nodes) == set(kinds) - {"NODE_NONE", "NODE_ROOT", "NODE_KINDS"}, sorted(nodes)

    def path(kind):
        parent, name, _ = nodes[kind]
        name = SAMPLES[kind] if name == "NULL" else name
        return name if parent == "NODE_ROOT" else f"{path(parent)}/{name}"
    return {path(kind): mode for kind, (_, _, mode) in nodes.items()}


def node_page():
    """{path: mode} of the tree that vgpufs(7) draws."""
    tree = re.search(r"^\.Ss The tree\n\.Bd -literal\n(.*?)^\.Ed", page("vgpufs.7"), re.M | re.S)[1]
    found, above = {}, []
    for indent, name, mode in re.findall(r"^( {4,})(\S+) +(\d{4}) ", tree, re.M):
        above = above[:len(indent) // 4 - 1] + [name.rstrip("/")]
        found["/".join(above)] = mode
    return found


class Programs(unittest.TestCase):
    def test_options(self):
        for program, (name, source) in PROGRAMS.items():
            with self.subTest(program=program):
                table = set(re.findall(r'\{"([a-z-]+)", (?:no|required|optional)_argument',
                                       code(source)))
                self.assertTrue(table)
                self.assertEqual(help_options(program), table, "--help and the table of options")
                self.assertEqual(page_options(name), table, f"{name} and the table of options")

    def test_exit_status(self):
        for program, (name, source) in PROGRAMS.items():
            with self.subTest(program=program):
                in_page = {int(code) for code in re.findall(
                    r"^\.It (\d+)$", section(page(name), ".Sh EXIT STATUS"), re.M)}
                self.assertEqual(in_page, exit_codes_of_code(code(source)), f"{name} and the code")
                in_help = re.search(r"Exit status: (.*)", printed(program, "--help"))
                if in_help:
                    numbers = {int(n) for n in re.findall(r"(?:^|, )(\d+) ", in_help[1])}
                    self.assertEqual(numbers, in_page, "--help and the page")
                self.assertIn(run(program, "--no-such-option")[0], in_page - {0})

    def test_completions(self):
        for program in COMPLETED:
            with self.subTest(program=program):
                script = re.sub(r"^\s*#.*", "", code(f"config/completion/{program}"), flags=re.M)
                self.assertEqual(set(OPTION.findall(script)), help_options(program))
        there = {path.name for path in (SOURCE / "config/completion").iterdir()}
        self.assertEqual(there, set(COMPLETED) | {"meson.build"})
        self.assertEqual(set(re.findall(r"'(vgpu[a-z-]*)'", code("config/completion/meson.build"))),
                         set(COMPLETED), "meson.build installs")

    def test_keys_of_vgpu_run(self):
        """Those of the command that is on the line, and not one that is there already."""
        common = {"timeout=", "deadline="}
        for command, keys in catalogue().items():
            self.assertEqual(completed_words("vgpu-run", "vgpu-run", command, ""),
                             common | {f"{key}=" for key in keys}, command)
        line = ["vgpu-run", "--vm", "=", "3", "MATRIX_MUL", "m", "=", "5"]
        self.assertEqual(completed_words("vgpu-run", *line, ""),
                         common | {"a=", "b=", "out=", "n=", "k=", "seed=", "dtype="})
        self.assertEqual(completed_words("vgpu-run", *line, "timeout", "=", "9", "d"),
                         {"dtype=", "deadline="})
        self.assertEqual(completed_words("vgpu-run", *line), set(), "a value")
        self.assertEqual(completed_words("vgpu-run", *line[:-1]), set(), "a value")
        self.assertEqual(completed_words("vgpu-run", "vgpu-run", "BOGUS", ""), common)
        self.assertEqual(completed_words("vgpu-run", "vgpu-run", "MAT"), {"MATRIX_MUL"})

    def test_commands_of_vgpuctl(self):
        in_help = printed("vgpuctl", "--help").split("Commands:\n")[1].split("\n\n")[0]
        commands = set(re.findall(r"^  ([a-z-]+)", in_help, re.M))
        described = section(page("vgpuctl.8"), ".Sh DESCRIPTION").split("The commands are:")[1]
        self.assertEqual(set(items(described.split("The options are:")[0], "Cm")), commands)
        completed = re.search(r"local commands='([^']*)'", code("config/completion/vgpuctl"))[1]
        self.assertEqual(set(completed.split()), commands)


class Tables(unittest.TestCase):
    def test_configuration(self):
        listed, group = set(), ""
        for line in printed("vgpufs", "--help-config").splitlines():
            key = re.match(r"  ([a-z_]+) = ", line)
            if key:
                listed.add((group, key[1]))
            elif line.startswith("["):
                group = line
        in_page, group = set(), ""
        for line in section(page("vgpufs.conf.5"), ".Sh KEYS").splitlines():
            key = re.match(r"\.It Ic ([a-z_]+) ", line)
            if key:
                in_page.add((group, key[1]))
            elif line.startswith(".Ss "):
                group = line[4:]
        in_code = set(re.findall(r'(?:\{(?:VGPUFS|NFS|VM|POOL)\(|\.name = )"([a-z_]+)"',
                                 code("vgpufs/config_keys.c")))
        self.assertEqual(in_page, listed)
        self.assertEqual({key for _, key in listed}, in_code)

    def test_workloads(self):
        in_page = {}
        for name in items(section(page("vgpu-executor.8"), ".Sh WORKLOADS").split(".Ss ")[0], "Cm"):
            if name.isupper():
                params = in_page[name] = []
            else:
                params.append(name)
        self.assertTrue(in_page)
        self.assertEqual(in_page, catalogue())
        completed = re.search(r"local commands='([^']*)'", code("config/completion/vgpu-run"))[1]
        self.assertEqual(set(completed.split()), set(in_page), "the completion of vgpu-run")

    def test_nodes(self):
        self.assertEqual(node_page(), node_table())

    def test_errors(self):
        names = set(re.findall(r'\{E[A-Z]+, "(E[A-Z]+)"\}', code("vgpufs/vm_render.c")))
        self.assertTrue(names)
        self.assertEqual(set(items(section(page("vgpufs.7"), ".Ss Errors"), "Er")), names)

    def test_states_of_jobs(self):
        names = re.search(r"names\[\] = \{([^}]*)\}", code("vgpufs/job.c"))[1]
        for name in re.findall(r'"([a-z]+)"', names):
            self.assertRegex(page("vgpufs.7"), rf"(?m)^\.Ql {name}\b")

    def test_fields(self):
        """Every key=value that a file of the tree shows is in vgpufs(7)."""
        text = page("vgpufs.7")
        literals = " ".join(re.findall(r'"((?:[^"\\]|\\.)*)"', "".join(
            code(f"vgpufs/{name}.c") for name in ("job", "stats", "vm", "vm_render"))))
        fields = set(re.findall(r"\b([a-z][a-z_0-9]*)=", literals))
        fields |= set(re.findall(r'\{"([a-z][a-z_0-9]*)", ', code("vgpufs/stats.c")))
        self.assertIn("oldest_wait_ms", fields)
        self.assertIn("wait_us", fields)
        for field in sorted(fields):
            self.assertRegex(text, rf"\b{field}(=|\b)", f"{field}= is not in vgpufs.7")

    def test_verbs_of_ctl(self):
        verbs = set(re.findall(r'\{"([a-z]+)", \d, "', code("vgpufs/admin.c")))
        self.assertTrue(verbs)
        self.assertEqual(set(items(section(page("vgpufs.7"), ".Ss ctl"), "Li")), verbs)

    def test_log(self):
        text = code("vgpufs/events.c") + code("vgpufs/stats.c")
        events = set(re.findall(r'"\[([A-Z]+)\] ', text))
        events |= set(re.findall(r'job_line\(server, "([A-Z]+)"', text))
        in_page = re.findall(r"^\.It Li \[([A-Z]+)\]", section(page("vgpufs.8"), ".Sh LOG"), re.M)
        self.assertEqual(set(in_page), events)


class Pages(unittest.TestCase):
    def test_names_and_references(self):
        names = {path.name.removesuffix(".in") for path in (SOURCE / "man").iterdir()
                 if re.search(r"\.\d(\.in)?$", path.name)}
        self.assertTrue({name for name, _ in PROGRAMS.values()} <= names)
        for name in sorted(names):
            title, number = name.rsplit(".", 1)
            with self.subTest(page=name):
                text = page(name)
                self.assertIn(f".Dt {title.upper()} {number}\n", text)
                for other in re.findall(r"^\.Xr (vgpu\S*) (\d)", text, re.M):
                    self.assertIn(".".join(other), names)
        units = [path for path in (SOURCE / "config").rglob("*")
                 if re.search(r"\.(service|mount)(\.in)?$", path.name)]
        self.assertGreater(len(units), 3)
        for unit in units:
            for other in re.findall(r"man:(vgpu[^\s(]*)\((\d)\)", unit.read_text()):
                self.assertIn(".".join(other), names, unit.name)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
