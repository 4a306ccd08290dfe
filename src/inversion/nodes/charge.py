"""What the parent tells a node at its start, and what the node says when it is up.

Down through the node's standard input: the Charge, length first; then nothing more, and its end tells the
node that the parent is gone. Up through the control socket: one Word, length first. Both are pickled: the
two ends are the same program, and nobody else has these files.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from inversion.config import Config, Mode
from inversion.messages import Hello
from inversion.observe.logs import Style
from inversion.opening import Options

#: The parent's end of this pipe lives as long as the parent.
LIFELINE: Final = 0

_LENGTH = struct.Struct(">Q")
_READ_BYTES: Final = 1 << 16


@attrs.frozen(slots=True)
class Source:
    """Where `dev` reads the config again: what the command line named."""

    path: Path
    mode: Mode | None


@attrs.frozen(slots=True)
class Charge:
    """Everything a node is to know; its command line names its number and the control socket."""

    config: Config
    options: Options  #: `reload` and `doors` are made by the node
    source: Source | None  #: None: nothing is reloaded
    listening: Sequence[int]  #: the files of the parent's listening socket
    environ: Mapping[str, str] = attrs.field(repr=False)  #: ours: /proc shows what a process began with
    style: Style
    colour: bool


@attrs.frozen(slots=True)
class Word:
    """A node is up, or cannot start."""

    functions: Sequence[tuple[str, bool, str]] = ()  #: as in app.Started
    hellos: Mapping[str, Hello | None] = attrs.field(factory=dict)
    failure: str | None = None  #: why it cannot start


def packed(said: Charge | Word) -> bytes:
    """For `unpacked_length` and `unpacked`."""
    data = pickle.dumps(said)
    return _LENGTH.pack(len(data)) + data


def word_of(data: bytes) -> Word | None:
    """What has been said once all of it has come; None before that."""
    begin = _LENGTH.size
    if len(data) < begin or len(data) < begin + _LENGTH.unpack_from(data)[0]:
        return None
    word = pickle.loads(data[begin:])
    assert isinstance(word, Word)
    return word


def receive_charge() -> Charge:
    """For a node, first of all. Raises EOFError: the parent is gone already."""
    charge = pickle.loads(_read(_LENGTH.unpack(_read(_LENGTH.size))[0]))
    assert isinstance(charge, Charge)
    return charge


def _read(count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = os.read(LIFELINE, min(count - len(parts), _READ_BYTES))
        if not part:
            raise EOFError("the parent ended before it had said what to do")
        parts += part
    return parts
