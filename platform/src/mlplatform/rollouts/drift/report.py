"""Drift for people to look at: Evidently's report over a sample, and a page of Markdown.

Nothing is decided here: Evidently's own tests use fixed limits and see a sample, the verdict does
not. The two may differ near a limit; the verdict counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlplatform.model.policies.monitoring import DriftPolicy
from mlplatform.model.profile import Column, Profile
from mlplatform.model.rhythm import SCORE
from mlplatform.rollouts.drift.measures import Shift
from mlplatform.rollouts.drift.performance import NOT_JUDGED, PerformanceVerdict
from mlplatform.rollouts.drift.verdict import Window, WindowVerdict
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.text import markdown
from mlplatform.runtime.times import minute_text

MAX_ROWS = 5000
Sample = Mapping[str, npt.NDArray[np.float64]]


def write_report(then: Sample, now: Sample, policy: DriftPolicy, path: Path) -> Path:
    """Write Evidently's drift report as one HTML file that needs no network; returns its path.

    Takes about ten seconds, most of it Evidently's import: for a task of its own. A column without
    a value on either side is left out.

    Raises:
        InputInvalid: no column has values on both sides.
    """
    columns = [name for name in then if _has_values(then, name) and _has_values(now, name)]
    if not columns:
        raise InputInvalid("drift report", None, "there is no column with values on both sides")
    os.environ["DO_NOT_TRACK"] = "1"  # read by Evidently at import
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(numerical_columns=columns)
    reference, current = (
        Dataset.from_pandas(
            pd.DataFrame({c: pd.Series(sample[c]) for c in columns}), data_definition=definition
        )
        for sample in (then, now)
    )
    preset = DataDriftPreset(
        num_method="wasserstein",
        num_threshold=policy.wasserstein,
        drift_share=1 / len(columns),  # one column is drift, as in the verdict
    )
    snapshot = Report([preset]).run(current, reference)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    snapshot.save_html(str(path))
    return path


def profile_sample(profile: Profile, rows: int = MAX_ROWS) -> Sample:
    """Values distributed as the profile says, each column on its own.

    Between the stored quantiles the distribution is taken as linear. How columns go together is not
    in a profile, and not in this report.
    """
    columns = {**profile.inputs, SCORE: profile.score}
    return {name: _values(column, rows) for name, column in columns.items()}


def window_sample(windows: Sequence[Window], rows: int = MAX_ROWS, *, seed: int = 0) -> Sample:
    """Values of the windows, at most `rows` of each column, without replacement."""
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    for window in windows:
        for name, values in {**window.inputs, SCORE: window.scores}.items():
            parts.setdefault(name, []).append(values)
    random = np.random.default_rng(seed)
    return {name: _chosen(np.concatenate(p), rows, random) for name, p in parts.items()}


def summary(
    model: str,
    champion: int,
    verdicts: Sequence[WindowVerdict],
    outcome: str,
    performance: PerformanceVerdict = NOT_JUDGED,
    *,
    score_word: str = SCORE,
) -> str:
    """The verdict as Markdown: one row a window, what moved, then what matured labels show.

    Args:
        score_word: word for the champion's scores.
    """
    columns, rows = windows_table(verdicts, score_word=score_word, shown=markdown)
    lines = [
        f"## Drift of {model}, champion version {champion}",
        "",
        outcome,
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    reasons = [f"- {minute_text(v.start_ms)}: {markdown(r)}" for v in verdicts for r in v.reasons]
    shown = [f"- performance {performance.health}: {markdown(r)}" for r in performance.reasons]
    return "\n".join([*lines, "", *reasons, *shown, ""])


def windows_table(
    verdicts: Sequence[WindowVerdict],
    *,
    score_word: str = SCORE,
    shown: Callable[[str], str] = str,
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns, and a row for each window.

    Args:
        score_word: word for the champion's scores.
        shown: returns an input's name as it is to be written; by default unchanged.
    """
    has_alerts = any(v.alert_share is not None for v in verdicts)
    share = ("alert share",) if has_alerts else ()
    columns = ("window (UTC)", "requests", "verdict", *share, "largest PSI", "largest distance")

    def name(moved: Shift) -> str:
        return shown(score_word if moved.name == SCORE else moved.name)

    return columns, [_row(v, name, has_alerts=has_alerts) for v in verdicts]


def _row(
    verdict: WindowVerdict, name: Callable[[Shift], str], *, has_alerts: bool
) -> tuple[str, ...]:
    alerts, shifts = verdict.alert_share, verdict.shifts
    share = [f"{alerts.share:.2%}" if alerts else "n/a"] if has_alerts else []
    psi = max(shifts, key=lambda s: s.psi, default=None)
    far = max(shifts, key=lambda s: s.distance, default=None)
    return (
        minute_text(verdict.start_ms),
        f"{verdict.rows:,}",
        str(verdict.health),
        *share,
        f"{psi.psi:.3f} ({name(psi)})" if psi else "n/a",
        f"{far.distance:.2f} sd ({name(far)})" if far else "n/a",
    )


def _has_values(sample: Sample, name: str) -> bool:
    return name in sample and bool(np.isfinite(sample[name]).any())


def _chosen(
    values: npt.NDArray[Any], rows: int, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    chosen = random.choice(len(values), min(rows, len(values)), replace=False)
    return values[chosen].astype(np.float64)


def _values(column: Column, rows: int) -> npt.NDArray[np.float64]:
    missing = round(column.missing_share * rows)
    if column.is_category:
        return np.concatenate([_places(column, rows - missing), np.full(missing, np.nan)])
    stored = np.array(column.quantiles)
    positions = (np.arange(rows - missing) + 0.5) / (rows - missing) * len(stored) - 0.5
    values = np.interp(positions, np.arange(len(stored)), stored)
    return np.concatenate([values, np.full(missing, np.nan)])


def _places(column: Column, rows: int) -> npt.NDArray[np.float64]:
    """The first place of each bin, repeated as often as the bin's share says."""
    first = np.array([1.0, *np.ceil(column.edges)])
    taken = np.searchsorted(np.cumsum(column.shares), (np.arange(rows) + 0.5) / max(rows, 1))
    return first[np.minimum(taken, len(first) - 1)]
