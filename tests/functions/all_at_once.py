"""Answers when as many requests wait as the message says: all of them in one write, each with its state."""

import json
import sys

HELLO = {"hello": {"protocol": 1, "pipeline": 64, "batch": 1, "handlers": {"put": {}}}}
NOT_JSON = '{"id":"%s","response":1,"state":{"a":}}\n'

print(json.dumps(HELLO), flush=True)
waiting = []
for line in sys.stdin:
    waiting.append(json.loads(line))
    if len(waiting) == waiting[0]["message"]["of"]:
        answers = []
        for frame in waiting:
            state = frame["message"]["state"]
            if state == "no JSON":
                answers.append(NOT_JSON % frame["id"])
            else:
                state = "x" * state if isinstance(state, int) else state
                answers.append(json.dumps({"id": frame["id"], "response": 1, "state": state}) + "\n")
        waiting = []
        sys.stdout.write("".join(answers))
        sys.stdout.flush()
