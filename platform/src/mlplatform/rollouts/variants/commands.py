"""Commands of people on A/B/n tests: start one, raise its shares, end it."""

from __future__ import annotations

from collections.abc import Mapping

from mlplatform.model.routes import BUCKETS, Arm, Variant
from mlplatform.rollouts.journal.controls import (
    ControlState,
    VariantsEnded,
    VariantsRaised,
    VariantsStarted,
    VariantTestState,
    fold_controls,
)
from mlplatform.rollouts.journal.transitions import ProvenIdentity
from mlplatform.rollouts.journal.variants import (
    allotted,
    former_champion,
    id_of_test,
)
from mlplatform.rollouts.passes.controls import ControlsJournal, control_fact, write_control
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.errors import Refused


def start(
    journal: ControlsJournal,
    model: str,
    shares: Mapping[int, float],
    *,
    days: float,
    actor: str,
    reason: str,
    clock: Clock,
    identity: ProvenIdentity | None = None,
) -> ControlState:
    """Start a test of former champions beside the champion. Passes start their services, and then
    the variants answer.

    Args:
        shares: version → percent of the customers, 0.01 or more; together below 100.
        days: days of event time, or of wall time, for which the variants answer; above 0, 90 at
            most.
        identity: identity of the actor that an identity provider proved; None if there is none. The
            other functions here have the same parameter.

    Raises:
        Refused: a test or a rollout is under way; a version has not been champion, or was taken
            back; or the shares leave the champion nothing.
    """
    states, champion = journal.active(model, finished=True), journal.routes(model).champion
    if champion is None:
        raise Refused(f"{model} has no champion to test versions against: roll one out first")
    arms = {version: former_champion(version, states, model).challenger for version in shares}
    fact = control_fact(
        VariantsStarted,
        model,
        clock,
        actor=actor,
        reason=reason,
        identity=identity,
        test_id=id_of_test(model, fold_controls(journal.controls(model)).tests + 1),
        champion=champion,
        variants=_variants(arms, allotted(shares)),
        days=days,
    )
    return write_control(journal, fact)


def raise_shares(
    journal: ControlsJournal,
    model: str,
    shares: Mapping[int, float],
    *,
    actor: str,
    reason: str,
    clock: Clock,
    identity: ProvenIdentity | None = None,
) -> ControlState:
    """Raise the shares of some variants of the running test: they keep their customers, and get
    some of the champion's.

    Args:
        shares: version → its new percent of the customers, not below the present one.

    Raises:
        Refused: no test runs, a version is no variant of it, a share is smaller than before, or the
            shares leave the champion nothing.
    """
    test = running_test(journal, model)
    present = {variant.arm.version: variant for variant in test.variants}
    if unknown := sorted(shares.keys() - present.keys()):
        raise Refused(
            f"version {unknown[0]} is not a variant of test {test.started.test_id}; its variants"
            f" are {', '.join(map(str, present))}"
        )
    wanted = {number: shares.get(number, variant.percent) for number, variant in present.items()}
    ranges = allotted(wanted, {number: variant.buckets for number, variant in present.items()})
    fact = control_fact(
        VariantsRaised,
        model,
        clock,
        actor=actor,
        reason=reason,
        identity=identity,
        test_id=test.started.test_id,
        variants=_variants({number: v.arm for number, v in present.items()}, ranges),
    )
    return write_control(journal, fact)


def end(
    journal: ControlsJournal,
    model: str,
    *,
    actor: str,
    reason: str,
    clock: Clock,
    identity: ProvenIdentity | None = None,
) -> ControlState:
    """End the running test at once: the champion answers everybody.

    Raises:
        Refused: no test of the model runs.
    """
    fact = control_fact(
        VariantsEnded,
        model,
        clock,
        actor=actor,
        reason=reason,
        identity=identity,
        test_id=running_test(journal, model).started.test_id,
    )
    return write_control(journal, fact)


def running_test(journal: ControlsJournal, model: str) -> VariantTestState:
    """The test of a model that runs.

    Raises:
        Refused: none does.
    """
    test = fold_controls(journal.controls(model)).test
    if test is None or not test.is_running:
        raise Refused(f"no test of {model} runs: `mlplatform variants start {model}` starts one")
    return test


def _variants(
    arms: Mapping[int, Arm], ranges: Mapping[int, tuple[tuple[int, int], ...]]
) -> tuple[Variant, ...]:
    sizes = {number: sum(end - first for first, end in ranges[number]) for number in arms}
    return tuple(
        Variant(arm, sizes[number] * 100 / BUCKETS, ranges[number]) for number, arm in arms.items()
    )
