"""`mlplatform trace`: everything on this machine about a trace or a decision."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Annotated, Any

import msgspec
import typer

from mlplatform.commands.terminal.output import (
    AsJson,
    print_fields,
    print_heading,
    print_json,
    print_line,
    print_table,
)
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import COLUMNS
from mlplatform.operations import wiring
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import InputInvalid, NotFound
from mlplatform.runtime.telemetry import line_files, signals, span_files
from mlplatform.runtime.telemetry.span_files import StoredSpan
from mlplatform.scoring import wiring as scoring_wiring

_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{42}")
MOST_DECISIONS = 100
MOST_LINES = 200


class TraceReport(msgspec.Struct, frozen=True, kw_only=True):
    """Spans, log lines and records that mention the id, or an id found in those.

    Args:
        traces: ids of the traces, in the order of their first spans.
        decisions: short records of the decisions, from the log.
        spans: spans by start time, earliest first.
        lines: log lines by time, earliest first.
    """

    traces: tuple[str, ...]
    decisions: list[dict[str, Any]]
    spans: list[StoredSpan]
    lines: list[dict[str, Any]]


_SAMPLED = (
    "every request that failed, was slow or degraded is traced, and a share of the others"
    " (MLPLATFORM_TRACE_SHARE)"
)


def add_to(app: typer.Typer) -> None:
    app.command()(trace)


def trace(
    any_id: Annotated[str, typer.Argument(metavar="ID", help="The id of a trace or a decision.")],
    json: AsJson = False,
) -> None:
    """Show spans, log lines and records of a trace or a decision that are on this machine.

    If a collector gets the spans (MLPLATFORM_OTLP_ENDPOINT), look them up there by the trace's id.

    Example: mlplatform trace 0198c2f0a4b7d1e2f3a4b5c6d7e8f901
    """
    if not _ID.fullmatch(any_id):
        problem = "it is not an id; a trace's has 32 hexadecimal digits, a decision's has 42"
        raise InputInvalid(any_id[:64], None, problem)
    settings = wiring.existing_platform().settings
    found = look_up(settings, any_id)
    if not (found.spans or found.lines or found.decisions):
        raise NotFound(
            f"no span, line or record of this home has the id {any_id}: {_SAMPLED}; wanted: the id"
            " of a decision, a trace or a request"
        )
    if json:
        print_json(msgspec.to_builtins(found))
    else:
        _print(settings, found)


def look_up(settings: Settings, any_id: str) -> TraceReport:
    """Find everything about an id: its trace, the traces linked with it, and their decisions."""
    records = _records(settings, {any_id})
    named = {any_id, any_id[:32], *(r["trace_id"] for r in records)}
    spans = list(span_files.find(settings.home.traces, named))
    # these are the traces that the found spans link to; spans that link here are found above
    linked = {trace_id for span in spans for trace_id, _ in span.links} - named
    if linked:
        spans += span_files.find(settings.home.traces, linked)
    traces = dict.fromkeys([span.trace_id for span in spans])
    decided = {str(d) for s in spans if (d := s.attributes.get(signals.DECISION_ID.name))}
    records += _records(settings, decided - {any_id})
    runs = {str(run) for s in spans if (run := s.attributes.get(signals.RUN_ID.name))}
    ids = {any_id, *named, *traces, *runs, *(r["decision_id"] for r in records)}
    lines = sorted(line_files.find(settings.home.logs, ids), key=lambda line: line["time"])
    unique = {(span.trace_id, span.span_id): span for span in spans}
    return TraceReport(
        traces=tuple(traces) or tuple(sorted({r["trace_id"] for r in records})),
        decisions=records,
        spans=sorted(unique.values(), key=lambda span: (span.start_ns, -span.end_ns)),
        lines=lines[-MOST_LINES:],
    )


def _records(settings: Settings, decision_ids: Iterable[str]) -> list[dict[str, Any]]:
    """Short records of these decisions, found by their ids or those of their traces."""
    if not scoring_wiring.has_log(settings):
        return []
    found = []
    with closing(wiring.log_of(settings.home)) as log:
        for decision_id in sorted(decision_ids)[:MOST_DECISIONS]:
            table = log.read(RecordQuery(decision_id_starts=decision_id, columns=tuple(COLUMNS)))
            found += [_short(row) for row in table.to_pylist()]
    return found


_SHORT = (
    *("kind", "decision_id", "model", "version", "arm", "answered_by", "decision", "score"),
    *("degraded_reason", "rollout_id"),
)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    payload = msgspec.json.decode(row["payload"] or "{}")
    trace_id = payload.get("trace_id") or row["decision_id"][:32]
    return {**{name: row[name] for name in _SHORT}, "trace_id": trace_id}


def _print(settings: Settings, found: TraceReport) -> None:
    for record in found.decisions:
        print_heading(record["kind"])
        print_fields({name: value for name, value in record.items() if value is not None})
    if found.spans:
        rows = list(_tree(found.spans))
        print_table(("span", "process", "ms", "after ms", ""), rows, "spans", prose="")
    elif settings.otlp_endpoint:
        print_line(f"spans are sent to {settings.otlp_endpoint}")
    else:
        print_line(f"This request has no spans: {_SAMPLED}.")
    if found.lines:
        lines = [(r["time"], r["process"], r["level"], r["message"]) for r in found.lines]
        print_table(("time", "process", "level", "message"), lines, "log lines", prose="message")
    for hint in dict.fromkeys(_hints(found)):
        print_line(hint)


def _hints(found: TraceReport) -> Iterable[str]:
    for record in found.decisions:
        yield f"why: mlplatform log explain {record['decision_id']}"
        if record["rollout_id"]:
            yield f"evidence: mlplatform rollouts show {record['rollout_id']}"


def _tree(spans: Sequence[StoredSpan]) -> Iterable[tuple[str, str, str, str, str]]:
    """Yield a row for each span, indented below its parent; times count from the first span of its
    trace."""
    below: dict[tuple[str, str | None], list[StoredSpan]] = {}
    here = {(span.trace_id, span.span_id) for span in spans}
    first_ns: dict[str, int] = {}
    for span in spans:
        is_inner = (span.trace_id, span.parent_id) in here
        below.setdefault((span.trace_id, span.parent_id if is_inner else None), []).append(span)
        first_ns.setdefault(span.trace_id, span.start_ns)

    def rows(of: tuple[str, str | None], depth: int) -> Iterable[tuple[str, str, str, str, str]]:
        for span in below.get(of, ()):
            took_ms = (span.end_ns - span.start_ns) / 1e6
            after_ms = (span.start_ns - first_ns[span.trace_id]) / 1e6
            name = "  " * depth + span.name
            process = f"{span.service.removeprefix('mlplatform-')} {span.instance}"
            yield name, process, f"{took_ms:.2f}", f"{after_ms:.2f}", _details(span)
            yield from rows((span.trace_id, span.span_id), depth + 1)

    for trace_id in first_ns:
        yield f"trace {trace_id}", "", "", "", ""
        yield from rows((trace_id, None), 1)


def _details(span: StoredSpan) -> str:
    shown = {name.removeprefix("mlplatform."): value for name, value in span.attributes.items()}
    parts = [f"{name}={value}" for name, value in sorted(shown.items())]
    return " ".join(["ERROR", *parts] if span.is_error else parts)
