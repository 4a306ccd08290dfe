"""The conformance interpreter, written on the bare wire, with a switch for each thing that runtimes do wrong.

    python sabotage.py            honest
    python sabotage.py no-flush   with this one fault

Nothing of the package and of the shims is in it: what it shares with them is the protocol alone.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
import unicodedata

FAULT = sys.argv[1] if len(sys.argv) > 1 else ""
#: Fault -> what it does; the names are those of test_sabotage.py.
FAULTS = {
    "no-flush": "its answers stay in a buffer until it ends",
    "no-newline": "its answers have no newline",
    "answers-late": "writes an answer when the next message comes",
    "prints": "what the function prints goes to stdout",
    "prints-frames": "the same, but only what looks like a frame",
    "prints-without-newline": "prints before each answer, on its line",
    "prints-at-start": "greets on stdout",
    "no-id": "leaves the id out",
    "wrong-id": "makes an id of its own",
    "cuts-id": "cuts the id at its dot",
    "numeric-id": "answers with the id as a number",
    "previous-id": "answers with the id of the message before",
    "answers-twice": "writes each answer twice",
    "skips-same-id": "does not answer an id of which it has seen another attempt",
    "swaps": "of two messages at a time it mixes up the answers",
    "pretty": "writes JSON over several lines",
    "byte-order-mark": "begins its output with a byte order mark",
    "latin-1": "writes another encoding than UTF-8",
    "exits-after-one": "answers one message and leaves",
    "exits-on-error": "ends at what a function throws",
    "exits-on-unknown": "ends at a field it does not know",
    "answers-unknown": "answers a field it does not know with an error",
    "dies-of-no-handler": "ends at a handler that it does not have",
    "dies-of-scalars": "ends at a message that is no object and no list",
    "dies-of-null-state": "ends at a state of null",
    "dies-of-foreign-state": "ends at a state that it did not leave itself",
    "dies-of-trace": "ends where ctx has a trace",
    "dies-of-minus-zero": "ends at -0",
    "dies-of-underflow": "ends at a number that is too small",
    "no-negatives": "loses signs",
    "truncates": "loses fractions",
    "logs-to-stdout": "writes its log to stdout",
    "impatient": "gives up functions that take their time",
    "put-needs-state": "puts only where there was a state",
    "puts-null-for-none": "leaves null where there was no state",
    "state-as-text": "writes the state as JSON in a text",
    "no-stateless": "refuses calls without a key",
    "dies-of-bad-json": "ends at an answer that JSON has no word for",
    "reads-64k": "reads at most 64 KiB of a line",
    "cuts-u2028": "takes U+2028 for the end of a line",
    "cuts-u0085": "takes U+0085 for the end of a line",
    "reads-in-pieces": "takes what one read brings for a whole line",
    "id-first": "finds the fields by their place: the id must come first",
    "runs-torn": "runs a last line that has no newline",
    "stays": "does not leave at the end of its input",
    "exit-status": "leaves with 1 at the end of its input",
    "drops-the-last": "leaves at the end of its input without the last answer",
    "survives-exit": "goes on where the function ends the process",
    "closes-stdout": "closes its stdout after an answer",
    "null-as-absent": "takes a state of null for none",
    "absent-as-null": "takes no state for null",
    "delete-as-null": "puts null where it should delete",
    "loses-put-null": "keeps the state where null was put",
    "loses-put-falsy": "keeps the state where something empty was put",
    "loses-delete": "keeps the state where it was deleted",
    "misses-in-place": "does not notice a state that was changed in place",
    "puts-first": "leaves the state as it was first put",
    "always-puts": "says the state was put where nothing changed",
    "reads-the-old": "shows a handler the state as it came, whatever it has put",
    "own-state": "keeps the state itself, whatever comes in",
    "one-entity": "keeps one state for all entities",
    "stateless-state": "lets a handler put a state where there is no key",
    "reader-writes": "lets a reads-only handler change the state",
    "retry-lost": "leaves `retry` out of errors",
    "details-lost": "leaves `details` out of errors",
    "status-lost": "leaves `status` out of errors",
    "message-lost": "leaves `message` out of errors",
    "code-lost": "gives errors a code of its own",
    "error-with-state": "leaves the changed state beside an error",
    "error-with-response": "leaves the response beside an error",
    "error-as-response": "answers an error as a response",
    "error-as-text": "makes the error its message",
    "fail-goes-on": "goes on where a function has failed",
    "throws-as-null": "answers what a function throws with null",
    "tells-secrets": "puts what was thrown into the answer",
    "no-handler": "answers a handler it does not have with null",
    "no-default": "does not have the default handler",
    "doubles": "its integers are doubles",
    "int64": "its integers end at 2^63",
    "rounds": "writes numbers with six digits",
    "integers-as-text": "writes whole numbers as texts",
    "texts-as-numbers": "takes texts of digits for numbers",
    "nan": "writes NaN",
    "replaces-astral": "writes U+FFFD for what is beyond the BMP",
    "ascii-only": "loses what is not ASCII",
    "raw-surrogate": "writes half a surrogate pair as it is",
    "strips-controls": "loses control characters",
    "stops-at-nul": "ends texts at U+0000",
    "escapes-html": "writes &lt; for <",
    "unescapes-newline": "writes a newline in a text as it is",
    "normalizes": "composes characters",
    "strips-bom": "loses U+FEFF",
    "array-as-object": "writes an empty object as an empty array",
    "object-as-array": "writes an empty array as an empty object",
    "empty-response": "leaves out a response that is empty",
    "null-response": "does not answer where the response is null",
    "shallow": "loses what is nested deeper than eight levels",
    "turn-stops": "in a turn, stops at a message that fails",
    "turn-fails-whole": "in a turn, one failure fails them all",
    "turn-order": "in a turn, answers backwards",
    "turn-ids": "in a turn, answers with the id of the turn",
    "turn-singly": "answers a turn like one message",
    "turn-first-only": "in a turn, answers the first message only",
    "turn-state": "in a turn, gives each message the state that came in",
    "turn-keeps-failed": "in a turn, leaves what a failed message did to the state",
    "turn-changed": "in a turn, never says `changed: false`",
    "turn-unchanged": "in a turn, says `changed: false` of a change",
    "turn-first-state": "in a turn, leaves the first new state",
    "turn-aliases": "in a turn, answers share the state object, which goes on changing",
    "turn-ctx": "in a turn, each message has the ctx of the first",
    "turn-effects": "in a turn, puts all effects beside the answers",
    "effects-lost": "leaves its effects out",
    "effects-of-failed": "leaves effects beside an error",
    "effects-leak": "repeats the effects of the message before",
    "effects-swapped": "reverses its effects",
    "effects-filled": "writes null where an effect has no field",
    "effects-nulls-lost": "leaves out fields of effects that are null",
    "effects-checked": "refuses effects that it does not know",
    "stateless-effects": "lets a handler ask for effects where there is no key",
    "reader-asks": "lets a reads-only handler ask for effects",
    "ctx-leaks": "hands on the ctx of the message before",
    "ctx-of-strings": "hands on ctx as texts",
    "ctx-fixed": "makes up ctx itself",
    "hello-late": "says hello after the first answer",
    "hello-twice": "says hello again",
    "hello-none": "says no hello",
    "hello-protocol-2": "asks for a protocol that does not exist",
    "hello-no-handlers": "leaves its handlers out",
    "hello-reader-unsaid": "does not say that a handler is reads-only",
}

HANDLERS = {"run": False, "call": False, "look": True}
KEEP, ABSENT = object(), object()


class Failed(Exception):
    """A function's error, as it goes out."""


class Runtime:
    def __init__(self):
        self.pipe, self.lines = os.dup(1), os.fdopen(os.dup(0), "rb", buffering=1 << 18)
        self.buffer = b""
        self.answered = 0
        self.held_back = b""
        self.before = {"id": None, "effects": [], "ctx": {}}
        self.own, self.seen = {}, set()

    # -- the wire ----------------------------------------------------------------------------------------

    def serve(self):
        if fault("prints-at-start"):
            self.write(b"starting up\n")
        if not fault("hello-late", "hello-none"):
            self.hello()
        if fault("hello-twice"):
            self.hello()
        for line in self.read():
            self.receive(line)
        if fault("stays"):
            time.sleep(60)
        os.write(self.pipe, self.buffer + self.held_back) if self.buffer or self.held_back else None
        sys.exit(1 if fault("exit-status") else 0)

    def hello(self):
        hello = {"protocol": 1, "runtime": "sabotage/1", "pipeline": 64, "batch": 64, "integers": 64}
        hello["handlers"] = {name: {"reads_only": reads} for name, reads in HANDLERS.items()}
        if fault("hello-protocol-2"):
            hello["protocol"] = 2
        if fault("hello-no-handlers"):
            del hello["handlers"]
        if fault("hello-reader-unsaid"):
            hello["handlers"]["look"]["reads_only"] = False
        self.write(self.line({"hello": hello}))

    def read(self):
        if fault("reads-64k"):
            while line := self.lines.readline(65_536):
                yield line
            return
        if fault("reads-in-pieces"):
            while line := os.read(0, 1 << 16):
                yield line
            return
        if fault("drops-the-last"):
            yield from self.all_but_the_last()
            return
        for line in self.lines:
            separator = {"cuts-u2028": "\u2028", "cuts-u0085": "\u0085"}.get(FAULT, "\n").encode()
            if separator in line[:-1]:
                yield from (part + b"\n" for part in line.rstrip(b"\n").split(separator))
            elif line.endswith(b"\n") or fault("runs-torn"):
                yield line

    def all_but_the_last(self):
        """What it reads just before the end it has no time for."""
        for line in self.lines:
            time.sleep(0.02)
            if select.select([0], [], [], 0)[0] and not self.lines.peek(1):
                return
            yield line

    def receive(self, line):
        parse_int = {
            "doubles": lambda text: int(float(text)),
            "int64": lambda text: min(int(text), 2**63 - 1),
            "integers-as-text": str,
            "no-negatives": lambda text: abs(int(text)),
        }.get(FAULT, int)
        try:
            frame = json.loads(line, parse_int=parse_int)
        except ValueError:
            if fault("reads-64k", "cuts-u2028", "cuts-u0085", "reads-in-pieces", "runs-torn"):
                return  # "some noise", it thinks
            raise
        if self.dies_of(frame, line):
            sys.exit(5)
        if fault("exits-on-unknown") and set(frame) - {"id", "ctx", "message", "messages", "state"}:
            sys.exit(4)
        if fault("answers-unknown") and set(frame) - {"id", "ctx", "message", "messages", "state"}:
            self.send(frame, {"id": frame["id"], "error": {"code": "bad_frame"}})
            return
        if fault("id-first") and not line.startswith(b'{"id"'):
            return
        if fault("skips-same-id") and frame["id"].split(".")[0] in self.seen:
            return
        self.seen.add(frame["id"].split(".")[0])
        answer = self.turn(frame) if "messages" in frame else self.single(frame)
        self.send(frame, answer)

    def dies_of(self, frame, line):
        ctx = frame.get("ctx", {})
        match FAULT:
            case "dies-of-no-handler":
                return ctx.get("handler", "run") not in HANDLERS
            case "dies-of-scalars":
                return "message" in frame and isinstance(frame["message"], bool | int | str)
            case "dies-of-null-state":
                return frame.get("state", ABSENT) is None
            case "dies-of-foreign-state":
                return isinstance(frame.get("state"), str)
            case "dies-of-trace":
                return "trace" in ctx
            case "dies-of-minus-zero":
                return b"-0," in line
            case "dies-of-underflow":
                return b"1e-400" in line
        return False

    def send(self, frame, answer):
        if fault("null-response") and answer.get("response", 0) is None and len(answer) == 2:
            return
        if fault("no-id"):
            answer.pop("id")
        elif fault("wrong-id"):
            answer["id"] = answer["id"].upper() + "0"
        elif fault("cuts-id"):
            answer["id"] = answer["id"].split(".")[0]
        elif fault("numeric-id"):
            answer["id"] = len(answer["id"])
        elif fault("previous-id") and self.before["id"] is not None:
            answer["id"] = self.before["id"]
        self.before["id"] = frame["id"]
        text = self.line(answer)
        if fault("no-newline"):
            text = text[:-1]
        if fault("answers-twice"):
            text *= 2
        if fault("answers-late"):
            text, self.held_back = self.held_back, text
        if fault("swaps"):
            text = self.swapped(frame, answer)
        if fault("prints-without-newline"):
            text = b"working..." + text
        if text:
            self.write(text)
        self.answered += 1
        if fault("hello-late") and self.answered == 1:
            self.hello()
        if fault("exits-after-one"):
            sys.exit(0)
        if fault("closes-stdout"):
            os.close(self.pipe)
            os.close(1)
            time.sleep(60)

    def swapped(self, frame, answer):
        """Where another line is there already, the two get each other's ids."""
        if self.held_back:
            other, self.held_back = json.loads(self.held_back), b""
            other["id"], answer["id"] = answer["id"], other["id"]
            return self.line(other) + self.line(answer)
        time.sleep(0.05)
        os.set_blocking(self.lines.fileno(), False)
        another = self.lines.peek(1)
        os.set_blocking(self.lines.fileno(), True)
        if b"\n" in another:
            self.held_back = self.line(answer)
            return b""
        return self.line(answer)

    def line(self, value):
        if fault("pretty"):
            return json.dumps(value, indent=2).encode() + b"\n"
        if fault("ascii-only"):
            return dump(value).encode("ascii", "replace") + b"\n"
        if fault("latin-1"):
            return dump(value).encode("latin-1", "replace") + b"\n"
        if fault("replaces-astral"):
            return "".join(c if ord(c) < 65_536 else "\ufffd" for c in dump(value)).encode() + b"\n"
        if fault("raw-surrogate"):
            return dump(value).encode("utf-8", "surrogatepass") + b"\n"
        text = spoiled(dump(spoil(value))).encode() + b"\n"
        if fault("byte-order-mark") and "hello" in value:
            return b"\xef\xbb\xbf" + text
        return text

    def write(self, data):
        if fault("no-flush"):
            self.buffer += data
            return
        while data:
            data = data[os.write(self.pipe, data) :]

    # -- messages ----------------------------------------------------------------------------------------

    def state_of(self, frame):
        state = frame.get("state", ABSENT)
        key = frame.get("ctx", {}).get("key")
        if fault("null-as-absent") and state is None:
            return ABSENT
        if fault("absent-as-null") and state is ABSENT and key is not None:
            return None
        if fault("own-state"):
            return self.own.get(key, state)
        if fault("one-entity"):
            return self.own.get("", state)
        return state

    def single(self, frame):
        ctx, state = frame.get("ctx", {}), self.state_of(frame)
        fields, change = self.one(ctx, frame.get("message"), state)
        answer = {"id": frame["id"], **fields}
        self.leave(answer, change, ctx, state)
        return answer

    def leave(self, answer, change, ctx, state):
        if fault("put-needs-state") and state is ABSENT:
            return
        if fault("puts-null-for-none") and state is ABSENT and change is KEEP and "response" in answer:
            answer["state"] = None
        if fault("state-as-text") and change is not KEEP and change is not ABSENT:
            change = dump(change)
        if change is KEEP:
            if fault("always-puts") and state is not ABSENT and "error" not in answer:
                answer["state"] = state
        elif change is ABSENT:
            if fault("delete-as-null"):
                answer["state"] = None
            elif not fault("loses-delete"):
                answer["delete"] = True
        elif not ((fault("loses-put-null") and change is None) or (fault("loses-put-falsy") and not change)):
            answer["state"] = change
        if change is not KEEP and change is not ABSENT:
            self.own[ctx.get("key")] = self.own[""] = change

    def turn(self, frame):
        ctx, state = frame.get("ctx", {}), self.state_of(frame)
        first_state, change, answers, leaving = state, KEEP, [], KEEP
        for each in frame["messages"]:
            own = {**ctx, **({} if fault("turn-ctx") and answers else each)}
            if fault("turn-ctx") and answers:
                own = {**ctx, **frame["messages"][0]}
            fields, change = self.one(own, each.get("message"), first_state if fault("turn-state") else state)
            answer = {"id": each["id"], **fields}
            if fault("turn-ids"):
                answer["id"] = frame["id"]
            if change is KEEP:
                if not fault("turn-changed"):
                    answer["changed"] = False
            else:
                state = change
                if fault("turn-unchanged"):
                    answer["changed"] = False
                if not (fault("turn-first-state") and leaving is not KEEP):
                    leaving = change
            answers.append(answer)
            if "error" in answer and fault("turn-fails-whole"):
                return {"id": frame["id"], "error": answer["error"]}
            if "error" in answer and fault("turn-stops"):
                break
            if fault("turn-first-only"):
                break
        if fault("turn-order"):
            answers.reverse()
        whole = {"id": frame["id"], "answers": answers}
        if fault("turn-singly"):
            whole = {**answers[-1], "id": frame["id"]}
            whole.pop("changed", None)
        if fault("turn-effects"):
            effects = [effect for answer in answers for effect in answer.pop("effects", [])]
            whole |= {"effects": effects} if effects else {}
        self.leave(whole, leaving, ctx, first_state)
        return whole

    def one(self, ctx, message, state):
        """The fields of one answer but its id, and what becomes of the state."""
        if fault("ctx-leaks") and self.before["ctx"]:
            ctx, self.before["ctx"] = self.before["ctx"], ctx
        else:
            self.before["ctx"] = ctx
        if fault("ctx-of-strings"):
            ctx = {name: str(value) for name, value in ctx.items()}
        if fault("ctx-fixed"):
            ctx = {**ctx, "attempt": 1, "meta": {}, "trace": "", "reply_to": ""}
        if fault("no-stateless") and ctx.get("key") is None:
            return {"error": {"code": "no_key", "status": 400}}, KEEP
        handler = ctx.get("handler", "call")
        if handler == "call" and fault("no-default"):
            handler = "none"
        if handler not in HANDLERS:
            if fault("no-handler"):
                return {"response": None}, KEEP
            return {"error": {"code": "no_handler", "message": f"no handler {handler}", "status": 404}}, KEEP
        call = Call(ctx, state, HANDLERS[handler])
        try:
            response = call.run(message)
            change = call.change()
            fields = {"response": response}
            self.line(fields)  # what cannot be written fails here
            if change is not KEEP and change is not ABSENT:
                self.line(change)
            self.line(call.effects)
        except Failed as failed:
            error = dict(failed.args[0])
            for lost in ("retry", "details", "status", "message"):
                if fault(f"{lost}-lost"):
                    error.pop(lost, None)
            if fault("code-lost"):
                error["code"] = "function_error"
            return self.failed(error, call)
        except Exception as problem:
            if fault("exits-on-error"):
                raise
            if fault("dies-of-bad-json") and isinstance(problem, ValueError):
                raise
            if fault("throws-as-null"):
                return {"response": None}, KEEP
            text = (
                str(problem) if fault("tells-secrets") else f"{type(problem).__name__} in handler {handler}"
            )
            print(repr(problem), file=sys.stderr, flush=True)
            return self.failed({"code": "function_error", "message": text}, call)
        effects = call.effects
        if fault("effects-leak"):
            effects, self.before["effects"] = self.before["effects"] + effects, list(effects)
        if fault("effects-swapped"):
            effects = effects[::-1]
        if fault("effects-filled"):
            effects = [{name: {"key": None, **fields} for name, fields in each.items()} for each in effects]
        if fault("effects-nulls-lost"):
            effects = [
                {o: {n: v for n, v in f.items() if v is not None} for o, f in e.items()} for e in effects
            ]
        if effects and not fault("effects-lost"):
            fields["effects"] = effects
        if fault("empty-response"):
            fields = {name: value for name, value in fields.items() if value not in ("", 0, False, [], {})}
        return fields, change

    def failed(self, error, call):
        if fault("error-as-response"):
            return {"response": {"error": error}}, KEEP
        if fault("error-as-text"):
            return {"error": error.get("message", "")}, KEEP
        fields = {"error": error}
        if fault("error-with-response"):
            fields["response"] = call.response
        if fault("effects-of-failed") and call.effects:
            fields["effects"] = call.effects
        if fault("error-with-state", "turn-keeps-failed") and not call.reads_only:
            return fields, call.change()
        return fields, KEEP


class Call:
    """One program of commands, on one state."""

    def __init__(self, ctx, state, reads_only):
        self.ctx, self.reads_only, self.effects = ctx, reads_only, []
        self.text = None if state is ABSENT else dump(state)
        self.state = state if state is ABSENT or fault("turn-aliases") else json.loads(self.text)
        self.assigned, self.response, self.puts = False, None, 0

    def change(self):
        if self.state is ABSENT:
            return KEEP if self.text is None else ABSENT
        if not self.assigned and (dump(self.state) == self.text or fault("misses-in-place")):
            return KEEP
        if self.reads_only and not fault("reader-writes"):
            raise TypeError("it is reads_only")
        return self.state

    def assign(self, value):
        if self.ctx.get("key") is None and not fault("stateless-state"):
            raise Failed({"code": "no_key", "message": "call it with a key", "status": 400})
        if self.reads_only and not fault("reader-writes"):
            raise TypeError("it is reads_only")
        self.puts += 1
        if not (fault("puts-first") and self.puts > 1):
            self.state, self.assigned = value, True

    def ask(self, effect):
        if self.ctx.get("key") is None and not fault("stateless-effects"):
            raise Failed({"code": "no_key", "message": "call it with a key", "status": 400})
        if self.reads_only and not fault("reader-asks"):
            raise TypeError("it is reads_only")
        if fault("effects-checked") and not set(next(iter(effect.values()))) <= {"key", "handler", "message"}:
            raise Failed({"code": "bad_effect", "message": "unknown field"})
        self.effects.append(effect)

    def run(self, commands):
        response = None
        for command in commands:
            ((name, value),) = command.items()
            if name == "put":
                self.assign(value)
            elif name == "delete":
                self.assign(ABSENT)
            elif name == "set":
                self.state.update(value)
            elif name == "reply":
                response = value
            elif name == "unwritable":
                response = "\ud800" if fault("raw-surrogate") else float("nan")
            elif name == "reply_state":
                state = self.state
                if fault("reads-the-old"):
                    state = ABSENT if self.text is None else json.loads(self.text)
                response = (
                    {} if state is ABSENT else {"state": state if fault("turn-aliases") else copy(state)}
                )
            elif name == "reply_ctx":
                response = self.ctx.get(value)
            elif name == "add":
                self.assign((0 if self.state is ABSENT else self.state) + value)
                response = self.state
            elif name == "effect":
                self.ask(value)
            elif name == "fail":
                if fault("fail-goes-on"):
                    continue
                self.response = response
                raise Failed({"code": "failed", **value})
            elif name == "throw":
                raise RuntimeError(value)
            elif name == "print":
                if fault("prints") or (fault("prints-frames") and value.startswith("{")):
                    print(value, flush=True)
                else:
                    print(value, file=sys.stderr, flush=True)
            elif name == "log":
                print(value, file=sys.stdout if fault("logs-to-stdout") else sys.stderr, flush=True)
            elif name == "sleep" and fault("impatient"):
                raise TimeoutError
            elif name == "sleep":
                time.sleep(value / 1000)
            elif name == "exit":
                if not fault("survives-exit"):
                    os._exit(value)
            elif name != "keep":
                raise KeyError(name)
        return response


def fault(*names):
    return FAULT in names


def dump(value):
    return json.dumps(value, ensure_ascii=False, allow_nan=fault("nan"), separators=(",", ":"))


def copy(value):
    return json.loads(dump(value))


def spoil(value, depth=0):
    """What some languages do to values on their way."""
    if fault("shallow") and depth > 8:
        return None
    if isinstance(value, dict):
        if fault("array-as-object") and not value:
            return []
        return {name: spoil(each, depth + 1) for name, each in value.items()}
    if isinstance(value, list):
        if fault("object-as-array") and not value:
            return {}
        return [spoil(each, depth + 1) for each in value]
    if isinstance(value, float) and fault("rounds"):
        return float(f"{value:.6g}")
    if isinstance(value, float) and fault("truncates"):
        return int(value)
    if not isinstance(value, str):
        return value
    match FAULT:
        case "strips-controls":
            return "".join(each for each in value if ord(each) >= 32)
        case "stops-at-nul":
            return value.split("\0")[0]
        case "escapes-html":
            return value.replace("<", "&lt;")
        case "normalizes":
            return unicodedata.normalize("NFC", value)
        case "strips-bom":
            return value.replace("\ufeff", "")
        case "texts-as-numbers":
            return int(value) if value.isdecimal() else value
    return value


def spoiled(text):
    return text.replace("\\n", "\n") if fault("unescapes-newline") else text


if __name__ == "__main__":
    if FAULT and FAULT not in FAULTS:
        sys.exit(f"there is no fault {FAULT}")
    Runtime().serve()
