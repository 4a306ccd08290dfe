"""When schedules fire, against an enumeration of every minute; what becomes of instants that were missed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inversion.protocol import cron
from inversion.protocol.cron import Firing, Missed, Schedule, fault_of, next_after, plan

MINUTE = timedelta(minutes=1)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Auckland", "America/St_Johns")
#: Spring and autumn of Berlin, New York, Auckland (the other way round) and St. John's; a leap day; an
#: ordinary day.
DAYS = tuple(
    int(datetime.fromisoformat(f"{day}T00:00Z").timestamp())
    for day in (
        "2026-03-29",
        "2026-10-25",
        "2026-03-08",
        "2026-11-01",
        "2026-09-26",
        "2026-04-05",
        "2028-02-29",
        "2026-07-01",
    )
)


def s(text: str, zone: str = "UTC") -> int:
    """The instant of a local time; of one that comes twice, the first."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


@attrs.frozen
class Field:
    text: str
    values: frozenset[int]


def fields(least: int, most: int) -> st.SearchStrategy[Field]:
    """One of the five, and what it stands for."""
    whole = list(range(least, most + 1))
    number = st.integers(least, most)
    step = st.integers(1, most)

    def between(ends: tuple[int, int], every: int) -> Field:
        low, high = sorted(ends)
        text = f"{low}-{high}" if every == 1 else f"{low}-{high}/{every}"
        if low == high:
            return Field(f"{low}", frozenset([low]))
        return Field(text, frozenset(range(low, high + 1, every)))

    return st.one_of(
        st.just(Field("*", frozenset(whole))),
        step.map(lambda n: Field(f"*/{n}", frozenset(whole[::n]))),
        number.map(lambda n: Field(f"{n}", frozenset([n]))),
        st.lists(number, min_size=2, max_size=4).map(
            lambda several: Field(",".join(map(str, several)), frozenset(several))
        ),
        st.builds(between, st.tuples(number, number), st.integers(1, 4)),
    )


@attrs.frozen
class Rule:
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field

    @property
    def expression(self) -> str:
        return " ".join(each.text for each in attrs.astuple(self, recurse=False))

    def matches(self, local: datetime) -> bool:
        day = local.day in self.day.values
        weekday = local.isoweekday() % 7 in {value % 7 for value in self.weekday.values}
        both = self.day.text.startswith("*") or self.weekday.text.startswith("*")
        return (
            local.minute in self.minute.values
            and local.hour in self.hour.values
            and local.month in self.month.values
            and (day and weekday if both else day or weekday)
        )

    def instants(self, zone: str, after_s: int, until_s: int) -> list[int]:
        """Every minute in (after, until] is looked at."""
        found = self._of_days if self._is_of_days else self._of_minutes
        return sorted({one for one in found(ZoneInfo(zone), after_s, until_s) if after_s < one <= until_s})

    @property
    def _is_of_days(self) -> bool:
        return not (self.minute.text.startswith("*") or self.hour.text.startswith("*"))

    def _of_minutes(self, zone: ZoneInfo, after_s: int, until_s: int) -> Iterator[int]:
        for instant_s in range(after_s // 60 * 60, until_s + 1, 60):
            if self.matches(datetime.fromtimestamp(instant_s, zone)):
                yield instant_s

    def _of_days(self, zone: ZoneInfo, after_s: int, until_s: int) -> Iterator[int]:
        local = datetime.fromtimestamp(after_s // 60 * 60 - 4 * 3_600, zone).replace(tzinfo=None)
        end = datetime.fromtimestamp(until_s, zone).replace(tzinfo=None) + timedelta(hours=4)
        while local <= end:
            if self.matches(local):
                real = local
                while not exists(real, zone):
                    real += MINUTE
                yield int(real.replace(tzinfo=zone).timestamp())
            local += MINUTE


def exists(local: datetime, zone: ZoneInfo) -> bool:
    instant = local.replace(tzinfo=zone).astimezone(UTC)
    return instant.astimezone(zone).replace(tzinfo=None) == local


RULES = st.builds(Rule, fields(0, 59), fields(0, 23), fields(1, 31), fields(1, 12), fields(0, 7))
BEGINS = st.builds(lambda day, off: day + off, st.sampled_from(DAYS), st.integers(-100_000, 100_000))


def all_instants(expression: str, zone: str, after_s: int, until_s: int) -> list[int]:
    found: list[int] = []
    while (one := next_after(expression, zone, found[-1] if found else after_s)) is not None:
        if one > until_s:
            break
        assert one > (found[-1] if found else after_s)
        found.append(one)
    return found


@settings(max_examples=300, deadline=None)
@given(RULES, st.sampled_from(ZONES), BEGINS, st.integers(60, 200_000))
def test_a_schedule_fires_at_the_minutes_that_match_and_at_no_others(
    rule: Rule, zone: str, after_s: int, span_s: int
) -> None:
    expression = rule.expression
    if fault_of(expression, zone) is not None:
        assert "31" in rule.day.text or "30" in rule.day.text  # it never comes
        return
    expected = rule.instants(zone, after_s, after_s + span_s)
    assert all_instants(expression, zone, after_s, after_s + span_s) == expected


@settings(max_examples=150, deadline=None)
@given(RULES, st.sampled_from(ZONES), BEGINS, st.integers(60, 200_000), st.sampled_from(Missed))
@example(Rule(*(Field("*", frozenset(range(60))),) * 5), "Europe/Berlin", DAYS[0] - 7_200, 86_400, Missed.ALL)
def test_what_is_on_time_is_always_fired_and_what_was_missed_as_the_policy_says(
    rule: Rule, zone: str, last_s: int, span_s: int, missed: Missed
) -> None:
    if fault_of(rule.expression, zone) is not None:
        return
    now_s = last_s + span_s
    due = rule.instants(zone, last_s, now_s)
    on_time = [one for one in due if now_s - one <= 60]
    late = [one for one in due if now_s - one > 60]
    match missed:
        case Missed.SKIP:
            expected = on_time
        case Missed.ONCE:
            expected = on_time or due[-1:]
        case Missed.ALL:
            expected = late[-100:] + on_time
    found = plan(Schedule("x", rule.expression, zone, missed=missed), last_s, now_s)
    if not due:
        assert found is None
        return
    left = sorted(set(due) - set(expected))
    assert found is not None
    assert list(found.instants_s) == expected
    assert found.last_s == due[-1]
    assert (found.left_out is None) == (not left)
    if left:
        assert found.left_out is not None
        assert (found.left_out[0], max(left) < found.left_out[1]) == (left[0], True)
        assert not expected or found.left_out[1] == expected[0]


def local(expression: str, zone: str, after: str, until: str) -> list[str]:
    """Its instants between two local times, as clocks on the wall show them."""
    found = all_instants(expression, zone, s(after, zone), s(until, zone))
    return [datetime.fromtimestamp(one, ZoneInfo(zone)).isoformat()[11:22] for one in found]


SPRING = ("Europe/Berlin", "2026-03-29T00:00", "2026-03-29T05:00")
AUTUMN = ("Europe/Berlin", "2026-10-25T00:00", "2026-10-25T05:00")


@pytest.mark.parametrize(
    ("expression", "when", "expected"),
    [
        # 02:00 to 03:00 is left out: a time of day in it comes at 03:00, and only once
        ("30 2 * * *", SPRING, ["03:00:00+02"]),
        ("0,15,30 2 * * *", SPRING, ["03:00:00+02"]),
        ("0 2,3 * * *", SPRING, ["03:00:00+02"]),
        ("30 1,3 * * *", SPRING, ["01:30:00+01", "03:30:00+02"]),
        # what is repeated follows the minutes that pass
        ("30 * * * *", SPRING, ["00:30:00+01", "01:30:00+01", "03:30:00+02", "04:30:00+02"]),
        ("*/30 2 * * *", SPRING, []),
        # 02:00 to 03:00 comes twice: a time of day in it comes once, at its first
        ("30 2 * * *", AUTUMN, ["02:30:00+02"]),
        ("30 2,3 * * *", AUTUMN, ["02:30:00+02", "03:30:00+01"]),
        (
            "30 * * * *",
            AUTUMN,
            ["00:30:00+02", "01:30:00+02", "02:30:00+02", "02:30:00+01", "03:30:00+01", "04:30:00+01"],
        ),
        ("*/30 2 * * *", AUTUMN, ["02:00:00+02", "02:30:00+02", "02:00:00+01", "02:30:00+01"]),
    ],
)
def test_the_changes_of_summer_time_are_debians(
    expression: str, when: tuple[str, str, str], expected: list[str]
) -> None:
    assert local(expression, *when) == expected


def test_a_look_back_from_within_the_repeated_hour_goes_forwards_only() -> None:
    second_half_past_two = s("2026-10-25T02:30", "Europe/Berlin") + 3_600
    assert next_after("45 2 * * *", "Europe/Berlin", second_half_past_two) == s(
        "2026-10-26T02:45", "Europe/Berlin"
    )


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 4 L * *", "2028-02-01T00:00", "2028-02-29T04:00"),
        ("0 4 * * FRI#2", "2026-11-01T00:00", "2026-11-13T04:00"),
        ("0 4 13 * FRI", "2026-11-14T00:00", "2026-11-20T04:00"),
        ("0 0 29 2 *", "2026-01-01T00:00", "2028-02-29T00:00"),
        ("0 0 1 JAN SUN-MON", "2026-01-05T00:01", "2026-01-11T00:00"),
    ],
)
def test_days_may_be_told_from_the_end_of_a_month_and_by_names(
    expression: str, after: str, expected: str
) -> None:
    assert next_after(expression, "UTC", s(after)) == s(expected)


def count_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often the library was asked for a next instant."""
    steps = 0
    real = cron._instants

    def counted(expression: str, zone: str, after_s: int) -> Iterator[int]:
        nonlocal steps
        for instant_s in real(expression, zone, after_s):
            steps += 1
            yield instant_s

    monkeypatch.setattr(cron, "_instants", counted)
    return lambda: steps


@pytest.mark.parametrize("missed", Missed)
@pytest.mark.parametrize("expression", ["* * * * *", "* * * 1 *", "* 3 1 1 *", "0 0 29 2 *", "*/7 1-3 * * 1"])
def test_years_that_were_missed_are_not_gone_through(
    expression: str, missed: Missed, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = count_steps(monkeypatch)
    found = plan(
        Schedule("x", expression, "Europe/Berlin", missed=missed),
        s("2000-01-01T00:00"),
        s("2026-03-05T12:00"),
    )
    assert found is not None
    following_s = next_after(expression, "Europe/Berlin", found.last_s)
    assert following_s is not None
    assert following_s > s("2026-03-05T12:00"), "there is a newer one"
    assert len(found.instants_s) <= cron.MOST_MISSED + 2
    for one, other in pairwise(found.instants_s):
        assert next_after(expression, "Europe/Berlin", one) == other
    assert found.left_out is not None or expression == "0 0 29 2 *"
    assert steps() < 30_000


def test_a_schedule_that_was_fired_is_not_due_again() -> None:
    schedule = Schedule("x", "*/5 * * * *")
    assert plan(schedule, s("2026-11-24T20:00"), s("2026-11-24T20:04") + 59) is None
    due = plan(schedule, s("2026-11-24T20:00"), s("2026-11-24T20:05"))
    assert due == Firing((s("2026-11-24T20:05"),), s("2026-11-24T20:05"), None)
    assert plan(schedule, due.last_s, s("2026-11-24T20:05") + 30) is None


def test_a_database_whose_clock_was_set_back_fires_nothing() -> None:
    assert (
        plan(Schedule("x", "* * * * *", missed=Missed.ALL), s("2026-11-24T20:00"), s("2026-11-24T19:00"))
        is None
    )


@pytest.mark.parametrize(
    ("expression", "zone", "field", "words"),
    [
        ("* * * *", "UTC", "schedule", "must be five fields"),
        ("* * * * * *", "UTC", "schedule", "must be five fields"),  # the library would take seconds
        ("@daily", "UTC", "schedule", "must be five fields"),
        ("", "UTC", "schedule", "must be five fields"),
        ("٣ * * * *", "UTC", "schedule", "must be five fields"),
        ("60 * * * *", "UTC", "schedule", "bad minute"),
        ("* 24 * * *", "UTC", "schedule", "bad hour"),
        ("* * 0 * *", "UTC", "schedule", "bad day:"),
        ("* * * 13 *", "UTC", "schedule", "bad month"),
        ("* * * * MOO", "UTC", "schedule", "bad weekday"),
        ("*/0 * * * *", "UTC", "schedule", "bad minute"),
        ("5-1 * * * *", "UTC", "schedule", "bad minute"),
        ("1# * * * *", "UTC", "schedule", "bad minute"),
        ("* * * * 1#6", "UTC", "schedule", "bad weekday"),
        ("0 0 31 2,4 *", "UTC", "schedule", "bad day"),
        (f"{'9' * 150} * * * *", "UTC", "schedule", "bad minute"),
        (f"{'1,' * 150}1 * * * *", "UTC", "schedule", "more than 200 characters"),
        ("* * * * *", "europe/berlin", "zone", 'did you mean "Europe/Berlin"?'),
        ("* * * * *", "Europe", "zone", "must be a time zone"),
        ("* * * * *", "../../etc/passwd", "zone", "must be a time zone"),
        ("* * * * *", "/usr/share/zoneinfo/UTC", "zone", "must be a time zone"),
        ("* * * * *", "", "zone", "must be a time zone"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_the_reason(
    expression: str, zone: str, field: str, words: str
) -> None:
    found = fault_of(expression, zone)
    assert found is not None
    assert found[0] == field
    assert words in found[1]


@given(st.text(max_size=40) | st.text("0123456789*/,-#LW \tabcJANMONsunfri", max_size=40))
def test_any_text_is_a_schedule_or_a_fault(text: str) -> None:
    if fault_of(text, "UTC") is None:
        assert next_after(text, "Europe/Berlin", DAYS[0]) is not None
