"""Modules of PyTorch that a folder has fitted, whose ONNX form scores as they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlplatform.authoring import Dataset
from mlplatform.learning.onnx import torch as exporter
from mlplatform.learning.onnx.torch import Block, FittedModule, reproducible

__all__ = ["Block", "FittedModule", "fitted", "reproducible"]


def fitted(
    module: Any,
    dataset: Dataset,
    *,
    blocks: Sequence[Block] = (),
    parameters: Mapping[str, Any] | None = None,
) -> FittedModule:
    """The module, fitted by the folder to these rows, ready to score on the processor.

    Args:
        module: returns log-odds of the second class, [n] or [n, 1]; of a model of classes, logits
            [n, classes].
        blocks: the module's input tensors, in the order of its arguments; none: one float32 matrix
            of all columns.
        parameters: hyper-parameters, which MLflow shows with the run.
    """
    return exporter.fitted(
        module, dataset.x, blocks=blocks, parameters=parameters, classes=len(dataset.classes)
    )
