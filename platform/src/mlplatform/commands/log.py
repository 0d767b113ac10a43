"""Commands on the decision log: check it, show a decision, explain it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from mlplatform.commands.decisions.erasure import erase
from mlplatform.commands.decisions.opened_log import errors_as_exit_codes, open_log
from mlplatform.commands.decisions.retention import retention
from mlplatform.commands.terminal.exit_codes import FAILED
from mlplatform.commands.terminal.explanations import (
    explain_again,
    order_again,
    print_explanations,
    print_order,
)
from mlplatform.commands.terminal.gateway import gateway
from mlplatform.commands.terminal.output import (
    OUT,
    AsJson,
    print_fields,
    print_heading,
    print_json,
    print_line,
    progress,
)
from mlplatform.decisions.log.lookup import (
    all_records,
    decisions_beside,
    erased_by,
    logged_records,
)
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import ManifestHead, VerifyReport, Watermark
from mlplatform.decisions.records.rankings import place_of
from mlplatform.decisions.records.record import trace_of
from mlplatform.decisions.spill.backlog import SpillBacklog
from mlplatform.operations import wiring
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import Corrupt, NotFound

if TYPE_CHECKING:  # imports ONNX Runtime
    from mlplatform.scoring.rankings.again import RankingAgain


@dataclass(frozen=True, slots=True)
class JournalAnchor:
    """Facts about the log that are held outside of it.

    Args:
        anchor: head of the log, as the rollout journal holds it; None if no pass has anchored it
            yet.
        findings: problems of the rollout journal itself, one sentence each.
    """

    anchor: ManifestHead | None = None
    findings: tuple[str, ...] = ()


OnlyNew = Annotated[
    bool,
    typer.Option(
        "--new",
        help="Skip segments that the last check found whole. Only a check without --new finds"
        " bytes that have changed in them since.",
    ),
]
Cores = Annotated[int, typer.Option(min=1, max=64, help="Processes that check segments.")]
JournalOf = Callable[[Settings], JournalAnchor | None]
MISSING = (
    "the rollout journal is missing: it anchors the log's head, and without it nobody can tell "
    "whether records at the log's end are missing too"
)

_ID: Final = "0198c2f0a4b7d1e2f3a4b5c6d7e8f90211a2b3c4d5"
"""An example."""
_EXAMPLES = f"""Examples: mlplatform log status; mlplatform log verify;
mlplatform log show {_ID} --json; mlplatform log explain {_ID}.

Exit codes: 0 all well, 1 something is wrong with the log, 2 no such log, decision or bundle."""


def no_journal(_: Settings) -> JournalAnchor:
    """No facts from outside: the log is checked only against itself."""
    return JournalAnchor()


def commands(journal_of: JournalOf = no_journal) -> typer.Typer:
    """The commands of `mlplatform log`.

    Args:
        journal_of: finds what the rollout journal holds about the log; it returns None if the
            journal is missing.
    """
    app = typer.Typer(name="log", help=__doc__, epilog=_EXAMPLES, no_args_is_help=True)

    @app.command(epilog="Example: mlplatform log verify --json")
    def verify(new: OnlyNew = False, cores: Cores = 1, json: AsJson = False) -> None:
        """Check every record, chain and segment, and the journal that anchors them.

        If something is wrong, the command names it and exits with 1.
        """
        settings = wiring.settings()
        what = "what is new" if new else "every record, chain and segment"
        with errors_as_exit_codes(), progress(f"checking {what}"):
            report = _verify(settings, journal_of(settings), new_only=new, cores=cores)
        _print_report(report, as_json=json, new_only=new)
        raise typer.Exit(0 if report.ok else FAILED)

    app.command(epilog="Example: mlplatform log status --json")(status)
    app.command(epilog=f"Example: mlplatform log show {_ID} --json")(show)
    app.command(epilog=f"Example: mlplatform log explain {_ID}")(explain)
    app.command(epilog=f"Example: mlplatform log void {_ID} --reason 'sent twice by the till'")(
        void
    )
    app.command(
        epilog=f"Example: mlplatform log erase --decision {_ID} --model fraud"
        " --reason 'request 4711 of the customer' --actor 'Ann Lee'"
    )(erase)
    app.command(epilog="Example: mlplatform log retention --model fraud --dry-run")(retention)
    app.command("give-up", epilog="Example: mlplatform log give-up gateway-more-2")(give_up)
    return app


def status(json: AsJson = False) -> None:
    """Show how far each writer has come, and what is spilled and not in the log yet."""
    with errors_as_exit_codes(), closing(open_log(wiring.settings())) as log:
        spilled = {one.writer: one for one in log.backlogs()}
        marks = log.watermarks()
    if json:
        print_json(
            {
                "writers": [asdict(mark) for mark in marks],
                "spilled": [asdict(one) for one in spilled.values()],
            }
        )
    else:
        _print_status(marks, spilled)


def show(
    decision_id: Annotated[str, typer.Argument(help="The decision's id, as the answer has it.")],
    json: AsJson = False,
) -> None:
    """Print every record of a decision: the decision, its shadow, its labels.

    Records that are spilled, and not in the log yet, have no number.
    """
    with errors_as_exit_codes(), closing(open_log(wiring.settings())) as log:
        records = [_traced(record) for record in all_records(log, decision_id)]
        gone = erased_by(log, records)
    if json:
        print_json(records)
    else:
        _print_records(records)
        if gone is not None:
            print_line(f"The payload {gone}.")


def explain(
    decision_id: Annotated[str, typer.Argument(help="The decision's id, as the answer has it.")],
    json: AsJson = False,
) -> None:
    """Decide again from the record and its bundle, and explain the decision.

    Exit code 1: the decision is not the same, or of a request with items their order. Reasons are
    the inputs that raised the score most, by the method that the bundle carries. If no model gave
    the answer, they are the rules that decided.
    """
    settings = wiring.settings()
    with errors_as_exit_codes(), closing(open_log(settings)) as log:
        records = logged_records(log, decision_id)
        if acts := erased_by(log, records):
            raise NotFound(f"the payload of decision {decision_id} {acts}")
        wiring.existing_platform().bundles.fetch({r["bundle"] for r in records} - {None})
        explanations = explain_again(records, settings.home.bundles)
        order = _order_again(log, records, settings.home.bundles)
    equal = not any(e.differences for e in explanations) and not (order and order.differences)
    trace_id = _traced(records[0])["trace_id"]
    if json:
        explained = msgspec.to_builtins(explanations)
        ranking = {} if order is None else {"ranking": msgspec.to_builtins(order)}
        found = {"equal": equal, "explanations": explained, **ranking, "trace_id": trace_id}
        print_json(found)
    else:
        print_explanations(explanations)
        if order is not None:
            print_order(order)
        print_line(f"trace and log lines: mlplatform trace {trace_id}")
    raise typer.Exit(0 if equal else FAILED)


def _order_again(
    log: SqliteDecisionLog, records: Sequence[Mapping[str, Any]], bundles: Path
) -> RankingAgain | None:
    """The order that a decision is part of, computed again; None for a request without items."""
    decision = next((one for one in records if one["kind"] == "decision"), None)
    place = None if decision is None else place_of(decision["payload"])
    if decision is None or place is None:
        return None
    return order_again(place.id, decisions_beside(log, decision), bundles)


def void(
    decision_id: Annotated[str, typer.Argument(help="The decision's id, as the answer has it.")],
    reason: Annotated[str, typer.Option(help="Why it is taken back; kept in the log.")],
    json: AsJson = False,
) -> None:
    """Take a decision back: its record stays, but features, training and statistics skip it."""
    settings = wiring.settings()
    with errors_as_exit_codes():
        with closing(open_log(settings)) as log:
            model = logged_records(log, decision_id)[0]["model"]
        answer = _void(settings, model, decision_id, reason)
    if json:
        print_json(answer)
    else:
        print_fields(answer)


def give_up(
    writer: Annotated[
        str, typer.Argument(help="The gateway's name, as `mlplatform log status` shows it.")
    ],
) -> None:
    """Stop waiting for a gateway whose volume is lost; what was not replicated is given up.

    Verdicts are then given without those records. If the gateway reports again, verdicts wait for
    it again.
    """
    settings = wiring.settings()
    with errors_as_exit_codes():
        open_log(settings).close()
        with closing(wiring.replica_log(settings.home)) as log:
            log.give_up(writer)
    print_line(f"verdicts do not wait for {writer} any more")


def _void(settings: Settings, model: str, decision_id: str, reason: str) -> dict[str, Any]:
    """The gateway's answer: it alone writes decisions, and so what takes them back."""
    with gateway(settings) as client:
        receipt: dict[str, Any] = msgspec.to_builtins(client.void(model, decision_id, reason))
    return receipt


def _verify(
    settings: Settings, journal: JournalAnchor | None, *, new_only: bool, cores: int
) -> VerifyReport:
    anchor = None if journal is None else journal.anchor
    try:
        with closing(open_log(settings)) as log:
            report = log.check(anchor, new_only=new_only, cores=cores)
    except Corrupt as error:
        finding = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        return VerifyReport(records=0, segments=0, writers=0, findings=(finding,))
    if journal is not None:
        return replace(report, findings=report.findings + journal.findings)
    return replace(report, findings=(*report.findings, MISSING)) if report.records else report


def _traced(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "trace_id": trace_of(record)}


def _print_status(marks: list[Watermark], spilled: Mapping[str, SpillBacklog]) -> None:
    for mark in marks:
        state = "live" if mark.live else "not live"
        reached = "no event time" if mark.event_ms is None else f"event time {mark.event_ms}"
        line = f"{mark.writer}: {mark.seq} records, {reached}, {state}"
        if mark.writer in spilled:
            one = spilled[mark.writer]
            line += f"; {one.records} records ({one.bytes} bytes) are spilled, not in the log yet"
        print_line(line)


def _print_report(report: VerifyReport, *, as_json: bool, new_only: bool) -> None:
    if as_json:
        print_json({**asdict(report), "ok": report.ok})
        return
    for finding in report.findings:
        print_line(finding)
    erased = f", erased payloads {report.erased}" if report.erased else ""
    verdict = "whole" if report.ok else "NOT whole"
    what = "What is new in the log" if new_only else "The log"
    OUT.print(
        f"{what} is {verdict}: records {report.records}, writers {report.writers},"
        f" segments {report.segments}{erased}, findings {len(report.findings)}.",
        soft_wrap=True,
    )
    if report.spilled:
        OUT.print(
            f"{report.spilled} more records are spilled: whole, and not in the log yet.",
            soft_wrap=True,
        )


def _print_records(records: list[dict[str, Any]]) -> None:
    for trace_id in dict.fromkeys(record["trace_id"] for record in records):
        print_line(f"trace and log lines: mlplatform trace {trace_id}")
    for record in records:
        print_heading(record["kind"])
        print_fields({k: v for k, v in record.items() if v is not None and k != "payload"})
        OUT.print_json(data=record["payload"], ensure_ascii=True)


app = commands()
