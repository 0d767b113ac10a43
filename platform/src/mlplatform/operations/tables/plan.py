"""The plan of a table batch: what is done and what remains, as pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from mlplatform.runtime.canonical import digest

FORMAT: Final = "table-batch/1"
PARTITION_ROWS: Final = 250_000
LEAST_ROWS, MOST_ROWS = 1_000, 2_000_000
SHOWN_ERRORS: Final = 20
"""Most wrong rows that a partition names. All wrong rows are counted, and each has its error in its
output row."""


class _StoredPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A stored part of a plan; unknown and missing keys are errors."""


class InputFile(_StoredPart, frozen=True):
    """One file of the input.

    Args:
        name: path below the input's folder or prefix; for a table, its name.
        identity: a text that changes with the content: `sha256:…`, or `etag:…` for an object.
    """

    name: str
    identity: str
    size_bytes: Annotated[int, Meta(ge=0)]


class Plan(_StoredPart, frozen=True):
    """The input, model and options of a batch; written into the output before anything else.

    Args:
        rules: digest of what the model's folder declares about requests, features and the safe
            outcome; empty in a plan of an earlier release.
        columns: request_id, event_time and request fields → the input's columns, as the user named
            them.
        as_of_ms: latest event time that a row may have, and the event time of all rows if the input
            has no such column.
        partition_rows: largest number of rows in a partition, which is a range of rows of one file.
    """

    format: Literal["table-batch/1"]
    model: str
    version: int
    bundle: str
    files: tuple[InputFile, ...]
    columns: dict[str, str]
    as_of_ms: int
    partition_rows: Annotated[int, Meta(ge=LEAST_ROWS, le=MOST_ROWS)]
    rules: str = ""


class RowError(_StoredPart, frozen=True):
    """A row of an input file, counted from 0, that could not be scored, and the reason."""

    row: int
    problem: str


class Partition(_StoredPart, frozen=True):
    """A finished partition: its place in the input, and its results.

    Args:
        file: position of its file in the plan.
        number: number of the partition within the file, from 0.
        is_last: whether it is the last of its file.
        errors: number of rows without a decision; `first_errors` lists the first of them.
        without_features: view → number of rows without a valid row of that view.
    """

    file: int
    number: int
    rows: int
    is_last: bool
    sha256: str
    size_bytes: int
    decisions: dict[str, int]
    answered_by: dict[str, int]
    errors: int
    first_errors: tuple[RowError, ...] = ()
    without_features: dict[str, int] = {}

    @property
    def name(self) -> str:
        return partition_name(self.file, self.number)


class Totals(_StoredPart, frozen=True):
    """Results of all partitions together; `digest` covers the names and digests of the output
    files."""

    rows: int
    decisions: dict[str, int]
    answered_by: dict[str, int]
    errors: int
    first_errors: tuple[tuple[str, int, str], ...]
    without_features: dict[str, int]
    digest: str


DonePartitions = Mapping[tuple[int, int], Partition]
"""File and number of a finished partition → the partition."""


def partition_name(file: int, number: int) -> str:
    return f"part-{file:05d}-{number:05d}.parquet"


def first_unfinished(done: DonePartitions, file: int) -> int | None:
    """The number of a file's first unfinished partition; None if all are finished."""
    number = 0
    while (found := done.get((file, number))) is not None:
        if found.is_last:
            return None
        number += 1
    return number


def is_complete(plan: Plan, done: DonePartitions) -> bool:
    return all(first_unfinished(done, file) is None for file in range(len(plan.files)))


def difference(there: Plan, plan: Plan) -> str | None:
    """The first difference between an output's plan and the requested one; None if they are the
    same work.

    Rows without a time have the time of the first run.
    """
    if there.model != plan.model:
        return f"model {there.model}, not {plan.model}"
    if (there.version, there.bundle) != (plan.version, plan.bundle):
        return f"version {there.version} ({there.bundle[:8]}), not {plan.version}"
    if not there.rules:
        return "an earlier release, which did not keep what model.yaml said"
    if there.rules != plan.rules:
        return "model.yaml, features.json and what sources.py makes of tables as they were then"
    if there.partition_rows != plan.partition_rows:
        return f"partitions of {there.partition_rows} rows, not {plan.partition_rows}"
    if there.columns != plan.columns:
        return f"columns {_pairs(there.columns)}, not {_pairs(plan.columns)}"
    return _other_files(there.files, plan.files)


def _other_files(there: Sequence[InputFile], files: Sequence[InputFile]) -> str | None:
    before, now = ({file.name: file for file in each} for each in (there, files))
    if gone := sorted(before.keys() - now.keys()):
        return f"an input with {gone[0]}, which is not in it any more"
    if new := sorted(now.keys() - before.keys()):
        return f"an input without {new[0]}"
    changed = [name for name, file in before.items() if file.identity != now[name].identity]
    return f"{changed[0]} with other content than it has now" if changed else None


def _pairs(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={column}" for name, column in sorted(columns.items())) or "as named"


def totals(plan: Plan, partitions: Iterable[Partition]) -> Totals:
    """Totals of all partitions, in the input's order."""
    ordered = sorted(partitions, key=lambda one: (one.file, one.number))
    decisions, answered_by, without = Counter[str](), Counter[str](), Counter[str]()
    errors: list[tuple[str, int, str]] = []
    for one in ordered:
        decisions.update(one.decisions)
        answered_by.update(one.answered_by)
        without.update(one.without_features)
        name = plan.files[one.file].name
        errors += [(name, error.row, error.problem) for error in one.first_errors]
    return Totals(
        rows=sum(one.rows for one in ordered),
        decisions=dict(decisions),
        answered_by=dict(answered_by),
        errors=sum(one.errors for one in ordered),
        first_errors=tuple(errors[:SHOWN_ERRORS]),
        without_features=dict(without),
        digest=digest([[one.name, one.sha256] for one in ordered]),
    )


def manifest(
    plan: Plan, partitions: Sequence[Partition], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest of a finished output: plan, totals, and each partition's input file."""
    ordered = sorted(partitions, key=lambda one: (one.file, one.number))
    return {
        "plan": msgspec.to_builtins(plan),
        **facts,
        "output": msgspec.to_builtins(totals(plan, ordered)),
        "partitions": {
            one.name: {
                "input": plan.files[one.file].name,
                "rows": one.rows,
                "sha256": one.sha256,
                "errors": one.errors,
            }
            for one in ordered
        },
    }
