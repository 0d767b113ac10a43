"""Pages of logged requests, decided by two bundles, and put together for a what-if."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mlplatform.decisions.records.draws import logged_draws
from mlplatform.decisions.records.logged_inputs import LoggedInputs
from mlplatform.learning.onnx.onnx_file import ScoringSession
from mlplatform.learning.training_sets.dataset import share_of_units
from mlplatform.learning.validation.class_measures import in_order_of
from mlplatform.learning.validation.replay_result import ReplayResult
from mlplatform.model.bundle import Bundle
from mlplatform.model.definition import ClassesDefinition, ModelDefinition, RealDefinition
from mlplatform.model.features.views import FeatureView
from mlplatform.model.inputs import recorded_plan
from mlplatform.model.tensors.categories import indices
from mlplatform.operations.whatif.logged_requests import LoggedRequests
from mlplatform.rollouts.whatif.requests import (
    ClassLabels,
    Codes,
    Flags,
    Floats,
    InputBands,
    Integers,
    Labels,
    NumberLabels,
    OutcomeLabels,
    Requests,
    word_bands,
)
from mlplatform.runtime.errors import InputInvalid

TIMED_CALLS: Final = 300
MOST_MEASURED: Final = 100_000
"""Labelled requests of classes, of which all probabilities are kept; about, as customers are taken
whole."""


class Speed(msgspec.Struct, frozen=True):
    """How fast one bundle is on this machine: one request at a time, and many at once."""

    p50_ms: float
    p99_ms: float
    rows_per_s: float


class BundleRun:
    """One bundle on page after page."""

    def __init__(
        self,
        bundle: Bundle,
        model: ScoringSession,
        definition: ModelDefinition,
        views: Sequence[FeatureView],
    ) -> None:
        self.bundle, self._model = bundle, model
        self._plan = recorded_plan(definition, views, bundle)
        self._inputs = LoggedInputs(self._plan)
        self._rows_with = np.zeros(len(self._plan.features), dtype=np.int64)
        self._watched = definition.drift.inputs
        self._first: npt.NDArray[np.float32] | None = None
        self._last: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._rows, self._took_s = 0, 0.0

    def decide(self, rows: pa.Table) -> ReplayResult:
        """The bundle's scores and decisions of them; for classes with all probabilities."""
        logged = self._inputs.read(rows)
        facts, self._last = logged.facts, logged.matrix
        there = [facts.num_rows - facts[name].null_count for name in self._plan.features]
        self._rows_with += np.array(there, dtype=np.int64)  # a model may read no feature at all
        if self._first is None:
            self._first = self._last[:TIMED_CALLS]
        began_s = time.perf_counter()
        raw = self._model.scores(self._last)
        self._took_s += time.perf_counter() - began_s
        self._rows += len(self._last)
        scores = self.bundle.calibrate_many(raw)
        places = self.bundle.decide_many(scores, self._last)
        return ReplayResult(self.bundle.scale, scores, places)

    def bands(self) -> dict[str, Integers]:
        """Where the requests that were decided last lie, by watched input: the band of a number, -1
        where it is missing, or the place of a word (`model.tensors.categories.indices`)."""
        found, names = {}, self._plan.names
        for name in self._watched:
            column = self.bundle.profile.inputs.get(name)
            if column is None or name not in names:
                continue
            values = self._last[:, names.index(name)]
            if (words := self.bundle.vocabularies.get(name)) is not None:
                found[name] = indices(values, len(words))
            elif not column.is_category:
                codes = np.searchsorted(column.edges, values).astype(np.int64)
                found[name] = np.where(np.isfinite(values), codes, -1)
        return found

    def check_features(self) -> None:
        """Raises where a feature was read for no request.

        Raises:
            InputInvalid: there are such features; the message names them.
        """
        never = [
            n for n, count in zip(self._plan.features, self._rows_with, strict=True) if not count
        ]
        if never:
            raise InputInvalid(
                "decision log", None,
                f"{', '.join(never)} was never read when these requests were served: train and "
                "validate the version on history instead (mlplatform retrain)",
            )  # fmt: skip

    def speed(self) -> Speed:
        """How fast it was, together and, of the first requests, alone."""
        rows = self._last[:0] if self._first is None else self._first
        took_s = []
        for row in rows:
            began_s = time.perf_counter()
            self._model.scores(row[None, :])
            took_s.append(time.perf_counter() - began_s)
        p50, p99 = (1000 * float(np.quantile(took_s, q)) for q in (0.5, 0.99))
        return Speed(p50, p99, self._rows / max(self._took_s, 1e-9))


@dataclass(frozen=True, slots=True, eq=False)
class PageLabels:
    """Labels of a page's requests, where they are classes or numbers.

    Args:
        known: for each request, whether it has a label.
        numbers: number of each request, NaN if it is not known; empty for classes.
        rows, places: for classes, positions of the requests that are measured, and position of each
            right class among the model's classes.
        probabilities: probabilities of these requests by both bundles, in the order of the model's
            classes.
    """

    known: Flags
    numbers: Floats
    rows: Integers
    places: Integers
    probabilities: Sequence[Floats]


class DecidedPage:
    """A page that both bundles have decided, without its payloads."""

    def __init__(
        self,
        rows: pa.Table,
        runs: Sequence[BundleRun],
        logged: LoggedRequests,
        definition: ModelDefinition,
    ) -> None:
        def column(name: str) -> npt.NDArray[Any]:
            return np.asarray(rows[name].to_numpy(zero_copy_only=False))

        self.ids, self.event_ms, self.unit = map(column, ("decision_id", "event_ms", "unit"))
        self.version, self.logged = column("version"), column("decision")
        self.score = rows["score"].fill_null(pa.scalar(np.nan)).to_numpy(zero_copy_only=False)
        draws = logged_draws(rows)
        let_through = (draws.get(i) for i in self.ids)
        self.by_model = np.array(
            [
                decision if draw is None or draw.explored_instead_of is None
                else draw.explored_instead_of
                for decision, draw in zip(self.logged, let_through, strict=True)
            ],
            dtype=object,
        )  # fmt: skip
        self.sound = ~column("degraded").astype(bool)
        decided = [runs[0].decide(rows)]
        self.bands = runs[0].bands()
        decided.append(runs[1].decide(rows))
        self.labels = _page_labels(self, decided, logged, definition)
        self.tops = _tops(decided, definition)
        self.decided = [
            ReplayResult(run.bundle.scale, run.bundle.decider.certainty(r.scores), r.decisions)
            for run, r in zip(runs, decided, strict=True)
        ]


def _page_labels(
    page: DecidedPage,
    decided: Sequence[ReplayResult],
    logged: LoggedRequests,
    definition: ModelDefinition,
) -> PageLabels | None:
    """None of two outcomes, whose labels are looked up for all pages together."""
    nowhere, nothing = np.zeros(0, np.int64), np.zeros(0)
    if isinstance(definition, RealDefinition):
        labels = logged.labels_of(page.ids.tolist())
        numbers = np.array([np.nan if label is None else label for label in labels], np.float64)
        return PageLabels(np.isfinite(numbers), numbers, nowhere, nowhere, ())
    if not isinstance(definition, ClassesDefinition):
        return None
    names = definition.classes
    place_of = {name: place for place, name in enumerate(names)}
    labels = logged.labels_of(page.ids.tolist())
    places = np.array([place_of.get(label, -1) for label in labels], np.int64)
    share = MOST_MEASURED / max(logged.labelled, MOST_MEASURED)
    measured = (places >= 0) & share_of_units(page.unit.astype(np.int64), share)
    rows = np.flatnonzero(measured)
    both = [in_order_of(arm.scores[rows], arm.scale.names, names) for arm in decided]
    return PageLabels(places >= 0, nothing, rows, places[rows], both)


def _tops(
    decided: Sequence[ReplayResult], definition: ModelDefinition
) -> tuple[Codes, Codes] | None:
    """The most probable classes of either bundle, as many as an answer holds; None where they say
    no more than the decision, or hold every class."""
    if not isinstance(definition, ClassesDefinition):
        return None
    scale, count = decided[0].scale, definition.decision.top
    if not 1 < count < min(len(arm.scale.names) for arm in decided):
        return None
    one, other = (
        scale.places_of(arm.scale, np.argsort(-arm.scores, axis=1, kind="stable")[:, :count])
        for arm in decided
    )
    return np.sort(one, axis=1), np.sort(other, axis=1)


def requests_of(
    pages: Sequence[DecidedPage],
    logged: LoggedRequests,
    definition: ModelDefinition,
    reference: Bundle,
) -> Requests:
    """All pages as one.

    Args:
        pages: pages to join; at least one.
    """

    def side(number: int) -> ReplayResult:
        return ReplayResult(
            pages[0].decided[number].scale,
            joined(pages, lambda page: page.decided[number].scores),
            joined(pages, lambda page: page.decided[number].decisions),
        )

    def band(name: str) -> InputBands:
        codes = joined(pages, lambda page: page.bands[name])
        words = reference.vocabularies.get(name)
        if words is not None:
            return word_bands(codes, words)
        return InputBands(codes, reference.profile.inputs[name].edges)

    tops = None
    if pages[0].tops is not None:
        one, other = zip(*(page.tops for page in pages if page.tops is not None), strict=True)
        tops = np.concatenate(one), np.concatenate(other)
    return Requests(
        event_ms=joined(pages, lambda page: page.event_ms).astype(np.int64),
        unit=joined(pages, lambda page: page.unit).astype(np.int64),
        reference=side(0),
        candidate=side(1),
        labels=_labels(pages, logged, definition),
        bands={name: band(name) for name in pages[0].bands},
        tops=tops,
    )


def _labels(
    pages: Sequence[DecidedPage], logged: LoggedRequests, definition: ModelDefinition
) -> Labels:
    event_ms = joined(pages, lambda page: page.event_ms).astype(np.int64)
    found = [page.labels for page in pages if page.labels is not None]
    if not found:
        decisions, ids = (joined(pages, lambda p: p.logged), joined(pages, lambda p: p.ids))
        outcome, hidden = logged.outcomes(ids.tolist(), event_ms, decisions)
        return OutcomeLabels(outcome, hidden, definition.decision.alert_share)
    known = np.concatenate([labels.known for labels in found])
    late = int((~known & logged.matured(event_ms)).sum())
    waiting = int((~known).sum()) - late
    if isinstance(definition, RealDefinition):
        numbers = np.concatenate([labels.numbers for labels in found])
        return NumberLabels(numbers, waiting, late, definition.gates.quantile)
    starts = np.cumsum([0, *(len(labels.known) for labels in found)])
    reference, candidate = (
        np.concatenate([labels.probabilities[side] for labels in found]) for side in (0, 1)
    )
    return ClassLabels(
        rows=np.concatenate([f.rows + start for f, start in zip(found, starts, strict=False)]),
        place=np.concatenate([labels.places for labels in found]),
        reference=reference,
        candidate=candidate,
        labelled=int(known.sum()),
        immature=waiting,
        unlabelled=late,
    )


def own_decisions(
    pages: Sequence[DecidedPage], again: ReplayResult, version: int | None
) -> tuple[int, int]:
    """Counts of the decisions that a version itself answered, and of those of them that come out
    the same; of numbers, within the tolerance.

    Args:
        again: the present answers of the version's bundle to all requests.
    """
    own = joined(pages, lambda page: (page.version == version) & page.sound)
    names = np.array(again.scale.names, dtype=object)
    alike = own & (joined(pages, lambda page: page.by_model) == names[again.decisions])
    if (number := again.scale.number) is not None:
        apart = np.abs(joined(pages, lambda page: page.score) - again.scores)
        alike &= apart <= number.tolerance
    return int(own.sum()), int(alike.sum())


def joined(
    pages: Sequence[DecidedPage], of: Callable[[DecidedPage], npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    """One column of all pages."""
    return np.concatenate([of(page) for page in pages])
