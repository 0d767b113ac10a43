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
from mlplatform.commands.authoring.folder_files import python_problems
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
from mlplatform.authoring.gates import GateResult

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
    of_training, found = problems(folder)
    assert of_training.startswith("training.py: line 1: SyntaxError")
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
    change(
        file, "    classifier = ", "    dataset.x[:, dataset.columns('income')]\n    classifier = "
    )
    assert problems(folder) == []
    change(file, "'income'", "'height'")
    (told,) = problems(folder)
    assert "dataset.columns: no input height; wanted: amount, income" in told


def test_output_that_is_no_text_is_told_too(folder: Path) -> None:
    (folder / "gates.py").write_text("import os\nos.write(2, b'\\xff')\nos.write(1, b'\\xff')\n")
    (folder / "training.py").write_text("def fit(")
    assert problems(folder)[1].startswith("gates.py: its run on made-up rows failed:")


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


def test_a_fit_of_an_earlier_release_is_told_with_its_line_and_the_way_out(folder: Path) -> None:
    arguments = "x, y, *, seed, weight=None"
    change(folder / "training.py", "dataset: Dataset, context: Context", arguments)
    change(folder / "rules.yaml", "decision: refer", "decision: refused")
    rule, fit = problems(folder)
    assert "decision is 'refused'; wanted: one of grant, refer, refuse" in rule
    assert fit == (
        f"training.py: line 7: fit is fit({arguments}); wanted: fit(dataset, context): x, y, weight"
        " and classes are attributes of the dataset, seed is one of the context"
        " (docs/adding-a-model.md)"
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("def fit(", "training.py: line 1: SyntaxError: '(' was never closed; wanted: Python"),
        ("def train(dataset, context): ...\n", "training.py: fit: there is no such function; want"),
        ("def fit(dataset): ...\n", "training.py: line 1: fit is fit(dataset); wanted: fit(datas"),
        ("def fit(dataset, context, depth): ...\n", "line 1: fit is fit(dataset, context, depth)"),
        (
            "def fit(dataset, context): ...\n\ndef baseline(x, y): ...\n",
            "training.py: line 3: baseline is baseline(x, y); wanted: baseline(dataset, context)",
        ),
    ],
)
def test_a_fit_that_can_not_be_called_is_told_before_it_runs(
    folder: Path, content: str, told: str
) -> None:
    (folder / "training.py").write_text(content)
    (only,) = problems(folder)
    assert told in only


@pytest.mark.parametrize(
    "content",
    [
        "def fit(dataset, context, depth=3): ...",
        "def fit(*, context, dataset): ...",
        "def fit(**both): ...",
        "from .other import fit",
        "from .other import *",
        "fit = object()",
    ],
)
def test_a_fit_that_may_be_one_is_left_to_its_run(folder: Path, content: str) -> None:
    (folder / "training.py").write_text(content)
    assert dict(python_problems(folder)) == {}


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
        "return fitted(classifier, dataset)",
        "made = fitted(classifier, dataset)\n"
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
    change(folder / "model.yaml", "tier: 2", "tier: two")
    change(folder / "model.yaml", "name: bad", "name: bad name!")
    change(folder / "rules.yaml", "input: amount_to_income", "input: amount_to_wealth")
    change(folder / "rules.yaml", "decision: refer", "decision: refused")
    change(folder / "rules.yaml", "code: RULE_", "cod: RULE_")
    found = "\n".join(problems(folder))
    assert "model.yaml: 4 things are wrong:" in found
    assert re.search(r"line \d+: tier is 'two'; wanted: one of 1, 2, 3", found)
    assert re.search(r"line \d+: label.name is 'bad name!'; wanted: a text of the form", found)
    assert "inputs.2.to is 'incomes'; wanted: one of amount, income; the nearest is inco" in found
    assert "inputs.3.of is 'stats'; wanted: the view that has this feature" in found
    assert "reasons.yaml: 2 things are wrong:" in found
    assert re.search(r"line \d+: hours is an unknown key; wanted: .*; the nearest is hour\n", found)
    assert "line 1: hour is missing; wanted: input: {code, customer, analyst}" in found
    assert "rules.yaml: 4 things are wrong:" in found
    assert re.search(r"line \d+: 0\.cod is an unknown key; .*the nearest is code", found)
    assert re.search(r"line \d+: 0\.code is missing", found)
    assert re.search(r"line \d+: \d\.when\.0\.input is 'amount_to_wealth'; wanted: .*amount", found)
    assert re.search(
        r"line \d+: \d\.decision is 'refused'; wanted: one of grant, refer, ref", found
    )
    assert "training.py is missing; wanted: training.py with `fit(dataset, context)`" in found


def test_rules_are_told_where_model_yaml_is_no_document(folder: Path) -> None:
    change(folder / "model.yaml", "tier: 2", "tier: [2")
    change(folder / "rules.yaml", "op: ", "opp: ")
    change(folder / "rules.yaml", "input: amount_to_income", "input: amount_to_wealth")
    document, rules = problems(folder)
    assert document.startswith("model.yaml: line ")
    assert ".when.0.opp is an unknown key" in rules
    assert "amount_to_wealth" not in rules, "nobody knows the inputs"


def test_contradictions_are_told_beside_values_of_another_form(folder: Path) -> None:
    change(folder / "model.yaml", "psi: 0.2", "psy: 0.2")
    change(folder / "model.yaml", "safe: refer", "safe: allow")
    (text,) = problems(folder)
    assert text.startswith("model.yaml: 3 things are wrong:")
    assert "drift.psy is an unknown key" in text
    assert "decision.safe is 'allow'; wanted: of decision.outcomes" in text


def test_rules_that_name_no_input_and_a_folder_of_another_name_are_told(folder: Path) -> None:
    change(folder / "rules.yaml", "input: amount_to_income", "input: amount_to_wealth")
    other = folder.rename(folder.with_name("credit-risk"))
    found = "\n".join(problems(other))
    assert re.search(r"rules\.yaml: line \d+: 0\.when\.0\.input is 'amount_to_wealth'", found)
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
        "from mlplatform.authoring.sklearn import fitted\n"
    )
    (folder / "training.py").write_text(head + code)
    assert problems(folder) == []
