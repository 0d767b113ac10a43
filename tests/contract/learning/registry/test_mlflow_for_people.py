"""A registered version as a data scientist meets it in MLflow, by MLflow's own client."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlplatform.learning.registry.mlflow import MlflowRegistry
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import train
from mlplatform.learning.training.evaluate import load_runnable
from mlplatform.learning.training.folder import load_folder
from mlplatform.model.bundle import MODEL_FILE, load_bundle
from mlplatform.runtime.times import day_text
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.predictor.model import scorer
from support.mlflow_process import mlflow_server
from support.training_rows import DEFINITION, TO_MS, payments

pytestmark = pytest.mark.slow

TOKEN = "the token of these people"
FOLDER = load_folder("fraud")
PAGE_URL = "https://page.invalid"
SEED = 7


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two versions, the second judged against the first; the held-out rows of the second."""
    home = tmp_path_factory.mktemp("people")
    with mlflow_server({"MLPLATFORM_HOME": str(home)}, TOKEN) as uri:
        registry, champion = MlflowRegistry(uri, TOKEN, PAGE_URL), None
        versions = []
        for number, to_ms in enumerate((TO_MS, TO_MS + 7 * DAY_MS), start=1):
            data = payments(number, to_ms=to_ms)
            candidate = train(FOLDER, data, bundles=home / "bundles", seed=SEED)
            report = retrain.validate(FOLDER, candidate, data, champion=champion)
            record = retrain.describe(FOLDER, candidate, data, report, champion=champion)
            versions.append(
                retrain.register(candidate, report, registry, author="ana", record=record)
            )
            champion = load_runnable(candidate.folder)
        registry.show("fraud", "champion", 2)
        yield uri, versions, data, home


@pytest.fixture
def theirs(made, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", made[0])
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    return MlflowClient(made[0])


def test_the_champion_of_mlflow_scores_as_a_predictor_and_a_gateway_do(made, tmp_path):
    """As a person does it: another process that has the address and the token."""
    uri, versions, data, home = made
    bundle = load_bundle(home / "bundles" / versions[1].digest)
    rows = data.holdout.matrix.of(bundle)[:3000]
    frame = pd.DataFrame(rows.astype(np.float64), columns=list(bundle.input_names))
    frame[reversed(frame.columns)].to_parquet(tmp_path / "rows.parquet")
    code = (
        "import mlflow, pandas as pd; rows = pd.read_parquet('rows.parquet');"
        "found = mlflow.pyfunc.load_model('models:/fraud@champion').predict(rows);"
        "found.to_parquet('scores.parquet')"
    )
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_TRACKING_TOKEN": TOKEN,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = pd.read_parquet(tmp_path / "scores.parquet")

    raw = scorer(home / "bundles" / bundle.digest / MODEL_FILE)(rows).astype(np.float64)
    scores = [bundle.calibrate(value) for value in raw.tolist()]
    assert list(found.columns) == ["raw_score", "score", "decision"]
    assert found["raw_score"].to_numpy().tobytes() == raw.tobytes()
    assert found["score"].to_numpy().tobytes() == np.array(scores).tobytes()
    assert found["decision"].tolist() == [
        bundle.decide(*pair) for pair in zip(scores, rows.tolist(), strict=True)
    ]
    assert set(found["decision"]) == {"approve", "review", "decline"}


def test_what_a_version_takes_and_gives_is_in_its_signature_with_an_example(made, theirs):
    import mlflow

    info = mlflow.models.get_model_info("models:/fraud/2")
    bundle = load_bundle(made[3] / "bundles" / made[1][1].digest)
    assert info.signature.inputs.input_names() == list(bundle.input_names)
    assert info.signature.outputs.input_names() == ["raw_score", "score", "decision"]
    model = mlflow.pyfunc.load_model("models:/fraud/2")
    example = model.input_example
    assert example.iloc[1].isna().all()
    assert model.get_raw_model() == bundle
    answered = model.predict(example)
    assert answered["score"].between(0, 1).all()
    golden = {tuple(row) for row in bundle.golden.rows if any(v is not None for v in row)}
    assert tuple(np.float32(example.iloc[0])) not in {tuple(np.float32(g)) for g in golden}
    onnx = mlflow.onnx.load_model("models:/fraud/2")
    assert [i.name for i in onnx.graph.input] == ["inputs"]


def test_a_run_has_what_people_compare_runs_by(made, theirs):
    _, versions, data, _ = made
    first, second = (theirs.get_run(v.run_id) for v in versions)
    parameters = second.data.params
    assert parameters["seed"] == str(SEED)
    assert parameters["fit.learning_rate"] == "0.05"
    assert parameters["training.window_days"] == str(DEFINITION.training.window_days)
    assert parameters["data.holdout_rows"] == str(len(data.holdout))
    assert float(parameters["threshold.review"]) > 0
    figures = second.data.metrics
    both = {"average_precision", "roc_auc", "brier", "calibration_error", "alert_share"}
    assert {f"{arm}/{f}" for arm in ("candidate", "champion") for f in both} <= set(figures)
    assert not any(name.startswith("champion/") for name in first.data.metrics)
    assert figures["replayed/requests"] > 0
    report = {g["name"]: g for g in versions[1].facts.report["gates"]}
    assert report["quality"]["observed"] == pytest.approx(
        figures["candidate/average_precision"] - figures["champion/average_precision"]
    )
    assert report["calibration"]["observed"] == pytest.approx(
        figures["candidate/calibration_error"]
    )
    assert second.data.tags["champion_bundle"] == versions[0].digest
    found = theirs.search_runs(
        [second.info.experiment_id],
        "metrics.`candidate/average_precision` > 0.1 AND tags.gates_not_passed = 'none'",
    )
    assert second.info.run_id in {run.info.run_id for run in found}


def test_metrics_have_a_section_for_whose_they_are_and_what_measured_them(made, theirs):
    """MLflow's charts have one for each beginning of a name; 20 of them showed nothing."""
    runs = [theirs.get_run(version.run_id) for version in made[1]]
    names = {name for run in runs for name in run.data.metrics}
    sections = {name.rpartition("/")[0] for name in names}
    arms = {"candidate", "champion", "gates", "replayed"}
    measured = {f"measures{part}" for part in ("", "/champion", "/difference")}
    assert sections == {*arms, *measured}
    figures, report = runs[1].data.metrics, made[1][1].facts.report
    for measure in report["measures"]:
        name = measure["name"]
        for part, ends in (
            ("", measure["candidate"]),
            ("champion/", measure["champion"]),
            ("difference/", measure["difference"]),
        ):
            found = [figures[f"measures/{part}{name}{end}"] for end in ("", "_low", "_high")]
            assert found == [ends["value"], ends["low"], ends["high"]]
    gates = {g["name"]: g["observed"] for g in report["gates"] if g["observed"] is not None}
    assert {name: figures[f"gates/{name}"] for name in gates} == gates


def test_a_run_and_its_version_are_found_from_each_other_the_page_and_the_data(made, theirs):
    _, versions, data, _ = made
    days = [day_text(ms) for ms in (data.window.from_ms, data.window.to_ms)]
    for number, version in enumerate(versions, start=1):
        run, found = theirs.get_run(version.run_id), theirs.get_model_version("fraud", str(number))
        assert run.info.run_name == f"fraud-v{number}-{version.digest[:8]}"
        assert run.data.tags["version"] == str(number)
        text = found.description
        assert run.data.tags["mlflow.note.content"] == text
        assert f"]({PAGE_URL}/models/fraud/versions/{number})" in text
        assert f"Rollouts: [on the page of fraud]({PAGE_URL}/models/fraud)." in text
        assert f"mlplatform models card fraud {number}`" in text
        assert f'mlflow.pyfunc.load_model("models:/fraud/{number}")' in text
        assert "passed validation" in text
        assert "VERSION" not in text
        assert not re.search(r"\\[@&<]", text)
    assert found.tags["data_window"] == " to ".join(days)
    assert theirs.get_registered_model("fraud").description == text.partition("\n")[0]
    assert "payments-ml@bank.example" in text.partition("\n")[0]


def test_a_run_names_its_data_by_digest(made, theirs):
    _, versions, data, _ = made
    inputs = theirs.get_run(versions[1].run_id).inputs.dataset_inputs
    contexts = {i.tags[0].value: i.dataset for i in inputs}
    assert set(contexts) == {"training", "validation"}
    assert contexts["training"].digest == data.digest[:36]
    assert json.loads(contexts["training"].profile)["fit_rows"] == len(data.fitting)


def test_curves_and_importances_are_pictures_and_tables_of_no_single_payment(
    made, theirs, tmp_path
):
    _, versions, data, _ = made
    run_id = versions[1].run_id
    folder = Path(theirs.download_artifacts(run_id, "", str(tmp_path)))
    pictures = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}
    names = {f"curves/{n}.png" for n in ("precision_recall", "calibration", "scores")}
    assert set(pictures) == {*names, "importances.png"}
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    table = json.loads((folder / "importances.json").read_text())
    assert {row[0] for row in table["data"]} == set(data.rows.matrix.names)
    assert table["data"][0][0] == "terminal_risk_7d"
    curve = json.loads((folder / "curves" / "precision_recall.json").read_text())["data"]
    assert {row[0] for row in curve} == {"candidate", "champion"}
    assert len(curve) <= 400 < len(data.holdout)


def test_a_fetched_bundle_holds_its_own_files_alone(made, tmp_path):
    uri, versions, _, home = made
    fetched = MlflowRegistry(uri, TOKEN).fetch("fraud", 2, tmp_path)
    own = home / "bundles" / versions[1].digest
    assert {p.name for p in fetched.iterdir()} == {p.name for p in own.iterdir()}


def test_a_version_that_was_changed_in_the_store_is_not_loaded(made, theirs, tmp_path):
    import mlflow

    (tmp_path / MODEL_FILE).write_bytes(b"another model")
    theirs.log_artifact(made[1][0].run_id, str(tmp_path / MODEL_FILE), "bundle")
    with pytest.raises(Exception, match="its digest is not"):
        mlflow.pyfunc.load_model("models:/fraud/1")
