"""All SQL there is: queries.sql and letters.sql by name, the migrations in order, `schema.sql` = their sum.

A `Statement` carries the name under which a connection prepares it: the hash of its text, so that two
releases on one server (or one pooler) never share a name for different texts. Files are split into
statements at a semicolon that ends a line; `-- only if: SELECT ...` makes the next statement conditional.
A migration that releases without it bear says `-- needs: N`: those that know migration N go on beside it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Final

import attrs

_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_CONDITION: Final = re.compile(r"^-- only if: (.+)$", re.MULTILINE)
_NEEDS: Final = re.compile(r"^-- needs: (\d+)$", re.MULTILINE)
_END: Final = re.compile(r";[ \t]*$", re.MULTILINE)
_MIGRATION_FILE: Final = re.compile(r"(\d{4})_\w+\.sql")


@attrs.frozen(slots=True)
class Statement:
    """One SQL text and its prepared name."""

    text: bytes
    name: bytes


@attrs.frozen(slots=True)
class Step:
    """One statement of a script; `only_if` is a query that says whether it is for this server."""

    text: str
    only_if: str | None

    @property
    def condition(self) -> Statement | None:
        """Returns `true` where the statement is for this server."""
        return None if self.only_if is None else statement(f"SELECT ({self.only_if})::text")

    @property
    def for_psql(self) -> str:
        if self.only_if is None:
            return f"{self.text};"
        return f"SELECT ({self.only_if}) AS only_if \\gset\n\\if :only_if\n{self.text};\n\\endif"


@attrs.frozen(slots=True)
class Migration:
    """One numbered file, as it was released: never changed afterwards (the checksum tells)."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def needs(self) -> int:
        """A release that does not know this migration may serve beside it if it knows this one."""
        said = _NEEDS.search(self.text)
        return self.number if said is None else int(said.group(1))

    @property
    def for_psql(self) -> str:
        """The migration and its record."""
        return "\n".join(
            [
                f"-- {self.name}",
                *(step.for_psql for step in steps(self.text)),
                "INSERT INTO inversion.migration (number, name, checksum, needs)",
                f"VALUES ({self.number}, '{self.name}', '{self.checksum}', {self.needs});",
            ]
        )


def statement(text: str) -> Statement:
    """Make a statement of a text."""
    encoded = text.strip().removesuffix(";").encode()
    return Statement(encoded, b"inversion_" + hashlib.sha256(encoded).hexdigest()[:32].encode())


def steps(text: str) -> Iterator[Step]:
    """The statements of a script, in order."""
    for part in _END.split(text):
        condition = _CONDITION.search(part)
        lines = [line for line in part.splitlines() if line.strip() and not line.startswith("--")]
        if lines:
            yield Step("\n".join(lines), condition.group(1) if condition else None)


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _queries() -> Mapping[str, str]:
    _, *parts = _NAME.split(_read("queries.sql") + _read("letters.sql"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _subscribing() -> str:
    """commit_messages with the parts that change subscriptions: they cost a third more, and few turns do."""
    head, select, tail = _QUERIES["commit_messages"].partition("\nSELECT done.turn, true")
    return f"{head}{_QUERIES['subscribing'].rstrip()}{select}{tail}"


def _migrations() -> Sequence[Migration]:
    folder = resources.files(__name__).joinpath("migrations")
    found = [
        Migration(int(match.group(1)), entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if (match := _MIGRATION_FILE.fullmatch(entry.name)) is not None
    ]
    return sorted(found, key=lambda migration: migration.number)


def schema() -> str:
    """The whole schema of today, as if there had never been a migration."""
    return _read("schema.sql")


_QUERIES: Final = _queries()

#: text[] functions, text[] keys -> (ordinal int8, version int8, turn uuid, state text) of those that exist.
LOAD: Final = statement(_QUERIES["load"])
#: text[] functions, text[] keys, uuid[] turns -> (ordinal int8) of those whose turn is not the newest.
OUTDATED: Final = statement(_QUERIES["outdated"])
#: text[] functions, keys, int8[] versions, uuid[] turns, uuid[] prevs, text[] states -> (turn uuid) applied.
COMMIT: Final = statement(_QUERIES["commit"])
#: The same for one turn of an entity that exists: half the server's work, for a node with one caller.
COMMIT_ONE: Final = statement(_QUERIES["commit_one"])
#: The arrays of COMMIT, then of the records of answers: text[] functions, keys, ids, bytea[] hashes, uuid[]
#: turns, int8[] versions, int8[] statuses, text[] content types, bytea[] bodies -> (turn uuid) applied.
COMMIT_KEYED: Final = statement(_QUERIES["commit_keyed"])
#: The same where each turn is an entity's and has one record: the arrays of COMMIT, then text[] ids, bytea[]
#: hashes, int8[] versions of the answers, int8[] statuses, text[] content types, bytea[] bodies.
COMMIT_KEYED_EACH: Final = statement(_QUERIES["commit_keyed_each"])
#: The same for keys that nobody has used before, else it fails (23505); and where each answer has status 200,
#: the turn's version and one content type: the arrays of COMMIT, then text[] ids, bytea[] hashes, bytea[]
#: bodies, text content type.
COMMIT_KEYED_NEW: Final = statement(_QUERIES["commit_keyed_new"])
#: The same for turns that consume or cause messages; rows.py and consequences.py have its arrays ->
#: (turn uuid, boolean): applied, or not all that it consumes is there.
COMMIT_MESSAGES: Final = statement(_QUERIES["commit_messages"])
#: The same, some of which subscribe or unsubscribe.
COMMIT_SUBSCRIBING: Final = statement(_subscribing())
#: The same for a batch without records, timers and dead letters.
COMMIT_PLAIN_MESSAGES: Final = statement(_QUERIES["commit_plain_messages"])
#: Those that say of each turn whether it was applied.
SAYING: Final = (COMMIT_MESSAGES, COMMIT_SUBSCRIBING, COMMIT_PLAIN_MESSAGES)
#: text[] functions, int8[] rooms, uuid owner, int8 lease in ms (, int8 how many to look at) -> the columns of
#: outbox.py, in pairs' order; of messages at least one row, with how many stood in the way.
CLAIM_MESSAGES: Final = statement(_QUERIES["claim_messages"])
CLAIM_TIMERS: Final = statement(_QUERIES["claim_timers"])
RENEW_MESSAGES: Final = statement(_QUERIES["renew_messages"])
RENEW_TIMERS: Final = statement(_QUERIES["renew_timers"])
PUT_OFF_MESSAGES: Final = statement(_QUERIES["put_off_messages"])
PUT_OFF_TIMERS: Final = statement(_QUERIES["put_off_timers"])
BURY_MESSAGE: Final = statement(_QUERIES["bury_message"])
BURY_TIMER: Final = statement(_QUERIES["bury_timer"])
#: text[] topics, senders, int8[] versions, seqs, attempts, most, uuid owner, int8 lease in ms ->
#: (ordinal int8, messages made int8, boolean: that was the last) of those that are the owner's to go on with.
FAN_OUT: Final = statement(_QUERIES["fan_out"])
#: text[] functions -> (ordinal, due, messages, timers, lag in ms, dead letters; int8), each up to 10,000.
BACKLOG: Final = statement(_QUERIES["backlog"])
#: text[] functions, names, rules: known from now on.
ADOPT_SCHEDULES: Final = statement(_QUERIES["adopt_schedules"])
#: text[] functions, names -> (ordinal, last and fired in s, now in ms; int8) of those that are known.
LOOK_AT_SCHEDULES: Final = statement(_QUERIES["look_at_schedules"])
#: function, name, last int8, new last int8, key, sender, handler, body, int8[] instants, text[] ids -> a row
#: where it was this call that fired.
FIRE_SCHEDULE: Final = statement(_QUERIES["fire_schedule"])
KEEP_SCHEDULES: Final = statement(_QUERIES["keep_schedules"])
FORGET_SCHEDULES: Final = statement(_QUERIES["forget_schedules"])
#: text function, due or key, id of a place, text last function, key or null, int8 limit -> as in letters.py.
LIST_WAITING: Final = statement(_QUERIES["list_waiting"])
LIST_DEAD: Final = statement(_QUERIES["list_dead"])
SHOW_LETTER: Final = statement(_QUERIES["show_letter"])
#: text function, key or null, id or null, latest death, int8 limit (, text body or null) -> a row for each.
RETRY_LETTERS: Final = statement(_QUERIES["retry_letters"])
DROP_LETTERS: Final = statement(_QUERIES["drop_letters"])
CLOCK: Final = statement(_QUERIES["clock"])
#: text[] functions, keys, ids -> (ordinal int8, hash, turn, version int8, status int8, content type, body).
RECORDED: Final = statement(_QUERIES["recorded"])
#: sending.py has its arrays -> (ordinal int8) of those that had not been sent before.
SEND: Final = statement(_QUERIES["send"])
#: text[] functions, keys, ids -> (ordinal int8, 0 to 3 int8, and of a 0: turn, version int8, status int8,
#: content type, body).
OUTPUTS: Final = statement(_QUERIES["outputs"])
#: text function, key, id -> a row if it was withdrawn.
WITHDRAW: Final = statement(_QUERIES["withdraw"])
#: int8 milliseconds of retention, milliseconds before that, 1 for outputs or 0 for all else -> a row for each
#: record that was deleted, at most 1,000.
SWEEP_REQUESTS: Final = statement(_QUERIES["sweep_requests"])
#: int8 milliseconds of retention -> a row for each dead letter that was deleted.
SWEEP_DEAD_LETTERS: Final = statement(_QUERIES["sweep_dead_letters"])
#: text[] functions, text[] keys -> (ordinal int8, turn uuid, prev uuid), each row locked.
FIND: Final = statement(_QUERIES["find"])
#: text[] functions, text[] keys -> (ordinal int8) of the rows that nobody has locked.
UNLOCKED: Final = statement(_QUERIES["unlocked"])
SETTINGS: Final = statement(_QUERIES["settings"])
APPLIED: Final = statement(_QUERIES["applied"])
HAS_BOOKKEEPING: Final = statement(_QUERIES["has_bookkeeping"])
CLAIM: Final = statement(_QUERIES["claim"])
RECORD: Final = statement(_QUERIES["record"])
#: () -> (version, role, most connections, connections in use, synchronous_commit), for `doctor`.
DIAGNOSIS: Final = statement(_QUERIES["diagnosis"])
MAY_WRITE: Final = statement(_QUERIES["may_write"])
BOOKKEEPING: Final = _QUERIES["bookkeeping"]
BOOKKEEPING_NEEDS: Final = _QUERIES["bookkeeping_needs"]
MIGRATIONS: Final = _migrations()


def alter_role(role: str, values: Mapping[str, str]) -> str:
    """What a DBA runs so that every session of the role begins with these settings."""
    template = " ".join(_QUERIES["alter_role"].split())
    return " ".join(template.format(role=role, name=name, value=value) for name, value in values.items())


def grant_all(role: str) -> str:
    """What a DBA runs so that the role may serve."""
    return " ".join(_QUERIES["grant_all"].format(role=role).split())
