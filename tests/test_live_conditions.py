"""If-Match and If-None-Match on calls: compared with the newest version, and nothing runs when it differs."""

import orjson
import pytest
import trio


def told(answer):
    return answer.status, orjson.loads(answer.body).get("code"), answer.fields["inversion-outcome"]


async def test_a_call_runs_when_its_version_is_the_newest(start_node, counter_toml):
    async with start_node(counter_toml) as node:
        first = await node.call("counter/k/add", 1)
        second = await node.call("counter/k/add", 1, b"If-Match: " + first.fields["etag"].encode())
        assert (second.status, second.body, second.fields["etag"]) == (200, b"2", '"2"')
        stale = await node.call("counter/k/add", 1, b'If-Match: "1"')
        assert told(stale) == (412, "version_mismatch", "not_applied")
        assert stale.fields["etag"] == '"2"'
        assert (await node.state("counter/k")).body == b'{"count":2}'
        assert (await node.call("counter/k/add", 1, b'If-Match: "1", "2"')).status == 200


async def test_whoever_must_create_does_so_once(start_node, counter_toml):
    async with start_node(counter_toml) as node:
        absent = await node.call("counter/k/add", 1, b"If-Match: *")
        assert told(absent) == (412, "version_mismatch", "not_applied")
        answers = []

        async def create():
            answers.append((await node.call("counter/k/add", 1, b"If-None-Match: *")).status)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(create)
        assert sorted(answers) == [200] + [412] * 9
        assert (await node.state("counter/k")).body == b'{"count":1}'
        assert (await node.call("counter/k/add", 1, b"If-Match: *")).status == 200


async def test_what_was_deleted_has_a_version_and_no_state(start_node, counter_toml):
    async with start_node(counter_toml) as node:
        await node.call("counter/k/add", 1)
        await node.call("counter/k/reset")
        gone = await node.state("counter/k")
        assert (gone.status, gone.fields["etag"]) == (404, '"2"')
        assert (await node.call("counter/k/add", 1, b"If-Match: *")).status == 412
        assert (await node.call("counter/k/add", 1, b'If-Match: "2"', b"Prefer: x")).status == 200


async def test_racing_callers_with_one_version_win_once(start_node, counter_toml):
    async with start_node(counter_toml) as node:
        for version in range(5):
            statuses = []

            async def add(statuses=statuses, version=version):
                statuses.append((await node.call("counter/k/add", 1, b'If-Match: "%d"' % version)).status)

            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(add)
            assert sorted(statuses) == [200] + [412] * 5
        assert (await node.state("counter/k")).body == b'{"count":5}'


async def test_a_refused_condition_of_a_keyed_call_stays_refused(start_node, counter_toml):
    async with start_node(counter_toml) as node:
        await node.call("counter/k/add", 1)
        lines = (b'If-Match: "2"', b"Idempotency-Key: a")
        first = await node.call("counter/k/add", 1, *lines)
        await node.call("counter/k/add", 1)
        again = await node.call("counter/k/add", 1, *lines)
        assert told(first) == told(again) == (412, "version_mismatch", "not_applied")
        assert again.fields["etag"] == first.fields["etag"] == '"1"'
        assert again.fields["inversion-replayed"] == "true"
        other = await node.call("counter/k/add", 1, b'If-Match: "3"', b"Idempotency-Key: a")
        assert told(other) == (422, "key_reused", "not_applied")


@pytest.mark.parametrize(
    "lines",
    [
        (b"If-Match: 1",),
        (b'If-Match: W/"1"',),
        (b'If-None-Match: "1"',),
        (b"If-Match: *", b"If-None-Match: *"),
    ],
)
async def test_a_condition_that_is_none_is_refused(lines, start_node, counter_toml):
    async with start_node(counter_toml) as node:
        assert told(await node.call("counter/k/add", 1, *lines)) == (400, "bad_request", "not_applied")


async def test_a_stateless_call_has_no_version(start_node, counter_toml):
    async with start_node(counter_toml) as node:
        answer = await node.call("pure/add", 1, b'If-Match: "0"')
        assert told(answer) == (400, "bad_request", "not_applied")


async def test_a_refusal_is_never_made_from_a_cache_that_another_node_has_outdated(
    start_node, counter_toml, tmp_path
):
    (tmp_path / "two").mkdir()
    async with start_node(counter_toml) as one, start_node(counter_toml, folder=tmp_path / "two") as two:
        await two.call("counter/k/add", 1)
        for version in range(1, 6):
            await one.call("counter/k/add", 1)
            answer = await two.call("counter/k/get", None, b'If-Match: "%d"' % (version + 1))
            assert (answer.status, answer.body) == (200, b"%d" % (version + 1))
