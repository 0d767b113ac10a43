"""`mlplatform features status` lists what topics dropped before the worker read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.external_world import NAME, model_with_table
from tests.support.team_folder import command, team_folder

from mlplatform.decisions.topics.messages import DroppedRange
from mlplatform.operations import wiring
from mlplatform.operations.actions import skew

FOUND_MS = 1_764_000_000_000


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    model_with_table(tmp_path / "models", "bank.bureau")
    with team_folder(tmp_path / "models", tmp_path / "var"):
        yield tmp_path / "var"


def lose() -> None:
    gone = [DroppedRange("bank.bureau", 0, 10, 14), DroppedRange("bank.bureau", 3, 1, 1)]
    wiring.platform().pushes.add_gaps(NAME, "bureau", gone, {"bank.bureau": "id"}, FOUND_MS)


def test_a_topic_that_lost_nothing_is_listed_and_asking_makes_no_file(home: Path) -> None:
    wiring.settings().home.create()
    assert json.loads(command("features", "status", NAME, "--json")) == [
        {"view": "bureau", "topic": "bank.bureau", "dropped": []}
    ]
    assert "bank.bureau" in command("features", "status", NAME)
    assert not list(home.glob("pushes.db*"))


def test_losses_are_listed_with_partition_offsets_and_times(home: Path) -> None:
    lose()
    (found,) = json.loads(command("features", "status", NAME, "--json"))
    assert found["dropped"][0] == {
        "topic": "bank.bureau",
        "partition": 0,
        "topic_id": "id",
        "first_offset": 10,
        "last_offset": 14,
        "since_ms": None,
        "found_ms": FOUND_MS,
        "messages": 5,
    }
    told = command("features", "status", NAME)
    assert "2025-11-24 16:00:00" in told
    assert [word for word in ("10", "14", "6") if word not in told.split()] == []


def test_skew_and_training_are_told_of_losses_in_their_reach(home: Path) -> None:
    lose()
    platform = wiring.platform()
    (found,) = skew.lost(platform, NAME, FOUND_MS - 1, FOUND_MS)
    assert (found.view, found.messages, found.found_ms) == ("bureau", 6, FOUND_MS)
    assert skew.lost(platform, NAME, FOUND_MS + 11 * 86_400_000, None) == ()
