"""Requests that Schemathesis makes from the OpenAPI documents, as a gateway can take them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import schemathesis
from schemathesis.checks import (
    load_all_checks,
    negative_data_rejection,
    not_a_server_error,
    positive_data_acceptance,
)

from mlplatform.model.definition import MAX_DEADLINE_MS, MIN_DEADLINE_MS
from mlplatform.model.folders import load_definition, model_names
from mlplatform.runtime.clock import LAST_MS
from mlplatform.scoring.api import openapi
from support.scoring_world import MODEL, SERVED, ScoringWorld, payment, wait_for

DOCUMENTS = openapi.documents([load_definition(name) for name in model_names()])
TIMEOUT = "X-Request-Timeout-Ms"
UNKNOWN_HEADER = "x-schemathesis-unknown-property"
load_all_checks()


def schema(path: str) -> Any:
    """The document at a path, as Schemathesis reads it."""
    return schemathesis.openapi.from_dict(json.loads(DOCUMENTS[path]))


EXPLANATION = "/explanation"
"""End of the path of a call that only a decision answers which has been made."""


def made_decision(world: ScoringWorld) -> str:
    """The id of a decision that can be explained, as it was once."""
    with world.client() as client:
        made: str = client.post("/score", json=payment(950.0)).json()["decision_id"]
        url = f"{world.url}/api/v2/models/{MODEL}/decisions/{made}{EXPLANATION}"
        wait_for(lambda: client.get(url).status_code == httpx.codes.OK)
    return made


def prepare(case: Any, decision_id: str, decided: str) -> bool:
    """Make a case one that can succeed where its document alone can't; False: it shows nothing.

    Args:
        decision_id: of a request left for later.
        decided: of a decision that was made.
    """
    if UNKNOWN_HEADER in case.headers:
        return False  # HTTP lets anybody along the way add headers: they are no reason to refuse
    make_possible(case.body, decision_id)
    if case.method == "POST" and is_within_bounds(case.headers.get(TIMEOUT)):
        case.headers[TIMEOUT] = str(MAX_DEADLINE_MS)
    if "decision_id" in (case.path_parameters or {}):
        explains = case.operation.path.endswith(EXPLANATION)
        case.path_parameters["decision_id"] = decided if explains else decision_id
    if "version" in (case.path_parameters or {}):
        case.path_parameters["version"] = SERVED
    return True


def sent(case: Any, url: str, headers: Mapping[str, str]) -> Any:
    """The answer to a case.

    Raises:
        AssertionError: it is not what the document says of its operation.
    """
    # What a schema can't say may be wrong still: two fields that exclude one another. And a 503 is
    # an answer that each document promises; any other 5xx is none, so the status check finds it.
    excluded = [positive_data_acceptance, not_a_server_error]
    if case.operation.path.endswith((":batch", ":accepted")):
        excluded.append(negative_data_rejection)  # an item's problem stands among the results
    if "Authorization" in case.headers:
        excluded.append(negative_data_rejection)  # the key of `headers` takes the wrong one's place
    return case.call_and_validate(base_url=url, headers=headers, excluded_checks=excluded)


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
        if type(sent_ms) is int and 0 <= sent_ms <= LAST_MS:
            item["event_time"] = int(time.time() * 1000)
        elif isinstance(sent_ms, str) and is_moment(sent_ms):
            item["event_time"] = datetime.now(UTC).isoformat()
        named = item.get("decision_id")
        if isinstance(named, str) and 0 < len(named) <= 64:
            item["decision_id"] = decision_id
