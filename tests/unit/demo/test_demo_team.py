"""The demo of a team's model: its requests, its labels, and whose home it takes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from demo import __main__ as command
from demo import locks, team
from demo.run import Options, run
from demo.source import event_ms
from demo.state import DemoState, Diary
from demo.traffic import Recording
from mlplatform.operations import wiring
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import ConfigInvalid, Refused
from mlplatform.runtime.units import DAY_MS

MODEL = "merchant-category"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ))
    monkeypatch.delenv("MLPLATFORM_MODELS", raising=False)


def test_its_history_ends_where_its_traffic_begins_and_is_the_same_again(tmp_path: Path) -> None:
    team.name_folder(MODEL)
    made = team.prepare(MODEL, 1, tmp_path)
    assert int(event_ms(made.history).to_numpy().max()) < made.go_live_ms
    live = event_ms(made.live).to_numpy()
    assert made.go_live_ms <= live.min()
    assert len(live) / team.LIVE_DAYS == team.REQUESTS_A_DAY
    again = team.prepare(MODEL, 1, tmp_path)
    assert again.live.equals(made.live)
    assert not set(made.live["request_id"].to_pylist()) & set(
        made.history["request_id"].to_pylist()
    )


def test_labels_are_the_models_own_and_requests_without_one_are_never_labelled() -> None:
    times = pa.array([1, 2, 3], pa.timestamp("ms"))
    columns: dict[str, Any] = {
        "request_id": ["a", "b", "c"],
        "event_time": times,
        "label": ["fuel", None, "taxi"],
        "label_time": pa.array([9, None, 5], pa.timestamp("ms")),
    }
    recording = Recording(pa.table(columns), ())
    assert np.array_equal(recording.by_label_time, [2, 0])
    assert (recording.label(0).label, recording.label(2).event_time) == ("fuel", 5)


def test_a_model_that_nobody_has_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no model 'credit'; there are fraud"):
        team.prepare("credit", 1, tmp_path)


def test_a_home_of_another_models_demo_is_refused(tmp_path: Path) -> None:
    settings = load({"MLPLATFORM_HOME": str(tmp_path)})
    settings.home.create()
    settings.home.demo.mkdir()
    state = DemoState("fraud", "generated", 1, 0, DAY_MS)
    Diary(settings.home.demo / "state.json", state, lambda _: None).save()
    options = Options(None, 1, keep=False, resume=True, model=MODEL)
    with pytest.raises(Refused, match="a demo of fraud, not of merchant-category"):
        asyncio.run(run(settings, options))


def test_payments_of_the_handbook_are_none_of_its(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="--transactions"):
        command.demo(model=MODEL, transactions=tmp_path)


def test_its_default_home_is_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLPLATFORM_HOME", raising=False)
    monkeypatch.setattr(command, "check_libraries", lambda model: None)  # PyTorch may be missing
    wiring.settings.cache_clear()
    try:
        with pytest.raises(Refused, match=f"no demo to resume in {tmp_path}/var-demo-{MODEL}/demo"):
            command.demo(model=MODEL, resume=True)
    finally:
        wiring.settings.cache_clear()


def test_the_library_that_it_is_fitted_with_is_installed_first() -> None:
    team.name_folder("credit-default")
    assert locks.make_targets("credit-default") == [".venv/.train-xgboost"]
    assert locks.make_targets("nobodys-model") == []


def test_a_library_that_is_not_installed_is_named_with_its_command_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "xgboost", None)
    said = r"import is 'xgboost'; wanted: a package that is installed here: `make train-xgboost`"
    with pytest.raises(ConfigInvalid, match=said):
        command.demo(model="credit-default")
    assert list(tmp_path.iterdir()) == []
