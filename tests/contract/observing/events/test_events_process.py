"""The process `events` and the commands about it, over a home folder and real receivers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.operations import wiring
from mlplatform.rollouts.drift.incidents import IncidentFinding
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.rollouts.events.event import PREFIX
from mlplatform.rollouts.events.positions import Position
from mlplatform.rollouts.events.sqlite import SqlitePositions
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import NotFound, Unavailable
from support import event_receivers
from support.event_receivers import Receivers
from support.platform_process import wait

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MOST_MEMORY_MB = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receivers]:
    with event_receivers.serving(tmp_path_factory.mktemp("receivers")) as serving:
        yield serving


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


@pytest.fixture
def told(home: Home, server: Receivers, tmp_path: Path) -> dict[str, str]:
    """The settings of an installation with a webhook and a channel."""
    (tmp_path / "desk.secret").write_text(SECRET)
    (tmp_path / "slack.url").write_text(server.url(f"/{tmp_path.name}-slack"))
    file = tmp_path / "receivers.yaml"
    file.write_text(
        f"""
receivers:
  - name: desk
    kind: webhook
    url: {server.url(f"/{tmp_path.name}-desk")}
    secret_files: [desk.secret]
  - {{name: channel, kind: slack, url_file: slack.url, types: [mlplatform.incident.opened]}}
"""
    )
    return {
        "MLPLATFORM_HOME": str(home.root),
        "MLPLATFORM_RECEIVERS": str(file),
        "MLPLATFORM_PAGE_URL": "http://platform.bank.example",
    }


@pytest.fixture
def run(told: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    wiring.settings.cache_clear()

    def ran(*words: str) -> Any:
        found = CliRunner().invoke(commands.app, ["events", *words, "--json"])
        if found.exception is not None:
            raise found.exception
        return json.loads(found.stdout)

    yield ran
    wiring.settings.cache_clear()


def drifts(home: Home) -> None:
    incidents = SqliteIncidents(home.rollouts_db)
    found = incidents.open(IncidentFinding("fraud", "drift", 5, 3, 1, {}), now_ms=7)
    incidents.close(found.id, "steady again: customer_id=C4711", now_ms=8)


def declared(home: Home) -> int:
    if not home.rollouts_db.exists():
        return 0
    with closing(SqlitePositions(home.rollouts_db)) as positions:
        return len(positions.list())


def test_it_tells_who_is_declared_and_ends_in_order(
    home: Home, server: Receivers, told: dict[str, str], tmp_path: Path, run: Callable[..., Any]
) -> None:
    log = tmp_path / "events.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "mlplatform.process", "events"]
        process = subprocess.Popen(command, env={**os.environ, **told}, stdout=out, stderr=out)
    try:
        wait(lambda: declared(home) == 2, "the receivers are declared")
        drifts(home)
        desk, channel = f"/{tmp_path.name}-desk", f"/{tmp_path.name}-slack"
        wait(lambda: len(server.received(desk)) == 2, "the webhook has both events")
        wait(lambda: len(server.received(channel)) == 1, "the channel has the one that it wants")
        memory_mb = psutil.Process(process.pid).memory_info().rss / 2**20
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert memory_mb < MOST_MEMORY_MB
    (first, second), (message,) = server.received(desk), server.received(channel)
    assert json.loads(first["body"])["type"] == f"{PREFIX}.incident.opened"
    assert "C4711" not in second["body"]  # a personal field of the fraud model
    assert "http://platform.bank.example/incidents/fraud-drift-1" in message["body"]
    rows = {row["receiver"]: row for row in run("receivers")}
    shown = (rows["desk"][column] for column in ("state", "delivered", "waiting"))
    assert tuple(shown) == ("ok", 2, 0)
    assert channel not in log.read_text() + json.dumps(rows)  # whoever has it may write there


def test_without_receivers_it_says_what_is_missing(home: Home) -> None:
    command = [sys.executable, "-m", "mlplatform.process", "events"]
    environment = {**os.environ, "MLPLATFORM_HOME": str(home.root)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert "MLPLATFORM_RECEIVERS is ''; wanted: a file of receivers" in found.stderr


def test_commands_show_move_and_test_a_receiver(
    home: Home, server: Receivers, tmp_path: Path, run: Callable[..., Any]
) -> None:
    with pytest.raises(NotFound, match=r"no (platform|journal of rollouts) in"):
        run("receivers")
    drifts(home)
    assert {row["state"] for row in run("receivers")} == {"waits for the process `events`"}
    with closing(SqlitePositions(home.rollouts_db)) as positions:
        positions.declare(["desk", "channel"], Position(0, 2))
    assert run("replay", "desk", "--hours", "24")["waiting"] == 0  # it happened in 1970
    assert run("replay", "desk", "--hours", "0")["waiting"] == 0
    assert run("replay", "desk")["waiting"] == 0
    taken = run("test", "desk")
    (got,) = server.received(f"/{tmp_path.name}-desk")
    assert taken == {"receiver": "desk", "id": got["headers"]["webhook-id"], "taken": True}
    body = tmp_path / "body.json"
    body.write_text(got["body"])
    named = [
        word
        for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
        for word in (f"--{name}", got["headers"][name])
    ]
    verify = ["verify", str(body), "--secret-file", str(tmp_path / "desk.secret"), *named]
    assert run(*verify)["verified"] is True
    server.answer(**{f"{tmp_path.name}-desk": 503})
    with pytest.raises(Unavailable, match=r"did not take test-desk-\d+: answered 503"):
        run("test", "desk")
    server.answer()
    with pytest.raises(NotFound, match="there are: desk, channel"):
        run("test", "dsk")
