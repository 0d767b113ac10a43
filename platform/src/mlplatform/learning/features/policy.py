"""The consequences of missing features: continue, continue degraded, or refuse.

There are three causes. `missing`: the view is up to date, and its newest snapshot has no row
of the entity. `stale`: the view's newest snapshot is older than its ttl, or the store knows of
none, so nobody knows what there would be. `unavailable`: the store did not answer. A feature that
is null in a valid row is known to be null and is none of these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from mlplatform.learning.features.online import OnlineRow
from mlplatform.model.features.views import FeatureSource, MissingPolicy, StalePolicy

Cause = Literal["missing", "stale", "unavailable"]
Policy = MissingPolicy | StalePolicy


class FeatureGaps(msgspec.Struct, frozen=True, omit_defaults=True):
    """Views without a valid row, by cause: `missing` is ordinary where the model's owner says so,
    `stale` and `unavailable` never are."""

    missing: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gaps:
    """Features without a value, each with its cause and its policy.

    Args:
        by_cause: cause → the views with missing features; None if no feature is missing.
        degraded: whether the answer must say that features were missing.
        withheld: whether no model may be asked, so that the fallback decides.
        refused: the missing features because of which the request gets no answer.
    """

    features: Mapping[str, tuple[Cause, Policy]]
    by_cause: FeatureGaps | None
    degraded: bool
    withheld: bool
    refused: tuple[str, ...]


NO_GAPS = Gaps({}, None, False, False, ())
NOTHING_KNOWN: Mapping[str, int | None] = {}


class FeaturePolicies:
    """The policies of the features that one model reads, looked up once per view and cause.

    Args:
        used: names of the features that the model's inputs read; other features cause no gap.
    """

    def __init__(self, views: Sequence[FeatureSource], used: Collection[str]) -> None:
        self._fields = {
            view.name: tuple((f.name, f.missing) for f in view.fields if f.name in used)
            for view in views
        }
        self.views = tuple(view for view in views if self._fields[view.name])
        self._names = tuple(view.name for view in self.views)
        self._known: dict[tuple[Cause | None, ...], Gaps] = {}

    def gaps(
        self, row: OnlineRow, event_ms: int = 0, newest: Mapping[str, int | None] = NOTHING_KNOWN
    ) -> Gaps:
        """The gaps in a row that the store returned.

        Args:
            event_ms: event time for which the row was read.
            newest: view → event time of its newest row; None where the store has none. For a view
                that is not in it, the cause is `stale` if the store has only a row that is too old.
        """
        times = row.times
        for view in self._names:
            if times[view] is None:
                break
        else:
            return NO_GAPS
        causes = [_cause(view, row, event_ms, newest) for view in self.views]
        return self._gaps(tuple(causes))

    def unavailable(self) -> Gaps:
        """The gaps if the store did not answer: every feature."""
        causes: tuple[Cause | None, ...] = ("unavailable",)
        return self._gaps(causes * len(self.views))

    def ages(self, event_ms: int, newest: Mapping[str, int | None]) -> Mapping[str, float]:
        """View → age of its newest row over its ttl, of those with a known one; at least 0."""
        return {
            view.name: max(event_ms - at_ms, 0) / view.ttl_ms
            for view in self.views
            if (at_ms := newest.get(view.name)) is not None
        }

    def stale_at(self, event_ms: int, newest: Mapping[str, int | None]) -> tuple[str, ...]:
        """The views whose newest snapshot is too old at that time, where one is known."""
        return tuple(name for name, age in self.ages(event_ms, newest).items() if age > 1)

    def _gaps(self, causes: tuple[Cause | None, ...]) -> Gaps:
        found = self._known.get(causes)  # at most 4 to the power of the number of views
        if found is None:
            found = self._known[causes] = self._gaps_of(causes)
        return found

    def _gaps_of(self, causes: tuple[Cause | None, ...]) -> Gaps:
        features: dict[str, tuple[Cause, Policy]] = {}
        views: dict[str, list[str]] = {}
        for view, cause in zip(self.views, causes, strict=True):
            if cause is None:
                continue
            views.setdefault(cause, []).append(view.name)
            for name, missing in self._fields[view.name]:
                features[name] = cause, missing if cause == "missing" else view.stale
        policies = [policy for _, policy in features.values()]
        return Gaps(
            features,
            FeatureGaps(**{cause: tuple(names) for cause, names in views.items()}),
            degraded="degrade" in policies or "fallback" in policies,
            withheld="fallback" in policies,
            refused=tuple(name for name, (_, policy) in features.items() if policy == "refuse"),
        )


def _cause(
    view: FeatureSource, row: OnlineRow, event_ms: int, newest: Mapping[str, int | None]
) -> Cause | None:
    if row.times[view.name] is not None:
        return None
    if view.name not in newest:
        return "stale" if view.name in row.stale else "missing"
    newest_ms = newest[view.name]
    return "stale" if newest_ms is None or newest_ms < event_ms - view.ttl_ms else "missing"
