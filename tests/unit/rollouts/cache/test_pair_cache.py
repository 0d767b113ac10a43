"""Labels that are kept are those that a recount finds, whatever came in which order, and when."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.rollouts.passes.test_count_cache import Log

from mlplatform.decisions.records.port import RecordQuery
from mlplatform.rollouts.cache import pair_cache, pair_counts, pairs
from mlplatform.rollouts.cache.pair_cache import shadow_outcomes
from mlplatform.rollouts.verdicts.basis import LabelledRequests, OutcomeBasis, outcome_gates
from mlplatform.rollouts.verdicts.outcomes import (
    LabelledClasses,
    LabelledNumbers,
    Outcomes,
    recall_at_capacity,
)
from mlplatform.rollouts.verdicts.verdict import Bound, Errors
from rollout_world import table
from support.shadow_recount import labelled_requests, outcomes

MATURE_MS, NOW_MS = 10, 30
ERRORS = Errors(stop=0.01, missed=0.05)
CHANCES = {"d1": 0.25, "d4": 0.5}
"""By decision, of draws: each of its records says the same."""

ROW = st.tuples(
    st.integers(0, 7),  # decision id: some have two decisions, or none
    st.integers(0, 3),  # customer
    st.sampled_from(["decision", "decision", "shadow", "shadow", "label", "label", "void"]),
    st.integers(0, NOW_MS + 5),  # event time; labels of later are not known yet
    st.integers(0, 2),  # wall time
    st.sampled_from([0.1, 0.4, 0.4, 0.9, None]),  # score
    st.sampled_from(["approve", "approve", "review", "decline"]),  # also the class of a label
    st.sampled_from([0, 1, None]),  # label
    st.sampled_from([1, 1, 1, 2]),  # generation
)


def row_of(drawn: tuple[Any, ...], seq: int, writer: str) -> dict[str, Any]:
    number, unit, kind, event_ms, wall_ms, score, decision, label, generation = drawn
    is_copy = kind == "shadow"
    arm = "challenger" if is_copy else "champion"
    chance = CHANCES.get(f"d{number}")
    said = {"label": label, "decision": decision if label != 1 else None}
    return {
        "writer": writer,
        "seq": seq,
        "kind": kind,
        "decision_id": f"d{number}",
        "unit": unit,
        "event_ms": event_ms,
        "recorded_ms": wall_ms,
        "score": score,
        "decision": decision,
        "arm": arm,
        "answered_by": arm,
        "version": 2 if is_copy else 1,
        "generation": generation,
        "payload": f'{{"propensity":{chance}}}' if chance and kind == "decision" else None,
    } | (said if kind == "label" else {})


def written(drawn: list[tuple[Any, ...]], writers: int) -> Log:
    seqs = [0] * writers
    rows = []
    for place, one in enumerate(drawn):
        writer = place % writers
        seqs[writer] += 1
        rows.append(row_of(one, seqs[writer], f"gateway-{'bac'[writer]}"))
    return Log(table(rows))


def basis_of(log: Log, now_ms: int = NOW_MS, **more: Any) -> OutcomeBasis:
    found = OutcomeBasis(
        generation=1,
        version=2,
        maturity_ms=MATURE_MS,
        now_event_ms=now_ms,
        marks={mark.writer: mark.seq for mark in log.watermarks()},
        bound=Bound(0.05, 0.2),
        errors=ERRORS,
        capacity=0.3,
        due=True,
        hides=("decline",),
    )
    return dataclasses.replace(found, **more)


def recount(log: Log, basis: OutcomeBasis) -> LabelledRequests:
    """Of everything that is there, at once, without a file."""
    rows = Log(log.written, log.reached).read(RecordQuery())
    own = rows.filter((pc.field("generation") == 1) & pc.field("kind").isin(["decision", "shadow"]))
    decisions = rows.filter(pc.field("kind") != "label")
    first_ms = pc.min(own["event_ms"]).as_py() or 0
    labels = rows.filter((pc.field("kind") == "label") & (pc.field("event_ms") >= first_ms))
    asked = {"generation": 1, "version": 2, "maturity_ms": MATURE_MS,
             "now_event_ms": basis.now_event_ms, "step_ms": basis.step_ms}  # fmt: skip
    if basis.task != "binary":
        return labelled_requests(decisions, labels, task=basis.task, **asked)
    drawn = CHANCES if basis.explores else None
    return outcomes(decisions, labels, **asked, hides=basis.hides, propensities=drawn)


def seen_in(found: LabelledRequests, basis: OutcomeBasis) -> Any:
    """All that a gate reads of it."""
    numbers = (len(found), found.immature, found.silent if len(found) + found.immature else None)
    gates = outcome_gates(basis, found)
    match found:
        case LabelledClasses():
            return numbers, found.wrong, gates
        case LabelledNumbers():
            arrays = (found.unit, found.challenger, found.champion, found.labels)
            return numbers, [a.tolist() for a in arrays], gates
    recall = recall_at_capacity(found, capacity=basis.capacity, errors=basis.errors)
    return numbers, found.hidden, dict(found.arrived_shares), repr(recall), gates


@pytest.mark.parametrize("step_ms", [1, 4])
@pytest.mark.parametrize("kind", ["binary", "explored", "classes", "real"])
@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, max_size=50), st.integers(1, 3), st.integers(1, 9), st.data())
def test_any_portions_in_any_order_give_what_a_recount_of_everything_gives(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    step_ms: int,
    drawn: list[tuple[Any, ...]],
    writers: int,
    portion: int,
    data: st.DataObject,
) -> None:
    """Late records and labels, corrections, voids, labels that are of later than now."""
    folder = tmp_path_factory.mktemp("kept")
    log, now_ms = written(drawn, writers), 0
    for _ in range(3):
        for writer in log.writers():
            log.reached[writer] = log.reached.get(writer, 0) + data.draw(st.integers(0, 12))
        now_ms += data.draw(st.integers(0, 20))
        task = "binary" if kind == "explored" else kind
        basis = basis_of(log, now_ms, explores=kind == "explored", task=task, step_ms=step_ms)
        with mock.patch.multiple(pair_counts, FEW_TELLING=3, MORE_SHARE=0.0, MORE_PAIRS=0):
            found = shadow_outcomes(folder, log, "fraud", basis, portion=portion)  # type: ignore[arg-type]
        assert seen_in(found, basis) == seen_in(recount(log, basis), basis)


def test_a_label_from_before_a_record_that_comes_late_counts_from_then_on(tmp_path: Path) -> None:
    def pair(name: str, event_ms: int) -> list[dict[str, Any]]:
        shared = {"decision_id": name, "unit": 1, "event_ms": event_ms}
        return [shared, shared | {"kind": "shadow", "arm": "challenger", "version": 2}]

    label = {"kind": "label", "decision_id": "late", "event_ms": 4, "label": 1, "generation": 0}
    log = Log(table([label, *pair("first", 5), *pair("late", 3)]))
    for reached, positives in ((3, 0), (5, 1)):
        log.reached["gateway-1"] = reached
        basis = basis_of(log)
        found = shadow_outcomes(tmp_path, log, "fraud", basis)  # type: ignore[arg-type]
        assert isinstance(found, Outcomes)
        assert int(found.requests.positive.sum()) == positives
        assert seen_in(found, basis) == seen_in(recount(log, basis), basis)


def many(count: int) -> Log:
    rng = np.random.default_rng(5)
    rows: list[dict[str, Any]] = []
    for number, score in enumerate(rng.random(count).round(2).tolist()):
        shared = {"decision_id": f"d{number}", "unit": number % 7, "event_ms": number // 2}
        copied = {"kind": "shadow", "arm": "challenger", "version": 2, "score": 1 - score}
        rows += [shared | {"score": score}, shared | copied]
        if not number % 3:
            late = {"event_ms": number // 2 + number % 29, "label": int(score > 0.8)}
            rows.append({"kind": "label", "decision_id": f"d{number}", "generation": 0, **late})
    return Log(table(rows))


def test_only_what_is_new_is_read_and_few_requests_are_held(tmp_path: Path) -> None:
    log = many(3000)
    basis = basis_of(log, 3000, capacity=0.02)
    log.reached["gateway-1"] = 6990
    first = dataclasses.replace(basis, marks={"gateway-1": 6990})
    shadow_outcomes(tmp_path, log, "fraud", first, portion=1000)  # type: ignore[arg-type]
    log.reads.clear()
    log.reached.clear()
    found = shadow_outcomes(tmp_path, log, "fraud", basis)  # type: ignore[arg-type]
    assert sum(log.reads) == 10
    assert isinstance(found, Outcomes)
    whole = recount(log, basis)
    assert seen_in(found, basis) == seen_in(whole, basis)
    assert len(found) == 3000
    assert len(found.requests.unit) <= int(found.requests.positive.sum()) + 2 * 60
    log.reads.clear()
    shadow_outcomes(tmp_path, log, "fraud", basis)  # type: ignore[arg-type]
    assert log.reads == []


def test_an_earlier_time_or_a_log_that_was_put_back_is_read_from_its_beginning(
    tmp_path: Path,
) -> None:
    log = many(60)
    for basis in (
        basis_of(log, 80),
        basis_of(log, 40),
        dataclasses.replace(basis_of(log, 40), marks={"gateway-1": 50}),
    ):
        log.reached["gateway-1"] = basis.marks["gateway-1"]
        found = shadow_outcomes(tmp_path, log, "fraud", basis)  # type: ignore[arg-type]
        assert seen_in(found, basis) == seen_in(recount(log, basis), basis)


def test_where_scores_have_fallen_the_highest_of_all_pairs_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = many(3000)
    falling = pa.array(np.linspace(1.0, 0.1, len(log.written)))
    log.written = log.written.set_column(
        log.written.schema.get_field_index("score"), "score", falling
    )
    monkeypatch.setattr(pair_counts, "FEW_TELLING", 100)
    monkeypatch.setattr(pair_counts, "MORE_PAIRS", 0)
    lowered = mock.Mock(wraps=pair_counts._lower_floors)
    monkeypatch.setattr(pair_counts, "_lower_floors", lowered)
    basis = basis_of(log, 3000, capacity=0.02)
    times = []
    for marks in (1500, 6000, 6100):
        log.reached["gateway-1"] = marks
        now = dataclasses.replace(basis, marks={"gateway-1": marks})
        found = shadow_outcomes(tmp_path, log, "fraud", now, portion=500)  # type: ignore[arg-type]
        assert seen_in(found, now) == seen_in(recount(log, now), now)
        times.append(lowered.call_count)
    assert times[0] < times[1] == times[2]


def test_a_judgement_reads_the_pairs_that_change_a_bound_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = many(3000)
    monkeypatch.setattr(pair_counts, "FEW_TELLING", 100)
    monkeypatch.setattr(pair_counts, "MORE_PAIRS", 0)
    basis = basis_of(log, 3000, capacity=0.02)
    shadow_outcomes(tmp_path, log, "fraud", basis)  # type: ignore[arg-type]
    (file,) = tmp_path.rglob("*.db")
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        (positive,) = db.execute("SELECT sum(positive) FROM ages").fetchone()
        (telling,) = db.execute("SELECT count(*) FROM telling").fetchone()
        assert telling <= positive + 2 * 75 + 60  # scores of two digits: some are equal
        db.execute("UPDATE pairs SET facts = zeroblob(length(facts))")
    found = shadow_outcomes(tmp_path, log, "fraud", basis)  # type: ignore[arg-type]
    assert seen_in(found, basis) == seen_in(recount(log, basis), basis)


class Killed(Exception):
    """The process ended here."""


def test_a_pass_that_is_killed_before_any_commit_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = many(60)
    basis, save = basis_of(log, 80), pairs.save
    wanted = seen_in(recount(log, basis), basis)
    for at in range(100):
        left = at

        def dying(*arguments: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            save(*arguments)

        monkeypatch.setattr(pair_cache.pairs, "save", dying)
        try:
            shadow_outcomes(tmp_path / str(at), log, "fraud", basis, portion=25)  # type: ignore[arg-type]
        except Killed:
            monkeypatch.undo()
        else:
            break
        found = shadow_outcomes(tmp_path / str(at), log, "fraud", basis, portion=25)  # type: ignore[arg-type]
        assert seen_in(found, basis) == wanted
    assert at > 5
