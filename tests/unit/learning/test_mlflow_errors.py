"""A database that is away is told from a request that is wrong, though MLflow answers both 400."""

from __future__ import annotations

import httpx
import pytest

from mlplatform.learning.registry.mlflow import MlflowRegistry
from mlplatform.learning.registry.mlflow_errors import database_away
from mlplatform.learning.registry.mlflow_rest import MlflowRest
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
    from mlflow.exceptions import RestException

    told = RestException({"error_code": "BAD_REQUEST", "message": message})
    registry = MlflowRegistry("http://registry.invalid")
    with pytest.raises(error), registry._translated():
        raise told


@pytest.mark.parametrize(("message", "error"), [(REFUSES_TLS, Unavailable), (TOO_LONG, NotFound)])
def test_a_version_is_not_called_unknown_because_a_database_is_away(
    message: str, error: type[PlatformError]
) -> None:
    body = {"error_code": "BAD_REQUEST", "message": message}
    rest = MlflowRest("http://registry.invalid", "token")
    rest._client = httpx.Client(
        base_url="http://registry.invalid",
        transport=httpx.MockTransport(lambda _: httpx.Response(400, json=body)),
    )
    with pytest.raises(error):
        rest.get("fraud", 1)
