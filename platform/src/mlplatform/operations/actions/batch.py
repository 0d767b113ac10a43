"""Batch scoring of past days with a registered version: the inputs are those that serving read, one
shard a day."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlplatform.learning.features.external.point_in_time_join import newest_ms
from mlplatform.learning.training_sets.dataset import input_plan
from mlplatform.learning.training_sets.join import training_join
from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.definition import word_inputs
from mlplatform.model.features.views import external
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.model.routes import Arm
from mlplatform.operations.actions import staging
from mlplatform.operations.compute.job_run import run
from mlplatform.operations.compute.jobs import ITEMS, MAX_ITEMS, RESULT, SHARED, Job, JobStatus
from mlplatform.operations.compute.scoring import BUNDLE, ID, ORDER, SCORES, Order
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.canonical import canonical_json, digest
from mlplatform.runtime.errors import InputInvalid, NotFound
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.runtime.text import markdown
from mlplatform.runtime.times import day_text
from mlplatform.runtime.units import DAY_MS

MANIFEST: Final = "manifest.json"
NO_FEATURES: Final = (
    "Scores of these days are those of unknown customers. `mlplatform history import` takes the "
    "snapshots of the last weeks only, and older ones can't be added; features of the bank's own "
    "tables begin with `mlplatform features import`"
)
JOINED_DAYS: Final = 16
"""Days whose requests are joined to features at once: reading the snapshots takes as long for one
day as for many."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch: requests with event time in [from_ms, to_ms), which are UTC midnights.

    Args:
        name: name of the job and of the folder of results; two calls with one name are the same
            batch.
    """

    name: str
    model: str
    version: int
    bundle: str
    from_ms: int
    to_ms: int
    deadline_s: int


def batch(
    platform: Platform,
    model: str,
    version: int | None,
    *,
    name: str,
    from_ms: int,
    to_ms: int,
    deadline_s: int,
) -> Batch:
    """Describe the batch of a version; without a version, of the champion.

    Raises:
        NotFound: there is no such version, or no champion yet.
        InputInvalid: the times do not enclose whole days, or enclose too many.
    """
    days = (to_ms - from_ms) // DAY_MS
    if from_ms % DAY_MS or to_ms % DAY_MS or not 0 < days <= MAX_ITEMS:
        problem = f"{from_ms} to {to_ms} ms; wanted: 1 to {MAX_ITEMS} whole days (UTC)"
        raise InputInvalid("batch", None, problem)
    if version is not None:
        found = platform.registry.get(model, version)
        return Batch(name, model, found.version, found.digest, from_ms, to_ms, deadline_s)
    champion = platform.rollouts.routes(model).champion
    if champion is None:
        raise NotFound(
            f"{model} has no champion yet: name a version that `mlplatform models list` shows"
        )
    return Batch(name, model, champion.version, champion.bundle, from_ms, to_ms, deadline_s)


def prepare(platform: Platform, batch: Batch) -> Job:
    """Write the inputs of a batch and return its job: `shared/` has the bundle, `items/` the days.

    Files that an earlier attempt under the same name wrote are used as they are, because a job may
    be reading them.

    Raises:
        InputInvalid: there is no request on these days, none of the days has features, or the
            bundle has an input that no view of the model's folder computes any more.
    """

    def write(shared: Path, items: Path) -> None:
        _write_bundle(platform, batch, shared)
        _write_shards(platform, batch, shared, items)

    folder = staging.inputs(platform.settings.home.staging, batch.name, write)
    items = tuple(sorted(path.name for path in (folder / ITEMS).iterdir()))
    return Job(batch.name, "score", batch.model, folder, items, batch.deadline_s)


def days_without_features(platform: Platform, batch: Batch, bundle: Bundle) -> dict[str, list[str]]:
    """Day → the bundle's views without features on that day: no snapshot, or no row of the table,
    was valid.

    For such a day a model gives the scores of unknown customers.
    """
    offline, found = platform.offline(batch.model), dict[str, list[str]]()
    tables = {view.name for view in external(platform.views(batch.model))}
    for view in bundle.views:
        if view.name in tables:
            days = np.arange(batch.from_ms, batch.to_ms, DAY_MS, dtype=np.int64)
            newest = newest_ms(offline.external(view.name), days + DAY_MS - 1)
            for day_ms in days[newest < days - view.ttl_ms].tolist():
                found.setdefault(day_text(day_ms), []).append(view.name)
            continue
        there = {path.stem for path in offline.snapshot_folder(view.name).glob("*.parquet")}
        for day_ms in range(batch.from_ms, batch.to_ms, DAY_MS):
            valid = range(day_ms, day_ms - max(view.ttl_ms, DAY_MS), -DAY_MS)
            if not there.intersection(map(day_text, valid)):
                found.setdefault(day_text(day_ms), []).append(view.name)
    return found


def score(platform: Platform, batch: Batch, job: Job, report: Callable[[JobStatus], None]) -> Path:
    """Run the job and keep its results; returns their folder.

    There is one Parquet file a day (`operations.compute.scoring.RESULTS`) and, written last,
    `manifest.json`: the version, its bundle's digest, which decisions are alerts, and rows,
    decisions, SHA-256 and the views without features of each file.

    Raises:
        JobFailed, Refused, Unavailable: for the same reasons as in
            `operations.compute.job_run.run`.
    """
    target = platform.settings.home.batches / batch.model / batch.name
    if not (target / MANIFEST).exists():
        traced = replace(job, traceparent=platform.traceparent())
        bundle = load_bundle(job.inputs / SHARED / BUNDLE, batch.bundle)
        gaps = days_without_features(platform, batch, bundle)
        outputs = run(platform.jobs, traced, report)
        alerts, wall_ms = bundle.scale.alerts, platform.clock.wall_ms()
        _keep(outputs, job, batch, target, gaps, wall_ms, alerts=alerts)
    shutil.rmtree(_inputs(platform, batch), ignore_errors=True)
    return target


def page(folder: Path) -> str:
    """A batch's manifest in Markdown."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
    files = manifest["files"]
    alerts = manifest.get("alerts", EARLIER.alerts)
    rows = [
        (
            markdown(name.removesuffix(".parquet")),
            str(file["rows"]),
            *(str(file["decisions"][alert]) for alert in alerts),
            markdown(", ".join(file.get("without_features", ()))) or "-",
        )
        for name, file in sorted(files.items())
    ]
    head = (
        f"Version {manifest['version']} of {markdown(manifest['model'])} scored "
        f"{sum(file['rows'] for file in files.values()):,} requests of {len(files)} days. "
        f"The results are in {markdown(str(folder))}.\n"
    )
    gaps = sum(bool(file.get("without_features")) for file in files.values())
    warning = f"Warning: {gaps} of {len(files)} days have no features. {NO_FEATURES}.\n"
    titles = ("day", "requests", *alerts, "without features")
    table = [f"| {' | '.join(cells)} |" for cells in (titles, ("---",) * len(titles), *rows)]
    return "\n".join([head, *([warning] if gaps else []), *table])


def _inputs(platform: Platform, batch: Batch) -> Path:
    return platform.settings.home.staging / batch.name


def _write_bundle(platform: Platform, batch: Batch, shared: Path) -> None:
    arm = Arm(batch.version, batch.bundle, batch.bundle)
    shutil.copytree(platform.bundle(batch.model, arm), shared / BUNDLE)
    order = Order(version=batch.version, bundle=batch.bundle)
    write_atomically(shared / ORDER, msgspec.json.encode(order))


def _write_shards(platform: Platform, batch: Batch, shared: Path, items: Path) -> None:
    bundle = load_bundle(shared / BUNDLE, batch.bundle)
    platform.project_offline(batch.model)
    days = []
    for from_ms in range(batch.from_ms, batch.to_ms, JOINED_DAYS * DAY_MS):
        to_ms = min(from_ms + JOINED_DAYS * DAY_MS, batch.to_ms)
        for day, table in _days(platform, batch.model, bundle, from_ms, to_ms):
            pq.write_table(table, items / f"{day}.parquet")
            days.append(day)
    if not days:
        raise InputInvalid(f"offline/{batch.model}", None, "no request on these days")
    gaps = days_without_features(platform, batch, bundle)
    if bundle.views and all(len(gaps.get(day, ())) == len(bundle.views) for day in days):
        problem = f"none of the {len(days)} days from {days[0]} to {days[-1]} has features"
        raise InputInvalid("batch", None, f"{problem}. {NO_FEATURES}")


def _days(
    platform: Platform, model: str, bundle: Bundle, from_ms: int, to_ms: int
) -> Iterator[tuple[str, pa.Table]]:
    """Yield each day that has requests with a table of their ids and inputs, in order of event
    time."""
    offline, views = platform.offline(model), platform.views(model)
    asked = offline.requests(from_ms, to_ms).order("event_time, request_id")
    joined = training_join(offline, views, asked.to_arrow_table())
    definition = platform.definition(model)
    none = {name: () for name in word_inputs(definition.inputs)}
    plan = input_plan(definition, views, bundle.inputs, {**none, **bundle.vocabularies})
    if lacking := sorted(set(bundle.input_names) - set(plan.names)):
        problem = f"nothing computes {', '.join(lacking)} any more"
        raise InputInvalid(f"offline/{model}", None, problem)
    x = plan.matrix(joined)
    ids = joined.column(ID).cast(pa.string()).combine_chunks()
    columns = [pa.array(x[:, plan.names.index(name)]) for name in bundle.input_names]
    table = pa.Table.from_arrays([ids, *columns], names=[ID, *bundle.input_names])
    event_ms = joined.column("event_time").cast(pa.int64()).to_numpy() // 1000
    for day_ms in range(from_ms, to_ms, DAY_MS):
        first, last = np.searchsorted(event_ms, [day_ms, day_ms + DAY_MS])
        if last > first:
            yield day_text(day_ms), table.slice(int(first), int(last - first))


def _keep(
    outputs: Path,
    job: Job,
    batch: Batch,
    target: Path,
    gaps: Mapping[str, list[str]],
    wall_ms: int,
    *,
    alerts: Sequence[str],
) -> None:
    """Copy the results, then write the manifest: a batch exists when its manifest does."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    files: dict[str, Any] = {}
    for item in job.items:
        content = (outputs / item / SCORES).read_bytes()
        result = msgspec.json.decode((outputs / item / RESULT).read_bytes(), type=dict[str, Any])
        if digest(content) != result["sha256"]:
            raise InputInvalid(f"{job.name}/{item}", None, "it is not what its digest says")
        write_atomically(target / item, content)
        if views := gaps.get(item.removesuffix(".parquet")):
            result["without_features"] = views
        files[item] = result
    manifest = {
        "job": batch.name,
        "model": batch.model,
        "version": batch.version,
        "bundle": batch.bundle,
        "from_ms": batch.from_ms,
        "to_ms": batch.to_ms,
        "scored_ms": wall_ms,
        "alerts": alerts,
        "files": files,
    }
    write_atomically(target / MANIFEST, canonical_json(manifest))
