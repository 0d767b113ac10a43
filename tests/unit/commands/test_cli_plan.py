"""`mlplatform rollouts plan` tells what a rollout takes, and exits 4 where it can't decide."""

from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from mlplatform import commands as command_line
from mlplatform.commands.terminal.exit_codes import REFUSED
from mlplatform.operations import wiring
from mlplatform.operations.actions import rollouts as job
from mlplatform.rollouts.passes.planning import NO_CHAMPION
from mlplatform.rollouts.verdicts.planner import GatePlan, StagePlan
from mlplatform.rollouts.verdicts.ramp import Plan, Refusal, Remedy

GATE = GatePlan(
    gate="failures", tolerance=0.05, limit=0.005, hours=35.6, requests=744, customers=169,
    customer_days=254, positives=6, passes=0.98, stops=0.0, exposed_customers=166,
    exposed_requests=720, loss=7.2,
)  # fmt: skip
STEP = StagePlan(
    key="rollout.canary.0", name="canary 5 %", percent=5.0, deadline_h=168.0, hours=35.6,
    late_hours=45.0, passes=0.98, decides="failures", gates=(GATE,),
)  # fmt: skip
PLAN = Plan(
    history_h=168.0, requests_h=417.0, steps=(STEP,), confirmation=None, refusals=(), notes=(),
    proposed=(),
)  # fmt: skip
LONGER = Remedy("rollout.canary.0.deadline_h", 168.0, 264.0)
REFUSAL = dataclasses.replace(PLAN, refusals=(Refusal(STEP, ((LONGER,),)),))


def run(monkeypatch: pytest.MonkeyPatch, plan: Plan | str, *options: str) -> tuple[int, str]:
    monkeypatch.setattr(wiring, "existing_platform", lambda: None)
    monkeypatch.setattr(job, "plan_rollout", lambda *_, **__: plan)
    result = CliRunner().invoke(command_line.app, ["rollouts", "plan", "fraud", *options])
    return result.exit_code, result.stdout


def test_a_plan_that_can_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    code, shown = run(monkeypatch, PLAN, "--challenger", "7")
    assert code == 0
    assert "417 requests/h, by 7 days of the decision log" in shown
    assert "the rollout can decide within its deadlines" in shown


def test_a_plan_that_cannot_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    code, shown = run(monkeypatch, REFUSAL)
    assert code == REFUSED
    assert "It could decide with rollout.canary.0.deadline_h: 264 (now 168)" in " ".join(
        shown.split()
    )
    code, shown = run(monkeypatch, REFUSAL, "--json")
    assert code == REFUSED
    (refused,) = json.loads(shown)["refusals"]
    assert refused["possible_with"] == [[dataclasses.asdict(LONGER)]]


def test_no_plan_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "no plan: the log holds 3 of the 24 hours with traffic that a plan needs"
    code, shown = run(monkeypatch, why, "--challenger", "2")
    assert (code, shown.splitlines()[0]) == (0, why)
    told = " ".join(shown.split())
    opens = "mlplatform rollouts open fraud 2 --actor YOU --reason WHY"
    assert f"a rollout needs no plan: `{opens}` starts it in shadow" in told
    assert "at least 20,000 requests of 500 customers and ends after 10 days at the lat" in told
    assert f"`{opens} --emergency` promotes it at once" in told
    code, shown = run(monkeypatch, why, "--json")
    assert (code, json.loads(shown)) == (0, {"missing": why})


def test_a_first_version_is_offered_no_shadow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, NO_CHAMPION) == (0, f"{NO_CHAMPION}\n")
