"""`mlplatform review`: the page's functions, with a key in hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mlplatform import commands
from mlplatform.commands.terminal.exit_codes import exit_code
from mlplatform.operations import wiring
from mlplatform.runtime.errors import InputInvalid, NotFound, Refused
from mlplatform.scoring.admission.clients import parse_scope
from mlplatform.scoring.admission.keyring import create_key
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from support.review_world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path / "home")
    monkeypatch.setattr(wiring, "existing_platform", lambda: made.platform)
    yield made
    made.log.close()


def key(world: World, name: str, scope: str) -> str:
    """The file of a new key."""
    file = world.home.root / f"{name}.key"
    with closing(SqliteAdmission(world.home.admission_db)) as keys:
        scopes = frozenset({parse_scope(scope)})
        made = create_key(keys, name, scopes, priority="standard", limit=None, now_ms=1)
    file.write_text(made[1] + "\n")
    return str(file)


def run(*words: str) -> Result:
    return CliRunner().invoke(commands.app, ["review", *words])


def test_the_queue_is_listed_and_answered(world: World) -> None:
    first, second = world.decide("decline"), world.decide()
    listed = json.loads(run("list", "fraud", "--json", "--limit", "1").stdout)
    assert (listed["total"], listed["complete"]) == (2, True)
    (row,) = listed["decisions"]
    assert (row["decision_id"], row["decision"], row["score"]) == (first, "decline", 0.5)
    assert row["fields"] == {"amount": 12.5, "terminal_id": 7}
    assert row["reasons"] == ["AMOUNT"]
    told = run("list", "fraud").stdout
    assert second in told.splitlines(), "to be copied"
    assert "review; score 0.5000; amount 12.5, terminal_id 7; AMOUNT" in told
    words = ("record", first, "not-fraud", "--analyst", "ana", "--key-file")
    done = run(*words, key(world, "ana", "fraud:review"), "--note", "a gift", "--json")
    assert json.loads(done.stdout)["is_label"] is True
    assert world.labels() == {first: 0}
    assert world.held(first)[0]["client"] == "ana"
    assert "1 of 1 that wait" in run("list", "fraud").stdout


def test_two_people_answer_by_command(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ask_two(monkeypatch)
    name = world.decide()
    for who, told in (("ana", "another person has to confirm it"), ("bo", "it is labelled")):
        file = key(world, who, "*:review")
        done = run("record", name, "fraud", "--analyst", who, "--key-file", file)
        assert told in done.stdout
    assert world.labels() == {name: 1}


def test_a_slip_is_corrected_by_command(world: World) -> None:
    name, file = world.decide(), key(world, "ana", "fraud:review")
    own = ("--analyst", "ana", "--key-file", file)
    assert "`mlplatform review correct` corrects it" in run("record", name, "fraud", *own).stdout
    short = run("correct", name, "not-fraud", *own, "--reason", "x")
    assert isinstance(short.exception, InputInvalid)
    done = run("correct", name, "not-fraud", *own, "--reason", "the wrong key", "--json")
    assert json.loads(done.stdout)["is_label"] is True
    assert world.labels() == {name: 0}
    assert {held["label"] for held in world.held(name)} == {0, 1}


def test_a_correction_that_waits_is_listed_and_confirmed_by_command(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask_two(monkeypatch)
    name = world.decide()
    own = {
        who: ("--analyst", who, "--key-file", key(world, who, "fraud:review"))
        for who in ("ana", "bo", "cy")
    }
    for who in ("ana", "bo"):
        run("record", name, "fraud", *own[who])
    assert run("corrections", "fraud").stdout == "0 of 0 that wait\n"
    asked = run("correct", name, "not-fraud", *own["ana"], "--reason", "the wrong key").stdout
    assert "another person has to confirm it" in asked
    told = run("corrections", "fraud").stdout
    assert name in told.splitlines(), "to be copied"
    assert "; fraud, by bo; asked for: not fraud" in told
    assert "  ana asks for not fraud: the wrong key" in told
    assert "1 of 1 that wait" in told
    assert "mlplatform review correct ID OUTCOME" in told
    (one,) = json.loads(run("corrections", "fraud", "--json").stdout)["corrections"]
    assert (one["decision_id"], one["label"], one["labelled_by"]) == (name, 1, "bo")
    assert one["opinions"][0]["analyst"] == "ana"
    keeps = run("correct", name, "fraud", *own["cy"], "--reason", "it was stolen").stdout
    assert "is right; another person asks for the opposite, and a third person decides" in keeps
    assert "  cy says that the label is right: it was stolen" in run("corrections", "fraud").stdout
    done = run("correct", name, "not-fraud", *own["bo"], "--reason", "the wrong key").stdout
    assert "not fraud; it is labelled" in done
    assert world.labels() == {name: 0}
    assert run("corrections", "fraud").stdout == "0 of 0 that wait\n"


def test_what_is_refused_says_why(world: World) -> None:
    name, file = world.decide(), key(world, "vera", "fraud:view")
    of_vera = ("--analyst", "vera", "--key-file", file)
    for words, error in (
        (("record", name, "fraud", *of_vera), Refused),
        (("record", name, "fraud", "--analyst", "ana", "--key-file", file), Refused),
        (("record", name, "perhaps", *of_vera), InputInvalid),
        (("record", "d1", "fraud", *of_vera), NotFound),
    ):
        done = run(*words)
        assert isinstance(done.exception, error), done.output
        assert exit_code(done.exception) > 1
    assert world.labels() == {}
    assert any("has no scope fraud:review" in why for why in world.refused("vera"))
    assert any("this key" in why for why in world.refused("unknown"))
