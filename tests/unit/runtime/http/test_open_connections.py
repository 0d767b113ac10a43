"""Who has to leave a listener for whoever comes next."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mlplatform.runtime.http.open_connections import ConnectionLimits, OpenConnections

ROOM = ConnectionLimits(connections=12, strangers=4)


def full_of(peer: str) -> OpenConnections[str]:
    held: OpenConnections[str] = OpenConnections(ROOM)
    for number in range(ROOM.strangers):
        assert held.add(f"{peer} {number}", peer) is None
    return held


def test_while_there_is_room_nobody_has_to_leave() -> None:
    assert len(full_of("uid 1")) == ROOM.strangers


def test_the_oldest_of_the_peer_with_most_leaves_for_a_new_one() -> None:
    held = full_of("uid 1")

    assert held.add("operator", "uid 2") == "uid 1 0"


def test_a_peer_with_few_connections_keeps_them_while_another_opens_any_number() -> None:
    held: OpenConnections[str] = OpenConnections(ROOM)
    held.add("operator", "uid 2")

    for number in range(100):
        victim = held.add(f"uid 1 {number}", "uid 1")
        if victim is not None:
            held.remove(victim)

    assert "operator" in held
    assert len(held) == ROOM.strangers


def test_who_was_let_in_keeps_its_place() -> None:
    held = full_of("uid 1")
    assert held.admit("uid 1 0")

    assert held.add("another", "uid 1") is None
    assert held.add("one more", "uid 1") == "uid 1 1"


def test_who_was_let_in_leaves_room_for_strangers() -> None:
    held: OpenConnections[int] = OpenConnections(ROOM)
    for number in range(ROOM.connections - ROOM.strangers):
        held.add(number, "uid 1")
        assert held.admit(number)

    held.add(99, "uid 1")

    assert not held.admit(99)
    assert not held.is_admitted(99)
    assert held.is_admitted(0)


def test_one_that_is_closed_is_forgotten() -> None:
    held = full_of("uid 1")
    held.remove("uid 1 0")
    held.remove("uid 1 0")

    assert held.add("another", "uid 1") is None
    assert not held.admit("uid 1 0")


@given(st.lists(st.tuples(st.sampled_from("ack"), st.integers(0, 30), st.sampled_from("xyz"))))
def test_there_are_never_more_than_there_is_room_for(
    steps: list[tuple[str, int, str]],
) -> None:
    held: OpenConnections[int] = OpenConnections(ROOM)
    next_one = 0
    for what, which, peer in steps:
        if what == "a":
            victim = held.add(next_one, peer)
            next_one += 1
            if victim is not None:
                strangers = Counter(held.peer(c) for c in held if not held.is_admitted(c))
                assert strangers[held.peer(victim)] == max(strangers.values())
                held.remove(victim)
        elif what == "c":
            held.admit(which)
        else:
            held.remove(which)
        strangers_now = [c for c in held if not held.is_admitted(c)]
        assert len(strangers_now) <= ROOM.strangers
        assert len(held) <= ROOM.connections
