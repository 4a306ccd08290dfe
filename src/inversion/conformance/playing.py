"""Plays the host's part of the runtime cases against a program.

A process serves one case after the other while all is well; a case that asks for its first line or its end,
or that fails, gets one of its own. After each case a message is sent that no handler takes: what comes before
its answer is more than the case asked for. Where a line is missing it is looked for: does it come with
another message, does it come when the input ends? `advice` makes words of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final, assert_never

from inversion.conformance.advice import advise
from inversion.conformance.cases import Act, Case, Step
from inversion.conformance.expecting import closest, wanted_by, words_of
from inversion.conformance.faults import Sighting, read_frame
from inversion.conformance.matching import difference
from inversion.conformance.peer import Peers, peers_of
from inversion.conformance.talking import Talk
from inversion.conformance.verdict import KnownFailing, Played, Said, Verdict
from inversion.processes.child import CannotStart

#: A program that has not answered so far gets less time with each case, down to this.
_LEAST_PATIENCE_S: Final = 0.3
#: A first line may take so many times longer than an answer: a virtual machine starts.
_START_TIMES: Final = 3
#: What is sent, or looked at: lines that may come in any order come before it.
_TO_IT: Final = {Act.SEND, Act.SEND_TORN, Act.SEND_EOF, Act.DRIP, Act.HOLD, Act.ANY_ORDER}


class _Missed(Exception):
    """What was expected did not come."""

    def __init__(self, expected: str, seen: Sighting) -> None:
        super().__init__(expected)
        self.expected = expected
        self.seen = seen


async def play(
    command: Sequence[str],
    folder: Path,
    cases: Sequence[Case],
    known: KnownFailing,
    timeout_s: float,
    tell: Callable[[Played], None],
) -> list[Played]:
    """Play them in their order, `tell` of each when it is done. Raises CannotStart."""
    async with peers_of(command, folder) as peers:
        host = _Host(peers, command, timeout_s)
        everything = []
        for case in cases:
            played = await host.play(case, known)
            everything.append(played)
            tell(played)
        return everything


class _Host:
    """Plays case after case."""

    def __init__(self, peers: Peers, command: Sequence[str], timeout_s: float) -> None:
        self._peers = peers
        self._command = command
        self._timeout_s = timeout_s
        self._patience_s = timeout_s
        self._start_s = timeout_s * _START_TIMES
        self._talk: Talk | None = None
        self._probes = 0
        self._hello: Mapping[str, object] | None = None

    async def play(self, case: Case, known: KnownFailing) -> Played:
        began_s = perf_counter()
        missed = None
        if case.needs and case.lacking(await self._hello_of()):
            return Played(case.name, case.requirement, case.sentence, Verdict.NOT_ASKED, 0.0)
        talk = self._talk
        if talk is None or case.is_alone:
            await self._dismiss()
            talk = await self._start()
        talk.begin()
        try:
            await self._play_steps(case.steps, talk)
            await self._finish(case, talk)
            self._patience_s = self._timeout_s
        except _Missed as caught:
            missed = caught
            self._talk = None
            if caught.seen.line is None:  # the next may take as long again, and there are many
                if not talk.greeted:
                    self._start_s = self._timeout_s
                self._patience_s = max(self._patience_s / 2, min(_LEAST_PATIENCE_S, self._timeout_s))
        verdict = known.judge(case.name, passed=missed is None)
        took_s = perf_counter() - began_s
        if missed is None:
            return Played(case.name, case.requirement, case.sentence, verdict, took_s)
        return Played(
            case.name,
            case.requirement,
            case.sentence,
            verdict,
            took_s,
            tuple(talk.said),
            missed.expected,
            advise(missed.seen),
        )

    async def _start(self) -> Talk:
        talk = self._talk = Talk(self._peers.start(), self._command)
        if (failure := await talk.peer.started()) is not None:
            raise CannotStart(failure.sentence)
        return talk

    async def _hello_of(self) -> Mapping[str, object]:
        """What it says of itself; {} if that is nothing."""
        if self._hello is None:
            talk = self._talk or await self._start()
            self._talk = talk
            if not talk.greeted:
                talk.probe("probe.hello")
                await talk.frame(self._patience_of(talk), wants_hello=False)
            self._hello = talk.hello
            await self._dismiss()
        return self._hello

    async def _dismiss(self) -> None:
        if self._talk is not None:
            await self._talk.peer.end()
            self._talk = None

    def _patience_of(self, talk: Talk) -> float:
        return self._patience_s if talk.greeted else max(self._patience_s, self._start_s)

    async def _play_steps(self, steps: Sequence[Step], talk: Talk) -> None:
        drip_bytes = 0
        due: list[Step] | None = None  # expected in any order
        for step in steps:
            if due is not None and step.act in _TO_IT:
                await self._expect(due, talk)
                due = None
            match step.act:
                case Act.SEND:
                    await talk.send(step.data + b"\n", drip_bytes)
                case Act.SEND_TORN:
                    await talk.send(step.data, drip_bytes)
                case Act.SEND_EOF:
                    talk.close_stdin()
                case Act.DRIP:
                    drip_bytes = int(step.text)
                case Act.HOLD:
                    talk.peer.hold()
                case Act.ANY_ORDER:
                    due = []
                case Act.LINE | Act.ANSWER | Act.ERROR | Act.HELLO:
                    if due is None:
                        await self._expect([step], talk)
                    else:
                        due.append(step)
                case Act.EXIT:
                    await self._expect(due or [], talk)
                    due = None
                    await self._expect_end(int(step.text), talk)
                case Act.TORN | Act.EOF | Act.CONCLUDE | Act.CONFIGURE:
                    raise ValueError(f"line {step.line} is for cases of the host")
                case _:
                    assert_never(step.act)
        await self._expect(due or [], talk)

    async def _expect(self, due: Sequence[Step], talk: Talk) -> None:
        """These lines, in whatever order."""
        left = list(due)
        while left:
            step = left[0]
            patience_s = self._patience_of(talk)
            line = await talk.frame(patience_s, wants_hello=step.act is Act.HELLO)
            if line is None:
                talk.said.append(Said("-", talk.silence(patience_s)))
                raise _Missed(words_of(step), await talk.search(wanted_by(step), None))
            faults = [difference(each, line) for each in left]
            if None not in faults:
                step, fault = closest(left, faults, line)
                raise _Missed(words_of(step), await talk.search(wanted_by(step), line, fault))
            del left[faults.index(None)]
            talk.take(line)

    async def _expect_end(self, status: int, talk: Talk) -> None:
        peer = talk.peer
        patience_s = self._patience_of(talk)
        line = await talk.frame(patience_s, wants_hello=False)
        await peer.until(lambda: peer.exit is not None, patience_s)
        if line is not None or peer.exit is None or peer.exit.status != status:
            raise _Missed(f"no more lines, and exit status {status}", await talk.search_end(line))
        self._talk = None

    async def _finish(self, case: Case, talk: Talk) -> None:
        """Nothing more may come: the answer to one more message is the next line."""
        if any(step.act in (Act.SEND_EOF, Act.SEND_TORN, Act.EXIT) for step in case.steps):
            await self._dismiss()
            return
        self._probes += 1
        probe_id = f"probe.{self._probes}"
        talk.probe(probe_id)
        line = await talk.frame(self._patience_of(talk), wants_hello=False)
        got = None if line is None else read_frame(line)
        if got is None or got.get("id") != probe_id:
            talk.in_flight = [] if line is not None else [probe_id]
            expected = "nothing more" if line is not None else f"an answer to one more message, {probe_id}"
            raise _Missed(
                expected, await talk.search({"id": probe_id}, line, "it is more than was asked for")
            )
        if case.is_alone:
            await self._dismiss()
