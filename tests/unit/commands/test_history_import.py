"""History is taken in whole or not at all: refused from the future, finished after a kill, and
added to until the first payment is answered."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.commands import history
from mlplatform.commands.authoring import new_model
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.learning.features import snapshots
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.rows import history_schema
from mlplatform.model.folders import load_definition
from mlplatform.operations import wiring
from mlplatform.operations.actions import features
from mlplatform.operations.actions.features import history_is_whole, import_history, materialize
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, Refused
from mlplatform.runtime.units import DAY_MS
from models.fraud.generator import Population, generate

START_MS = 20_000 * DAY_MS
US = pa.timestamp("us")
VIEWS = ("customer_stats", "terminal_stats")


class Killed(BaseException):
    """What no code catches, as no code catches SIGKILL."""


def payments(seed: int = 1, start_ms: int = START_MS, first_id: int = 0) -> pa.Table:
    population = Population(customers=20, payments_per_day=30)
    table = generate(seed=seed, start_ms=start_ms, days=3, population=population)
    if first_id:
        ids = pa.array([f"{first_id + row}" for row in range(table.num_rows)])
        table = table.set_column(0, "request_id", ids)
    return table


def killed_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter(range(1, call + 1))

    def run(*arguments: Any) -> Any:
        if next(calls) == call:
            raise Killed
        return function(*arguments)

    return run


@pytest.fixture
def platform(tmp_path: Path) -> wiring.Platform:
    settings = load({"MLPLATFORM_HOME": str(tmp_path / "home")})
    settings.home.create()
    return wiring.Platform(settings)


def snapshot_files(platform: wiring.Platform) -> dict[str, pa.Table]:
    root = platform.offline("fraud").folder / "snapshots"
    return {str(f.relative_to(root)): pq.read_table(f) for f in root.rglob("*.parquet")}


@pytest.mark.parametrize("call", [1, 2, 7])
def test_an_import_that_was_killed_is_finished_by_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: wiring.Platform, call: int
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(snapshots, "_write", killed_at(call, snapshots._write))
        with pytest.raises(Killed):
            import_history(platform, "fraud", payments(), "march")
    assert not history_is_whole(platform, "fraud")
    with pytest.raises(Refused, match="an import into fraud was stopped halfway"):
        import_history(platform, "fraud", payments().slice(1), "april")
    assert import_history(platform, "fraud", payments(), "march") == payments().num_rows
    assert history_is_whole(platform, "fraud")

    other = wiring.Platform(load({"MLPLATFORM_HOME": str(tmp_path / "other")}))
    other.settings.home.create()
    other.settings.home.pseudonym_key.write_bytes(platform.settings.home.pseudonym_key.read_bytes())
    import_history(other, "fraud", payments(), "march")
    assert snapshot_files(other) == snapshot_files(platform)


@pytest.mark.parametrize("call", [1, 2])
def test_an_import_that_was_killed_before_it_was_served_is_not_whole(
    monkeypatch: pytest.MonkeyPatch, platform: wiring.Platform, call: int
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(FeastSqlite, "write", killed_at(call, FeastSqlite.write))
        with pytest.raises(Killed):
            import_history(platform, "fraud", payments(), "march")
    assert not history_is_whole(platform, "fraud")
    import_history(platform, "fraud", payments(), "march")
    assert history_is_whole(platform, "fraud")


def test_an_import_that_was_killed_before_its_windows_is_not_whole(
    monkeypatch: pytest.MonkeyPatch, platform: wiring.Platform
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(features, "build_windows", killed_at(1, features.build_windows))
        with pytest.raises(Killed):
            import_history(platform, "fraud", payments(), "march")
    assert not history_is_whole(platform, "fraud")
    answer_a_payment(platform)
    import_history(platform, "fraud", payments(), "march")
    assert history_is_whole(platform, "fraud")


def test_days_that_are_added_later_give_what_they_give_at_once(
    tmp_path: Path, platform: wiring.Platform
) -> None:
    """The rows and the snapshots of a history do not tell in how many imports it came."""
    table = payments()
    first_days = pc.less(table.column("event_time"), pa.scalar((START_MS + 2 * DAY_MS) * 1000, US))
    before, after = table.filter(first_days), table.filter(pc.invert(first_days))
    import_history(platform, "fraud", before, "march")
    with pytest.raises(InputInvalid, match=r"begins at .* as earlier ones were imported already"):
        import_history(platform, "fraud", table, "march")
    # A platform that is up makes snapshots of days that have no payment yet.
    materialize(platform, "fraud")
    import_history(platform, "fraud", after, "april")
    assert history_is_whole(platform, "fraud")
    end_ms = platform.offline("fraud").history_end_ms()
    assert end_ms is not None
    assert end_ms > START_MS + 2 * DAY_MS

    other = wiring.Platform(load({"MLPLATFORM_HOME": str(tmp_path / "other")}))
    other.settings.home.create()
    other.settings.home.pseudonym_key.write_bytes(platform.settings.home.pseudonym_key.read_bytes())
    import_history(other, "fraud", table, "both")
    materialize(other, "fraud")
    parts, whole = snapshot_files(platform), snapshot_files(other)
    assert {k: v for k, v in parts.items() if k in whole} == whole


def answer_a_payment(platform: wiring.Platform) -> None:
    request = {"customer_id": 1, "terminal_id": 2, "amount": 3.0}
    platform.log.append("gateway-0", [Entry(Record(
        kind="decision", decision_id="d1", model="fraud", event_ms=START_MS + 3 * DAY_MS,
        recorded_ms=0, payload={"request": request, "features": {}},
    ))])  # fmt: skip


def inodes(platform: wiring.Platform) -> dict[Path, int]:
    """Files of snapshots, of which one that is made again is another."""
    root = platform.offline("fraud").folder / "snapshots"
    return {path: path.stat().st_ino for path in root.rglob("*.parquet")}


def train_on_more_days(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    definition = load_definition("fraud")
    training = msgspec.structs.replace(
        definition.training, window_days=definition.training.window_days + days
    )
    longer = msgspec.structs.replace(definition, training=training)
    monkeypatch.setattr(wiring.Platform, "definition", lambda _self, _model: longer)


@pytest.mark.parametrize("call", [1, 7])
def test_what_was_killed_is_finished_beside_snapshots_from_which_a_payment_was_answered(
    monkeypatch: pytest.MonkeyPatch, platform: wiring.Platform, call: int
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(snapshots, "_write", killed_at(call, snapshots._write))
        with pytest.raises(Killed):
            import_history(platform, "fraud", payments(), "march")
    held = inodes(platform)
    answer_a_payment(platform)
    import_history(platform, "fraud", payments(), "march")
    assert history_is_whole(platform, "fraud")
    assert held.items() <= inodes(platform).items()
    assert len(inodes(platform)) > len(held)


def test_a_snapshot_of_a_platform_that_was_up_stays_once_a_payment_was_answered_from_it(
    monkeypatch: pytest.MonkeyPatch, platform: wiring.Platform
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(snapshots, "_write", killed_at(7, snapshots._write))
        with pytest.raises(Killed):
            import_history(platform, "fraud", payments(), "march")
    answer_a_payment(platform)
    materialize(platform, "fraud")
    held = inodes(platform)
    import_history(platform, "fraud", payments(), "march")
    assert history_is_whole(platform, "fraud")
    assert inodes(platform) == held


def test_no_snapshot_is_lost_where_training_reaches_further_once_a_payment_was_answered(
    monkeypatch: pytest.MonkeyPatch, platform: wiring.Platform
) -> None:
    import_history(platform, "fraud", payments(), "march")
    answer_a_payment(platform)
    materialize(platform, "fraud")
    held = inodes(platform)
    train_on_more_days(monkeypatch, 5)
    with pytest.raises(Refused, match="fraud has answered requests"):
        import_history(platform, "fraud", payments(), "march")
    assert inodes(platform) == held


def test_a_first_history_comes_before_no_payment_that_was_answered(
    platform: wiring.Platform,
) -> None:
    materialize(platform, "fraud")
    held = inodes(platform)
    answer_a_payment(platform)
    with pytest.raises(Refused, match="fraud has answered requests"):
        import_history(platform, "fraud", payments(), "march")
    assert inodes(platform) == held


def test_days_are_added_where_training_reaches_further_back_by_now(
    monkeypatch: pytest.MonkeyPatch, platform: wiring.Platform
) -> None:
    import_history(platform, "fraud", payments(), "a")
    import_history(platform, "fraud", b := payments(2, START_MS + 3 * DAY_MS, 10_000), "b")
    train_on_more_days(monkeypatch, 5)
    held = inodes(platform)
    with pytest.raises(InputInvalid, match="as earlier ones were imported already"):
        import_history(platform, "fraud", b, "b")
    assert inodes(platform) == held
    before = snapshot_files(platform)
    import_history(platform, "fraud", payments(3, START_MS + 6 * DAY_MS, 20_000), "c")
    after = snapshot_files(platform)
    assert before.items() <= after.items()
    days = {name: {Path(f).stem for f in after if f.startswith(name)} for name in VIEWS}
    last = date(1970, 1, 1) + timedelta(days=START_MS // DAY_MS + 9)
    definition = platform.definition("fraud")
    count = definition.training.window_days + definition.label.maturity_days + 2
    wanted = {(last - timedelta(days=n)).isoformat() for n in range(count)}
    assert all(wanted <= found for found in days.values())


@pytest.mark.parametrize("call", [1, 3])
def test_a_kill_loses_no_midnight_whose_snapshot_was_to_be_made_again(
    monkeypatch: pytest.MonkeyPatch, platform: wiring.Platform, call: int
) -> None:
    import_history(platform, "fraud", payments(), "march")
    materialize(platform, "fraud")
    before = set(snapshot_files(platform))
    later = payments(2, START_MS + 3 * DAY_MS, 10_000)
    with monkeypatch.context() as patched:
        patched.setattr(snapshots, "_write", killed_at(call, snapshots._write))
        with pytest.raises(Killed):
            import_history(platform, "fraud", later, "april")
    assert not before <= set(snapshot_files(platform))
    import_history(platform, "fraud", later, "april")
    assert before <= set(snapshot_files(platform))


def test_no_history_is_added_once_a_payment_was_answered(platform: wiring.Platform) -> None:
    import_history(platform, "fraud", payments(), "march")
    answer_a_payment(platform)
    later = payments(start_ms=START_MS + 5 * DAY_MS, first_id=10_000)
    with pytest.raises(Refused, match=r"fraud has answered requests.*MLPLATFORM_HOME=FOLDER"):
        import_history(platform, "fraud", later, "april")


def test_a_first_history_comes_behind_no_snapshot_of_a_platform_that_was_up(
    platform: wiring.Platform,
) -> None:
    materialize(platform, "fraud")
    import_history(platform, "fraud", payments(), "march")
    assert history_is_whole(platform, "fraud")


CSV = """id;when;card;shop;sum;bad;city
a1;2026-01-01 10:00:00;7;1;10.50;0;Bern
a2;2026-01-01 11:00:00+01:00;8;2;20;1;Rome
a3;2026-01-02T09:00:00Z;7;3;30;0;Oslo
"""
MAP = "request_id=id event_time=when customer_id=card terminal_id=shop amount=sum label=bad"


def test_a_snapshot_within_a_day_is_refused_with_the_midnight_before(
    platform: wiring.Platform,
) -> None:
    noon_ms = START_MS + DAY_MS // 2
    with pytest.raises(
        InputInvalid, match=r"T12:00:00.* is not a midnight in UTC; wanted: one, as"
    ):
        materialize(platform, "fraud", noon_ms)


@pytest.fixture
def csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")
    caches = (wiring.settings, wiring.platform)
    for cache in caches:
        cache.cache_clear()
    file = tmp_path / "own.csv"
    file.write_text(CSV)
    yield file
    for cache in caches:
        cache.cache_clear()


def run(*words: str) -> Any:
    mapped = [word for pair in MAP.split() for word in ("--map", pair)]
    given = [w for word in words for w in (mapped if word == "MAP" else [word])]
    return CliRunner().invoke(commands.app, ["history", "import", "fraud", *given])


def test_a_csv_of_other_names_is_shown_and_then_taken_in(csv: Path) -> None:
    shown = run(str(csv), "MAP", "--dry-run", "--json")
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    assert told["refusals"] == []
    assert told["unread"] == ["city"]
    assert [row["event_time"] for row in told["first"]] == [
        "2026-01-01 10:00:00", "2026-01-01 10:00:00", "2026-01-02 09:00:00",
    ]  # fmt: skip
    assert [row["amount"] for row in told["first"]] == [10.5, 20.0, 30.0]
    assert not (csv.parent / "home").exists()

    done = run(str(csv), "MAP", "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["rows"] == 3
    again = run(str(csv), "MAP", "--dry-run", "--json")
    assert again.exit_code == 2
    assert "wanted: requests from 2026-01-03" in json.loads(again.stdout)["refusals"][0]


def test_a_longer_file_is_taken_in_from_the_day_that_its_refusal_names(csv: Path) -> None:
    assert run(str(csv), "MAP").exit_code == 0
    later = CSV.splitlines()[-1].replace("a3;2026-01-02", "a4;2026-01-04")
    longer = csv.parent / "longer.csv"
    longer.write_text(f"{CSV.strip()}\n{later}\n")
    refused = str(run(str(longer), "MAP").exception)
    (option,) = re.findall(r"--from \S+", refused)
    assert (
        "3 rows are of days before --from"
        in run(str(longer), "MAP", "--dry-run", *option.split()).stdout
    )
    done = json.loads(run(str(longer), "MAP", "--json", *option.split()).stdout)
    assert (done["rows"], done["left_out"]) == (1, 3)
    assert done["from"] == done["to"]
    none = str(run(str(longer), "MAP", "--from", "2026-02-01").exception)
    assert "no row is from 2026-02-01 (--from) on: it ends 2026-01-04" in none


def test_a_dry_run_without_a_refusal_ends_in_what_is_next(
    csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = "next: the same command without --dry-run"
    assert following not in run(str(csv), "MAP", "--dry-run").stdout, "a fit would be refused"
    monkeypatch.setattr(history.job, "first_fit", lambda *_, **__: None)
    assert run(str(csv), "MAP", "--dry-run").stdout.splitlines()[-1] == following


def test_an_import_says_what_a_fit_would_lack_and_leads_into_no_refusal(csv: Path) -> None:
    """A sample of a day closes the home to the days before it, so the dry run says it too."""
    told = json.loads(run(str(csv), "MAP", "--dry-run", "--json").stdout)["lacks"]
    lacking = "3 requests; wanted: 5000 (training.minimum_rows); 1 positives; wanted: 50"
    assert told.startswith(lacking)
    assert "requests begin 2026-01-01; wanted: the 21 days (training.window_days)" in told
    shown = run(str(csv), "MAP", "--dry-run").output
    assert (
        f"a fit to this history would be refused: {told}. Later imports can add later rows" in shown
    )
    assert not (csv.parent / "home").exists()
    done = run(str(csv), "MAP").output
    assert f"a fit to this history would be refused: {told}" in done
    assert "mlplatform retrain" not in done
    again = json.loads(run(str(csv), "MAP", "--dry-run", "--json").stdout)
    assert again["refusals"][0].endswith(
        "a history with earlier ones needs another home (MLPLATFORM_HOME=FOLDER mlplatform history"
        " import fraud …)"
    )


def test_a_history_that_ends_long_ago_is_followed_by_the_day_to_train_as_of(
    csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = load_definition("fraud")
    training = msgspec.structs.replace(definition.training, minimum_rows=3, minimum_positives=1)
    small = msgspec.structs.replace(definition, training=training)
    monkeypatch.setattr(wiring.Platform, "definition", lambda _self, _model: small)
    done = run(str(csv), "MAP")
    assert done.exit_code == 0, done.exception
    assert "mlplatform retrain fraud --as-of 2026-01-06 --actor NAME" in done.output


OWN = {
    "request_id": [1, 2],
    "event_time": [datetime(2026, 3, 1), datetime(2026, 3, 2)],  # noqa: DTZ001 - as Arrow has it
    "customer_id": [7, 8],
    "amount": [12.5, 8.0],
    "income": [100.0, 200.0],
    "label": [0, 1],
    "label_time": [datetime(2026, 3, 4), datetime(2026, 3, 5)],  # noqa: DTZ001
}


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"amount": [12.5, -8.0]}, "row 1, counted from 0: amount is less than 0: -8.0"),
        ({"label": [0, 7]}, "row 1, counted from 0: label is not 0 or 1: 7"),
        ({"request_id": [1, 1]}, "row 1, counted from 0: request_id is that of an earlier row"),
        (
            {"event_time": OWN["event_time"][::-1]},
            "row 1, counted from 0: event_time is before that of the row",
        ),
    ],
    ids=["an amount below the least", "no label", "an id twice", "not in order"],
)
def test_a_dry_run_of_a_folder_without_sources_refuses_what_an_import_refuses(
    csv: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], problem: str
) -> None:
    new_model.write(csv.parent / "models" / "own", "own", "sklearn")
    monkeypatch.setenv("MLPLATFORM_MODELS", str(csv.parent / "models"))
    file = csv.parent / "own.parquet"
    pq.write_table(pa.table({**OWN, **wrong}), file)
    words = ["history", "import", "own", str(file)]
    told = CliRunner().invoke(commands.app, [*words, "--dry-run", "--json"])
    assert told.exit_code == 2
    (refusal,) = json.loads(told.stdout)["refusals"]
    assert problem in refusal
    refused = CliRunner().invoke(commands.app, words).exception
    assert str(refused) == refusal

    pq.write_table(pa.table(OWN), file)
    assert CliRunner().invoke(commands.app, [*words, "--dry-run"]).exit_code == 0
    assert CliRunner().invoke(commands.app, words).exit_code == 0


def test_a_dry_run_tells_that_the_same_files_finish_what_was_killed(
    csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(snapshots, "_write", killed_at(1, snapshots._write))
        with pytest.raises(Killed):
            run(str(csv), "MAP")
    assert run(str(csv), "MAP", "--dry-run").exit_code == 0
    csv.write_text(CSV.replace("10.50", "10.51"))
    other = run(str(csv), "MAP", "--dry-run", "--json")
    assert other.exit_code == 2
    (refusal,) = json.loads(other.stdout)["refusals"]
    assert "an import into fraud was stopped halfway" in refusal


def test_a_file_that_does_not_fit_is_answered_by_a_proposal(csv: Path) -> None:
    csv.write_text(
        "transaction,timestamp,card_id,merchant_id,amt,is_fraud\n1,2026-01-01 10:00:00,7,1,9.5,0\n"
    )
    refused = run(str(csv))
    assert isinstance(refused.exception, InputInvalid)
    said = str(refused.exception)
    assert said.startswith("own.csv: there is no column for request_id, event_time, customer_id")
    options = (
        "--map request_id=transaction --map event_time=timestamp --map customer_id=card_id"
        " --map terminal_id=merchant_id --map amount=amt --map label=is_fraud"
    )
    assert said.endswith(f"a proposal: {options}")
    words = options.replace("--map ", "").split()
    mapped = [word for pair in words for word in ("--map", pair)]
    done = CliRunner().invoke(
        commands.app, ["history", "import", "fraud", str(csv), *mapped, "--dry-run"]
    )
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("count", [8, 60])
def test_a_file_in_which_nothing_is_recognised_is_refused_in_what_a_person_reads(
    csv: Path, count: int
) -> None:
    names = [f"exported_field_{n}" for n in range(count)]
    csv.write_text(f"{','.join(names)}\n{','.join(['a'] * count)}\n")
    said = str(run(str(csv)).exception)
    assert len(said) <= 600
    assert said.startswith("own.csv: there is no column for request_id, event_time, customer_id")
    assert "exported_field_7 (string)" in said
    assert ("and 52 more; say which it is: " in said) == (count > 8)
    assert "--map request_id=? --map event_time=?" in said


KNOWN_AT = (
    "PAY_REF,PAID_AT,CARD,MERCHANT,AMT,IS_FRAUD,FRAUD_KNOWN_AT\n"
    "1,2026-01-01 10:00:00,7,1,9.5,0,\n2,2026-01-01 11:00:00,7,1,9.5,1,2026-01-02 09:00:00\n"
)
WITHOUT = (
    "without it, the import sets the time at which each label became known: for a fraud a time"
    " drawn at random within label.maturity_days after the payment, for any other payment the end"
    " of those days"
)


def test_the_proposal_has_the_time_of_labels_too(csv: Path) -> None:
    """Who copies it gets no times of labels that were drawn."""
    csv.write_text(KNOWN_AT)
    said = str(run(str(csv)).exception)
    assert f"label_time is optional ({WITHOUT})" in said
    options = said.partition("; a proposal: ")[2].split(" --map ")
    assert options[-1] == "label_time=FRAUD_KNOWN_AT"
    mapped = ["--map", *" --map ".join(options).removeprefix("--map ").split()]
    told = json.loads(run(str(csv), *mapped, "--dry-run", "--json").stdout)
    assert (told["refused"], told["assumed"]) == (0, {})
    assert [row["label_time"] for row in told["first"]] == [
        "2026-01-04 10:00:00", "2026-01-02 09:00:00",
    ]  # fmt: skip


def test_a_column_that_may_be_the_time_of_labels_is_not_passed_over(csv: Path) -> None:
    csv.write_text(KNOWN_AT)
    needed = "request_id=PAY_REF event_time=PAID_AT customer_id=CARD terminal_id=MERCHANT"
    pairs = [*needed.split(), "amount=AMT", "label=IS_FRAUD"]
    mapped = [word for pair in pairs for word in ("--map", pair)]
    said = str(run(str(csv), *mapped, "--dry-run").exception)
    assert said.endswith(
        "column FRAUD_KNOWN_AT may be label_time, which is optional: `--map"
        " label_time=FRAUD_KNOWN_AT`, or `--map label_time=` if it is something else"
        f" ({WITHOUT})"
    )
    shown = run(str(csv), *mapped, "--map", "label_time=", "--dry-run")
    assert shown.exit_code == 0
    assert f"no column is label_time: {WITHOUT}" in shown.stdout


def test_a_dry_run_names_every_refusal_and_an_import_takes_in_none(csv: Path) -> None:
    csv.write_text(
        CSV + "a2;2026-01-02 10:00:00;7;3;1;0;x\na5;2026-01-02 11:00:00;7;3;-1;0;x\n"
        "a6;yesterday;;3;9,5;2;x\na7;2026-01-01 00:00:00;7;3;1;0;x\n"
    )
    shown = run(str(csv), "MAP", "--dry-run")
    assert shown.exit_code == 2
    refused = {line for line in shown.stdout.splitlines() if line.startswith("refused: ")}
    assert refused == {
        "refused: own.csv, row 3, counted from 0: id is that of an earlier row: 'a2'",
        "refused: own.csv, row 4, counted from 0: sum is less than 0: -1.0",
        "refused: own.csv, row 5, counted from 0: "
        "when is 'yesterday'; wanted: a time as 2026-03-01T09:30:00 (UTC),"
        " or with an offset",
        "refused: own.csv, row 5, counted from 0: card is missing",
        "refused: own.csv, row 5, counted from 0: "
        "sum is '9,5'; wanted: a number, with a point before its decimals",
        "refused: own.csv, row 5, counted from 0: bad is '2'; wanted: 0 or 1",
        "refused: own.csv, row 6, counted from 0: "
        "when is before that of the row above (sort the rows by it, oldest"
        " first): 2026-01-01T00:00:00",
    }
    assert "7 refusals: an import would take in nothing" in shown.stdout
    refusal = run(str(csv), "MAP").exception
    assert isinstance(refusal, InputInvalid)
    assert "6 more refusals: --dry-run shows them; nothing was taken in" in str(refusal)
    assert wiring.platform().offline("fraud").history_end_ms() is None


def test_a_dry_run_names_what_is_wrong_with_many_rows_once(csv: Path) -> None:
    rows = "".join(
        f"b{row};2026-01-03 10:00:00;7;3;1;{'no' if row else 'yes'};x\n" for row in range(9)
    )
    csv.write_text(CSV + rows)
    shown = run(str(csv), "MAP", "--dry-run")
    assert [line for line in shown.stdout.splitlines() if line.startswith("refused: ")] == [
        "refused: own.csv, row 3, counted from 0: bad is 'yes'; wanted: 0 or 1",
        "refused: own.csv, row 4, counted from 0: bad is 'no'; wanted: 0 or 1 (and 7 more rows)",
    ]
    assert "9 refusals: an import would take in nothing" in shown.stdout


def test_the_conversion_of_the_document_gives_a_file_that_is_taken_in(
    csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over the hour that comes twice, where the export is in order and its times are not."""
    monkeypatch.chdir(csv.parent)
    Path("payments.csv").write_text(
        "Referenz;Zeitpunkt;Karte;Terminal;Betrag\n"
        "P1;24.10.2026 23:00:00;7;1;10,50\nP2;25.10.2026 02:50:00;8;2;20\n"
        "P3;25.10.2026 02:10:00;7;3;1,25\nP4;25.10.2026 09:00:00;7;3;30\n"
    )
    Path("chargebacks.csv").write_text("Referenz;Meldedatum\nP3;26.10.2026\n")
    text = Path(__file__).parents[3].joinpath("docs/history.md").read_text()
    (recipe,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(recipe, "docs/history.md", "exec"), {})
    columns = "request_id=Referenz event_time=Zeitpunkt customer_id=Karte terminal_id=Terminal"
    words = [*columns.split(), "amount=Betrag", "label=Betrug"]
    mapped = [word for pair in words for word in ("--map", pair)]
    told = json.loads(run("own.csv", *mapped, "--dry-run", "--json").stdout)
    assert (told["refused"], told["rows"]) == (0, 4)
    assert [row["event_time"] for row in told["first"]] == [
        "2026-10-24 21:00:00", "2026-10-25 00:10:00", "2026-10-25 00:50:00", "2026-10-25 08:00:00",
    ]  # fmt: skip
    assert [row["label"] for row in told["first"]] == [0, 1, 0, 0]
    assert told["first"][0]["amount"] == 10.5


def test_a_column_that_no_row_can_be_read_of_hides_no_other_one(csv: Path) -> None:
    """Each kind is shown three times, whatever its values are, and counted."""
    rows = "".join(
        f"b{row};03.01.2026 10:{row // 60:02}:{row % 60:02};7;3;9,{row};0;x\n"
        for row in range(1200)
    )
    csv.write_text(CSV.splitlines()[0] + "\n" + rows)
    shown = run(str(csv), "MAP", "--dry-run")
    lines = [line for line in shown.stdout.splitlines() if line.startswith("refused: ")]
    assert len(lines) == 6
    assert lines[0].startswith(
        "refused: own.csv, row 0, counted from 0: when is '03.01.2026 10:00:00'; wanted: a"
    )
    assert lines[2].endswith(" (and 1197 more rows)")
    assert lines[3].startswith(
        "refused: own.csv, row 0, counted from 0: sum is '9,0'; wanted: a number"
    )
    assert lines[5].endswith(" (and 1197 more rows)")
    assert "2400 refusals: an import would take in nothing" in shown.stdout
    assert "the first 0 of 0 rows" not in shown.stdout
    told = json.loads(run(str(csv), "MAP", "--dry-run", "--json").stdout)
    assert (told["refused"], len(told["refusals"])) == (2400, 200)


def test_a_folder_without_sources_generates_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "model_folder", lambda model: tmp_path)
    with pytest.raises(Refused, match=rf"{tmp_path} has no sources\.py; write one with `generate`"):
        history.generate("fraud")
    (tmp_path / "sources.py").write_text("")
    monkeypatch.setattr(history, "load_module", lambda model, name: object())
    with pytest.raises(Refused, match=r"sources\.py has no `generate`"):
        history.generate("fraud")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--map", "amount"], "--map is 'amount'; wanted: NAME=COLUMN"),
        (["--map", "price=sum"], "--map is 'price=sum'; wanted: request_id or event_time or"),
        (["--map", "amount=summe"], "column summe is not in it; it has id "),
        (["--map", "amount=summe"], ", city (string); the nearest is sum"),
        (["--map", "ammount=sum"], "label_time before the =; the nearest is amount"),
        (["--map", "amount=sum", "--map", "amount=id"], "wanted: amount once; it is sum already"),
        (["MAP", "--map", "label_time=when"], "column when is mapped to event_time and label_time"),
    ],
)
def test_a_map_that_can_not_be_is_refused(csv: Path, words: list[str], problem: str) -> None:
    refused = run(str(csv), *words).exception
    assert isinstance(refused, ConfigInvalid | InputInvalid)
    assert problem in str(refused)


def test_the_schema_is_told(csv: Path) -> None:
    told = CliRunner().invoke(commands.app, ["history", "schema", "fraud", "--json"])
    names = [column["name"] for column in json.loads(told.stdout)]
    assert names == history_schema(load_definition("fraud")).names


@pytest.mark.parametrize(
    ("clock", "refused"), [("system", True), ("replay", False)], ids=["system", "replay"]
)
def test_the_command_refuses_the_future_of_the_wall_clock_but_not_of_recorded_traffic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: str, refused: bool
) -> None:
    file = tmp_path / "tx.parquet"
    now_us = time.time_ns() // 1000
    columns = {
        "TRANSACTION_ID": [1, 2],
        "TX_DATETIME": pa.array([now_us - 60_000_000, now_us + 3_600_000_000], pa.timestamp("us")),
        "CUSTOMER_ID": [7, 8],
        "TERMINAL_ID": [1, 2],
        "TX_AMOUNT": [10.0, 20.0],
        "TX_FRAUD": [0, 1],
    }
    pq.write_table(pa.table(columns), file)
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLPLATFORM_CLOCK", clock)
    caches = (wiring.settings, wiring.platform)
    for cache in caches:
        cache.cache_clear()
    result = CliRunner().invoke(commands.app, ["history", "import", "fraud", str(file), "--json"])
    found = history_is_whole(wiring.platform(), "fraud")
    for cache in caches:
        cache.cache_clear()
    assert found is not refused
    if refused:
        assert isinstance(result.exception, InputInvalid)
        told = str(result.exception)
        assert told.startswith("tx.parquet, row 1, counted from 0: TX_DATETIME is in the future: 2")
    else:
        assert result.exit_code == 0


@pytest.mark.usefixtures("open_umask")
def test_a_home_that_an_import_makes_is_its_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "home"))
    caches = (wiring.settings, wiring.platform)
    for cache in caches:
        cache.cache_clear()
    import_history(wiring.platform(), "fraud", payments(), "march")
    for cache in caches:
        cache.cache_clear()
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_nothing_is_no_past(platform: wiring.Platform) -> None:
    with pytest.raises(InputInvalid, match=r"empty\.parquet: there is no row in it"):
        import_history(platform, "fraud", payments().slice(0, 0), "empty.parquet")
    assert import_history(platform, "fraud", payments(), "payments.parquet") > 0


def test_no_snapshot_is_taken_of_a_day_to_come(platform: wiring.Platform) -> None:
    """Its rows would pass for fresh ones until then."""
    import_history(platform, "fraud", payments(), "march")
    today_ms = platform.clock.event_ms() // DAY_MS * DAY_MS
    with pytest.raises(InputInvalid, match="is in the future; wanted"):
        materialize(platform, "fraud", today_ms + 2 * DAY_MS)
    assert materialize(platform, "fraud", today_ms)
    assert materialize(platform, "fraud") == materialize(platform, "fraud", today_ms)
