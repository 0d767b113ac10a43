"""The OpenAPI documents against a running gateway: what they promise is what it does.

Schemathesis makes requests from each document, right ones and wrong ones, and holds every answer to
it: status, content type, headers, schema. The seed is fixed and the number of examples is bounded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from hypothesis import HealthCheck, settings

from mlplatform.scoring.api.reference.examples import as_sent
from support.api_cases import DOCUMENTS, made_decision, prepare, schema, sent
from support.http_file import calls, filled
from support.scoring_world import SERVED, ScoringWorld, payment, serving

pytestmark = pytest.mark.slow
EXAMPLES = 25
SENT: Final = {"Content-Type": "application/json"}
CALLS: Final = Path(__file__).parents[4] / "docs" / "calls.http"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringWorld]:
    with serving(tmp_path_factory.mktemp("documents")) as world:
        yield world


@pytest.fixture(scope="module")
def decision_id(world: ScoringWorld) -> str:
    """Of a request left for later: it can be labelled, taken back, and polled for."""
    with world.client() as client:
        given: str = client.post("/score:async", json=payment()).json()["decision_id"]
    return given


@pytest.fixture(scope="module")
def decided(world: ScoringWorld) -> str:
    return made_decision(world)


bounded = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
succeeded: set[tuple[str, str]] = set()


@schema("/openapi/v1.json").parametrize()
@bounded
def test_v1_does_what_its_document_says(
    case: Any, world: ScoringWorld, decision_id: str, decided: str
) -> None:
    check(case, world, decision_id, decided)


@schema("/openapi/v2.json").parametrize()
@bounded
def test_v2_does_what_its_document_says(
    case: Any, world: ScoringWorld, decision_id: str, decided: str
) -> None:
    check(case, world, decision_id, decided)


@schema("/openapi/inference.json").parametrize()
@bounded
def test_inference_does_what_its_document_says(
    case: Any, world: ScoringWorld, decision_id: str, decided: str
) -> None:
    check(case, world, decision_id, decided)


def test_every_operation_was_called_with_success() -> None:
    """Runs after the others: answers that were all refusals would have shown nothing."""
    described = {
        (path, method)
        for document in DOCUMENTS.values()
        for path, methods in json.loads(document)["paths"].items()
        for method in methods
    }
    assert described - succeeded == set()


@pytest.mark.parametrize("path", DOCUMENTS)
def test_a_gateway_shows_the_documents_of_the_repository(path: str, world: ScoringWorld) -> None:
    shown = httpx.get(f"{world.url}{path}")
    assert shown.content == DOCUMENTS[path]
    assert shown.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", DOCUMENTS)
def test_every_example_is_answered(path: str, world: ScoringWorld, decision_id: str) -> None:
    """As the page of the document sends it: with the present time and a decision of the caller."""
    with httpx.Client(base_url=world.url, headers=world.headers) as client:
        for call, example in examples(path):
            text = as_sent(
                json.dumps(example), now_ms=str(int(time.time() * 1000)), decision_id=decision_id
            )
            address = call.replace("{version}", SERVED)
            answer = client.post(address, content=text, headers=SENT)
            assert answer.status_code in (200, 202), (call, answer.text)
            results = answer.json().get("results", ())
            assert [r for r in results if r.get("problem") is not None] == []


@pytest.mark.usefixtures("decided")  # so that explanations are computed at once
def test_every_call_of_the_file_is_answered(world: ScoringWorld) -> None:
    """From above to below, as an editor sends them."""
    now_s = str(int(time.time()))
    values = {"gateway": world.url, "key": world.headers["Authorization"].removeprefix("Bearer ")}
    values["$timestamp"] = now_s
    for call in calls(CALLS.read_text()):
        if "/features/" in call.address:  # of a view that this model lacks: test_pushes_to_gateways
            continue
        headers = {name: filled(value, values) for name, value in call.headers.items()}
        answer = httpx.request(
            call.method,
            filled(call.address, values),
            headers=headers,
            content=filled(call.body, values) or None,
        )
        assert answer.status_code in (200, 202), (call.title, answer.text)
        if call.name:
            values[f"{call.name}.response.body.decision_id"] = answer.json()["decision_id"]


@pytest.mark.parametrize("path", DOCUMENTS)
def test_a_page_is_shown_to_anybody_and_may_reach_this_gateway_alone(
    path: str, world: ScoringWorld
) -> None:
    shown = httpx.get(f"{world.url}{path.removesuffix('json')}html")
    assert shown.status_code == 200
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    policy = shown.headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert "connect-src 'self'" in policy
    assert not any("unsafe" in part or "http" in part or "*" in part for part in policy)
    assert shown.headers["x-content-type-options"] == "nosniff"


def examples(path: str) -> list[tuple[str, Any]]:
    """Path and body of each operation that has an example."""
    operations = json.loads(DOCUMENTS[path])["paths"].items()
    bodies = [
        (call, methods["post"]["requestBody"]["content"]["application/json"])
        for call, methods in operations
        if "post" in methods
    ]
    found = [(call, body["example"]) for call, body in bodies if "example" in body]
    assert len(found) >= len(bodies) - 1, "what workers bring has none"
    return found


def check(case: Any, world: ScoringWorld, decision_id: str, decided: str) -> None:
    if not prepare(case, decision_id, decided):
        return
    response = sent(case, world.url, world.headers)
    if response.status_code < 300:
        succeeded.add((case.operation.path, case.method.lower()))
