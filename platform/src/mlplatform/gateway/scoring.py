"""One request from its parsed body to its durable answer, in the order of design section 6."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mlplatform.clock import Clock
from mlplatform.decisions.log import Appended, Entry, Idempotency, Stored
from mlplatform.decisions.records import Record
from mlplatform.errors import PlatformError, Unavailable
from mlplatform.features.online import OnlineFeatures, OnlineRow
from mlplatform.gateway.answers import Answer, encode
from mlplatform.gateway.decision_ids import new_decision_id
from mlplatform.gateway.fallback import predict_until, steps
from mlplatform.gateway.live import Live, LiveModel
from mlplatform.gateway.metrics import ModelMetrics
from mlplatform.gateway.payloads import Payloads, ScoreRequest
from mlplatform.gateway.prediction import Facts, Failure, Verdict, judged, predicted, without_model
from mlplatform.gateway.problems import Problem
from mlplatform.gateway.recording import InFlight, LogUnavailable, Recorder, log_unavailable
from mlplatform.gateway.routing import Assignment, assign
from mlplatform.gateway.shadow import Copy, ShadowCopies
from mlplatform.gateway.times import EventTimes
from mlplatform.models.definition import REQUEST_UNIT, ModelDefinition
from mlplatform.pseudonym import pseudonym

log = logging.getLogger(__name__)


class Answers(Protocol):
    """Answers given earlier; the part of the decision log that is read while answering."""

    def find(self, client: str, model: str, key: str) -> Stored | None: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and on what terms.

    Args:
        started_s: when the request arrived, on the event loop's clock.
        deadline_s: when it must be decided, on the same clock.
    """

    client: str
    started_s: float
    deadline_s: float
    key: str | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """An answer as bytes: fresh, or the stored one of an earlier request with the same key."""

    body: bytes
    replayed: bool


class Scoring:
    """Answers the score requests of one model."""

    def __init__(
        self,
        live: LiveModel,
        features: OnlineFeatures,
        answers: Answers,
        recorder: Recorder,
        shadow: ShadowCopies,
        times: EventTimes,
        clock: Clock,
        pseudonym_key: bytes,
        metrics: ModelMetrics,
    ) -> None:
        self.live = live
        self.definition: ModelDefinition = live.definition
        self.payloads = Payloads(live.definition)
        self.times = times
        self._features = features
        self._answers = answers
        self._recorder = recorder
        self._shadow = shadow
        self._clock = clock
        self._key = pseudonym_key
        self._metrics = metrics
        self._in_flight = InFlight()
        self._is_pseudonymous = {n: f.pseudonymous for n, f in live.definition.request.items()}

    async def answer(self, request: ScoreRequest, caller: Caller) -> Given:
        """The answer to a request, durable before it is returned.

        Raises:
            Problem: 409, 422 or 503, as the OpenAPI document says.
        """
        if caller.key is None:
            return await self._decided(request, caller, None)
        body_digest = hashlib.blake2b(request.body, key=self._key, digest_size=32).hexdigest()
        with self._in_flight.claim(caller.client, caller.key):
            stored = self._stored(caller.client, caller.key)
            if stored is not None:
                return _replayed(stored.answer, same_body=stored.body_digest == body_digest)
            return await self._decided(request, caller, body_digest)

    async def _decided(
        self, request: ScoreRequest, caller: Caller, body_digest: str | None
    ) -> Given:
        live = self.live.current
        if live.champion is None:
            detail = f"model {self.definition.name!r} has no promoted version yet"
            raise Problem(503, "no-champion", detail, retry_after_s=5)
        self.times.check(request.event_ms)
        name = self.definition.name
        decision_id = new_decision_id(name, self._clock.wall_ms(), self._key)
        fields, unit = self._pseudonymised(request.fields, decision_id)
        assignment = assign(live.routes, unit)
        features, features_missing = self._read_features(fields, request.event_ms)
        facts = Facts(fields, request.event_ms, features)

        until_s = predict_until(caller.started_s, caller.deadline_s)
        prediction, failures = await predicted(live, steps(live.routes, assignment), facts, until_s)
        if prediction is None:
            verdict = without_model(live, facts)
        else:
            verdict = await judged(prediction, until_s)

        degraded_reason = failures[0].reason if failures else features_missing
        body = encode(_answer(verdict, live, assignment, decision_id, degraded_reason))
        latency_s = asyncio.get_running_loop().time() - caller.started_s
        record = self._record(
            decision_id, facts, live, assignment, unit, verdict, failures, degraded_reason, caller,
            round(latency_s * 1e6),
        )  # fmt: skip
        given = await self._recorded(record, caller, body_digest, body)
        if not given.replayed:
            self._count(record, failures, caller)
            if assignment.shadow is not None:
                target = live.targets[assignment.shadow.service]
                self._shadow.offer(
                    Copy(decision_id, facts, live.routes, target, unit, assignment.bucket)
                )
        return given

    def _stored(self, client: str, key: str) -> Stored | None:
        try:
            return self._answers.find(client, self.definition.name, key)
        except Unavailable as error:
            log.error("the decision log was not read: %s", error)
            raise log_unavailable() from error

    def _pseudonymised(
        self, sent: Mapping[str, Any], decision_id: str
    ) -> tuple[dict[str, Any], int]:
        """The fields as they are stored, and the number of the assignment unit."""
        fields = {
            name: pseudonym(value, self._key) if self._is_pseudonymous[name] else value
            for name, value in sent.items()
        }
        name = self.definition.assignment_unit
        if name == REQUEST_UNIT:
            return fields, pseudonym(decision_id, self._key)
        if self._is_pseudonymous[name]:
            return fields, fields[name]
        return fields, pseudonym(fields[name], self._key)

    def _read_features(
        self, fields: Mapping[str, Any], event_ms: int
    ) -> tuple[OnlineRow, str | None]:
        keys = {entity: fields[name] for entity, name in self.definition.entities.items()}
        try:
            return self._features.read(keys, event_ms), None
        except (PlatformError, sqlite3.Error) as error:
            log.warning("features of %s were not read: %s", self.definition.name, error)
            return OnlineRow({}, {}), "features"

    async def _recorded(
        self, record: Record, caller: Caller, body_digest: str | None, body: bytes
    ) -> Given:
        idempotency = None
        if caller.key is not None and body_digest is not None:
            idempotency = Idempotency(caller.client, caller.key, body_digest, body)
        try:
            outcome = await self._recorder.append(Entry(record, idempotency))
        except LogUnavailable as error:
            log.error("decision %s was not recorded: %s", record.decision_id, error)
            raise log_unavailable() from error
        if isinstance(outcome, Appended):
            return Given(body, replayed=False)
        return _replayed(outcome.answer, same_body=outcome.same_body)

    def _record(
        self,
        decision_id: str,
        facts: Facts,
        live: Live,
        assignment: Assignment,
        unit: int,
        verdict: Verdict,
        failures: list[Failure],
        degraded_reason: str | None,
        caller: Caller,
        latency_us: int,
    ) -> Record:
        arm = verdict.target.arm if verdict.target else None
        payload: dict[str, Any] = {
            "request": facts.fields,
            "features": facts.features.values,
            "feature_times": facts.features.times,
            "raw": verdict.raw,
            "reasons": [reason.code for reason in verdict.reasons],
            "client": caller.client,
        }
        optional = {
            "reasons_omitted": verdict.omitted,
            "failures": [[f.step, f.reason] for f in failures] or None,
            "idempotency_key": caller.key,
            "trace_id": caller.trace_id,
        }
        payload.update((name, value) for name, value in optional.items() if value is not None)
        return Record(
            kind="decision",
            decision_id=decision_id,
            model=self.definition.name,
            event_ms=facts.event_ms,
            recorded_ms=self._clock.wall_ms(),
            generation=live.routes.generation,
            rollout_id=live.routes.rollout_id,
            arm=assignment.arm,
            answered_by=verdict.answered_by,
            unit=unit,
            bucket=assignment.bucket,
            version=arm.version if arm else None,
            bundle=arm.bundle if arm else None,
            score=verdict.score,
            decision=verdict.decision,
            degraded=degraded_reason is not None,
            degraded_reason=degraded_reason,
            latency_us=latency_us,
            payload=payload,
        )

    def _count(self, record: Record, failures: list[Failure], caller: Caller) -> None:
        now_s = asyncio.get_running_loop().time()
        self._metrics.decided(
            record,
            [(f.step, f.reason) for f in failures],
            latency_s=now_s - caller.started_s,
            late=now_s > caller.deadline_s,
        )


def _answer(
    verdict: Verdict,
    live: Live,
    assignment: Assignment,
    decision_id: str,
    degraded_reason: str | None,
) -> Answer:
    arm = verdict.target.arm if verdict.target else None
    return Answer(
        decision=verdict.decision,
        score=verdict.score,
        reasons=list(verdict.reasons),
        model_version=arm.version if arm else None,
        bundle=arm.bundle if arm else None,
        route=assignment.arm,
        answered_by=verdict.answered_by,
        generation=live.routes.generation,
        decision_id=decision_id,
        degraded=degraded_reason is not None,
        degraded_reason=degraded_reason,
    )


def _replayed(answer: bytes, *, same_body: bool) -> Given:
    if not same_body:
        detail = "this Idempotency-Key was used with another body"
        raise Problem(422, "idempotency-key-reused", detail, field="Idempotency-Key")
    return Given(answer, replayed=True)
