"""Every sentence of every gate in each state, in one file that a reader can look over."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from mlplatform.decisions.records.port import Watermark
from mlplatform.model.policies.segments import SegmentLimits
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.verdicts import comparison, judgement
from mlplatform.rollouts.verdicts.comparison import SegmentStep
from mlplatform.rollouts.verdicts.delays import ArrivedShare
from mlplatform.rollouts.verdicts.hidden_outcomes import PartialOutcomes
from mlplatform.rollouts.verdicts.judgement import GateLimits, Sources
from mlplatform.rollouts.verdicts.outcomes import Outcomes, outcome_gate
from mlplatform.rollouts.verdicts.speed import latency_gate, utilisation_gate
from mlplatform.rollouts.verdicts.statistics import Clusters, ClusterSums, RareEvents
from mlplatform.rollouts.verdicts.verdict import ALIKE, Bound, Errors, Gate, Prediction
from rollout_world import canary_rows, counted, fraud

FILE = Path(__file__).with_name("gate_sentences.txt")
ERRORS = Errors(stop=1 / 3000, missed=0.05)
PREDICTED = Prediction(alert_ratio=1.0, disagreement=0.3, alert_share=0.013, alone=0.3)
BY_ALERTS = Prediction(alert_ratio=1.0, disagreement=0.3, alert_share=0.013)
"""A prediction of an earlier release."""
STEP = judgement.StepPolicy(
    stop=fraud().rollout.stop, tolerance=fraud().rollout.shadow.tolerance, errors=ERRORS,
    predicted=PREDICTED, percent=5.0, units=500, requests=20_000, pods=1,
)  # fmt: skip


def sums(a: int, n: int, b: int, m: int) -> ClusterSums:
    """Trials of single customers, one each."""

    def spread(hits: int, trials: int) -> Any:
        return (np.arange(max(n, m)) < hits).astype(int), (np.arange(max(n, m)) < trials) * 1

    (mine, trials), (other, others) = spread(a, n), spread(b, m)
    return Clusters(mine, trials, other[::-1], others[::-1]).sums()


def seen(**fields: Any) -> Any:
    """As many aggregates as one gate reads."""
    return SimpleNamespace(**fields)


def failures() -> Iterator[Gate]:
    for a, n, b, m, tolerance in (
        (2, 23_657, 1, 23_657, 0.02), (2, 23_657, 1_193, 23_657, 0.02), (9, 300, 8, 300, 0.02),
        (12, 4_000, 11, 4_000, None), (110, 4_000, 20, 4_000, 0.02), (400, 4_000, 390, 4_000, 0.02),
        (6, 400, 0, 4_000, 0.06), (0, 0, 0, 0, 0.02),
    ):  # fmt: skip
        view = sums(a, n, b, m)
        events = [RareEvents(a, n)], RareEvents(b, m)
        found = seen(failures=[view], provable_failures=[view], failure_events=events)
        yield comparison.failure_gate(found, Bound(0.005, tolerance), ERRORS)


def alerts() -> Iterator[Gate]:
    for a, n, b, m, tolerance in (
        (150, 12_006, 152, 12_006, 0.5), (5, 400, 6, 400, 0.3), (150, 12_006, 152, 12_006, None),
        (634, 12_006, 121, 12_006, 0.3), (20, 12_006, 155, 12_006, 0.3),
        (20, 400, 20, 400, 3.0),
    ):  # fmt: skip
        yield comparison.alert_gate(sums(a, n, b, m), Bound(0.15, tolerance), ERRORS, PREDICTED)
    nothing = sums(0, 40, 0, 40)
    yield comparison.alert_gate(nothing, Bound(0.15, 0.3), ERRORS, ALIKE)


def disagreement() -> Iterator[Gate]:
    bound = Bound(0.15, 0.25)
    for only, either in ((0, 1_000), (300, 1_000), (20, 60), (900, 1_000)):
        yield comparison.disagreement_gate(sums(only, either, 0, either), bound, ERRORS, PREDICTED)
    yield comparison.disagreement_gate(sums(0, 0, 0, 0), bound, ERRORS, PREDICTED)
    yield comparison.disagreement_gate(sums(1, 9, 0, 9), bound, ERRORS, ALIKE)
    yield comparison.disagreement_gate(sums(300, 1_000, 0, 1_000), bound, ERRORS, BY_ALERTS)


def segments() -> Iterator[Gate]:
    asked = SegmentStep(
        "weekend", SegmentLimits(alerts=0.5, disagreement=0.3),
        SegmentLimits(alerts=1.0, disagreement=0.5), ERRORS, PREDICTED, holds=True,
    )  # fmt: skip
    pairs = ((sums(150, 12_006, 152, 12_006), sums(60, 200, 0, 200)),
             (sums(2, 150, 1, 150), sums(3, 4, 0, 4)),
             (sums(0, 12_006, 152, 12_006), sums(200, 200, 0, 200)))  # fmt: skip
    for pair in pairs:
        found = seen(segment=lambda _, pair=pair: pair)
        yield from comparison.segment_gates(found, (asked,), in_canary=False)


def copies() -> Iterator[Gate]:
    yield from comparison.copy_gate(seen(count=lambda _: 700, uncopied=300))


def speed() -> Iterator[Gate]:
    worlds = ((600, 1.0, 2.0), (20, 1.1, 1.5), (600, 1.1, None), (600, 3.0, 2.0))
    for units, slower, tolerance in worlds:
        rows = canary_rows(units, 50, generation=1, version=2)
        for number, row in enumerate(rows):
            took = 4000 + number % 400
            row["latency_us"] = round(took * slower) if row["arm"] == "challenger" else took
        found = counted(rows, "canary")
        for quantile in (0.5, 0.99):
            yield latency_gate(found, quantile, Bound(1.25, tolerance), ERRORS)
    yield latency_gate(seen(latencies=None), 0.5, Bound(1.25, 2.0), ERRORS)


def utilisation() -> Iterator[Gate]:
    for row_us, busiest, calls in ((300, 400, 4_000), (20_000, 1_500, 400), (9_000, 2_000, 40),
                                   (300, 400, 20), (300, 3, 400)):  # fmt: skip
        sizes = {rows: (calls // 2, calls // 2 * (1_000 + rows * row_us),
                        calls // 2 * (1_000 + rows * row_us) ** 2 + calls * 10**6)
                 for rows in (1, 5)}  # fmt: skip
        found = seen(busiest=busiest, calls=sizes)
        yield utilisation_gate(found, Bound(0.7, 0.7), ERRORS, 1 if calls > 100 else 3)


def whole_step() -> Iterator[Gate]:
    """Gates on the sample and on the log."""
    for mine, everyone in ((4_970, 100_000), (2_500, 100_000), (0, 0)):
        yield from judgement._split_gate(seen(appeared=(mine, everyone - mine)), STEP)
    few = seen(count=lambda name: {"units": 120, "requests": 3_000}[name])
    yield judgement._too_few(few, STEP)
    yield from judgement._answers_gate(seen(counted=10, count=lambda _: 40))
    sources = Sources(
        (Watermark("gateway-1", 9, 500, 3, True),),
        (GatewayLease("gateway-1", 3), GatewayLease("gateway-2", 4)),
    )
    event_ms = SimpleNamespace(until_event_ms=900)
    late = judgement._behind(seen(extent=event_ms, generation=4), sources)
    yield from judgement._incomplete(late)


def guardrail() -> Iterator[Gate]:
    limits = GateLimits(error_share=0.002, failure_share=0.005, guardrail_failures=20, step=None)
    counts = {"requests": 4_000, "units": 900, "moments": 800, "failed_moments": 60}
    failures = [sums(120, 4_000, 0, 0)]
    found = seen(provable_failures=failures, count=lambda _: 120, arm=lambda _: counts)
    tripped = judgement._failing(found, limits)
    assert tripped is not None
    yield tripped
    yield judgement._calm(seen(count=lambda _: 7, generation=5))
    yield judgement._calm(seen(count=lambda _: 0, generation=5))


def recall() -> Iterator[Gate]:
    for number, missed, hidden in ((400, 0.0, 0), (400, 0.5, 0), (30, 0.1, 12), (0, 0.0, 0)):
        yield outcome_gate(_outcomes(number, missed, hidden), Bound(0.05, 0.2), ERRORS,
                           capacity=0.05)  # fmt: skip
    nothing = dataclasses.replace(_outcomes(0, 0.0, 0), immature=40)
    yield outcome_gate(nothing, Bound(0.05, 0.2), ERRORS, capacity=0.05)
    silent = dataclasses.replace(_outcomes(9, 0.0, 0), silent=True)
    yield outcome_gate(silent, Bound(0.05, 0.2), ERRORS, capacity=0.05)


def _outcomes(frauds: int, missed: float, hidden: int) -> Outcomes:
    """Of 20 000 payments the first are frauds, of which the challenger ranks a share low."""
    rank = np.arange(20_000)
    fraud_flags = rank < frauds
    seen_flags = rank < len(rank) - hidden
    champion = np.where(fraud_flags, 0.9, 0.001) + rank / 1e8
    own = np.where(rank < frauds * missed, 0.0, champion)
    payments = PartialOutcomes(
        unit=rank, positive=fraud_flags, seen=seen_flags, chance=seen_flags * 1.0, guess=champion,
        came=np.ones(len(rank)),
    )  # fmt: skip
    arrived_shares = {"positive": ArrivedShare(0.93, 0.9, 0.96, 30 * 86_400_000)} if frauds else {}
    return Outcomes(payments, own, champion, 0, False, arrived_shares)


def gates() -> list[Gate]:
    kinds = (failures, alerts, disagreement, segments, copies, speed, utilisation, whole_step,
             guardrail, recall)  # fmt: skip
    return [gate for kind in kinds for gate in kind()]


def catalogue() -> str:
    lines: list[str] = []
    for gate in gates():
        lines += [f"{gate.name}, {gate.verdict}", f"  {gate.reason}", ""]
    return "\n".join(lines)


def test_the_catalogue_holds_every_sentence_as_it_is_written_today() -> None:
    """To write it anew, with PYTHONPATH=tests, python and this file's path."""
    assert catalogue() == FILE.read_text()


def test_every_gate_is_in_the_catalogue_in_each_of_its_states() -> None:
    found: dict[str, set[str]] = {}
    for gate in gates():
        found.setdefault(gate.name, set()).add(gate.verdict)
    three = {"HEALTHY", "UNHEALTHY", "INCONCLUSIVE"}
    compared = ("failures", "alerts", "disagreement", "alerts of weekend",
                "disagreement of weekend", "latency_p50", "utilisation", "split", "guardrail",
                "recall")  # fmt: skip
    assert {name: found[name] for name in compared} == dict.fromkeys(compared, three)
    for name in ("copies", "sample", "answers", "log"):
        assert found[name] == {"INCONCLUSIVE"}


def test_sentences_are_whole_short_and_without_false_precision() -> None:
    for gate in gates():
        first, *_ = re.split(r"(?<=[a-z)%])\. ", gate.reason)
        assert gate.reason[0].isupper(), gate.reason
        assert gate.reason.endswith("."), gate.reason
        assert len(first.split()) <= 26, first
        assert not re.search(r"e[+-]\d|nan|inf\b|100 % certain|;;|\.\.", gate.reason), gate.reason
        assert not any(math.isnan(v) for v in gate.values.values() if isinstance(v, float))


if __name__ == "__main__":
    FILE.write_text(catalogue())
