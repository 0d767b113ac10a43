"""The key and tokens by which commands and flows ask the servers of their own home's platform.

None is given out while the platform of another home answers on the port of a server. A server that
a setting names is asked as it is.
"""

from __future__ import annotations

from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import MissingHere, Unavailable
from mlplatform.runtime.processes.port_holders import require_own


def api_key(settings: Settings) -> str:
    """The first API key of this home, for its gateway.

    Raises:
        MissingHere: the gateway has never started here.
        Unavailable: for the same reason as in `require_own`.
    """
    try:
        key = settings.home.api_key.read_text().strip()
    except FileNotFoundError:
        raise MissingHere("API key", settings.home.secrets) from None
    if not settings.servers.gateway:
        require_own(settings.home, settings.gateway_port, "the gateway")
    return key


def prefect_login(settings: Settings) -> str:
    """Name and token with which the owner of the home passes Prefect's gate.

    Raises:
        Unavailable: Prefect was never started here, or for the same reason as in `require_own`.
    """
    try:
        token = settings.home.prefect_token.read_text().strip()
    except FileNotFoundError:
        raise Unavailable("the platform has not started Prefect: `mlplatform up`") from None
    if not settings.servers.prefect:
        require_own(settings.home, settings.prefect_port, "Prefect")
    return f"operator:{token}"


def mlflow_token(settings: Settings) -> str:
    """MLflow's token of this start.

    Raises:
        Unavailable: MLflow was never started here, or for the same reason as in `require_own`.
    """
    try:
        token = settings.mlflow_token_file.read_text().strip()
    except FileNotFoundError:
        raise Unavailable("the platform has not started MLflow: `mlplatform up`") from None
    if not settings.servers.mlflow:
        require_own(settings.home, settings.mlflow_port, "MLflow")
    return token
