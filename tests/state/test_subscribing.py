"""What a turn says of topics, as rows: the last word about each, and publications in their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inversion.effects import Effect, Publish, Subscribe, Unsubscribe
from inversion.messages import Address, Answer
from inversion.names import TOPIC
from inversion.state.consequences import consequences_of, versions_with
from plain import a_request, a_turn

TOPICS = st.sampled_from(["a", "b", "-", "ü"])
EFFECTS = st.one_of(
    st.builds(Publish, TOPICS, st.sampled_from([b"1", b"2"])),
    st.builds(Subscribe, TOPICS, st.sampled_from(["h", "i"])),
    st.builds(Unsubscribe, TOPICS),
)


@given(st.lists(st.lists(EFFECTS, max_size=6), min_size=1, max_size=4), st.integers(0, 9))
def test_a_turn_says_one_thing_of_each_topic_and_publishes_in_order(
    of_answers: list[list[Effect]], version: int
) -> None:
    turn = a_turn(*(a_request("k", n=n) for n in range(len(of_answers))))
    answers = [Answer(b"1", effects=effects) for effects in of_answers]
    made = consequences_of(turn, answers, versions_with(turn, version, answers), None, "application/json")
    said: dict[bytes, bytes | None] = {}
    published = []
    for effects in of_answers:
        for effect in effects:
            match effect:
                case Publish(topic, message):
                    published.append((TOPIC.encode(), topic.encode(), b"counter/k", message))
                case Subscribe(topic, handler):
                    said[topic.encode()] = handler.encode()
                case Unsubscribe(topic):
                    said[topic.encode()] = None
    assert len(made.subscribing) == len(said)
    assert {each.topic: each.handler for each in made.subscribing} == said
    assert made.plain is not bool(said)
    assert [(each.function, each.key, each.sender, each.body) for each in made.births] == published
    places = [(each.sender_version, each.seq) for each in made.births]
    assert places == sorted(set(places))
    assert all(first > version for first, _ in places)
    assert all(each.owner is None for each in made.births)
    assert made.due is bool(published)
    assert turn.address == Address("counter", "k")
