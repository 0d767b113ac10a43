"""The path of one request from its parsed body to its durable answer.

docs/architecture.md names the steps in their order.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from mlplatform.decisions.records.port import DuplicateKey, Entry, StoredAnswer, UnloggedAnswer
from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.decisions.records.record import NAMED, VARIANT, Record
from mlplatform.learning.features.online import OnlineFeatures, OnlineRow
from mlplatform.learning.features.policy import NO_GAPS
from mlplatform.model.definition import REQUEST_UNIT, ModelDefinition
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.context import Origin, trace_id_of
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.runtime.units import HOUR_MS
from mlplatform.scoring.arms.exploration import Exploration
from mlplatform.scoring.arms.fallback import features_until, predict_until
from mlplatform.scoring.arms.freshness import Freshness
from mlplatform.scoring.arms.live import LiveModel, no_champion, stop_text
from mlplatform.scoring.arms.named_versions import named_assignment
from mlplatform.scoring.arms.routing import Assignment, assign
from mlplatform.scoring.arms.states import ModelState
from mlplatform.scoring.key_claims.shared_keys import KeyedRequest, SharedKeys
from mlplatform.scoring.request.accepted_request import (
    AcceptedRequest,
    answer_owner,
    is_genuine,
)
from mlplatform.scoring.request.answers import ScoreResponse, encode, replay
from mlplatform.scoring.request.decision import (
    Caller,
    DecidedRequest,
    RoutedRequest,
    check_named,
    note,
    record,
    score_body,
    unlogged_answer,
)
from mlplatform.scoring.request.decision_ids import made_ms, new_decision_id
from mlplatform.scoring.request.feature_reads import (
    FeatureReads,
    FeaturesUnavailable,
    features_missing,
)
from mlplatform.scoring.request.metrics import ModelMetrics
from mlplatform.scoring.request.payloads import Payloads, ScoreRequest
from mlplatform.scoring.request.prediction import (
    KILLED_REASON,
    STALE_REASON,
    Failure,
    RawFacts,
    RequestFacts,
    decide,
    explore,
    predict,
    without_predictor,
)
from mlplatform.scoring.request.recording import (
    AnswerStore,
    IdempotencyClaim,
    InFlight,
    LogUnavailable,
    Recorder,
    find_stored_answer,
    keyed_entry,
    log_unavailable,
    look_up_until_s,
)
from mlplatform.scoring.request.shadow import ShadowCopies, ShadowCopy
from mlplatform.scoring.request.times import EventTimes

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())
each = logging.getLogger(f"{__name__}.each")
"""Logger of a line for every decision, at debug level; these lines are not rate-limited."""


NO_FEATURES = OnlineRow({}, {})


class ScoringInput(msgspec.Struct, frozen=True):
    """A request, with its id.

    Args:
        fields: the request's fields in stored form, with pseudonyms.
    """

    decision_id: str
    fields: Mapping[str, Any]
    event_ms: int


class Scoring:
    """Answers the score requests of one model by one declaration; a changed one has another."""

    def __init__(
        self,
        live: LiveModel,
        features: OnlineFeatures,
        answers: AnswerStore,
        recorder: Recorder,
        shadow: ShadowCopies,
        times: EventTimes,
        clock: Clock,
        pseudonym_key: bytes,
        metrics: ModelMetrics,
        exploration: Exploration | None = None,
        shared: SharedKeys | None = None,
    ) -> None:
        self._shared = shared
        self.live = live
        self.definition: ModelDefinition = live.definition
        self.payloads = Payloads(live.definition)
        self.times = times
        self.features = FeatureReads(live.definition.name, features)
        self.freshness = Freshness(
            live.definition.name,
            features,
            lambda: live.current.policies,
            times.now_ms,
            live.definition.features.stale_share_limit,
        )
        self._entities = tuple(live.definition.entities.items())
        self._answers = answers
        self._recorder = recorder
        self._shadow = shadow
        self._clock = clock
        self._key = pseudonym_key
        self._metrics = metrics
        self._exploration = exploration
        self._in_flight = InFlight()
        self.keep_ms = live.definition.idempotency_keep_h * HOUR_MS
        self._vectors = {n: f.length for n, f in live.definition.request.items() if f.length}
        self._is_pseudonymous = {n: f.pseudonymous for n, f in live.definition.request.items()}
        self._without_optional = dict.fromkeys(live.definition.optional)

    def succeed(self, former: Scoring) -> None:
        """Refuse keys that the former's requests hold, count on with what it let through, and read
        features as it does if the store is the same. Call it before the first request."""
        self._in_flight = former._in_flight
        if self._exploration is not None and former._exploration is not None:
            self._exploration.succeed(former._exploration)
        if former.features.store is self.features.store:
            self.features = former.features
            self.freshness.succeed(former.freshness)

    def state(self) -> ModelState:
        """The model as this gateway applies it now."""
        return self.live.state(self.freshness.state())

    async def answer(self, request: ScoreRequest, caller: Caller) -> ScoreResponse:
        """The answer to a request, durable before it is returned.

        Raises:
            Problem: 409, 422 or 503, as the OpenAPI document says.
        """
        if caller.key is None:
            return await self._begin(request, self._new_id(caller), caller, None)
        hashed = hashlib.blake2b(request.body, key=self._key, digest_size=32)
        if caller.version is not None:  # another version is another request
            hashed.update(b"\0" + caller.version.encode())
        body_digest = hashed.hexdigest()
        with self._in_flight.claim(caller.client, caller.key):
            stored = await self._find_answer(caller.client, caller.key, caller)
            if self._shared is not None:
                return await self._answer_shared(request, caller, body_digest, stored)
            if stored is not None:
                return replay(stored.answer, same_body=stored.is_of(body_digest))
            claim = IdempotencyClaim(caller.client, caller.key, body_digest)
            return await self._begin(request, self._new_id(caller), caller, claim)

    async def _answer_shared(
        self, request: ScoreRequest, caller: Caller, body_digest: str, stored: StoredAnswer | None
    ) -> ScoreResponse:
        """The answer where gateways with other logs may have the key."""
        assert self._shared is not None
        assert caller.key is not None
        key, decision_id = (caller.client, self.definition.name, caller.key), self._new_id(caller)
        keyed = KeyedRequest(key, body_digest, decision_id, self.keep_ms)
        until_s = look_up_until_s(caller.started_s, caller.deadline_s)
        held = await self._shared.hold(keyed, stored, until_s)
        if isinstance(held, StoredAnswer):
            return replay(held.answer, same_body=held.is_of(body_digest))
        claim = IdempotencyClaim(caller.client, caller.key, body_digest, hold=held)
        try:
            return await self._begin(request, decision_id, caller, claim)
        finally:
            held.let_go()

    async def answer_accepted(self, accepted: AcceptedRequest, caller: Caller) -> ScoreResponse:
        """The answer to a request that a gateway accepted earlier: one for its id, however often
        and wherever it is asked for. Its own event time counts, however late it is.

        Args:
            caller: gives the deadline; the client is the one whose request was accepted.

        Raises:
            Problem: 409 or 503, as for `answer`; 422 if no gateway here accepted the request, if
                that was too long ago to know whether it was answered, or if the model has other
                fields now.
        """
        fields = self._accepted_fields(accepted)
        caller = replace(caller, client=accepted.client, key=None, trace_id=accepted.trace_id)
        request = ScoringInput(accepted.decision_id, fields, accepted.event_ms)
        owner = answer_owner(accepted.client)
        with self._in_flight.claim(owner, request.decision_id):
            stored = await self._find_answer(owner, request.decision_id, caller)
            if stored is not None:
                return ScoreResponse(stored.answer, replayed=True)
            claim = IdempotencyClaim(owner, request.decision_id, may_be_unlogged=False)
            return await self._answer(request, caller, claim)

    async def infer(
        self, inputs: Sequence[float], unit_value: Any | None, caller: Caller
    ) -> DecidedRequest:
        """The decision over inputs that the caller made, durable before it is returned.

        Args:
            inputs: inputs in the order of the champion's bundle, or of the named version's bundle.
            unit_value: value of the assignment unit; None: the champion is asked, and no rollout
                counts the record.

        Raises:
            Problem: 404 or 503.
        """
        event_ms = self.times.now_ms()
        with self.times.answering(event_ms):
            routed = self._route_raw(inputs, unit_value, event_ms, caller)
            decided = await self._decide(routed, caller)
            await self._record(decided, caller, None)
        self._count(decided, caller)
        return decided

    def _route_raw(
        self, inputs: Sequence[float], unit_value: Any | None, event_ms: int, caller: Caller
    ) -> RoutedRequest:
        live = self.live.current
        champion = live.champion
        if champion is None:
            raise no_champion(self.live)
        decision_id = self._new_id(caller)
        unit = pseudonym(decision_id if unit_value is None else unit_value, self._key)
        has_unit = unit_value is not None
        if caller.version is not None:
            assignment = named_assignment(live.routes, unit, caller.version)
        else:
            assignment = assign(live.routes, unit)
            in_test = assignment.arm == VARIANT  # tests are of requests, not of callers' rows
            if not has_unit or in_test or assignment.target.service not in live.alike:
                # a challenger with other inputs or words can't use rows in the champion's order
                has_unit = has_unit and assignment.arm == "champion"
                assignment = Assignment("champion", assignment.bucket, champion.arm, None)
        facts = RawFacts({}, event_ms, NO_FEATURES, tuple(inputs))
        return RoutedRequest(decision_id, live, facts, unit, assignment, NO_GAPS, True, has_unit)

    def check_accepts(self, event_ms: int) -> None:
        """Raises Problem: 503 if no version is promoted; 422 if the event time is too far from
        now."""
        if self.live.current.champion is None:
            raise no_champion(self.live)
        self.times.check(event_ms)

    def _accepted_fields(self, accepted: AcceptedRequest) -> dict[str, Any]:
        """The fields of a request that a gateway accepted: None for optional ones that it lacks,
        and without those that model.yaml has lost and the request did not have."""
        if not is_genuine(self.definition.name, accepted, self._key):
            detail = f"no gateway accepted this as {accepted.decision_id!r}"
            raise Problem(422, "not-accepted", detail, field="mac")
        age_ms = self._clock.wall_ms() - made_ms(accepted.decision_id)
        if age_ms > self.keep_ms:  # the answer may have been given and deleted
            detail = f"{accepted.decision_id} was accepted {age_ms // HOUR_MS} h ago: too long"
            raise Problem(422, "expired", detail, field="decision_id")
        known, sent = self._is_pseudonymous, accepted.request.items()
        kept = {name: value for name, value in sent if name in known or value is not None}
        fields = {**self._without_optional, **kept}
        if fields.keys() != self.definition.request.keys():
            detail = f"accepted with fields {sorted(accepted.request)}; the model has others now"
            raise Problem(422, "outdated", detail, field="request")
        for name, length in self._vectors.items():
            if fields[name] is not None and len(fields[name]) != length:
                detail = f"accepted with another length of {name}; the model has {length} now"
                raise Problem(422, "outdated", detail, field="request")
        return fields

    def _new_id(self, caller: Caller) -> str:
        wall_ms = self._clock.wall_ms()
        return new_decision_id(self.definition.name, caller.client, wall_ms, self._key)

    def _begin(
        self, request: ScoreRequest, new_id: str, caller: Caller, claim: IdempotencyClaim | None
    ) -> Awaitable[ScoreResponse]:
        return self._answer(self._parse(request, new_id), caller, claim)

    def _parse(self, request: ScoreRequest, decision_id: str) -> ScoringInput:
        self.check_accepts(request.event_ms)
        return ScoringInput(decision_id, self.pseudonymised(request.fields), request.event_ms)

    async def _answer(
        self, request: ScoringInput, caller: Caller, claim: IdempotencyClaim | None
    ) -> ScoreResponse:
        with self.times.answering(request.event_ms):
            decided = await self._decide(await self._route(request, caller), caller)
            response = await self._record(decided, caller, claim)
        if not response.replayed:
            self._count(decided, caller)
            self._copy(decided.routed)
        return response

    async def _route(self, request: ScoringInput, caller: Caller) -> RoutedRequest:
        """The request, routed, with its features."""
        live = self.live.current
        if live.champion is None:
            raise no_champion(self.live)
        unit = self._unit(request)
        if caller.version is None:
            assignment = assign(live.routes, unit)
        else:
            assignment = named_assignment(live.routes, unit, caller.version)
        policies = live.targets[assignment.target.service].policies
        read_from_s = time.monotonic()
        try:
            features = await self._read_features(request.fields, request.event_ms, caller)
            gaps = policies.gaps(features, request.event_ms, self.freshness.newest)
        except FeaturesUnavailable:
            features, gaps = NO_FEATURES, policies.unavailable()
        read_s = (read_from_s, time.monotonic())
        if gaps.refused:
            raise features_missing(gaps)
        facts = RequestFacts(request.fields, request.event_ms, features)
        return RoutedRequest(
            request.decision_id, live, facts, unit, assignment, gaps, read_s=read_s
        )

    async def _decide(self, routed: RoutedRequest, caller: Caller) -> DecidedRequest:
        """The decision of the first step that can decide in time."""
        live = routed.live
        if live.routes.killed:
            verdict = without_predictor(live, routed.facts, KILLED_REASON)
            not_asked = Failure(live.order(routed.assignment)[0].name, "killed")
            return DecidedRequest(routed, verdict, (not_asked,), None, time.monotonic())
        if routed.gaps.withheld:
            verdict = without_predictor(live, routed.facts, STALE_REASON)
            return DecidedRequest(routed, verdict, (), None, time.monotonic())
        until_s = predict_until(live.chain, caller.started_s, caller.deadline_s)
        order = live.order(routed.assignment)
        if routed.is_raw and caller.version is None:
            order = tuple(step for step in order if step.arm.service in live.alike)
        origin = Origin(routed.decision_id, caller.trace)
        prediction, failures = await predict(live, order, routed.facts, until_s, origin)
        if prediction is None:
            verdict = without_predictor(live, routed.facts)
        else:
            verdict = await decide(prediction, until_s)
            is_whole = not (failures or routed.gaps.degraded)
            if self._exploration is not None and is_whole and caller.version is None:
                verdict, draw = explore(self._exploration, verdict, routed.facts, routed.unit)
                return DecidedRequest(routed, verdict, (), prediction, time.monotonic(), draw)
        return DecidedRequest(routed, verdict, tuple(failures), prediction, time.monotonic())

    def _record(
        self, decided: DecidedRequest, caller: Caller, claim: IdempotencyClaim | None
    ) -> Awaitable[ScoreResponse]:
        """The answer, once its record is durable; another request's answer, if that came first
        under the same key."""
        if caller.version is not None:
            check_named(decided, caller)
        entry = self._entry(decided, caller)
        return self._append(decided, caller, claim, entry, encode(score_body(decided)))

    def _entry(self, decided: DecidedRequest, caller: Caller) -> Record:
        latency_us = round((time.monotonic() - caller.started_s) * 1e6)
        return record(decided, caller, recorded_ms=self._clock.wall_ms(), latency_us=latency_us)

    async def _append(
        self,
        decided: DecidedRequest,
        caller: Caller,
        claim: IdempotencyClaim | None,
        entry: Record,
        body: bytes,
        others: Sequence[Entry] = (),
    ) -> ScoreResponse:
        """Args: others: entries of the same transaction."""
        item = keyed_entry(entry, claim, body, self.keep_ms)
        hold = None if claim is None else claim.hold
        beside = others if hold is None else (*others, *hold.beside(entry))
        try:
            outcome = await self._recorder.append(item, caller.deadline_s, beside)
        except LogUnavailable as error:
            decision_id = decided.routed.decision_id
            trace_id = caller.trace_id or trace_id_of(decision_id)
            extra = {"decision_id": decision_id, "trace_id": trace_id}
            log.error("a decision was not recorded: %s", error, extra=extra)
            note(decided, caller, time.monotonic(), is_recorded=False)
            raise log_unavailable() from error
        if isinstance(outcome, DuplicateKey):
            if hold is not None and claim is not None:  # another process of this home was first
                stored = await self._find_answer(claim.client, claim.key, caller)
                if stored is not None:
                    await hold.stand_back(stored, caller.deadline_s)
            return replay(outcome.answer, same_body=outcome.same_body)
        if isinstance(outcome, UnloggedAnswer):
            if claim is not None and not claim.may_be_unlogged:
                note(decided, caller, time.monotonic(), is_recorded=False)
                raise log_unavailable()
            body = encode(unlogged_answer(decided))
            self._answers.keep_unlogged(item, body)
        if hold is not None:
            other = await hold.settle(body, entry.score, caller.deadline_s)
            if other is not None:
                return replay(other.answer, same_body=other.is_of(hold.body_digest))
        return ScoreResponse(body, replayed=False)

    def _copy(self, routed: RoutedRequest) -> None:
        arm, routes = routed.assignment.shadow, routed.live.routes
        # if the champion was not asked, there is nothing to compare with
        if arm is not None and not (routed.gaps.withheld or routes.killed):
            target = routed.live.targets[arm.service]
            bucket = routed.assignment.bucket
            self._shadow.offer(
                ShadowCopy(routed.decision_id, routed.facts, routes, target, routed.unit, bucket)
            )

    def _count(self, decided: DecidedRequest, caller: Caller) -> None:
        now_s = time.monotonic()
        if not decided.routed.is_raw:
            gaps = decided.routed.gaps.by_cause
            self.freshness.decisions.count(
                gaps is not None and bool(gaps.stale or gaps.unavailable)
            )
        self._watch_volume(decided, now_s)
        self._metrics.count_decision(
            decided, latency_s=now_s - caller.started_s, late=now_s > caller.deadline_s
        )
        note(decided, caller, now_s)
        if each.isEnabledFor(logging.DEBUG):
            verdict, decision_id = decided.verdict, decided.routed.decision_id
            took_ms = (now_s - caller.started_s) * 1000
            trace_id = caller.trace_id or trace_id_of(decision_id)
            extra = {"decision_id": decision_id, "trace_id": trace_id}
            each.debug("decided by %s in %.1f ms", verdict.answered_by, took_ms, extra=extra)

    def _watch_volume(self, decided: DecidedRequest, now_s: float) -> None:
        """Count a bundle's decision, and stop its arm here if that is too many. Only known
        customers count, because else each request of one caller would be another customer's."""
        if not decided.routed.has_unit or decided.prediction is None:
            return
        if (volume := decided.prediction.target.volume) is None:
            return
        if decided.routed.assignment.arm == NAMED:  # its caller chose the version
            return
        if volume.count(decided.routed.assignment.bucket, decided.by_model, now_s):
            arm = decided.prediction.target.arm
            why = "" if volume.stopped is None else volume.stopped.reason
            log.error("%s", stop_text(self.definition.name, arm.version, why))

    async def _find_answer(self, client: str, key: str, caller: Caller) -> StoredAnswer | None:
        return await find_stored_answer(
            self._answers, (client, self.definition.name, key), caller.started_s, caller.deadline_s
        )

    def pseudonymised(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """The fields in stored form, with pseudonyms."""
        return {
            name: pseudonym(value, self._key) if self._is_pseudonymous[name] else value
            for name, value in sent.items()
        }

    def _unit(self, request: ScoringInput) -> int:
        """The number of the assignment unit."""
        name = self.definition.assignment_unit
        if name == REQUEST_UNIT:
            return pseudonym(request.decision_id, self._key)
        value = request.fields[name]
        return int(value) if self._is_pseudonymous[name] else pseudonym(value, self._key)

    async def _read_features(
        self, fields: Mapping[str, Any], event_ms: int, caller: Caller
    ) -> OnlineRow:
        keys = {entity: fields[name] for entity, name in self._entities}
        if not self.features.is_apart:
            return self.features.read(keys, event_ms)
        chain = self.definition.chain
        until_s = features_until(chain, caller.started_s, caller.deadline_s)
        return await self.features.read_apart(keys, event_ms, until_s)
