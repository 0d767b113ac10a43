"""Categories from a training set to a bundle: learned from the days to fit, the same for all."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from mlplatform.commands.authoring.new_model import write
from mlplatform.learning.training import handover
from mlplatform.learning.training.candidate import Candidate, train
from mlplatform.learning.training.evaluate import JudgingInputs, Runnable, gather
from mlplatform.learning.training.folder import ModelFolder, load_folder
from mlplatform.learning.training_sets.dataset import TrainingSet, dataset, window
from mlplatform.model.bundle import load_bundle, problems
from mlplatform.model.inputs import InputPlan
from mlplatform.operations.whatif.decided_pages import BundleRun
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.arms.reasons import tree_shap
from mlplatform.scoring.request.explain import Decider, _by_model

NAME = "shops"
AS_OF_MS = 20_000 * DAY_MS
PER_DAY = 150
CHANNELS = ("web", "shop", "phone", "bell\x07")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> ModelFolder:
    root = tmp_path_factory.mktemp("team")
    write(root / NAME, NAME, "sklearn")
    file = root / NAME / "model.yaml"
    text = file.read_text()
    for old, new in (
        ("  income:", "  channel: {type: string, max_length: 20}\n  income:"),
        ("inputs:\n", "inputs:\n  - {name: channel, kind: category, of: channel}\n"),
        ("inputs: [amount, income]", "inputs: [amount, income, channel]"),
        ("max_iter=80", "max_iter=20"),
    ):
        text = text.replace(old, new, 1)
    file.write_text(text)
    reasons = root / NAME / "reasons.yaml"
    words = "channel: {code: CHANNEL, customer: How you came, analyst: Channel}\n"
    reasons.write_text(words + reasons.read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLPLATFORM_MODELS", str(root))
        yield load_folder(NAME)


def requests(folder: ModelFolder, channels: tuple[str, ...] = CHANNELS) -> pa.Table:
    """Requests of which those by phone are bad more often; `late` comes on the held-out days."""
    random = np.random.default_rng(3)
    bounds = window(folder.definition, AS_OF_MS)
    count = PER_DAY * (bounds.to_ms - bounds.from_ms) // DAY_MS
    event_ms = np.sort(random.integers(bounds.from_ms, bounds.to_ms, count))
    channel = random.choice(np.array(channels), count, p=[0.5, 0.3, 0.15, 0.05])
    odds = np.where(channel == "phone", 0.0, -3.5)
    label = (random.random(count) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    late = (event_ms >= bounds.holdout_from_ms) & (random.random(count) < 0.05)
    return pa.table(
        {
            "request_id": [str(i) for i in range(count)],
            "event_time": pa.array(event_ms * 1000, pa.timestamp("us")),
            "customer_id": random.integers(0, 400, count),
            "amount": random.lognormal(8, 0.8, count),
            "income": random.lognormal(8, 0.5, count),
            "channel": np.where(late, "late", channel),
            "label": label,
            "label_time": pa.array((event_ms + DAY_MS) * 1000, pa.timestamp("us")),
        }
    )


def built(folder: ModelFolder, table: pa.Table, **more) -> TrainingSet:
    return dataset(
        folder.definition, folder.views, table, as_of_ms=AS_OF_MS, labels_until_ms=None, **more
    )


@pytest.fixture(scope="module")
def data(folder) -> TrainingSet:
    return built(folder, requests(folder))


@pytest.fixture(scope="module")
def made(folder, data, tmp_path_factory) -> Candidate:
    return train(folder, data, bundles=tmp_path_factory.mktemp("bundles"), seed=1)


def test_words_are_learned_from_the_days_to_fit_alone(folder, data, made) -> None:
    assert made.bundle.vocabularies == {"channel": ("web", "shop", "phone")}
    assert data.holdout.matrix.x[:, 0].tolist().count(1.0) > 0
    assert made.bundle.reference["channel"] == 2.0
    assert made.bundle.profile.inputs["channel"].is_category


def test_a_bundle_without_its_words_is_none(made) -> None:
    assert problems(msgspec.structs.replace(made.bundle, vocabularies={}))
    assert load_bundle(made.folder, made.folder.name) == made.bundle


def test_serving_scores_a_request_as_training_did(folder, made) -> None:
    table = requests(folder).slice(0, 50)
    bundle = made.bundle
    plan = InputPlan(folder.definition, (), bundle.inputs, bundle.defaults, bundle.vocabularies)
    served = [
        plan.row(row, int(row["event_time"].timestamp() * 1000), {})
        for row in table.cast(table.schema).to_pylist()
    ]
    together = made.model.scores(plan.matrix(table))
    alone = made.model.scores(np.array(served, np.float32))
    np.testing.assert_array_equal(alone, together)


def test_an_explanation_tells_the_word(folder, made) -> None:
    bundle = made.bundle
    plan = InputPlan(folder.definition, (), bundle.inputs, {}, bundle.vocabularies)
    shap = tree_shap(bundle, made.folder)
    decider = Decider(bundle, plan, made.model.scores, shap)
    asked = {"channel": "phone", "amount": 3000.0, "income": 3000.0}
    causes = {c.input: c for c in _by_model(decider, plan.row(asked, 0, {})).causes}
    assert (causes["channel"].value, causes["channel"].ordinary) == ("phone", "web")


def test_a_champion_of_other_words_scores_the_same_rows_by_its_own(folder, made, data) -> None:
    words = {"channel": ("phone", "late", "web")}
    champion = msgspec.structs.replace(made.bundle, vocabularies=words)
    both = built(folder, requests(folder), also=champion.inputs, words=words)
    assert both.vocabularies == data.vocabularies
    own = Runnable(made.bundle, made.model)
    np.testing.assert_array_equal(own.raw(both.rows), own.raw(data.rows))
    plan = InputPlan(folder.definition, (), vocabularies=words)
    np.testing.assert_array_equal(both.rows.matrix.of(champion), plan.matrix(requests(folder)))


def test_gates_look_at_a_category_as_the_bundle_does(folder, made, data) -> None:
    evidence = gather(folder.definition, JudgingInputs(made, data, None, None, seed=1))
    assert evidence.running.golden_difference <= evidence.running.golden_tolerance
    assert set(evidence.leakage.alone) == set(made.bundle.input_names)


def test_a_fit_elsewhere_gets_words_and_rows_and_gives_the_same_bundle(
    folder, data, made, tmp_path
) -> None:
    order = handover.order(data, None, code="1", folder=folder.digest, seed=1)
    handover.write(order, data, None, tmp_path, tmp_path)
    asked = handover.read_order(tmp_path)
    again, recent = handover.read(asked, tmp_path, tmp_path / handover.REQUESTS)
    assert recent is None
    assert train(folder, again, bundles=tmp_path, seed=1).bundle.digest == made.bundle.digest


def test_what_if_tells_bands_and_words_that_the_bundle_was_watched_by(folder, made) -> None:
    """An input that is watched since has none."""
    table = requests(folder).slice(0, 20).select(["amount", "income", "channel"])
    payloads = [json.dumps({"request": row, "features": {}}) for row in table.to_pylist()]
    rows = pa.table({"event_ms": [0] * 20, "payload": payloads})
    drift = msgspec.structs.replace(
        folder.definition.drift, inputs=("amount", "channel", "amount_to_income")
    )
    definition = msgspec.structs.replace(folder.definition, drift=drift)
    run = BundleRun(made.bundle, made.model, definition, ())
    assert len(run.decide(rows).decisions) == 20
    bands, words = run.bands(), made.bundle.vocabularies["channel"]
    assert set(bands) == {"amount", "channel"}
    told = [words[place - 2] if place >= 2 else None for place in bands["channel"].tolist()]
    asked = [channel or None for channel in table["channel"].to_pylist()]
    assert told == [channel if channel in words else None for channel in asked]


def test_other_words_are_another_training_set(folder, data) -> None:
    table = requests(folder, ("shop", "web", "phone", "bell\x07"))
    assert built(folder, table).digest != data.digest
