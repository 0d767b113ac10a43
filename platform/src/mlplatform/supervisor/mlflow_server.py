"""`python -m mlplatform.supervisor.mlflow_server`: MLflow in one process, behind a token."""

from __future__ import annotations

import argparse
import base64
import binascii
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from mlplatform.addresses import Address
from mlplatform.postgres import tls_context
from mlplatform.settings import Settings, load
from mlplatform.supervisor.lifeline import follow_parent
from mlplatform.telemetry import logs

OPEN_PATHS: Final = ("/health",)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def parser() -> argparse.ArgumentParser:
    """The command line; all else are settings."""
    taken = argparse.ArgumentParser(prog="mlplatform.supervisor.mlflow_server", description=__doc__)
    taken.add_argument("--host", default="127.0.0.1", help="where it listens")
    return taken


def main() -> None:
    """Serves tracking and registry until told to stop."""
    options = parser().parse_args()
    follow_parent()
    logs.configure("mlflow")
    settings = load(os.environ)
    os.environ.update(environment(settings))
    settings.home.mlflow.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.mlflow_postgres is not None:
        log_in_to(settings.mlflow_postgres)
    _serve(settings, options.host)


def environment(settings: Settings) -> dict[str, str]:
    """How MLflow is told where to keep everything, and to do nothing else.

    The names with an underscore are private to MLflow, which is therefore pinned.
    """
    folder, given = settings.home.mlflow, settings.mlflow_postgres
    database = f"sqlite:///{folder / 'mlflow.db'}"
    if given is not None:
        database = f"postgresql+pg8000://{given.user}@{given.host}:{given.port}/{given.name}"
    return {
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_REGISTRY_STORE": database,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": settings.mlflow_artifacts
        or str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        **_allowed_hosts(settings),
    }


def _allowed_hosts(settings: Settings) -> dict[str, str]:
    """Requests for another name are refused: a page in a browser can't reach in by one of its own.

    Left out, MLflow takes this machine's names and private addresses.
    """
    if not settings.servers.mlflow:
        return {}
    return {"MLFLOW_SERVER_ALLOWED_HOSTS": urlsplit(settings.mlflow_url).netloc}


def log_in_to(address: Address) -> None:
    """Give every connection of SQLAlchemy's in this process the password of now, and TLS.

    So neither is in the URL, which MLflow logs and shows.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "do_connect")
    def log_in(dialect: object, record: object, args: object, kwargs: dict[str, Any]) -> None:
        kwargs.update(password=address.password(), ssl_context=tls_context(address))


def _serve(settings: Settings, host: str) -> None:
    import uvicorn
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    variables = environment(settings)
    # Makes or migrates the database before the first answer, not during the first request.
    initialize_backend_stores(
        variables["_MLFLOW_SERVER_FILE_STORE"],
        variables["_MLFLOW_SERVER_REGISTRY_STORE"],
        variables["_MLFLOW_SERVER_ARTIFACT_ROOT"],
    )
    token = settings.mlflow_token_file.read_text().strip()
    uvicorn.run(
        TokenGate(app, token),
        host=host,
        port=settings.mlflow_port,
        log_level="warning",
        log_config=None,  # lines are ours
        access_log=False,
        timeout_graceful_shutdown=5,
    )


class TokenGate:
    """Lets through who knows the token: as a bearer token, or as the password of any user.

    MLflow's client sends the first (MLFLOW_TRACKING_TOKEN), a browser asks a person for the second.
    """

    def __init__(self, application: Application, token: str) -> None:
        self._application = application
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS or self._admits(scope):
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _refuse(send)

    def _admits(self, scope: Scope) -> bool:
        for key, value in scope["headers"]:
            if key == b"authorization":
                return hmac.compare_digest(_secret(value), self._token)
        return False


def _secret(authorization: bytes) -> bytes:
    scheme, _, value = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


async def _refuse(send: Send) -> None:
    body = b'{"error_code": "UNAUTHENTICATED", "message": "the token of this MLflow is needed"}'
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b'Basic realm="MLflow: any name, the token as password"'),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    main()
