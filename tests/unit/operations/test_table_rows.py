"""Rows of a table as requests: what a gateway takes without, a table may lack too."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import yaml

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import model_folder, parse
from mlplatform.operations.tables.columns import taken
from mlplatform.operations.tables.request_rows import requests_of

KEY = b"k" * 32


def definition() -> ModelDefinition:
    found: dict[str, Any] = yaml.safe_load((model_folder("fraud") / "model.yaml").read_text())
    found["request"]["sex"] = {"type": "string", "values": ["f", "m"]}
    found["protected"] = ["sex"]
    return parse(yaml.safe_dump(found), "model.yaml")


DEFINITION = definition()
ROWS = {
    "request_id": ["a", "b", "c"],
    "customer_id": [1, 2, 3],
    "terminal_id": [1, 1, 1],
    "amount": [1.0, 2.0, 3.0],
}


def table(**columns: Any) -> pa.Table:
    return pa.table({**ROWS, **columns})


def test_a_protected_attribute_may_be_unknown_and_is_checked_where_it_is_known() -> None:
    given = table(sex=["f", None, "x"])
    found = requests_of(given, {}, DEFINITION, as_of_ms=1, key=KEY)
    assert found.problems == {2: "sex is none of request.sex.values: 'x'"}
    assert found.table.column("sex").to_pylist() == ["f", None]


def test_a_table_without_a_protected_attribute_is_taken() -> None:
    kinds = {field.name: str(field.type) for field in table().schema}
    assert "sex" not in taken(DEFINITION, kinds, {}, "a.parquet", is_text=False)
    found = requests_of(table(), {}, DEFINITION, as_of_ms=1, key=KEY)
    assert found.problems == {}
    assert found.table.column("sex").null_count == 3


def test_a_customers_id_stands_in_no_problem() -> None:
    given = table(customer_id=[1, -893704, None])
    found = requests_of(given, {}, DEFINITION, as_of_ms=1, key=KEY)
    assert found.problems == {1: "customer_id is less than 0", 2: "customer_id is missing"}
