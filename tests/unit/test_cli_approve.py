"""`rollouts approve` says what became of the answer, not only that it was sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mlplatform import cli, wiring
from mlplatform.canonical import digest
from mlplatform.cli import rollouts as command
from mlplatform.errors import InputInvalid, Refused
from mlplatform.jobs.rollouts import record_approval as record_answer_of_form
from mlplatform.orchestration.prefect import FlowRun
from mlplatform.rollout.commands import Candidate, open_rollout, record_approval
from mlplatform.rollout.transitions import ApprovalAsked
from mlplatform.settings import load
from rollout_world import StoppedClock, gate_report

CLOCK = StoppedClock()
EVIDENCE = {"requests": 1500}
DIGEST = digest(EVIDENCE)


def suspended(rollout: str, state: str = "PAUSED", state_ms: int = 1) -> FlowRun:
    return FlowRun("r-1", "calm-lynx", state, "", "", {"rollout_id": rollout}, state_ms)


class FormOfPrefect:
    """One suspended approval, whose flow does with an answer what `becomes` says."""

    def __init__(self, platform: wiring.Platform, rollout: str, becomes: str) -> None:
        self._platform = platform
        self._becomes = becomes
        self.now = suspended(rollout)
        self.answers: list[Mapping[str, Any]] = []

    def suspended(self) -> list[FlowRun]:
        return [self.now]

    def answer(self, run_id: str, run_input: Mapping[str, Any]) -> None:
        self.answers.append(run_input)
        rollout = self.now.parameters["rollout_id"]
        match self._becomes:
            case "recorded":
                record_approval(
                    self._platform.rollouts,
                    rollout,
                    DIGEST,
                    run_input["decision"],
                    run_input["approver"],
                    run_input["reason"],
                    clock=CLOCK,
                )
                self.now = suspended(rollout, "COMPLETED", 2)
            case "asked again":
                self.now = suspended(rollout, "PAUSED", 2)
            case "failed":
                self.now = suspended(rollout, "FAILED", 2)
            case "late":
                self.now = suspended(rollout, "SCHEDULED", 2)

    def run(self, run_id: str) -> FlowRun:
        return self.now


@pytest.fixture
def platform(tmp_path: Path) -> wiring.Platform:
    settings = load({"MLPLATFORM_HOME": str(tmp_path / "home")})
    settings.home.create()
    return wiring.Platform(settings)


@pytest.fixture
def rollout(platform: wiring.Platform) -> str:
    """The id of a rollout that ana's version waits in."""
    candidate = Candidate(1, "b" * 64, "ana", 0.0, 0.1, gate_report("b" * 64))
    rollouts = platform.rollouts
    found = open_rollout(rollouts, "fraud", candidate, actor="ana", reason="new", clock=CLOCK)
    fence = rollouts.acquire("fraud", "a pass", 10.0)
    asked = ApprovalAsked(
        rollout_id=found,
        model="fraud",
        event_ms=1,
        wall_ms=1,
        actor="a pass",
        reason="it is ready",
        evidence=EVIDENCE,
    )
    rollouts.commit(asked, fence)
    return found


@pytest.fixture
def approve(
    platform: wiring.Platform, rollout: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], tuple[Result, FormOfPrefect]]:
    monkeypatch.setattr(command, "RECORD_LIMIT_S", 0.02)
    monkeypatch.setattr(command, "POLL_S", 0.001)
    monkeypatch.setattr(wiring, "platform", lambda: platform)

    def run(approver: str, becomes: str) -> tuple[Result, FormOfPrefect]:
        form = FormOfPrefect(platform, rollout, becomes)
        monkeypatch.setitem(vars(platform), "prefect", form)
        words = ["rollouts", "approve", rollout, "--decision", "approve", "--json"]
        words += ["--approver", approver, "--reason", "it was read"]
        return CliRunner().invoke(cli.app, words), form

    return run


@pytest.mark.parametrize(("becomes", "recorded"), [("recorded", True), ("late", False)])
def test_it_says_whether_the_answer_stands_in_the_journal(
    approve: Any, becomes: str, recorded: bool
) -> None:
    result, _ = approve("bo", becomes)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["recorded"] is recorded


@pytest.mark.parametrize("becomes", ["asked again", "failed"])
def test_an_answer_that_the_flow_turned_down_is_no_success(approve: Any, becomes: str) -> None:
    result, form = approve("bo", becomes)
    assert isinstance(result.exception, Refused)
    assert "turned down" in str(result.exception)
    assert len(form.answers) == 1


@pytest.mark.parametrize("author", ["ana", " Ana "])
def test_the_author_is_refused_before_the_form_is_answered(approve: Any, author: str) -> None:
    result, form = approve(author, "recorded")
    assert isinstance(result.exception, Refused)
    assert "somebody else approves" in str(result.exception)
    assert form.answers == []


@pytest.mark.parametrize(("approver", "reason"), [("  b  ", "it was read"), ("bob", "   ok   ")])
def test_a_form_filled_with_spaces_is_not_an_answer(
    platform: wiring.Platform, rollout: str, approver: str, reason: str
) -> None:
    with pytest.raises(InputInvalid, match="characters; wanted"):
        record_answer_of_form(
            platform, rollout, DIGEST, "approve", approver=approver, reason=reason
        )
    (state,) = platform.rollouts.active("fraud")
    assert state.answer is None
