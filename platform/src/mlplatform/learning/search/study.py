"""The trials of one search on disk, so that a killed search continues."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeVar

import msgspec

from mlplatform.learning.validation.search_report import Trial
from mlplatform.model.policies.search import SearchPolicy, is_within
from mlplatform.runtime.canonical import NOT_JSON, canonical_json
from mlplatform.runtime.storage.files import write_atomically

MOST_BYTES: Final = 4_000_000
STARTED: Final = "started.json"
SPENT: Final = "budget-spent"
Kind = TypeVar("Kind")


class _TrialStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The trial that was started last, and how often."""

    number: int
    times: int


class Study:
    """One file for each trial that has ended, in a folder of the search's own.

    Args:
        folder: a folder whose name is a digest of everything on which the trials depend.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def trials(self, policy: SearchPolicy) -> list[Trial]:
        """The trials that have ended, by number, up to the first that is missing or invalid."""
        found: list[Trial] = []
        while len(found) < policy.trials:
            trial = _read(self._file(len(found)), Trial)
            if trial is None or trial.number != len(found):
                break
            if not is_within(policy.space, trial.parameters):
                break
            found.append(trial)
        return found

    def begin(self, number: int) -> int:
        """Note the start of a trial. Returns how often it has started, this time included; more
        than once if its process ended in it."""
        before = _read(self._folder / STARTED, _TrialStart)
        times = before.times + 1 if before is not None and before.number == number else 1
        write_atomically(self._folder / STARTED, msgspec.json.encode(_TrialStart(number, times)))
        return times

    def keep(self, trial: Trial) -> None:
        """Store a trial that has ended."""
        write_atomically(self._file(trial.number), canonical_json(msgspec.to_builtins(trial)))

    def note_spent(self) -> None:
        """Note that the budget ended within a trial, which is not stored."""
        write_atomically(self._folder / SPENT, b"")

    def is_spent(self) -> bool:
        return (self._folder / SPENT).exists()

    def forget(self) -> None:
        """Forget all trials, so that the next search starts anew."""
        marks = (self._folder / STARTED, self._folder / SPENT)
        for file in (*self._folder.glob("trial-*.json"), *marks):
            file.unlink(missing_ok=True)

    def _file(self, number: int) -> Path:
        return self._folder / f"trial-{number:04d}.json"


def _read(path: Path, kind: type[Kind]) -> Kind | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MOST_BYTES), type=kind)
    except (FileNotFoundError, NotADirectoryError, *NOT_JSON):
        return None
