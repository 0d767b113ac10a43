"""A run's record in the form of MLflow's REST API.

Source: MLflow REST API 2.0: runs/log-batch, runs/log-inputs; `mlflow.utils.mlflow_tags`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mlplatform.learning.registry.mlmodel import schema
from mlplatform.learning.registry.run_record import RunDataset, RunRecord

MOST_METRICS: Final = 500
MOST_PARAMETERS: Final = 100
"""Most parameters of one request. MLflow accepts 100 parameters, and 1000 metrics."""
DIGEST_CHARACTERS: Final = 36
"""Number of characters that MLflow keeps of a data set's digest."""
MOST_DESCRIPTION: Final = 5_000
"""Most characters of a version's description: MLflow's limit with PostgreSQL."""
TABLES: Final = "mlflow.loggedArtifacts"
_NOT_OF_A_NAME: Final = re.compile(r"[^\w\-. :/]|\.\.|//+", re.ASCII)


def batches(
    metrics: Mapping[str, float], record: RunRecord, *, now_ms: int
) -> Iterator[dict[str, Any]]:
    """Requests of log-batch for all metrics and parameters, each with as many as it may have."""
    measured = [
        {"key": _name(name), "value": value, "timestamp": now_ms, "step": 0}
        for name, value in {**metrics, **record.metrics}.items()
    ]
    measured += [
        {"key": _name(name), "value": value, "timestamp": now_ms, "step": step}
        for step, found in enumerate(record.steps, start=1)
        for name, value in found.items()
    ]
    parameters = [{"key": _name(n), "value": _text(v)} for n, v in record.parameters.items()]
    for start in range(0, len(measured), MOST_METRICS):
        yield {"metrics": measured[start : start + MOST_METRICS]}
    for start in range(0, len(parameters), MOST_PARAMETERS):
        yield {"params": parameters[start : start + MOST_PARAMETERS]}


def run_tags(record: RunRecord, author: str) -> list[dict[str, str]]:
    """The record's tags, and tags that MLflow's own pages use."""
    tables = [
        {"path": name, "type": "table"} for name in record.artifacts if name.endswith(".json")
    ]
    tags = {
        **record.tags,
        "mlflow.user": author,
        "mlflow.source.name": "mlplatform",
        "mlflow.source.type": "JOB",
        "mlflow.note.content": description(record),
        TABLES: json.dumps(tables) if tables else "",
    }
    return [{"key": key, "value": value} for key, value in tags.items() if value]


def description(record: RunRecord) -> str:
    """The record's text, cut to the length that a version's description may have."""
    text = record.description
    return text if len(text) <= MOST_DESCRIPTION else f"{text[: MOST_DESCRIPTION - 1]}…"


def dataset_inputs(datasets: Sequence[RunDataset]) -> list[dict[str, Any]]:
    """The data sets for log-inputs. Their rows are nowhere that MLflow could read."""
    return [
        {
            "tags": [{"key": "mlflow.data.context", "value": one.context}],
            "dataset": {
                "name": one.name,
                "digest": one.digest[:DIGEST_CHARACTERS],
                "source_type": "code",
                "source": json.dumps({"tags": {"digest": one.digest}}),
                "schema": json.dumps({"mlflow_colspec": schema(one.columns)}),
                "profile": json.dumps(dict(one.facts)),
            },
        }
        for one in datasets
    ]


def _name(name: str) -> str:
    return _NOT_OF_A_NAME.sub("_", name)[:250]


def _text(value: Any) -> str:
    """The value as JSON, except texts: `true` and not `True`, `null` and not `None`."""
    return value if isinstance(value, str) else json.dumps(value)
