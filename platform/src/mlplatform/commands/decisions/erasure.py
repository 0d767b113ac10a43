"""`mlplatform log erase`: erases what log, features and topics hold of a customer, by law."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import msgspec
import typer

from mlplatform.commands.decisions.opened_log import errors_as_exit_codes, open_log
from mlplatform.commands.terminal.arguments import Actor, LoggedReason, OfModel
from mlplatform.commands.terminal.exit_codes import FAILED
from mlplatform.commands.terminal.output import (
    AsJson,
    print_fields,
    print_json,
    print_line,
    print_table,
    progress,
)
from mlplatform.decisions.log.erasure_acts import (
    ErasureRequest,
    ErasureResult,
    Preview,
    preview,
    record_rows,
)
from mlplatform.decisions.log.erasure_acts import erase as erased_act
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.spill.backlog import damaged_spills
from mlplatform.operations import wiring
from mlplatform.operations.erasure.feature_rows import (
    FoundViews,
    PlaceCount,
    count_rows,
    entities_named,
    entities_of_unit,
    erase_feature_rows,
    not_reached,
    views_of,
)
from mlplatform.operations.review.queue_file import file_of as queue_file
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import NotFound

WANTED = "wanted: --decision, --unit or --entity, one of the three"


@dataclass(frozen=True, slots=True)
class Act:
    """The objects of an erasure.

    Args:
        logged: erasures in the log: one, or one for each model when an entity is named.
        views: external views that may have rows of the entity; empty when a decision is erased.
        unit: keyed hash of the customer, or of another entity, whose rows are erased; None when a
            decision is erased.
    """

    logged: Sequence[ErasureRequest]
    views: FoundViews
    unit: int | None


def erase(
    reason: LoggedReason,
    actor: Actor,
    decision: Annotated[str | None, typer.Option(help="Every record of this decision.")] = None,
    unit: Annotated[
        int | None,
        typer.Option(
            help="Every decision about this customer, and their rows of features. `mlplatform log"
            " show` shows the value as `unit`."
        ),
    ] = None,
    entity: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=KEY",
            help="What --unit erases, by the key in requests, such as customer=4711. It works for a"
            " key that is not a unit, and for one without decisions.",
        ),
    ] = None,
    model: OfModel = None,
    dry_run: Annotated[
        bool,
        typer.Option(help="Show how much would be erased, and of which models; erase nothing."),
    ] = False,
    json: AsJson = False,
) -> None:
    """Erase what is kept of a customer, as the law asks: inputs, features and reasons, and rows.

    The inputs, features and reasons are those of the log. The rows are those of external views:
    pushed, streamed or imported, in journal, table, online store and embedded topics. A record says
    who did it and why; name nobody in the reason. Scores, decisions, labels, pseudonyms and digests
    stay, so that the log can still be verified. The command lists copies elsewhere, with what to do
    about them. It writes databases anew: meanwhile gateways spill what they record, and pushes
    wait. If it is killed, run it again. Only a backup, or the source of the data, can bring back
    what was erased.
    """
    settings = wiring.settings()
    if sum(one is not None for one in (decision, unit, entity)) != 1:
        raise typer.BadParameter(WANTED)
    request = ErasureRequest(secrets.token_hex(8), actor, reason, decision, unit, model)
    with errors_as_exit_codes(), closing(open_log(settings)) as log:
        platform = wiring.Platform(settings)
        act = _act(platform, request, entity)
        if dry_run:
            _print_preview(platform, log, act, as_json=json)
            return
        rows = _rows_erased(platform, log, request, act)
        with progress("erasing payloads"):
            now_ms = SystemClock().wall_ms()
            done = _summed(
                request.act,
                [
                    erased_act(log, settings.home.decisions, one, now_ms=now_ms)
                    for one in act.logged
                ],
            )
        if entity is None:
            _check_any(done, rows, request)
        remaining = _remaining(settings, log, done) + not_reached(platform, act.views)
        if decision is not None:
            remaining.append("rows of features: erase by --unit or --entity")
    if json:
        features = msgspec.to_builtins(rows)
        print_json({**asdict(done), "features": features, "remaining": remaining})
    else:
        _print_erased(done, rows, remaining)
    is_whole = done.is_done and not done.spilled and not act.views.unread
    raise typer.Exit(0 if is_whole else FAILED)


def _act(platform: wiring.Platform, request: ErasureRequest, entity: str | None) -> Act:
    if request.decision_id is not None:
        return Act([request], FoundViews((), ()), None)
    if entity is None:
        assert request.unit is not None
        found = entities_of_unit(platform, request.unit, request.model)
        return Act([request], views_of(platform, found), request.unit)
    found = entities_named(platform, entity, request.model)
    logged = [
        replace(request, unit=one.unit, model=one.model)
        for one in found.entities
        if platform.definition(one.model).assignment_unit == one.field
    ]
    return Act(logged, views_of(platform, found), found.entities[0].unit)


def _rows_erased(
    platform: wiring.Platform, log: SqliteDecisionLog, request: ErasureRequest, act: Act
) -> list[PlaceCount]:
    """Record which rows of features will be erased, then erase them; returns their counts by
    place."""
    if act.unit is None or not act.views.views:
        return []
    with progress("looking for rows of features"):
        there = {(one.model, one.view) for one in count_rows(platform, act.views) if one.rows}
    folder, unit = platform.settings.home.decisions, act.unit

    def record(views: Mapping[str, Sequence[str]]) -> None:
        now_ms = SystemClock().wall_ms()
        record_rows(log, folder, request, views, unit=unit, now_ms=now_ms)

    if there:
        record(
            {
                model: found
                for model, names in act.views.by_model.items()
                if (found := [name for name in names if (model, name) in there])
            }
        )
    with progress("erasing rows of features"):
        return erase_feature_rows(
            platform, act.views, there, lambda model, view: record({model: [view]})
        )


def _summed(act: str, done: Sequence[ErasureResult]) -> ErasureResult:
    return ErasureResult(
        act,
        sum(one.decisions for one in done),
        sum(one.records for one in done),
        tuple(sorted({model for one in done for model in one.models})),
        sum(one.known for one in done),
        sum(one.spilled for one in done),
        all(one.is_done for one in done),
        any(one.is_replicated for one in done),
    )


def _check_any(
    found: ErasureResult | Preview, rows: Sequence[PlaceCount], request: ErasureRequest
) -> None:
    if found.records or found.spilled or found.known or any(one.rows for one in rows):
        return
    what = f"unit {request.unit}" if request.unit is not None else f"decision {request.decision_id}"
    raise NotFound(f"the decision log has no record of {what}")


def _print_preview(
    platform: wiring.Platform, log: SqliteDecisionLog, act: Act, *, as_json: bool
) -> None:
    with progress("looking for payloads and rows"):
        found = [preview(log, platform.settings.home.decisions, one) for one in act.logged]
        rows = count_rows(platform, act.views)
        if len(found) == 1:
            _check_any(found[0], rows, act.logged[0])
    total = Preview(
        sum(one.decisions for one in found),
        sum(one.records for one in found),
        tuple(sorted({model for one in found for model in one.models})),
        sum(one.known for one in found),
        sum(one.spilled for one in found),
    )
    if as_json:
        print_json({**asdict(total), "features": msgspec.to_builtins(rows)})
        return
    print_fields(
        {
            "it would erase": f"{total.records} payloads of {total.decisions} decisions",
            "of": ", ".join(total.models) or None,
            "erased before": total.known or None,
            "not in the log yet": total.spilled or None,
        }
    )
    _print_rows(rows)
    print_line("Nothing was erased.")


def _remaining(settings: Settings, log: SqliteDecisionLog, done: ErasureResult) -> list[str]:
    """Sentences on copies that the erasure has not reached."""
    home, found = settings.home, []
    if not done.is_done:
        found.append(
            "the log: a reader holds it, or a file is damaged; the next seal erases the rest"
        )
    if done.spilled:
        found.append(f"spill: {done.spilled} records; once they are in the log, erase again")
    if damaged_spills(log.spills):
        found.append(f"damaged spills in {log.spills}: look at them, and remove them")
    for model in done.models:
        if home.offline(model).is_dir():
            found.append(f"{home.offline(model)}: requests and snapshots that training reads")
        if (waiting := queue_file(home.counted, model)).is_file():
            found.append(
                f"{waiting}: what analysts see of a decision, until the next pass over the queue"
            )
    found.append("topics of requests, decisions and logs: at most 7 days")
    if done.is_replicated:
        found.append("volumes of gateways: until a day after their records came here")
    if settings.key_claims != "own":
        found.append("keys that gateways share on Redis: their answers, until the keys end")
    found.append("real-time windows: sums of the customer, until a week after they end")
    found.append("online store: the customer's features of their last snapshot")
    found.append("inputs of batches and fits, as long as their jobs' folders or bucket have them")
    found.append("backups, registered bundles and training sets that were made before")
    return found


def _print_erased(done: ErasureResult, rows: Sequence[PlaceCount], remaining: list[str]) -> None:
    has_acted = done.records or any(one.rows for one in rows)
    print_fields(
        {
            "act": done.act if has_acted else None,
            "payloads erased": f"{done.records} of {done.decisions} decisions",
            "erased before": done.known or None,
        }
    )
    _print_rows(rows)
    print_line("Copies that this act did not reach:")
    for one in remaining:
        print_line(f"- {one}")


def _print_rows(rows: Sequence[PlaceCount]) -> None:
    cells: list[tuple[Any, ...]] = [(r.model, r.view, r.place, str(r.rows)) for r in rows]
    if cells:
        print_table(("model", "view", "rows of features in", "rows"), cells)
