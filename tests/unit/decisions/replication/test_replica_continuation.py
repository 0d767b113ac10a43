"""Records from a log elsewhere: what continues this one is taken, once, and nothing else is."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.decisions.records.record import GENESIS, Record, link, record_digest, stored_form
from mlplatform.decisions.replication.continuation import (
    Divergence,
    Gap,
    Head,
    RecordIdentity,
    append_plan,
)
from mlplatform.decisions.replication.replicated_records import (
    Item,
    ReplicaOffset,
    ReplicatedRecord,
    decoded,
    encoded,
)
from mlplatform.runtime.errors import InputInvalid

WRITER = "gateway-1"
NOWHERE = Head(0, GENESIS)


def replicated(count: int, *, amount: float = 1.0) -> list[ReplicatedRecord]:
    """A writer's first records, chained."""
    made: list[ReplicatedRecord] = []
    chain = GENESIS
    for seq in range(1, count + 1):
        record = Record(
            kind="decision",
            decision_id=f"d{seq}",
            model="fraud",
            event_ms=seq,
            recorded_ms=seq,
            score=0.5,
            payload={"request": {"amount": amount}},
        )
        form = stored_form(record)
        digest = record_digest(WRITER, seq, form.scalars, form.payload_digest)
        chain = link(chain, digest)
        scalars = [int(v) if isinstance(v, bool) else v for v in form.scalars]
        made.append(
            ReplicatedRecord(WRITER, seq, scalars, form.payload_digest, digest, chain, form.payload)
        )
    return made


def stand(of: list[ReplicatedRecord], seq: int, *, event_ms: int | None = None) -> ReplicaOffset:
    chain = of[seq - 1].chain if seq else GENESIS
    return ReplicaOffset(WRITER, seq, chain, seq if event_ms is None else event_ms, 1_000, False, 0)


def with_event_ms(copy: ReplicatedRecord, value: object) -> ReplicatedRecord:
    return msgspec.structs.replace(copy, scalars=[*copy.scalars[:3], value, *copy.scalars[4:]])


def places(of: list[ReplicatedRecord]) -> dict[int, RecordIdentity]:
    return {c.seq: RecordIdentity(c.digest, c.chain) for c in of}


def published(log: list[ReplicatedRecord]) -> list[Item]:
    """Records with a stand after each third, as a publisher would send them."""
    items: list[Item] = []
    for copy in log:
        items.append(copy)
        if copy.seq % 3 == 0:
            items.append(stand(log, copy.seq))
    return items


LOG = replicated(20)


@given(st.lists(st.tuples(st.integers(0, 26), st.integers(1, 12)), max_size=30))
def test_whatever_is_delivered_again_the_log_is_a_beginning_of_the_writers(
    reads: list[tuple[int, int]],
) -> None:
    """From anywhere, as often as it may: nothing is doubled, left out or changed."""
    items = published(LOG)
    here: list[ReplicatedRecord] = []
    head = NOWHERE
    stood = 0
    for start, count in reads:
        found = append_plan(WRITER, head, items[start : start + count], places(here))
        here += [c for c in LOG if c.row() in found.rows]
        head = found.head
        assert here == LOG[: head.seq]
        if found.offset is not None:
            assert stood <= found.offset.seq <= head.seq
            stood = found.offset.seq
        assert not isinstance(found.finding, Divergence)
    found = append_plan(WRITER, head, items, places(here))
    assert found.finding is None
    assert [c.row() for c in LOG[head.seq :]] == list(found.rows)


def test_a_gap_is_not_skipped_and_says_what_is_missing() -> None:
    found = append_plan(WRITER, NOWHERE, [*LOG[:3], *LOG[5:8], stand(LOG, 8)], {})
    assert found.head.seq == 3
    assert found.finding == Gap(4, 5)
    assert found.offset is None


def test_a_stand_ahead_of_the_records_moves_no_watermark() -> None:
    found = append_plan(WRITER, NOWHERE, [stand(LOG, 4)], {})
    assert (found.offset, found.finding) == (None, Gap(1, 4))


def test_a_stand_of_an_earlier_place_is_no_news() -> None:
    head = Head(8, LOG[7].chain)
    found = append_plan(WRITER, head, [stand(LOG, 5), stand(LOG, 0)], places(LOG[:8]))
    assert (found.offset, found.finding) == (None, None)


OTHER = replicated(20, amount=2.0)


@pytest.mark.parametrize(
    "items",
    [
        pytest.param([OTHER[7]], id="another record at a place that is taken"),
        pytest.param([OTHER[8]], id="one that does not follow the last"),
        pytest.param([stand(OTHER, 8)], id="a stand of another log"),
        pytest.param(
            [msgspec.structs.replace(LOG[8], payload='{"request":{"amount":3.0}}')],
            id="a payload that is not what its digest says",
        ),
        pytest.param(
            [with_event_ms(LOG[8], 99)],
            id="a field that is not what the digest says",
        ),
        pytest.param([LOG[7], OTHER[8], LOG[8]], id="nothing after it is taken either"),
    ],
)  # fmt: skip
def test_what_is_another_log_is_refused(items: list[Item]) -> None:
    head = Head(8, LOG[7].chain)
    found = append_plan(WRITER, head, items, places(LOG[:8]))
    assert isinstance(found.finding, Divergence)
    assert (found.rows, found.head, found.offset) == ((), head, None)


@pytest.mark.parametrize("item", [LOG[0], stand(LOG, 3), stand(LOG, 0, event_ms=-5)])
def test_an_item_comes_back_as_it_was(item: Item) -> None:
    assert decoded(encoded(item), "here") == item


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        encoded(LOG[0])[:-1],
        encoded(msgspec.structs.replace(LOG[0], scalars=LOG[0].scalars[1:])),
        encoded(
            msgspec.structs.replace(
                LOG[0], scalars=[*LOG[0].scalars[:3], "now", *LOG[0].scalars[4:]]
            )
        ),
        encoded(msgspec.structs.replace(LOG[0], writer="../../etc")),
        encoded(msgspec.structs.replace(LOG[0], seq=0)),
        encoded(msgspec.structs.replace(LOG[0], chain=b"short")),
        encoded(msgspec.structs.replace(stand(LOG, 3), seq=-1)),
    ],
)
def test_what_is_no_item_is_refused(data: bytes) -> None:
    with pytest.raises(InputInvalid):
        decoded(data, "log.records-0-7")
