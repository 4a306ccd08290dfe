"""Schedules as people write them, in inversion.toml and in hellos: what is read, the sentence for a fault."""

from __future__ import annotations

from pathlib import Path

import attrs
import orjson
import pytest

from inversion.config_file import ConfigError, load
from inversion.messages import SILENT, Address, Delivery, MessageIn, Request, State, Turn
from inversion.protocol.cron import Missed, Schedule
from inversion.protocol.frames import encode_message_in, read_hello
from inversion.protocol.schedules import MOST_SCHEDULES


def read(folder: Path, cron: str, more: str = "") -> dict[str, Schedule]:
    (folder / "inversion.toml").write_text(f'[functions.report]\ncommand = "report"\n{more}\n{cron}\n')
    return dict(load(folder).functions["report"].cron)


def faults(folder: Path, cron: str, more: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, cron, more)
    return str(caught.value)


def test_a_string_alone_is_the_five_fields(tmp_path: Path) -> None:
    found = read(tmp_path, '[functions.report.cron]\nnightly = "0  4 * * mon-fri"')
    assert found == {"nightly": Schedule("nightly", "0 4 * * MON-FRI")}
    (nightly,) = found.values()
    assert (nightly.zone, nightly.key, nightly.handler, nightly.message) == ("UTC", None, "call", b"null")
    assert nightly.missed is Missed.ONCE


def test_every_key_of_a_schedule_is_read(tmp_path: Path) -> None:
    table = """
        [functions.report.cron.nightly]
        schedule = "*/5 * * * *"
        zone = "Europe/Berlin"
        key = "eu-1"
        handler = "sum_up"
        message = { since = 2026-11-24, list = [1, 2.5, true] }
        missed = "all"
        """
    assert read(tmp_path, table) == {
        "nightly": Schedule(
            "nightly",
            "*/5 * * * *",
            "Europe/Berlin",
            "eu-1",
            "sum_up",
            b'{"since":"2026-11-24","list":[1,2.5,true]}',
            Missed.ALL,
        )
    }


def test_a_change_of_what_is_said_or_done_leaves_the_rule_and_one_of_time_or_zone_does_not() -> None:
    one = Schedule("x", "* * * * *")
    assert attrs.evolve(one, message=b"1", handler="other", key="k", missed=Missed.ALL).rule == one.rule
    assert attrs.evolve(one, expression="*/1 * * * *").rule != one.rule
    assert attrs.evolve(one, zone="Europe/Berlin").rule != one.rule


@pytest.mark.parametrize(
    ("cron", "sentence"),
    [
        ("cron = 3", "functions.report.cron must be a table of schedules by their names"),
        ("cron.nightly = 3", '.cron.nightly must be "0 4 * * *" or { schedule = '),
        ('cron.Nightly = "0 4 * * *"', ".cron.Nightly: a schedule is named by a lower-case letter"),
        ('cron.nightly = "0 4 * *"', ".cron.nightly.schedule must be five fields"),
        ('cron.nightly = "0 0 4 * * *"', ".cron.nightly.schedule must be five fields"),
        ('cron.nightly = "0 25 * * *"', '.cron.nightly.schedule = "0 25 * * *" has a bad hour'),
        ('cron.nightly = { zone = "UTC" }', ".cron.nightly.schedule is missing"),
        ("cron.nightly = { schedule = 5 }", ".cron.nightly.schedule must be a string, not 5"),
        ('cron.nightly = { schedule = "0 4 * * *", zome = "UTC" }', "unknown key zome; did you mean zone?"),
        ('cron.nightly = { schedule = "0 4 * * *", at = "UTC" }', "known here: schedule, zone, key"),
        (
            'cron.nightly = { schedule = "0 4 * * *", zone = "Europe/Berlim" }',
            '.cron.nightly.zone must be a time zone such as "UTC" or "Europe/Berlin", not "Europe/Berlim"; '
            'did you mean "Europe/Berlin"?',
        ),
        (
            'cron.nightly = { schedule = "0 4 * * *", handler = "Sum Up" }',
            '.cron.nightly.handler must be a lower-case letter, then at most 62 of a-z, 0-9, "_", "-", not '
            '"Sum Up"',
        ),
        ('cron.nightly = { schedule = "0 4 * * *", key = "-" }', ".cron.nightly.key cannot be -"),
        (
            'cron.nightly = { schedule = "0 4 * * *", missed = "none" }',
            '.cron.nightly.missed must be "skip" or "once" or "all", not "none"',
        ),
        (
            'cron.nightly = { schedule = "0 4 * * *", message = { n = nan } }',
            ".cron.nightly.message holds a number that JSON has not",
        ),
        (
            f'cron.nightly = {{ schedule = "0 4 * * *", message = "{"x" * 70_000}" }}',
            ".cron.nightly.message has 70002 bytes, more than 65536",
        ),
        (
            f'cron.nightly = {{ schedule = "0 4 * * *", message = {"[" * 70}{"]" * 70} }}',
            ".cron.nightly.message will not do: JSON nested deeper than 64 levels",
        ),
        (
            "\n".join(f'cron.n{n} = "0 4 * * *"' for n in range(MOST_SCHEDULES + 1)),
            ".cron has 101 schedules: a function has 100 at most",
        ),
    ],
)
def test_what_cannot_be_kept_is_a_sentence_that_names_it(tmp_path: Path, cron: str, sentence: str) -> None:
    found = faults(tmp_path, cron)
    assert found.startswith(f"{tmp_path}/inversion.toml: functions.report.cron")
    assert sentence in found


def test_each_fault_of_a_schedule_is_told_at_once(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        'cron.a = { schedule = "* *", key = "-", handler = "X", missed = "x" }\ncron.b = "* *"',
    )
    assert len(found.splitlines()) == 5


def test_a_schedule_with_a_key_is_for_a_function_with_state(tmp_path: Path) -> None:
    cron = 'cron.nightly = { schedule = "0 4 * * *", key = "k" }'
    assert "cron.nightly.key belongs to a function with state" in faults(tmp_path, cron, "state = false")


def test_a_hello_lists_its_schedules() -> None:
    hello = read_hello(
        b'{"cron":[{"name":"nightly","schedule":"0 4 * * *","zone":"Asia/Tokyo","key":"k","message":[1]},'
        b'{"name":"hourly","schedule":"0 * * * *"}]}'
    )
    assert hello.cron.faults == []
    assert hello.cron.schedules == {
        "nightly": Schedule("nightly", "0 4 * * *", "Asia/Tokyo", "k", message=b"[1]"),
        "hourly": Schedule("hourly", "0 * * * *"),
    }


@pytest.mark.parametrize("said", [b"{}", b'{"cron":null}', b'{"cron":[]}'])
def test_a_hello_without_schedules_has_none(said: bytes) -> None:
    hello = read_hello(said)
    assert (dict(hello.cron.schedules), list(hello.cron.faults)) == ({}, [])


@pytest.mark.parametrize(
    ("cron", "fault"),
    [
        (b"3", " must be a list of objects"),
        (b'{"nightly":"0 4 * * *"}', " must be a list of objects"),
        (b'["0 4 * * *"]', " must be a list of objects"),
        (b'[{"schedule":"0 4 * * *"}]', ".None: a schedule is named by"),
        (b'[{"name":"n","schedule":"0 4 * *"}]', ".n.schedule must be five fields"),
        (b'[{"name":"n","schedule":"0 4 * * *","x":1}]', ".n: unknown key x"),
        (b'[{"name":"n","schedule":"0 4 * * *","message":1e999}]', ": a number is not finite"),
    ],
)
def test_a_fault_in_a_hello_is_told_and_the_hello_stands(cron: bytes, fault: str) -> None:
    hello = read_hello(b'{"runtime":"x","cron":%b}' % cron)
    assert hello.runtime == "x"
    assert dict(hello.cron.schedules) == {}
    (told,) = hello.cron.faults
    assert told.startswith(fault)


def test_the_good_ones_beside_a_bad_one_are_taken() -> None:
    hello = read_hello(
        b'{"cron":[{"name":"n","schedule":"0 4 * * *"},{"name":"n","schedule":"0 5 * * *"},{"name":"m",'
        b'"schedule":"0 6 * * *"}]}'
    )
    assert {name: each.expression for name, each in hello.cron.schedules.items()} == {
        "n": "0 4 * * *",
        "m": "0 6 * * *",
    }
    assert hello.cron.faults == [".n is there twice"]


def test_a_frame_tells_which_schedule_was_due_and_when() -> None:
    address = Address("report", "k")
    delivery = Delivery(address, "~cron/report/nightly", 1_767_240_000, 0, "m1", "call", b"null")
    request = Request(
        *("m1", address, "call", b"null", "application/json", 0.0, 0.0, None, "now", "then", "seed", None),
        respond=lambda response: None,
    )
    request.delivery = delivery
    state = State(None, 0, None)
    frame = orjson.loads(encode_message_in(MessageIn.of(Turn(address, [request], 0.0), state)))
    assert frame["ctx"]["meta"] == {"cron": "nightly", "scheduled": "2026-01-01T04:00:00Z"}
    request.delivery = attrs.evolve(delivery, sender="report/other")
    frame = orjson.loads(encode_message_in(MessageIn.of(Turn(address, [request], 0.0), state)))
    assert frame["ctx"]["meta"] == {}


def test_a_silent_program_declares_nothing() -> None:
    assert dict(SILENT.cron.schedules) == {}
