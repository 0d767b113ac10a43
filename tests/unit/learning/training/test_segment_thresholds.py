"""Thresholds per segment are found from the segment's own held-out requests, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.costs import mean_cost
from tests.support.training_rows import DEFINITION, NAMES, payments

from mlplatform.learning.training import own_gates, run_figures
from mlplatform.learning.training.calibration import (
    KnownScores,
    LearnedThresholds,
    SegmentPlaces,
    fit_segments,
    fit_thresholds,
    held_out_segments,
)
from mlplatform.learning.training.candidate import train
from mlplatform.learning.training.folder import ModelFolder, load_folder
from mlplatform.learning.validation.own_gates import OwnGates
from mlplatform.model.bundle import load_bundle
from mlplatform.model.definition import InputSpec, RequestField
from mlplatform.model.policies.cut_offs import NOWHERE
from mlplatform.model.policies.decision_scale import (
    DecisionPolicy,
    LabelCosts,
    ThresholdPolicy,
    ThresholdSegment,
)
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid

ROWS = 40_000
OUTCOMES = ("approve", "review", "decline")
CHEAP = {
    "approve": LabelCosts(negative=0, positive=50),
    "review": LabelCosts(negative=2, positive=10),
    "decline": LabelCosts(negative=20, positive=0),
}
DEAR = {
    "approve": LabelCosts(negative=0, positive=900),
    "review": LabelCosts(negative=2, positive=100),
    "decline": LabelCosts(negative=20, positive=0),
}


class TwoKinds:
    """Requests of two kinds, of which one is positive far more often, with scores that mean what
    they say."""

    def __init__(self, seed: int = 1, share: float = 0.3) -> None:
        random = np.random.default_rng(seed)
        self.places = np.where(random.random(ROWS) < share, 0, NOWHERE).astype(np.int8)
        inside = self.places == 0
        self.scores = np.where(inside, random.beta(2, 6, ROWS), random.beta(1, 60, ROWS))
        self.y = (random.random(ROWS) < self.scores).astype(np.int8)
        self.known = random.random(ROWS) < 0.8

    def fit(self, decision: DecisionPolicy) -> LearnedThresholds:
        known = KnownScores(self.scores[self.known], self.y[self.known])
        places = SegmentPlaces(self.places, self.places[self.known])
        return fit_segments(decision, self.scores, known, places)

    def alone(self, policy: Any, inside: NDArray[np.bool_]) -> dict[str, float]:
        both = inside & self.known
        known = KnownScores(self.scores[both], self.y[both])
        return fit_thresholds(policy, OUTCOMES, self.scores[inside], known)


def policy(whole: dict[str, Any], own: dict[str, Any]) -> DecisionPolicy:
    segment = ThresholdSegment(name="own", input="amount", at_least=100.0, **own)
    thresholds = ThresholdPolicy(**whole, segments=(segment,), currency="EUR")
    return msgspec.structs.replace(DEFINITION.decision, thresholds=thresholds, capacity=0.1)


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two cost matrices": ({"costs": CHEAP}, {"costs": DEAR}),
    "one cost matrix, two base rates": ({"costs": CHEAP}, {"costs": CHEAP}),
    "shares": (
        {"shares": {"review": 0.05, "decline": 0.01}},
        {"shares": {"review": 0.2, "decline": 0.1}},
    ),
    "scores inside, costs outside": (
        {"costs": CHEAP},
        {"scores": {"review": 0.2, "decline": 0.7}},
    ),
}


@pytest.mark.parametrize(("whole", "own"), WAYS.values(), ids=WAYS)
def test_each_part_has_the_thresholds_that_it_would_have_alone(
    whole: dict[str, Any], own: dict[str, Any]
) -> None:
    world, decision = TwoKinds(), policy(whole, own)
    found, inside = world.fit(decision), world.places == 0
    assert found.whole == world.alone(decision.thresholds, ~inside)
    assert found.segments == (world.alone(decision.thresholds.segments[0], inside),)


def test_two_cost_matrices_cost_less_by_segment_than_by_one_threshold_on_other_days() -> None:
    """Where scores mean what they say, a threshold is where two outcomes cost the same: 1 of 41
    inside, between approving and reviewing."""
    decision = policy({"costs": CHEAP}, {"costs": DEAR})
    found, later = TwoKinds().fit(decision), TwoKinds(seed=2)
    assert found.segments[0]["review"] < 0.03
    assert found.whole["review"] == pytest.approx(2 / 42, abs=0.02)
    inside = later.places == 0
    costs = list(DEAR.values())

    def cost(begins: dict[str, float]) -> float:
        places = sum((later.scores[inside] >= begin).astype(int) for begin in begins.values())
        return mean_cost(np.asarray(places), later.y[inside], costs)

    assert cost(found.segments[0]) < cost(found.whole)


def test_shares_hold_within_each_part() -> None:
    world = TwoKinds()
    found = world.fit(policy(*WAYS["shares"]))
    inside = world.places == 0
    for begins, part, (review, decline) in (
        (found.whole, ~inside, (0.05, 0.01)),
        (found.segments[0], inside, (0.2, 0.1)),
    ):
        scores = world.scores[part]
        assert np.mean(scores >= begins["decline"]) == pytest.approx(decline, abs=2e-4)
        assert np.mean(scores >= begins["review"]) == pytest.approx(review + decline, abs=2e-4)


@pytest.mark.parametrize("way", ["two cost matrices", "shares"])
def test_where_few_requests_lie_outside_their_thresholds_are_those_of_all(way: str) -> None:
    world, decision = TwoKinds(share=0.9999), policy(*WAYS[way])
    assert 0 < (world.places == NOWHERE).sum() < 20
    every = np.ones(ROWS, bool)
    assert world.fit(decision).whole == world.alone(decision.thresholds, every)


def folder_of(whole: dict[str, Any], *segments: ThresholdSegment) -> ModelFolder:
    thresholds = ThresholdPolicy(**whole, segments=segments, currency="EUR")
    decision = msgspec.structs.replace(
        DEFINITION.decision, thresholds=thresholds, capacity=0.1, limit=None
    )
    folder = load_folder("fraud")
    definition = msgspec.structs.replace(folder.definition, decision=decision)
    return replace(folder, definition=definition)


LARGE = ThresholdSegment(
    name="large", input="amount", at_least=60.0, shares={"review": 0.1, "decline": 0.05}
)
RISKY = ThresholdSegment(name="risky", input="terminal_risk_7d", at_least=0.01, costs=DEAR)
SHARES = {"shares": {"review": 0.01, "decline": 0.003}}


def test_a_trained_bundle_carries_its_segments_and_keeps_their_shares(tmp_path: Path) -> None:
    data = payments(1)
    made = train(folder_of(SHARES, LARGE, RISKY), data, bundles=tmp_path, seed=7)
    bundle = load_bundle(made.folder, made.bundle.digest)
    assert [segment.name for segment in bundle.segment_thresholds] == ["large", "risky"]
    days = data.calibrating
    x = days.matrix.of(bundle)
    places = bundle.segments.places(x)
    amount, risk = x[:, NAMES.index("amount")], x[:, NAMES.index("terminal_risk_7d")]
    assert ((places == 0) == (amount >= 60)).all()
    assert ((places == 1) == ((risk >= 0.01) & ~(amount >= 60))).all()
    decided = bundle.decide_many(bundle.calibrate_many(made.model.scores(x)), x)
    for place, shares in ((0, (0.05, 0.1)), (NOWHERE, (0.003, 0.01))):
        part = decided[places == place]
        found = [float(np.mean(part == 2)), float(np.mean(part == 1))]
        assert found == pytest.approx(shares, abs=2 / len(part))
    of = bundle.segment_thresholds
    assert [segment.rows for segment in of] == [(places == place).sum() for place in (0, 1)]
    assert [s.positives for s in of] == [days.y[places == place].sum() for place in (0, 1)]
    parameters = run_figures._parameters(DEFINITION, made, data)
    assert parameters["threshold.large.review"] == of[0].thresholds["review"]
    small = bundle.small_model
    assert small is not None
    assert set(small.segment_thresholds) == {"large", "risky"}
    assert small.segment_thresholds["large"] != small.thresholds


@pytest.mark.parametrize(
    ("segment", "told"),
    [
        pytest.param(
            msgspec.structs.replace(LARGE, at_least=500.0),
            r"^decision.thresholds.segments: large has \d+ held-out requests, 200 wanted, so that "
            "10 of them get decline: widen it, give it `scores`, or raise training.holdout_days$",
            id="by shares, few requests",
        ),
        pytest.param(
            msgspec.structs.replace(RISKY, at_least=0.9995),
            r"risky has \d positives and \d+ negatives among its held-out requests of known "
            "outcome, 10 of each wanted",
            id="by costs, few positives",
        ),
    ],
)
def test_a_segment_of_too_few_requests_is_refused_before_anything_is_fitted(
    segment: ThresholdSegment, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlplatform.learning.training.candidate.call_fit", None)
    with pytest.raises(InputInvalid, match=told):
        train(folder_of(SHARES, segment), payments(1), bundles=tmp_path, seed=7)


def test_a_segment_by_scores_needs_no_request(tmp_path: Path) -> None:
    given = {"review": 0.2, "decline": 0.3}
    segment = ThresholdSegment(name="huge", input="amount", at_least=1e9, scores=given)
    found = train(folder_of(SHARES, segment), payments(1), bundles=tmp_path, seed=7).bundle
    (own,) = found.segment_thresholds
    assert (own.thresholds, own.rows) == (given, 0)


def test_a_teams_own_gates_are_told_whose_thresholds_decided_and_cost_by_them(
    tmp_path: Path,
) -> None:
    data, folder = payments(1), folder_of({"costs": CHEAP}, RISKY, LARGE)
    made = train(folder, data, bundles=tmp_path, seed=7)
    days = data.judging
    rows = own_gates._held_out(OwnGates(), folder.definition, made, days, None, 7)
    risky = days.matrix.columns(["terminal_risk_7d"])[:, 0] >= 0.01
    large = (days.matrix.columns(["amount"])[:, 0] >= 60) & ~risky
    wanted = np.select([risky, large], ["risky", "large"], "")
    assert rows.segments is not None
    assert rows.segments.tolist() == wanted.tolist()
    approved = np.where(risky, DEAR["approve"].positive, CHEAP["approve"].positive)
    assert rows.costs("approve").tolist() == np.where(days.y == 1, approved, 0).tolist()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("height", "channel"), "there is no input amount"),
        (("amount", "channel"), "the vocabulary of channel lacks 'web'"),
    ],
)
def test_the_model_of_a_bundle_without_the_segments_input_or_word_is_refused(
    names: tuple[str, ...], told: str
) -> None:
    """Of an older bundle, say, whose model is replaced by one from elsewhere."""
    field = RequestField(type="string", values=("web", "shop"))
    web = ThresholdSegment(name="web", field="channel", values=("web",), **SHARES)
    definition = folder_of(SHARES, LARGE, web).definition
    definition = msgspec.structs.replace(
        definition,
        request={**definition.request, "channel": field},
        inputs=(*definition.inputs, InputSpec(name="channel", kind="category", of="channel")),
    )
    x, taught = np.zeros((1, 2), np.float32), np.ones(1, bool)
    with pytest.raises(ConfigInvalid, match=rf"decision.thresholds.segments: {told}; wanted: "):
        held_out_segments(
            definition, names, {"channel": ("shop",)}, x, taught, np.zeros(1, np.int8)
        )
