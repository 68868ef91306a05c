#!/usr/bin/python3
"""The rig's hand inside a machine: runs shell scripts that come over a virtio-serial port.

One request is one line of JSON, {"id", "script", "timeout"}; one answer is another, {"id", "code",
"out", "err"}. Scripts run at the same time, each in a process group of its own; one that is not
done in time is killed, and its code is -1. A script that cannot be killed (in D state) is left, and
its code is -2. {"id", "kill": id of another} kills that one.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading

KILL_SECONDS = 5


class Agent:
    def __init__(self, port):
        self.port, self.lock = port, threading.Lock()
        self.running = {}

    def answer(self, **fields):
        line = json.dumps(fields).encode() + b"\n"
        with self.lock:
            while line:
                line = line[os.write(self.port, line):]

    def kill(self, identifier):
        process = self.running.get(identifier)
        if process:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def wait(self, identifier, process, timeout):
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill(identifier)
        try:
            process.wait(KILL_SECONDS)
            return -1
        except subprocess.TimeoutExpired:
            return -2

    # Output goes to files: a pipe would also wait for what the script has left in the background.
    def run(self, request):
        identifier = request["id"]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(["/bin/bash", "-c", request["script"]], stdout=out,
                                       stderr=err, stdin=subprocess.DEVNULL,
                                       start_new_session=True)
            self.running[identifier] = process
            code = self.wait(identifier, process, request["timeout"])
            del self.running[identifier]
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode("latin-1"))
        self.answer(id=identifier, code=code, out=texts[0], err=texts[1])

    def serve(self):
        self.answer(id=0, code=0, out=os.uname().release, err="")
        pending = b""
        while True:
            piece = os.read(self.port, 1 << 16)
            if not piece:  # the other side has closed it
                return
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if "kill" in request:
                    self.kill(request["kill"])
                else:
                    threading.Thread(target=self.run, args=(request,), daemon=True).start()


if __name__ == "__main__":
    # What a script's shell starts in the background ignores SIGINT, and so would all that comes from
    # here: a handler is back to normal in a new program.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Agent(os.open(sys.argv[1], os.O_RDWR)).serve()
