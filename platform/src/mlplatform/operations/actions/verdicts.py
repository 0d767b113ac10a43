"""Verdicts of a rollout, computed again from the log."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.passes.replay import ReplayedVerdict, replay_verdict
from mlplatform.runtime.errors import NotFound


def replay(platform: Platform, rollout_id: str) -> Iterator[ReplayedVerdict]:
    """Yield each verdict that led to a transition of the rollout, in order.

    Raises:
        NotFound: no rollout has this id.
    """
    facts = platform.rollouts.read(rollout_id)
    if not facts:
        raise NotFound(f"no rollout {rollout_id}")
    policy = platform.definition(facts[0].model).rollout
    counted = platform.settings.home.counted
    counted.mkdir(mode=0o700, parents=True, exist_ok=True)
    for fact in facts:
        with tempfile.TemporaryDirectory(prefix="replay-", dir=counted) as folder:
            found = replay_verdict(Path(folder), platform.log, fact, policy)
        if found is not None:
            yield found


def changes(platform: Platform) -> tuple[str, ...]:
    """Findings of a check of the log and the journal, one sentence each. A verdict rests on both,
    also on what moved none of its numbers."""
    journal = platform.rollouts
    return (*journal.verify(), *platform.log.verify(journal.last_anchor()).findings)
