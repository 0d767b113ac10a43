"""`mlplatform rollouts replay` names a changed byte that moved no number of a verdict."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.unit.rollouts.passes import test_rollout_passes
from typer.testing import CliRunner, Result

from mlplatform.commands import app
from support.kept_home import fill
from support.rewritten_log import rewrite

ROLLOUT = "fraud-v2-1"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a canary under way, whose verdict on shadow lies in a sealed segment."""
    root = tmp_path / "home"
    fill(root, tmp_path / "scratch", test_rollout_passes)
    monkeypatch.setenv("MLPLATFORM_HOME", str(root))
    return root


def replayed(rollout: str = ROLLOUT) -> tuple[Result, list[dict[str, Any]]]:
    result = CliRunner().invoke(app, ["rollouts", "replay", rollout, "--json"])
    return result, json.loads(result.stdout)


def test_a_whole_log_is_replayed_without_a_finding(home: Path) -> None:
    result, (verdict,) = replayed()
    assert (result.exit_code, verdict["differences"], verdict["changes"]) == (0, [], [])


def test_a_byte_that_no_verdict_counts_is_named(home: Path) -> None:
    segment = max((home / "decisions/segments/gateway-1").glob("*.parquet"))
    written = bytearray(segment.read_bytes())
    written[len(written) // 2] ^= 1  # in the chain of a shadow copy
    segment.chmod(0o600)
    segment.write_bytes(written)
    result, (verdict,) = replayed()
    assert (result.exit_code, verdict["differences"]) == (1, [])
    assert any(segment.name in change for change in verdict["changes"])
    assert any(change.startswith("record ") for change in verdict["changes"])


def test_a_log_that_was_computed_anew_is_not_the_one_that_was_judged(home: Path) -> None:
    """Its digests follow one another; but the journal holds the chain as far as it was read."""
    rewrite(home / "decisions", "gateway-1", seq=7, score=0.3)
    result, (verdict,) = replayed("fraud-v1-1")
    assert (result.exit_code, verdict["differences"]) == (1, [])
    told = " is not the one that the verdict of fraud-v1-1 (confirmed) was based on"
    assert [c for c in verdict["changes"] if told in c], verdict["changes"]


def test_a_changed_row_of_the_journal_is_named(home: Path) -> None:
    with closing(sqlite3.connect(home / "rollouts.db")) as db, db:
        db.execute("UPDATE journal SET body = replace(body, 'looked at it', 'looked at me')")
    result, (verdict,) = replayed()
    assert (result.exit_code, verdict["differences"]) == (1, [])
    assert [change.partition(" was ")[2] for change in verdict["changes"]] == ["changed"]
