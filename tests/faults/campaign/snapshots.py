"""The entities of couriers.py and all that is under way between them, in one snapshot, and what must be true.

Money that has left an account is on its way, taken, or on its way back. A ball is with one player or on one
way. Of what was sent to everybody each has heard the first so many, and the rest waits for it in order. A
timer that is wound waits or has rung, and no other waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
import orjson
import psycopg
from tests.faults.campaign.clockwork import Program

FUNCTION: Final = "courier-py"
#: What couriers.py says of an account that there is not yet, and whose amounts come back.
OPENING: Final = 1_000
REFUSED: Final = 7
_STATES: Final = """
    SELECT key, state FROM inversion.entity
     WHERE function = %s AND state IS NOT NULL AND (%s::text[] IS NULL OR key = ANY (%s))
"""
_MESSAGES: Final = "SELECT key, sender, handler, body FROM inversion.message WHERE function = %s"
_OURS: Final = "SELECT function, sender FROM inversion.message WHERE function IN ('~topic', '~http')"
_SCHEDULES: Final = """
    SELECT substr(name, 2), extract(epoch FROM last_at)::int8 / 60 FROM inversion.cron WHERE function = %s
"""
_TIMERS: Final = """
    SELECT key, name, target_key, handler, body, attempt, due_at - born_at = (body::json->>'delay')::interval
      FROM inversion.timer WHERE function = %s
"""
_LETTERS: Final = "SELECT key, handler, error FROM inversion.dead_letter WHERE handler <> 'nobody' LIMIT 3"
_EXPECTED: Final = "SELECT count(*) FROM inversion.dead_letter WHERE handler = 'nobody'"
State = dict[str, Any]


@attrs.frozen
class Message:
    key: str
    sender: str
    handler: str
    body: dict[str, Any]


@attrs.frozen
class Timer:
    owner: str
    name: str
    key: str
    handler: str
    body: dict[str, Any]
    punctual: bool  #: it is due when it was asked to be, by the database's clock


@attrs.frozen
class Snapshot:
    states: Mapping[str, State]
    messages: Sequence[Message]
    timers: Sequence[Timer]
    letters: Sequence[str]  #: dead ones that nobody expects
    misdirected: int  #: dead letters that were to be
    publications: Counter[str] = attrs.field(factory=Counter)  #: under way, by who published
    requests: Counter[str] = attrs.field(factory=Counter)  #: to the world outside, by who asked
    schedules: Mapping[str, int] = attrs.field(factory=dict)  #: by who hears them, the minute they are at

    @property
    def under_way(self) -> int:
        ours = self.publications.total() + self.requests.total()
        return len(self.messages) + len(self.timers) + ours


@attrs.define
class Cast:
    """Who takes part, as far as it is to be judged."""

    accounts: Sequence[str]
    spreaders: Sequence[str]
    crowd: Sequence[str]
    chains: dict[str, int] = attrs.field(factory=dict)  #: by name, the hops of each
    programs: dict[str, Program] = attrs.field(factory=dict)  #: by clock
    publishers: Sequence[str] = ()
    others: Sequence[str] = ()  #: of whom others know what must be true

    @property
    def keys(self) -> set[str]:
        keys = {*self.accounts, *self.spreaders, *self.crowd, *self.publishers, *self.others}
        keys.update(player for chain in self.chains for player in players(chain))
        keys.update(key for each in self.programs.values() for key in (each.clock, each.bell))
        return keys

    def copy(self) -> Cast:
        return attrs.evolve(self, chains=dict(self.chains), programs=dict(self.programs))


def players(chain: str) -> tuple[str, str]:
    return f"{chain}-a", f"{chain}-b"


def take(url: str, keys: Sequence[str] | None = None) -> Snapshot:
    """As the database has it at one moment; of entities these or all."""
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        states = connection.execute(_STATES, (FUNCTION, keys, keys)).fetchall()
        messages = connection.execute(_MESSAGES, (FUNCTION,)).fetchall()
        timers = connection.execute(_TIMERS, (FUNCTION,)).fetchall()
        letters = connection.execute(_LETTERS).fetchall()
        ours = connection.execute(_OURS).fetchall()
        schedules = connection.execute(_SCHEDULES, (FUNCTION,)).fetchall()
        ((misdirected,),) = connection.execute(_EXPECTED).fetchall()
    return Snapshot(
        {key: orjson.loads(state) for key, state in states},
        [
            Message(key, sender.partition("/")[2], handler, orjson.loads(body))
            for key, sender, handler, body in messages
        ],
        [
            Timer(owner, name, key, handler, orjson.loads(body), attempt > 0 or punctual is not False)
            for owner, name, key, handler, body, attempt, punctual in timers
        ],
        [f"{handler} of {key}: {error}" for key, handler, error in letters],
        misdirected,
        *(
            Counter(sender.partition("/")[2] for function, sender in ours if function == which)
            for which in ("~topic", "~http")
        ),
        {f"chime-{number}": int(minute) for number, minute in schedules},
    )


def faults_of(snapshot: Snapshot, cast: Cast) -> Iterator[str]:
    """What cannot be, in sentences."""
    yield from (f"a dead letter, {letter}" for letter in snapshot.letters)
    for key, state in snapshot.states.items():
        yield from (f"{key}: {what}" for what in state.get("wrong", ())[:1])
    yield from _money(snapshot, cast)
    yield from _misdirected(snapshot, cast)
    yield from _balls(snapshot, cast)
    yield from _crowd(snapshot, cast)
    for program in cast.programs.values():
        yield from _clock(snapshot, program)


def _money(snapshot: Snapshot, cast: Cast) -> Iterator[str]:
    there = [snapshot.states[key] for key in cast.accounts if key in snapshot.states]
    ways = [each for each in (*snapshot.messages, *snapshot.timers) if each.handler in ("take", "told")]
    under_way = sum(map(_amount, ways))
    balances = sum(each["balance"] for each in there) + OPENING * (len(cast.accounts) - len(there))
    if balances + under_way != (sum_ := OPENING * len(cast.accounts)):
        yield f"balances {balances} and {under_way} under way are {balances + under_way}, not {sum_}"
    ended = sum(each["told"] for each in there)
    if (paid := sum(each["paid"] for each in there)) != ended + len(ways):
        yield f"{paid} payments, {ended} ended and {len(ways)} under way"


def _misdirected(snapshot: Snapshot, cast: Cast) -> Iterator[str]:
    """Seen by a node it is a dead letter; by the function, of which no node knew more yet, an answer."""
    there = [snapshot.states[key] for key in cast.accounts if key in snapshot.states]
    lost, unheard, unknown = (sum(each[name] for each in there) for name in ("lost", "unheard", "unknown"))
    waiting = sum(each.handler == "nobody" for each in snapshot.messages)
    for each in snapshot.messages:
        if each.handler == "unheard":
            by_the_node = " has no handler " in each.body["error"]["message"]
            unheard += by_the_node
            unknown += not by_the_node
    if lost != waiting + unheard + unknown or unheard != snapshot.misdirected:
        yield (
            f"{lost} sent to nobody, {waiting} under way, {unheard} and {unknown} told, "
            f"{snapshot.misdirected} dead letters"
        )


def _amount(way: Message | Timer) -> int:
    """Of what is neither here nor there."""
    if way.handler == "take":
        return int(way.body["amount"])
    said = way.body.get("error", {}).get("message", "")
    return int(said) if said.isdigit() else 0


def _balls(snapshot: Snapshot, cast: Cast) -> Iterator[str]:
    ways: dict[str, list[int]] = {}
    for each in snapshot.messages:
        if each.handler == "hop":
            ways.setdefault(each.key.rpartition("-")[0], []).append(each.body["left"])
    for chain, length in cast.chains.items():
        states = [snapshot.states[each] for each in players(chain) if each in snapshot.states]
        left = min((each["left"] for each in states), default=length + 1)
        hops = sum(each["hops"] for each in states)
        if hops != length + 1 - left:
            yield f"{chain}: {hops} hops of {length + 1}, and {left} are left"
        due = [left - 1] if states and left > 0 else []
        if (way := ways.get(chain, [])) != due:
            yield f"{chain}: under way are {way}, not {due}"


def _crowd(snapshot: Snapshot, cast: Cast) -> Iterator[str]:
    ways: dict[tuple[str, str], list[int]] = {}
    for each in snapshot.messages:
        if each.handler == "hear":
            ways.setdefault((each.body["of"], each.key), []).append(each.body["number"])
    for spreader in (*cast.spreaders, *cast.publishers):
        sent = snapshot.states.get(spreader, {"sent": 0})["sent"]
        for key in cast.crowd:
            heard = snapshot.states.get(key, {"heard": {}})["heard"].get(spreader, 0)
            way = sorted(ways.get((spreader, key), ()))
            # Of what is being published some have their messages already, the first ones.
            to = heard + len(way) if snapshot.publications[spreader] else sent
            if to > sent or way != list(range(heard + 1, to + 1)):
                yield f"{key} has heard {heard} of {sent} of {spreader}, under way are {way}"


def _clock(snapshot: Snapshot, program: Program) -> Iterator[str]:
    clock, bell = snapshot.states.get(program.clock), snapshot.states.get(program.bell)
    wound: dict[str, str] = {} if clock is None else clock["wound"]
    rung = Counter(token for state in (clock, bell) if state is not None for token in state["rung"])
    timers = [each for each in snapshot.timers if each.owner == program.clock]
    waiting = {each.name: each.body["token"] for each in timers if each.handler == "ring"}
    for name in wound.keys() | waiting.keys():
        wants, has = wound.get(name), waiting.get(name)
        if has != (wants if not rung[wants] else None):
            yield f"{program.clock}: {name} is {wants}, rung {rung[wants]} times, and {has} waits"
    yield from (
        f"{program.clock}: {each.name} is due at another time" for each in timers if not each.punctual
    )
    if early := rung.keys() & program.never:
        yield f"{program.clock}: {sorted(early)} was not to ring yet"
    ticks = None if clock is None else clock["ticks"]
    due = [ticks - 1] if ticks else []
    if (way := [each.body["left"] for each in timers if each.handler == "tick"]) != due:
        yield f"{program.clock}: of its ticks {ticks} are left, and {way} waits"


def strangers(snapshot: Snapshot, known: set[str]) -> Iterator[str]:
    """What is under way to those who have ended."""
    for each in (*snapshot.messages, *snapshot.timers):
        if each.key not in known:
            yield f"a {each.handler} for {each.key}, which has ended"


def chain_ended(snapshot: Snapshot, chain: str) -> bool:
    return any(snapshot.states.get(each, {"left": None})["left"] == 0 for each in players(chain))


def program_ended(snapshot: Snapshot, program: Program) -> bool:
    """Nothing of it waits any more, and nothing is asked."""
    return all(each.owner != program.clock for each in snapshot.timers)


def unlike_foretold(snapshot: Snapshot, program: Program) -> Iterator[str]:
    """Of a program that has ended."""
    states = [snapshot.states.get(each) for each in (program.clock, program.bell)]
    rung = Counter(token for state in states if state is not None for token in state["rung"])
    yield from (
        f"{program.clock}: {each} rang {rung[each]} times" for each in program.once if rung[each] != 1
    )
    yield from (f"{program.clock}: {each} rang {n} times" for each, n in rung.items() if n > 1)
