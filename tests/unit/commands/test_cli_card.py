"""A model card is the same from the command and on the page, of what a home and a registry hold."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from mlplatform import commands as command_line
from mlplatform.learning.registry.versions import Version
from mlplatform.model.bundle import Bundle
from mlplatform.model.routes import Arm
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.observing.page.rendering import render
from mlplatform.operations import wiring
from mlplatform.operations.actions import tenures
from mlplatform.operations.card.assembly import card
from mlplatform.operations.card.card import Card
from mlplatform.operations.card.sections import sections
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import NotFound
from mlplatform.runtime.units import DAY_MS
from support.carded_version import recorded, tenure, version
from support.home_world import HomeWorld
from support.scoring_world import write_amount_bundle

HOSTILE = "<script>alert(1)</script>\x1b[31m[bold]\u202e"


class OneVersion:
    """A registry that holds version 1, and its bundle in a folder."""

    def __init__(self, held: Version, bundle: Path) -> None:
        self._held, self._bundle = held, bundle

    def get(self, model: str, number: int) -> Version:
        if (model, number) != ("fraud", 1):
            raise NotFound(f"{model} has no version {number}")
        return self._held

    def fetch(self, model: str, number: int, into: Path) -> Path:
        shutil.copytree(self._bundle, into / self._held.digest)
        return into / self._held.digest


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    world = HomeWorld(tmp_path / "home")
    world.promote(1)
    digest = write_amount_bundle(tmp_path / "held")
    found = Platform(load({"MLPLATFORM_HOME": str(world.home.root)}))
    found.__dict__["registry"] = OneVersion(version(digest, 1), tmp_path / "held")
    monkeypatch.setattr(wiring, "existing_platform", lambda: found)
    yield found
    world.close()


def asked(*words: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(command_line.app, ["models", "card", *words])
    return result.exit_code, " ".join(result.stdout.split()), result.exception


def test_a_version_is_shown_in_tables_and_as_data_only_in_json(platform: Platform) -> None:
    shown = CliRunner().invoke(
        command_line.app, ["models", "show", "fraud", "1"], env={"COLUMNS": "120"}
    )
    assert shown.exit_code == 0, shown.output
    assert "1970-01-31 00:00:00" in shown.output  # registered
    assert "1970-01-01 00:00:00 to 1970-01-22 00:00:00" in shown.output  # trained on
    assert shown.output.count("ranking of positives") == 1
    assert not set("{}[]") & set(shown.output)
    assert "its bundle is not here" in shown.output
    as_json = CliRunner().invoke(command_line.app, ["models", "show", "fraud", "1", "--json"])
    found = json.loads(as_json.stdout)
    assert found["facts"]["data_to_ms"] == 21 * DAY_MS
    assert (found["version"], found["memory_mib"]) == (1, None)
    assert found["machine_mib"] > 0


def test_a_card_is_read_from_journal_registry_bundle_and_what_checks_keep(
    platform: Platform,
) -> None:
    tenures.keep(platform.settings.home.measured, "fraud", tenure(1))
    code, shown, _ = asked("fraud", "1")
    assert code == 0
    for said in (
        "Version 1 of fraud", "Score card payments for fraud", "Rollout fraud-v1-1",
        "promoted, provisionally", "41.00 % to 77.00 %", "mlplatform rollouts replay fraud-v1-1",
        "there was no champion, so no gate compared it with one",
    ):  # fmt: skip
        assert said in shown, said


def test_its_json_is_the_value_and_the_page_s_differs_by_the_bundle_alone(
    platform: Platform,
) -> None:
    page = Sources(platform).card("fraud", 1)
    assert page.data.rows is None
    code, _, _ = asked("fraud", "1", "--json")
    assert code == 0
    result = CliRunner().invoke(command_line.app, ["models", "card", "fraud", "1", "--json"])
    told = msgspec.convert(json.loads(result.stdout), Card)
    assert told.data.rows == 100
    assert Sources(platform).card("fraud", 1) == told  # the command has fetched it


def test_looking_makes_no_journal(tmp_path: Path, platform: Platform) -> None:
    empty = Platform(load({"MLPLATFORM_HOME": str(tmp_path / "empty")}))
    empty.settings.home.create()
    empty.__dict__["registry"] = platform.registry
    assert Sources(empty).card("fraud", 1).rollouts == ()
    assert not empty.settings.home.rollouts_db.exists()


@pytest.mark.parametrize("number", ["2", "1000000001", "99999999999999999999"])
def test_a_version_that_is_not_there_is_not_found(platform: Platform, number: str) -> None:
    _, _, error = asked("fraud", number)
    assert isinstance(error, NotFound)
    with pytest.raises(NotFound, match="no version"):
        Sources(platform).card("fraud", int(number))
    with pytest.raises(NotFound, match="no model"):
        Sources(platform).card("none", 1)


@pytest.mark.parametrize("words", [("fraud",), ("fraud", "0"), ("fraud", "x"), ("none", "1")])
def test_what_is_no_version_is_refused(platform: Platform, words: tuple[str, ...]) -> None:
    code, _, error = asked(*words)
    assert code == 2 or isinstance(error, NotFound)


def test_what_people_wrote_steers_neither_terminal_nor_page(
    tmp_path: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = recorded(tmp_path / "bundle", text=HOSTILE)
    bundle = held.bundle
    assert isinstance(bundle, Bundle)
    gates: list[Any] = [{"name": HOSTILE, "verdict": HOSTILE, "reason": HOSTILE}]
    changed = version(bundle.digest, author=HOSTILE, code_version=HOSTILE, report={"gates": gates})
    definition = msgspec.structs.replace(held.definition, purpose=HOSTILE, owner=HOSTILE)
    made = card(dataclasses.replace(held, version=changed, definition=definition))
    shown_beside = {"champion": Arm(7, "c" * 64, "fraud-v7"), "mlflow": "http://127.0.0.1:5000"}
    page = render("card.html", here="", card=made, sections=sections(made), **shown_beside)
    assert 'href="http://127.0.0.1:5000/#/runs/run-1"' in page
    assert 'href="/models/fraud/compare?first=7&amp;second=2"' in page
    assert 'href="/decisions?model=fraud&amp;version=2"' in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    monkeypatch.setattr("mlplatform.commands.models.read_card", lambda *_, **__: made)
    code, shown, _ = asked("fraud", "1")
    assert code == 0
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[bold]" in shown
