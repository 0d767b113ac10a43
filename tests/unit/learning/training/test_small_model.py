"""The scorecard of a bundle: fitted to what tells, the same in training and in the gateway."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.learning.training.small_model import fit_scorecard, small_model
from mlplatform.learning.validation.statistics import average_precision
from mlplatform.model.bundle import Bundle, load_bundle, problems
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.calibration import Calibration
from mlplatform.model.policies.cut_offs import CutOffs
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.model.policies.small_model import Characteristic, SmallModel
from mlplatform.model.scorecard import SmallScorer
from support.scoring_world import write_amount_bundle

DEFINITION = load_definition("fraud")
POLICY = DEFINITION.training.small_model
NAMES = ("amount", "noise", "risk")
NAN = math.nan
MODEL = SmallModel(
    schema="scorecard/1",
    minimum_present=1,
    base=-3.0,
    characteristics=(
        Characteristic("risk", (0.1, 0.5), (-1.0, 2.0, 4.0), 0.5),
        Characteristic("amount", (), (0.0,), 1.0),
    ),
    calibration=Calibration(x=(0.0, 1.0), y=(0.0, 1.0)),
    thresholds={"review": 0.5, "decline": 0.9},
)
CUT_OFFS = CutOffs(EARLIER, MODEL.thresholds)


def payments(seed: int, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.column_stack(
        [rng.lognormal(3, 1, count), rng.normal(0, 1, count), rng.beta(0.3, 5, count)]
    ).astype(np.float32)
    odds = -6 + 0.01 * x[:, 0] + 8 * x[:, 2]
    y = (rng.random(count) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[0, 0] = 1e30
    return x, y


@pytest.mark.parametrize(
    ("risk", "amount", "log_odds"),
    [
        pytest.param(0.0, 5.0, -4.0, id="below the first cut"),
        pytest.param(0.1, 5.0, -1.0, id="at a cut the upper interval counts"),
        pytest.param(math.inf, 5.0, 1.0, id="beyond every cut"),
        pytest.param(NAN, 5.0, -2.5, id="one input missing"),
        pytest.param(NAN, NAN, -1.5, id="nothing is known"),
    ],
)
def test_points_add_up(risk: float, amount: float, log_odds: float) -> None:
    scorer = SmallScorer(MODEL, NAMES, (0.0, 0.0, 0.0), CUT_OFFS)
    assert scorer.raw((amount, 0.0, risk)) == pytest.approx(1 / (1 + math.exp(-log_odds)))


def test_it_abstains_where_it_knows_too_little() -> None:
    scorer = SmallScorer(
        msgspec.structs.replace(MODEL, minimum_present=2), NAMES, (0.0,) * 3, EARLIER
    )
    assert scorer.knows((1.0, NAN, 0.2))
    assert not scorer.knows((1.0, 5.0, NAN))


def test_the_inputs_with_the_most_points_above_an_ordinary_row_are_the_reasons() -> None:
    scorer = SmallScorer(MODEL, NAMES, (1.0, 0.0, 0.2), CUT_OFFS)
    assert scorer.strongest((NAN, 0.0, 0.9), 3) == ["risk", "amount"]
    assert scorer.strongest((1.0, 0.0, 0.2), 3) == []


def test_it_ranks_far_better_than_guessing_on_payments_it_has_not_seen() -> None:
    card = fit_scorecard(*payments(1), NAMES, POLICY)
    x, y = payments(2)
    lift = average_precision(card.scores(x, NAMES), y) / y.mean()
    assert lift > DEFINITION.gates.small_model_lift


def test_of_few_inputs_it_takes_those_that_tell_most() -> None:
    policy = msgspec.structs.replace(POLICY, inputs=2)
    card = fit_scorecard(*payments(1), NAMES, policy)
    assert [c.input for c in card.characteristics] == ["amount", "risk"]


def test_the_same_rows_give_the_same_points() -> None:
    assert fit_scorecard(*payments(3), NAMES, POLICY) == fit_scorecard(*payments(3), NAMES, POLICY)


def test_the_gateway_scores_as_training_did() -> None:
    x, y = payments(4, 3000)
    card = fit_scorecard(x, y, NAMES, POLICY)
    raw = card.scores(x, NAMES)
    model = small_model(card, raw, y, DEFINITION.decision)
    scorer = SmallScorer(model, NAMES, (0.0,) * 3, CutOffs(EARLIER, model.thresholds))
    assert [scorer.raw(row) for row in x[:500].tolist()] == pytest.approx(raw[:500])
    names = [scorer.decide(v, row)[1] for v, row in zip(raw.tolist(), x.tolist(), strict=True)]
    alerts = np.mean([name != "approve" for name in names])
    assert alerts <= DEFINITION.decision.alert_share


@given(st.lists(st.floats(), min_size=3, max_size=3))
def test_every_row_has_a_probability(row: list[float]) -> None:
    scorer = SmallScorer(MODEL, NAMES, (0.0,) * 3, CUT_OFFS)
    assert 0 <= scorer.raw(row) <= 1


def plain_bundle(folder: Path) -> Bundle:
    write_amount_bundle(folder / "draft")
    return load_bundle(folder / "draft")


def test_a_bundle_without_one_has_the_bytes_it_always_had(tmp_path: Path) -> None:
    bundle = plain_bundle(tmp_path)
    assert b"small_model" not in bundle.content
    assert b"defaults" not in bundle.content
    assert SmallScorer.of(bundle) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"characteristics": ()}, "no characteristic", id="nothing to add up"),
        pytest.param({"minimum_present": 3}, "minimum_present", id="more than it has"),
        pytest.param({"base": NAN}, "not finite", id="a number that is none"),
        pytest.param(
            {"characteristics": (Characteristic("colour", (), (0.0,), 0.0),)},
            "does not have",
            id="an input of nobody",
        ),
        pytest.param(
            {"characteristics": (Characteristic("amount", (2.0, 1.0), (0.0,) * 3, 0.0),)},
            "cuts do not rise",
            id="cuts out of order",
        ),
    ],
)
def test_a_small_model_that_cannot_decide_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    known = msgspec.structs.replace(
        MODEL, characteristics=(Characteristic("amount", (), (0.0,), 1.0),)
    )
    bundle = plain_bundle(tmp_path)
    assert problems(msgspec.structs.replace(bundle, small_model=known)) == []
    wrong = msgspec.structs.replace(known, **changes)
    found = problems(msgspec.structs.replace(bundle, small_model=wrong))
    assert any(named in problem for problem in found)
