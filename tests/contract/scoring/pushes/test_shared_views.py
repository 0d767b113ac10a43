"""Values of a view that another folder keeps for its purposes: no push, topic or import gives them
to a copy, and what a champion reads already goes on."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.copied_view import COPY, CREDIT, FRAUD, OWNED, VIEW, declared, rendered
from tests.support.external_world import table, written
from tests.support.pushes_world import row
from tests.support.scoring_world import SOURCE, ScoringWorld, wait_for
from tests.support.team_folder import command, team_folder
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.decisions.topics.messages import Message
from mlplatform.decisions.topics.wiring import open_topics
from mlplatform.operations import wiring
from mlplatform.runtime.processes.commands import command as process_command
from mlplatform.scoring import wiring as scoring_wiring
from mlplatform.scoring.worker.feature_stream import specs_of

pytestmark = pytest.mark.slow
TOPIC = "bank.device"
WAIT_S, SETTLED_S = 60.0, 3.0


class World(ScoringWorld):
    """The owner's model, which has a champion, and a copy of its view in another folder."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.models = root / "models"
        self.promote(self.deploy(1))
        self.start_gateway()

    def push(self) -> httpx.Response:
        url = f"{self.url}/api/v2/features/{VIEW}"
        return httpx.post(url, json={"rows": [row(1, 3.0)]}, headers=self.headers, timeout=10)

    def waiting(self, model: str) -> int:
        """Pushes of a model's view that the journal has."""
        with closing(scoring_wiring.pushes(wiring.settings())) as journal:
            return len(journal.waiting(model, VIEW, most=1_000))

    @property
    def detail(self) -> str:
        return str(httpx.get(f"{self.url}/readyz", timeout=10).json().get("detail", ""))


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    models = tmp_path / "models"
    declared(models, OWNED, FRAUD, FRAUD, TOPIC)
    with team_folder(models, tmp_path / "var", OWNED):
        yield models


@pytest.fixture
def world(models: Path) -> Iterator[World]:
    made = World(models.parent)
    try:
        yield made
    finally:
        made.close()


def test_a_push_reaches_the_owners_model_and_no_copy_of_its_view(world: World) -> None:
    assert world.push().status_code == 200
    draft = declared(world.models.parent / "draft", COPY, CREDIT, f"{FRAUD}, {CREDIT}", TOPIC)
    draft.rename(world.models / COPY)
    told = f"{COPY}: view {VIEW}: purpose is '{CREDIT}'"
    wait_for(lambda: told in world.detail, WAIT_S)
    assert world.push().status_code == 200
    assert (world.waiting(OWNED), world.waiting(COPY)) == (2, 0)

    rendered(world.models / COPY, CREDIT, CREDIT)  # the copy refuses the owner's purpose in turn
    wait_for(lambda: f"{OWNED}: view {VIEW}" in world.detail, WAIT_S)
    assert world.push().status_code == 200, "its champion reads the view already"
    assert (world.waiting(OWNED), world.waiting(COPY)) == (3, 0)

    for name in (OWNED, COPY):
        rendered(world.models / name, FRAUD if name == OWNED else CREDIT, f"{FRAUD}, {CREDIT}")
    wait_for(lambda: "purpose" not in world.detail, WAIT_S)
    assert world.push().status_code == 200
    assert (world.waiting(OWNED), world.waiting(COPY)) == (4, 1)


def test_a_push_that_no_model_may_take_says_why(models: Path) -> None:
    declared(models, COPY, CREDIT, CREDIT, TOPIC)
    world = ScoringWorld(models.parent)
    try:
        world.start_gateway()
        url = f"{world.url}/api/v2/features/{VIEW}"
        sent: dict[str, Any] = {"rows": [row(1, 3.0)]}
        answer = httpx.post(url, json=sent, headers=world.headers, timeout=10)
    finally:
        world.close()
    assert answer.status_code == 403
    assert answer.json()["type"].endswith("view-refused")
    for words in (OWNED, COPY, FRAUD, CREDIT):
        assert words in answer.json()["detail"]


class Workers:
    """Worker processes of models, without a gateway: they read topics of features all the same."""

    def __init__(self, root: Path) -> None:
        self._root, self._running = root, list[subprocess.Popen[bytes]]()

    def start(self, model: str) -> None:
        environment = os.environ | {
            "PYTHONPATH": str(SOURCE), "MLPLATFORM_GATEWAY_URL": "http://127.0.0.1:9"
        }  # fmt: skip
        token, address = self._root / f"{model}.token", self._root / f"{model}.address"
        token.write_text("t")
        files = (f"--address-file={address}", f"--token-file={token}")
        with self.log(model).open("ab") as log:
            words = process_command("worker", f"--model={model}", *files)
            self._running.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))

    def log(self, model: str) -> Path:
        return self._root / f"{model}.log"

    def kill(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        self._running.clear()


@pytest.fixture
def workers(models: Path) -> Iterator[Workers]:
    made = Workers(models.parent)
    try:
        yield made
    finally:
        made.kill()


def taken(model: str, view: str) -> int:
    """Rows of a model's view that the journal has."""
    with closing(scoring_wiring.pushes(wiring.settings())) as journal:
        return sum(len(one.push.rows) for one in journal.waiting(model, view, most=1_000))


def publish(score: float) -> None:
    with closing(open_topics(wiring.settings(), specs_of(TOPIC))) as topics:
        topics.publish([Message(TOPIC, b"1", json.dumps(row(int(score), score)).encode())])


def test_no_worker_begins_to_read_the_topic_of_a_stricter_folder_and_one_that_read_it_goes_on(
    models: Path, workers: Workers
) -> None:
    """The copies have another name for the view. One of them read the topic before."""
    other = "credit-c"
    declared(models, COPY, CREDIT, f"{FRAUD}, {CREDIT}", TOPIC, view="gadget")
    (models / OWNED).rename(models / ".later")
    publish(1.0)
    workers.start(COPY)
    wait_for(lambda: taken(COPY, "gadget") == 1, WAIT_S)
    workers.kill()
    (models / ".later").rename(models / OWNED)
    declared(models, other, CREDIT, f"{FRAUD}, {CREDIT}", TOPIC, view="gadget")
    publish(2.0)
    for model in (OWNED, COPY, other):
        workers.start(model)
    wait_for(lambda: taken(COPY, "gadget") == 2 and taken(OWNED, VIEW) == 2, WAIT_S)
    wait_for(lambda: "a changed view is not used" in workers.log(other).read_text(), WAIT_S)
    time.sleep(SETTLED_S)
    assert taken(other, "gadget") == 0
    assert f"{COPY}: view gadget: purpose" in workers.log(COPY).read_text()


def test_an_import_is_refused_for_a_copy_and_not_for_the_owner(models: Path) -> None:
    declared(models, COPY, CREDIT, f"{FRAUD}, {CREDIT}", TOPIC)
    file = written(models.parent / "rows.parquet", table([(1, 0, 0, 3.0)]))
    words = ("features", "import", COPY, VIEW, str(file))
    done = CliRunner().invoke(commands.app, words)
    assert done.exit_code != 0
    assert f"as {OWNED} allows for its view {VIEW}" in f"{done.output} {done.exception}"
    assert not list(wiring.platform().offline(COPY).external(VIEW).notes())
    assert json.loads(command("features", "import", OWNED, VIEW, str(file), "--json"))["new"] == 1
