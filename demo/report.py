"""What the demo did, from the journal and the decision log: report.json, report.html, a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from demo import drift, page, truth
from demo.pictures import pictures
from demo.source import MODEL
from demo.state import Diary
from demo.timeline import ChampionTenure, Promotion, tenures
from demo.traffic import Counts, Recording
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal.state import RolloutState, apply
from mlplatform.rollouts.journal.transitions import Transition
from mlplatform.runtime.canonical import canonical_json
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.runtime.times import iso_text, minute_text

COLUMNS = (
    *("decision_id", "event_ms", "generation", "rollout_id", "arm", "answered_by", "unit"),
    *("version", "score", "decision", "degraded", "payload"),
)
COUNTED = (
    "Degraded: the answer came in time, but not by the full way: the model asked was late or away, "
    "or features were. No request is lost by that.",
    "Retries: a request without an answer was sent again with its key; it is decided once.",
)
NOTES = (
    *COUNTED,
    "Event time is that of the payments; it passes some thousand times faster than wall time.",
    "Precision and recall are by the labels of the recording, matured or not: nobody could know "
    "them on that day.",
    "A request that the champion answered because the challenger did not in time counts as the "
    "challenger's failure.",
    "Labels exist even for payments that were declined, which a bank would not have: precision "
    "and average precision are flattered by that.",
)


class _Payload(msgspec.Struct):
    idempotency_key: str


def write(
    platform: Platform,
    diary: Diary,
    recording: Recording,
    counts: Counts,
    problem: str | None,
) -> dict[str, Any]:
    """Write report.json into the demo's folder, and of fraud report.html with its pictures; returns
    the former's content."""
    state, folder = diary.state, platform.settings.home.demo
    decisions = _decisions(platform, state.model)
    totals = _totals(decisions, recording, counts)
    if state.model != MODEL:
        found = _figures(platform, diary, totals, problem) | {"drift": state.drift}
        write_atomically(folder / "report.json", canonical_json(found))
        return found
    outcome = _outcome(platform, platform.rollouts.active(MODEL, finished=True))
    found = _figures(platform, diary, totals, problem or truth.problem_of(outcome))
    rollouts = found["rollouts"]
    champions = tenures(_promotions(rollouts))
    found |= {
        "pattern_change": minute_text(state.change_ms),
        "champions": [_tenure(r) for r in champions],
        "outcome": outcome,
        "incidents": [_incident(i) for i in platform.incidents.list(state.model)],
    }
    write_atomically(folder / "report.json", canonical_json(found))
    html = page.render(
        found,
        timeline=[
            (minute_text(m.event_ms), f"{m.elapsed_s:.0f} s", m.text)
            for m in sorted(state.entries, key=lambda m: m.event_ms)
        ],
        pictures=pictures(
            decisions,
            _labels(decisions, recording),
            change_ms=state.change_ms,
            rollouts=rollouts,
            champions=champions,
        ),
        notes=(*NOTES, *provisional(rollouts)),
    )
    write_atomically(folder / "report.html", html.encode())
    return found


def provisional(rollouts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why rollouts that ended promoted were not confirmed, a sentence each."""
    return [
        f"v{rollout['version']} is promoted provisionally: the demo ended before matured labels of "
        "its days as champion confirmed it."
        for rollout in rollouts
        if rollout["verdict"] == "promoted"
    ]


def _decisions(platform: Platform, model: str) -> pa.Table:
    return platform.log.read(RecordQuery(model=model, kinds=("decision",), columns=COLUMNS))


def _figures(
    platform: Platform, diary: Diary, totals: dict[str, int], problem: str | None
) -> dict[str, Any]:
    """What is true of any model: whether each answer is on record, and what its rollouts did."""
    state = diary.state
    states = platform.rollouts.active(state.model, finished=True)
    records, broken = _verified(platform)
    replays = truth.replays(platform, states)
    problems = problems_of(totals, problem, [*broken, *replays["differ"]])
    return {
        "closed": not problems,
        "problems": problems,
        "source": state.source,
        "seed": state.seed,
        "go_live": minute_text(state.go_live_ms),
        "wall_s": round(diary.elapsed_s, 1),
        "totals": totals,
        "rollouts": [_rollout(platform, s) for s in states],
        "outcome": None,
        "replays": replays,
        "log": {
            "records": records,
            "verdict": "; ".join(broken) or "whole: every digest and chain holds",
        },
    }


def show(console: Console, found: Mapping[str, Any], folder: Path) -> None:
    """The closing table."""
    table = Table(title="rollouts", title_justify="left", header_style="bold")
    for column in ("version", "phases", "challenger requests", "customers", "verdict", "why"):
        table.add_column(column)
    for rollout in found["rollouts"]:
        own = rollout["arms"].get("challenger", {"requests": 0, "customers": 0})
        table.add_row(
            f"v{rollout['version']}",
            " → ".join(dict.fromkeys(p["phase"] for p in rollout["phases"])),
            f"{own['requests']:,}",
            f"{own['customers']:,}",
            rollout["verdict"],
            rollout["reason"],
        )
    console.print(table)
    console.print("  ".join(f"{name} {value:,}" for name, value in found["totals"].items()))
    for note in (*COUNTED, *provisional(found["rollouts"])):
        console.print(note, soft_wrap=True)
    console.print(f"log: {found['log']['records']:,} records, {found['log']['verdict']}")
    same = found["replays"]["verdicts"] - len(found["replays"]["differ"])
    console.print(
        f"verdicts computed again from the log: {same} of {found['replays']['verdicts']} the same"
    )
    if found["outcome"] is not None:
        console.print(truth.words(found["outcome"]), soft_wrap=True)
    if found.get("drift") is not None:
        console.print(drift.words(found["drift"]), soft_wrap=True)
    if found["closed"]:
        console.print(f"[green]the loop closed[/] in {found['wall_s']:.0f} s")
    for problem in found["problems"]:
        console.print(f"[red]the loop did not close:[/] {problem}", soft_wrap=True)
    written = "report.html" if "pattern_change" in found else "report.json"
    console.print(f"report: {folder / written}", soft_wrap=True)


def _outcome(platform: Platform, states: Sequence[RolloutState]) -> dict[str, Any] | None:
    """Of the last version that was promoted and has stayed so."""
    stand = [s for s in states if s.phase in ("promoted", "confirmed") and s.predecessor]
    return truth.comparison(platform, stand[-1]) if stand else None


def _totals(decisions: pa.Table, recording: Recording, counts: Counts) -> dict[str, int]:
    keys = _keys(decisions)
    distinct = len(set(keys))
    sent = set(recording.keys[: counts.requests])
    return {
        "requests": counts.requests,
        "answers": counts.answers,
        "records": decisions.num_rows,
        "degraded": counts.degraded,
        "lost": len(sent.difference(keys)) + counts.requests - counts.answers,
        "doubled": decisions.num_rows - distinct,
        "labels": counts.labels,
        "retries": counts.retries,
    }


def _keys(decisions: pa.Table) -> list[str]:
    decoder = msgspec.json.Decoder(_Payload)
    return [decoder.decode(str(t)).idempotency_key for t in decisions["payload"].to_pylist()]


def _labels(decisions: pa.Table, recording: Recording) -> np.ndarray:
    """1 for fraud, for each decision."""
    label_of = dict(zip(recording.keys, recording.labels, strict=True))
    return np.array([label_of[key] for key in _keys(decisions)])


def _promotions(rollouts: list[dict[str, Any]]) -> list[Promotion]:
    found = []
    for rollout in rollouts:
        began = {p["phase"]: p["event_ms"] for p in rollout["phases"]}
        if "promoted" in began:
            undone_ms = began.get("rolled_back")
            found.append(Promotion(rollout["version"], began["promoted"], undone_ms))
    return found


def _tenure(tenure: ChampionTenure) -> dict[str, Any]:
    return {
        "version": tenure.version,
        "from": minute_text(tenure.from_ms),
        "until": None if tenure.to_ms is None else minute_text(tenure.to_ms),
        "successor": tenure.successor,
    }


def problems_of(
    totals: Mapping[str, int], problem: str | None, findings: Sequence[str]
) -> list[str]:
    """Why the loop did not close: by the story, by the totals, by what is wrong in the log."""
    problems = [] if problem is None else [problem]
    problems += findings
    if totals["lost"] or totals["doubled"]:
        problems.append(f"{totals['lost']} requests lost, {totals['doubled']} doubled")
    if not totals["requests"] == totals["answers"] == totals["records"]:
        problems.append("requests, answers and records differ")
    return problems


def _verified(platform: Platform) -> tuple[int, list[str]]:
    """How many records the log has, and what is wrong with it and with the journal."""
    checked = platform.log.verify(platform.rollouts.last_anchor())
    return checked.records, [*checked.findings, *platform.rollouts.verify()]


def _rollout(platform: Platform, state: RolloutState) -> dict[str, Any]:
    facts = platform.rollouts.read(state.rollout_id)
    with_evidence = [f for f in facts if f.evidence]
    return {
        "id": state.rollout_id,
        "version": state.challenger.version,
        "bundle": state.challenger.bundle,
        "author": state.author,
        "against": state.predecessor.version if state.predecessor else None,
        "phases": _phases(facts),
        "arms": _arms(platform, state),
        "verdict": state.phase,
        "reason": state.reason,
        "evidence_digest": with_evidence[-1].evidence_digest if with_evidence else None,
    }


def _phases(facts: tuple[Transition, ...]) -> list[dict[str, Any]]:
    phases: list[dict[str, Any]] = []
    state: RolloutState | None = None
    for fact in facts:
        state = apply(state, fact)
        step = "" if state.step is None else f" {state.step + 1}"
        if phases and phases[-1]["phase"] == state.phase + step:
            continue
        phases.append(
            {
                "phase": state.phase + step,
                "event_ms": fact.event_ms,
                "event_time": minute_text(fact.event_ms),
                "wall_ms": fact.wall_ms,
                "wall_time": iso_text(fact.wall_ms),
                "reason": fact.reason,
                "actor": fact.actor,
            }
        )
    return phases


def _arms(platform: Platform, state: RolloutState) -> dict[str, dict[str, int]]:
    """Requests and customers by assigned arm while the rollout was shadowed or ramping."""
    query = RecordQuery(
        model=state.model,
        kinds=("decision", "shadow"),
        rollout_id=state.rollout_id,
        columns=("kind", "arm", "unit", "decision_id"),
    )
    rows = platform.log.read(query)
    arms = {}
    for arm in ("champion", "challenger"):
        own = rows.filter(pc.field("arm") == arm)
        answered = own.filter(pc.field("kind") == "decision")
        arms[arm] = {
            "requests": answered.num_rows,
            "customers": len(answered["unit"].unique()),
            "shadow_copies": own.num_rows - answered.num_rows,
        }
    return arms


def _incident(incident: Any) -> dict[str, Any]:
    return {
        "id": incident.id,
        "opened": minute_text(incident.found.opened_ms),
        "changed": minute_text(incident.found.changed_ms),
        "state": incident.state,
        "answer": incident.answer,
        "reasons": incident.found.evidence.get("reasons", []),
    }
