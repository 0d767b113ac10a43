"""Artifacts that a flow run leaves in Prefect beside its report: tables of what happened, and links
to the pages on which it can be seen and answered.

Each artifact has a key, under which Prefect keeps those of earlier runs too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from mlplatform.learning.validation import report as gates
from mlplatform.learning.validation.report_entries import ValidationReport
from mlplatform.model.definition import dns_name
from mlplatform.runtime.configuration.settings import Settings


@dataclass(frozen=True, slots=True)
class Link:
    """A link from a flow run.

    Args:
        key: of lower-case letters, digits, dashes and a model's name. Prefect takes no `_` in it.
        about: one sentence on what is there.
    """

    key: str
    address: str
    title: str
    about: str


def version_links(settings: Settings, model: str, version: int) -> tuple[Link, ...]:
    """Where a version can be read about: its card on the platform's page, and MLflow."""
    card = f"{settings.page_url}/models/{_part(model)}/versions/{version}"
    mlflow = f"{settings.mlflow_url}/#/models/{_part(model)}/versions/{version}"
    named = f"version {version} of {model}"
    return (
        Link(f"card-{model}", card, f"{named} on the platform's page", "Its card and its gates."),
        Link(f"mlflow-{model}", mlflow, f"{named} in MLflow", "Its run, data and files."),
    )


def rollout_link(settings: Settings, model: str, rollout_id: str) -> Link:
    """Where a rollout can be followed, paused and answered."""
    address = f"{settings.page_url}/rollouts/{_part(rollout_id)}"
    title = f"rollout {rollout_id} on the platform's page"
    return Link(f"rollout-{model}", address, title, "Its ramp, its gates, and who may answer.")


def rollout_links(
    settings: Settings, model: str, version: int, rollout_id: str | None
) -> tuple[Link, ...]:
    """Where a version and its rollout can be seen.

    Args:
        rollout_id: None if no rollout was opened.
    """
    version_pages = version_links(settings, model, version)
    if rollout_id is None:
        return version_pages
    return (rollout_link(settings, model, rollout_id), *version_pages)


def incident_links(settings: Settings, model: str, incidents: Sequence[str]) -> tuple[Link, ...]:
    """Where the incidents of a drift check can be read; without one, where the model can be."""
    if not incidents:
        address = f"{settings.page_url}/models/{_part(model)}"
        title = f"{model} on the platform's page"
        return (Link(f"model-{model}", address, title, "Its inputs beside the training profile."),)
    return tuple(
        Link(
            f"incident-{number}-{model}",
            f"{settings.page_url}/incidents/{_part(incident)}",
            f"incident {incident} on the platform's page",
            "Its cause, and what was decided.",
        )
        for number, incident in enumerate(incidents, start=1)
    )


def keep_links(links: Iterable[Link]) -> None:
    """Keep links with the run that calls this."""
    for link in links:
        create_link_artifact(
            link.address, link_text=link.title, key=dns_name(link.key), description=link.about
        )


def keep_page(key: str, text: str, *, about: str) -> None:
    """Keep a text in Markdown with the run that calls this.

    Args:
        key: as in `Link`.
        about: one sentence on what it says.
    """
    create_markdown_artifact(text, key=dns_name(key), description=about)


def keep_table(
    key: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, about: str
) -> None:
    """Keep a table with the run that calls this; one without rows is left out.

    Args:
        about: one sentence on what its rows are.
    """
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    if table:
        create_table_artifact(table, key=dns_name(key), description=about)


def keep_gates(model: str, report: ValidationReport) -> None:
    """Keep a candidate's gates with the run that calls this, as a page and as a table."""
    about = "What the last candidate passed"
    keep_page(f"gates-{model}", gates.to_markdown(report), about=about)
    keep_table(f"gate-table-{model}", gates.GATE_COLUMNS, gates.gate_rows(report), about=about)


def _part(name: str) -> str:
    return quote(name, safe="")
