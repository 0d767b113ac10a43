"""The demo's chapter of drift without its processes: a team's model over a real log and journal.

Requests, labels and the nights on which a check is made are the demo's. What the check
finds, when it asks for a retrain and what the gates say is the platform's.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.support.team_folder import team_folder
from tests.support.train_libraries import needed_of

from demo import drift, team
from demo.source import Source, event_ms
from demo.traffic import Recording
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.evaluate import Runnable, load_runnable
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.training_sets.join import training_join
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.model.bundle import Bundle
from mlplatform.model.inputs import InputPlan
from mlplatform.model.routes import Arm, Routes
from mlplatform.operations.actions import drift as checks
from mlplatform.operations.actions import features
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.drift.execute import RetrainRequest
from mlplatform.rollouts.journal.transitions import Opened, Promoted
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.units import DAY_MS

pytestmark = pytest.mark.slow

PLAYED_DAYS = 9
"""Until a version has been promoted and taken back, in most demos."""
A_TRANSACTION = 2_000


class World:
    """A champion that decides about the demo's requests, one day after the other."""

    def __init__(self, model: str, cache: Path) -> None:
        self.model, self.source = model, team.prepare(model, 1, cache)
        self.platform = Platform(dataclasses.replace(load(os.environ), clock="replay"))
        self.platform.settings.home.create()
        features.import_history(self.platform, model, self.source.history, "made up")
        candidate, report = self.retrained(self.source.go_live_ms, None)
        assert report.reasons == ()
        self.champion = load_runnable(candidate.folder)
        self.change_ms = self.source.go_live_ms + PLAYED_DAYS * DAY_MS
        requests = played(self.source, self.change_ms)
        requests = pa.concat_tables([requests, drift.changed_requests(model, 1, self.change_ms)])
        fields = tuple(self.platform.definition(model).request)
        self.recording = Recording(requests, fields)
        self._decided = self._decisions(requests)
        self._row = self._label = 0
        self._promote(self.champion.bundle)

    def retrained(self, as_of_ms: int, champion: Runnable | None) -> tuple[Candidate, GateReport]:
        """What the flow `retrain` makes as of a moment, and what its gates say."""
        folder, offline = load_folder(self.model), self.platform.project_offline(self.model)
        asked: dict[str, Any] = {"as_of_ms": as_of_ms, "champion": champion, "join": training_join}
        dataset = retrain.build_dataset(folder, offline, **asked)
        recent = retrain.recent_requests(folder, offline, **asked)
        bundles = self.platform.settings.home.bundles
        candidate = retrain.fit(folder, dataset, bundles=bundles, recent=recent)
        report = retrain.validate(folder, candidate, dataset, champion=champion, recent=recent)
        candidate.model.close()
        return candidate, report

    def play(self, midnight_ms: int) -> None:
        """Requests and labels up to a midnight, and the first request of the day after."""
        end = self.recording.first_row_at(midnight_ms) + 1
        self._append([self._request(row) for row in range(self._row, end)])
        self._row, order = end, self.recording.by_label_time
        due = np.searchsorted(self.recording.label_ms[order], midnight_ms, side="right")
        self._append([self._outcome(row) for row in order[self._label : due].tolist()])
        self._label = int(due)

    def _decisions(self, requests: pa.Table) -> list[tuple[float, str]]:
        bundle = self.champion.bundle
        words = bundle.vocabularies
        definition = self.platform.definition(self.model)
        plan = InputPlan(definition, (), bundle.inputs, vocabularies=words)
        x = np.ascontiguousarray(plan.matrix(requests), np.float32)
        scores = bundle.calibrate_many(self.champion.model.scores(x))
        names = [bundle.scale.names[place] for place in bundle.decide_many(scores, x)]
        highest = scores if scores.ndim == 1 else scores.max(axis=1)
        return list(zip(highest.tolist(), names, strict=True))

    def _promote(self, bundle: Bundle) -> None:
        arm, journal = Arm(1, bundle.digest, "v1"), self.platform.rollouts
        fact: dict[str, Any] = {
            "rollout_id": "r1", "model": self.model, "event_ms": self.source.go_live_ms,
            "wall_ms": 0, "actor": "test", "reason": "test",
        }  # fmt: skip
        band = bundle.alert_band
        opened = Opened(
            **fact, challenger=arm, author="test", alert_low=band.low, alert_high=band.high,
            bootstrap=True, approval="none",
        )  # fmt: skip
        journal.commit(opened, None)
        fence = journal.acquire(self.model, "test", 60.0)
        assert fence is not None
        routes = Routes(self.model, 1, arm, None, None, "r1", "steady", 0.0)
        journal.commit(Promoted(**fact, predecessor=None), fence, routes)

    def _request(self, row: int) -> Record:
        request = self.recording.request(row)
        at_ms, (score, decision) = int(str(request.pop("event_time"))), self._decided[row]
        return self._record(
            "decision", row, at_ms, generation=1, arm="champion", answered_by="champion",
            unit=int(str(request["customer_id"])), version=1, score=score, decision=decision,
            payload={"request": request, "features": {}, "feature_times": {}},
        )  # fmt: skip

    def _outcome(self, row: int) -> Record:
        label = self.recording.labels[row]
        named = {"decision": label} if isinstance(label, str) else {"label": int(label)}
        return self._record("label", row, int(self.recording.label_ms[row]), **named)

    def _record(self, kind: Any, row: int, at_ms: int, **more: Any) -> Record:
        about: dict[str, Any] = {"decision_id": f"d{row}", "model": self.model, **more}
        return Record(kind=kind, event_ms=at_ms, recorded_ms=at_ms, **about)

    def _append(self, records: Sequence[Record]) -> None:
        for start in range(0, len(records), A_TRANSACTION):
            batch = [Entry(record) for record in records[start : start + A_TRANSACTION]]
            self.platform.log.append("gateway-0", batch)


def played(source: Source, change_ms: int) -> pa.Table:
    return source.live.filter(pa.array(event_ms(source.live).to_numpy() < change_ms))


@pytest.fixture(params=sorted(team.TEAMS.glob("*/*")), ids=lambda folder: folder.name)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    folder: Path = request.param
    needed_of(folder)
    with team_folder(folder.parent, tmp_path / "var"):
        yield World(folder.name, tmp_path)


def test_drift_is_found_and_answered_by_a_better_version(world: World) -> None:
    platform, model, change_ms = world.platform, world.model, world.change_ms
    lag_days = drift.lag_days(platform.definition(model))
    asked: dict[int, list[RetrainRequest]] = {}
    found = None
    for day in range(-1, lag_days + drift.SPARE_DAYS):
        midnight_ms = change_ms + day * DAY_MS
        world.play(midnight_ms)
        is_found = found is not None
        if not drift.is_check_due(midnight_ms, change_ms, is_found=is_found, lag_days=lag_days):
            continue
        check = checks.watch(platform, model, holder="drift-watch")
        found, problem = drift.drift_incident(
            platform.incidents.list(model), change_ms, midnight_ms
        )
        assert problem == ""
        asked[day] = [r for r in check.requests if isinstance(r, RetrainRequest)]
        if asked[day]:
            break
    assert list(asked) == [-1, 0, 1, 2, lag_days + 1]
    [request] = asked[lag_days + 1]
    assert found is not None
    assert (found.found.changed_ms, found.state, request.incident) == (
        change_ms,
        "claimed",
        found.id,
    )
    _, report = world.retrained(request.as_of_ms, world.champion)
    assert report.reasons == ()
    name = drift.MEASURES[platform.definition(model).task]
    compared = next(measure for measure in report.measures if measure.name == name)
    assert compared.difference is not None
    assert compared.difference.low > 0
