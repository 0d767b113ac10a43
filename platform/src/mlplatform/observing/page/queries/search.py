"""A search for decisions: the query, and the stretches of event time that are searched."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final, NoReturn
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import ANSWERED
from mlplatform.observing.page.queries.reason_words import codes_of, with_code
from mlplatform.operations.traffic.projection import TrafficReport
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.times import minute_text
from mlplatform.runtime.units import DAY_MS, HOUR_MS, MINUTE_MS

SHOWN: Final = (
    *("writer", "seq", "kind", "decision_id", "model", "event_ms", "recorded_ms", "generation"),
    *("arm", "answered_by", "version", "score", "decision", "degraded", "degraded_reason"),
    "latency_us",
)
"""Columns that a search shows, none of which says whom a decision was about."""
READ: Final = (*SHOWN, "unit")
"""Columns that a search reads. A unit is a pseudonym, which does not reveal whom a decision was
about."""

FIRST_WIDTH_MS: Final = MINUTE_MS
"""Length of the first stretch where no traffic is counted."""
FIRST_RECORDS: Final = 1_000
"""Records that the first stretch is to hold, by the model's traffic."""
LEAST_WIDTH_MS: Final = 1_000
MOST_WIDTH_MS: Final = 400 * DAY_MS
WIDER: Final = 8
MOST_OF_WINDOW: Final = 20_000
"""Most records of each writer in one stretch; a stretch with more is split into shorter ones."""
PAYLOAD_RECORDS: Final = 4
"""Records without payloads for which one with its payload counts in the bound of a stretch: reading
it takes more time and memory."""
MOST_READ: Final = 200_000
MOST_WINDOWS: Final = 40
LEAST_READ: Final = 2_000
"""Records that a page reads although its time is over, within `LATEST` times that time: on a slow
machine a page would otherwise look at a handful."""
LATEST: Final = 5
BUDGET_S: Final = 0.2
"""Seconds for a page; after them, the rest of the search is left to the next page."""
FIRST_WIDTH_OF_UNIT_MS: Final = 6 * HOUR_MS
"""As `FIRST_WIDTH_MS`, when searching a customer: longer, because the log reads only keys of the
records of others."""
FIRST_RECORDS_OF_UNIT: Final = 1_000_000
"""As `FIRST_RECORDS`, when searching a customer."""
MORE: Final = 1.1
"""Length of a stretch in which the last one's matches promise a whole page, over the least one."""
MOST_TEXT: Final = 64

LABELS: Final[Mapping[str, str]] = {
    "model": "Model",
    "from_ms": "From (UTC)",
    "to_ms": "Before (UTC)",
    "outcome": "Decided",
    "degraded": "Degraded",
    "version": "Version",
    "reason": "Reason",
}
"""Field → its label in the form."""
_TIME: Final = "%Y-%m-%dT%H:%M"
_LAST_MS: Final = 253_402_300_799_000
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_WRITER: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LARGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SearchCursor:
    """The end of a page of results: after this record, or before a time if the name is empty.

    Args:
        width_ms: length of the stretch that the next page begins with; 0 if it is not known.
    """

    event_ms: int
    writer: str = ""
    seq: int = 0
    width_ms: int = 0


@dataclass(frozen=True, slots=True)
class Query:
    """The criteria of a search; a field of None does not filter.

    Args:
        unit: pseudonym of a customer.
        from_ms, to_ms: first event time, inclusive, and last one, exclusive.
        reason: code of one of a decision's reasons; an erased payload has none.
        before: where the previous page ended.
    """

    model: str | None = None
    unit: int | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    outcome: str | None = None
    degraded: bool | None = None
    version: int | None = None
    reason: str | None = None
    before: SearchCursor | None = None

    @property
    def narrow(self) -> bool:
        """Whether the query asks for more than the newest decisions."""
        return self != Query(before=self.before)

    @property
    def reads_payloads(self) -> bool:
        """Whether payloads are read as the search goes: a reason lies in them, and the records of
        one customer are nearly those that are shown."""
        return self.reason is not None or self.unit is not None

    @property
    def most_of_window(self) -> int:
        """Most records of each writer in one stretch."""
        return MOST_OF_WINDOW // PAYLOAD_RECORDS if self.reads_payloads else MOST_OF_WINDOW

    def link(self, before: SearchCursor | None = None) -> str:
        """The path of this search, from a place on."""
        texts = {f.name: _text(getattr(self, f.name)) for f in fields(self) if f.name != "before"}
        if before is not None:
            texts["before"] = _place_text(before)
        return _path("/decisions", texts)

    def export_link(self) -> str:
        """The path of this search as a file, from the beginning of its page on."""
        texts = {f.name: _text_of(getattr(self, f.name)) for f in fields(self)}
        return _path("/decisions.csv", texts)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A page of results, newest event first.

    Args:
        older: where the next page begins; None if there is none.
        reached_ms: event time down to which records were read; None if the search reached its end.
        read: number of records that were read.
    """

    rows: tuple[Mapping[str, Any], ...]
    older: SearchCursor | None = None
    reached_ms: int | None = None
    read: int = 0


def query(form: Mapping[str, str]) -> Query:
    """The query in a link or a form; empty fields do not filter.

    Raises:
        InputInvalid: a field is wrong; the message names the field, its value and what is wanted.
    """
    values: dict[str, Any] = {}
    for name, text in form.items():
        parse = _FIELDS.get(name)
        if parse is None:
            wanted = f"one of {', '.join(_FIELDS)}"
            problem = f"there is no field {name[:MOST_TEXT]!a}; wanted: {wanted}"
            raise InputInvalid("search", None, problem)
        if text.strip():
            values[name] = parse(name, text.strip())
    parsed = Query(**values)
    if parsed.from_ms is not None and parsed.to_ms is not None and parsed.from_ms >= parsed.to_ms:
        wanted = f"a time after From, {minute_text(parsed.from_ms)} UTC"
        problem = f"Before is {minute_text(parsed.to_ms)} UTC; wanted: {wanted}"
        raise InputInvalid("search", None, problem)
    return parsed


def typed(query: Query) -> dict[str, str]:
    """Field → its text in the search form that makes this query."""
    texts = {name: _text(getattr(query, name)) for name in FIELD_NAMES if name != "before"}
    times = {"from_ms": minute(query.from_ms), "to_ms": minute(query.to_ms)}
    return {**texts, **times, "decision_id": "", "customer": ""}


def stretch_ms(
    traffic: Iterable[TrafficReport | None], end_ms: int, *, of_unit: bool = False
) -> int:
    """The length of a stretch of about `FIRST_RECORDS` records, by the counts of a day before; of
    `FIRST_RECORDS_OF_UNIT` for a search of one customer."""
    counted = [
        bucket.counts.requests
        for report in traffic
        if report is not None
        for bucket in report.buckets
        if end_ms - DAY_MS <= bucket.start_ms < end_ms
    ]
    if not (records := sum(counted)):
        return FIRST_WIDTH_OF_UNIT_MS if of_unit else FIRST_WIDTH_MS
    wanted = FIRST_RECORDS_OF_UNIT if of_unit else FIRST_RECORDS
    return min(max(DAY_MS * wanted // records, LEAST_WIDTH_MS), MOST_WIDTH_MS)


@dataclass(slots=True)
class _PageTime:
    """The time that a page has taken, and what is left of it."""

    clock: Callable[[], float]
    budget_s: float
    begun_s: float
    quickest_s: float
    took_s: float = 0.0

    def read(self, since_s: float) -> None:
        self.took_s = self.clock() - since_s
        self.quickest_s = min(self.quickest_s, self.took_s)

    def left_s(self, rows_read: int) -> float:
        whole_s = self.budget_s * (1 if rows_read >= LEAST_READ else LATEST)
        return whole_s - (self.clock() - self.begun_s)

    def is_over(self, rows_read: int) -> bool:
        """Whether no further stretch of this length is begun."""
        if self.clock() - self.begun_s <= self.budget_s:
            return False
        return self.left_s(rows_read) < self.took_s

    def wider(self, rows_read: int) -> float:
        """The factor by which the next stretch is longer than this one, which held few records. A
        part of each read, at most the time of the quickest one, does not grow with it."""
        longer_s = 2 * self.took_s + WIDER * (self.took_s - self.quickest_s)
        if longer_s < self.left_s(rows_read):
            return WIDER
        # The next page begins with it: where each read is slow, pages must not crawl.
        ends = self.is_over(rows_read) and self.took_s <= LATEST * self.budget_s
        return 2 if ends else 1


def search(
    read: Callable[[RecordQuery], pa.Table],
    query: Query,
    newest_ms: int,
    rows: int,
    columns: Sequence[str] = SHOWN,
    *,
    first_ms: int = FIRST_WIDTH_MS,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.monotonic,
) -> SearchResult:
    """The newest decisions that match, searched backwards in event time within a bound.

    A stretch that holds too many records is cut into shorter ones, and one with few makes the next
    one longer, so that the work depends on the found records and not on the log's length. A stretch
    is not made longer if the remaining time is too short for it. The next page goes on with the
    length that this one came to.

    Args:
        newest_ms: event time of the log's newest record, as far as is known.
        rows: largest number of rows of a page.
        first_ms: length of the first stretch, by the model's traffic.
        budget_s: seconds after which no further stretch is begun once `LEAST_READ` records are
            read; `LATEST` times as long, no further one is begun whatever was read. One stretch
            is always read, so each page reaches further back than the one before it.
        columns: columns of the returned rows, from `READ`; the page shows no pseudonyms. Where
            payloads were read, a row has the codes of its reasons too.
    """
    floor = max(query.from_ms or 0, 0)
    end: int | None = query.to_ms
    if query.before is not None:
        end = min(query.before.event_ms + bool(query.before.writer), end or _LARGEST)
    found: list[Mapping[str, Any]] = []
    rows_read, width, is_further = 0, _first_width(query, first_ms), False
    page = _PageTime(clock, budget_s, clock(), budget_s)
    for _ in range(MOST_WINDOWS):
        window_s = clock()
        start = max(floor, (newest_ms + 1 if end is None else end) - width)
        table, crowded = _window(read, query, start, end, width)
        rows_read += len(table)
        if crowded:
            width = max(width // WIDER, LEAST_WIDTH_MS)
        else:
            matching = _matching(table, query, rows + 1 - len(found), columns)
            found += matching
            end, is_further = start, True
            page.read(window_s)
            if len(found) > rows:
                last = found[rows - 1]
                place = SearchCursor(last["event_ms"], last["writer"], last["seq"], width)
                return SearchResult(tuple(found[:rows]), place, start, rows_read)
            if start <= floor:
                return SearchResult(tuple(found), None, None, rows_read)
            if len(table) < query.most_of_window // WIDER:
                wider = page.wider(rows_read)
                if matching:
                    wider = min(wider, MORE * (rows + 1 - len(found)) / len(matching))
                width = min(int(width * max(wider, 1)), MOST_WIDTH_MS)
        if is_further and (rows_read >= MOST_READ or page.is_over(rows_read)):
            break
    reached = newest_ms + 1 if end is None else end
    if not _has_older(read, query, floor, reached):
        return SearchResult(tuple(found), None, None, rows_read)
    return SearchResult(tuple(found), SearchCursor(reached, width_ms=width), reached, rows_read)


def _first_width(query: Query, first_ms: int) -> int:
    carried = 0 if query.before is None else query.before.width_ms
    return min(max(carried, LEAST_WIDTH_MS), MOST_WIDTH_MS) if carried else first_ms


def _window(
    read: Callable[[RecordQuery], pa.Table], query: Query, start: int, end: int | None, width: int
) -> tuple[pa.Table, bool]:
    """The records of a stretch of event time, and whether there are too many of them."""
    limit = None if width <= LEAST_WIDTH_MS else query.most_of_window
    columns = (*READ, "payload") if query.reads_payloads else READ
    table = read(
        RecordQuery(
            model=query.model, kinds=ANSWERED, from_ms=start, to_ms=end, unit=query.unit,
            limit=limit, columns=columns,
        )
    )  # fmt: skip
    if limit is None or len(table) < limit:
        return table, False
    counts = Counter(table.column("writer").to_pylist())
    return table, max(counts.values()) >= limit


def _has_older(
    read: Callable[[RecordQuery], pa.Table], query: Query, floor: int, before: int
) -> bool:
    """Whether there is any decision of the models that are searched between two times, the second
    of which is exclusive."""
    older = RecordQuery(
        model=query.model,
        kinds=ANSWERED,
        from_ms=floor,
        to_ms=before,
        limit=1,
        columns=("event_ms",),
    )
    return len(read(older)) > 0


def _matching(
    table: pa.Table, query: Query, rows: int, columns: Sequence[str]
) -> list[Mapping[str, Any]]:
    """The newest rows that match; with their reasons if payloads were read."""
    wanted = {
        "decision": query.outcome,
        "version": query.version,
        "degraded": query.degraded,
    }
    for name, value in wanted.items():
        if value is not None:
            table = table.filter(pc.field(name) == value)
    if (at := query.before) is not None and at.writer:
        earlier = (pc.field("writer") == at.writer) & (pc.field("seq") < at.seq)
        same = pc.field("event_ms") == at.event_ms
        table = table.filter(~same | (pc.field("writer") < at.writer) | earlier)
    if query.reason is not None:
        table = with_code(table, query.reason)
    newest_first = table.sort_by(
        [("event_ms", "descending"), ("writer", "descending"), ("seq", "descending")]
    )
    newest = newest_first.slice(0, rows)
    found = newest.select(list(columns)).to_pylist()
    if not query.reads_payloads:
        return list(found)
    payloads = newest.column("payload").to_pylist()
    return [
        {**row, "reasons": codes_of(payload)} for row, payload in zip(found, payloads, strict=True)
    ]


def _text(value: object) -> str:
    """The text of a link or a form field; times are epoch milliseconds in links."""
    if value is None:
        return ""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _text_of(value: object) -> str:
    return _place_text(value) if isinstance(value, SearchCursor) else _text(value)


def _path(path: str, texts: Mapping[str, str]) -> str:
    asked = urlencode({name: text for name, text in texts.items() if text})
    return f"{path}?{asked}" if asked else path


def minute(ms: int | None) -> str:
    """The text of a time in a form's field."""
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime(_TIME)


def _place_text(place: SearchCursor) -> str:
    parts = (place.event_ms, place.writer, place.seq if place.writer else "", place.width_ms or "")
    return ":".join(map(str, parts)).rstrip(":")


def _refuse(name: str, text: str, wanted: str) -> NoReturn:
    problem = f"{LABELS.get(name, name)} is {text[:MOST_TEXT]!a}; wanted: {wanted}"
    raise InputInvalid("search", None, problem)


def _name(name: str, text: str) -> str:
    return text if _NAME.fullmatch(text) else _refuse(name, text, "the name of a model")


def _outcome(name: str, text: str) -> str:
    return text if _NAME.fullmatch(text) else _refuse(name, text, "the name of a decision")


def _flag(name: str, text: str) -> bool:
    return text == "yes" if text in ("yes", "no") else _refuse(name, text, "yes or no")


def _integer(name: str, text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 19):
        _refuse(name, text, "a whole number")
    value = int(text)
    return value if abs(value) <= _LARGEST else _refuse(name, text, "a number of 64 bits")


def _count(name: str, text: str) -> int:
    value = _integer(name, text)
    return value if value >= 0 else _refuse(name, text, "0 or more")


def _version(name: str, text: str) -> int:
    """A version's number, also as pages write it: v2."""
    digits = text[1:] if text[:1] in ("v", "V") else text
    if not (digits.isascii() and digits.isdecimal()):
        _refuse(name, text, "the number of a version, like 2 or v2")
    return _count(name, digits)


def _reason(name: str, text: str) -> str:
    is_code = text.isprintable() and len(text) <= MOST_TEXT
    return text if is_code else _refuse(name, text, "the code of a reason")


def _time(name: str, text: str) -> int:
    """The time in a form's field: epoch milliseconds, or a minute in UTC."""
    if text.isascii() and text.isdecimal():
        value = _count(name, text)
        return value if value <= _LAST_MS else _refuse(name, text, "a time before the year 10000")
    try:
        value = int(datetime.strptime(text, _TIME).replace(tzinfo=UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        _refuse(name, text, "a time in UTC like 2026-11-28T09:30")
    return value if value >= 0 else _refuse(name, text, "a time from 1970 on")


def _place(name: str, text: str) -> SearchCursor:
    at, writer, seq, width = [*text.split(":"), "", "", ""][:4]
    if text.count(":") not in (0, 2, 3) or (writer and not _WRITER.fullmatch(writer)):
        _refuse(name, text, "a link of this page")
    number = _count(name, seq) if writer else 0
    return SearchCursor(_time(name, at), writer, number, _count(name, width) if width else 0)


_FIELDS: Final[Mapping[str, Callable[[str, str], Any]]] = {
    "model": _name,
    "unit": _integer,
    "from_ms": _time,
    "to_ms": _time,
    "outcome": _outcome,
    "degraded": _flag,
    "version": _version,
    "reason": _reason,
    "before": _place,
}
FIELD_NAMES: Final = tuple(_FIELDS)
"""Names of a search's fields, in links and forms."""
