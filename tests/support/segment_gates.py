"""Gates of segments: of two models with known scores, and of a folder's version beside itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.training import evaluate, retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.evaluate import Runnable
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.training.segment_gates import segment_gates
from mlplatform.learning.training_sets.dataset import LabelledRows, TrainingSet
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.model.bundle import Bundle

Scores = NDArray[np.float64]


class Graph:
    """Gives what it was made with."""

    def __init__(self, scores: Scores) -> None:
        self._scores = scores

    def scores(self, x: NDArray[np.float32]) -> Scores:
        return self._scores


def gates_of_scores(
    definition: Any,
    bundle: Bundle,
    rows: LabelledRows,
    own: Scores,
    other: Scores | None,
    *,
    seen: int = 0,
) -> dict[str, GateResult]:
    """The gates of a candidate and of a champion that gave these scores of the rows.

    Args:
        seen: number of rows that the champion was fitted to.
    """
    champion = None
    if other is not None:
        graph: Any = Graph(other)
        data = msgspec.structs.replace(bundle.data, holdout_from_ms=seen)
        champion = Runnable(msgspec.structs.replace(bundle, data=data), graph)
    candidate: Any = SimpleNamespace(bundle=bundle, model=Graph(own), customers=1.0)
    dataset: Any = SimpleNamespace(holdout=rows)
    found = segment_gates(definition, candidate, dataset, champion=champion, seed=1)
    return {gate.name: gate for gate in found}


def segments(limit: str) -> str:
    """The head of `gates` in model.yaml, with a segment that is there and one that is not.

    Args:
        limit: the task's key with its value.
    """
    return f"""gates:
  segments:
    {limit}
    groups:
      - {{name: by_phone, field: channel, values: [phone]}}
      - {{name: of_thousands, input: amount, at_least: 1000000, required: false}}
"""


def beside_itself(
    name: str, candidate: Candidate, report: GateReport, dataset: TrainingSet
) -> GateResult:
    """The gate of requests by phone, where a first version of the folder is its own champion."""
    gates = {gate.name: gate for gate in report.gates}
    assert gates["segment_by_phone"].verdict == "passed"
    assert "there is no champion yet" in gates["segment_by_phone"].reason
    champion = evaluate.load_runnable(candidate.folder)
    again = retrain.validate(load_folder(name), candidate, dataset, champion=champion)
    same, rare = [gate for gate in again.gates if gate.name.startswith("segment_")]
    assert (same.verdict, same.observed) == ("passed", 0)
    assert (rare.verdict, rare.observed) == ("passed", None)
    assert rare.reason.startswith("not shown, and only reported")
    assert "labels wanted" in rare.reason
    return same
