"""A load test is held to slo.yaml and the model's own numbers, and to nothing written again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.load import profiles, runs
from tests.load.__main__ import check_host, parser
from tests.load.objectives import DROPPED, SURFACES, Surface, goals, thresholds
from tests.load.report import Report, Status, lines, report
from tests.load.rows import rows

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import load_definition, parse
from mlplatform.observing.slo import objectives as slo
from mlplatform.scoring.request.payloads import Payloads

OBJECTIVES = slo.load(slo.SHIPPED)
FRAUD = load_definition("fraud")
ROOT = Path(__file__).parents[3]
OTHERS = ("teams/credit/credit-default", "teams/payments-data/merchant-category")


@pytest.mark.parametrize("tier", [1, 2, 3])
def test_thresholds_are_those_of_the_tier(tier: Any) -> None:
    model = msgspec.structs.replace(FRAUD, tier=tier)
    own = OBJECTIVES.tiers[tier]
    assert thresholds(goals(OBJECTIVES, model, "score")) == {
        "availability": [f"rate>={own.availability.objective:g}"],
        "latency": [f"rate>={own.latency.objective:g}"],
        "deadline": [f"rate>={own.deadline.objective:g}"],
        "freshness": [f"rate>={own.freshness.objective:g}"],
        "accepted": [f"rate>={1 - OBJECTIVES.limits.refused_share:g}"],
        DROPPED: ["count==0"],
    }


@pytest.mark.parametrize("surface", SURFACES)
def test_the_scripts_read_the_models_own_limits(surface: Surface, tmp_path: Path) -> None:
    model = msgspec.structs.replace(FRAUD, latency_slo_ms=25, deadline_ms=80)
    secret = tmp_path / "api.key"
    secret.write_text("a-secret")
    made = runs.plan(load(surface, secret), model, goals(OBJECTIVES, model, surface), tmp_path)
    assert (made["latency_slo_ms"], made["deadline_ms"]) == (25, 80)
    assert set(made["rates"]) == set(made["options"]["thresholds"]) - {DROPPED}
    assert "a-secret" not in json.dumps(made)


@pytest.mark.parametrize("folder", ["models/fraud", *OTHERS])
def test_every_model_takes_the_rows_that_are_made_for_it(folder: str) -> None:
    model = parse((ROOT / folder / "model.yaml").read_text(), folder)
    payloads = Payloads(model)
    made = rows(model, 200, entities=50, seed=1)
    for row in made:
        payloads.score(json.dumps({**row, "event_time": 1_767_225_600_000}).encode())
    assert len({json.dumps(row) for row in made}) > 100
    assert made == rows(model, 200, entities=50, seed=1)


def test_a_day_has_a_night_a_midday_and_a_spike_of_four() -> None:
    day = profiles.stages("day", rate_per_s=100.0, seconds=240.0)
    assert sum(stage.seconds for stage in day) == pytest.approx(240.0)
    assert profiles.peak(day) == 400.0
    assert min(stage.to_per_s for stage in day) == 10.0
    assert (day[0].from_per_s, day[-1].to_per_s) == (10.0, 10.0)  # one day follows another
    hours = [stage.seconds / 10 for stage in day if stage.to_per_s == stage.from_per_s == 400.0]
    assert hours == [0.75]


@pytest.mark.parametrize(
    ("profile", "rate", "seconds", "named"),
    [
        ("steady", 0.0, 10.0, "--rate"),
        ("steady", profiles.MAX_RATE_PER_S + 1, 10.0, "--rate"),
        ("day", profiles.MAX_RATE_PER_S / 2, 10.0, "100000 at the peak"),
        ("steady", 1.0, 0.0, "--seconds"),
        ("steady", 1.0, profiles.MAX_SECONDS + 1, "--seconds"),
        ("steady", float("nan"), 10.0, "--rate"),
    ],
)
def test_rate_and_time_are_bounded(profile: Any, rate: float, seconds: float, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        profiles.stages(profile, rate_per_s=rate, seconds=seconds)


def test_another_machine_is_named_twice() -> None:
    for url in ("http://127.0.0.1:8080", "https://localhost", "http://[::1]:1"):
        check_host(url, [])
    with pytest.raises(ValueError, match=r"--confirm-host scoring\.bank\.example"):
        check_host("https://scoring.bank.example", ["other.bank.example"])
    check_host("https://scoring.bank.example", ["scoring.bank.example"])
    for wrong in ("ftp://localhost", "localhost:8080", "http://key:word@localhost"):
        with pytest.raises(ValueError, match="--url"):
            check_host(wrong, [])


def test_a_run_that_scored_nothing_meets_no_objective() -> None:
    """All requests refused by a rate limit: none was late, and the test fails."""
    found = judged(availability=(100, 0), accepted=(0, 100))
    assert found.status is Status.MISSED
    shares = {outcome.name: outcome.share for outcome in found.outcomes}
    assert shares["latency"] is None
    assert "nothing" in "\n".join(lines(found))


@pytest.mark.parametrize(
    ("late", "dropped", "late_ms", "status"),
    [
        (10, 0, 1.0, Status.MET),
        (11, 0, 1.0, Status.MISSED),
        (0, 1, 1.0, Status.MISSED),
        (0, 0, 51.0, Status.GENERATOR_BEHIND),
    ],
)
def test_status_is_that_of_the_objectives(
    late: int, dropped: int, late_ms: float, status: Status
) -> None:
    found = judged(
        dropped,
        late_ms,
        availability=(1000, 0),
        latency=(1000 - late, late),
        deadline=(1000, 0),
        freshness=(1000, 0),
        accepted=(1000, 0),
    )
    assert found.status is status


def test_few_events_are_said_to_show_little() -> None:
    found = judged(availability=(500, 0), accepted=(500, 0))
    shown = {outcome.name: outcome.shows for outcome in found.outcomes}
    assert (shown["availability"], shown["accepted"]) == (False, True)  # 10 000 and 100 are needed


def test_help_names_the_exit_status() -> None:
    assert "Exit status" in parser().format_help()


def load(surface: Surface, key_file: Path) -> runs.Load:
    stages = profiles.stages("steady", rate_per_s=10.0, seconds=5.0)
    return runs.Load(surface, ("http://127.0.0.1:1",), key_file, stages)


def judged(dropped: int = 0, late_ms: float = 1.0, **rates: tuple[int, int]) -> Report:
    """A report of rates, each as good and bad events."""
    metrics: dict[str, dict[str, Any]] = {
        name: {"values": {"passes": good, "fails": bad}} for name, (good, bad) in rates.items()
    }
    metrics["requests"] = {"values": {"count": 1000}}
    metrics[DROPPED] = {"values": {"count": dropped}}
    times = {"med": 0.5, "p(90)": 1.0, "p(99)": late_ms, "p(99.9)": late_ms, "max": late_ms}
    metrics |= {name: {"values": times} for name in ("latency_ms", "duration_ms", "late_ms")}
    return report({}, 1000, wanted(FRAUD), metrics)


def wanted(model: ModelDefinition) -> Any:
    return goals(OBJECTIVES, model, "score")
