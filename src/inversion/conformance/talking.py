"""What is said with one process in a case, and the search for what is missing in the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import trio

from inversion.conformance.faults import MOST_SHOWN, Sighting, read_frame, shown
from inversion.conformance.peer import Peer
from inversion.conformance.verdict import Said
from inversion.processes.child import Exit

#: How long a missing line is looked for, by each means.
_SEARCH_S: Final = 1.0
_MOST_FOUND: Final = 8
#: What was written together comes together.
_AT_ONCE_S: Final = 0.05
#: Between two pieces of a line that goes out in pieces: enough for most of them to be read one by one.
_DRIP_S: Final = 0.001
#: Whom a message is for that nobody handles.
_CTX: Final = (
    '"ctx":{"function":"f","key":"k","version":1,"handler":"no-such-handler","attempt":1,'
    '"now":"2026-11-24T02:11:00.000Z","deadline":"2026-11-24T02:11:30.000Z","seed":"9f3a","meta":{}}'
)


class Talk:
    """What was said with one process."""

    def __init__(self, peer: Peer, command: Sequence[str]) -> None:
        self.peer = peer
        self.said: list[Said] = []  #: of the present case
        self.in_flight: list[str] = []
        self.answered: list[str] = []  #: of the present case, and the last of the one before
        self.greeted = False  #: it has said something
        self.hello: Mapping[str, object] = {}
        self._has_u2028 = False
        self._is_over = False
        self._command = command
        self._last_bytes = 0

    def begin(self) -> None:
        """The next case."""
        self.said.clear()
        self.in_flight.clear()
        self._has_u2028 = False
        del self.answered[:-1]

    async def send(self, data: bytes, drip_bytes: int) -> None:
        """In pieces of so many bytes; 0: at once."""
        self.said.append(Said(">", shown(data.rstrip(b"\n"), MOST_SHOWN)))
        self._last_bytes = len(data)
        self._has_u2028 = self._has_u2028 or "\u2028".encode() in data
        frame = read_frame(data) if data.endswith(b"\n") else None
        if frame is not None and isinstance(asked := frame.get("id"), str):
            self.in_flight.append(asked)
        for begin in range(0, len(data), drip_bytes or len(data)):
            self.peer.send(data[begin : begin + (drip_bytes or len(data))])
            if drip_bytes:
                await trio.sleep(_DRIP_S)

    def take(self, line: bytes) -> None:
        """It is what was expected."""
        answered = (read_frame(line) or {}).get("id")
        if isinstance(answered, str) and answered in self.in_flight:
            self.in_flight.remove(answered)
            self.answered.append(answered)

    def probe(self, probe_id: str) -> None:
        """One more message, for a handler that there is not."""
        self.peer.send(b'{"id":"%b",%b,"message":null}\n' % (probe_id.encode(), _CTX.encode()))
        self._last_bytes = 0

    def close_stdin(self) -> None:
        self.said.append(Said(">", "(the end of its input)"))
        self._is_over = True
        self.peer.close_stdin()

    async def frame(self, within_s: float, *, wants_hello: bool) -> bytes | None:
        """Its next line. A first hello that the case does not speak of is passed over."""
        while (line := await self.peer.line(within_s)) is not None:
            self.said.append(Said("<", shown(line, MOST_SHOWN)))
            frame = read_frame(line)
            is_first, self.greeted = not self.greeted, True
            if is_first and frame is not None and "hello" in frame:
                hello = json.loads(line)["hello"]
                self.hello = hello if isinstance(hello, dict) else {}
                if not wants_hello:
                    continue
            return line
        return None

    def silence(self, within_s: float) -> str:
        if self.peer.exit is not None:
            return f"it ended: {self.peer.exit}"
        return "it closed its stdout" if self.peer.is_over else f"nothing within {within_s:g} s"

    async def search(self, wanted: object, line: bytes | None, difference: str = "") -> Sighting:
        """All that can be found out where `line`, or nothing, came instead of what was wanted. It ends it."""
        peer = self.peer
        held, untaken_bytes, is_over, ended = peer.held, peer.unsent_bytes, peer.is_over, peer.exit
        after_more: list[bytes] = []
        after_eof: list[bytes] = []
        if line is None and ended is None:
            if is_over:
                await peer.until(lambda: peer.exit is not None, _SEARCH_S)
                ended = peer.exit
            elif not held and not untaken_bytes:
                self.probe("probe.more")
                await self._find(after_more, 1)
            if ended is None and not after_more:
                peer.close_stdin()
                await self._find(after_eof, _MOST_FOUND)
        elif line is not None:
            await peer.until(lambda: bool(peer.lines), _AT_ONCE_S)
            after_more += list(peer.lines)[:_MOST_FOUND]
        await peer.end()
        return attrs.evolve(
            self._sighting(ended),
            wanted=wanted,
            line=line,
            difference=difference,
            held=held,
            untaken_bytes=untaken_bytes,
            output_is_over=is_over,
            after_more=after_more,
            after_eof=after_eof,
        )

    async def search_end(self, line: bytes | None) -> Sighting:
        """The same where it should have left."""
        ended = self.peer.exit
        await self.peer.end()
        return attrs.evolve(self._sighting(ended), wants_end=True, line=line)

    def _sighting(self, ended: Exit | None) -> Sighting:
        return Sighting(
            program=self._command,
            in_flight=tuple(self.in_flight),
            answered=tuple(self.answered),
            status=None if ended is None else ended.status,
            signal=None if ended is None else ended.signal,
            log="\n".join(self.peer.logged),
            last_bytes=self._last_bytes,
            has_u2028=self._has_u2028,
            input_is_over=self._is_over,
        )

    async def _find(self, found: list[bytes], most: int) -> None:
        while len(found) < most and (line := await self.peer.line(_SEARCH_S)) is not None:
            found.append(line)
            self.said.append(Said("-", f"then came {shown(line, MOST_SHOWN)}"))
