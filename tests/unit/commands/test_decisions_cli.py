"""`mlplatform log`: what it prints and what the shell sees."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlplatform.commands import app
from mlplatform.commands import log as log_commands
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry, ManifestHead, SpillReceipt, WriterHead
from mlplatform.decisions.records.record import GENESIS, Record
from mlplatform.decisions.replication.replica_log import ReplicaLog
from mlplatform.decisions.replication.replicated_records import ReplicaOffset
from mlplatform.decisions.spill.writer import SpillingLog, SpillPolicy
from mlplatform.operations import wiring
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.runtime.configuration.settings import Settings

RUNNER = CliRunner()


@pytest.fixture
def decisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path))
    with closing(SqliteDecisionLog(tmp_path / "decisions")) as log:
        records = [
            Record(kind=kind, decision_id=name, model="fraud", event_ms=1, recorded_ms=1)
            for kind, name in (("decision", "d1"), ("decision", "d2"), ("label", "d1"))
        ]
        log.append("gw", [Entry(record) for record in records])
    return tmp_path / "decisions"


def test_a_whole_log_is_exit_code_0(decisions: Path) -> None:
    """With the counts of what was checked."""
    result = RUNNER.invoke(log_commands.app, ["verify"])
    assert result.exit_code == 0
    assert "The log is whole: records 3, writers 1, segments 0, findings 0." in result.output


def test_what_is_new_is_checked_alone(decisions: Path) -> None:
    """Segments that the last check found whole are left out, and said to be."""
    with closing(SqliteDecisionLog(decisions, segment_rows=(1, 2))) as log:
        log.seal()
    assert RUNNER.invoke(log_commands.app, ["verify", "--cores", "2"]).exit_code == 0
    result = RUNNER.invoke(log_commands.app, ["verify", "--new"])
    assert result.exit_code == 0
    assert "What is new in the log is whole: records 0, writers 1, segments 0" in result.output


def test_a_changed_record_is_named_with_exit_code_1(decisions: Path) -> None:
    """In words and in JSON."""
    with closing(sqlite3.connect(decisions / "decisions.db", isolation_level=None)) as db:
        db.execute("UPDATE unsealed_records SET score = 0.5 WHERE place & 255 = 2")
    result = RUNNER.invoke(log_commands.app, ["verify"])
    assert result.exit_code == 1
    assert "record 2 of writer gw (decision d2) does not follow record 1" in result.output
    result = RUNNER.invoke(log_commands.app, ["verify", "--json"])
    assert result.exit_code == 1
    report = json.loads(result.output)
    assert (report["ok"], report["records"], len(report["findings"])) == (False, 3, 1)


def test_a_file_that_is_no_database_is_a_finding_also_in_json(decisions: Path) -> None:
    (decisions / "decisions.db-wal").unlink(missing_ok=True)
    (decisions / "decisions.db").write_bytes(b"not a database, " * 1000)
    result = RUNNER.invoke(log_commands.app, ["verify", "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert not report["ok"]
    assert "decisions.db is damaged" in report["findings"][0]


def test_the_anchor_comes_from_whoever_builds_the_commands(decisions: Path) -> None:
    """A log that is behind its anchor is not whole."""

    def journal_of(_: Settings) -> log_commands.JournalAnchor:
        return log_commands.JournalAnchor(ManifestHead(0, "", {"gw": WriterHead(9, "00" * 32)}))

    result = RUNNER.invoke(log_commands.commands(journal_of), ["verify"])
    assert result.exit_code == 1
    assert "writer gw ends at record 3, the anchor at 9" in result.output


def anchored(decisions: Path) -> sqlite3.Connection:
    """The rollout journal with the log's head in it, open for whoever wants to change it."""
    path = decisions.parent / "rollouts.db"
    with closing(SqliteDecisionLog(decisions)) as log, closing(SqliteRollouts(path)) as rollouts:
        rollouts.anchor(log.seal())
    return sqlite3.connect(path, isolation_level=None)


def test_a_journal_that_was_changed_is_named(decisions: Path) -> None:
    """An anchor that was made to fit a truncated log is not believed."""
    with closing(anchored(decisions)) as journal:
        assert RUNNER.invoke(app, ["log", "verify"]).exit_code == 0
        journal.execute("UPDATE journal SET body = replace(body, '\"seq\":3', '\"seq\":2')")
    result = RUNNER.invoke(app, ["log", "verify"])
    assert result.exit_code == 1
    assert "journal row 1 was changed" in result.output


def test_a_log_whose_journal_is_missing_is_not_called_whole(decisions: Path) -> None:
    """Who removes the journal with the log's tail is not told that all is well."""
    anchored(decisions).close()
    for path in decisions.parent.glob("rollouts.db*"):
        path.unlink()
    result = RUNNER.invoke(app, ["log", "verify", "--json"])
    assert result.exit_code == 1
    (finding,) = json.loads(result.output)["findings"]
    assert finding.startswith("the rollout journal is missing")


def test_show_prints_every_record_of_a_decision(decisions: Path) -> None:
    """The decision and the label that came later."""
    result = RUNNER.invoke(log_commands.app, ["show", "d1", "--json"])
    assert result.exit_code == 0
    assert [(r["kind"], r["seq"]) for r in json.loads(result.output)] == [
        ("decision", 1),
        ("label", 3),
    ]
    result = RUNNER.invoke(log_commands.app, ["show", "d1"])
    assert result.exit_code == 0
    assert "label" in result.output


def test_what_is_not_there_is_exit_code_2(
    decisions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown decision, and a home without a log, which is not created by looking."""
    result = RUNNER.invoke(log_commands.app, ["show", "nobody"])
    assert result.exit_code == 2
    assert "nobody" in result.stderr
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "elsewhere"))
    wiring.forget()
    result = RUNNER.invoke(log_commands.app, ["verify"])
    assert result.exit_code == 2
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_spilled_is_told_by_every_command(decisions: Path) -> None:
    """Nobody who looks for a decision is told that there is none because the log is behind."""
    with closing(SqliteDecisionLog(decisions, lock_wait_ms=1)) as log:
        spilling = SpillingLog(log, "gw-1", SpillPolicy(1_000_000))
        with closing(sqlite3.connect(decisions / "decisions.db", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            for name in ("d1", "d9"):
                record = Record(
                    kind="void", decision_id=name, model="fraud", event_ms=7, recorded_ms=1
                )
                assert spilling.append("gw-1", [Entry(record)]) == [SpillReceipt()]
    verified = RUNNER.invoke(log_commands.app, ["verify"])
    assert verified.exit_code == 0
    assert "2 more records are spilled" in verified.output
    assert json.loads(RUNNER.invoke(log_commands.app, ["verify", "--json"]).output)["spilled"] == 2
    told = RUNNER.invoke(log_commands.app, ["status"]).output
    assert "gw: 3 records" in told
    assert "2 records" in told.split("gw-1: ")[1]
    status = json.loads(RUNNER.invoke(log_commands.app, ["status", "--json"]).output)
    (waiting,) = status["spilled"]
    assert (waiting["writer"], waiting["records"], waiting["oldest_ms"]) == ("gw-1", 2, 7)
    shown = json.loads(RUNNER.invoke(log_commands.app, ["show", "d1", "--json"]).output)
    assert [(r["kind"], r["seq"]) for r in shown] == [("decision", 1), ("label", 3), ("void", None)]
    (only,) = json.loads(RUNNER.invoke(log_commands.app, ["show", "d9", "--json"]).output)
    assert (only["writer"], only["spilled"]) == ("gw-1", True)
    assert RUNNER.invoke(log_commands.app, ["show", "d9"]).exit_code == 0


def test_help_has_examples() -> None:
    """Each command shows how it is called."""
    for command in ([], ["status"], ["verify"], ["show"], ["explain"]):
        result = RUNNER.invoke(log_commands.app, [*command, "--help"])
        assert "mlplatform log" in result.output


def test_who_comes_from_elsewhere_can_be_given_up(decisions: Path) -> None:
    """Others can't: their records are in the log."""
    with closing(ReplicaLog(decisions)) as log:
        log.replicate([ReplicaOffset("gateway-more-2", 0, GENESIS, 5, 0, False, 0)])
    assert "gateway-more-2: 0 records, event time 5, live" in status()
    assert RUNNER.invoke(log_commands.app, ["give-up", "gateway-more-2"]).exit_code == 0
    assert "gateway-more-2: 0 records, event time 5, not live" in status()
    assert RUNNER.invoke(log_commands.app, ["give-up", "gw"]).exit_code == 2


def status() -> str:
    return RUNNER.invoke(log_commands.app, ["status"]).output
