"""How often a pair of bundles disagreed in shadow, as journals hold it, beside a replay of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from mlplatform.rollouts.journal.evidence import Verdict, renewed_values
from mlplatform.rollouts.journal.transitions import Opened, Transition
from mlplatform.rollouts.verdicts.basis import Basis, basis_of
from mlplatform.rollouts.verdicts.verdict import PAIRS
from mlplatform.rollouts.whatif.report import PredictedDisagreement

GATE: Final = "disagreement"


class ShadowDisagreement(msgspec.Struct, frozen=True, omit_defaults=True):
    """The disagreement that its gate saw when shadow was judged.

    Args:
        trials, share: as in `PredictedDisagreement`.
        low, high: bounds of the share, which hold at every interim analysis, by the policy of the
            rollout.
        validation: share that the version's validation predicted.
        as_predicted: whether the interval of shadow overlaps the range that the replay expects of a
            coming day; None if the replay has no such range.
    """

    rollout: str
    event_ms: int
    verdict: Verdict
    trials: int
    share: float
    low: float
    high: float
    validation: float
    as_predicted: bool | None = None


def shadow_disagreements(
    journals: Iterable[Sequence[Transition]],
    predicted: PredictedDisagreement,
    *,
    reference: str,
    candidate: str,
) -> tuple[ShadowDisagreement, ...]:
    """The disagreement of this pair in each rollout whose shadow was judged.

    Args:
        predicted: disagreement that the replay predicts.
        reference, candidate: digests of the two bundles.
    """
    return tuple(
        found
        for facts in journals
        if _is_of(facts, reference, candidate)
        for found in _newest(facts, predicted)
    )


def _is_of(facts: Sequence[Transition], reference: str, candidate: str) -> bool:
    """Whether the rollout is of the candidate, validated against the reference."""
    opened = next((fact for fact in facts if isinstance(fact, Opened)), None)
    if opened is None or opened.challenger.bundle != candidate:
        return False
    return opened.validation.get("champion") == reference


def _newest(
    facts: Sequence[Transition], predicted: PredictedDisagreement
) -> Iterator[ShadowDisagreement]:
    for fact in reversed(facts):
        basis, gate = _basis(fact), fact.evidence.get("gates", {}).get(GATE)
        if basis is None or gate is None or basis.limits.step is None:
            continue
        validation, values = basis.limits.step.predicted, renewed_values(gate["values"])
        trials = values.get(PAIRS)
        more, low, high = (values.get(name) for name in ("share", "low", "high"))
        if not validation.replayed or trials is None or more is None or low is None or high is None:
            continue
        share = validation.disagreement
        yield ShadowDisagreement(
            rollout=fact.rollout_id,
            event_ms=fact.event_ms,
            verdict=gate["verdict"],
            trials=int(trials),
            share=max(share + more, 0.0),
            low=max(share + low, 0.0),
            high=min(share + high, 1.0),
            validation=share,
            as_predicted=_overlap(predicted, share + low, share + high),
        )
        return


def _basis(fact: Transition) -> Basis | None:
    try:
        found = basis_of(fact.evidence)
    except msgspec.ValidationError:  # another release: numbers may differ in meaning
        return None
    return found if found is not None and found.subject.role == "shadow" else None


def _overlap(predicted: PredictedDisagreement, low: float, high: float) -> bool | None:
    if predicted.low is None or predicted.high is None:
        return None
    return low <= predicted.high and high >= predicted.low
