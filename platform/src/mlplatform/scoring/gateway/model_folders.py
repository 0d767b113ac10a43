"""The models that one gateway answers for, as their folders are declared while it runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

from mlplatform.model.declarations import AGAIN_S, Declaration, Declarations
from mlplatform.runtime.errors import PlatformError
from mlplatform.scoring.arms.live import LINGER_S, LiveModel, Target
from mlplatform.scoring.request.scoring import Scoring

SWAP_S: Final = 30.0
"""Longest wait in seconds for the event loop to take over new models."""

Build = Callable[[Declaration, Scoring | None], Scoring]
Publish = Callable[[Mapping[str, Scoring]], Callable[[], None]]

log = logging.getLogger(__name__)


class ServedModels(Mapping[str, Scoring]):
    """The models that a gateway has now. They are replaced as a whole, on the event loop, so that
    code without an `await` sees one state of them."""

    def __init__(self) -> None:
        self.present: Mapping[str, Scoring] = {}

    def __getitem__(self, name: str) -> Scoring:
        return self.present[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.present)

    def __len__(self) -> int:
        return len(self.present)

    def lives(self) -> list[LiveModel]:
        """The routes and arms of each model."""
        return [scoring.live for scoring in self.present.values()]

    def generation(self, model: str) -> int | None:
        """The generation of routes that a model has now; None if it is not served any more."""
        found = self.present.get(model)
        return None if found is None else found.live.current.routes.generation


class ModelFolders:
    """Takes up new, changed and removed folders without a pause of what is served.

    A request keeps the declaration that it began with; the next one has the new one. A folder that
    can't be read or used leaves the model as it is. A model whose folder is gone goes on as long as
    it has a champion: a person takes a model out of service, not a volume that is not mounted.

    `poll` belongs to one thread, `start` and `stop` to the event loop.

    Args:
        build: makes what answers for a model, as the successor of what did so before. Raises
            PlatformError if the declaration can't be used.
        publish: prepares what depends on all models together, and returns what puts it into place
            at once, on the event loop.
    """

    def __init__(
        self, declarations: Declarations, models: ServedModels, build: Build, publish: Publish
    ) -> None:
        self._declarations = declarations
        self._models = models
        self._build, self._publish = build, publish
        self._loop: asyncio.AbstractEventLoop | None = None
        self._served: Mapping[str, Declaration] = {}
        self._refused: Mapping[str, str] = {}
        self._is_pending = False
        self._built_s = 0.0
        self.problems: Mapping[str, str] = {}
        """Model → why its folder, as it is now, is not what is served, or gets no new values."""
        found, self._served = self._build_models()
        publish(found)()
        models.present = found

    async def start(self) -> None:
        """Begin to take up changes. Every model knows its newest features on return."""
        self._loop = asyncio.get_running_loop()
        await asyncio.gather(*(one.freshness.start() for one in self._models.values()))

    async def stop(self) -> None:
        await asyncio.gather(*(one.freshness.stop() for one in self._models.values()))

    def complaints(self) -> list[str]:
        """A sentence for each folder that is not what is served."""
        own = [f"folder of {name}: {why}" for name, why in sorted(self.problems.items())]
        return [*own, *self._declarations.refused]

    def poll(self) -> None:
        """Take up what has changed, if it is time to look. What a store that is away prevents is
        tried again."""
        is_open = bool(self._refused) or self._is_pending
        is_due = is_open and time.monotonic() - self._built_s >= AGAIN_S
        if not self._declarations.poll() and not is_due:
            return
        found, served = self._build_models()
        if found == self._models.present:
            return
        self._is_pending = True
        try:
            apply = self._publish(found)
        except PlatformError as error:
            log.warning("changed folders of models are not taken up yet: %s", error)
            return
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._swap(found, apply), self._loop).result(SWAP_S)
        self._served, self._is_pending = served, False

    def _build_models(self) -> tuple[Mapping[str, Scoring], Mapping[str, Declaration]]:
        """The models to serve, and the declaration of each."""
        declarations, former = self._declarations, self._models.present
        found: dict[str, Scoring] = {}
        served: dict[str, Declaration] = {}
        refused: dict[str, str] = {}
        self._built_s = time.monotonic()
        for name, declaration in declarations.present.items():
            present = former.get(name)
            if name in declarations.gone and not _has_champion(present):
                continue
            if present is not None:
                found[name], served[name] = present, self._served[name]
                if served[name] == declaration:
                    continue
            try:
                found[name], served[name] = self._build(declaration, present), declaration
            except PlatformError as error:
                refused[name] = str(error)
                if self._refused.get(name) != refused[name]:
                    log.error("model %s: its folder can't be used: %s", name, error)
        left = declarations.gone.difference(found)
        known = {n: why for n, why in declarations.problems.items() if n not in left}
        withheld = {
            view.model: str(view.error())
            for view in declarations.refused_views
            if view.model in found
        }
        self._refused, self.problems = refused, {**withheld, **known, **refused}
        return found, served

    async def _swap(self, found: Mapping[str, Scoring], apply: Callable[[], None]) -> None:
        former = self._models.present
        entered = [name for name, one in found.items() if former.get(name) is not one]
        left = {name: one for name, one in former.items() if found.get(name) is not one}
        await asyncio.gather(*(found[name].freshness.start() for name in entered))
        apply()
        self._models.present = found
        log.info(
            "models by their folders: %s", _change_words(entered, [*left.keys() - found.keys()])
        )
        await asyncio.gather(*(one.freshness.stop() for one in left.values()))
        assert self._loop is not None
        for name, one in left.items():
            successor = found.get(name)
            targets = {} if successor is None else successor.live.current.targets
            self._loop.call_later(LINGER_S, _close, one, successor, targets)


def _has_champion(scoring: Scoring | None) -> bool:
    return scoring is not None and scoring.live.current.champion is not None


def _change_words(entered: Collection[str], gone: Collection[str]) -> str:
    parts = [("taken up", entered), ("no longer served", gone)]
    return "; ".join(f"{what} {', '.join(sorted(names))}" for what, names in parts if names)


def _close(former: Scoring, successor: Scoring | None, targets: Mapping[str, Target]) -> None:
    """Close what a successor did not take over, once no request uses it.

    Args:
        targets: the arms that the successor began with.
    """
    if successor is None or successor.features is not former.features:
        former.features.close()
    for service, target in former.live.current.targets.items():
        target.close_without(targets.get(service))
