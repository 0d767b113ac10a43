"""History is taken in once and whole: refused from the future, finished after a kill."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.learning.features import snapshots
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.models.fraud.generator import Population, generate
from mlplatform.operations import wiring
from mlplatform.operations.actions.features import history_is_whole, import_history, materialize
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import InputInvalid, Refused

DAY_MS = 86_400_000
START_MS = 20_000 * DAY_MS


class Killed(BaseException):
    """What no code catches, as no code catches SIGKILL."""


def payments(seed: int = 1) -> pa.Table:
    population = Population(customers=20, payments_per_day=30)
    return generate(seed=seed, start_ms=START_MS, days=3, population=population)


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
    with pytest.raises(Refused, match="an import of other payments was stopped halfway"):
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


def test_a_whole_history_is_imported_once(platform: wiring.Platform) -> None:
    assert not history_is_whole(platform, "fraud")
    import_history(platform, "fraud", payments(), "march")
    with pytest.raises(Refused, match="imported once"):
        import_history(platform, "fraud", payments(), "march")


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
        assert told.startswith("tx.parquet, row 1: TX_DATETIME is in the future: 2")
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
    with pytest.raises(InputInvalid, match="is to come; wanted"):
        materialize(platform, "fraud", today_ms + 2 * DAY_MS)
    assert materialize(platform, "fraud", today_ms)
    assert materialize(platform, "fraud") == materialize(platform, "fraud", today_ms)
