"""The packed form of records that are not sealed: what was written comes back byte for byte."""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplatform.decisions.log.sealed_form import whole
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records import payload_shapes, unsealed_records
from mlplatform.decisions.records.payload_shapes import PayloadPacker, PayloadReader
from mlplatform.decisions.records.port import Entry, RecordQuery
from mlplatform.decisions.records.record import (
    COLUMNS,
    GENESIS,
    STORED,
    Record,
    link,
    record_digest,
    stored_form,
)
from mlplatform.decisions.records.tables import DATABASE, SCHEMA, unsealed_rows
from mlplatform.decisions.records.unsealed_records import UnsealedWriter
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.storage.sql import Schema

EARLIER = Schema(SCHEMA.part, SCHEMA.steps[:6])
"""The release before this form."""
NUMBER = (
    st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, 1e16, 1e-7, 5e-324, 1.7976931348623157e308, None])
)
WORD = (
    st.text(max_size=8) | st.booleans() | st.sampled_from(['a"b', "a\\b", "a\nb", ":", ",", "%s"])
)
VALUE = st.recursive(
    NUMBER | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
PAYLOAD = st.dictionaries(st.text(max_size=5), VALUE, max_size=5)
REQUEST = {"customer_id": 17, "amount": 12.5, "is_new": True, "note": "from home", "age": None}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite.connect(tmp_path / DATABASE, schema=SCHEMA)) as db:
        yield db


def rows(*records: Record, writer: str = "gw") -> list[tuple[Any, ...]]:
    """Stored records, numbered from 1."""
    chain, made = GENESIS, []
    for seq, record in enumerate(records, start=1):
        form = stored_form(record)
        digest = record_digest(writer, seq, form.scalars, form.payload_digest)
        chain = link(chain, digest)
        digests = (form.payload_digest, digest, chain)
        made.append((writer, seq, *form.scalars, *digests, form.payload))
    return made


def decision(number: int, payload: dict[str, Any], **fields: Any) -> Record:
    defaults: dict[str, Any] = {"kind": "decision", "model": "fraud", "recorded_ms": 2_000}
    named = f"{hashlib.sha256(str(number).encode()).hexdigest()[:42]}"
    values = {"decision_id": named, "event_ms": 1_000 + number, "payload": payload}
    return Record(**{**defaults, **values, **fields})


def size(db: sqlite3.Connection) -> int:
    """Bytes of the last row's payload as it is stored."""
    query = (
        "SELECT length(numbers), length(CAST(payload AS BLOB)) FROM unsealed ORDER BY place DESC"
    )
    numbers, payload = db.execute(query).fetchone()
    return (numbers or 0) + (payload or 0)


@given(payloads=st.lists(PAYLOAD, min_size=1, max_size=4), twice=PAYLOAD)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_payloads_come_back_byte_for_byte(
    payloads: list[dict[str, Any]], twice: dict[str, Any]
) -> None:
    """Of whatever shape; from the third record of a shape on they are packed."""
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in payload_shapes.STEP:
            db.execute(statement)
        packer, reader = PayloadPacker(db, checks=False), PayloadReader(db)
        for payload in [twice, *payloads, twice, twice, *payloads, twice, *payloads]:
            text = stored_form(decision(1, payload)).payload
            assert reader.text(packer.pack(1, text)) == text


SMALL: Final = ("a", "b", "", 1, -2.5, None, True, False, [], {})
NESTED: Final = (
    *SMALL,
    *([one] for one in SMALL),
    *([one, other] for one, other in itertools.product(("a", 1, []), repeat=2)),
    *({name: one} for name in "ab" for one in SMALL[:8]),
)


def test_no_payload_is_taken_for_one_of_another_shape() -> None:
    """Every pair of hundreds of small payloads, whose names and strings are the same."""
    payloads = [{"a": one} for one in NESTED]
    payloads += [{"a": one, "b": other} for one in NESTED[:16] for other in NESTED[:16]]
    texts = [stored_form(decision(1, payload)).payload for payload in payloads]
    shapes = {}
    for text in texts:
        found = payload_shapes.with_marks(text)
        if payload_shapes.is_without_values(found):
            shapes[found] = payload_shapes.Shape(len(shapes), found)
    packed = 0
    for text in texts:
        pieces = text.split('"')
        for shape in shapes.values():
            values = shape.pack(pieces)
            if values is not None:
                packed += 1
                assert shape.unpack(values[1] or b"", values[2] or "") == text
    assert packed > 0.9 * len(texts)
    assert not payload_shapes.is_without_values(payload_shapes.with_marks('{"a": [ ]}'))
    assert not payload_shapes.is_without_values(payload_shapes.with_marks('{"a":[1 ]}'))


@given(texts=st.lists(st.text('{}[]":,01e.-nulltrue\\ \n\x01\x02%', max_size=12), max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_text_from_elsewhere_comes_back(texts: list[str]) -> None:
    """A topic may hold what no gateway writes."""
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in payload_shapes.STEP:
            db.execute(statement)
        packer, reader = PayloadPacker(db, checks=True), PayloadReader(db)
        for text in [*texts, *texts, *texts]:
            assert reader.text(packer.pack(1, text)) == text


def test_text_that_only_looks_like_a_known_shape_is_kept_as_it_is() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in payload_shapes.STEP:
            db.execute(statement)
        packer, reader = PayloadPacker(db, checks=True), PayloadReader(db)
        for text in ['{"a":{"b":5},"c":6}'] * 2 + ['{"a":5{"b":},"c":6}']:
            packed = packer.pack(1, text)
            assert reader.text(packed) == text
        assert packed == (None, None, text)


def test_what_payloads_have_in_common_is_stored_once(db: sqlite3.Connection) -> None:
    """From the second on: one that comes once has no shape."""
    writer = UnsealedWriter(db)
    features = {f"feature_{n}": n / 7 for n in range(12)}
    made = rows(
        *(decision(n, {"request": {**REQUEST, "customer_id": n}, **features}) for n in range(40))
    )
    for row in made:
        writer.insert([row])
    assert len(made[-1][-1]) > 400
    assert size(db) < 150
    (text,) = (text for (text,) in db.execute("SELECT text FROM payload_shapes"))
    assert not any(value in text for value in ("17", "12.5", "home", "0.14"))
    assert [whole(row) for row in unsealed_rows(db, "gw", after=0)] == made


def test_a_shape_holds_nothing_that_a_payload_says(db: sqlite3.Connection) -> None:
    """An erased payload leaves no word, wherever in it that was."""
    writer = UnsealedWriter(db)
    payload = {"a": ["Ann", [["Ann"]], {"b": "Ann", "c": [4711, "Ann"]}], "d": [True, None, {}]}
    writer.insert(rows(*(decision(n, payload) for n in range(5))))
    (text,) = db.execute("SELECT text FROM payload_shapes").fetchone()
    assert "Ann" not in text
    assert "4711" not in text
    unsealed_records.remove_payloads(db, "gw", range(1, 6))
    held = db.execute("SELECT shape, numbers, payload FROM unsealed_records").fetchall()
    assert set(held) == {(None, None, None)}
    digests = {row[STORED.index("payload_digest")] for row in unsealed_rows(db, "gw", after=0)}
    assert digests == {stored_form(decision(1, payload)).payload_digest}


def test_payloads_without_anything_in_common_make_few_shapes(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither shapes that come once, nor more than a log may have."""
    monkeypatch.setattr(payload_shapes, "MOST_SHAPES", 3)
    packer = PayloadPacker(db, checks=False)
    reader = PayloadReader(db)
    for number in range(2_000):
        text = f'{{"a{number}":1}}'
        assert reader.text(packer.pack(1, text)) == text
    assert db.execute("SELECT count(*) FROM payload_shapes").fetchone() == (0,)
    for context in range(2, 12):
        for _ in range(3):
            text = f'{{"b{context}":{context}}}'
            assert reader.text(packer.pack(context, text)) == text
    assert db.execute("SELECT count(*) FROM payload_shapes").fetchone() == (3,)


def test_a_failed_transaction_leaves_no_number_behind(db: sqlite3.Connection) -> None:
    """What it added to the tables is gone, and is added again."""
    writer = UnsealedWriter(db)
    made = rows(*(decision(n, {"request": REQUEST}) for n in range(6)))
    with pytest.raises(OverflowError), sqlite.transaction(db):
        writer.insert([*made[:4], ("gw", 2**40, *made[5][2:])])
    writer.forget()
    assert unsealed_rows(db, "gw", after=0) == []
    writer.insert(made)
    assert [whole(row) for row in unsealed_rows(db, "gw", after=0)] == made


def test_writers_do_not_mix(db: sqlite3.Connection) -> None:
    writer = UnsealedWriter(db)
    for name in ("a", "b", "c"):
        writer.insert(rows(*(decision(n, REQUEST) for n in range(5)), writer=name))
    unsealed_records.delete(db, "b", 3)
    found = {
        name: [seq for (seq,) in unsealed_records.select(db, ("seq",), name)] for name in "abcd"
    }
    assert found == {"a": [1, 2, 3, 4, 5], "b": [4, 5], "c": [1, 2, 3, 4, 5], "d": []}
    assert unsealed_records.select(db, ("writer", "seq"), "a", after=1, last=3) == [
        ("a", 2),
        ("a", 3),
    ]
    unsealed_records.delete(db, "b", 5)
    assert unsealed_records.writers(db) == ["a", "c"]


@pytest.mark.parametrize(
    "decision_id", ["d1", "ab" * 21, "AB" * 21, "a " * 21, "ab" * 16, "ü" * 42]
)
def test_ids_of_any_form_are_found(tmp_path: Path, decision_id: str) -> None:
    with closing(SqliteDecisionLog(tmp_path)) as log:
        log.append("gw", [Entry(decision(n, {})) for n in range(3)])
        log.append("gw", [Entry(decision(9, {}, decision_id=decision_id))])
        for query in (
            RecordQuery(decision_id=decision_id),
            RecordQuery(decision_ids=(decision_id, "?")),
            RecordQuery(decision_id_starts=decision_id[:9]),
        ):
            assert log.read(query).column("decision_id").to_pylist() == [decision_id]
        assert log.read(RecordQuery(decision_ids=())).num_rows == 0


def test_a_payload_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with closing(SqliteDecisionLog(tmp_path, segment_rows=(1, 100))) as log:
        log.append("gw", [Entry(decision(n, REQUEST)) for n in range(5)])
        with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as db:
            db.execute("DELETE FROM payload_shapes")
        with pytest.raises(Corrupt, match="log verify"):
            log.read(RecordQuery(columns=("payload",)))
        assert any("its payload can't be read" in one for one in log.verify().findings)
        with pytest.raises(Corrupt, match="record 2 of writer gw"):
            log.seal()


def test_a_log_of_before_this_form_goes_on(tmp_path: Path) -> None:
    """Its rows keep their digests and chain, one without its payload included."""
    numbers = range(30)
    made = rows(*(decision(n, {**REQUEST, "n": n}, label=n % 2, version=n % 3) for n in numbers))
    gone = (*made[4][:-1], None)
    with closing(sqlite.connect(tmp_path / DATABASE, schema=EARLIER)) as db, db:
        marks = ",".join("?" * len(STORED))
        db.executemany(f"INSERT INTO records VALUES ({marks})", [*made[:4], gone, *made[5:]])
        head = ("gw", 30, made[-1][STORED.index("chain")], 1_030, 0, 0, 1)
        db.execute("INSERT INTO writers VALUES (?, ?, ?, ?, ?, ?, ?)", head)
    with closing(SqliteDecisionLog(tmp_path, segment_rows=(1, 100))) as log:
        with closing(sqlite.connect(tmp_path / DATABASE)) as db:
            moved = [whole(row) for row in unsealed_rows(db, "gw", after=0)]
        assert moved == [*made[:4], gone, *made[5:]]
        (finding,) = log.verify().findings
        assert finding.endswith("has lost its payload, and no erasure is on record")
        named = made[7][STORED.index("decision_id")]
        assert log.read(RecordQuery(decision_id=named)).num_rows == 1
        log.append("gw", [Entry(decision(n, REQUEST)) for n in range(30, 40)])
        query = RecordQuery(columns=tuple(COLUMNS))
        before = log.read(query)
        log.seal()
        assert log.read(query).equals(before)
        assert before.num_rows == 40
        assert [finding] == list(log.verify().findings)
