"""A breaker opens on a failing or slow predictor, and finds out by probes when it is well again."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mlplatform.model.policies.serving import BreakerPolicy
from mlplatform.scoring.predictor_client.breaker import Breaker

POLICY = BreakerPolicy(
    window_calls=10,
    minimum_calls=4,
    failure_share=0.5,
    slow_share=0.8,
    slow_ms=200,
    open_s=30,
    half_open_probes=2,
)
QUICK_S, SLOW_S, SLICE_S = 0.01, 0.3, 1.0


def told(breaker: Breaker, outcomes: str, at_s: float = 0.0) -> Breaker:
    """The breaker after calls asked at one time: g for good, s for slow, f for failed."""
    for outcome in outcomes:
        if outcome == "f":
            breaker.record_failure(at_s, at_s)
        else:
            took_s = SLOW_S if outcome == "s" else QUICK_S
            breaker.record_answer(at_s, at_s + took_s, SLICE_S)
    return breaker


def opened() -> Breaker:
    breaker = told(Breaker(POLICY), "ffff")
    assert breaker.state == "open"
    return breaker


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        pytest.param("fff", "closed", id="below the minimum of calls"),
        pytest.param("ggff", "open", id="half of the calls failed"),
        pytest.param("gggff", "closed", id="fewer than half failed"),
        pytest.param("gssss", "open", id="four of five were slow"),
        pytest.param("ggsss", "closed", id="three of five were slow"),
        pytest.param("gfsss", "open", id="a failure was not quick either"),
        pytest.param("fff" + "g" * 10 + "ffff", "closed", id="old failures leave the window"),
        pytest.param("fff" + "g" * 10 + "fffff", "open", id="half of the window failed"),
        pytest.param("g" * 1000, "closed", id="a healthy predictor is never cut off"),
    ],
)
def test_what_calls_make_of_a_closed_breaker(outcomes: str, state: str) -> None:
    breaker = told(Breaker(POLICY), outcomes)
    assert breaker.state == state
    assert breaker.allows(0.0) == (state == "closed")


@pytest.mark.parametrize(
    ("took_s", "slice_s", "slow"),
    [
        pytest.param(0.2, 1.0, False, id="at the policy's limit"),
        pytest.param(0.201, 1.0, True, id="over the policy's limit"),
        pytest.param(0.05, 0.04, True, id="over its slice, which is shorter"),
        pytest.param(0.04, 0.04, False, id="at its slice"),
    ],
)
def test_slow_is_over_the_limit_or_the_slice(took_s: float, slice_s: float, slow: bool) -> None:
    breaker = Breaker(POLICY)
    for _ in range(POLICY.minimum_calls):
        breaker.record_answer(0.0, took_s, slice_s)
    assert breaker.state == ("open" if slow else "closed")


def test_after_a_while_only_the_probes_go_through() -> None:
    breaker = opened()
    assert not breaker.allows(29.9)
    assert [breaker.allows(30.0) for _ in range(4)] == [True, True, False, False]


def test_probes_that_all_answer_close_it_with_an_empty_window() -> None:
    breaker = opened()
    assert breaker.allows(30.0)
    assert told(breaker, "g", 30.0).state == "half_open"
    assert breaker.allows(30.0)
    assert told(breaker, "g", 30.0).state == "closed"
    assert told(breaker, "fff", 31.0).state == "closed"


@pytest.mark.parametrize("probe", ["f", "s"], ids=["it failed", "it was slow"])
def test_one_bad_probe_opens_it_for_another_while(probe: str) -> None:
    breaker = opened()
    assert breaker.allows(30.0)
    told(breaker, "g" + probe, 30.0)
    assert breaker.state == "open"
    assert not breaker.allows(59.9)
    assert breaker.allows(60.5)


def test_probes_that_never_answer_do_not_shut_it_for_ever() -> None:
    breaker = opened()
    assert [breaker.allows(30.0) for _ in range(3)] == [True, True, False]
    assert breaker.allows(60.0)


def test_a_probe_that_was_withdrawn_is_given_to_another() -> None:
    breaker = opened()
    assert [breaker.allows(30.0) for _ in range(3)] == [True, True, False]
    breaker.withdrawn(30.0)
    assert [breaker.allows(30.0) for _ in range(2)] == [True, False]


def test_calls_asked_before_it_opened_are_no_probes() -> None:
    breaker = opened()
    assert breaker.allows(30.0)
    breaker.record_answer(-1.0, 30.0, SLICE_S)
    breaker.record_answer(-1.0, 30.0, SLICE_S)
    breaker.record_failure(-1.0, 30.0)
    assert breaker.state == "half_open"


def test_calls_asked_before_it_closed_say_nothing_about_now() -> None:
    breaker = opened()
    assert breaker.allows(30.0)
    told(breaker, "gg", 30.0)
    for _ in range(10):
        breaker.record_failure(29.0, 31.0)
    assert breaker.state == "closed"


def test_another_process_gets_its_probes_at_once() -> None:
    breaker = opened()
    assert not breaker.allows(1.0)
    breaker.on_new_process(1.0)
    assert [breaker.allows(1.0) for _ in range(3)] == [True, True, False]
    assert told(breaker, "gg", 1.0).state == "closed"


def test_a_bad_probe_of_another_process_opens_it_for_the_whole_while() -> None:
    breaker = opened()
    breaker.on_new_process(1.0)
    assert breaker.allows(1.0)
    assert told(breaker, "f", 1.0).state == "open"
    assert not breaker.allows(30.9)
    assert breaker.allows(31.0)


def test_what_was_asked_of_the_process_before_counts_for_no_other() -> None:
    breaker = told(Breaker(POLICY), "fff")
    breaker.on_new_process(1.0)
    told(breaker, "ffff", 0.5)
    assert told(breaker, "fff", 1.0).state == "closed"
    breaker = opened()
    breaker.on_new_process(1.0)
    told(breaker, "fgg", 0.5)
    assert breaker.state == "half_open"


class BreakerMachine(RuleBasedStateMachine):
    """Against a plain model: what counts is the list of calls asked since the last change."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(POLICY)
        self.now_s = 0.0
        self.under_way: deque[float] = deque()
        self.state = "closed"
        self.since_s = 0.0
        self.window: list[str] = []
        self.probes = self.good = 0

    @rule(gap_s=st.floats(0.001, 40))
    def time_passes(self, gap_s: float) -> None:
        self.now_s += gap_s

    @rule()
    def ask(self) -> None:
        allowed = self.breaker.allows(self.now_s)
        if self.state != "closed" and self.now_s - self.since_s >= POLICY.open_s:
            self.become("half_open")
        expected = self.state == "closed"
        if self.state == "half_open" and self.probes < POLICY.half_open_probes:
            expected, self.probes = True, self.probes + 1
        assert allowed == expected
        if allowed:
            self.under_way.append(self.now_s)

    @rule(outcome=st.sampled_from("gsfw"), newest=st.booleans())
    def end_one(self, outcome: str, newest: bool) -> None:
        if not self.under_way:
            return
        asked_s = self.under_way.pop() if newest else self.under_way.popleft()
        if outcome == "f":
            self.breaker.record_failure(asked_s, self.now_s)
        elif outcome == "w":
            self.breaker.withdrawn(asked_s)
        else:
            # Told by the slice, so that the machine's own clock need not match.
            took_s = self.now_s - asked_s
            outcome = "s" if took_s > 0.2 else "g"
            self.breaker.record_answer(asked_s, self.now_s, SLICE_S)
        if asked_s >= self.since_s:
            self.expect(outcome)

    @rule()
    def renew(self) -> None:
        self.breaker.on_new_process(self.now_s)
        self.become("closed" if self.state == "closed" else "half_open")

    def expect(self, outcome: str) -> None:
        if self.state == "half_open":
            if outcome == "w":
                self.probes -= 1
            elif outcome in "fs":
                self.become("open")
            else:
                self.good += 1
                if self.good == POLICY.half_open_probes:
                    self.become("closed")
        elif self.state == "closed" and outcome != "w":
            self.window = [*self.window, outcome][-POLICY.window_calls :]
            calls, failed = len(self.window), self.window.count("f")
            bad = failed >= 0.5 * calls or failed + self.window.count("s") >= 0.8 * calls
            if outcome != "g" and calls >= POLICY.minimum_calls and bad:
                self.become("open")

    def become(self, state: str) -> None:
        self.state, self.since_s, self.window = state, self.now_s, []
        self.probes = self.good = 0

    @invariant()
    def the_states_agree(self) -> None:
        assert self.breaker.state == self.state

    def teardown(self) -> None:
        # Whatever happened, a predictor that is well again is found out in the end.
        self.now_s += POLICY.open_s + 1e-6  # the sum of two floats may fall short
        while self.breaker.state != "closed":
            assert self.breaker.allows(self.now_s)
            self.breaker.record_answer(self.now_s, self.now_s, SLICE_S)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
