"""Whether and when the client library sends a request again: a pure decision."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.client.test_client_calls import ANSWER, ID, KEY, PAYMENT, problem, refusal, reply

from mlplatform_client import (
    AnswerNotUnderstood,
    CallFailed,
    DeadlineExceeded,
    InputRefused,
    Label,
    Overloaded,
    Retries,
    Terms,
    Unavailable,
    calls,
)
from mlplatform_client.exchange import Call, NoReply, Outcome, Reply, Result
from mlplatform_client.steps import Failure, Retry, next_step

SCORE: Call[Any] = calls.score("fraud", PAYMENT, KEY)
UNTIMED: Call[Any] = calls.labels("fraud", [Label(label=1, decision_id=ID)])
TIMED: Call[Any] = calls.labels("fraud", [Label(label=1, decision_id=ID, event_time=1)])
PLAIN = Retries()


def step(
    outcome: Outcome,
    call: Call[Any] = SCORE,
    *,
    attempt: int = 1,
    left_s: float = 60.0,
    jitter: float = 0.0,
    retries: Retries = PLAIN,
) -> Result[Any] | Retry[Any] | Failure:
    return next_step(
        call,
        outcome,
        attempt=attempt,
        left_s=left_s,
        jitter=jitter,
        wall_s=0.0,
        retries=retries,
    )


def error(found: object) -> CallFailed:
    assert isinstance(found, Failure)
    return found.error


@pytest.mark.parametrize(
    ("outcome", "score", "timed", "untimed"),
    [
        (NoReply("unreached", ""), True, True, True),
        (NoReply("broken", ""), True, True, False),
        (NoReply("late", ""), True, True, False),
        (NoReply("oversized", ""), False, False, False),
        (refusal(503, "log-unavailable"), True, True, False),
        (refusal(503, "overloaded"), True, True, True),
        (refusal(429, "client-rate"), True, True, True),
        (refusal(422, "invalid-field"), False, False, False),
        (refusal(500, "internal"), False, False, False),
        (Reply(502, {}, b""), True, True, False),
        (reply(b"strange"), False, False, False),
    ],
)
def test_only_what_may_be_is_sent_again(
    outcome: Outcome, score: bool, timed: bool, untimed: bool
) -> None:
    """Labels without a time are not idempotent while they are corrected."""
    found = [isinstance(step(outcome, call), Retry) for call in (SCORE, TIMED, UNTIMED)]
    assert found == [score, timed, untimed]


def test_a_retry_is_the_same_request_by_the_same_key() -> None:
    found = step(NoReply("broken", "reset"), attempt=3)
    assert isinstance(found, Retry)
    assert found.call is SCORE
    assert found.attempt == 4
    assert found.error is not None
    assert (found.error.key, found.error.attempts) == (KEY, 3)


@pytest.mark.parametrize(
    ("attempt", "jitter", "pause_s"),
    [(1, 0.0, 0.025), (1, 1.0, 0.05), (2, 1.0, 0.1), (5, 1.0, 0.8), (99, 1.0, 2.0)],
)
def test_pauses_double_up_to_the_longest(attempt: int, jitter: float, pause_s: float) -> None:
    retries = Retries(attempts=100)
    found = step(NoReply("broken", ""), attempt=attempt, jitter=jitter, retries=retries)
    assert isinstance(found, Retry)
    assert found.pause_s == pytest.approx(pause_s)


def test_it_waits_as_long_as_it_is_asked_to() -> None:
    busy = refusal(503, "overloaded")
    busy = Reply(503, {**busy.headers, "retry-after": "7"}, busy.body)
    found = step(busy)
    assert isinstance(found, Retry)
    assert found.pause_s == 7.0
    failed = error(step(busy, left_s=6.0))
    assert isinstance(failed, Overloaded)
    assert (failed.retry_after_s, failed.attempts) == (7.0, 1)
    assert "6 s of the deadline were left" in str(failed)
    assert "Ask again after 7 s with the idempotency key 'payment-1'" in str(failed)


def test_attempts_end_and_the_last_error_is_told() -> None:
    failed = error(step(NoReply("late", "nothing came"), attempt=6))
    assert type(failed) is Unavailable
    assert failed.attempts == 6
    assert "(6 attempts)" in str(failed)


def test_silence_until_the_deadline_is_a_deadline_exceeded() -> None:
    assert isinstance(error(step(NoReply("late", ""), left_s=-0.001)), DeadlineExceeded)
    assert isinstance(error(step(NoReply("unreached", ""), left_s=0.0)), Unavailable)


@pytest.mark.parametrize(("call", "attempts"), [(SCORE, 1), (UNTIMED, 6)])
def test_it_is_one_also_where_nothing_is_sent_again(call: Call[Any], attempts: int) -> None:
    once = Retries(attempts=attempts)
    assert isinstance(
        error(step(NoReply("late", ""), call, left_s=0, retries=once)), DeadlineExceeded
    )
    assert isinstance(error(step(NoReply("late", ""), call, left_s=1, retries=once)), Unavailable)


def test_no_attempt_is_given_up_while_the_gateway_may_take_it() -> None:
    slow = Terms(within_ms=10_000)
    batch: Call[Any] = calls.score_batch("fraud", [PAYMENT], [KEY], slow)
    assert PLAIN.allowed_s(calls.score("fraud", PAYMENT, KEY, slow)) > 10.0
    assert PLAIN.allowed_s(batch) > 10.0
    assert PLAIN.allowed_s(SCORE) == PLAIN.attempt_s


def test_polls_are_no_attempts_and_end_with_the_deadline() -> None:
    call: Call[Any] = calls.waiting(ID)
    pending = reply({"decision_id": ID, "status": "pending"}, 202, retry_after="1")
    found = step(pending, call, attempt=5)
    assert isinstance(found, Retry)
    assert (found.pause_s, found.attempt, found.error) == (1.0, 1, None)
    failed = error(step(pending, call, left_s=0.9))
    assert isinstance(failed, DeadlineExceeded)
    assert "still pending" in str(failed)
    done = step(reply(ANSWER), call)
    assert isinstance(done, Result)
    hurried = reply({"decision_id": ID, "status": "pending"}, 202, retry_after="0")
    again = step(hurried, call)
    assert isinstance(again, Retry)
    assert again.pause_s == 1.0


def test_a_batch_keeps_the_answers_that_it_has() -> None:
    call: Call[Any] = calls.score_batch("fraud", [{"n": 0}, {"n": 1}], ["a", "b"])
    half = reply({"results": [{"answer": ANSWER}, {"problem": problem(503, "log-unavailable")}]})
    found = step(half, call)
    assert isinstance(found, Retry)
    for outcome in (NoReply("broken", ""), refusal(401, "unauthenticated"), reply(b"strange")):
        end = step(outcome, found.call, attempt=6)
        assert isinstance(end, Result)
        assert [r.answer is not None for r in end.value] == [True, False]
        assert isinstance(end.value[1].error, Unavailable)
    end = step(half, call, left_s=0.0)
    assert isinstance(end, Result)
    assert isinstance(error(step(NoReply("broken", ""), call, attempt=6)), Unavailable)


@given(
    st.sampled_from(
        [NoReply("late", ""), NoReply("broken", ""), refusal(503, "x"), refusal(409, "in-flight")]
    ),
    st.integers(1, 20),
    st.floats(-5, 5, allow_nan=False),
    st.floats(0, 1, allow_nan=False),
)
def test_no_pause_reaches_beyond_the_deadline(
    outcome: Outcome, attempt: int, left_s: float, jitter: float
) -> None:
    found = step(outcome, attempt=attempt, left_s=left_s, jitter=jitter)
    match found:
        case Retry():
            assert 0 < found.pause_s < left_s
            assert found.attempt == attempt + 1 <= PLAIN.attempts
        case Failure(failed):
            assert failed.attempts == attempt
            assert failed.key == KEY
        case Result():
            pytest.fail("there was no answer")


@pytest.mark.parametrize(
    ("name", "value"),
    [("attempts", 0), ("first_s", 0.0), ("longest_s", math.inf), ("attempt_s", math.nan)],
)
def test_retries_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputRefused) as refused:
        Retries(**{name: value})  # type: ignore[arg-type]
    assert refused.value.field == name


def test_what_is_not_understood_is_not_asked_again() -> None:
    failed = error(step(reply(b"strange")))
    assert isinstance(failed, AnswerNotUnderstood)
    assert failed.attempts == 1
