"""`python -m mlplatform.process outbox`: publishes the decision log as topics for other systems."""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from mlplatform.decisions.records.port import RecordQuery, Watermark
from mlplatform.decisions.records.record import LABEL_VALUES, SCALARS, Kind
from mlplatform.decisions.topics.messages import TRACE_HEADER, Message, Progress, Topics, TopicSpec
from mlplatform.decisions.topics.wiring import open_topics
from mlplatform.model.folders import load_definition
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import Busy, Unavailable
from mlplatform.runtime.telemetry.context import ACCEPTED, derived_span_id, parent, trace_id_of
from mlplatform.scoring import wiring as scoring_wiring
from mlplatform.scoring.worker.messages import ACCEPTED_HEADER, Names

BATCH = 1_000
POLL_S = 0.2
BACK_OFF_S = 1.0

log = logging.getLogger(__name__)


class _MessageHeader(msgspec.Struct):
    """The fields for the header of an accepted request's message."""

    trace_id: str | None = None


_encode = msgspec.json.Encoder().encode
_named = msgspec.json.Decoder(_MessageHeader).decode
_position = msgspec.json.Decoder(dict[str, int]).decode


class Log(Protocol):
    """The calls of the decision log that are used here."""

    def read(self, query: RecordQuery) -> Any: ...

    def watermarks(self) -> list[Watermark]: ...


@dataclass(frozen=True, slots=True)
class Projection:
    """A selection of a model's records as messages of a topic.

    Args:
        name: the name under which its progress is stored.
        message: returns the message for one record, which has these columns.
    """

    name: str
    model: str
    kinds: tuple[Kind, ...]
    columns: tuple[str, ...]
    message: Callable[[Mapping[str, Any]], Message]


def topic_of(model: str) -> TopicSpec:
    """The topic of a model's decisions, labels and voids."""
    return TopicSpec(f"{model}.decisions")


def decisions_of(model: str) -> Projection:
    """Decisions, labels and voids of a model, for systems that follow decisions."""
    topic = topic_of(model).name

    def message(row: Mapping[str, Any]) -> Message:
        value = {name: row[name] for name in SCALARS if row[name] is not None}
        headers = {"kind": row["kind"].encode(), "log": _place(row)}
        return Message(topic, row["decision_id"].encode(), _encode(value), headers)

    kinds: tuple[Kind, ...] = ("decision", "label", "void")
    return Projection(f"outbox.{model}", model, kinds, SCALARS, message)


def requests_of(model: str) -> Projection:
    """Requests that were accepted to be scored later, for the worker, with the payload that the
    gateway made."""
    topic = Names(model).requests

    def message(row: Mapping[str, Any]) -> Message:
        decision_id = row["decision_id"].encode()
        headers = {ACCEPTED_HEADER: decision_id, "log": _place(row), TRACE_HEADER: _accepted(row)}
        return Message(topic, decision_id, row["payload"].encode(), headers)

    columns = ("writer", "seq", "decision_id", "payload")
    return Projection(f"requests.{model}", model, ("accepted",), columns, message)


def _accepted(row: Mapping[str, Any]) -> bytes:
    """The traceparent of the span under which a request was accepted. Whether that span was sampled
    is not known here."""
    decision_id = row["decision_id"]
    trace_id = _named(row["payload"]).trace_id or trace_id_of(decision_id)
    return parent(trace_id, derived_span_id(decision_id, ACCEPTED), False).encode()


def _is_an_opinion(row: Mapping[str, Any]) -> bool:
    """Whether this is a label without a value: one analyst's opinion, which another has to
    confirm."""
    return row.get("kind") == "label" and all(row[name] is None for name in LABEL_VALUES.values())


def _place(row: Mapping[str, Any]) -> bytes:
    return f"{row['writer']}:{row['seq']}".encode()


class Outbox:
    """Publishes the records of the log that were not published yet.

    The log is the only truth. Messages and progress become visible together, so that a crash
    anywhere repeats nothing. A void comes after its decision if one writer wrote both, and always
    has the decision's key.
    """

    def __init__(
        self, log: Log, topics: Topics, projection: Projection, *, batch: int = BATCH
    ) -> None:
        self._log = log
        self._topics = topics
        self._projection = projection
        self._batch = batch
        self._read_to: dict[str, int] | None = self._published_offsets()

    def step(self) -> int:
        """Publish the next records. Returns their number; 0 if there is nothing more.

        Raises:
            StaleFence: another outbox publishes for this model.
            Unavailable: the log or the topics do not answer. Whether the last messages were
                published is asked at the next step.
        """
        marks = {mark.writer: mark.seq for mark in self._log.watermarks()}
        if self._read_to is None:
            self._read_to = self._published_offsets()
        before = self._read_to
        if all(before.get(writer, 0) >= seq for writer, seq in marks.items()):
            return 0
        of = self._projection
        query = RecordQuery(
            model=of.model, kinds=of.kinds, columns=of.columns, after=before, limit=self._batch
        )
        rows: list[dict[str, Any]] = self._log.read(query).to_pylist()
        after = self._reached(before, marks, rows)
        if rows:
            self._read_to = None
            progress = Progress(of.name, _encode(after))
            # an accepted request with an erased payload can't be scored any more
            left = (row for row in rows if row.get("payload", "") is not None)
            messages = [of.message(row) for row in left if not _is_an_opinion(row)]
            self._topics.publish(messages, progress)
        self._read_to = after
        return len(rows)

    def _published_offsets(self) -> dict[str, int]:
        value = self._topics.progress(self._projection.name)
        return {} if value is None else _position(value)

    def _reached(
        self, before: Mapping[str, int], marks: Mapping[str, int], rows: Sequence[dict[str, Any]]
    ) -> dict[str, int]:
        """The number up to which each writer's log is read: its mark, or its last record if the
        batch was full."""
        last: dict[str, int] = {}
        counts: dict[str, int] = {}
        for row in rows:
            last[row["writer"]] = row["seq"]
            counts[row["writer"]] = counts.get(row["writer"], 0) + 1
        after = dict(before)
        for writer, seq in {**dict.fromkeys(last, 0), **marks}.items():
            is_full = counts.get(writer, 0) >= self._batch
            reached = 0 if is_full else seq
            after[writer] = max(before.get(writer, 0), last.get(writer, 0), reached)
        return after


def follow(outboxes: Sequence[Outbox], stopping: threading.Event) -> None:
    """Follow the log until `stopping` is set."""
    while not stopping.is_set():
        try:
            if not sum([outbox.step() for outbox in outboxes]):
                stopping.wait(POLL_S)
        except (Unavailable, Busy) as error:
            log.warning("nothing was published: %s", error)
            stopping.wait(BACK_OFF_S)


def publish(model: str, settings: Settings, stopping: threading.Event) -> None:
    """Publish everything of a model until `stopping` is set.

    Raises:
        StaleFence: another process publishes.
    """
    decisions = scoring_wiring.log_of(settings.home)
    topics = open_topics(settings, [topic_of(model), *Names(model).specs()])
    try:
        follow(
            [Outbox(decisions, topics, of(model)) for of in (requests_of, decisions_of)], stopping
        )
    finally:
        topics.close()
        decisions.close()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="The name of a model's folder.")
    return parser


def run(options: argparse.Namespace, settings: Settings, stopping: threading.Event) -> None:
    """Runs until `stopping` is set."""
    publish(load_definition(options.model).name, settings, stopping)
