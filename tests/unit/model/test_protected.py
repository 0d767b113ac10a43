"""Nothing that decides reads a protected attribute, and requests may leave one out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
import yaml
from tests.support.class_model import template

from mlplatform.commands.authoring.check_model import problems
from mlplatform.learning.features import rows
from mlplatform.learning.training_sets.dataset import dataset
from mlplatform.model.folders import model_folder, parse
from mlplatform.model.rules import parse_rules
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.request.payloads import Payloads

SEX: dict[str, Any] = {"type": "string", "values": ["", "female", "male"]}
DAY_US = 86_400_000_000


def document(**changes: Any) -> dict[str, Any]:
    """The fraud model's with a protected field, and keys replaced by dotted path."""
    found: dict[str, Any] = yaml.safe_load((model_folder("fraud") / "model.yaml").read_text())
    found["request"]["sex"] = {**SEX}
    found["request"]["region"] = {"type": "string", "values": ["north", "south"]}
    found["protected"] = ["sex"]
    for path, value in changes.items():
        *parents, last = path.split("__")
        part: Any = found
        for name in parents:
            part = part[int(name)] if name.isdigit() else part[name]
        if isinstance(part, list):
            part[int(last)] = value
        else:
            part[last] = value
    return found


DEFINITION = parse(yaml.safe_dump(document()), "model.yaml")


def count(**more: Any) -> dict[str, Any]:
    return {
        "name": "one",
        "entity": "customer",
        "aggregate": "count",
        "window": "1h",
        "resolution": "1m",
        **more,
    }


AMOUNT_OF_SEX = {"name": "sum", "aggregate": "sum", "of": "sex"}
FAIRNESS = {"adverse_share_ratio": 1.25}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"inputs__0": {"name": "sex", "kind": "category", "of": "sex"}}, "inputs.0.of is 'sex'"),
        ({"inputs__0": {"name": "sex", "kind": "field", "of": "sex"}}, "inputs.0.of is 'sex'"),
        (
            {"inputs__16": {"name": "odd", "kind": "ratio", "of": "amount", "to": "sex"}},
            "inputs.16.to is 'sex'",
        ),
        ({"windows": [count(**AMOUNT_OF_SEX)]}, "windows.0.of is 'sex'"),
        (
            {"windows": [count(where={"field": "sex", "op": "==", "value": "male"})]},
            "windows.0.where.field is 'sex'",
        ),
        ({"label__review__shows": ["sex"]}, "label.review.shows is ['sex']"),
        ({"protected": ["age"]}, "protected.0 is 'age'; wanted: a request field"),
        ({"protected": ["sex", "sex"]}, "names that differ"),
        ({"protected": ["amount"]}, "protected.0 is 'amount'; wanted: a field of type string"),
        ({"request__sex__values": [f"g{n}" for n in range(51)]}, "protected.0 is 51; wanted: a"),
        ({"request__sex__entity": "customer"}, "not an entity, a pseudonym"),
        ({"assignment_unit": "sex"}, "not an entity, a pseudonym"),
        ({"gates__fairness": {}}, "gates.fairness is [None, None]; wanted: a limit"),
        ({"gates__fairness": FAIRNESS, "protected": []}, "gates.fairness is 'without protected'"),
        ({"gates__fairness": {"adverse_share_ratio": 1.0}}, "gates.fairness.adverse_share_ratio"),
        ({"gates__fairness": {**FAIRNESS, "adverse": ["review"]}}, "gates.fairness.adverse"),
        (
            {"gates__fairness": {**FAIRNESS, "reference": {"sex": "other"}}},
            "gates.fairness.reference.sex is 'other'; wanted: of female, male",
        ),
        (
            {"gates__fairness": {**FAIRNESS, "reference": {"region": "north"}}},
            "gates.fairness.reference.region is 'north'; wanted: of sex",
        ),
    ],
)
def test_what_reads_a_protected_attribute_or_can_not_be_one_is_named(
    changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse(yaml.safe_dump(document(**changes)), "model.yaml")
    assert named in str(caught.value)
    assert "line " in str(caught.value)


def test_what_compares_groups_without_deciding_is_taken() -> None:
    fairness = {**FAIRNESS, "adverse": ["review", "decline"], "reference": {"sex": "female"}}
    policy = parse(yaml.safe_dump(document(gates__fairness=fairness)), "model.yaml").gates.fairness
    assert policy is not None
    assert (policy.adverse, policy.not_shown) == (("review", "decline"), "refuse")


OF_TASKS = (
    ("classes", "accuracy_difference: 0.05"),
    ("real", "mae_ratio: 1.25, bias_difference: 10"),
)


def of_task(kind: str, limits: str) -> str:
    """The task's template with a protected field, and limits on its groups."""
    found = template("sizes", kind)
    field = "request:\n  sex: {type: string, values: [female, male]}\n"
    found = found.replace("request:\n", field, 1).replace(
        "inputs:\n", "protected: [sex]\ninputs:\n", 1
    )
    return found.replace("gates:\n", f"gates:\n  fairness: {{{limits}}}\n", 1)


@pytest.mark.parametrize(("kind", "limits"), OF_TASKS)
def test_classes_and_numbers_have_groups_and_limits_on_their_errors(kind: str, limits: str) -> None:
    found = parse(of_task(kind, limits), "model.yaml")
    assert found.protected == ("sex",)
    assert found.gates.fairness is not None
    assert ", ".join(f"{k}: {v:g}" for k, v in found.gates.fairness.limits.items()) == limits


@pytest.mark.parametrize(
    ("kind", "limits", "named"),
    [
        ("classes", "reference: {sex: male}", "gates.fairness.accuracy_difference is missing"),
        ("classes", "accuracy_difference: 0", "gates.fairness.accuracy_difference is 0"),
        ("classes", "accuracy_difference: 0.1, reference: {sex: x}", "wanted: of female, male"),
        (
            "classes",
            "accuracy_difference: 0.1, adverse_share_ratio: 1.2",
            "nothing, where task is classes: gates.fairness.accuracy_difference compares classes",
        ),
        ("real", "not_shown: tell", "wanted: a limit: mae_ratio, bias_difference or both"),
        ("real", "mae_ratio: 1", "gates.fairness.mae_ratio is 1"),
        (
            "real",
            "mae_ratio: 1.2, adverse: [high]",
            "nothing, where task is real: mae_ratio and bias_difference compare numbers",
        ),
        ("real", "accuracy_difference: 0.1", "accuracy_difference is an unknown key"),
    ],
)
def test_limits_that_a_task_does_not_have_are_refused(kind: str, limits: str, named: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse(of_task(kind, limits), "model.yaml")
    assert named in str(caught.value)


@pytest.mark.parametrize(("kind", "limits"), OF_TASKS)
def test_no_input_of_classes_or_numbers_reads_a_protected_field(kind: str, limits: str) -> None:
    reading = of_task(kind, limits).replace(
        "inputs:\n", "inputs:\n  - {name: sex, kind: category, of: sex}\n", 1
    )
    with pytest.raises(ConfigInvalid, match=r"inputs\.0\.of is 'sex'; wanted: nothing that is"):
        parse(reading, "model.yaml")


def test_no_rule_and_no_view_reads_one(tmp_path: Path) -> None:
    rule = "[{code: R, text: a text, decision: review, when: [{input: sex, op: missing}]}]"
    with pytest.raises(ConfigInvalid, match="nothing decides by what"):
        parse_rules(
            rule, source="rules.yaml", inputs=["amount"], decisions=["review"], protected=["sex"]
        )
    folder = tmp_path / "fraud"
    folder.mkdir(mode=0o700)
    for path in model_folder("fraud").iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "model.yaml").write_text(yaml.safe_dump(document()))
    views = msgspec.json.decode((folder / "features.json").read_bytes())
    mean = next(f for view in views["views"] for f in view["fields"] if f["column"])
    mean["column"] = "sex"
    (folder / "features.json").write_bytes(msgspec.json.encode(views))
    told = "\n".join(problems(folder))
    assert f"features.json: feature {mean['name']}" in told
    assert "a column that is not `protected`" in told


def test_a_request_may_leave_it_out_and_no_member_stands_twice_all_the_same() -> None:
    payloads = Payloads(DEFINITION)
    rest = '"customer_id": 1, "terminal_id": 2, "amount": 3.0, "region": "north", "event_time": 4'
    left_out = payloads.score(f"{{{rest}}}".encode())
    assert left_out.fields["sex"] is None
    assert payloads.score(f'{{{rest}, "sex": null}}'.encode()).fields == left_out.fields
    assert payloads.score(f'{{{rest}, "sex": "male"}}'.encode()).fields["sex"] == "male"
    for wrong in (f'{{{rest}, "sex": "x"}}', f'{{{rest}, "region": "south"}}'):
        with pytest.raises(Problem):
            payloads.score(wrong.encode())
    with pytest.raises(Problem, match="region"):
        payloads.score(b'{"customer_id": 1, "terminal_id": 2, "amount": 3.0, "event_time": 4}')


def history(sex: list[str | None]) -> pa.Table:
    count = len(sex)
    times = pa.array([number * DAY_US for number in range(count)], pa.timestamp("us"))
    values: dict[str, Any] = {
        "request_id": [str(number) for number in range(count)],
        "event_time": times,
        "customer_id": [1] * count,
        "terminal_id": [2] * count,
        "amount": [3.0] * count,
        "sex": sex,
        "region": ["north"] * count,
        "label": [0] * count,
        "label_time": times,
    }
    return pa.table(values, schema=rows.history_schema(DEFINITION))


def test_a_history_may_not_know_it_and_a_training_set_keeps_it_beside_its_inputs() -> None:
    """Of rows on days 0 to 3: known, empty, missing, and of the other group."""
    table = history(["female", "", None, "male"])
    rows.check_history(table, DEFINITION, "file")
    with pytest.raises(InputInvalid, match=r"none of request\.sex\.values"):
        rows.check_history(history(["female", "x"]), DEFINITION, "file")
    gone, place = pa.array([None] * 4, pa.string()), table.column_names.index("region")
    with pytest.raises(InputInvalid, match="region is missing"):
        rows.check_history(table.set_column(place, "region", gone), DEFINITION, "file")
    of_request = tuple(i for i in DEFINITION.inputs if i.kind not in ("view", "ratio"))
    definition = msgspec.structs.replace(DEFINITION, inputs=of_request)
    built = dataset(definition, (), table, as_of_ms=7 * DAY_US // 1000, labels_until_ms=None)
    assert "sex" not in built.rows.matrix.names
    assert built.rows.groups["sex"].tolist() == [1, -1, -1, 2]
    assert built.rows.rows(slice(3, None)).groups["sex"].tolist() == [2]
