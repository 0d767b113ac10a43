"""Labels of a file count from their import on, each once; one wrong row refuses them all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry, RecordQuery
from mlplatform.decisions.records.record import Record
from mlplatform.learning.features.snapshots import snapshot
from mlplatform.learning.training_sets.dataset import build_dataset
from mlplatform.learning.training_sets.join import training_join
from mlplatform.model.folders import load_definition
from mlplatform.operations import wiring
from mlplatform.operations.actions.features import import_history, materialize
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, Refused
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.request.decision_ids import new_decision_id
from models.fraud.generator import Population, generate

DAYS = 30
TODAY_MS = int(datetime.now(UTC).timestamp() * 1000) // DAY_MS * DAY_MS
START_MS = TODAY_MS - (DAYS + 3) * DAY_MS


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[wiring.Platform]:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")
    caches = (wiring.settings, wiring.platform, wiring.existing_platform)
    for cache in caches:
        cache.cache_clear()
    settings = load({"MLPLATFORM_HOME": str(tmp_path / "home")})
    settings.home.create()
    platform = wiring.Platform(settings)
    population = Population(customers=20, payments_per_day=30)
    history = generate(seed=1, start_ms=START_MS, days=DAYS, population=population)
    import_history(platform, "fraud", history, "history")
    yield platform
    for cache in caches:
        cache.cache_clear()


def run(*words: str) -> Any:
    return CliRunner().invoke(commands.app, ["labels", "import", "fraud", *words, "--json"])


def csv(folder: Path, lines: Sequence[str], head: str = "request_id,label,label_time") -> str:
    file = folder / "labels.csv"
    file.write_text("\n".join([head, *lines]) + "\n")
    return str(file)


def genuine(platform: wiring.Platform, count: int) -> list[str]:
    """Payments in the middle of the history that it calls genuine."""
    middle_ms = START_MS + DAYS // 2 * DAY_MS
    now_ms = platform.clock.event_ms()
    found = platform.offline("fraud").labelled_requests(middle_ms, middle_ms + DAY_MS, now_ms)
    return [r["request_id"] for r in found.to_pylist() if r["label"] == 0][:count]


def training_set(platform: wiring.Platform, as_of_ms: int) -> tuple[str, int]:
    """The digest, and the number of positives."""
    definition = load_definition("fraud")
    offline = platform.project_offline("fraud")
    found = build_dataset(
        definition, platform.views("fraud"), offline, as_of_ms=as_of_ms, join=training_join
    )
    return found.digest, int(found.rows.y.sum())


def labels(log: SqliteDecisionLog) -> list[tuple[str, int]]:
    query = RecordQuery("fraud", ("label",), columns=("decision_id", "label", "seq"))
    rows = sorted(log.read(query).to_pylist(), key=lambda row: row["seq"])
    return [(row["decision_id"], row["label"]) for row in rows]


def test_a_later_label_of_a_history_changes_later_training_sets_and_no_earlier_one(
    home: wiring.Platform, tmp_path: Path
) -> None:
    middle_ms = START_MS + (DAYS // 2 + 5) * DAY_MS
    before_ms = home.clock.event_ms()
    before, positives = training_set(home, before_ms)
    first = genuine(home, 3)
    stated = datetime.fromtimestamp(middle_ms / 1000, UTC).replace(tzinfo=None).isoformat()

    done = run(csv(tmp_path, [f"{one},1,{stated}" for one in first]))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "model": "fraud", "rows": 3, "stored": 3, "repeated": 0, "of_history": 3,
    }  # fmt: skip
    assert training_set(home, before_ms) == (before, positives)
    now = training_set(home, home.clock.event_ms())
    assert now[1] == positives + 3

    corrected = run(csv(tmp_path, [f"{first[0]},0,{stated.replace('T00', 'T09')}"]))
    assert json.loads(corrected.stdout)["stored"] == 1
    assert training_set(home, home.clock.event_ms())[1] == positives + 2


def test_a_risk_feature_counts_the_label_from_the_next_midnight_on(
    home: wiring.Platform, tmp_path: Path
) -> None:
    (one,) = genuine(home, 1)
    (view,) = (v for v in home.views("fraud") if v.name == "terminal_stats")

    def risk(at_ms: int) -> pa.Table:
        return snapshot(home.project_offline("fraud"), view, at_ms)

    today, tomorrow = risk(TODAY_MS), risk(TODAY_MS + DAY_MS)
    assert run(csv(tmp_path, [f"{one},1,"])).exit_code == 0
    assert risk(TODAY_MS).equals(today)
    assert not risk(TODAY_MS + DAY_MS).equals(tomorrow)


def test_a_file_that_comes_again_changes_nothing_even_after_a_correction(
    home: wiring.Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A monthly file holds the labels of the months before; a correction is not undone by it."""
    one, other = genuine(home, 2)
    stated = datetime.fromtimestamp(TODAY_MS / 1000 - 5 * 86_400, UTC)
    file = csv(tmp_path, [f"{one},1,{stated:%Y-%m-%d}T00:00:00", f"{other},1,"])
    assert json.loads(run(file).stdout)["stored"] == 2
    home.opened_log().append("gateway-0", [Entry(Record(
        kind="label", decision_id=one, model="fraud", event_ms=home.clock.event_ms(),
        recorded_ms=home.clock.wall_ms(), label=0,
    ))])  # fmt: skip
    written = labels(home.log)
    years = timedelta(days=400).total_seconds() * 1000
    wall_ms = type(home.clock).wall_ms
    monkeypatch.setattr(type(home.clock), "wall_ms", lambda self: int(wall_ms(self) + years))
    home.opened_log().seal()
    again = run(file)
    assert json.loads(again.stdout) | {"model": ""} == {
        "model": "", "rows": 2, "stored": 0, "repeated": 2, "of_history": 2,
    }  # fmt: skip
    assert labels(home.log) == written


def test_decisions_are_labelled_by_the_same_command(home: wiring.Platform, tmp_path: Path) -> None:
    decision = new_decision_id("fraud", "shop", TODAY_MS, home.pseudonym_key())
    (paid,) = genuine(home, 1)
    file = csv(tmp_path, [f"{decision},a", f"{paid},b"], "REF,note")
    done = run(file, "--map", "request_id=REF", "--label", "1")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["stored"], told["of_history"]) == (2, 1)
    assert labels(home.log) == [(decision, 1), (paid, 1)]


def test_labels_of_one_payment_count_in_the_order_of_their_own_times(
    home: wiring.Platform, tmp_path: Path
) -> None:
    (one,) = genuine(home, 1)
    day = datetime.fromtimestamp(TODAY_MS / 1000, UTC) - timedelta(days=2)
    rows = [f"{one},0,{day:%Y-%m-%d}T12:00:00", f"{one},1,{day:%Y-%m-%d}T08:00:00"]
    assert run(csv(tmp_path, rows)).exit_code == 0
    assert labels(home.log) == [(one, 1), (one, 0)]
    offline = home.project_offline("fraud")
    known = offline.labels(home.clock.event_ms()).filter(f"request_id = '{one}'").fetchall()
    assert [row[1] for row in known] == [0]


WRONG = [
    (
        "nobody,1,",
        "labels.csv, row 1, counted from 0: request_id is of no request of fraud's history and",
    ),
    ("{one},2,", "labels.csv, row 1, counted from 0: label is not 0 or 1: 2"),
    ("{one},,", "row 1, counted from 0: label is missing"),
    (",1,", "row 1, counted from 0: request_id is missing"),
    (
        "{one},1,2001-01-01T00:00:00",
        "row 1, counted from 0: label_time is before the request: 2001-01-01",
    ),
    ("{one},1,2999-01-01T00:00:00", "row 1, counted from 0: label_time is in the future"),
    ("{one},1,yesterday", "row 1, counted from 0: label_time is 'yesterday'; wanted: a time"),
    (
        "{first},0,",
        "row 1, counted from 0: an earlier row has another label of this request_id at the same",
    ),
]


@pytest.mark.parametrize(("row", "problem"), WRONG, ids=[problem[-30:] for _, problem in WRONG])
def test_one_wrong_row_is_named_and_none_is_recorded(
    home: wiring.Platform, tmp_path: Path, row: str, problem: str
) -> None:
    first, one = genuine(home, 2)
    file = csv(tmp_path, [f"{first},1,", row.format(first=first, one=one)])
    refused = run(file)
    assert isinstance(refused.exception, InputInvalid)
    assert problem in str(refused.exception)
    shown = run(file, "--dry-run")
    assert shown.exit_code == 2
    assert problem in json.loads(shown.stdout)["refusals"][0]
    assert not (tmp_path / "home" / "decisions" / "decisions.db").exists()


def test_a_dry_run_names_every_wrong_row(home: wiring.Platform, tmp_path: Path) -> None:
    file = csv(tmp_path, [",1,", "5,,", "6,1,2999-01-01T00:00:00"])
    told = json.loads(run(file, "--dry-run").stdout)
    assert [one.split(": ", 1)[0] for one in told["refusals"]] == [
        f"labels.csv, row {number}, counted from 0" for number in range(3)
    ]
    assert "2 more refusals: --dry-run shows them" in str(run(file).exception)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--label", "2"), "label is not 0 or 1"),
        (("--label", "fraud"), "a label of fraud"),
    ],
)
def test_a_label_that_the_model_can_not_have_is_refused(
    home: wiring.Platform, tmp_path: Path, words: tuple[str, ...], problem: str
) -> None:
    file = csv(tmp_path, ["1"], "request_id")
    refused = run(file, *words).exception
    assert isinstance(refused, ConfigInvalid)
    assert problem in str(refused)


def test_a_folder_and_a_missing_file_are_no_files_of_labels(
    home: wiring.Platform, tmp_path: Path
) -> None:
    for path in (tmp_path, tmp_path / "none.csv", tmp_path / "home" / "secrets"):
        assert "wanted: one .parquet or .csv file" in str(run(str(path)).exception)


def test_parquet_is_taken_as_well(home: wiring.Platform, tmp_path: Path) -> None:
    file = tmp_path / "labels.parquet"
    ids = genuine(home, 2)
    pq.write_table(pa.table({"decision_id": ids, "label": pa.array([1, 0], pa.int64())}), file)
    assert json.loads(run(str(file)).stdout)["stored"] == 2


def test_days_are_added_to_a_history_whose_labels_came_in_files(
    home: wiring.Platform, tmp_path: Path
) -> None:
    """A label is no answer: the history is closed by the first payment that is answered."""
    (one,) = genuine(home, 1)
    assert run(csv(tmp_path, [f"{one},1,"])).exit_code == 0
    materialize(home, "fraud")
    position = home.offline("fraud").position()
    assert position
    population = Population(customers=20, payments_per_day=30)
    later = generate(seed=2, start_ms=START_MS + DAYS * DAY_MS, days=1, population=population)
    ids = pa.array([f"later{row}" for row in range(later.num_rows)])
    later = later.set_column(0, "request_id", ids)
    import_history(home, "fraud", later, "later")
    offline = home.offline("fraud")
    assert offline.position() == position
    assert offline.project(home.log).labels == 0
    ends = offline.history_end_ms()
    assert ends is not None
    assert ends >= START_MS + DAYS * DAY_MS

    home.log.append("gateway-0", [Entry(Record(
        kind="decision", decision_id="d1", model="fraud", event_ms=TODAY_MS, recorded_ms=0,
        payload={"request": {"customer_id": 1, "terminal_id": 2, "amount": 3.0}, "features": {}},
    ))])  # fmt: skip
    home.project_offline("fraud")
    with pytest.raises(Refused, match="has answered requests"):
        offline.check_follows(later, "later")
