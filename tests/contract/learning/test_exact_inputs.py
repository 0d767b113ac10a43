"""A graph of an int64 and a float64 input gets both as they were sent, wherever a row is made."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.support.ports import free_port
from tests.support.scoring_world import ScoringWorld, wait_for
from tests.support.team_folder import command, team_folder

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.logged_inputs import LoggedInputs
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.registry.mlmodel import EXAMPLE, columns, model_description, model_files
from mlplatform.learning.registry.pyfunc import BundleModel
from mlplatform.learning.training.candidate import Candidate
from mlplatform.model.bundle import load_bundle
from mlplatform.model.folders import load_definition
from mlplatform.model.inputs import InputPlan
from mlplatform.operations.actions import training
from mlplatform.operations.card.inputs import card_inputs
from mlplatform.operations.tables.input_files import blocks
from mlplatform.operations.tables.request_rows import requests_of
from mlplatform.operations.tables.row_decisions import RowDecisions
from mlplatform.operations.tables.row_features import RowFeatures
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.protos import open_inference_pb2 as oip
from mlplatform.scoring.protos import scoring_pb2 as pb

pytestmark = pytest.mark.slow

NAME = "limits"
PER_DAY, DAYS = 300, 26
GRPC_PORT = free_port()
EDGE = 0.1234567890123456
BELOW = 0.1234567890123455
"""The float64 next but few below: both are one float32."""
ODD, EVEN = 2**53 + 1, 2**53 + 2
RISK = 0.5
SCORES = {(EVEN, BELOW): 0.3, (EVEN, EDGE): 0.4, (ODD, BELOW): 0.5, (ODD, EDGE): 0.6}
"""Account and rate → the score, with that risk beside them."""


def graph() -> bytes:
    """p = 0.05 + half the risk + 0.2 if the account is odd + 0.1 if the rate is not below the
    edge."""
    kind, node = TensorProto, helper.make_node
    nodes = [
        node("Mod", ["account", "two"], ["odd"]),
        node("Cast", ["odd"], ["is_odd"], to=kind.FLOAT),
        node("Mul", ["is_odd", "fifth"], ["by_account"]),
        node("GreaterOrEqual", ["rate", "edge"], ["above"]),
        node("Cast", ["above"], ["is_above"], to=kind.FLOAT),
        node("Mul", ["is_above", "tenth"], ["by_rate"]),
        node("Mul", ["risk", "half"], ["by_risk"]),
        node("Sum", ["by_account", "by_rate", "by_risk", "least"], ["sum"]),
        node("Reshape", ["sum", "flat"], ["p"]),
    ]
    values = {
        "two": np.array(2, np.int64),
        "edge": np.array(EDGE),
        "flat": np.array([-1], np.int64),
        "half": np.array(0.5, np.float32),
        "fifth": np.array(0.2, np.float32),
        "tenth": np.array(0.1, np.float32),
        "least": np.array(0.05, np.float32),
    }
    taken = [
        helper.make_tensor_value_info("account", kind.INT64, [None, 1]),
        helper.make_tensor_value_info("rate", kind.DOUBLE, [None, 1]),
        helper.make_tensor_value_info("risk", kind.FLOAT, [None, 1]),
    ]
    given = [helper.make_tensor_value_info("p", kind.FLOAT, [None])]
    weights = [numpy_helper.from_array(value, name) for name, value in values.items()]
    made = helper.make_graph(nodes, "exact", taken, given, weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def history(until_ms: int) -> pa.Table:
    random, count = np.random.default_rng(5), PER_DAY * DAYS
    day_us = 86_400_000_000
    event_us = np.sort(random.integers(until_ms * 1000 - DAYS * day_us, until_ms * 1000, count))
    account = 2**53 + random.integers(1, 200, count)
    rate = np.where(random.random(count) < 0.5, EDGE, BELOW)
    risk = random.beta(0.5, 2, count)
    chance = 0.05 + 0.5 * risk + 0.2 * (account % 2) + 0.1 * (rate >= EDGE)
    return pa.table(
        {
            "request_id": np.arange(count),
            "event_time": pa.array(event_us, pa.timestamp("us")),
            "customer_id": random.integers(0, 2_000, count),
            "account": account,
            "rate": rate,
            "risk": risk,
            "label": (random.random(count) < chance).astype(np.int8),
            "label_time": pa.array(
                np.minimum(event_us + day_us, until_ms * 1000), pa.timestamp("us")
            ),
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("team")
    with team_folder(root, root / ".home" / "var", NAME):
        yield root


@pytest.fixture(scope="module")
def candidate(root: Path) -> Candidate:
    """Written by the template, checked with its golden set, and judged by history."""
    (root / "given.onnx").write_bytes(graph())
    given = ("--template", "onnx", "--file", str(root / "given.onnx"), "--into", str(root))
    command("new-model", NAME, *given)
    golden = [
        {"inputs": {"account": account, "rate": rate, "risk": RISK}, "score": score}
        for (account, rate), score in SCORES.items()
    ]
    (root / NAME / "golden.json").write_text(json.dumps(golden))
    with (root / NAME / "model.yaml").open("a") as file:
        file.write(
            "async: {enabled: true, batch: 100, chunk: 10, connections: 1}\n"
        )  # by topics, too
    assert "nothing is wrong" in command("check-model", str(root / NAME))
    until_ms = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
    pq.write_table(history(until_ms), root / "history.parquet")
    command("history", "import", NAME, str(root / "history.parquet"))
    platform = Platform(load(os.environ))
    prepared = training.prepare_training(platform, NAME, until_ms)
    x = prepared.dataset.rows.matrix.columns(("account", "account.r1", "account.r2"))
    assert len(np.unique(x[:, 0])) == 1
    assert len(np.unique(x, axis=0)) == 199
    found = training.bring(platform, NAME, root / NAME / "model.onnx", "ana", prepared)
    report = training.judge_brought(platform, NAME, "ana", found, prepared).report
    assert report.reasons == ()
    return found


@pytest.fixture(scope="module")
def world(root: Path, candidate: Candidate) -> Iterator[ScoringWorld]:
    world = ScoringWorld(root / ".home", has_snapshots=False)
    try:
        world.promote(world.serve(1, candidate.bundle.digest))
        world.start_gateway(MLPLATFORM_GATEWAY_GRPC_PORT=str(GRPC_PORT))
        wait_for(lambda: score(world, EVEN, EDGE).get("answered_by") == "champion")
        yield world
    finally:
        world.close()


def score(world: ScoringWorld, account: int, rate: float) -> dict[str, Any]:
    """The answer of the champion: on a busy machine the deadline may pass."""
    body = {"customer_id": 7, "account": account, "rate": rate, "risk": RISK}

    def asked() -> dict[str, Any] | None:
        at = {"event_time": time.time_ns() // 1_000_000}
        url = f"{world.url}/api/v1/models/{NAME}/score"
        found: dict[str, Any] = httpx.post(
            url, json=body | at, headers=world.headers, timeout=10
        ).json()
        return found if found.get("answered_by") == "champion" else None

    answer: dict[str, Any] = wait_for(asked)
    return answer


def record_of(world: ScoringWorld, decision_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = wait_for(
        lambda: [r for r in world.records("decision") if r["decision_id"] == decision_id]
    )
    return found[0]


def test_a_gateway_gives_the_score_of_the_last_digit_over_http_and_grpc(
    world: ScoringWorld,
) -> None:
    message = pb.ScoreRequest(
        model=NAME,
        fields={
            "customer_id": pb.FieldValue(integer=7),
            "account": pb.FieldValue(integer=ODD),
            "rate": pb.FieldValue(number=EDGE),
            "risk": pb.FieldValue(number=RISK),
        },
        event_time_ms=time.time_ns() // 1_000_000,
    )
    for (account, rate), raw in SCORES.items():
        record = record_of(world, score(world, account, rate)["decision_id"])
        assert record["payload"]["raw"] == pytest.approx(raw, abs=1e-6)
        assert record["payload"]["request"]["account"] == account
    wanted = score(world, ODD, EDGE)["score"]

    def called() -> bool:
        call = channel.unary_unary("/mlplatform.scoring.v1.Scoring/Score")
        metadata = (("authorization", world.headers["Authorization"]),)
        found = pb.ScoreResponse.FromString(
            call(message.SerializeToString(), timeout=10, metadata=metadata)
        )
        return bool(found.score == wanted)

    with grpc.insecure_channel(f"127.0.0.1:{GRPC_PORT}") as channel:
        assert wait_for(called)


def test_requests_left_for_later_go_through_a_topic_and_keep_their_last_digit(
    world: ScoringWorld,
) -> None:
    world.start_worker(NAME)
    url = f"{world.url}/api/v2/models/{NAME}/score:async"

    def decided(body: dict[str, Any]) -> dict[str, Any] | None:
        found = httpx.post(url, json=body, headers=world.headers, timeout=10)
        assert found.status_code == 202, found.text
        place = f"{world.url}{found.headers['Location']}"

        def answered() -> dict[str, Any] | None:
            reply = httpx.get(place, headers=world.headers, timeout=10)
            answer: dict[str, Any] = reply.json()
            return answer if reply.status_code == 200 else None

        answer: dict[str, Any] = wait_for(answered)
        return None if answer["degraded"] else answer  # a busy machine may miss the deadline

    for (account, rate), raw in SCORES.items():
        body = {"customer_id": 7, "account": account, "rate": rate, "risk": RISK}
        body["event_time"] = time.time_ns() // 1_000_000
        answer: dict[str, Any] = wait_for(lambda body=body: decided(body))
        record = record_of(world, answer["decision_id"])
        assert record["payload"]["raw"] == pytest.approx(raw, abs=1e-6)
        assert record["payload"]["request"]["account"] == account


def test_callers_of_the_open_protocol_send_them_as_the_graph_takes_them(
    world: ScoringWorld,
) -> None:
    asked = {
        "inputs": [
            {"name": "account", "datatype": "INT64", "shape": [4, 1],
             "data": [account for account, _ in SCORES]},
            {"name": "rate", "datatype": "FP64", "shape": [4, 1],
             "data": [rate for _, rate in SCORES]},
            {"name": "risk", "datatype": "FP32", "shape": [4, 1], "data": [RISK] * 4},
        ]
    }  # fmt: skip
    url, wanted = f"{world.url}/v2/models/{NAME}/infer", [*SCORES.values()]
    answer = httpx.post(url, json=asked, headers=world.headers, timeout=10).json()
    assert answer["outputs"][0]["data"] == pytest.approx(wanted, abs=1e-6)
    message = oip.ModelInferRequest(model_name=NAME)
    whole = message.inputs.add(name="account", datatype="INT64", shape=[4, 1])
    whole.contents.int64_contents.extend(account for account, _ in SCORES)
    wide = message.inputs.add(name="rate", datatype="FP64", shape=[4, 1])
    wide.contents.fp64_contents.extend(rate for _, rate in SCORES)
    narrow = message.inputs.add(name="risk", datatype="FP32", shape=[4, 1])
    narrow.contents.fp32_contents.extend([RISK] * 4)
    with grpc.insecure_channel(f"127.0.0.1:{GRPC_PORT}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        metadata = (("authorization", world.headers["Authorization"]),)
        reply = call(message.SerializeToString(), timeout=10, metadata=metadata)
        found = oip.ModelInferResponse.FromString(reply).outputs[0].contents.fp32_contents
    assert list(found) == pytest.approx(wanted, abs=1e-6)


def test_a_decision_is_explained_and_replayed_to_the_bit(
    world: ScoringWorld, candidate: Candidate
) -> None:
    answer = score(world, ODD, BELOW)
    record = record_of(world, answer["decision_id"])
    found = json.loads(command("log", "explain", answer["decision_id"], "--json"))
    assert found["equal"]
    causes = {c["input"]: c["value"] for e in found["explanations"] for c in e["causes"]}
    assert causes["account"] == ODD
    replayed = json.loads(command("replay", NAME, "--from", "refuse=0.999", "--json"))
    assert replayed["alike"] == replayed["served"] > 0
    bundle = candidate.bundle
    plan = InputPlan(load_definition(NAME), (), bundle.inputs, bundle.defaults)
    log = SqliteDecisionLog(world.home.decisions)
    try:
        query = RecordQuery(model=NAME, kinds=("decision",), columns=("event_ms", "payload"))
        logged = LoggedInputs(plan).read(log.read(query)).matrix
        offline = OfflineTable(world.home.offline(NAME), load_definition(NAME))
        offline.project(log)
    finally:
        log.close()
    row = np.array(plan.row(record["payload"]["request"], record["event_ms"], {}), np.float32)
    assert any((row == each).all() for each in logged)
    table = offline.requests(record["event_ms"], record["event_ms"] + 1).to_arrow_table()
    np.testing.assert_array_equal(plan.matrix(table)[0], row)


def test_a_table_and_a_data_frame_are_scored_as_by_the_gateway(
    world: ScoringWorld, candidate: Candidate, tmp_path: Path
) -> None:
    definition, bundle = load_definition(NAME), candidate.bundle
    answers = [score(world, *asked)["score"] for asked in SCORES]
    rows = {
        "account": [account for account, _ in SCORES],
        "rate": [rate for _, rate in SCORES],
        "risk": [RISK] * 4,
    }
    table = {"request_id": list("abcd"), "customer_id": [7] * 4, **rows}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    pd.DataFrame(table).to_csv(tmp_path / "rows.csv", index=False)
    offline = OfflineTable(world.home.offline(NAME), definition)
    for name in ("rows.parquet", "rows.csv"):
        (block,) = blocks(tmp_path / name, name, definition, {}, rows=100, first=0)
        now_ms = time.time_ns() // 1_000_000
        asked = requests_of(block.rows, block.unread, definition, as_of_ms=now_ms, key=b"k")
        inputs = RowFeatures(definition, (), bundle, offline).inputs(asked.table)
        scored = RowDecisions(bundle, candidate.folder, safe="refer").scored(inputs)
        assert scored.scores.tolist() == answers
    model = BundleModel(candidate.folder)
    assert model.predict(pd.DataFrame(rows))["score"].tolist() == answers


def test_a_reader_sees_two_inputs(candidate: Candidate) -> None:
    bundle = load_bundle(candidate.folder)
    names = ("account", "rate", "risk")
    assert len(bundle.inputs) == 7
    assert [i.name for i in card_inputs(load_definition(NAME), (), bundle)] == [*names]
    assert columns(bundle) == dict(zip(names, ("long", "double", "double"), strict=True))
    assert bundle.small_model is not None
    assert {c.input for c in bundle.small_model.characteristics} <= {*names}
    assert not {n for n in bundle.profile.inputs if n.endswith((".r1", ".r2"))}
    described = model_description(bundle, run_id="r", artifact="bundle", made_ms=0)
    example = json.loads(model_files(bundle, described)[EXAMPLE])
    frame = pd.DataFrame(example["data"], columns=example["columns"])
    assert BundleModel(candidate.folder).predict(frame)["score"].between(0, 1).all()
