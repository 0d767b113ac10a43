"""The port of the decision log, and its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from mlplatform.decisions.records.record import KINDS, SCALARS, Kind, Record
from mlplatform.runtime.units import DAY_MS

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa


BODY_DIGITS: Final = 32
KEEP_MS: Final = 7 * DAY_MS
"""Lifetime of claims for which no model has a policy, such as that of a label or of pushed
values."""


class Idempotency(msgspec.Struct, frozen=True):
    """The claim that a retry of this request gets this answer: one per client, model and key.

    The key holds for `keep_ms`. A seal or a pruning ends it at most half of `keep_ms` later, or a
    day later if that is more. Without seals and prunings it stays.

    Args:
        body_digest: digest of the request's body; its first `BODY_DIGITS` characters are compared.
        impersonal: apart from the decision's id and score, the answer has only texts that the model
            gives to everybody. Such a text may stay when a person's data is erased.
        ends: other keys of this client and model whose claim ends with this record. A later record
            with such a key is written again. A label ends the claim of the opposite label.
    """

    client: str
    key: str
    body_digest: str
    answer: bytes
    keep_ms: int = KEEP_MS
    ends: tuple[str, ...] = ()
    impersonal: bool = False


class Entry(msgspec.Struct, frozen=True):
    """A record to append, with the answer to keep for retries."""

    record: Record
    idempotency: Idempotency | None = None


class AppendReceipt(msgspec.Struct, frozen=True):
    """The record is durable under this number of its writer."""

    seq: int


class DuplicateKey(msgspec.Struct, frozen=True):
    """The key was answered before, and the record was NOT written.

    `same_body` is False if the key came with another body, which the caller refuses.
    """

    answer: bytes
    same_body: bool


class SpillReceipt(msgspec.Struct, frozen=True):
    """The record is durable in this gateway's spill, and will be appended to the log from there."""


class UnloggedAnswer(msgspec.Struct, frozen=True):
    """The record is stored nowhere, and the model declares that the answer is given all the
    same."""


class RecordingFailure(msgspec.Struct, frozen=True):
    """The record is stored nowhere, for this reason; the caller refuses the request."""

    reason: str


Outcome = AppendReceipt | DuplicateKey | SpillReceipt | UnloggedAnswer | RecordingFailure
"""The outcome of an append. A log itself gives the first two; the others come from its stand-in
while it is down."""


class StoredAnswer(msgspec.Struct, frozen=True):
    """An answer that was given under an idempotency key.

    Args:
        body_digest: the full digest, or its first `BODY_DIGITS` characters.
    """

    answer: bytes
    body_digest: str
    decision_id: str

    def is_of(self, body_digest: str) -> bool:
        """Whether the answer was given to a request with this digest."""
        return self.body_digest in (body_digest, shortened(body_digest))


def shortened(body_digest: str) -> str:
    """The part of a digest that is stored: 128 bits of a keyed hash."""
    return body_digest[:BODY_DIGITS]


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """The records to read; a field of None does not filter.

    Args:
        to_ms: end of the range, exclusive. Both `from_ms` and `to_ms` are event times.
        after: writer → last number already read; writers that are not named are read from the
            start.
        unit: pseudonym of a customer (`Record.unit`); the read opens every file for it.
        decision_id_starts: first digits of the decision ids, for example the id of a trace that
            began with the decision.
        decision_ids: records of any of these decisions; for one decision, `decision_id` costs less.
        limit: most records of each writer; the first ones are read.
        columns: names of records.COLUMNS; the payload is read only if it is named here.
    """

    model: str | None = None
    kinds: tuple[Kind, ...] = KINDS
    from_ms: int | None = None
    to_ms: int | None = None
    generation: int | None = None
    rollout_id: str | None = None
    decision_id: str | None = None
    decision_id_starts: str | None = None
    decision_ids: tuple[str, ...] | None = None
    unit: int | None = None
    after: Mapping[str, int] | None = None
    limit: int | None = None
    columns: tuple[str, ...] = SCALARS


@dataclass(frozen=True, slots=True)
class Watermark:
    """A writer's progress: its last number, and the event time that it has reached.

    A live writer has sent a heartbeat lately and has not closed; a range that reaches past the
    event time of a live writer is not complete. While records of a writer are spilled it counts as
    live, and its event time is at most that of the oldest of them. A writer whose records come from
    a log elsewhere is live until that log says that it has closed, and `unheard` while nothing
    comes of it. `chain` is the writer's chain after its last record (hexadecimal); None if the log
    has no record of it, and in evidence of earlier releases.
    """

    writer: str
    seq: int
    event_ms: int | None
    heartbeat_at_ms: int
    live: bool
    spilled: int = 0
    unheard: bool = False
    chain: str | None = None


@dataclass(frozen=True, slots=True)
class WriterHead:
    """The end of a writer's chain: the number of its last record, and the chain after it."""

    seq: int
    chain: str


@dataclass(frozen=True, slots=True)
class NamedHead:
    """The end of a writer's chain when something was based on it, and the name of that."""

    writer: str
    head: WriterHead
    basis_of: str


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """The head to anchor outside the log: number of segments, digest of the last entry, writer
    heads.

    The heads reach past the sealed segments, to the last record at the time of sealing.
    """

    count: int
    digest: str
    writers: Mapping[str, WriterHead]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of a check of the whole log: one plain sentence per finding.

    `spilled` records are whole, and not in the log yet; they belong to no chain so far. Payloads
    of `erased` records are gone by an erasure that is on record, and all else of them is whole.
    """

    records: int
    segments: int
    writers: int
    findings: tuple[str, ...]
    spilled: int = 0
    erased: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings


class StoredAnswers(Protocol):
    """Stored answers, by the client's key for the request."""

    def find(self, client: str, model: str, key: str) -> StoredAnswer | None: ...


class DecisionLog(Protocol):
    """The decision log: append-only, numbered and hash-chained per writer. Every method may be
    called at any time."""

    def append(self, writer: str, entries: Sequence[Entry]) -> list[Outcome]:
        """Make all entries durable in one transaction. Returns the outcomes in the order of the
        entries.

        Raises:
            StaleFence: another process has written under this writer's name; the caller must stop.
            InputInvalid: a record cannot be stored; nothing of the batch was written.
        """
        ...

    def read(self, query: RecordQuery) -> pa.Table:
        """The records of the query, ordered by writer and number, with the query's columns."""
        ...

    def seal(self) -> ManifestHead:
        """Move the records that have piled up into immutable segments. Returns the head to anchor
        elsewhere.

        Raises:
            Busy: another process is sealing.
            Corrupt: a record to be sealed does not match its digest; nothing of it was sealed.
        """
        ...

    def verify(
        self, anchor: ManifestHead | None = None, *, heads: Sequence[NamedHead] = ()
    ) -> VerifyReport:
        """Check every digest, every chain, every segment, and the anchor if there is one.

        Args:
            heads: earlier ends of writers, through which their chains still have to go.
        """
        ...

    def watermarks(self) -> list[Watermark]:
        """One watermark per writer, sorted by name."""
        ...
