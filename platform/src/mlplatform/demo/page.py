"""The demo's report as one self-contained HTML page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from mlplatform.demo.charts import Picture

TITLE = "From payments to a champion, and back"
STYLE = """
:root { color-scheme: light; --ink: #1d2733; --soft: #5b6875; --line: #e2e6ea; --good: #1f6b53;
  --bad: #b23a48; }
body { font: 15px/1.5 system-ui, "Segoe UI", sans-serif; color: var(--ink); margin: 0 auto;
  max-width: 1080px; padding: 32px 24px 64px; background: #fff; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 40px 0 10px; }
h3 { font-size: 15.5px; margin: 0; }
p.lead { color: var(--soft); margin: 0 0 16px; }
.verdict { border-left: 4px solid; padding: 6px 14px; margin: 0 0 20px; }
.verdict.good { background: #eef6f2; } .verdict.bad { background: #faeeef; }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; }
@media (max-width: 640px) { .cards { grid-template-columns: repeat(2, 1fr); } }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.card b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.card span, figcaption, .soft { color: var(--soft); font-size: 13px; }
figcaption h3 { color: var(--ink); }
figure { margin: 18px 0 28px; } svg { width: 100%; height: auto; } code { font-size: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { color: var(--soft); font-weight: 600; }
.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
.phases { display: grid; grid-template-columns: max-content max-content; column-gap: 12px; }
.good { color: var(--good); } .bad { color: var(--bad); } b.good, b.bad { font-weight: 600; }
"""
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
    lead = f"{source[:1].upper()}{source[1:]}. {found['wall_s']:.0f} s on the clock."
    cards = "".join(
        f'<div class="card"><b>{value:,}</b><span>{html.escape(CARDS.get(name, name))}</span></div>'
        for name, value in found["totals"].items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{TITLE}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>
<body><h1>{TITLE}</h1><p class="lead">{html.escape(lead)}</p>{_verdict(found)}
<div class="cards">{cards}</div>
<h2>Pictures</h2>{"".join(_figure(p) for p in pictures)}
<h2>Rollouts</h2>{_rollouts(found)}
<h2>What happened</h2>{_timeline(timeline)}
<h2>How to read this</h2>{_list(notes)}
</body></html>
"""


def _verdict(found: Mapping[str, Any]) -> str:
    if found["closed"]:
        return '<div class="verdict good"><b class="good">The loop closed as described.</b></div>'
    head = '<b class="bad">The loop did not close as described.</b>'
    return f'<div class="verdict bad">{head}{_list(found["problems"])}</div>'


def _figure(picture: Picture) -> str:
    caption = f"<h3>{html.escape(picture.title)}</h3>{html.escape(picture.note)}"
    return f"<figure><figcaption>{caption}</figcaption>{picture.svg}</figure>"


def _rollouts(found: Mapping[str, Any]) -> str:
    rows = [_rollout(rollout, found["champions"]) for rollout in found["rollouts"]]
    head = "<tr><th>Version</th><th>Phases, in event time</th><th>Traffic</th><th>Verdict</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _rollout(rollout: Mapping[str, Any], champions: Sequence[Mapping[str, Any]]) -> str:
    phases = "".join(
        f"<span>{_words(p['phase'])}</span><span class='soft n'>{html.escape(p['event_time'])}"
        "</span>"
        for p in rollout["phases"]
    )
    arms = "<br>".join(
        _arm(arm, counts) for arm, counts in rollout["arms"].items() if any(counts.values())
    )
    tone = "bad" if rollout["verdict"] == "rolled_back" else "good"
    reigns = "".join(_reign(r) for r in champions if r["version"] == rollout["version"])
    evidence = html.escape((rollout["evidence_digest"] or "")[:16])
    return (
        f"<tr><td class='n'><b>v{rollout['version']}</b><br>"
        f"<span class='soft'>{html.escape(rollout['id'])}</span></td>"
        f"<td><div class='phases'>{phases}</div></td><td class='n'>{arms}</td>"
        f"<td><b class='{tone}'>{_words(rollout['verdict'])}</b><br>{reigns}"
        f"{html.escape(rollout['reason'])}<br>"
        f"<span class='soft'>evidence <code>{evidence}</code></span></td></tr>"
    )


def _reign(reign: Mapping[str, Any]) -> str:
    if reign["until"] is None:
        return f"champion since {html.escape(reign['from'])}<br>"
    until = f"until {html.escape(reign['until'])}, when v{reign['successor']} replaced it"
    return f"champion from {html.escape(reign['from'])} {until}<br>"


def _arm(arm: str, counts: Mapping[str, int]) -> str:
    seen = f"{counts['requests']:,} requests of {counts['customers']:,} customers"
    copies = f"{counts['shadow_copies']:,} copies in shadow"
    parts = [
        text for text, n in ((seen, counts["requests"]), (copies, counts["shadow_copies"])) if n
    ]
    return f"{html.escape(arm)}<br><span class='soft'>{'<br>'.join(parts)}</span>"


def _words(name: str) -> str:
    return html.escape(name.replace("_", " "))


def _timeline(entries: Sequence[tuple[str, str, str]]) -> str:
    rows = "".join(
        f"<tr><td class='n'>{html.escape(event)}</td><td class='n'>{html.escape(wall)}</td>"
        f"<td>{html.escape(text)}</td></tr>"
        for event, wall, text in entries
    )
    head = "<tr><th>Event time</th><th>Since start</th><th></th></tr>"
    return f"<table>{head}{rows}</table>"


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(s)}</li>" for s in sentences) + "</ul>"
