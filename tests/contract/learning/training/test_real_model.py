"""A model of numbers, from its template to answers, labels and a second version."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.scoring_world import ScoringWorld, wait_for
from tests.support.searched_folder import searched
from tests.support.segment_gates import beside_itself, segments
from tests.support.spoiled_labels import with_labels_by_phone
from tests.support.team_folder import command, team_folder
from tests.support.train_libraries import needed

from mlplatform.learning.features.policy import Gaps
from mlplatform.learning.registry.pyfunc import BundleModel
from mlplatform.learning.training import evaluate, retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.report import to_dict, to_markdown
from mlplatform.model.bundle import load_bundle
from mlplatform.model.policies.decision_scale import DecisionScale, Quantity
from mlplatform.operations.actions import fitting, training
from mlplatform.operations.compute.scoring import score as shard_score
from mlplatform.operations.tables.row_decisions import RowDecisions
from mlplatform.operations.tables.row_features import Inputs
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform_client import Client, Label

pytestmark = pytest.mark.slow

NAME = "amount-at-risk"
CHANNELS = ("web", "shop", "phone")
PER_DAY, DAYS, DAY_US = 300, 26, 86_400_000_000
BASELINE = """

import numpy as np

class Mean:
    def __init__(self, mean):
        self.mean = mean

    def scores(self, x):
        return np.full(len(x), self.mean)


def baseline(dataset: Dataset, context: Context) -> Mean:
    return Mean(float(dataset.y.mean()))
"""
EUR = Quantity("EUR", 20.0, 0.0, 100_000.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("team")
    with team_folder(root, root / ".home" / "var", NAME):
        yield root


def history(until_us: int) -> pa.Table:
    """By phone 600 EUR are at risk, else a tenth of the amount, give or take; one in ten has no
    label."""
    random = np.random.default_rng(3)
    count = PER_DAY * DAYS
    event_us = np.sort(random.integers(until_us - DAYS * DAY_US, until_us, count))
    channel = random.integers(0, 3, count)
    amount = np.round(random.lognormal(5, 0.5, count), 2)
    risk = np.where(channel == 2, 600.0, amount / 10) + random.normal(0, 15, count)
    unknown = random.random(count) < 0.1
    known_us = np.minimum(event_us + 2 * DAY_US, until_us)
    return pa.table(
        {
            "request_id": np.arange(count),
            "event_time": pa.array(event_us, pa.timestamp("us")),
            "customer_id": random.integers(0, 900, count),
            "channel": pa.array(np.array(CHANNELS)[channel].tolist(), pa.string()),
            "amount": amount,
            "label": pa.array(np.maximum(risk, 0).round(2), pa.float64(), mask=unknown),
            "label_time": pa.array(known_us, pa.timestamp("us"), mask=unknown),
        }
    )


TrainedCandidate = tuple[Candidate, GateReport, training.TrainingInputs]


@pytest.fixture(scope="module")
def made(root: Path) -> TrainedCandidate:
    """Written from the template, checked, its history taken in, fitted as a job, validated."""
    command("new-model", NAME, "--template", "real", "--into", str(root))
    with (root / NAME / "training.py").open("a") as file:
        file.write(BASELINE)
    path = root / NAME / "model.yaml"
    text = path.read_text().replace("deadline_ms: 50\n", "deadline_ms: 2000\n")
    path.write_text(text.replace("gates:\n", segments("mae_rise: 0.1")))
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


def test_a_first_version_passes_gates_of_errors(made: TrainedCandidate) -> None:
    candidate, report, prepared = made
    assert report.reasons == ()
    assert retrain.version_facts(candidate, report, author="ana").validated
    values = {m.name: m.candidate for m in report.measures}
    assert set(values) == {"mae", "rmse", "bias", "quantile_loss"}
    assert 9 < values["mae"].low < 15 * (2 / np.pi) ** 0.5 * 1.2 < 25
    assert values["mae"].value < values["rmse"].value
    assert values["quantile_loss"].value == pytest.approx(values["mae"].value / 2)
    assert values["bias"].low < 0 < values["bias"].high
    assert prepared.dataset.rows.y.dtype == np.float64
    assert len(prepared.dataset.holdout) > len(prepared.dataset.holdout.known)
    assert "- mean absolute error: " in to_markdown(to_dict(report))


def test_its_segments_are_compared_by_absolute_error(made: TrainedCandidate) -> None:
    candidate, report, prepared = made
    same = beside_itself(NAME, candidate, report, prepared.dataset)
    assert same.observed == 0
    assert same.interval is not None
    assert same.interval[0] < 0 < same.interval[1]
    assert " EUR" in same.reason


def test_a_version_that_got_worse_by_phone_is_refused_for_that_segment(
    made: TrainedCandidate,
) -> None:
    candidate, _, prepared = made
    folder, champion = training.load_folder(NAME), evaluate.load_runnable(candidate.folder)
    taught = with_labels_by_phone(prepared.dataset, lambda y: y + 60)
    worse = retrain.fit(folder, taught, bundles=candidate.folder.parent)
    found = retrain.validate(folder, worse, prepared.dataset, champion=champion)
    gate = next(gate for gate in found.gates if gate.name == "segment_by_phone")
    assert gate.verdict == "failed"
    assert not retrain.version_facts(worse, found, author="ana").validated
    assert "the rise is proven, on days" in to_markdown(to_dict(found))


def test_it_is_measured_beside_the_baseline_of_its_folder(made: TrainedCandidate) -> None:
    report = made[1]
    beside = {m.name: m for m in report.baseline}
    assert [*beside] == [m.name for m in report.measures]
    assert [m.candidate for m in report.baseline] == [m.candidate for m in report.measures]
    champion, difference = beside["mae"].champion, beside["mae"].difference
    assert champion is not None
    assert difference is not None
    assert champion.low > beside["mae"].candidate.high
    assert difference.high < 0
    assert "### Beside the baseline of the model's folder" in to_markdown(to_dict(report))


def test_its_bundle_holds_what_the_number_is_and_explains_it(made: TrainedCandidate) -> None:
    bundle = load_bundle(made[0].folder)
    assert bundle.scale == DecisionScale(("usual", "high"), ("high",), number=EUR)
    assert (bundle.thresholds, bundle.small_model) == ({"high": 500.0}, None)
    assert max(bundle.golden.scores) > 500
    assert (bundle.attribution.method, bundle.attribution.why) == ("tree_shap", "")


def test_a_champion_is_held_to_the_same_rows_and_nothing_differs_from_itself(
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


def test_mlflow_gets_its_figures_and_loads_it(made: TrainedCandidate) -> None:
    candidate, report, prepared = made
    folder = training.load_folder(NAME)
    record = retrain.describe(folder, candidate, prepared.dataset, report, champion=None)
    residuals = json.loads(record.artifacts["curves/residuals.json"])
    assert sum(row[-1] for row in residuals["data"]) == len(prepared.dataset.holdout.known)
    assert record.metrics["measures/mae"] > 0
    assert record.metrics["baseline/mae"] > record.metrics["measures/mae"]
    assert record.metrics["baseline/difference/mae"] < 0
    frame = pd.DataFrame({"channel": ["web", "phone"], "amount": [200.0, 200.0], "hour": [12, 12]})
    found = BundleModel(candidate.folder).predict(frame)
    assert found["decision"].tolist() == ["usual", "high"]
    assert abs(found["score"][1] - 600) < 60


def test_tables_and_shards_are_scored_as_by_a_gateway(
    made: TrainedCandidate, tmp_path: Path
) -> None:
    folder, bundle = made[0].folder, made[0].bundle
    x = np.array([[2, 200, 12], [4, 200, 12], [np.nan] * 3], np.float32)
    nothing = Gaps({}, None, degraded=False, withheld=False, refused=())
    inputs = Inputs(x, np.zeros(3, np.int64), [nothing], [()])
    scored = RowDecisions(bundle, folder, safe="usual").scored(inputs)
    raw = made[0].model.scores(x)
    assert scored.scores.tolist() == bundle.calibrate_many(raw).tolist()
    assert [scored.decisions[row] == 1 for row in range(3)] == (raw >= 500).tolist()
    shared, shard = tmp_path / "shared", tmp_path / "shard.parquet"
    shutil.copytree(folder, shared / "bundle")
    (shared / "order.json").write_text(json.dumps({"version": 1, "bundle": bundle.digest}))
    columns = dict(zip(bundle.input_names, x.T.tolist(), strict=True))
    pq.write_table(pa.table({"request_id": ["a", "b", "c"], **columns}), shard)
    counted = shard_score(shared, shard, tmp_path, "cpu")
    assert counted["decisions"]["high"] == int((raw >= 500).sum()) > 0
    found = pq.read_table(tmp_path / "scores.parquet")["score"].to_pylist()
    assert found == pytest.approx(scored.scores.tolist(), rel=1e-6)


def test_its_trees_are_searched_by_absolute_error(root: Path, made: TrainedCandidate) -> None:
    needed("optuna")
    folder = searched(root / NAME, "absolute-error-searched", "mae")
    assert "nothing is wrong" in command("check-model", str(folder))
    dataset, platform = replace(made[2].dataset, model=folder.name), Platform(load(os.environ))
    candidate = fitting.fit(platform, dataset, None, lambda status: None)
    assert candidate.search is not None
    assert (candidate.search.measure, candidate.search.count("complete")) == ("mae", 4)
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
    asked = {"customer_id": 7, "channel": "web", "amount": 200.0}
    body = asked | {"event_time": time.time_ns() // 1_000_000} | changed
    url = f"{world.url}/api/{version}/models/{NAME}/score"
    return httpx.post(url, json=body, headers=world.headers, timeout=10)


def test_a_gateway_answers_the_number_and_the_outcome_by_it(world: ScoringWorld) -> None:
    for channel, wanted in zip(CHANNELS, ("usual", "usual", "high"), strict=True):
        for version in ("v1", "v2"):
            found = score(world, version, channel=channel).json()
            assert found["decision"] == wanted
            assert (found["score"] > 500) == (wanted == "high")
            assert bool(found["reasons"]) == (wanted == "high"), "reasons are of alerts"
    assert score(world, amount=-1.0).status_code == 422


def test_the_client_gets_the_number(world: ScoringWorld) -> None:
    with Client(world.url, next(iter(world.headers.values())).removeprefix("Bearer ")) as client:
        fields = {"customer_id": 7, "channel": "phone", "amount": 200.0}
        answer = client.score(NAME, fields | {"event_time": time.time_ns() // 1_000_000})
        assert answer.score is not None
        assert answer.score > 500
        now_ms = time.time_ns() // 1_000_000
        label = Label(label=612.5, decision_id=answer.decision_id, event_time=now_ms)
        assert client.label(NAME, [label]).stored == 1


def test_its_record_keeps_the_number_and_is_explained(world: ScoringWorld) -> None:
    found = score(world, channel="phone").json()
    decision_id = found["decision_id"]
    (record,) = [r for r in world.records("decision") if r["decision_id"] == decision_id]
    assert (record["decision"], record["score"]) == ("high", found["score"])
    shown = json.loads(command("log", "explain", decision_id, "--json"))
    (explanation,) = shown["explanations"]
    assert shown["equal"]
    assert explanation["again"]["reasons"][0] == "CHANNEL"


def test_a_label_is_a_number_with_its_time_and_the_last_one_counts(world: ScoringWorld) -> None:
    decision_id = score(world).json()["decision_id"]
    url = f"{world.url}/api/v2/models/{NAME}/labels"
    now_ms = time.time_ns() // 1_000_000

    def post(label: object, at_ms: int | None = now_ms) -> httpx.Response:
        item = {"decision_id": decision_id, "label": label}
        body = {"labels": [item if at_ms is None else item | {"event_time": at_ms}]}
        return httpx.post(url, json=body, headers=world.headers, timeout=10)

    assert post(25.5).json() == {"stored": 1, "repeated": 0}
    assert post(25.5).json() == {"stored": 0, "repeated": 1}
    assert post(30, now_ms + 1).json() == {"stored": 1, "repeated": 0}
    for wrong in (-1, 100_001.0, "30"):
        assert post(wrong).status_code == 422
    assert "0 or more and 100000 or less, in EUR" in post(-1).json()["detail"]
    assert post(30, None).json()["field"] == "labels[0].event_time"
    labels = [r for r in world.records("label") if r["decision_id"] == decision_id]
    assert [(r["score"], r["label"], r["decision"]) for r in labels] == [
        (25.5, None, None),
        (30.0, None, None),
    ]
    platform = Platform(load(os.environ))
    offline = platform.offline(NAME)
    offline.project(platform.log)
    known = offline.labels(now_ms + 1000).filter(f"request_id = '{decision_id}'")
    assert [row[1] for row in known.fetchall()] == [30.0]


def test_callers_of_the_open_protocol_get_the_number_of_the_graph(world: ScoringWorld) -> None:
    rows = [[2.0, 200.0, 12.0], [4.0, 200.0, 12.0]]
    tensor = {"name": "inputs", "datatype": "FP32", "shape": [2, 3], "data": rows}
    answer = httpx.post(
        f"{world.url}/v2/models/{NAME}/infer",
        json={"inputs": [tensor]},
        headers=world.headers,
        timeout=10,
    )
    (output,) = answer.json()["outputs"]
    assert output["shape"] == [2]
    assert max(output["data"]) > 10


def test_what_if_the_next_version_had_answered(world: ScoringWorld, made: TrainedCandidate) -> None:
    for channel in CHANNELS:
        score(world, channel=channel)
    folder, prepared = training.load_folder(NAME), made[2]
    bundles = made[0].folder.parent
    again = retrain.fit(folder, prepared.dataset, bundles=bundles, recent=prepared.recent, seed=9)
    asked = ("replay", NAME, "--bundle", str(again.folder), "--days", "1", "--json")
    wait_for(lambda: json.loads(command(*asked))["served"] >= len(CHANNELS))
    found = json.loads(command(*asked))
    assert found["alike"] == found["served"] <= found["what_if"]["requests"]
    differences = found["what_if"]["differences"]
    assert differences["unit"] == "EUR"
    assert abs(differences["mean"]) < 60
    assert {"decisions", "reference_alerts", "measured"} <= found["what_if"].keys()
    assert not {"changes", "top", "known"} & found["what_if"].keys()


def test_a_retrain_beside_the_champion_takes_over_and_answers(
    world: ScoringWorld, made: TrainedCandidate
) -> None:
    _, _, prepared = made
    folder, champion = training.load_folder(NAME), evaluate.load_runnable(made[0].folder)
    bundles = made[0].folder.parent
    again = retrain.fit(folder, prepared.dataset, bundles=bundles, recent=prepared.recent, seed=7)
    assert again.bundle.digest != made[0].bundle.digest
    report = retrain.validate(
        folder, again, prepared.dataset, champion=champion, recent=prepared.recent
    )
    assert report.reasons == ()
    world.promote(world.serve(2, again.bundle.digest))
    wait_for(lambda: score(world).json()["model"]["version"] == 2)
    assert score(world, channel="phone").json()["score"] > 500
