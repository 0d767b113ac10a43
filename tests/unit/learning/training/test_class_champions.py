"""Folds and own gates compare models class by class, whatever order they have them in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.class_model import CLASSES, class_definition

from mlplatform.learning.training import folds, own_gates
from mlplatform.learning.training.evaluate import Runnable
from mlplatform.learning.training_sets.dataset import LabelledRows, Matrix
from mlplatform.learning.validation.fold_gate import judge_folds
from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.folds import Fold
from support.scoring_world import write_amount_bundle

ROWS = 300
RIGHT = np.arange(ROWS) % len(CLASSES)
DEFINITION = class_definition()


class Graph:
    """Nearly sure of the right class of each row, in an order of classes of its own."""

    def __init__(self, names: tuple[str, ...]) -> None:
        places = np.array([names.index(CLASSES[place]) for place in RIGHT])
        self._told = np.eye(len(names))[places] * 0.9 + 0.1 / len(names)

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._told[: len(x)]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write_amount_bundle(tmp_path)
    return load_bundle(tmp_path)


def runnable(bundle: Bundle, names: tuple[str, ...]) -> Runnable:
    scale = msgspec.structs.replace(DEFINITION.decision, outcomes=names).scale
    graph: Any = Graph(names)
    return Runnable(msgspec.structs.replace(bundle, scale=scale), graph)


def finding(bundle: Bundle, champion: tuple[str, ...], rows: int = ROWS) -> Any:
    own: Any = runnable(bundle, CLASSES)
    names, numbers = bundle.input_names, np.arange(rows)
    matrix = Matrix(names, np.zeros((rows, len(names)), np.float32), numbers, numbers)
    fitted: Any = SimpleNamespace(bundle=own.bundle, model=own.model, customers=1.0)
    dataset: Any = SimpleNamespace(fitting=SimpleNamespace(training_rows=range(900)))
    return folds.tested_fold(
        DEFINITION,
        Fold(1, 0, 1, 2),
        fitted,
        dataset,
        LabelledRows(matrix, RIGHT[:rows].astype(np.int8)),
        champion=runnable(bundle, champion),
        seed=1,
    )


@pytest.mark.parametrize("champion", [CLASSES, CLASSES[::-1], (*CLASSES[1:], "huge", CLASSES[0])])
def test_a_champion_that_is_as_right_loses_nothing(
    bundle: Bundle, champion: tuple[str, ...]
) -> None:
    quality = finding(bundle, champion).quality
    assert quality.candidate.value == 1.0
    assert quality.champion.value == 1.0
    assert quality.difference.value == 0.0


def test_own_gates_see_both_models_in_one_order_of_classes(bundle: Bundle) -> None:
    names, numbers = bundle.input_names, np.arange(ROWS)
    matrix = Matrix(names, np.zeros((ROWS, len(names)), np.float32), numbers, numbers)
    days, own = LabelledRows(matrix, RIGHT.astype(np.int8)), runnable(bundle, CLASSES)
    functions: Any = SimpleNamespace(columns=())
    candidate: Any = SimpleNamespace(bundle=own.bundle, model=own.model)
    champion = runnable(bundle, CLASSES[::-1])
    found = own_gates._held_out(functions, DEFINITION, candidate, days, champion, 1)
    assert found.champion is not None
    np.testing.assert_allclose(found.champion.scores, found.candidate.scores)
    assert found.champion.decisions.tolist() == found.candidate.decisions.tolist()
    binary = Runnable(bundle, champion.model)
    assert own_gates._held_out(functions, DEFINITION, candidate, days, binary, 1).champion is None


def test_a_fold_with_few_labels_says_that_labels_are_few(bundle: Bundle) -> None:
    gate = judge_folds([finding(bundle, CLASSES, 3)], DEFINITION.gates, has_champion=True)
    assert "only 3 labelled requests (at least 100 wanted)" in gate.reason
