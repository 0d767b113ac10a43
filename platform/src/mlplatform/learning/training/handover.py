"""The files by which a fit in another process or pod gets its order and returns its result.

The files are Parquet, JSON and ONNX; nothing in them runs when they are read. Each side checks the
other's files by their digests.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Meta
from msgspec.structs import replace

from mlplatform.learning.onnx.confined_model import ConfinedModel
from mlplatform.learning.search.context import MOST_CHARACTERS as MOST_LINE
from mlplatform.learning.search.context import MOST_LINES
from mlplatform.learning.training.candidate import Candidate, Parity
from mlplatform.learning.training.folder import MOST_CHARACTERS, MOST_PARAMETERS
from mlplatform.learning.training_sets.dataset import (
    LabelledRows,
    Matrix,
    TrainingSet,
    Window,
    rows_digest,
)
from mlplatform.learning.validation.measures import Measure
from mlplatform.learning.validation.replay import Recent
from mlplatform.learning.validation.report import MEASURES
from mlplatform.learning.validation.search_report import SearchReport
from mlplatform.model.bundle import (
    BUNDLE_FILE,
    EXPLAINER_FILE,
    MODEL_FILE,
    BundleCorrupt,
    DataWindow,
    appear,
    load_bundle,
)
from mlplatform.model.tensors.categories import Vocabularies
from mlplatform.runtime.canonical import DIGEST, NOT_JSON, canonical_json, digest, finite_or_none
from mlplatform.runtime.errors import Corrupt

ORDER: Final = "order.json"
REQUESTS: Final = "requests.parquet"
RECENT: Final = "recent.parquet"
RESULT: Final = "result.json"

_OWN: Final = ("@event_ms", "@unit", "@label", "@hidden", "@weight")
"""Columns before the inputs; no input's name begins like them."""
_BUNDLE_FILES: Final = (BUNDLE_FILE, MODEL_FILE, EXPLAINER_FILE)

Sha256 = Annotated[str, Meta(pattern=rf"\A{DIGEST.pattern}\Z")]
ShortText = Annotated[str, Meta(max_length=MOST_CHARACTERS)]
Parameters = Annotated[
    dict[ShortText, ShortText | int | float | bool | None], Meta(max_length=MOST_PARAMETERS)
]
Progress = Annotated[
    tuple[Annotated[str, Meta(max_length=MOST_LINE)], ...], Meta(max_length=MOST_LINES)
]
Beside = Annotated[tuple[Measure, ...], Meta(max_length=len(MEASURES))]
Read = TypeVar("Read")


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of an order or result. Unknown and missing keys are errors."""


class ReplaySource(_Part, frozen=True):
    """The recent requests of an order: their source and their digest."""

    source: str
    digest: Sha256
    words: dict[str, tuple[str, ...]] = {}


class Order(_Part, frozen=True):
    """The content of `order.json`: what to fit, by which code, on which rows.

    Args:
        code: version of the code that ordered the fit; only the same version may fit.
        folder: digest of the model's folder; only the same folder may fit.
        recent: source of the requests from which the band is predicted; None means the held-out
            days.
        vocabularies: input → its words, for the model to be fitted.
        words: category → the words whose positions the rows hold.
    """

    model: str
    code: str
    folder: Sha256
    seed: int
    data: DataWindow
    labels_until_ms: int | None
    recent: ReplaySource | None
    vocabularies: dict[str, tuple[str, ...]] = {}
    words: dict[str, tuple[str, ...]] = {}

    @property
    def digest(self) -> str:
        """SHA-256 of everything on which the candidate depends; two fits of one order are equal."""
        return digest(msgspec.to_builtins(self))


class Result(_Part, frozen=True):
    """The content of `result.json`: the order that was fitted, and the candidate's facts beyond its
    bundle.

    Args:
        difference: `Parity`'s difference; None if it is not a number.
        parameters: hyper-parameters of the fit.
        search: the search that chose the parameters; None if there was none.
        progress: the lines that the fit logged.
        baseline: measures beside the folder's simpler model.
    """

    order: Sha256
    bundle: Sha256
    difference: float | None
    rows: int
    against: str
    customers: float
    parameters: Parameters = {}
    search: SearchReport | None = None
    progress: Progress = ()
    baseline: Beside = ()

    @property
    def parity(self) -> Parity:
        gap = math.nan if self.difference is None else self.difference
        return Parity(gap, self.rows, self.against)


def order(
    dataset: TrainingSet, recent: Recent | None, *, code: str, folder: str, seed: int
) -> Order:
    """The order to fit these rows."""
    return Order(
        model=dataset.model,
        code=code,
        folder=folder,
        seed=seed,
        data=dataset.data_window(),
        labels_until_ms=dataset.labels_until_ms,
        recent=None
        if recent is None
        else ReplaySource(
            source=recent.source, digest=_digest(recent), words=_plain(recent.matrix.words)
        ),
        vocabularies=_plain(dataset.vocabularies),
        words=_plain(dataset.rows.matrix.words),
    )


def write(
    order: Order, dataset: TrainingSet, recent: Recent | None, shared: Path, item: Path
) -> None:
    """Write an order and its rows into two existing folders: `order.json` and `recent.parquet` into
    `shared`, `requests.parquet` into `item`."""
    _write_rows(dataset.rows, item / REQUESTS)
    if recent is not None:
        _write_rows(_unlabelled(recent.matrix), shared / RECENT)
    (shared / ORDER).write_bytes(canonical_json(msgspec.to_builtins(order)))


def read_order(shared: Path) -> Order:
    """The order in a folder.

    Raises:
        Corrupt: the file is missing, or is not an order.
    """
    return _decoded(shared / ORDER, Order)


def read(order: Order, shared: Path, requests: Path) -> tuple[TrainingSet, Recent | None]:
    """The rows of an order.

    Raises:
        Corrupt: the rows are not those that the order names.
    """
    rows = _read_rows(requests, order.words)
    data = order.data
    _hold(requests, rows_digest(rows.matrix, rows.y, rows), data.digest)
    dataset = TrainingSet(
        model=order.model,
        rows=rows,
        window=Window(data.from_ms, data.holdout_from_ms, data.gates_from_ms, data.to_ms),
        as_of_ms=data.as_of_ms,
        labels_until_ms=order.labels_until_ms,
        digest=data.digest,
        vocabularies=order.vocabularies,
        units_share=data.units_share,
    )
    if order.recent is None:
        return dataset, None
    matrix = _read_rows(shared / RECENT, order.recent.words).matrix
    recent = Recent(matrix, order.recent.source)
    _hold(shared / RECENT, _digest(recent), order.recent.digest)
    return dataset, recent


def result(order: Order, candidate: Candidate) -> dict[str, Any]:
    """The content of `result.json` for a candidate, whose bundle lies beside it under its
    digest."""
    made = Result(
        order=order.digest,
        bundle=candidate.bundle.digest,
        difference=finite_or_none(candidate.parity.difference),
        rows=candidate.parity.rows,
        against=candidate.parity.against,
        customers=candidate.customers,
        parameters=dict(candidate.parameters),
        search=_without_steps(candidate.search),
        progress=candidate.progress,
        baseline=candidate.baseline,
    )
    fields: dict[str, Any] = msgspec.to_builtins(made)
    return fields


def take(written: Path, order: Order, bundles: Path) -> Candidate:
    """The candidate that a fit wrote, with its bundle copied to `bundles`/<digest>.

    Raises:
        BundleCorrupt: a file is not what its digest says, or it is the candidate of another order.
        Corrupt: there is no result that can be read.
        ModelRefused: the model can't be run here, or exceeds the limits for a model from outside.
    """
    result = _decoded(written / RESULT, Result)
    if result.search is not None and not result.search.has_best():
        raise Corrupt(f"{written / RESULT}: no trial of its search is complete")
    if strange := [m.name for m in result.baseline if m.name not in MEASURES]:
        wanted = f"one of {', '.join(MEASURES)}"
        raise Corrupt(
            f"{written / RESULT}: a measure has the name {strange[0]!a}; wanted: {wanted}"
        )
    bundles.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{result.bundle}.", dir=bundles))
    try:
        for path in (written / result.bundle / name for name in _BUNDLE_FILES):
            if path.is_file():
                shutil.copyfile(path, draft / path.name)
        bundle = load_bundle(draft, result.bundle)
        made_of = (result.order, bundle.model, bundle.folder, bundle.seed, bundle.data)
        ordered = (order.digest, order.model, order.folder, order.seed, order.data)
        if made_of != ordered or bundle.vocabularies != order.vocabularies:
            raise BundleCorrupt(
                f"{written} is the candidate of another order; wanted: that of {order.digest}"
            )
        content = (draft / MODEL_FILE).read_bytes()
        folder = bundles / result.bundle
        appear(draft, folder, result.bundle)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    # A user who can write to the folder of jobs can put another model there, with digests that fit.
    inputs, tensors, classes = len(bundle.inputs), bundle.tensors, bundle.classes
    model = ConfinedModel(content, inputs=inputs, tensors=tensors, classes=classes)
    return Candidate(
        folder,
        bundle,
        model,
        result.parity,
        result.customers,
        result.parameters,
        result.search,
        result.progress,
        result.baseline,
    )


def _without_steps(search: SearchReport | None) -> SearchReport | None:
    if search is None:
        return None
    trials = tuple(replace(trial, steps=()) for trial in search.trials)
    return replace(search, trials=trials)


def _write_rows(rows: LabelledRows, path: Path) -> None:
    matrix = rows.matrix
    own = (matrix.event_ms, matrix.unit, rows.y, rows.hidden, rows.weight)
    columns: list[Any] = [pa.nulls(len(rows)) if c is None else c for c in own]
    columns += (np.ascontiguousarray(c) for c in matrix.x.T)
    table = pa.Table.from_arrays([pa.array(c) for c in columns], names=[*_OWN, *matrix.names])
    # A dictionary would merge all NaN into one, and the digest covers their bits.
    pq.write_table(table, path, compression="zstd", use_dictionary=False)


def _read_rows(path: Path, words: Vocabularies) -> LabelledRows:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise Corrupt(f"{path} cannot be read") from error
    names = tuple(table.column_names)
    if names[: len(_OWN)] != _OWN:
        raise Corrupt(f"{path} has columns {', '.join(names[: len(_OWN)])}, not {', '.join(_OWN)}")
    event_ms, unit, y, hidden, weight = (_values(table.column(name)) for name in _OWN)
    inputs = names[len(_OWN) :]
    x = np.empty((table.num_rows, len(inputs)), np.float32)
    for position, name in enumerate(inputs):
        x[:, position] = table.column(name).to_numpy()
    return LabelledRows(Matrix(inputs, x, event_ms, unit, words), y, hidden, weight)


def _plain(words: Vocabularies) -> dict[str, tuple[str, ...]]:
    return {name: tuple(known) for name, known in words.items()}


def _values(column: Any) -> Any:
    """The values of a column; None if these rows do not have it."""
    return None if pa.types.is_null(column.type) else column.to_numpy()


def _unlabelled(matrix: Matrix) -> LabelledRows:
    return LabelledRows(matrix, np.zeros(len(matrix), np.int8))


def _digest(recent: Recent) -> str:
    return rows_digest(recent.matrix, _unlabelled(recent.matrix).y)


def _hold(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise Corrupt(f"{path} has digest {found}, not {wanted} as ordered")


def _decoded(path: Path, kind: type[Read]) -> Read:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, *NOT_JSON) as error:
        raise Corrupt(f"{path} cannot be read: {error}") from error
