"""Which moment a retrain may be asked to pretend that it is."""

from __future__ import annotations

import pytest

from mlplatform.operations.actions.training import training_moment
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS

MIDNIGHT_MS = 20_000 * DAY_MS


@pytest.mark.parametrize(
    ("asked_ms", "known_ms", "found_ms"),
    [
        pytest.param(None, MIDNIGHT_MS + 5, MIDNIGHT_MS + 5, id="none: what is known"),
        pytest.param(7, MIDNIGHT_MS, 7, id="the past"),
        pytest.param(
            MIDNIGHT_MS + DAY_MS,
            MIDNIGHT_MS - 1,
            MIDNIGHT_MS + DAY_MS,
            id="the day that follows the history, before its first payment",
        ),
        pytest.param(
            MIDNIGHT_MS + 2 * DAY_MS,
            MIDNIGHT_MS + 1,
            MIDNIGHT_MS + 2 * DAY_MS,
            id="the end of the next day",
        ),
    ],
)
def test_a_moment_that_is_known_or_almost_is_taken(
    asked_ms: int | None, known_ms: int, found_ms: int
) -> None:
    assert training_moment(asked_ms, known_ms) == found_ms


def test_the_future_is_refused_with_the_limit_and_the_way_out() -> None:
    with pytest.raises(InputInvalid) as caught:
        training_moment(MIDNIGHT_MS + DAY_MS + 1000, MIDNIGHT_MS)
    assert str(caught.value) == (
        "as_of: 2024-10-05T00:00:01+00:00 is too late, as the newest data is of "
        "2024-10-04T00:00:00+00:00; wanted: 2024-10-05T00:00:00+00:00 or earlier, or no value for "
        "the present"
    )
