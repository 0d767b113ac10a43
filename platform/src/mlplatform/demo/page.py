"""The demo's report as one self-contained HTML page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

STYLE = """
:root { color-scheme: light; --ink: #1d2733; --soft: #5b6875; --line: #e2e6ea; --good: #1f6b53;
  --bad: #b23a48; }
body { font: 15px/1.5 system-ui, "Segoe UI", sans-serif; color: var(--ink); margin: 0 auto;
  max-width: 1060px; padding: 32px 24px 64px; background: #fff; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 8px; }
p.lead { color: var(--soft); margin: 0 0 20px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.card b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { color: var(--soft); font-weight: 600; }
td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
figure { margin: 12px 0 20px; } svg { width: 100%; height: auto; } code { font-size: 12.5px; }
"""


def render(
    *,
    title: str,
    lead: str,
    totals: Mapping[str, int],
    closed: bool,
    problems: Sequence[str],
    rollouts: Sequence[Mapping[str, Any]],
    timeline: Sequence[tuple[str, str, str]],
    figures: Sequence[str],
    notes: Sequence[str],
) -> str:
    """The page.

    Args:
        totals: name → number, shown as cards.
        rollouts: report.json's rollouts.
        timeline: event time, wall time and a sentence each.
        figures: SVG texts.
        notes: plain sentences on how to read the figures.
    """
    verdict = '<p class="good">The loop closed as described.</p>'
    if not closed:
        verdict = '<p class="bad">The loop did not close as described:</p>' + _list(problems)
    cards = "".join(
        f'<div class="card"><b>{value:,}</b><span>{html.escape(name)}</span></div>'
        for name, value in totals.items()
    )
    pictures = "".join(f"<figure>{svg}</figure>" for svg in figures)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>
<body><h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>{verdict}
<div class="cards">{cards}</div>
<h2>Pictures</h2>{pictures}
<h2>Rollouts</h2>{_rollouts(rollouts)}
<h2>What happened</h2>{_timeline(timeline)}
<h2>How to read this</h2>{_list(notes)}
</body></html>
"""


def _rollouts(rollouts: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for rollout in rollouts:
        phases = "<br>".join(
            f"{html.escape(p['phase'])} <span style='color:#5b6875'>"
            f"{html.escape(p['event_time'])}</span>"
            for p in rollout["phases"]
        )
        arms = "<br>".join(
            f"{html.escape(arm)}: {n['requests']:,} requests, {n['customers']:,} customers"
            for arm, n in rollout["arms"].items()
        )
        tone = "bad" if rollout["verdict"] == "rolled_back" else "good"
        rows.append(
            f"<tr><td>v{rollout['version']}<br><code>{html.escape(rollout['id'])}</code></td>"
            f"<td>{phases}</td><td class='n'>{arms}</td>"
            f"<td><span class='{tone}'>{html.escape(rollout['verdict'].replace('_', ' '))}</span>"
            f"<br>{html.escape(rollout['reason'])}<br>"
            f"<code>{html.escape((rollout['evidence_digest'] or '')[:16])}</code></td></tr>"
        )
    head = "<tr><th>Version</th><th>Phases</th><th>Traffic</th><th>Verdict</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


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
