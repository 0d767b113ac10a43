"""Texts from a training set to a bundle: tokens learned from the days to fit, the same for all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlplatform.commands.authoring.new_model import write
from mlplatform.learning.registry.mlmodel import columns
from mlplatform.learning.registry.pyfunc import BundleModel
from mlplatform.learning.training import handover
from mlplatform.learning.training.candidate import Candidate, train
from mlplatform.learning.training.evaluate import JudgingInputs, Runnable, gather
from mlplatform.learning.training.fit_check import run
from mlplatform.learning.training.folder import ModelFolder, load_folder
from mlplatform.learning.training_sets.dataset import TrainingSet, any_matrix, dataset, window
from mlplatform.model.bundle import load_bundle, problems
from mlplatform.model.inputs import InputPlan
from mlplatform.operations.card.inputs import card_inputs
from mlplatform.operations.compute.scoring import ORDER, score
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.arms.reasons import tree_shap
from mlplatform.scoring.predictor.model import load
from mlplatform.scoring.request.explain import Decider, _by_model

NAME = "notes"
AS_OF_MS = 20_000 * DAY_MS
PER_DAY = 150
LENGTH = 3
NOTES = np.array(["Salary JUNE", "casino, online", "Rent  flat 7", "", "gift"])
CHANGES = (
    ("  income:", "  note: {type: string, max_length: 100}\n  income:"),
    (
        "inputs:\n",
        f"inputs:\n  - {{name: note, kind: text, of: note, "
        f"tokens: {{of: words, length: {LENGTH}}}}}\n",
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelFolder]:
    root = tmp_path_factory.mktemp("team")
    write(root / NAME, NAME, "sklearn")
    file = root / NAME / "model.yaml"
    text = file.read_text()
    for old, new in CHANGES:
        text = text.replace(old, new, 1)
    file.write_text(text)
    reasons = root / NAME / "reasons.yaml"
    words = "note: {code: NOTE, customer: What the note says, analyst: Note}\n"
    reasons.write_text(words + reasons.read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLPLATFORM_MODELS", str(root))
        yield load_folder(NAME)


def requests(folder: ModelFolder, notes: np.ndarray = NOTES) -> pa.Table:
    """Requests of which those for casinos are bad more often; one word comes on held-out days."""
    random = np.random.default_rng(3)
    bounds = window(folder.definition, AS_OF_MS)
    count = PER_DAY * (bounds.to_ms - bounds.from_ms) // DAY_MS
    event_ms = np.sort(random.integers(bounds.from_ms, bounds.to_ms, count))
    note = random.choice(notes, count)
    odds = np.where(note == "casino, online", 0.0, -3.5)
    label = (random.random(count) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    late = (event_ms >= bounds.holdout_from_ms) & (random.random(count) < 0.05)
    return pa.table({
        "request_id": [str(i) for i in range(count)],
        "event_time": pa.array(event_ms * 1000, pa.timestamp("us")),
        "customer_id": random.integers(0, 400, count),
        "amount": random.lognormal(8, 0.8, count),
        "income": random.lognormal(8, 0.5, count),
        "note": np.where(late, "Casino newword", note),
        "label": label,
        "label_time": pa.array((event_ms + DAY_MS) * 1000, pa.timestamp("us")),
    })  # fmt: skip


def built(folder: ModelFolder, table: pa.Table, **more: object) -> TrainingSet:
    return dataset(
        folder.definition, folder.views, table, as_of_ms=AS_OF_MS, labels_until_ms=None, **more
    )


@pytest.fixture(scope="module")
def made(folder: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    data = built(folder, requests(folder))
    return train(folder, data, bundles=tmp_path_factory.mktemp("bundles"), seed=1)


def test_tokens_are_learned_from_the_days_to_fit_and_are_data_of_the_bundle(
    folder: ModelFolder, made: Candidate
) -> None:
    words = made.bundle.vocabularies["note"]
    assert set(words) == {"casino", "online", "salary", "june", "rent", "flat", "7", "gift"}
    names = [f"note.w1.{n}" for n in range(1, LENGTH + 1)]
    assert list(made.bundle.input_names[:LENGTH]) == names
    assert {made.bundle.reasons[name].code for name in names} == {"NOTE"}
    assert [made.bundle.reference[name] for name in names] == [None] * LENGTH
    assert load_bundle(made.folder, made.folder.name) == made.bundle
    for broken in ({"vocabularies": {}}, {"inputs": made.bundle.inputs[1:]}):
        assert problems(msgspec.structs.replace(made.bundle, **broken))
    small = made.bundle.small_model
    assert small is not None
    assert not {c.input for c in small.characteristics} & set(names)
    assert card_inputs(folder.definition, (), made.bundle)[0].name == "note"


def test_serving_mlflow_and_training_score_a_request_alike(
    folder: ModelFolder, made: Candidate
) -> None:
    table, bundle = requests(folder).slice(0, 200), made.bundle
    plan = InputPlan(folder.definition, (), bundle.inputs, bundle.defaults, bundle.vocabularies)
    served = [
        plan.row(row, int(row["event_time"].timestamp() * 1000), {}) for row in table.to_pylist()
    ]
    together = made.model.scores(plan.matrix(table))
    np.testing.assert_array_equal(made.model.scores(np.array(served, np.float32)), together)
    assert columns(bundle)["note"] == "string"
    names, matrix = list(columns(bundle)), plan.matrix(table)
    frame = pd.DataFrame(matrix[:, LENGTH:], columns=names[1:])
    frame["note"] = table.column("note").to_pylist()
    raw = BundleModel(made.folder).predict(frame)["raw_score"].to_numpy()
    np.testing.assert_array_equal(raw, together)


def test_a_predictor_and_a_batch_score_rows_with_texts_alike(
    folder: ModelFolder, made: Candidate, tmp_path: Path
) -> None:
    table, bundle = requests(folder).slice(0, 200), made.bundle
    plan = InputPlan(folder.definition, (), bundle.inputs, bundle.defaults, bundle.vocabularies)
    x = plan.matrix(table)
    served = load(made.folder, f"{NAME}-v1-{bundle.digest[:8]}").score(x)
    columns = {name: x[:, position] for position, name in enumerate(bundle.input_names)}
    ids = {"request_id": [str(number) for number in range(len(x))]}
    pq.write_table(pa.table(ids | columns), tmp_path / "shard")
    (tmp_path / "bundle").symlink_to(made.folder)
    (tmp_path / ORDER).write_text(json.dumps({"version": 1, "bundle": bundle.digest}))
    score(tmp_path, tmp_path / "shard", tmp_path, "cpu")
    written = pq.read_table(tmp_path / "scores.parquet").column("score").to_numpy()
    np.testing.assert_array_equal(written, bundle.calibrate_many(served.astype(np.float64)))


def test_an_explanation_tells_the_token(folder: ModelFolder, made: Candidate) -> None:
    bundle = made.bundle
    plan = InputPlan(folder.definition, (), bundle.inputs, {}, bundle.vocabularies)
    decider = Decider(bundle, plan, made.model.scores, tree_shap(bundle, made.folder))
    request = {"amount": 3000.0, "income": 3000.0, "note": "CASINO  nobody"}
    causes = {c.input: c for c in _by_model(decider, plan.row(request, 0, {})).causes}
    assert causes["note.w1.1"].value == "casino"
    assert causes["note.w1.1"].code == "NOTE"


def test_a_champion_and_a_candidate_read_the_same_rows_each_by_its_own_words(
    folder: ModelFolder, made: Candidate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The second is fitted to other notes, and neither scores other than on rows of its own."""
    table = requests(folder, NOTES[1:])
    champion = made.bundle
    both = built(folder, table, also=champion.inputs, words=champion.vocabularies)
    alone = built(folder, table)
    second = train(folder, both, bundles=tmp_path_factory.mktemp("others"), seed=1)
    own = Runnable(second.bundle, second.model)
    np.testing.assert_array_equal(own.raw(both.rows), own.raw(alone.rows))
    plan = InputPlan(folder.definition, (), champion.inputs, {}, champion.vocabularies)
    by_champion = both.rows.matrix.of(champion)
    ordered = table.sort_by([("event_time", "ascending"), ("request_id", "ascending")])
    np.testing.assert_array_equal(by_champion, plan.matrix(ordered))
    every = any_matrix(folder.definition, (), ordered, champion.inputs, champion.vocabularies)
    np.testing.assert_array_equal(every.of(champion), by_champion)
    np.testing.assert_array_equal(every.of(second.bundle), both.rows.matrix.of(second.bundle))
    champions = Runnable(champion, made.model)
    evidence = gather(folder.definition, JudgingInputs(second, both, champions, None, seed=1))
    assert evidence.running.golden_difference <= evidence.running.golden_tolerance


def test_a_fit_elsewhere_gets_tokens_and_rows_and_gives_the_same_bundle(
    folder: ModelFolder, made: Candidate, tmp_path: Path
) -> None:
    data = built(folder, requests(folder))
    order = handover.order(data, None, code="1", folder=folder.digest, seed=1)
    handover.write(order, data, None, tmp_path, tmp_path)
    asked = handover.read_order(tmp_path)
    again, _ = handover.read(asked, tmp_path, tmp_path / handover.REQUESTS)
    assert train(folder, again, bundles=tmp_path, seed=1).bundle.digest == made.bundle.digest


def test_a_folder_with_a_text_passes_the_trial_fit(folder: ModelFolder) -> None:
    run(NAME)
