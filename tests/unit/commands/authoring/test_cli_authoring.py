"""A new model's folder works as it is, and a check says all that is wrong in one."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mlplatform import commands
from mlplatform.runtime.errors import ConfigInvalid, Refused

ROOT = Path(__file__).parents[4]


def asked(*words: str) -> Result:
    return CliRunner().invoke(commands.app, words)


def problems(folder: Path) -> list[str]:
    done = asked("check-model", str(folder), "--json")
    found: list[str] = json.loads(done.output)["problems"]
    assert done.exit_code == (1 if found else 0)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert asked("new-model", "credit-default", "--into", str(tmp_path)).exit_code == 0
    return tmp_path / "credit-default"


def change(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


def test_a_new_folder_has_nothing_wrong_and_its_fit_is_tried(folder: Path) -> None:
    assert problems(folder) == []
    change(
        folder / "training.py", "return fitted", "raise RuntimeError('no tree')\n    return fitted"
    )
    (only,) = problems(folder)
    assert only.startswith("training.py: a fit of made-up rows failed:")
    assert "RuntimeError: no tree" in only


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("COLUMNS = (\n", "SyntaxError"),
        ("from .generator import generate\n", "import is '.generator'; wanted: a module of the"),
        ("from training import fit\n", "import is 'training'; wanted: from .training import"),
        ("COLUMNS = ()\n", "it has no examine_transactions"),
    ],
)
def test_a_sources_file_that_no_command_can_read_is_told(
    folder: Path, content: str, told: str
) -> None:
    (folder / "sources.py").write_text(content)
    (only,) = problems(folder)
    assert only.startswith("sources.py: its import failed:")
    assert told in only


OWN_GATE = """
from mlplatform.learning.validation.gate_result import GateResult

def rows_seen(rows):
    beside = len(rows.y) if rows.is_first else len(rows.champion.scores)
    return GateResult("rows_seen", "passed", beside, 1, "rows")

GATES = (rows_seen,)
"""


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("GATES =", "gates =", "GATES and MEASURES name 0 and 0 functions; wanted: 1 gate"),
        ("GATES =", "COLUMNS, GATES = ('height',),", "COLUMNS names height; wanted: amount, inc"),
        ("len(rows.champion.scores)", "rows.champion[0]", "rows_seen raised TypeError:"),
        ("GateResult(", "(", "rows_seen gave a value of type tuple; wanted: a GateResult"),
        ("import GateResult", "import Gate", "raised ImportError: cannot import name 'Gate'"),
    ],
)
def test_own_gates_are_run_before_anything_is_fitted(
    folder: Path, before: str, after: str, told: str
) -> None:
    (folder / "gates.py").write_text(OWN_GATE)
    (folder / "training.py").write_text("def fit(")
    assert [told.partition(":")[0] for told in problems(folder)] == ["training.py"]
    change(folder / "gates.py", before, after)
    found = problems(folder)[0]
    assert found.startswith("gates.py: its run on made-up rows failed:")
    assert told in found


def test_own_gates_see_rows_within_the_bounds_of_the_fields(folder: Path) -> None:
    """The gate of docs/adding-a-model.md, which would have no number without a large loan."""
    page = (ROOT / "docs" / "adding-a-model.md").read_text()
    (block,) = [
        b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "large_loans" in b
    ]
    (folder / "gates.py").write_text(block.replace("MEASURES = (expected_cost,)\n", ""))
    (folder / "training.py").write_text("def fit(")
    assert [told.partition(":")[0] for told in problems(folder)] == ["training.py"]


def test_a_fit_finds_its_inputs_by_their_names(folder: Path) -> None:
    """An input that is added before another one moves a position, and no name."""
    file = folder / "training.py"
    change(file, "    weight: NDArray[np.float64] | None = None,\n", "    weight=None, context,\n")
    change(file, "    classifier = ", "    x[:, context.columns('income')]\n    classifier = ")
    assert problems(folder) == []
    change(file, "'income'", "'height'")
    (told,) = problems(folder)
    assert "context.columns: no input height; wanted: amount, income" in told


def test_output_that_is_no_text_is_told_too(folder: Path) -> None:
    (folder / "gates.py").write_text("import os\nos.write(2, b'\\xff')\nos.write(1, b'\\xff')\n")
    (folder / "training.py").write_text("def fit(")
    assert problems(folder)[0].startswith("gates.py: its run on made-up rows failed:")


def test_the_fit_of_a_model_with_windows_is_tried(folder: Path) -> None:
    of_customer = "aggregate: count, window: 1h, resolution: 5m}"
    file = folder / "model.yaml"
    change(file, "pseudonymous: true, minimum: 0", "pseudonymous: true, minimum: 0, entity: person")
    change(
        file,
        "label:\n",
        f"windows:\n  - {{name: sent_1h, entity: person, {of_customer}\n\nlabel:\n",
    )
    change(
        file,
        "kind: hour_of_day}",
        "kind: hour_of_day}\n  - {name: sent_1h, kind: window, of: person}",
    )
    with (folder / "reasons.yaml").open("a") as reasons:
        reasons.write("sent_1h: {code: SENT, customer: Number, analyst: Sent in an hour}\n")
    assert problems(folder) == []


def test_a_fit_that_takes_no_weights_is_told(folder: Path) -> None:
    change(folder / "training.py", "    weight: NDArray[np.float64] | None = None,\n", "")
    change(folder / "training.py", "x, y, weight)", "x, y)")
    (only,) = problems(folder)
    assert "unexpected keyword argument 'weight'; wanted: fit(x, y, *, seed, weight=None)" in only
    assert "Traceback" not in only


def test_a_package_that_a_fit_imports_and_is_not_here_is_told_alone(folder: Path) -> None:
    missing = "import sys; sys.modules['xgboost'] = None; import xgboost"
    change(folder / "training.py", "    classifier =", f"    {missing}\n    classifier =")
    (only,) = problems(folder)
    assert "ConfigInvalid: training.py: import is 'xgboost'; wanted: " in only
    assert "`make train-xgboost` (requirements/train-xgboost.txt)" in only
    assert "Traceback" not in only


def test_scores_that_are_no_probabilities_are_told(folder: Path) -> None:
    change(
        folder / "training.py",
        "return fitted(classifier, x, y, weight)",
        "made = fitted(classifier, x, y, weight)\n"
        "    return type('Doubled', (), {'scores': lambda _, x: 2 * made.scores(x),"
        " 'onnx': lambda _: made.onnx()})()",
    )
    (only,) = problems(folder)
    assert "training.py: scores: scores of shape" in only


def test_every_file_that_is_wrong_is_told_at_once(folder: Path) -> None:
    change(folder / "model.yaml", "of: amount, to: income", "of: amount, to: incomes")
    change(folder / "model.yaml", "kind: hour_of_day", "kind: view, of: stats")
    change(folder / "reasons.yaml", "hour: {", "hours: {")
    (folder / "training.py").unlink()
    found = "\n".join(problems(folder))
    assert "inputs.2.to is 'incomes'; wanted: one of amount, income; the nearest is inco" in found
    assert "inputs.3.of is 'stats'; wanted: the view that has this feature" in found
    assert "reasons.yaml: inputs is ['hour', 'hours']" in found
    assert "training.py is missing" in found


def test_all_that_is_wrong_in_model_yaml_is_told(folder: Path) -> None:
    change(folder / "model.yaml", "tier: 2", "tier: two")
    change(folder / "model.yaml", "psi: 0.2", "psy: 0.2")
    (text,) = problems(folder)
    assert text.startswith("model.yaml: 3 things are wrong:")


def test_rules_that_name_no_input_and_a_folder_of_another_name_are_told(folder: Path) -> None:
    change(folder / "rules.yaml", "input: amount_to_income", "input: amount_to_wealth")
    other = folder.rename(folder.with_name("credit-risk"))
    found = "\n".join(problems(other))
    assert "rules.yaml: RULE_LARGE_FOR_INCOME.when.input is 'amount_to_wealth'" in found
    assert "model.yaml: line 3: name is 'credit-default'; wanted: the folder's, 'credit" in found


def test_a_name_that_services_could_not_tell_apart_is_not_written(folder: Path) -> None:
    done = asked("new-model", "credit_default", "--into", str(folder.parent))
    assert isinstance(done.exception, Refused)
    assert "credit-default is there already and has the same service name" in str(done.exception)
    assert not (folder.parent / "credit_default").exists()
    change(folder / "model.yaml", "name: credit-default", "name: credit_default")
    other = folder.with_name("credit_default")
    shutil.copytree(folder, other)
    assert f"credit_default: {folder} has the same service name" in problems(other)[0]


def test_a_folder_that_others_may_write_is_not_read(folder: Path) -> None:
    folder.chmod(0o777)
    (only,) = problems(folder)
    assert "chmod -R go-w" in only


def test_what_is_there_is_not_written_over(folder: Path) -> None:
    before = os.listdir(folder)
    done = asked("new-model", folder.name, "--into", str(folder.parent))
    assert isinstance(done.exception, Refused)
    assert os.listdir(folder) == before


@pytest.mark.parametrize("words", [("Credit",), ("credit", "--template", "abacus")])
def test_a_name_or_template_that_is_none_is_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = asked("new-model", *words, "--into", str(tmp_path))
    assert isinstance(done.exception, ConfigInvalid)
    assert list(tmp_path.iterdir()) == []


def test_what_a_file_holds_steers_no_terminal(folder: Path) -> None:
    (folder / "model.yaml").write_text('"\\e]0;owned\\a\\e[2J": 1\n')
    done = asked("check-model", str(folder))
    assert done.exit_code == 1
    assert r"\x1b]0;owned\x07\x1b[2J is an unknown key" in done.output
    assert "\x1b" not in done.output


def test_the_stacked_model_of_the_guide_is_fitted_and_agrees_with_its_graph(folder: Path) -> None:
    guide = Path(__file__).parents[4] / "docs" / "adding-a-model.md"
    (code,) = re.findall(
        r"```python\n(from [a-z.]+ import compose\n.*?)```", guide.read_text(), re.S
    )
    head = (
        "import numpy as np\n"
        "from sklearn.ensemble import HistGradientBoostingClassifier\n"
        "from sklearn.impute import SimpleImputer\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "from sklearn.pipeline import make_pipeline\n"
        "from mlplatform.learning.onnx.sklearn import fitted\n"
    )
    (folder / "training.py").write_text(head + code)
    assert problems(folder) == []
