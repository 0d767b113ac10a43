"""What a record is hashed as, and what it refuses to be."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from mlplatform.decisions.records.record import (
    COLUMNS,
    SCALARS,
    Record,
    arrow_schema,
    link,
    record_digest,
    stored_form,
)
from mlplatform.runtime.errors import InputInvalid


def record(**changes: Any) -> Record:
    fields = {
        "kind": "decision",
        "decision_id": "d1",
        "model": "fraud",
        "event_ms": 1_000,
        "recorded_ms": 2_000,
        **changes,
    }
    return Record(**fields)


def test_columns_are_the_fields_of_a_record_after_writer_and_number() -> None:
    """A field that is added to Record and not to COLUMNS would be lost silently."""
    assert list(COLUMNS) == ["writer", "seq", *Record.__struct_fields__]


def test_the_arrow_schema_follows_the_columns_asked_for() -> None:
    """Readers name columns in their own order."""
    assert arrow_schema(("score", "seq")).names == ["score", "seq"]
    assert len(arrow_schema(SCALARS)) == len(COLUMNS) - 1


@pytest.mark.parametrize(
    "change",
    [
        {"decision_id": "d2"},
        {"event_ms": 1_001},
        {"score": 0.5},
        {"degraded": True},
        {"label": 1},
        {"unit": -1},
        {"payload": {"request": {"amount": 1.5}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_changes_the_digest(change: dict[str, Any]) -> None:
    """A changed field can't keep its digest."""
    assert _digest(record()) != _digest(record(**change))


def test_writer_and_number_are_part_of_the_digest() -> None:
    """A record can't be moved to another place or writer."""
    form = stored_form(record())
    digests = {
        record_digest(writer, seq, form.scalars, form.payload_digest)
        for writer, seq in (("a", 1), ("a", 2), ("b", 1))
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("expected", "of"),
    [
        (
            "b55e7e7e68feda3a4f8e7f2f7fb30798f2374e3aa74ed636878d08a36fdd592d",
            record(
                generation=7,
                rollout_id="r1",
                arm="champion",
                answered_by="champion",
                unit=-5,
                bucket=42,
                version=3,
                bundle="ab12",
                score=0.25,
                decision="review",
                degraded=True,
                degraded_reason="deadline",
                latency_us=900,
                payload={"request": {"amount": 1.5}},
            ),
        ),
        (
            "db9c6a18b957d557c9660971032208867f37b61f7244e621ec00cfb80429a464",
            record(kind="label", label=1),
        ),
    ],
    ids=["a decision", "a label, most of whose fields are null"],
)
def test_a_record_keeps_the_digest_that_logs_on_disk_have(expected: str, of: Record) -> None:
    """Another column, order or encoding would make `log verify` report all old records as changed:
    what a record is to hold besides goes into its payload."""
    assert expected == _digest(of).hex()


def test_the_digest_needs_no_payload_only_its_digest() -> None:
    """An erased payload leaves the chain whole."""
    form = stored_form(record(payload={"request": {"amount": 1.5}}))
    assert form.payload_digest == hashlib.sha256(form.payload.encode()).digest()
    assert form.payload not in repr(form.scalars)


def test_the_chain_is_the_hash_of_the_chain_before_and_the_digest() -> None:
    """The formula that auditors recompute."""
    assert link(b"a" * 32, b"b" * 32) == hashlib.sha256(b"a" * 32 + b"b" * 32).digest()


def test_minus_zero_is_stored_as_zero() -> None:
    """SQLite does not keep the sign of zero, and a digest must be recomputable."""
    assert _digest(record(score=-0.0)) == _digest(record(score=0.0))


def test_a_whole_score_is_stored_as_a_float() -> None:
    """An int would be hashed as 1 and read back as 1.0."""
    assert _digest(record(score=1)) == _digest(record(score=1.0))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"score": float("nan")}, "score"),
        ({"score": float("inf")}, "score"),
        ({"label": 2}, "label"),
        ({"label": True}, "label"),
        ({"event_ms": 1.5}, "event_ms"),
        ({"event_ms": None}, "event_ms"),
        ({"degraded": 1}, "degraded"),
        ({"unit": "7"}, "unit"),
        ({"payload": {"when": object()}}, "payload"),
    ],
)
def test_a_value_that_would_not_read_back_the_same_is_refused(
    change: dict[str, Any], named: str
) -> None:
    """The error names the record and the field."""
    with pytest.raises(InputInvalid, match=rf"d1.*{named}"):
        stored_form(record(**change))


def test_payload_keeps_its_values_through_json() -> None:
    """Floats are written in their shortest exact form."""
    payload = {"features": {"a": 0.1 + 0.2, "b": None, "c": 1e-300}}
    assert msgspec.json.decode(stored_form(record(payload=payload)).payload) == payload


def _digest(of: Record) -> bytes:
    form = stored_form(of)
    return record_digest("gw", 1, form.scalars, form.payload_digest)
