"""The evidence for the gates of classes and of numbers: both models on the same rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.training.evaluate import (
    JudgingInputs,
    Runnable,
    data_evidence,
    replay_evidence,
    running_evidence,
)
from mlplatform.learning.training_sets.dataset import LabelledRows
from mlplatform.learning.validation.class_gates import judge_classes
from mlplatform.learning.validation.class_measures import class_measures, in_order_of
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.gate_result import MINIMUM_LABELLED, too_few_units
from mlplatform.learning.validation.gates import SchemaEvidence
from mlplatform.learning.validation.labelled_evidence import LabelledEvidence
from mlplatform.learning.validation.leakage import identifying_inputs
from mlplatform.learning.validation.measures import Measure, binary_measures
from mlplatform.learning.validation.number_gates import judge_numbers
from mlplatform.learning.validation.number_measures import number_measures
from mlplatform.learning.validation.replay import Recent
from mlplatform.model.bundle import load_bundle
from mlplatform.model.definition import ClassesDefinition, ModelDefinition, RealDefinition
from mlplatform.model.policies.decision_scale import DecisionScale
from mlplatform.runtime.errors import InputInvalid


def judged_classes(definition: ModelDefinition, inputs: JudgingInputs) -> GateReport:
    """The report on a candidate of classes."""
    assert isinstance(definition, ClassesDefinition)
    return judge_classes(_gather(definition, inputs), definition.gates, definition.training)


def judged_numbers(definition: ModelDefinition, inputs: JudgingInputs) -> GateReport:
    """The report on a candidate that gives numbers."""
    assert isinstance(definition, RealDefinition)
    found, unit = _gather(definition, inputs), definition.decision.number.unit
    return judge_numbers(found, definition.gates, definition.training, unit)


def task_measures(
    definition: ModelDefinition,
    scores: NDArray[np.float64],
    days: LabelledRows,
    other: NDArray[np.float64] | None,
    *,
    seed: int,
) -> tuple[Measure, ...]:
    """The measures of the model's task, of calibrated scores of the rows.

    Args:
        other: another model's scores of the same rows, which are measured beside; None if there is
            none.
    """
    unit = days.matrix.unit
    match definition:
        case ClassesDefinition():
            return class_measures(scores, days.y, unit, seed=seed, champion=other)
        case RealDefinition():
            quantile = definition.gates.quantile
            return number_measures(
                scores, days.y, unit, quantile=quantile, seed=seed, champion=other
            )
        case _:
            return binary_measures(scores, days.y, unit, seed=seed, champion=other)


def _gather(definition: ModelDefinition, inputs: JudgingInputs) -> LabelledEvidence:
    """The evidence from running both bundles. The candidate's folder is read back and checked
    first."""
    candidate, dataset, champion = inputs.candidate, inputs.dataset, inputs.champion
    written = load_bundle(candidate.folder, candidate.bundle.digest)
    challenger = Runnable(written, candidate.model)
    days = dataset.holdout.share(candidate.customers).known
    replayed = (inputs.recent or Recent(dataset.holdout.matrix, "held-out days")).share(
        candidate.customers
    )
    own = written.calibrate_many(challenger.raw(days))
    other = None if champion is None else champion_scores(champion, days, written.scale)
    taught, names = dataset.rows.known, definition.classes
    counts = np.bincount(taught.y, minlength=len(names)).tolist() if names else []
    fitting = dataset.by(written.vocabularies).fitting.known
    identifiers, growing = identifying_inputs(definition, written.input_names, fitting)
    data = replace(data_evidence(definition, dataset), positives=len(taught))
    return LabelledEvidence(
        model=definition.name,
        bundle=written.digest,
        champion=champion.bundle.digest if champion else None,
        data=data,
        schema=SchemaEvidence(
            candidate=written.inputs,
            champion=champion.bundle.inputs if champion else None,
            declared=definition.inputs,
            protected=definition.protected,
        ),
        running=running_evidence(challenger, candidate, days, inputs.seed),
        replay=replay_evidence(definition, challenger, champion, replayed),
        labelled=len(days),
        units=len(np.unique(days.matrix.unit)),
        of_class=dict(zip(names, counts, strict=True)),
        identifiers=identifiers,
        growing=growing,
        measures=task_measures(definition, own, days, other, seed=inputs.seed),
        unseen=_unseen(definition, champion, days, own, other, inputs.seed),
        skew=inputs.skew,
        has_features=bool(written.views or definition.windows),
    )


def champion_scores(
    champion: Runnable, days: LabelledRows, scale: DecisionScale
) -> NDArray[np.float64] | None:
    """The champion's probabilities in this order of classes, or its numbers in this unit; None if
    it no longer gives any."""
    own = champion.bundle.scale
    unit = None if scale.number is None else scale.number.unit
    if own.task != scale.task or (own.number is not None and own.number.unit != unit):
        return None
    try:
        found = champion.bundle.calibrate_many(champion.raw(days))
    except InputInvalid:  # an input of the champion is no longer computed
        return None
    return found if unit is not None else in_order_of(found, own.names, scale.names)


def _unseen(
    definition: ModelDefinition,
    champion: Runnable | None,
    days: LabelledRows,
    own: NDArray[np.float64],
    other: NDArray[np.float64] | None,
    seed: int,
) -> tuple[Measure, ...]:
    """Measures on the days that the champion was not fitted to."""
    if champion is None or other is None:
        return ()
    first = days.before(champion.bundle.data.holdout_from_ms)
    later = slice(first, None)
    if len(days) - first < MINIMUM_LABELLED or too_few_units(
        len(np.unique(days.matrix.unit[later]))
    ):
        return ()
    return task_measures(definition, own[later], days.rows(later), other[later], seed=seed)
