"""The bundles that something names, which no cache gives up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Protocol

from mlplatform.model.routes import Arm, Routes
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.rollouts.serving.local import read_manifest
from mlplatform.rollouts.serving.manifest import read
from mlplatform.runtime.errors import PlatformError

log = logging.getLogger(__name__)


class Journal(Protocol):
    """The calls of the journal of rollouts that are made here."""

    def close(self) -> None: ...

    def list_rollouts(self) -> list[tuple[str, str]]: ...

    def routes(self, model: str) -> Routes: ...

    def active(self) -> Iterable[RolloutState]: ...


def named_bundles(serving: Path, journal: Callable[[], Journal | None]) -> frozenset[str] | None:
    """Digests of the bundles that routes, rollouts and services of this home name; None if the
    journal does not answer.

    Args:
        serving: the folder `<home>/serving`.
        journal: opens the journal; None if there is none yet.
    """
    try:
        paths = (serving / "desired").glob("[!.]*.json")
        found = {read(read_manifest(path)).digest for path in paths}
        if (opened := journal()) is not None:
            with closing(opened):
                for model in {model for _, model in opened.list_rollouts()}:
                    routes = opened.routes(model)
                    found |= {*map(_digest, (*routes.arms, *routes.starting))}
                found |= {_digest(state.challenger) for state in opened.active()}
    except (PlatformError, OSError) as error:
        log.warning("no bundle is removed here, as it is not known which are needed: %s", error)
        return None
    return frozenset(found)


def _digest(arm: Arm) -> str:
    return arm.bundle
