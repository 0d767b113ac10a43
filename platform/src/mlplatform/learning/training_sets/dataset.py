"""The requests that a model learns from and is judged by, as they were known at one moment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.features.compile import EVERY, UnitSample
from mlplatform.learning.features.hidden_outcomes import (
    NOTHING_HIDDEN,
    HiddenOutcomes,
    interventions,
    training_labels,
)
from mlplatform.learning.training_sets.known_labels import KNOWN, Labels
from mlplatform.learning.training_sets.port import TrainingJoin
from mlplatform.learning.training_sets.time_order import between, epoch_ms, in_order
from mlplatform.learning.training_sets.words import own_words
from mlplatform.model.bundle import Bundle, DataWindow
from mlplatform.model.definition import REMAINDER, REQUEST_UNIT, InputSpec, ModelDefinition
from mlplatform.model.features.views import FeatureView
from mlplatform.model.inputs import InputPlan
from mlplatform.model.tensors.categories import (
    Vocabularies,
    joined,
    translated,
)
from mlplatform.model.tensors.tokens import MOST_TOKENS, text_of
from mlplatform.runtime.canonical import canonical_json
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS

if TYPE_CHECKING:  # a model's folder is read without pyarrow
    import pyarrow as pa

    from mlplatform.learning.features.offline import OfflineTable

NO_WORDS: Final[Vocabularies] = {}
Groups = NDArray[np.int16]
"""For each row, the place of its group among the `values` of a protected field; -1 if unknown."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of inputs, in event time, with the unit that each belongs to.

    Args:
        words: category or text input → the words whose positions `x` holds.
    """

    names: tuple[str, ...]
    x: NDArray[np.float32]
    event_ms: NDArray[np.int64]
    unit: NDArray[np.int64]
    words: Vocabularies = field(default_factory=dict)

    def columns(self, names: Sequence[str]) -> NDArray[np.float32]:
        """The inputs of one bundle, in its order.

        Raises:
            InputInvalid: these rows lack an input; the message names every such input.
        """
        if lacking := sorted(set(names) - set(self.names)):
            raise InputInvalid("rows", None, f"no input {', '.join(lacking)}")
        if tuple(names) == self.names:
            return self.x
        return np.ascontiguousarray(self.x[:, [self.names.index(name) for name in names]])

    def rows(self, chosen: slice | NDArray[np.bool_]) -> Matrix:
        return replace(
            self, x=self.x[chosen], event_ms=self.event_ms[chosen], unit=self.unit[chosen]
        )

    def of(self, bundle: Bundle) -> NDArray[np.float32]:
        """The inputs of a bundle, in its order and by its vocabularies."""
        return self.by(bundle.vocabularies).columns(bundle.input_names)

    def by(self, vocabularies: Vocabularies) -> Matrix:
        """The rows with categories and tokens at their places in other vocabularies."""
        changed = {
            name: words
            for name, words in vocabularies.items()
            if name in self.words and tuple(words) != tuple(self.words[name])
        }
        if not changed:
            return self
        x = self.x.copy()
        for position, column in enumerate(self.names):
            name = column if column in changed else text_of(column)
            if name in changed:
                x[:, position] = translated(x[:, position], self.words[name], changed[name])
        return replace(self, x=x, words={**self.words, **changed})

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Rows with their labels, 0 or 1; of classes, places among the model's; or numbers.

    Args:
        hidden: whether a decision of ours hid the row's outcome, so that `y` is not known for it.
            None if there is no such row.
        weight: weight of each row when a model learns, 0 to leave it out; None means that all rows
            weigh 1.
        groups: protected field → the rows' groups. No fit gets them (`handover`).
    """

    matrix: Matrix
    y: Labels
    hidden: NDArray[np.bool_] | None = None
    weight: NDArray[np.float64] | None = None
    groups: Mapping[str, Groups] = field(default_factory=dict)

    def rows(self, chosen: slice | NDArray[np.bool_]) -> LabelledRows:
        return LabelledRows(
            self.matrix.rows(chosen),
            self.y[chosen],
            None if self.hidden is None else self.hidden[chosen],
            None if self.weight is None else self.weight[chosen],
            {name: groups[chosen] for name, groups in self.groups.items()},
        )

    @property
    def training_rows(self) -> LabelledRows:
        """The rows that a model learns from."""
        return self if self.weight is None else self.rows(self.weight > 0)

    @property
    def known(self) -> LabelledRows:
        """The rows that a model may be judged by: those whose outcome somebody knows."""
        return self if self.hidden is None else self.rows(~self.hidden)

    def by(self, vocabularies: Vocabularies) -> LabelledRows:
        """The rows by other vocabularies, as by `Matrix.by`."""
        return replace(self, matrix=self.matrix.by(vocabularies))

    def share(self, share: float) -> LabelledRows:
        """The rows of a share of the units."""
        if share >= 1:
            return self
        return self.rows(share_of_units(self.matrix.unit, share))

    def before(self, at_ms: int) -> int:
        """The number of rows at the beginning whose events are before a time."""
        return int(np.searchsorted(self.matrix.event_ms, at_ms))

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class Window:
    """Bounds of a training set, all at UTC midnights: fit, then calibrate, then the gates' days."""

    from_ms: int
    holdout_from_ms: int
    gates_from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Matured requests in event time.

    `labels_until_ms` is the latest arrival of a label among those known at `as_of_ms`: a feed that
    stopped earlier than the window ends has left positives unknown. `vocabularies` are those of the
    model to be fitted; its rows may know words of others besides. `units_share` is the share of the
    units of assignment whose requests were read.
    """

    model: str
    rows: LabelledRows
    window: Window
    as_of_ms: int
    labels_until_ms: int | None
    digest: str
    hidden: HiddenOutcomes = NOTHING_HIDDEN
    vocabularies: Vocabularies = field(default_factory=dict)
    units_share: float = 1.0

    def by(self, vocabularies: Vocabularies) -> TrainingSet:
        """The data set by other vocabularies, as by `Matrix.by`."""
        return replace(self, rows=self.rows.by(vocabularies))

    @property
    def fitting(self) -> LabelledRows:
        return self._between(self.window.from_ms, self.window.holdout_from_ms)

    @property
    def calibrating(self) -> LabelledRows:
        """The first half of the held-out days, for calibration and thresholds, never for the
        gates."""
        return self._between(self.window.holdout_from_ms, self.window.gates_from_ms)

    @property
    def judging(self) -> LabelledRows:
        """The second half of the held-out days, for the gates only; nothing is fitted to them."""
        return self._between(self.window.gates_from_ms, self.window.to_ms)

    @property
    def holdout(self) -> LabelledRows:
        return self._between(self.window.holdout_from_ms, self.window.to_ms)

    def data_window(self) -> DataWindow:
        """The data window in the form that a bundle stores."""
        w = self.window
        return DataWindow(
            from_ms=w.from_ms,
            holdout_from_ms=w.holdout_from_ms,
            gates_from_ms=w.gates_from_ms,
            to_ms=w.to_ms,
            as_of_ms=self.as_of_ms,
            rows=len(self.rows),
            digest=self.digest,
            units_share=self.units_share,
        )

    def _between(self, from_ms: int, to_ms: int) -> LabelledRows:
        first, last = np.searchsorted(self.rows.matrix.event_ms, [from_ms, to_ms])
        return self.rows.rows(slice(int(first), int(last)))


def share_of_units(unit: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Whether each row belongs to the units that are kept, with all of their rows; the choice is
    the same every time.

    A larger share holds every unit of a smaller one.

    Source: the multiplier is that of Knuth, The Art of Computer Programming, volume 3, 6.4.
    """
    lot = (unit.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    return lot.astype(np.float64) / 2.0**32 < share


def window(definition: ModelDefinition, as_of_ms: int) -> Window:
    """The whole days that a training set as of a moment covers.

    It ends at the last midnight by which every request had matured. Of the held-out days the first
    half (rounded up) calibrates and the second half is for the gates alone.
    """
    training = definition.training
    to_ms = (as_of_ms - definition.label.maturity_days * DAY_MS) // DAY_MS * DAY_MS
    holdout_from_ms = to_ms - training.holdout_days * DAY_MS
    return Window(
        from_ms=to_ms - training.window_days * DAY_MS,
        holdout_from_ms=holdout_from_ms,
        gates_from_ms=holdout_from_ms + (training.holdout_days + 1) // 2 * DAY_MS,
        to_ms=to_ms,
    )


def build_dataset(
    definition: ModelDefinition,
    views: tuple[FeatureView, ...],
    offline: OfflineTable,
    *,
    as_of_ms: int,
    join: TrainingJoin,
    also: Sequence[InputSpec] = (),
    words: Vocabularies = NO_WORDS,
) -> TrainingSet:
    """The training set as it could have been built at `as_of_ms`: no later label or void exists.

    A request that matured without a positive label counts as negative; of classes and numbers, one
    without a label is unknown. Of more than `training.maximum_rows` requests, those of a share of
    the units of assignment are read, so that memory does not grow with traffic.

    Args:
        join: the engine that joins features and windows.
        also: inputs of the champion, so that it can be judged on the same rows; inputs of a view
            that the model folder no longer has are left out.
        words: vocabularies of the champion's category and text inputs.

    Raises:
        InputInvalid: no request has matured, or late rows would falsify the features.
    """
    bounds = window(definition, as_of_ms)
    most_rows = definition.training.maximum_rows
    sample = offline.sample_of(bounds.from_ms, bounds.to_ms, most_rows, as_of_ms)
    known = offline.labelled_requests(bounds.from_ms, bounds.to_ms, as_of_ms, sample)
    if known.num_rows == 0:
        raise InputInvalid(
            f"offline/{definition.name}",
            None,
            "no request has matured yet; import history with `mlplatform history import`",
        )
    table = join(offline, views, known)
    found = dataset(
        definition,
        views,
        table,
        as_of_ms=as_of_ms,
        also=also,
        words=words,
        labels_until_ms=_latest_label(offline, as_of_ms),
    )
    return replace(found, units_share=sample.share)


def dataset(
    definition: ModelDefinition,
    views: tuple[FeatureView, ...],
    table: pa.Table,
    *,
    as_of_ms: int,
    labels_until_ms: int | None,
    also: Sequence[InputSpec] = (),
    words: Vocabularies = NO_WORDS,
) -> TrainingSet:
    """The training set in a table of requests, labels and joined features.

    Rows outside the window are dropped, and labels that arrive after `as_of_ms` are not read. The
    words of categories and texts are learned from the days to fit alone.
    """
    bounds = window(definition, as_of_ms)
    table = between(in_order(table), bounds.from_ms, bounds.to_ms)
    event_ms = epoch_ms(table, "event_time")
    fitting = table.slice(0, int(np.searchsorted(event_ms, bounds.holdout_from_ms)))
    own = own_words(definition, fitting)
    plan, known = _plan(definition, views, also, own, words)
    matrix = Matrix(plan.names, plan.matrix(table), event_ms, _units(definition, table), known)
    rows, found = label_rows(matrix, table, definition, as_of_ms)
    return TrainingSet(
        model=definition.name,
        rows=rows,
        window=bounds,
        as_of_ms=as_of_ms,
        labels_until_ms=labels_until_ms,
        digest=rows_digest(matrix, rows.y, rows),
        hidden=found,
        vocabularies=own,
    )


def label_rows(
    matrix: Matrix, table: pa.Table, definition: ModelDefinition, as_of_ms: int
) -> tuple[LabelledRows, HiddenOutcomes]:
    """The rows of a table with the labels that had arrived, and how hidden outcomes were
    treated."""
    arrived = epoch_ms(table, "label_time") <= as_of_ms
    if (read := KNOWN.get(definition.task)) is not None:
        y, known = read(table, definition)
        known &= arrived
        y = np.where(known, y, np.zeros((), y.dtype))
        hidden, weight = (None, None) if known.all() else (~known, known.astype(np.float64))
        return LabelledRows(matrix, y, hidden, weight, _groups(definition, table)), NOTHING_HIDDEN
    labels = table.column("label").to_numpy()  # a missing label is NaN there
    y = ((labels == 1) & arrived).astype(np.int8)
    rows = LabelledRows(matrix, y, groups=_groups(definition, table))
    return _with_hidden_outcomes(rows, table, ~np.isnan(labels) & arrived, definition)


def _with_hidden_outcomes(
    rows: LabelledRows, table: pa.Table, labelled: NDArray[np.bool_], definition: ModelDefinition
) -> tuple[LabelledRows, HiddenOutcomes]:
    """The rows with hidden outcomes treated as model.yaml says; unchanged if there are none."""
    done = interventions(table, labelled)
    if done is None or not (done.stopped | done.explored).any():
        return rows, NOTHING_HIDDEN
    treated = training_labels(rows.y, done, definition.training)
    if not done.hidden.any() and bool((treated.weight == 1).all()):
        return rows, treated.found
    changed = replace(rows, y=treated.y, hidden=done.hidden, weight=treated.weight)
    return changed, treated.found


def _groups(definition: ModelDefinition, table: pa.Table) -> dict[str, Groups]:
    """The groups of a table's rows, for each protected field."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = {}
    for name in definition.protected:
        values = definition.request[name].values or ()
        places = pc.index_in(table.column(name), value_set=pa.array(values, pa.string()))
        groups = places.fill_null(-1).to_numpy().astype(np.int16)
        empty = values.index("") if "" in values else -1
        found[name] = np.where(groups == empty, np.int16(-1), groups)
    return found


def requests_between(
    definition: ModelDefinition,
    views: tuple[FeatureView, ...],
    offline: OfflineTable,
    *,
    from_ms: int,
    to_ms: int,
    as_of_ms: int,
    join: TrainingJoin,
    sample: UnitSample = EVERY,
    also: Sequence[InputSpec] = (),
    words: Vocabularies = NO_WORDS,
) -> Matrix:
    """Requests in [from_ms, to_ms) with the inputs that serving read, with or without a label, in
    order, that were not void at `as_of_ms`.

    Args:
        join: the engine that joins features and windows.
        sample: which requests are read.

    Categories are at places among all their words there, 10 000 at most, so that every bundle's are
    among them.

    Raises:
        InputInvalid: late rows would falsify the features.
    """
    found = offline.requests(from_ms, to_ms, sample, as_of_ms=as_of_ms)
    joined = join(offline, views, found.order("event_time, request_id").to_arrow_table())
    return any_matrix(definition, views, joined, also, words)


def any_matrix(
    definition: ModelDefinition,
    views: tuple[FeatureView, ...],
    table: pa.Table,
    also: Sequence[InputSpec],
    words: Vocabularies,
) -> Matrix:
    """The rows of a joined table, with categories at places among all words of the table."""
    there = own_words(definition, table, every=True)
    plan, known = _plan(definition, views, also, words, there)
    event_ms = epoch_ms(table, "event_time")
    return Matrix(plan.names, plan.matrix(table), event_ms, _units(definition, table), known)


def _plan(
    definition: ModelDefinition,
    views: tuple[FeatureView, ...],
    also: Sequence[InputSpec],
    first: Vocabularies,
    then: Vocabularies,
) -> tuple[InputPlan, dict[str, tuple[str, ...]]]:
    """The plan of a table, and the words of its categories, with `first` in their own order."""
    known = {
        name: joined(first.get(name, ()), then.get(name, ()), most=2 * MOST_TOKENS)
        for name in {**first, **then}
    }
    plan = input_plan(definition, views, also, known)
    return plan, {name: words for name, words in known.items() if name in plan.words}


def input_plan(
    definition: ModelDefinition,
    views: tuple[FeatureView, ...],
    also: Sequence[InputSpec] = (),
    vocabularies: Vocabularies = NO_WORDS,
) -> InputPlan:
    """The definition's inputs, then those of `also` that it lacks and that views or windows still
    have."""
    names = {i.name for i in definition.inputs}
    available = {(v.name, feature) for v in views for feature in v.feature_names}
    available |= {(w.entity, w.name) for w in definition.windows}
    computed = names | {
        i.name for i in also if i.kind not in ("view", "window") or (i.of, i.name) in available
    }
    extra = [
        i
        for i in also
        if i.name not in names and i.name in computed and (i.kind != REMAINDER or i.of in computed)
    ]
    specs = (*definition.inputs, *extra)
    return InputPlan(definition, views, specs, vocabularies=vocabularies)


def _units(definition: ModelDefinition, table: pa.Table) -> NDArray[np.int64]:
    if definition.assignment_unit == REQUEST_UNIT:
        return np.arange(table.num_rows, dtype=np.int64)
    values = table.column(definition.assignment_unit).to_numpy()
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _latest_label(offline: OfflineTable, as_of_ms: int) -> int | None:
    ((latest_ms,),) = offline.labels(as_of_ms).aggregate("epoch_ms(max(label_time))").fetchall()
    return None if latest_ms is None else int(latest_ms)


def rows_digest(matrix: Matrix, y: Labels, rows: LabelledRows | None = None) -> str:
    """SHA-256 over names, inputs, labels, times and units, in row order.

    Args:
        rows: rows whose hidden outcomes and weights the digest includes, if they have any.
    """
    total = hashlib.sha256("\n".join(matrix.names).encode())
    if matrix.words:
        total.update(canonical_json({n: list(words) for n, words in matrix.words.items()}))
    more = () if rows is None else (rows.hidden, rows.weight)
    parts = (matrix.x, y, matrix.event_ms, matrix.unit, *more)
    for part in (part for part in parts if part is not None):
        total.update(np.ascontiguousarray(part).tobytes())
    return total.hexdigest()
