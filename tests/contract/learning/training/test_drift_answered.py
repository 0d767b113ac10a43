"""The demo of a team's model, without its platform: a fit on the labels that have matured since its
requests changed passes the gates, and is better than the champion on later ones."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from tests.support.team_folder import team_folder

from demo import drift, team
from demo.source import DAY_MS, event_ms
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.evaluate import Runnable, load_runnable
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.model.folders import load_definition
from mlplatform.operations.actions import features, training
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load

pytestmark = pytest.mark.slow

PLAYED_DAYS = 10
"""Until a version has been promoted and taken back, in most demos."""


def made(
    platform: Platform, model: str, as_of_ms: int, champion: Runnable | None
) -> tuple[Candidate, GateReport]:
    folder, offline = training.load_folder(model), platform.offline(model)
    dataset = retrain.build_dataset(folder, offline, as_of_ms=as_of_ms, champion=champion)
    recent = retrain.recent_requests(folder, offline, as_of_ms=as_of_ms, champion=champion)
    candidate = retrain.fit(folder, dataset, bundles=platform.settings.home.bundles, recent=recent)
    report = retrain.validate(folder, candidate, dataset, champion=champion, recent=recent)
    candidate.model.close()
    return candidate, report


@pytest.mark.parametrize("folder", sorted(team.TEAMS.glob("*/*")), ids=lambda f: f.name)
def test_the_version_that_answers_drift_is_better(folder: Path, tmp_path: Path) -> None:
    model = folder.name
    with team_folder(folder.parent, tmp_path / "var"):
        source = team.prepare(model, 1, tmp_path)
        change_ms = source.go_live_ms + PLAYED_DAYS * DAY_MS
        played = source.live.filter(pa.array(event_ms(source.live).to_numpy() < change_ms))
        after = drift.changed_requests(model, 1, change_ms)
        platform = Platform(load(os.environ))
        platform.settings.home.create()
        history = pa.concat_tables([source.history, played, after])
        features.import_history(platform, model, history, "made up")
        first, report = made(platform, model, source.go_live_ms, None)
        assert report.reasons == ()
        asked_ms = change_ms + (drift.lag_days(load_definition(model)) + 1) * DAY_MS
        _, report = made(platform, model, asked_ms, load_runnable(first.folder))
        assert report.reasons == ()
        name = drift.MEASURES[load_definition(model).task]
        compared = next(m for m in report.measures if m.name == name)
        assert compared.difference is not None
        assert compared.difference.low > 0
