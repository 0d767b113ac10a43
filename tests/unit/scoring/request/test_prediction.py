"""Who answers when predictors fail, what their breakers learn of it, and what is said about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from mlplatform.learning.features.online import OnlineRow
from mlplatform.learning.features.policy import FeaturePolicies
from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.inputs import InputPlan
from mlplatform.model.oip import FailureReason, PredictionFailed, Scores
from mlplatform.model.policies.decision_scale import EARLIER, VolumeLimit
from mlplatform.model.policies.volume import DecisionVolume
from mlplatform.model.routes import BUCKETS, Arm, Routes
from mlplatform.model.scorecard import SmallScorer
from mlplatform.model.tensors.named_tensors import NamedTensors
from mlplatform.scoring.arms.fallback import steps
from mlplatform.scoring.arms.live import Live, Target
from mlplatform.scoring.arms.reasons import Contributions, Explainer, NotExplained
from mlplatform.scoring.arms.routing import Assignment
from mlplatform.scoring.predictor_client.breaker import Breaker
from mlplatform.scoring.predictor_client.bulkhead import Bulkhead
from mlplatform.scoring.predictor_client.predictor import Predictor
from mlplatform.scoring.request.prediction import (
    Prediction,
    RequestFacts,
    decide,
    predict,
    without_predictor,
)
from support.scoring_world import MODEL, write_amount_bundle

DEFINITION = load_definition(MODEL)
VIEWS = load_views(model_folder(MODEL))
CHAMPION, CHALLENGER = Arm(1, "a" * 64, "fraud-v1-aaaaaaaa"), Arm(2, "b" * 64, "fraud-v2-bbbbbbbb")
ROUTES = Routes(MODEL, 3, CHAMPION, CHALLENGER, None, "fraud-r2", "canary", 50.0)
ORDER = steps(ROUTES, Assignment("challenger", 0, CHALLENGER, None))
ScoreFunction = Callable[[Sequence[Sequence[float]]], list[float]]


class Oracle:
    """A predictor that scores by a function, or fails for a reason."""

    def __init__(self, outcome: ScoreFunction | FailureReason) -> None:
        self.outcome = outcome
        self.calls: list[tuple[int, float]] = []

    def predict(
        self, rows: Sequence[Sequence[float]], deadline_s: float, origin: object = None
    ) -> asyncio.Future[Scores]:
        self.calls.append((len(rows), deadline_s))
        future: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()
        if callable(self.outcome):
            future.set_result(Scores(self.outcome(rows)))
        else:
            future.set_exception(PredictionFailed(self.outcome, "as told"))
        return future


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder: Path = tmp_path_factory.mktemp("bundle") / "bundle"
    write_amount_bundle(folder)
    return load_bundle(folder)


def target(bundle: Bundle, arm: Arm, outcome: ScoreFunction | FailureReason) -> Target:
    oracle = cast(Predictor, Oracle(outcome))
    plan = InputPlan(DEFINITION, VIEWS, bundle.inputs)
    reference = (0.0,) * len(plan.names)
    return Target(
        arm=arm,
        bundle=bundle,
        cut_offs=bundle.cut_offs,
        plan=plan,
        named=NamedTensors(bundle.input_names, bundle.vocabularies, bundle.signature),
        reference=reference,
        predictor=oracle,
        shadow=oracle,
        breaker=Breaker(DEFINITION.breaker),
        policies=FeaturePolicies(VIEWS, plan.features),
        small=SmallScorer.of(bundle),
    )


def live(bundle: Bundle, champion: Any, challenger: Any) -> Live:
    pairs = ((CHAMPION, champion), (CHALLENGER, challenger))
    targets = {arm.service: target(bundle, arm, outcome) for arm, outcome in pairs}
    bulkhead = Bulkhead(DEFINITION.chain.concurrent)
    return Live(ROUTES, targets, DEFINITION.chain, bulkhead, DEFINITION.decision.safe)


def facts(amount: float) -> RequestFacts:
    fields = {"customer_id": 1, "terminal_id": 2, "amount": amount}
    return RequestFacts(fields, 1_700_000_000_000, OnlineRow({}, {}))


def by_amount(rows: Sequence[Sequence[float]]) -> list[float]:
    return [row[0] / 1000 for row in rows]


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


@pytest.mark.parametrize("reason", ["deadline", "unavailable", "invalid_output"])
async def test_the_champion_answers_for_a_challenger_that_failed(
    bundle: Bundle, reason: FailureReason
) -> None:
    world = live(bundle, by_amount, reason)
    prediction, failures = await predict(world, ORDER, facts(300), soon())
    assert prediction is not None
    assert (prediction.step, prediction.raw) == ("champion", 0.3)
    assert [(f.step, f.reason) for f in failures] == [("challenger", reason)]


async def test_the_first_step_leaves_time_for_the_next(bundle: Bundle) -> None:
    world, until_s = live(bundle, by_amount, "deadline"), soon()
    await predict(world, ORDER, facts(300), until_s)
    ((_, first_s),) = _calls(world, CHALLENGER)
    ((_, last_s),) = _calls(world, CHAMPION)
    assert first_s < last_s == until_s


async def test_a_breaker_that_is_open_is_not_asked(bundle: Bundle) -> None:
    world = live(bundle, by_amount, "deadline")
    for _ in range(DEFINITION.breaker.minimum_calls + 5):
        prediction, failures = await predict(world, ORDER, facts(300), soon())
        assert prediction is not None
    assert failures[0].reason == "breaker_open"
    assert len(_calls(world, CHALLENGER)) == DEFINITION.breaker.minimum_calls
    assert world.targets[CHAMPION.service].breaker.state == "closed"


def stopped(world: Live, *arms: Arm) -> Live:
    """The same routes, where the bundles of these arms declined everybody."""
    targets = dict(world.targets)
    for arm in arms:
        volume = DecisionVolume(cast(VolumeLimit, DEFINITION.decision.limit), EARLIER, BUCKETS)
        assert any(volume.count(customer, "decline", 1.0) for customer in range(100))
        targets[arm.service] = replace(targets[arm.service], volume=volume)
    return replace(world, targets=targets)


async def test_the_champion_answers_for_a_challenger_that_declined_too_many(bundle: Bundle) -> None:
    world = stopped(live(bundle, by_amount, by_amount), CHALLENGER)
    prediction, failures = await predict(world, ORDER, facts(300), soon())
    assert prediction is not None
    assert prediction.step == "champion"
    assert [(f.step, f.reason) for f in failures] == [("challenger", "volume_limit")]
    assert _calls(world, CHALLENGER) == []


async def test_the_rest_of_the_chain_decides_where_every_arm_declined_too_many(
    bundle: Bundle,
) -> None:
    world = stopped(live(bundle, by_amount, by_amount), CHALLENGER, CHAMPION)
    prediction, failures = await predict(world, ORDER, facts(300), soon())
    assert prediction is None
    assert [f.reason for f in failures] == ["volume_limit", "volume_limit"]
    verdict = without_predictor(world, facts(300))
    assert verdict.answered_by in ("small_model", "rules", "default")


@pytest.mark.parametrize("reason", ["stalled", "queue_full"])
async def test_failures_of_this_gateway_open_no_breaker(
    bundle: Bundle, reason: FailureReason
) -> None:
    world = live(bundle, by_amount, reason)
    for _ in range(DEFINITION.breaker.window_calls):
        await predict(world, ORDER, facts(300), soon())
    assert world.targets[CHALLENGER.service].breaker.state == "closed"


async def test_with_no_time_left_nobody_is_asked_and_nobody_blamed(bundle: Bundle) -> None:
    world = live(bundle, by_amount, by_amount)
    prediction, failures = await predict(world, ORDER, facts(300), time.monotonic())
    assert prediction is None
    assert [(f.step, f.reason) for f in failures] == [("challenger", "stalled")]
    assert _calls(world, CHALLENGER) == []


async def test_an_alert_names_the_inputs_that_raised_its_score(bundle: Bundle) -> None:
    verdict = await decide(_prediction(bundle, 700.0, by_amount), soon())
    assert (verdict.decision, verdict.score) == ("review", pytest.approx(0.7))
    assert [r.code for r in verdict.reasons] == [bundle.reasons["amount"].code]
    assert verdict.omitted is None


async def test_an_alert_without_time_for_reasons_says_so(bundle: Bundle) -> None:
    late = await decide(_prediction(bundle, 700.0, by_amount), time.monotonic())
    failed = await decide(_prediction(bundle, 950.0, "unavailable"), soon())
    assert (late.decision, late.reasons, late.omitted) == ("review", (), "deadline")
    assert (failed.decision, failed.reasons, failed.omitted) == ("decline", (), "unavailable")


async def test_an_approval_asks_for_no_reasons(bundle: Bundle) -> None:
    prediction = _prediction(bundle, 100.0, by_amount)
    assert (await decide(prediction, soon())).decision == "approve"
    assert cast(Oracle, prediction.target.predictor).calls == []


@pytest.mark.parametrize(
    ("amount", "by", "decision", "codes"),
    [
        (300.0, "rules", "review", ["RULE_HIGH_AMOUNT", "RULE_NEW_CUSTOMER"]),
        (30.0, "default", "review", ["NO_MODEL"]),
    ],
)
def test_without_a_model_the_rules_decide_and_then_the_safe_default(
    bundle: Bundle, amount: float, by: str, decision: str, codes: list[str]
) -> None:
    verdict = without_predictor(live(bundle, by_amount, by_amount), facts(amount))
    assert (verdict.answered_by, verdict.decision) == (by, decision)
    assert [reason.code for reason in verdict.reasons] == codes
    assert (verdict.score, verdict.raw) == (None, None)


def _prediction(
    bundle: Bundle, amount: float, outcome: ScoreFunction | FailureReason
) -> Prediction:
    asked = target(bundle, CHAMPION, outcome)
    row = facts(amount).row(asked)
    return Prediction("champion", asked, row, amount / 1000)


def _calls(world: Live, arm: Arm) -> list[tuple[int, float]]:
    return cast(Oracle, world.targets[arm.service].predictor).calls


async def test_a_bundle_with_an_explainer_asks_it_and_not_the_predictor(bundle: Bundle) -> None:
    width = len(bundle.inputs)
    asked: list[float] = []

    def contributions(row: Sequence[float], raw: float) -> list[float]:
        asked.append(raw)
        return [0.0, 0.2, *([-0.1] * (width - 2))]

    prediction = _explained_by(bundle, contributions)
    verdict = await decide(prediction, soon())
    assert [r.code for r in verdict.reasons] == [bundle.reasons["hour"].code]
    assert [r.text for r in verdict.reasons] == [bundle.reasons["hour"].customer]
    assert asked == [0.7]
    assert cast(Oracle, prediction.target.predictor).calls == []


async def test_contributions_that_miss_the_score_are_not_given(bundle: Bundle) -> None:
    def contributions(row: Sequence[float], raw: float) -> list[float]:
        raise NotExplained("not_additive")

    verdict = await decide(_explained_by(bundle, contributions), soon())
    assert (verdict.decision, verdict.reasons, verdict.omitted) == ("review", (), "not_additive")


def _explained_by(bundle: Bundle, contributions: Contributions) -> Prediction:
    prediction = _prediction(bundle, 700.0, by_amount)
    explained = replace(prediction.target, explainer=Explainer(contributions))
    return msgspec.structs.replace(prediction, target=explained)
