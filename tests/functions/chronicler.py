"""Keeps what it was told, in order: handler, message, key and meta of each, in its state or in $CHRONICLE.

The handler `refuse` answers with an error. $CRON is what its hello declares.
"""

import json
import os
import sys

hello = {"protocol": 1, "runtime": "python", "pipeline": 8}
if "CRON" in os.environ:
    hello["cron"] = json.loads(os.environ["CRON"])
print(json.dumps({"hello": hello}), flush=True)
for line in sys.stdin:
    frame = json.loads(line)
    ctx = frame["ctx"]
    told = {
        "handler": ctx["handler"],
        "message": frame["message"],
        "meta": ctx["meta"],
        "key": ctx.get("key"),
    }
    out = {"id": frame["id"]}
    if ctx["handler"] == "refuse":
        out["error"] = {"code": "refused", "message": "not me"}
    elif "CHRONICLE" in os.environ:
        with open(os.environ["CHRONICLE"], "a") as chronicle:
            chronicle.write(json.dumps(told) + "\n")
    else:
        out["state"] = [*frame.get("state", []), told]
    print(json.dumps(out), flush=True)
