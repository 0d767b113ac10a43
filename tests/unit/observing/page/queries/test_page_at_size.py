"""What the page reads of the journal does not grow with the rollouts that are over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlplatform.observing.page.queries.sources import Sources
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal import sql
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.transitions import Answered, Transition
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import NotFound
from rollout_world import arm
from support.journal_steps import commit, give_champion
from support.judged_rollout import JudgedRollout

ROLLOUTS = 40


@pytest.fixture(scope="module")
def facts() -> tuple[Transition, ...]:
    return JudgedRollout(analyses=1, requests=400).stopped()


@pytest.fixture
def sources(tmp_path: Path, facts: tuple[Transition, ...]) -> Iterator[Sources]:
    """Of 40 rollouts, of which the newest is under way."""
    platform = Platform(load({"MLPLATFORM_HOME": str(tmp_path)}))
    platform.settings.home.create()
    journal = SqliteRollouts(platform.settings.home.rollouts_db, durable=False)
    give_champion(journal, "fraud", arm(1))
    fence = journal.acquire("fraud", "test", 600.0)
    for number in range(1, ROLLOUTS + 1):
        for fact in facts if number < ROLLOUTS else facts[:-1]:
            changed: dict[str, Any] = {"rollout_id": f"fraud-v{number}-1"}
            if fact.evidence:
                changed["evidence"] = {**fact.evidence, "version": number}
            if isinstance(fact, Answered):
                changed["bound_to"] = journal.read(changed["rollout_id"])[-1].evidence_digest
            own = msgspec.structs.replace(fact, **changed)
            commit(journal, own, fence)
    journal.close()
    yield Sources(platform)
    platform.rollouts.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Rollouts whose journals are read."""
    found: list[str] = []
    read = sql._transitions

    def counted(db: Any, rollout_id: str) -> tuple[Transition, ...]:
        found.append(rollout_id)
        return read(db, rollout_id)

    monkeypatch.setattr(sql, "_transitions", counted)
    return found


def test_a_part_of_the_rollouts_reads_the_journals_of_that_part(
    sources: Sources, reads: list[str]
) -> None:
    part = sources.rollouts(skip=10, most=5)
    wanted = [f"fraud-v{number}-1" for number in (30, 29, 28, 27, 26)]
    assert [state.rollout_id for state in part] == wanted
    assert reads == wanted
    assert sources.rollouts("fraud", skip=38, most=9) == sources.rollouts(skip=38, most=2)
    assert sources.rollouts("credit", most=9) == []


def test_the_overview_reads_the_journals_of_what_is_under_way(
    sources: Sources, reads: list[str]
) -> None:
    assert [state.rollout_id for state in sources.rollouts_under_way()] == ["fraud-v40-1"]
    assert reads == ["fraud-v40-1"]


def test_evidence_is_found_without_reading_every_journal_again(
    sources: Sources, reads: list[str]
) -> None:
    digests = [f.evidence_digest for f in sources.rollout("fraud-v3-1") if f.evidence]
    reads.clear()
    for digest in digests * 2:
        assert sources.evidence(digest).rollout_id == "fraud-v3-1"
    assert set(reads) == {"fraud-v3-1"}
    unseeing = Sources(sources.platform, lambda model: False)
    with pytest.raises(NotFound, match="no transition carries"):
        unseeing.evidence(digests[0])
    with pytest.raises(NotFound, match="no transition carries"):
        sources.evidence("0" * 64)
