"""What of the offsets that a consumer passed over is a loss."""

from __future__ import annotations

import pytest

from mlplatform.decisions.topics.kafka_skips import Skip, Skips, dropped_of
from mlplatform.decisions.topics.messages import DroppedRange

PLACE = ("bank", 2)


@pytest.mark.parametrize(
    ("start", "end", "committed", "oldest", "gone"),
    [
        (10, 20, None, 5, None),
        (10, 20, None, 10, None),
        (10, 20, None, 11, (10, 10)),
        (10, 20, None, 15, (10, 14)),
        (10, 20, None, 20, (10, 19)),
        (10, 20, None, 90, (10, 19)),
        (None, 20, 12, 15, (12, 14)),
        (None, 20, 20, 20, None),
        (None, 20, None, 15, (None, 14)),
        (None, 20, None, 0, None),
        (None, 0, 50, 0, None),
    ],
    ids=[
        "marks of transactions",
        "what is there begins where it was passed over",
        "one",
        "some, and marks behind them",
        "all",
        "no more than was passed over",
        "since the committed offset",
        "nothing was left to read",
        "nobody knows since when",
        "a topic that has everything",
        "a topic that was made anew",
    ],
)
def test_a_skip_is_a_loss_up_to_the_oldest_offset_that_is_left(
    start: int | None,
    end: int,
    committed: int | None,
    oldest: int,
    gone: tuple[int | None, int] | None,
) -> None:
    expected = None if gone is None else DroppedRange(*PLACE, *gone)
    assert dropped_of(Skip(PLACE, start, end), committed, oldest) == expected


def test_a_skip_lies_between_what_came_and_what_comes() -> None:
    skips = Skips()
    for offset in (7, 8, 12):
        skips.note(PLACE, offset, offset + 1)
    skips.note(PLACE, 15, 15)  # the partition's end
    skips.note(PLACE, 15, 16)
    assert skips.found == (Skip(PLACE, None, 7), Skip(PLACE, 9, 12), Skip(PLACE, 13, 15))
    skips.settle()
    skips.note(PLACE, 16, 17)
    assert skips.found == ()
    skips.forget()
    skips.note(PLACE, 17, 18)
    assert skips.found == (Skip(PLACE, None, 17),)


def test_a_loss_counts_its_offsets() -> None:
    assert DroppedRange(*PLACE, 3, 7).most_messages == 5
    assert DroppedRange(*PLACE, None, 7).most_messages == 0
