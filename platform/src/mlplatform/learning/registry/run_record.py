"""The record of the run behind a version, for a tracking server; nothing is decided from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class RunDataset:
    """A data set of a run, by its digest.

    Args:
        context: the use of the data set: training or validation.
        columns: input → its type, as MLflow names it.
        facts: figures about all rows together; never values of one row.
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
        metrics: name → finite number; `candidate/` and `champion/` metrics are of the same rows.
        steps: for each step from 1 on, its metrics by name. In a retrain, the steps are the folds
            by time.
        artifacts: path relative to the run's artifacts → content, without values of customers.
        description: Markdown text for the run and the version.
    """

    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[Mapping[str, float]] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[RunDataset] = ()
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    description: str = ""
