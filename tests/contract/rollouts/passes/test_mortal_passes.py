"""Passes are killed by SIGKILL around every write, and two of them race: nothing comes of it.

After the next pass, the journal with its evidence, the routes, the services and the events are
those of a pass that nobody disturbed: with the journal in SQLite, and in PostgreSQL.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import pg8000.native
import pytest
from tests.unit.rollouts.passes.test_rollout_passes import (
    Chapter,
    World,
    bootstrap,
    confirmation,
    deadline,
    no_room,
    regret,
    to_promoted,
)

from mlplatform.rollouts.events.event import event_of
from mlplatform.rollouts.journal.postgres import PostgresRollouts
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.passes.ports import Ports
from mlplatform.runtime.storage.addresses import Address
from rollout_world import StoppedClock, plain
from support.mortal_passes import OUTSIDE, Deaths, Remote, lives

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RACES = 3
"""Of each pass, in as many orders."""
TABLES = ("journal", "rollouts", "routes", "passes", "gateways", "stops")


class Store(Protocol):
    """Where a journal is, and what it held before."""

    def open(self, clock: StoppedClock) -> SqlRollouts: ...

    def save(self) -> Any: ...

    def load(self, saved: Any) -> None: ...


class SqliteStore:
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, clock: StoppedClock) -> SqlRollouts:
        return SqliteRollouts(self._path, clock, durable=False)

    def save(self) -> bytes:
        """Of a file that nobody has open."""
        return self._path.read_bytes()

    def load(self, saved: bytes) -> None:
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._path.write_bytes(saved)


class PostgresStore:
    def __init__(self, address: Address) -> None:
        self._address = address
        self._own = pg8000.native.Connection(
            user=address.user,
            host=address.host,
            port=address.port,
            database=address.name,
            password=address.password(),
            ssl_context=None,
        )

    def open(self, clock: StoppedClock) -> SqlRollouts:
        return PostgresRollouts(self._address, clock)

    def save(self) -> dict[str, Any]:
        return {name: self._own.run(f"SELECT * FROM {name}") for name in TABLES}

    def load(self, saved: dict[str, Any]) -> None:
        self._own.run(f"TRUNCATE {', '.join(TABLES)}")
        for name, rows in saved.items():
            for row in rows:
                values = {f"v{number}": value for number, value in enumerate(row)}
                places = ", ".join(f":{one}" for one in values)
                self._own.run(f"INSERT INTO {name} VALUES ({places})", **values)

    def close(self) -> None:
        self._own.close()


@dataclass
class MortalWorld(World):
    """A world each pass of which is played with every death, before its story goes on.

    Args:
        rests: after so many passes a further one has nothing to do: a death must not change what
            holds then. Before that, the pass after a death may be further than one without it.
    """

    store: Store = field(kw_only=True)
    rests: int = 1
    is_mortal: bool = False
    deaths: int = 0

    def __post_init__(self) -> None:
        self.rollouts: Any = self.store.open(self.clock)

    def settle(self) -> Any:
        if not self.is_mortal:
            self.life()
            return
        start = self.save()
        self.life()
        after = self.save()
        self.rest(self.rests - 1)
        end = self.outcome()
        for at in itertools.count(1):
            self.load(start)
            if not self.life(at):
                break
            self.rest(self.rests)
            assert differences(end, self.outcome()) == [], f"killed at moment {at}"
        for seed in range(RACES):
            self.load(start)
            dies_at = random.Random(seed).randrange(1, at + 1)
            self.life(dies_at, passes=2, seed=seed)
            self.rest(self.rests)
            what = f"raced in order {seed}, one killed at moment {dies_at}"
            assert differences(end, self.outcome()) == [], what
        self.deaths += at + RACES
        self.load(after)

    def rest(self, passes: int) -> None:
        for _ in range(passes):
            self.life()

    def life(self, die_at: int | None = None, *, passes: int = 1, seed: int = 0) -> bool:
        """Passes in processes of their own, to their end; whether one was killed at a moment."""
        outside = {name: getattr(self, name) for name in OUTSIDE}
        deaths = Deaths(die_at)
        self.rollouts.close()  # no process inherits a connection
        try:
            make = partial(self.remote, self.store)
            lives(make, self.definition, outside, deaths, passes=passes, seed=seed)
        finally:
            self.rollouts = self.store.open(self.clock)
        return deaths.killed

    def remote(self, store: Store, pipe: Connection) -> Ports:
        journal, there = store.open(self.clock), {name: Remote(name, pipe) for name in OUTSIDE}
        return Ports(
            rollouts=journal,
            controls=journal,
            passes=journal,
            anchors=journal,
            clock=self.clock,
            bundles=self.folder / "bundles",
            counted=self.folder / "counted",
            server_of=lambda folder: None,
            **there,  # type: ignore[arg-type]
        )

    def save(self) -> Any:
        self.rollouts.close()
        counted = self.folder / "counted"
        kept = self.folder / f"kept-{random.random()}"
        if counted.exists():
            shutil.copytree(counted, kept)
        outside = {name: copy.deepcopy(getattr(self, name)) for name in (*OUTSIDE, "clock")}
        saved = (self.store.save(), outside, kept)
        self.rollouts = self.store.open(self.clock)
        return saved

    def load(self, saved: Any) -> None:
        journal, outside, kept = saved
        self.rollouts.close()
        self.store.load(journal)
        for name, value in copy.deepcopy(outside).items():
            setattr(self, name, value)
        shutil.rmtree(self.folder / "counted", ignore_errors=True)
        if kept.exists():
            shutil.copytree(kept, self.folder / "counted")
        self.rollouts = self.store.open(self.clock)

    def outcome(self) -> dict[str, Any]:
        facts = self.rollouts.facts(0, 1000)
        events = (event_of(fact, "http://page", str) for fact in facts)
        # An id has the digest of its row, which names the lease that wrote it.
        told = [dataclasses.replace(event, id="") for event in events]
        return super().outcome() | {"events": plain(told)}


def differences(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two plain values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(f"{at}.{k}", one.get(k), other.get(k)) for k in {**one, **other}]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        both = itertools.zip_longest(one, other)
        pairs = [(f"{at}[{number}]", *both) for number, both in enumerate(both)]
    else:
        return [] if one == other else [f"{at}: {one!r}, {other!r}"]
    return [found for place, a, b in pairs for found in differences(a, b, place)]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        yield SqliteStore(tmp_path / "rollouts.db")
        return
    postgres = request.getfixturevalue("postgres")
    address = postgres.database()
    made = PostgresStore(address)
    yield made
    made.close()
    postgres.drop(address)


def story(*chapters: Chapter, rests: int = 1) -> Any:
    return pytest.param(chapters, rests, id=chapters[-1].__name__)


@pytest.mark.parametrize(
    ("chapters", "rests"),
    [
        story(bootstrap),
        story(bootstrap, to_promoted),
        story(bootstrap, to_promoted, confirmation),
        story(bootstrap, to_promoted, regret),
        story(bootstrap, deadline),
        story(bootstrap, no_room, rests=4),
    ],
)
def test_a_pass_that_is_killed_around_any_write_or_races_another_changes_nothing(
    store: Store, tmp_path: Path, chapters: tuple[Chapter, ...], rests: int
) -> None:
    world = MortalWorld(tmp_path, store=store, rests=rests)
    for chapter in chapters[:-1]:
        chapter(world)
    world.is_mortal = True
    chapters[-1](world)
    assert world.deaths >= 15
