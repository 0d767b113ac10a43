"""The context of a fit: its hyper-parameters, seed, device and budget, and the reports of its
progress."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.policies.search import Choice
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
class Context:
    """The seed, device and budget of a fit, its hyper-parameters, and the receiver of its reports.

    Args:
        parameters: name in `training.search.space` → value; empty if model.yaml has no search.
        rows: rows without labels, float32 [n, columns], on which a trial is tested; no row in a fit
            that is no trial.
        seed: seed of all that the fit draws; the same rows and seed give the same model.
        device: `cuda` if `accelerator` of model.yaml is no processor and this machine has a GPU.
        budget_s: seconds for all trials in a trial, else for the fit's job, from its request on;
            None without a limit.
        progress: the last 200 lines of `log`.
    """

    parameters: Mapping[str, Choice]
    rows: NDArray[np.float32]
    _judge: Judge | None = None
    seed: int = 0
    device: Device = "cpu"
    budget_s: float | None = None
    progress: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_LINES))

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
) -> Context:
    """The context of a fit that is no trial."""
    rows = np.empty((0, inputs), np.float32)
    return Context(parameters, rows, seed=seed, device=device, budget_s=budget_s)


def fit_device(accelerator: str, devices: Path = DEVICES) -> Device:
    """The device of a fit: `cuda` if model.yaml names an accelerator and this machine has a GPU of
    NVIDIA, else `cpu`."""
    return "cuda" if accelerator != "cpu" and has_gpu(devices) else "cpu"
