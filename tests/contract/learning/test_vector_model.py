"""A model that reads a vector and two numbers, from model.yaml to answers, records and batches."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.types import DataType, Schema
from mlflow.types.schema import Array
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.support.credit_history import DAY_US, history
from tests.support.ports import free_port
from tests.support.scoring_world import ScoringWorld, wait_for
from tests.support.team_folder import command, team_folder, written

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.logged_inputs import LoggedInputs
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.registry.mlmodel import EXAMPLE, model_description, model_files
from mlplatform.learning.registry.pyfunc import BundleModel
from mlplatform.learning.skew.raw_records import database, gather
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.golden import check_ready, golden_set
from mlplatform.model.bundle import load_bundle, problems
from mlplatform.model.folders import load_definition, parse
from mlplatform.model.inputs import InputPlan
from mlplatform.model.tensors.signature import Tensors
from mlplatform.operations.actions import fitting, training
from mlplatform.operations.card.inputs import card_inputs
from mlplatform.operations.tables.input_files import blocks, check_columns
from mlplatform.operations.tables.request_rows import requests_of
from mlplatform.operations.tables.row_decisions import RowDecisions
from mlplatform.operations.tables.row_features import RowFeatures
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform.scoring.predictor.model import scorer
from mlplatform.scoring.protos import open_inference_pb2 as oip
from mlplatform.scoring.protos import scoring_pb2 as pb
from mlplatform.scoring.request.explain import load_decider
from mlplatform_client import Client, InputRefused

pytestmark = pytest.mark.slow

NAME = "embedded"
PER_DAY, DAYS, LENGTH = 450, 26, 16
GRPC_PORT = free_port()
CHANGED = {
    "  income:": f"  profile: {{type: vector, length: {LENGTH}}}\n  income:",
    "inputs:\n": "inputs:\n  - {name: profile, kind: vector, of: profile}\n",
    "deadline_ms: 50\n": "deadline_ms: 2000\n",
}
REASON = "profile: {code: PROFILE, customer: Your profile, analyst: The vector of the profile}\n"
NUMBERS = [f"profile.v{LENGTH}.{number}" for number in range(1, LENGTH + 1)]
Vectors = NDArray[np.float64]


def profiles(label: NDArray[Any]) -> Vectors:
    """Vectors of norm 1; those of people who will not pay back lean to one side."""
    random = np.random.default_rng(9)
    leaning = np.zeros(LENGTH)
    leaning[:4] = 0.8
    made = random.normal(0, 1, (len(label), LENGTH)) + np.outer(label, leaning)
    found: Vectors = made / np.linalg.norm(made, axis=1)[:, None]
    return found


GOOD = [-0.5] * 4 + [0.0] * (LENGTH - 4)
BAD = [0.5] * 4 + [0.0] * (LENGTH - 4)
ODD = [0.1, -0.2, 1 / 3, 1e-30, 2, *([0.7] * (LENGTH - 5))]
"""Numbers that float32 rounds, and a whole one."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("team")
    with team_folder(root, root / ".home" / "var", NAME):
        yield root


@pytest.fixture(scope="module")
def candidate(root: Path) -> Candidate:
    """The template with a vector: checked, its history taken in, fitted as a job and validated."""
    written(root, NAME, CHANGED, REASON)
    until_us = time.time_ns() // 1000 // DAY_US * DAY_US
    table = history(until_us, per_day=PER_DAY, days=DAYS)
    made = profiles(np.array(table.column("label")))
    table = table.append_column("profile", pa.array(list(made), pa.list_(pa.float64(), LENGTH)))
    pq.write_table(table, root / "history.parquet")
    command("history", "import", NAME, str(root / "history.parquet"))
    platform = Platform(load(os.environ))
    prepared = training.prepare_training(platform, NAME, until_us // 1000)
    x = prepared.dataset.rows.matrix.columns(NUMBERS)
    (first,) = np.flatnonzero((made.astype(np.float32) == x[0]).all(axis=1))
    np.testing.assert_array_equal(x, made[first : first + len(x)].astype(np.float32))
    fitted = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
    report = training.validate(NAME, fitted, prepared).report
    assert report.reasons == ()
    assert retrain.version_facts(fitted, report, author="ana").validated
    return fitted


@pytest.fixture(scope="module")
def world(root: Path, candidate: Candidate) -> Iterator[ScoringWorld]:
    world = ScoringWorld(root / ".home", has_snapshots=False)
    try:
        world.promote(world.serve(1, candidate.bundle.digest))
        world.start_gateway(MLPLATFORM_GATEWAY_GRPC_PORT=str(GRPC_PORT))
        wait_for(lambda: score(world, GOOD).json().get("answered_by") == "champion")
        yield world
    finally:
        world.close()


def request(profile: Any, **changed: object) -> dict[str, Any]:
    asked = {"customer_id": 7, "amount": 4000.0, "income": 3000.0, "profile": profile}
    return asked | {"event_time": time.time_ns() // 1_000_000} | changed


def score(world: ScoringWorld, profile: Any, **changed: object) -> httpx.Response:
    url = f"{world.url}/api/v1/models/{NAME}/score"
    asked = request(profile, **changed)
    return httpx.post(url, json=asked, headers=world.headers, timeout=10)


def record_of(world: ScoringWorld, decision_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = wait_for(
        lambda: [r for r in world.records("decision") if r["decision_id"] == decision_id]
    )
    return found[0]


def test_a_gateway_scores_by_the_vector_over_http_grpc_and_the_client(world: ScoringWorld) -> None:
    bad, good = score(world, BAD).json(), score(world, GOOD).json()
    assert bad["score"] > good["score"]
    key = world.headers["Authorization"].removeprefix("Bearer ")
    with Client(world.url, key) as client:
        assert client.score(NAME, request(BAD)).score == bad["score"]
        assert client.score(NAME, request(tuple(BAD))).score == bad["score"]
    value = pb.FieldValue
    message = pb.ScoreRequest(
        model=NAME,
        fields={
            "customer_id": value(integer=7),
            "amount": value(number=4000.0),
            "income": value(number=3000.0),
            "profile": value(vector=pb.Vector(numbers=BAD)),
        },
        event_time_ms=time.time_ns() // 1_000_000,
    )
    with grpc.insecure_channel(f"127.0.0.1:{GRPC_PORT}") as channel:
        call = channel.unary_unary("/mlplatform.scoring.v1.Scoring/Score")
        metadata = (("authorization", world.headers["Authorization"]),)
        answer = pb.ScoreResponse.FromString(
            call(message.SerializeToString(), timeout=10, metadata=metadata)
        )
        assert answer.score == bad["score"]
        message.fields["profile"].CopyFrom(value(vector=pb.Vector(numbers=[*BAD, 1.0])))
        with pytest.raises(grpc.RpcError) as refused:
            call(message.SerializeToString(), timeout=10, metadata=metadata)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "profile" in (refused.value.details() or "")


@pytest.mark.parametrize(
    ("profile", "field"),
    [
        (BAD[:-1], "profile"),
        ([*BAD, 0.0], "profile"),
        (None, "profile"),
        ([], "profile"),
        ("0.5", "profile"),
        ([*BAD[:-1], None], f"profile[{LENGTH - 1}]"),
        ([*BAD[:-1], "0.25"], f"profile[{LENGTH - 1}]"),
        ([[0.5], *BAD[1:]], "profile[0]"),
        ([*BAD[:-1], 1e39], f"profile[{LENGTH - 1}]"),
        ([*BAD[:-1], True], f"profile[{LENGTH - 1}]"),
    ],
)
def test_what_is_no_such_vector_is_refused_by_its_index_without_its_numbers(
    world: ScoringWorld, profile: Any, field: str
) -> None:
    refused = score(world, profile)
    assert (refused.status_code, refused.json()["field"]) == (422, field)
    assert "0.5" not in refused.text
    with pytest.raises(InputRefused), Client(world.url, "no key") as client:
        client.score(NAME, request([*BAD[:-1], float("nan")]))


def test_a_record_holds_what_was_served_and_is_decided_again_to_the_bit(
    world: ScoringWorld, candidate: Candidate
) -> None:
    answer = score(world, ODD, amount=9000.0).json()
    record = record_of(world, answer["decision_id"])
    assert record["payload"]["request"]["profile"] == ODD
    found = json.loads(command("log", "explain", answer["decision_id"], "--json"))
    assert found["equal"]
    bundle, definition = candidate.bundle, load_definition(NAME)
    plan = InputPlan(definition, (), bundle.inputs, bundle.defaults, bundle.vocabularies)
    row = plan.row(record["payload"]["request"], record["event_ms"], {})
    log = SqliteDecisionLog(world.home.decisions)
    try:
        query = RecordQuery(model=NAME, kinds=("decision",), columns=("event_ms", "payload"))
        logged = LoggedInputs(plan).read(log.read(query)).matrix
        offline = OfflineTable(world.home.offline(NAME), definition)
        offline.project(log)
    finally:
        log.close()
    of_record = np.array(row, np.float32)
    assert any((of_record == each).all() for each in logged)
    table = offline.requests(record["event_ms"], record["event_ms"] + 1).to_arrow_table()
    np.testing.assert_array_equal(plan.matrix(table)[0], of_record)
    decider = load_decider(world.home.bundles, NAME, bundle.digest)
    assert float(decider.score(of_record[None])[0]) == record["payload"]["raw"]
    replayed = json.loads(command("replay", NAME, "--from", "refuse=0.999", "--json"))
    assert replayed["alike"] == replayed["served"] > 0


def test_what_counts_features_again_reads_requests_with_vectors(world: ScoringWorld) -> None:
    record = record_of(world, score(world, ODD).json()["decision_id"])
    offline = OfflineTable(world.home.offline(NAME), load_definition(NAME))
    earlier = offline.requests(0, record["event_ms"] - 1).limit(1).to_arrow_table().to_pylist()[0]
    asked = record["payload"]["request"]["customer_id"], earlier["customer_id"]
    log = SqliteDecisionLog(world.home.decisions)
    try:
        with database() as db:
            upto = {record["writer"]: record["seq"]}
            keys = {"customer_id": asked}
            assert gather(db, log, offline, keys=keys, from_ms=0, upto=upto) == 0
            found = dict(db.sql("SELECT request_id, profile FROM events").fetchall())
    finally:
        log.close()
    assert found[earlier["request_id"]] == earlier["profile"]
    assert found[record["decision_id"]] == np.array(ODD, np.float32).tolist()


def test_the_vector_is_one_reason_and_one_cause(world: ScoringWorld) -> None:
    answer = score(world, BAD, amount=9000.0).json()
    assert answer["decision"] in ("refer", "refuse")
    assert "PROFILE" in {reason["code"] for reason in answer["reasons"]}
    record_of(world, answer["decision_id"])
    found = json.loads(command("log", "explain", answer["decision_id"], "--json"))
    (explanation,) = found["explanations"]
    assert found["equal"]
    (cause,) = [c for c in explanation["causes"] if c["code"] == "PROFILE"]
    assert cause["input"] == "profile"
    assert cause["value"] == f"{LENGTH} numbers, norm 1"
    assert cause["contribution"] > 0


def infer(world: ScoringWorld, *tensors: dict[str, Any]) -> httpx.Response:
    url = f"{world.url}/v2/models/{NAME}/infer"
    return httpx.post(url, json={"inputs": tensors}, headers=world.headers, timeout=10)


def test_callers_of_the_open_protocol_send_the_vector_as_one_tensor(
    world: ScoringWorld, candidate: Candidate
) -> None:
    record = record_of(world, score(world, ODD).json()["decision_id"])
    names = [spec.name for spec in candidate.bundle.inputs]
    plan = InputPlan(load_definition(NAME), (), candidate.bundle.inputs)
    row = plan.row(record["payload"]["request"], record["event_ms"], {})
    raw = record["payload"]["raw"]
    matrix = {"name": "inputs", "datatype": "FP32", "shape": [1, len(row)], "data": [row]}
    assert infer(world, matrix).json()["outputs"][0]["data"] == [pytest.approx(raw, abs=1e-7)]
    vector = {"name": "profile", "datatype": "FP64", "shape": [1, LENGTH], "data": [ODD]}
    others = [
        {"name": name, "datatype": "FP64", "shape": [1], "data": [value]}
        for name, value in zip(names[LENGTH:], row[LENGTH:], strict=True)
    ]
    several = infer(world, vector, *others)
    assert several.json()["outputs"][0]["data"] == [pytest.approx(raw, abs=1e-7)], several.text
    partly = vector | {"data": [[*ODD[:-1], None]]}
    refused = infer(world, partly, *others)
    assert refused.status_code == 400
    assert f"'profile' lacks the number {LENGTH - 1} in row 0" in refused.text
    absent = vector | {"data": [None] * LENGTH}
    assert infer(world, absent, *others).status_code == 200
    message = oip.ModelInferRequest(model_name=NAME)
    tensor = message.inputs.add(name="inputs", datatype="FP32", shape=[1, len(row)])
    tensor.contents.fp32_contents.extend(row)
    with grpc.insecure_channel(f"127.0.0.1:{GRPC_PORT}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        metadata = (("authorization", world.headers["Authorization"]),)
        answer = call(message.SerializeToString(), timeout=10, metadata=metadata)
        found = oip.ModelInferResponse.FromString(answer).outputs[0].contents.fp32_contents[0]
        assert found == np.float32(raw)
        tensor.contents.fp32_contents[0] = float("nan")
        with pytest.raises(grpc.RpcError, match="lacks the number 0 in row 0"):
            call(message.SerializeToString(), timeout=10, metadata=metadata)


def test_a_table_of_rows_is_scored_as_by_the_gateway_and_wrong_rows_say_why(
    world: ScoringWorld, candidate: Candidate, tmp_path: Path
) -> None:
    definition, bundle = load_definition(NAME), candidate.bundle
    answers = [score(world, profile).json() for profile in (ODD, BAD, GOOD)]
    now_ms = time.time_ns() // 1_000_000
    wrong = [BAD[:-1], [*BAD[:-1], None], [*BAD[:-1], float("inf")], [*BAD[:-1], 1e39], None]
    rows = [ODD, BAD, GOOD, *wrong]
    table = pa.table(
        {
            "request_id": [f"r{n}" for n in range(len(rows))],
            "event_time": pa.array([now_ms] * len(rows), pa.timestamp("ms")),
            "customer_id": [7] * len(rows),
            "amount": [4000.0] * len(rows),
            "income": [3000.0] * len(rows),
            "profile": pa.array(rows, pa.large_list(pa.float64())),
        }
    )
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path)
    check_columns([path], definition, {})
    (block,) = blocks(path, path.name, definition, {}, rows=100, first=0)
    requests = requests_of(block.rows, block.unread, definition, as_of_ms=now_ms, key=b"k")
    assert requests.good.tolist() == [0, 1, 2]
    value = "profile has a value that is not a finite float32: {'index': 15, 'value': "
    assert [requests.problems[n] for n in range(3, len(rows))] == [
        f"profile has another length than {LENGTH}: {LENGTH - 1}",
        f"{value}nan}}",
        f"{value}inf}}",
        f"{value}inf}}",
        "profile is missing",
    ]
    offline = OfflineTable(world.home.offline(NAME), definition)
    inputs = RowFeatures(definition, (), bundle, offline).inputs(requests.table)
    scored = RowDecisions(bundle, candidate.folder, safe="refer").scored(inputs)
    assert scored.scores.tolist() == [answer["score"] for answer in answers]
    of_alerts = [{reason["code"] for reason in answer["reasons"]} for answer in answers]
    assert [set(scored.reasons.get(n, ())) for n in range(3)] == of_alerts
    frame = pd.DataFrame({"profile": [ODD, BAD, GOOD]})
    for name, at in zip(bundle.input_names[LENGTH:], range(LENGTH, inputs.x.shape[1]), strict=True):
        frame[name] = inputs.x[:, at]
    found = BundleModel(candidate.folder).predict(frame)
    assert found["score"].tolist() == scored.scores.tolist()


def test_the_bundle_says_what_the_vector_is_and_reads_its_numbers_in_the_graph_alone(
    candidate: Candidate,
) -> None:
    bundle = candidate.bundle
    assert load_bundle(candidate.folder) == bundle
    assert problems(msgspec.structs.replace(bundle, inputs=bundle.inputs[1:]))
    assert bundle.small_model is not None
    assert not {c.input for c in bundle.small_model.characteristics} & set(NUMBERS)
    assert not set(bundle.profile.inputs) & set(NUMBERS)
    shown = card_inputs(load_definition(NAME), (), bundle)[0]
    assert (shown.name, shown.usual) == ("profile", None)
    assert shown.made_of == f"request field profile, a vector of {LENGTH} numbers"
    described = model_description(bundle, run_id="r", artifact="bundle", made_ms=0)
    schema = Schema.from_json(described["signature"]["inputs"])
    assert schema.input_types()[0] == Array(DataType.double)
    example = json.loads(model_files(bundle, described)[EXAMPLE])
    assert len(example["data"][0][0]) == LENGTH
    frame = pd.DataFrame(example["data"], columns=example["columns"])
    scores = BundleModel(candidate.folder).predict(frame)["score"]
    assert scores.between(0, 1).all()


def two_inputs() -> bytes:
    """scores = sigmoid(the sum of the vector + the first of the other inputs / 10,000)."""
    kind = TensorProto
    nodes = [
        helper.make_node("ReduceSum", ["embedding", "axis"], ["summed"], keepdims=0),
        helper.make_node("Cast", ["summed"], ["whole"], to=kind.FLOAT),
        helper.make_node("Gather", ["rest", "first"], ["amount"], axis=1),
        helper.make_node("Mul", ["amount", "scale"], ["scaled"]),
        helper.make_node("Add", ["whole", "scaled"], ["total"]),
        helper.make_node("Sigmoid", ["total"], ["p"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(np.array(0, np.int64), "first"),
        numpy_helper.from_array(np.array(1e-4, np.float32), "scale"),
    ]
    taken = [
        helper.make_tensor_value_info("embedding", kind.DOUBLE, [None, LENGTH]),
        helper.make_tensor_value_info("rest", kind.FLOAT, [None, 4]),
    ]
    given = [helper.make_tensor_value_info("p", kind.FLOAT, [None])]
    graph = helper.make_graph(nodes, "two", taken, given, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = made.SerializeToString()
    return content


SIGNATURE = f"""
signature:
  inputs:
    - {{name: embedding, dtype: float64, shape: [n, {LENGTH}], of: [profile], missing: 0}}
    - {{name: rest, dtype: float32, shape: [n, 4], of: [amount, income, amount_to_income, hour],
       missing: 0}}
  outputs: [{{name: p, dtype: float32, shape: [n]}}]
  score: {{output: p}}
"""


def test_a_graph_takes_the_vector_as_one_input_of_doubles(
    root: Path, candidate: Candidate, tmp_path: Path
) -> None:
    definition = parse((root / NAME / "model.yaml").read_text() + SIGNATURE, "model.yaml")
    others = {"amount": 5000.0, "income": None, "amount_to_income": None, "hour": 3}
    of_vectors = {1.1: [0.1] * 6 + [0.0] * 10, 0.5: None, 2.5: [2.0, *([0.0] * 15)]}
    expected = [1 / (1 + np.exp(-total)) for total in of_vectors]
    golden = [
        {"inputs": {"profile": vector, **others}, "score": score}
        for vector, score in zip(of_vectors.values(), expected, strict=True)
    ]
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    found = golden_set(tmp_path / "golden.json", definition)
    check_ready(two_inputs(), definition, found)
    (tmp_path / "model.onnx").write_bytes(two_inputs())
    assert definition.signature is not None
    tensors = Tensors(definition.signature, [i.name for i in definition.inputs], {})
    scores = scorer(tmp_path / "model.onnx", tensors=tensors)(found.rows)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_a_csv_file_holds_vectors_as_json_lists_and_gives_the_inputs_of_a_parquet_file(
    world: ScoringWorld, candidate: Candidate, tmp_path: Path
) -> None:
    definition, now_ms = load_definition(NAME), time.time_ns() // 1_000_000
    rows = [ODD, BAD, GOOD]
    of_parquet = {
        "request_id": ["r", "s", "t"], "customer_id": [7] * 3, "amount": [1.0] * 3,
        "income": [1.0] * 3, "profile": pa.array(rows, pa.list_(pa.float64())),
    }  # fmt: skip
    pq.write_table(pa.table(of_parquet), tmp_path / "rows.parquet")
    wrong = [
        "0.5",
        json.dumps([*BAD[:-1], "x"]),
        json.dumps(BAD[:-1]),
        json.dumps([*BAD[:-1], None]),
    ]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["request_id", "customer_id", "amount", "income", "profile"])
        for number, cell in enumerate([*map(json.dumps, rows), *wrong, ""]):
            writer.writerow([f"r{number}", 7, 1, 1, cell])
    found = []
    for name in ("rows.parquet", "rows.csv"):
        path = tmp_path / name
        check_columns([path], definition, {})
        (block,) = blocks(path, name, definition, {}, rows=100, first=0)
        requests = requests_of(block.rows, block.unread, definition, as_of_ms=now_ms, key=b"k")
        offline = OfflineTable(world.home.offline(NAME), definition)
        features = RowFeatures(definition, (), candidate.bundle, offline)
        found.append(features.inputs(requests.table).x)
    assert found[0].tobytes() == found[1].tobytes()
    assert requests.problems == {
        3: "profile is '0.5'; wanted: numbers in brackets, as [0.25, -1.5]",
        4: f'profile[{LENGTH - 1}] is "x"; wanted: a number',
        5: f"profile has another length than {LENGTH}: {LENGTH - 1}",
        6: "profile has a value that is not a finite float32: {'index': 15, 'value': nan}",
        7: "profile is missing",
    }
