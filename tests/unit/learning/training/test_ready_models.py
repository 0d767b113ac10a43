"""A ready ONNX file becomes a candidate of its own folder: no champion, no training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.foreign_onnx import (
    mean,
    ready_folder,
    requests,
    skl2onnx_classifier,
    softmax,
)

from mlplatform.commands.authoring.new_model import write_ready
from mlplatform.learning.onnx.onnx_limits import ModelRefused
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.evaluate import load_runnable
from mlplatform.learning.training.external_model import candidate_from_onnx
from mlplatform.learning.training.folder import ModelFolder, load_folder
from mlplatform.learning.training_sets.dataset import TrainingSet, dataset
from mlplatform.model.bundle import MODEL_FILE, load_bundle
from mlplatform.model.folders import is_ready
from mlplatform.model.policies.decision_scale import Task
from mlplatform.operations.compute.scoring import ORDER, Order, score
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.predictor.model import load
from mlplatform.scoring.request.explain import load_decider

NAME = "limits"
AS_OF_MS = 20_000 * DAY_MS


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> ModelFolder:
    root = tmp_path_factory.mktemp("team")
    ready_folder(root, NAME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLPLATFORM_MODELS", str(root))
        assert is_ready(root / NAME)
        yield load_folder(NAME)


@pytest.fixture(scope="module")
def data(folder) -> TrainingSet:
    table = requests(AS_OF_MS, days=24, per_day=300)
    return dataset(
        folder.definition, folder.views, table, as_of_ms=AS_OF_MS, labels_until_ms=AS_OF_MS
    )


def brought(folder: ModelFolder, data: TrainingSet, bundles: Path, content: bytes) -> Candidate:
    return candidate_from_onnx(
        content,
        folder,
        folder.definition,
        data,
        bundles=bundles,
        origin="limits.onnx, brought by ana",
        seed=1,
    )


@pytest.fixture(scope="module")
def made(folder, data, tmp_path_factory) -> Candidate:
    candidate = brought(folder, data, tmp_path_factory.mktemp("b"), skl2onnx_classifier())
    yield candidate
    candidate.model.close()


def test_its_bundle_is_that_of_its_folder(folder, made) -> None:
    bundle = load_bundle(made.folder, made.bundle.digest)
    assert bundle.folder == folder.digest
    assert bundle.signature == folder.definition.signature
    assert bundle.vocabularies == {"channel": ("web", "shop", "phone")}
    assert bundle.attribution.method == "reference_values"


def test_it_is_held_to_its_golden_set(made) -> None:
    assert made.parity.against == "rows scored alone, and the golden set"
    assert made.parity.difference < 1e-5


def test_the_gates_judge_it(folder, data, made) -> None:
    report = retrain.validate(folder, made, data, champion=None)
    by_name = {gate.name: gate.verdict for gate in report.gates}
    assert "failed" not in by_name.values(), report.reasons


def test_a_predictor_a_batch_and_an_explanation_score_it_alike(
    folder, data, made, tmp_path
) -> None:
    x = data.judging.matrix.by(made.bundle.vocabularies).columns(made.bundle.input_names)[:40]
    x = np.concatenate([x, np.full((1, x.shape[1]), np.nan, np.float32)])
    served = load(made.folder, "limits-v1-" + made.bundle.digest[:8]).score(x)
    again = load_runnable(made.folder)
    np.testing.assert_array_equal(served, again.model.scores(x).astype(np.float32))
    decider = load_decider(made.folder.parent, NAME, made.bundle.digest)
    np.testing.assert_array_equal(served, decider.score(x))
    columns = {name: x[:, i] for i, name in enumerate(made.bundle.input_names)}
    pq.write_table(
        pa.table({"request_id": [str(i) for i in range(len(x))], **columns}), tmp_path / "shard"
    )
    (tmp_path / "bundle").symlink_to(made.folder)
    order = Order(version=1, bundle=made.bundle.digest)
    (tmp_path / ORDER).write_text(json.dumps({"version": order.version, "bundle": order.bundle}))
    score(tmp_path, tmp_path / "shard", tmp_path, "cpu")
    written = pq.read_table(tmp_path / "scores.parquet").column("score").to_numpy()
    np.testing.assert_array_equal(written, made.bundle.calibrate_many(served.astype(np.float64)))
    again.model.close()


def test_a_file_that_misses_its_golden_set_fails_the_gate(folder, data, made, tmp_path) -> None:
    golden = dataclasses.replace(folder.golden, scores=folder.golden.scores[::-1])
    wrong = dataclasses.replace(folder, golden=golden)
    candidate = brought(wrong, data, tmp_path, skl2onnx_classifier())
    assert candidate.parity.difference > 0.1
    report = retrain.validate(folder, candidate, data, champion=None)
    assert any("the golden set" in reason for reason in report.reasons)
    candidate.model.close()


def test_a_file_of_other_tensors_leaves_no_bundle(folder, data, tmp_path) -> None:
    other = skl2onnx_classifier().replace(b"visits", b"visit5")
    with pytest.raises(ModelRefused, match="visit5"):
        brought(folder, data, tmp_path, other)
    assert list(tmp_path.iterdir()) == []


def test_the_file_in_the_bundle_is_the_one_that_was_brought(made) -> None:
    assert (made.folder / MODEL_FILE).read_bytes() == skl2onnx_classifier()


def of_three(task: str) -> pa.Table:
    """Requests of three numbers, with the label of that task."""
    random, count = np.random.default_rng(9), 24 * 300
    rows = random.uniform(0, 6, (count, 3))
    day_us = DAY_MS * 1000
    event_us = np.sort(random.integers(AS_OF_MS * 1000 - 24 * day_us, AS_OF_MS * 1000, count))
    chance = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
    place = (random.random((count, 1)) > chance.cumsum(axis=1)).sum(axis=1)
    names = np.array(["class_0", "class_1", "class_2"])
    numbers = np.maximum(rows.mean(axis=1) + random.normal(0, 0.1, count), 0)
    return pa.table(
        {
            "request_id": np.arange(count),
            "event_time": pa.array(event_us, pa.timestamp("us")),
            "customer_id": random.integers(0, 2_000, count),
            **{f"rows_{i}": rows[:, i] for i in range(3)},
            "label": pa.array(names[place].tolist()) if task == "classes" else pa.array(numbers),
            "label_time": pa.array(
                np.minimum(event_us + day_us, AS_OF_MS * 1000), pa.timestamp("us")
            ),
        }
    )


@pytest.mark.parametrize(
    ("task", "content", "score"),
    [("classes", softmax(3), [1 / 3, 1 / 3, 1 / 3]), ("real", mean(), 0.0)],
)
def test_a_file_of_classes_or_numbers_is_a_candidate_that_the_gates_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task, content: bytes, score: object
) -> None:
    (tmp_path / "given.onnx").write_bytes(content)
    write_ready(tmp_path / NAME, NAME, tmp_path / "given.onnx", task=task)
    inputs = {f"rows_{i}": 0.0 for i in range(3)}
    golden = tmp_path / NAME / "golden.json"
    golden.write_text(json.dumps([{"inputs": inputs, "score": score}]))
    monkeypatch.setenv("MLPLATFORM_MODELS", str(tmp_path))
    folder = load_folder(NAME)
    data = dataset(
        folder.definition,
        folder.views,
        of_three(task),
        as_of_ms=AS_OF_MS,
        labels_until_ms=AS_OF_MS,
    )
    candidate = brought(folder, data, tmp_path / "bundles", content)
    try:
        report = retrain.validate(folder, candidate, data, champion=None)
        wrong = [gate.reason for gate in report.gates if gate.verdict != "passed"]
        assert wrong == []
        assert candidate.bundle.classes == (3 if task == "classes" else 0)
        assert load_bundle(candidate.folder, candidate.bundle.digest) == candidate.bundle
        x = data.judging.matrix.columns(candidate.bundle.input_names)[:20]
        served = load(candidate.folder, "limits-v1-" + candidate.bundle.digest[:8]).score(x)
        np.testing.assert_array_equal(served, candidate.model.scores(x).astype(np.float32))
    finally:
        candidate.model.close()
