"""For how long the platform itself reads the payloads of a model's records."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.request_transforms import DAY_MS
from mlplatform.model.windows.declaration import span_ms

_ALWAYS_DAYS: Final = 7
_DAY_H: Final = 24


class Need(NamedTuple):
    """Days of event time after a record, within which its payload is read, and for what."""

    days: int
    why: str


def longest_need(model: ModelDefinition) -> Need:
    """What keeps payloads longest; they may not be declared to go before it."""
    return max(_needs(model))


def _needs(model: ModelDefinition) -> Iterator[Need]:
    training, rollout, drift = model.training, model.rollout, model.drift
    mature = model.label.maturity_days
    learned = mature + training.window_days + 1
    why = "label.maturity_days and training.window_days (holdout_days are its last), and a day"
    yield Need(learned, why)
    steps_h = rollout.shadow.deadline_h + math.fsum(step.deadline_h for step in rollout.canary)
    ramp_h = steps_h + rollout.approval_deadline_h
    if math.isfinite(ramp_h):  # an infinity is refused by itself
        why = (
            "a rollout that takes every deadline_h of its steps and approval_deadline_h, then "
            "confirm_after_days, and label.maturity_days"
        )
        yield Need(math.ceil(ramp_h / _DAY_H) + rollout.confirm_after_days + mature, why)
    watched = math.ceil(drift.windows * drift.window_h / _DAY_H)
    yield Need(watched, "drift.windows of drift.window_h each")
    for window in model.windows:
        delay_ms = span_ms(window.delay) if window.delay else 0
        covered_ms = span_ms(window.window) + delay_ms + window.tile_ms
        yield Need(math.ceil(covered_ms / DAY_MS), f"window {window.name}, its delay and a tile")
    yield Need(math.ceil(model.idempotency_keep_h / _DAY_H), "idempotency_keep_h")
    yield Need(model.label.review.days, "label.review.days")
    if model.exploration is not None:
        yield Need(math.ceil(model.exploration.hours / _DAY_H), "exploration.hours")
    yield Need(_ALWAYS_DAYS, "features are counted again after a week, and labels may be repeated")
