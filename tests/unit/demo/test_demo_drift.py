"""The drift of a team's model in its demo: what is played, when a check is due, what is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from demo import drift, team
from demo.source import event_ms
from demo.state import DemoState
from mlplatform.learning.registry.versions import Version, VersionFacts
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import load_definition
from mlplatform.rollouts.drift.incidents import Change, Incident, IncidentFinding
from mlplatform.runtime.units import DAY_MS

MODEL = "merchant-category"
CHANGE_MS = 20_600 * DAY_MS


@pytest.fixture(autouse=True)
def teams_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPLATFORM_MODELS", str(team.TEAMS / "payments-data"))


def state(changed_row: int | None) -> DemoState:
    made = DemoState(MODEL, "generated", 1, CHANGE_MS - 5 * DAY_MS, CHANGE_MS)
    made.changed_row = changed_row
    return made


def live() -> pa.Table:
    return drift.generated(
        load_definition(MODEL), seed=2, start_ms=CHANGE_MS - DAY_MS, days=3, requests_a_day=400
    )


def test_requests_of_the_changed_pattern_follow_those_that_were_played(tmp_path: Path) -> None:
    before = live()
    row = int(np.searchsorted(event_ms(before).to_numpy(), CHANGE_MS))
    assert drift.live_requests(before, state(None), tmp_path) is before
    played = drift.live_requests(before, state(row), tmp_path)
    assert played.slice(0, row).equals(before.slice(0, row))
    times = event_ms(played).to_numpy()
    assert (np.diff(times) >= 0).all()
    after = played.slice(row)
    generator = load_module(MODEL, "generator")
    site = load_module(MODEL, "descriptors").online_shop(generator.ONLINE[0], 0)
    assert site in after["descriptor"].to_pylist()[: drift.JUDGED_REQUESTS]
    assert site not in before["descriptor"].to_pylist()
    ids = played["request_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    again = drift.live_requests(before, state(row), tmp_path)
    assert again.equals(played), "a resumed demo plays the same"


def test_the_first_days_can_be_judged_and_the_last_ones_reach_a_retrain() -> None:
    definition = load_definition(MODEL)
    table = drift.changed_requests(MODEL, 1, CHANGE_MS)
    day = (event_ms(table).to_numpy() - CHANGE_MS) // DAY_MS
    a_day = np.bincount(day)
    assert (a_day[: drift.JUDGED_DAYS] >= definition.drift.minimum_rows).all()
    assert len(a_day) == drift.lag_days(definition) + drift.SPARE_DAYS
    assert definition.drift.drifted_windows <= drift.JUDGED_DAYS


def test_a_model_says_by_its_generator_whether_it_can_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert drift.changes(MODEL)
    folder = tmp_path / "steady"
    folder.mkdir()
    (folder / "model.yaml").write_bytes(
        (team.TEAMS / "payments-data" / MODEL / "model.yaml")
        .read_bytes()
        .replace(b"name: merchant-category", b"name: steady")
    )
    (folder / "sources.py").write_text(
        "def generate(*, seed, start_ms, days, maturity_days): ...\n"
    )
    monkeypatch.setenv("MLPLATFORM_MODELS", str(tmp_path))
    assert not drift.changes("steady")


@pytest.mark.parametrize(
    ("days", "is_found", "due"),
    [
        (0, False, True),
        (2, False, True),
        (2, True, False),
        (9, True, False),
        (10, True, True),
        (11, True, True),
    ],
)
def test_a_check_is_due_until_drift_is_found_and_once_a_retrain_can_learn_it(
    days: int, is_found: bool, due: bool
) -> None:
    midnight_ms = CHANGE_MS + days * DAY_MS
    found = drift.is_check_due(midnight_ms, CHANGE_MS, is_found=is_found, lag_days=9)
    assert found == due


def incident(*, kind: str = "drift", changed_ms: int = CHANGE_MS) -> Incident:
    evidence = {"reasons": ["merchant moved"]}
    found = IncidentFinding(MODEL, kind, CHANGE_MS + 2 * DAY_MS, changed_ms, 1, evidence)
    change = Change(1, 0, "open", 0, None, "opened")
    return Incident(f"{kind}-1", found, "open", 0, None, 0, None, (change,))


@pytest.mark.parametrize(
    ("incidents", "days", "problem"),
    [
        ([], 0, ""),
        ([], 2, ""),
        ([], 3, "found nothing in 3 days since the requests changed"),
        ([incident(kind="performance")], 3, "found nothing in 3 days"),
        ([incident()], 3, ""),
        ([incident(changed_ms=CHANGE_MS - DAY_MS)], 1, "drift-1 finds drift since 2026-05-26"),
    ],
)
def test_drift_is_to_be_found_in_time_and_never_before_the_change(
    incidents: list[Incident], days: int, problem: str
) -> None:
    midnight_ms = CHANGE_MS + days * DAY_MS
    found, told = drift.drift_incident(incidents, CHANGE_MS, midnight_ms)
    assert (problem in told) if problem else told == ""
    assert (found is not None) == any(i.found.kind == "drift" for i in incidents)


def version(measures: list[Any]) -> Version:
    report = {"gates": [{"name": "accuracy"}, {"name": "latency"}], "measures": measures}
    facts = VersionFacts(
        bundle="b", data_from_ms=0, data_to_ms=1, data_digest="d", code_version="c", metrics={},
        report=cast(Any, report), author="drift-watch", validated=True, alert_low=0.0,
        alert_high=1.0, seed=1,
    )  # fmt: skip
    return Version(MODEL, 3, "b", "run", 0, facts)


def interval(value: float, low: float = 0.0, high: float = 0.0) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def measured(name: str, low: float, high: float) -> dict[str, Any]:
    return {
        "name": name,
        "candidate": interval(0.94),
        "champion": interval(0.82),
        "difference": interval((low + high) / 2, low, high),
    }


def told(measures: list[Any], measure: str = "accuracy") -> dict[str, Any]:
    reason = "1,600 requests of the new pattern have matured"
    return drift.figures(incident(), CHANGE_MS, reason, version(measures), measure)


def test_a_better_version_is_told_with_its_figures() -> None:
    found = told([measured("accuracy", 0.11, 0.13)])
    assert drift.problem_of(found) is None
    assert found["reasons"] == ["merchant moved"]
    assert found["retrain"].startswith("1,600 requests")
    assert drift.words(found) == (
        "drift since 2026-05-27, found on 2026-05-29, is answered by version 3: accuracy "
        "0.940, that of version 1 0.820 on the same requests, all later than those learned from; "
        "the difference lies between +0.110 and +0.130 (90 % interval); 2 gates passed"
    )


@pytest.mark.parametrize(
    ("measures", "measure", "problem"),
    [
        ([], "accuracy", "version 3 has no comparison with the champion by accuracy"),
        ([measured("accuracy", -0.01, 0.02)], "accuracy", "version 3 is not shown to be better"),
        ([measured("mae", 0.1, 0.2)], "mae", "version 3 is not shown to be better"),
        ([measured("mae", -0.2, -0.1)], "mae", None),
    ],
)
def test_a_version_that_is_not_shown_to_be_better_closes_no_loop(
    measures: list[Any], measure: str, problem: str | None
) -> None:
    found = drift.problem_of(told(measures, measure))
    assert found is None if problem is None else problem in str(found)


@pytest.mark.parametrize("task", ["binary", "classes", "real"])
def test_every_task_has_a_measure_that_reports_name(task: str) -> None:
    assert drift.MEASURES[task] in drift.WORDS
