"""Segments of models of classes and of numbers: a loss in one is found, by how many rows it has."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from mlplatform.learning.training_sets.dataset import LabelledRows, Matrix
from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.decision_scale import DecisionScale, Quantity
from mlplatform.model.policies.segments import (
    ClassSegmentGates,
    NumberSegmentGates,
    ValidatedSegment,
)
from support.scoring_world import write_amount_bundle
from support.segment_gates import gates_of_scores

ROWS = 6_000
CLASSES = ("small", "middle", "large")
GROUPS = (
    ValidatedSegment(name="large", input="amount", at_least=100.0),
    ValidatedSegment(name="small", field="amount", below=100.0),
)
EUR = Quantity("EUR", 1.0)
TASKS = ("classes", "real")

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class World:
    """Held-out rows of large and small amounts, two of each customer's, and models of one task."""

    def __init__(self, task: str, bundle: Bundle, *, share: float = 0.5, seed: int = 1) -> None:
        self.task, self.random = task, np.random.default_rng(seed)
        scale = DecisionScale(CLASSES, (), by_class=True)
        if task == "real":
            scale = DecisionScale(("usual", "high"), ("high",), number=EUR)
        self.bundle = msgspec.structs.replace(bundle, scale=scale)
        self.is_large = self.random.random(ROWS) < share
        x = np.where(self.is_large, 500.0, 20.0).astype(np.float32)[:, None]
        names, rows = bundle.input_names, np.arange(ROWS)
        self.y: Any = self.random.integers(0, len(CLASSES), ROWS)
        if task == "real":
            self.y = self.random.normal(100, 20, ROWS)
        x = np.repeat(x, len(names), axis=1)
        self.rows = LabelledRows(Matrix(names, x, rows, rows // 2), self.y)

    def scores(self, *, worse: Flags | None = None, times: float = 2.0) -> Floats:
        """Of a model that is right on four of five rows, or 10 EUR off in the mean of squares.

        Args:
            worse: rows on which it is wrong, or off, so many times as often or as far.
        """
        factor = np.ones(ROWS) if worse is None else np.where(worse, times, 1.0)
        if self.task == "real":
            return np.asarray(self.y + self.random.normal(0, 10, ROWS) * factor, np.float64)
        is_wrong = self.random.random(ROWS) < 0.2 * factor
        found = np.full((ROWS, len(CLASSES)), 0.1)
        found[np.arange(ROWS), (self.y + is_wrong) % len(CLASSES)] = 0.8
        return found

    def gates(self, own: Floats, other: Floats | None, *, seen: int = 0) -> list[GateResult]:
        """Args: seen: the number of rows that the champion was fitted to."""
        segments: Any = ClassSegmentGates(accuracy_drop=0.1, groups=GROUPS)
        if self.task == "real":
            segments = NumberSegmentGates(mae_rise=0.2, groups=GROUPS)
        model = load_definition("fraud")
        definition: Any = SimpleNamespace(
            task=self.task,
            classes=CLASSES if self.task == "classes" else (),
            decision=SimpleNamespace(scale=self.bundle.scale),
            gates=SimpleNamespace(segments=segments),
            request=model.request,
            inputs=model.inputs,
            protected=(),
        )
        found = gates_of_scores(definition, self.bundle, self.rows, own, other, seen=seen)
        assert [*found] == ["segment_large", "segment_small"]
        return [*found.values()]


@pytest.fixture(params=TASKS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Bundle]:
    """A task, and a bundle whose scale a world replaces."""
    write_amount_bundle(tmp_path)
    return request.param, load_bundle(tmp_path)


def test_a_loss_in_one_segment_is_proven_there_and_nowhere_else(made: tuple[str, Bundle]) -> None:
    world = World(*made)
    large, small = world.gates(world.scores(worse=world.is_large), world.scores())
    assert large.verdict == "failed"
    assert large.observed is not None
    assert large.limit is not None
    if world.task == "classes":
        assert large.observed == pytest.approx(-0.2, abs=0.04)
        assert large.limit == -0.1
        assert large.reason.startswith("accuracy 0.5")
    else:  # a normal error of 10 EUR has a mean of 8
        assert large.observed == pytest.approx(8.0, abs=0.8)
        assert large.limit == pytest.approx(0.2 * 8.0, abs=0.1)
        assert "mean absolute error 1" in large.reason
        assert " EUR, the champion's" in large.reason
    assert "is proven" in large.reason
    assert small.verdict == "passed"
    assert "(95 % interval" in small.reason


def test_a_loss_within_the_tolerance_passes(made: tuple[str, Bundle]) -> None:
    world = World(*made)
    own = world.scores(worse=world.is_large, times=1.1)
    assert [gate.verdict for gate in world.gates(own, world.scores())] == ["passed", "passed"]


def test_a_segment_of_few_rows_is_not_shown(made: tuple[str, Bundle]) -> None:
    world = World(*made, share=0.001)
    for other in (world.scores(), None):
        large, small = world.gates(world.scores(), other)
        assert (large.verdict, small.verdict) == ("inconclusive", "passed")
        assert "labels wanted" in large.reason
    world = World(*made, share=0.02)
    own = world.scores(worse=world.is_large, times=1.2)
    large, small = world.gates(own, world.scores())
    assert (large.verdict, small.verdict) == ("inconclusive", "passed")
    assert "all of it must be" in large.reason


def test_a_loss_that_only_days_of_the_champions_fit_show_is_no_proof(
    made: tuple[str, Bundle],
) -> None:
    world = World(*made)
    early = np.arange(ROWS) < ROWS - 1000
    own, other = world.scores(worse=world.is_large & early), world.scores()
    for seen, verdict in ((0, "failed"), (ROWS - 1000, "inconclusive"), (ROWS, "inconclusive")):
        assert world.gates(own, other, seen=seen)[0].verdict == verdict


def test_a_first_version_has_nothing_to_lose_and_a_champion_without_numbers_shows_nothing(
    made: tuple[str, Bundle],
) -> None:
    world = World(*made)
    own = world.scores()
    for gate in world.gates(own, None):
        assert gate.verdict == "passed"
        assert "there is no champion yet" in gate.reason
    for gate in world.gates(own, np.full(own.shape, np.nan)):
        assert (gate.verdict, gate.observed) == ("inconclusive", None)
        assert "can't be compared" in gate.reason


def test_equal_models_are_seldom_refused(made: tuple[str, Bundle]) -> None:
    """A false proof in either of two segments that tolerate no loss at all: 5 % at the most."""
    false, runs = 0, 40
    for seed in range(runs):
        world = World(*made, seed=seed)
        found = world.gates(world.scores(), world.scores())
        worse = [
            g.interval[1] < 0 if world.task == "classes" else g.interval[0] > 0
            for g in found
            if g.interval is not None
        ]
        assert len(worse) == len(GROUPS)
        false += any(worse)
    assert false <= 5, "of 40; more than 5 has a chance of 1.4 % at 5 %"


def test_what_few_customers_do_not_show_is_ruled_out_for_no_others(
    made: tuple[str, Bundle],
) -> None:
    """Two versions are alike on all requests of 120 customers. That has a chance of 5 % where one
    customer in 40 loses all of them, so an interval of no width would rule out too much."""
    task, bundle = made
    world = World(task, bundle, share=0.02)
    same = world.scores()
    large, small = world.gates(same, same)
    assert 100 <= world.is_large.sum() < 140
    assert (large.observed, small.observed) == (0, 0)
    assert small.verdict == "passed"
    if task == "classes":  # no error has a largest size: of numbers the widest one seen counts
        assert large.interval is not None
        assert large.interval[0] < -0.02
    few = dataclasses.replace(world.rows.matrix, unit=np.arange(ROWS) % 29)
    world.rows = dataclasses.replace(world.rows, matrix=few)
    for gate in world.gates(same, same):
        assert gate.verdict == "inconclusive"
        assert "of 29 customers, 30 customers wanted" in gate.reason
