"""Requests that are accepted now and decided later, under an id for which their client polls."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from mlplatform.decisions.records.port import (
    AppendReceipt,
    DuplicateKey,
    Entry,
    SpillReceipt,
    StoredAnswer,
)
from mlplatform.decisions.records.record import Record
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.key_claims.shared_keys import KeyedRequest, KeyHold, SharedKeys
from mlplatform.scoring.request.accepted_request import AcceptedRequest, answer_owner, sealed
from mlplatform.scoring.request.answers import PendingAnswer, ScoreResponse, encode, replay
from mlplatform.scoring.request.decision import AcceptedForLater, Caller
from mlplatform.scoring.request.decision_ids import is_owned, made_ms, owned_decision_id
from mlplatform.scoring.request.payloads import ScoreRequest
from mlplatform.scoring.request.recording import (
    AnswerStore,
    IdempotencyClaim,
    LogUnavailable,
    Recorder,
    find_stored_answer,
    keyed_entry,
    log_unavailable,
    look_up_until_s,
)
from mlplatform.scoring.request.scoring import Scoring

_PURPOSE = b"score-async"


class AsyncAcceptor:
    """Accepts requests to be decided later; each is durable before its id is returned.

    Args:
        accepted: models that took such requests before, whose answers may still be asked for.
    """

    def __init__(
        self,
        models: Mapping[str, Scoring],
        answers: AnswerStore,
        recorder: Recorder,
        clock: Clock,
        pseudonym_key: bytes,
        shared: SharedKeys | None = None,
        accepted: Collection[str] = (),
    ) -> None:
        self._shared = shared
        self.models: Mapping[str, Scoring] = {
            n: s for n, s in models.items() if s.definition.takes_async or n in accepted
        }
        self._answers = answers
        self._recorder = recorder
        self._clock = clock
        self._key = pseudonym_key

    async def accept(
        self, scoring: Scoring, request: ScoreRequest, caller: Caller
    ) -> ScoreResponse:
        """A `PendingAnswer`: the same one for the same key, which is of one space with `score`'s.

        Raises:
            Problem: 422 or 503, as for `score`; nothing was accepted.
        """
        model = scoring.definition.name
        digest = hashlib.blake2b(
            request.body, key=self._key, digest_size=32, person=_PURPOSE
        ).hexdigest()
        decision_id = owned_decision_id(model, caller.client, self._clock.wall_ms(), self._key)
        claim = None
        if caller.key is not None:
            key = (caller.client, model, caller.key)
            stored = await find_stored_answer(
                self._answers, key, caller.started_s, caller.deadline_s
            )
            found: StoredAnswer | KeyHold | None = stored
            if self._shared is not None:
                keyed = KeyedRequest(key, digest, decision_id, scoring.keep_ms)
                until_s = look_up_until_s(caller.started_s, caller.deadline_s)
                found = await self._shared.hold(keyed, stored, until_s)
            if isinstance(found, StoredAnswer):
                return replay(found.answer, same_body=found.is_of(digest))
            claim = IdempotencyClaim(caller.client, caller.key, digest, hold=found)
        try:
            return await self._accept_request(scoring, request, caller, decision_id, claim)
        finally:
            if claim is not None and claim.hold is not None:
                claim.hold.let_go()

    async def _accept_request(
        self,
        scoring: Scoring,
        request: ScoreRequest,
        caller: Caller,
        decision_id: str,
        claim: IdempotencyClaim | None,
    ) -> ScoreResponse:
        scoring.check_accepts(request.event_ms)
        body = encode(PendingAnswer(decision_id))
        with scoring.times.answering(request.event_ms):
            record = self._record(scoring, decision_id, request, caller)
            entry = keyed_entry(record, claim, body, scoring.keep_ms)
            hold = None if claim is None else claim.hold
            response = await self._record_decision(entry, body, caller.deadline_s, hold)
        if caller.finished is not None and not response.replayed:
            now_s = time.monotonic()
            model = scoring.definition.name
            caller.finished.append(AcceptedForLater(decision_id, model, caller.started_s, now_s))
        return response

    async def find_answer(
        self, client: str, decision_id: str, started_s: float
    ) -> tuple[str, bytes | None]:
        """The model, and the answer that was given under an id; None while it is to come.

        Args:
            started_s: when this call arrived, on the monotonic clock.

        Raises:
            Problem: 404 if this client got no such id or the answer is no longer stored; 503 if the
                log can't be read.
        """
        for model, scoring in self.models.items():
            if not is_owned(model, client, decision_id, self._key):
                continue
            key = (answer_owner(client), model, decision_id)
            deadline_s = started_s + scoring.definition.deadline_ms / 1000
            found = await find_stored_answer(self._answers, key, started_s, deadline_s)
            if found is not None:
                return model, found.answer
            if self._clock.wall_ms() - made_ms(decision_id) <= scoring.keep_ms:
                return model, None
        detail = f"{client} has no decision {decision_id[:64]!r} here, or it is kept no longer"
        raise Problem(404, "unknown-decision", detail)

    def _record(
        self, scoring: Scoring, decision_id: str, request: ScoreRequest, caller: Caller
    ) -> Record:
        model = scoring.definition.name
        accepted = AcceptedRequest(
            decision_id=decision_id,
            client=caller.client,
            event_ms=request.event_ms,
            request=scoring.pseudonymised(request.sent),
            trace_id=caller.trace_id,
        )
        payload: dict[str, Any] = msgspec.structs.asdict(sealed(model, accepted, self._key))
        return Record(
            kind="accepted",
            decision_id=decision_id,
            model=model,
            event_ms=request.event_ms,
            recorded_ms=self._clock.wall_ms(),
            payload=payload,
        )

    async def _record_decision(
        self, entry: Entry, body: bytes, deadline_s: float, hold: KeyHold | None
    ) -> ScoreResponse:
        beside = () if hold is None else hold.beside(entry.record)
        try:
            outcome = await self._recorder.append(entry, deadline_s, beside)
        except LogUnavailable as error:
            raise log_unavailable() from error
        match outcome:
            case DuplicateKey():
                return replay(outcome.answer, same_body=outcome.same_body)
            case AppendReceipt() | SpillReceipt():
                other = None if hold is None else await hold.settle(body, None, deadline_s)
                if hold is not None and other is not None:
                    return replay(other.answer, same_body=other.is_of(hold.body_digest))
                return ScoreResponse(body, replayed=False)
            case _:  # without a record nobody can score it
                raise log_unavailable()
