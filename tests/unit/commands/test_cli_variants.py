"""Commands for A/B/n tests write the journal themselves, and say what each arm has done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.commands.controls.variants import arm_row, shares_of
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.model.routes import Routes
from mlplatform.operations import wiring
from mlplatform.rollouts.journal.controls import VariantsAnswering
from mlplatform.rollouts.journal.next_routes import following, promoted_routes, shadow_routes
from mlplatform.rollouts.journal.state import fold
from mlplatform.rollouts.journal.transitions import (
    CanaryStepped,
    Confirmed,
    Promoted,
    ShadowStarted,
)
from mlplatform.rollouts.passes.commands import ValidatedVersion, open_rollout
from mlplatform.rollouts.passes.controls import write_control
from mlplatform.rollouts.variants.comparison import ArmFigures, ShareInterval
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import InputInvalid, Refused
from rollout_world import arm, gate_report

CLOCK = SystemClock()
WHO = ("--actor", "eve", "--reason", "it may find more")


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> wiring.Platform:
    """Version 2 is champion, and version 1 was before it."""
    settings = load({"MLPLATFORM_HOME": str(tmp_path / "home")})
    settings.home.create()
    made = wiring.Platform(settings)
    monkeypatch.setattr(wiring, "existing_platform", lambda: made)
    for version in (1, 2):
        champion(made, version)
    return made


def champion(platform: wiring.Platform, version: int) -> None:
    """A version that is rolled out and confirmed at once."""
    journal, bundle = platform.rollouts, arm(version).bundle
    is_first = version == 1
    validated = ValidatedVersion(version, bundle, "ana", 0.0, 0.1, gate_report(bundle))
    rollout_id = open_rollout(
        journal, "fraud", validated, approval="none", actor="ana", reason="new", clock=CLOCK
    )
    fact: dict[str, Any] = {"rollout_id": rollout_id, "model": "fraud", "event_ms": 1, "wall_ms": 1,
                            "actor": "a pass", "reason": "good"}  # fmt: skip
    if not is_first:
        ramp(platform, rollout_id, fact)
    present = journal.routes("fraud")
    state = fold(journal.read(rollout_id))
    fence = journal.acquire("fraud", "a pass", 10.0, steal=True)
    promoted = Promoted(**fact, predecessor=present.champion)
    journal.commit(promoted, fence, promoted_routes(state, present))
    present = journal.routes("fraud")
    back = None if present.previous is None else following(present, previous=None)
    journal.commit(Confirmed(**fact), fence, back)


def ramp(platform: wiring.Platform, rollout_id: str, fact: dict[str, Any]) -> None:
    """Shadow and canary of a version."""
    journal = platform.rollouts
    fence = journal.acquire("fraud", "a pass", 10.0, steal=True)
    present = journal.routes("fraud")
    shadow = shadow_routes(fold(journal.read(rollout_id)), present)
    journal.commit(ShadowStarted(**fact, displaced=present.rollout_id), fence, shadow)
    canary = following(shadow, phase="canary", challenger_percent=50.0)
    journal.commit(CanaryStepped(**fact, step=0, percent=50.0), fence, canary)


def variants(*words: str) -> Result:
    return CliRunner().invoke(commands.app, ["variants", *words])


def said(*words: str) -> str:
    result = variants(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def routes(platform: wiring.Platform) -> Routes:
    return platform.rollouts.routes("fraud")


def begin(platform: wiring.Platform) -> None:
    """As a pass does once the services are ready."""
    began = VariantsAnswering(
        model="fraud", event_ms=platform.clock.event_ms(), wall_ms=platform.clock.wall_ms(),
        actor="pass 7", reason="ready", test_id="fraud-variants-1",
        generation=routes(platform).generation + 1,
    )  # fmt: skip
    write_control(platform.rollouts, began)


def test_a_test_is_started_raised_shown_and_ended(platform: wiring.Platform) -> None:
    assert said("show", "fraud") == (
        "no test of fraud has run; `mlplatform variants start fraud` starts one\n"
    )
    told = said("start", "fraud", "--version", "1=20", "--days", "7", *WHO)
    assert told == (
        "fraud-variants-1 is started; its variants answer once passes have started their services"
        " (version 1 20 %)\n"
    )
    test = routes(platform).test
    assert test is not None
    assert test.variants[0].buckets == ((0, 2000),)
    shown = said("show", "fraud")
    assert "answers since" in shown
    assert "no data: the variants have not answered yet" in shown
    assert "larger shares (version 1 35 %)" in said("raise", "fraud", "--version", "1=35", *WHO)
    begin(platform)
    shown = said("show", "fraud")
    assert "eve: it may find more" in shown
    assert shown.count("no data") >= 12
    ended = json.loads(said("end", "fraud", *WHO, "--json"))
    assert ended["end"]["actor"] == "eve"
    assert routes(platform).test is None
    assert isinstance(variants("end", "fraud", *WHO).exception, Refused)
    assert "ended" in said("show", "fraud")


def test_what_is_shown_as_json_has_every_figure(platform: wiring.Platform) -> None:
    said("start", "fraud", "--version", "1=20", *WHO)
    begin(platform)
    now_ms = platform.clock.event_ms()
    for number, (version, role, bucket) in enumerate([(1, "variant", 7), (2, "champion", 5000)]):
        record = Record(
            kind="decision", decision_id=f"{number:032x}", model="fraud", event_ms=now_ms,
            recorded_ms=now_ms, generation=routes(platform).generation, arm=role, answered_by=role,
            unit=number, bucket=bucket, version=version, bundle=arm(version).bundle, score=0.1,
            decision="review", latency_us=5000,
        )  # fmt: skip
        platform.log.append("gateway-1", [Entry(record)])
    found = json.loads(said("show", "fraud", "--json"))
    assert found["test"]["started"]["test_id"] == "fraud-variants-1"
    assert [(a["arm"], a["version"], a["percent"]) for a in found["arms"]] == [
        ("champion", 2, 80.0), ("variant", 1, 20.0),
    ]  # fmt: skip
    for one in found["arms"]:
        assert (one["customers"], one["requests"], one["alerts"], one["failures"]) == (1, 1, 1, 0)
        assert one["recall"] is None
        assert one["p50_ms"] == pytest.approx(5.0, rel=0.02)


def test_a_row_says_what_is_known_and_that_nothing_is() -> None:
    known = ArmFigures(
        "variant", 5, 20.0, 1200, 4000, 4, 3990, 40, 4.21, 9.87, 3000, 60,
        ShareInterval(0.75, 0.6, 0.9), None,
    )  # fmt: skip
    assert arm_row(known) == (
        "variant", 5, "20 %", "1,200", "4,000", "4 (0.10 %)", "40 (1.00 %)", "4.2", "9.9", "3,000",
        "75.00 % (60.00 % to 90.00 %)", "no data",
    )  # fmt: skip


@pytest.mark.parametrize(
    "texts", [["5"], ["five=20"], ["5=x"], ["5=0"], ["5=100"], ["5=nan"], ["5=20", "5=10"]]
)
def test_what_is_no_version_and_share_is_told(texts: list[str]) -> None:
    with pytest.raises(InputInvalid, match="--version"):
        shares_of(texts)


def test_a_refusal_is_kept(platform: wiring.Platform) -> None:
    refused = variants("start", "fraud", "--version", "9=20", *WHO)
    assert isinstance(refused.exception, Refused)
    assert "has never been champion" in str(refused.exception)
    assert platform.rollouts.controls("fraud") == ()
