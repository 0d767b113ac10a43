"""What the demo's pictures show, out of the decision log and the recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from demo import charts
from demo.charts import Mark, PhaseSpan, Picture
from demo.timeline import ChampionTenure
from mlplatform.runtime.units import DAY_MS, HOUR_MS

ROLLED_BACK_MS = 3 * HOUR_MS
"""How long a rollback is drawn: it takes no time."""

CHAMPION_PHASES = ("promoted", "confirmed")


def pictures(
    decisions: pa.Table,
    labels: np.ndarray,
    *,
    change_ms: int,
    rollouts: Sequence[Mapping[str, Any]],
    champions: Sequence[ChampionTenure],
) -> list[Picture]:
    """Every picture of the report; none without a decision.

    Args:
        decisions: with event_ms, version, score and decision.
        labels: 1 for fraud, one for each decision, in their order.
        rollouts: report.json's rollouts.
    """
    if decisions.num_rows == 0:
        return []
    event_ms = decisions["event_ms"].to_numpy()
    version = np.nan_to_num(decisions["version"].to_numpy().astype(np.float64)).astype(int)
    alert = np.array([d != "approve" for d in decisions["decision"].to_pylist()])
    names = {v: f"v{v}" if v else "no version" for v in sorted(set(version.tolist()))}
    marks = [Mark(change_ms, "the pattern changes")]
    marks += [Mark(r.from_ms, f"v{r.version} is champion") for r in champions[1:]]
    return [
        Picture(
            "Rollouts, phase by phase",
            "A champion's bar ends when another version replaces it.",
            charts.phases(_spans(rollouts, champions, int(event_ms.max())), marks),
        ),
        Picture(
            "Requests an hour, by the version that answered",
            "During a canary two versions share the customers; a shadow answers nobody.",
            _traffic(event_ms, version, names, marks),
        ),
        *_daily_pictures(event_ms, alert, labels, marks),
        Picture(
            "Scores, by version",
            "How often each version gives which score. Shares are on a logarithmic axis.",
            charts.score_histograms(_scores(decisions, version, names)),
        ),
    ]


def _traffic(
    event_ms: np.ndarray, version: np.ndarray, names: Mapping[int, str], marks: Sequence[Mark]
) -> str:
    hours = np.arange(event_ms.min() // HOUR_MS, event_ms.max() // HOUR_MS + 1)
    per_hour = {
        name: np.bincount(event_ms[version == v] // HOUR_MS - hours[0], minlength=len(hours))
        for v, name in names.items()
    }
    return charts.traffic_shares(hours * HOUR_MS, per_hour, marks)


def _daily_pictures(
    event_ms: np.ndarray, alert: np.ndarray, label: np.ndarray, marks: Sequence[Mark]
) -> list[Picture]:
    days = np.arange(event_ms.min() // DAY_MS, event_ms.max() // DAY_MS + 1)
    everything = np.ones(len(alert), bool)
    found = {
        "of the alerts, frauds (precision)": _daily(days, event_ms, label, alert),
        "of the frauds, alerted (recall)": _daily(days, event_ms, alert, label == 1),
    }
    shares = {
        "payments with an alert": _daily(days, event_ms, alert, everything),
        "payments that are fraud": _daily(days, event_ms, label, everything),
    }
    return [
        Picture(
            "Precision and recall, by day",
            "Each payment counts for the version that answered it, by the recording's labels.",
            charts.daily_lines(days * DAY_MS, found, marks),
        ),
        Picture(
            "Alerts and frauds, by day",
            "An alert is a review or a decline.",
            charts.daily_lines(days * DAY_MS, shares, marks),
        ),
    ]


def _daily(
    days: np.ndarray, event_ms: np.ndarray, hit: np.ndarray, among: np.ndarray
) -> np.ndarray:
    """Share of hits among the chosen rows, by day; NaN on a day without any."""
    day = event_ms[among] // DAY_MS - days[0]
    counts = np.bincount(day, minlength=len(days)).astype(np.float64)
    hits = np.bincount(day, weights=hit[among].astype(np.float64), minlength=len(days))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, hits / counts, np.nan)


def _scores(
    decisions: pa.Table, version: np.ndarray, names: Mapping[int, str]
) -> dict[str, np.ndarray]:
    score = decisions["score"].to_numpy().astype(np.float64)
    return {name: score[(version == v) & np.isfinite(score)] for v, name in names.items() if v != 0}


def _spans(
    rollouts: Sequence[Mapping[str, Any]], champions: Sequence[ChampionTenure], last_ms: int
) -> list[PhaseSpan]:
    spans = []
    for rollout in rollouts:
        phases = rollout["phases"]
        ends = [p["event_ms"] for p in phases[1:]] + [last_ms]
        own = [r for r in champions if r.version == rollout["version"]]
        for phase, end in zip(phases, ends, strict=True):
            name, begun = phase["phase"], phase["event_ms"]
            label = f"v{rollout['version']} ({rollout['id']})"
            if name in CHAMPION_PHASES:
                spans += [
                    PhaseSpan(label, name, max(begun, r.from_ms), min(end, r.to_ms or last_ms))
                    for r in own
                    if max(begun, r.from_ms) < min(end, r.to_ms or last_ms)
                ]
            elif name != "superseded":
                end = begun + ROLLED_BACK_MS if name == "rolled_back" else max(end, begun)
                spans.append(PhaseSpan(label, name, begun, end))
    return spans
