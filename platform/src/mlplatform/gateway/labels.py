"""Outcomes of decisions on their way into the decision log, with the time at which they came."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import msgspec

from mlplatform.clock import Clock
from mlplatform.decisions.log import Entry, Idempotency, Repeated
from mlplatform.decisions.records import Record
from mlplatform.errors import PlatformError
from mlplatform.gateway.answers import LabelsAnswer
from mlplatform.gateway.decision_ids import is_known
from mlplatform.gateway.payloads import LabelItem, decoded_once, epoch_ms
from mlplatform.gateway.problems import Problem
from mlplatform.gateway.recording import LogUnavailable, Recorder, log_unavailable
from mlplatform.gateway.scoring import Answers
from mlplatform.gateway.times import EventTimes

CHUNK = 50


class Labels:
    """Takes labels in; each is a record of its own, and the latest arrival of a decision counts.

    The same label with the same time is stored once, however often it is sent. Another label, or
    another time, is a new record: outcomes are corrected by sending the right one.
    """

    def __init__(
        self,
        recorder: Recorder,
        answers: Answers,
        times: EventTimes,
        clock: Clock,
        pseudonym_key: bytes,
    ) -> None:
        self._recorder = recorder
        self._answers = answers
        self._times = times
        self._clock = clock
        self._key = pseudonym_key
        self._decoder = msgspec.json.Decoder(LabelItem)

    async def add(self, model: str, client: str, items: Sequence[msgspec.Raw]) -> LabelsAnswer:
        """Store all of the labels, or none where one of them is wrong.

        Raises:
            Problem: 422 names the label and its field; 503 if the log does not take them, in which
                case sending all of them again does no harm.
        """
        entries: list[Entry] = []
        for position, item in enumerate(items):
            if position % CHUNK == 0:
                await asyncio.sleep(0)  # score requests get their turn
            entries.append(self._checked(model, client, position, bytes(item)))
        try:
            outcomes = await asyncio.gather(*map(self._recorder.append, entries))
        except LogUnavailable as error:
            raise log_unavailable() from error
        stored = sum(not isinstance(outcome, Repeated) for outcome in outcomes)
        return LabelsAnswer(stored, len(outcomes) - stored)

    def _checked(self, model: str, client: str, position: int, raw: bytes) -> Entry:
        try:
            item: LabelItem = decoded_once(self._decoder, raw)
            decision_id = self._decision_id(model, client, item)
            return self._entry(model, client, item, decision_id)
        except Problem as problem:
            raise problem.within(f"labels[{position}]") from problem

    def _decision_id(self, model: str, client: str, item: LabelItem) -> str:
        if (item.decision_id is None) == (item.idempotency_key is None):
            detail = "name the decision by either decision_id or idempotency_key"
            raise Problem(422, "missing-field", detail, field="decision_id")
        if item.decision_id is not None:
            if not is_known(model, item.decision_id, self._key):
                detail = f"no decision {item.decision_id!r} was given for model {model!r}"
                raise Problem(422, "unknown-decision", detail, field="decision_id")
            return item.decision_id
        try:
            stored = self._answers.find(client, model, item.idempotency_key or "")
        except PlatformError as error:
            raise log_unavailable() from error
        if stored is None:
            detail = f"no decision is kept under the key {item.idempotency_key!r}"
            raise Problem(422, "unknown-decision", detail, field="idempotency_key")
        return stored.decision_id

    def _entry(self, model: str, client: str, item: LabelItem, decision_id: str) -> Entry:
        event_ms = self._times.now_ms()
        if item.event_time is not None:
            event_ms = epoch_ms(item.event_time)
            self._times.check_arrival(event_ms)
        record = Record(
            kind="label",
            decision_id=decision_id,
            model=model,
            event_ms=event_ms,
            recorded_ms=self._clock.wall_ms(),
            label=item.label,
            payload={"client": client},
        )
        sent_ms = "" if item.event_time is None else str(event_ms)
        key = f"{decision_id}:{item.label}:{sent_ms}"
        # Names of clients hold no slash, so these keys meet no Idempotency-Key of a score request.
        return Entry(record, Idempotency(f"{client}/labels", key, _digest(key), b"{}"))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
