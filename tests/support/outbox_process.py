"""An outbox that kills itself in its third step, for tests.

As a script: `outbox_process.py FOLDER MODEL PLACE WHEN`. PLACE is the path of the embedded topics,
or empty for the brokers that the environment names (KAFKA); WHEN is `before` (messages and progress
are written, and not committed) or `after` (they are committed, and the outbox does not know).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.topics import kafka_transactions, local
from mlplatform.decisions.topics.kafka import KafkaTopics
from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.decisions.topics.messages import Topics
from mlplatform.runtime.storage import addresses
from mlplatform.runtime.storage.addresses import Brokers
from mlplatform.scoring.worker.outbox import Outbox, decisions_of, topic_of

STEPS_BEFORE = 2
BATCH = 7


def open_topics(place: Path | Brokers, model: str) -> Topics:
    if isinstance(place, Path):
        return LocalTopics(place, [topic_of(model)])
    return KafkaTopics(place, [topic_of(model)])


def main() -> None:
    folder, model, place, when = sys.argv[1:]
    brokers = addresses.kafka("KAFKA", os.environ)
    assert place or brokers
    topics = open_topics(Path(place) if place else cast(Brokers, brokers), model)
    outbox = Outbox(SqliteDecisionLog(Path(folder)), topics, decisions_of(model), batch=BATCH)
    for _ in range(STEPS_BEFORE):
        assert outbox.step() == BATCH
    if when == "after":
        topics.publish = ending_with(topics.publish, die)  # type: ignore[method-assign]
    elif place:
        local.insert = ending_with(local.insert, die)
    else:
        kafka_transactions._commit = lambda producer: (producer.flush(), die())  # type: ignore[assignment]
    outbox.step()


def ending_with(act: Callable[..., Any], end: Callable[[], None]) -> Callable[..., Any]:
    def both(*given: Any) -> None:
        act(*given)
        end()

    return both


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
