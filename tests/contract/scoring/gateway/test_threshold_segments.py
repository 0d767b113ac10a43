"""Thresholds by segment: a request gets the same decision wherever its bundle decides."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlplatform.commands.terminal.explanations import print_explanations
from mlplatform.decisions.log.lookup import all_records
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.pseudonym import key_of, pseudonym
from mlplatform.decisions.records.record import Record
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.feast_values import project_name
from mlplatform.learning.features.policy import NO_GAPS
from mlplatform.learning.registry.pyfunc import BundleModel
from mlplatform.learning.training.evaluate import load_runnable
from mlplatform.learning.training_sets.dataset import Matrix
from mlplatform.learning.validation.replay import replay
from mlplatform.model.bundle import MODEL_FILE, Bundle, load_bundle, write_bundle
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.policies.calibration import Calibration
from mlplatform.model.policies.cut_offs import RowThresholds, SegmentThresholds
from mlplatform.model.policies.small_model import Characteristic, SmallModel
from mlplatform.operations import wiring
from mlplatform.operations.compute import scoring
from mlplatform.operations.tables.row_decisions import RowDecisions
from mlplatform.operations.tables.row_features import Inputs
from mlplatform.operations.whatif import replay as whatif
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.scoring.explanations.record_thresholds import record_thresholds
from mlplatform.scoring.request.explain import Explanation, explain_records, load_decider
from support.scoring_world import MODEL, ScoringWorld, payment, wait_for, write_amount_bundle
from support.snapshots import snapshot_row

NAMES = [i.name for i in load_definition(MODEL).inputs]
AMOUNT, COUNT = NAMES.index("amount"), NAMES.index("customer_count_1d")
VIEWS = load_views(model_folder(MODEL))
SEGMENTS = (
    SegmentThresholds(
        name="regular",
        input="customer_count_1d",
        at_least=0.0,
        thresholds={"review": 0.1, "decline": 0.2},
    ),
    SegmentThresholds(
        name="large",
        input="amount",
        at_least=600.1,
        thresholds={"review": 0.65, "decline": 0.95},
    ),
)
SMALL = SmallModel(
    schema="scorecard/1",
    minimum_present=1,
    base=0.0,
    characteristics=(Characteristic("amount", (650.0,), (-1.0, 0.85), 0.0),),
    calibration=Calibration(x=(0.0, 1.0), y=(0.0, 1.0)),
    thresholds={"review": 0.25, "decline": 0.6},
    segment_thresholds={
        "regular": {"review": 0.0, "decline": 0.0},
        "large": {"review": 0.5, "decline": 0.9},
    },
)
UNKNOWN, KNOWN = 7, 8
"""A customer of whom the store has no feature, and one of whom it has each, 5; terminals alike."""
DECIDED: dict[tuple[float, int], tuple[str, str | None]] = {
    (400.0, UNKNOWN): ("approve", None),
    (550.0, UNKNOWN): ("review", None),
    (600.0, UNKNOWN): ("review", None),
    (600.1, UNKNOWN): ("approve", "large"),
    (700.0, UNKNOWN): ("review", "large"),
    (920.0, UNKNOWN): ("review", "large"),
    (960.0, UNKNOWN): ("decline", "large"),
    (150.0, KNOWN): ("review", "regular"),
    (700.0, KNOWN): ("decline", "regular"),
}
"""Amount and customer → the decision, and by which segment."""
ROWS: list[tuple[float, float, str]] = [
    *((a, 5.0 if c == KNOWN else math.nan, decision) for (a, c), (decision, _) in DECIDED.items()),
    (50.0, 3.0, "approve"),
    (150.0, 3.0, "review"),
    (250.0, 0.0, "decline"),
    (700.0, 1.0, "decline"),
    (700.0, -1.0, "review"),
]
"""Amount, payments of the last day, and the decision."""
X = np.full((len(ROWS), len(NAMES)), np.nan, np.float32)
X[:, AMOUNT] = [amount for amount, _, _ in ROWS]
X[:, COUNT] = [count for _, count, _ in ROWS]
WANTED = [decision for _, _, decision in ROWS]


def write_segmented(folder: Path, origin: str = "test") -> str:
    plain = folder.with_name(f"{folder.name}-plain")
    write_amount_bundle(plain)
    bundle = msgspec.structs.replace(
        load_bundle(plain), segment_thresholds=SEGMENTS, small_model=SMALL, origin=origin
    )
    data = (plain / MODEL_FILE).read_bytes()
    shutil.rmtree(plain)
    return write_bundle(bundle, data, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundles = tmp_path_factory.mktemp("bundles")
    digest = write_segmented(bundles / "draft")
    return (bundles / "draft").rename(bundles / digest)


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder)


class Answered:
    """A gateway whose champion and shadow have segments, after the requests of `DECIDED`."""

    def __init__(self, world: ScoringWorld) -> None:
        self.world = world
        self.champion = world.deploy(1, write=write_segmented)
        world.promote(self.champion)
        world.start_gateway()
        keys = {"customer_stats": pseudonym(KNOWN, key_of(world.home)), "terminal_stats": KNOWN}
        with closing(FeastSqlite(world.home.online_db, project_name(MODEL), VIEWS)) as online:
            for view in VIEWS:
                online.write(
                    view.name, snapshot_row(view, keys[view.name], int(time.time() * 1000))
                )
        wait_for(lambda: self.post(payment(1.0)).status_code == 200)
        world.shadow(world.deploy(2, write=lambda at: write_segmented(at, "another")))
        self.answers = {asked: self.score(*asked) for asked in DECIDED}
        ids = {answer["decision_id"] for answer in self.answers.values()}
        wait_for(lambda: ids <= {r["decision_id"] for r in world.records("shadow")})

    def post(self, body: dict[str, Any]) -> Any:
        with self.world.client() as client:
            return client.post("/score", json=body)

    def score(self, amount: float, customer: int = UNKNOWN) -> dict[str, Any]:
        body = payment(amount, customer, terminal_id=customer)
        found: dict[str, Any] = self.post(body).raise_for_status().json()
        return found

    def explained(self, decision_id: str) -> list[Explanation]:
        rows = [r for r in self.world.records("decision", "shadow")
                if r["decision_id"] == decision_id]  # fmt: skip
        rows.sort(key=lambda row: str(row["kind"]))
        records = [
            Record(**{k: v for k, v in row.items() if k in Record.__struct_fields__})
            for row in rows
        ]
        bundles = self.world.home.bundles
        return explain_records(records, lambda *of: load_decider(bundles, *of))


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answered]:
    world = ScoringWorld(tmp_path_factory.mktemp("segments"))
    try:
        yield Answered(world)
    finally:
        world.close()


def test_a_gateway_decides_by_the_segment_of_the_request(answered: Answered) -> None:
    found = {asked: answer["decision"] for asked, answer in answered.answers.items()}
    assert found == {asked: decision for asked, (decision, _) in DECIDED.items()}
    assert {answer["answered_by"] for answer in answered.answers.values()} == {"champion"}


def test_a_shadow_copy_and_both_explanations_say_the_same(answered: Answered) -> None:
    for asked, answer in answered.answers.items():
        both = answered.explained(answer["decision_id"])
        assert [one.kind for one in both] == ["decision", "shadow"]
        for one in both:
            assert one.logged is not None
            assert one.again is not None
            assert (one.logged.decision, one.segment) == DECIDED[asked]
            assert (one.again.decision, one.differences) == (one.logged.decision, ())


def test_a_person_reads_whose_thresholds_decided(
    answered: Answered, capsys: pytest.CaptureFixture[str]
) -> None:
    print_explanations(answered.explained(answered.answers[960.0, UNKNOWN]["decision_id"]))
    assert capsys.readouterr().out.count("segment large") == 2
    print_explanations(answered.explained(answered.answers[400.0, UNKNOWN]["decision_id"]))
    assert "thresholds of" not in capsys.readouterr().out


def test_an_explanation_and_the_page_tell_where_the_next_outcome_begins(
    answered: Answered, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = {
        (960.0, UNKNOWN): {"review": 0.65, "decline": 0.95},
        (400.0, UNKNOWN): {"review": 0.5, "decline": 0.9},
    }
    for asked, begins in wanted.items():
        decision_id = answered.answers[asked]["decision_id"]
        both = answered.explained(decision_id)
        assert [one.thresholds for one in both] == [begins, begins]
        assert [*(both[0].thresholds or {})] == ["review", "decline"], "rising"
        print_explanations(both[:1])
        printed = f"review from {begins['review']:.6f}, decline from {begins['decline']:.6f}"
        assert printed in " ".join(capsys.readouterr().out.split())
        with closing(SqliteDecisionLog(answered.world.home.decisions)) as log:
            rows = all_records(log, decision_id)
        held_to = record_thresholds(rows, answered.world.home.bundles)
        kinds = {row["kind"]: found for row, found in zip(rows, held_to, strict=True)}
        segment = DECIDED[asked][1]
        assert kinds["decision"] == kinds["shadow"] == RowThresholds(begins, segment)
    erased = [row | {"payload": None} for row in rows]
    assert set(record_thresholds(erased, answered.world.home.bundles)) == {None}
    assert set(record_thresholds(rows, answered.world.home.root / "none")) == {None}


def test_an_explanation_says_what_the_request_would_be_in_another_segment(
    answered: Answered,
) -> None:
    """With the usual amount, 0, the request would be in no segment."""
    (one, _) = answered.explained(answered.answers[960.0, UNKNOWN]["decision_id"])
    (cause,) = [cause for cause in one.causes if getattr(cause, "input", "") == "amount"]
    assert getattr(cause, "decision_then", None) == "approve"


def _platform(world: ScoringWorld, log: SqliteDecisionLog) -> wiring.Platform:
    routes, newest = (
        world.rollouts.routes(MODEL),
        max(r["event_ms"] for r in world.records("decision")),
    )
    found = SimpleNamespace(
        log=log,
        definition=load_definition,
        views=lambda model: VIEWS,
        clock=SimpleNamespace(event_ms=lambda: newest + 1),
        rollouts=SimpleNamespace(routes=lambda model: routes),
        settings=SimpleNamespace(
            postgres=None, home=SimpleNamespace(rollouts_db=world.home.root / "none.db")
        ),
        bundle=lambda model, arm: world.home.bundles / arm.bundle,
    )
    return cast(wiring.Platform, found)


def test_a_replay_decides_as_was_served_and_by_other_thresholds_where_they_are_asked(
    answered: Answered,
) -> None:
    with closing(SqliteDecisionLog(answered.world.home.decisions)) as log:
        platform = _platform(answered.world, log)
        reference = whatif.side_of_version(platform, MODEL, None)
        with pytest.raises(ConfigInvalid, match=r"huge.review'; wanted: one of review, decline; "):
            whatif.with_thresholds(reference, {"huge.review": 0.1})
        with pytest.raises(ConfigInvalid, match=r"review=0.99'; wanted: scores of 0 to 1"):
            whatif.with_thresholds(reference, {"large.review": 0.99})
        assert whatif.with_thresholds(reference, {"large.review": 0.65}) is reference
        for begins, title, alerts in (
            ({"review": 0.3}, "review from 0.3, decline from 0.9 outside of regular, large", 8),
            ({"large.review": 0.6}, "review from 0.6, decline from 0.95 in large", 8),
        ):
            candidate = whatif.with_thresholds(reference, begins)
            found = whatif.replay(platform, MODEL, reference, candidate, days=1)
            assert found.candidate == f"version 1, {title}"
            assert (found.served, found.alike) == (found.what_if.requests,) * 2
            assert found.what_if.reference_alerts is not None
            assert found.what_if.candidate_alerts is not None
            assert found.what_if.reference_alerts.count == 7
            assert found.what_if.candidate_alerts.count == alerts


def test_tensors_of_a_caller_are_decided_by_their_segment(answered: Answered) -> None:
    found: dict[str, str] = {}
    for row in X.tolist():
        data = [[None if math.isnan(value) else value for value in row]]
        tensor = {"name": "inputs", "shape": [1, len(NAMES)], "datatype": "FP32", "data": data}
        url = f"{answered.world.url}/v2/models/{MODEL}/infer"
        with answered.world.client() as client:
            client.post(url, json={"inputs": [tensor]}).raise_for_status()
        found |= {r["decision_id"]: r["decision"] for r in answered.world.records("inference")
                  if r["decision_id"] not in found}  # fmt: skip
    assert [*found.values()] == WANTED


def _by_rows(bundle: Bundle, folder: Path) -> list[str]:
    inputs = Inputs(X, np.zeros(len(X), np.int64), (NO_GAPS,), ((),))
    found = RowDecisions(bundle, folder, safe="review").scored(inputs)
    return [bundle.scale.names[place] for place in found.decisions]


def test_a_table_that_is_scored_gets_the_same_decisions(bundle: Bundle, folder: Path) -> None:
    assert _by_rows(bundle, folder) == WANTED


def test_so_does_a_shard_of_a_batch_job(folder: Path, tmp_path: Path) -> None:
    shared, digest = tmp_path / "shared", folder.name
    shared.mkdir()
    shutil.copytree(folder, shared / scoring.BUNDLE)
    (shared / scoring.ORDER).write_text(json.dumps({"version": 1, "bundle": digest}))
    columns: dict[str, Any] = dict(zip(NAMES, X.T, strict=True))
    ids = [f"r{number}" for number in range(len(X))]
    pq.write_table(pa.table({scoring.ID: ids, **columns}), tmp_path / "shard.parquet")
    scoring.score(shared, tmp_path / "shard.parquet", tmp_path, "cpu")
    assert pq.read_table(tmp_path / scoring.SCORES)["decision"].to_pylist() == WANTED


def test_so_does_mlflow_and_a_gates_replay(bundle: Bundle, folder: Path) -> None:
    frame = BundleModel(folder).predict(pd.DataFrame(X, columns=NAMES))
    assert frame["decision"].tolist() == WANTED
    rows = np.arange(len(X))
    matrix = Matrix(tuple(NAMES), X, rows, rows)
    found = replay(bundle, load_runnable(folder).model, matrix)
    assert [bundle.scale.names[place] for place in found.decisions] == WANTED


def test_the_small_model_has_thresholds_of_its_own_in_each_segment(answered: Answered) -> None:
    """Last: it ends the champion's predictor."""
    answered.world.kill_predictor(answered.champion)
    by_amount: Sequence[tuple[float, str, str | None]] = (
        (300.0, "review", None),
        (620.0, "approve", "large"),
        (700.0, "review", "large"),
    )
    for amount, decision, segment in by_amount:
        answer = answered.score(amount)
        assert (answer["answered_by"], answer["decision"]) == ("small_model", decision)
        one, *_ = answered.explained(answer["decision_id"])
        assert (one.segment, one.differences) == (segment, ())
