"""Admission as one gateway process runs it: gate, keys and token blocks over the shared store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.scoring.admission.clients import RateLimit, rate_limit
from mlplatform.scoring.admission.gate import AdmissionGate, Credentials
from mlplatform.scoring.admission.jwks import IssuerKeys
from mlplatform.scoring.admission.keyring import Keyring, ensure_first_key
from mlplatform.scoring.admission.priorities import MAX_IN_FLIGHT, in_flight_limits
from mlplatform.scoring.admission.store import Admission
from mlplatform.scoring.admission.token_blocks import TokenBlocks
from mlplatform.scoring.admission.tokens import IssuerTokens, KeysAndTokens
from mlplatform.scoring.request.metrics import AdmissionMetrics


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class AdmissionServices:
    """The gate, with the tasks that serve it in the background."""

    gate: AdmissionGate
    keyring: Keyring
    blocks: TokenBlocks
    issuer_keys: IssuerKeys | None = None

    async def start(self) -> None:
        self.keyring.start()
        if self.issuer_keys is not None:
            self.issuer_keys.start()
        self.blocks.start()

    async def stop(self) -> None:
        await self.blocks.stop()
        await asyncio.to_thread(self.keyring.stop)
        if self.issuer_keys is not None:
            await asyncio.to_thread(self.issuer_keys.stop)


def admission_services(
    settings: Settings,
    store: Admission,
    issuer_keys: IssuerKeys | None,
    metrics: AdmissionMetrics,
) -> AdmissionServices:
    """Admission over this store, without limits of models; it creates the first key at the first
    start.

    Args:
        issuer_keys: keys of the issuer that the settings name; None if they name none.

    Raises:
        Unavailable: the store does not answer.
    """
    ensure_first_key(store, settings.home.api_key, now_ms())
    keyring = Keyring(store, now_ms, lambda: metrics.store_failed("keys"))
    blocks = TokenBlocks(
        lambda takes: store.take(takes, now_ms()),
        settings.gateways,
        lambda: metrics.store_failed("tokens"),
    )
    credentials: Credentials = keyring
    if settings.oidc is not None and issuer_keys is not None:
        tokens = IssuerTokens(settings.oidc, issuer_keys, metrics.token_refused)
        credentials = KeysAndTokens(keyring, tokens)
    room = in_flight_limits(MAX_IN_FLIGHT)
    gate = AdmissionGate(credentials, blocks, room, {}, metrics.count_request)
    return AdmissionServices(gate, keyring, blocks, issuer_keys)


def model_limits(definitions: Iterable[ModelDefinition]) -> dict[str, RateLimit | None]:
    """Model → rate limit of all its clients together, as its model.yaml has it."""
    return {d.name: rate_limit(d.admission.rate_per_s, d.admission.burst) for d in definitions}
