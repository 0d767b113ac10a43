"""The walk along a writer's records names the one that is wrong, and only that one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mlplatform.decisions.log.chains import Chain
from mlplatform.decisions.records.record import (
    GENESIS,
    STORED,
    Record,
    link,
    record_digest,
    stored_form,
)

Row = tuple[Any, ...]


def rows(count: int, writer: str = "gw") -> list[Row]:
    chain = GENESIS
    made = []
    for seq in range(1, count + 1):
        record = Record(
            kind="decision", decision_id=f"d{seq}", model="fraud", event_ms=seq, recorded_ms=seq
        )
        form = stored_form(record)
        digest = record_digest(writer, seq, form.scalars, form.payload_digest)
        chain = link(chain, digest)
        made.append((writer, seq, *form.scalars, form.payload_digest, digest, chain, form.payload))
    return made


def change(row: Row, **values: Any) -> Row:
    return tuple(values.get(name, old) for name, old in zip(STORED, row, strict=True))


def findings(stored: Sequence[Row]) -> list[str]:
    return list(Chain("gw", 0, GENESIS).follow(stored))


def test_untouched_records_have_no_findings() -> None:
    """Silence is the answer for a whole chain."""
    assert findings(rows(5)) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"score": 0.9}, "its fields are not"),
        ({"event_ms": 77}, "its fields are not"),
        ({"payload": '{"a":1}'}, "its payload is not"),
        ({"digest": b"x" * 32}, "its fields are not"),
    ],
    ids=["score", "time", "payload", "digest"],
)
def test_a_changed_record_is_named_once(values: dict[str, Any], said: str) -> None:
    """Writer, number and decision id are in the sentence; its neighbours are not accused."""
    stored = rows(5)
    stored[2] = change(stored[2], **values)
    (finding,) = findings(stored)
    assert finding.startswith("record 3 of writer gw (decision d3)")
    assert said in finding


def test_a_record_without_its_payload_is_whole_and_told_of() -> None:
    """Whether an erasure took it, the log says; what else was changed of it is named."""
    stored = rows(5)
    stored[1] = change(stored[1], payload=None)
    stored[3] = change(stored[3], payload=None, score=0.9)
    chain = Chain("gw", 0, GENESIS)
    (finding,) = chain.follow(stored)
    assert finding.startswith("record 4 of writer gw (decision d4)")
    assert [one[:2] for one in chain.absent] == [(2, "d2")]


def test_a_record_rewritten_with_a_fitting_digest_breaks_the_chain() -> None:
    """Whoever recomputes one digest would have to recompute every chain after it."""
    stored = rows(5)
    other = change(stored[2], score=0.9)
    digest = record_digest("gw", 3, other[2:21], other[STORED.index("payload_digest")])
    stored[2] = change(other, digest=digest)
    (finding,) = findings(stored)
    assert "record 3 of writer gw" in finding
    assert "does not follow record 2: one of the two was changed" in finding


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ([2], "record 3 of writer gw is missing"),
        ([1, 2], "records 2 to 3 of writer gw are missing"),
        ([0], "record 1 of writer gw is missing"),
    ],
)
def test_removed_records_are_named(gone: list[int], said: str) -> None:
    """A gap in the numbers is a removal, wherever it is."""
    stored = [row for index, row in enumerate(rows(5)) if index not in gone]
    assert findings(stored) == [said]


def test_a_value_of_another_type_does_not_stop_the_walk() -> None:
    """Damage can turn a digest into anything."""
    stored = rows(3)
    stored[1] = change(stored[1], digest="none")
    found = findings(stored)
    assert "a record after 1 of writer gw has a value of wrong type" in found[0]


def test_the_end_is_compared_with_what_is_said_about_it() -> None:
    """A truncated tail, records beyond the head, and another last record."""
    stored = rows(3)
    chain = Chain("gw", 0, GENESIS)
    assert not list(chain.follow(stored))
    end = stored[-1][STORED.index("chain")]
    assert list(chain.ends(3, end, "the head")) == []
    assert list(chain.ends(5, end, "the head")) == [
        "records 4 to 5 of writer gw are missing at the end; the head ends at 5"
    ]
    assert list(chain.ends(2, end, "the head")) == [
        "record 3 of writer gw is beyond the end; the head ends at 2"
    ]
    assert list(chain.ends(3, GENESIS, "the head")) == [
        "record 3 of writer gw is not the one that the head names"
    ]
