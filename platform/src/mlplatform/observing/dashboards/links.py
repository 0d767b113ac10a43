"""The links of a dashboard: to the platform's page, MLflow, Prefect, and the other dashboards."""

from __future__ import annotations

from typing import Final

from mlplatform.observing.dashboards.panels import Link
from mlplatform.runtime.configuration.settings import load

_HERE: Final = load({})
ADDRESSES: Final = {
    "page": _HERE.page_url,
    "mlflow": _HERE.mlflow_url,
    "prefect": _HERE.prefect_url,
}
"""Name of a dashboard's constant → its address on one machine; infra/terraform sets others."""

PAGE: Final = Link("Platform's page", "${page}/")
MODEL_PAGE: Final = Link("Model on the platform's page", "${page}/models/${model}")
ROLLOUTS: Final = Link("Rollouts and their evidence", "${page}/rollouts")
INCIDENTS: Final = Link("Drift incidents", "${page}/incidents")
DECISION: Final = Link("Its record", "${page}/decisions/${__value.raw}")
DECISIONS: Final = Link("Latest decisions with trace and reasons", "${page}/decisions")
MLFLOW: Final = Link("Versions in MLflow", "${mlflow}/#/models/${model}")
EXPERIMENTS: Final = Link("MLflow", "${mlflow}/")
PREFECT: Final = Link("Flow runs in Prefect", "${prefect}/runs")
DEPLOYMENTS: Final = Link("Deployments in Prefect", "${prefect}/deployments")


def dashboard(name: str, model: str = "${model}") -> str:
    """The address of another dashboard, for the same time range."""
    return f"/d/mlplatform-{name}?var-model={model}&${{__url_time_range}}"
