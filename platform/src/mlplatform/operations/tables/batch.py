"""Scoring of a table with one of the platform's versions, for the command and the flow."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mlplatform.model.bundle import load_bundle
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import FeatureView
from mlplatform.model.routes import Arm
from mlplatform.model.windows.declaration import as_written
from mlplatform.operations.tables import locations, outputs, sources
from mlplatform.operations.tables.conversion import Conversion, conversion_of
from mlplatform.operations.tables.locations import Input, ObjectPrefix, Output
from mlplatform.operations.tables.outputs import MANIFEST, Results
from mlplatform.operations.tables.partitions import (
    Report,
    Work,
    agreed,
    carry_out,
    finish,
    finished_partitions,
    stored_plan,
)
from mlplatform.operations.tables.plan import (
    FORMAT,
    LEAST_ROWS,
    MOST_ROWS,
    PARTITION_ROWS,
    Plan,
    is_complete,
    manifest,
)
from mlplatform.operations.tables.row_decisions import RowDecisions
from mlplatform.operations.tables.row_features import RowFeatures
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.errors import ConfigInvalid, NotFound
from mlplatform.runtime.storage.plain_files import Rule
from mlplatform.runtime.text import markdown


@dataclass(frozen=True, slots=True)
class TableBatch:
    """A request for a table batch.

    Args:
        input: a file, a folder, `s3://bucket/prefix` or `postgresql://…?table=NAME`.
        output: a folder or `s3://bucket/prefix`; with the same output, an unfinished batch is
            continued.
        version: number of the version; None means the champion, or the version of an unfinished
            batch.
        columns: request_id, event_time or a request field → the input's column, where the names
            differ.
    """

    model: str
    input: str
    output: str
    version: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    partition_rows: int = PARTITION_ROWS


def score_table(platform: Platform, batch: TableBatch, report: Report) -> dict[str, Any]:
    """Score every row of the input once; returns the manifest, which is the output's last file.

    An output that is finished is left as it is.

    Args:
        report: called with each finished partition; partitions of earlier runs come first.

    Raises:
        ConfigInvalid: an argument has no valid value.
        NotFound: there is no such model, version, champion, file or table.
        InputInvalid: the input is not a table of requests; the message names the file and the row.
        Refused: the output belongs to other work, or the input was changed meanwhile.
        Busy: another batch writes there now.
        Unavailable: a server does not answer. Finished partitions stay, whatever error is raised.
    """
    if not LEAST_ROWS <= batch.partition_rows <= MOST_ROWS:
        wanted = f"{LEAST_ROWS} to {MOST_ROWS}"
        raise ConfigInvalid("--partition-rows", batch.partition_rows, wanted)
    definition = platform.definition(batch.model)
    place, target = locations.input_of(batch.input), locations.output_of(batch.output)
    _refuse_own(platform, batch, place, target)
    staging = platform.settings.home.staging / f"table-{uuid.uuid4().hex}"
    with outputs.opened(target) as results:
        there = stored_plan(results, batch.output)
        arm = _arm(platform, batch, there)
        other = conversion_of(batch.model)
        with sources.opened(place, definition, batch.columns, staging, other) as source:
            plan = agreed(
                there,
                Plan(
                    format=FORMAT,
                    model=batch.model,
                    version=arm.version,
                    bundle=arm.bundle,
                    rules=_rules(definition, platform.views(batch.model), other),
                    files=source.files,
                    columns=dict(batch.columns),
                    as_of_ms=platform.clock.event_ms(),
                    partition_rows=batch.partition_rows,
                ),
                results,
                batch.output,
            )
            finished = _finished(results, plan)
            return finished or _scored(platform, plan, source, results, report, other)


def _rules(
    definition: ModelDefinition,
    views: Sequence[FeatureView],
    conversion: Conversion | None = None,
) -> str:
    """Digest of the parts of a model's folder, beside the bundle, on which a row's answer
    depends."""
    request = {
        name: {key: value for key, value in field.items() if value or key != "optional"}
        for name, field in msgspec.to_builtins(definition.request).items()
    }  # a batch of the release before goes on: its fields were not declared as optional
    read = request, definition.protected, as_written(definition.windows), views
    own = () if conversion is None else (conversion.digest,)
    return digest(msgspec.to_builtins([*read, definition.decision.safe, *own]))


def _refuse_own(platform: Platform, batch: TableBatch, place: Input, target: Output) -> None:
    """Raises if a place is inside the platform's home, or if the output is the input's folder or
    one in it."""
    home = platform.settings.home
    rule = Rule(most_bytes=0, closed=(home.root, home.bundles), but=(home.demo,))
    for key, text, one in (("--input", batch.input, place), ("--output", batch.output, target)):
        if isinstance(one, Path) and not rule.allows(one.resolve()):
            raise ConfigInvalid(key, text, f"a place outside of the platform's home, {home.root}")
    match place, target:
        case Path(), Path():
            # a folder in the input would be refused in it from then on
            read, written = place.resolve(), target.resolve()
            is_same = written == read.parent or written.is_relative_to(read)
        case ObjectPrefix(), ObjectPrefix():
            is_same = f"{target.uri}/".startswith(f"{place.uri}/")
        case _:
            is_same = False
    if is_same:
        raise ConfigInvalid("--output", batch.output, "a folder outside of the input's")


def _scored(
    platform: Platform,
    plan: Plan,
    source: sources.Source,
    results: Results,
    report: Report,
    conversion: Conversion | None,
) -> dict[str, Any]:
    definition = platform.definition(plan.model)
    folder = platform.bundle(plan.model, Arm(plan.version, plan.bundle, plan.bundle))
    bundle = load_bundle(folder, plan.bundle)
    if bundle.views:
        platform.project_offline(plan.model)
    work = Work(
        plan,
        definition,
        RowFeatures(definition, platform.views(plan.model), bundle, platform.offline(plan.model)),
        RowDecisions(
            bundle, folder, safe=definition.decision.safe, accelerator=definition.accelerator
        ),
        platform.pseudonym_key(),
        conversion,
    )
    partitions = carry_out(work, source, results, report)
    facts = {
        "scored_ms": platform.clock.wall_ms(),
        "alerts": bundle.scale.alerts,
        "reasons": {reason.code: reason.customer for reason in bundle.reasons.values()},
    }
    content = manifest(plan, partitions, facts)
    finish(results, content)
    return _decoded(results.read(MANIFEST))


def _finished(results: Results, plan: Plan) -> dict[str, Any] | None:
    """The manifest, if all partitions are still as they were written; else None."""
    if MANIFEST not in results.sizes() or not is_complete(plan, finished_partitions(results, plan)):
        return None
    return _decoded(results.read(MANIFEST))


def _decoded(content: bytes) -> dict[str, Any]:
    return msgspec.json.decode(content, type=dict[str, Any])


def _arm(platform: Platform, batch: TableBatch, there: Plan | None) -> Arm:
    """The version that was asked for, else that of the begun batch, else the champion."""
    if batch.version is not None:
        found = platform.registry.get(batch.model, batch.version)
        return Arm(found.version, found.digest, found.digest)
    if there is not None and there.model == batch.model:
        return Arm(there.version, there.bundle, there.bundle)
    champion = platform.rollouts.routes(batch.model).champion
    if champion is None:
        raise NotFound(
            f"{batch.model} has no champion yet: name a version that `mlplatform models list` shows"
        )
    return champion


def page(content: Mapping[str, Any], output: str) -> str:
    """A batch's manifest as Markdown."""
    plan, found = content["plan"], content["output"]
    head = (
        f"Version {plan['version']} of {markdown(plan['model'])} scored {found['rows']:,} rows "
        f"of {len(plan['files'])} files. The results are in {markdown(output)}, with digest "
        f"{found['digest']}.\n"
    )
    counts = {**found["decisions"], "error": found["errors"]}
    table = ["| decision | rows |", "|---|---|"]
    table += [f"| {markdown(name)} | {rows:,} |" for name, rows in counts.items()]
    lines = [head, *table, ""]
    for view, rows in found["without_features"].items():
        lines.append(f"Warning: {rows:,} rows had no valid features of {markdown(view)}.\n")
    others = {name: rows for name, rows in found["answered_by"].items() if name != "model"}
    for name, rows in others.items():
        lines.append(f"Warning: {rows:,} rows were decided by {markdown(name)}, not the model.\n")
    for file, row, problem in found["first_errors"]:
        lines.append(f"- {markdown(f'{file}, row {row}, counted from 0: {problem}')}")
    return "\n".join(lines)
