#!/usr/bin/python3
"""splice.py PAGE WORD COMMAND...: prints PAGE, the command's output for its line .\\" @WORD@."""
import subprocess
import sys

page, word, *command = sys.argv[1:]
marker = f'.\\" @{word}@\n'
with open(page, encoding="utf-8") as file:
    lines = file.read().splitlines(keepends=True)
if lines.count(marker) != 1:
    sys.exit(f"splice.py: {page} must have one line {marker.strip()}")
output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
for line in lines:
    sys.stdout.write(output if line == marker else line)
