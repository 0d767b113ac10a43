"""The slow gate: both arms held to the same matured labels, at as many alerts, never early."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.rollouts.cache.pair_cache import shadow_outcomes
from mlplatform.rollouts.verdicts.basis import OutcomeBasis
from mlplatform.rollouts.verdicts.hidden_outcomes import PartialOutcomes
from mlplatform.rollouts.verdicts.outcomes import (
    Outcomes,
    outcome_gate,
    recall_at_capacity,
)
from mlplatform.rollouts.verdicts.verdict import Bound, Errors, Gate
from rollout_world import table
from support.shadow_recount import outcomes

MATURE_MS = 10_000
LATE_MS = 100_000
ERRORS = Errors(stop=0.001, missed=0.05)
BOUND = Bound(limit=0.05, tolerance=0.2)


def pair(name: str, unit: int, champion: float, challenger: float, **fields: Any) -> list[Any]:
    shared = {"decision_id": name, "unit": unit}
    copy = {"kind": "shadow", "arm": "challenger", "version": 2, "score": challenger}
    return [shared | {"score": champion} | fields, shared | copy]


def joined(
    rows: list[dict[str, Any]],
    labels: list[dict[str, Any]],
    now_event_ms: int = LATE_MS,
    **more: Any,
) -> Outcomes:
    return outcomes(
        table(rows),
        table([{"kind": "label"} | label for label in labels]),
        generation=1,
        version=2,
        maturity_ms=MATURE_MS,
        now_event_ms=now_event_ms,
        **more,
    )


def judged(seen: Outcomes) -> Gate:
    return outcome_gate(seen, BOUND, ERRORS, capacity=0.5)


ROWS = [*pair("a", 1, 0.9, 0.1), *pair("b", 1, 0.2, 0.8), *pair("c", 2, 0.3, 0.4)]
REPORT = {"decision_id": "another", "label": 1, "event_ms": 50_000}


def test_both_versions_are_held_to_the_label_of_the_same_payment() -> None:
    seen = joined(ROWS, [{"decision_id": "a", "label": 1}, REPORT])
    assert seen.requests.positive.tolist() == [True, False, False]
    found = recall_at_capacity(seen, capacity=0.34, errors=ERRORS)
    assert (found.positives, found.alerts) == (1, 1)
    assert (found.challenger.caught, found.champion.caught) == (0, 1)


def test_a_payment_without_a_copy_or_with_a_degraded_answer_is_no_pair() -> None:
    rows = [
        {"decision_id": "lone", "unit": 1},
        *pair("d", 2, 0.5, 0.5, degraded=True, degraded_reason="features"),
        *pair("e", 3, 0.5, 0.5),
    ]
    assert joined(rows, []).requests.unit.tolist() == [3]


def test_the_last_label_counts_and_later_ones_are_not_known_yet() -> None:
    labels = [
        {"decision_id": "a", "label": 1, "event_ms": 10},
        {"decision_id": "a", "label": 0, "event_ms": 20},
        {"decision_id": "a", "label": 1, "event_ms": LATE_MS + 1},
    ]
    assert not joined(ROWS, labels).requests.positive.any()


def test_a_payment_that_may_still_be_reported_leaves_no_verdict() -> None:
    gate = judged(joined(ROWS, [], now_event_ms=5000))
    assert (gate.verdict, gate.values) == ("INCONCLUSIVE", {"immature": 3})


def test_a_declined_payment_without_a_label_is_not_called_genuine() -> None:
    rows = [*ROWS, *pair("f", 3, 0.9, 0.9, decision="decline")]
    seen = joined(rows, [REPORT])
    assert (len(seen), seen.hidden) == (4, 1)
    assert seen.requests.seen.tolist() == [True, True, True, False]
    assert (
        "The outcomes of 1 requests can't be known, because decisions stopped them."
        in judged(seen).reason
    )


def test_which_decisions_hide_an_outcome_is_the_models_own_affair() -> None:
    rows = [*ROWS, *pair("f", 3, 0.9, 0.9, decision="decline")]
    assert joined(rows, [REPORT], hides=()).hidden == 0
    assert joined(rows, [REPORT], hides=("approve",)).hidden == 3


def test_payments_that_were_let_through_stand_for_those_that_were_drawn_with_them() -> None:
    rows = [
        *ROWS,
        *pair("through", 3, 0.9, 0.9, decision="review"),
        *pair("drawn", 4, 0.9, 0.9, decision="decline"),
        *pair("capped", 5, 0.9, 0.9, decision="decline"),
    ]
    chances = {"through": 0.25, "drawn": 0.25, "capped": 0.0}
    labels = [{"decision_id": "through", "label": 1}, {"decision_id": "drawn", "label": 1}, REPORT]
    seen = joined(rows, labels, propensities=chances)
    assert seen.requests.chance.tolist() == [1, 1, 1, 0.25, 0.25, 0]
    assert seen.requests.seen.tolist() == [True, True, True, True, False, False]
    assert seen.requests.positive.tolist() == [False, False, False, True, False, False]
    reason = judged(seen).reason
    assert "1 of the 2 requests that could be let through at random were let through" in reason
    assert "The outcomes of 1 requests can't be known, because decisions stopped them." in reason


def test_a_declined_payment_that_got_a_label_all_the_same_is_known() -> None:
    rows = [*ROWS, *pair("f", 3, 0.9, 0.9, decision="decline")]
    seen = joined(rows, [{"decision_id": "f", "label": 1}, REPORT])
    assert (seen.hidden, seen.requests.positive.tolist()) == (0, [False, False, False, True])


def test_the_verdict_says_which_share_of_the_labels_is_here() -> None:
    """A tenth gets reports, 1 to 60 s late; half of the payments are 30 s old and half 60 s."""
    rows, labels = list[Any](), list[Any]()
    for number in range(600):
        made_ms = (number // 300) * 30_000
        fields = {"event_ms": made_ms}
        rows += pair(f"p{number}", number, 0.1, 0.1, **fields)
        at_ms = made_ms + 1000 * (1 + 7 * (number // 10) % 60)
        if number % 10 == 0:
            labels.append({"decision_id": f"p{number}", "label": 1, "event_ms": at_ms})
    seen = joined(rows, [label for label in labels if label["event_ms"] <= 60_000], 60_000)
    arrived = seen.arrived_shares["positive"]
    assert arrived.within_ms == 60_000
    assert 0.5 < arrived.low < 0.75 < arrived.high <= 1.0
    assert arrived.share == pytest.approx(0.75, abs=0.06)
    assert "of the labels of positives that come within" in judged(seen).reason


def test_no_records_leave_no_verdict() -> None:
    assert judged(joined([], [])).verdict == "INCONCLUSIVE"


def test_no_fraud_leaves_no_verdict() -> None:
    gate = judged(joined(ROWS, [REPORT]))
    assert gate.verdict == "INCONCLUSIVE"
    assert "None of 3 requests is known to be positive." in gate.reason


@pytest.mark.parametrize(
    "labels",
    [[], [{"decision_id": "a", "label": 1, "event_ms": 2}], [REPORT | {"event_ms": LATE_MS + 1}]],
    ids=["never one", "none since the step", "one, not arrived yet"],
)
def test_labels_that_have_stopped_coming_do_not_mean_genuine(labels: list[dict[str, Any]]) -> None:
    gate = judged(joined(ROWS, labels))
    assert gate.verdict == "INCONCLUSIVE"
    assert "Labels have stopped coming" in gate.reason


def simulated(rng: np.random.Generator, *, lost: float, payments: int = 40_000) -> Outcomes:
    """A shadow phase with 0.8 % fraud, of which the champion ranks 60 % among its highest.

    Args:
        lost: the share of the champion's catches that the challenger ranks low.
    """
    fraud = rng.random(payments) < 0.008
    champion = rng.random(payments) * 0.5
    champion[fraud & (rng.random(payments) < 0.6)] += 0.5
    challenger = np.where(rng.random(payments) < lost, rng.random(payments) * 0.5, champion)
    return known(rng.integers(0, 5000, payments), challenger, champion, fraud)


def known(unit: Any, challenger: Any, champion: Any, fraud: Any, **changes: Any) -> Outcomes:
    """Mature payments of which nothing is hidden, but for what changes."""
    one = np.ones(len(unit))
    payments = PartialOutcomes(unit, fraud, one > 0, one, np.clip(champion, 0, 1), one)
    payments = dataclasses.replace(payments, **changes)
    return Outcomes(payments, challenger, champion, immature=0, silent=False, arrived_shares={})


@pytest.mark.parametrize(
    ("lost", "verdict", "least", "most"),
    [
        (0.02, "UNHEALTHY", 0.0, 0.02),
        (0.35, "UNHEALTHY", 0.8, 1.0),
        (0.02, "HEALTHY", 0.95, 1.0),
        (1 / 3, "HEALTHY", 0.0, 0.06),
    ],
    ids=["as good is hardly stopped", "a third lost is stopped", "as good is shown",
         "a loss at the tolerance is not called health"],
)  # fmt: skip
def test_what_is_said_of_a_loss_of_frauds(
    lost: float, verdict: str, least: float, most: float
) -> None:
    rng = np.random.default_rng(31)
    gates = [
        outcome_gate(simulated(rng, lost=lost), BOUND, ERRORS, capacity=0.013) for _ in range(50)
    ]
    assert least <= sum(gate.verdict == verdict for gate in gates) / 50 <= most


def test_a_better_version_that_raises_more_alerts_is_not_called_worse() -> None:
    """What the arms' own decisions would hide from one of them changes nothing here."""
    rng = np.random.default_rng(32)
    seen = simulated(rng, lost=0.0)
    better = seen.challenger.copy()
    better[seen.requests.positive & (rng.random(len(seen)) < 0.3)] += 1.0
    gate = outcome_gate(dataclasses.replace(seen, challenger=better), BOUND, ERRORS, capacity=0.013)
    assert gate.verdict == "HEALTHY"


def test_what_the_champion_declines_is_found_lost_only_where_a_slice_shows_it() -> None:
    """The champion declines all that it catches, and the challenger catches none of that: among
    what was let through by decisions alone, neither of them finds anything."""
    rng = np.random.default_rng(33)
    count = 60_000
    fraud = rng.random(count) < 0.02
    caught = fraud & (rng.random(count) < 0.6)
    champion = np.where(caught, 0.9, 0.4 * rng.random(count))
    challenger = 0.4 * rng.random(count)
    through = rng.random(count) < 0.2
    unit = rng.integers(0, 6000, count)
    seen = ~caught | through
    hidden = known(unit, challenger, champion, fraud & ~caught, seen=~caught,
                   chance=(~caught).astype(float))  # fmt: skip
    drawn = known(unit, challenger, champion, fraud & seen, seen=seen,
                  chance=np.where(caught, 0.2, 1.0))  # fmt: skip
    verdicts = [outcome_gate(o, BOUND, ERRORS, capacity=0.013).verdict for o in (hidden, drawn)]
    assert verdicts == ["INCONCLUSIVE", "UNHEALTHY"]


def test_propensities_are_read_from_the_log_up_to_where_the_verdict_read_it(
    tmp_path: Path,
) -> None:
    def decided(name: str, **fields: Any) -> list[Entry]:
        shared = {"decision_id": name, "model": "fraud", "event_ms": 1, "recorded_ms": 1,
                  "generation": 1}  # fmt: skip
        decision = {"kind": "decision", "arm": "champion", "answered_by": "champion", "unit": 5,
                    "version": 1, "score": 0.9}  # fmt: skip
        copied = {"kind": "shadow", "arm": "challenger", "version": 2, "score": 0.8}
        records = (shared | decision | fields, shared | copied)
        return [Entry(msgspec.convert(fields, Record)) for fields in records]

    through = {"propensity": 0.25, "explored": True, "explored_instead_of": "decline"}
    with contextlib.closing(SqliteDecisionLog(tmp_path)) as log:
        log.append(
            "gateway-1",
            [
                *decided("through", decision="review", payload=through),
                *decided("drawn", decision="decline", payload={"propensity": 0.25}),
                *decided("later", decision="decline", payload={"propensity": 0.25}),
            ],
        )
        asked = OutcomeBasis(
            generation=1, version=2, maturity_ms=10, now_event_ms=100, marks={"gateway-1": 4},
            bound=BOUND, errors=ERRORS, capacity=0.5, due=True, explores=True,
        )  # fmt: skip
        seen = shadow_outcomes(tmp_path / "kept", log, "fraud", asked)
        without = dataclasses.replace(asked, explores=False)
        unread = shadow_outcomes(tmp_path / "kept", log, "fraud", without)
    assert seen.requests.chance.tolist() == [0.25, 0.25]
    assert seen.requests.seen.tolist() == [True, False]
    assert unread.requests.chance.tolist() == [1.0, 0.0]
