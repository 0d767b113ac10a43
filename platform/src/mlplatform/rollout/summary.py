"""Evidence as a page that a person can judge by: what an approval form shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ARM_COUNTS = (
    ("units", "customers"),
    ("requests", "requests"),
    ("failures", "failures"),
    ("alerts", "alerts"),
    ("flips", "decisions that differ"),
)


def to_markdown(rollout_id: str, evidence: Mapping[str, Any]) -> str:
    """The evidence of a transition in Markdown: the version, each gate, the counts by arm."""
    band = evidence.get("alert_band", ["?", "?"])
    made = (
        f"Rollout `{rollout_id}`, bundle `{str(evidence.get('bundle'))[:16]}`, made by "
        f"{evidence.get('author')}. Predicted alert share: {_percent(band[0])} to "
        f"{_percent(band[1])}."
    )
    lines = [
        f"## May version {evidence.get('version')} answer customers?",
        "",
        made,
        "",
    ]
    if evidence.get("bootstrap"):
        lines += ["It is the first version: there is no champion to compare it with.", ""]
    gates = evidence.get("gates", {})
    if gates:
        lines += ["| gate | verdict | seen |", "|---|---|---|"]
        lines += [f"| {n} | {g['verdict']} | {g['reason']} |" for n, g in sorted(gates.items())]
        lines.append("")
    arms = evidence.get("arms", {})
    if arms:
        lines += ["| arm | " + " | ".join(text for _, text in ARM_COUNTS) + " |"]
        lines += ["|---" * (len(ARM_COUNTS) + 1) + "|"]
        for name, counts in sorted(arms.items()):
            cells = " | ".join(f"{counts.get(key, 0):,}" for key, _ in ARM_COUNTS)
            lines.append(f"| {name} | {cells} |")
        lines.append("")
    return "\n".join(lines)


def _percent(share: object) -> str:
    return f"{share:.2%}" if isinstance(share, float | int) else str(share)
