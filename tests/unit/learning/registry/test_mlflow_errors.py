"""A database that is away is told from a request that is wrong, though MLflow answers both 400."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import httpx
import msgspec
import pytest

from mlplatform.learning.registry.mlflow import MlflowRegistry
from mlplatform.learning.registry.mlflow_errors import database_away
from mlplatform.learning.registry.versions import (
    FACTS_TAG,
    STATUS_TAG,
    VALIDATED,
    VersionFacts,
)
from mlplatform.runtime.errors import NotFound, PlatformError, Refused, Unavailable

BACKGROUND = "\n(Background on this error at: https://sqlalche.me/e/21/rvf5)"
REFUSES_TLS = f"(pg8000.exceptions.InterfaceError) Server refuses SSL{BACKGROUND}"
SHUT_DOWN = (
    "(pg8000.dbapi.ProgrammingError) {'S': 'FATAL', 'V': 'FATAL', 'C': '57P01', "
    f"'M': 'terminating connection due to administrator command'}}\n[SQL: SELECT 1]{BACKGROUND}"
)
TOO_LONG = (
    "(pg8000.dbapi.ProgrammingError) {'S': 'ERROR', 'V': 'ERROR', 'C': '22001', "
    f"'M': 'value too long for type character varying(500)'}}\n[SQL: INSERT]{BACKGROUND}"
)
QUOTED = f"(psycopg2.errors.DataError) wrong\n[parameters: '(x.OperationalError) gone']{BACKGROUND}"


@pytest.mark.parametrize(
    ("code", "message", "away"),
    [
        ("BAD_REQUEST", REFUSES_TLS, True),
        ("BAD_REQUEST", f"BAD_REQUEST: {REFUSES_TLS}", True),
        ("BAD_REQUEST", "(psycopg2.OperationalError) could not connect to server", True),
        ("BAD_REQUEST", SHUT_DOWN, True),
        ("BAD_REQUEST", "QueuePool limit of size 5 overflow 10 reached", True),
        ("BAD_REQUEST", TOO_LONG, False),
        ("BAD_REQUEST", QUOTED, False),
        ("BAD_REQUEST", 'Request must include the "request_id" query parameter.', False),
        ("INVALID_PARAMETER_VALUE", REFUSES_TLS, False),
    ],
    ids=[
        "a connection that is cut at its start",
        "as the client tells it",
        "a connection that is refused",
        "a server that shuts down",
        "a pool without connections",
        "a value that is too long",
        "a value that looks like an error",
        "a request that is wrong",
        "another code",
    ],
)
def test_a_database_that_is_away_is_known_by_what_its_driver_says(
    code: str, message: str, away: bool
) -> None:
    assert database_away(code, message) is away


@pytest.mark.parametrize(("message", "error"), [(REFUSES_TLS, Unavailable), (TOO_LONG, Refused)])
def test_the_registry_waits_for_a_database_and_not_for_a_wrong_request(
    message: str, error: type[PlatformError]
) -> None:
    body = {"error_code": "BAD_REQUEST", "message": message}
    registry = answering(lambda _: httpx.Response(400, json=body))
    with pytest.raises(error):
        registry.get("fraud", 1)


def test_a_busy_server_is_asked_again_and_a_silent_one_is_not() -> None:
    answers = [httpx.Response(503), httpx.ConnectError("refused"), httpx.Response(200, json={})]
    asked = answering(lambda _: given(answers.pop(0)))
    assert (asked.versions("fraud"), answers) == ([], [])
    answers = [httpx.ReadTimeout("silent"), httpx.Response(200, json={})]
    with pytest.raises(Unavailable):
        asked.versions("fraud")
    assert len(answers) == 1


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> MlflowRegistry:
    registry = MlflowRegistry("http://registry.invalid", "token")
    transport = httpx.MockTransport(answer)
    registry._client = httpx.Client(base_url="http://registry.invalid", transport=transport)
    return registry


def given(answer: httpx.Response | httpx.HTTPError) -> httpx.Response:
    if isinstance(answer, httpx.HTTPError):
        raise answer
    return answer


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ([], "no version is registered yet: `mlplatform retrain fraud` makes one"),
        ([1, 3, 2], "those registered: 3, 2, 1 (`mlplatform models show fraud`)"),
        (range(1, 8), "those registered: 7, 6, 5, 4, 3, … (`mlplatform models show fraud`)"),
    ],
    ids=["no version yet", "a few", "many"],
)
def test_a_missing_version_is_named_with_those_that_there_are(
    there: Iterable[int], told: str
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/search"):
            return httpx.Response(200, json={"model_versions": [registered(n) for n in there]})
        return httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST", "message": ""})

    with pytest.raises(NotFound) as caught:
        answering(answer).get("fraud", 9)
    assert str(caught.value) == f"fraud has no version 9; {told}"


def test_a_version_made_by_hand_is_named_with_those_that_the_platform_made() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/search"):
            return httpx.Response(200, json={"model_versions": [registered(1)]})
        return httpx.Response(200, json={"model_version": {**registered(2), "tags": []}})

    with pytest.raises(NotFound) as caught:
        answering(answer).get("fraud", 2)
    assert str(caught.value) == (
        "version 2 of fraud was not registered by this platform;"
        " those registered: 1 (`mlplatform models show fraud`)"
    )


def registered(number: int) -> dict[str, Any]:
    """A model version as MLflow's REST API gives it."""
    facts = VersionFacts(
        bundle="b" * 64,
        data_from_ms=0,
        data_to_ms=1,
        data_digest="d" * 64,
        code_version="1",
        metrics={},
        report={},
        author="ana",
        validated=True,
        alert_low=0.0,
        alert_high=1.0,
        seed=1,
    )
    tags = {STATUS_TAG: VALIDATED, FACTS_TAG: msgspec.json.encode(facts).decode()}
    return {
        "name": "fraud",
        "version": str(number),
        "creation_timestamp": 1,
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
    }
