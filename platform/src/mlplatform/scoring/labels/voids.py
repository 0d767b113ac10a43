"""Decisions that are taken back: a void is a record of its own, which every projection follows."""

from __future__ import annotations

from mlplatform.decisions.records.port import (
    DuplicateKey,
    Entry,
    Idempotency,
    Outcome,
    UnloggedAnswer,
)
from mlplatform.decisions.records.record import Record
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.text import cleaned
from mlplatform.scoring.admission.clients import Client
from mlplatform.scoring.key_claims.voids import VOIDS
from mlplatform.scoring.labels.ownership import Ownership
from mlplatform.scoring.request.answers import VoidAnswer
from mlplatform.scoring.request.payloads import VoidBody
from mlplatform.scoring.request.recording import LogUnavailable, Recorder, log_unavailable
from mlplatform.scoring.request.times import EventTimes


class Voids:
    """Takes decisions back; the decision's own record stays as it is, and readers skip it."""

    def __init__(
        self, recorder: Recorder, times: EventTimes, clock: Clock, ownership: Ownership
    ) -> None:
        self._recorder = recorder
        self._times = times
        self._clock = clock
        self._ownership = ownership

    async def add(self, model: str, client: Client, body: VoidBody) -> VoidAnswer:
        """Void a decision; the first reason stays, however often it is voided.

        Raises:
            Problem: 422 if the decision was not given to this client for this model, or if the
                reason holds something that is not text; 503 if the log does not store the record;
                the client can safely ask again.
        """
        reason = _reason(body.reason)
        if not await self._ownership.of(model, client, (body.decision_id,)):
            raise await self._ownership.refuse("voids", model, client, body.decision_id)
        entry = self._entry(model, client.name, body.decision_id, reason)
        try:
            outcome: Outcome = await self._recorder.append(entry)
        except LogUnavailable as error:
            raise log_unavailable() from error
        if isinstance(outcome, UnloggedAnswer):
            raise log_unavailable()
        return VoidAnswer(body.decision_id, repeated=isinstance(outcome, DuplicateKey))

    def _entry(self, model: str, client: str, decision_id: str, reason: str) -> Entry:
        record = Record(
            kind="void",
            decision_id=decision_id,
            model=model,
            event_ms=self._times.now_ms(),
            recorded_ms=self._clock.wall_ms(),
            payload={"client": client, "reason": reason},
        )
        return Entry(record, Idempotency(VOIDS, decision_id, "", b"{}", impersonal=True))


def _reason(text: str) -> str:
    try:
        reason = cleaned("reason", text)
    except InputInvalid as error:
        raise Problem(422, "invalid-field", str(error), field="reason") from error
    if not reason:
        raise Problem(422, "invalid-field", "reason is empty; wanted: why", field="reason")
    return reason
