"""`mlplatform skew` reads what is new, keeps where it stopped, and exits with what it found."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.learning.skew import last_pass
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.operations import wiring
from mlplatform.operations.actions import skew as job
from mlplatform.operations.actions.training import last_skew
from mlplatform.operations.prefect_server.local_flows import FLOWS
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import NotFound
from support.skew_world import Faults, World

FEATURES = sum(len(v.feature_names) for v in load_views(model_folder("fraud")))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "home"))
    caches = (wiring.settings, wiring.platform)
    for cache in caches:
        cache.cache_clear()
    yield tmp_path / "home"
    for cache in caches:
        cache.cache_clear()


def filled(root: Path, faults: Faults, days: int, a_day: int) -> wiring.Platform:
    settings = load({"MLPLATFORM_HOME": str(root)})
    settings.home.create()
    World(
        settings.home.decisions,
        faults,
        load_definition("fraud"),
        offline_folder=settings.home.offline("fraud"),
    ).run(days, a_day)
    return wiring.Platform(settings)


def asked(*words: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(commands.app, ["skew", "fraud", "--json", *words])
    return result.exit_code, json.loads(result.stdout)


def test_a_pass_keeps_where_it_stopped_and_what_it_found(home: Path) -> None:
    platform = filled(home, Faults(), days=5, a_day=300)
    code, first = asked()
    again_code, again = asked()
    look_code, look = asked("--days", "2", "--sample", "50")

    assert (code, again_code, look_code) == (0, 0, 0)
    assert first["sampled"] == 1_500
    assert {f["verdict"] for f in first["features"]} == {"equal"}
    assert first["words"] == f"all {FEATURES} features are what they should be"
    assert again["sampled"] == 0
    assert (look["sampled"], look["population"] < 1_500) == (50, True)
    found = last_pass.last(platform.settings.home.measured, "fraud")
    assert found is not None
    assert found.report.sampled == 1_500
    assert set(found.position) == {"gateway-a", "gateway-b"}
    assert last_skew(platform, "fraud") == found.report


def test_what_is_skewed_is_named_in_the_table_and_by_the_exit_code(home: Path) -> None:
    wrong = Faults(served=lambda values, _: values.update(customer_count_7d=99.5))
    filled(home, wrong, days=2, a_day=100)
    result = CliRunner().invoke(commands.app, ["skew", "fraud"], env={"COLUMNS": "200"})

    assert result.exit_code == 1
    assert f"1 of {FEATURES} features are skewed: customer_count_7d" in result.stdout
    assert "99.5" in result.stdout


def test_a_pass_that_can_say_nothing_leaves_its_decisions_to_the_next(home: Path) -> None:
    platform = filled(home, Faults(), days=1, a_day=50)
    assert not job.check(platform, "fraud").is_known
    assert last_pass.last(platform.settings.home.measured, "fraud") is None
    assert job.check(platform, "fraud").sampled == 50


def test_a_file_that_cannot_be_read_is_no_hindrance(home: Path) -> None:
    platform = filled(home, Faults(), days=1, a_day=50)
    folder = platform.settings.home.measured
    folder.mkdir(exist_ok=True)
    (folder / "fraud.skew.json").write_bytes(b"\xff{")
    assert job.check(platform, "fraud").sampled == 50


def test_a_whole_sample_that_says_nothing_is_not_read_for_ever(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More decisions make it no larger: each pass would read all of the log since."""
    platform = filled(home, Faults(), days=1, a_day=150)
    monkeypatch.setattr(job, "SAMPLE", 100)
    assert not job.check(platform, "fraud", size=50).is_known
    assert last_pass.last(platform.settings.home.measured, "fraud") is None, "of a smaller sample"
    assert not job.check(platform, "fraud", size=100).is_known
    assert job.check(platform, "fraud", size=100).population == 0


def test_a_log_that_was_put_back_is_looked_at_anew(home: Path) -> None:
    """What is logged after a restore has numbers that an earlier pass has read already."""
    platform = filled(home, Faults(), days=1, a_day=50)
    folder = platform.settings.home.measured
    ahead = dict.fromkeys(("gateway-a", "gateway-b"), 10**6)
    last_pass.keep(folder, "fraud", last_pass.LastPass(1, ahead, job.check(platform, "fraud")))

    assert job.check(platform, "fraud").sampled == 50


def test_a_model_without_decisions_is_told_so(home: Path) -> None:
    settings = load({"MLPLATFORM_HOME": str(home)})
    settings.home.create()
    with pytest.raises(NotFound, match="has answered no request yet"):
        job.check(wiring.Platform(settings), "fraud")


def test_the_page_has_a_row_for_each_feature(home: Path) -> None:
    platform = filled(home, Faults(), days=1, a_day=50)
    page = job.page(job.check(platform, "fraud"))
    assert page.startswith("## Did decisions of fraud read what they should have?")
    assert page.count("| not known |") == FEATURES


def test_a_daily_run_without_anything_to_compare_does_not_fail(home: Path) -> None:
    settings = load({"MLPLATFORM_HOME": str(home)})
    settings.home.create()
    flow = runpy.run_path(str(FLOWS / "skew.py"))
    assert "has answered no request yet" in flow["check"].fn("fraud")
