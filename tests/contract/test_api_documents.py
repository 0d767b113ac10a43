"""The OpenAPI documents against a running gateway: what they promise is what it does.

Schemathesis makes requests from each document, right ones and wrong ones, and holds every answer to
it: status, content type, headers, schema. The seed is fixed and the number of examples is bounded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import (
    load_all_checks,
    negative_data_rejection,
    not_a_server_error,
    positive_data_acceptance,
)

from mlplatform.gateway import openapi
from mlplatform.gateway.payloads import YEAR_9999_MS
from mlplatform.models.definition import (
    MAX_DEADLINE_MS,
    MIN_DEADLINE_MS,
    load_definition,
    model_names,
)
from support.scoring_world import ScoringWorld, payment

pytestmark = pytest.mark.slow
EXAMPLES = 25
DEFINITIONS = [load_definition(name) for name in model_names()]
DOCUMENTS = openapi.documents(DEFINITIONS)
TIMEOUT = "X-Request-Timeout-Ms"
UNKNOWN_HEADER = "x-schemathesis-unknown-property"
load_all_checks()


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


def schema(path: str) -> Any:
    return schemathesis.openapi.from_dict(json.loads(DOCUMENTS[path]))


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
    if UNKNOWN_HEADER in case.headers:
        return  # HTTP lets anybody along the way add headers: they are no reason to refuse
    make_possible(case.body, decision_id)
    if case.method == "POST" and is_within_bounds(case.headers.get(TIMEOUT)):
        case.headers[TIMEOUT] = str(MAX_DEADLINE_MS)
    if "decision_id" in (case.path_parameters or {}):
        case.path_parameters["decision_id"] = decision_id
    # What a schema can't say may be wrong still: two fields that exclude one another. And a 503 is
    # an answer that each document promises; any other 5xx is none, so the status check finds it.
    excluded = [positive_data_acceptance, not_a_server_error]
    if case.operation.path.endswith((":batch", ":accepted")):
        excluded.append(negative_data_rejection)  # an item's problem stands among the results
    response = case.call_and_validate(
        base_url=world.url, headers=world.headers, excluded_checks=excluded
    )
    if response.status_code < 300:
        succeeded.add((case.operation.path, case.method.lower()))


def is_within_bounds(timeout: Any) -> bool:
    """Whether a longer time is as right: a busy machine answers little within the least one."""
    if timeout is None:
        return True
    text = str(timeout)
    return text.isdecimal() and MIN_DEADLINE_MS <= int(text) <= MAX_DEADLINE_MS


def is_moment(text: str) -> bool:
    try:
        return msgspec.convert(text, datetime, strict=False).tzinfo is not None
    except msgspec.ValidationError:
        return False


def make_possible(body: Any, decision_id: str) -> None:
    """Put what no schema knows where it fits: the present time, and a decision that was given."""
    if not isinstance(body, dict):
        return
    lists = (body.get("requests"), body.get("labels"))
    for item in [body, *(i for found in lists if isinstance(found, list) for i in found)]:
        if not isinstance(item, dict):
            continue
        sent_ms = item.get("event_time")
        if type(sent_ms) is int and 0 <= sent_ms <= YEAR_9999_MS:
            item["event_time"] = int(time.time() * 1000)
        elif isinstance(sent_ms, str) and is_moment(sent_ms):
            item["event_time"] = datetime.now(UTC).isoformat()
        named = item.get("decision_id")
        if isinstance(named, str) and 0 < len(named) <= 64:
            item["decision_id"] = decision_id
