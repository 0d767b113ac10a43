"""Erasures on record: the payloads that an act has removed from the log, by whom and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Corrupt

WRITERS: Final = "erasure-"
"""Prefix of the names of writers of erasures; a log has one such writer of its own."""


class Erasure(msgspec.Struct, frozen=True, omit_defaults=True):
    """The payload of an erasure record; one act has such a record for each decision, and one for
    each model whose external views had rows of the unit.

    Args:
        act: id that all records of the act share.
        by: name of the person who erased, as that person gave it.
        records: writer → numbers of the records whose payload is erased.
        views: names of the external views whose rows are removed.
    """

    act: str
    by: str
    reason: str
    records: dict[str, list[Annotated[int, Meta(ge=1)]]]
    views: list[str] = []


_decode = msgspec.json.Decoder(Erasure).decode


def erasure_record(
    decision_id: str,
    model: str,
    erasure: Erasure,
    *,
    event_ms: int,
    recorded_ms: int,
    unit: int | None = None,
) -> Entry:
    """The record that erases payloads of a decision, or rows of a unit in views; the id of the
    latter is the act's."""
    record = Record(
        kind="erasure",
        decision_id=decision_id,
        model=model,
        event_ms=event_ms,
        recorded_ms=recorded_ms,
        unit=unit,
        payload=msgspec.to_builtins(erasure),
    )
    return Entry(record)


def erasure_of(payload: str | None) -> Erasure:
    """The erasure in a record's payload.

    Raises:
        Corrupt: the payload is not that of an erasure.
    """
    try:
        return _decode(payload or "")
    except NOT_JSON as error:
        raise Corrupt(f"the payload of an erasure is not what was logged: {error}") from error


def numbers_of(erasures: Iterable[Erasure]) -> dict[str, set[int]]:
    """The numbers, by writer, of all records whose payload these erase."""
    found: dict[str, set[int]] = {}
    for erasure in erasures:
        for writer, numbers in erasure.records.items():
            found.setdefault(writer, set()).update(numbers)
    return found


def acts_on(records: Sequence[Mapping[str, Any]]) -> list[tuple[Erasure, int]]:
    """The acts among the records of one decision, each with its wall time in milliseconds.

    Args:
        records: the decision's records as `lookup.logged_records` returns them, with parsed
            payloads.

    Raises:
        Corrupt: the payload of an erasure record is damaged.
    """
    try:
        return [
            (msgspec.convert(one["payload"], Erasure), one["recorded_ms"])
            for one in records
            if one["kind"] == "erasure"
        ]
    except msgspec.ValidationError as error:
        raise Corrupt(f"the payload of an erasure is not what was logged: {error}") from error
