import uuid

from inversion.ids import new_id, new_seed, new_turn_id


def test_ids_are_uuids_of_version_7_that_sort_by_birth():
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    parsed = [uuid.UUID(text) for text in ids]
    assert {(one.version, one.variant) for one in parsed} == {(7, uuid.RFC_4122)}
    assert [one.int >> 80 for one in parsed] == sorted(one.int >> 80 for one in parsed)
    assert [str(one) for one in parsed] == ids


def test_turn_ids_are_sixteen_bytes_and_seeds_differ():
    assert {len(new_turn_id()) for _ in range(1000)} == {16}
    assert len({new_seed() for _ in range(5000)}) == 5000
