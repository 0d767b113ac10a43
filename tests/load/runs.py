"""One load test: its plan as a file, k6 over it, and the report."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.load import k6, profiles, rows
from tests.load.objectives import SCENARIO, Goal, Surface, goals, thresholds
from tests.load.profiles import Stage
from tests.load.report import QUANTILES, Report, report

from mlplatform.model.definition import ModelDefinition
from mlplatform.observing.slo.objectives import Objectives
from mlplatform.runtime.storage.files import write_atomically

ROWS: Final = 2_000
TIMEOUT_S: Final = 10.0
ASYNC_HELD_S: Final = 5.0
MAX_ITEMS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent where.

    Args:
        urls: of gateways, taken in turns.
        key_file: holds the API key; it is read by k6 alone.
        items: requests of one batch.
        entities: how many customers and the like the requests are of.
        wait_s: how long an async answer is polled for.
        held_s: how long a request may take before virtual users run out; None: by the model.
        users: that send the next request when the last is answered, instead of a rate; a closed
            loop, which finds out what a system can do and says nothing of its latency.
    """

    surface: Surface
    urls: tuple[str, ...]
    key_file: Path
    stages: tuple[Stage, ...]
    warm_up_s: float = 3.0
    items: int = 1
    entities: int = 10_000
    wait_s: float = 30.0
    seed: int = 7
    held_s: float | None = None
    users: int | None = None
    ca_file: Path | None = None
    quantiles: tuple[str, ...] = QUANTILES

    @property
    def sent(self) -> tuple[Stage, ...]:
        """The stages with the warm-up before them, at their first rate."""
        first = self.stages[0].from_per_s
        warm_up = (Stage(self.warm_up_s, first, first),) if self.warm_up_s > 0 else ()
        return (*warm_up, *self.stages)

    @property
    def seconds(self) -> float:
        """Of the whole run, with what may come after the last request."""
        tail_s = self.wait_s if self.surface == "async" else TIMEOUT_S
        return sum(stage.seconds for stage in self.sent) + tail_s


def plan(
    load: Load, model: ModelDefinition, wanted: Sequence[Goal], folder: Path
) -> dict[str, Any]:
    """What the scripts read: k6's options, and everything that they need to know of the model."""
    held_s = load.held_s or max(4 * model.deadline_ms / 1000, 0.25)
    if load.surface == "async":
        held_s = min(load.wait_s, ASYNC_HELD_S)
    scenario = profiles.scenario(load.sent, held_s=held_s)
    if load.users is not None:
        scenario = profiles.closed(load.sent, users=load.users)
    return {
        "options": {
            "scenarios": {SCENARIO: scenario},
            "thresholds": thresholds(wanted),
            "summaryTrendStats": [*load.quantiles, "count"],
            "systemTags": ["status", "scenario", "name"],
            "maxRedirects": 0,
        },
        "stages": profiles.as_sent(load.sent),
        "warm_up_s": load.warm_up_s,
        "users": load.users,
        "model": model.name,
        "run": uuid.uuid4().hex,
        "urls": list(load.urls),
        "key_file": str(load.key_file.absolute()),
        "rows_file": str(folder / "rows.json"),
        "summary_file": str(folder / "summary.json"),
        "rates": [goal.name for goal in wanted],
        "latency_slo_ms": model.latency_slo_ms,
        "deadline_ms": model.deadline_ms,
        "items": load.items,
        "timeout_s": TIMEOUT_S,
        "wait_s": load.wait_s,
    }


def run(
    load: Load,
    model: ModelDefinition,
    objectives: Objectives,
    program: Path,
    *,
    prefix: tuple[str, ...] = (),
) -> Report:
    """The report of one load test.

    Raises:
        k6.Failed: there are no figures.
    """
    wanted = goals(objectives, model, load.surface)
    with tempfile.TemporaryDirectory(prefix="mlplatform-load-") as name:
        folder = Path(name)
        made = plan(load, model, wanted, folder)
        bodies = rows.rows(model, ROWS, entities=load.entities, seed=load.seed)
        write_atomically(folder / "rows.json", json.dumps(bodies).encode())
        write_atomically(folder / "plan.json", json.dumps(made).encode())
        _, metrics = k6.run(
            program,
            k6.HERE / "scripts" / f"{load.surface}.js",
            folder / "plan.json",
            folder / "summary.json",
            seconds=load.seconds,
            ca_file=load.ca_file,
            prefix=prefix,
        )
    shown = {
        "surface": load.surface,
        "model": model.name,
        "tier": model.tier,
        "latency_slo_ms": model.latency_slo_ms,
        "deadline_ms": model.deadline_ms,
        "items": load.items,
        "urls": list(load.urls),
        "stages": made["stages"],
        "users": load.users,
        "seed": load.seed,
    }
    return report(shown, profiles.offered(load.stages), wanted, metrics, load.quantiles)
