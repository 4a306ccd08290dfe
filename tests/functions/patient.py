"""Answers a message when the file it names exists: the test decides when. By hand, one message at a time.

The handler `grow` takes a number and makes the state so long, at once.
"""

import json
import os
import sys
import time

print('{"hello": {"protocol": 1, "runtime": "patient"}}', flush=True)
for line in sys.stdin:
    frame = json.loads(line)
    if frame["ctx"]["handler"] == "grow":
        print(json.dumps({"id": frame["id"], "response": 1, "state": "x" * frame["message"]}), flush=True)
        continue
    file = frame["message"].partition(":")[0]
    while file and not os.path.exists(file):
        time.sleep(0.005)
    print(json.dumps({"id": frame["id"], "response": len(frame["message"])}), flush=True)
