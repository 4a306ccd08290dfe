"""From what was seen of a program to what is wrong with it and how to put it right. Pure.

`Sighting` is what was seen where a line was expected: what came in its place, what was printed beside it,
what came only when its input was closed, how it ended. `advise` names the fault, the likeliest first; where
the answer came and is another one, `answers` says what became of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from inversion.conformance.answers import fault_of
from inversion.conformance.faults import Advice, Fault, Sighting, read_frame, shown

#: Programs whose output, or input, is buffered in blocks at a pipe, and their switches.
_UNBUFFERED: Final = {
    "jq": "jq --unbuffered",
    "sed": "sed -u",
    "grep": "grep --line-buffered",
    "mawk": "mawk -W interactive, and fflush() after each print",
    "awk": "fflush() after each print (mawk: -W interactive as well)",
    "gawk": "fflush() after each print",
    "python": "print(..., flush=True), or python3 -u",
    "perl": "$| = 1",
    "ruby": "$stdout.sync = true",
    "lua": "io.stdout:flush()",
    "php": "fflush(STDOUT)",
    "java": "System.out.flush()",
    "c": "fflush(stdout)",
}
_ALL_UNBUFFERED: Final = (
    "flush stdout after each line: print(flush=True) in Python, $| = 1 in Perl, $stdout.sync = true in Ruby, "
    "fflush(stdout) in C, jq --unbuffered, sed -u, grep --line-buffered, mawk -W interactive; "
    "or put `stdbuf -oL` before the command"
)
#: A read or a buffer of some round size ends here.
_LONG_LINE_BYTES: Final = 4_000
_HELLO = re.compile(rb'\{\s*"hello"\s*:')
_ID = re.compile(rb'"id"\s*:\s*"((?:[^"\\]|\\.)*)"')


def advise(seen: Sighting) -> Sequence[Advice]:
    """What is wrong, the likeliest first; never empty."""
    found = list(_found(seen))
    kept: dict[Fault, Advice] = {}
    for each in found:
        kept.setdefault(each.fault, each)
    return list(kept.values())


def _found(seen: Sighting) -> Iterator[Advice]:
    if seen.wants_end:
        yield from _at_the_end(seen)
        return
    if seen.line is not None:
        yield from _of_a_line(seen, seen.line)
        return
    yield from _of_strays(seen)
    yield from _of_silence(seen)


def _at_the_end(seen: Sighting) -> Iterator[Advice]:
    lines = [*([] if seen.line is None else [seen.line]), *seen.after_eof]
    if lines and seen.in_flight == ():
        yield Advice(
            Fault.RAN_TORN_LINE if read_frame(lines[0]) is not None else Fault.SURPLUS,
            f"after the end of its input it still wrote {shown(lines[0])}",
            "a last line without a newline is torn, the host died while it wrote it: do not run it",
        )
    if not seen.input_is_over:
        how = "is still there" if seen.status is None else f"left with exit status {seen.status}"
        how = how if seen.signal is None else f"was ended by signal {seen.signal}"
        yield Advice(
            Fault.ENDS_OTHERWISE,
            f"it {how}" + _because(seen.log),
            "a process that a function ends has ended, with that status: let it go",
        )
    elif seen.status is None and seen.signal is None:
        yield Advice(
            Fault.STAYED,
            "its stdin has ended and it is still there",
            "the end of stdin means leave: end the loop there, and the threads with it",
        )
    elif seen.status != 0:
        how = f"exit status {seen.status}" if seen.signal is None else f"signal {seen.signal}"
        yield Advice(
            Fault.EXIT_STATUS,
            f"its stdin had ended, and it left with {how}" + _because(seen.log),
            "leave with exit status 0 when stdin ends: the end of the input is no error",
        )


def _of_a_line(seen: Sighting, line: bytes) -> Iterator[Advice]:
    frame = read_frame(line)
    if frame is None:
        yield from _no_frame(seen, line)
        return
    if "hello" in frame:
        if seen.answered:
            fault, words = Fault.HELLO_LATE, "it said hello after its first answer"
        else:
            fault, words = Fault.HELLO_AGAIN, "it said hello again"
        if isinstance(seen.wanted, Mapping) and "hello" in seen.wanted:
            fault, words = Fault.HELLO_BROKEN, f"its hello is not as expected: {seen.difference}"
        yield Advice(
            fault, words, "hello is the first line of the process, once, before anything else is written"
        )
        return
    answered_id = frame.get("id")
    wanted_id = seen.wanted.get("id") if isinstance(seen.wanted, Mapping) else None
    if not isinstance(answered_id, str):
        yield Advice(
            Fault.NO_ID if answered_id is None else Fault.ID_CHANGED,
            f"it answered without the id of the message: {shown(line)}",
            'take "id" from the message and put it into the answer, as the same string; '
            'a program that cannot may be run with correlate = "order", one message at a time',
        )
    elif answered_id == wanted_id or wanted_id is None:
        if any((read_frame(other) or {}).get("id") == answered_id for other in seen.after_more):
            yield Advice(
                Fault.TWICE,
                f"two lines answer {answered_id}, of which this is the first: {shown(line)}",
                "what a function prints must not be taken for its answer: point stdout at stderr before user "
                "code is loaded, and write frames to a private descriptor",
            )
        fault, remedy = fault_of(seen.wanted, frame, seen.difference)
        yield Advice(fault, f"its answer is another: {seen.difference}", remedy)
    elif answered_id in seen.answered:
        yield Advice(
            Fault.TWICE,
            f"it answered {answered_id} a second time",
            "each message has one answer, with its own id: look for an answer that is written in two places, "
            "or an id kept from the message before",
        )
    elif answered_id in seen.in_flight:
        yield Advice(
            Fault.SWAPPED,
            f"the answer to {answered_id} came where that to {wanted_id} was due",
            "give each answer the id of the message it belongs to",
        )
    else:
        yield Advice(
            Fault.WRONG_ID,
            f"it answered the id {answered_id!r}, which nobody has asked",
            'take "id" from the message as it is, do not make one or change it',
        )


def _no_frame(seen: Sighting, line: bytes) -> Iterator[Advice]:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        yield Advice(
            Fault.NOT_UTF8,
            f"it wrote bytes that are no UTF-8: {shown(line)}",
            "write UTF-8 whatever the locale is, and half a surrogate pair as an error: JSON text has none",
        )
        return
    if text.startswith("\ufeff"):
        yield Advice(
            Fault.BYTE_ORDER_MARK,
            "its line begins with a byte order mark",
            "write UTF-8 without a byte order mark (`utf-8`, not `utf-8-sig`)",
        )
    elif (begin := text.find('{"id"')) > 0 or (begin := text.find('{"hello"')) > 0:
        yield Advice(
            Fault.GLUED,
            f"{text[:begin][:60]!r} stands before the answer on its line",
            "something prints on stdout without a newline: point stdout at stderr before user code runs, and "
            "write frames to a private descriptor",
        )
    elif text.strip() in ("{", "[") or (text.lstrip().startswith("{") and not text.rstrip().endswith("}")):
        yield Advice(
            Fault.SEVERAL_LINES,
            f"its answer is spread over several lines, the first is {shown(line)}",
            "write JSON without line breaks: jq -c, json.dumps without indent, JSON.stringify(value)",
        )
    elif text.startswith("{") and ("NaN" in text or "Infinity" in text or "nan" in text):
        yield Advice(
            Fault.NOT_JSON,
            f"it wrote a number that JSON has not: {shown(line)}",
            "answer with an error where a value is NaN or infinite",
        )
    elif text.startswith("{"):
        yield Advice(
            Fault.NOT_JSON,
            f"its line is not JSON: {shown(line)}",
            "write answers with a JSON library; strings have double quotes",
        )
    else:
        yield _prints(line)


def _prints(line: bytes) -> Advice:
    return Advice(
        Fault.PRINTS,
        f"it printed {shown(line)} on stdout, among the answers",
        "stdout is for answers: point stdout at stderr before user code is loaded, and write frames to a "
        "private descriptor (bash: exec 3>&1 1>&2)",
    )


def _of_strays(seen: Sighting) -> Iterator[Advice]:
    for stray in seen.strays:
        frame = read_frame(stray)
        if frame is None or "id" in frame:
            yield from _no_frame(seen, stray) if frame is None else _of_a_line(seen, stray)
        else:
            yield from _of_a_line(seen, stray)


def _of_silence(seen: Sighting) -> Iterator[Advice]:
    due = ", ".join(seen.in_flight) or "its first line"
    if seen.status is not None or seen.signal is not None:
        yield _death(seen)
    elif seen.output_is_over:
        yield Advice(
            Fault.CLOSED,
            "it closed its stdout and went on",
            "leave stdout open until the end; when it is duplicated, close neither copy that frames go to",
        )
    elif seen.held:
        if read_frame(seen.held) is not None:
            yield Advice(
                Fault.NO_NEWLINE,
                f"its answer has no newline at its end: {shown(seen.held)}",
                "end each line with \\n, and flush",
            )
        else:
            yield Advice(
                Fault.NO_NEWLINE,
                f"it stopped in the middle of a line: {shown(seen.held)}",
                "write the whole line, and its newline, in one go",
            )
    elif seen.untaken_bytes:
        taken = max(seen.last_bytes - seen.untaken_bytes, 0)
        yield Advice(
            Fault.STOPPED_READING,
            f"it took {taken} bytes of a line of {seen.last_bytes} and then stopped reading",
            "read up to the newline, however long the line is; a frame may have some MiB",
        )
    elif isinstance(seen.wanted, Mapping) and "hello" in seen.wanted and _has_answer(seen, seen.after_more):
        yield Advice(
            Fault.NO_HELLO,
            "it says no hello, and answers",
            'write {"hello":{"protocol":1,...}} first: without one it gets a message at a time',
        )
    elif _has_answer(seen, seen.after_more):
        yield Advice(
            Fault.LATE,
            f"its answer to {due} came when the next message was sent",
            "answer each line when it is read: do not wait for another line, and flush",
        )
    elif _has_answer(seen, seen.after_eof):
        yield Advice(
            Fault.UNFLUSHED,
            f"its answer to {due} came only when its input had ended: its output, or its input, is buffered",
            _unbuffered(seen.program),
        )
    elif seen.has_u2028:
        yield Advice(
            Fault.U2028,
            f"no answer to {due}, a line with U+2028 in it" + _because(seen.log),
            "a line ends at the byte 0x0A and nowhere else: read bytes, or say that only \\n ends a line",
        )
    elif seen.last_bytes > _LONG_LINE_BYTES:
        yield Advice(
            Fault.SILENT,
            f"no answer to {due}, a line of {seen.last_bytes} bytes",
            "read up to the newline, however long the line is; a read of a fixed size cuts it",
        )
    else:
        yield Advice(
            Fault.SILENT,
            f"no answer to {due}" + _because(seen.log),
            "each message is answered, with an error if it cannot be done",
        )


def _has_answer(seen: Sighting, lines: Sequence[bytes]) -> bool:
    """Whether what was missing is among them; with nothing in flight it was the first line."""
    frames = [frame for line in lines if (frame := read_frame(line)) is not None]
    return any(not seen.in_flight or frame.get("id") in seen.in_flight for frame in frames)


def _death(seen: Sighting) -> Advice:
    how = f"exit status {seen.status}" if seen.signal is None else f"signal {seen.signal}"
    if seen.status == 0:
        if seen.answered:
            return Advice(
                Fault.LEFT,
                "it answered and left, with exit status 0, though its input goes on",
                'read lines in a loop until stdin ends; a program that answers once is for mode = "exec"',
            )
        return Advice(
            Fault.LEFT_AT_ONCE,
            "it left, with exit status 0, without an answer" + _because(seen.log),
            'read lines in a loop until stdin ends; a program that reads all of stdin is for mode = "exec"',
        )
    if seen.last_bytes > _LONG_LINE_BYTES:
        return Advice(
            Fault.DIED_OF_SIZE,
            f"it ended with {how} at a line of {seen.last_bytes} bytes" + _because(seen.log),
            "read up to the newline, however long the line is; a frame may have some MiB",
        )
    return Advice(
        Fault.DIED,
        f"it ended with {how} at this message" + _because(seen.log),
        "what a message throws is an answer with `error`, not an exit: catch it around the handler, and "
        "around the encoding of its answer",
    )


def _because(log: str) -> str:
    last = [line for line in log.splitlines() if line.strip()]
    return f"; its stderr ends with {last[-1].strip()[:160]!r}" if last else ""


def _unbuffered(program: Sequence[str]) -> str:
    for word in program:
        name = re.sub(r"[\d.]+$", "", word.rsplit("/", 1)[-1])
        if name in _UNBUFFERED:
            return f"flush stdout after each line: {_UNBUFFERED[name]}"
    return _ALL_UNBUFFERED
