"""Does what it is told, in plain frames and whole turns: a function for tests of messages.

{"do": [effects]}     answers with these effects, and adds one to `done` of its state (unless "keep")
{"add": n}            adds n to `count` and keeps `as` in `seen`, in the order in which they came
{"fail": {error}}     answers with this error
{"die": true}         ends the process
{"die_if": handler}   the same where that handler is asked
{"delete": true}      leaves no state
{"pause": seconds}    before anything else
{"until": path}       waits before anything else until there is such a file (not with "rearm")
{"circle": fields}    is forwarded there, and from there again, for ever
{"rearm": effect}     does the effect until `count` is "until"
"""

import json
import os
import sys
import time


def one(message_in, state):
    """The answer without its id, and the state after it."""
    message = message_in["message"]
    if not isinstance(message, dict):
        message = {}
    state = dict(state or {})
    if "pause" in message:
        time.sleep(message["pause"])
    while "until" in message and "rearm" not in message and not os.path.exists(message["until"]):
        time.sleep(0.01)
    handler = message_in.get("handler") or message_in.get("ctx", {}).get("handler")
    if message.get("die") or message.get("die_if") == handler:
        os._exit(3)
    if message.get("delete"):
        return {"response": None}, None
    if "fail" in message:
        return {"error": message["fail"], "changed": False}, state
    answer = {}
    if "do" in message:
        answer["effects"] = message["do"]
        if message.get("keep"):
            return {**answer, "changed": False}, state
        state["done"] = state.get("done", 0) + 1
    if "add" in message:
        state["count"] = state.get("count", 0) + message["add"]
        if "as" in message:
            state.setdefault("seen", []).append(message["as"])
    if handler == "replied":
        asked = message_in.get("reply_to") or message_in.get("ctx", {}).get("reply_to")
        state.setdefault("replies", []).append([message, bool(asked)])
        state["answered"] = len(state["replies"])
    if "rearm" in message:
        state["count"] = state.get("count", 0) + 1
        if state["count"] < message["until"]:
            ((operation, fields),) = message["rearm"].items()
            again = {operation: {**fields, "message": message}}
            answer["effects"] = [again]
    if "circle" in message:
        answer["effects"] = [{"forward": {**message["circle"], "message": message}}]
    if not any("forward" in effect for effect in answer.get("effects", ())):
        answer["response"] = state.get("count", 0)
    return answer, state


def after(state):
    return {"delete": True} if state is None else {"state": state}


print(json.dumps({"hello": {"protocol": 1, "runtime": "python", "pipeline": 8, "batch": 64}}), flush=True)
for line in sys.stdin:
    frame = json.loads(line)
    stateless = "key" not in frame["ctx"]
    if "messages" in frame:
        state = frame.get("state")
        answers = []
        for each in frame["messages"]:
            answer, state = one(each, state)
            answers.append({"id": each["id"], **answer})
        out = {"id": frame["id"], "answers": answers}
        if any(answer.get("changed", True) for answer in answers):
            out.update(after(state))
    else:
        answer, state = one(frame, frame.get("state"))
        changed = answer.pop("changed", True)
        out = {"id": frame["id"], **answer}
        if changed and not stateless:
            out.update(after(state))
    print(json.dumps(out), flush=True)
