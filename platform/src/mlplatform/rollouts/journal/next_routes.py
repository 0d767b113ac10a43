"""The routes of the next generation, as a step of a rollout leaves them."""

from __future__ import annotations

import dataclasses
from typing import Any

from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.state import RolloutState


def following(routes: Routes, **changes: Any) -> Routes:
    """The next generation of the routes, with these changes."""
    return dataclasses.replace(routes, generation=routes.generation + 1, **changes)


def shadow_routes(state: RolloutState, routes: Routes) -> Routes:
    """The routes by which the rollout's version gets copies."""
    return following(
        routes,
        challenger=state.challenger,
        rollout_id=state.rollout_id,
        phase="shadow",
        challenger_percent=0.0,
    )


def promoted_routes(state: RolloutState, routes: Routes) -> Routes:
    """The routes after promotion: the rollout's version is champion, and the present champion its
    predecessor."""
    return following(
        routes,
        champion=state.challenger,
        challenger=None,
        previous=routes.champion,
        rollout_id=state.rollout_id,
        phase="steady",
        challenger_percent=0.0,
    )
