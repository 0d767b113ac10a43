"""A model of classes, from its template to answers, labels and a second version."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.support.class_history import CHANNELS, CLASSES, DAY_US, history
from tests.support.scoring_world import ScoringWorld, wait_for
from tests.support.searched_folder import searched
from tests.support.segment_gates import beside_itself, segments
from tests.support.spoiled_labels import with_labels_by_phone
from tests.support.team_folder import command, team_folder
from tests.support.train_libraries import needed

from mlplatform.learning.training import evaluate, retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.report import to_dict, to_markdown
from mlplatform.model.bundle import load_bundle
from mlplatform.model.policies.decision_scale import DecisionScale
from mlplatform.operations.actions import fitting, training
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load

pytestmark = pytest.mark.slow

NAME = "purchase-size"
BASELINE = """

import numpy as np

class Shares:
    def __init__(self, y, classes):
        self.shares = np.bincount(y, minlength=classes) / len(y)

    def scores(self, x):
        return np.tile(self.shares, (len(x), 1))


def baseline(dataset: Dataset, context: Context) -> Shares:
    return Shares(dataset.y, len(dataset.classes))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("team")
    with team_folder(root, root / ".home" / "var", NAME):
        yield root


TrainedCandidate = tuple[Candidate, GateReport, training.TrainingInputs]


@pytest.fixture(scope="module")
def made(root: Path) -> TrainedCandidate:
    """Written from the template, checked, its history taken in, fitted as a job, validated."""
    command("new-model", NAME, "--template", "classes", "--into", str(root))
    with (root / NAME / "training.py").open("a") as file:
        file.write(BASELINE)
    path = root / NAME / "model.yaml"
    text = path.read_text().replace("deadline_ms: 50\n", "deadline_ms: 2000\n")
    text = text.replace("alerts: []", "alerts: [large]").replace(
        "gates:\n", segments("accuracy_drop: 0.1")
    )
    path.write_text(text)
    assert "nothing is wrong" in command("check-model", str(root / NAME))
    until_us = time.time_ns() // 1000 // DAY_US * DAY_US
    pq.write_table(history(until_us), root / "history.parquet")
    command("history", "import", NAME, str(root / "history.parquet"))
    platform = Platform(load(os.environ))
    prepared = training.prepare_training(platform, NAME, until_us // 1000)
    candidate = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
    folder = training.load_folder(NAME)
    recent = prepared.recent
    report = retrain.validate(folder, candidate, prepared.dataset, champion=None, recent=recent)
    return candidate, report, prepared


def test_a_first_version_passes_gates_that_count_classes(made: TrainedCandidate) -> None:
    candidate, report, prepared = made
    assert report.reasons == ()
    assert retrain.version_facts(candidate, report, author="ana").validated
    values = {m.name: m.candidate for m in report.measures}
    assert set(values) == {"accuracy", "macro_f1", "log_loss", "top_3_accuracy"}
    assert 0.75 < values["accuracy"].low < values["accuracy"].high < 0.95
    assert values["top_3_accuracy"].value == 1
    unlabelled = len(prepared.dataset.holdout) - len(prepared.dataset.holdout.known)
    assert unlabelled > 0
    assert "- accuracy: 0.8" in to_markdown(to_dict(report))
    accuracy = next(m for m in report.baseline if m.name == "accuracy")
    assert accuracy.candidate == values["accuracy"]
    assert accuracy.difference is not None
    assert accuracy.difference.low > 0


def test_its_segments_are_compared_by_accuracy(made: TrainedCandidate) -> None:
    candidate, report, prepared = made
    same = beside_itself(NAME, candidate, report, prepared.dataset)
    assert same.interval is not None
    assert -0.1 < same.interval[0] < 0 < same.interval[1]
    assert same.reason.startswith("accuracy 0.")


def test_a_version_that_got_worse_by_phone_is_refused_for_that_segment(
    made: TrainedCandidate,
) -> None:
    candidate, _, prepared = made
    folder, champion = training.load_folder(NAME), evaluate.load_runnable(candidate.folder)
    taught = with_labels_by_phone(prepared.dataset, lambda y: (y + 1) % len(CLASSES))
    worse = retrain.fit(folder, taught, bundles=candidate.folder.parent)
    found = retrain.validate(folder, worse, prepared.dataset, champion=champion)
    gate = next(gate for gate in found.gates if gate.name == "segment_by_phone")
    assert gate.verdict == "failed"
    assert not retrain.version_facts(worse, found, author="ana").validated
    assert "the loss is proven, on days" in to_markdown(to_dict(found))


def test_its_bundle_holds_the_classes_in_order_and_their_probabilities(
    made: TrainedCandidate,
) -> None:
    bundle = load_bundle(made[0].folder)
    assert bundle.scale == DecisionScale(CLASSES, ("large",), by_class=True)
    assert (bundle.thresholds, bundle.small_model) == ({}, None)
    golden = np.array(bundle.golden.scores)
    assert golden.shape == (len(bundle.golden.rows), len(CLASSES))
    assert np.abs(golden.sum(axis=1) - 1).max() < 1e-5


def test_a_champion_is_held_to_the_same_rows_and_does_not_differ_from_itself(
    made: TrainedCandidate,
) -> None:
    candidate, _, prepared = made
    folder, champion = training.load_folder(NAME), evaluate.load_runnable(candidate.folder)
    again = retrain.validate(
        folder, candidate, prepared.dataset, champion=champion, recent=prepared.recent
    )
    assert again.reasons == ()
    for measure in again.measures:
        assert measure.champion == measure.candidate
        assert measure.difference is not None
        assert measure.difference.value == 0
        assert measure.difference.low <= 0 <= measure.difference.high
    assert again.replayed is not None
    assert again.replayed.flips == 0
    assert to_dict(again)["replayed"]["flips"] == 0


def test_mlflow_gets_its_figures(made: TrainedCandidate) -> None:
    candidate, report, prepared = made
    folder = training.load_folder(NAME)
    record = retrain.describe(folder, candidate, prepared.dataset, report, champion=None)
    confusion = json.loads(record.artifacts["curves/confusion.json"])
    assert confusion["columns"] == ["class", *CLASSES]
    assert sum(sum(row[1:]) for row in confusion["data"]) == len(prepared.dataset.holdout.known)


def test_its_trees_are_searched_by_log_loss(root: Path, made: TrainedCandidate) -> None:
    needed("optuna")
    folder = searched(root / NAME, "log-loss-searched", "log_loss")
    assert "nothing is wrong" in command("check-model", str(folder))
    dataset, platform = replace(made[2].dataset, model=folder.name), Platform(load(os.environ))
    candidate = fitting.fit(platform, dataset, None, lambda status: None)
    assert candidate.search is not None
    assert (candidate.search.measure, candidate.search.count("complete")) == ("log_loss", 4)
    assert candidate.parameters["trees"] == candidate.search.best.parameters["trees"]
    report = retrain.validate(load_folder(folder.name), candidate, dataset, champion=None)
    assert report.reasons == ()
    assert "4 of 4 trials" in to_markdown(to_dict(report))


@pytest.fixture(scope="module")
def world(root: Path, made: TrainedCandidate) -> Iterator[ScoringWorld]:
    world = ScoringWorld(root / ".home", has_snapshots=False)
    try:
        world.promote(world.serve(1, made[0].bundle.digest))
        world.start_gateway()
        wait_for(lambda: score(world).json().get("answered_by") == "champion")
        yield world
    finally:
        world.close()


def score(world: ScoringWorld, version: str = "v2", **changed: object) -> httpx.Response:
    asked = {"customer_id": 7, "channel": "web", "amount": 20.0}
    body = asked | {"event_time": time.time_ns() // 1_000_000} | changed
    url = f"{world.url}/api/{version}/models/{NAME}/score"
    return httpx.post(url, json=body, headers=world.headers, timeout=10)


def test_a_gateway_answers_the_class_and_the_most_probable_ones(world: ScoringWorld) -> None:
    for channel, wanted in zip(CHANNELS, CLASSES, strict=True):
        for version in ("v1", "v2"):
            found = score(world, version, channel=channel).json()
            assert found["decision"] == wanted == found["top"][0]["class"]
            assert found["score"] == found["top"][0]["probability"] > 0.6
            probabilities = [one["probability"] for one in found["top"]]
            assert probabilities == sorted(probabilities, reverse=True)
            assert abs(sum(probabilities) - 1) < 1e-5
            assert bool(found["reasons"]) == (wanted == "large"), "reasons are of alerts"
    assert score(world, amount=-1.0).status_code == 422


def test_its_record_keeps_class_score_and_top_and_is_explained(world: ScoringWorld) -> None:
    found = score(world, channel="phone").json()
    decision_id = found["decision_id"]
    (record,) = [r for r in world.records("decision") if r["decision_id"] == decision_id]
    assert (record["decision"], record["score"]) == ("large", found["score"])
    assert record["payload"]["top"] == [[t["class"], t["probability"]] for t in found["top"]]
    told = json.loads(command("log", "explain", decision_id, "--json"))
    (explanation,) = told["explanations"]
    assert told["equal"]
    assert explanation["again"]["reasons"][0] == "CHANNEL"


def test_a_label_is_a_class_and_another_text_is_refused_with_the_allowed_ones(
    world: ScoringWorld,
) -> None:
    decision_id = score(world).json()["decision_id"]
    url = f"{world.url}/api/v2/models/{NAME}/labels"

    def post(label: object) -> httpx.Response:
        body = {"labels": [{"decision_id": decision_id, "label": label}]}
        return httpx.post(url, json=body, headers=world.headers, timeout=10)

    assert post("usual").json() == {"stored": 1, "repeated": 0}
    assert post("usual").json() == {"stored": 0, "repeated": 1}
    assert post("small").json() == {"stored": 1, "repeated": 0}
    refused = post("huge")
    assert refused.status_code == 422
    assert "one of small, usual, large" in refused.json()["detail"]
    assert post(1).status_code == 422
    labels = [r for r in world.records("label") if r["decision_id"] == decision_id]
    assert [(r["decision"], r["label"]) for r in labels] == [("usual", None), ("small", None)]
    platform = Platform(load(os.environ))
    offline = platform.offline(NAME)
    offline.project(platform.log)
    known = offline.labels(time.time_ns() // 1_000_000 + 1000).filter(
        f"request_id = '{decision_id}'"
    )
    assert [row[1] for row in known.fetchall()] == ["small"]


def test_callers_of_the_open_protocol_get_a_probability_for_each_class(world: ScoringWorld) -> None:
    rows = [[2.0, 20.0, 12.0], [3.0, 20.0, 12.0]]
    tensor = {"name": "inputs", "datatype": "FP32", "shape": [2, 3], "data": rows}
    url = f"{world.url}/v2/models/{NAME}"
    answer = httpx.post(
        f"{url}/infer", json={"inputs": [tensor]}, headers=world.headers, timeout=10
    )
    (output,) = answer.json()["outputs"]
    assert output["shape"] == [2, len(CLASSES)]
    assert np.abs(np.array(output["data"]).reshape(2, 3).sum(axis=1) - 1).max() < 1e-5
    described = httpx.get(url, headers=world.headers, timeout=10).json()
    assert described["outputs"][0]["shape"] == [-1, len(CLASSES)]


def test_what_if_the_next_version_had_answered(world: ScoringWorld, made: TrainedCandidate) -> None:
    """The last test: nothing of the world is changed by it."""
    for channel in CHANNELS:
        score(world, channel=channel)
    folder, prepared = training.load_folder(NAME), made[2]
    bundles = made[0].folder.parent
    again = retrain.fit(folder, prepared.dataset, bundles=bundles, recent=prepared.recent, seed=7)
    asked = ("replay", NAME, "--bundle", str(again.folder), "--days", "1", "--json")
    wait_for(lambda: json.loads(command(*asked))["served"] >= len(CHANNELS))
    found = json.loads(command(*asked))
    assert found["alike"] == found["served"] <= found["what_if"]["requests"]
    assert found["what_if"]["disagreement"]["trials"] == found["what_if"]["requests"]
    assert {"changes", "reference_alerts", "measured"} <= found["what_if"].keys()
    assert not {"decisions", "differences", "known"} & found["what_if"].keys()
