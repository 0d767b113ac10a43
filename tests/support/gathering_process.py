"""A publisher or a gatherer that kills itself at its n-th write, for tests.

As a script: `gathering_process.py ROLE FOLDER NAME PLACE PREFIX DIE_AT`. ROLE is `publisher` or
`gatherer`, FOLDER that of its log, PLACE the path of the embedded topics, or empty for the brokers
that the environment names (KAFKA). It works until there is nothing more to do. DIE_AT counts the
moments around its writes: before one, within it (written, and not committed), and after it. At 0 it
lives.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlplatform import addresses
from mlplatform.decisions import gathering as gathering_module
from mlplatform.decisions.copies import CopyReader
from mlplatform.decisions.gathering import GatheringLog
from mlplatform.decisions.sqlite import SqliteDecisionLog
from mlplatform.errors import StaleFence
from mlplatform.gathering.carried import Names
from mlplatform.gathering.gatherer import Gatherer
from mlplatform.gathering.publisher import Publisher
from mlplatform.topics import kafka_transactions, local
from mlplatform.topics.kafka import KafkaTopics
from mlplatform.topics.local import LocalTopics
from mlplatform.topics.messages import Topics

BATCH = 7
IDLE_S = {"local": 1.5, "kafka": 5.0}
"""How long nothing comes before a gatherer of a test ends: Kafka may let a member in late."""


def open_topics(place: str, names: Names) -> Topics:
    if place:
        return LocalTopics(Path(place), names.specs(), session_ms=2_000)
    brokers = addresses.kafka("KAFKA", os.environ)
    assert brokers is not None
    return KafkaTopics(brokers, names.specs())


def main() -> None:
    role, folder, name, place, prefix, die_at = sys.argv[1:]
    names = Names(prefix)
    topics = open_topics(place, names)
    moments = Moments(int(die_at))
    if place:
        local.insert = moments.around(local.insert)
    else:
        kafka_transactions._committed = moments.around(kafka_transactions._committed)
    if role == "publisher":
        publish(Path(folder), name, topics, names, moments)
    else:
        gather(Path(folder), place, topics, names, moments)


class Moments:
    """Counts the moments around writes, and ends this process at one of them."""

    def __init__(self, die_at: int) -> None:
        self._die_at = die_at
        self._passed = 0

    def around(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            self.passed()
            made = act(*given, **named)
            self.passed()
            return made

        return counted

    def passed(self) -> None:
        self._passed += 1
        if self._passed == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def publish(folder: Path, name: str, topics: Topics, names: Names, moments: Moments) -> None:
    topics.publish = moments.around(topics.publish)  # type: ignore[method-assign]
    answers = topics.subscribe([names.confirmed], names.of(name), name)
    answers.commit = moments.around(answers.commit)  # type: ignore[method-assign]
    log = SqliteDecisionLog(folder)
    publisher = Publisher(CopyReader(folder, log), topics, answers, name, names=names, batch=BATCH)
    while publisher.step() or not publisher.is_all_told():
        pass
    publisher.close()


def gather(folder: Path, place: str, topics: Topics, names: Names, moments: Moments) -> None:
    gathering_module.tables.insert_records = moments.around(gathering_module.tables.insert_records)
    into = GatheringLog(folder)
    into.gather = moments.around(into.gather)  # type: ignore[method-assign]
    subscription = topics.subscribe([names.records], names.gatherers, "gatherer")
    gatherer = Gatherer(into, subscription, names=names, batch=BATCH)
    idle_s = IDLE_S["local" if place else "kafka"]
    until_s = time.monotonic() + idle_s
    while time.monotonic() < until_s:
        try:
            if gatherer.step():
                until_s = time.monotonic() + idle_s
        except StaleFence:
            until_s = time.monotonic() + idle_s
    gatherer.close()


if __name__ == "__main__":
    main()
