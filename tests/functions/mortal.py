"""A counter that dies as its handler's name says; `add` lives. mortal.js is its twin.

The wire by hand. Only a request's first attempt dies, but for those that say so. Each process writes a line
into the file that follows `--starts`, before anything else.
"""

import json
import os
import sys
import time


def write(data):
    left = memoryview(data)
    while left:
        left = left[os.write(1, left) :]


def answer_of(frame, amount=1):
    count = frame.get("state", 0) + amount
    line = json.dumps({"id": frame["id"], "response": count, "state": count}, separators=(",", ":"))
    return line.encode() + b"\n"


def add(frame, message):
    write(answer_of(frame))


def pid(frame, message):
    write(json.dumps({"id": frame["id"], "response": os.getpid()}).encode() + b"\n")


def slow(frame, message):
    """The message is how many seconds."""
    time.sleep(message)
    add(frame, message)


def tell(file):
    """The file appears with this process's pid in it."""
    with open(file + ".new", "w") as new:
        new.write(str(os.getpid()))
    os.rename(file + ".new", file)


def tells(frame, message):
    """Writes its pid into the file that the message names, and answers at once."""
    tell(message)
    add(frame, message)


def holds(frame, message):
    """Writes its pid into the file that the message names, and never answers."""
    if frame["ctx"]["attempt"] == 1:
        tell(message)
        time.sleep(600)
    add(frame, message)


def cut(frame, message):
    """Writes so many bytes of its answer and dies; with `always` in each attempt."""
    if frame["ctx"]["attempt"] == 1 or message["always"]:
        write(answer_of(frame)[: message["bytes"]])
        print(f"cut at {message['bytes']}", file=sys.stderr, flush=True)
        os._exit(7)
    add(frame, message)


def poison(frame, message):
    """Dies in every attempt."""
    print("it was poison", file=sys.stderr, flush=True)
    os._exit(3)


if "--starts" in sys.argv:
    with open(sys.argv[sys.argv.index("--starts") + 1], "a") as starts:
        starts.write(f"{os.getpid()}\n")
write(b'{"hello":{"protocol":1,"runtime":"mortal","pipeline":8}}\n')
for line in sys.stdin.buffer:
    frame = json.loads(line)
    globals()[frame["ctx"]["handler"]](frame, frame["message"])
