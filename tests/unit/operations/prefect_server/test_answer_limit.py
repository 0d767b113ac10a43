"""One person's answers are limited, and nobody else's by them."""

from __future__ import annotations

from mlplatform.operations.prefect_server.answer_limit import MOST_ANSWERS, WITHIN_S, AnswerLimit


def test_a_person_has_so_many_answers_in_ten_minutes_and_then_more() -> None:
    now_s = 0.0
    limit = AnswerLimit(lambda: now_s)
    assert all(limit.takes("eve") for _ in range(MOST_ANSWERS))
    assert not limit.takes("eve")
    assert limit.takes("bo")
    now_s = WITHIN_S
    assert limit.takes("eve")
