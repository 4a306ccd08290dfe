from __future__ import annotations

import json
from time import perf_counter

import pytest
from front_door import CallsDouble, Seen, get, open_door, post

from inversion.errors import Code, FunctionError, InversionError, Outcome
from inversion.http.asked import prefers_async
from inversion.messages import Response, State, Step

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("target", "function", "key", "handler"),
    [
        (b"/v1/call/cart", "cart", None, "call"),
        (b"/v1/call/cart/c-17", "cart", "c-17", "call"),
        (b"/v1/call/cart/c-17/add", "cart", "c-17", "add"),
        (b"/v1/call/pure", "pure", None, "call"),
        (b"/v1/call/pure/hash", "pure", None, "hash"),
        (b"/v1/call/cart/a%2Fb/add", "cart", "a/b", "add"),
        (b"/v1/call/cart/%252F", "cart", "%2F", "call"),
        (b"/v1/call/cart/%D0%BA%D0%BB", "cart", "кл", "call"),
        (b"/v1/call/cart/a+b&c=d;e,f", "cart", "a+b&c=d;e,f", "call"),
        (b"/v1/call/cart/..", "cart", "..", "call"),
        (b"/v1/call/cart/" + b"k" * 200, "cart", "k" * 200, "call"),
        (b"/v1/call/cart/" + b"%C3%A9" * 100, "cart", "é" * 100, "call"),
        (b"/v1/call/cart/k/" + b"h" * 63, "cart", "k", "h" * 63),
    ],
)
async def test_a_path_names_function_key_and_handler(
    target: bytes, function: str, key: str | None, handler: str
) -> None:
    async with open_door() as door:
        (answer,) = await door.exchange(post(target, b"1"))
    assert answer.status == 200
    assert ("etag" in answer.fields) is (key is not None)
    (seen,) = door.calls.seen
    assert (seen.function, seen.key, seen.handler) == (function, key, handler)


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (b"/v1/call/cart/", "bad_key"),
        (b"/v1/call/cart//add", "bad_key"),
        (b"/v1/call/cart/-", "bad_key"),
        (b"/v1/call/cart/%2D", "bad_key"),
        (b"/v1/call/cart/%", "bad_key"),
        (b"/v1/call/cart/%4", "bad_key"),
        (b"/v1/call/cart/%zz", "bad_key"),
        (b"/v1/call/cart/%FF", "bad_key"),
        (b"/v1/call/cart/%C0%AF", "bad_key"),
        (b"/v1/call/cart/%ED%A0%80", "bad_key"),
        (b"/v1/call/cart/a%00b", "bad_key"),
        (b"/v1/call/cart/a%0Ab", "bad_key"),
        (b"/v1/call/cart/%7F", "bad_key"),
        (b"/v1/call/cart/%C2%85", "bad_key"),
        (b"/v1/call/cart/" + b"k" * 201, "bad_key"),
        (b"/v1/call/cart/" + b"%C3%A9" * 100 + b"k", "bad_key"),
        (b"/v1/call/cart/k/Add", "bad_request"),
        (b"/v1/call/cart/k/", "bad_request"),
        (b"/v1/call/cart/k/" + b"h" * 64, "bad_request"),
        (b"/v1/call/cart/k/add/more", "bad_request"),
        (b"/v1/call/pure/k/hash", "bad_request"),
        (b"/v1/call/card", "no_function"),
        (b"/v1/call/", "no_function"),
        (b"/v1/call/%63art", "no_function"),
        (b"/v1/call", "bad_request"),
        (b"/v1/call/cart/k?delay=10s", "bad_request"),
        (b"/v1/send/cart/k", "bad_request"),
        (b"/v1/output/cart/k/1", "bad_request"),
        (b"/v1/http/cart/k", "bad_request"),
        (b"/v1/events", "bad_request"),
        (b"/openapi.json", "bad_request"),
        (b"/", "bad_request"),
        (b"//v1/call/cart", "bad_request"),
        (b"/V1/call/cart", "bad_request"),
    ],
)
async def test_a_path_that_names_nothing_is_refused_and_the_connection_goes_on(
    target: bytes, code: str
) -> None:
    async with open_door() as door:
        client = await door.connect()
        await client.send(post(target, b"1") + post(b"/v1/call/cart/after", b"2"))
        answer = await client.answer()
        assert json.loads(answer.body)["code"] == code
        assert answer.fields["inversion-outcome"] == "not_applied"
        assert (await client.answer()).body == b"2"
    assert [seen.key for seen in door.calls.seen] == ["after"]


async def test_an_unknown_path_lists_the_paths_and_what_comes_later_says_so() -> None:
    async with open_door() as door:
        unknown, later = await door.exchange(get(b"/nothing") + post(b"/v1/events"))
    assert "/v1/call/{function}" in json.loads(unknown.body)["detail"]
    assert "not built yet" in json.loads(later.body)["detail"]


@pytest.mark.parametrize(
    "line",
    [
        b"Prefer: respond-async",
        b"prefer: return=minimal, Wait=10",
    ],
)
async def test_what_is_not_built_yet_is_never_ignored(line: bytes) -> None:
    async with open_door() as door:
        (answer,) = await door.exchange(post(b"/v1/call/cart/k", b"1", line))
    assert answer.status == 400
    assert json.loads(answer.body)["detail"].startswith("Prefer: ")
    assert door.calls.seen == []


@pytest.mark.parametrize(
    ("prefer", "asks"),
    [
        (b"respond-async", True),
        (b"Respond-Async", True),
        (b"return=minimal, respond-async", True),
        (b"respond-async; foo=bar, wait=0", True),
        (b"respond-asynchronously", False),
        (b"handling=lenient", False),
        (b"wait=0", False),
    ],
)
def test_who_prefers_an_answer_later_says_respond_async(prefer: bytes, asks: bool) -> None:
    assert prefers_async(prefer) is asks


async def test_a_preference_that_asks_for_nothing_of_ours_is_ignored() -> None:
    async with open_door() as door:
        (answer,) = await door.exchange(post(b"/v1/call/cart/k", b"1", b"Prefer: return=minimal"))
    assert answer.status == 200


@pytest.mark.parametrize(
    ("target", "method", "allowed"),
    [
        (b"/v1/call/cart/k", b"GET", "POST"),
        (b"/v1/call/cart/k", b"DELETE", "POST"),
        (b"/v1/state/cart/k", b"PUT", "GET, HEAD"),
        (b"/errors/bad_json", b"POST", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_names_the_right_ones(target: bytes, method: bytes, allowed: str) -> None:
    async with open_door() as door:
        (answer,) = await door.exchange(get(target).replace(b"GET", method))
    assert (answer.status, answer.fields["allow"]) == (405, allowed)
    assert json.loads(answer.body)["code"] == "method"


@pytest.mark.parametrize(("value", "seconds"), [(b"5s", 5.0), (b"500ms", 0.5), (b"1ms", 0.001)])
async def test_a_caller_may_set_its_deadline(value: bytes, seconds: float) -> None:
    async with open_door() as door:
        await door.exchange(post(b"/v1/call/cart/k", b"1", b"Inversion-Timeout: " + value))
    assert door.calls.seen[0].timeout_s == seconds


@pytest.mark.parametrize(
    "value", [b"5", b"0s", b"-1s", b"1.5s", b"5 s", b"1h", b"", b"1e3s", b"9" * 10 + b"s"]
)
async def test_a_deadline_that_cannot_be_read_is_refused(value: bytes) -> None:
    async with open_door() as door:
        (answer,) = await door.exchange(post(b"/v1/call/cart/k", b"1", b"Inversion-Timeout: " + value))
    assert json.loads(answer.body)["code"] == "bad_request"
    assert door.calls.seen == []


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        (TRACE, True),
        (b"01" + TRACE[2:] + b"-more", True),
        (b"01" + TRACE[2:], True),
        (TRACE + b"-more", False),
        (b"ff" + TRACE[2:], False),
        (TRACE.upper(), False),
        (TRACE.replace(b"4bf92f3577b34da6a3ce929d0e0e4736", b"0" * 32), False),
        (TRACE.replace(b"00f067aa0ba902b7", b"0" * 16), False),
        (TRACE[:-1], False),
        (b"nonsense", False),
    ],
)
async def test_a_trace_is_passed_on_when_it_is_one(value: bytes, passes: bool) -> None:
    async with open_door() as door:
        (answer,) = await door.exchange(post(b"/v1/call/cart/k", b"1", b"traceparent: " + value))
    assert answer.status == 200
    assert door.calls.seen[0].trace == (value.decode() if passes else None)


async def test_body_and_content_type_are_passed_on_as_they_came() -> None:
    async with open_door() as door:
        await door.exchange(post(b"/v1/call/cart/k", b"", b"Content-Type: application/x-www-form-urlencoded"))
        await door.exchange(post(b"/v1/call/cart/k", b"\x00\xff\r\n"))
    assert [(seen.body, seen.content_type) for seen in door.calls.seen] == [
        (b"", "application/x-www-form-urlencoded"),
        (b"\x00\xff\r\n", ""),
    ]


async def test_the_steps_are_timed_in_milliseconds() -> None:
    async def timed(seen: Seen) -> Response:
        received_s = perf_counter()
        return Response(body=b"1", marks=[received_s + n / 1e3 for n in (0, 2, 5, 9, 14)])

    async with open_door(CallsDouble(timed)) as door:
        (answer,) = await door.exchange(post(b"/v1/call/cart/k", b"1"))
    parts = answer.fields["server-timing"].split(", ")
    assert [part.partition(";")[0] for part in parts] == [*(step.value for step in Step), "total"]
    assert parts[1:5] == [
        "load_state;dur=2.000",
        "send_message_in;dur=3.000",
        "receive_message_out;dur=4.000",
        "store_state;dur=5.000",
    ]


async def test_an_error_of_the_call_keeps_its_id_version_and_outcome() -> None:
    async def fail(seen: Seen) -> Response:
        error = InversionError(Code.DEADLINE, "late", outcome=Outcome.UNKNOWN, retry_after_s=2)
        return Response(error=error, version=3)

    async with open_door(CallsDouble(fail)) as door:
        (answer,) = await door.exchange(post(b"/v1/call/cart/k", b"1"))
    assert answer.status == 504
    assert answer.fields["inversion-id"] == json.loads(answer.body)["id"] == "id-1"
    assert answer.fields["inversion-outcome"] == "unknown"
    assert (answer.fields["etag"], answer.fields["retry-after"]) == ('"3"', "2")


@pytest.mark.parametrize("status", [409, 418, 499, 500])
async def test_an_error_of_the_function_is_its_own(status: int) -> None:
    async def fail(seen: Seen) -> Response:
        return Response(function_error=FunctionError("sold_out", "none left", status, b'{"a":1E5}', False))

    async with open_door(CallsDouble(fail)) as door:
        (answer,) = await door.exchange(post(b"/v1/call/cart/k", b"1"))
    assert answer.status == status
    assert b'"details":{"a":1E5}' in answer.body
    assert (json.loads(answer.body)["source"], answer.fields["inversion-outcome"]) == (
        "function",
        "not_applied",
    )


async def test_a_state_is_read_raw_with_its_version() -> None:
    calls = CallsDouble()
    calls.states["cart", "a/b"] = State(b'{"n": 1E5}', 12, b"t" * 16)
    async with open_door(calls) as door:
        (answer,) = await door.exchange(get(b"/v1/state/cart/a%2Fb"))
    assert (answer.status, answer.body, answer.fields["etag"]) == (200, b'{"n": 1E5}', '"12"')
    assert answer.fields["inversion-outcome"] == "applied"


@pytest.mark.parametrize(
    ("state", "etag"),
    [(State(None, 0, None), None), (State(None, 13, b"t" * 16), '"13"')],
)
async def test_a_state_that_is_not_there_is_404_and_a_tombstone_has_a_version(
    state: State, etag: str | None
) -> None:
    calls = CallsDouble()
    calls.states["cart", "k"] = state
    async with open_door(calls) as door:
        (answer,) = await door.exchange(get(b"/v1/state/cart/k"))
    assert (answer.status, json.loads(answer.body)["code"]) == (404, "no_state")
    assert answer.fields.get("etag") == etag


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (b"/v1/state/cart", "bad_request"),
        (b"/v1/state/cart/", "bad_key"),
        (b"/v1/state/cart/k/x", "bad_request"),
        (b"/v1/state/cart/k?version=1", "bad_request"),
        (b"/v1/state/pure/k", "bad_request"),
        (b"/v1/state/card/k", "no_function"),
    ],
)
async def test_a_state_path_that_names_nothing_is_refused(target: bytes, code: str) -> None:
    async with open_door() as door:
        (answer,) = await door.exchange(get(target))
    assert json.loads(answer.body)["code"] == code


async def test_states_are_read_only_where_that_is_allowed() -> None:
    async with open_door(read_state=False) as door:
        (answer,) = await door.exchange(get(b"/v1/state/cart/k"))
    assert (answer.status, json.loads(answer.body)["code"]) == (403, "forbidden")
    assert "read_state" in json.loads(answer.body)["detail"]


async def test_the_type_of_a_problem_leads_somewhere() -> None:
    async with open_door() as door:
        (refused,) = await door.exchange(post(b"/v1/call/card"))
        (explained,) = await door.exchange(get(json.loads(refused.body)["type"].encode()))
        (unknown,) = await door.exchange(get(b"/errors/nonsense"))
    assert json.loads(explained.body) == {"code": "no_function", "status": 404, "title": "No function"}
    assert unknown.status == 400
