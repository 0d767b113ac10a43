"""The form of a flow's deployment, as Prefect's server gets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlplatform.operations.prefect_server.local_flows import FLOWS, deployment
from mlplatform.runtime.configuration.settings import Home, Settings


def form(flow: str, model: str = "fraud") -> dict[str, Any]:
    """The schema of the parameters of a flow's deployment for a model."""
    settings = Settings(Home(Path("home")), "replay", 1, prefect_port=2, mlflow_port=3)
    made = deployment(flow, model, settings, FLOWS)
    return made._parameter_openapi_schema.model_dump()
