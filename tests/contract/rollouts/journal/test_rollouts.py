"""The contract of a rollout journal: one transaction, fenced, chained, cheap to poll."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlplatform.decisions.records.port import ManifestHead, WriterHead
from mlplatform.model.routes import Routes, Variant, no_routes
from mlplatform.rollouts.journal.controls import (
    VariantRemoved,
    VariantsAnswering,
    VariantsStarted,
    controlled_routes,
)
from mlplatform.rollouts.journal.journal import Fence, GatewayLease
from mlplatform.rollouts.journal.next_routes import following, promoted_routes
from mlplatform.rollouts.journal.postgres import PostgresRollouts
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.state import fold
from mlplatform.rollouts.journal.transitions import (
    Answered,
    Confirmed,
    Opened,
    Promoted,
    RolledBack,
    ShadowStarted,
    Transition,
)
from mlplatform.runtime.errors import Busy, NotFound, Refused, StaleFence
from rollout_world import StoppedClock, arm

FACTS = {"model": "fraud", "event_ms": 1, "wall_ms": 2, "actor": "pass", "reason": "because"}


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


class World:
    """One journal, and any number of connections to it, as other processes would have."""

    def __init__(self, clock: StoppedClock) -> None:
        self.clock = clock
        self.opened: list[SqlRollouts] = []

    def connect(self) -> SqlRollouts:
        self.opened.append(self.made())
        return self.opened[-1]

    def made(self) -> SqlRollouts:
        raise NotImplementedError

    def damage(self, statement: str) -> None:
        """Run a statement past the adapter."""
        raise NotImplementedError

    def close(self) -> None:
        for rollouts in self.opened:
            rollouts.close()


class SqliteWorld(World):
    def __init__(self, clock: StoppedClock, path: Path) -> None:
        super().__init__(clock)
        self.path = path

    def made(self) -> SqlRollouts:
        return SqliteRollouts(self.path, self.clock)

    def damage(self, statement: str) -> None:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as db:
            db.execute(statement)


class PostgresWorld(World):
    def __init__(self, clock: StoppedClock, postgres: Any) -> None:
        super().__init__(clock)
        self.postgres, self.address = postgres, postgres.database()

    def made(self) -> SqlRollouts:
        return PostgresRollouts(self.address, self.clock)

    def damage(self, statement: str) -> None:
        self.postgres.run(statement, self.address)

    def close(self) -> None:
        super().close()
        self.postgres.drop(self.address)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def world(request: pytest.FixtureRequest, tmp_path: Path, clock: StoppedClock) -> Iterator[World]:
    made: World
    if request.param == "sqlite":
        made = SqliteWorld(clock, tmp_path / "rollouts.db")
    else:
        made = PostgresWorld(clock, request.getfixturevalue("postgres"))
    yield made
    made.close()


@pytest.fixture
def rollouts(world: World) -> SqlRollouts:
    return world.connect()


def opened(version: int = 2, attempt: int = 1, **more: Any) -> Opened:
    return Opened(
        **FACTS,
        rollout_id=f"fraud-v{version}-{attempt}",
        challenger=arm(version),
        author="ann",
        alert_low=0.0,
        alert_high=0.1,
        **{"bootstrap": True, "approval": "none", **more},
    )


def shadow(version: int = 2) -> ShadowStarted:
    return ShadowStarted(**FACTS, rollout_id=f"fraud-v{version}-1", displaced=None)


def shadow_routes(generation: int = 1) -> Routes:
    return Routes("fraud", generation, None, arm(2), None, "fraud-v2-1", "shadow", 0.0)


def acquired(rollouts: SqlRollouts, holder: str = "pass", *, steal: bool = False) -> Fence:
    fence = rollouts.acquire("fraud", holder, 60, steal=steal)
    assert fence is not None
    return fence


def test_facts_are_followed_by_position_and_anchors_are_passed_by(world: World) -> None:
    rollouts, other = world.connect(), world.connect()
    assert (rollouts.last_position(), rollouts.facts(0, 10)) == (0, [])
    rollouts.commit(opened(), None)
    other.anchor(ManifestHead(1, "d", {}))
    other.commit(shadow(), acquired(other), shadow_routes())
    found = rollouts.facts(0, 10)
    assert [(f.position, f.fact) for f in found] == [(1, opened()), (3, shadow())]
    assert len({f.digest for f in found}) == 2
    assert (rollouts.facts(1, 10), rollouts.facts(0, 1)) == (found[1:], found[:1])
    assert rollouts.last_position() == 3


def test_a_journal_gives_back_what_was_committed(rollouts: SqlRollouts) -> None:
    rollouts.commit(opened(), None)
    state = rollouts.commit(shadow(), acquired(rollouts), shadow_routes())
    assert rollouts.read("fraud-v2-1") == (opened(), shadow())
    assert state.phase == "shadow"
    assert rollouts.active() == rollouts.active("fraud") == [state]
    assert rollouts.active("other") == []
    assert rollouts.routes("fraud") == shadow_routes()


def test_a_model_without_routes_is_at_generation_zero(rollouts: SqlRollouts) -> None:
    assert rollouts.routes("fraud") == no_routes("fraud")


def test_an_unknown_rollout_is_named(rollouts: SqlRollouts) -> None:
    with pytest.raises(NotFound, match="fraud-v9-1"):
        rollouts.read("fraud-v9-1")


def test_another_process_sees_new_routes_at_once(rollouts: SqlRollouts, world: World) -> None:
    gateway = world.connect()
    assert gateway.routes("fraud").generation == 0
    rollouts.commit(opened(), None)
    rollouts.commit(shadow(), acquired(rollouts), shadow_routes())
    assert gateway.routes("fraud") == shadow_routes()


@pytest.mark.parametrize("transition", [shadow(), RolledBack(**FACTS, rollout_id="fraud-v2-1")])
def test_only_facts_from_outside_need_no_fence(
    rollouts: SqlRollouts, transition: Transition
) -> None:
    rollouts.commit(opened(), None)
    with pytest.raises(StaleFence):
        rollouts.commit(transition, None)


def test_whoever_lost_the_lease_changes_nothing(rollouts: SqlRollouts) -> None:
    rollouts.commit(opened(), None)
    old = acquired(rollouts)
    acquired(rollouts, "person", steal=True)
    with pytest.raises(StaleFence, match="taken over"):
        rollouts.commit(shadow(), old, shadow_routes())
    assert rollouts.read("fraud-v2-1") == (opened(),)
    assert rollouts.routes("fraud").generation == 0


def test_a_fence_of_another_model_is_stale(rollouts: SqlRollouts) -> None:
    rollouts.commit(opened(), None)
    other = rollouts.acquire("other", "pass", 60)
    with pytest.raises(StaleFence, match="other"):
        rollouts.commit(shadow(), other)


def test_tokens_only_grow(rollouts: SqlRollouts, clock: StoppedClock) -> None:
    first = acquired(rollouts)
    assert rollouts.acquire("fraud", "second", 60) is None
    rollouts.release(first)
    second = acquired(rollouts, "second")
    clock.wall += 61_000
    third = acquired(rollouts, "third")
    again = acquired(rollouts, "third")
    assert first.token < second.token < third.token < again.token
    rollouts.release(second)
    assert rollouts.acquire("fraud", "fourth", 60) is None


def test_a_commit_renews_its_lease(rollouts: SqlRollouts, clock: StoppedClock) -> None:
    rollouts.commit(opened(), None)
    fence = acquired(rollouts)
    clock.wall += 59_000
    rollouts.commit(shadow(), fence, shadow_routes())
    clock.wall += 59_000
    assert rollouts.acquire("fraud", "other", 60) is None


def test_a_lease_is_renewed_until_it_is_taken_over(
    rollouts: SqlRollouts, clock: StoppedClock
) -> None:
    first = acquired(rollouts)
    clock.wall += 59_000
    assert rollouts.renew(first)
    clock.wall += 59_000
    assert rollouts.acquire("fraud", "other", 60) is None
    acquired(rollouts, "a person", steal=True)
    assert not rollouts.renew(first)
    assert rollouts.acquire("fraud", "other", 60) is None


def test_journal_and_routes_change_together_or_not_at_all(rollouts: SqlRollouts) -> None:
    rollouts.commit(opened(), None)
    with pytest.raises(StaleFence, match="generation 0; 2 refused"):
        rollouts.commit(shadow(), acquired(rollouts), shadow_routes(generation=2))
    assert rollouts.read("fraud-v2-1") == (opened(),)
    assert rollouts.active()[0].phase == "deploying"


def test_a_transition_that_cannot_follow_is_refused(rollouts: SqlRollouts) -> None:
    rollouts.commit(opened(), None)
    fence = acquired(rollouts)
    rollouts.commit(shadow(), fence, shadow_routes())
    with pytest.raises(Refused, match="is shadow"):
        rollouts.commit(shadow(), fence, shadow_routes(2))
    with pytest.raises(Refused, match="opened before"):
        rollouts.commit(opened(), None)


def test_one_rollout_of_a_model_ramps(rollouts: SqlRollouts) -> None:
    rollouts.commit(opened(), None)
    with pytest.raises(Busy, match="mlplatform rollouts abort fraud-v2-1"):
        rollouts.commit(opened(3), None)
    rollouts.commit(RolledBack(**FACTS, rollout_id="fraud-v2-1"), acquired(rollouts))
    assert rollouts.commit(opened(3), None).phase == "deploying"
    assert [s.rollout_id for s in rollouts.active()] == ["fraud-v3-1"]
    assert len(rollouts.active(finished=True)) == 2


def promote_first(rollouts: SqlRollouts) -> tuple[Fence, Routes]:
    """Version 1 is champion, and its promotion stands."""
    rollouts.commit(opened(1), None)
    fence = acquired(rollouts)
    steady = Routes("fraud", 1, arm(1), None, None, "fraud-v1-1", "steady", 0.0)
    facts = FACTS | {"rollout_id": "fraud-v1-1"}
    rollouts.commit(Promoted(**facts, predecessor=None), fence, steady)
    rollouts.commit(Confirmed(**facts), fence)
    return fence, steady


SECOND = FACTS | {"rollout_id": "fraud-v2-1"}
SHADOWED = Routes("fraud", 2, arm(1), arm(2), None, "fraud-v2-1", "shadow", 0.0)


def test_the_rollouts_of_a_version_are_found_among_others_of_its_model(
    rollouts: SqlRollouts,
) -> None:
    fence = acquired(rollouts)
    for version, attempt in ((2, 1), (3, 1), (2, 2)):
        first = opened(version, attempt)
        rollouts.commit(first, None)
        rollouts.commit(RolledBack(**FACTS, rollout_id=first.rollout_id), fence)
    everything = [rollouts.read(s.rollout_id) for s in rollouts.active("fraud", finished=True)]
    assert len(everything) == 3
    for version in (2, 3, 4):
        wanted = [f for f in everything if fold(f).challenger.version == version]
        assert rollouts.of_version("fraud", version) == tuple(wanted)
    assert rollouts.of_version("other", 2) == ()


@pytest.mark.parametrize(
    "routes",
    [
        pytest.param(None, id="none"),
        pytest.param(dataclasses.replace(SHADOWED, champion=arm(2)), id="another champion"),
        pytest.param(
            dataclasses.replace(SHADOWED, phase="canary", challenger_percent=100.0), id="all"
        ),
        pytest.param(dataclasses.replace(SHADOWED, challenger=arm(3)), id="another version"),
        pytest.param(dataclasses.replace(SHADOWED, rollout_id="fraud-v1-1"), id="another rollout"),
    ],
)
def test_no_routes_are_written_but_those_that_follow_from_the_transition(
    rollouts: SqlRollouts, routes: Routes | None
) -> None:
    fence, steady = promote_first(rollouts)
    rollouts.commit(opened(2, bootstrap=False, approval="required"), None)
    with pytest.raises(Refused, match="other ones follow from it"):
        rollouts.commit(shadow(), fence, routes)
    assert rollouts.routes("fraud") == steady
    assert rollouts.commit(shadow(), fence, SHADOWED).phase == "shadow"


@pytest.mark.parametrize(
    "routes",
    [
        pytest.param(None, id="as they are"),
        pytest.param(dataclasses.replace(SHADOWED, generation=3), id="still in shadow"),
        pytest.param(
            dataclasses.replace(
                SHADOWED, generation=3, champion=arm(3), challenger=None, phase="steady"
            ),
            id="a champion that never was",
        ),
        pytest.param(
            dataclasses.replace(
                SHADOWED, generation=3, challenger=None, phase="steady", previous=arm(3)
            ),
            id="a predecessor that never was",
        ),
    ],
)
def test_after_a_rollback_the_version_answers_nobody(
    rollouts: SqlRollouts, routes: Routes | None
) -> None:
    fence, steady = promote_first(rollouts)
    rollouts.commit(opened(2, bootstrap=False), None)
    rollouts.commit(shadow(), fence, SHADOWED)
    with pytest.raises(Refused, match="other ones follow from it"):
        rollouts.commit(RolledBack(**SECOND), fence, routes)
    back = dataclasses.replace(steady, generation=3)
    assert rollouts.commit(RolledBack(**SECOND), fence, back).phase == "rolled_back"
    assert rollouts.routes("fraud") == back


def test_an_opening_says_truly_whether_there_is_a_champion(rollouts: SqlRollouts) -> None:
    with pytest.raises(Refused, match="planned against a champion; fraud has none now"):
        rollouts.commit(opened(1, bootstrap=False), None)
    promote_first(rollouts)
    with pytest.raises(Refused, match="fraud has a champion"):
        rollouts.commit(opened(2, bootstrap=True), None)
    with pytest.raises(Refused, match="version 1 of fraud is its champion already"):
        rollouts.commit(opened(1, 2, bootstrap=False), None)


def test_nobody_asks_again_and_again_for_an_emergency(rollouts: SqlRollouts) -> None:
    """Neither beside one that waits for the second person, nor for a bundle nobody confirmed."""
    fence, steady = promote_first(rollouts)
    rollouts.commit(opened(2, bootstrap=False, emergency=True), None)
    promoted = dataclasses.replace(
        steady, generation=2, champion=arm(2), previous=arm(1), rollout_id="fraud-v2-1"
    )
    rollouts.commit(Promoted(**SECOND, predecessor=arm(1)), fence, promoted)
    with pytest.raises(Refused, match="waits for a second person"):
        rollouts.commit(opened(3, bootstrap=False, emergency=True), None)
    back = dataclasses.replace(promoted, generation=3, champion=arm(1), previous=None)
    rollouts.commit(RolledBack(**SECOND), fence, back)
    with pytest.raises(Refused, match="was not confirmed"):
        rollouts.commit(opened(2, 2, bootstrap=False, emergency=True), None)
    assert rollouts.commit(opened(2, 2, bootstrap=False), None).phase == "deploying"


def test_of_two_passes_at_once_one_gets_the_lease(world: World) -> None:
    fences: list[Fence | None] = []

    def take(holder: str) -> None:
        mine = world.made()
        fences.append(mine.acquire("fraud", holder, 60))
        mine.close()

    threads = [threading.Thread(target=take, args=(f"pass-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(fence is not None for fence in fences) == 1


def test_gateways_count_while_they_live(rollouts: SqlRollouts, clock: StoppedClock) -> None:
    rollouts.lease("b", {"fraud": 3}, 10)
    rollouts.lease("a", {"other": 1}, 20)
    assert rollouts.gateways("fraud") == [GatewayLease("a", None), GatewayLease("b", 3)]
    rollouts.lease("b", {"fraud": 4}, 10)
    assert GatewayLease("b", 4) in rollouts.gateways("fraud")
    clock.wall += 10_000
    assert rollouts.gateways("fraud") == [GatewayLease("a", None)]


def test_the_last_anchor_is_kept(rollouts: SqlRollouts) -> None:
    assert rollouts.last_anchor() is None
    head = ManifestHead(1, "aa", {"gateway-1": WriterHead(9, "bb")})
    for _ in range(2):
        rollouts.anchor(head)
    later = dataclasses.replace(head, count=2)
    rollouts.anchor(later)
    assert rollouts.last_anchor() == later
    assert rollouts.verify() == ()


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("UPDATE journal SET body = replace(body, 'because', 'BECAUSE') WHERE seq = 1", "row 1"),
        ("UPDATE journal SET routes = NULL WHERE seq = 2", "row 2 was changed"),
        ("DELETE FROM journal WHERE seq = 2", "row 2 is missing"),
        ("DELETE FROM journal WHERE seq >= 2", "is shadow, its journal says deploying"),
        ("UPDATE routes SET body = replace(body, 'shadow', 'canary')", "routes of fraud"),
    ],
)
def test_damage_to_the_journal_is_named(
    rollouts: SqlRollouts, world: World, damage: str, finding: str
) -> None:
    rollouts.commit(opened(), None)
    rollouts.commit(shadow(), acquired(rollouts), shadow_routes())
    rollouts.anchor(ManifestHead(1, "aa", {}))
    assert rollouts.verify() == ()
    world.damage(damage)
    assert finding in " ".join(rollouts.verify())


def test_the_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    SqliteRollouts(tmp_path / "rollouts.db").close()
    assert (tmp_path / "rollouts.db").stat().st_mode & 0o077 == 0


def champion_of(rollouts: SqlRollouts, *versions: int) -> None:
    """Versions that are promoted at once and confirmed, one after another."""
    for version in versions:
        is_first = rollouts.routes("fraud").champion is None
        rollouts.commit(opened(version, bootstrap=is_first, emergency=not is_first), None)
        fence, fact = acquired(rollouts), {**FACTS, "rollout_id": f"fraud-v{version}-1"}
        present = rollouts.routes("fraud")
        promoted = Promoted(**fact, predecessor=present.champion)
        state = fold(rollouts.read(fact["rollout_id"]))
        rollouts.commit(promoted, fence, promoted_routes(state, present))
        if not is_first:
            answered = Answered(
                **fact, answer="approve", approver="bob", bound_to=promoted.evidence_digest
            )
            rollouts.commit(answered, None)
        after = rollouts.routes("fraud")
        spare = None if after.previous is None else following(after, previous=None)
        rollouts.commit(Confirmed(**fact), fence, spare)


def test_a_test_of_variants_is_one_chain_of_facts_with_its_routes(world: World) -> None:
    rollouts, gateway = world.connect(), world.connect()
    champion_of(rollouts, 1, 2)
    test = {**FACTS, "test_id": "fraud-variants-1"}
    variants = (Variant(arm(1), 20.0, ((0, 2000), (3000, 3010))),)
    start = VariantsStarted(**test, champion=arm(2), variants=variants, days=14.0)
    facts: list[Any] = []
    for make in (
        lambda _: start,
        lambda routes: VariantsAnswering(**test, generation=routes.generation + 1),
        lambda _: VariantRemoved(**test, version=1, service=arm(1).service, evidence={"a": [1.5]}),
    ):
        present = rollouts.routes("fraud")
        facts.append(make(present))
        rollouts.control(facts[-1], acquired(rollouts), controlled_routes(facts[-1], present))
        assert gateway.routes("fraud") == controlled_routes(facts[-1], present)
    assert gateway.controls("fraud") == tuple(facts)
    assert [found.fact for found in gateway.facts(0, 100)][-3:] == facts
    assert gateway.routes("fraud").test is None
    assert gateway.verify() == ()
    again, fence = controlled_routes(start, rollouts.routes("fraud")), acquired(rollouts)
    with pytest.raises(Refused, match="taken out of an earlier test"):
        rollouts.control(start, fence, again)


def test_of_a_rollout_and_a_test_at_once_the_journal_takes_the_first(world: World) -> None:
    rollouts = world.connect()
    champion_of(rollouts, 1, 2)
    test = {**FACTS, "test_id": "fraud-variants-1"}
    variants = (Variant(arm(1), 20.0, ((0, 2000),)),)
    start = VariantsStarted(**test, champion=arm(2), variants=variants, days=14.0)
    routes = controlled_routes(start, rollouts.routes("fraud"))
    rollouts.commit(opened(3, bootstrap=False), None)
    with pytest.raises(Refused, match="no test runs beside it"):
        rollouts.control(start, acquired(rollouts), routes)
    rollouts.commit(RolledBack(**FACTS, rollout_id="fraud-v3-1"), acquired(rollouts))
    rollouts.control(start, acquired(rollouts), routes)
    with pytest.raises(Refused, match="no rollout is opened beside it"):
        rollouts.commit(opened(4, bootstrap=False), None)
    assert rollouts.verify() == ()
