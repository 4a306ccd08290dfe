"""The planner, on plain seats."""

from __future__ import annotations

from inversion.config import Processes
from inversion.protocol.roster import HELD_S, PATIENCE_S, Roster, Seat


def roster(*seats: Seat, fewest: int = 0, most: int = 4, idle_s: float = 10.0) -> Roster[Seat]:
    planned: Roster[Seat] = Roster(Processes(fewest, most), idle_s)
    planned.seats.extend(seats)
    return planned


def seat(
    in_flight: int = 0, depth: int = 4, *, spoken: bool = True, idle_since_s: float = 0.0, **also
) -> Seat:
    return Seat(idle_since_s, limit=depth, depth=depth, spoken=spoken, in_flight=in_flight, **also)


NOW_S = 0.001


def test_a_process_whose_oldest_frame_is_out_for_long_gets_no_more():
    hung, fresh = seat(1, depth=64, service_s=0.0001), seat(1, depth=64, service_s=0.0001)
    fresh.head_began_s = 5.0
    planned = roster(hung, fresh)
    assert planned.seat_for(1, 5.0) is fresh
    assert planned.room(5.0) == 63
    fresh.head_began_s = 0.0
    assert planned.seat_for(1, 5.0) is None
    assert planned.room(5.0) == 0
    assert planned.wants_another(0.1)


def test_a_slow_process_is_not_taken_for_a_hung_one():
    slow = seat(1, service_s=1.0)
    assert roster(slow).seat_for(1, 3.9) is slow
    assert roster(slow).seat_for(1, 4.1) is None
    slow.in_flight = 0
    assert roster(slow).seat_for(1, 100.0) is slow


def test_the_first_seat_with_room_gets_the_message():
    busy, less, full = seat(2), seat(1), seat(4)
    assert roster(full, busy, less).seat_for(1, NOW_S) is busy


def test_light_load_stays_on_the_first_seats():
    first, second = seat(), seat()
    assert roster(first, second).seat_for(1, NOW_S) is first


def test_no_seat_without_room_for_leaving_or_kept_ones():
    assert (
        roster(seat(4), seat(leaving=True), seat(exclusive=True), seat(reserved=True)).seat_for(1, NOW_S)
        is None
    )


def test_a_turn_of_several_goes_where_a_batch_is_understood():
    small, large = seat(), seat(3, batch=8)
    assert roster(small, large).seat_for(2, NOW_S) is large
    assert roster(small, large).seat_for(9, NOW_S) is None


def test_an_exclusive_message_gets_a_seat_with_nothing_in_flight():
    free = seat()
    assert roster(seat(1), free).seat_alone(1) is free


def test_for_an_exclusive_message_the_least_loaded_seat_is_kept_free():
    busy, less = seat(3), seat(1)
    planned = roster(busy, less)
    assert planned.seat_alone(1) is None
    assert (busy.reserved, less.reserved) == (False, True)
    assert planned.seat_for(1, NOW_S) is busy
    less.in_flight = 0
    assert planned.seat_alone(1) is less
    assert not less.reserved


def test_room_is_what_the_seats_can_take():
    assert roster(seat(1), seat(3), seat(5, depth=4), seat(leaving=True)).room(NOW_S) == 4


def test_the_first_message_starts_a_process_at_once():
    assert roster().wants_another(0.0)
    assert roster(seat(leaving=True)).wants_another(0.0)


def test_another_process_is_started_when_messages_have_waited():
    planned = roster(seat(4))
    assert not planned.wants_another(PATIENCE_S / 2)
    assert planned.wants_another(PATIENCE_S)


def test_no_second_start_while_one_is_under_way():
    assert not roster(seat(4), seat(1, spoken=False)).wants_another(1.0)


def test_no_more_than_max_and_one_on_its_way_out():
    assert not roster(seat(4), seat(4), most=2).wants_another(1.0)
    assert roster(seat(leaving=True), most=1).wants_another(1.0)
    assert not roster(seat(leaving=True), seat(leaving=True), most=1).wants_another(1.0)


def test_idle_seats_beyond_the_minimum_retire_longest_idle_first():
    old, older, busy = seat(idle_since_s=5.0), seat(idle_since_s=1.0), seat(1)
    assert roster(old, older, busy, fewest=2).to_retire(100.0) == [older]
    assert roster(old, older, busy).to_retire(100.0) == [older, old]
    assert list(roster(old, older).to_retire(10.9)) == []
    assert list(roster(old, fewest=1).to_retire(100.0)) == []


def test_missing_counts_what_stays():
    assert roster(seat(), seat(leaving=True), fewest=3).missing == 2


def test_the_depth_is_what_is_answered_in_five_milliseconds():
    fast, slow = seat(depth=64), seat(depth=64)
    for _ in range(50):
        fast.served(10, 10 * HELD_S / 1_000)
        slow.served(1, HELD_S * 3)
    assert (fast.depth, slow.depth) == (64, 1)
    for _ in range(50):
        slow.served(1, HELD_S / 16)
    assert 10 <= slow.depth <= 16


def test_before_its_first_answer_a_process_gets_one_frame():
    fresh = Seat(0.0, limit=64)
    fresh.plan_depth()
    assert fresh.depth == 1
    closed = Seat(0.0, limit=0)
    closed.plan_depth()
    assert closed.depth == 0
