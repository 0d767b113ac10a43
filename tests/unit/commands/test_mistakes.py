"""Typical mistakes: what is said names the key, the value, what is wanted and the way out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest

from mlplatform import commands
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.runtime.configuration.settings import load
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from support.ports import free_port

OWN = "transaction,timestamp,card_id,merchant_id,amt,is_fraud\n1,2026-01-01 10:00:00,7,1,9.5,0\n"
BAD = (
    "request_id,event_time,customer_id,terminal_id,amount,label\n1,2026-01-01 10:00:00,7,1,-9.5,0\n"
)
STATUS = ("status",)
RETRAIN = ("retrain", "fraud", "--actor", "ana", "--reason", "new terminals")
APPROVE = ("rollouts", "approve", "fraud-v9-1", "--approver", "bo", "--reason", "gates read")
KEY = ("keys", "create", "--name", "shop", "--scope", "score")
BATCH = ("batch", "fraud", "--output", "scores")
IMPORT = ("history", "import", "fraud")
NO_LOG = ("no decision log in", "home", "set MLPLATFORM_HOME to the platform's home folder")
STARTS = ("the platform has not started Prefect", "nothing runs in", "`mlplatform up` starts it")


def variable(name: str, value: str, *said: str) -> tuple[dict[str, str], tuple[str, ...], object]:
    return {f"MLPLATFORM_{name}": value}, STATUS, (f"MLPLATFORM_{name} is", "wanted: ", *said)


def typed(words: tuple[str, ...], *said: str) -> tuple[dict[str, str], tuple[str, ...], object]:
    return {}, words, said


MISTAKES = [
    variable("GATEWAY_PORT", "http", "'http'", "a port, 1 to 65535"),
    variable("PAGE_PORT", "70000", "'70000'", "1 to 65535, or unset it: the default is 8090"),
    variable("PREFECT_PORT", "8080", "8080", "another port than that of MLPLATFORM_GATEWAY_PORT"),
    variable("PROFILE", "prod", "'prod'", "embedded or cluster"),
    variable("PROFILE", "cluster", "MLPLATFORM_POSTGRES: postgresql://", "docs/cluster.md"),
    variable("CLOCK", "utc", "'utc'", "system or replay"),
    variable("DURABILITY", "ssd", "'ssd'", "process or disk"),
    variable("TRACE_SHARE", "2", "'2'", "a share, 0 to 1"),
    variable("GATEWAYS", "0", "'0'", "gateway processes, 1 to 64"),
    variable("LOG_LEVEL", "trace", "'trace'", "debug, info or warning"),
    variable("POSTGRES", "postgresql://u:secret@db/x", "MLPLATFORM_POSTGRES_PASSWORD_FILE"),
    variable("POSTGRES", "mysql://bank@db/x", "'mysql://bank@db/x'", "postgresql://host:port"),
    variable("REDIS", "db:6379", "'db:6379'", "rediss://host:port"),
    variable("KAFKA", "broker", "'broker'", "host:port,host:port"),
    variable("OTLP_ENDPOINT", "localhost:4318", "'localhost:4318'", "http(s)://host:port"),
    variable("SPILL_MAX_MIB", "-1", "'-1'", "MiB, 1 to 65536"),
    variable("JOB_PROCESSES", "many", "'many'", "0 to 64"),
    variable("MLFLOW_ARTIFACTS", "/data", "'/data'", "s3://bucket/prefix"),
    ({"MLPLATFORM_GATEWAY_PRT": "1"}, STATUS, ("_GATEWAY_PRT'; wanted: MLPLATFORM_GATEWAY_PORT",)),
    ({"MLPLATFORM_HOME": "own.csv"}, (*KEY, "--model", "*"), ("_HOME is", "wanted: the folder")),
    typed(("models", "show", "credit"), "no model 'credit'; there are: fraud"),
    typed(("worker", "credit"), "no model 'credit'; there are: fraud"),
    typed(("statsu",), "No such command 'statsu'. Did you mean 'status'?"),
    typed(("up", "--profile", "prod"), "--profile", "'prod'", "'embedded', 'cluster'"),
    typed(("score", "fraud", "{amount"), "'{amount' is not JSON; wanted: ", "score --help"),
    typed(("score", "fraud", "{}"), "no API key in", "home/secrets: `mlplatform up` makes it"),
    typed(RETRAIN, *STARTS),
    typed(("drift", "fraud"), *STARTS),
    typed((*RETRAIN[:-1], "x"), "--reason: 'x' has 1 character; wanted: 5 to 500"),
    typed((*RETRAIN, "--as-of", "soon"), "Invalid value for '--as-of'", "retrain --help"),
    typed((*RETRAIN, "--as-of", "01.11.2026"), "'01.11.2026'", "2026-03-01T09:30:00 (UTC)"),
    typed(("batch", "fraud", "--first", "soon"), "--first", "'soon' is not a day; wanted: "),
    typed(("models", "card", "fraud", "abc"), "'version'", "'abc'; wanted: a whole number"),
    typed(("history", "generate", "fraud", "--seed", "x"), "--seed", "'x'; wanted: a whole"),
    typed(("refusals", "--days", "abc"), "--days", "'abc'; wanted: a whole number"),
    typed((*IMPORT, "none.csv"), "none.csv: there is no such file or folder; wanted: a .parquet"),
    typed((*IMPORT, "own.csv"), "there is no column for request_id", "--map amount=amt"),
    typed((*IMPORT, "own.csv", "--map", "amount"), "'amount'; wanted: NAME=COLUMN", "TX_AMOUNT"),
    typed((*IMPORT, "own.csv", "--map", "price=amt"), "'price=amt'; wanted: request_id or "),
    typed((*IMPORT, "bad.csv"), "bad.csv, row 0, counted from 0: amount is less than 0: -9.5"),
    typed(("log", "show", "0123"), *NO_LOG),
    typed(("log", "verify"), *NO_LOG),
    typed(("backup", "copy"), *NO_LOG),
    typed(("restore", "none.tar"), "no backup at none.tar; wanted: a folder or .tar that"),
    typed(("rollouts", "show", "fraud-v9-1"), "no rollout 'fraud-v9-1'; `mlplatform rollouts list"),
    typed((*APPROVE, "--decision", "maybe"), "--decision", "'maybe'", "'approve', 'reject'"),
    typed((*APPROVE, "--decision", "approve"), "no rollout 'fraud-v9-1'; `mlplatform"),
    typed((*KEY, "--model", "credit"), "no model 'credit'; there are: fraud"),
    typed((*KEY[:-1], "pay", "--model", "fraud"), "scope is 'fraud:pay'; wanted: ", "score, read"),
    typed((*KEY, "--model", "fraud", "--priority", "high"), "priority is 'high'; wanted: one of"),
    typed(("keys", "revoke", "0123"), "named '0123'; `mlplatform keys list` has them all"),
    typed(("rollouts", "kill", "fraud"), "Missing option '--actor'", "rollouts kill --help"),
    typed(("trace", "zzz"), "zzz: it is not an id; a trace's has 32 hexadecimal digits"),
    typed(("refusals", "--days", "0"), "--days", "'0'; wanted: greater than or equal to 1"),
    typed(("materialize", "fraud", "--at", "2026-03-01T12"), "01T12' is not a midnight in UTC"),
    typed((*APPROVE, "--decision", "yes"), "'yes'; wanted: one of 'approve', 'reject'"),
    typed(("backup",), "Missing argument 'target'. Wanted: A new folder, or a new file that ends"),
    typed(("new-model", "Fraud2"), "NAME is 'Fraud2'; wanted: a letter a-z and at most 27 of"),
    typed((*IMPORT, "own.csv", "--map", "amount=?"), "amount=?; wanted: the name of a column"),
    typed(("events", "test", "slack"), "no receiver 'slack'", "MLPLATFORM_RECEIVERS names no file"),
    typed(("replay", "fraud"), "--version, --bundle or --from is missing", "fraud --version 7"),
    typed((*KEY[:-1], "aprove", "--model", "fraud"), "'fraud:aprove'", "nearest is fraud:approve"),
    typed(("batch", "fraud"), "--input and --output is missing; wanted: ", "only --first"),
    typed(("batch", "fraud", "--input", "own.csv"), "--output is missing; wanted: --input and"),
    typed(("batch", "fraud", "--last", "2026-03-01"), "--last is '2026-03-01'", "only --first"),
    typed((*BATCH, "--input", "nope"), "--input: there is nothing at 'nope'; wanted: a Parquet"),
    typed((*BATCH, "--input", "own.csv"), "fraud has no champion yet", "`mlplatform models list`"),
    typed(("check-model", "nope"), "error: ", "/nope: there is no such folder", "new-model"),
    typed(("check-model", "own.csv"), "error: ", "/own.csv: this is a file; wanted: a model's"),
    typed((*IMPORT, "big.csv"), "big.csv, row 0, counted from 0: "
    "amount is more than 1000000: 2000000"),
    typed(("replay", "fraud", "--version", "9"), "fraud has no champion yet: name a version"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a journal of rollouts and keys, and without a decision log."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "own.csv").write_text(OWN)
    (tmp_path / "bad.csv").write_text(BAD)
    (tmp_path / "big.csv").write_text(BAD.replace("-9.5", "2000000"))
    home = load({"MLPLATFORM_HOME": str(tmp_path / "home")}).home
    home.create()
    SqliteRollouts(home.rollouts_db).close()
    SqliteAdmission(home.admission_db).close()
    return tmp_path


def test_the_release_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mlplatform", "--version"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert (ended.value.code, capfd.readouterr().out) == (
        0,
        f"mlplatform {version('mlplatform')}\n",
    )


def test_there_are_forty_of_them() -> None:
    assert len(MISTAKES) >= 40


@pytest.mark.parametrize(
    ("environment", "words", "said"),
    MISTAKES,
    ids=[" ".join([*environment, *words]) for environment, words, _ in MISTAKES],
)
def test_a_mistake_is_answered_by_key_value_limit_and_way_out(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    environment: Mapping[str, str],
    words: tuple[str, ...],
    said: tuple[str, ...],
) -> None:
    ports = ("GATEWAY", "PAGE", "MLFLOW", "PREFECT")
    # another platform of this machine may hold the usual ports
    free = {} if environment else {f"MLPLATFORM_{one}_PORT": str(free_port()) for one in ports}
    for name, value in {**free, **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["mlplatform", *words])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code in (2, 3)
    told = " ".join(capfd.readouterr().err.split())
    for part in said:
        assert part in told
    assert "Traceback" not in told
    assert list((folder / "home").glob("offline/fraud/parts/[0-9]*")) == []
