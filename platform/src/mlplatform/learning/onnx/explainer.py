"""The explanation of scores in a bundle: TreeSHAP if its model is trees, else the reason why
not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.ensembles import NotAnEnsemble, read_ensemble
from mlplatform.learning.onnx.onnx_file import OnnxFile, session
from mlplatform.learning.onnx.tree_shap import compile_tree_shap
from mlplatform.model.bundle import CONTRIBUTIONS_NAME, INPUT_NAME, Attribution
from mlplatform.runtime.errors import InputInvalid

BACKGROUND_ROWS = 20_000
"""Number of rows on which the cover of the nodes is counted; more rows change no reason."""

CHECKED_ROWS = 256
SCORE_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Explainer:
    """The attribution, with the content of `contributions.onnx` if there is one."""

    attribution: Attribution
    content: bytes | None = None


def row_gaps(found: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """The gap of each row, [n], as `score_gap` measures it; of classes the largest of a row."""
    usual = max(1.0, float(np.sqrt(np.mean(np.square(expected)))))
    gaps: NDArray[np.float64] = np.abs(found - expected) / np.maximum(usual, np.abs(expected))
    return gaps if gaps.ndim == 1 else gaps.max(axis=1)


def score_gap(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """The largest gap between the scores of two forms of a model. For numbers the gap is a share of
    each number, or of their root mean square if that is larger: float32 has seven digits, and a
    number near 0 may be the sum of large ones."""
    return float(row_gaps(found, expected).max())


def make_explainer(
    content: bytes,
    model: OnnxFile,
    *,
    background: NDArray[np.float32],
    rows: NDArray[np.float32],
) -> Explainer:
    """TreeSHAP compiled from the model's file and proven on rows, or the reason for none.

    Args:
        background: rows over which the mean margin is computed, such as those of the fit.
        rows: rows on which the trees must score as the file does, and on which the contributions
            must add up to the score.
    """
    rows = rows[:CHECKED_ROWS]
    if model.classes:
        return Explainer(Attribution(why="it gives probabilities of classes, not one score"))
    if model.tensors is not None:
        return Explainer(Attribution(why="its graph takes other tensors than one float32 matrix"))
    try:
        ensemble = read_ensemble(content)
        scores = model.scores(rows)
        gap = score_gap(ensemble.scores(rows), scores)
        if not gap <= SCORE_TOLERANCE:
            raise NotAnEnsemble(f"scores of its trees and of the file differ by {gap:.2g}")
        step = max(1, len(background) // BACKGROUND_ROWS)
        cover = ensemble.covers(background[::step])
        compiled = compile_tree_shap(ensemble, cover, inputs=rows.shape[1])
        attribution = Attribution(method="tree_shap", link=ensemble.link, base=compiled.base)
        _check(compiled.content, attribution, rows, scores)
    except InputInvalid as error:
        return Explainer(Attribution(why=str(error)))
    return Explainer(attribution, compiled.content)


def _check(
    content: bytes,
    attribution: Attribution,
    rows: NDArray[np.float32],
    scores: NDArray[np.float64],
) -> None:
    running = session(content)
    for row, score in zip(rows, scores.tolist(), strict=True):
        (shares,) = running.run([CONTRIBUTIONS_NAME], {INPUT_NAME: row[None]})
        values = shares.astype(np.float64).tolist()
        if not attribution.adds_up(values, score):
            margin = attribution.margin(values)
            raise NotAnEnsemble(f"contributions add up to {margin:.6g}; the score is {score:.6g}")
