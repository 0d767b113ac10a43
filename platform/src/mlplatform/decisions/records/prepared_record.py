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
    """What is appended, and what is spilled: reading a spill back gives the same bytes."""

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
        """Client, model and key of its claim, if it comes with one."""
        idempotency = self.idempotency
        return None if idempotency is None else (idempotency.client, self.model, idempotency.key)

    @property
    def ended(self) -> tuple[Key, ...]:
        """The claims that end with it."""
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
    """The entry as it will be appended.

    Raises:
        InputInvalid: it is no record that can be stored; see stored_form.
    """
    return StorableRecord(stored_form(entry.record), entry.idempotency)


def check_storable(one: StorableRecord) -> None:
    """Checks what a database would refuse, where the record goes to none now.

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
