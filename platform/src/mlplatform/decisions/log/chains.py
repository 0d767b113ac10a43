"""Whether stored records match their digests and follow one another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mlplatform.decisions.records.record import SCALARS, STORED, link, record_digest
from mlplatform.decisions.records.retention import AbsentPayload, ExpiredRange

_SEQ: Final = STORED.index("seq")
_DECISION_ID: Final = STORED.index("decision_id")
_DEGRADED: Final = STORED.index("degraded")
_CHAIN: Final = STORED.index("chain")
_PAYLOAD: Final = STORED.index("payload")
_END: Final = len(SCALARS)
_PLACES: Final = tuple(STORED.index(name) for name in AbsentPayload._fields[1:])


@dataclass(slots=True)
class Chain:
    """A walk along one writer's records; `seq` and `chain` are those of the last record seen.

    Args:
        marks: numbers of the records whose chain the walk stores in `marked`.
        expired: ranges of records whose payloads were removed because of their age. `gone` counts
            the payloads that these ranges explain.
        absent: other records without a payload. Their digests are still checked; only the log knows
            whether their erasure is on record.
    """

    writer: str
    seq: int
    chain: bytes
    records: int = 0
    marks: frozenset[int] = frozenset()
    marked: dict[int, bytes] = field(default_factory=dict)
    expired: Sequence[ExpiredRange] = ()
    gone: int = 0
    absent: list[AbsentPayload] = field(default_factory=list)

    def follow(self, rows: Sequence[Sequence[Any]]) -> Iterator[str]:
        """Continue the walk over stored records in the order of their numbers. Yields a sentence
        per finding. A payload that can't be read is bytes.

        After a finding the walk continues from what is stored, so that one change gives one
        finding.
        """
        for row in rows:
            if not _well_formed(row):
                yield f"a record after {self.seq} of writer {self.writer} has a value of wrong type"
                continue
            seq, chain, payload = row[_SEQ], row[_CHAIN], row[_PAYLOAD]
            if seq > self.seq + 1:
                yield f"{self._range(self.seq + 1, seq - 1)} missing"
            problem = self._problem(row)
            if problem is not None:
                decision = f"(decision {row[_DECISION_ID]})"
                yield f"record {seq} of writer {self.writer} {decision} {problem}"
            elif payload is None:
                self._note(AbsentPayload(seq, *(row[place] for place in _PLACES)))
            self.continue_from(seq, chain)
            self.records += 1

    def _problem(self, row: Sequence[Any]) -> str | None:
        payload_digest, digest, chain, payload = row[_END:]
        if isinstance(payload, bytes):
            return "was changed: its payload can't be read"
        scalars = [*row[2:_END]]
        scalars[_DEGRADED - 2] = bool(scalars[_DEGRADED - 2])
        if payload_digest is None:  # only those are stored that nothing else determines
            payload_digest = hashlib.sha256(payload.encode()).digest()
        computed = record_digest(self.writer, row[_SEQ], scalars, payload_digest)
        problem = _problem(computed, payload_digest, digest, payload)
        follows = row[_SEQ] != self.seq + 1 or link(self.chain, computed) == chain
        if problem is None and not follows:
            return f"does not follow record {self.seq}: one of the two was changed"
        return problem

    def _note(self, absent: AbsentPayload) -> None:
        if any(one.covers(absent) for one in self.expired):
            self.gone += 1
        else:
            self.absent.append(absent)

    def continue_from(self, seq: int, chain: bytes) -> None:
        """Continue from here, whatever was seen before."""
        self.seq, self.chain = seq, chain
        if seq in self.marks:
            self.marked[seq] = chain

    def ends(self, seq: int, chain: bytes, source: str) -> Iterator[str]:
        """Compare the end of the walk with the end that another source names."""
        if self.seq < seq:
            yield f"{self._range(self.seq + 1, seq)} missing at the end; {source} ends at {seq}"
        elif self.seq > seq:
            yield f"{self._range(seq + 1, self.seq)} beyond the end; {source} ends at {seq}"
        elif self.chain != chain:
            yield f"record {seq} of writer {self.writer} is not the one that {source} names"

    def _range(self, first: int, last: int) -> str:
        if first == last:
            return f"record {first} of writer {self.writer} is"
        return f"records {first} to {last} of writer {self.writer} are"


def _well_formed(row: Sequence[Any]) -> bool:
    payload_digest, digest, chain, payload = row[_END:]
    digests = isinstance(chain, bytes) and isinstance(digest, bytes | None)
    is_bound = isinstance(payload_digest, bytes) or (payload_digest is None and payload is not None)
    is_whole = digests and is_bound and isinstance(payload, str | bytes | None)
    return isinstance(row[_SEQ], int) and is_whole


def _problem(
    computed: bytes, payload_digest: bytes, digest: bytes | None, payload: str | None
) -> str | None:
    if digest is not None and computed != digest:
        return "was changed: its fields are not what its digest says"
    if payload is not None and hashlib.sha256(payload.encode()).digest() != payload_digest:
        return "was changed: its payload is not what its digest says"
    return None
