"""Scoring a Parquet file of inputs with a bundle: the work of a batch job on each shard."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlplatform.model.bundle import INPUT_NAME, MODEL_FILE, OUTPUT_NAME, Bundle, load_bundle
from mlplatform.model.tensors.signature import Tensors
from mlplatform.model.weights.data_files import data_names
from mlplatform.runtime.errors import InputInvalid
from mlplatform.scoring.predictor.providers import Accelerator, hardware, session

BUNDLE: Final = "bundle"
"""Folder of the shared inputs that holds the bundle."""
ORDER: Final = "order.json"
SCORES: Final = "scores.parquet"
ID: Final = "request_id"
BATCH_ROWS: Final = 8192

_COLUMNS: Final[list[pa.Field[Any]]] = [
    pa.field(ID, pa.string(), nullable=False),
    pa.field("score", pa.float64(), nullable=False),
    pa.field("decision", pa.string(), nullable=False),
]
RESULTS: Final = pa.schema(_COLUMNS)
"""Schema of `scores.parquet`: `score` is calibrated, 0 to 1, or a number in the model's unit;
`decision` is an outcome of the bundle."""


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`order.json`: the version that scores."""

    version: int
    bundle: str


def score(shared: Path, shard: Path, output: Path, accelerator: Accelerator) -> Mapping[str, Any]:
    """Write `scores.parquet` for a shard, in the order of its rows; returns a summary of it.

    Args:
        shared: folder with `order.json` and `bundle/`.
        shard: Parquet file with `request_id` and a number for each input of the bundle; null or NaN
            is a missing value.

    Raises:
        BundleCorrupt: the bundle is not the one that the order names.
        InputInvalid: the shard lacks a column, or the model gave no valid score for a row.
        Refused: this machine lacks the model's accelerator.
    """
    order = msgspec.json.decode((shared / ORDER).read_bytes(), type=Order)
    bundle = load_bundle(shared / BUNDLE, order.bundle)
    has_data = bool(data_names(bundle.files))
    model = _session(shared / BUNDLE / MODEL_FILE, accelerator, has_data)
    file = pq.ParquetFile(shard)
    _check_columns(file.schema_arrow, bundle, shard.name)
    counts = dict.fromkeys(bundle.scale.names, 0)
    facts = {"version": str(order.version), "bundle": order.bundle}
    with pq.ParquetWriter(output / SCORES, RESULTS.with_metadata(facts)) as writer:
        for batch in file.iter_batches(BATCH_ROWS, columns=[ID, *bundle.input_names]):
            scored = _scored(batch, bundle, model, shard.name)
            writer.write_table(scored)
            for name in counts:
                counts[name] += scored.column("decision").to_pylist().count(name)
    with (output / SCORES).open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    return {"rows": sum(counts.values()), "decisions": counts, "sha256": digest}


def _session(path: Path, accelerator: Accelerator, has_data: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # jobs are split by items
    return session(path, options, hardware(accelerator), has_data)


def _check_columns(schema: pa.Schema, bundle: Bundle, source: str) -> None:
    if lacking := sorted({ID, *bundle.input_names} - set(schema.names)):
        raise InputInvalid(source, None, f"no column {', '.join(lacking)}")


def _raw(
    model: onnxruntime.InferenceSession, x: NDArray[np.float32], tensors: Tensors | None
) -> NDArray[Any]:
    if tensors is None:
        raw: NDArray[Any] = model.run([OUTPUT_NAME], {INPUT_NAME: x})[0]
        return raw
    return tensors.scores(model.run([tensors.output], tensors.feeds(x))[0], len(x))


def _scored(
    batch: pa.RecordBatch, bundle: Bundle, model: onnxruntime.InferenceSession, source: str
) -> pa.Table:
    x = np.empty((batch.num_rows, len(bundle.inputs)), np.float32)
    for position, name in enumerate(bundle.input_names):
        x[:, position] = batch.column(name).to_numpy(zero_copy_only=False)
    raw = _raw(model, x, bundle.tensors)
    raw = raw.astype(np.float64)
    places = bundle.decide_many(bundle.calibrate_many(raw), x)
    scores = bundle.decider.certainty(bundle.calibrate_many(raw))
    least, most = (0, 1) if bundle.scale.number is None else (-np.inf, np.inf)
    wrong = np.flatnonzero(~((scores >= least) & (scores <= most)))  # NaN is in no range
    if len(wrong):
        row_id = batch.column(ID)[int(wrong[0])].as_py()
        raise InputInvalid(source, None, f"request {row_id} got {scores[wrong[0]]} for a score")
    names = np.array(bundle.scale.names)[places]
    ids = batch.column(ID).cast(pa.string())
    return pa.table([ids, pa.array(scores), pa.array(names.tolist())], schema=RESULTS)
