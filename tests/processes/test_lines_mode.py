"""The lines pool on real processes."""

from __future__ import annotations

from serving import python, serving

from inversion.messages import Change, State

COUNTER = """
serve(lambda f: {"response": f["message"], "state": {"n": (f.get("state") or {"n": 0})["n"] + f["message"]}})
"""


async def test_a_message_goes_in_with_its_state_and_comes_out_with_the_next(tmp_path):
    async with serving(python(tmp_path, COUNTER)) as served:
        out = await served.call(b"2", state=State(b'{"n":40}', 1, b"t" * 16))
        assert (out.change, out.state, out.answers[0].response) == (Change.PUT, b'{"n": 42}', b"2")
