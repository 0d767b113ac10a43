"""The OpenAPI documents against a running gateway: what they promise is what it does.

Schemathesis makes requests from each document, right ones and wrong ones, and holds every answer to
it: status, content type, headers, schema. The seed is fixed and the number of examples is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

from support.api_cases import DOCUMENTS, prepare, schema, sent
from support.scoring_world import ScoringWorld, payment

pytestmark = pytest.mark.slow
EXAMPLES = 25


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringWorld]:
    world = ScoringWorld(tmp_path_factory.mktemp("documents"))
    try:
        world.promote(world.deploy(1))
        world.start_gateway()
        yield world
    finally:
        world.close()


@pytest.fixture(scope="module")
def decision_id(world: ScoringWorld) -> str:
    """Of a request left for later: it can be labelled, taken back, and polled for."""
    with world.client() as client:
        given: str = client.post("/score:async", json=payment()).json()["decision_id"]
    return given


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
def test_v1_does_what_its_document_says(case: Any, world: ScoringWorld, decision_id: str) -> None:
    check(case, world, decision_id)


@schema("/openapi/v2.json").parametrize()
@bounded
def test_v2_does_what_its_document_says(case: Any, world: ScoringWorld, decision_id: str) -> None:
    check(case, world, decision_id)


@schema("/openapi/inference.json").parametrize()
@bounded
def test_inference_does_what_its_document_says(
    case: Any, world: ScoringWorld, decision_id: str
) -> None:
    check(case, world, decision_id)


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


def check(case: Any, world: ScoringWorld, decision_id: str) -> None:
    if not prepare(case, decision_id):
        return
    response = sent(case, world.url, world.headers)
    if response.status_code < 300:
        succeeded.add((case.operation.path, case.method.lower()))
