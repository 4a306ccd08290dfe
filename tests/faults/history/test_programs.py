"""Programs against their prediction: without a node, an entity of its own tells what comes out."""

import random
from collections import Counter

import msgspec
import pytest
from tests.faults.history.check import check_versions
from tests.faults.history.models import READ, STATE
from tests.faults.history.operation import Operation, Outcome
from tests.faults.history.programs import LOOKS, Entity, Message, Run, foretell, program_of

NAMES = [f"program-py/t{number}" for number in range(300)]


def history_of(entity):
    """As a client would have written it, had nothing befallen the node."""
    run, told_by = Run(program_of(entity)), Entity()
    history = []
    while (message := run.next()) is not None:
        told = told_by.tell(message)
        history.append(operation(entity, message, told, 10 * len(history)))
        run.hear(told)
    return history


def operation(entity, message, told, begun_ns):
    fails = isinstance(told.answer, dict) and "refused" in told.answer
    return Operation(
        "c",
        entity,
        message.kind,
        message.input,
        begun_ns,
        begun_ns + 5,
        Outcome.NOT_APPLIED if fails else Outcome.APPLIED,
        told.answer,
        told.version,
        message.key,
        message.if_match,
        none_match=message.none_match,
    )


def test_what_was_foretold_passes():
    histories = [history_of(name) for name in NAMES]
    assert check_versions(each for history in histories for each in history).passed


def test_a_program_is_drawn_from_its_name():
    assert foretell(program_of(NAMES[0])) == foretell(program_of(NAMES[0]))
    assert foretell(program_of(NAMES[0])) != foretell(program_of(NAMES[1]))


def test_programs_come_to_all_that_can_be_answered():
    told = Counter()
    for name in NAMES:
        seen = set()
        for message, answer in foretell(program_of(name)):
            code = (
                answer.answer["refused"]
                if isinstance(answer.answer, dict) and "refused" in answer.answer
                else ""
            )
            told[message.kind, code or str(answer.answer is not False)] += 1
            told["If-Match", code == "version_mismatch"] += message.if_match is not None
            told["If-None-Match", code == "version_mismatch"] += message.none_match
            told["repeated"] += message.key in seen
            seen.add(message.key or len(seen))
    for kind in ("set", "swap", "sum", "push", "delete", READ):
        assert min(told[kind, "True"], told[kind, "absent"], told[kind, "version_mismatch"]) > 10, kind
    assert min(told["create", "True"], told["create", "exists"], told["create", "version_mismatch"]) > 50
    assert min(told["swap", "False"], told[STATE, "True"], told[STATE, "no_state"], told["repeated"]) > 50
    assert min(told[name, met] for name in ("If-Match", "If-None-Match") for met in (True, False)) > 50


def test_attempts_that_tell_nothing_and_looks_afterwards_are_no_matter():
    entity = NAMES[3]
    history = history_of(entity)
    first = next(each for each in history if each.key is not None)
    untold = msgspec.structs.replace(
        first, outcome=Outcome.UNKNOWN, answer=None, version=None, completed_ns=None, invoked_ns=-9
    )
    unrun = msgspec.structs.replace(untold, outcome=Outcome.NOT_APPLIED, completed_ns=-8)
    again = [msgspec.structs.replace(each, invoked_ns=10_000, completed_ns=10_001) for each in history[-2:]]
    assert check_versions([untold, unrun, *history, *again[::-1], *again]).passed


def test_half_a_program_passes_and_others_may_look_at_what_it_left():
    for name in NAMES:
        history = history_of(name)
        half = history[: random.randrange(1, len(history))]
        newest = max(each.version or 0 for each in half)  # the last may repeat an older answer
        looks = [each for each in half if each.kind == STATE and each.version == newest]
        half += [
            msgspec.structs.replace(each, client="d", invoked_ns=9999, completed_ns=None) for each in looks
        ]
        assert check_versions(half).passed


@pytest.mark.parametrize("change", [{"version": 99}, {"answer": "another"}, {"key": "another"}])
def test_an_operation_that_was_not_foretold_is_found(change):
    found = []
    for name in NAMES:
        history = history_of(name)
        place = random.randrange(len(history))
        history[place] = msgspec.structs.replace(history[place], **change)
        found += check_versions(history).failed
    assert found == NAMES


def test_what_a_history_allows_and_the_program_does_not_is_found_too():
    found = 0
    for name in NAMES:
        history = history_of(name)
        for place, each in enumerate(history[1:-1], 1):
            around = [Message.of(history[near]) for near in (place - 1, place, place + 1)]
            if each.kind in LOOKS and len({str(one) for one in around}) == 3:
                (verdict,) = check_versions(history[:place] + history[place + 1 :]).failed.values()
                assert "was to ask" in verdict.sentence
                found += 1
    assert found > 100


def test_the_message_of_an_operation_is_what_was_asked():
    message = Message("sum", 5, "i1", 3)
    entity = Entity()
    assert Message.of(operation("program-py/x", message, entity.tell(message), 1)) == message
