"""Model folders that change under a gateway that answers: it goes on without a pause."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tests.support.model_folders import copied, windowed

from mlplatform.scoring.protos import open_inference_pb2 as pb
from support import scoring_world
from support.ports import free_port
from support.scoring_world import ScoringWorld, payment, wait_for

pytestmark = pytest.mark.slow
MODEL, LATER = "fraud", "later_fraud"
SENDERS = 3
KEYS = itertools.count()


class World(ScoringWorld):
    """A gateway over a folder of models that tests change."""

    def __init__(self, root: Path, models: Path) -> None:
        super().__init__(root)
        self.models = models
        self.promote(self.deploy(1))
        self.grpc_port = free_port()
        self.start_gateway(MLPLATFORM_GATEWAY_GRPC_PORT=str(self.grpc_port))

    def edit(self, before: str, after: str, model: str = MODEL) -> None:
        file = self.models / model / "model.yaml"
        text = file.read_text()
        assert before in text
        draft = file.with_name(".draft")
        draft.write_text(text.replace(before, after, 1))
        draft.rename(file)

    def score(self, model: str = MODEL, key: str | None = None, **body: Any) -> httpx.Response:
        headers = self.headers | ({} if key is None else {"Idempotency-Key": key})
        url = f"{self.url}/api/v1/models/{model}/score"
        return httpx.post(url, json=payment(**body), headers=headers, timeout=10)

    def is_ready_by_grpc(self, model: str) -> bool:
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            ask = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelReady",
                request_serializer=pb.ModelReadyRequest.SerializeToString,
                response_deserializer=pb.ModelReadyResponse.FromString,
            )
            key = ("authorization", self.headers["Authorization"])
            answer = ask(pb.ModelReadyRequest(name=model), metadata=[key], timeout=10)
        return bool(answer.ready)

    @property
    def detail(self) -> str:
        """What is wrong nevertheless, as /readyz says it."""
        answer = httpx.get(f"{self.url}/readyz", timeout=10)
        assert answer.status_code == 200
        return str(answer.json().get("detail", ""))

    def unread(self, model: str = MODEL) -> float:
        text = httpx.get(f"{self.url}/metrics", headers=self.headers, timeout=10).text
        line = f'mlplatform_gateway_folder_unread{{model="{model}"}} '
        return float(next(t for t in text.splitlines() if t.startswith(line)).rpartition(" ")[2])

    @property
    def log(self) -> str:
        return (self.home.logs / "gateway.log").read_text()

    @contextmanager
    def traffic(self) -> Iterator[Counter[tuple[int, str]]]:
        """Payments by several connections; how often each status and answerer came."""
        stopping, seen = threading.Event(), Counter[tuple[int, str]]()

        def send() -> None:
            with self.client() as client:
                while not stopping.is_set():
                    answer = client.post("/score", json=payment(300.0, next(KEYS)))
                    seen[answer.status_code, str(answer.json().get("answered_by"))] += 1

        senders = [threading.Thread(target=send) for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        try:
            yield seen
        finally:
            stopping.set()
            for sender in senders:
                sender.join()
        assert sum(seen.values()) > 100
        assert {status for status, _ in seen} == {200}, seen
        by_model = sum(count for (_, by), count in seen.items() if by == "champion")
        assert by_model > 0.9 * sum(seen.values()), seen


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("changed")
    models = root / "models"
    models.mkdir()
    file = copied(models, MODEL) / "model.yaml"
    # machines of tests are busy
    file.write_text(file.read_text().replace("deadline_ms: 50\n", "deadline_ms: 2000\n"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLPLATFORM_MODELS", str(models))
        made = World(root, models)
        try:
            yield made
        finally:
            made.close()


def test_a_changed_declaration_counts_from_the_next_request_without_a_pause(world: World) -> None:
    at_ms = int(time.time() * 1000)
    first = world.score(key="before", amount=620.0, event_time=at_ms)
    assert world.score(channel="web").status_code == 422
    with world.traffic() as seen:
        began = sum(seen.values())
        field = "request:\n  channel: {type: string, values: [web, till], optional: true}\n"
        world.edit("request:\n", field)
        wait_for(lambda: world.score(channel="web").status_code == 200, 15)
        reached = sum(seen.values())
        wait_for(lambda: sum(seen.values()) > reached + 50)
    assert reached > began
    assert world.score(channel="letter").status_code == 422
    assert "channel" in httpx.get(f"{world.url}/openapi.json", timeout=10).text
    fields = [r["payload"]["request"].get("channel") for r in world.records("decision")]
    assert {"web", None} <= set(fields)
    again = world.score(key="before", amount=620.0, event_time=at_ms)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.content == first.content


def test_limits_of_clients_change(world: World) -> None:
    def limited() -> bool:
        return 429 in {world.score().status_code for _ in range(5)}

    assert not limited()
    world.edit("rate_per_s: 50000\n  burst: 50000\n", "rate_per_s: 1\n  burst: 1\n")
    wait_for(limited, 15)
    world.edit("rate_per_s: 1\n  burst: 1\n", "rate_per_s: 50000\n  burst: 50000\n")
    wait_for(lambda: not limited(), 20)


@pytest.mark.parametrize("broken", ["invalid", "half", "empty"])
def test_a_broken_file_leaves_what_serves_is_told_and_heals(world: World, broken: str) -> None:
    file = world.models / MODEL / "model.yaml"
    text, told = file.read_text(), world.log.count("keeps its last good declaration")
    with world.traffic():
        content = {"invalid": "name: [\n", "half": text[: len(text) // 2], "empty": ""}[broken]
        file.write_text(content)
        wait_for(lambda: "folder of fraud: model.yaml" in world.detail, 15)
        assert world.unread() == 1.0
        time.sleep(6.5)  # it is read again meanwhile
        file.write_text(text)
        wait_for(lambda: world.detail == "", 15)
    assert world.unread() == 0.0
    assert world.log.count("keeps its last good declaration") == told + 1


def test_a_declaration_that_the_champion_cannot_do_with_is_not_taken(world: World) -> None:
    """Its bundle reads `amount`: without that field, the model would answer nothing."""
    file = world.models / MODEL / "model.yaml"
    text = file.read_text()
    with world.traffic():
        kept = [t for t in text.splitlines() if t.count("amount") == 0]
        file.write_text("\n".join(kept) + "\n")
        wait_for(lambda: "folder of fraud: " in world.detail, 15)
        file.write_text(text)
        wait_for(lambda: world.detail == "", 15)


def test_a_changed_policy_of_a_feature_counts_too(world: World) -> None:
    """Nobody who pays here has a row of features."""
    file = world.models / MODEL / "features.json"
    text = file.read_text()
    assert '"missing": "default"' in text
    file.write_text(text.replace('"missing": "default"', '"missing": "refuse"'))
    refused = wait_for(lambda: found if (found := world.score()).status_code == 503 else None, 15)
    assert refused.json()["type"] == "urn:mlplatform:problem:features-missing"
    file.write_text(text)
    with_defaults = wait_for(lambda: world.score().status_code == 200, 15)
    assert with_defaults


def test_a_model_with_a_champion_outlives_its_folder(world: World) -> None:
    aside = world.models.parent / "aside"
    with world.traffic():
        shutil.move(world.models / MODEL, aside)
        wait_for(lambda: "no model 'fraud'" in world.detail, 15)
        assert world.unread() == 1.0
        assert world.score().status_code == 200
        shutil.move(aside, world.models / MODEL)
        wait_for(lambda: world.detail == "", 15)


def test_a_new_folder_is_served_by_its_first_promotion_and_leaves_before_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = world.models.parent / "later"
    assert world.score(LATER).status_code == 404
    copied(aside.parent, LATER).rename(aside)
    with world.traffic():
        shutil.copytree(aside, world.models / LATER)
        wait_for(lambda: world.score(LATER).status_code == 503, 15)
        shutil.rmtree(world.models / LATER)
        wait_for(lambda: world.score(LATER).status_code == 404, 15)
        assert world.detail == ""
        shutil.copytree(aside, world.models / LATER)
        world.edit("deadline_ms: 50\n", "deadline_ms: 2000\n", LATER)
        wait_for(lambda: world.score(LATER).status_code == 503, 15)
        monkeypatch.setattr(scoring_world, "MODEL", LATER)
        scoring_world.write_home_snapshots(world.home)
        world.promote(world.deploy(1))
        monkeypatch.setattr(scoring_world, "MODEL", MODEL)
        # the newest rows of its features are looked up every few seconds
        wait_for(lambda: world.score(LATER).json().get("answered_by") == "champion", 15)
        answer = world.score(LATER, amount=620.0)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["answered_by"], answer.json()["decision"]) == ("champion", "review")
    names = httpx.get(f"{world.url}/api/v1/models", headers=world.headers, timeout=10).json()
    assert {m["model"] for m in names["models"]} == {MODEL, LATER}
    url = f"{world.url}/v2/models/{LATER}/ready"
    assert httpx.get(url, headers=world.headers, timeout=10).status_code == 200
    assert world.is_ready_by_grpc(LATER)


def test_windows_of_a_model_that_comes_later_follow_its_requests(world: World) -> None:
    """The gateway started without a model that has any."""
    windowed(world.models, "windowed")
    wait_for(lambda: world.score("windowed").status_code == 503, 15)
    wait_for(lambda: "windows of windowed are stale" in world.log, 15)
