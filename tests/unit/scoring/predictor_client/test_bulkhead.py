"""What one model may hold of a gateway, how often calls are repeated, and which scores are kept."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.policies.serving import CachePolicy
from mlplatform.scoring.predictor_client.bulkhead import Bulkhead, RetryBudget
from mlplatform.scoring.predictor_client.cache import ScoreCache

NAN = math.nan


def cache(entries: int = 2, keep_s: float = 10.0) -> ScoreCache:
    return ScoreCache(CachePolicy(entries=entries, keep_s=keep_s), width=2)


def test_one_more_than_the_limit_is_refused_until_somebody_leaves() -> None:
    bulkhead = Bulkhead(2)
    assert [bulkhead.enter() for _ in range(3)] == [True, True, False]
    bulkhead.leave()
    assert [bulkhead.enter() for _ in range(2)] == [True, False]


@given(st.lists(st.booleans(), max_size=400))
def test_repeats_never_exceed_what_was_saved_and_the_share_of_calls(asked: list[bool]) -> None:
    budget, repeats = RetryBudget(0.1, 3), 0
    for calls, wants_repeat in enumerate(asked, start=1):
        budget.record_call()
        repeats += wants_repeat and budget.may_repeat()
        assert repeats <= 3 + 0.1 * calls + 1e-9


def test_a_predictor_that_always_breaks_gets_a_tenth_more_load() -> None:
    budget = RetryBudget(0.1, 10)
    repeats = 0
    for _ in range(1000):
        budget.record_call()
        repeats += budget.may_repeat()
    assert 99 <= repeats <= 110


def test_an_equal_row_has_the_score_that_was_kept() -> None:
    scores = cache()
    scores.keep(scores.key((1.0, NAN)), 0.25, 0.0)
    assert scores.score(scores.key((1.0, NAN)), 1.0) == 0.25


@pytest.mark.parametrize(
    ("row", "now_s"),
    [
        pytest.param((1.0, 2.0 + 1e-15), 0.0, id="a row that differs in the last bit"),
        pytest.param((2.0, 1.0), 0.0, id="the same numbers in another order"),
        pytest.param((1.0, 2.0), 10.1, id="too old"),
    ],
)
def test_nothing_else_has_a_score(row: tuple[float, float], now_s: float) -> None:
    scores = cache()
    scores.keep(scores.key((1.0, 2.0)), 0.25, 0.0)
    assert scores.score(scores.key(row), now_s) is None


def test_the_row_that_was_used_longest_ago_makes_room() -> None:
    scores = cache(entries=2)
    one, two, three = (scores.key((value, 0.0)) for value in (1.0, 2.0, 3.0))
    scores.keep(one, 0.1, 0.0)
    scores.keep(two, 0.2, 0.0)
    assert scores.score(one, 0.0) == 0.1
    scores.keep(three, 0.3, 0.0)
    assert [scores.score(key, 0.0) for key in (one, two, three)] == [0.1, None, 0.3]
    assert len(scores) == 2
