"""Verdicts of a rollout, computed again from the log."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlplatform.decisions.records.port import NamedHead, WriterHead
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal.transitions import Transition
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


def changes(platform: Platform, rollout_id: str) -> tuple[str, ...]:
    """Findings of a check of the log and the journal, one sentence each. A verdict rests on both,
    also on what moved none of its numbers: the journal holds the chain of each writer up to which
    the log was read for it."""
    journal = platform.rollouts
    heads = tuple(dict.fromkeys(_heads(journal.read(rollout_id))))
    return (*journal.verify(), *platform.log.verify(journal.last_anchor(), heads=heads).findings)


def _heads(facts: Sequence[Transition]) -> Iterator[NamedHead]:
    for fact in facts:
        basis = fact.evidence.get("basis")
        if basis is None:
            continue
        for mark in basis["sources"]["watermarks"]:
            if chain := mark.get("chain"):
                verdict = f"the verdict of {fact.rollout_id} ({fact.__struct_config__.tag})"
                yield NamedHead(mark["writer"], WriterHead(mark["seq"], chain), verdict)
