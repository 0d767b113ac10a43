"""Every alert is valid, fires when it should and not before, and leads to a runbook that works."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from tests.artifacts import alert_series
from tests.artifacts.alert_series import Case
from tests.observability.binaries import needed
from typer.core import TyperGroup

from mlplatform.commands import app
from mlplatform.model.folders import load_definition, model_names
from mlplatform.observing.slo import render_files
from mlplatform.observing.slo.objectives import FILE, load, seconds
from mlplatform.runtime.clock import SYSTEM_TOLERANCE_MS
from mlplatform.runtime.units import MINUTE_MS
from mlplatform.scoring.request.times import IN_FLIGHT_MS

USAGE_ERROR = typer.BadParameter.__mro__[1]
ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"
FILES = sorted((ROOT / render_files.FOLDER).glob("*.yaml"))
CASES = [*alert_series.states(), *alert_series.burns(), *alert_series.calm()]
SECTIONS = ("## What it means", "## First look", "## Commands", "## When to roll back")


@functools.cache
def groups() -> list[dict[str, Any]]:
    return [group for file in FILES for group in yaml.safe_load(file.read_text())["groups"]]


def rules() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Alert and severity, joined by a slash → the rule."""
    return {f"{r['alert']}/{r['labels']['severity']}": r for r in rules() if "alert" in r}


def names() -> list[str]:
    return sorted({rule["alert"] for rule in alerts().values()})


def promtool(*arguments: str) -> None:
    command = [str(needed("promtool")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_what_prometheus_takes() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *map(str, FILES))


@pytest.mark.parametrize("name", names())
def test_an_alert_is_silent_before_fires_on_time_and_resolves(name: str, tmp_path: Path) -> None:
    cases = [case for case in CASES if case.alert == name]
    always = name == "Watchdog"
    assert any(case.fires and (case.silent or always) for case in cases), f"no series for {name}"
    run_series(cases, tmp_path)


def run_series(cases: list[Case], folder: Path) -> None:
    """Only by the rules that the alert needs: hours of series are evaluated by the minute."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": needed_by(cases[0].alert)}))
    test = alert_series.promtool_test(cases, alerts(), [str(folder / "rules.yaml")])
    (folder / "series.yaml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", str(folder / "series.yaml"))


def needed_by(alert: str) -> list[dict[str, Any]]:
    """The alert, and what is recorded under the names that its expressions use."""
    own = [rule for rule in rules() if rule.get("alert") == alert]
    recorded = [rule for rule in rules() if "record" in rule]
    used = {rule["record"] for rule in recorded if any(rule["record"] in a["expr"] for a in own)}
    about = {(a["labels"].get("service"), a["labels"].get("slo")) for a in own}
    kept = [
        rule
        for rule in recorded
        if (rule["labels"]["service"], rule["labels"].get("slo")) in about
        and rule["record"] in used | {"slo:bad:bool"}
    ]
    return [{"name": "all", "rules": [*kept, *own]}]


def test_a_live_gateway_without_requests_is_not_behind() -> None:
    """Its watermark stays behind its clock by what a request may be late."""
    limit_ms = seconds(load(ROOT / FILE).limits.watermark_behind) * 1000

    assert limit_ms > SYSTEM_TOLERANCE_MS + IN_FLIGHT_MS + MINUTE_MS


def test_every_severity_of_an_alert_is_seen_to_fire() -> None:
    seen = {
        f"{case.alert}/{labels['severity']}"
        for case in CASES
        for fired in case.fires.values()
        for labels in fired
    }
    assert seen == set(alerts())


def test_a_rule_that_is_wrong_is_found(tmp_path: Path) -> None:
    never = Case("ClockOff", {'mlplatform_clock_offset_seconds{instance="a"}': "0x30"}, {}, ())
    fires = {20: [{"severity": "page", "instance": "a"}]}
    with pytest.raises(AssertionError, match="ClockOff"):
        run_series([Case(never.alert, never.series, fires, ())], tmp_path)


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert [file.stem for file in sorted(RUNBOOKS.glob("*.md"))] == names()
    root = load(ROOT / FILE).runbooks
    for alert in alerts().values():
        assert alert["annotations"]["runbook_url"] == f"{root}/{alert['alert']}.md"
        assert alert["annotations"]["summary"]


@pytest.mark.parametrize("name", names())
def test_a_runbook_says_what_is_asked_of_one(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    positions = [text.index(section) for section in SECTIONS]
    assert positions == sorted(positions)
    for command in commands(text):
        parse(command)


def test_a_command_that_is_none_is_found() -> None:
    with pytest.raises(USAGE_ERROR):
        parse("mlplatform rollouts undo fraud")
    with pytest.raises(USAGE_ERROR):
        parse("mlplatform rollouts rollback fraud")


def commands(text: str) -> list[str]:
    """Those in blocks, of which there is at least one, and those in the text."""
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.split("\n")
    ]
    blocks = [line for line in lines if line]
    assert blocks
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    return blocks + [c for c in re.findall(r"`([^`]+)`", text) if c.startswith("mlplatform ")]


def parse(command: str) -> None:
    """Raises USAGE_ERROR for what the command line does not take."""
    program, *arguments = shlex.split(command, comments=True)
    assert program == "mlplatform"
    found: Any = typer.main.get_command(app)
    context: Any = None
    name = program
    while isinstance(found, TyperGroup):
        context = found.context_class(found, parent=context, info_name=name)
        name, found, arguments = found.resolve_command(context, arguments)
    found.make_context(name, list(arguments), parent=context)


def test_rules_of_a_model_are_rendered_for_every_model() -> None:
    assert {file.stem for file in FILES} == {*model_names(), render_files.PLATFORM}
    for name in model_names():
        services = {r["labels"]["service"] for r in _recorded(name)}
        assert services == {load_definition(name).name}


def _recorded(name: str) -> list[dict[str, Any]]:
    content = yaml.safe_load((ROOT / render_files.FOLDER / f"{name}.yaml").read_text())
    return [r for group in content["groups"] for r in group["rules"] if "record" in r]
