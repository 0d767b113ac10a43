"""Who was champion when: from the promotions and rollbacks of all rollouts of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promotion:
    """A version made champion; `undone_ms` is when its promotion was rolled back."""

    version: int
    at_ms: int
    undone_ms: int | None


@dataclass(frozen=True, slots=True)
class ChampionTenure:
    """One stretch of event time in which a version was champion.

    Args:
        to_ms: None while it lasts.
        successor: who was champion next; None while it lasts.
    """

    version: int
    from_ms: int
    to_ms: int | None
    successor: int | None


def tenures(promotions: Sequence[Promotion]) -> list[ChampionTenure]:
    """Every tenure in the order of time: the champion is that of the last promotion in force."""
    changes_ms = sorted(
        {p.at_ms for p in promotions} | {p.undone_ms for p in promotions if p.undone_ms is not None}
    )
    champions: list[tuple[int, int]] = []
    for at_ms in changes_ms:
        version = _champion_at(promotions, at_ms)
        if version is not None and (not champions or champions[-1][1] != version):
            champions.append((at_ms, version))
    found = []
    for place, (start, version) in enumerate(champions):
        end, successor = champions[place + 1] if place + 1 < len(champions) else (None, None)
        found.append(ChampionTenure(version, start, end, successor))
    return found


def _champion_at(promotions: Sequence[Promotion], moment_ms: int) -> int | None:
    standing = [
        p
        for p in promotions
        if p.at_ms <= moment_ms and (p.undone_ms is None or moment_ms < p.undone_ms)
    ]
    return max(standing, key=lambda p: p.at_ms).version if standing else None
