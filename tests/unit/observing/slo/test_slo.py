"""slo.yaml is refused with the key that is wrong; rules follow from it and from a model.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from mlplatform.model.folders import load_definition
from mlplatform.observing.slo import indicators, render_files
from mlplatform.observing.slo.objectives import FILE, Objectives, load, parse, seconds
from mlplatform.runtime.errors import ConfigInvalid

ROOT = Path(__file__).parents[4]
FRAUD = load_definition("fraud")


def written() -> Any:
    return yaml.safe_load((ROOT / FILE).read_text())


def objectives() -> Objectives:
    return load(ROOT / FILE)


def changed(path: str, value: object) -> str:
    """slo.yaml with another value at a place."""
    content = written()
    *folders, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = content
    for part in folders:
        place = place[part]
    place[last] = value
    return yaml.safe_dump(content)


def test_the_file_names_the_objectives_of_time() -> None:
    named = re.search(r"^# Objectives of time are (.*):", (ROOT / FILE).read_text(), re.M)
    assert named is not None
    found = indicators.of_model(FRAUD, objectives().limits) | indicators.of_installation()
    of_time = {name for name, how in found.items() if isinstance(how, indicators.Times)}
    assert set(re.split(r", | and ", named[1])) == of_time


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("tiers.1.availability.objective", 1.0, "tiers"),
        ("tiers.1.availability.objective", float("nan"), "objective"),
        ("tiers.2.latency.page", "often", "page"),
        ("burns.page.0.long", "7h", "burns.page"),
        ("burns.page.0.short", "2h", r"burns.page.0.short is '2h'; wanted: shorter than 1h"),
        ("burns.ticket.0.factor", 0, "factor"),
        ("limits.clock_offset_ms", -5, "clock_offset_ms"),
        ("limits.nothing_scored", "soon", "nothing_scored"),
        ("limits.unheard_of", 1, "unheard_of"),
        ("runbooks", "http://plain", "runbooks"),
        ("tiers.1.latency.objective", 0.9, r"tiers.1.latency.objective is 0.9; wanted: more than"),
    ],
)
def test_what_is_wrong_is_told_by_its_key(path: str, value: object, told: str) -> None:
    with pytest.raises(ConfigInvalid, match=told):
        parse(changed(path, value))


def test_every_tier_has_to_be_there() -> None:
    content = written()
    del content["tiers"][3]
    with pytest.raises(ConfigInvalid, match="tiers"):
        parse(yaml.safe_dump(content))


def test_a_latency_goal_that_no_bucket_ends_at_is_refused() -> None:
    other = msgspec.structs.replace(FRAUD, latency_slo_ms=11)
    with pytest.raises(ConfigInvalid, match="latency_slo_ms is 11"):
        indicators.of_model(other, objectives().limits)


def test_limits_follow_from_the_tier() -> None:
    third = msgspec.structs.replace(FRAUD, tier=3)
    groups = render_files.of_model(third, objectives())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    shown = {
        rule["labels"]["slo"]: rule["expr"]
        for rule in rules
        if rule.get("record") == "slo:objective:ratio"
    }
    assert shown["availability"] == "vector(0.995)"
    burning = {
        r["labels"]["severity"] for r in rules if r.get("alert") == "AvailabilityBudgetBurns"
    }
    assert burning == {"ticket"}


def test_what_models_share_is_promised_by_the_strictest_tier() -> None:
    third = msgspec.structs.replace(FRAUD, name="other", tier=3)
    assert indicators.tier_of([third, FRAUD]) == 1


def test_every_promise_of_a_tier_is_measured() -> None:
    measured = {**indicators.of_model(FRAUD, objectives().limits), **indicators.of_installation()}
    assert tuple(sorted(measured)) == tuple(sorted(indicators.names()))


def test_durations_are_seconds() -> None:
    assert [seconds(d) for d in ("30s", "5m", "26h", "3d")] == [30, 300, 93_600, 259_200]
