"""Rendering of observability/dashboards/ from slo.yaml and the list of signals."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mlplatform.observing.dashboards import (
    drift,
    gpu,
    grafana_json,
    labels,
    model,
    overview,
    pipelines,
    rollout,
)
from mlplatform.observing.dashboards.panels import Dashboard
from mlplatform.observing.slo.objectives import FILE, Objectives, load

FOLDER: Final = "observability/dashboards"
SOURCE: Final = f"mlplatform/observing/dashboards and {FILE}"


def render_files(root: Path) -> dict[str, str]:
    """Path below the repository's root → content.

    Raises:
        ConfigInvalid: slo.yaml is wrong.
    """
    made = dashboards(load(root / FILE))
    return {f"{FOLDER}/{one.name}.json": grafana_json.text(one, SOURCE) for one in made}


def dashboards(objectives: Objectives) -> list[Dashboard]:
    """All dashboards, in the order in which people look at them."""
    return [
        overview.dashboard(objectives),
        model.dashboard(objectives),
        rollout.dashboard(objectives),
        drift.dashboard(objectives),
        labels.dashboard(objectives),
        gpu.dashboard(),
        pipelines.dashboard(objectives),
    ]
