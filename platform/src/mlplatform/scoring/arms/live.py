"""The state that this gateway applies now: routes, and what is needed to ask each of their arms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mlplatform.decisions.records.record import NAMED, VARIANT
from mlplatform.learning.features.policy import FeaturePolicies
from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.definition import ClassesDefinition, ModelDefinition
from mlplatform.model.features.views import FeatureView
from mlplatform.model.inputs import InputPlan
from mlplatform.model.oip import Codec
from mlplatform.model.policies.classes import ClassChoice
from mlplatform.model.policies.cut_offs import CutOffs
from mlplatform.model.policies.serving import ChainPolicy
from mlplatform.model.policies.volume import DecisionVolume, VolumeStop
from mlplatform.model.routes import BUCKETS, Arm, Routes, no_routes
from mlplatform.model.scorecard import SmallScorer
from mlplatform.model.tensors.named_tensors import NamedTensors
from mlplatform.model.windows.declaration import check_same
from mlplatform.rollouts.bundles.background import BeingFetched
from mlplatform.rollouts.serving.named_codec import codec_of
from mlplatform.runtime.errors import ConfigInvalid, PlatformError
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.arms.fallback import FallbackStep, steps
from mlplatform.scoring.arms.reasons import Explainer, explainer, ordinary_row, vector_places
from mlplatform.scoring.arms.routing import Assignment
from mlplatform.scoring.arms.states import ArmState, FeaturesState, ModelState
from mlplatform.scoring.predictor_client.breaker import Breaker
from mlplatform.scoring.predictor_client.bulkhead import Bulkhead
from mlplatform.scoring.predictor_client.cache import ScoreCache
from mlplatform.scoring.predictor_client.predictor import ClientLimits, Predictor

log = logging.getLogger(__name__)

SHADOW_LIMITS = ClientLimits(calls=2, rows=32, waiting=64)
LINGER_S = 15.0
"""Seconds that an arm's connections outlive its routes, because requests under way still use
them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An arm that is ready to be asked.

    Args:
        cut_offs: the bundle's cut-offs, or for classes their choice, ready for every request.
        reference: the ordinary value of each input, in order; NaN where missing is ordinary.
        shadow: a separate client for copies, so that they do not share a queue with answers.
        named: the tensors from which callers of the Open Inference Protocol may make rows.
        policies: what to do if a feature of this arm's inputs is missing or stale.
        small: the bundle's small model; None if it has none.
        cache: scores of recent rows; None unless model.yaml asks for it.
        volume: counts the bundle's decisions in this process; None unless model.yaml limits them.
    """

    arm: Arm
    bundle: Bundle
    cut_offs: CutOffs | ClassChoice
    plan: InputPlan
    reference: tuple[float, ...]
    predictor: Predictor
    shadow: Predictor
    breaker: Breaker
    named: NamedTensors
    policies: FeaturePolicies
    small: SmallScorer | None = None
    cache: ScoreCache | None = None
    explainer: Explainer | None = None
    volume: DecisionVolume | None = None
    top: int = 0
    """Number of most probable classes in an answer."""
    vectors: tuple[slice, ...] = ()
    """Places of each input, if one is a vector."""

    @property
    def stopped(self) -> VolumeStop | None:
        """Why this arm is no longer asked, by what its bundle decided here; None if it is asked."""
        return None if self.volume is None else self.volume.stopped

    def close_without(self, successor: Target | None) -> None:
        """Close what another target for this arm does not use too."""
        if successor is None or successor.predictor is not self.predictor:
            self.predictor.close()
            self.shadow.close()
        if self.explainer is not None and (
            successor is None or successor.explainer is not self.explainer
        ):
            self.explainer.close()

    def renew(self, now_s: float) -> None:
        """Find the new process that answers for this arm, and try it by the breaker's probes."""
        self.forget()
        self.breaker.on_new_process(now_s)

    def forget(self) -> None:
        """Forget the address of this arm, where nothing listens for it any more, until the plane
        names one."""
        self.predictor.forget()
        self.shadow.forget()

    def close(self) -> None:
        self.close_without(None)


@dataclass(frozen=True)
class Live:
    """One generation of routes with its arms; a request uses one from beginning to end.

    Args:
        bulkhead: the model's bulkhead, which all generations share.
        safe: the decision if nothing can decide.
    """

    routes: Routes
    targets: Mapping[str, Target]
    chain: ChainPolicy
    bulkhead: Bulkhead
    safe: str

    def order(self, assignment: Assignment) -> tuple[FallbackStep, ...]:
        """The predictors to ask for an assignment, computed once for each arm and variant."""
        arm = assignment.arm
        key = assignment.target.service if arm == VARIANT else arm
        found = self._orders.get(key)
        if found is None:
            found = steps(self.routes, assignment)
            if arm != NAMED:  # named requests go to several versions
                self._orders[key] = found
        return found

    @cached_property
    def caching(self) -> bool:
        """Whether cached scores may answer. They may not while two arms are compared in latency and
        failures, because an arm that answers from memory would win."""
        test = self.routes.test
        return self.routes.phase != "canary" and (test is None or not test.answering)

    @cached_property
    def alike(self) -> frozenset[str]:
        """Services whose rows have the same inputs and vocabularies as the champion's."""
        if (champion := self.champion) is None:
            return frozenset()
        wanted = champion.plan.names, champion.bundle.vocabularies
        found = self.targets.items()
        return frozenset(s for s, t in found if (t.plan.names, t.bundle.vocabularies) == wanted)

    @cached_property
    def _orders(self) -> dict[str, tuple[FallbackStep, ...]]:
        return {}

    @property
    def policies(self) -> FeaturePolicies | None:
        """The feature policies of the champion's inputs; None if there is no champion."""
        return None if self.champion is None else self.champion.policies

    @property
    def champion(self) -> Target | None:
        arm = self.routes.champion
        return None if arm is None else self.targets[arm.service]


class LiveModel:
    """A model's present generation, replaced as a whole. A changed declaration is another
    `LiveModel`, which succeeds this one.

    `problem` says why the newest routes are not applied; it is empty if they are.

    Args:
        need: called with a bundle's digest before its folder is read; raises if the bundle is not
            here yet.
        former: the same model by its declaration before, whose routes and arms are continued: their
            connections, breakers, caches and counts of decisions, as far as the declaration gives
            them the same limits. Reads no file.

    Raises:
        ConfigInvalid: the declaration does not have what a bundle of the former's routes reads.
    """

    def __init__(
        self,
        definition: ModelDefinition,
        views: tuple[FeatureView, ...],
        bundles: Path,
        new_predictor: Callable[[str, ClientLimits, Codec], Predictor],
        former: LiveModel | None = None,
        need: Callable[[str], None] = lambda bundle: None,
    ) -> None:
        self.definition = definition
        self.problem = ""
        self.views = views
        self._bundles, self._need = bundles, need
        self._new_predictor = new_predictor
        self._bulkhead = Bulkhead(definition.chain.concurrent)
        if former is None:
            self.current = self._live(no_routes(definition.name), {})
            return
        if former.definition.chain.concurrent == definition.chain.concurrent:
            self._bulkhead = former._bulkhead
        self.problem, self.current = former.problem, self._continued_live(former)

    def prepared(self, routes: Routes) -> Live:
        """A generation with every bundle loaded; arms that are live already keep their state.

        A predecessor that can't be loaded is left out, because it only answers where the champion
        does not. Reads files: not for the event loop.

        Raises:
            BeingFetched: a bundle is not here yet; those of all arms are being fetched.
            BundleCorrupt: the champion's or the challenger's bundle is missing, or does not match
                the routes.
            ConfigInvalid: model.yaml no longer has what one of them reads.
        """
        self._need_all(routes)
        previous = routes.previous
        answering = replace(routes, previous=None)
        targets = {arm.service: self._kept_or_loaded(arm) for arm in answering.arms}
        if previous is None or previous.service in targets:
            return self._live(routes, targets)
        try:
            targets[previous.service] = self._kept_or_loaded(previous)
        except PlatformError as error:
            name, version = routes.model, previous.version
            log.error(
                "%s has no predecessor here: version %d can't be asked: %s", name, version, error
            )
            return self._live(answering, targets)
        return self._live(routes, targets)

    def _need_all(self, routes: Routes) -> None:
        """Begin to fetch what is missing, of all arms at once.

        Raises:
            BeingFetched: a bundle is not here yet. Why it can't be fetched, loading it tells.
        """
        waits: BeingFetched | None = None
        for arm in routes.arms:
            try:
                self._need(arm.bundle)
            except BeingFetched as error:
                waits = waits or error
            except PlatformError:
                continue
        if waits is not None:
            raise waits

    def apply(self, live: Live) -> tuple[Target, ...]:
        """Use a prepared generation from the next request on. Returns the arms that left."""
        gone = [t for name, t in self.current.targets.items() if live.targets.get(name) is not t]
        if live.routes.cleared > self.current.routes.cleared:
            for target in live.targets.values():
                if target.volume is not None:
                    target.volume.clear()
        self.current = live
        return tuple(gone)

    def stop_reasons(self) -> dict[str, str]:
        """Service → why its arm is not asked here any more, by what its bundle decided."""
        targets = self.current.targets
        return {name: t.stopped.reason for name, t in targets.items() if t.stopped is not None}

    def stop_texts(self) -> list[str]:
        """A sentence with the way out for each version that is not asked here any more."""
        return [
            stop_text(self.definition.name, target.arm.version, target.stopped.reason)
            for target in self.current.targets.values()
            if target.stopped is not None
        ]

    def state(self, features: FeaturesState) -> ModelState:
        live = self.current
        return ModelState(
            model=self.definition.name,
            purpose=self.definition.purpose,
            generation=live.routes.generation,
            phase=live.routes.phase,
            rollout_id=live.routes.rollout_id,
            challenger_percent=live.routes.challenger_percent,
            champion=_state(live, live.routes.champion),
            challenger=_state(live, live.routes.challenger),
            previous=_state(live, live.routes.previous),
            variants=[_state_of(live, arm) for role, arm in live.routes.roles if role == VARIANT],
            features=features,
            killed=live.routes.killed,
        )

    def _live(self, routes: Routes, targets: Mapping[str, Target]) -> Live:
        definition = self.definition
        safe = definition.decision.safe
        return Live(routes, targets, definition.chain, self._bulkhead, safe)

    def _kept_or_loaded(self, arm: Arm) -> Target:
        kept = self.current.targets.get(arm.service)
        return kept if kept is not None and kept.arm == arm else self._target(arm)

    def _continued_live(self, former: LiveModel) -> Live:
        """The former's generation by this declaration, without a predecessor that can't be asked by
        it."""
        routes, targets = former.current.routes, dict[str, Target]()
        for name, target in former.current.targets.items():
            try:
                targets[name] = self._continued(target, former.definition)
            except ConfigInvalid:
                previous = routes.previous
                routes = replace(routes, previous=None)
                if previous is None or name in {arm.service for arm in routes.arms}:
                    raise
        return self._live(routes, targets)

    def _continued(self, former: Target, declared: ModelDefinition) -> Target:
        """An arm by this declaration that was live by another one."""
        definition, bundle = self.definition, former.bundle
        plan = self._plan(bundle)
        cache, limit = definition.cache, definition.decision.limit
        found = replace(
            former,
            plan=plan,
            policies=FeaturePolicies(plan.sources, plan.features),
            top=min(_top(definition), bundle.classes),
        )
        if _limits(definition, bundle) != _limits(declared, bundle):
            predictor, shadow = self._predictors(former.arm, bundle)
            found = replace(found, predictor=predictor, shadow=shadow)
        if definition.breaker != declared.breaker:
            found = replace(found, breaker=Breaker(definition.breaker))
        if cache != declared.cache:
            found = replace(found, cache=ScoreCache(cache, len(plan.names)) if cache else None)
        if limit != declared.decision.limit:
            volume = DecisionVolume(limit, bundle.scale, BUCKETS) if limit else None
            if volume is not None:
                volume.stopped = former.stopped  # a person lifts it, no limit
            found = replace(found, volume=volume)
        return found

    def _plan(self, bundle: Bundle) -> InputPlan:
        """How requests by this declaration become rows of a bundle. Raises ConfigInvalid."""
        check_same(bundle.windows, self.definition.windows)
        fitted = bundle.inputs, bundle.defaults, bundle.vocabularies
        return InputPlan(self.definition, self.views, *fitted)

    def _predictors(self, arm: Arm, bundle: Bundle) -> tuple[Predictor, Predictor]:
        """A client for answers and one for copies."""
        codec, limits = codec_of(bundle, arm.service), _limits(self.definition, bundle)
        for_copies = replace(SHADOW_LIMITS, numbers=limits.numbers)
        made = self._new_predictor
        return made(arm.service, limits, codec), made(arm.service, for_copies, codec)

    def _target(self, arm: Arm) -> Target:
        definition = self.definition
        self._need(arm.bundle)
        bundle = load_bundle(self._bundles / arm.bundle, arm.bundle, data=False)
        plan = self._plan(bundle)
        cache, limit = definition.cache, definition.decision.limit
        predictor, shadow = self._predictors(arm, bundle)
        return Target(
            arm=arm,
            bundle=bundle,
            cut_offs=bundle.decider,
            plan=plan,
            reference=ordinary_row(bundle),
            predictor=predictor,
            shadow=shadow,
            breaker=Breaker(definition.breaker),
            named=NamedTensors(bundle.input_names, bundle.vocabularies, bundle.signature),
            policies=FeaturePolicies(plan.sources, plan.features),
            small=SmallScorer.of(bundle),
            cache=ScoreCache(cache, len(plan.names)) if cache else None,
            explainer=explainer(bundle, self._bundles / arm.bundle),
            volume=DecisionVolume(limit, bundle.scale, BUCKETS) if limit else None,
            top=min(_top(definition), bundle.classes),
            vectors=vector_places(bundle),
        )


def _limits(definition: ModelDefinition, bundle: Bundle) -> ClientLimits:
    return ClientLimits(
        retry_share=definition.chain.retry_share,
        retry_burst=definition.chain.retry_burst,
        numbers=max(1, bundle.classes),
    )


def _top(definition: ModelDefinition) -> int:
    return definition.decision.top if isinstance(definition, ClassesDefinition) else 1


def _state(live: Live, arm: Arm | None) -> ArmState | None:
    return None if arm is None else _state_of(live, arm)


def _state_of(live: Live, arm: Arm) -> ArmState:
    target = live.targets[arm.service]
    stopped = None if target.stopped is None else target.stopped.reason
    return ArmState(arm.version, arm.bundle, arm.service, target.breaker.state, stopped)


def stop_text(model: str, version: int, why: str) -> str:
    """The sentence about a version that was stopped by what its bundle decided."""
    return (
        f"version {version} of {model} is not asked here any more: its bundle {why}; once that is"
        f" explained, `mlplatform rollouts clear {model}` has gateways ask it again"
    )


def no_champion(model: LiveModel) -> Problem:
    """The answer where there is no version to ask: 503, to be tried again."""
    name = model.definition.name
    detail = f"model {name!r} has no champion yet: no version was promoted"
    if model.problem:
        detail = f"model {name!r} has routes that this gateway can't apply; its log says why"
    return Problem(503, "no-champion", detail, retry_after_s=5)
