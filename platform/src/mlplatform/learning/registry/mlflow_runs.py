"""A run's record in the form of MLflow's REST API.

Source: MLflow REST API 2.0: runs/log-batch, runs/log-inputs; `mlflow.utils.mlflow_tags`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from mlplatform.learning.registry.mlmodel import schema
from mlplatform.learning.registry.run_record import RunDataset, RunRecord

MOST_METRICS: Final = 500
MOST_PARAMETERS: Final = 100
"""Most parameters of one request. MLflow accepts 100 parameters, and 1000 metrics."""
DIGEST_CHARACTERS: Final = 36
"""Number of characters that MLflow keeps of a data set's digest."""
MOST_DESCRIPTION: Final = 5_000
"""Most characters of a version's description: MLflow's limit with PostgreSQL."""
_LITERAL: Final = {"@": "@", "&": "&amp;", "<": "&lt;", "~": "&#126;"}
"""Characters whose escape in Markdown MLflow's pages show with its backslash."""
TABLES: Final = "mlflow.loggedArtifacts"
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_NOT_OF_A_NAME: Final = re.compile(r"[^\w\-. :/]|\.\.|//+", re.ASCII)


@dataclass(frozen=True, slots=True)
class VersionLinks:
    """Links from a version in MLflow to the rest of the platform.

    Args:
        page_url: address of the platform's page, with its scheme; empty if there is none.
    """

    model: str
    version: int
    page_url: str = ""

    def lines(self) -> list[str]:
        """Paragraphs of Markdown."""
        name = f"{self.model}/{self.version}"
        command = f"`mlplatform models card {self.model} {self.version}`"
        about = f"Model card: {command}. Rollouts: `mlplatform rollouts list {self.model}`."
        if self.page_url:
            where = f"{self.page_url}/models/{quote(self.model)}"
            card = f"[on the platform's page]({where}/versions/{self.version})"
            of_model = f"[on the page of {self.model}]({where})"
            about = f"Model card: {card}, or {command}. Rollouts: {of_model}."
        return [
            about,
            "",
            f'Load it by `mlflow.pyfunc.load_model("models:/{name}")`; what serves is'
            f" `models:/{self.model}@champion`.",
            "",
        ]


def batches(
    metrics: Mapping[str, float], record: RunRecord, *, now_ms: int
) -> Iterator[dict[str, Any]]:
    """Requests of log-batch for all metrics and parameters, each with as many as it may have.

    The record's metrics come first: MLflow's comparison begins with the first one.
    """
    measured = [
        {"key": _name(name), "value": value, "timestamp": now_ms, "step": 0}
        for name, value in {**record.metrics, **metrics}.items()
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


def observed(metrics: Mapping[str, float], gates: Iterable[str]) -> dict[str, float]:
    """The numbers of a version's facts by the names that MLflow shows: those of gates under
    `gates/`, measures under `measures/`."""
    of_gates = set(gates)
    return {
        f"{'gates' if name in of_gates else 'measures'}/{name}": value
        for name, value in metrics.items()
    }


def description(record: RunRecord, links: VersionLinks | None = None) -> str:
    """The record's text as MLflow shows it, cut to the length that a version's description may
    have. Links come after its first paragraph, so that they are never cut."""
    text = _ESCAPED.sub(lambda found: _LITERAL.get(found[1], found[0]), record.description)
    if links is not None:
        purpose, _, report = text.partition("\n\n")
        text = "\n".join([purpose, "", *links.lines(), report]).strip()
    return text if len(text) <= MOST_DESCRIPTION else f"{text[: MOST_DESCRIPTION - 1]}…"


def purpose(record: RunRecord) -> str:
    """The first paragraph of a record's text: what the model is for, and whose it is."""
    return description(record).partition("\n\n")[0]


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
