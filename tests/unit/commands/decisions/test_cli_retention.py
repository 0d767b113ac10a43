"""`mlplatform log retention` says what is due and lets it go; passes do the same once a day."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.decisions.log import erasure, seal
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.model.folders import load_definition, model_names
from mlplatform.model.policies.monitoring import RetentionPolicy
from mlplatform.operations import wiring
from mlplatform.operations.actions import rollouts
from mlplatform.operations.actions.retention import expire_with_a_pass
from mlplatform.rollouts.passes.execute import PassReport
from mlplatform.rollouts.variants.execute import VariantReport
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.units import DAY_MS

RUN = CliRunner().invoke
WIDE = {"COLUMNS": "300"}


def record(day: int) -> Entry:
    return Entry(
        Record(
            kind="decision",
            decision_id=f"{day:032x}",
            model="fraud",
            event_ms=day * DAY_MS,
            recorded_ms=day * DAY_MS,
            payload={"request": {"amount": day}},
        )
    )


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[wiring.Platform]:
    """A log of 100 days, and a fraud model that keeps payloads for 60."""
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path))
    declared(monkeypatch, 60)
    settings = load({"MLPLATFORM_HOME": str(tmp_path)})
    settings.home.create()
    found = wiring.Platform(settings)
    monkeypatch.setattr(wiring, "existing_platform", lambda: found)
    yield found
    found.log.close()


def declared(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    def definition(name: str) -> Any:
        policy = RetentionPolicy(payload_days=days) if name == "fraud" else None
        return msgspec.structs.replace(load_definition(name), retention=policy)

    monkeypatch.setattr(wiring, "load_definition", definition)


def told(*words: str, code: int = 0) -> dict[str, dict[str, Any]]:
    result = RUN(commands.app, ["log", "retention", "--json", *words])
    assert result.exit_code == code, result.output
    return {one["model"]: one for one in json.loads(result.stdout)["models"]}


def test_a_dry_run_says_how_much_would_go_and_nothing_does(
    platform: wiring.Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a declaration that was made shorter."""
    platform.log.append("gw", [record(day) for day in range(20, 101)])
    found = told("--dry-run")
    assert (found["fraud"]["payload_days"], found["fraud"]["payloads"]) == (60, 20)
    assert found["fraud"]["oldest_ms"] == 20 * DAY_MS
    assert sorted(found) == sorted(model_names())
    declared(monkeypatch, 51)
    shorter = told("--dry-run")["fraud"]
    assert (shorter["payloads"], shorter["later"]) == (29, 0)
    assert (
        "Nothing was removed."
        in RUN(commands.app, ["log", "retention", "--dry-run"], env=WIDE).stdout
    )
    platform.log.seal()
    assert platform.log.verify().erased == 0
    assert erasure.rules_of(platform.settings.home.decisions, "fraud") == []


def test_what_is_due_goes_and_is_told_wherever_it_is_missed(platform: wiring.Platform) -> None:
    platform.log.append("gw", [record(day) for day in range(20, 101)])
    assert told()["fraud"]["payloads"] == 20
    again = told()["fraud"]
    assert (again["payloads"], again["later"], again["before_ms"]) == (0, 0, None)
    assert again["rests_until_ms"] is not None
    verified = RUN(commands.app, ["log", "verify", "--json"])
    assert json.loads(verified.stdout)["erased"] == 20
    shown = RUN(commands.app, ["log", "show", f"{20:032x}"], env=WIDE)
    assert "The payload was removed by retention on " in shown.stdout
    asked = RUN(commands.log.app, ["explain", f"{20:032x}"], env=WIDE)
    assert asked.exit_code == 2
    assert "after the 60 days for which fraud keeps payloads" in asked.stderr


def test_a_log_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path))
    wiring.settings().home.create()
    result = RUN(commands.app, ["log", "retention"])
    assert "no decision log in" in str(result.exception)


def test_a_pass_puts_on_record_what_the_next_seal_takes_out(
    platform: wiring.Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.log.append("gw", [record(day) for day in range(20, 101)])
    report = PassReport("fraud", ran=True, dry_run=False, generation=1, steps=(), waits=())
    monkeypatch.setattr(rollouts, "run_test", lambda *_, **__: VariantReport())
    monkeypatch.setattr(rollouts.execute, "run_pass", lambda *_, **__: report)
    monkeypatch.setattr(wiring.Platform, "ports", lambda *_: None)
    rollouts.rollout_pass(platform, "fraud")
    (rule,) = erasure.rules_of(platform.settings.home.decisions, "fraud")
    assert (rule.model, rule.retention.payloads) == ("fraud", 20)
    assert platform.log.verify().erased == 0
    platform.log.seal()
    rollouts.rollout_pass(platform, "fraud")
    assert len(erasure.rules_of(platform.settings.home.decisions, "fraud")) == 1
    assert platform.log.verify().erased == 20


def test_a_pass_does_not_fail_while_another_process_seals(
    platform: wiring.Platform, caplog: pytest.LogCaptureFixture
) -> None:
    platform.log.append("gw", [record(day) for day in range(20, 101)])
    with seal.lock(platform.settings.home.decisions), caplog.at_level("INFO"):
        expire_with_a_pass(platform, "fraud")
    assert "a later pass removes payloads of fraud" in caplog.text
