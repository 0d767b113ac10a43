"""Policies of classes and of numbers are encoded as the journal and digests have had them: one
place holds the values of keys that ask for a score of two outcomes, and no byte depends on it."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from mlplatform.model.policies.classes import ClassGates, ClassStop, ClassTraining
from mlplatform.model.policies.real import RealGates, RealStop, RealTraining
from mlplatform.runtime.canonical import digest

OF_BOTH: Final = {"latency_p99_ms": 20.0, "onnx_difference": 0.1, "missing_share": 0.2}
GATES: Final = OF_BOTH | {"decision_flip_share": 0.3}
CLASS_GATES: Final = {
    "calibration_error": 0.1,
    "accuracy_drop": 0.01,
    "minimum_accuracy": 0.5,
    "macro_f1_drop": 0.02,
    "minimum_macro_f1": 0.4,
    "log_loss_rise": 0.1,
}
REAL_GATES: Final = {
    "mae_rise": 0.1,
    "maximum_mae": 5.0,
    "rmse_rise": 0.2,
    "maximum_bias": 1.0,
    "quantile_loss_rise": 0.1,
}
TRAINING: Final = {"window_days": 30, "holdout_days": 5, "minimum_rows": 100}
STOP: Final = {"disagreement": 0.1, "latency_p50": 2.0, "latency_p99": 3.0, "utilisation": 0.9}


@pytest.mark.parametrize(
    ("policy", "said", "unsaid"),
    [
        (ClassGates, GATES | CLASS_GATES, {"accuracy_loss": 0.01}),
        (
            RealGates,
            GATES | REAL_GATES,
            {"mae_loss": 0.01, "quantile": 0.5, "calibration_error": 1.0},
        ),
    ],
)
def test_gates_hold_what_refuses_no_candidate(
    policy: Any, said: dict[str, Any], unsaid: dict[str, Any]
) -> None:
    neutral = {
        "alert_band_factor": 1.0,
        "alert_share_maximum": 1.0,
        "alert_share_minimum": 0.0,
        "average_precision_drop": 1.0,
        "average_precision_loss": 0.01,
        "fairness": None,
        "minimum_average_precision": 0.0,
        "segments": None,
        "single_input_average_precision": 0.9,
        "skew": "tell",
        "small_model_lift": 1.0,
        "stability_index": None,
    }
    assert_encoded(policy(**said), said | unsaid | neutral)


@pytest.mark.parametrize(
    ("policy", "own"),
    [(ClassTraining, {"minimum_per_class": 7}), (RealTraining, {"minimum_labelled": 7})],
)
def test_training_asks_for_one_positive_and_the_smallest_scorecard(
    policy: Any, own: dict[str, Any]
) -> None:
    neutral = {
        "class_weight": "none",
        "deadline_s": 1200,
        "folds": 1,
        "gpu": None,
        "hidden_outcomes": "pseudo_label",
        "maximum_rows": 1_000_000,
        "minimum_positives": 1,
        "pseudo_label_precision": 0.8,
        "search": None,
        "small_model": {"inputs": 1, "bins": 2},
        "vocabulary": 100,
    }
    assert_encoded(policy(**TRAINING, **own), TRAINING | own | neutral)


@pytest.mark.parametrize(
    ("policy", "own"),
    [
        (ClassStop, {"accuracy": 0.05, "error": None}),
        (RealStop, {"error": 0.05, "accuracy": None}),
    ],
)
def test_no_count_of_alerts_and_no_recall_stops_a_challenger(
    policy: Any, own: dict[str, Any]
) -> None:
    assert_encoded(policy(**STOP, **own), STOP | own | {"alerts": 1e9, "recall": 1.0})


def assert_encoded(policy: Any, expected: dict[str, Any]) -> None:
    """To the byte, as `order="sorted"` writes transitions; and by digest."""
    assert msgspec.json.encode(policy, order="sorted") == msgspec.json.encode(
        expected, order="sorted"
    )
    assert digest(msgspec.to_builtins(policy)) == digest(expected)
