"""A home with decisions that analysts look at, and the records that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.last_labels import LABEL_COLUMNS, last_labels
from mlplatform.decisions.records.port import Entry, RecordQuery
from mlplatform.decisions.records.record import Record
from mlplatform.model.definition import ModelDefinition
from mlplatform.observing.page.queries import sources
from mlplatform.operations import wiring
from mlplatform.operations.actions import review as job
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.scoring.admission.clients import Client, parse_scope
from mlplatform.scoring.request.decision_ids import new_decision_id
from rollout_world import fraud

NOW_MS = 1_700_000_000_000


def reviewing(**policy: Any) -> ModelDefinition:
    model = fraud()
    review = msgspec.structs.replace(model.label.review, **policy)
    label = msgspec.structs.replace(model.label, review=review)
    return msgspec.structs.replace(model, label=label)


def person(name: str, *scopes: str) -> Client:
    found = scopes or ("fraud:review",)
    return Client(name, frozenset(map(parse_scope, found)), "standard", None)


def decision(name: str, event_ms: int, what: str = "review", **more: Any) -> Record:
    held = {"request": {"amount": 12.5, "terminal_id": 7, "customer_id": 99}, "reasons": ["AMOUNT"]}
    return Record(
        kind="decision", decision_id=name, model="fraud", event_ms=event_ms, recorded_ms=event_ms,
        decision=what, score=0.5, version=3, payload=held, **more,
    )  # fmt: skip


def label(of: str, event_ms: int, value: int | None = 1, **held: Any) -> Record:
    return Record(
        kind="label", decision_id=of, model="fraud", event_ms=event_ms, recorded_ms=event_ms,
        label=value, payload={"client": "shop", **held},
    )  # fmt: skip


def void(of: str, event_ms: int) -> Record:
    return Record(
        kind="void", decision_id=of, model="fraud", event_ms=event_ms, recorded_ms=event_ms
    )


def append(log: SqliteDecisionLog, writer: str, *records: Record) -> None:
    log.append(writer, [Entry(record) for record in records])


class World:
    """A home with decisions that a gateway gave out, and a model that a test asks for."""

    def __init__(self, root: Path) -> None:
        self.platform = Platform(load({"MLPLATFORM_HOME": str(root)}))
        self.home = self.platform.settings.home
        self.home.create()
        self.log = self.platform.log
        self.decided = 0

    def decide(self, what: str = "review", model: str = "fraud") -> str:
        now_ms = self.platform.clock.wall_ms()
        name = new_decision_id(model, "shop", now_ms, self.platform.pseudonym_key())
        self.decided += 1
        append(self.log, "gateway-0", decision(name, now_ms + self.decided, what))
        return name

    def labels(self) -> dict[str, int]:
        table = self.log.read(RecordQuery(kinds=("label",), columns=LABEL_COLUMNS))
        return last_labels(table)

    def held(self, name: str) -> list[dict[str, Any]]:
        query = RecordQuery(kinds=("label",), decision_id=name, columns=("seq", "label", "payload"))
        rows = self.log.read(query).to_pylist()
        return [{**msgspec.json.decode(r["payload"]), "label": r["label"]} for r in rows]

    def waiting(self) -> list[str]:
        job.advance(self.platform, "fraud")
        return [one.decision_id for one in job.review_queue(self.platform, "fraud", 100).rows]

    def say(self, name: str, who: Client, outcome: int = 1, **how: Any) -> job.ReviewResult:
        return job.record(self.platform, "fraud", name, outcome, analyst=who, **how)

    def refused(self, who: str) -> Sequence[str]:
        return [r.why for r in Refusals(self.home.audit).since(0) if r.who == who]

    def ask_two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for reader in (wiring, sources):
            monkeypatch.setattr(reader, "load_definition", lambda name: reviewing(four_eyes=True))
