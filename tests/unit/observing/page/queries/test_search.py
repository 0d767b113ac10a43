"""A search for decisions: it finds each match once, in order, and its work is bounded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.decisions.records.port import RecordQuery
from mlplatform.observing.page.queries import search
from mlplatform.observing.page.queries.reason_words import with_reasons
from mlplatform.observing.page.queries.search import Query, SearchCursor
from mlplatform.operations.traffic.buckets import no_counts
from mlplatform.operations.traffic.projection import TrafficBucket, TrafficReport
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS, HOUR_MS
from rollout_world import table


@dataclass
class Log:
    """Records by time, and what was asked of them."""

    records: pa.Table
    queries: list[RecordQuery] = field(default_factory=list)

    def read(self, query: RecordQuery) -> pa.Table:
        if query.limit != 1:  # which only asks whether anything is older
            self.queries.append(query)
        found, ms = self.records, self.records.column("event_ms")
        chosen = pc.greater_equal(ms, query.from_ms)
        if query.to_ms is not None:
            chosen = pc.and_(chosen, pc.less(ms, query.to_ms))
        found = found.filter(chosen)
        if query.unit is not None:
            found = found.filter(pc.equal(found["unit"], query.unit))
        if query.decision_ids is not None:
            found = found.filter(pc.is_in(found["decision_id"], pa.array(query.decision_ids)))
        if query.limit is not None:
            parts = [found.filter(pc.equal(found["writer"], w)) for w in ("a", "b")]
            found = pa.concat_tables([part.slice(0, query.limit) for part in parts])
        return found.select(query.columns)


def log(*rows: dict[str, Any]) -> Log:
    return Log(table([{"writer": "a", "decision": "approve", **row} for row in rows]))


def payload(reasons: tuple[str, ...] | None) -> str | None:
    """The payload of a record as the log writes it; of an erased one, nothing is left."""
    if reasons is None:
        return None
    held = {"request": {"hour": "HOUR"}, "reasons": reasons}
    return json.dumps(held, ensure_ascii=False, separators=(",", ":"))


def everything(found: Log, asked: Query, rows: int) -> list[tuple[str, int]]:
    """Every match, over all pages."""
    newest = max(found.records.column("event_ms").to_pylist(), default=0)
    seen: list[tuple[str, int]] = []
    for _ in range(200):
        page = search.search(found.read, asked, newest, rows, clock=lambda: 0.0)
        assert len(page.rows) <= rows
        seen += [(row["writer"], row["seq"]) for row in page.rows]
        if page.older is None:
            return seen
        link = asked.link(page.older)
        again = search.query(dict(parse_qsl(urlsplit(link).query)))
        assert again == Query(**{**plain(asked), "before": page.older})
        asked = again
    raise AssertionError("no end")


def plain(asked: Query) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in Query.__slots__}


RECORDS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.integers(0, 20) | st.integers(0, 40 * DAY_MS),
        st.sampled_from(["approve", "review", None]),
        st.booleans(),
        st.sampled_from([1, 2, None]),
        st.sampled_from([7, -8]),
        st.sampled_from([None, (), ("HOUR",), ("NIGHT", "HOUR"), ("HOURLY", 'a "b" é')]),
    ),
    max_size=25,
)
QUERIES = st.builds(
    Query,
    unit=st.none() | st.sampled_from([7, -8]),
    outcome=st.none() | st.just("review"),
    degraded=st.none() | st.booleans(),
    version=st.none() | st.just(2),
    reason=st.none() | st.sampled_from(["HOUR", 'a "b" é']),
    from_ms=st.none() | st.integers(0, 20),
    to_ms=st.none() | st.integers(21, 40 * DAY_MS),
)


@settings(max_examples=40, deadline=None)
@given(RECORDS, QUERIES, st.integers(1, 9))
def test_every_match_is_found_once_the_newest_first(
    drawn: list[tuple[Any, ...]], asked: Query, rows: int
) -> None:
    numbers: dict[str, int] = {}
    records, wanted = [], []
    for writer, event_ms, decision, degraded, version, unit, reasons in drawn:
        numbers[writer] = seq = numbers.get(writer, 0) + 1
        records.append({"writer": writer, "seq": seq, "event_ms": event_ms, "decision": decision,
                        "degraded": degraded, "version": version, "unit": unit,
                        "payload": payload(reasons)})  # fmt: skip
        matches = (
            asked.unit in (None, unit)
            and asked.outcome in (None, decision)
            and asked.degraded in (None, degraded)
            and asked.version in (None, version)
            and (asked.reason is None or asked.reason in (reasons or ()))
            and (asked.from_ms or 0) <= event_ms < (asked.to_ms or 2**62)
        )
        if matches:
            wanted.append((event_ms, writer, seq))
    expected = [(writer, seq) for _, writer, seq in sorted(wanted, reverse=True)]
    assert everything(log(*records), asked, rows) == expected


def test_a_crowded_stretch_is_cut_and_the_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_OF_WINDOW", 50)
    monkeypatch.setattr(search, "MOST_READ", 400)
    rows = [{"seq": n, "event_ms": 600_000_000 + 100 * n, "version": 3} for n in range(1, 2001)]
    found = log(*rows, {"seq": 2001, "event_ms": 1, "version": 7})
    page = search.search(found.read, Query(version=7), 600_200_000, 5)
    assert page.rows == ()
    assert page.older is not None
    assert page.reached_ms == page.older.event_ms
    assert page.read < 400 + 50
    assert everything(found, Query(version=7), 5) == [("a", 2001)]


@pytest.mark.parametrize("asked", [Query(unit=7), Query(outcome="review")])
def test_a_slow_log_is_looked_through_over_more_pages(asked: Query) -> None:
    rows = [{"seq": n, "event_ms": DAY_MS * n, "unit": 3} for n in range(1, 31)]
    found = log(*rows, {"seq": 31, "event_ms": 1, "unit": 7, "decision": "review"})
    now_s = [0.0]

    def read(query: RecordQuery) -> pa.Table:
        now_s[0] += 0.3
        return found.read(query)

    page = search.search(read, asked, 30 * DAY_MS, 5, budget_s=0.15, clock=lambda: now_s[0])
    assert (len(found.queries), page.rows) == (2, ())
    assert page.older is not None
    assert page.reached_ms == page.older.event_ms
    assert everything(found, asked, 5) == [("a", 31)]


def test_a_log_whose_reads_take_long_whatever_they_find_is_soon_looked_through() -> None:
    found = log({"seq": 1, "event_ms": 30 * DAY_MS})
    now_s = [0.0]

    def read(query: RecordQuery) -> pa.Table:
        now_s[0] += 0.03
        return found.read(query)

    asked = Query(outcome="review")
    page = search.search(read, asked, 30 * DAY_MS, 5, budget_s=0.2, clock=lambda: now_s[0])
    assert page.older is None
    assert now_s[0] < 0.3


def test_a_log_whose_reads_take_longer_by_their_length_ends_soon_after_its_time() -> None:
    found = log({"seq": 1, "event_ms": 1}, {"seq": 2, "event_ms": 30 * DAY_MS})
    now_s = [0.0]

    def read(query: RecordQuery) -> pa.Table:
        if query.limit == 1:
            return found.read(query)
        assert query.from_ms is not None
        now_s[0] += (
            ((query.to_ms or 30 * DAY_MS + 1) - query.from_ms) / search.FIRST_WIDTH_MS * 0.01
        )
        return found.read(query)

    asked = Query(outcome="review")
    page = search.search(read, asked, 30 * DAY_MS, 5, budget_s=0.2, clock=lambda: now_s[0])
    assert page.older is not None
    assert now_s[0] < 0.2 * search.LATEST


def test_a_slow_log_of_sparse_traffic_is_not_looked_through_a_minute_a_page() -> None:
    per_hour = [
        {"seq": n, "event_ms": n * HOUR_MS // 70, "decision": "approve" if n % 450 else "decline"}
        for n in range(1, 70 * 24 * 10)
    ]
    found, now_s = log(*per_hour), [0.0]

    def read(query: RecordQuery) -> pa.Table:
        now_s[0] += 0.15
        return found.read(query)

    pages, asked, newest_ms = [], Query(outcome="decline"), 10 * DAY_MS
    for _ in range(3):
        begun_s = now_s[0]
        page = search.search(read, asked, newest_ms, 50, clock=lambda: now_s[0])
        assert now_s[0] - begun_s < 1.2, "a page is bounded in time"
        pages.append(page)
        if page.older is None:
            break
        asked = Query(outcome="decline", before=page.older)
    assert pages[0].read >= search.LEAST_READ
    assert len(pages[0].rows) > 3
    assert sum(len(page.rows) for page in pages) == (len(per_hour) // 450)


def test_the_next_page_begins_with_the_length_that_the_last_one_came_to() -> None:
    rows = [{"seq": n, "event_ms": DAY_MS * n, "decision": "approve"} for n in range(1, 31)]
    found, now_s, lengths = log(*rows), [0.0], []

    def read(query: RecordQuery) -> pa.Table:
        if query.limit == 1:
            return found.read(query)
        now_s[0] += 1.0
        assert query.from_ms is not None
        lengths.append((query.to_ms or 30 * DAY_MS + 1) - query.from_ms)
        return found.read(query)

    asked = Query(outcome="decline")
    for _ in range(3):
        page = search.search(read, asked, 30 * DAY_MS, 5, budget_s=0.25, clock=lambda: now_s[0])
        assert page.older is not None
        link = asked.link(page.older)
        asked = search.query(dict(parse_qsl(urlsplit(link).query)))
    assert lengths == [n * search.FIRST_WIDTH_MS for n in (1, 2, 4)]


def test_a_search_begins_with_a_stretch_of_about_a_thousand_records_by_the_traffic() -> None:
    counts = replace(no_counts(), requests=70)
    buckets = tuple(TrafficBucket(n * HOUR_MS, "champion", 1, counts) for n in range(48))
    report = TrafficReport(HOUR_MS, 48 * HOUR_MS, {}, buckets, {})
    assert search.stretch_ms([report, None], 48 * HOUR_MS) / HOUR_MS == pytest.approx(1000 / 70)
    assert search.stretch_ms([report, report], 48 * HOUR_MS) / HOUR_MS == pytest.approx(500 / 70)
    assert search.stretch_ms([None], 48 * HOUR_MS) == search.FIRST_WIDTH_MS


def test_a_search_of_one_customer_begins_with_a_stretch_of_about_a_million_records() -> None:
    counts = replace(no_counts(), requests=70_000)
    buckets = tuple(TrafficBucket(n * HOUR_MS, "champion", 1, counts) for n in range(48))
    report = TrafficReport(HOUR_MS, 48 * HOUR_MS, {}, buckets, {})
    width_ms = search.stretch_ms([report], 48 * HOUR_MS, of_unit=True)
    assert width_ms / HOUR_MS == pytest.approx(1000 / 70)
    assert search.stretch_ms([None], 48 * HOUR_MS, of_unit=True) == search.FIRST_WIDTH_OF_UNIT_MS


def test_a_search_ends_where_the_log_begins() -> None:
    """Then the page says that nothing is older, and a file of it is whole."""
    found = log(*({"seq": n, "event_ms": 30 * DAY_MS + n} for n in range(1, 42)))
    page = search.search(found.read, Query(), 30 * DAY_MS + 41, 50, clock=lambda: 0.0)
    assert len(page.rows) == 41
    assert (page.older, page.reached_ms) == (None, None)
    of_unit = search.search(found.read, Query(unit=3), 30 * DAY_MS + 41, 50, clock=lambda: 0.0)
    assert of_unit.older is None


def test_a_stretch_is_no_longer_than_a_page_is_expected_to_take() -> None:
    found = log(*({"seq": n, "event_ms": n * HOUR_MS} for n in range(1, 1_000)))
    widths_ms = []

    def read(query: RecordQuery) -> pa.Table:
        assert query.from_ms is not None
        widths_ms.append((query.to_ms or 999 * HOUR_MS + 1) - query.from_ms)
        return found.read(query)

    page = search.search(read, Query(), 999 * HOUR_MS, 50, first_ms=10 * HOUR_MS, clock=lambda: 0.0)
    assert len(page.rows) == 50
    assert [round(width / HOUR_MS) for width in widths_ms] == [10, 45]


def test_each_page_of_a_slow_and_crowded_log_reaches_further_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "MOST_OF_WINDOW", 50)
    found = log(*({"seq": n, "event_ms": 100 * n} for n in range(1, 2001)))
    now_s, asked = [0.0], Query(version=7)

    def read(query: RecordQuery) -> pa.Table:
        now_s[0] += 1.0
        return found.read(query)

    reached = [200_001]
    for _ in range(3):
        page = search.search(read, asked, 200_000, 5, budget_s=0.2, clock=lambda: now_s[0])
        assert page.reached_ms is not None
        reached.append(page.reached_ms)
        asked = Query(version=7, before=page.older)
    assert reached == sorted(set(reached), reverse=True)


def test_a_code_is_found_among_a_decisions_reasons_and_nowhere_else_in_its_payload() -> None:
    found = log(
        {"seq": 1, "payload": payload(("NIGHT", "HOUR"))},
        {"seq": 2, "payload": payload(())},
        {"seq": 3, "payload": None},
        {"seq": 4, "payload": "{}"},
        {"seq": 5, "payload": '{"reasons":"HOUR"}'},
        {"seq": 6, "payload": "damaged HOUR"},
    )
    page = search.search(found.read, Query(reason="HOUR"), 10, 50, clock=lambda: 0.0)
    assert [(row["seq"], row["reasons"]) for row in page.rows] == [(1, ("NIGHT", "HOUR"))]
    assert "payload" not in page.rows[0]


def test_a_search_by_reason_obeys_the_budget_and_says_how_far_it_came() -> None:
    rows = [
        {"seq": n, "event_ms": DAY_MS * n, "payload": payload(("HOUR",) if n == 1 else ("NIGHT",))}
        for n in range(1, 31)
    ]
    found, now_s = log(*rows), [0.0]

    def read(query: RecordQuery) -> pa.Table:
        now_s[0] += 0.3
        return found.read(query)

    asked = Query(reason="HOUR")
    page = search.search(read, asked, 30 * DAY_MS, 5, budget_s=0.15, clock=lambda: now_s[0])
    assert (len(found.queries), page.rows) == (2, ())
    assert page.older is not None
    assert page.reached_ms == page.older.event_ms
    assert everything(found, asked, 5) == [("a", 1)]


def test_a_stretch_with_payloads_holds_fewer_records() -> None:
    found = log(*({"seq": n, "event_ms": 1000 * n, "payload": "{}"} for n in range(1, 100)))
    for asked in (Query(), Query(reason="HOUR")):
        search.search(found.read, asked, 99_000, 5, clock=lambda: 0.0)
    limits = {"payload" in query.columns: query.limit for query in found.queries}
    assert limits == {False: search.MOST_OF_WINDOW, True: search.MOST_OF_WINDOW // 4}


def test_without_a_reason_the_payloads_of_the_shown_rows_alone_are_read() -> None:
    found = log(*({"seq": n, "event_ms": 1000 * n, "payload": payload(("HOUR",) if n % 2 else None)}
                  for n in range(1, 3000)))  # fmt: skip
    page = search.search(found.read, Query(outcome="approve"), 3_000_000, 4)
    assert not any("payload" in query.columns for query in found.queries)
    shown, last = with_reasons(found.read, page.rows), found.queries[-1]
    assert [(row["seq"], row["reasons"]) for row in shown] == [
        (2999, ("HOUR",)), (2998, ()), (2997, ("HOUR",)), (2996, ())
    ]  # fmt: skip
    assert last.decision_ids == tuple(row["decision_id"] for row in page.rows)
    assert (last.from_ms, last.to_ms) == (2_996_000, 2_999_001)
    count = len(found.queries)
    assert with_reasons(found.read, shown) == shown
    assert with_reasons(found.read, ()) == ()
    assert len(found.queries) == count, "nothing is read twice"


def test_a_customers_search_is_given_to_the_log() -> None:
    found = log(*({"seq": n, "event_ms": 1000 * n, "unit": n % 50} for n in range(1, 3000)))
    page = search.search(found.read, Query(unit=7), 3_000_000, 5)
    assert {query.unit for query in found.queries} == {7}
    assert page.read < 100
    assert all(row["reasons"] == () for row in page.rows), "their payloads came with them"


def test_the_newest_page_of_a_long_log_reads_little() -> None:
    found = log(*({"seq": n, "event_ms": 40 * DAY_MS + 1000 * n} for n in range(1, 3000)))
    page = search.search(found.read, Query(), 40 * DAY_MS + 3_000_000, 50)
    assert [row["seq"] for row in page.rows[:2]] == [2999, 2998]
    assert page.read < 1000
    assert all("unit" not in row for row in page.rows)


def test_a_range_of_time_is_all_that_is_read() -> None:
    found = log(*({"seq": n, "event_ms": n * DAY_MS} for n in range(1, 30)))
    asked = Query(from_ms=3 * DAY_MS, to_ms=5 * DAY_MS)
    page = search.search(found.read, asked, 30 * DAY_MS, 50)
    assert [row["seq"] for row in page.rows] == [4, 3]
    assert all(query.from_ms is not None and query.from_ms >= 3 * DAY_MS for query in found.queries)
    assert all(query.to_ms is not None and query.to_ms <= 5 * DAY_MS for query in found.queries)


def test_a_form_and_its_link_ask_for_the_same() -> None:
    asked = search.query({"from_ms": "2026-11-28T09:30", "outcome": "", "degraded": "no",
                          "version": "3", "model": "fraud", "reason": "HOUR"})  # fmt: skip
    from_ms = 1_795_858_200_000
    assert asked == Query("fraud", from_ms=from_ms, degraded=False, version=3, reason="HOUR")
    assert search.minute(asked.from_ms) == "2026-11-28T09:30"
    assert asked.link().startswith("/decisions?model=fraud&from_ms=1795858200000")
    assert Query().link() == "/decisions"
    assert search.query({"version": "v3"}) == search.query({"version": "3"}) == Query(version=3)
    form = {name: text for name, text in search.typed(asked).items() if name in search.FIELD_NAMES}
    assert search.query(form) == asked
    assert not Query(before=SearchCursor(4)).narrow


@pytest.mark.parametrize(
    "given",
    [{"a": "1"}, {"version": "-1"}, {"version": "v"}, {"version": "vv1"},
     {"unit": "²"}, {"unit": str(2**63)}, {"before": "1:"},
     {"before": "1:a b:2"}, {"before": "-1"}, {"from_ms": "9"*30}, {"model": "../x"},
     {"reason": "a\0"},
     {"from_ms": "2026-13-01T00:00"}, {"from_ms": "1969-12-31T23:59"}, {"to_ms": "9" * 18}],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_its_field(given: dict[str, str]) -> None:
    name = next(iter(given))
    with pytest.raises(InputInvalid, match=re.escape(search.LABELS.get(name, name))):
        search.query(given)


def test_a_field_is_named_as_the_form_names_it() -> None:
    with pytest.raises(InputInvalid, match=r"From \(UTC\) is 'yesterday'; wanted: a time in UTC"):
        search.query({"from_ms": "yesterday"})
