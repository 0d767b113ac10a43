"""The declarations by which a process serves: of each model folder the last that could be read.

Folders change while processes run: a team adds one, saves a file half-way, or swaps a volume's
links. A process looks at the states of their files, and reads them once they have stayed the same
from one look to the next, so that a file that is being written is left alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlplatform.model import folders
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features import views as feature_views
from mlplatform.model.features.purposes import DeclaredViews, RefusedView, refused_views
from mlplatform.model.features.views import FeatureView, load_views
from mlplatform.model.folders import (
    FileState,
    declared_views,
    load_definition,
    model_folder,
    model_names,
    refused_folders,
)
from mlplatform.runtime.errors import PlatformError

POLL_S: Final = 1.0
"""Seconds between two looks at the folders; a change counts after two looks that see the same."""
AGAIN_S: Final = 5.0
"""Seconds after which what could not be read is read again, although no file has changed: a disk,
a right or a folder above may have been in the way."""
FILES: Final = (folders.FILE, feature_views.FILE, feature_views.SOURCE)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Declaration:
    """The part of a model's folder that serving uses: its model.yaml and its feature views."""

    definition: ModelDefinition
    views: tuple[FeatureView, ...]


class Declarations:
    """The last good declaration of each model. For one thread.

    A folder that can't be read any more, or is gone, keeps its last good declaration: `problems`
    says why. Each problem is logged once.

    Args:
        model: the only model that is followed; None: all models.
        clock_s: returns seconds of a monotonic clock.
    """

    def __init__(
        self, model: str | None = None, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._model = model
        self._clock_s = clock_s
        self._seen: Mapping[Path, FileState] | None = None
        self._read: Mapping[Path, FileState] | None = None
        self._looked_s = self._read_s = float("-inf")
        self.present: Mapping[str, Declaration] = {}
        self.problems: Mapping[str, str] = {}
        self.gone: frozenset[str] = frozenset()
        """Models of `present` that have no folder any more."""
        self.refused: Sequence[str] = ()
        """The reasons why other folders are no models."""
        self._declared: Mapping[str, DeclaredViews] = {}
        self.refused_views: Sequence[RefusedView] = ()
        """Views that a folder, followed or not, does not let a followed model use as it would."""
        self.poll()

    def poll(self) -> bool:
        """Look at the folders if it is time to. Returns whether anything is another than before."""
        now_s = self._clock_s()
        if now_s - self._looked_s < POLL_S:
            return False
        self._looked_s = now_s
        before, self._seen = self._seen, folders.file_states(FILES)
        if before is not None and before != self._seen:
            return False  # somebody may be writing: the next look decides
        is_due = bool(self.problems) and now_s - self._read_s >= AGAIN_S
        if self._seen == self._read and not is_due:
            return False
        return self._take(self._seen, now_s)

    def _take(self, seen: Mapping[Path, FileState], now_s: float) -> bool:
        names = set(model_names()) if self._model is None else {self._model}
        present: dict[str, Declaration] = {}
        problems: dict[str, str] = {}
        for name in sorted(names.union(self.present)):
            try:
                present[name] = Declaration(load_definition(name), load_views(model_folder(name)))
            except (PlatformError, OSError) as error:
                problems[name] = str(error)
                if name in self.present:
                    present[name] = self.present[name]
        is_first = self._read is None
        if not is_first and folders.file_states(FILES) != seen:
            return False  # it changed while it was read
        self._read, self._read_s = seen, now_s
        gone = frozenset(self.present).difference(model_names())
        refused = refused_folders() if self._model is None else []
        for problem in refused:
            if problem not in self.refused:
                log.error("a folder can't be a model: %s", problem)
        kept = {name: self._declared[name] for name in gone if name in self._declared}
        declared = kept | declared_views(self._declared)
        withheld = tuple(one for one in refused_views([*declared.values()]) if one.model in names)
        for view in withheld:
            if view not in self.refused_views:
                log.error(
                    "a changed view is not used, and what serves by its former form goes on: %s",
                    view.error(),
                )
        before = self.present, self.problems, self.gone, self.refused_views
        self._tell(present, problems, is_first=is_first)
        self._declared, self.refused_views = declared, withheld
        self.present, self.problems, self.gone = present, problems, gone
        self.refused = refused
        return before != (present, problems, gone, withheld)

    def _tell(
        self,
        present: Mapping[str, Declaration],
        problems: Mapping[str, str],
        *,
        is_first: bool,
    ) -> None:
        for name, problem in problems.items():
            if problem == self.problems.get(name):
                continue
            if name in present:
                log.error("model %s keeps its last good declaration: %s", name, problem)
            else:
                log.error("model %s is not served: %s", name, problem)
        for name, declaration in present.items():
            if name in self.problems and name not in problems:
                log.info("model %s: its folder can be read again", name)
            elif declaration != self.present.get(name) and not is_first:
                log.info("model %s: its new or changed folder is read", name)
