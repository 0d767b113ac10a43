"""A candidate from a model that was made elsewhere and is not trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.confined_model import ConfinedModel
from mlplatform.learning.onnx.explainer import score_gap
from mlplatform.learning.training.candidate import (
    Candidate,
    ModelParts,
    Parity,
    build_candidate,
    parity_rows,
)
from mlplatform.learning.training.folder import ModelFolder
from mlplatform.learning.training.golden import GoldenSet
from mlplatform.learning.training.parts import bundle_parts, folder_parts
from mlplatform.learning.training_sets.dataset import TrainingSet
from mlplatform.learning.validation.gates import MINIMUM_POSITIVES
from mlplatform.learning.validation.replay import Recent
from mlplatform.model.bundle import Bundle
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.inputs import declared_words
from mlplatform.model.weights.data_files import DataFile
from mlplatform.model.weights.memory import needed_mib
from mlplatform.runtime.errors import ConfigInvalid

ALONE_ROWS = 256
SCORING_BUDGET_S = 25.0
MOST_HALVINGS = 4


def candidate_from_onnx(
    content: bytes,
    base: Bundle | ModelFolder,
    definition: ModelDefinition,
    dataset: TrainingSet,
    *,
    bundles: Path,
    origin: str,
    seed: int,
    recent: Recent | None = None,
    data: Sequence[DataFile] = (),
) -> Candidate:
    """Make a bundle of a model that was made elsewhere, with the inputs of a base bundle, or of its
    own folder.

    Calibration, thresholds, golden rows, profile and band are measured anew on the dataset, for a
    slow model on a share of its customers; inputs, views, rules and reasons are the base's. The
    model must take "inputs" float32 [n, F] and give "scores" float32 [n], of 0-1 or of numbers, or
    of classes [n, classes], or have the base's signature. There is no fitted model to compare it
    with, so parity is measured between rows scored alone and together, and with a folder's golden
    set.

    Args:
        origin: where the model comes from, for the record.
        data: digested files with weights of the model, which become files of the bundle.

    It is run in a confined process alone, which ends with the candidate's model.

    Raises:
        ModelRefused: the model has another signature, or exceeds the limits for a model from
            outside.
        InputInvalid: there is too little data.
        ConfigInvalid: model.yaml gives a predictor less memory than the weights need.
    """
    if isinstance(base, Bundle):
        parts, golden = bundle_parts(base), None
    else:
        parts, golden = folder_parts(base, declared_words(base.definition)), base.golden
    check_memory(definition, content, data)
    model = ConfinedModel(
        content,
        inputs=len(parts.inputs),
        tensors=parts.tensors,
        data=data,
        classes=parts.classes,
    )
    try:
        own = dataset.holdout.matrix.by(parts.vocabularies).columns(parts.names)
        x = parity_rows(own, seed)[:ALONE_ROWS]
        rows = len(dataset.holdout) + (len(recent.matrix) if recent else 0)
        expected_s = model.seconds(x) / len(x) * rows
        made = ModelParts(
            content,
            model,
            parts,
            _parity(model, x, golden),
            origin,
            customers=_affordable(expected_s, dataset, definition),
            data=tuple(data),
        )
        return build_candidate(made, definition, dataset, recent, bundles=bundles, seed=seed)
    except BaseException:
        model.close()
        raise


def check_memory(definition: ModelDefinition, content: bytes, data: Sequence[DataFile]) -> None:
    """Raises unless model.yaml gives a predictor the memory that weights in data files need."""
    needed = needed_mib(len(content), [file.size for file in data])
    declared = definition.serving.memory_mib
    if data and (declared is None or declared < needed):
        raise ConfigInvalid("model.yaml: serving.memory_mib", declared, f"{needed} or more")


def _parity(model: ConfinedModel, x: NDArray[np.float32], golden: GoldenSet | None) -> Parity:
    alone = np.concatenate([model.scores(x[i : i + 1]) for i in range(len(x))])
    gap = score_gap(model.scores(x), alone)
    if golden is None:
        return Parity(gap, len(x), "rows scored alone")
    gap = max(gap, golden.difference(model))
    return Parity(gap, len(x) + len(golden.rows), "rows scored alone, and the golden set")


def _affordable(expected_s: float, dataset: TrainingSet, definition: ModelDefinition) -> float:
    """The share of customers whose rows can be scored in time, halved until they can."""
    share = 1.0
    for _ in range(MOST_HALVINGS):
        if expected_s * share <= SCORING_BUDGET_S or not _enough(dataset, share / 2, definition):
            break
        share /= 2
    return share


def _enough(dataset: TrainingSet, share: float, definition: ModelDefinition) -> bool:
    """Whether that share has positives enough to judge by; of classes or numbers, labels enough,
    as many for each class."""
    parts = [days.known.share(share) for days in (dataset.calibrating, dataset.judging)]
    if definition.task == "binary":
        return all(int(part.y.sum()) >= MINIMUM_POSITIVES for part in parts)
    wanted = MINIMUM_POSITIVES * max(1, len(definition.classes))
    return all(len(part) >= wanted for part in parts)
