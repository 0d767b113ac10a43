"""The drift of a team's model in its demo: requests of a changed pattern, and what came of them.

Pure but for the file that `--resume` reads the requests from.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from demo.source import keep
from demo.state import DemoState
from mlplatform.learning.registry.versions import Version
from mlplatform.learning.validation.report import MEASURES as WORDS
from mlplatform.learning.validation.report_entries import MeasureEntry
from mlplatform.learning.validation.statistics import QUALITY_LEVEL
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import load_definition
from mlplatform.rollouts.drift.incidents import DRIFT, Incident
from mlplatform.runtime.times import day_text
from mlplatform.runtime.units import DAY_MS

JUDGED_DAYS: Final = 3
"""Days after the change with as many requests as a drift check needs to judge them."""
JUDGED_REQUESTS: Final = 2_000
WAITING_REQUESTS: Final = 150
"""A day, while labels mature: enough for the gates, and days of event time are many."""
SPARE_DAYS: Final = 4
"""Nights on which a retrain is still waited for, once it could learn the new pattern."""
MEASURES: Final = {"binary": "average_precision", "classes": "accuracy", "real": "mae"}
"""By task, the measure by which the retrained version is to be better."""
FALLING: Final = frozenset({"mae"})
"""Of these, those of which less is better."""


def changes(model: str) -> bool:
    """Whether the model's generator can change what it makes up."""
    return (
        "pattern_change_ms" in inspect.signature(load_module(model, "sources").generate).parameters
    )


def lag_days(definition: ModelDefinition) -> int:
    """The age at which a request can be learned from: label maturity and held-out days."""
    return definition.label.maturity_days + definition.training.holdout_days


def live_requests(live: pa.Table, state: DemoState, cache: Path) -> pa.Table:
    """The requests that are played: those of the changed pattern follow those before it.

    Args:
        live: without a change.
        cache: the folder in which those of the changed pattern are kept.
    """
    if state.changed_row is None:
        return live
    file = cache / f"changed-{state.change_ms}.parquet"
    if not file.exists():
        keep(file, changed_requests(state.model, state.seed, state.change_ms))
    return pa.concat_tables([live.slice(0, state.changed_row), pq.read_table(file)])


def changed_requests(model: str, seed: int, change_ms: int) -> pa.Table:
    """Made-up requests from the change on: days to be judged, then days in which labels mature."""
    definition, waiting_ms = load_definition(model), change_ms + JUDGED_DAYS * DAY_MS
    waiting_days = lag_days(definition) + SPARE_DAYS - JUDGED_DAYS
    made_up = partial(generated, definition, pattern_change_ms=change_ms)
    judged = made_up(
        seed=seed + 2, start_ms=change_ms, days=JUDGED_DAYS, requests_a_day=JUDGED_REQUESTS
    )
    waiting = made_up(
        seed=seed + 3, start_ms=waiting_ms, days=waiting_days, requests_a_day=WAITING_REQUESTS
    )
    return pa.concat_tables([judged, waiting])


def generated(
    definition: ModelDefinition, *, requests_a_day: int | None = None, **asked: Any
) -> pa.Table:
    """What the generator of a model makes up.

    Args:
        requests_a_day: None for as many as it makes by itself.
        asked: as it takes them.
    """
    sources = load_module(definition.name, "sources")
    if requests_a_day is not None and hasattr(sources, "Population"):
        asked["population"] = sources.Population(payments_per_day=requests_a_day)
    table: pa.Table = sources.generate(**asked, maturity_days=definition.label.maturity_days)
    return table


def is_check_due(midnight_ms: int, change_ms: int, *, is_found: bool, lag_days: int) -> bool:
    """Whether a drift check at a midnight can find what was not known the night before: drift, or
    that a retrain can learn from a whole day of the new pattern."""
    days = (midnight_ms - change_ms) // DAY_MS
    return not is_found or days > lag_days


def drift_incident(
    incidents: Sequence[Incident], change_ms: int, midnight_ms: int
) -> tuple[Incident | None, str]:
    """The incident of the change, and what is wrong with what the checks have found so far.

    Args:
        midnight_ms: up to which event time checks have looked.
    """
    found = [incident for incident in incidents if incident.found.kind == DRIFT]
    if not found:
        days = (midnight_ms - change_ms) // DAY_MS
        late = f"the drift check has found nothing in {days} days since the requests changed"
        return None, late if days >= JUDGED_DAYS else ""
    newest = found[-1]
    if newest.found.changed_ms < change_ms:
        since, changed = day_text(newest.found.changed_ms), day_text(change_ms)
        return newest, f"{newest.id} finds drift since {since}; requests changed on {changed}"
    return newest, ""


def figures(
    incident: Incident, change_ms: int, reason: str, version: Version, measure: str
) -> dict[str, Any]:
    """What became of the change, for the report.

    Args:
        reason: why the retrain was started, in its own words.
        measure: by which the version is compared with the champion.
    """
    report = version.facts.report
    compared = _compared(report.get("measures", []), measure)
    return {
        "changed": day_text(change_ms),
        "since": day_text(incident.found.changed_ms),
        "found": day_text(incident.found.opened_ms),
        "incident": incident.id,
        "reasons": list(incident.found.evidence.get("reasons", [])),
        "retrain": reason,
        "version": version.version,
        "author": version.facts.author,
        "champion": incident.found.champion,
        "gates": len(report.get("gates", [])),
        "measure": measure,
        **compared,
    }


def _compared(measures: Sequence[MeasureEntry], name: str) -> dict[str, Any]:
    """Of one measure, its value for candidate and champion, and the interval of the difference;
    None for what the report does not hold."""
    entry = next((m for m in measures if m["name"] == name), None)
    champion, difference = (entry["champion"], entry["difference"]) if entry else (None, None)
    return {
        "value": entry["candidate"]["value"] if entry else None,
        "champion_value": champion["value"] if champion else None,
        "low": difference["low"] if difference else None,
        "high": difference["high"] if difference else None,
    }


def problem_of(found: dict[str, Any]) -> str | None:
    """Why the retrain was none for the better; None: it is shown to be better."""
    low, high = found["low"], found["high"]
    if low is None or high is None:
        return f"version {found['version']} has no comparison with the champion by {_named(found)}"
    if (high < 0) if found["measure"] in FALLING else (low > 0):
        return None
    return f"version {found['version']} is not shown to be better: {words(found)}"


def words(found: dict[str, Any]) -> str:
    """The drift and its answer in a sentence."""
    return (
        f"drift since {found['since']}, found on {found['found']}, is answered by version "
        f"{found['version']}: {_named(found)} {found['value']:.3f}, that of version "
        f"{found['champion']} {found['champion_value']:.3f} on the same requests, all later than "
        f"those learned from; the difference lies between {found['low']:+.3f} and "
        f"{found['high']:+.3f} ({100 * QUALITY_LEVEL:g} % interval); {found['gates']} gates passed"
    )


def _named(found: dict[str, Any]) -> str:
    return WORDS[found["measure"]]
