"""The demo's report as one self-contained HTML page, by the templates of the platform's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from demo.charts import Picture
from mlplatform.observing.page.rendering import render as rendered
from mlplatform.observing.page.rendering import style

CARDS = {
    "requests": "requests sent",
    "answers": "answers received",
    "records": "decisions in the log",
    "degraded": "degraded answers",
    "lost": "requests lost",
    "doubled": "decisions doubled",
    "labels": "labels delivered",
    "retries": "requests sent again",
}


def render(
    found: Mapping[str, Any],
    *,
    timeline: Sequence[tuple[str, str, str]],
    pictures: Sequence[Picture],
    notes: Sequence[str],
) -> str:
    """The page.

    Args:
        found: report.json's content.
        timeline: event time, wall time and a sentence each.
        notes: plain sentences on how to read it.
    """
    source = str(found["source"])
    return rendered(
        "report.html",
        lead=f"{source[:1].upper()}{source[1:]}. {found['wall_s']:.0f} s on the clock.",
        found=found,
        cards=[(value, CARDS.get(name, name)) for name, value in found["totals"].items()],
        rollouts=[_rollout(rollout, found["champions"]) for rollout in found["rollouts"]],
        # Both are ours: drawn by matplotlib, which escapes every text in them, and the style sheet.
        pictures=[(p.title, p.note, Markup(p.svg)) for p in pictures],  # noqa: S704
        style=Markup(style()),  # noqa: S704
        timeline=timeline,
        notes=notes,
    )


def _rollout(rollout: Mapping[str, Any], champions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        **rollout,
        "tone": "bad" if rollout["verdict"] == "rolled_back" else "good",
        "arms": [(arm, _arm(c)) for arm, c in rollout["arms"].items() if any(c.values())],
        "tenures": [_tenure(r) for r in champions if r["version"] == rollout["version"]],
    }


def _tenure(tenure: Mapping[str, Any]) -> str:
    if tenure["until"] is None:
        return f"champion since {tenure['from']}"
    until = f"until {tenure['until']}, when v{tenure['successor']} replaced it"
    return f"champion from {tenure['from']} {until}"


def _arm(counts: Mapping[str, int]) -> list[str]:
    seen = f"{counts['requests']:,} requests of {counts['customers']:,} customers"
    copies = f"{counts['shadow_copies']:,} copies in shadow"
    counted = ((seen, counts["requests"]), (copies, counts["shadow_copies"]))
    return [text for text, number in counted if number]
