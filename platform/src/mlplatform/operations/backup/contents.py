"""The contents of a restored backup, summarised for a person."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import dataclass

from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.scoring import wiring as scoring_wiring


@dataclass(frozen=True, slots=True)
class Contents:
    """Counts of what a restored home folder holds.

    Args:
        champions: model → version that answers; None if there is none.
        rollouts: phase → number of rollouts.
        keys: number of live API keys.
    """

    champions: Mapping[str, int | None]
    rollouts: Mapping[str, int]
    keys: int
    bundles: int


def contents_of(settings: Settings, now_ms: int) -> Contents:
    """The contents of a home folder and of its servers.

    Args:
        now_ms: wall time at which keys count as live.
    """
    champions: dict[str, int | None] = {}
    phases: collections.Counter[str] = collections.Counter()
    platform = Platform(settings)
    if scoring_wiring.has_rollouts(settings):
        rollouts = platform.rollouts
        for state in rollouts.active(finished=True):
            phases[state.phase] += 1
            champion = rollouts.routes(state.model).champion
            champions[state.model] = champion.version if champion else None
        rollouts.close()
    bundles = settings.home.bundles
    folders = bundles.glob("[!.]*") if bundles.is_dir() else ()
    count = sum(ServiceName.parse(folder.name) is None for folder in folders)  # others are Triton's
    return Contents(champions, dict(phases), _live_keys(platform, now_ms), count)


def _live_keys(platform: Platform, now_ms: int) -> int:
    settings = platform.settings
    if settings.postgres is None and not settings.home.admission_db.exists():
        return 0
    store = platform.keys
    live = sum(key.is_live(now_ms) for key in store.all_keys())
    store.close()
    return live
