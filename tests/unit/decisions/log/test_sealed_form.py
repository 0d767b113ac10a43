"""What a sealed file leaves out is computed again to the bit, and a change of it is found."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.decisions.log import sealed_form, segments
from mlplatform.decisions.log.chains import Chain
from mlplatform.decisions.records.record import (
    GENESIS,
    STORED,
    Record,
    arrow_table,
    link,
    record_digest,
    stored_form,
)

Row = tuple[Any, ...]
BROKEN_LINK = "does not follow record 2: one of the two was changed"
OWN = "01a233c4682c6dd3482d5a4b970b13392358a4394f"
IDS = st.one_of(
    st.binary(min_size=21, max_size=21).map(bytes.hex),
    st.sampled_from([OWN.upper(), OWN[:32], OWN[:41] + "g", f"{OWN}\n", OWN[:41] + "0"]),
    st.text(st.characters(codec="utf-8"), max_size=50),
)


def stored(ids: Sequence[str], *, gone: Sequence[bool] = (), writer: str = "gw") -> list[Row]:
    """Records of these decisions as SQLite holds them, some with their payload erased."""
    chain, made = GENESIS, []
    for seq, decision_id in enumerate(ids, start=1):
        own = random.Random(seq)
        request = {f"field_{n}": round(own.lognormvariate(3, 1), 2) for n in range(12)}
        record = Record(
            kind="decision",
            decision_id=decision_id,
            model="fraud",
            event_ms=1_700_000_000_000 + seq * 37,
            recorded_ms=1_700_000_000_001 + seq * 37,
            generation=3,
            arm="champion",
            answered_by="champion",
            unit=own.randrange(10**6),
            bucket=own.randrange(10_000),
            version=4,
            bundle="a" * 64,
            score=own.random(),
            decision="approve",
            latency_us=own.randrange(900, 4_000),
            payload={"client": "shop", "request": request},
        )
        form = stored_form(record)
        digest = record_digest(writer, seq, form.scalars, form.payload_digest)
        chain = link(chain, digest)
        payload = None if seq <= len(gone) and gone[seq - 1] else form.payload
        made.append((writer, seq, *form.scalars, form.payload_digest, digest, chain, payload))
    return made


def own_ids(count: int) -> list[str]:
    """Ids as a gateway makes them: time, random digits, the process and the client."""
    draw = random.Random(1)
    return [
        f"{(1_700_000_000_000 + n * 37):012x}{draw.getrandbits(40):010x}970b1339"
        f"{draw.getrandbits(8):02x}2358a4394f"
        for n in range(count)
    ]


def read(path: Path) -> list[Row]:
    return [row for batch in segments.stored(path) for row in batch]


def change(row: Row, **values: Any) -> Row:
    return tuple(values.get(name, old) for name, old in zip(STORED, row, strict=True))


@given(st.lists(st.tuples(IDS, st.booleans()), min_size=1, max_size=8))
def test_a_sealed_file_gives_the_stored_records_back(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[str, bool]]
) -> None:
    """Ids of every form, with and without payloads: each column and each digest to the bit."""
    path = tmp_path_factory.mktemp("form") / "s.parquet"
    rows = stored([one for one, _ in made], gone=[gone for _, gone in made])
    segments.write(path, rows)
    assert read(path) == rows
    assert list(Chain("gw", 0, GENESIS).follow(next(segments.records(path)))) == []


def test_files_of_earlier_releases_become_the_same_file(tmp_path: Path) -> None:
    """They hold every column; merged or written again, they lose what follows from the others."""
    rows = stored([*own_ids(40), "act-1"], gone=[False, True])
    old = tmp_path / "old.parquet"
    pq.write_table(arrow_table(rows, segments.stored_schema()), old)
    assert read(old) == rows
    new = tmp_path / "new.parquet"
    segments.write(new, rows)
    assert segments.read_table(old).equals(segments.read_table(new))


def test_a_sealed_record_is_far_smaller_than_with_every_column(tmp_path: Path) -> None:
    """Digests do not compress; two of three follow from the rest."""
    rows = stored(own_ids(3_000))
    old, new = tmp_path / "old.parquet", tmp_path / "new.parquet"
    pq.write_table(arrow_table(rows, segments.stored_schema()), old, compression="zstd")
    segments.write(new, rows)
    assert new.stat().st_size < 0.65 * old.stat().st_size


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"score": 0.9}, BROKEN_LINK),
        ({"payload": '{"client":"else"}'}, BROKEN_LINK),
        ({"decision_id": OWN}, BROKEN_LINK),
        ({"payload": None, "payload_digest": b"x" * 32}, BROKEN_LINK),
        ({"chain": b"x" * 32}, BROKEN_LINK),
    ],
    ids=["score", "payload", "decision", "digest of no payload", "chain"],
)
def test_a_change_of_a_sealed_record_is_found(
    tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    """The chain covers what the file leaves out."""
    rows = stored(own_ids(5))
    rows[2] = change(rows[2], **values)
    path = tmp_path / "s.parquet"
    segments.write(path, rows)
    found = [one for b in segments.records(path) for one in Chain("gw", 0, GENESIS).follow(b)]
    assert found[0].startswith("record 3 of writer gw")
    assert said in found[0]


def test_a_record_with_neither_payload_nor_digest_is_damaged(tmp_path: Path) -> None:
    """Nothing would bind it to its payload."""
    rows = stored(own_ids(3))
    rows[1] = change(rows[1], payload=None, payload_digest=None)
    path = tmp_path / "s.parquet"
    segments.write(path, rows)
    found = [one for b in segments.records(path) for one in Chain("gw", 0, GENESIS).follow(b)]
    assert "a record after 1 of writer gw has a value of wrong type" in found[0]


def test_a_payload_that_goes_leaves_its_digest() -> None:
    """The digest of the record can be computed without the payload."""
    rows = stored(own_ids(4), gone=[True])
    table = sealed_form.sealed(arrow_table(rows, segments.stored_schema()))
    assert table.column("payload_digest").is_valid().to_pylist() == [True, False, False, False]
    goes = pc.less(table.column("seq"), pa.scalar(3))
    left = sealed_form.without_payloads(table, goes)
    (batch,) = left.to_batches()
    wanted = [change(row, payload=None) if row[1] < 3 else row for row in rows]
    assert [sealed_form.whole(row) for row in sealed_form.rows(batch)] == wanted


@given(st.lists(IDS, min_size=1, max_size=6), st.integers(0, 5), st.integers(0, 42))
def test_ids_match_as_their_texts_do(ids: list[str], place: int, length: int) -> None:
    """Whole ids and beginnings, whatever their form, in a slice of a batch too."""
    rows = stored([*ids, OWN])
    (batch,) = sealed_form.sealed(arrow_table(rows, segments.stored_schema())).to_batches()
    part, left = batch.slice(1), [*ids, OWN][1:]
    asked = [*ids, OWN][place % (len(ids) + 1)]
    one = sealed_form.matching_ids(part, one_of=[asked, "no"], starts=None).to_pylist()
    assert one == [text == asked for text in left]
    found = sealed_form.matching_ids(part, one_of=None, starts=asked[:length]).to_pylist()
    assert found == [text.startswith(asked[:length]) for text in left]
