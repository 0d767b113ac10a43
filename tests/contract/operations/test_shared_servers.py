"""Two homes at the same servers: one has the tables of external views, the other is told so."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.external_world import BUREAU, NAME, T_S, model_with_table, table, written
from tests.support.team_folder import command, team_folder

from mlplatform.commands.platform import check_tables
from mlplatform.learning.features.external.files import PlainFiles
from mlplatform.learning.features.pushes.journal import Push, PushedRow
from mlplatform.operations import wiring
from mlplatform.operations.actions import features
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.storage import addresses

KINDS = [
    pytest.param(("postgres",), marks=pytest.mark.postgres),
    pytest.param(("redis",), marks=pytest.mark.redis),
    pytest.param(("postgres", "redis"), marks=[pytest.mark.postgres, pytest.mark.redis]),
]
PlatformOpener = Callable[[str], wiring.Platform]


@pytest.fixture(params=KINDS, ids="+".join)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PlatformOpener]:
    """A platform of a home by its name."""
    model_with_table(tmp_path / "models")
    with team_folder(tmp_path / "models", tmp_path / "a"), pytest.MonkeyPatch.context() as patch:
        found: dict[str, str] = {}
        if "postgres" in request.param:
            database = request.getfixturevalue("postgres").database()
            found |= addresses.variables("MLPLATFORM_POSTGRES", database)
        if "redis" in request.param:
            redis = request.getfixturevalue("redis")
            redis.empty()
            found |= addresses.variables("MLPLATFORM_REDIS", redis.address)
        for name, value in found.items():
            patch.setenv(name, value)
        wiring.settings.cache_clear()

        def platform(name: str) -> wiring.Platform:
            home = Home(tmp_path / name)
            home.create()
            return wiring.Platform(dataclasses.replace(wiring.settings(), home=home))

        yield platform


def push(platform: wiring.Platform) -> None:
    """As a gateway of that home takes it."""
    rows = (PushedRow(1, T_S, (1.0, 1.0, 0.0)),)
    push = Push(NAME, "bureau", "feed", None, "digest", BUREAU.feature_names, rows)
    (added,) = platform.pushes.add([push], int(time.time() * 1000))  # type: ignore[misc]
    with closing(platform.online(NAME)) as online:
        online.put("bureau", [(1, T_S * 10**6, 1, rows[0].values)])
    platform.pushes.mark_served(added.number, added.arrived_ms)


def taken(platform: wiring.Platform) -> int:
    parts = platform.with_pushes(NAME).external("bureau")
    return sum(one.rows for note in parts.notes() for one in note.pushed.values())


def imported(platform: wiring.Platform, folder: Path) -> Any:
    path = written(folder / "table.parquet", table([(1, 0, 0, 1.0)]))
    return features.import_external(
        platform, NAME, "bureau", PlainFiles(path), dry_run=False, progress=lambda _: None
    )


def test_a_second_home_is_refused_with_the_first_ones_name_and_takes_over_where_it_is_told_to(
    opened: PlatformOpener, tmp_path: Path
) -> None:
    first, second = opened("a"), opened("b")
    push(second if first.settings.postgres else first)
    assert taken(first) == 1
    for use in (taken, check_tables, lambda platform: imported(platform, tmp_path)):
        with pytest.raises(Refused, match=f"another home, .*:{tmp_path}/a, has the tables"):
            use(second)
    check_tables(first)
    assert taken(opened("a")) == 1  # the same home, started again
    if first.settings.postgres:  # a gateway of the second home takes pushes as before
        push(second)
        assert taken(first) == 2
    second.hold_tables(over=True)
    assert imported(second, tmp_path).new == 1
    with pytest.raises(Refused, match=f"another home, .*:{tmp_path}/b, has the tables"):
        taken(first)
    assert command("features", "take-over").startswith("this home has taken over the tables at ")
    assert taken(first) >= 1


def test_a_home_that_was_put_back_elsewhere_is_the_same_home(
    opened: PlatformOpener, tmp_path: Path
) -> None:
    taken(opened("a"))
    (tmp_path / "a").rename(tmp_path / "moved")
    taken(opened("moved"))
