"""`mlplatform quickstart` begins where nothing is, and says which of its commands failed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mlplatform.commands.first_hour import quickstart as command
from mlplatform.operations import wiring
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import Busy, Refused, Unavailable
from mlplatform.runtime.units import DAY_MS

Answers = Callable[[list[str]], tuple[int, str]]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", dict(os.environ))
    monkeypatch.delenv("MLPLATFORM_HOME", raising=False)
    caches = (wiring.settings, wiring.platform)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def commands_that(monkeypatch: pytest.MonkeyPatch, answer: Answers) -> list[list[str]]:
    """Has each command answered by a function of its words; returns the words that come."""
    seen: list[list[str]] = []

    def run(argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        words = argv[len(command._COMMAND) :]
        seen.append(words)
        code, said = answer(words)
        return subprocess.CompletedProcess(argv, code, said, said)

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def test_a_home_with_a_past_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its own home by default; what is in it stays."""
    monkeypatch.setattr(command, "MORE_DAYS", -22)  # two days
    monkeypatch.setattr(command, "REQUESTS", 40)
    monkeypatch.setattr(command, "CUSTOMERS", 10)
    monkeypatch.setattr(command, "_start", lambda home: pytest.fail("it was started"))
    os.environ["MLPLATFORM_HOME"] = command.HOME
    request = command._history("fraud", 1)
    assert list(request) == ["customer_id", "terminal_id", "amount"]
    del os.environ["MLPLATFORM_HOME"]
    with pytest.raises(
        Refused,
        match=(
            rf"{tmp_path}/var-quickstart holds history or rollouts of fraud.*rm"
            r" -r"
        ),
    ):
        command.quickstart()


def test_a_taken_port_is_found_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the error ends in the command that works."""
    monkeypatch.setattr(command, "_start", lambda home: pytest.fail("it was started"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("MLPLATFORM_PAGE_PORT", str(port))
        told = rf"port {port} of page .* MLPLATFORM_PAGE_PORT=\d+ mlplatform quickstart fraud$"
        with pytest.raises(Busy, match=told):
            command.quickstart("fraud")
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_fails_ends_it_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    commands_that(monkeypatch, lambda words: (4, "error: gates did not pass"))
    with pytest.raises(
        Unavailable, match=r"`mlplatform retrain` ended with 4: error: gates did not"
    ):
        command._run("retrain", "fraud")


def test_a_payment_is_scored_until_the_champion_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(
        [
            (3, "no answer yet"),
            (0, json.dumps({"answered_by": "rules"})),
            (0, json.dumps({"answered_by": "champion", "decision": "approve", "score": 0.01})),
        ]
    )
    seen = commands_that(monkeypatch, lambda words: next(answers))
    monkeypatch.setattr(command, "POLL_S", 0.0)
    assert command._score("fraud", {"amount": 3.5})["decision"] == "approve"
    assert [words[:2] for words in seen] == [["score", "fraud"]] * 3
    body = json.loads(seen[0][2])
    assert body["amount"] == 3.5
    assert body["event_time"].endswith("Z")


def test_a_history_is_of_the_days_before_today(monkeypatch: pytest.MonkeyPatch) -> None:
    """A payment of now follows it, and a system's clock takes both."""
    monkeypatch.setattr(command, "MORE_DAYS", -22)  # two days
    monkeypatch.setattr(command, "REQUESTS", 40)
    monkeypatch.setattr(command, "CUSTOMERS", 10)
    os.environ["MLPLATFORM_HOME"] = command.HOME
    command._history("fraud", 1)
    platform = wiring.Platform(load(os.environ))
    end_ms = platform.offline("fraud").history_end_ms()
    assert end_ms is not None
    assert 0 <= platform.clock.event_ms() - end_ms < 2 * DAY_MS


def test_a_folder_whose_generate_takes_no_population_makes_what_it_makes() -> None:
    assert command._of_this_size(ModuleType("sources"), 60) == {}
