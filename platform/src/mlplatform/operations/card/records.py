"""Records about a version, read through the platform's ports; the decision log is not read."""

from __future__ import annotations

from typing import Final

from mlplatform.learning.registry.versions import Version
from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.folders import folder_digest, model_folder
from mlplatform.model.routes import Arm, Routes, no_routes
from mlplatform.operations.actions import tenures
from mlplatform.operations.actions.interim_analyses import InterimAnalysis, step_histories
from mlplatform.operations.card.assembly import VersionRecords, card
from mlplatform.operations.card.card import Card
from mlplatform.operations.card.rollouts import Journal
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.drift.incidents import Incident
from mlplatform.runtime.errors import NotFound
from mlplatform.scoring import wiring as scoring_wiring

GREATEST_VERSION: Final = 1_000_000_000
"""The greatest version that is looked up: the registry counts from 1, and a larger number is a
mistake."""


def read_card(platform: Platform, model: str, version: int, *, fetches: bool) -> Card:
    """The card of a version of this installation, as of now.

    Args:
        fetches: whether a bundle that is not on this machine is fetched from the registry, and
            stored.

    Raises:
        NotFound: there is no such model or version.
        Unavailable: the registry or the journal does not answer.
        Corrupt: the bundle, the report, an interim analysis or a result of a drift check is
            damaged.
    """
    return card(version_records(platform, model, version, fetches=fetches))


def version_records(
    platform: Platform, model: str, version: int, *, fetches: bool
) -> VersionRecords:
    """The records about a version; arguments and errors are those of `read_card`."""
    if not 0 < version <= GREATEST_VERSION:
        raise NotFound(f"{model} has no version {version}")
    folder = model_folder(model)
    definition, found = platform.definition(model), platform.registry.get(model, version)
    routes, journals, incidents = _journal(platform, model, version)
    return VersionRecords(
        definition=definition,
        folder=folder_digest(folder),
        views=platform.views(model),
        version=found,
        bundle=_bundle(platform, found, fetches=fetches),
        routes=routes,
        journals=journals,
        analyses=_analyses(platform, model, journals),
        incidents=incidents,
        tenure=tenures.last(platform.settings.home.measured, model, version),
    )


def _journal(
    platform: Platform, model: str, version: int
) -> tuple[Routes, tuple[Journal, ...], tuple[Incident, ...]]:
    """The routes, journals and incidents of a version; empty if there is no journal yet, and none
    is created."""
    if not scoring_wiring.has_rollouts(platform.settings):
        return no_routes(model), (), ()
    rollouts = platform.rollouts
    journals = rollouts.of_version(model, version)
    return rollouts.routes(model), journals, tuple(platform.incidents.list(model))


def _analyses(
    platform: Platform, model: str, journals: tuple[Journal, ...]
) -> dict[str, InterimAnalysis]:
    folder, newest = platform.settings.home.interim_analyses, {}
    for rollout_id in (facts[0].rollout_id for facts in journals if facts):
        histories = step_histories(folder, model, rollout_id)
        found = [analysis for history in histories for analysis in history.analyses]
        if found:
            newest[rollout_id] = max(found, key=lambda analysis: analysis.event_ms)
    return newest


def _bundle(platform: Platform, version: Version, *, fetches: bool) -> Bundle | None:
    folder = platform.settings.home.bundles / version.digest
    if not folder.is_dir():
        if not fetches:
            return None
        folder = platform.bundle(version.model, Arm(version.version, version.digest, ""))
    return load_bundle(folder, version.digest)
