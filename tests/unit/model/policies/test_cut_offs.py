"""Thresholds by segment: the row says by which of them a score is decided, alone as among many."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mlplatform
from mlplatform.model.policies.cut_offs import (
    NOWHERE,
    CutOffs,
    RowSegment,
    RowSegments,
    SegmentThresholds,
)
from mlplatform.model.policies.decision_scale import EARLIER

NAMES = ("amount", "channel", "age")
WORDS = {"channel": ("web", "shop", "phone")}
UNKNOWN, WEB, SHOP, PHONE = 1.0, 2.0, 3.0, 4.0
LARGE = RowSegment(name="large", input="amount", at_least=100.1)
REMOTE = RowSegment(name="remote", input="channel", values=("web", "phone"))
ROUND = RowSegment(name="round", input="amount", values=(0.1, 50.0))
NEAR = (0.0, 0.1, 1.0, 50.0, 100.1, 1e10, 3.4028234663852886e38)
NUMBERS = st.one_of(
    st.floats(),
    st.sampled_from(NEAR).flatmap(
        lambda near: st.floats(near - abs(near) * 1e-6 - 1e-45, near + abs(near) * 1e-6 + 1e-45)
    ),
)
BOUND = st.one_of(st.none(), st.sampled_from(NEAR), st.floats(-1e30, 1e30))


@st.composite
def segments(draw: st.DrawFn) -> RowSegment:
    if draw(st.booleans()):
        words = draw(st.lists(st.sampled_from(WORDS["channel"]), min_size=1, max_size=3))
        return RowSegment(name="s", input="channel", values=tuple(words))
    of = draw(st.sampled_from(["amount", "age"]))
    if draw(st.booleans()):
        values = draw(st.lists(st.sampled_from(NEAR), min_size=1, max_size=3))
        return RowSegment(name="s", input=of, values=tuple(values))
    return RowSegment(name="s", input=of, at_least=draw(BOUND), below=draw(BOUND))


ROW = st.tuples(NUMBERS, st.sampled_from([math.nan, UNKNOWN, WEB, SHOP, PHONE]), NUMBERS)


@settings(deadline=None)
@given(
    st.lists(segments(), max_size=4),
    st.lists(st.tuples(st.floats(0, 1), ROW), min_size=1, max_size=10),
)
@example([LARGE], [(0.4, (100.1, WEB, 0.0)), (0.4, (float(np.float32(100.1)), WEB, 0.0))])
@example([LARGE], [(0.4, (1e39, WEB, 0.0)), (0.4, (-1e39, WEB, 0.0))])
def test_a_request_is_decided_as_the_same_row_among_many_as_float32(
    declared: list[RowSegment], scored: list[tuple[float, tuple[float, float, float]]]
) -> None:
    rows = RowSegments(declared, NAMES, WORDS)
    own = [{"review": 0.1 * n, "decline": 0.1 * n + 0.2} for n in range(len(declared))]
    cut = CutOffs(EARLIER, {"review": 0.5, "decline": 0.9}, rows, own)
    scores = np.array([score for score, _ in scored])
    with np.errstate(over="ignore"):
        x = np.array([row for _, row in scored], np.float32)
    places = rows.places(x).tolist()
    assert [rows.place(row) for _, row in scored] == places
    assert [rows.place(row) for row in x.tolist()] == places
    decided = [EARLIER.names[place] for place in cut.places(scores, x)]
    assert [cut.outcome(score, row) for score, row in scored] == decided
    for place, score, decision in zip(places, scores.tolist(), decided, strict=True):
        thresholds = {"review": 0.5, "decline": 0.9} if place == NOWHERE else own[place]
        alone = CutOffs(EARLIER, thresholds)
        assert alone.outcome(score, ()) == decision


@given(BOUND, BOUND, NUMBERS)
def test_a_row_lies_within_the_bounds_as_float32_has_them(
    at_least: float | None, below: float | None, value: float
) -> None:
    segment = RowSegment(name="s", input="amount", at_least=at_least, below=below)
    with np.errstate(over="ignore"):
        held = np.float32(value)
        low = np.float32(-math.inf if at_least is None else at_least)
        high = np.float32(math.inf if below is None else below)
    inside = bool(low <= held < high)
    assert RowSegments([segment], NAMES, WORDS).place((value, WEB, 0.0)) == (0 if inside else -1)


@pytest.mark.parametrize(
    ("row", "place"),
    [
        pytest.param((100.1, SHOP, 0.0), 0, id="at the lower bound"),
        pytest.param((100.0, SHOP, 0.0), NOWHERE, id="below it"),
        pytest.param((500.0, WEB, 0.0), 0, id="in two segments the first counts"),
        pytest.param((50.0, WEB, 0.0), 1, id="a word, and before a number that is listed"),
        pytest.param((50.0, SHOP, 0.0), 2, id="a number that is listed"),
        pytest.param((float(np.float32(0.1)), SHOP, 0.0), 2, id="a listed number as float32"),
        pytest.param((math.nan, PHONE, 0.0), 1, id="a missing value, and a word"),
        pytest.param((math.nan, math.nan, 0.0), NOWHERE, id="nothing known"),
        pytest.param((20.0, UNKNOWN, 0.0), NOWHERE, id="a word that the vocabulary lacks"),
    ],
)
def test_the_first_segment_in_which_a_row_lies_counts(row: tuple[float, ...], place: int) -> None:
    assert RowSegments([LARGE, REMOTE, ROUND], NAMES, WORDS).place(row) == place


@pytest.mark.parametrize(
    ("segment", "named"),
    [
        (RowSegment(name="s", input="height", below=1.0), "no input height"),
        (RowSegment(name="s", input="channel", values=("fax",)), "channel lacks 'fax'"),
    ],
)
def test_a_segment_of_what_rows_do_not_have_is_refused(segment: RowSegment, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RowSegments([segment], NAMES, WORDS)


def test_a_segment_with_thresholds_says_only_what_it_has() -> None:
    found: Any = msgspec.to_builtins(
        SegmentThresholds(name="s", input="amount", below=5.0, thresholds={"review": 0.5})
    )
    assert found == {"name": "s", "input": "amount", "below": 5.0, "thresholds": {"review": 0.5}}


SOURCE = Path(mlplatform.__file__).parent
MADE_IN = {
    "learning/training/calibration.py": "of what was learned, before there is a bundle",
    "learning/training/own_gates.py": "of made-up rows, for a model of numbers",
    "model/bundle.py": "of a bundle, with its segments",
    "model/scorecard.py": "of its small model, with its segments",
}


def test_nothing_else_makes_decisions_of_thresholds_and_so_forgets_segments() -> None:
    made = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "CutOffs"
    }
    assert made == {*MADE_IN}
