"""A rollout's verdicts, computed again from the log and the evidence in its journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from mlplatform.decisions.records.port import DecisionLog
from mlplatform.model.policies.rollout import RolloutPolicy
from mlplatform.rollouts.cache.pair_cache import shadow_outcomes
from mlplatform.rollouts.journal.evidence import renewed_values
from mlplatform.rollouts.journal.transitions import Transition
from mlplatform.rollouts.passes.count_cache import count
from mlplatform.rollouts.verdicts.basis import basis_of, outcome_gates, verdict
from mlplatform.rollouts.verdicts.verdict import Gate
from mlplatform.runtime.code_version import code_version
from mlplatform.runtime.errors import Corrupt

MOST_NAMED: Final = 8
_OF_THE_LOG: Final = ("records", "until_event_ms", "arms", "dropped", "log", "position", "counted")


@dataclass(frozen=True, slots=True)
class ReplayedVerdict:
    """A verdict of the journal beside the same verdict computed now.

    Args:
        transition: kind of the transition that followed from the verdict.
        again: the verdict computed now; None if it can't be computed, and then `differences` says
            why.
        differences: texts about values that differ from the recorded ones.
        notes: texts about changes since then that do not affect the verdict.
    """

    transition: str
    wall_ms: int
    recorded: str
    again: str | None
    differences: tuple[str, ...]
    notes: tuple[str, ...]


def replay_verdict(
    folder: Path, log: DecisionLog, fact: Transition, policy: RolloutPolicy
) -> ReplayedVerdict | None:
    """A transition's verdict computed again; None for a transition that followed from no verdict.

    Args:
        folder: empty folder in which the records are counted.
        policy: present policy of model.yaml.
    """
    if "verdict" not in fact.evidence:
        return None
    kind, recorded = str(fact.__struct_config__.tag), str(fact.evidence["verdict"])

    def found(
        again: str | None, differences: tuple[str, ...], notes: tuple[str, ...] = ()
    ) -> ReplayedVerdict:
        return ReplayedVerdict(kind, fact.wall_ms, recorded, again, differences, notes)

    try:
        basis = basis_of(fact.evidence)
    except msgspec.ValidationError as error:
        return found(None, (f"this release can't read its basis: {error}",))
    if basis is None:
        return found(None, ("an earlier release kept no basis of its verdicts",))
    try:
        counted = count(
            folder, log, fact.model, basis.subject, basis.sources.watermarks, line_ms=basis.line_ms
        )
        slow: list[Gate] = []
        if basis.outcomes is not None:
            outcomes = shadow_outcomes(folder, log, fact.model, basis.outcomes)
            slow = outcome_gates(basis.outcomes, outcomes)
    except Corrupt as error:
        return found(None, (f"the log can't be read: {error}",))
    again = verdict(basis, counted.seen, counted.complete, slow)
    # keys that an earlier release did not have get their defaults in its basis
    then = fact.evidence | {"basis": msgspec.to_builtins(basis)}
    notes = _policy_notes(basis.policy, policy)
    if basis.code != code_version():
        notes = (*notes, f"judged by {basis.code}, computed again by {code_version()}")
        then = then | {"gates": _worded(then.get("gates", {}), again.evidence["gates"])}
    return found(again.verdict, _differences(then, again.evidence), notes)


def _worded(then: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, Any]:
    """The journal's gates with this release's sentences and names of values, if it has the gate.
    Releases word verdicts and write numbers differently; only the values are evidence."""
    return {
        name: {
            **gate,
            "reason": again[name]["reason"],
            "values": renewed_values(gate.get("values") or {}),
        }
        if name in again
        else gate
        for name, gate in then.items()
    }


def _differences(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> tuple[str, ...]:
    then = {key: recorded.get(key) for key in again}
    named = [
        f"{path}: {_short(one)} then, {_short(other)} now"
        for path, one, other in _leaves(then, msgspec.to_builtins(again))
    ]
    if not named:
        return ()
    moved = any(then[key] != again[key] for key in _OF_THE_LOG)
    what = (
        "the log does not hold what was judged: mlplatform log verify names a changed record"
        if moved
        else "the same records, and another outcome: labels, evidence or code have changed"
    )
    more = len(named) - MOST_NAMED
    return (what, *named[:MOST_NAMED], *([f"and {more} more"] if more > 0 else []))


def _policy_notes(then: RolloutPolicy, now: RolloutPolicy) -> tuple[str, ...]:
    pair = (msgspec.to_builtins(policy) for policy in (then, now))
    return tuple(
        f"model.yaml has changed since: rollout.{path} was {_short(one)} and is now {_short(other)}"
        for path, one, other in _leaves(*pair)
    )


def _leaves(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield path and values of each difference between two JSON values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            inner = f"{path}.{key}" if path else key
            yield from _leaves(one.get(key), other.get(key), inner)
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield path, one, other
            return
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from _leaves(first, second, f"{path}[{number}]")
    elif one != other:
        yield path, one, other


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 120 else f"{text[:117]}..."
