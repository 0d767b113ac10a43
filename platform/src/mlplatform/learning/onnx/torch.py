"""Modules of PyTorch for training: raw scores, and the same as ONNX."""

from __future__ import annotations

import importlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.sklearn import OPSET
from mlplatform.model.bundle import INPUT_NAME, OUTPUT_NAME
from mlplatform.model.tensors.remainders import COLUMNS, numbers, whole_numbers
from mlplatform.runtime.errors import ConfigUnusable

BATCH_ROWS: Final = 8192
EXAMPLE_ROWS: Final = 2


@dataclass(frozen=True, slots=True)
class Block:
    """Columns of a row, side by side, that are one tensor of the graph.

    Args:
        name: name of the tensor in the `signature` of model.yaml.
        start, stop: position of the first column, and the one after the last.
        dtype: element type of the tensor; in int64 a missing value is 0, as when the platform
            serves it.
        is_exact: whether each number is three columns: itself and its remainders, as a row has them
            of inputs that float32 does not hold (docs/adding-a-model.md).
    """

    name: str
    start: int
    stop: int
    dtype: Literal["float32", "float64", "int64"] = "float32"
    is_exact: bool = False

    def of(self, x: NDArray[np.float32]) -> NDArray[Any]:
        columns = x[:, self.start : self.stop]
        if self.is_exact:
            join = whole_numbers if self.dtype == "int64" else numbers
            parts = np.split(columns, columns.shape[1] // COLUMNS, axis=1)
            return np.stack([join(part) for part in parts], axis=1).astype(self.dtype, copy=False)
        if self.dtype != "int64":
            return np.ascontiguousarray(columns, self.dtype)
        return np.nan_to_num(columns, nan=0.0).astype(np.int64)


@dataclass(frozen=True, slots=True)
class FittedModule:
    """A fitted module of two classes, whose score is the second one's probability, 0-1; or of
    several, whose scores are all their probabilities.

    Args:
        module: returns the log-odds of the second class, [n] or [n, 1]; or logits [n, classes].
        blocks: the module's input tensors, in the order of its arguments.
        parameters: hyper-parameters, which MLflow shows with the run.
        classes: number of classes whose probabilities are scores; 0: two classes, of which the
            second one's probability is the score.
    """

    module: Any
    blocks: tuple[Block, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    classes: int = 0

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One raw score a row [n], or probabilities [n, classes], by PyTorch itself, on one
        thread."""
        torch = importlib.import_module("torch")
        found = []
        with _one_thread(torch), torch.inference_mode():
            for start in range(0, len(x), BATCH_ROWS):
                tensors = self._tensors(torch, x[start : start + BATCH_ROWS])
                found.append(_scores(torch, self.module(*tensors), self.classes).numpy())
        if not found:
            return np.empty((0, self.classes) if self.classes else 0)
        return np.concatenate(found).astype(np.float64)

    def onnx(self) -> bytes:
        """The module with its blocks as inputs, [n, columns], and output "scores" float32 [n], or
        [n, classes].

        Raises:
            ConfigInvalid: PyTorch can't write an operation of the module as ONNX; the message names
                the operation.
        """
        torch = importlib.import_module("torch")
        names = [block.name for block in self.blocks]
        stop = max(block.stop for block in self.blocks)
        tensors = self._tensors(torch, np.zeros((EXAMPLE_ROWS, stop), np.float32))
        file = io.BytesIO()
        try:
            with _one_thread(torch), warnings.catch_warnings():
                # PyTorch calls this exporter legacy; the new one needs another package (onnxscript)
                warnings.simplefilter("ignore", DeprecationWarning)
                torch.onnx.export(
                    _scorer(torch, self.module, self.classes),
                    tensors,
                    file,
                    input_names=names,
                    output_names=[OUTPUT_NAME],
                    dynamic_axes={name: {0: "n"} for name in (*names, OUTPUT_NAME)},
                    opset_version=OPSET[""],
                    dynamo=False,
                )
        except torch.onnx.errors.OnnxExporterError as error:
            wanted = "operations that have an ONNX form of opset 17"
            raise ConfigUnusable("training.py: module", str(error)[:500], wanted) from error
        return file.getvalue()

    def _tensors(self, torch: Any, x: NDArray[np.float32]) -> tuple[Any, ...]:
        return tuple(torch.from_numpy(block.of(x)) for block in self.blocks)


def fitted(
    module: Any,
    x: NDArray[np.float32],
    *,
    blocks: Sequence[Block] = (),
    parameters: Mapping[str, Any] | None = None,
    classes: int = 0,
) -> FittedModule:
    """A module that is fitted, whose ONNX form scores float32 rows as it does.

    Args:
        module: takes rows float32 [n, inputs], NaN where a value is missing, or one tensor for
            each block; gives the log-odds of the second class, or logits [n, classes]. It may be
            on a GPU, and is scored and written on the processor.
        x: the rows, float32 [n, inputs], to which it was fitted.
        blocks: the input tensors of a model with a `signature` in model.yaml; empty if the module
            takes whole rows.
        classes: number of classes, if the module gives logits of each; 0 for two classes.
    """
    module.cpu().eval()
    taken = tuple(blocks) or (Block(INPUT_NAME, 0, x.shape[1]),)
    return FittedModule(module, taken, dict(parameters or {}), classes)


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Makes PyTorch draw from this seed, work on one thread, and refuse operations that are not
    deterministic, within the block. The same rows and seed then give the same module on the same
    hardware."""
    torch = importlib.import_module("torch")
    # without it PyTorch refuses products of matrices on a GPU (its note on reproducibility)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with _one_thread(torch), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.use_deterministic_algorithms(was)


@contextmanager
def _one_thread(torch: Any) -> Iterator[None]:
    """Limits PyTorch to one thread within the block, because threads of several processes would
    wait for each other beside a serving platform."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _scores(torch: Any, logits: Any, classes: int) -> Any:
    """The probabilities of log-odds, or of logits."""
    return torch.softmax(logits, dim=1) if classes else torch.sigmoid(logits.reshape(-1))


def _scorer(torch: Any, module: Any, classes: int) -> Any:
    class Scorer(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Any) -> Any:
            return _scores(torch, self.module(*tensors), classes)

    return Scorer().eval()
