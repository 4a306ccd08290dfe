"""A function that leaves a process behind: in a session of its own, its parent gone, its stdout open.

Its pid is written into the file that the first argument names. `exec` mode; with `--lines` it speaks the
wire, answers one message and ends.
"""

import json
import os
import sys
import time

file = sys.argv[1]


def leave_one_behind():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open(file + ".new", "w") as new:
                new.write(str(os.getpid()))
            os.rename(file + ".new", file)
            time.sleep(600)
        os._exit(0)
    os.wait()
    while not os.path.exists(file):
        time.sleep(0.01)


if "--lines" in sys.argv:
    frame = json.loads(sys.stdin.readline())
    leave_one_behind()
    os.write(1, json.dumps({"id": frame["id"], "response": "answered"}).encode() + b"\n")
else:
    leave_one_behind()
    print('"answered"', flush=True)
