"""The context of a fit: what its rows are, its hyper-parameters, seed, device and budget, and the
reports of its progress."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.policies.search import Choice
from mlplatform.model.tensors.categories import Vocabularies
from mlplatform.model.tensors.tokens import text_of
from mlplatform.model.tensors.vectors import vector_of
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.processes.gpus import DEVICES, has_gpu

Device = Literal["cpu", "cuda"]
Judge = Callable[[int, NDArray[np.float64]], None]
MOST_LINES: Final = 200
MOST_CHARACTERS: Final = 300

log = logging.getLogger(__name__)


class TrialStopped(Exception):
    """The trial ends here: it is worse than others, or the budget is spent. Let the exception
    pass."""


@dataclass(frozen=True, slots=True)
class FitContext:
    """The arguments of a fit beside its rows, and the receiver of its reports.

    Args:
        parameters: name in `training.search.space` → value; empty if model.yaml has no search.
        rows: rows without labels, float32 [n, inputs], on which a trial is tested; no row in a fit
            that is no trial.
        seed: the seed of the fit, as its argument `seed`.
        device: `cuda` if `accelerator` of model.yaml is no processor and this machine has a GPU.
        budget_s: seconds for all trials in a trial, else for the fit's job, from its request on.
        progress: the last 200 lines of `log`.
        inputs: name of each column of `x`, in order. A text or a vector has several columns.
        words: category or text input → its words. The first word is 2 in `x`; 1 is a word that is
            not among them, and NaN is a missing one.
        unit: whose request each row is, int64 [n].
        event_ms: when each request was made, epoch milliseconds, int64 [n], rising.
    """

    parameters: Mapping[str, Choice]
    rows: NDArray[np.float32]
    _judge: Judge | None = None
    seed: int = 0
    device: Device = "cpu"
    budget_s: float | None = None
    progress: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_LINES))
    inputs: tuple[str, ...] = ()
    words: Vocabularies = field(default_factory=dict)
    unit: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    event_ms: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def of_rows(
        self,
        inputs: Sequence[str],
        words: Vocabularies,
        unit: NDArray[np.int64],
        event_ms: NDArray[np.int64],
    ) -> FitContext:
        """Returns the same context, of these rows."""
        return replace(
            self, inputs=tuple(inputs), words=words, unit=unit.copy(), event_ms=event_ms.copy()
        )

    @property
    def categories(self) -> tuple[str, ...]:
        """The inputs that are places of words, one column each."""
        return tuple(name for name in self.inputs if name in self.words)

    def columns(self, *names: str) -> list[int]:
        """Positions in `x` of these inputs, so that a fit need not count them.

        Args:
            names: inputs of model.yaml; a text or a vector stands for all of its columns.

        Raises:
            InputInvalid: model.yaml has no such input; the message names those that it has.
        """
        declared = [text_of(name) or vector_of(name) or name for name in self.inputs]
        if unknown := [name for name in names if name not in declared]:
            known = ", ".join(dict.fromkeys(declared))
            problem = f"no input {', '.join(unknown)}; wanted: {known}"
            raise InputInvalid("training.py: context.columns", None, problem)
        return [at for name in names for at, of in enumerate(declared) if of == name]

    def report(self, step: int, scores: NDArray[np.float64]) -> None:
        """Report the present scores of `rows`, so that a bad trial ends early.

        Args:
            step: number of the round or epoch, 0 to 998, rising; steps may be left out.
            scores: for each row a score (0-1), of classes the probability of each [n, classes], of
                numbers the number.

        Raises:
            TrialStopped: the trial ends here.
            InputInvalid: the step or the shape of the scores is not allowed.
        """
        if self._judge is not None:
            self._judge(step, np.asarray(scores, np.float64))

    def log(self, text: str) -> None:
        """Log one line of progress, of at most 300 characters: into the log of the fit's job, and
        of the last fit into Prefect's log and MLflow too. It must hold no value of a customer."""
        line = " ".join(text.split())[:MOST_CHARACTERS]
        log.info("fit: %s", line)
        self.progress.append(line)


def last_fit(
    parameters: Mapping[str, Choice],
    inputs: int,
    *,
    seed: int = 0,
    device: Device = "cpu",
    budget_s: float | None = None,
) -> FitContext:
    """The context of a fit that is no trial."""
    rows = np.empty((0, inputs), np.float32)
    return FitContext(parameters, rows, seed=seed, device=device, budget_s=budget_s)


def fit_device(accelerator: str, devices: Path = DEVICES) -> Device:
    """The device of a fit: `cuda` if model.yaml names an accelerator and this machine has a GPU of
    NVIDIA, else `cpu`."""
    return "cuda" if accelerator != "cpu" and has_gpu(devices) else "cpu"
