"""Commands that stop what runs write the journal themselves, and ask nobody else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.commands import rollouts as rollouts_commands
from mlplatform.model.routes import Routes
from mlplatform.operations import wiring
from mlplatform.operations.actions.controls import control
from mlplatform.rollouts.journal.transitions import Promoted
from mlplatform.rollouts.passes.commands import ValidatedVersion, open_rollout
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import InputInvalid, NotFound, Refused
from rollout_world import arm, gate_report

CLOCK = SystemClock()
WHO = ("--actor", "ana", "--reason", "whole countries declined")


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> wiring.Platform:
    """One with a champion, and a rollout that was just opened."""
    settings = load({"MLPLATFORM_HOME": str(tmp_path / "home")})
    settings.home.create()
    made = wiring.Platform(settings)
    monkeypatch.setattr(wiring, "existing_platform", lambda: made)
    first = opened(made, 1)
    fence = made.rollouts.acquire("fraud", "a pass", 10.0)
    promoted = Promoted(
        rollout_id=first, model="fraud", event_ms=1, wall_ms=1, actor="a pass", reason="first",
        predecessor=None,
    )  # fmt: skip
    routes = Routes("fraud", 1, arm(1), None, None, first, "steady", 0.0)
    made.rollouts.commit(promoted, fence, routes)
    opened(made, 2)
    return made


def opened(platform: wiring.Platform, version: int) -> str:
    bundle = arm(version).bundle
    validated = ValidatedVersion(version, bundle, "ana", 0.0, 0.1, gate_report(bundle))
    return open_rollout(
        platform.rollouts, "fraud", validated, approval="none", actor="ana", reason="new",
        clock=CLOCK,
    )  # fmt: skip


def rollouts(*words: str) -> Result:
    return CliRunner().invoke(commands.app, ["rollouts", *words])


def facts(*words: str) -> Any:
    result = rollouts(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_model_is_switched_off_and_on(platform: wiring.Platform) -> None:
    said = facts("kill", "fraud", *WHO)
    assert said == {"model": "fraud", "act": "kill", "actor": "ana", "generation": 2}
    assert platform.rollouts.routes("fraud").killed
    listed = rollouts("list").stdout
    assert "fraud is switched off by ana: whole countries declined" in listed
    assert isinstance(rollouts("kill", "fraud", *WHO).exception, Refused)
    facts("lift", "fraud", *WHO)
    back = "next: `mlplatform rollouts lift fraud` switches it on again"
    assert back in rollouts("kill", "fraud", *WHO).stdout.splitlines()
    assert back not in rollouts("lift", "fraud", *WHO).stdout
    assert not platform.rollouts.routes("fraud").killed
    assert "switched off" not in rollouts("list").stdout
    assert isinstance(rollouts("lift", "fraud", *WHO).exception, Refused)


def test_a_rollout_waits_goes_on_and_ends(platform: wiring.Platform) -> None:
    said = facts("pause", "fraud-v2-1", *WHO)
    assert (said["phase"], said["paused"]) == ("deploying", True)
    assert "deploying, paused" in rollouts("list").stdout
    assert "deploying, paused" in rollouts("show", "fraud-v2-1").stdout
    assert facts("resume", "fraud-v2-1", *WHO)["paused"] is False
    ended = rollouts("abort", "fraud-v2-1", *WHO).stdout
    assert ended == "fraud-v2-1 is ended; its phase is rolled_back\n"
    assert facts("show", "fraud-v2-1")["state"]["phase"] == "rolled_back"
    assert isinstance(rollouts("abort", "fraud-v2-1", *WHO).exception, Refused)
    assert isinstance(rollouts("pause", "fraud-v9-1", *WHO).exception, NotFound)


def test_a_pass_that_takes_no_step_forward_says_why(
    platform: wiring.Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts_commands, "run_to_end", lambda flow, parameters, json: 0)
    monkeypatch.setattr(wiring, "settings", lambda: platform.settings)

    def said() -> str:
        return rollouts("pass", "fraud").stdout.splitlines()[-1]

    ready = f"{arm(2).service} is not ready; the next pass looks again"
    assert said() == f"fraud-v2-1: deploying. {ready}"
    facts("pause", "fraud-v2-1", *WHO)
    assert said() == "fraud-v2-1: deploying. paused by ana: whole countries declined"
    facts("kill", "fraud", *WHO)
    assert said() == (
        "fraud-v2-1: deploying. fraud is switched off by ana: whole countries declined."
        " Next: `mlplatform rollouts lift fraud`"
    )


def test_stops_are_cleared_where_a_gateway_told_of_one(platform: wiring.Platform) -> None:
    assert isinstance(rollouts("clear", "fraud", *WHO).exception, Refused)
    stopped = {arm(1).service: "declined 25 of 25 customers"}
    platform.rollouts.lease("gateway-1", {"fraud": 1}, 60, stopped)
    assert facts("clear", "fraud", *WHO)["generation"] == 2


def test_a_person_of_prefect_controls_the_rollouts_of_the_deployments_model(
    platform: wiring.Platform,
) -> None:
    who = {"actor": "ana", "reason": "whole countries declined"}
    assert control(platform, "fraud", "kill", "", **who) == "kill fraud: generation 2"
    said = control(platform, "fraud", "pause", "fraud-v2-1", **who)
    assert said == "pause fraud-v2-1: deploying"
    with pytest.raises(Refused, match="is a rollout of fraud, not of loans"):
        control(platform, "loans", "resume", "fraud-v2-1", **who)
    ended = control(platform, "fraud", "abort", "", **who)
    assert ended == "abort fraud-v2-1: rolled_back", "nobody named one: the one under way"
    with pytest.raises(Refused, match="no rollout of fraud is under way"):
        control(platform, "fraud", "abort", "", **who)
    with pytest.raises(NotFound):
        control(platform, "fraud", "abort", "fraud-v9-1", **who)


@pytest.mark.parametrize("act", ["kill", "pause"])
def test_who_and_why_are_names_and_words(platform: wiring.Platform, act: str) -> None:
    of = "fraud" if act == "kill" else "fraud-v2-1"
    for who in (("--actor", "a\x1b[2Jna", "--reason", "a good reason"),
                ("--actor", "ana", "--reason", "no")):  # fmt: skip
        assert isinstance(rollouts(act, of, *who).exception, InputInvalid)
    assert platform.rollouts.controls("fraud") == ()
