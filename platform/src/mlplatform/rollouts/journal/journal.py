"""The ports behind a rollout: its journal with the routes, the lease of a pass, log anchors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

from mlplatform.decisions.records.port import ManifestHead
from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.controls import Control, ControlState
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.rollouts.journal.transitions import Transition

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to act for a model: a token that grows each time somebody takes the lease."""

    model: str
    token: int
    holder: str


@dataclass(frozen=True, slots=True)
class GatewayLease:
    """The generation of a model's routes that a living gateway applies; None if the gateway has not
    reported one.

    Args:
        stopped: service → why this gateway no longer asks it, because of its bundle's decisions
            there.
    """

    gateway: str
    generation: int | None
    stopped: Mapping[str, str] = field(default_factory=dict)


class Rollouts(Protocol):
    """The journal, the check of fences and the routes, in one transaction."""

    def commit(
        self, transition: Transition, fence: Fence | None, routes: Routes | None = None
    ) -> RolloutState:
        """Append a transition and the routes that follow from it. Nothing is written if it fails.

        Only `Opened` and `Answered`, which say what somebody outside did, need no fence. The lease
        behind a valid fence is renewed.

        Raises:
            StaleFence: the lease was taken over, or the routes are not of the next generation.
            Refused: the transition can't follow the state, or another rollout is ramping.
        """
        ...

    def read(self, rollout_id: str) -> tuple[Transition, ...]:
        """All transitions of a rollout, in order.

        Raises:
            NotFound: no rollout has this id.
        """
        ...

    def active(self, model: str | None = None, *, finished: bool = False) -> list[RolloutState]:
        """Rollouts in the order in which they were opened: unfinished ones, or with `finished`
        all."""
        ...

    def routes(self, model: str) -> Routes:
        """The present routes (generation 0 before the first); cheap enough to ask often."""
        ...

    def lease(
        self,
        gateway: str,
        generations: Mapping[str, int],
        ttl_s: float,
        stopped: Mapping[str, str] = NOTHING,
    ) -> None:
        """Record that a gateway lives and applies these generations, by model. A gateway repeats
        this within `ttl_s`.

        Args:
            stopped: service → why the gateway no longer asks it, as in `GatewayLease`; for all
                models.
        """
        ...


class Controls(Protocol):
    """The controls of people over all of a model's traffic, in the rollouts' journal."""

    def control(self, fact: Control, fence: Fence, routes: Routes) -> ControlState:
        """Append a control and the routes that follow from it. Nothing is written if it fails.

        Raises:
            StaleFence: the lease was taken over, or the routes are not of the next generation.
            Refused: the fact can't follow those before it; or a test may not start now
                (`variants.check_start`); or the routes are not those that follow.
        """
        ...

    def controls(self, model: str) -> tuple[Control, ...]:
        """All controls of a model, in order."""
        ...


@dataclass(frozen=True, slots=True)
class JournalFact:
    """A transition or a control of a model, with its position in the journal.

    Args:
        position: number that grows with every row; rows become visible in this order.
        digest: digest of the row and of all rows before it.
    """

    position: int
    digest: str
    fact: Transition | Control


class JournalFacts(Protocol):
    """The journal in the order in which it was written, for code that follows it."""

    def facts(self, after: int, most: int) -> list[JournalFact]:
        """The next facts after a position, in order."""
        ...

    def last_position(self) -> int:
        """The position of the last row, whatever it holds; 0 while there is none. Cheap enough to
        ask often."""
        ...


class Passes(Protocol):
    """Leases of models, and the gateways that passes must wait for."""

    def acquire(
        self, model: str, holder: str, ttl_s: float, *, steal: bool = False
    ) -> Fence | None:
        """Take the lease of a model. Returns None while another holder has it.

        The same holder gets it again, under a new token: its earlier fences are stale from then on.

        Args:
            steal: take the lease even if another holder has it.
        """
        ...

    def renew(self, fence: Fence) -> bool:
        """Renew the lease for its whole time from now. Returns False if it was taken over."""
        ...

    def release(self, fence: Fence) -> None:
        """Give the lease back; nothing happens if it was taken over."""
        ...

    def gateways(self, model: str) -> list[GatewayLease]:
        """The living gateways, each with the generation of this model's routes that it applies."""
        ...


class Anchors(Protocol):
    """Heads of the decision log's manifest, kept outside the log, under the journal's chain."""

    def anchor(self, head: ManifestHead) -> None:
        """Append a head unless it is the last one."""
        ...

    def last_anchor(self) -> ManifestHead | None:
        """The last head."""
        ...

    def verify(self) -> tuple[str, ...]:
        """One sentence for each fault of the journal; empty if the journal is intact."""
        ...
