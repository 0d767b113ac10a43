"""`mlplatform log explain`: what the gateway logged follows again from the log and the bundle."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from typer.testing import CliRunner

from mlplatform.commands.log import app
from mlplatform.commands.terminal import output
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.learning.features.online import OnlineRow
from mlplatform.learning.features.policy import NO_GAPS, FeaturePolicies
from mlplatform.learning.onnx.explainer import make_explainer
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.model.bundle import (
    EXPLAINER_FILE,
    MODEL_FILE,
    Bundle,
    Golden,
    load_bundle,
    write_bundle,
)
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.inputs import InputPlan
from mlplatform.model.oip import FailureReason, PredictionFailed, Scores
from mlplatform.model.policies.training import ExplorationPolicy
from mlplatform.model.routes import Arm, Routes
from mlplatform.model.scorecard import SmallScorer
from mlplatform.model.tensors.named_tensors import NamedTensors
from mlplatform.runtime.canonical import digest
from mlplatform.scoring.arms.exploration import Exploration
from mlplatform.scoring.arms.fallback import steps
from mlplatform.scoring.arms.live import Live, Target
from mlplatform.scoring.arms.reasons import ordinary_row
from mlplatform.scoring.arms.routing import Assignment
from mlplatform.scoring.predictor.model import scorer
from mlplatform.scoring.predictor_client.breaker import Breaker
from mlplatform.scoring.predictor_client.bulkhead import Bulkhead
from mlplatform.scoring.predictor_client.predictor import Predictor
from mlplatform.scoring.request.decision import Caller, DecidedRequest, RoutedRequest, record
from mlplatform.scoring.request.prediction import (
    RequestFacts,
    decide,
    explore,
    predict,
    without_predictor,
)
from mlplatform.scoring.request.shadow import ShadowCopy, shadow_record
from support.scoring_world import MODEL, write_amount_bundle

FRAUD = load_definition(MODEL)
VIEWS = load_views(model_folder(MODEL))
NAMES = [i.name for i in FRAUD.inputs]
FEATURES = [name for view in VIEWS for name in view.feature_names]
ORDINARY = {"amount": 50.0, "customer_count_1d": 1.0, "terminal_risk_7d": 0.0}
CALLER = Caller("shop", 0.0, 5.0)


def linear_model(weights: Mapping[str, float]) -> bytes:
    """scores = the weighted sum of the inputs that are there, within 0 and 1."""
    column = np.array([[weights.get(name, 0.0)] for name in NAMES], np.float32)
    constants = {
        "zero": np.zeros((), np.float32),
        "one": np.ones((), np.float32),
        "weights": column,
        "flat": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("IsNaN", ["inputs"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "inputs"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["product"]),
        helper.make_node("Reshape", ["product", "flat"], ["sum"]),
        helper.make_node("Clip", ["sum", "zero", "one"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, len(NAMES)])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    return data


class ModelFile:
    """A predictor in this process: the ONNX file itself, or a failure."""

    def __init__(self, folder: Path) -> None:
        self.failing: FailureReason | None = None
        self._score = scorer(folder / MODEL_FILE)

    def predict(
        self, rows: Sequence[Sequence[float]], deadline_s: float, origin: object = None
    ) -> asyncio.Future[Scores]:
        answer: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()
        if self.failing is None:
            answer.set_result(Scores(self._score(np.array(rows, np.float32)).tolist()))
        else:
            answer.set_exception(PredictionFailed(self.failing, "as told"))
        return answer


class Shop:
    """Champion and challenger with real bundles, and a real log that their decisions go to."""

    def __init__(self, home: Path) -> None:
        self.bundles = home / "bundles"
        self.log = SqliteDecisionLog(home / "decisions")
        champion = self._target(1, {"amount": 0.001, "terminal_risk_7d": 0.4})
        challenger = self._target(2, {"amount": 0.001, "customer_count_1d": 0.05})
        self.champion, self.challenger = champion, challenger
        routes = Routes(MODEL, 3, champion.arm, challenger.arm, None, "fraud-r2", "canary", 50.0)
        self.live = Live(
            routes,
            {t.arm.service: t for t in (champion, challenger)},
            FRAUD.chain,
            Bulkhead(FRAUD.chain.concurrent),
            FRAUD.decision.safe,
        )

    def decide(
        self,
        name: str,
        amount: float,
        *,
        arm: str = "champion",
        exploration: Exploration | None = None,
        **features: float,
    ) -> Record:
        """The record of a decision, made by the gateway's own functions and appended."""
        case = self._case(name, amount, arm, features)
        entry = asyncio.run(self._decided(case, exploration))
        self.append(entry)
        return entry

    def copy(self, name: str, amount: float, raw: float | None, reason: str | None) -> None:
        case = self._case(name, amount, "champion", {})
        copied = ShadowCopy(name, case.facts, self.live.routes, self.challenger, case.unit, 1)
        row = case.facts.row(self.challenger)
        self.append(shadow_record(copied, row, raw, reason, latency_us=900, recorded_ms=2))

    def append(self, entry: Record) -> None:
        self.log.append("gateway-0", [Entry(entry)])

    def fail(self, reason: FailureReason, *targets: Target) -> None:
        for target in targets:
            cast(ModelFile, target.predictor).failing = reason

    async def _decided(self, case: RoutedRequest, exploration: Exploration | None) -> Record:
        until_s = time.monotonic() + 5.0
        order = steps(self.live.routes, case.assignment)
        prediction, failures = await predict(self.live, order, case.facts, until_s)
        if prediction is None:
            verdict = without_predictor(self.live, case.facts)
        else:
            verdict = await decide(prediction, until_s)
        draw = None
        if exploration is not None:
            verdict, draw = explore(exploration, verdict, case.facts, case.unit)
        decided = DecidedRequest(case, verdict, tuple(failures), draw=draw)
        return record(decided, CALLER, recorded_ms=2, latency_us=900)

    def _case(
        self, name: str, amount: float, arm: str, features: Mapping[str, float]
    ) -> RoutedRequest:
        fields = {"customer_id": -7, "terminal_id": 9, "amount": amount}
        row = OnlineRow({n: features.get(n) for n in FEATURES}, {v.name: None for v in VIEWS})
        target = self.champion if arm == "champion" else self.challenger
        assignment = Assignment(cast(Any, arm), 1, target.arm, None)
        return RoutedRequest(
            name, self.live, RequestFacts(fields, 1_700_000_000_000, row), -7, assignment, NO_GAPS
        )

    def _target(self, version: int, weights: Mapping[str, float]) -> Target:
        bundle = linear_bundle(self.bundles, weights)
        arm = Arm(version, bundle.digest, f"fraud-v{version}-{bundle.digest[:8]}")
        predictor = cast(Predictor, ModelFile(self.bundles / bundle.digest))
        plan = InputPlan(FRAUD, VIEWS, bundle.inputs)
        breaker = Breaker(FRAUD.breaker)
        return Target(
            arm=arm,
            bundle=bundle,
            cut_offs=bundle.cut_offs,
            plan=plan,
            reference=ordinary_row(bundle),
            predictor=predictor,
            shadow=predictor,
            breaker=breaker,
            policies=FeaturePolicies(VIEWS, plan.features),
            small=SmallScorer.of(bundle),
            named=NamedTensors(bundle.input_names, bundle.vocabularies, bundle.signature),
        )


def linear_bundle(bundles: Path, weights: Mapping[str, float]) -> Bundle:
    draft = bundles / "draft"
    write_amount_bundle(draft)
    data = linear_model(weights)
    bundle = msgspec.structs.replace(
        load_bundle(draft),
        reference={name: ORDINARY.get(name) for name in NAMES},
        golden=Golden(rows=((0.0,) * len(NAMES),), scores=(0.0,), tolerance=1e-6),
        files={MODEL_FILE: digest(data)},
        origin=str(weights),
    )
    write_bundle(bundle, data, bundles / bundle.digest)
    return bundle


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path))
    shop = Shop(tmp_path)
    with closing(shop.log):
        yield shop


def explain(decision_id: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, ["explain", decision_id, "--json"])
    return result.exit_code, json.loads(result.stdout) if result.stdout else {}


@pytest.mark.parametrize(
    ("amount", "risk", "decision", "codes"),
    [
        pytest.param(120.0, 0.0, "approve", [], id="an approval"),
        pytest.param(510.0, 0.5, "review", ["AMOUNT", "TERMINAL_RISK_7D"], id="two reasons"),
        pytest.param(950.0, None, "decline", ["AMOUNT"], id="a feature that is missing"),
        pytest.param(0.1 + 0.2, 1.0, "approve", [], id="an amount that float32 rounds"),
    ],
)
def test_a_models_decision_is_computed_again_with_its_reasons(
    shop: Shop, amount: float, risk: float | None, decision: str, codes: list[str]
) -> None:
    features = {} if risk is None else {"terminal_risk_7d": risk}
    logged = shop.decide("d1", amount, **features)
    exit_code, found = explain("d1")
    (explanation,) = found["explanations"]
    assert (exit_code, found["equal"]) == (0, True)
    assert explanation["again"]["decision"] == logged.decision == decision
    assert explanation["again"]["score"] == pytest.approx(logged.score, abs=1e-6)
    assert explanation["again"]["reasons"] == explanation["logged"]["reasons"] == codes


def test_a_reason_says_what_an_ordinary_value_would_have_changed(shop: Shop) -> None:
    shop.decide("d1", 510.0, terminal_risk_7d=0.5)
    _, found = explain("d1")
    first = found["explanations"][0]["causes"][0]
    assert (first["by"], first["input"], first["value"]) == ("input", "amount", 510.0)
    assert (first["ordinary"], first["decision_then"]) == (50.0, "approve")
    assert first["score_then"] == pytest.approx(0.001 * 50 + 0.4 * 0.5)


def test_an_approval_is_explained_though_its_answer_gave_no_reasons(shop: Shop) -> None:
    shop.decide("d1", 120.0)
    _, found = explain("d1")
    assert [c["code"] for c in found["explanations"][0]["causes"]] == ["AMOUNT"]


@pytest.mark.parametrize("instead", ["review", "approve"])
def test_a_decline_that_was_let_through_is_explained_as_one(shop: Shop, instead: Any) -> None:
    policy = ExplorationPolicy(
        share=0.5, decision=instead, amount="amount", maximum_amount=1000, maximum_sum=1e6
    )
    found = []
    for number in range(20):
        exploration = Exploration(
            policy, model=MODEL, hides=("decline",), fields=("terminal_id", "amount"), processes=1
        )
        logged = shop.decide(f"d{number}", 950.0 + number, exploration=exploration)
        exit_code, told = explain(f"d{number}")
        (explanation,) = told["explanations"]
        assert (exit_code, explanation["again"]["decision"]) == (0, "decline")
        found.append((logged.decision, explanation["note"]))
    assert set(found) == {
        (instead, "the model decided decline; let through by the exploration slice (chance 0.5)"),
        ("decline", "could have been let through by the exploration slice (chance 0.5)"),
    }


def test_a_decline_that_a_cap_keeps_declined_says_which(shop: Shop) -> None:
    policy = ExplorationPolicy(
        share=0.5, decision="review", amount="amount", maximum_amount=100, maximum_sum=1e6
    )
    exploration = Exploration(
        policy, model=MODEL, hides=("decline",), fields=("amount",), processes=1
    )
    shop.decide("d1", 950.0, exploration=exploration)
    _, told = explain("d1")
    assert told["explanations"][0]["note"].endswith("more than exploration.maximum_amount")


def test_an_answer_of_the_champion_for_the_challenger_is_explained_by_its_own_bundle(
    shop: Shop,
) -> None:
    shop.fail("deadline", shop.challenger)
    shop.decide("d1", 700.0, arm="challenger", customer_count_1d=9.0)
    exit_code, found = explain("d1")
    (explanation,) = found["explanations"]
    assert exit_code == 0
    assert (explanation["bundle"], explanation["answered_by"]) == (
        shop.champion.bundle.digest,
        "champion",
    )
    assert (explanation["degraded_reason"], explanation["note"]) == (
        "deadline",
        "challenger: deadline",
    )


@pytest.mark.parametrize(
    ("amount", "features", "decision", "codes", "values"),
    [
        pytest.param(
            300.0,
            {},
            "review",
            ["RULE_HIGH_AMOUNT", "RULE_NEW_CUSTOMER"],
            {"customer_count_30d": None, "amount": 300.0},
            id="two rules hold",
        ),
        pytest.param(
            30.0,
            {"customer_mean_30d": 25.0, "customer_count_30d": 8.0, "terminal_risk_7d": 0.0},
            "approve",
            ["RULE_USUAL"],
            {
                "amount": 30.0,
                "amount_to_mean_30d": 1.2,
                "customer_count_30d": 8.0,
                "terminal_risk_7d": 0.0,
            },
            id="an approval by rule",
        ),
    ],
)
def test_an_answer_by_rules_is_explained_by_the_rules_that_held(
    shop: Shop,
    amount: float,
    features: dict[str, float],
    decision: str,
    codes: list[str],
    values: dict[str, float | None],
) -> None:
    shop.fail("unavailable", shop.champion, shop.challenger)
    logged = shop.decide("d1", amount, **features)
    exit_code, found = explain("d1")
    (explanation,) = found["explanations"]
    assert (logged.answered_by, exit_code) == ("rules", 0)
    assert explanation["again"]["decision"] == decision
    assert explanation["again"]["score"] is None
    assert [c["code"] for c in explanation["causes"]] == codes
    assert explanation["causes"][-1]["values"] == values
    assert explanation["note"] == "champion: unavailable"


def test_the_safe_default_is_explained_by_who_failed(shop: Shop) -> None:
    shop.fail("unavailable", shop.champion, shop.challenger)
    logged = shop.decide("d1", 30.0)
    exit_code, found = explain("d1")
    (explanation,) = found["explanations"]
    assert (logged.answered_by, exit_code) == ("default", 0)
    assert explanation["again"]["decision"] == "review"
    assert explanation["again"]["reasons"] == ["NO_MODEL"]
    assert "champion: unavailable" in explanation["note"]


def test_a_shadow_is_explained_by_the_challengers_bundle_from_the_decisions_features(
    shop: Shop,
) -> None:
    shop.decide("d1", 620.0)
    shop.copy("d1", 620.0, float(np.float32(0.62)), None)
    exit_code, found = explain("d1")
    decision, shadow = found["explanations"]
    assert exit_code == 0
    assert (decision["kind"], shadow["kind"]) == ("decision", "shadow")
    assert shadow["bundle"] == shop.challenger.bundle.digest
    assert shadow["again"]["decision"] == "review"
    shop.decide("d2", 620.0)
    shop.copy("d2", 620.0, 0.71, None)
    exit_code, found = explain("d2")
    assert (exit_code, found["equal"]) == (1, False)
    assert "score: 0.71 in the log" in found["explanations"][1]["differences"][0]


def test_a_shadow_that_failed_has_nothing_to_compute(shop: Shop) -> None:
    shop.decide("d1", 620.0)
    shop.copy("d1", 620.0, None, "deadline")
    exit_code, found = explain("d1")
    shadow = found["explanations"][1]
    assert exit_code == 0
    assert (shadow["logged"], shadow["again"]) == (None, None)
    assert shadow["note"] == "nothing was decided: deadline"


def changed(entry: Record, **fields: Any) -> Record:
    payload = {**entry.payload, **fields.pop("payload", {})}
    return msgspec.structs.replace(entry, decision_id="d2", payload=payload, **fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        pytest.param({"score": 0.6000021}, "score: 0.6000021 in the log", id="the score"),
        pytest.param({"decision": "approve"}, "decision: approve in the log", id="the decision"),
        pytest.param({"payload": {"reasons": ["HOUR"]}}, "reasons: HOUR", id="the reasons"),
    ],
)
def test_what_the_bundle_does_not_say_is_named_with_exit_code_1(
    shop: Shop, fields: dict[str, Any], named: str
) -> None:
    shop.append(changed(shop.decide("d1", 600.0), **fields))
    result = CliRunner().invoke(app, ["explain", "d2"])
    assert result.exit_code == 1
    assert f"differs: {named}" in result.output


def test_reasons_that_an_answer_had_no_time_for_are_no_difference(shop: Shop) -> None:
    late = {"payload": {"reasons": [], "reasons_omitted": "deadline"}}
    shop.append(changed(shop.decide("d1", 600.0), **late))
    exit_code, found = explain("d2")
    assert exit_code == 0
    assert found["explanations"][0]["again"]["reasons"] == ["AMOUNT"]


def test_a_person_reads_decision_score_and_reasons(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "OUT", Console(width=160))
    shop.decide("d1", 600.0)
    result = CliRunner().invoke(app, ["explain", "d1"])
    assert result.exit_code == 0
    assert "review, score 0.600000" in result.output
    assert "Amount of the payment" in result.output


def test_what_is_not_here_is_exit_code_2(shop: Shop) -> None:
    logged = shop.decide("d1", 600.0)
    gone = msgspec.structs.replace(logged, decision_id="d2", bundle="0" * 64)
    erased = msgspec.structs.replace(logged, decision_id="d3", payload={})
    label = Record(kind="label", decision_id="d4", model=MODEL, event_ms=1, recorded_ms=1, label=1)
    for entry in (gone, erased, label):
        shop.append(entry)
    named = {"nobody": "nobody", "d2": "0" * 64, "d3": "erased", "d4": "no decision"}
    for decision_id, words in named.items():
        result = CliRunner().invoke(app, ["explain", decision_id])
        assert (result.exit_code, words in result.stderr) == (2, True)


def test_a_bundle_that_was_changed_explains_nothing(shop: Shop) -> None:
    shop.decide("d1", 600.0)
    model = shop.bundles / shop.champion.bundle.digest / MODEL_FILE
    model.write_bytes(linear_model({"amount": math.pi}))
    result = CliRunner().invoke(app, ["explain", "d1"])
    assert result.exit_code == 1
    assert f"{MODEL_FILE} was changed" in result.stderr


def test_the_method_that_found_the_reasons_is_recorded_and_named(shop: Shop) -> None:
    logged = shop.decide("d1", 600.0)
    assert logged.payload["attribution"] == "reference_values"
    assert "attribution" not in shop.decide("d2", 120.0).payload
    _, found = explain("d1")
    assert found["explanations"][0]["method"] == "reference_values"
    result = CliRunner().invoke(app, ["explain", "d1"], env={"COLUMNS": "160"})
    assert "reference values" in result.output


def test_a_bundle_of_trees_is_explained_by_contributions_to_its_margin(shop: Shop) -> None:
    bundle = tree_bundle(shop.bundles)
    score = scorer(shop.bundles / bundle.digest / MODEL_FILE)
    logged = shop.decide("d1", 600.0)
    row = InputPlan(FRAUD, VIEWS, bundle.inputs).row(
        logged.payload["request"], logged.event_ms, logged.payload["features"]
    )
    raw = float(score(np.array([row], np.float32))[0])
    payload = {"raw": raw, "reasons": ["AMOUNT"], "attribution": "tree_shap"}
    shop.append(changed(logged, bundle=bundle.digest, score=raw, payload=payload))
    exit_code, found = explain("d2")
    (explanation,) = found["explanations"]
    (cause,) = explanation["causes"]
    assert (exit_code, explanation["method"], explanation["again"]["decision"]) == (
        0,
        "tree_shap",
        "review",
    )
    margin = math.log(raw / (1 - raw))
    assert explanation["base"] == bundle.attribution.base
    assert explanation["base"] + cause["contribution"] == pytest.approx(margin, abs=1e-4)
    assert explanation["rest"] == pytest.approx(0.0, abs=1e-6), "the amount alone is in the tree"


def tree_bundle(bundles: Path) -> Bundle:
    """One tree on the amount alone: what it adds to the base is the amount's contribution."""
    trees = helper.make_node(
        "TreeEnsembleRegressor", ["inputs"], ["sum"], domain="ai.onnx.ml", n_targets=1,
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_featureids=[0, 0, 0], nodes_values=[500.0, 0.0, 0.0], nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0], target_treeids=[0, 0], target_nodeids=[1, 2],
        target_ids=[0, 0], target_weights=[-2.0, 1.0],
    )  # fmt: skip
    nodes = [
        trees,
        helper.make_node("Sigmoid", ["sum"], ["column"]),
        helper.make_node("Reshape", ["column", "flat"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, len(NAMES)])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None])],
        [helper.make_tensor("flat", TensorProto.INT64, [1], [-1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    data = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    rows = np.zeros((64, len(NAMES)), np.float32)
    rows[:, 0] = np.linspace(0, 1000, 64)
    made = make_explainer(data, OnnxFile(data, inputs=len(NAMES)), background=rows, rows=rows)
    assert made.content is not None
    draft = bundles / "tree-draft"
    write_amount_bundle(draft)
    bundle = msgspec.structs.replace(
        load_bundle(draft),
        files={MODEL_FILE: digest(data), EXPLAINER_FILE: digest(made.content)},
        attribution=made.attribution,
    )
    write_bundle(bundle, data, bundles / bundle.digest, made.content)
    return bundle
