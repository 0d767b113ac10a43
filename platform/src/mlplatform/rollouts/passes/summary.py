"""Evidence in the form that an approval shows, by which a person can judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlplatform.learning.validation import report
from mlplatform.learning.validation.report_entries import NOTHING_YET, ValidationReport
from mlplatform.rollouts.journal.evidence import Evidence
from mlplatform.rollouts.passes.plan_text import from_evidence, next_step
from mlplatform.rollouts.verdicts.comparison import GATES
from mlplatform.rollouts.verdicts.verdict import Gate
from mlplatform.runtime.figures import percent, span
from mlplatform.runtime.text import markdown
from mlplatform.runtime.times import utc_minute_text

MARKS = {"HEALTHY": "✔ healthy", "UNHEALTHY": "✘ unhealthy", "INCONCLUSIVE": "? inconclusive"}
TITLES = {kind.name: kind.title for kind in GATES}
ARM_COUNTS = (
    ("units", "customers"),
    ("requests", "requests"),
    ("failures", "not answered in time"),
    ("alerts", "alerts"),
    ("flips", "decisions unlike the champion's"),
)


def title(gate: str) -> str:
    """A gate's title for people; a segment's gate has the title of the gate on all requests."""
    what, _, segment = gate.partition(" of ")
    named = TITLES.get(what, what)
    return f"{named}, segment {segment}" if segment else named


def mark(verdict: str, *, holds: bool = True, reason: str = "") -> str:
    """A gate's verdict for people, with whether an inconclusive gate holds the rollout.

    Args:
        reason: what the verdict says; one on nothing is told so, without a tick.
    """
    shown = report.UNCHECKED if is_unchecked(reason) else MARKS.get(verdict, verdict)
    return shown if holds or verdict != "INCONCLUSIVE" else f"{shown}; no step waits for it"


def is_unchecked(reason: str) -> bool:
    """Whether a gate had nothing to check, by the reason of its verdict."""
    return reason.startswith(NOTHING_YET)


def question(rollout_id: str, evidence: Evidence) -> str:
    """The text of an approval in Markdown: the question, what each answer does, and the
    evidence."""
    version, model = evidence.get("version"), evidence.get("model")
    approved, rejected = consequences(evidence)
    if evidence.get("emergency"):
        rejected += "; so it does if nobody decides within a day"
    return "\n".join(
        [
            f"## May version {version} of {markdown(str(model))} answer customers?",
            "",
            f"**approve**: {markdown(approved)}. **reject**: {rejected}.",
            "",
            to_markdown(rollout_id, evidence),
        ]
    )


def consequences(evidence: Evidence) -> tuple[str, str]:
    """The consequences of an approval and of a rejection, as clauses of plain text."""
    is_emergency = bool(evidence.get("emergency"))
    if is_emergency:
        who = evidence.get("opened_by")
        approved = f"the version stays champion; {who} alone promoted it in an emergency"
    elif evidence.get("bootstrap"):
        approved = (
            "the version becomes champion and answers every customer at once: it has no champion"
            " before it"
        )
    else:
        approved = (
            "the version answers a small share of the customers, and a larger one only while it"
            " stays healthy"
        )
    return approved, rejection(emergency=is_emergency)


def rejection(*, emergency: bool) -> str:
    """The consequence of a rejection, and of no answer in time, as a clause of plain text."""
    if emergency:
        return "the champion before it answers again"
    return "the version answers nobody, and its rollout ends"


def step_if_approved(evidence: Evidence) -> str:
    """The plan's sentence on the step after an approval; empty if there is no plan."""
    if "plan" not in evidence or evidence.get("bootstrap"):
        return ""
    return next_step(from_evidence(evidence["plan"]), 0.0)


def to_markdown(rollout_id: str, evidence: Evidence) -> str:
    """The evidence of a transition in Markdown: the version, each gate, the counts by arm."""
    band = evidence.get("alert_band")
    expected = ""
    if band is not None and band[1] > 0:  # [0, 0] for a model without alerts
        expected = f" It should raise an alert on {span(*band)} of requests."
    lines = [
        f"Version {evidence.get('version')} was made by {markdown(str(evidence.get('author')))}."
        f"{expected} Rollout {markdown(rollout_id)}, bundle "
        f"{markdown(str(evidence.get('bundle'))[:16])}.",
        "",
    ]
    if "validation" in evidence:
        lines += ["### Before traffic: validation", "", *_validation(evidence["validation"]), ""]
    if sentence := step_if_approved(evidence):
        lines += ["### If approved: the next step", "", markdown(sentence), ""]
    if "gates" in evidence:
        lines += ["### In traffic", "", _read(evidence), "", *_gates(evidence["gates"]), ""]
    if evidence.get("arms"):
        lines += [*_arms(evidence["arms"]), ""]
    return "\n".join(lines)


def judged(gates: Sequence[Gate], event_ms: int) -> str:
    """The gates of a step as one interim analysis judged them, in Markdown."""
    found = {g.name: {"verdict": g.verdict, "reason": g.reason, "holds": g.holds} for g in gates}
    title = f"### The newest interim analysis of this step, of {utc_minute_text(event_ms)}"
    return "\n".join([title, "", *_gates(found)])


def undecided(gates: Sequence[Gate]) -> str:
    """Why a rollout takes no step forward: what its gates have not shown yet; "" if nothing is
    missing."""
    return " ".join(
        f"{title(g.name)}: {g.reason}" for g in gates if g.holds and g.verdict == "INCONCLUSIVE"
    )


def _validation(found: ValidationReport) -> list[str]:
    if not found.get("gates"):
        return ["**No gate report was recorded when this rollout was opened.**"]
    return [report.summary(found), "", *report.findings(found)]


def _read(evidence: Evidence) -> str:
    until_ms, records = evidence.get("until_event_ms"), evidence.get("records", 0)
    if until_ms is None:
        return "No record of the decision log could be counted."
    until = utc_minute_text(until_ms)
    text = f"Counted in {records:,} records of the decision log, the last of {until}."
    dropped = evidence.get("dropped", {})
    if dropped:
        reasons = ", ".join(
            f"{n:,} {markdown(why.replace('_', ' '))}" for why, n in sorted(dropped.items())
        )
        text += f" Copies that never reached the challenger are not counted: {reasons}."
    return text


def _gates(gates: Mapping[str, Any]) -> list[str]:
    return [
        f"- {mark(g['verdict'], holds=g.get('holds', True), reason=g['reason'])}: "
        f"**{markdown(title(name))}**. {markdown(g['reason'])}"
        for name, g in sorted(gates.items())
    ]


def _arms(arms: Mapping[str, Any]) -> list[str]:
    counted = [arms[name] for name in sorted(arms)]
    lines = [f"| | {' | '.join(map(markdown, sorted(arms)))} |", "|---" + "|---:" * len(arms) + "|"]
    for key, text in ARM_COUNTS:
        lines.append(f"| {text} | {' | '.join(_count(key, counts) for counts in counted)} |")
    shares = " | ".join(_alert_share(counts) for counts in counted)
    return [*lines, f"| share of alerts | {shares} |"]


def _alert_share(counts: Mapping[str, Any]) -> str:
    answers = counts.get("answers", 0)
    return percent(counts.get("alerts", 0) / answers) if answers else "no answers"


def _count(key: str, counts: Mapping[str, Any]) -> str:
    """A count for people. Disagreements are counted only where both arms decided on one request."""
    if key == "flips" and not counts.get("pairs"):
        return "not compared"
    return f"{counts.get(key, 0):,}"
