"""How a case file is read, and how a line is compared with what a case expects."""

from __future__ import annotations

import pytest

from inversion.conformance.cases import Act, Audience, BadCase, Need, Step, load, read
from inversion.conformance.matching import difference

CASE = b"""# requirement: STATE-KEEP
# for: interpreter
# It keeps
# what it has.
> {"id":"1",\\
"message":1}
< {"id":"1","response":%{"x"*3}%{0xefbbbf}}
> @torn {"id"
> @eof
< @exit 0
"""


def expecting(text: str, act: Act = Act.LINE) -> Step:
    return Step(act, text.encode(), 1)


def test_a_case_is_read_as_a_dialogue() -> None:
    case = read("state/keep", CASE)
    assert (case.name, case.group, case.requirement) == ("state/keep", "state", "STATE-KEEP")
    assert (case.audience, case.sentence) == (Audience.INTERPRETER, "It keeps what it has.")
    assert [(step.act, step.data, step.line) for step in case.steps] == [
        (Act.SEND, b'{"id":"1","message":1}', 5),
        (Act.LINE, b'{"id":"1","response":xxx\xef\xbb\xbf}', 7),
        (Act.SEND_TORN, b'{"id"', 8),
        (Act.SEND_EOF, b"", 9),
        (Act.EXIT, b"0", 10),
    ]
    assert case.is_alone


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"# for: any\n# a\n> {}\n", "it has no `# requirement: `"),
        (b"# requirement: A\n# a\n> {}\n", "it has no `# for: `"),
        (b"# requirement: A\n# for: all\n# a\n> {}\n", "is none of any, interpreter, host"),
        (b"# requirement: A\n# for: any\n> {}\n", "no sentence"),
        (b"# requirement: A\n# for: any\n# a\n", "no dialogue"),
        (b"# requirement: A\n# for: any\n# a\n>> {}\n", "c:4: b'>> {}' is no line of a dialogue"),
        (b"# requirement: A\n# for: any\n# a\n> @fly 1\n", "no line of a dialogue"),
        (b"# requirement: A\n# for: any\n# a\n> {}\n# b\n", "c:5: a remark belongs above"),
    ],
)
def test_a_case_that_cannot_be_read_says_where(content: bytes, said: str) -> None:
    with pytest.raises(BadCase, match=r".") as caught:
        read("c", content)
    assert said in str(caught.value)


def test_every_case_that_ships_can_be_read() -> None:
    names = [(case.audience is Audience.HOST, case.name) for case in load()]
    assert len(names) == len(set(names)) > 0


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ('{"id":"1","response":1}', '{"response":1.0,"id":"1"}'),
        ('{"id":"1","response":1e2}', '{"id":"1","response":100}'),
        ('{"id":"1","response":"..."}', '{"id":"1","response":{"a":[1]}}'),
        ('{"id":"1","response":"\\u00fc"}', '{"id":"1","response":"ü"}'),
        ('{"id":"1","response":[1,{"a":null}]}', ' {"id":"1", "response":[1, {"a":null}]} \r'),
        ('{"n":[0.1,-0]}', '{"n":[0.10000000000000001,-0.0]}'),
        ('{"error":{"code":"a","...":"..."}}', '{"error":{"code":"a","message":"m","retry":false}}'),
        ('{"a":123456789012345678901234567890}', '{"a":123456789012345678901234567890}'),
    ],
)
def test_frames_are_the_same_whatever_their_spelling(wanted: str, found: str) -> None:
    assert difference(expecting(wanted), found.encode()) is None


@pytest.mark.parametrize(
    ("wanted", "found", "said"),
    [
        ('{"id":"1"}', '{"id":"2"}', 'id is "2", not "1"'),
        ('{"id":"1"}', '{"id":"1","response":null}', "response is too much"),
        ('{"id":"1","state":null}', '{"id":"1"}', "state is missing"),
        ('{"n":9007199254740993}', '{"n":9007199254740992}', "n is 9007199254740992, not 9007199254740993"),
        ('{"n":-0.0}', '{"n":0.0}', "n is 0.0, not -0.0"),
        ('{"n":1}', '{"n":true}', "n is true, not 1"),
        ('{"n":0}', '{"n":false}', "n is false, not 0"),
        ('{"n":[1,2]}', '{"n":[1]}', "n has 1 elements, not 2"),
        ('{"n":[{"a":1}]}', '{"n":[{"a":2}]}', "n[0].a is 2, not 1"),
        ('{"n":{"a":1,"...":"..."}}', '{"n":{"b":1}}', "n.a is missing"),
        ('{"n":0.1}', '{"n":0.2}', "n is 0.2, not 0.1"),
        ('{"n":1}', "[1]", "it is no object"),
        ('{"n":1}', "done.", "it is not JSON"),
        ('{"n":1}', '{"n":NaN}', "NaN is no JSON"),
        ('{"n":1}', '{"n":"\udce9"}', "it is not JSON"),
    ],
)
def test_what_differs_is_said(wanted: str, found: str, said: str) -> None:
    assert said in (difference(expecting(wanted), found.encode(errors="surrogateescape")) or "")


def test_any_answer_is_a_response_or_an_error_of_that_id() -> None:
    step = expecting("1", Act.ANSWER)
    assert difference(step, b'{"id":"1"}') is None
    assert difference(step, b'{"id":"1","error":{"code":"no_handler"}}') is None
    assert difference(step, b'{"id":"2"}') == 'its id is "2", not "1"'
    assert difference(step, b'{"id":"1","error":{},"state":1}') == "it has an error, and more beside it"


def test_an_error_has_the_code_that_is_wanted_or_any() -> None:
    answer = b'{"id":"1","error":{"code":"bad","message":""}}'
    assert difference(expecting("1 bad", Act.ERROR), answer) is None
    assert difference(expecting("1 *", Act.ERROR), answer) is None
    assert difference(expecting("1 worse", Act.ERROR), answer) == 'error.code is "bad", not "worse"'
    assert difference(expecting("1 *", Act.ERROR), b'{"id":"1","response":1}') == "it is no error"


def test_an_error_does_not_tell_what_is_for_the_log() -> None:
    step = expecting("1 function_error without hush", Act.ERROR)
    assert difference(step, b'{"id":"1","error":{"code":"function_error","message":"it failed"}}') is None
    said = difference(step, b'{"id":"1","error":{"code":"function_error","message":"hush: it failed"}}')
    assert said == "it tells 'hush', which is for the log"


def test_a_case_is_for_programs_that_can_do_what_it_needs() -> None:
    case = read("turns/two", CASE.replace(b"# for", b"# needs: batch integers-64\n# for"))
    assert case.needs == {Need.BATCH, Need.INTEGERS_64}
    assert case.lacking({}) is Need.BATCH
    assert case.lacking({"batch": 64, "integers": 53}) is Need.INTEGERS_64
    assert case.lacking({"batch": 64}) is None


def test_contexts_need_not_be_written_out() -> None:
    (step,) = read("a/b", b"# requirement: A\n# for: any\n# a\n> {%{each:look},%{ctx:run}}\n").steps
    assert step.text.startswith('{"handler":"look","attempt":1,"now":"2026-')
    assert ',{"function":"f","key":"k","version":3,"handler":"run",' in step.text


def test_a_hello_is_one() -> None:
    assert difference(expecting("", Act.HELLO), b'{"hello":{}}') is None
    wanted = expecting('{"handlers":{"look":{"reads_only":true}}}', Act.HELLO)
    assert (
        difference(wanted, b'{"hello":{"handlers":{"look":{"reads_only":true,"input":1},"run":{}}}}') is None
    )
    missing = difference(wanted, b'{"hello":{"handlers":{"look":{}}}}')
    assert missing == "hello.handlers.look.reads_only is missing"
    assert difference(expecting("", Act.HELLO), b'{"id":"1"}') == "it is no hello"
