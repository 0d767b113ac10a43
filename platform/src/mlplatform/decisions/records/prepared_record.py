"""A record ready to be appended: in its stored form, with the answer to keep for retries."""

from __future__ import annotations

from typing import Final

import msgspec

from mlplatform.decisions.records.port import Entry, Idempotency
from mlplatform.decisions.records.record import Record, Sealable, stored_form
from mlplatform.runtime.errors import InputInvalid

_FIELDS = tuple(Record.__struct_fields__)
_KIND: Final = _FIELDS.index("kind")
_DECISION_ID: Final = _FIELDS.index("decision_id")
_MODEL: Final = _FIELDS.index("model")
_EVENT_MS: Final = _FIELDS.index("event_ms")
_SCORE: Final = _FIELDS.index("score")
_UNIT: Final = _FIELDS.index("unit")
_INT64: Final = 2**63
Key = tuple[str, str, str]


class StorableRecord(msgspec.Struct, frozen=True):
    """A record in the form in which it is appended and spilled; reading a spill back gives the same
    bytes."""

    form: Sealable
    idempotency: Idempotency | None = None

    @property
    def kind(self) -> str:
        return str(self.form.scalars[_KIND])

    @property
    def decision_id(self) -> str:
        return str(self.form.scalars[_DECISION_ID])

    @property
    def model(self) -> str:
        return str(self.form.scalars[_MODEL])

    @property
    def score(self) -> float | None:
        score: float | None = self.form.scalars[_SCORE]
        return score

    @property
    def unit(self) -> int | None:
        unit: int | None = self.form.scalars[_UNIT]
        return unit

    @property
    def key(self) -> Key | None:
        """Client, model and key of the record's claim, if it has one."""
        idempotency = self.idempotency
        return None if idempotency is None else (idempotency.client, self.model, idempotency.key)

    @property
    def ended(self) -> tuple[Key, ...]:
        """The claims that end with this record."""
        idempotency = self.idempotency
        return (
            ()
            if idempotency is None
            else tuple((idempotency.client, self.model, k) for k in idempotency.ends)
        )

    @property
    def event_ms(self) -> int:
        return int(self.form.scalars[_EVENT_MS])


def prepared(entry: Entry) -> StorableRecord:
    """The entry in the form in which it will be appended.

    Raises:
        InputInvalid: the record cannot be stored; `stored_form` says why.
    """
    return StorableRecord(stored_form(entry.record), entry.idempotency)


def check_storable(one: StorableRecord) -> None:
    """Check for values that a database would refuse, for a record that goes to no database now.

    Raises:
        InputInvalid: a number beyond 64 bits, or text that is not Unicode.
    """
    for value in one.form.scalars:
        if isinstance(value, int) and not -_INT64 <= value < _INT64:
            raise InputInvalid(f"record {one.decision_id!r}", None, f"{value} has over 64 bits")
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise InputInvalid(f"record {one.decision_id!r}", None, str(error)) from error
