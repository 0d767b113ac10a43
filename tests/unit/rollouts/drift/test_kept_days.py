"""Days that are kept are those that a reading of everything finds, whatever came later."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import DecisionLog, Entry, RecordQuery, Watermark
from mlplatform.decisions.records.record import Record
from mlplatform.model.folders import load_definition
from mlplatform.rollouts.cache import days
from mlplatform.rollouts.drift import matured_outcomes
from mlplatform.rollouts.drift.performance import MaturedDays
from mlplatform.rollouts.drift.windows import ChampionTenure, drift_plan
from mlplatform.runtime.units import DAY_MS, HOUR_MS

SHIPPED = load_definition("fraud")
FRAUD = msgspec.structs.replace(
    SHIPPED, decision=msgspec.structs.replace(SHIPPED.decision, capacity=0.4)
)
PLAN = drift_plan(FRAUD, (), FRAUD.inputs, set())
NOW_MS = 9 * DAY_MS

ROW = st.tuples(
    st.sampled_from(["decision", "decision", "label", "label", "void"]),
    st.integers(0, 5),  # place of the decision
    st.integers(0, 9 * 24 - 1),  # hour
    st.sampled_from([0.1, 0.5, 0.5, 0.9, None]),  # score
    st.sampled_from(["approve", "decline"]),
    st.sampled_from([0, 1]),  # label
)


class CountedLog:
    """A log that tells how many rows were read of it."""

    def __init__(self, log: SqliteDecisionLog) -> None:
        self._log = log
        self.rows = 0

    def append(self, records: Sequence[Record], writer: str = "gateway-1") -> None:
        self._log.append(writer, [Entry(record) for record in records])

    def read(self, query: RecordQuery) -> pa.Table:
        found = self._log.read(query)
        self.rows += len(found)
        return found

    def watermarks(self) -> list[Watermark]:
        return self._log.watermarks()


@pytest.fixture(scope="module")
def new_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], CountedLog]]:
    with contextlib.ExitStack() as stack:

        def made() -> CountedLog:
            folder = tmp_path_factory.mktemp("log")
            return CountedLog(stack.enter_context(contextlib.closing(SqliteDecisionLog(folder))))

        yield made


def read(folder: Path, log: Any, now_ms: int = NOW_MS, **changes: Any) -> MaturedDays:
    definition = msgspec.structs.replace(FRAUD, **changes)
    plan, tenure = PLAN, ChampionTenure(1, 0)
    return matured_outcomes.read_matured(folder, log, definition, plan, tenure, now_ms)


def told(found: MaturedDays) -> Any:
    """All that is judged of it, in any order of a day's requests."""
    return found.gaps, [
        (
            day.start_ms,
            day.requests,
            day.hidden,
            {
                name: (sorted(zip(h.units.tolist(), h.hits.tolist(), strict=True)), h.base)
                for name, h in day.metrics.items()
            },
        )
        for day in found.days
    ]


def record(kind: str, name: str, at_ms: int, **more: Any) -> Record:
    shared = {"kind": kind, "decision_id": name, "model": "fraud", "event_ms": at_ms}
    return msgspec.convert(shared | {"recorded_ms": 0} | more, Record)


def decided(name: str, at_ms: int, score: float | None = 0.5, decision: str = "approve") -> Record:
    return record(
        "decision", name, at_ms, arm="champion", answered_by="champion", unit=at_ms % 3, version=1,
        score=score, decision=decision,
    )  # fmt: skip


def labelled(name: str, at_ms: int, label: int) -> Record:
    return record("label", name, at_ms, label=label)


def alive() -> list[Record]:
    """Labels of others: the feed goes on."""
    return [labelled(f"old{h}", h * HOUR_MS, 0) for h in range(0, 9 * 24, 6)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(ROW, max_size=12), min_size=3, max_size=3), st.integers(1, 3))
def test_days_after_anything_that_came_late_are_those_of_a_recount(
    tmp_path_factory: pytest.TempPathFactory,
    new_log: Callable[[], CountedLog],
    batches: list[list[tuple[Any, ...]]],
    writers: int,
) -> None:
    """Late decisions and labels, corrections, voids, labels and voids of nothing."""
    log, folder = new_log(), tmp_path_factory.mktemp("kept")
    log.append([decided("first", 5), *alive()])
    seen = set[str]()
    for batch in batches:
        for place, (kind, number, hour, score, decision, label) in enumerate(batch):
            name, at_ms = f"d{number}", hour * HOUR_MS
            if kind == "decision" and name in seen:
                continue
            found = record(kind, name, at_ms)
            if kind == "decision":
                seen.add(name)
                found = decided(name, at_ms, score, decision)
            elif kind == "label":
                found = labelled(name, at_ms, label)
            log.append([found], f"gateway-{place % writers}")
        kept = read(folder, log)
        assert told(kept) == told(read(tmp_path_factory.mktemp("again"), log))


def test_only_the_day_that_has_matured_since_is_read(
    tmp_path: Path, new_log: Callable[[], CountedLog]
) -> None:
    log = new_log()
    hours = range(0, 9 * 24)
    log.append([decided(f"d{hour}", hour * HOUR_MS) for hour in hours])
    log.append(alive())
    assert len(read(tmp_path, log, NOW_MS - DAY_MS).days) == 5
    log.append([decided("new", NOW_MS)])
    log.rows = 0
    assert len(read(tmp_path, log).days) == 6
    # the first decision; the 24 of the day, for times and rows, twice; 12 or 16 labels, twice; new
    assert log.rows < 150
    log.rows = 0
    assert told(read(tmp_path, log)) == told(read(tmp_path / "again", log))
    again = log.rows
    log.rows = 0
    read(tmp_path, log)
    assert log.rows == 1
    assert again > 600


@pytest.mark.parametrize(
    ("late", "dropped"),
    [
        (decided("late", 2 * DAY_MS + 1), {2}),
        (labelled("d30", 4 * DAY_MS, 1), {1, 2, 3, 4}),
        (labelled("d30", 8 * DAY_MS + 1, 1), {5}),
        (record("void", "d30", 8 * DAY_MS), {1}),
        (decided("late", 8 * DAY_MS), set()),
        (record("void", "d200", 8 * DAY_MS), set()),
        (record("shadow", "d30", 2 * DAY_MS), set()),
    ],
    ids=["a decision", "a label of some time", "a label that had almost not counted", "a void",
         "a decision of today", "a void of today", "a copy"],
)  # fmt: skip
def test_days_are_read_again_that_a_late_record_may_have_changed(
    tmp_path: Path,
    new_log: Callable[[], CountedLog],
    monkeypatch: pytest.MonkeyPatch,
    late: Record,
    dropped: set[int],
) -> None:
    log, numbers = new_log(), list[int]()
    log.append([decided(f"d{hour}", hour * HOUR_MS) for hour in range(0, 9 * 24)])
    log.append(alive())
    read(tmp_path, log)
    log.append([late])
    real = matured_outcomes._read_days

    def read_days(*arguments: Any) -> Iterator[tuple[int, bytes]]:
        numbers.extend(arguments[-1])
        return real(*arguments)

    monkeypatch.setattr(matured_outcomes, "_read_days", read_days)
    read(tmp_path, log)
    assert set(numbers) == dropped


def test_another_limit_of_people_or_a_log_that_was_put_back_reads_all_days_again(
    tmp_path: Path, new_log: Callable[[], CountedLog]
) -> None:
    log, shorter = new_log(), new_log()
    log.append([decided(f"d{hour}", hour * HOUR_MS, hour / 300) for hour in range(0, 9 * 24)])
    log.append(alive())
    before = read(tmp_path, log)
    less = msgspec.structs.replace(FRAUD.decision, capacity=0.1)
    fewer = read(tmp_path, log, decision=less)
    assert told(fewer) == told(read(tmp_path / "again", log, decision=less)) != told(before)
    shorter.append([decided("d1", 1), *alive()])
    assert told(read(tmp_path, shorter)) == told(read(tmp_path / "shorter", shorter))


def test_a_check_that_is_killed_keeps_whole_days_and_reads_the_others_once(
    tmp_path: Path, new_log: Callable[[], CountedLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log()
    log.append([decided(f"d{hour}", hour * HOUR_MS) for hour in range(0, 9 * 24)])
    log.append(alive())
    real, read_twice = matured_outcomes._read_day, list[int]()

    def dying(log: DecisionLog, *arguments: Any) -> Any:
        number = arguments[3]
        if number == 3 and -1 not in read_twice:
            read_twice.append(-1)
            raise KeyboardInterrupt
        read_twice.append(number)
        return real(log, *arguments)

    monkeypatch.setattr(matured_outcomes, "_read_day", dying)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path, log)
    found = read(tmp_path, log)
    assert read_twice == [0, 1, 2, -1, 3, 4, 5]
    assert told(found) == told(read(tmp_path / "again", log))


def test_portions_of_any_size_drop_the_same_days(
    tmp_path: Path, new_log: Callable[[], CountedLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log()
    log.append([decided(f"d{hour}", hour * HOUR_MS) for hour in range(0, 9 * 24)])
    log.append(alive())
    read(tmp_path, log)
    log.append([labelled(f"d{hour}", (hour + 2) * HOUR_MS, 1) for hour in range(0, 9 * 24, 5)])
    log.append([record("void", f"d{hour}", NOW_MS) for hour in range(0, 9 * 24, 7)])
    monkeypatch.setattr(days, "PORTION", 10)
    monkeypatch.setattr(days, "IDS_AT_ONCE", 4)
    assert told(read(tmp_path, log)) == told(read(tmp_path / "again", log))
