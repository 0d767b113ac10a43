"""The controls over all of a model's traffic, beside its rollouts: what people stop and start, and
A/B/n tests. Facts and their fold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from mlplatform.model.routes import Arm, Routes, Variant, VariantTest
from mlplatform.rollouts.journal.transitions import (
    CanaryStepped,
    Confirmed,
    Promoted,
    ProvenIdentity,
    ShadowStarted,
    Transition,
)
from mlplatform.runtime.errors import Refused

if TYPE_CHECKING:  # as in `transitions`: msgspec drops what a TypedDict does not name
    from mlplatform.rollouts.journal.evidence import Evidence
else:
    Evidence = dict[str, Any]


class _Fact(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """The fields of every control: its time on both clocks, its actor and its reason.

    Args:
        identity: identity of the actor that an identity provider proved; None if a key or a command
            did it.
    """

    model: str
    event_ms: int
    wall_ms: int
    actor: str
    reason: str
    identity: ProvenIdentity | None = None


class Killed(_Fact, frozen=True, tag="killed"):
    """The model is switched off: no version is asked, and the fallback of its chain decides."""


class KillLifted(_Fact, frozen=True, tag="kill-lifted"):
    """The model is switched on again: versions are asked as the routes say."""


class StopsCleared(_Fact, frozen=True, tag="stops-cleared"):
    """Gateways ask the versions again that they had stopped for the volume of their decisions."""


class VariantsStarted(_Fact, frozen=True, tag="variants-started"):
    """A person started an A/B/n test; its variants answer once their services are ready.

    Args:
        champion: champion that they are compared with.
        days: days of event time, or of wall time, for which the variants answer.
    """

    test_id: str
    champion: Arm
    variants: tuple[Variant, ...]
    days: float


class VariantsAnswering(_Fact, frozen=True, tag="variants-answering"):
    """The variants answer their customers from now on.

    Args:
        generation: generation of the routes by which they do.
    """

    test_id: str
    generation: int


class VariantsRaised(_Fact, frozen=True, tag="variants-raised"):
    """A person raised shares of the running test: variants keep their customers, and get some of
    the champion's.

    Args:
        variants: all variants of the test, with their new shares.
    """

    test_id: str
    variants: tuple[Variant, ...]


class VariantRemoved(_Fact, frozen=True, tag="variant-removed"):
    """A variant was taken out for harm, and the champion answers its customers; without its last
    variant, the test is over.

    Args:
        service: the variant's service.
        evidence: what proved the harm, in canonical JSON values.
    """

    test_id: str
    version: int
    service: str
    evidence: Evidence = {}


class VariantsEnded(_Fact, frozen=True, tag="variants-ended"):
    """The test is over: the champion answers everybody."""

    test_id: str


VariantFact = VariantsStarted | VariantsAnswering | VariantsRaised | VariantRemoved | VariantsEnded
Control = Killed | KillLifted | StopsCleared | VariantFact

_decoder: msgspec.json.Decoder[Control] = msgspec.json.Decoder(Control)


@dataclass(frozen=True, slots=True)
class ControlState:
    """The controls in force for a model.

    Args:
        killed: fact that switched the model off; None if the model is on.
        test: newest A/B/n test, which may be over; None if there was none.
        removed: service of a version → wall time at which it was last taken out of a test for harm.
        tests: number of tests so far.
    """

    killed: Killed | None = None
    test: VariantTestState | None = None
    removed: Mapping[str, int] = field(default_factory=dict)
    tests: int = 0


@dataclass(frozen=True, slots=True)
class VariantTestState:
    """An A/B/n test as its facts tell it.

    Args:
        variants: variants that have not been taken out.
        answering: fact by which the variants began to answer; None before.
        removals: variants that were taken out, in order.
        end: fact that ended the test; None while it runs.
    """

    started: VariantsStarted
    variants: tuple[Variant, ...]
    answering: VariantsAnswering | None = None
    removals: tuple[VariantRemoved, ...] = ()
    end: VariantsEnded | VariantRemoved | Killed | None = None

    @property
    def is_running(self) -> bool:
        return self.end is None


def fold_controls(facts: Iterable[Control]) -> ControlState:
    """The state after these facts of one model, in order.

    Raises:
        Refused: a fact can't follow those before it.
    """
    state = ControlState()
    for fact in facts:
        state = apply_control(state, fact)
    return state


def apply_control(state: ControlState, fact: Control) -> ControlState:
    """The state after one more fact.

    Raises:
        Refused: the fact can't follow: the model is switched off already, or it is on; or a test
            runs already, or the fact is about a test that does not run.
    """
    match fact:
        case Killed():
            if state.killed is not None:
                who = f"{state.killed.actor}: {state.killed.reason}"
                raise Refused(f"{fact.model} is switched off already, by {who}")
            test = state.test
            if test is not None and test.is_running:
                test = dataclasses.replace(test, end=fact)
            return dataclasses.replace(state, killed=fact, test=test)
        case KillLifted():
            if state.killed is None:
                raise Refused(f"{fact.model} is not switched off: there is nothing to switch on")
            return dataclasses.replace(state, killed=None)
        case StopsCleared():
            return state
        case (
            VariantsStarted()
            | VariantsAnswering()
            | VariantsRaised()
            | VariantRemoved()
            | VariantsEnded()
        ):
            return _tested(state, fact)
        case _:
            assert_never(fact)


def _tested(state: ControlState, fact: VariantFact) -> ControlState:
    test = state.test
    runs = test is not None and test.is_running
    if isinstance(fact, VariantsStarted):
        if test is not None and runs:
            raise Refused(
                f"test {test.started.test_id} runs already: `mlplatform variants end {fact.model}`"
                " ends it"
            )
        started = VariantTestState(started=fact, variants=fact.variants)
        return dataclasses.replace(state, test=started, tests=state.tests + 1)
    if test is None or not runs or test.started.test_id != fact.test_id:
        raise Refused(f"test {fact.test_id} does not run: there is nothing to change or end")
    match fact:
        case VariantsAnswering():
            if test.answering is not None:
                raise Refused(f"the variants of test {fact.test_id} answer already")
            return dataclasses.replace(state, test=dataclasses.replace(test, answering=fact))
        case VariantsRaised():
            _check_raised(test.variants, fact)
            return dataclasses.replace(
                state, test=dataclasses.replace(test, variants=fact.variants)
            )
        case VariantRemoved():
            left = tuple(v for v in test.variants if v.arm.service != fact.service)
            if left == test.variants:
                raise Refused(f"version {fact.version} is not a variant of test {fact.test_id}")
            removed = dataclasses.replace(
                test,
                variants=left,
                removals=(*test.removals, fact),
                end=None if left else fact,
            )
            known = {**state.removed, fact.service: fact.wall_ms}
            return dataclasses.replace(state, test=removed, removed=known)
        case VariantsEnded():
            return dataclasses.replace(state, test=dataclasses.replace(test, end=fact))
        case _:
            assert_never(fact)


def _check_raised(before: tuple[Variant, ...], fact: VariantsRaised) -> None:
    """Check that no variant leaves the test or loses a customer, and that none shares one."""
    arms = [variant.arm for variant in before]
    after = [set(_all_buckets(variant)) for variant in fact.variants]
    kept = [found >= set(_all_buckets(old)) for found, old in zip(after, before, strict=False)]
    is_same = [variant.arm for variant in fact.variants] == arms
    if not (is_same and all(kept) and sum(map(len, after)) == len(set().union(*after))):
        raise Refused(f"test {fact.test_id} has other variants, or one would lose customers")


def _all_buckets(variant: Variant) -> list[int]:
    return [bucket for first, end in variant.buckets for bucket in range(first, end)]


def controlled_routes(fact: Control, routes: Routes) -> Routes:
    """The routes after a control."""
    generation = routes.generation + 1
    match fact:
        case Killed():
            return dataclasses.replace(routes, generation=generation, killed=True, test=None)
        case KillLifted():
            return dataclasses.replace(routes, generation=generation, killed=False)
        case StopsCleared():
            return dataclasses.replace(routes, generation=generation, cleared=generation)
        case (
            VariantsStarted()
            | VariantsAnswering()
            | VariantsRaised()
            | VariantRemoved()
            | VariantsEnded()
        ):
            test = _routed_test(fact, routes.test)
            return dataclasses.replace(routes, generation=generation, test=test)
        case _:
            assert_never(fact)


def _routed_test(fact: VariantFact, test: VariantTest | None) -> VariantTest | None:
    if isinstance(fact, VariantsStarted):
        return VariantTest(fact.test_id, fact.variants)
    if test is None or isinstance(fact, VariantsEnded):
        return None
    if isinstance(fact, VariantsAnswering):
        return dataclasses.replace(test, answering=True)
    if isinstance(fact, VariantsRaised):
        return dataclasses.replace(test, variants=fact.variants)
    left = tuple(v for v in test.variants if v.arm.service != fact.service)
    return dataclasses.replace(test, variants=left) if left else None


def check_may_move(fact: Transition, present: Routes, following: Routes | None) -> None:
    """Raises unless a rollout's transition may write these routes; None leaves the present ones.

    Raises:
        Refused: the model is switched off or an A/B/n test runs, and the transition leads forward;
            or the transition changes fields that only a control may change.
    """
    forward = ShadowStarted | CanaryStepped | Promoted | Confirmed
    if present.killed and isinstance(fact, forward):
        raise Refused(
            f"{fact.model} is switched off: no rollout moves until `rollouts lift` switches it on"
        )
    if present.test is not None and isinstance(fact, forward):
        raise Refused(
            f"test {present.test.test_id} runs, and no rollout moves beside it: `mlplatform"
            f" variants end {fact.model}` ends it"
        )
    if following is None:
        return
    kept = (present.killed, present.cleared, present.test)
    if (following.killed, following.cleared, following.test) != kept:
        raise Refused(f"a rollout of {fact.model} can't change what people control")


def encode_control(fact: Control) -> bytes:
    """The fact in the journal's encoding."""
    return msgspec.json.encode(fact, order="sorted")


def decode_control(text: bytes) -> Control:
    """The fact that a journal row holds.

    Raises:
        msgspec.ValidationError: the row holds no control that this release knows.
    """
    return _decoder.decode(text)
