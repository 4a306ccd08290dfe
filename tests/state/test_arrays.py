"""Binary arrays: what the server reads is what was given."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inversion.state import arrays

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))
ON_SERVER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def server(server_url: str):  # type: ignore[no-untyped-def]
    with psycopg.connect(server_url, autocommit=True) as connection:
        yield connection.pgconn


def read(server: psycopg.pq.abc.PGconn, array: bytes, kind: str) -> list[bytes | None]:
    """The elements as the server prints them; a text array as it has them."""
    query = f"SELECT (e.value)::text FROM unnest($1::{kind}[]) WITH ORDINALITY AS e (value, at) ORDER BY e.at"
    result = server.exec_params(query.encode(), [array], None, [1], 1)
    assert result.status == psycopg.pq.ExecStatus.TUPLES_OK, result.error_message
    return [result.get_value(row, 0) for row in range(result.ntuples)]


@ON_SERVER
@given(values=st.lists(st.none() | TEXT.map(str.encode)))
def test_texts_arrive_as_they_were_given(server: psycopg.pq.abc.PGconn, values: list[bytes | None]) -> None:
    assert read(server, arrays.texts(values), "text") == values


@pytest.mark.parametrize("length", [1023, 1024, 70_000])
def test_long_texts_arrive_as_they_were_given(server: psycopg.pq.abc.PGconn, length: int) -> None:
    values = [b"x" * length, b"", b"y" * length]
    assert read(server, arrays.texts(values), "text") == values


@ON_SERVER
@given(values=st.lists(st.none() | st.uuids()))
def test_uuids_arrive_as_they_were_given(server: psycopg.pq.abc.PGconn, values: list[object]) -> None:
    array = arrays.uuids([None if value is None else value.bytes for value in values])  # type: ignore[attr-defined]
    assert read(server, array, "uuid") == [None if value is None else str(value).encode() for value in values]


@ON_SERVER
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_integers_arrive_as_they_were_given(server: psycopg.pq.abc.PGconn, values: list[int]) -> None:
    assert read(server, arrays.int8s(values), "int8") == [str(value).encode() for value in values]
