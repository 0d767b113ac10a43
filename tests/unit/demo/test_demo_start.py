"""A demo begins with nothing: what somebody else left is refused, and left as it is."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from demo import __main__ as command
from demo.run import Options, run
from mlplatform.model.routes import Arm
from mlplatform.operations import wiring
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.transitions import Opened
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import Refused


def test_a_journal_that_has_rollouts_already_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ))
    settings = load({"MLPLATFORM_HOME": str(tmp_path)})
    settings.home.create()
    journal = SqliteRollouts(settings.home.rollouts_db)
    opened = Opened(
        rollout_id="fraud-v1-1",
        model="fraud",
        event_ms=0,
        wall_ms=0,
        actor="tests",
        reason="tests",
        challenger=Arm(1, "0" * 64, "fraud-v1-00000000"),
        author="tests",
        alert_low=0.0,
        alert_high=1.0,
        bootstrap=True,
        approval="none",
    )
    journal.commit(opened, None)
    journal.close()

    with pytest.raises(Refused, match=r"rollouts\.db has rollouts of fraud already"):
        asyncio.run(run(settings, Options(None, 1, keep=False, resume=False)))

    assert not settings.home.demo.exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, "var-demo"), ("elsewhere", "elsewhere")],
    ids=["of its own", "as named"],
)
def test_a_demo_stays_out_of_the_home_of_make_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str
) -> None:
    """A user's platform starts clean after a demo; drills name a home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", dict(os.environ))
    monkeypatch.delenv("MLPLATFORM_HOME", raising=False)
    if given is not None:
        monkeypatch.setenv("MLPLATFORM_HOME", given)
    wiring.settings.cache_clear()
    try:
        with pytest.raises(Refused, match=rf"no demo to resume in {tmp_path / expected}/demo"):
            command.demo(resume=True)
    finally:
        wiring.settings.cache_clear()
