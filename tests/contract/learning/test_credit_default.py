"""The credit model of `teams/`, outside of the package: from a made-up history to an answer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.bench.credit import judged_by_the_folder
from tests.support.scoring_world import ScoringWorld, wait_for
from tests.support.team_folder import command, team_folder
from tests.support.train_libraries import needed, needed_file

from mlplatform.learning.training import evaluate, retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.gate_result import OF_A_SEGMENT
from mlplatform.learning.validation.measures import NAMES
from mlplatform.learning.validation.report import to_dict, to_markdown
from mlplatform.model.bundle import MODEL_FILE, load_bundle
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import load_definition
from mlplatform.operations.actions import batch, fitting, training
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS

pytestmark = pytest.mark.slow

NAME = "credit-default"
ROOT = Path(__file__).parents[3]
MODELS = ROOT / "teams" / "credit"
UCI = ROOT.parent / "shared/data/other/uci_credit_default.parquet"
FLOAT32_ROUNDING = 2e-6


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose platform knows `teams/credit`, as it does to the processes that it starts."""
    home = tmp_path_factory.mktemp("home")
    with team_folder(MODELS, home / "var", NAME):
        yield home


@pytest.fixture(scope="module")
def validated(home: Path) -> tuple[Candidate, GateReport, training.TrainingInputs]:
    """Its generator's history, taken in by a command, fitted as a job, and held to all gates."""
    needed("xgboost")
    command("history", "generate", NAME, "--seed", "3")
    platform = Platform(load(os.environ))
    now_ms = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
    prepared = training.prepare_training(platform, NAME, now_ms)
    made = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
    report = retrain.validate(
        training.load_folder(NAME),
        made,
        prepared.dataset,
        champion=None,
        recent=prepared.recent,
    )
    return made, report, prepared


def test_it_passes_its_gates_and_tells_all_measures_with_intervals(
    validated: tuple[Candidate, GateReport, training.TrainingInputs],
) -> None:
    made, report, _ = validated
    assert report.reasons == ()
    assert retrain.version_facts(made, report, author="ana").validated
    found = {m.name: m.candidate for m in report.measures}
    assert list(found) == [*NAMES, "expected_cost"]
    assert all(m.low < m.value < m.high for m in found.values())
    assert found["auc"].value > 0.7
    assert retrain.metrics(report)["ks"] == found["ks"].value


def test_the_same_rows_give_the_same_bytes_of_xgboosts_own_trees(
    home: Path, validated: tuple[Candidate, GateReport, training.TrainingInputs]
) -> None:
    made, _, prepared = validated
    folder, bundles = training.load_folder(NAME), home / "again"
    again = retrain.fit(folder, prepared.dataset, bundles=bundles, recent=prepared.recent)
    again.model.close()
    assert again.bundle.digest == made.bundle.digest
    for file in ("bundle.json", MODEL_FILE):
        assert (again.folder / file).read_bytes() == (made.folder / file).read_bytes()
    assert made.parity.difference <= FLOAT32_ROUNDING
    assert load_bundle(made.folder).attribution.method == "tree_shap"


def test_it_tells_defaults_of_ucis_clients_by_settings_that_no_judged_part_chose() -> None:
    """A part of the clients is judged by settings that the other parts chose: the folder's."""
    needed("xgboost")
    needed_file(UCI, "CREDIT-DEFAULT ON UCI'S CLIENTS")
    told = judged_by_the_folder(UCI)
    settings = load_module(NAME, "training").SETTINGS
    assert all(settings | chosen == settings for chosen in told["settings"])
    found = {measure["name"]: measure["candidate"] for measure in told["measures"]}
    assert found["auc"]["low"] >= 0.775
    assert found["ks"]["low"] > 0.4
    assert told["gate"]["verdict"] == "passed"


def test_its_own_gate_stands_beside_the_platforms(
    validated: tuple[Candidate, GateReport, training.TrainingInputs],
) -> None:
    made, report, prepared = validated
    gate = next(g for g in report.gates if g.name == "decision_cost")
    assert gate.observed is not None
    assert gate.observed < 0, "a first version is cheaper than any one decision about all"
    assert f"on {len(prepared.dataset.judging):,} clients" in gate.reason
    facts = retrain.version_facts(made, report, author="ana")
    assert {"decision_cost", "expected_cost"} <= set(facts.metrics)
    assert "**decision\\_cost**" in to_markdown(facts.report)
    again = retrain.validate(
        training.load_folder(NAME),
        made,
        prepared.dataset,
        champion=evaluate.load_runnable(made.folder),
        recent=prepared.recent,
    )
    beside = next(g for g in again.gates if g.name == "decision_cost")
    assert (beside.observed, beside.verdict) == (0, "passed")
    segments = {g.name: g for g in again.gates if g.name.startswith(OF_A_SEGMENT)}
    assert [*segments] == ["segment_in_arrears", "segment_small_limits", "segment_high_school"]
    assert {(g.observed, g.verdict) for g in segments.values()} == {(0, "passed")}


def test_groups_of_sex_and_age_are_compared_and_no_input(
    validated: tuple[Candidate, GateReport, training.TrainingInputs],
) -> None:
    made, report, prepared = validated
    assert report.fairness is not None
    by_name = {a.attribute: a for a in report.fairness.attributes}
    assert {group.group for group in by_name["sex"].groups} == {"female", "male"}
    ages = load_definition(NAME).request["age_group"].values
    assert ages is not None
    assert {group.group for group in by_name["age_group"].groups} <= {*ages}
    for attribute in by_name.values():
        rows = sum(group.rows for group in attribute.groups)
        assert rows + attribute.unknown == report.fairness.rows == len(prepared.dataset.judging)
        assert attribute.unknown > 0, "the generator leaves the groups of some clients out"
    assert not {*made.bundle.input_names} & {"sex", "age_group"}
    gate = next(g for g in report.gates if g.name == "fairness")
    assert gate.verdict == "passed"
    page = to_markdown(to_dict(report))
    assert "- AUC: 0." in page
    assert "- sex female: " in page


def test_nothing_is_wrong_with_its_folder() -> None:
    needed("xgboost")
    assert "nothing is wrong" in command("check-model", str(MODELS / NAME))


def test_a_batch_decides_about_every_client_of_its_days(
    home: Path, validated: tuple[Candidate, GateReport, training.TrainingInputs]
) -> None:
    platform, bundle = Platform(load(os.environ)), validated[0].bundle
    to_ms = validated[2].dataset.window.to_ms
    asked = batch.Batch(
        "two-days", NAME, 1, bundle.digest, to_ms - 2 * DAY_MS, to_ms, deadline_s=120
    )
    folder = batch.score(platform, asked, batch.prepare(platform, asked), lambda status: None)
    clients = platform.offline(NAME).requests(asked.from_ms, asked.to_ms).to_arrow_table()
    rows = pa.concat_tables([pq.read_table(file) for file in sorted(folder.glob("*.parquet"))])
    assert sorted(rows.column("request_id").to_pylist()) == sorted(
        clients.column("request_id").to_pylist()
    )
    assert set(rows.column("decision").to_pylist()) == {"grant", "refer", "refuse"}


def test_a_champion_is_measured_on_the_same_rows(
    validated: tuple[Candidate, GateReport, training.TrainingInputs],
) -> None:
    """Held against itself, a model differs by nothing in any measure."""
    made, _, prepared = validated
    champion = evaluate.load_runnable(made.folder)
    inputs = evaluate.JudgingInputs(
        made, prepared.dataset, champion, prepared.recent, seed=retrain.SEED
    )
    again = evaluate.gather(load_definition(NAME), inputs)
    for measure in again.measures:
        assert measure.champion == measure.candidate
        assert measure.difference is not None
        assert measure.difference.value == 0
        assert measure.difference.low <= 0 <= measure.difference.high


@pytest.fixture(scope="module")
def world(
    home: Path, validated: tuple[Candidate, GateReport, training.TrainingInputs]
) -> Iterator[ScoringWorld]:
    world = ScoringWorld(home, has_snapshots=False)
    try:
        arm = world.serve(1, validated[0].bundle.digest)
        world.promote(arm)
        world.start_gateway()
        wait_for(lambda: score(world).json().get("answered_by") == "champion")
        yield world
    finally:
        world.close()


GOOD: dict[str, Any] = {
    "customer_id": 7,
    "limit_balance": 300000.0,
    "education": "university",
    **{f"status_{month}": -1 for month in range(1, 7)},
    **{f"bill_{month}": 9000.0 for month in range(1, 7)},
    **{f"paid_{month}": 9000.0 for month in range(1, 7)},
}
BEHIND = {
    **{f"status_{month}": 7 - month for month in range(1, 7)},
    **{f"bill_{month}": 290000.0 for month in range(1, 7)},
    **{f"paid_{month}": 0.0 for month in range(1, 7)},
}


def score(world: ScoringWorld, **changed: object) -> httpx.Response:
    body = GOOD | {"event_time": time.time_ns() // 1_000_000} | changed
    url = f"{world.url}/api/v1/models/{NAME}/score"
    return httpx.post(url, json=body, headers=world.headers, timeout=10)


def test_a_gateway_grants_refers_and_refuses_with_reasons_and_asks_for_no_group(
    world: ScoringWorld,
) -> None:
    good, bad = score(world).json(), score(world, **BEHIND).json()
    assert (good["decision"], good["reasons"]) == ("grant", [])
    assert (bad["decision"], bad["answered_by"]) == ("refuse", "champion")
    codes = {reason["code"] for reason in bad["reasons"]}
    assert codes
    assert codes <= {r.code for r in load_bundle(world_bundle(world)).reasons.values()}
    told = score(world, **BEHIND, sex="female", age_group="30-39").json()
    assert told["score"] == bad["score"], "nothing is decided by what a request tells of groups"
    assert score(world, sex="unheard of").status_code == 422
    between = [
        score(world, status_1=status, status_2=0, paid_1=paid).json()["decision"]
        for status in (0, 1, 2)
        for paid in (0.0, 500.0)
    ]
    assert "refer" in between


def test_answers_without_a_group_are_explained_and_become_rows_without_one(
    world: ScoringWorld,
) -> None:
    ids = [score(world, **BEHIND, **told).json()["decision_id"] for told in ({}, {"sex": "male"})]
    for decision in ids:
        found = json.loads(command("log", "explain", decision, "--json"))
        assert found["equal"]
    platform = Platform(load(os.environ))
    offline = platform.offline(NAME)
    offline.project(platform.log)
    assert live(offline, ids) == {ids[0]: None, ids[1]: "male"}


def live(offline: Any, ids: list[str]) -> dict[str, str | None]:
    """The sex of the requests of some decisions, of those that the offline table has."""
    rows = offline.requests().to_arrow_table().to_pylist()
    return {row["request_id"]: row["sex"] for row in rows if row["request_id"] in ids}


def world_bundle(world: ScoringWorld) -> Path:
    (folder,) = [p for p in world.home.bundles.iterdir() if not p.name.startswith(".")]
    return folder


def uci(folder: Path, **changed: Any) -> Path:
    """A file of three clients in UCI's columns."""
    columns: dict[str, Any] = {
        "ID": [1, 2, 3],
        "LIMIT_BAL": [20000, 120000, 90000],
        "SEX": [2, 1, 2],
        "EDUCATION": [2, 0, 1],
        "MARRIAGE": [1, 2, 2],
        "AGE": [24, 30, 71],
        **{name: [2, -1, 0] for name in ("PAY_0", *(f"PAY_{m}" for m in range(2, 7)))},
        **{f"BILL_AMT{m}": [3913.0, -2.0, 29239.0] for m in range(1, 7)},
        **{f"PAY_AMT{m}": [0.0, 1000.0, 1518.0] for m in range(1, 7)},
        "default.payment.next.month": [1, 1, 0],
    }
    for name, values in changed.items():
        columns[name] = values
    path = folder / "uci.parquet"
    pq.write_table(pa.table({n: v for n, v in columns.items() if v is not None}), path)
    return path


def test_ucis_file_is_read_by_its_own_columns(home: Path, tmp_path: Path) -> None:
    sources = load_module(NAME, "sources")
    found = sources.examine_transactions(uci(tmp_path), now_ms=1_700_000_000_000)
    assert (found.refusals, found.unread) == ((), ("MARRIAGE",))
    clients = {row["customer_id"]: row for row in found.table.to_pylist()}
    told = ("education", "sex", "age_group", "status_1", "bill_6", "label")
    assert [clients[1][name] for name in told] == ["university", "female", "18-29", 2, 3913.0, 1]
    assert [clients[2][name] for name in told] == ["other", "male", "30-39", -1, -2.0, 1]
    assert clients[3]["age_group"] == "60 and over"
    times = found.table.column("event_time").cast(pa.int64()).to_numpy()
    known = found.table.column("label_time").cast(pa.int64()).to_numpy()
    assert (np.diff(times) > 0).all()
    assert known.max() <= 1_700_000_000_000_000


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"AGE": None}, "there is no column for age"),
        ({"SEX": ["f", "m", "f"]}, "column SEX is string; wanted: int64"),
        ({"SEX": [1, 3, 2]}, "SEX is not 1 to 2: 3"),
        ({"AGE": [24, None, 30]}, "AGE is missing"),
        ({"ID": [1, 2, 2]}, "ID is that of an earlier row: 2"),
        ({"PAY_AMT1": [0.0, -1.0, 0.0]}, "PAY_AMT1 is less than 0: -1.0"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_by_column_row_and_value(
    home: Path, tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    sources, path = load_module(NAME, "sources"), uci(tmp_path, **changed)
    try:
        refusals = sources.examine_transactions(path).refusals
    except InputInvalid as error:
        refusals = (error,)
    assert len(refusals) == 1
    assert named in str(refusals[0])
    assert "uci.parquet" in str(refusals[0])
