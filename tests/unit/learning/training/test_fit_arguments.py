"""What a folder's `fit` is given, and what is told where it takes or gives something else."""

from __future__ import annotations

import json
import logging
from dataclasses import replace as replaced
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from tests.support.model_folders import copied
from tests.support.plain_fit import plain_dataset
from tests.support.team_folder import team_folder
from tests.support.training_rows import payments

from mlplatform.authoring import Context, Dataset
from mlplatform.learning.search.context import fit_device, last_fit
from mlplatform.learning.training import handover, retrain
from mlplatform.learning.training.candidate import fit_dataset, fit_rows, train
from mlplatform.learning.training.fit_check import rows
from mlplatform.learning.training.folder import call_fit, load_folder
from mlplatform.learning.training.packages import import_problems
from mlplatform.learning.training_sets.moved_inputs import STRETCHES
from mlplatform.model.definition import RequestField
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable, InputInvalid

DATASET = plain_dataset(np.zeros((4, 2), np.float32), np.zeros(4, np.int8))
CONTEXT = last_fit({}, 2, seed=1)
FITTED = SimpleNamespace(scores=lambda x: x[:, 0], onnx=lambda: b"")


def module(fit: Any) -> Any:
    return SimpleNamespace(fit=fit)


def of_earlier_releases(x: Any, y: Any, *, seed: int, weight: Any = None) -> Any:
    raise AssertionError("it is not called")


def of_rows_alone(dataset: Any) -> Any:
    raise AssertionError("it is not called")


@pytest.mark.parametrize(
    ("fit", "arguments"),
    [
        (of_earlier_releases, "x: 'Any', y: 'Any', *, seed: 'int', weight: 'Any' = None"),
        (of_rows_alone, "dataset: 'Any'"),
    ],
)
def test_a_fit_of_other_arguments_is_told_with_those_that_are_wanted(
    fit: Any, arguments: str
) -> None:
    with pytest.raises(ConfigUnusable) as error:
        call_fit(module(fit), DATASET, CONTEXT)
    assert f"training.py: fit: it is fit({arguments})" in str(error.value)
    assert "wanted: fit(dataset, context): x, y, weight and classes are" in str(error.value)


def test_an_error_within_a_fit_is_its_own() -> None:
    def failing(dataset: Dataset, context: Context) -> Any:
        raise TypeError("no such row")

    with pytest.raises(TypeError, match="no such row"):
        call_fit(module(failing), DATASET, CONTEXT)


@pytest.mark.parametrize(
    ("given", "told"),
    [(None, "NoneType, which has no scores and no onnx"), ({}, "dict, which has no scores")],
)
def test_what_is_no_fitted_model_is_told(given: object, told: str) -> None:
    told = f"it gives {told}.*`fitted` of mlplatform.authoring"
    with pytest.raises(ConfigUnusable, match=told):
        call_fit(module(lambda dataset, context: given), DATASET, CONTEXT)


def test_a_fit_is_given_its_rows_and_their_context() -> None:
    data = payments(1, per_day=20).rows
    names, matrix = data.matrix.names, data.matrix
    weight = np.where(data.y == 1, 3.0, 1.0)
    plain = fit_dataset(replaced(data, weight=np.ones(len(data))), names)
    weighted = fit_dataset(replaced(data, weight=weight), names, ("good", "bad"))
    for dataset in (plain, weighted):
        assert dataset.inputs == names
        assert np.array_equal(dataset.x, matrix.x, equal_nan=True)
        assert dataset.y.tolist() == data.y.tolist()
        assert dataset.event_ms.tolist() == matrix.event_ms.tolist()
        assert dataset.unit.tolist() == matrix.unit.tolist()
    assert (plain.weight, plain.classes) == (None, ())
    assert weighted.weight is not None
    assert (weighted.weight.tolist(), weighted.classes) == (weight.tolist(), ("good", "bad"))
    for array in (weighted.x, weighted.y, weighted.weight, weighted.unit, weighted.event_ms):
        array[:] = 0
    assert matrix.unit.any(), "a fit may change what it is given, and not the rows"
    assert weight.any()


def test_a_fit_outside_of_a_search_has_a_context_without_parameters() -> None:
    seen: list[Context] = []

    def fit(dataset: Dataset, context: Context) -> Any:
        seen.append(context)
        return FITTED

    data = payments(1, per_day=20).rows
    fit_rows(module(fit), data, data.matrix.names, seed=7)
    (context,) = seen
    assert (context.seed, context.device, context.budget_s) == (7, "cpu", None)
    assert (len(context.rows), dict(context.parameters)) == (0, {})


def test_a_data_set_says_where_an_input_is() -> None:
    names = ["amount", "kind", "text.w1.1", "text.w1.2", "face.v3.1", "face.v3.2", "face.v3.3"]
    x = np.arange(21, dtype=np.float32).reshape(3, 7)
    words = {"kind": ("web", "shop"), "text": ()}
    dataset = replaced(plain_dataset(x, np.zeros(3)), inputs=tuple(names), words=words)
    assert dataset.columns("face", "amount") == [4, 5, 6, 0]
    assert dataset.columns("text") == [2, 3]
    assert dataset.categories == ("kind",)
    with pytest.raises(InputInvalid, match="no input height; wanted: amount, kind, text, face"):
        dataset.columns("height")


@pytest.mark.parametrize("chosen", [slice(1, 3), np.array([False, True, True, False]), [1, 2]])
def test_some_rows_of_a_data_set_keep_what_is_theirs(chosen: Any) -> None:
    x, y = np.arange(8, dtype=np.float32).reshape(4, 2), np.array([0, 1, 0, 1], np.int8)
    dataset = plain_dataset(x, y, weight=np.arange(4.0), classes=("a", "b"))
    some = dataset.rows(chosen)
    assert (len(some), some.x.tolist(), some.y.tolist()) == (2, [[2, 3], [4, 5]], [1, 0])
    assert some.weight is not None
    assert (some.weight.tolist(), some.unit.tolist(), some.event_ms.tolist()) == ([1, 2],) * 3
    assert (some.inputs, some.classes) == (dataset.inputs, ("a", "b"))


def test_progress_is_logged_and_kept_within_bounds(caplog: pytest.LogCaptureFixture) -> None:
    context = last_fit({}, 1)
    with caplog.at_level(logging.INFO):
        for epoch in range(250):
            context.log(f"epoch {epoch}:\nloss {'0' * 400}")
    assert "fit: epoch 0: loss" in caplog.text
    assert len(context.progress) == 200
    assert context.progress[0].startswith("epoch 50: loss 0")
    assert max(map(len, context.progress)) == 300


@pytest.mark.parametrize(
    ("accelerator", "files", "device"),
    [
        ("cuda", ["nvidia0"], "cuda"),
        ("gpu", ["nvidia0"], "cuda"),
        ("gpu", ["null"], "cpu"),
        ("cuda", ["null"], "cpu"),
        ("cpu", ["nvidia0"], "cpu"),
    ],
)
def test_a_fit_is_on_a_gpu_where_one_is_wanted_and_there(
    tmp_path: Path, accelerator: str, files: list[str], device: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert fit_device(accelerator, tmp_path) == device


def test_made_up_rows_reach_the_largest_whole_number() -> None:
    folder = load_folder("fraud")
    definition = folder.definition
    widest = RequestField(type="int64", minimum=-float(2**63), maximum=float(2**63 - 1))
    fields = {name: widest if f.type == "int64" else f for name, f in definition.request.items()}
    x, _, _ = rows(replace(definition, request=fields), folder.views, 1)
    assert len(x) == 4000


def test_a_module_beside_is_told_to_be_imported_by_its_dot(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").touch()
    (tmp_path / "helper.py").write_text("N = 1\n")
    for imported, told in (
        ("helper", r"import is 'helper'; wanted: from \.helper import"),
        ("elsewhere", "import is 'elsewhere'; wanted: a package that is installed here"),
    ):
        code = compile(f"from {imported} import N\n", str(tmp_path / "training.py"), "exec")
        with pytest.raises(ConfigInvalid, match=told), import_problems():
            exec(code, ModuleType("training").__dict__)


def test_a_module_that_the_folder_lacks_is_told_as_such() -> None:
    problem = ModuleNotFoundError(name="mlplatform_model_credit.helper")
    told = r"'\.helper'; wanted: a module of the model's folder"
    with pytest.raises(ConfigInvalid, match=told), import_problems():
        raise problem


LOGGING = """
from mlplatform.authoring.sklearn import fitted


def fit(dataset, context):
    from sklearn.tree import DecisionTreeClassifier

    context.log(f"device {context.device}, {context.budget_s} s")
    return fitted(DecisionTreeClassifier(max_depth=3, random_state=context.seed), dataset)
"""


def test_what_a_fit_logs_reaches_the_result_of_its_job_and_the_run_in_mlflow(
    tmp_path: Path,
) -> None:
    folder = copied(tmp_path / "models", "fraud")
    (folder / "training.py").write_text(LOGGING)
    with team_folder(tmp_path / "models", tmp_path / "home"):
        read, data = load_folder("fraud"), payments(1, per_day=400)
        candidate = train(read, data, bundles=tmp_path / "bundles", seed=5)
        report = retrain.validate(read, candidate, data, champion=None)
        record = retrain.describe(read, candidate, data, report, champion=None)
    line = f"device cpu, {read.definition.training.deadline_s} s"
    assert candidate.progress == (line,)
    order = handover.order(data, None, code="1", folder=read.digest, seed=5)
    result = msgspec.convert(handover.result(order, candidate), handover.Result)
    assert result.progress == (line,)
    assert record.artifacts["fit/progress.txt"] == f"{line}\n".encode()
    table = json.loads(record.artifacts["stability.json"])
    assert table["columns"][0] == "input"
    assert len(table["columns"]) == STRETCHES
    assert "amount" in [row[0] for row in table["data"]]
    ratio = float(np.sqrt((data.fitting.y == 0).sum() / (data.fitting.y == 1).sum()))
    assert record.parameters["fit.class_weight.1"] == pytest.approx(ratio, rel=1e-5)
    assert record.parameters["training.class_weight"] == "square_root"
