"""Which adapter stands behind the topics of this installation."""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.settings import Settings
from mlplatform.topics.kafka import KafkaTopics
from mlplatform.topics.local import LocalTopics
from mlplatform.topics.messages import Topics, TopicSpec


def open_topics(settings: Settings, specs: Sequence[TopicSpec]) -> Topics:
    """Kafka where the settings name brokers, else the log in the home folder."""
    if settings.kafka:
        return KafkaTopics(settings.kafka, specs)
    return LocalTopics(settings.home.topics_db, specs)
