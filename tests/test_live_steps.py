"""Every call runs through the six steps: each is made to raise in a live server, and seen."""

import pytest

from inversion import transition
from inversion.errors import Code, InversionError, Outcome
from inversion.messages import Step

HOT = "counter/alice/add"


async def do_nothing(node):
    pass


async def warm_cache(node):
    answer = await node.call(HOT, 1)
    assert answer.status == 200, answer.body


CALLS = {
    "first": (do_nothing, HOT, b"1"),
    "cached": (warm_cache, HOT, b"1"),
    "stateless": (do_nothing, "pure/get", b""),
    "exec": (do_nothing, "echo/call", b"hello"),
}


@pytest.mark.parametrize("step", list(Step), ids=lambda step: step.value)
@pytest.mark.parametrize("kind", CALLS)
async def test_a_step_that_raises_is_the_error_that_the_caller_sees(
    kind, step, start_node, counter_toml, monkeypatch
):
    prepare, path, body = CALLS[kind]
    async with start_node(counter_toml) as node:
        await prepare(node)

        def fail(*_):
            raise InversionError(Code.CONTENT_TYPE, f"sabotage of {step.value}", outcome=Outcome.UNKNOWN)

        with monkeypatch.context() as patch:
            patch.setattr(transition, step.value, fail)
            answer = await node.call(path, body)
        assert answer.status == 415
        assert f"sabotage of {step.value}" in answer.body.decode()
        assert answer.fields["inversion-outcome"] == "unknown"
        assert answer.fields["content-type"] == "application/problem+json"
        after = await node.call(path, body)
        assert after.status == 200, after.body


@pytest.mark.parametrize("step", list(Step), ids=lambda step: step.value)
async def test_a_bug_in_a_step_is_a_500_that_names_the_step_and_is_honest(
    step, start_node, counter_toml, monkeypatch
):
    async with start_node(counter_toml) as node:
        await warm_cache(node)

        def fail(*_):
            raise ZeroDivisionError("secret")

        with monkeypatch.context() as patch:
            patch.setattr(transition, step.value, fail)
            answer = await node.call(HOT, 1)
        assert answer.status == 500
        assert f'"step":"{step.value}"' in answer.body.decode()
        assert "secret" not in answer.body.decode()
        applied = step is Step.SEND_RESPONSE
        assert answer.fields["inversion-outcome"] == ("applied" if applied else "not_applied")
        state = await node.state("counter/alice")
        assert state.body == (b'{"count":2}' if applied else b'{"count":1}')
