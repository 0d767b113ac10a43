"""The fields of one record of the decision log, and the bytes of it that are hashed."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import msgspec

from mlplatform.runtime.errors import InputInvalid

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa

Kind = Literal[
    "decision", "shadow", "label", "void", "inference", "accepted", "erasure", "retention"
]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
ANSWERED: Final[tuple[Kind, ...]] = ("decision", "inference")
"""Kinds of the records of answered requests."""
GENESIS: Final = bytes(32)
WRITER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

ARM_FAILURES: Final = ("deadline", "unavailable", "invalid_output", "breaker_open", "volume_limit")
"""Reasons of degradation for which the assigned arm's predictor or bundle is to blame."""

MODELS: Final = ("champion", "challenger", "previous", "variant")
"""The values of `answered_by` that name a predictor: its bundle's thresholds made the decision."""

ASSIGNED: Final = ("champion", "challenger")
"""Values of `arm` that a rollout's draw assigned; only these arms are compared by rollouts."""

VARIANT: Final = "variant"
"""Value of `arm` of a decision that an A/B/n test assigned to one of its variants; the bucket and
the payload (`variant`) say to which one. Rollouts and drift count it in no arm."""

NAMED: Final = "named"
"""Value of `arm` of a decision whose request named the version that answered. Nobody assigned it,
so rollouts, drift and volume limits count it in no arm."""

FEATURES: Final = "features"
"""Reason of degradation of an answer without fresh features, given by a model or instead of one."""


LABEL_VALUES: Final[Mapping[str, str]] = {"binary": "label", "classes": "decision", "real": "score"}
"""Task of a model → the column with a label's value. A class and a number lie where records hold
what was decided."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable fact, joined to others by its decision id.

    An `inference` is a decision over inputs that its caller made, without a request to train or to
    watch for drift; one without a unit belongs to no rollout. An `accepted` is a request that is to
    be decided later, under the same id; nothing but its decision is counted anywhere. An `erasure`
    says which records of its decision lost their payload, by whom and why (`records.erasures`), a
    `retention` which ones of its model did by their age (`records.retention`); its id is an act's.

    Times are epoch milliseconds, UTC. `event_ms` of a label is its arrival in event time. `arm` is
    the assigned arm (or `NAMED`), `answered_by` what gave the answer; where they differ, the
    assigned arm failed, or the gateway (`OWN_FAILURES` in `model.oip`). `score` is calibrated, 0 to
    1, or a number in the model's unit, and None where nothing was predicted. A label of a model of
    classes names its class in `decision`, one of a model of numbers its number in `score`; both
    have no `label`.
    """

    kind: Kind
    decision_id: str
    model: str
    event_ms: int
    recorded_ms: int
    generation: int = 0
    rollout_id: str | None = None
    arm: str | None = None
    answered_by: str | None = None
    unit: int | None = None
    bucket: int | None = None
    version: int | None = None
    bundle: str | None = None
    score: float | None = None
    decision: str | None = None
    degraded: bool = False
    degraded_reason: str | None = None
    latency_us: int | None = None
    label: int | None = None
    payload: dict[str, Any] = {}


ArrowName = Literal["string", "int64", "int8", "float64", "bool"]

COLUMNS: Final[dict[str, ArrowName]] = {
    "writer": "string",
    "seq": "int64",
    "kind": "string",
    "decision_id": "string",
    "model": "string",
    "event_ms": "int64",
    "recorded_ms": "int64",
    "generation": "int64",
    "rollout_id": "string",
    "arm": "string",
    "answered_by": "string",
    "unit": "int64",
    "bucket": "int64",
    "version": "int64",
    "bundle": "string",
    "score": "float64",
    "decision": "string",
    "degraded": "bool",
    "degraded_reason": "string",
    "latency_us": "int64",
    "label": "int8",
    "payload": "string",
}
"""Every column that a reader can ask for, in order, with its Arrow type; payload is JSON.

The digest of a record covers `writer`, `seq` and all `SCALARS` in this order and has no version. A
column that is added, removed or moved gives every record on disk another digest, even where its
value is null, and sealed segments lack it: `log verify` would report all of them as changed. What a
record is to hold besides goes into `payload`, whose digest covers whatever it holds.
"""

SCALARS: Final = tuple(name for name in COLUMNS if name != "payload")
"""All columns but the payload: those that a reader gets without asking for any. `record_digest`
hashes them by position (see `COLUMNS`)."""

STORED: Final = (*SCALARS, "payload_digest", "digest", "chain", "payload")
"""Columns of a stored record, in order."""

REQUIRED: Final = frozenset(
    (
        "writer",
        "seq",
        "kind",
        "decision_id",
        "model",
        "event_ms",
        "recorded_ms",
        "generation",
        "degraded",
    )
)
"""The columns that are never null."""


def arrow_schema(columns: Sequence[str]) -> pa.Schema:
    """The Arrow schema of these columns of the log."""
    import pyarrow as pa

    return pa.schema([(name, pa.type_for_alias(COLUMNS[name])) for name in columns])


def arrow_table(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """A table of this schema from rows as SQLite returns them."""
    import pyarrow as pa

    if not rows:
        return schema.empty_table()
    columns = [
        # SQLite has no type for truth: it gives 0 and 1
        pa.array(list(map(bool, values)), pa.bool_())
        if field.type == pa.bool_()
        else pa.array(values, field.type)
        for values, field in zip(zip(*rows, strict=True), schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


_encode = msgspec.json.Encoder().encode
_sha256 = hashlib.sha256
_SCORE = SCALARS.index("score") - 2
_TYPES: Final = tuple(
    {"string": str, "int64": int, "int8": int, "float64": float, "bool": bool}[COLUMNS[name]]
    for name in SCALARS[2:]
)
_seen_shapes: set[tuple[type, ...]] = set()


class Sealable(msgspec.Struct, frozen=True):
    """A record in its stored form: scalars in the order of SCALARS[2:], payload as JSON text."""

    scalars: tuple[Any, ...]
    payload: str
    payload_digest: bytes


def stored_form(record: Record) -> Sealable:
    """The record as it is stored and hashed; reading it back gives the same bytes.

    Raises:
        InputInvalid: a field does not have its declared type, the score is not finite, the label is
            not 0 or 1, or JSON cannot represent the payload.
    """
    *scalars, payload = msgspec.structs.astuple(record)
    score = scalars[_SCORE]
    if score is not None:
        # adding zero turns -0.0, which SQLite does not keep, into 0.0
        scalars[_SCORE] = score = float(score) + 0.0
        if not math.isfinite(score):
            raise InputInvalid(f"record {record.decision_id}", None, f"score is {score}")
    if record.label is not None and record.label not in (0, 1):
        raise InputInvalid(f"record {record.decision_id}", None, f"label is {record.label}")
    shape = tuple(map(type, scalars))
    if shape not in _seen_shapes:
        _check_shape(record, shape)
    try:
        data = _encode(payload)
    except (TypeError, ValueError) as error:
        raise InputInvalid(f"record {record.decision_id}", None, f"payload: {error}") from error
    return Sealable(tuple(scalars), data.decode(), _sha256(data).digest())


def record_digest(writer: str, seq: int, scalars: Sequence[Any], payload_digest: bytes) -> bytes:
    """SHA-256 over the record's scalars and the digest of its payload, not the payload itself.

    So a payload can be erased and the chain still holds. The hashed bytes are msgspec's JSON array
    of writer, seq, the scalars in the order of SCALARS and the payload digest in hexadecimal.
    Floats are written in their shortest form that reads back the same, so the digest can be
    computed again from the columns of SQLite and of Parquet alike.
    """
    return _sha256(_encode((writer, seq, *scalars, payload_digest.hex()))).digest()


def link(chain: bytes, digest: bytes) -> bytes:
    """The chain after a record: SHA-256 over the chain before it and the record's digest."""
    return _sha256(chain + digest).digest()


def trace_of(record: Mapping[str, Any]) -> str:
    """The trace that a record belongs to: the caller's, or the one that began with the record."""
    trace_id: str | None = record["payload"].get("trace_id") if record["payload"] else None
    decision_id: str = record["decision_id"]
    return trace_id or decision_id[:32]


def _check_shape(record: Record, shape: tuple[type, ...]) -> None:
    for name, wanted, found in zip(SCALARS[2:], _TYPES, shape, strict=True):
        missing = found is type(None) and name not in REQUIRED
        if found is not wanted and not missing:
            problem = f"{name} is of type {found.__name__}; wanted: {wanted.__name__}"
            raise InputInvalid(f"record {record.decision_id}", None, problem)
    _seen_shapes.add(shape)
