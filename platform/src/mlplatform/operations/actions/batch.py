"""Past days scored again with a registered version: inputs as serving read them, a shard a day."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlplatform.learning.features.dataset import DAY_MS
from mlplatform.model.routes import Arm
from mlplatform.operations.actions import staging
from mlplatform.operations.compute.jobs import ITEMS, MAX_ITEMS, RESULT, Job, JobStatus
from mlplatform.operations.compute.running import run
from mlplatform.operations.compute.scoring import BUNDLE, ID, ORDER, SCORES, Order
from mlplatform.runtime.canonical import canonical_json, digest
from mlplatform.runtime.errors import InputInvalid, NotFound
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.runtime.text import markdown

if TYPE_CHECKING:
    import pyarrow as pa

    from mlplatform.model.bundle import Bundle
    from mlplatform.operations.wiring import Platform

MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Batch:
    """What is scored: requests with event time in [from_ms, to_ms), which are UTC midnights.

    Args:
        name: of the job, and of the folder of results; asking twice under one name is one batch.
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
    """The batch of a version, the champion where none is named.

    Raises:
        NotFound: there is no such version, or no champion yet.
        InputInvalid: no whole days, or too many.
    """
    days = (to_ms - from_ms) // DAY_MS
    if from_ms % DAY_MS or to_ms % DAY_MS or not 0 < days <= MAX_ITEMS:
        problem = f"from {from_ms} to {to_ms} are not 1 to {MAX_ITEMS} whole days (UTC)"
        raise InputInvalid("batch", None, problem)
    if version is not None:
        found = platform.registry.get(model, version)
        return Batch(name, model, found.version, found.digest, from_ms, to_ms, deadline_s)
    champion = platform.rollouts.routes(model).champion
    if champion is None:
        raise NotFound(f"{model} has no champion yet: name a version")
    return Batch(name, model, champion.version, champion.bundle, from_ms, to_ms, deadline_s)


def prepare(platform: Platform, asked: Batch) -> Job:
    """The job of a batch, its inputs written: `shared/` with the bundle, `items/` with the days.

    What an earlier attempt under the same name wrote is taken as it is: a job may be reading it.

    Raises:
        InputInvalid: there is no request on these days, or the bundle has an input that no view of
            the model's folder computes any more.
    """

    def write(shared: Path, items: Path) -> None:
        _write_bundle(platform, asked, shared)
        _write_shards(platform, asked, shared, items)

    folder = staging.inputs(platform.settings.home.staging, asked.name, write)
    items = tuple(sorted(path.name for path in (folder / ITEMS).iterdir()))
    return Job(asked.name, "score", asked.model, folder, items, asked.deadline_s)


def score(platform: Platform, asked: Batch, job: Job, report: Callable[[JobStatus], None]) -> Path:
    """Run the job and keep its results; returns their folder.

    There is one Parquet file a day (`operations.compute.scoring.RESULTS`) and, written last,
    `manifest.json`: the version, its bundle's digest, and rows, decisions and SHA-256 of each file.

    Raises:
        JobFailed, Refused, Unavailable: as `operations.compute.running.run`.
    """
    target = platform.settings.home.batches / asked.model / asked.name
    if not (target / MANIFEST).exists():
        told = replace(job, traceparent=platform.traceparent())
        _keep(run(platform.jobs, told, report), job, asked, target, platform.clock.wall_ms())
    shutil.rmtree(_inputs(platform, asked), ignore_errors=True)
    return target


def page(folder: Path) -> str:
    """A batch's manifest in Markdown."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
    files = manifest["files"]
    rows = [
        "| {} | {} | {} | {} |".format(
            markdown(name.removesuffix(".parquet")),
            file["rows"],
            file["decisions"]["review"],
            file["decisions"]["decline"],
        )
        for name, file in sorted(files.items())
    ]
    head = (
        f"Version {manifest['version']} of {markdown(manifest['model'])} over {len(files)} days, "
        f"{sum(file['rows'] for file in files.values())} requests; "
        f"results in {markdown(str(folder))}.\n"
    )
    return "\n".join([head, "| day | requests | review | decline |", "|---|---|---|---|", *rows])


def _inputs(platform: Platform, asked: Batch) -> Path:
    return platform.settings.home.staging / asked.name


def _write_bundle(platform: Platform, asked: Batch, shared: Path) -> None:
    arm = Arm(asked.version, asked.bundle, asked.bundle)
    shutil.copytree(platform.bundle(asked.model, arm), shared / BUNDLE)
    order = Order(version=asked.version, bundle=asked.bundle)
    write_atomically(shared / ORDER, msgspec.json.encode(order))


def _write_shards(platform: Platform, asked: Batch, shared: Path, items: Path) -> None:
    import pyarrow.parquet as pq

    from mlplatform.model.bundle import load_bundle

    bundle = load_bundle(shared / BUNDLE, asked.bundle)
    platform.offline(asked.model).project(platform.log)
    written = 0
    for day_ms in range(asked.from_ms, asked.to_ms, DAY_MS):
        table = _day(platform, asked.model, bundle, day_ms)
        if table.num_rows:
            day = time.strftime("%Y-%m-%d", time.gmtime(day_ms // 1000))
            pq.write_table(table, items / f"{day}.parquet")
            written += table.num_rows
    if not written:
        raise InputInvalid(f"offline/{asked.model}", None, "no request on these days")


def _day(platform: Platform, model: str, bundle: Bundle, day_ms: int) -> pa.Table:
    """The ids and the bundle's inputs of the requests of a day, in order of time."""
    import pyarrow as pa

    from mlplatform.learning.features.dataset import input_plan
    from mlplatform.learning.features.join import training_join

    offline, views = platform.offline(model), platform.views(model)
    asked = offline.requests(day_ms, day_ms + DAY_MS).order("event_time, request_id")
    joined = training_join(offline, views, asked.to_arrow_table())
    plan = input_plan(platform.definition(model), views, also=bundle.inputs)
    if lacking := sorted(set(bundle.input_names) - set(plan.names)):
        problem = f"nothing computes {', '.join(lacking)} any more"
        raise InputInvalid(f"offline/{model}", None, problem)
    x = plan.matrix(joined)
    ids = joined.column(ID).cast(pa.string()).combine_chunks()
    columns = [pa.array(x[:, plan.names.index(name)]) for name in bundle.input_names]
    return pa.Table.from_arrays([ids, *columns], names=[ID, *bundle.input_names])


def _keep(outputs: Path, job: Job, asked: Batch, target: Path, wall_ms: int) -> None:
    """Take the results over, the manifest last: a batch is there when its manifest is."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    files: dict[str, Any] = {}
    for item in job.items:
        content = (outputs / item / SCORES).read_bytes()
        result = msgspec.json.decode((outputs / item / RESULT).read_bytes(), type=dict[str, Any])
        if digest(content) != result["sha256"]:
            raise InputInvalid(f"{job.name}/{item}", None, "it is not what its digest says")
        write_atomically(target / item, content)
        files[item] = result
    manifest = {
        "job": asked.name,
        "model": asked.model,
        "version": asked.version,
        "bundle": asked.bundle,
        "from_ms": asked.from_ms,
        "to_ms": asked.to_ms,
        "scored_ms": wall_ms,
        "files": files,
    }
    write_atomically(target / MANIFEST, canonical_json(manifest))
