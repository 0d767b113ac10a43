"""docs/calls.http has a request for each call, of the kind that the OpenAPI documents describe."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator

from support.http_file import Call, calls, filled

DOCS: Final = Path(__file__).parents[2] / "docs"
CALLS: Final = calls((DOCS / "calls.http").read_text())
DOCUMENTS: Final[list[dict[str, Any]]] = [
    json.loads(path.read_text()) for path in sorted((DOCS / "openapi").glob("*.json"))
]
DECISION: Final = re.compile(r"\{\{\w+\.response\.body\.decision_id\}\}")
OF_WORKERS: Final = "score:accepted"
"""What nobody can send who has no accepted request of a gateway's topic."""


OF_VIEWS: Final = "/api/v2/features/"
"""Calls that a gateway's own document describes, where it serves a model with that view: gateways
of test_pushes_to_gateways.py take them."""


def path_of(call: Call) -> str:
    """As documents have it: parameters stand in the place of a decision and of a version."""
    path = DECISION.sub("{decision_id}", call.path())
    return re.sub(r"(?<=/versions/)\d+", "{version}", path)


def described(call: Call) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The operations that documents have at that place, each with its document."""
    path = path_of(call)
    found = ((d["paths"].get(path, {}).get(call.method.lower()), d) for d in DOCUMENTS)
    return [(operation, document) for operation, document in found if operation is not None]


def value(name: str) -> str:
    return "1767225600" if name == "$timestamp" else "0" * 42


@pytest.mark.parametrize(
    "call",
    [call for call in CALLS if not call.path().startswith(OF_VIEWS)],
    ids=lambda call: call.title,
)
def test_a_call_is_one_that_a_document_describes(call: Call) -> None:
    operations = described(call)
    assert operations, f"{call.method} {call.path()}"
    for operation, document in operations:
        asks = operation.get("security") != []
        assert ("Authorization" in call.headers) == asks
        known = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "header"}
        assert call.headers.keys() <= known | {"Authorization", "Content-Type"}
        assert bool(call.body) == ("requestBody" in operation)
        if call.body:
            assert call.headers["Content-Type"] == "application/json"
            names = re.findall(r"\{\{(.+?)\}\}", call.body)
            body = json.loads(filled(call.body, {name: value(name) for name in names}))
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            whole = schema | {"components": document["components"]}
            assert [e.message for e in Draft202012Validator(whole).iter_errors(body)] == []


def test_no_call_is_left_out() -> None:
    """v1 has the calls of v2: one of it shows the way."""
    latest = [d for d in DOCUMENTS if d["info"]["version"] != "1"]
    wanted = {
        (method.upper(), path)
        for document in latest
        for path, methods in document["paths"].items()
        for method in methods
        if not path.endswith(OF_WORKERS)
    }
    sent = {(call.method, path_of(call)) for call in CALLS}
    assert wanted - sent == set()


def test_every_call_of_the_handbook_is_there() -> None:
    """The table of docs/calling.md; a view is one that its example names."""
    told = re.findall(r"`(POST|GET) (/api/v2/\S+)`", (DOCS / "calling.md").read_text())
    shape = re.compile(r"\{\w+\}")
    sent = {(call.method, path_of(call)) for call in CALLS}
    for method, path in told:
        wanted = re.compile(shape.sub(r"[^/:]+", path) + r"(\?.*)?")
        assert any(m == method and wanted.fullmatch(p) for m, p in sent), f"{method} {path}"
    assert ("POST", "/api/v2/features/{view}") in told


def test_an_answer_is_named_before_it_is_meant() -> None:
    named: set[str] = set()
    for call in CALLS:
        meant = re.findall(r"\{\{(\w+)\.response", f"{call.address}{call.body}")
        assert set(meant) <= named, call.title
        named.add(call.name)
