"""Decisions that are taken back: a void is a record of its own, which every projection follows."""

from __future__ import annotations

from mlplatform.clock import Clock
from mlplatform.decisions.log import Entry, Idempotency, Outcome, Repeated, Unlogged
from mlplatform.decisions.records import Record
from mlplatform.gateway.answers import VoidAnswer
from mlplatform.gateway.decision_ids import is_known
from mlplatform.gateway.payloads import VoidBody
from mlplatform.gateway.problems import Problem
from mlplatform.gateway.recording import LogUnavailable, Recorder, log_unavailable
from mlplatform.gateway.times import EventTimes

CLIENT = "/voids"
"""Of the promise that a decision is void once. Names of clients hold no slash."""


class Voids:
    """Takes decisions back; the decision's own record stays as it is, whoever reads it skips it."""

    def __init__(
        self, recorder: Recorder, times: EventTimes, clock: Clock, pseudonym_key: bytes
    ) -> None:
        self._recorder = recorder
        self._times = times
        self._clock = clock
        self._key = pseudonym_key

    async def add(self, model: str, client: str, body: VoidBody) -> VoidAnswer:
        """Void a decision; the first reason stays, however often it is voided.

        Raises:
            Problem: 422, the decision was not given for this model; 503, the log does not take the
                record, and asking again does no harm.
        """
        if not is_known(model, body.decision_id, self._key):
            detail = f"no decision {body.decision_id!r} was given for model {model!r}"
            raise Problem(422, "unknown-decision", detail, field="decision_id")
        try:
            outcome: Outcome = await self._recorder.append(self._entry(model, client, body))
        except LogUnavailable as error:
            raise log_unavailable() from error
        if isinstance(outcome, Unlogged):
            raise log_unavailable()
        return VoidAnswer(body.decision_id, repeated=isinstance(outcome, Repeated))

    def _entry(self, model: str, client: str, body: VoidBody) -> Entry:
        record = Record(
            kind="void",
            decision_id=body.decision_id,
            model=model,
            event_ms=self._times.now_ms(),
            recorded_ms=self._clock.wall_ms(),
            payload={"client": client, "reason": body.reason},
        )
        return Entry(record, Idempotency(CLIENT, body.decision_id, "", b"{}"))
