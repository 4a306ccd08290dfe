from __future__ import annotations

from front_door import Seen, get, open_door, post


async def test_a_call_over_a_real_socket_is_answered() -> None:
    async with open_door() as door:
        (answer,) = await door.exchange(post(b"/v1/call/cart/c-17/add", b'{"sku": "a1"}'))
    assert answer.status == 200
    assert answer.body == b'{"sku": "a1"}'
    assert answer.fields["etag"] == '"7"'
    assert answer.fields["inversion-id"] == "id-1"
    assert answer.fields["inversion-outcome"] == "applied"
    assert answer.fields["content-type"] == "application/json"
    assert door.calls.seen == [Seen("cart", "c-17", "add", b'{"sku": "a1"}', "", None, None)]


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with open_door() as door:
        client = await door.connect()
        for number in range(3):
            await client.send(post(b"/v1/call/cart/k", b"%d" % number))
            assert (await client.answer()).body == b"%d" % number
        await client.send(get(b"/v1/state/cart/k"))
        assert (await client.answer()).status == 404
    assert door.server.counters.connections_total == 1
