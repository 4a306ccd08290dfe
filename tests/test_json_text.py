import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inversion import json_text
from inversion.errors import Code, RequestRefused

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(json_values, st.sampled_from([None, 1]))
def test_valid_json_keeps_its_bytes_but_for_raw_newlines(value, indent):
    text = json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return  # a lone surrogate in a key
    checked = json_text.check(text)
    assert checked == text.replace(b"\n", b" ")
    assert json.loads(checked) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        b"1E5",
        b'"\\u0000"',
        b'{"a":1,"a":2}',
        b" 1 ",
        b"-0",
        b"1e-400",
        b"9223372036854775808",
        "\u2028".encode().join([b'"', b'"']),
        b"18446744073709551615",
        b"-9223372036854775808",
        b'"' + b"9" * 40 + b'"',
        b"[" * 64 + b"]" * 64,
        b'"' + b"[" * 100 + b'"',
        b'"\\\\\\"[[["',
        b"1.0000000000000000000000001",
    ],
)
def test_unusual_but_valid_json_comes_back_byte_for_byte(text):
    assert json_text.check(text) == text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", Code.BAD_JSON),
        (b"{", Code.BAD_JSON),
        (b"{'a':1}", Code.BAD_JSON),
        (b"NaN", Code.BAD_JSON),
        (b"-Infinity", Code.BAD_JSON),
        (b"01", Code.BAD_JSON),
        (b"[1,]", Code.BAD_JSON),
        (b'"\xff"', Code.BAD_JSON),
        (b'"\xed\xa0\x80"', Code.BAD_JSON),
        (b'"\\ud800"', Code.BAD_JSON),
        (b'"\xc0\x80"', Code.BAD_JSON),
        (b'"a\nb"', Code.BAD_JSON),
        (b"\xef\xbb\xbf1", Code.BAD_JSON),
        (b"1 2", Code.BAD_JSON),
        (b"1e400", Code.BAD_NUMBER),
        (b"18446744073709551616", Code.BAD_NUMBER),
        (b"-9223372036854775809", Code.BAD_NUMBER),
        (b'{"a":["x",1' + b"0" * 30 + b"]}", Code.BAD_NUMBER),
        (b"1" * 5000, Code.BAD_NUMBER),
        (b"[" * 65 + b"]" * 65, Code.TOO_DEEP),
        (b'{"a":' * 100 + b"1" + b"}" * 100, Code.TOO_DEEP),
        (b"[" * 100_000, Code.TOO_DEEP),
    ],
)
def test_what_cannot_be_kept_honestly_is_refused(text, code):
    with pytest.raises(RequestRefused) as refusal:
        json_text.check(text)
    assert refusal.value.code is code


def test_newlines_between_tokens_cannot_end_a_frame():
    assert json_text.check(b'[\n{"id":"forged"}\r\n]') == b'[ {"id":"forged"}  ]'


@pytest.mark.parametrize("number", [2**53 - 1, -(2**53) + 1, 0, 1])
def test_safe_integers_pass_for_runtimes_with_doubles(number):
    json_text.check_integers_53(b'{"n":%d,"s":"99999999999999999999"}' % number)


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**63, 9007199254740993])
def test_integers_that_a_double_would_change_are_refused_for_such_a_runtime(number):
    with pytest.raises(RequestRefused) as refusal:
        json_text.check_integers_53(b"[%d]" % number)
    assert refusal.value.code is Code.BAD_NUMBER
