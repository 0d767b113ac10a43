"""The exploration slice: requests that are let through although the model's decision would hide
their outcome.

A draw follows from what the request's record holds, so anybody can repeat it. Its cost is bounded
by an amount for each request and a sum for each window of event time. Both, and the memory of
customers, are a gateway process's own: asking others would cost more than a draw.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.decision_scale import Decision
from mlplatform.model.policies.training import ExplorationPolicy
from mlplatform.runtime.units import DAY_MS, HOUR_MS

Exclusion = Literal["amount", "sum", "twice_in_a_row"]

REMEMBERED: Final = 10_000
"""Most customers whose last such request was let through that a process remembers. Beyond this
number, it forgets those let through longest ago."""

_encode = msgspec.json.Encoder().encode


class Draw(msgspec.Struct, frozen=True):
    """The draw for a request whose outcome the model's decision hides.

    Args:
        decided: the model's decision.
        propensity: chance (0-1) with which the request was let through, given all earlier ones.
        explored: whether the request was let through.
        excluded: why it had no chance; None if it had one.
    """

    decided: Decision
    propensity: float
    explored: bool = False
    excluded: Exclusion | None = None


class Exploration:
    """The exploration slice of one model in this process."""

    __slots__ = (
        "_fields",
        "_hides",
        "_maximum_sum",
        "_model",
        "_policy",
        "_spent",
        "_was_explored",
        "_window",
    )  # fmt: skip

    def __init__(
        self,
        policy: ExplorationPolicy,
        *,
        model: str,
        hides: tuple[Decision, ...],
        fields: tuple[str, ...],
        processes: int,
    ) -> None:
        """Args: fields: of a request. processes: that answer on this machine, in equal parts."""
        self._policy, self._model = policy, model
        self._hides, self._fields = frozenset(hides), fields
        self._maximum_sum = policy.maximum_sum / processes
        self._window, self._spent = 0, 0.0
        self._was_explored: OrderedDict[int, None] = OrderedDict()

    def succeed(self, former: Exploration) -> None:
        """Count on with what another one of this model has let through."""
        self._window, self._spent = former._window, former._spent
        self._was_explored = former._was_explored

    @property
    def decision(self) -> Decision:
        """The decision for a request that is let through."""
        return self._policy.decision

    def draw(
        self, decided: Decision, unit: int, fields: Mapping[str, Any], event_ms: int
    ) -> Draw | None:
        """The draw for this request; None if the decision hides no outcome.

        Args:
            unit: the customer, in the form of the record.
            fields: the request's fields, in the form of the record.
        """
        if decided not in self._hides:
            return None
        amount = float(fields[self._policy.amount])
        excluded = self._exclusion(amount, unit, event_ms)
        if excluded is not None:
            return Draw(decided, 0.0, excluded=excluded)
        share = self._policy.share
        sent = [fields[name] for name in self._fields]
        if not is_chosen(self._model, unit, sent, event_ms, share):
            return Draw(decided, share)
        self._spent += amount
        self._was_explored[unit] = None
        if len(self._was_explored) > REMEMBERED:
            self._was_explored.popitem(last=False)
        return Draw(decided, share, explored=True)

    def _exclusion(self, amount: float, unit: int, event_ms: int) -> Exclusion | None:
        if unit in self._was_explored:
            del self._was_explored[unit]  # this request is stopped; the next one may be let through
            return "twice_in_a_row"
        if not amount <= self._policy.maximum_amount:
            return "amount"
        window = event_ms // (self._policy.hours * HOUR_MS)
        if window > self._window:  # a late request counts in the window that has begun
            self._window, self._spent = window, 0.0
        return "sum" if self._spent + amount > self._maximum_sum else None


def is_chosen(model: str, unit: int, sent: list[Any], event_ms: int, share: float) -> bool:
    """Whether the hash of a request falls into the slice.

    The same request sent again on that day gets the same draw, so that repeating gains nothing.

    Args:
        unit, sent: the customer, and the request's fields in the order of model.yaml. Both are
            pseudonymised with the installation's key, so that nobody outside can predict a draw.
    """
    data = _encode((model, "exploration", event_ms // DAY_MS, unit, sent))
    number = int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
    return number < share * 2**64


def exploration_of(definition: ModelDefinition, processes: int) -> Exploration | None:
    """The slice that a model declares, in one of so many processes; None if it declares none."""
    policy = definition.exploration
    if policy is None:
        return None
    return Exploration(
        policy,
        model=definition.name,
        hides=definition.decision.hides_outcome,
        fields=tuple(definition.request),
        processes=processes,
    )
