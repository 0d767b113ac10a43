"""Segments of the held-out requests: a loss in one is found, and a small one is never a pass."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from mlplatform.learning.training_sets.dataset import LabelledRows, Matrix
from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.definition import ModelDefinition, RequestField
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.segments import SegmentGates, ValidatedSegment
from support.scoring_world import write_amount_bundle
from support.segment_gates import gates_of_scores

ROWS = 6_000
DROP = 0.1
LARGE = ValidatedSegment(name="large", input="amount", at_least=100.0)
SMALL = ValidatedSegment(name="small", field="amount", below=100.0)
FEMALE = ValidatedSegment(name="female", field="sex", values=("female",))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write_amount_bundle(tmp_path)
    return load_bundle(tmp_path)


class World:
    """Held-out rows of two halves, large and small amounts; a champion that is good at both.

    Args:
        share: of large amounts.
    """

    def __init__(self, bundle: Bundle, *, share: float = 0.5, seed: int = 1) -> None:
        random = np.random.default_rng(seed)
        self.bundle, self.y = bundle, (random.random(ROWS) < 0.1).astype(np.int8)
        self.is_large = random.random(ROWS) < share
        x = np.where(self.is_large, 500.0, 20.0).astype(np.float32)[:, None]
        names, rows = bundle.input_names, np.arange(ROWS)
        x = np.repeat(x, len(names), axis=1)
        sex = random.integers(-1, 2, ROWS)
        self.rows = LabelledRows(Matrix(names, x, rows, rows), self.y, groups={"sex": sex})
        self.noise = random.normal(0, 0.6, (2, ROWS))

    def scores(self, place: int, *, blind: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Args: blind: rows whose label is not known to the model."""
        known = self.y if blind is None else np.where(blind, 0, self.y)
        return np.asarray(1 / (1 + np.exp(-(2.0 * known + self.noise[place]))), np.float64)

    def gates(
        self,
        *segments: ValidatedSegment,
        own: NDArray[np.float64],
        other: NDArray[np.float64] | None,
        seen: int = 0,
    ) -> dict[str, GateResult]:
        """Args: seen: the number of rows that the champion was fitted to."""
        model = definition(*segments)
        return gates_of_scores(model, self.bundle, self.rows, own, other, seen=seen)


def definition(*segments: ValidatedSegment) -> ModelDefinition:
    model = load_definition("fraud")
    gates = SegmentGates(average_precision_drop=DROP, groups=segments) if segments else None
    sex = RequestField(type="string", values=("female", "male"))
    return msgspec.structs.replace(
        model,
        request={**model.request, "sex": sex},
        protected=("sex",),
        gates=msgspec.structs.replace(model.gates, segments=gates),
    )


def test_a_loss_in_one_segment_is_proven_there_and_nowhere_else(bundle: Bundle) -> None:
    world = World(bundle)
    own = world.scores(1, blind=world.is_large)
    found = world.gates(LARGE, SMALL, FEMALE, own=own, other=world.scores(0))
    assert [*found] == ["segment_large", "segment_small", "segment_female"]
    large, small = found["segment_large"], found["segment_small"]
    assert large.verdict == "failed"
    assert large.observed is not None
    assert large.observed < -DROP
    assert "the loss is proven" in large.reason
    assert small.verdict == "passed"
    assert f"{int((~world.is_large).sum()):,} requests" in small.reason
    assert "(96.67 % interval" in small.reason


def test_a_segment_of_few_positives_is_not_shown_and_no_pass_where_it_is_required(
    bundle: Bundle,
) -> None:
    world = World(bundle, share=0.004)
    told = msgspec.structs.replace(LARGE, name="told", required=False)
    same = world.scores(0)
    for other in (same, None):
        found = world.gates(LARGE, told, own=same, other=other)
        assert found["segment_large"].verdict == "inconclusive"
        assert found["segment_large"].reason.startswith("not shown: ")
        assert found["segment_told"].verdict == "passed"
        assert found["segment_told"].reason.startswith("not shown, and only reported")


def test_a_wide_interval_is_not_shown(bundle: Bundle) -> None:
    world = World(bundle, share=0.03)
    found = world.gates(LARGE, own=world.scores(1), other=world.scores(0))["segment_large"]
    assert found.verdict == "inconclusive"
    assert found.interval is not None
    assert found.interval[0] < -DROP < found.interval[1]
    assert found.reason.startswith("not shown: average precision 0.")


def test_a_loss_that_only_days_of_the_champions_fit_show_is_no_proof(bundle: Bundle) -> None:
    world = World(bundle)
    early = np.arange(ROWS) < ROWS - 400
    own = world.scores(1, blind=world.is_large & early)
    for seen, verdict in ((0, "failed"), (ROWS - 400, "inconclusive"), (ROWS, "inconclusive")):
        found = world.gates(LARGE, own=own, other=world.scores(0), seen=seen)
        assert found["segment_large"].verdict == verdict


def test_a_first_version_has_nothing_to_lose(bundle: Bundle) -> None:
    world = World(bundle)
    found = world.gates(LARGE, SMALL, own=world.scores(0), other=None)
    assert {gate.verdict for gate in found.values()} == {"passed"}
    assert all("there is no champion yet" in gate.reason for gate in found.values())


def test_a_champion_that_is_not_a_number_shows_nothing(bundle: Bundle) -> None:
    world = World(bundle)
    gone = np.full(ROWS, np.nan)
    found = world.gates(LARGE, own=world.scores(0), other=gone)["segment_large"]
    assert (found.verdict, found.observed) == ("inconclusive", None)
    assert "can't be compared" in found.reason


def test_no_segments_no_gates(bundle: Bundle) -> None:
    world = World(bundle)
    assert world.gates(own=world.scores(0), other=world.scores(1)) == {}


def test_equal_models_are_seldom_refused_however_many_segments_there_are(bundle: Bundle) -> None:
    """A false proof in any of four segments: 5 % at the most, by the parts that they share.

    The tolerance is no loss at all here, which is the hardest that can be asked for.
    """
    parts = tuple(
        ValidatedSegment(name=f"part_{n}", field="sex", values=(("female", "male")[n % 2],))
        for n in range(4)
    )
    false, runs = 0, 40
    for seed in range(runs):
        world = World(bundle, seed=seed)
        found = world.gates(*parts, own=world.scores(1), other=world.scores(0))
        false += any(g.interval is not None and g.interval[1] < 0 for g in found.values())
    assert false <= 5, "of 40; more than 5 has a chance of 1.4 % at 5 %"
