"""Arguments in the query of a call, on plain values."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote_from_bytes, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inversion.config import Arguments, Function, Mode
from inversion.errors import RequestRefused
from inversion.http.asked import read_arguments

OPEN = Function("fn", ("x",), Path(), mode=Mode.EXEC, arguments=Arguments.QUERY)
SHUT = Function("fn", ("x",), Path(), mode=Mode.EXEC)


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        (b"arg=", ("",)),
        (b"arg=-l&arg=a+b&arg=%2B%26%3D", ("-l", "a b", "+&=")),
        (b"arg=a=b", ("a=b",)),
        (b"arg=%ff", ("\udcff",)),
    ],
)
def test_each_arg_is_one_argument_in_order(query: bytes, arguments: tuple[str, ...]):
    assert read_arguments(OPEN, query) == arguments


@given(st.lists(st.binary(min_size=1).filter(lambda value: 0 not in value), min_size=1))
def test_any_bytes_but_nul_come_through(values: list[bytes]):
    query = "&".join(f"arg={quote_from_bytes(value)}" for value in values).encode()
    assert [each.encode("utf-8", "surrogateescape") for each in read_arguments(OPEN, query)] == values


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_what_a_form_encodes_comes_through(text: str):
    assert read_arguments(OPEN, b"arg=" + quote_plus(text).encode()) == (text,)


@pytest.mark.parametrize(
    "query", [b"", b"arg", b"a=b", b"arg=a&b", b"arg=%", b"arg=%4", b"arg=%00", b"ARG=a", b"arg=a&"]
)
def test_anything_else_in_the_query_is_refused(query: bytes):
    with pytest.raises(RequestRefused, match="once for each argument"):
        read_arguments(OPEN, query)


def test_nobody_adds_arguments_where_the_config_does_not_say_so():
    with pytest.raises(RequestRefused, match='arguments = "query"'):
        read_arguments(SHUT, b"arg=a")
