"""The state of the models as a gateway applies them: routes, arms and features."""

from __future__ import annotations

import msgspec


class FeaturesState(msgspec.Struct, frozen=True):
    """How fresh a model's features are, as one gateway sees it.

    `stale_views` are those whose newest snapshot is too old now, `unmade_views` those that no
    snapshot is known of, `stale_share` is that of the last
    minute's decisions which stale or unavailable features degraded (null without a decision), and
    `stale_share_limit` the share that model.yaml allows. `store` is away while it does not answer.
    """

    healthy: bool
    store: str
    stale_views: list[str]
    unmade_views: list[str]
    stale_share: float | None
    stale_share_limit: float


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

    `killed` says that a person switched it off: no version is asked. `variants` are the versions
    that answer beside the champion in an A/B/n test.
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
    variants: list[ArmState] = []
