"""A new page's process makes itself ready: what fails or hangs in that keeps nobody waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment

from mlplatform.observing.page import rendering, warm_up
from mlplatform.observing.page.queries.schedules import Schedules
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import Unavailable
from support.home_world import HomeWorld

ENDS_S = 30.0


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[Sources]:
    world = HomeWorld(tmp_path / "home")
    world.promote(1)
    world.decide(3)
    yield Sources(Platform(load({"MLPLATFORM_HOME": str(world.home.root)})), lambda model: False)
    world.close()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the templates that are compiled from now on, by an environment of its own."""
    found: list[str] = []
    rendering.templates.cache_clear()
    compile_one = Environment.compile

    def noted(self: Environment, source: Any, name: str, *rest: Any, **more: Any) -> Any:
        found.append(name)
        return compile_one(self, source, name, *rest, **more)

    monkeypatch.setattr(Environment, "compile", noted)
    yield found
    rendering.templates.cache_clear()


def test_a_view_finds_its_template_compiled_and_its_stores_open(
    sources: Sources, compiled: list[str]
) -> None:
    made: list[_IdleClient] = []
    warm_up.prepare(sources, Schedules(lambda: _noted(made), lambda: 0)).join(ENDS_S)
    assert {"system.html", "system_parts.html", "people/reader.html"} <= set(compiled)
    assert {"rollouts", "incidents", "log"} <= set(sources.platform.__dict__), "they are open"
    assert [one.is_closed for one in made] == [True], "nothing was asked of Prefect"
    compiled.clear()
    shown = {"here": "system", "concerns": (),
             "alerts": None, "disk": "away", "lags": None, "queues": [],
             "schedules": None, "prefect": "", "status": None}  # fmt: skip
    assert "There is no decision log yet" in rendering.render("system.html", **shown)
    assert compiled == []


def test_what_is_away_at_the_start_ends_nothing(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: object) -> None:
        raise Unavailable("the log is away")

    monkeypatch.setattr("mlplatform.observing.page.warm_up.SystemState.log", away)
    warm_up.prepare(sources, Schedules(_no_prefect, lambda: 0)).join(ENDS_S)
    assert "incidents" in sources.platform.__dict__, "the steps after it were taken"


def test_a_store_that_hangs_keeps_the_page_waiting_for_so_long_at_most(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(
        "mlplatform.observing.page.warm_up.SystemState.log", lambda self: released.wait(ENDS_S)
    )
    begun_s = time.monotonic()
    thread = warm_up.prepare(sources, None, within_s=0.1)
    assert time.monotonic() - begun_s < ENDS_S / 2
    assert thread.is_alive()
    assert thread.daemon, "the process can end meanwhile"
    released.set()
    thread.join(ENDS_S)
    assert not thread.is_alive()


class _IdleClient:
    """A client that notes that it was closed; any question would fail."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def _noted(made: list[_IdleClient]) -> Any:
    made.append(_IdleClient())
    return made[-1]


def _no_prefect() -> Any:
    raise Unavailable("the platform has not started Prefect")
