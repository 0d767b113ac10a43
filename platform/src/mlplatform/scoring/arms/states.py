"""What a gateway says of the models that it applies: their routes, arms and features."""

from __future__ import annotations

import msgspec

from mlplatform.scoring.arms.freshness import FeaturesState


class ArmState(msgspec.Struct, frozen=True):
    """A version that the routes name, as this gateway sees it.

    `stopped` says why it is no longer asked: its bundle raised alerts on far more customers
    than planned. Null while it is asked.
    """

    version: int
    bundle: str
    service: str
    breaker: str
    stopped: str | None = None


class ModelState(msgspec.Struct, frozen=True):
    """A model as this gateway applies it now, and how fresh its features are.

    `killed` says that a person switched it off: no version is asked.
    """

    model: str
    purpose: str
    generation: int
    phase: str
    rollout_id: str | None
    challenger_percent: float
    champion: ArmState | None
    challenger: ArmState | None
    previous: ArmState | None
    features: FeaturesState
    killed: bool = False
