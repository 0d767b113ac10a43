"""Retention of payloads that a model keeps for a number of days: passes remove due ones once a
day."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass

from mlplatform.decisions.log import retention_acts
from mlplatform.decisions.log.retention import DuePayloads
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.errors import Busy, Corrupt, Unavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelRetention:
    """The payloads of a model that are due for removal.

    Args:
        payload_days: number of days in model.yaml; None if payloads are kept without limit.
        due: payloads to remove; None if model.yaml declares no limit, or the log has no event time
            yet.
    """

    model: str
    payload_days: int | None
    due: DuePayloads | None


def preview(platform: Platform, model: str) -> ModelRetention:
    """The payloads that would be removed now; writes nothing.

    Raises:
        Corrupt: the log is damaged.
    """
    policy = platform.definition(model).retention
    if policy is None:
        return ModelRetention(model, None, None)
    found = retention_acts.due(
        platform.log,
        platform.settings.home.decisions,
        model,
        payload_days=policy.payload_days,
        wall_ms=platform.clock.wall_ms(),
    )
    return ModelRetention(model, policy.payload_days, found)


def expire(platform: Platform, model: str) -> ModelRetention:
    """Record the removal of payloads that are due; seals then take them out of the log.

    Raises:
        Busy: another process seals.
        Corrupt: the log is damaged.
    """
    policy = platform.definition(model).retention
    if policy is None:
        return ModelRetention(model, None, None)
    found = retention_acts.record(
        platform.log,
        platform.settings.home.decisions,
        model,
        act=secrets.token_hex(8),
        payload_days=policy.payload_days,
        wall_ms=platform.clock.wall_ms(),
    )
    return ModelRetention(model, policy.payload_days, found)


def expire_with_a_pass(platform: Platform, model: str) -> None:
    """Call `expire` unless it ran a short while ago; if another process seals, a later pass does
    it."""
    folder, wall_ms = platform.settings.home.decisions, platform.clock.wall_ms()
    if platform.definition(model).retention is None:
        return
    try:
        if not retention_acts.is_resting(folder, model, wall_ms=wall_ms):
            expire(platform, model)
    except Busy as error:
        log.info("a later pass removes payloads of %s: %s", model, error)
    except (Corrupt, Unavailable) as error:
        log.error("payloads of %s that are due were not removed: %s", model, error)
