"""A folder's own gates, run on the days for the gates: for a candidate, or on made-up rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.registry.versions import TRAINED_HERE
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.evaluate import Runnable
from mlplatform.learning.training.folder import ModelFolder
from mlplatform.learning.training.packages import import_problems
from mlplatform.learning.training_sets.dataset import LabelledRows, TrainingSet
from mlplatform.learning.training_sets.known_labels import Labels
from mlplatform.learning.validation.class_measures import in_order_of
from mlplatform.learning.validation.own_gates import (
    Arm,
    HeldOut,
    OwnFindings,
    OwnGates,
    declared_gates,
    error_line,
    judge_own,
    unreadable,
)
from mlplatform.model.bundle import Bundle
from mlplatform.model.definition import WIDE, ModelDefinition
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import GATES_FILE, folder_digest, model_folder
from mlplatform.model.policies.cut_offs import CutOffs
from mlplatform.model.policies.decision_scale import DecisionScale
from mlplatform.model.tensors.categories import FIRST
from mlplatform.runtime.errors import InputInvalid

MADE_UP_ROWS: Final = 2000
MADE_UP_RANGE: Final = 1000.0


def has_own_gates(model: str) -> bool:
    """Whether the model's folder has a `gates.py`."""
    return (model_folder(model) / GATES_FILE).is_file()


def own_findings(
    folder: ModelFolder,
    candidate: Candidate,
    dataset: TrainingSet,
    *,
    champion: Runnable | None,
    seed: int,
) -> OwnFindings:
    """The results of the folder's own functions on a candidate; empty for a folder without any.

    If they can't be run, or the folder has changed since it fitted the candidate, one inconclusive
    gate says why.
    """
    model, bundle = folder.definition.name, candidate.bundle
    if not has_own_gates(model):
        changed = _changed(model, bundle.folder) if bundle.origin == TRAINED_HERE else ""
        return unreadable(changed) if changed else OwnFindings()
    days = dataset.judging.share(candidate.customers).known
    if not len(days):
        return unreadable("no request of the days for the gates has a known outcome")
    own = _read(folder.definition, bundle.folder)
    if isinstance(own, OwnFindings):
        return own
    return judge_own(own, _held_out(own, folder.definition, candidate, days, champion, seed))


def try_own_gates(
    definition: ModelDefinition, inputs: Mapping[str, NDArray[Any]], seed: int
) -> OwnFindings:
    """The results of the folder's own functions on made-up rows, once as for a first version and
    once beside a champion; only `wrong` is of use.

    Args:
        inputs: input → its value in each made-up row, words for a category.
    """
    own = _read(definition, "")
    if isinstance(own, OwnFindings):
        return own
    columns = {name: inputs[name] for name in own.columns if name in inputs}
    first = judge_own(own, _made_up(own, definition, columns, seed, is_first=True))
    later = judge_own(own, _made_up(own, definition, columns, seed, is_first=False))
    wrong = {gate.name: gate for gate in (*first.wrong, *later.wrong)}
    return OwnFindings(later.gates, later.measures, tuple(wrong.values()))


def _read(definition: ModelDefinition, fitted_by: str) -> OwnGates | OwnFindings:
    """The functions of the folder, or why they can't be run.

    Args:
        fitted_by: digest of the folder that fitted the candidate; empty if no folder did.
    """
    try:
        return _load(definition, fitted_by)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a team's Python: it may raise anything
        return unreadable(error_line(error))


def _load(definition: ModelDefinition, fitted_by: str) -> OwnGates:
    if fitted_by and (changed := _changed(definition.name, fitted_by)):
        raise ValueError(changed)
    with import_problems():
        own = declared_gates(load_module(definition.name, "gates"))
    allowed = [i.name for i in definition.inputs if i.kind not in WIDE] + list(definition.protected)
    if unknown := sorted(set(own.columns) - set(allowed)):
        raise ValueError(f"COLUMNS names {', '.join(unknown)}; wanted: {', '.join(allowed)}")
    return own


def _changed(model: str, fitted_by: str) -> str:
    """Why it is unknown by which gates to judge a candidate; empty if its folder is there
    unchanged."""
    found = folder_digest(model_folder(model))
    if found == fitted_by:
        return ""
    return (
        f"the folder has content {found[:12]}, but the candidate was fitted by content "
        f"{fitted_by[:12]}; retrain, so that the present gates judge"
    )


def _held_out(
    own: OwnGates,
    definition: ModelDefinition,
    candidate: Candidate,
    days: LabelledRows,
    champion: Runnable | None,
    seed: int,
) -> HeldOut:
    bundle = candidate.bundle
    names = np.array([*(s.name for s in bundle.segment_thresholds), ""], object)  # -1: in none
    segments = _frozen(names[bundle.segments.places(days.matrix.of(bundle))])
    return HeldOut(
        y=_frozen(days.y),
        unit=_frozen(days.matrix.unit),
        event_ms=_frozen(days.matrix.event_ms),
        candidate=_arm(Runnable(bundle, candidate.model), days),
        champion=None if champion is None else _beside(champion, days, bundle.scale),
        is_first=champion is None,
        columns=held_out_columns(own.columns, definition, bundle, days),
        decision=definition.decision,
        seed=seed,
        segments=segments if bundle.segment_thresholds else None,
    )


def _beside(champion: Runnable, days: LabelledRows, scale: DecisionScale) -> Arm | None:
    """The champion on the same rows, its probabilities in this order of classes; None if it can no
    longer be run, or its labels were of another kind."""
    own = champion.bundle.scale
    if own.task != scale.task:
        return None
    try:
        arm = _arm(champion, days)
    except InputInvalid:  # an input is no longer computed; `quality` reports it
        return None
    if not scale.by_class:
        return arm
    return Arm(_frozen(in_order_of(arm.scores, own.names, scale.names)), arm.decisions)


def _arm(runnable: Runnable, days: LabelledRows) -> Arm:
    bundle = runnable.bundle
    scores = bundle.calibrate_many(runnable.raw(days))
    names = np.array(bundle.scale.names, object)
    decided = bundle.decide_many(scores, days.matrix.of(bundle))
    return Arm(_frozen(scores), _frozen(names[decided]))


def held_out_columns(
    names: Sequence[str], definition: ModelDefinition, bundle: Bundle, days: LabelledRows
) -> Mapping[str, NDArray[Any]]:
    """Values of inputs and protected fields on the rows; of a category or a group its words, empty
    where it is not known."""
    matrix = days.matrix.by(bundle.vocabularies)
    found: dict[str, NDArray[Any]] = {}
    for name in names:
        if name in definition.protected:
            values = [*(definition.request[name].values or ()), ""]  # -1: not known
            found[name] = np.array(values, object)[days.groups[name]]
        else:
            found[name] = worded(matrix.columns([name])[:, 0], bundle.vocabularies.get(name))
    return _frozen_columns(found)


def worded(values: NDArray[Any], words: Sequence[str] | None) -> NDArray[Any]:
    """An input's values; of a category, by its words, empty where missing or not among them."""
    if words is None:
        return values
    places = np.nan_to_num(values, nan=0.0).astype(np.int64)
    found: NDArray[Any] = np.array([*[""] * FIRST, *words], object)[places]
    return found


def _made_up(
    own: OwnGates,
    definition: ModelDefinition,
    inputs: Mapping[str, NDArray[Any]],
    seed: int,
    *,
    is_first: bool,
) -> HeldOut:
    random, count = np.random.default_rng(seed), MADE_UP_ROWS
    outcomes = np.array(definition.decision.outcomes, object)
    y: Labels = (random.random(count) < 0.3).astype(np.int8)
    if classes := definition.classes:
        y = random.integers(0, len(classes), count).astype(np.int8)
    if (number := definition.decision.scale.number) is not None:
        least, most = number.ends(MADE_UP_RANGE)
        y = random.uniform(least, most, count)

    def arm() -> Arm:
        if number is not None:
            scores = number.clamped_many(y + random.normal(0, number.tolerance, count))
            begins = definition.decision.thresholds.scores or {}
            rows = np.empty((count, 0), np.float32)
            places = CutOffs(definition.decision.scale, begins).places(scores, rows)
            return Arm(_frozen(scores), _frozen(outcomes[places]))
        if classes:
            drawn = random.random((count, len(classes))) + np.eye(len(classes))[y]
            scores = drawn / drawn.sum(axis=1, keepdims=True)
            return Arm(_frozen(scores), _frozen(outcomes[scores.argmax(axis=1)]))
        scores = np.clip(0.3 * y + 0.7 * random.random(count), 0, 1)
        places = np.minimum((scores * len(outcomes)).astype(np.int64), len(outcomes) - 1)
        return Arm(_frozen(scores), _frozen(outcomes[places]))

    segments = [segment.name for segment in definition.decision.thresholds.segments]
    groups = {
        name: random.choice(np.array([*(definition.request[name].values or ()), ""], object), count)
        for name in own.columns
        if name in definition.protected
    }
    return HeldOut(
        y=_frozen(y),
        unit=_frozen(random.integers(0, count // 2, count)),
        event_ms=_frozen(np.arange(count, dtype=np.int64)),
        candidate=arm(),
        champion=None if is_first else arm(),
        is_first=is_first,
        columns=_frozen_columns({**{n: of[:count] for n, of in inputs.items()}, **groups}),
        decision=definition.decision,
        seed=seed,
        segments=random.choice(np.array([*segments, ""], object), count) if segments else None,
    )


def _frozen_columns(columns: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    return MappingProxyType({name: _frozen(values) for name, values in columns.items()})


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    """The values in an array that can't be written, so that no function changes those of the
    next."""
    held = values.copy()
    held.flags.writeable = False
    return held.view()
