"""A function that misbehaves as its handler's name says; `well` answers. Speaks the wire by hand."""

import json
import os
import sys
import time


def say(frame):
    text = frame if isinstance(frame, str) else json.dumps(frame)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if "--print-first" in sys.argv:
    print("loading the model, please wait", flush=True)
if "--hello" in sys.argv:
    say({"hello": {"protocol": 1, "runtime": "sabotage", "pipeline": 8}})
if "--pid" in sys.argv:
    with open(sys.argv[sys.argv.index("--pid") + 1], "w") as file:
        file.write(str(os.getpid()))

for line in sys.stdin:
    frame = json.loads(line)
    handler = frame["ctx"]["handler"]
    answer = {"id": frame["id"], "response": frame["message"]}
    if handler == "well":
        say(answer)
    elif handler == "put":
        say({**answer, "state": frame["message"]})
    elif handler == "raw":  # the message is the rest of the answer, as text
        say('{"id":' + json.dumps(frame["id"]) + "," + frame["message"] + "}")
    elif handler == "exit":
        print("the reason is on stderr", file=sys.stderr, flush=True)
        sys.exit(3)
    elif handler == "die_once":
        if frame["id"].endswith(".1"):
            os.kill(os.getpid(), 9)
        say(answer)
    elif handler == "never":
        time.sleep(600)
    elif handler == "wrong_id":
        say({**answer, "id": "0000.1"})
    elif handler == "print_before":
        print("a stray line")
        print('{"json": "but no frame"}')
        say(answer)
    elif handler == "no_json":
        say('{"id":' + json.dumps(frame["id"]) + ',"response":')
    elif handler == "effect":
        say({**answer, "effects": [{"sned": {"key": "x", "handler": "y", "message": 1}}]})
    elif handler == "error":
        say({"id": frame["id"], "error": frame["message"]})
    elif handler == "huge":
        say({**answer, "state": "x" * 1_100_000})
    elif handler == "half":
        sys.stdout.write('{"id":' + json.dumps(frame["id"]) + ',"response":1}')
        sys.stdout.flush()
        sys.exit(0)
    else:
        say({"id": frame["id"], "error": {"code": "no_such_sabotage", "message": handler, "status": 404}})
