"""Code that publisher and replicator share."""

from __future__ import annotations

from typing import Final

from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import ConfigInvalid

BACK_OFF_S: Final = 1.0


def require_brokers(settings: Settings) -> None:
    """Raises unless the topics are those of brokers.

    Raises:
        ConfigInvalid: the settings name no brokers.
    """
    if not settings.kafka:
        wanted = "addresses of Kafka's brokers, as topics in a home folder reach no other machine"
        raise ConfigInvalid(f"{PREFIX}KAFKA", "", wanted)
