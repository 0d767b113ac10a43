"""What it means that features are not there: carry on, carry on degraded, or refuse.

A policy asks why a feature is not there: `missing` (its entity has no row), `stale` (the row is
older than the view's ttl), `unavailable` (the store did not answer). A feature that is null in a
valid row is known to be null and is none of these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlplatform.features.definitions import FeatureView, MissingPolicy
from mlplatform.features.online import OnlineRow

Cause = Literal["missing", "stale", "unavailable"]


@dataclass(frozen=True, slots=True)
class Gaps:
    """Features that are not there, each with its cause and its policy.

    Args:
        degraded: whether the answer must say that it was given without them.
        refused: the features without which there is no answer.
    """

    features: Mapping[str, tuple[Cause, MissingPolicy]]
    degraded: bool
    refused: tuple[str, ...]


NO_GAPS = Gaps({}, False, ())


class FeaturePolicies:
    """The policies of the features that one model reads, looked up once per view and cause.

    Args:
        used: the features that the model's inputs read; others are nobody's gap.
    """

    def __init__(self, views: Sequence[FeatureView], used: Collection[str]) -> None:
        self._fields = {
            view.name: tuple((f.name, f.missing) for f in view.fields if f.name in used)
            for view in views
        }
        self._views = tuple(name for name, fields in self._fields.items() if fields)
        self._known: dict[tuple[Cause | None, ...], Gaps] = {}

    def gaps(self, row: OnlineRow) -> Gaps:
        """What is not there in a row that the store gave."""
        times = row.times
        for view in self._views:
            if times[view] is None:
                break
        else:
            return NO_GAPS
        causes: tuple[Cause | None, ...] = tuple([_cause(view, row) for view in self._views])
        return self._gaps(causes)

    def unavailable(self) -> Gaps:
        """Everything, because the store did not answer: that always degrades."""
        causes: tuple[Cause | None, ...] = ("unavailable",)
        return self._gaps(causes * len(self._views))

    def _gaps(self, causes: tuple[Cause | None, ...]) -> Gaps:
        found = self._known.get(causes)  # at most 4 to the power of the views there are
        if found is None:
            found = self._known[causes] = self._made(causes)
        return found

    def _made(self, causes: tuple[Cause | None, ...]) -> Gaps:
        features = {
            name: (cause, policy)
            for view, cause in zip(self._views, causes, strict=True)
            if cause is not None
            for name, policy in self._fields[view]
        }
        pairs = features.values()
        return Gaps(
            features,
            degraded=any(c == "unavailable" or policy == "degrade" for c, policy in pairs),
            refused=tuple(name for name, (_, policy) in features.items() if policy == "refuse"),
        )


def _cause(view: str, row: OnlineRow) -> Cause | None:
    if row.times[view] is not None:
        return None
    return "stale" if view in row.stale else "missing"
