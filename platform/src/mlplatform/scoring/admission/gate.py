"""The gate: admits a request or says why not. It is all that the gateway calls of this package."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.admission.clients import (
    ANY,
    Client,
    Operation,
    RateLimit,
    way_to_scope,
)
from mlplatform.scoring.admission.priorities import (
    PRIORITIES,
    InFlightLimits,
    Priority,
    ShedRequest,
    entry,
    lowered,
)
from mlplatform.scoring.admission.token_blocks import TokenBlock, TokenBlocks

_SCHEME: Final = b"bearer "
PRIORITY_HEADER: Final = "X-Priority"
_PRIORITY: Final = b"x-priority"
_BY_NAME: Final[Mapping[bytes, Priority]] = {name.encode(): name for name in PRIORITIES}
UNMETERED: Final[frozenset[Operation]] = frozenset({"metrics"})
"""Operations without limits, because monitoring must be admitted during an overload."""

ON_SOME: Final[frozenset[Operation]] = frozenset({"read", "score", "push"})
"""Operations whose paths name no model. A caller who may do one on any model is admitted, and the
model is checked later."""

Outcome = str
OutcomeCounter = Callable[[Outcome, str], None]


class Credentials(Protocol):
    """The place where secrets are looked up: API keys, then tokens of an issuer."""

    def client(self, secret: bytes, digest: bytes) -> Client | None:
        """The client that a secret proves; None for nobody.

        Raises:
            Problem: the client can't be determined now.
        """
        ...


@dataclass(slots=True)
class AdmittedRequest:
    """A request that was admitted, until `AdmissionGate.leave`."""

    client: Client
    priority: Priority
    blocks: tuple[TokenBlock, ...] = ()
    is_counted: bool = False


class AdmissionGate:
    """Checks identity, permission, capacity and rate, in this order: the cheapest check first.

    Args:
        limits: model → rate limit of all its clients together; None: no limit.
        counted: called with the outcome and the priority class of every request.
    """

    def __init__(
        self,
        credentials: Credentials,
        blocks: TokenBlocks,
        in_flight_limits: InFlightLimits,
        limits: Mapping[str, RateLimit | None],
        counted: OutcomeCounter,
    ) -> None:
        self._credentials = credentials
        self._blocks = blocks
        self._in_flight_limits = in_flight_limits
        self._limits = limits
        self._counted = counted
        self.in_flight = 0

    def limit_models(self, limits: Mapping[str, RateLimit | None]) -> None:
        """Use these limits of models from the next request on."""
        self._limits = limits

    async def admit(
        self, headers: Mapping[bytes, bytes], model: str | None, operation: Operation
    ) -> AdmittedRequest:
        """Admit a request, with the client that asks. Every admitted request must `leave`.

        Args:
            model: name of the model; None if the request concerns no single model.

        Raises:
            Problem: 401, 403, 429 or 503.
        """
        client = self._client(headers)
        self._check_scope(client, model, operation)
        if operation in UNMETERED:
            return AdmittedRequest(client, client.priority)
        admitted = AdmittedRequest(client, self._priority(client, headers))
        self._enter(admitted)
        limit = self._limits.get(model) if operation == "score" and model is not None else None
        if client.limit is not None or limit is not None:
            try:
                await self._take(admitted, model, limit)
            except BaseException:
                self.leave(admitted)
                raise
        self._counted("admitted", admitted.priority)
        return admitted

    def leave(self, admitted: AdmittedRequest) -> None:
        """Note that the request is answered; a second call changes nothing."""
        if admitted.is_counted:
            admitted.is_counted = False
            self.in_flight -= 1

    def charge(self, admitted: AdmittedRequest, more: int) -> None:
        """Charge the further items of a batch, a token each. The batch is not refused for them; its
        client owes them."""
        for block in admitted.blocks:
            self._blocks.owe(block, more)

    def _client(self, headers: Mapping[bytes, bytes]) -> Client:
        authorization = headers.get(b"authorization")
        if authorization is not None and authorization[:7].lower() == _SCHEME:
            secret = authorization[7:].strip()
            digest = hashlib.sha256(secret).digest()
            client = self._credentials.client(secret, digest)
            if client is not None and time.time() < client.until_s:
                return client
        self._counted("unauthenticated", "")
        detail = "send a valid API key or token as Authorization: Bearer <key>"
        raise Problem(401, "unauthenticated", detail, field="Authorization")

    def _check_scope(self, client: Client, model: str | None, operation: Operation) -> None:
        if model is None and operation in ON_SOME:
            allowed = client.may_on_some(operation)
        else:
            allowed = client.may(ANY if model is None else model, operation)
        if not allowed:
            self._counted("forbidden", client.priority)
            on = "this installation" if model is None else f"model {model[:64]!r}"
            way = way_to_scope(client.name, operation, ANY if model is None else model[:64])
            detail = f"{client.name} has no scope {operation} on {on}; {way}"
            raise Problem(403, "forbidden", detail, field="Authorization")

    def _priority(self, client: Client, headers: Mapping[bytes, bytes]) -> Priority:
        header = headers.get(_PRIORITY)
        if header is None:
            return client.priority
        requested = _BY_NAME.get(header)
        if requested is None:
            detail = f"{PRIORITY_HEADER} must be one of {', '.join(PRIORITIES)}"
            raise Problem(422, "invalid-header", detail, field=PRIORITY_HEADER)
        return lowered(client.priority, requested)

    def _enter(self, admitted: AdmittedRequest) -> None:
        verdict = entry(admitted.priority, self.in_flight, self._in_flight_limits)
        if isinstance(verdict, ShedRequest):
            self._counted("shed", admitted.priority)
            detail = (
                f"{self.in_flight} requests are being answered; one of priority "
                f"{admitted.priority} is let in only below {verdict.ceiling}"
            )
            raise Problem(503, "overloaded", detail, retry_after_s=verdict.retry_after_s)
        self.in_flight += 1
        admitted.is_counted = True

    async def _take(
        self, admitted: AdmittedRequest, model: str | None, model_limit: RateLimit | None
    ) -> None:
        """Take a token of the client and one of the model, or none of either."""
        wanted = (
            (f"client:{admitted.client.name}", admitted.client.limit, "client-rate"),
            (f"model:{model}", model_limit, "model-rate"),
        )
        for bucket, limit, name in wanted:
            if limit is None:
                continue
            block = self._blocks.block(bucket, limit)
            if not self._blocks.try_take(block):
                wait_s = await self._blocks.wait_and_take(block)
                if wait_s:
                    for taken in admitted.blocks:
                        self._blocks.give_back(taken)
                    raise self._limited(admitted, limit, name, wait_s)
            admitted.blocks = (*admitted.blocks, block)

    def _limited(
        self, admitted: AdmittedRequest, limit: RateLimit, name: str, wait_s: float
    ) -> Problem:
        self._counted(name, admitted.priority)
        whose = f"client {admitted.client.name}" if name == "client-rate" else "this model"
        rate = f"{limit.rate_per_s:g} requests a second, {limit.burst} at once"
        detail = f"the limit of {whose} is {rate}"
        return Problem(429, name, detail, retry_after_s=max(math.ceil(wait_s), 1))
