"""Effects: what is taken, what is refused and with which words, and what those of a turn come to."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inversion.config import Limits
from inversion.effects import Cancel, Forward, Http, Publish, Send, Subscribe, Unsubscribe
from inversion.errors import Code, EffectsRefused, Overrun, RuntimeBroken
from inversion.messages import Address
from inversion.protocol.effects import MAX_EFFECTS, Placed, fold, read_effects

SENDER = Address("cart", "c-17")


def read(text: str | bytes, limits: Limits | None = None):
    return read_effects(text.encode() if isinstance(text, str) else text, SENDER, limits or Limits())


def one(operation: str, fields: str):
    """The noun of one effect."""
    (effect,) = read(f'[{{"{operation}":{{{fields}}}}}]')
    return effect


def refusal(text: str | bytes) -> RuntimeBroken:
    with pytest.raises(EffectsRefused) as caught:
        read(text)
    assert caught.value.code is Code.PROTOCOL_ERROR
    return caught.value


# -- what is taken ---------------------------------------------------------------------------------------


def test_the_effects_of_the_protocol_page_are_taken():
    assert read(
        """[
 {"send":{"function":"payment","key":"o1","handler":"charge","message":{"cents":900},"reply_to":"charged"}},
 {"send":{"key":"c-17","handler":"remind","message":{},"delay":"24h","name":"reminder"}},
 {"cancel":{"name":"reminder"}},
 {"forward":{"function":"ledger","key":"eu","handler":"book","message":{}}},
 {"publish":{"topic":"orders","message":{}}}, {"subscribe":{"topic":"orders","handler":"on_order"}},
 {"unsubscribe":{"topic":"orders"}},
 {"http":{"method":"POST","url":"https://example.com/a","headers":{},"body":{},"reply_to":"notified"}}]
""".replace("\n", " ")
    ) == (
        Send("payment", "o1", "charge", b'{"cents":900}', reply_to="charged"),
        Send("cart", "c-17", "remind", b"{}", delay_ms=86_400_000, name="reminder"),
        Cancel("reminder"),
        Forward("ledger", "eu", "book", b"{}"),
        Publish("orders", b"{}"),
        Subscribe("orders", "on_order"),
        Unsubscribe("orders"),
        Http("POST", "https://example.com/a", (), b"{}", "notified"),
    )


def test_what_is_left_out_is_the_senders_own():
    assert one("send", "") == Send("cart", "c-17", "call", b"null")
    assert one("send", '"function":"payment"') == Send("payment", "c-17", "call", b"null")
    assert one("send", '"function":"mail","key":null') == Send("mail", None, "call", b"null")
    assert one("forward", "") == Forward("cart", "c-17", "call", b"null")
    assert one("publish", '"topic":"a"') == Publish("a", b"null")
    assert one("subscribe", '"topic":"a"') == Subscribe("a", "call")
    assert one("http", '"url":"http://a"') == Http("POST", "http://a")


def test_a_message_is_kept_byte_for_byte():
    for body in (
        '{ "a" : 1E5,"\\u0000":-0}',
        "18446744073709551615",
        '"\U0001f600\\ud83d\\ude00\u2028"',
        "null",
    ):
        assert one("send", f'"message":{body}').message == body.encode()
        assert one("http", f'"url":"http://a","body":{body}').body == body.encode()
    assert one("send", '"message":[1,\r2]').message == b"[1, 2]"


def test_a_message_nests_as_deep_as_any():
    for operation in ("send", "forward"):
        assert one(operation, f'"message":{"[" * 64}{"]" * 64}').message.count(b"[") == 64
        assert "deeper" in refusal(f'[{{"{operation}":{{"message":{"[" * 65}{"]" * 65}}}}}]').detail


@pytest.mark.parametrize(
    ("delay", "delay_ms"),
    [("24h", 86_400_000), ("10s", 10_000), ("1.5h", 5_400_000), ("1ms", 1), ("36525d", 36_525 * 86_400_000)],
)
def test_a_delay_is_a_duration(delay, delay_ms):
    assert one("send", f'"delay":"{delay}"').delay_ms == delay_ms


def test_a_delay_of_nothing_is_none():
    assert one("send", '"delay":"0s"') == one("send", '"delay":"0.4ms"') == one("send", "")


@pytest.mark.parametrize(
    ("at", "in_utc"),
    [
        ("2026-11-24T02:11:00Z", "2026-11-24T02:11:00.000000Z"),
        ("2026-11-24t02:11:00.5z", "2026-11-24T02:11:00.500000Z"),
        ("2026-11-24 02:11:00.1234567+01:30", "2026-11-24T00:41:00.123456Z"),
        ("2027-01-01T00:00:00-00:01", "2027-01-01T00:01:00.000000Z"),
    ],
)
def test_a_time_is_the_same_in_utc(at, in_utc):
    assert one("send", f'"at":"{at}"').at == in_utc


def test_an_outgoing_request_keeps_its_url_and_fields():
    for url in (
        "https://a.example:8443/x/%20?q=1&r=[]",
        "HTTP://[::1]:80/",
        "http://my_host",
        "http://a?b@c",
    ):
        assert one("http", f'"url":"{url}"').url == url
    fields = {"Content-Type": "text/plain", "Authorization": "Bearer a\tb", "Idempotency-Key": "o1"}
    assert one("http", f'"url":"http://a","headers":{json.dumps(fields)}').headers == tuple(fields.items())
    assert one("http", '"url":"http://a","method":"GET"').method == "GET"


# -- what is refused -------------------------------------------------------------------------------------

LONG = "x" * 201
MALFORMED = [
    ("1", "effects: expected `array`, got `int`"),
    ("null", "effects: expected `array`, got `null`"),
    ('{"send":{}}', "effects: expected `array`, got `object`"),
    ("[1]", "effects[0]: expected `object`, got `int`"),
    ('[{"send":{}},null]', "effects[1]: expected `object`, got `null`"),
    ("[{}]", "effects[0] holds no operation"),
    ('[{"send":{},"cancel":{"name":"a"}}]', "effects[0] holds `send` and `cancel`"),
    ('[{"send":{}},{"sned":{}}]', "effects[1] has an unknown field `sned`; did you mean `send`?"),
    ('[{"email":{}}]', "there are send, cancel, forward, publish, subscribe, unsubscribe, http"),
    ('[{"send":[]}]', "effects[0].send: expected `object`, got `array`"),
    ('[{"send":null}]', "effects[0].send: expected `object`, got `null`"),
    ('[{"send":{"dleay":"24h"}}]', "effects[0].send has an unknown field `dleay`; did you mean `delay`?"),
    ('[{"forward":{"delay":"24h"}}]', "effects[0].forward has an unknown field `delay`; there are function"),
    ('[{"send":{"function":null}}]', "effects[0].send.function: expected `str`"),
    ('[{"send":{"function":"Pay"}}]', "effects[0].send.function must match [a-z][a-z0-9_-]{0,62}"),
    ('[{"send":{"function":""}}]', "effects[0].send.function must match"),
    ('[{"send":{"handler":"on order"}}]', "effects[0].send.handler must match"),
    ('[{"send":{"handler":1}}]', "effects[0].send.handler: expected `str`, got `int`"),
    ('[{"send":{"reply_to":"Charged"}}]', "effects[0].send.reply_to must match"),
    ('[{"send":{"reply_to":""}}]', "effects[0].send.reply_to must match"),
    ('[{"send":{"key":""}}]', "effects[0].send.key must have 1 to 200 bytes, not 0"),
    (f'[{{"send":{{"key":"{LONG}"}}}}]', "effects[0].send.key must have 1 to 200 bytes, not 201"),
    ('[{"send":{"key":"' + "ü" * 101 + '"}}]', "effects[0].send.key must have 1 to 200 bytes, not 202"),
    ('[{"send":{"key":"a\\nb"}}]', "effects[0].send.key holds a control character"),
    ('[{"send":{"key":"\\u0000"}}]', "effects[0].send.key holds a control character"),
    ('[{"send":{"key":"\\u0085"}}]', "effects[0].send.key holds a control character"),
    ('[{"send":{"key":"-"}}]', "effects[0].send.key cannot be -"),
    ('[{"send":{"key":17}}]', "effects[0].send.key: expected `str | null`, got `int`"),
    ('[{"send":{"key":"\\ud800"}}]', "its effects: not valid JSON"),
    ('[{"send":{"delay":5}}]', 'effects[0].send.delay must be a duration with a unit, such as "500ms"'),
    ('[{"send":{"delay":1.5}}]', "not 1.5"),
    ('[{"send":{"delay":"5"}}]', "effects[0].send.delay must be a duration"),
    ('[{"send":{"delay":"-5s"}}]', "effects[0].send.delay must be a duration"),
    ('[{"send":{"delay":"5 fortnights"}}]', "effects[0].send.delay must be a duration"),
    ('[{"send":{"delay":null}}]', "effects[0].send.delay: expected"),
    ('[{"send":{"delay":true}}]', "effects[0].send.delay: expected"),
    ('[{"send":{"delay":"36526d"}}]', "effects[0].send.delay is more than a hundred years"),
    ('[{"send":{"delay":"' + "9" * 400 + 'd"}}]', "effects[0].send.delay is more than a hundred years"),
    ('[{"send":{"delay":"1s","at":"2026-11-24T02:11:00Z"}}]', "effects[0].send has both `delay` and `at`"),
    ('[{"send":{"delay":"0s","at":"2026-11-24T02:11:00Z"}}]', "effects[0].send has both `delay` and `at`"),
    *(
        (f'[{{"send":{{"at":"{at}"}}}}]', "effects[0].send.at must be a time with its offset")
        for at in (
            "",
            "tomorrow",
            "2026-11-24",
            "2026-11-24T02:11:00",
            "20261124T021100Z",
            "2026-11-24T02:11Z",
            "2026-11-24T02:11:00,5Z",
            "2026-W48-2T02:11:00Z",
            "2026-02-30T00:00:00Z",
            "2026-11-24T02:11:60Z",
            "2026-11-24T24:11:00Z",
            "2026-11-24T02:11:00+24:00",
            "0000-11-24T02:11:00Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "٢٠٢٦-11-24T02:11:00Z",
        )
    ),
    ('[{"send":{"at":1795745460}}]', "effects[0].send.at: expected `str`, got `int`"),
    ('[{"send":{"name":""}}]', "effects[0].send.name must have 1 to 200 bytes"),
    ('[{"send":{"name":"~a"}}]', "effects[0].send.name must not begin with ~"),
    ('[{"send":{"name":null}}]', "effects[0].send.name: expected `str`"),
    ('[{"cancel":{}}]', "effects[0].cancel: object missing required field `name`"),
    ('[{"cancel":"a"}]', "effects[0].cancel: expected `object`, got `str`"),
    ('[{"cancel":{"name":"a\\u007f"}}]', "effects[0].cancel.name holds a control character"),
    ('[{"cancel":{"name":"~a"}}]', "effects[0].cancel.name must not begin with ~"),
    ('[{"publish":{"message":1}}]', "effects[0].publish: object missing required field `topic`"),
    (f'[{{"publish":{{"topic":"{LONG}"}}}}]', "effects[0].publish.topic must have 1 to 200 bytes, not 201"),
    ('[{"subscribe":{"topic":"a\\tb"}}]', "effects[0].subscribe.topic holds a control character"),
    ('[{"subscribe":{"topic":"a","handler":"?"}}]', "effects[0].subscribe.handler must match"),
    ('[{"subscribe":{"topic":"a","key":"b"}}]', "effects[0].subscribe has an unknown field `key`"),
    ('[{"unsubscribe":{"topic":""}}]', "effects[0].unsubscribe.topic must have 1 to 200 bytes"),
    ('[{"forward":{}},{"forward":{}}]', "more than one `forward`"),
    ('[{"http":{}}]', "effects[0].http: object missing required field `url`"),
    (
        '[{"http":{"url":"http://a","method":"post"}}]',
        "effects[0].http.method must be one of GET, HEAD, POST",
    ),
    ('[{"http":{"url":"http://a","method":"CONNECT"}}]', 'not "CONNECT"'),
    ('[{"http":{"url":"http://a","method":"GET","body":1}}]', "effects[0].http.body: a GET has none"),
    ('[{"http":{"url":"http://a","headers":[]}}]', "effects[0].http.headers: expected `object`"),
    ('[{"http":{"url":"http://a","headers":{"a":1}}}]', "effects[0].http.headers[...]: expected `str`"),
    ('[{"http":{"url":"http://a","headers":{"a b":""}}}]', "which is not the name of a field"),
    ('[{"http":{"url":"http://a","headers":{"":""}}}]', "which is not the name of a field"),
    ('[{"http":{"url":"http://a","headers":{"a":"b\\r\\nc: d"}}}]', "not one line of ASCII text"),
    ('[{"http":{"url":"http://a","headers":{"a":"b\\n"}}}]', "not one line of ASCII text"),
    ('[{"http":{"url":"http://a","headers":{"a":"ü"}}}]', "not one line of ASCII text"),
    ('[{"http":{"url":"http://a","headers":{"A":"1","a":"2"}}}]', "effects[0].http.headers has a twice"),
    *(
        (f'[{{"http":{{"url":"http://a","headers":{{"{name}":"1"}}}}}}]', "is set by inversion itself")
        for name in ("Host", "content-length", "Transfer-Encoding", "CONNECTION", "te", "Upgrade", "Expect")
    ),
    *(
        (f'[{{"http":{{"url":{json.dumps(url)}}}}}]', "effects[0].http.url")
        for url in (
            "",
            "/a",
            "a",
            "//a",
            "ftp://a",
            "file:///etc/passwd",
            "http:/a",
            "http://",
            "http:///a",
            "http://?a",
            "http://:80/",
            "http://a:0/",
            "http://a:65536/",
            "http://2130706433/",
            "http://127.1/",
            "http://0x7f.1/",
            "http://a:b/",
            "http://user@a/",
            "http://user:secret@a/",
            "http://a#b",
            "http://a b/",
            "http://a\\@b/",
            "http://a/%",
            "http://a/%zz",
            "http://a%2eb/",
            "http://ä/",
            "http://a/ü",
            "http://[::1",
            "http://::1/",
            "http://[fe80::1%25eth0]/",
            "http://a\n/",
            "http://a\t.b/",
            "http://a/" + "b" * 8_000,
        )
    ),
    ('[{"send":{"message":NaN}}]', "its effects: not valid JSON"),
    ('[{"send":{"message":1e999}}]', "its effects: a number is not finite"),
    ('[{"send":{"message":18446744073709551616}}]', "its effects: integer 18446744073709551616 does not fit"),
    ('[{"send":{"message":"\\udfff"}}]', "its effects: not valid JSON"),
    ("[" * 100_000 + "]" * 100_000, "its effects: JSON nested deeper"),
    ("[", "its effects: not valid JSON"),
]


@pytest.mark.parametrize(("text", "said"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_effect_is_refused_with_its_place_and_advice(text, said):
    detail = refusal(text).detail
    assert said in detail
    assert len(detail) < 400


def test_effects_have_limits():
    assert len(read("[" + ",".join(['{"send":{}}'] * MAX_EFFECTS) + "]")) == MAX_EFFECTS
    for text, limits, said in [
        ("[" + ",".join(['{"send":{}}'] * (MAX_EFFECTS + 1)) + "]", Limits(), "1001 effects, more than 1000"),
        ('[{"send":{}}]', Limits(effects_bytes=12), "13 bytes, more than limits.effects = 12"),
        *(
            (
                f'[{{"{operation}":{{"topic":"a","message":"12345"}}}}]'.replace(
                    '"topic":"a",', '"topic":"a",' if operation == "publish" else ""
                ),
                Limits(body_bytes=6),
                f"effects[0].{operation}.message has 7 bytes, more than limits.body = 6",
            )
            for operation in ("send", "forward", "publish")
        ),
    ]:
        with pytest.raises(Overrun) as caught:
            read(text, limits)
        assert caught.value.code is Code.EFFECTS_TOO_LARGE
        assert said in caught.value.detail


# -- any bytes -------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True)
LABELS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=50).filter(
    lambda label: label != "-" and not label.startswith("~")
)
BODIES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(st.characters(blacklist_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode())
TARGET = {"function": NAMES, "key": st.none() | LABELS, "handler": NAMES, "message": BODIES}
EFFECTS = st.one_of(
    st.builds(
        Send, **TARGET, delay_ms=st.integers(1, 10**12), name=st.none() | LABELS, reply_to=st.none() | NAMES
    ),
    st.builds(
        Send, **TARGET, at=st.datetimes().map(lambda time: time.isoformat(timespec="microseconds") + "Z")
    ),
    st.builds(Cancel, LABELS),
    st.builds(Publish, LABELS, BODIES),
    st.builds(Subscribe, LABELS, NAMES),
    st.builds(Unsubscribe, LABELS),
    st.builds(
        Http,
        st.sampled_from(["POST", "PUT", "PATCH", "DELETE"]),
        st.from_regex(r"https?://[a-z]{1,9}(:[1-9][0-9]{0,3})?(/[a-z0-9.?&=]*)?", fullmatch=True),
        st.dictionaries(
            st.from_regex(r"x-[a-z]{1,9}", fullmatch=True), st.text("ab c:;=\t~"), max_size=3
        ).map(lambda fields: tuple(fields.items())),
        st.none() | BODIES,
        st.none() | NAMES,
    ),
)


def written(effect) -> bytes:
    """The effect as a runtime would write it."""
    fields = {}
    for name in effect.__slots__:
        value = getattr(effect, name, None)
        if name == "__weakref__" or (value is None and name != "key"):
            continue
        if name == "delay_ms":
            value = f"{value}ms"
        if name == "headers":
            value = dict(value)
        fields["delay" if name == "delay_ms" else name] = (
            value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
        )
    inside = b",".join(b'"%b":%b' % (name.encode(), value) for name, value in fields.items())
    return b'{"%b":{%b}}' % (type(effect).__name__.lower().encode(), inside)


@given(st.lists(EFFECTS, max_size=6))
def test_what_is_written_is_what_is_read(effects):
    assert read(b"[%b]" % b",".join(map(written, effects))) == tuple(effects)


@given(st.lists(EFFECTS, min_size=1, max_size=3), st.data())
def test_bytes_out_of_place_raise_nothing_but_a_refusal(effects, data):
    text = b"[%b]" % b",".join(map(written, effects))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    garbage = data.draw(
        st.binary(max_size=8) | st.sampled_from([b'"', b"}", b"null", b"{}", b",", b'":{"', b"1e999"])
    )
    try:
        read(text[:start] + garbage + text[end:])
    except RuntimeBroken as refusal:
        assert refusal.code in (Code.PROTOCOL_ERROR, Code.EFFECTS_TOO_LARGE)  # noqa: PT017 (it may be well)


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_a_refusal(text):
    try:
        effects = read(text)
    except RuntimeBroken:
        return
    assert effects == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "send",
                    "cancel",
                    "http",
                    "publish",
                    "subscribe",
                    "name",
                    "topic",
                    "key",
                    "delay",
                    "at",
                    "url",
                    "headers",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=4))
def test_any_json_is_taken_or_refused(value):
    try:
        assert len(read(json.dumps(value))) == len(value)
    except EffectsRefused as refusal:
        assert "effects" in refusal.detail  # noqa: PT017 (most are refused, a few are well)


# -- what those of a turn come to ------------------------------------------------------------------------

FEW = st.sampled_from(["a", "b", "c"])
OPERATIONS = st.one_of(
    st.builds(Send, st.just("f"), FEW, st.just("h"), st.sampled_from([b"1", b"2"]), name=st.none() | FEW),
    st.builds(Cancel, FEW),
    st.builds(Publish, FEW, st.just(b"3")),
    st.builds(Subscribe, FEW, st.sampled_from(["h", "i"])),
    st.builds(Unsubscribe, FEW),
    st.builds(Http, st.just("POST"), st.just("http://a")),
    st.builds(Forward, st.just("f"), FEW, st.just("h"), st.just(b"4")),
)


def obey(effects, timers, topics):
    """The naive model: one after the other. What is neither timer nor subscription comes out."""
    others = []
    for effect in effects:
        match effect:
            case Send(name=str()):
                timers[effect.name] = effect
            case Cancel():
                timers.pop(effect.name, None)
            case Subscribe():
                topics[effect.topic] = effect.handler
            case Unsubscribe():
                topics.pop(effect.topic, None)
            case _:
                others.append(effect)
    return others, timers, topics


@given(st.lists(st.lists(OPERATIONS, max_size=6), max_size=4), st.booleans())
def test_folded_effects_come_to_the_same_in_any_order(turn, something_before):
    timers = dict.fromkeys("ab", Send("f", "k", "old", b"0", name="x")) if something_before else {}
    topics = dict.fromkeys("bc", "old") if something_before else {}
    placed = fold(turn)
    in_order = obey([effect for answer in turn for effect in answer], dict(timers), dict(topics))
    assert obey([each.effect for each in placed], dict(timers), dict(topics)) == in_order
    backwards = obey([each.effect for each in reversed(placed)], dict(timers), dict(topics))
    assert backwards == (in_order[0][::-1], *in_order[1:])
    assert [(each.answer, each.place) for each in placed] == sorted(
        (each.answer, each.place) for each in placed
    )
    assert all(turn[each.answer][each.place] is each.effect for each in placed)


def test_the_last_word_about_a_timer_counts_across_the_answers_of_a_turn():
    first, second = Send("f", "k", "h", b"1", name="a"), Send("f", "k", "h", b"2", name="a")
    other = Send("f", "k", "h", b"3")
    assert fold([[first, other, other], [Cancel("a"), Cancel("b")], [second]]) == [
        Placed(0, 1, other),
        Placed(0, 2, other),
        Placed(1, 1, Cancel("b")),
        Placed(2, 0, second),
    ]
