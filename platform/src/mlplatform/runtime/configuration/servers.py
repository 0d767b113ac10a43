"""The addresses of the platform's own servers that do not run on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PREFECT_AUTH: Final = "PREFECT_API_AUTH_STRING"
"""Prefect's own variable, which its client in a flow run needs as well."""


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers on other machines; an empty field stands for this machine.

    Args:
        gateway: http://host:port of the scoring API.
        prefect: http://host:port of Prefect's server.
        mlflow: http://host:port of the registry.
        page: http://host:port of the platform's page, as the program that forwards people to it
            reaches it.
        alertmanager: http(s)://host:port of the Alertmanager whose alerts the page shows.
        prometheus: http(s)://host:port of the Prometheus that measures how much of error budgets is
            spent.
        grafana: http(s)://host:port of Grafana, as readers of the page reach it.
        prefect_auth: user:password for Prefect's server, which child processes inherit from the
            environment; empty if the server needs none.
        mlflow_token_file: file with the registry's token; None means the file in the home folder.
    """

    gateway: str = ""
    prefect: str = ""
    mlflow: str = ""
    page: str = ""
    alertmanager: str = ""
    prometheus: str = ""
    grafana: str = ""
    prefect_auth: str = field(default="", repr=False)
    mlflow_token_file: Path | None = None


HERE: Final = Servers()
