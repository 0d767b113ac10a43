"""The drift check of each model of this repository finds the change of its own generator, dates it,
and is silent where nothing changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.support.team_folder import team_folder
from tests.support.train_libraries import needed_of

from mlplatform.learning.training import retrain
from mlplatform.learning.training.evaluate import Runnable, load_runnable
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.training_sets.dataset import Matrix, requests_between
from mlplatform.learning.training_sets.join import training_join
from mlplatform.learning.validation.replay import replay
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import load_definition
from mlplatform.operations.actions import features
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.drift.verdict import (
    Band,
    DriftFinding,
    DriftVerdict,
    NoDrift,
    Window,
    drift_verdict,
    window_verdict,
)
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.units import DAY_MS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
FOLDERS = {
    folder.parent.name: folder.parents[1]
    for folder in (*ROOT.glob("models/*/model.yaml"), *ROOT.glob("teams/*/*/model.yaml"))
}
FIRST_MS = 20_514 * DAY_MS
REQUESTS_A_DAY = 1_300
QUIET_DAYS, CHANGED_DAYS = 3, 2


@dataclass(frozen=True)
class World:
    """A champion of a shipped model, and the last days of the requests that it meets."""

    model: str
    champion: Runnable
    requests: Matrix
    live_ms: int

    def verdict(self, days: int) -> DriftVerdict:
        """What a check says after so many of the live days."""
        policy, bundle = load_definition(self.model).drift, self.champion.bundle
        band = Band(bundle.alert_band.low, bundle.alert_band.high)
        windows = (self._window(self.live_ms + day * DAY_MS) for day in range(days))
        judged = [
            window_verdict(bundle.profile, window, policy, band, bundle.rhythms)
            for window in windows
        ]
        assert all(not window.faults for window in judged)
        return drift_verdict(judged, policy)

    def _window(self, start_ms: int) -> Window:
        event_ms, bundle = self.requests.event_ms, self.champion.bundle
        rows = self.requests.rows((event_ms >= start_ms) & (event_ms < start_ms + DAY_MS))
        watched = rows.by(bundle.vocabularies)
        names = load_definition(self.model).drift.inputs
        said = replay(bundle, self.champion.model, rows)
        scores = said.scores if said.scores.ndim == 1 else said.scores.max(axis=1)
        inputs = dict(zip(names, watched.columns(names).T, strict=True))
        return Window(
            start_ms, start_ms + DAY_MS, inputs, rows.unit, scores, said.alerts, rows.unit
        )


@pytest.fixture(scope="module", params=sorted(FOLDERS))
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """History, fit and five days of requests, which change after the third."""
    model: str = request.param
    needed_of(FOLDERS[model] / model)
    with team_folder(FOLDERS[model], tmp_path_factory.mktemp(model) / "var"):
        yield made(model)


def made(model: str) -> World:
    definition, sources = load_definition(model), load_module(model, "sources")
    mature, window = definition.label.maturity_days, definition.training.window_days
    live_ms = FIRST_MS + (window + mature + 1) * DAY_MS
    days = window + mature + 1 + QUIET_DAYS + CHANGED_DAYS
    history: pa.Table = sources.generate(
        seed=11,
        start_ms=FIRST_MS,
        days=days,
        pattern_change_ms=live_ms + QUIET_DAYS * DAY_MS,
        maturity_days=mature,
        population=sources.Population(payments_per_day=REQUESTS_A_DAY),
    )
    platform = Platform(load(os.environ))
    platform.settings.home.create()
    features.import_history(platform, model, history, "made up")
    folder, offline = load_folder(model), platform.offline(model)
    dataset = retrain.build_dataset(
        folder, offline, as_of_ms=live_ms, champion=None, join=training_join
    )
    candidate = retrain.fit(folder, dataset, bundles=platform.settings.home.bundles)
    candidate.model.close()
    champion = load_runnable(candidate.folder)
    requests = requests_between(
        definition,
        folder.views,
        offline,
        from_ms=live_ms,
        to_ms=FIRST_MS + days * DAY_MS,
        as_of_ms=FIRST_MS + days * DAY_MS,
        join=training_join,
        words=champion.bundle.vocabularies,
    )
    return World(model, champion, requests, live_ms)


def test_nothing_is_found_while_nothing_changes(world: World) -> None:
    found: Any = world.verdict(QUIET_DAYS)
    assert isinstance(found, NoDrift), found.reasons


def test_the_change_is_found_within_two_days_and_dated(world: World) -> None:
    found: Any = world.verdict(QUIET_DAYS + CHANGED_DAYS)
    assert isinstance(found, DriftFinding), found.reasons
    assert found.since_ms == world.live_ms + QUIET_DAYS * DAY_MS
