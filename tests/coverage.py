#!/usr/bin/env python3
"""Line coverage of the daemon, from a build that has run the tests: coverage.py BUILD.

The daemon is all of vgpufs/ but the executor, which has tests of its own in suite cuda, and
vgpuctl. tests/coverage.txt says which functions have lines that are not run, and why.
"""
import bisect
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEAST_PERCENT = 90
MOST_UNLISTED = 250  # lines; what a run reaches depends a little on its moments


def listed():
    """The functions of coverage.txt: {(file, function): reason}."""
    found, reason = {}, None
    for line in (ROOT / "tests" / "coverage.txt").read_text().splitlines():
        if line.startswith("#") or not line:
            continue
        if not line.startswith(" "):
            reason = line.partition(":")[0]
            continue
        file, *functions = line.split()
        found.update(((f"vgpufs/{file}", function), reason) for function in functions)
    return found


def defines(path, function):
    return path.exists() and re.search(rf"\b{function}\(", path.read_text())


def report(build):
    text = subprocess.run(
        ["gcovr", "--root", ".", "--filter", "vgpufs/", "--exclude", "vgpufs/executor/",
         "--exclude", "vgpufs/ctl/", "--json", "-", build],
        check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout
    return json.loads(text)["files"]


def main():
    reasons = listed()
    lines = covered = 0
    by_reason, unlisted = {}, []
    for file in report(sys.argv[1]):
        name = file["file"]
        starts = sorted((function["lineno"], function["name"]) for function in file["functions"])
        for line in file["lines"]:
            if line.get("gcovr/noncode"):
                continue
            lines += 1
            covered += line["count"] > 0
            if line["count"]:
                continue
            place = bisect.bisect_right(starts, (line["line_number"], "\x7f")) - 1
            function = starts[place][1] if place >= 0 else ""
            reason = reasons.get((name, function))
            if reason:
                by_reason[reason] = by_reason.get(reason, 0) + 1
            else:
                unlisted.append(f"{name}:{line['line_number']}: {function}")
    percent = 100 * covered / lines if lines else 0
    print(f"daemon: {covered} of {lines} lines, {percent:.1f} %; not run: "
          + ", ".join(f"{reason} {count}" for reason, count in sorted(by_reason.items()))
          + f", no reason given {len(unlisted)}")
    print("\n".join(unlisted))
    gone = sorted(f"{file}: {function}" for file, function in reasons
                  if not defines(ROOT / file, function))
    for words in gone:
        print(f"coverage: tests/coverage.txt: {words}: there is no such function: take it out",
              file=sys.stderr)
    failed = bool(gone) or percent < LEAST_PERCENT or len(unlisted) > MOST_UNLISTED
    if percent < LEAST_PERCENT:
        print(f"coverage: less than {LEAST_PERCENT} % of the daemon's lines: write tests",
              file=sys.stderr)
    if len(unlisted) > MOST_UNLISTED:
        print(f"coverage: {len(unlisted)} lines of functions that tests/coverage.txt does not have: "
              "write tests, or say there why not", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
