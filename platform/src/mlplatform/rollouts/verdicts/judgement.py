"""Is the challenger good enough? A verdict with its reasons, from windows of the decision log.

Three kinds of gates:

1. In shadow and canary both arms are compared (`comparison`), by bounds that hold at every look.
2. The split is tested by a p-value that holds at every look.
3. A promoted champion has nobody to be compared with: a guardrail reads its failures after m, 2m,
   4m, ... of them, each look with half of the error share that is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlplatform.decisions.records.port import Watermark
from mlplatform.model.definition import StopLimits, Tolerance
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.verdicts.comparison import Prediction, comparisons
from mlplatform.rollouts.verdicts.statistics import Share, clustered_share, sample_ratio_p_value
from mlplatform.rollouts.verdicts.verdict import Errors, Gate, Verdict, number_of, values_of
from mlplatform.rollouts.verdicts.window import (
    ArmWindow,
    Traffic,
    arm_windows,
    behind,
    complete_records,
    cut_at_failure,
    cut_at_sample,
    first_appearances,
    first_records,
    log_ranges,
    unlogged,
)
from mlplatform.runtime.figures import percent

MAX_GUARDRAIL_LOOKS = 20

ALONE = 2.0
"""Nobody answers beside a champion, so what the machine does to both arms counts against it: it is
held to this many times the limit of a challenger."""

COUNTED_PART = 0.5
"""Of a sample's customers, those whose answers must count (not degraded): of fewer, those who are
left may be unlike the others."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a step of the ramp asks for.

    Args:
        percent: the share of customers asked for, 0 to 100; None in shadow.
        units, requests: the minimum sample.
        pods: of the challenger, once all of the traffic is its own.
    """

    stop: StopLimits
    tolerance: Tolerance
    errors: Errors
    predicted: Prediction
    percent: float | None
    units: int
    requests: int
    pods: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What a version is held to in its present phase.

    Args:
        error_share: chance that the guardrail stops a champion that is at the limit.
        step: None outside shadow and canary, where only the guardrail is read.
    """

    error_share: float
    failure_share: float
    guardrail_failures: int
    step: Step | None


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
    if limits.step is not None:
        return _compared(traffic, limits, limits.step, sources, slow_gates)
    tripped = _failing(traffic, limits)
    if tripped is not None:
        gate, cut = tripped
        return _judgement([gate], traffic, cut, sources)
    seen = first_records(traffic, complete_records(traffic, sources.watermarks))
    return _when_complete([_calm(seen), *slow_gates], seen, len(seen), sources)


def _compared(
    traffic: Traffic, limits: Limits, step: Step, sources: Sources, slow_gates: Sequence[Gate]
) -> Judgement:
    gates = [*_comparisons(traffic, limits, step), *slow_gates]
    whole = len(traffic)
    if any(gate.verdict == "UNHEALTHY" for gate in gates):
        return _judgement(gates, traffic, whole, sources)
    # Health is shown by records that nobody can add to any more.
    complete = complete_records(traffic, sources.watermarks)
    seen = traffic
    if complete < whole:
        seen = first_records(traffic, complete)
        gates = [*_comparisons(seen, limits, step), *slow_gates]
    challenger, _ = arm_windows(seen, complete)
    if cut_at_sample(seen, units=step.units, requests=step.requests) is None:
        few = _too_few(challenger, step)
        return _judgement(
            [*_waited_for(traffic, step, sources), few, *gates], seen, complete, sources
        )
    return _when_complete([*gates, *_answers_gate(challenger)], seen, complete, sources)


def _waited_for(traffic: Traffic, step: Step, sources: Sources) -> list[Gate]:
    """Whose records a sample lacks that would be enough, or is never to get."""
    if cut_at_sample(traffic, units=step.units, requests=step.requests) is None:
        # Customers of a gateway whose log is not this one would be waited for in vain.
        return _incomplete(unlogged(sources.watermarks, sources.gateways))
    last_ms, generation = int(traffic.event_ms[-1]), traffic.generation
    return _incomplete(
        behind(sources.watermarks, sources.gateways, event_ms=last_ms, generation=generation)
    )


def _comparisons(traffic: Traffic, limits: Limits, step: Step) -> list[Gate]:
    found = comparisons(
        traffic,
        step.stop,
        step.tolerance,
        step.errors,
        failure_share=limits.failure_share,
        predicted=step.predicted,
        pods=step.pods,
        in_canary=step.percent is not None,
    )
    return [*found, *_split_gate(traffic, len(traffic), step)]


def _failing(traffic: Traffic, limits: Limits) -> tuple[Gate, int] | None:
    """The first look at which failures prove too many, and the number of records it read."""
    for look in range(MAX_GUARDRAIL_LOOKS):
        cut = cut_at_failure(traffic, failures=limits.guardrail_failures * 2**look)
        if cut is None:
            return None
        window, _ = arm_windows(traffic, cut)
        # one-sided at error_share / 2^(look + 1); an interval spends half on either side
        share = _failure_share(window, limits.error_share / 2**look)
        allowed = ALONE * limits.failure_share
        if share.low > allowed:
            reason = (
                f"failed to answer {_of(window.failures, window.requests, 'requests')} "
                f"({window.units:,} customers, {_failed_moments(window)}): "
                f"{_against(share, allowed)}"
            )
            return Gate("guardrail", "UNHEALTHY", reason, values_of(share)), cut
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


def _split_gate(traffic: Traffic, cut: int, step: Step) -> list[Gate]:
    if step.percent is None:
        return []
    mine, everyone = first_appearances(traffic, cut)
    p_value = sample_ratio_p_value(mine, everyone, share=step.percent / 100)
    values: dict[str, float | int | None] = {
        "challenger_units": mine,
        "units": everyone,
        "p_value": number_of(p_value),
    }
    seen = (
        f"answered {mine:,} of {everyone:,} customers, where {step.percent:g} % were to be its "
        f"own (however often one looks, a fair split seems as uneven with probability "
        f"{p_value:.2g} at most)"
    )
    if not math.isfinite(p_value):
        return [Gate("split", "INCONCLUSIVE", seen, values)]
    broken = p_value < step.errors.stop
    return [Gate("split", "UNHEALTHY" if broken else "HEALTHY", seen, values)]


def _too_few(window: ArmWindow, step: Step) -> Gate:
    requests = sum(window.requests)
    reason = f"has answered {window.units:,} of the {step.units:,} customers needed"
    if step.requests:
        reason += f" and {requests:,} of the {step.requests:,} requests"
    return Gate("sample", "INCONCLUSIVE", reason, {"units": window.units, "requests": requests})


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
