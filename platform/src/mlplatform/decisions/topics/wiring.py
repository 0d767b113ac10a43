"""Wiring of an installation's topics, for what publishes and what follows them."""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.decisions.topics.kafka import KafkaTopics
from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.decisions.topics.messages import Topics, TopicSpec
from mlplatform.runtime.configuration.settings import Settings


def open_topics(settings: Settings, specs: Sequence[TopicSpec]) -> Topics:
    """Kafka if the settings name brokers, else the embedded topics in the home folder."""
    if settings.kafka:
        return KafkaTopics(settings.kafka, specs)
    return LocalTopics(settings.home.topics_db, specs)
