"""The ids that brokers give topics; a topic that is deleted and made anew gets another id."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from mlplatform.decisions.topics.kafka_transactions import TIMEOUT_S, translated

if TYPE_CHECKING:  # only where topics are on Kafka
    from confluent_kafka.admin import AdminClient

NONE: Final = "AAAAAAAAAAAAAAAAAAAAAA"
"""The id that brokers before Kafka 2.8 return: none.

Source: https://cwiki.apache.org/confluence/display/KAFKA/KIP-516%3A+Topic+Identifiers
"""


def topic_ids(admin: AdminClient, topics: Collection[str]) -> dict[str, str]:
    """Topic → id, of those that have one.

    Raises:
        Unavailable: no broker answers, or a topic does not exist now.
    """
    from confluent_kafka import TopicCollection

    with translated():
        asked = admin.describe_topics(TopicCollection(list(topics)), request_timeout=TIMEOUT_S)
        found = {name: str(answer.result().topic_id) for name, answer in asked.items()}
    return {name: one for name, one in found.items() if one and one != NONE}
