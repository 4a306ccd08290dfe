"""Replaces a part of a node; one that is not there any more is an error, not a bug that nobody can find."""

from __future__ import annotations

from typing import Any

from inversion.state import sql


def put(owner: Any, name: str, part: Any) -> Any:
    """Put a part in place of another; the one that was there."""
    before = vars(owner)[name]
    setattr(owner, name, part)
    return before


def rewrite(name: str, part: str, *, by: str = "") -> None:
    """Replace a part of a statement's text."""
    before: sql.Statement = vars(sql)[name]
    text = before.text.decode()
    assert part in text, f"the statement {name} has changed: {part}"
    after = sql.statement(text.replace(part, by))
    setattr(sql, name, after)
    sql.SAYING = tuple(after if each is before else each for each in sql.SAYING)  # type: ignore[misc]
