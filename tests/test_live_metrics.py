"""What /metrics says after a known number of calls, refusals, failures and lost processes."""

from front_door import get

from fix_node import PYTHON, RUNTIMES

TOML = f"""
[functions.counter]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]

[functions.sabotage]
command = ["{PYTHON}", "-u", "{RUNTIMES.parent}/tests/functions/sabotage.py"]
"""


async def metrics(node):
    answer = await node.send(get(b"/metrics"), admin=True)
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_what_happened_is_counted_once_where_it_was_answered(start_node):
    async with start_node(TOML) as node:
        before = await metrics(node)
        for _ in range(3):
            assert (await node.call("counter/k/add", 1)).status == 200
        assert (await node.call("counter/k/add", "one")).status == 422
        for _ in range(2):
            assert (await node.call("nobody/k", 1)).status == 404
        assert (await node.call("counter/k/add", b"{")).status == 400
        assert (await node.state("counter/nothing")).status == 404
        assert (await node.call("sabotage/k/exit", 1)).status == 502
        after = await metrics(node)
    changed = {name: after[name] - before[name] for name in after if after[name] != before.get(name)}
    expected = {
        'inversion_calls_total{function="counter",outcome="applied"}': 3,
        'inversion_calls_total{function="counter",outcome="not_applied"}': 1,
        'inversion_calls_total{function="sabotage",outcome="not_applied"}': 1,
        'inversion_function_failed_answers_total{function="counter"}': 1,
        'inversion_function_deaths_total{function="sabotage"}': 2,
        'inversion_function_stderr_lines_total{function="sabotage"}': 2,
        'inversion_errors_total{code="no_function"}': 2,
        'inversion_errors_total{code="bad_json"}': 1,
        'inversion_errors_total{code="no_state"}': 1,
        'inversion_errors_total{code="function_crashed"}': 1,
        "inversion_transitions_total": 3,
        "inversion_commits_total": 3,
    }
    assert {name: changed.get(name) for name in expected} == expected
    assert {name for name in changed if name.startswith("inversion_errors")} <= set(expected)
