"""A version stopped by a limit of its own, however many its champion fails: pictures show it."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import msgspec
import pytest

from mlplatform.decisions.records.port import Watermark
from mlplatform.model.policies.rollout import Tolerance
from mlplatform.observing.page.pictures.gates import Drawing, GatePicture, gate_pictures
from mlplatform.observing.page.queries import rollouts
from mlplatform.observing.page.queries.plots import Plot
from mlplatform.operations.actions.interim_analyses import InterimAnalysis, analysis_of
from mlplatform.rollouts.journal.basis_evidence import Role
from mlplatform.rollouts.journal.evidence import Evidence
from mlplatform.rollouts.journal.transitions import RolledBack
from mlplatform.rollouts.verdicts.judgement import GateLimits, Sources, StepPolicy
from mlplatform.rollouts.verdicts.verdict import Errors, Prediction
from rollout_world import WRITER, canary_rows, fraud, judged

STEP = StepPolicy(
    stop=fraud().rollout.stop,
    tolerance=Tolerance(failures=0.15),
    errors=Errors(stop=0.0005, missed=0.05),
    predicted=Prediction(alert_ratio=1.0, disagreement=0.0),
    percent=25.0,
    units=100,
    requests=0,
    pods=1,
)
LIMITS = GateLimits(error_share=0.01, failure_share=0.005, guardrail_failures=10, step=STEP)


def evidence(role: Role, failed: dict[str, int]) -> Evidence:
    """Evidence as the journal has it, of so many failures of each arm."""
    rows = canary_rows(1200, 25, generation=1, version=2)
    for arm, count in failed.items():
        for row in [row for row in rows if row["arm"] == arm][:count]:
            row |= {"answered_by": "rules", "degraded": True, "degraded_reason": "deadline"}
    limits = LIMITS if role == "canary" else dataclasses.replace(LIMITS, step=None)
    sources = Sources((Watermark(WRITER, 10**6, 10**9, 0, live=True),), ())
    version = 2 if role == "canary" else 1
    found: Any = judged(rows, role, limits, sources, version=version).evidence
    return found | {"basis": {"limits": msgspec.to_builtins(limits)}}


STOPPED = {
    "failures": ("canary", {"challenger": 100, "champion": 300}, "2.5 %"),
    "guardrail": ("champion", {"champion": 300}, "1 %"),
}


def pictures(*found: Evidence) -> list[GatePicture]:
    analyses = [analysis_of(one, n) for n, one in enumerate(found)]
    return gate_pictures("s", [a for a in analyses if isinstance(a, InterimAnalysis)], None)


@pytest.mark.parametrize("name", STOPPED)
def test_a_gate_by_a_limit_of_its_own_shows_that_limit(name: str) -> None:
    role, failed, limit = STOPPED[name]
    assert role in get_args(Role)
    found = evidence(role, failed)  # type: ignore[arg-type]
    assert f"The limit is {limit}" in found["gates"][name]["reason"]
    shown = next(g for g in pictures(found) if g.name == f"s-{name}")
    assert isinstance(shown.drawing, Drawing)
    assert len(shown.drawing.stops) == 1
    assert limit in [tick.text for tick in shown.drawing.ticks]
    assert f"more than {limit} stops the challenger" in shown.description
    assert shown.axis == "requests not answered in time, however many the champion fails"
    assert shown.drawing.last[3] <= shown.drawing.last[2] < shown.drawing.stops[0], "beyond it"


def test_readings_against_the_champion_are_not_drawn_beside_its_own_share() -> None:
    before = evidence("canary", {"challenger": 2, "champion": 2})
    assert "limit" in before["gates"]["failures"]["values"]
    shown = next(
        g
        for g in pictures(before, evidence("canary", STOPPED["failures"][1]))
        if g.name == "s-failures"
    )
    assert shown.analyses == 1


@pytest.mark.parametrize("name", STOPPED)
def test_the_evidence_stays_as_it_is_and_its_page_shows_the_limit(name: str) -> None:
    role, failed, limit = STOPPED[name]
    found = evidence(role, failed)  # type: ignore[arg-type]
    assert "stop" not in found["gates"][name]["values"]
    fact = RolledBack(rollout_id="fraud-v2-1", model="fraud", event_ms=5, wall_ms=5, actor="pass",
                      reason="too many failures", evidence=found)  # fmt: skip
    page = rollouts.evidence(fact)
    assert page is not None
    assert page.rest == found
    (plot,) = [row.plot for row in page.gates if row.tone == "bad" and row.plot is not None]
    assert isinstance(plot, Plot)
    assert f"at most {float(limit[:-2]):.2f} % allowed" in plot.description


@pytest.mark.parametrize(("share", "is_allowed"), [(-0.8, False), (-0.1, True), (0.4, False)])
def test_a_gate_that_tolerates_neither_more_nor_less_is_drawn_so(
    share: float, is_allowed: bool
) -> None:
    """Alerts far below the champion's are as wrong as alerts far above."""
    values = {"share": share, "low": share - 0.05, "high": share + 0.05, "limit": 0.3}
    gate = {"verdict": "UNHEALTHY", "reason": "far below", "values": values}
    found: Any = {"verdict": "UNHEALTHY", "gates": {"alerts": gate}}
    fact = RolledBack(rollout_id="fraud-v2-1", model="fraud", event_ms=5, wall_ms=5, actor="pass",
                      reason="alerts", evidence=found)  # fmt: skip
    page = rollouts.evidence(fact)
    assert page is not None
    (row,) = page.gates
    plot = row.plot
    assert plot is not None
    assert plot.well is not None
    assert plot.value is not None
    left, width = plot.well
    assert (left <= plot.value <= left + width) == is_allowed
    assert len(plot.edges) == 2
    assert "allowed -30.00 % to 30.00 %" in plot.description
