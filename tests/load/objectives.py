"""What a load test is held to: a model's objectives of slo.yaml, as k6's thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mlplatform.model.definition import ModelDefinition
from mlplatform.observing.slo.objectives import Objectives

Surface = Literal["score", "batch", "async"]
SURFACES: Final[tuple[Surface, ...]] = ("score", "batch", "async")
SCENARIO: Final = "load"
DROPPED: Final = f"dropped_iterations{{scenario:{SCENARIO}}}"


@dataclass(frozen=True, slots=True)
class Goal:
    """A share of good events that is wanted.

    Args:
        name: of the rate that the scripts count, 0 to 1.
        source: where the number stands.
    """

    name: str
    share: float
    source: str

    @property
    def events_needed(self) -> int:
        """Of fewer events one bad one is more than the objective allows."""
        return round(1 / (1 - self.share))


def goals(objectives: Objectives, model: ModelDefinition, surface: Surface) -> tuple[Goal, ...]:
    """What slo.yaml wants of a model's tier, as far as a caller sees it.

    Objectives of drift, labels, rollouts and the log's completeness are none that a caller can
    measure. slo.yaml has none for answers that come later: the tier's availability holds for
    taking requests in, and for having the answer within the time that the test waits.
    """
    tier = objectives.tiers[model.tier]
    place = f"slo.yaml: tiers.{model.tier}"
    names = ("availability",) if surface == "async" else _SEEN
    found = [Goal(name, getattr(tier, name).objective, f"{place}.{name}") for name in names]
    if surface == "async":
        found.append(Goal("answered", tier.availability.objective, f"{place}.availability"))
    refused = objectives.limits.refused_share
    return (*found, Goal("accepted", round(1 - refused, 10), "slo.yaml: limits.refused_share"))


_SEEN: Final = ("availability", "latency", "deadline", "freshness")


def thresholds(wanted: Sequence[Goal]) -> Mapping[str, list[str]]:
    """k6's thresholds of these goals. A request that was due and not sent would have been the
    slowest of all: none may be dropped."""
    return {**{goal.name: [f"rate>={goal.share:.10g}"] for goal in wanted}, DROPPED: ["count==0"]}
