"""The record of the run behind a version, for a tracking server; nothing is decided from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class RunDataset:
    """A data set of a run, by its digest.

    Args:
        context: what it was used for: training, validation.
        columns: of each input, its type in MLflow's words.
        facts: what is known of its rows together; never one row's.
    """

    name: str
    digest: str
    context: str
    columns: Mapping[str, str]
    facts: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Parameters, figures and files of one run.

    Args:
        metrics: finite numbers by name; `candidate/` and `champion/` are of the same rows.
        steps: metrics of each step from 1 on, by name; of a retrain, of each fold in time.
        artifacts: path below the run's artifacts → content. No customer's values stand in them.
        description: Markdown, of run and version.
    """

    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[Mapping[str, float]] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[RunDataset] = ()
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    description: str = ""
