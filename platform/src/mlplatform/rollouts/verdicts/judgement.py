"""Is the challenger good enough? A verdict with its reasons, from windows of the decision log.

Three kinds of gates:

1. Guardrails (failures, alerts) act at once. They are read after m, 2m, 4m, ... failures, or after
   n, 2n, 4n, ... answers that count. Each look uses half of the error share that is left.
2. The split is tested by a p-value that holds at every look.
3. Every other gate is read once, at its minimum sample of customers.

Failures are clustered by customer and by moment: a burst of them counts as one event.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlplatform.decisions.records.port import Watermark
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.verdicts.statistics import Share, clustered_share, sample_ratio_p_value
from mlplatform.rollouts.verdicts.verdict import Gate, Verdict, number_of, values_of
from mlplatform.rollouts.verdicts.window import (
    ArmWindow,
    Traffic,
    arm_windows,
    behind,
    cut_at_answers,
    cut_at_failure,
    cut_at_sample,
    first_appearances,
    log_ranges,
    unlogged,
)
from mlplatform.runtime.figures import percent, span

SAMPLE_RATIO_ERROR_PART = 0.1
"""A broken split is a fault of the platform, not of a challenger: it takes ten times the proof."""

MAX_GUARDRAIL_LOOKS = 20

GUARDRAIL_ANSWERS = 50
"""The first look at the share of alerts: of fewer answers no share that is allowed can be told from
one that is not."""

COUNTED_PART = 0.5
"""Of a sample's customers, those whose answers must count (not degraded): of fewer, an interval is
so wide that nothing could be proven against the arm, and that would pass for health."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a challenger is held to: from model.yaml, and the band that validation predicted.

    Args:
        error_share: chance that one gate stops a challenger that is as good.
        percent: the share of customers asked for, 0 to 100; None outside canary.
        units, requests: the minimum sample; None where only guardrails are read.
    """

    error_share: float
    failure_share: float
    guardrail_failures: int
    flip_share: float
    alert_low: float
    alert_high: float
    percent: float | None
    units: int | None
    requests: int


@dataclass(frozen=True, slots=True)
class Sources:
    """Who writes the log and who applies the routes, when the records were read."""

    watermarks: tuple[Watermark, ...]
    gateways: tuple[GatewayLease, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a step, and canonical evidence for the journal."""

    verdict: Verdict
    reasons: tuple[str, ...]
    evidence: dict[str, Any]

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)


def judge(
    traffic: Traffic, limits: Limits, sources: Sources, slow_gates: Sequence[Gate] = ()
) -> Judgement:
    """The verdict on the arm in the challenger's place.

    UNHEALTHY by a guardrail needs no complete log: harm that was seen stays seen.

    Args:
        slow_gates: what matured labels say, where there are any to ask.
    """
    tripped = _failing(traffic, limits) or _alerting(traffic, limits)
    if tripped is not None:
        gate, cut = tripped
        return _judgement([gate], traffic, cut, sources)
    if limits.units is None:
        return _when_complete([_calm(traffic), *slow_gates], traffic, len(traffic), sources)
    cut_or_none = cut_at_sample(traffic, units=limits.units, requests=limits.requests)
    if cut_or_none is None:
        # Customers of a gateway whose log is not this one would be waited for in vain.
        unread = _incomplete(unlogged(sources.watermarks, sources.gateways))
        return _judgement([_too_few(traffic, limits), *unread], traffic, len(traffic), sources)
    challenger, _ = arm_windows(traffic, cut_or_none)
    gates = [
        _failure_gate(challenger, limits),
        *_answers_gate(challenger),
        _alert_gate(challenger, limits),
        *_split_gate(traffic, cut_or_none, limits),
        *_flip_gate(challenger, limits),
    ]
    return _when_complete(gates, traffic, cut_or_none, sources)


def _failing(traffic: Traffic, limits: Limits) -> tuple[Gate, int] | None:
    """The first look at which failures prove too many, and the number of records it read."""
    for look in range(MAX_GUARDRAIL_LOOKS):
        cut = cut_at_failure(traffic, failures=limits.guardrail_failures * 2**look)
        if cut is None:
            return None
        window, _ = arm_windows(traffic, cut)
        # one-sided at error_share / 2^(look + 1); an interval spends half on either side
        share = _failure_share(window, limits.error_share / 2**look)
        if share.low > limits.failure_share:
            reason = (
                f"failed to answer {_of(window.failures, window.requests, 'requests')} "
                f"({window.units:,} customers, {_failed_moments(window)}): "
                f"{_against(share, limits.failure_share)}"
            )
            return Gate("guardrail", "UNHEALTHY", reason, values_of(share)), cut
    return None


def _alerting(traffic: Traffic, limits: Limits) -> tuple[Gate, int] | None:
    """The first look at which alerts are outside their band, and the number of records it read.

    In shadow and canary alone: a champion's alerts move with its traffic, of which no other arm has
    a part to compare with. That is drift, and drift's checks answer it.
    """
    if limits.units is None:
        return None
    for look in range(MAX_GUARDRAIL_LOOKS):
        cut = cut_at_answers(traffic, answers=GUARDRAIL_ANSWERS * 2**look)
        if cut is None:
            return None
        window, _ = arm_windows(traffic, cut)
        left = replace(limits, error_share=limits.error_share / 2 ** (look + 1))
        gate = _alert_gate(window, left)
        if gate.verdict == "UNHEALTHY":
            return gate, cut
    return None


def _calm(traffic: Traffic) -> Gate:
    if not (traffic.challenger & ~traffic.excused).any():
        reason = f"no request of generation {traffic.generation} was put to it"
        return Gate("guardrail", "INCONCLUSIVE", reason, {})
    return Gate("guardrail", "HEALTHY", "no guardrail was tripped", {})


def _answers_gate(window: ArmWindow) -> list[Gate]:
    counted = sum(count > 0 for count in window.answers)
    if counted >= COUNTED_PART * window.units:
        return []
    reason = f"answers that count (not degraded) for {counted} of {window.units} customers"
    return [Gate("answers", "INCONCLUSIVE", reason, {"counted": counted, "units": window.units})]


def _failure_gate(window: ArmWindow, limits: Limits) -> Gate:
    share = _failure_share(window, 2 * limits.error_share)
    seen = f"failed to answer {_of(window.failures, window.requests, 'requests')}"
    return _at_most("failures", share, limits.failure_share, seen)


def _failure_share(window: ArmWindow, error_share: float) -> Share:
    """The share of failures, known as well as the less telling of two ways to count them allows:
    by customer and by moment."""
    return min(
        _share(window.failures, window.requests, error_share),
        _share(window.moment_failures, window.moment_requests, error_share),
        key=lambda share: share.effective,
    )


def _failed_moments(window: ArmWindow) -> str:
    counts = window.evidence()
    return f"in {counts['failed_moments']:,} of {counts['moments']:,} moments"


def _flip_gate(window: ArmWindow, limits: Limits) -> list[Gate]:
    if not sum(window.pairs) and limits.percent is not None:
        return []
    paired = sum(count > 0 for count in window.pairs)
    if limits.percent is None and paired < COUNTED_PART * window.units:
        reason = f"decisions of both arms for {paired} of {window.units} customers"
        return [Gate("flips", "INCONCLUSIVE", reason, {"paired": paired, "units": window.units})]
    share = _share(window.flips, window.pairs, 2 * limits.error_share)
    seen = f"decided {_of(window.flips, window.pairs, 'requests')} unlike the champion"
    return [_at_most("flips", share, limits.flip_share, seen)]


def _alert_gate(window: ArmWindow, limits: Limits) -> Gate:
    share = _share(window.alerts, window.answers, limits.error_share)
    values = values_of(share) | {"band_low": limits.alert_low, "band_high": limits.alert_high}
    if not (math.isfinite(share.low) and math.isfinite(share.high)):
        return Gate("alerts", "INCONCLUSIVE", "no answer of the challenger can be counted", values)
    seen = (
        f"raised an alert on {_of(window.alerts, window.answers, 'requests')}: "
        f"{percent(share.value)} ({100 * (1 - limits.error_share):g} % interval "
        f"{span(share.low, share.high)}; {span(limits.alert_low, limits.alert_high)} was predicted)"
    )
    inside = share.low <= limits.alert_high and share.high >= limits.alert_low
    return Gate("alerts", "HEALTHY" if inside else "UNHEALTHY", seen, values)


def _split_gate(traffic: Traffic, cut: int, limits: Limits) -> list[Gate]:
    if limits.percent is None:
        return []
    mine, everyone = first_appearances(traffic, cut)
    p_value = sample_ratio_p_value(mine, everyone, share=limits.percent / 100)
    values: dict[str, float | int | None] = {
        "challenger_units": mine,
        "units": everyone,
        "p_value": number_of(p_value),
    }
    seen = (
        f"answered {mine:,} of {everyone:,} customers, where {limits.percent:g} % were to be its "
        f"own (however often one looks, a fair split seems as uneven with probability "
        f"{p_value:.2g} at most)"
    )
    if not math.isfinite(p_value):
        return [Gate("split", "INCONCLUSIVE", seen, values)]
    broken = p_value < limits.error_share * SAMPLE_RATIO_ERROR_PART
    return [Gate("split", "UNHEALTHY" if broken else "HEALTHY", seen, values)]


def _too_few(traffic: Traffic, limits: Limits) -> Gate:
    window, _ = arm_windows(traffic, len(traffic))
    requests = sum(window.requests)
    reason = f"{window.units:,} of {limits.units or 0:,} customers needed"
    if limits.requests:
        reason += f", {requests:,} of {limits.requests:,} requests"
    return Gate("sample", "INCONCLUSIVE", reason, {"units": window.units, "requests": requests})


def _at_most(name: str, share: Share, limit: float, seen: str) -> Gate:
    values = values_of(share) | {"limit": limit}
    if not math.isfinite(share.low):
        return Gate(name, "INCONCLUSIVE", f"{seen}: nothing to count", values)
    verdict: Verdict = "HEALTHY" if share.low <= limit else "UNHEALTHY"
    return Gate(name, verdict, f"{seen}: {_against(share, limit)}", values)


def _of(hits: Sequence[int], trials: Sequence[int], what: str) -> str:
    return f"{sum(hits):,} of {sum(trials):,} {what}"


def _against(share: Share, limit: float) -> str:
    proven = f"at least {percent(share.low)} proven"
    return f"{percent(share.value)}, {proven} (at most {percent(limit)} allowed)"


def _when_complete(gates: list[Gate], traffic: Traffic, cut: int, sources: Sources) -> Judgement:
    event_ms = int(traffic.event_ms[cut - 1]) if cut else 0
    late = behind(
        sources.watermarks, sources.gateways, event_ms=event_ms, generation=traffic.generation
    )
    return _judgement(_incomplete(late) or gates, traffic, cut, sources)


def _incomplete(missing: Sequence[str]) -> list[Gate]:
    return [Gate("log", "INCONCLUSIVE", "; ".join(missing), {})] if missing else []


def _judgement(gates: list[Gate], traffic: Traffic, cut: int, sources: Sources) -> Judgement:
    verdict = _worst(gates)
    telling = [g for g in gates if g.verdict == verdict]
    challenger, champion = arm_windows(traffic, cut)
    evidence: dict[str, Any] = {
        "verdict": verdict,
        "generation": traffic.generation,
        "records": cut,
        "until_event_ms": int(traffic.event_ms[cut - 1]) if cut else None,
        "arms": {window.arm: window.evidence() for window in (challenger, champion)},
        "dropped": dict(traffic.dropped),
        "gates": {
            g.name: {"verdict": g.verdict, "reason": g.reason, "values": g.values} for g in gates
        },
        "log": log_ranges(traffic, cut),
        "watermarks": {w.writer: [w.seq, w.event_ms] for w in sources.watermarks},
    }
    return Judgement(verdict, tuple(g.reason for g in telling), evidence)


def _worst(gates: list[Gate]) -> Verdict:
    verdicts = {gate.verdict for gate in gates}
    if "UNHEALTHY" in verdicts:
        return "UNHEALTHY"
    return "HEALTHY" if verdicts == {"HEALTHY"} else "INCONCLUSIVE"


def _share(hits: Sequence[int], trials: Sequence[int], error_share: float) -> Share:
    return clustered_share(
        np.array(hits, dtype=np.int64), np.array(trials, dtype=np.int64), error_share=error_share
    )
