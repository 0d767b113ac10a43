"""The verdict on each feature, from a sample of comparisons: equal, skewed, or unknown.

Decisions are drawn by chance, so the share of a feature's wrong values lies within bounds, however
the values depend on each other. A feature is called skewed if the low bound is above what is
tolerated, and equal if the high one is within it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Literal

import msgspec

from mlplatform.learning.features.pushes.gaps import StreamLoss
from mlplatform.learning.skew.cells import Cell, Note, Outcome
from mlplatform.runtime.intervals import exact_share
from mlplatform.runtime.times import duration_text, utc_minute_text
from mlplatform.runtime.units import SECOND_MS

ERROR_SHARE: Final = 0.001
"""Chance that a pass calls any feature skewed whose skew is within what is tolerated."""
SHOWN: Final = 3
"""Number of examples of a feature that are shown."""
MOSTLY: Final = 0.5
"""Least share of the wrong values that a cause must explain to be named."""
ALIKE: Final = 0.02
"""Relative difference up to which two factors, or two steps, count as one."""
Verdict = Literal["equal", "skewed", "not known"]


class Example(msgspec.Struct, frozen=True):
    """One wrong value.

    Args:
        position: per writer, the number of the last log record that the value includes, as was
            stated when it was served.
    """

    decision_id: str
    event_ms: int
    outcome: Outcome
    served: float | None
    expected: float | None
    position: Mapping[str, int] | None = None


class FeatureSkew(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one feature.

    Args:
        low, high: ends of the interval of the share (0-1) of unequal values among all decisions of
            the window. The low end leaves out values that requests without a payload may explain.
        cause: the likely cause in a sentence; None if no value is wrong.
    """

    name: str
    verdict: Verdict
    sampled: int
    equal: int
    late: int
    missing: int
    different: int
    low: float
    high: float
    cause: str | None = None
    examples: tuple[Example, ...] = ()


class SkewReport(msgspec.Struct, frozen=True, kw_only=True):
    """The findings of a pass.

    Args:
        from_ms, to_ms: event times of the sample's first and last decision; None if the sample is
            empty.
        population: number of decisions from which the sample was drawn.
        unreadable: number of records whose payload was erased, or does not fit the model's
            declaration.
        share: the tolerated share (0-1) of a feature's values that are not equal.
        lost: values that topics dropped; neither decisions nor training have them.
    """

    model: str
    from_ms: int | None
    to_ms: int | None
    population: int
    sampled: int
    unreadable: int
    share: float
    features: tuple[FeatureSkew, ...]
    lost: tuple[StreamLoss, ...] = ()

    @property
    def skewed(self) -> tuple[FeatureSkew, ...]:
        return tuple(f for f in self.features if f.verdict == "skewed")

    @property
    def is_known(self) -> bool:
        """Whether there is a verdict on every feature."""
        return bool(self.features) and all(f.verdict != "not known" for f in self.features)

    @property
    def summary(self) -> str:
        """The whole of it in a sentence."""
        return "; ".join((self._judgement, *(one.summary for one in self.lost)))

    @property
    def _judgement(self) -> str:
        if self.skewed:
            causes = "; ".join(f"{f.name}: {f.cause}" for f in self.skewed)
            return f"{len(self.skewed)} of {len(self.features)} features are skewed: {causes}"
        if self.is_known:
            return f"all {len(self.features)} features are what they should be"
        open_ = sum(f.verdict == "not known" for f in self.features)
        return f"{open_} features could not be judged from {self.sampled:,} sampled decisions"


@dataclass(slots=True)
class _FeatureOutcomes:
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    wrong: list[Cell] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class UncountableRequests:
    """Requests that were served and cannot be counted again, because they are erased or not as
    declared.

    Args:
        requests: number of such requests. Each belongs to one key of the entity, and nobody knows
            which.
        key_of: returns the key whose requests the feature of a cell counts.
    """

    requests: int
    key_of: Callable[[Cell], Hashable]

    def unexplained(self, wrong: Sequence[Cell]) -> list[Cell]:
        """The wrong cells of a feature that remain unexplained, whichever keys the requests were
        of."""
        counts = Counter(map(self.key_of, wrong))
        worst = {key for key, _ in counts.most_common(self.requests)}
        return [cell for cell in wrong if self.key_of(cell) not in worst]


def judge(
    cells: Iterable[Cell],
    features: Sequence[str],
    share: float,
    lost: UncountableRequests | None = None,
) -> tuple[FeatureSkew, ...]:
    """The verdict on every feature, in the order of `features`.

    Args:
        cells: the comparisons; only those that are not equal are kept in memory.
        share: the tolerated share (0-1) of a feature's values that are not equal.
        lost: requests that can't be counted again and may explain wrong values; None: there are
            none.
    """
    counted = {name: _FeatureOutcomes() for name in features}
    for cell in cells:
        found = counted[cell.feature]
        found.outcomes[cell.outcome] += 1
        if cell.outcome != "equal":
            found.wrong.append(cell)
    error_share = ERROR_SHARE / max(len(features), 1)
    return tuple(
        _feature_verdict(name, counted[name], share, error_share, lost) for name in features
    )


def _feature_verdict(
    name: str,
    counted: _FeatureOutcomes,
    share: float,
    error_share: float,
    lost: UncountableRequests | None,
) -> FeatureSkew:
    n, wrong = counted.outcomes.total(), counted.wrong
    _, high = exact_share(len(wrong), n - len(wrong), error_share)
    certain = wrong if lost is None else lost.unexplained(wrong)
    low, _ = exact_share(len(certain), n - len(certain), error_share)
    verdict: Verdict = "skewed" if low > share else "equal" if high <= share else "not known"
    return FeatureSkew(
        name=name,
        verdict=verdict,
        sampled=n,
        equal=counted.outcomes["equal"],
        late=counted.outcomes["late"],
        missing=counted.outcomes["missing"],
        different=counted.outcomes["different"],
        low=low,
        high=high,
        cause=cause(certain) if certain else _GONE if wrong else None,
        examples=tuple(_example(cell) for cell in (certain or wrong)[:SHOWN]),
    )


def _example(cell: Cell) -> Example:
    return Example(
        cell.decision_id, cell.event_ms, cell.outcome, cell.served, cell.expected, cell.position
    )


_GONE: Final = "requests without their payload were counted, and may explain the difference"
_NOTES: Final[Mapping[Note, str]] = {
    "unserved": "definition changed: records do not hold the feature",
    "stale": "defaults served: the state was not there, or too far behind",
    "unavailable": "defaults served: the store did not answer",
    "missing": "defaults served: the store had no row of the entity",
    "empty": "defaults served: the state knew nothing of entities that had requests",
    "store": "the online store holds other values than the snapshot that it was filled from",
    "snapshot": "the snapshot holds other values than the records give",
    "redefined": "definition changed: the snapshot was made with the former definition",
    "table": "the online store held other values than the imported table",
}


def cause(wrong: Sequence[Cell]) -> str:
    """The likely cause of a feature's wrong values, in a sentence.

    Args:
        wrong: the feature's cells that are not equal; at least one.
    """
    ((outcome, count),) = Counter(cell.outcome for cell in wrong).most_common(1)
    those = [cell for cell in wrong if cell.outcome == outcome]
    share = "" if count == len(wrong) else f" ({count} of {len(wrong)})"
    if outcome == "late":
        return _why_late(those) + share
    notes = Counter(cell.note for cell in those)
    ((note, noted),) = notes.most_common(1)
    if note is not None and noted > MOSTLY * count:
        return _NOTES[note] + (share or _of(noted, count))
    if outcome == "missing":
        return "defaults served, though there was a value" + share
    how, explained = _how_different(those)
    return how + _of(explained, len(wrong))


def _of(noted: int, count: int) -> str:
    return "" if noted == count else f" ({noted} of {count})"


def _why_late(late: Sequence[Cell]) -> str:
    """Why values are late. A feed that stopped leaves out everything after one moment, and nothing
    before it."""
    holds = [cell.holds for cell in late if cell.holds is not None]
    untils = [h.until_ms for h in holds if h.until_ms is not None]
    withouts = [h.without_ms for h in holds if h.without_ms is not None]
    lates = [h.late_ms for h in holds if h.late_ms is not None]
    if not withouts:
        return "late events: records from before the snapshot arrived after it was made"
    if untils and max(untils) <= min(withouts) and len(late) > 1:
        return f"frozen feed since {utc_minute_text(max(untils))}: nothing newer was read"
    return f"late by {duration_text(median(lates) / SECOND_MS)}" if lates else "late"


def _how_different(those: Sequence[Cell]) -> tuple[str, int]:
    """How values differ, by what most of them have in common; and how many it explains."""
    pairs = [(c.served, c.expected) for c in those if c.served is not None]
    known = [(served, wanted) for served, wanted in pairs if wanted is not None]
    factor, multiplied = _most_alike([served / wanted for served, wanted in known if wanted])
    step, shifted = _most_alike([served - wanted for served, wanted in known])
    found = [
        (
            "computed otherwise than declared: values where there should be none",
            len(pairs) - len(known),
        ),
        (f"computed otherwise than declared: {factor:.3g} times what it should be", multiplied),
        (f"computed otherwise than declared: off by {step:+.3g}", shifted),
    ]
    how, explained = max(found, key=lambda one: one[1])
    if explained > MOSTLY * len(those):
        return how, explained
    return "computed otherwise than declared, or from other records", len(those)


def _most_alike(values: Sequence[float]) -> tuple[float, int]:
    """The middle of the values, and how many count as one with it."""
    if not values:
        return 0.0, 0
    middle = median(values)
    return middle, sum(math.isclose(v, middle, rel_tol=ALIKE) for v in values)
