"""A slice of what a model would decline is let through: as drawn, within its caps, on record."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.learning.features.online import OnlineRow
from mlplatform.learning.features.policy import NO_GAPS
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.cut_offs import CutOffs
from mlplatform.model.policies.decision_scale import EARLIER, Decision
from mlplatform.model.policies.training import ExplorationPolicy
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.arms.exploration import REMEMBERED, Exploration, exploration_of, is_chosen
from mlplatform.scoring.arms.live import Live, Target
from mlplatform.scoring.arms.routing import Assignment
from mlplatform.scoring.request.answers import ReasonInfo
from mlplatform.scoring.request.decision import (
    Caller,
    DecidedRequest,
    RoutedRequest,
    record,
    score_body,
)
from mlplatform.scoring.request.prediction import RawFacts, RequestFacts, Verdict, explore

FIELDS = ("customer_id", "terminal_id", "amount")
POLICY = ExplorationPolicy(
    share=0.5, decision="review", amount="amount", maximum_amount=200.0, maximum_sum=1000.0
)
OFTEN = msgspec.structs.replace(POLICY, maximum_sum=1e9)


def slice_of(policy: ExplorationPolicy = OFTEN, processes: int = 1) -> Exploration:
    return Exploration(
        policy, model="fraud", hides=("decline",), fields=FIELDS, processes=processes
    )


def sent(amount: float = 50.0, customer: int = 7, terminal: int = 3) -> dict[str, Any]:
    return {"customer_id": customer, "terminal_id": terminal, "amount": amount}


def test_what_hides_no_outcome_is_not_drawn() -> None:
    found = slice_of()
    for decision in cast(list[Decision], ["approve", "review"]):
        assert found.draw(decision, 1, sent(), 0) is None


def test_the_share_that_is_let_through_is_the_declared_one() -> None:
    policy = msgspec.structs.replace(OFTEN, share=0.02)
    found = slice_of(policy)
    draws = [found.draw("decline", unit, sent(customer=unit), 0) for unit in range(20_000)]
    assert all(draw is not None and draw.propensity == 0.02 for draw in draws)
    assert 330 <= sum(draw.explored for draw in draws if draw) <= 470


def test_a_draw_follows_from_the_record_and_a_second_try_on_that_day_gains_nothing() -> None:
    draws = {
        is_chosen("fraud", 5, [5, 3, 9.5], event_ms, 0.5) for event_ms in range(0, DAY_MS, 10**6)
    }
    assert len(draws) == 1
    days = {is_chosen("fraud", 5, [5, 3, 9.5], day * DAY_MS, 0.5) for day in range(40)}
    models = {is_chosen(f"model-{number}", 5, [5, 3, 9.5], 0, 0.5) for number in range(40)}
    assert days == models == {True, False}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), max_size=60))
@settings(max_examples=50, deadline=None)
def test_no_customer_is_let_through_twice_in_a_row(payments: list[tuple[int, int]]) -> None:
    found, last = slice_of(), dict[int, bool]()
    for number, (unit, terminal) in enumerate(payments):
        draw = found.draw("decline", unit, sent(terminal=terminal), number)
        assert draw is not None
        if last.get(unit):
            assert (draw.propensity, draw.explored) == (0.0, False)
            assert draw.excluded == "twice_in_a_row"
        else:
            assert draw.propensity == 0.5
        last[unit] = draw.explored


@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.floats(0, 300), st.integers(0, 3 * DAY_MS)), max_size=80
    ),
    st.integers(1, 4),
)
@settings(max_examples=50, deadline=None)
def test_no_process_loses_more_in_a_window_than_its_part(
    payments: list[tuple[int, float, int]], processes: int
) -> None:
    found, latest, spent = slice_of(POLICY, processes), 0, dict[int, float]()
    for unit, amount, event_ms in payments:
        draw = found.draw("decline", unit, sent(amount, unit), event_ms)
        latest = max(latest, event_ms // DAY_MS)
        assert draw is not None
        assert not (draw.explored and draw.propensity == 0)
        if draw.explored:
            assert amount <= 200
            spent[latest] = spent.get(latest, 0.0) + amount
    assert all(total <= 1000 / processes + 1e-6 for total in spent.values())


@pytest.mark.parametrize(
    ("policy", "amount", "why"),
    [(POLICY, 200.5, "amount"), (msgspec.structs.replace(POLICY, maximum_sum=40.0), 50.0, "sum")],
)
def test_what_a_cap_excludes_has_no_chance_and_says_why(
    policy: ExplorationPolicy, amount: float, why: str
) -> None:
    draw = slice_of(policy).draw("decline", 1, sent(amount), 0)
    assert draw is not None
    assert (draw.propensity, draw.explored, draw.excluded) == (0.0, False, why)


def test_the_memory_of_customers_is_bounded() -> None:
    found = slice_of(msgspec.structs.replace(OFTEN, share=0.5))
    for unit in range(3 * REMEMBERED):
        found.draw("decline", unit, sent(customer=unit), 0)
    assert len(found._was_explored) == REMEMBERED


REASONS = (ReasonInfo("A", "An amount."),)
FACTS = RequestFacts(sent(), 0, OnlineRow({}, {}))


BUNDLE = SimpleNamespace(attribution=SimpleNamespace(method="tree_shap"))
CUT_OFFS = CutOffs(EARLIER, {"review": 0.5, "decline": 0.9})
TARGET = cast(Target, SimpleNamespace(arm=None, bundle=BUNDLE, cut_offs=CUT_OFFS))


def verdict(decision: Decision = "decline") -> Verdict:
    return Verdict(decision, "champion", TARGET, 0.9, 0.95, REASONS)


def let_through(policy: ExplorationPolicy) -> tuple[Verdict, DecidedRequest]:
    """A payment that the slice lets through, and its routed request."""
    for unit in range(1000):
        told, draw = explore(slice_of(policy), verdict(), FACTS, unit)
        if draw is not None and draw.explored:
            routes = load_routes()
            routed = RoutedRequest(
                "d1", cast(Live, _Live(routes)), FACTS, unit,
                Assignment("champion", 3, cast(Any, None), None), NO_GAPS,
            )  # fmt: skip
            return told, DecidedRequest(routed, told, (), None, 0.0, draw)
    raise AssertionError("none of 1000 was let through")


class _Live(msgspec.Struct, frozen=True):
    routes: Any


def load_routes() -> Any:
    from mlplatform.model.routes import no_routes

    return no_routes("fraud")


def test_a_payment_let_through_is_told_as_its_decision_and_kept_as_drawn() -> None:
    told, decided = let_through(OFTEN)
    assert (told.decision, told.reasons, told.score) == ("review", REASONS, 0.95)
    assert decided.by_model == "decline"
    kept = record(decided, Caller("shop", 0.0, 1.0), recorded_ms=1, latency_us=1)
    assert kept.decision == "review"
    assert (kept.payload["propensity"], kept.payload["explored"]) == (0.5, True)
    assert kept.payload["explored_instead_of"] == "decline"
    text = str(msgspec.to_builtins(score_body(decided)))
    assert "propensity" not in text
    assert "explor" not in text


def test_an_approval_that_was_a_decline_gives_no_reasons() -> None:
    told, _ = let_through(msgspec.structs.replace(OFTEN, decision="approve"))
    assert (told.decision, told.reasons) == ("approve", ())


def test_a_payment_that_stays_declined_keeps_its_propensity() -> None:
    policy = msgspec.structs.replace(OFTEN, share=1e-9)
    told, draw = explore(slice_of(policy), verdict(), FACTS, 1)
    assert (told.decision, draw and draw.propensity, draw and draw.explored) == (
        "decline", 1e-9, False,
    )  # fmt: skip


def test_inputs_that_a_caller_made_are_not_explored() -> None:
    raw = RawFacts({}, 0, OnlineRow({}, {}), (1.0,))
    assert explore(slice_of(), verdict(), raw, 1) == (verdict(), None)


def test_a_draw_costs_microseconds() -> None:
    """Generously bounded: this machine may be busy."""
    found = slice_of()
    fields = sent()
    started_s = time.perf_counter()
    for unit in range(5000):
        found.draw("decline", unit, fields, 0)
    assert (time.perf_counter() - started_s) / 5000 < 0.001


def test_a_gateway_explores_what_model_yaml_declares_and_its_processes_share_the_sum() -> None:
    plain = load_definition("fraud")
    assert exploration_of(plain, 2) is None
    declared = msgspec.structs.replace(plain, exploration=POLICY)
    found = exploration_of(declared, 4)
    assert found is not None
    draws = [found.draw("decline", unit, sent(100.0, unit), 0) for unit in range(200)]
    assert sum(draw.explored for draw in draws if draw) == 2, "a fourth of 1000, at 100 each"
    assert found.draw("review", 1, sent(), 0) is None


def test_the_fraud_model_explores_nothing_until_it_is_declared() -> None:
    definition = load_definition("fraud")
    assert definition.exploration is None
    assert definition.decision.hides_outcome == ("decline",)
