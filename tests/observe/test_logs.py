"""What a log line looks like, for people and for machines."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from inversion.observe import logs
from inversion.observe.logs import Level, Style

log = logs.get_logger("store")  # made before `configure`, as in every module


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    yield io.StringIO()
    logs.configure()


def as_json(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_has_one_event_a_line(stream: io.StringIO) -> None:
    logs.configure(Style.JSON, stream)
    log.info("opened", connections=3)
    log.warning("lost")
    first, second = as_json(stream)
    assert (first["event"], first["logger"], first["level"], first["connections"]) == (
        "opened",
        "store",
        "info",
        3,
    )
    assert str(first["time"]).endswith("Z")
    assert (second["event"], second["level"]) == ("lost", "warning")


def test_readable_lines_have_the_event_and_its_fields(stream: io.StringIO) -> None:
    logs.configure(Style.READABLE, stream)
    log.warning("lost", connections=3, reason="two words")
    assert stream.getvalue().endswith('warning store lost connections=3 reason="two words"\n')


@pytest.mark.parametrize("style", list(Style))
def test_a_function_cannot_forge_a_line(stream: io.StringIO, style: Style) -> None:
    logs.configure(style, stream)
    logs.function_line("cart", "stderr", "a\nb\r\x1b[31m\u2028\x85c\ud800\x00\u202e")
    text = stream.getvalue()
    assert len(text.splitlines()) == 1
    assert not set("\x1b\x00\u202e\x85") & set(text)


def test_a_function_line_names_function_and_stream(stream: io.StringIO) -> None:
    logs.configure(Style.JSON, stream)
    logs.function_line("cart", "stdout", "hello")
    (event,) = as_json(stream)
    assert (event["function"], event["stream"], event["text"]) == ("cart", "stdout", "hello")


@pytest.mark.parametrize("style", list(Style))
def test_secrets_are_masked(stream: io.StringIO, style: Style) -> None:
    logs.configure(style, stream)
    log.info(
        "opened",
        admin_token="hush1",
        url="postgres://me:hush2@host/db",
        conninfo="host=x password=hush3 user=me",
        error="could not connect to postgres://me:hush4@host",
        quoted="password='hush5 hush6'",
        unquoted="postgresql://me:hu/sh@7@host/db?sslpassword=hush8&x=1",
        field="Authorization: Bearer hush9",
        environment="PGPASSWORD=hush10",
    )
    text = stream.getvalue()
    assert "hush" not in text
    assert "sh@7" not in text
    assert "host/db" in text
    assert "user=me" in text


def test_a_long_text_is_cut(stream: io.StringIO) -> None:
    logs.configure(Style.JSON, stream)
    logs.function_line("cart", "stderr", "x" * 100_000)
    assert "more)" in stream.getvalue()
    assert len(stream.getvalue()) < 10_000


def test_an_exception_comes_with_its_traceback(stream: io.StringIO) -> None:
    logs.configure(Style.JSON, stream)
    try:
        raise ValueError("what went wrong")
    except ValueError:
        log.exception("failed")
    (event,) = as_json(stream)
    assert event["level"] == "error"
    assert "ValueError: what went wrong" in str(event["exception"])


def test_what_is_below_the_level_is_left_out(stream: io.StringIO) -> None:
    logs.configure(Style.JSON, stream, level=Level.WARNING)
    log.info("quiet")
    log.error("loud")
    assert [event["event"] for event in as_json(stream)] == ["loud"]


def test_any_value_can_be_a_field(stream: io.StringIO) -> None:
    logs.configure(Style.JSON, stream)
    log.bind(bound=1).info("odd", raw=b"\xff", big=2**70, nothing=None, items=[1, 2])
    (event,) = as_json(stream)
    assert (event["bound"], event["nothing"], event["items"], event["big"]) == (1, None, "[1, 2]", str(2**70))


def test_colours_are_for_terminals_only(stream: io.StringIO) -> None:
    logs.configure(Style.READABLE, stream)
    log.info("plain")
    assert "\x1b" not in stream.getvalue()
    logs.configure(Style.READABLE, stream, colour=True)
    log.info("coloured")
    assert "\x1b" in stream.getvalue()
