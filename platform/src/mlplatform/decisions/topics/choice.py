"""Which adapter stands behind the topics of this installation."""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.decisions.topics.kafka import KafkaTopics
from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.decisions.topics.messages import Topics, TopicSpec
from mlplatform.runtime.configuration.settings import Settings


def open_topics(settings: Settings, specs: Sequence[TopicSpec]) -> Topics:
    """Kafka where the settings name brokers, else the log in the home folder."""
    if settings.kafka:
        return KafkaTopics(settings.kafka, specs)
    return LocalTopics(settings.home.topics_db, specs)
