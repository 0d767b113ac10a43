"""How a publisher and a gatherer start and are told to stop."""

from __future__ import annotations

import os
import signal
import threading
from typing import Final

from mlplatform import settings
from mlplatform.errors import ConfigInvalid
from mlplatform.models.personal import personal_fields
from mlplatform.settings import Settings
from mlplatform.supervisor.parent_death import follow_parent
from mlplatform.telemetry import logs
from mlplatform.variables import PREFIX

BACK_OFF_S: Final = 1.0


def stopping_at_signals() -> threading.Event:
    """Set at SIGTERM or SIGINT."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def started(name: str) -> Settings:
    """The settings of the environment, with logs that say who wrote them.

    Raises:
        ConfigInvalid: a variable says something that can't be, or names no brokers.
    """
    follow_parent()
    logs.configure("worker", personal_fields(), name)
    given = settings.load(os.environ)
    logs.set_level(given.log_level)
    if not given.kafka:
        wanted = "brokers: the topics of a home folder reach nobody else"
        raise ConfigInvalid(f"{PREFIX}KAFKA", "", wanted)
    return given
