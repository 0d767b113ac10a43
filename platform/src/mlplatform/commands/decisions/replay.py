"""What another version would have decided about the last days' requests; verdicts, once more."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mlplatform.commands.terminal.arguments import Model, RolloutId
from mlplatform.commands.terminal.exit_codes import FAILED
from mlplatform.commands.terminal.output import (
    ERR,
    AsJson,
    print_fields,
    print_heading,
    print_json,
    print_line,
    print_table,
    progress,
)
from mlplatform.operations import wiring
from mlplatform.operations.actions import verdicts, whatif
from mlplatform.operations.actions.whatif import Reasons, Replay, Speed
from mlplatform.rollouts.passes.replay import ReplayedVerdict
from mlplatform.rollouts.verdicts.whatif import LabelCounts, Segment, Share
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.figures import percent, span

_FOLDER = typer.Option(exists=True, file_okay=False, help="A bundle's folder, from anywhere.")
_FROM = typer.Option(
    "--from", help="OUTCOME=SCORE: the score (0-1) at which it begins instead; may be repeated."
)
MOST_SEGMENTS = 12


def add_to(app: typer.Typer, rollouts: typer.Typer) -> None:
    app.command()(replay)
    rollouts.command("replay")(replay_verdicts)


def replay(
    model: Model,
    version: Annotated[int | None, typer.Option(help="A version of the registry.")] = None,
    bundle: Annotated[Path | None, _FOLDER] = None,
    against: Annotated[int | None, typer.Option(help="A version; default: the champion.")] = None,
    begins: Annotated[list[str] | None, _FROM] = None,
    days: Annotated[int, typer.Option(min=1, max=90, help="How far back, in event time.")] = 7,
    json: AsJson = False,
) -> None:
    """Decide the requests of the last days again, by two bundles, from the inputs in the log.

    Nothing is written. Without --version and --bundle it is the champion with other thresholds
    (--from review=0.12).

    Example: mlplatform replay fraud --version 7 --days 7
    """
    if version is not None and bundle is not None:
        raise ConfigInvalid("--bundle", str(bundle), "--version or --bundle, not both")
    scores = _scores(begins or ())
    if version is None and bundle is None and not scores:
        wanted = "--version, --bundle or --from: what to compare with"
        raise ConfigInvalid("replay", model, wanted)
    platform = wiring.platform()
    reference = whatif.side_of_version(platform, model, against)
    if bundle is not None:
        candidate = whatif.side_of_folder(bundle)
    else:
        other = version if version is not None else against
        candidate = whatif.side_of_version(platform, model, other)
    candidate = whatif.with_thresholds(candidate, scores)
    with (
        closing(reference.model),
        closing(candidate.model),
        ERR.status("reading the log") as status,
    ):
        found = whatif.replay(
            platform,
            model,
            reference,
            candidate,
            days=days,
            tell=lambda done: status.update(f"{done:,} requests decided again"),
        )
    if json:
        print_json(msgspec.to_builtins(found))
    else:
        _print(found)


def _scores(written: Sequence[str]) -> dict[str, float]:
    """Outcome → score, of texts that join the two by `=`."""
    found = {}
    for text in written:
        name, _, score = text.partition("=")
        try:
            found[name] = float(score)
        except ValueError as error:
            raise ConfigInvalid("--from", text, "OUTCOME=SCORE, as in review=0.12") from error
    return found


def _print(found: Replay) -> None:
    what_if = found.what_if
    print_heading(f"{found.candidate} beside {found.reference}, {found.model}")
    again = (
        "none of its own to compare"
        if not found.served
        else (f"{found.alike:,} of {found.served:,} of its own decisions come out the same")
    )
    print_fields(
        {
            "requests": f"{what_if.requests:,} of {what_if.customers:,} customers",
            "left out": f"{found.left_out:,} made without fresh features",
            **({"erased": f"{found.erased:,} can't be decided again"} if found.erased else {}),
            found.reference: again,
            "decided otherwise": _share(what_if.flips),
            "alerts, reference": _share(what_if.reference_alerts),
            "alerts, candidate": _share(what_if.candidate_alerts),
            "alerts of both": f"{what_if.both_alerts:,}",
            "speed, reference": _speed(found.reference_speed),
            "speed, candidate": _speed(found.candidate_speed),
            **_outcomes(what_if.known),
            "added alerts": _reasons(found.added),
            "dropped alerts": _reasons(found.dropped),
        }
    )
    rows = [[mine, *theirs.values()] for mine, theirs in what_if.decisions.items()]
    candidates = next(iter(what_if.decisions.values()))
    print_table(("reference \\ candidate", *candidates), rows)
    changed = sorted(what_if.segments, key=lambda s: s.flips / s.requests, reverse=True)
    print_table(
        ("most changed", "requests", "decided otherwise", "alerts, reference", "candidate"),
        [_segment(s) for s in changed[:MOST_SEGMENTS] if s.flips],
    )


def _share(share: Share) -> str:
    text = f"{share.count:,} ({percent(share.share)})"
    if share.low is None or share.high is None:
        return text
    return f"{text}; {span(share.low, share.high)} to expect of a coming day"


def _speed(speed: Speed) -> str:
    return (
        f"{speed.p50_ms:.2f} ms for one request ({speed.p99_ms:.2f} ms at p99), "
        f"{speed.rows_per_s:,.0f} requests/s together"
    )


def _outcomes(known: LabelCounts) -> dict[str, str]:
    if not known.positives:
        return {"outcomes": f"no positive among {known.requests:,} requests of known outcome"}
    arms = {"reference": known.reference, "candidate": known.candidate}
    shown = {
        f"positives found, {name}": f"{arm.caught:,} of {known.positives:,} by {arm.alerts:,} "
        f"alerts; {arm.at_capacity:,} at {percent(known.capacity)} of requests"
        for name, arm in arms.items()
    }
    if known.more is not None and known.low is not None and known.high is not None:
        shown["candidate finds"] = (
            f"{100 * known.more:+.1f} points of the positives at equal alerts, "
            f"{100 * known.low:+.1f} to {100 * known.high:+.1f}"
        )
    shown["unknown"] = f"{known.immature:,} not matured, {known.hidden:,} hidden by their decision"
    return shown


def _reasons(reasons: Reasons | None) -> str:
    if reasons is None:
        return "not explained: only versions of the registry are"
    if not reasons.requests:
        return "none"
    named = ", ".join(f"{code} {count}" for code, count in reasons.first.items())
    return f"first reasons of {reasons.requests:,}: {named}"


def _segment(segment: Segment) -> list[object]:
    if segment.above is None and segment.upto is None:
        where = "missing"
    elif segment.above is None:
        where = f"up to {segment.upto:g}"
    elif segment.upto is None:
        where = f"over {segment.above:g}"
    else:
        where = f"{segment.above:g} to {segment.upto:g}"
    flips = f"{segment.flips:,} ({percent(segment.flips / segment.requests)})"
    return [f"{segment.input} {where}", f"{segment.requests:,}", flips,
            segment.reference_alerts, segment.candidate_alerts]  # fmt: skip


def replay_verdicts(rollout_id: RolloutId, json: AsJson = False) -> None:
    """Compute every verdict of a rollout again, from the log and the evidence in the journal.

    Later records, voids and labels change nothing. A changed record, label, byte or evidence is
    named, and so is a policy that has changed since. Exits 1 if a verdict is not as it was.

    Example: mlplatform rollouts replay fraud-v2-1
    """
    with progress("counting the log again"):
        found = list(verdicts.replay(wiring.platform(), rollout_id))
    if json:
        print_json([dataclasses.asdict(each) for each in found])
    else:
        _print_verdicts(found)
    if any(verdict.differences for verdict in found):
        raise typer.Exit(FAILED)


def _print_verdicts(found: Sequence[ReplayedVerdict]) -> None:
    if not found:
        print_line("no transition of this rollout followed from a verdict yet")
        return
    rows = [
        (
            f"{datetime.fromtimestamp(verdict.wall_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}",
            verdict.transition,
            verdict.recorded,
            verdict.again or "none",
            "no" if verdict.differences else "yes",
            "; ".join((*verdict.differences, *verdict.notes)),
        )
        for verdict in found
    ]
    columns = ("at (UTC)", "transition", "verdict", "again", "the same", "what differs")
    print_table(columns, rows, prose="what differs")
