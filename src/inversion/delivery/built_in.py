"""What the dispatcher asks of a function of ours, which no user's config has."""

from __future__ import annotations

from typing import Protocol

from inversion.config import Function
from inversion.mailbox import PostOffice


class BuiltIn(Protocol):
    """Nobody calls it; its messages have a post office of their own."""

    @property
    def function(self) -> Function: ...

    @property
    def office(self) -> PostOffice: ...

    @property
    def most(self) -> int:
        """How many of its messages a node holds."""
