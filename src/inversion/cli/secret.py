"""Secrets: from the environment, or from the file that NAME_FILE names, as container platforms mount them.

A flag beats both, and the environment beats the file. A secret is never printed, nor is a file's content.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def secret(name: str) -> str | None:
    """What NAME or the file of NAME_FILE says. Raises UsageError."""
    if value := os.environ.get(name):
        return value
    file = os.environ.get(f"{name}_FILE")
    if not file:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip() or None
    except OSError as error:
        raise click.UsageError(f"{name}_FILE={file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{name}_FILE={file} is not UTF-8") from None


def admin_token() -> str | None:
    """The token that all nodes share."""
    return secret("INVERSION_ADMIN_TOKEN")


def database_option(command: FunctionT) -> FunctionT:
    """Which PostgreSQL, for every command that needs one."""
    return click.option(
        "--database-url",
        envvar=["INVERSION_DATABASE_URL", "DATABASE_URL"],
        metavar="URL",
        callback=lambda _context, _parameter, url: url or secret("INVERSION_DATABASE_URL"),
        help="A PostgreSQL.  [env: DATABASE_URL, or INVERSION_DATABASE_URL_FILE]",
    )(command)
