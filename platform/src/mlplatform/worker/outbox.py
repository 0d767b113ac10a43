"""`python -m mlplatform.worker.outbox`: the decision log as a topic, for who follows decisions."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from mlplatform import settings as settings_module
from mlplatform.decisions.log import Span, Watermark
from mlplatform.decisions.records import SCALARS, Kind
from mlplatform.decisions.sqlite import SqliteDecisionLog
from mlplatform.errors import PlatformError, Unavailable
from mlplatform.models.definition import load_definition
from mlplatform.settings import Settings
from mlplatform.supervisor.lifeline import follow_parent
from mlplatform.telemetry import logs
from mlplatform.topics.messages import Message, Progress, Topics, TopicSpec
from mlplatform.worker.topics import open_topics

KINDS: tuple[Kind, ...] = ("decision", "label", "void")
BATCH = 1_000
POLL_S = 0.2
BACK_OFF_S = 1.0

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_position = msgspec.json.Decoder(dict[str, int]).decode


class Log(Protocol):
    """What is read of the decision log."""

    def read(self, span: Span) -> Any: ...

    def watermarks(self) -> list[Watermark]: ...


def topic_of(model: str) -> TopicSpec:
    """The topic of a model's decisions, labels and voids."""
    return TopicSpec(f"{model}.decisions")


class Outbox:
    """Publishes what the log holds beyond the progress that was published last.

    The log is the only truth: messages and progress become visible together, so that a crash
    anywhere repeats nothing. A void comes after its decision if one writer wrote both, and has its
    key in any case.
    """

    def __init__(self, log: Log, topics: Topics, model: str, *, batch: int = BATCH) -> None:
        self._log = log
        self._topics = topics
        self._model = model
        self._batch = batch
        self._name = f"outbox.{model}"
        self._read_to: dict[str, int] | None = self._published()

    def step(self) -> int:
        """The number of records published; 0 once there is nothing more.

        Raises:
            StaleFence: another outbox publishes for this model.
            Unavailable: the log or the topics do not answer. Whether the last messages were
                published is asked at the next step.
        """
        marks = {mark.writer: mark.seq for mark in self._log.watermarks()}
        if self._read_to is None:
            self._read_to = self._published()
        before = self._read_to
        if all(before.get(writer, 0) >= seq for writer, seq in marks.items()):
            return 0
        span = Span(model=self._model, kinds=KINDS, after=before, limit=self._batch)
        rows: list[dict[str, Any]] = self._log.read(span).to_pylist()
        after = self._reached(before, marks, rows)
        if rows:
            self._read_to = None
            progress = Progress(self._name, _encode(after))
            self._topics.publish([self._message(row) for row in rows], progress)
        self._read_to = after
        return len(rows)

    def _published(self) -> dict[str, int]:
        value = self._topics.progress(self._name)
        return {} if value is None else _position(value)

    def _reached(
        self, before: Mapping[str, int], marks: Mapping[str, int], rows: Sequence[dict[str, Any]]
    ) -> dict[str, int]:
        """Per writer how far the log is read: to its mark, unless the batch was full before."""
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

    def _message(self, row: dict[str, Any]) -> Message:
        value = {name: row[name] for name in SCALARS if row[name] is not None}
        headers = {
            "kind": row["kind"].encode(),
            "log": f"{row['writer']}:{row['seq']}".encode(),
        }
        return Message(
            topic_of(self._model).name, row["decision_id"].encode(), _encode(value), headers
        )


def run(outbox: Outbox, stopping: threading.Event) -> None:
    """Follow the log until told to stop."""
    while not stopping.is_set():
        try:
            if not outbox.step():
                stopping.wait(POLL_S)
        except Unavailable as error:
            log.warning("nothing was published: %s", error)
            stopping.wait(BACK_OFF_S)


def main() -> None:
    """Runs until SIGTERM or SIGINT."""
    taken = argparse.ArgumentParser(prog="mlplatform.worker.outbox", description=__doc__)
    taken.add_argument("--model", required=True, help="a model folder's name")
    options = taken.parse_args()
    follow_parent()
    logs.configure("worker", f"outbox-{options.model}")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        _follow(options.model, settings_module.load(os.environ), stopping)
    except PlatformError as error:
        sys.exit(f"the outbox of {options.model} ends: {error}")


def _follow(model: str, settings: Settings, stopping: threading.Event) -> None:
    name = load_definition(model).name
    decisions = SqliteDecisionLog(settings.home.decisions)
    topics = open_topics(settings, [topic_of(name)])
    try:
        run(Outbox(decisions, topics, name), stopping)
    finally:
        topics.close()
        decisions.close()


if __name__ == "__main__":
    main()
