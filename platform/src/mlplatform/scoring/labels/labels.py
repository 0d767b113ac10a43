"""Outcomes of decisions on their way into the decision log, with their arrival times."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from mlplatform.decisions.records.port import DuplicateKey, Entry, Idempotency, StoredAnswers
from mlplatform.decisions.records.record import Record
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.admission.clients import Client
from mlplatform.scoring.labels.kinds import AnyLabel, LabelKind
from mlplatform.scoring.labels.ownership import Ownership
from mlplatform.scoring.request.answers import LabelsAnswer
from mlplatform.scoring.request.payloads import decoded_once, epoch_ms
from mlplatform.scoring.request.recording import LogUnavailable, Recorder, log_unavailable
from mlplatform.scoring.request.times import EventTimes

CHUNK = 50
_NOTHING: Final[Mapping[str, Any]] = {}


class Labels:
    """Accepts labels; each is a record of its own, and the last to arrive of a decision counts.

    A label with the same value and time is stored once, however often it is sent; without a time,
    once until its client sends another value. Another value or time is a new record, so outcomes
    are corrected by sending the right one, back and forth. Only the client that asked for a
    decision may label it, or one with scope `any-client`.

    Args:
        kinds: model → the kind of its labels.
    """

    def __init__(
        self,
        recorder: Recorder,
        answers: StoredAnswers,
        times: EventTimes,
        clock: Clock,
        ownership: Ownership,
        kinds: Mapping[str, LabelKind],
    ) -> None:
        self._recorder = recorder
        self._answers = answers
        self._times = times
        self._clock = clock
        self._ownership = ownership
        self._kinds = kinds
        self._decoders = {name: msgspec.json.Decoder(kind.item) for name, kind in kinds.items()}

    async def add(
        self,
        model: str,
        client: Client,
        items: Sequence[msgspec.Raw],
        *,
        beside: Mapping[str, Any] = _NOTHING,
    ) -> LabelsAnswer:
        """Store all of the labels, or none if one of them is invalid.

        Args:
            beside: fields that the labels' records get in addition to the client's name.

        Raises:
            Problem: 422 with the label and its field; 503 if the log does not store them. Then all
                of them can safely be sent again.
        """
        entries: list[Entry] = []
        for position in range(0, len(items), CHUNK):
            await asyncio.sleep(0)  # lets score requests run
            entries += await self._check(model, client, position, items[position:][:CHUNK])
        if beside:
            entries = [_with(entry, beside) for entry in entries]
        try:
            outcomes = await asyncio.gather(*map(self._recorder.append, entries))
        except LogUnavailable as error:
            raise log_unavailable() from error
        stored = sum(not isinstance(outcome, DuplicateKey) for outcome in outcomes)
        return LabelsAnswer(stored, len(outcomes) - stored)

    async def _check(
        self, model: str, client: Client, position: int, chunk: Sequence[msgspec.Raw]
    ) -> list[Entry]:
        """The entries to store for a chunk that begins at this position of the list."""
        found = [self._decoded(model, bytes(raw)) for raw in chunk]
        named = [i.decision_id for i in found if not isinstance(i, Problem) and i.decision_id]
        own = await self._ownership.of(model, client, named, reviews=True)
        entries = []
        for number, item in enumerate(found, position):
            try:
                entries.append(await self._parse_label(model, client, item, own))
            except Problem as problem:
                raise problem.within(f"labels[{number}]") from problem
        return entries

    def _decoded(self, model: str, raw: bytes) -> AnyLabel | Problem:
        try:
            item: AnyLabel = decoded_once(self._decoders[model], raw)
        except Problem as problem:
            return problem
        return self._kinds[model].problem(item.label) or item

    async def _parse_label(
        self,
        model: str,
        client: Client,
        item: AnyLabel | Problem,
        own: Collection[str],
    ) -> Entry:
        if isinstance(item, Problem):
            raise item
        if (item.decision_id is None) == (item.idempotency_key is None):
            detail = "name the decision by either decision_id or idempotency_key"
            raise Problem(422, "missing-field", detail, field="decision_id")
        if item.decision_id is None:
            decision_id = self._decision_under_key(model, client.name, item.idempotency_key or "")
        elif item.decision_id in own:
            decision_id = item.decision_id
        else:
            raise await self._ownership.refuse("labels", model, client, item.decision_id)
        return self._entry(model, client.name, item, decision_id)

    def _decision_under_key(self, model: str, client: str, key: str) -> str:
        """The id of the decision that this client asked for under its key."""
        try:
            stored = self._answers.find(client, model, key)
        except PlatformError as error:
            raise log_unavailable() from error
        if stored is None:
            detail = f"no decision is kept under the key {key!r}"
            raise Problem(422, "unknown-decision", detail, field="idempotency_key")
        return stored.decision_id

    def _entry(self, model: str, client: str, item: AnyLabel, decision_id: str) -> Entry:
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
            payload={"client": client},
        )
        kind = self._kinds[model]
        record = msgspec.structs.replace(record, **{kind.column: item.label})
        sent_ms = "" if item.event_time is None else str(event_ms)
        key = f"{decision_id}:{item.label}:{sent_ms}"
        # Names of clients have no slash, so these keys never equal an Idempotency-Key of a score
        # request.
        ends = tuple(f"{decision_id}:{other}:" for other in kind.others(item.label))
        owner = f"{client}/labels"
        idempotency = Idempotency(owner, key, _digest(key), b"{}", ends=ends, impersonal=True)
        return Entry(record, idempotency)


def _with(entry: Entry, beside: Mapping[str, Any]) -> Entry:
    record = entry.record
    added = msgspec.structs.replace(record, payload={**record.payload, **beside})
    return msgspec.structs.replace(entry, record=added)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
