"""Measures of classes are those of scikit-learn, and a worse version is refused by them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, log_loss, top_k_accuracy_score
from tests.support.class_model import CLASSES, class_definition

from mlplatform.learning.validation.class_gates import judge_classes
from mlplatform.learning.validation.class_measures import class_measures, in_order_of
from mlplatform.learning.validation.gates import (
    DataEvidence,
    ModelEvidence,
    ReplayEvidence,
    SchemaEvidence,
)
from mlplatform.learning.validation.labelled_evidence import LabelledEvidence
from mlplatform.learning.validation.statistics import Interval
from mlplatform.model.bundle import AlertBand

DEFINITION = class_definition("sizes")
ROWS = 4000
UNIT = np.arange(ROWS) // 2


def answers(skill: float, seed: int, classes: int = 3) -> tuple[NDArray[np.float64], np.ndarray]:
    """Probabilities whose largest is right for about the share `skill`, and the right classes."""
    truth = np.random.default_rng(1).integers(0, classes, ROWS)
    random = np.random.default_rng(seed)
    said = np.where(random.random(ROWS) < skill, truth, random.integers(0, classes, ROWS))
    raw = random.random((ROWS, classes)) * 0.5 + np.eye(classes)[said]
    return raw / raw.sum(axis=1, keepdims=True), truth


def evidence(skill: float, champion: float | None, labelled: int = ROWS) -> LabelledEvidence:
    own, y = answers(skill, 2)
    other = None if champion is None else answers(champion, 3)[0]
    measures = class_measures(own, y, UNIT, seed=0, champion=other)
    return LabelledEvidence(
        model="sizes",
        bundle="b" * 64,
        champion=None if champion is None else "c" * 64,
        data=DataEvidence(ROWS + 5000, ROWS, {"amount": 0.0}, 10, 10, 10),
        schema=SchemaEvidence(DEFINITION.inputs, None, DEFINITION.inputs),
        running=ModelEvidence(
            Interval(0.01, 0.0, 0.02), ROWS, 0.0, "the fitted model", 0.0, 1e-5, 0.1, 1000
        ),
        replay=ReplayEvidence(
            ROWS, "held-out days", AlertBand(0, 0, 0, ""), 0.0, None if champion is None else 0.1
        ),
        labelled=labelled,
        units=len(np.unique(UNIT)),
        of_class=dict.fromkeys(CLASSES, ROWS // 3),
        identifiers=(),
        growing=(),
        measures=measures,
        unseen=measures if champion is not None else (),
    )


def verdicts(found: LabelledEvidence) -> dict[str, str]:
    report = judge_classes(found, DEFINITION.gates, DEFINITION.training)
    return {gate.name: gate.verdict for gate in report.gates if gate.verdict != "passed"}


def test_measures_are_those_of_scikit_learn_within_their_intervals() -> None:
    own, y = answers(0.6, 2, classes=5)
    found = {m.name: m.candidate for m in class_measures(own, y, UNIT, seed=0)}
    decided = own.argmax(axis=1)
    wanted = {
        "accuracy": accuracy_score(y, decided),
        "macro_f1": f1_score(y, decided, average="macro"),
        "log_loss": log_loss(y, own),
        "top_3_accuracy": top_k_accuracy_score(y, own, k=3),
    }
    assert {name: interval.value for name, interval in found.items()} == pytest.approx(wanted)
    assert all(found[name].low < found[name].value < found[name].high for name in wanted)


def test_no_rows_and_no_numbers_tell_nothing() -> None:
    own, y = answers(0.6, 2)
    assert class_measures(own[:0], y[:0], UNIT[:0], seed=0) == ()
    own[3, 1] = np.nan
    assert class_measures(own, y, UNIT, seed=0) == ()


def test_a_champion_of_other_classes_is_read_by_their_names() -> None:
    own = np.array([[0.7, 0.3]])
    assert in_order_of(own, ("b", "a"), ("a", "b", "c")).tolist() == [[0.3, 0.7, 0.0]]


@pytest.mark.parametrize(
    ("skill", "champion", "refused"),
    [
        (0.7, None, set()),
        (0.0, None, {"accuracy"}),
        (0.7, 0.7, set()),
        (0.8, 0.6, set()),
        (0.5, 0.8, {"accuracy", "macro_f1", "log_loss"}),
    ],
)
def test_a_version_is_held_to_the_champion_on_the_same_rows(
    skill: float, champion: float | None, refused: set[str]
) -> None:
    assert verdicts(evidence(skill, champion)) == dict.fromkeys(refused, "failed")


def test_few_labels_are_inconclusive_and_a_rare_class_is_refused() -> None:
    few = verdicts(evidence(0.7, 0.7, labelled=99))
    assert few == dict.fromkeys(("accuracy", "macro_f1", "log_loss"), "inconclusive")
    rare = evidence(0.7, None)
    counts = {**rare.of_class, "usual": 49}
    object.__setattr__(rare, "of_class", counts)
    assert verdicts(rare) == {"classes": "failed"}
