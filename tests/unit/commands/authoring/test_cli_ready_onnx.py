"""A folder around a ready ONNX file: written from its graph, checked by its golden set."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.support.foreign_onnx import CHANNELS, forest, golden_rows, skl2onnx_classifier, softmax
from typer.testing import CliRunner, Result

from mlplatform import commands
from mlplatform.learning.features.history_files import columns_of
from mlplatform.learning.onnx.onnx_file import session
from mlplatform.model.definition import by_declared, declared_names
from mlplatform.model.folders import parse
from mlplatform.operations.actions import training
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, Refused

NAME = "limits"


def asked(*words: str) -> Result:
    return CliRunner().invoke(commands.app, words)


def problems(folder: Path) -> list[str]:
    found: list[str] = json.loads(asked("check-model", str(folder), "--json").output)["problems"]
    return found


def change(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


def scaffolded(root: Path, content: bytes, *words: str) -> Result:
    (root / "given.onnx").write_bytes(content)
    given = ("--template", "onnx", "--file", str(root / "given.onnx"), "--into", str(root))
    return asked("new-model", NAME, *given, *words)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    assert scaffolded(root, skl2onnx_classifier()).exit_code == 0
    return root / NAME


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / NAME))


def completed(folder: Path) -> None:
    change(folder / "model.yaml", "channel: []", f"channel: [{', '.join(CHANNELS)}]")
    (folder / "golden.json").write_text(json.dumps(golden_rows()))


def test_a_folder_says_what_the_graph_takes_and_what_is_still_missing(folder: Path) -> None:
    text = (folder / "model.yaml").read_text()
    assert re.findall("search|hyper-param|budget_s", text) == [], "nothing is fitted"
    definition = parse(text, "model.yaml")
    assert [(n, i.kind) for n, i in by_declared(definition.inputs).items()] == [
        ("channel", "category"),
        ("amount", "field"),
        ("visits", "field"),
    ]
    assert definition.signature is not None
    assert [(t.name, t.dtype) for t in definition.signature.inputs] == [
        ("channel", "string"),
        ("amount", "float32"),
        ("visits", "int64"),
    ]
    score = definition.signature.score
    assert (score.output, score.column) == ("probabilities", 1)
    assert any("golden.json" in told and "0 rows" in told for told in problems(folder))
    (folder / "golden.json").write_text(json.dumps(golden_rows()))
    assert any("the words of channel" in told for told in problems(folder))
    completed(folder)
    assert problems(folder) == []


def test_a_golden_row_that_scores_otherwise_is_told_with_both_scores(folder: Path) -> None:
    completed(folder)
    rows = golden_rows()
    rows[2]["score"] = 0.999
    (folder / "golden.json").write_text(json.dumps(rows))
    (only,) = problems(folder)
    assert "row 2 scores" in only
    assert "expected is 0.999" in only


def golden_of(rows: np.ndarray, scores: np.ndarray) -> str:
    names = [f"rows_{place}" for place in range(rows.shape[1])]
    return json.dumps(
        [
            {"inputs": dict(zip(names, row, strict=True)), "score": score}
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
        ]
    )


def test_a_forest_whose_score_is_a_step_above_1_is_taken_with_its_own_scores(
    tmp_path: Path,
) -> None:
    content, rows, scores = forest()
    (own,) = session(content).run(["probabilities"], {"rows": rows})
    assert own[:, 1].max() > 1
    assert scaffolded(tmp_path, content).exit_code == 0
    for expected in (own[:, 1].astype(np.float64), scores):
        (tmp_path / NAME / "golden.json").write_text(golden_of(rows, expected))
        assert problems(tmp_path / NAME) == []


def of_rows(*nodes: tuple[str, list[str], str, dict[str, object]]) -> bytes:
    """A graph `rows` float32 [n, 2] → `scores` [n], by these operators."""
    made = [helper.make_node(op, taken, [name], **more) for op, taken, name, more in nodes]
    taken = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 2])
    given = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None])
    graph = helper.make_graph(made, "given", [taken], [given])
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


MEAN = {"axes": [1], "keepdims": 0}


def test_a_file_whose_scores_are_no_probabilities_is_told_before_it_is_judged(
    tmp_path: Path,
) -> None:
    assert scaffolded(tmp_path, of_rows(("ReduceMean", ["rows"], "scores", MEAN))).exit_code == 0
    golden = tmp_path / NAME / "golden.json"
    golden.write_text(golden_of(np.array([[2.0, 2.0]]), np.array([2.0])))
    assert "0.score is 2.0; wanted: 0 to 1" in problems(tmp_path / NAME)[0]
    golden.write_text(golden_of(np.array([[2.0, 2.0]]), np.array([1.0])))
    (only,) = problems(tmp_path / NAME)
    assert "row 0 scores 2; wanted: 0 to 1" in only
    assert "it is a probability (task: binary)" in only


def test_a_graph_that_mixes_rows_is_told(tmp_path: Path) -> None:
    content = of_rows(
        ("ReduceMean", ["rows"], "usual", MEAN),
        ("ReduceMax", ["usual"], "most", {"axes": [0], "keepdims": 1}),
        ("Div", ["usual", "most"], "scores", {}),
    )
    assert scaffolded(tmp_path, content).exit_code == 0
    rows = np.array([[0.2, 0.4], [0.6, 0.6]])
    (tmp_path / NAME / "golden.json").write_text(golden_of(rows, np.array([0.5, 1.0])))
    (only,) = problems(tmp_path / NAME)
    assert "row 0 scores 1 alone and 0.5 beside others" in only


def test_the_score_of_three_columns_is_the_one_that_the_author_names(tmp_path: Path) -> None:
    three = graph("x", TensorProto.FLOAT, [None, 3])
    told = scaffolded(tmp_path, three, "--column", "3").exception
    assert "wanted: --column 0 to 2" in str(told)
    assert scaffolded(tmp_path, three, "--column", "0").exit_code == 0
    definition = parse((tmp_path / NAME / "model.yaml").read_text(), "model.yaml")
    assert definition.signature is not None
    assert definition.signature.score.column == 0


def test_a_file_of_classes_is_taken_with_its_probabilities(tmp_path: Path) -> None:
    assert scaffolded(tmp_path, softmax(3), "--task", "classes").exit_code == 0
    definition = parse((tmp_path / NAME / "model.yaml").read_text(), "model.yaml")
    assert definition.classes == ("class_0", "class_1", "class_2")
    assert definition.decision.safe == "class_0"
    golden = tmp_path / NAME / "golden.json"
    inputs = {"rows_0": 0.0, "rows_1": 0.0, "rows_2": 0.0}
    golden.write_text(json.dumps([{"inputs": inputs, "score": [1 / 3, 1 / 3, 1 / 3]}]))
    assert problems(tmp_path / NAME) == []
    golden.write_text(json.dumps([{"inputs": inputs, "score": [0.5, 0.3, 0.2]}]))
    assert (
        "row 0 scores 0.333333 0.333333 0.333333, expected is 0.5" in problems(tmp_path / NAME)[0]
    )
    golden.write_text(json.dumps([{"inputs": inputs, "score": 0.5}]))
    assert "wanted: a list of 3 probabilities, one for each class" in problems(tmp_path / NAME)[0]


def test_a_file_of_numbers_is_taken_with_its_numbers(tmp_path: Path) -> None:
    mean = of_rows(("ReduceMean", ["rows"], "scores", MEAN))
    assert scaffolded(tmp_path, mean, "--task", "real").exit_code == 0
    golden = tmp_path / NAME / "golden.json"
    golden.write_text(golden_of(np.array([[100.0, 300.0]]), np.array([200.0])))
    assert problems(tmp_path / NAME) == []
    golden.write_text(golden_of(np.array([[100.0, 300.0]]), np.array([201.0])))
    assert "row 0 scores 200, expected is 201" in problems(tmp_path / NAME)[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--task", "ranks"), "one of binary, classes, real"),
        (("--task", "classes"), "of 0 columns; wanted: 2 to 100, one for each class"),
    ],
)
def test_a_task_that_the_file_does_not_have_is_told(
    tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    mean = of_rows(("ReduceMean", ["rows"], "scores", MEAN))
    assert told in str(scaffolded(tmp_path, mean, *words).exception)
    assert not (tmp_path / NAME).exists()


def test_only_a_graph_that_takes_no_missing_value_gets_a_number_for_it(tmp_path: Path) -> None:
    known = ("IsNaN", ["rows"], "missing", {})
    cast = ("Cast", ["missing"], "numbers", {"to": TensorProto.FLOAT})
    takes = of_rows(known, cast, ("ReduceMean", ["numbers"], "scores", MEAN))
    for name, content, missing in (
        ("takes", takes, None),
        ("refuses", of_rows(("ReduceMean", ["rows"], "scores", MEAN)), 0.0),
    ):
        (tmp_path / name).mkdir()
        assert scaffolded(tmp_path / name, content).exit_code == 0
        file = tmp_path / name / NAME / "model.yaml"
        signature = parse(file.read_text(), "model.yaml").signature
        assert signature is not None
        assert signature.inputs[0].missing == missing


def test_a_score_that_is_no_number_is_told_with_the_way_out(folder: Path) -> None:
    completed(folder)
    change(folder / "model.yaml", ", missing: 0}", "}")
    (only,) = problems(folder)
    assert "wanted: a finite number" in only
    assert "signature.inputs.N.missing" in only


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"inputs": {"amount": 1, "visits": 1}, "score": 0.1}], "0.inputs"),
        (
            [{"inputs": {"amount": 1, "visits": 1, "channel": 3}, "score": 0.1}],
            "0.inputs.channel is 3; wanted: a text",
        ),
        (
            [{"inputs": {"amount": "x", "visits": 1, "channel": "web"}, "score": 0.1}],
            "0.inputs.amount is 'x'; wanted: a number",
        ),
        ([{"inputs": {}, "score": 2}], "golden.json"),
        ("none", "golden.json"),
    ],
    ids=["an input less", "a number as a text", "a text as a number", "a score of 2", "no rows"],
)
def test_a_golden_set_that_is_none_is_told(folder: Path, rows: object, told: str) -> None:
    completed(folder)
    (folder / "golden.json").write_text(json.dumps(rows))
    assert any(told in problem for problem in problems(folder))


def test_there_is_nothing_to_train(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPLATFORM_MODELS", f"examples:{folder.parent}")
    with pytest.raises(Refused, match=f"nothing to train.*mlplatform validate {NAME}"):
        training.check_trains(NAME)
    training.check_trains("fraud")


def graph(name: str, kind: int, shape: list[int | None], op: str = "Identity") -> bytes:
    nodes = [helper.make_node(op, [name], ["out"])]
    values = [helper.make_tensor_value_info(n, kind, shape) for n in (name, "out")]
    made = helper.make_graph(nodes, "given", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no model", "not ONNX: its bytes are not read as a model; wanted: a file that"),
        (graph("x", TensorProto.FLOAT, [None, 2], "NonZero"), "operator 'NonZero'"),
        (graph("x", TensorProto.FLOAT, [1, 2]), "always 1 rows; wanted: n rows at once"),
        (graph("x", TensorProto.INT32, [None, 2]), "as tensor(int32) [n, 2]; wanted: float32,"),
        (graph("x", TensorProto.FLOAT, [None, 2, 3]), "[n, 2, 3]; wanted: [n] or [n, columns]"),
        (graph("x", TensorProto.FLOAT, [None, 3]), "of 3 columns; wanted: --column"),
        (graph("x", TensorProto.FLOAT, [None, None]), "of None columns"),
        (graph("x", TensorProto.INT64, [None, 2]), "gives no float"),
        (graph("a\x1b", TensorProto.FLOAT, [None, 2]), "a name that can be written"),
    ],
    ids=[
        "no file of ONNX",
        "a missing operator",
        "one row",
        "int32",
        "three dimensions",
        "three classes",
        "open columns",
        "no score",
        "a name",
    ],
)
def test_a_file_that_is_not_taken_leaves_no_folder(
    tmp_path: Path, content: bytes, told: str
) -> None:
    done = scaffolded(tmp_path, content)
    assert isinstance(done.exception, InputInvalid)
    assert told in str(done.exception)
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        ("on", "input_on"),
        ("Null", "input_null"),
        ("customer_id", "input_customer_id"),
        ("event_time", "input_event_time"),
        ("label", "input_label"),
        ("@NAME@", "name"),
        ("it's: {x}", "it_s_x"),
    ],
)
def test_whatever_a_graph_calls_its_tensors_the_folder_can_be_read(
    tmp_path: Path, tensor: str, field: str
) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", [tensor], ["given"])],
        "one column",
        [value(tensor, TensorProto.FLOAT, [None, 1])],
        [value("given", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    assert scaffolded(tmp_path, model.SerializeToString()).exit_code == 0
    definition = parse((tmp_path / NAME / "model.yaml").read_text(), "model.yaml")
    assert definition.signature is not None
    assert [(t.name, t.of) for t in definition.signature.inputs] == [(tensor, (field,))]


def test_a_matrix_of_floats_and_its_scores_need_no_signature(tmp_path: Path) -> None:
    node = helper.make_node("ReduceMean", ["inputs"], ["scores"], axes=[1], keepdims=0)
    taken = helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, 2])
    given = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None])
    made = helper.make_graph([node], "plain", [taken], [given])
    opsets = [helper.make_opsetid("", 17)]
    content = helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()
    assert scaffolded(tmp_path, content).exit_code == 0
    definition = parse((tmp_path / NAME / "model.yaml").read_text(), "model.yaml")
    assert definition.signature is None
    assert [i.name for i in definition.inputs] == ["inputs_0", "inputs_1"]


def one_column(name: str, kind: int) -> bytes:
    nodes = [
        helper.make_node("Cast", [name], ["number"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["number"], ["scores"], axes=[1], keepdims=0),
    ]
    taken = helper.make_tensor_value_info(name, kind, [None, 1])
    given = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None])
    made = helper.make_graph(nodes, "given", [taken], [given])
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()


def test_a_history_of_yes_and_no_can_be_imported(tmp_path: Path) -> None:
    assert scaffolded(tmp_path, one_column("flag", TensorProto.BOOL)).exit_code == 0
    definition = parse((tmp_path / NAME / "model.yaml").read_text(), "model.yaml")
    assert "flag" in [column.name for column in columns_of(definition)]
    rows = [{"inputs": {"flag": True}, "score": 1.0}, {"inputs": {"flag": 0}, "score": 0.0}]
    (tmp_path / NAME / "golden.json").write_text(json.dumps(rows))
    assert problems(tmp_path / NAME) == []


@pytest.mark.parametrize("name", ["on", "No", "label", "decision", "customer_id", "event_time"])
def test_a_tensor_may_have_a_name_that_no_field_can_have(tmp_path: Path, name: str) -> None:
    assert scaffolded(tmp_path, one_column(name, TensorProto.INT64)).exit_code == 0
    definition = parse((tmp_path / NAME / "model.yaml").read_text(), "model.yaml")
    assert declared_names(definition.inputs) == (f"input_{name.lower()}",)
    assert definition.signature is not None
    assert [t.name for t in definition.signature.inputs] == [name]


@pytest.mark.parametrize("words", [("--template", "onnx"), ("--file", "x.onnx")])
def test_a_file_and_its_template_go_together(tmp_path: Path, words: tuple[str, str]) -> None:
    done = asked("new-model", NAME, "--into", str(tmp_path), *words)
    assert isinstance(done.exception, ConfigInvalid)
    assert not (tmp_path / NAME).exists()


def test_golden_rows_are_those_of_the_exporter() -> None:
    assert np.ptp([row["score"] for row in golden_rows()]) > 0.2
