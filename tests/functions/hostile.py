"""A function that breaks the wire as its handler's name says; `well` keeps it. hostile.js is its twin.

The wire by hand, for no shim would write this. Flags are for what a process does before it is asked:
`--deaf` never reads, `--hello` says hello, `--unasked` answers first. How much is `{"bytes": n}` or
`{"for_s": seconds}` in the message.
"""

import base64
import json
import os
import signal
import sys
import time
import zlib
from datetime import datetime

CHUNK = b"x" * 65_536


def write(data, file=1):
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def write_much(chunk, message, file=1):
    end_s = time.monotonic() + message.get("for_s", 600)
    left = message.get("bytes", 1 << 60)
    while left >= len(chunk) and time.monotonic() < end_s:
        write(chunk, file)
        left -= len(chunk)


def say(frame):
    write(json.dumps(frame, separators=(",", ":")).encode() + b"\n")


def well(id, message, frame):
    say({"id": id, "response": message})


def put(id, message, frame):
    say({"id": id, "response": message, "state": message})


def pid(id, message, frame):
    say({"id": id, "response": os.getpid()})


def lines(id, message, frame):
    """Writes each of the message's lines (base64 of zlib), @ID@ in them made the id."""
    for line in message:
        write(zlib.decompress(base64.b64decode(line)).replace(b"@ID@", id.encode()) + b"\n")


def halves(id, message, frame):
    """The answer in two writes, cut at the byte that the message says, counted around."""
    answer = json.dumps({"id": id, "response": message}, separators=(",", ":")).encode() + b"\n"
    cut = message % len(answer)
    write(answer[:cut])
    time.sleep(0.002)
    write(answer[cut:])


def dribble(id, message, frame):
    """The answer byte by byte."""
    for byte in json.dumps({"id": id, "response": message}, separators=(",", ":")).encode() + b"\n":
        write(bytes([byte]))
        time.sleep(0.001)


def floods_almost_frames(id, message, frame):
    """As before, with lines that begin like one and are none."""
    write_much(b'{"id":"x","response":\n' * 1_000, message)
    say({"id": id, "response": message})


def never(id, message, frame):
    time.sleep(600)


def slow(id, message, frame):
    time.sleep(message["for_s"])
    say({"id": id, "response": message})


def ignores_term(id, message, frame):
    """As `never`, and TERM does not end it. The message names a file for its pid."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(message, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)


def late(id, message, frame):
    """Answers after its timeout, TERM or not; the message is how many seconds after, and a file for then."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(message["after_s"])
    say({"id": id, "response": "late", "state": "late"})
    with open(message["file"], "w") as file:
        file.write("answered")


def at_deadline(id, message, frame):
    """Adds the message's number to the state, so many milliseconds after the deadline."""
    deadline = datetime.fromisoformat(frame["ctx"]["deadline"]).timestamp()
    time.sleep(max(0, deadline + message["after_ms"] / 1_000 - time.time()))
    numbers = [*frame.get("state", []), message["number"]]
    say({"id": id, "response": message["number"], "state": numbers})


def twice(id, message, frame):
    say({"id": id, "response": message, "state": message})
    say({"id": id, "response": "again", "state": "again"})


def stale(id, message, frame):
    """Answers the message before this one once more, then this one."""
    if before:
        say({"id": before[-1], "response": "stale", "state": "stale"})
    say({"id": id, "response": message})


def holds(id, message, frame):
    """Tells its id in a file that the message names, and answers when the file `<name>.go` is there."""
    with open(message + ".new", "w") as file:
        file.write(id)
    os.rename(message + ".new", message)
    while not os.path.exists(message + ".go"):
        time.sleep(0.002)
    say({"id": id, "response": "mine"})


def anothers_id(id, message, frame):
    """Answers with the id that stands in the file that the message names."""
    with open(message) as file:
        say({"id": file.read(), "response": "stolen", "state": "stolen"})
    time.sleep(600)


def endless(id, message, frame):
    """Much without a newline and without an id."""
    write_much(CHUNK, message)
    time.sleep(600)


def endless_answer(id, message, frame):
    """A right answer that is long."""
    write(b'{"id":"%b","response":"' % id.encode())
    write_much(CHUNK, message)
    write(b'"}\n')


def floods_stderr(id, message, frame):
    """Many lines on stderr, then the answer."""
    write_much(b"\x1b[31mno, no, no, no\x07\n" * 1_000, message, 2)
    say({"id": id, "response": message})


def floods_stdout(id, message, frame):
    """Many lines on stdout that are no frames, then the answer."""
    write_much(b"y\n" * 8_192, message)
    say({"id": id, "response": message})


def closes_stdout(id, message, frame):
    os.close(1)
    time.sleep(600)


def closes_stdin(id, message, frame):
    """Answers, then hears nothing more and lives on."""
    os.close(0)
    say({"id": id, "response": message})
    time.sleep(600)


def spins(id, message, frame):
    end_s = time.monotonic() + message.get("for_s", 600)
    while time.monotonic() < end_s:
        pass
    say({"id": id, "response": message})


before = []

if "--deaf" in sys.argv:
    time.sleep(600)
if "--unasked" in sys.argv:
    say({"id": "0000.1", "response": "unasked", "state": "unasked"})
if "--hello" in sys.argv:
    say({"hello": {"protocol": 1, "runtime": "hostile", "pipeline": 8}})
for line in sys.stdin.buffer:
    frame = json.loads(line)
    globals()[frame["ctx"]["handler"]](frame["id"], frame["message"], frame)
    before.append(frame["id"])
