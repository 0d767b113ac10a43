"""A bureau's table feeds `credit-default`: docs/features.md, a history, gates, answers, skew.

What a request should have read is counted from the bureau's own rows by pandas.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.bureau_world import (
    TIMES,
    TTL,
    arrow,
    bureau_table,
    insert,
    password_file,
)
from tests.support.documented_views import known_rows, with_documented_view
from tests.support.model_folders import with_sklearn
from tests.support.scoring_world import ScoringWorld, wait_for
from tests.support.team_folder import command, team_folder

from mlplatform.learning.training import evaluate, retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.model.folder_code import load_module
from mlplatform.model.inputs import InputPlan
from mlplatform.operations.actions import fitting, training
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.units import DAY_MS

pytestmark = pytest.mark.slow

NAME, SHIPPED, VIEW = "credit-default", "teams/credit/credit-default", "bureau"
FEATURES = ("bureau_score", "open_loans")
SEED, DAYS = 3, 92
DEFAULT_LOANS = 0

Deliver = Callable[[pd.DataFrame], dict[str, Any]]


class FedModel(NamedTuple):
    """A model whose view has a table.

    Args:
        history: the generated requests, with the clients' own numbers.
        raw: all rows that the bureau gave.
        deliver: brings more of them, as the bank does.
    """

    root: Path
    history: pa.Table
    raw: pd.DataFrame
    deliver: Deliver


@pytest.fixture(
    scope="module", params=["parquet", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
def fed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FedModel]:
    """The folder of the document, its history, and the first delivery of the bureau."""
    root = tmp_path_factory.mktemp("fed")
    folder = with_documented_view(root / "models", SHIPPED)
    with_sklearn(folder)
    with team_folder(root / "models", root / "var", NAME), pytest.MonkeyPatch.context() as patch:
        assert "bureau_score, open_loans" in command("features", "render", NAME)
        assert "nothing is wrong" in command("check-model", str(folder))
        until_ms = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
        words = ("--seed", str(SEED), "--days", str(DAYS), "--json")
        made = json.loads(command("history", "generate", NAME, *words))
        history = load_module(NAME, "sources").generate(
            seed=SEED, start_ms=until_ms - DAYS * DAY_MS, days=DAYS, maturity_days=30
        )
        assert made["rows"] == history.num_rows
        raw = bureau_table(history, pd.Timestamp.utcnow().tz_localize(None))
        deliver: Deliver = FolderOfFiles(root)
        if request.param == "postgresql":
            deliver = TableOfDatabase(request.getfixturevalue("postgres"), root, patch)
        done = deliver(raw)
        assert done["rows"] == done["new"] == len(raw)
        assert done["entities served"] == raw["customer_id"].nunique()
        yield FedModel(root, history, raw, deliver)


class FolderOfFiles:
    """A file for each month of what the bureau knew."""

    def __init__(self, root: Path) -> None:
        self._folder, self._count = root / "tables", 0

    def __call__(self, rows: pd.DataFrame) -> dict[str, Any]:
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir(parents=True)
        for month, part in rows.groupby(rows["known_at"].dt.strftime("%Y-%m")):
            pq.write_table(arrow(part), folder / f"{month}.parquet")
        return json.loads(command("features", "import", NAME, VIEW, str(folder), "--json"))


class TableOfDatabase:
    """A table of PostgreSQL, to which the bank adds rows, and which is imported whole."""

    def __init__(self, postgres: Any, root: Path, patch: pytest.MonkeyPatch) -> None:
        self._postgres, self._database = postgres, postgres.database()
        patch.setenv("PGPASSFILE", str(password_file(root, self._database)))

    def __call__(self, rows: pd.DataFrame) -> dict[str, Any]:
        insert(self._postgres, self._database, rows)
        url = self._database.url
        place = f"{url}{'&' if '?' in url else '?'}table=bureau"
        return json.loads(command("features", "import", NAME, VIEW, place, "--json"))


@pytest.fixture(scope="module")
def prepared(fed: FedModel) -> training.TrainingInputs:
    now_ms = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
    return training.prepare_training(Platform(load(os.environ)), NAME, now_ms)


@pytest.fixture(scope="module")
def validated(prepared: training.TrainingInputs) -> tuple[Candidate, GateReport]:
    platform = Platform(load(os.environ))
    made = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
    return made, training.validate(NAME, made, prepared).report


def test_training_has_of_each_request_what_the_bureau_had_told_by_then(
    fed: FedModel, prepared: training.TrainingInputs
) -> None:
    matrix, window = prepared.dataset.rows.matrix, prepared.dataset.window
    asked = fed.history.sort_by([("event_time", "ascending"), ("request_id", "ascending")])
    frame = asked.to_pandas().rename(columns={"event_time": "at"})[["customer_id", "at"]]
    begin, end = (pd.Timestamp(ms, unit="ms") for ms in (window.from_ms, window.to_ms))
    frame = frame[(frame["at"] >= begin) & (frame["at"] < end)].reset_index(drop=True)
    assert len(frame) == len(matrix) > 10_000
    expected = known_rows(frame, fed.raw, "customer_id", TIMES, TTL)
    assert_read(matrix, expected)
    by_event = fed.raw.assign(known_at=fed.raw["as_of"])
    for wrong, why in (
        (by_event, "late rows and corrections as if they had been known"),
        (fed.raw.drop_duplicates(["customer_id", "as_of"]), "without corrections"),
    ):
        other = known_rows(frame, wrong, "customer_id", TIMES, TTL)["bureau_score"]
        differ = ~(
            other.eq(expected["bureau_score"]) | (other.isna() & expected["bureau_score"].isna())
        )
        assert differ.sum() > 300, why
    assert expected["as_of"].isna().sum() > 300, "some clients are unknown to the bureau"


def assert_read(matrix: Any, expected: pd.DataFrame) -> None:
    """Cell by cell; a missing number of loans is the declared default."""
    wanted = {
        "bureau_score": expected["bureau_score"].astype("float64"),
        "open_loans": expected["open_loans"].astype("Float64").fillna(DEFAULT_LOANS),
    }
    for name, values in wanted.items():
        found = matrix.columns([name])[:, 0]
        np.testing.assert_array_equal(found, values.to_numpy(dtype="float32", na_value=np.nan))


def test_it_passes_its_gates_and_decides_by_what_it_was_fed(
    validated: tuple[Candidate, GateReport], prepared: training.TrainingInputs
) -> None:
    made, report = validated
    assert report.reasons == ()
    assert retrain.version_facts(made, report, author="ana").validated
    rows = prepared.dataset.judging.matrix
    x = rows.of(made.bundle)
    without = x.copy()
    without[:, made.bundle.input_names.index("bureau_score")] = np.nan
    model = evaluate.load_runnable(made.folder).model
    moved = np.abs(model.scores(x) - model.scores(without))
    assert np.median(moved) > 0.01


@pytest.fixture(scope="module")
def world(fed: FedModel, validated: tuple[Candidate, GateReport]) -> Iterator[ScoringWorld]:
    world = ScoringWorld(fed.root, has_snapshots=False)
    try:
        world.promote(world.serve(1, validated[0].bundle.digest))
        world.start_gateway()
        wait_for(lambda: score(world, 1).get("answered_by") == "champion")
        yield world
    finally:
        world.close()


GOOD: dict[str, Any] = {
    "limit_balance": 300000.0,
    "education": "university",
    **{f"status_{month}": 0 for month in range(1, 7)},
    **{f"bill_{month}": 90000.0 for month in range(1, 7)},
    **{f"paid_{month}": 9000.0 for month in range(1, 7)},
}


def score(world: ScoringWorld, customer: int) -> dict[str, Any]:
    body = GOOD | {"customer_id": customer, "event_time": time.time_ns() // 1_000_000}
    url = f"{world.url}/api/v1/models/{NAME}/score"
    sent = world.headers | {"X-Request-Timeout-Ms": "5000"}
    found: dict[str, Any] = httpx.post(url, json=body, headers=sent, timeout=10).json()
    return found


def test_answers_are_by_the_newest_row_and_corrections_count_from_their_delivery(
    fed: FedModel, world: ScoringWorld, validated: tuple[Candidate, GateReport]
) -> None:
    now = pd.Timestamp.utcnow().tz_localize(None).floor("s")
    newest = fed.raw[fed.raw["as_of"] > now - TTL / 2].sort_values([*TIMES])
    newest = newest.dropna().groupby("customer_id").tail(1).nlargest(3, "bureau_score")
    customers = newest["customer_id"].tolist()
    unknown = int(fed.raw["customer_id"].max()) + 1_000_000
    raw, before = fed.raw, {}
    for customer in (*customers, unknown):
        before[customer] = asserted(fed, world, validated[0], raw, customer)
    corrected, late, renewed = (newest[newest["customer_id"] == one] for one in customers)
    more = pd.concat(
        [
            corrected.assign(known_at=now, bureau_score=360.0),
            late.assign(as_of=late["as_of"] - TTL / 4, known_at=now, bureau_score=1.0),
            renewed.assign(as_of=now, known_at=now, bureau_score=360.0, open_loans=9),
        ]
    )
    assert fed.deliver(more)["new"] == 3
    raw = pd.concat([fed.raw, more])
    after = {one: asserted(fed, world, validated[0], raw, one) for one in (*customers, unknown)}
    moved = {one: after[one] != before[one] for one in before}
    assert moved == dict(zip((*customers, unknown), (True, False, True, False), strict=True))
    command_skew = json.loads(command("skew", NAME, "--json"))
    assert {one["name"] for one in command_skew["features"]} == {*FEATURES}
    for one in command_skew["features"]:
        wrong = {kind: one[kind] for kind in ("late", "missing", "different")}
        assert wrong == {"late": 0, "missing": 0, "different": 0}, one
        assert one["equal"] == one["sampled"] == len(world.records("decision")) >= 8


def asserted(
    fed: FedModel, world: ScoringWorld, made: Candidate, raw: pd.DataFrame, customer: int
) -> float:
    """The score of an answer now, which is the model's of the bureau's raw row."""
    answer = score(world, customer)
    assert answer["answered_by"] == "champion", answer
    (record,) = [
        one for one in world.records("decision") if one["decision_id"] == answer["decision_id"]
    ]
    at = pd.Timestamp(record["event_ms"], unit="ms")
    asked = pd.DataFrame({"customer_id": [customer], "at": [at]})
    row = known_rows(asked, raw, "customer_id", TIMES, TTL).iloc[0]
    read = {name: None if pd.isna(row[name]) else float(row[name]) for name in FEATURES}
    assert {name: record["payload"]["features"][name] for name in FEATURES} == read
    is_known = not pd.isna(row["as_of"])
    assert answer["degraded"] is not is_known
    assert (answer["feature_gaps"] or {}).get("missing", []) == ([] if is_known else [VIEW])
    bundle, platform = made.bundle, Platform(load(os.environ))
    plan = InputPlan(
        platform.definition(NAME),
        platform.views(NAME),
        bundle.inputs,
        vocabularies=bundle.vocabularies,
    )
    x = np.array([plan.row(record["payload"]["request"], record["event_ms"], read)], np.float32)
    raw_score = float(evaluate.load_runnable(made.folder).model.scores(x)[0])
    expected = bundle.calibration.probability(raw_score)
    assert answer["score"] == pytest.approx(expected, abs=1e-5)
    return float(answer["score"])
