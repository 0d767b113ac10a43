"""`python -m mlplatform.process mlflow`: MLflow in one process, behind a token."""

from __future__ import annotations

import argparse
import os
from typing import Any
from urllib.parse import urlsplit

from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.http.listener import read_token
from mlplatform.runtime.http.token_gate import TokenGate
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.postgres import tls_context
from mlplatform.runtime.telemetry.refusals import Refusals


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; everything else is a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="The address on which MLflow listens.")
    return parser


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Serve tracking and registry until the process is stopped."""
    os.environ.update(environment(settings))
    settings.home.create()
    settings.home.mlflow.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.mlflow_postgres is not None:
        log_in_to(settings.mlflow_postgres)
    _serve(settings, options.host)


def environment(settings: Settings) -> dict[str, str]:
    """Environment variables that tell MLflow where to store everything, and to do nothing else.

    The names with an underscore are private to MLflow, which is therefore pinned.
    """
    folder, postgres = settings.home.mlflow, settings.mlflow_postgres
    database = f"sqlite:///{folder / 'mlflow.db'}"
    if postgres is not None:
        database = (
            f"postgresql+pg8000://{postgres.user}@{postgres.host}:{postgres.port}/{postgres.name}"
        )
    return {
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_REGISTRY_STORE": database,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": settings.mlflow_artifacts
        or str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_CONFIGURE_LOGGING": "false",  # lines are ours
        "DO_NOT_TRACK": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        **_allowed_hosts(settings),
    }


def _allowed_hosts(settings: Settings) -> dict[str, str]:
    """Allowed host names: requests for other names are refused, so a web page can't call MLflow
    through a name of its own.

    Without this variable, MLflow accepts this machine's names and private addresses.
    """
    if not settings.servers.mlflow:
        return {}
    return {"MLFLOW_SERVER_ALLOWED_HOSTS": urlsplit(settings.mlflow_url).netloc}


def log_in_to(address: Address) -> None:
    """Give every SQLAlchemy connection of this process the present password, and TLS.

    The password and TLS settings are then not in the URL, which MLflow logs and shows.
    """
    from sqlalchemy import event  # MLflow's, imported by its server alone
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "do_connect")
    def log_in(dialect: object, record: object, args: object, kwargs: dict[str, Any]) -> None:
        kwargs.update(password=address.password(), ssl_context=tls_context(address))


def _serve(settings: Settings, host: str) -> None:
    from mlflow.server.fastapi_app import app  # slow to import; reads its environment then
    from mlflow.server.handlers import initialize_backend_stores

    from mlplatform.runtime.http.uvicorn_limits import ListenerConnections, serve

    variables = environment(settings)
    # Creates or migrates the database before the first request, not during it.
    initialize_backend_stores(
        variables["_MLFLOW_SERVER_FILE_STORE"],
        variables["_MLFLOW_SERVER_REGISTRY_STORE"],
        variables["_MLFLOW_SERVER_ARTIFACT_ROOT"],
    )
    token = read_token(settings.mlflow_token_file)
    connections = ListenerConnections("mlflow", Refusals(settings.home.audit))
    gated = TokenGate(app, token, "MLflow", "run/mlflow.token", connections.admit)
    serve(gated, connections, host=host, port=settings.mlflow_port, stop_s=5)
