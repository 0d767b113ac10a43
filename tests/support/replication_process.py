"""A publisher or a replicator that kills itself at its n-th write, for tests.

As a script: `replication_process.py ROLE FOLDER NAME PLACE PREFIX DIE_AT`. ROLE is `publisher` or
`replicator`, FOLDER that of its log, PLACE the path of the embedded topics, or empty for the
brokers that the environment names (KAFKA). It works until there is nothing more to do. DIE_AT
counts the moments around its writes: before one, within it (written, and not committed), and after
it. At 0 it lives.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.unsealed_records import UnsealedWriter
from mlplatform.decisions.replication.messages import Names
from mlplatform.decisions.replication.publisher import Publisher
from mlplatform.decisions.replication.replica_log import ReplicaLog
from mlplatform.decisions.replication.replicated_records import ReplicationReader
from mlplatform.decisions.replication.replicator import Replicator
from mlplatform.decisions.topics import kafka_transactions, local
from mlplatform.decisions.topics.kafka import KafkaTopics
from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.decisions.topics.messages import Topics
from mlplatform.runtime.errors import StaleFence
from mlplatform.runtime.storage import addresses

BATCH = 7
IDLE_S = {"local": 1.5, "kafka": 5.0}
"""How long nothing comes before a replicator of a test ends: Kafka may let a member in late."""


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
        kafka_transactions._commit = moments.around(kafka_transactions._commit)
    if role == "publisher":
        publish(Path(folder), name, topics, names, moments)
    else:
        replicate(Path(folder), place, topics, names, moments)


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
    publisher = Publisher(
        ReplicationReader(folder, log), topics, answers, name, names=names, batch=BATCH
    )
    while publisher.step() or not publisher.is_all_published():
        pass
    publisher.close()


def replicate(folder: Path, place: str, topics: Topics, names: Names, moments: Moments) -> None:
    UnsealedWriter.insert = moments.around(UnsealedWriter.insert)  # type: ignore[method-assign]
    into = ReplicaLog(folder)
    into.replicate = moments.around(into.replicate)  # type: ignore[method-assign]
    subscription = topics.subscribe([names.records], names.replicators, "replicator")
    replicator = Replicator(into, subscription, names=names, batch=BATCH)
    idle_s = IDLE_S["local" if place else "kafka"]
    until_s = time.monotonic() + idle_s
    while time.monotonic() < until_s:
        try:
            if replicator.step():
                until_s = time.monotonic() + idle_s
        except StaleFence:
            until_s = time.monotonic() + idle_s
    replicator.close()


if __name__ == "__main__":
    main()
