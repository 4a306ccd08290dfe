"""Histories as files."""

import pytest
from tests.faults.history.operation import Operation, Outcome, read_history, refused, write_history

APPLIED = Operation("c1", "counter/a", "add", 2, 10, 20, Outcome.APPLIED, 2, 1, "k1", None, "n1")
UNKNOWN = Operation("c2", "bank/a", "transfer", {"from": 0}, 11, None, Outcome.UNKNOWN)
REFUSED = Operation("c2", "life/a", "read", None, 12, 13, Outcome.NOT_APPLIED, refused("absent"), 0)


def test_what_is_written_is_read_again(tmp_path):
    file = tmp_path / "history.jsonl"
    write_history(file, [APPLIED, UNKNOWN, REFUSED])
    assert list(read_history(file)) == [APPLIED, UNKNOWN, REFUSED]
    assert len(file.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("torn", [b'{"client":"c1","entity":"counter/a"', b'{"client":"c1"}', b"\n"])
def test_a_line_that_is_torn_or_lacks_a_field_is_an_error_and_is_named(torn, tmp_path):
    file = tmp_path / "history.jsonl"
    write_history(file, [APPLIED])
    with file.open("ab") as lines:
        lines.write(torn)
    with pytest.raises(ValueError, match="line 2"):
        list(read_history(file))


def test_only_what_was_refused_before_it_ran_has_no_trace():
    assert APPLIED.ran
    assert UNKNOWN.ran
    assert REFUSED.ran
    assert not Operation("c", "counter/a", "add", 1, 1, 2, Outcome.NOT_APPLIED).ran
