"""Checks of the versions that may be variants of an A/B/n test, and the customers each of them
gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from mlplatform.model.routes import BUCKETS, Arm, Routes
from mlplatform.rollouts.journal.controls import ControlState, VariantsStarted
from mlplatform.rollouts.journal.state import RolloutState, appearances
from mlplatform.runtime.errors import Refused

MOST_VARIANTS: Final = 4
"""Most variants of a test: each is a service, and each gateway holds its bundle."""
MOST_DAYS: Final = 90.0
"""Most days of a test."""
_STOOD: Final = frozenset({"confirmed", "superseded"})
"""Phases in which a rollout ended that made its version champion, and took it back for no harm."""


def id_of_test(model: str, number: int) -> str:
    """The id of a model's test, which is also the salt of its buckets."""
    return f"{model}-variants-{number}"


def allotted(
    shares: Mapping[int, float], before: Mapping[int, Sequence[tuple[int, int]]] | None = None
) -> dict[int, tuple[tuple[int, int], ...]]:
    """The ranges of buckets of each version, by the shares of the customers that they are to have.

    A share that is larger than before keeps all buckets and gets more of the champion's, so that
    nobody but the champion loses a customer.

    Args:
        shares: version → percent of the customers, 0.01 or more; together below 100.
        before: version → its ranges so far, (first, end) with the end exclusive; None means that
            nobody has any.

    Raises:
        Refused: a share is smaller than before, is below a bucket, or all shares together leave the
            champion nothing.
    """
    kept = {version: tuple((before or {}).get(version, ())) for version in shares}
    total = sum(shares.values())
    if total >= 100:
        raise Refused(
            f"the variants' shares are {total:g} % together; wanted: less than 100 %, as the"
            " champion keeps a part"
        )
    for version, percent in shares.items():
        wanted = round(percent * BUCKETS / 100)
        missing = wanted - _size(kept[version])
        if wanted < 1 or missing < 0:
            least = max(_size(kept[version]), 1) * 100 / BUCKETS
            raise Refused(
                f"version {version} can't have {percent:g} % of the customers; wanted: "
                f"{least:g} % or more"
            )
        free = _free(range_ for ranges in kept.values() for range_ in ranges)
        kept[version] = _joined((*kept[version], *_first(free, missing)))
    return kept


def check_start(
    fact: VariantsStarted, earlier: Iterable[RolloutState], state: ControlState, present: Routes
) -> None:
    """Raises unless a person may start this test now.

    Args:
        earlier: all rollouts of the model, oldest first, finished ones too.
        state: the model's controls before the fact.

    Raises:
        Refused: the model is switched off or has no champion, or one of its rollouts is not
            finished; or a version is champion, has never been, or was taken back for harm since; or
            the person made a version whose rollout needed an approval; or the test is too long or
            has too many variants.
    """
    model, states = fact.model, list(earlier)
    if present.killed:
        raise Refused(f"{model} is switched off: `rollouts lift` switches it on first")
    if fact.champion != present.champion:
        raise Refused(f"version {fact.champion.version} is no longer the champion of {model}")
    if open_ := [s for s in states if not s.finished]:
        raise Refused(
            f"rollout {open_[-1].rollout_id} is {open_[-1].phase}, and no test runs beside it: wait"
            " until it is confirmed, or end it by `rollouts abort`"
        )
    if not 0 < fact.days <= MOST_DAYS:
        wanted = f"wanted: more than 0 and at most {MOST_DAYS:g}"
        raise Refused(f"a test can't run {fact.days:g} days; {wanted}")
    arms = [variant.arm for variant in fact.variants]
    if not 0 < len(arms) <= MOST_VARIANTS or len({a.bundle for a in arms}) < len(arms):
        raise Refused(
            f"a test has 1 to {MOST_VARIANTS} variants, each with a bundle of its own;"
            f" {len(arms)} were named"
        )
    for arm in arms:
        _check_version(arm, fact, states, state, present)
    allotted({v.arm.version: v.percent for v in fact.variants})


def former_champion(version: int, earlier: Sequence[RolloutState], model: str) -> RolloutState:
    """The newest rollout of a version that was champion and was not taken back since.

    Raises:
        Refused: there is no such rollout; the error lists the versions that have one.
    """
    newest = {state.challenger.version: state for state in earlier}
    found = newest.get(version)
    if found is not None and found.phase in _STOOD:
        return found
    fit = sorted(number for number, state in newest.items() if state.phase in _STOOD)
    why = "has never been champion" if found is None else f"was last {found.phase}: {found.reason}"
    raise Refused(
        f"version {version} of {model} {why}; wanted: a version that has been champion and was not"
        f" taken back: {', '.join(map(str, fit)) or 'none so far'}. Or open a rollout of this one"
    )


def _check_version(
    arm: Arm,
    fact: VariantsStarted,
    earlier: Sequence[RolloutState],
    state: ControlState,
    present: Routes,
) -> None:
    champion = present.champion
    if champion is not None and arm.bundle == champion.bundle:
        raise Refused(f"version {arm.version} of {fact.model} is its champion: name another one")
    found = former_champion(arm.version, earlier, fact.model)
    if found.challenger != arm:
        raise Refused(f"version {arm.version} of {fact.model} is another bundle than its rollout's")
    if state.removed.get(arm.service, -1) >= found.since_wall_ms:
        raise Refused(
            f"version {arm.version} of {fact.model} was taken out of an earlier test for harm: open"
            " a rollout of it instead"
        )
    people = {fact.actor, *(fact.identity.known_as if fact.identity else ())}
    if found.needs_approval and appearances(*people) & appearances(found.author):
        raise Refused(
            f"{fact.actor} made version {arm.version}, whose rollout needed an approval: somebody"
            " else starts a test with it"
        )


def check_free_of_test(model: str, present: Routes) -> None:
    """Raises Refused if an A/B/n test runs: no rollout is opened beside it."""
    if present.test is not None:
        raise Refused(
            f"test {present.test.test_id} runs, and no rollout is opened beside it: `mlplatform"
            f" variants end {model}` ends it"
        )


def _size(ranges: Iterable[tuple[int, int]]) -> int:
    return sum(end - first for first, end in ranges)


def _free(taken: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges of buckets that nobody has, in order."""
    free, at = [], 0
    for first, end in sorted(taken):
        if first > at:
            free.append((at, first))
        at = end
    return [*free, (at, BUCKETS)]


def _first(ranges: Iterable[tuple[int, int]], number: int) -> list[tuple[int, int]]:
    """The first so many buckets of some ranges."""
    found = []
    for first, end in ranges:
        part = min(end - first, number)
        if part:
            found.append((first, first + part))
        number -= part
    return found


def _joined(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The ranges in order; those that touch are one."""
    joined: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if joined and joined[-1][1] == first:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((first, end))
    return tuple(joined)
