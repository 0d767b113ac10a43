"""A breaker opens on a failing predictor, and finds out by probes when it is well again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlplatform.gateway.breaker import Breaker
from mlplatform.models.definition import BreakerPolicy

POLICY = BreakerPolicy(
    window_calls=10, minimum_calls=4, failure_share=0.5, open_s=30, half_open_probes=2
)


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(POLICY.minimum_calls):
        breaker.failed(now_s)
    assert breaker.state == "open"
    return breaker


def test_it_stays_closed_below_the_minimum_of_calls() -> None:
    breaker = Breaker(POLICY)
    for _ in range(POLICY.minimum_calls - 1):
        breaker.failed(0.0)
    assert breaker.allows(0.0)


def test_it_opens_at_the_share_of_failures() -> None:
    breaker = Breaker(POLICY)
    for failed in (False, False, True, True):
        if failed:
            breaker.failed(1.0)
        else:
            breaker.succeeded()
    assert breaker.state == "open"
    assert not breaker.allows(1.0)


def test_old_calls_leave_the_window() -> None:
    breaker = Breaker(POLICY)
    for _ in range(3):
        breaker.failed(0.0)
    for _ in range(10):
        breaker.succeeded()
    assert breaker.state == "closed"
    for _ in range(4):
        breaker.failed(0.0)
    assert breaker.state == "closed"
    breaker.failed(0.0)
    assert breaker.state == "open"


def test_after_a_while_only_the_probes_go_through() -> None:
    breaker = opened()
    assert not breaker.allows(29.9)
    assert [breaker.allows(30.0) for _ in range(4)] == [True, True, False, False]


def test_probes_that_all_succeed_close_it() -> None:
    breaker = opened()
    for _ in range(POLICY.half_open_probes):
        assert breaker.allows(30.0)
        breaker.succeeded()
    assert breaker.state == "closed"
    assert all(breaker.allows(30.0) for _ in range(20))


def test_one_failed_probe_opens_it_for_another_while() -> None:
    breaker = opened()
    assert breaker.allows(30.0)
    breaker.succeeded()
    assert breaker.allows(30.0)
    breaker.failed(30.0)
    assert not breaker.allows(59.9)
    assert breaker.allows(60.0)


def test_probes_that_never_answer_do_not_shut_it_for_ever() -> None:
    breaker = opened()
    assert [breaker.allows(30.0) for _ in range(3)] == [True, True, False]
    assert breaker.allows(60.0)


def test_answers_that_come_while_it_is_open_change_nothing() -> None:
    breaker = opened()
    breaker.succeeded()
    breaker.failed(5.0)
    assert breaker.state == "open"
    assert breaker.allows(30.0)


@given(st.lists(st.tuples(st.sampled_from(["ask", "ok", "bad"]), st.floats(0, 20)), max_size=80))
def test_whatever_happened_it_asks_again_after_open_s(
    events: list[tuple[str, float]],
) -> None:
    breaker, now_s = Breaker(POLICY), 0.0
    for event, gap_s in events:
        now_s += gap_s
        match event:
            case "ask":
                breaker.allows(now_s)
            case "ok":
                breaker.succeeded()
            case _:
                breaker.failed(now_s)
    assert breaker.allows(now_s + POLICY.open_s + 1e-6)


def test_a_healthy_predictor_is_never_cut_off() -> None:
    breaker = Breaker(POLICY)
    for _ in range(1000):
        assert breaker.allows(0.0)
        breaker.succeeded()
