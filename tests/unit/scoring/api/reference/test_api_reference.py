"""The pages of the OpenAPI documents, and the examples that they show."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from mlplatform.model.definition import ModelDefinition, RequestField
from mlplatform.model.folders import load_definition, model_names
from mlplatform.scoring.api import openapi
from mlplatform.scoring.api.reference import examples, page
from mlplatform.scoring.request.payloads import Payloads

DOCUMENTS: Final = openapi.documents([load_definition(name) for name in model_names()])
HOSTILE: Final = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&`<b>`"


class Elements(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def values(self, name: str) -> list[str]:
        return [found[name] for _, found in self.found if name in found]


@pytest.mark.parametrize("path", DOCUMENTS)
def test_a_page_has_every_operation_and_schema_and_no_link_leads_nowhere(path: str) -> None:
    document = json.loads(DOCUMENTS[path])
    elements = Elements(page.pages(DOCUMENTS)[path.removesuffix("json") + "html"].html)
    anchors = elements.values("id")
    operations = [o["operationId"] for m in document["paths"].values() for o in m.values()]
    wanted = {*operations, *(f"schema-{name}" for name in document["components"]["schemas"])}
    inside = {href[1:] for href in elements.values("href") if href.startswith("#")}

    assert wanted | inside <= set(anchors)
    assert len(anchors) == len(set(anchors))
    outside = {href for href in elements.values("href") if not href.startswith("#")}
    assert outside == {"/openapi.html", "/openapi/v1.html", "/openapi/v2.html",
                       "/openapi/inference.html"}  # fmt: skip
    assert elements.values("src") == []


def test_the_policy_names_the_script_and_the_style_that_the_page_has() -> None:
    shown = page.render(json.loads(DOCUMENTS["/openapi/v2.json"]))
    for tag in ("script", "style"):
        (held,) = re.findall(rf"<{tag}>(.*?)</{tag}>", shown.html.decode(), re.DOTALL)
        digest = b64encode(sha256(held.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in shown.policy.decode()


def test_a_page_that_sends_nothing_has_no_script_and_lets_none_run() -> None:
    shown = page.render(json.loads(DOCUMENTS["/openapi/v2.json"]), sends=False)
    assert "script" not in {tag for tag, _ in Elements(shown.html).found}
    assert b"script-src" not in shown.policy
    assert shown.policy.startswith(b"default-src 'none'; style-src")


def test_the_script_knows_what_stands_in_for_the_time_and_for_a_decision() -> None:
    script = Path(page.__file__).with_name("send.js").read_text()
    assert f"/\\b{examples.NOW_MS}\\b/g" in script
    assert f"/\\b0{{{len(examples.DECISION_ID)}}}\\b/g" in script
    assert "innerHTML" not in script


def hostile(value: Any) -> Any:
    """A document in which every sentence is an attack."""
    if isinstance(value, dict):
        return {
            key: HOSTILE if isinstance(inner, str) and key != "$ref" else hostile(inner)
            for key, inner in value.items()
        }
    return [hostile(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", DOCUMENTS)
def test_whatever_a_document_says_stays_text(path: str) -> None:
    plain = page.render(json.loads(DOCUMENTS[path]))
    attacked = page.render(hostile(json.loads(DOCUMENTS[path])))
    tags = {tag for tag, _ in Elements(attacked.html).found}
    assert tags <= {tag for tag, _ in Elements(plain.html).found}
    assert "onerror" not in {name for _, found in Elements(attacked.html).found for name in found}
    assert attacked.html.count(b"<script>") == 1


def test_a_command_leaves_nothing_of_a_body_to_the_shell() -> None:
    document = json.loads(DOCUMENTS["/openapi/v2.json"])
    content = document["paths"]["/api/v2/models/fraud/score"]["post"]["requestBody"]["content"]
    content["application/json"]["example"] = {"text": "$(rm x) `y` \\", "event_time": 1}
    shown = page.render(document).html.decode()
    assert r"\$(rm x) \`y\` \\\\" in shown


BOUNDS: Final = [
    RequestField(type="int64"),
    RequestField(type="int64", minimum=100),
    RequestField(type="int64", maximum=-3),
    RequestField(type="float64", minimum=0, maximum=0.5),
    RequestField(type="string", max_length=1),
    RequestField(type="string", values=("web", "shop")),
    RequestField(type="bool"),
]


@pytest.mark.parametrize("field", BOUNDS, ids=str)
def test_an_example_is_a_request_that_the_model_takes(field: RequestField) -> None:
    fraud: ModelDefinition = load_definition("fraud")
    definition = msgspec.structs.replace(fraud, request={"customer_id": field})
    example = examples.score(definition)
    asked = Payloads(definition).score(json.dumps(example).encode())
    assert asked.fields == {"customer_id": example["customer_id"]}
    assert asked.event_ms == examples.NOW_MS
