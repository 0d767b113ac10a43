"""The report for people is made from samples, and needs no network to be read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mlplatform.model import profile as profiles
from mlplatform.model.folders import load_definition
from mlplatform.rollouts.drift import report
from mlplatform.rollouts.drift.measures import Shift
from mlplatform.rollouts.drift.performance import PerformanceVerdict
from mlplatform.rollouts.drift.verdict import AlertShare, Band, Health, Window, WindowVerdict
from mlplatform.runtime.errors import InputInvalid

POLICY = load_definition("fraud").drift
RNG = np.random.default_rng(1)


def some_profile() -> profiles.Profile:
    amount = np.where(RNG.random(4000) < 0.2, np.nan, RNG.lognormal(3, 0.6, 4000))
    scores = RNG.beta(1, 60, 4000)
    units = np.arange(4000)
    return profiles.profile(amount[:, None], ["amount"], scores, scores > 0.1, units)


def window(rows: int, scored: int) -> Window:
    scores = RNG.beta(1, 60, scored)
    inputs = {"amount": RNG.lognormal(3.4, 0.6, rows).astype(np.float32)}
    return Window(0, 1, inputs, np.arange(rows), scores, scores > 0.1, np.arange(scored))


def test_a_profile_gives_values_distributed_as_it_says() -> None:
    profile = some_profile()
    again = profiles.column(report.profile_sample(profile)["amount"], "amount")
    column = profile.inputs["amount"]
    assert again.missing_share == pytest.approx(column.missing_share, abs=0.001)
    assert again.quantiles[2:-2] == pytest.approx(column.quantiles[2:-2], rel=0.02)


def test_samples_are_bounded_and_repeatable() -> None:
    windows = [window(9000, 500), window(100, 0)]
    sample = report.window_sample(windows, 5000)
    assert {name: len(values) for name, values in sample.items()} == {"amount": 5000, "score": 500}
    assert np.array_equal(report.window_sample(windows, 5000)["amount"], sample["amount"])


def test_the_file_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    path = report.write_report(
        report.profile_sample(some_profile()),
        report.window_sample([window(2000, 2000)]),
        POLICY,
        tmp_path / "reports" / "drift.html",
    )
    page = path.read_text()
    assert "amount" in page
    assert re.findall(r'(?:src|href)="https?://(?!plotly\.com/")[^"]*"', page) == []


def test_without_values_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="no column"):
        report.write_report(
            report.profile_sample(some_profile()), {}, POLICY, tmp_path / "drift.html"
        )


def test_the_summary_names_what_moved() -> None:
    moved = Shift("amount", 5000, 0.31, 0.2, 0.5, 0.1, 0.0)
    alerts = AlertShare(5000, 100, 0.015, 0.025, Band(0.005, 0.03))
    verdicts = [
        WindowVerdict(0, 1, 5000, Health.UNHEALTHY, ("amount moved",), (moved,), alerts),
        WindowVerdict(86_400_000, 2, 12, Health.INCONCLUSIVE, ("12 payments",)),
    ]
    text = report.summary("fraud", 3, verdicts, "1 of 3 windows drifted")
    assert (
        "| 1970-01-01 00:00 | 5,000 | UNHEALTHY | 2.00% | 0.310 (amount) | 0.50 sd (amount) |"
    ) in text
    assert "| 1970-01-02 00:00 | 12 | INCONCLUSIVE | n/a | n/a | n/a |" in text
    assert "- 1970-01-02 00:00: 12 payments" in text


def test_without_a_share_of_alerts_there_is_no_column_of_it() -> None:
    moved = Shift("score", 5000, 0.31, 0.2, 0.5, 0.1, 0.0)
    verdicts = [
        WindowVerdict(0, 1, 5000, Health.UNHEALTHY, ("number moved",), (moved,)),
        WindowVerdict(86_400_000, 2, 12, Health.INCONCLUSIVE, ("12 requests",)),
    ]
    text = report.summary("m", 3, verdicts, "1 of 3 windows drifted", score_word="number")
    assert "alert share" not in text
    assert "| window (UTC) | requests | verdict | largest PSI | largest distance |\n" in text
    assert "|---|---|---|---|---|\n" in text
    assert ("| 1970-01-01 00:00 | 5,000 | UNHEALTHY | 0.310 (number) | 0.50 sd (number) |") in text
    assert "| 1970-01-02 00:00 | 12 | INCONCLUSIVE | n/a | n/a |" in text


def test_the_summary_says_what_matured_labels_show() -> None:
    performance = PerformanceVerdict(Health.UNHEALTHY, ("recall since 1970-01-05 is 20 %",), 0)
    text = report.summary("fraud", 3, [], "steady", performance)
    assert "- performance UNHEALTHY: recall since 1970-01-05 is 20 %" in text
    assert "performance INCONCLUSIVE" in report.summary("fraud", 3, [], "steady")
