"""The gateway's gRPC listener: scoring, the Open Inference Protocol, health and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Final

import grpc

from mlplatform.runtime.errors import Busy
from mlplatform.runtime.http.ended_connections import EndedConnections
from mlplatform.runtime.http.grpc_connections import GrpcConnections
from mlplatform.runtime.http.messages import MAX_BODY_BYTES
from mlplatform.scoring.admission.gate import AdmissionGate
from mlplatform.scoring.api import grpc_health, grpc_inference, grpc_reflection, grpc_scoring
from mlplatform.scoring.api.grpc_calls import handlers
from mlplatform.scoring.api.grpc_health import HealthService
from mlplatform.scoring.api.probes import Health
from mlplatform.scoring.predictor.grpc_server import SERVICE as INFERENCE
from mlplatform.scoring.predictor.grpc_server import options
from mlplatform.scoring.request.metrics import Metrics
from mlplatform.scoring.request.scoring import Scoring
from mlplatform.scoring.request.spans import Traces

DRAIN_S: Final = 10.0
SERVICES: Final = (grpc_scoring.SERVICE, INFERENCE)


class GrpcListener:
    """Serves from `start` to `stop`, in the event loop of the gateway.

    gRPC can't use an inherited socket, so several gateway processes share the port by SO_REUSEPORT.
    When one is killed, the calls on its connections are lost; with the same idempotency key, each
    gets its answer from another process.
    """

    def __init__(
        self,
        host: str,
        port: int,
        gate: AdmissionGate,
        models: Mapping[str, Scoring],
        health: Health,
        metrics: Metrics,
        traces: Traces | None,
        ended: EndedConnections | None = None,
    ) -> None:
        self._address = f"{host}:{port}"
        self._port = port
        self._connections = GrpcConnections(ended)
        self._health = HealthService(health, SERVICES)
        made = partial(
            handlers, gate=gate, metrics=metrics, traces=traces, admit=self._connections.admit
        )
        reflected = grpc_reflection.answers((*SERVICES, grpc_health.SERVICE))
        self._handlers = (
            made(grpc_scoring.SERVICE, grpc_scoring.answers(models)),
            made(INFERENCE, grpc_inference.answers(models, health)),
            made(grpc_health.SERVICE, self._health.answers(), notices=self._health.notices()),
            *(made(service, reflected, streams=True) for service in grpc_reflection.SERVICES),
        )
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Start to listen. Raises Busy if somebody else has the port."""
        server = grpc.aio.server(options=options(MAX_BODY_BYTES, shares_port=True))
        server.add_generic_rpc_handlers(self._handlers)
        try:
            server.add_insecure_port(self._address)
        except RuntimeError as error:
            other = "set MLPLATFORM_GATEWAY_GRPC_PORT to another"
            raise Busy(f"port {self._port} is taken; {other}") from error
        await server.start()
        self._server = server
        self._connections.start(self._port)
        self._health.start()

    def begin_drain(self) -> None:
        """Report that others should be called; calls are still accepted."""
        self._health.begin_drain()

    async def stop(self) -> None:
        """Finish the calls under way for a while, and end the streams of the status."""
        if self._server is not None:
            # First announce the end on all connections; otherwise a watching client would open
            # another stream.
            stopping = asyncio.ensure_future(self._server.stop(DRAIN_S))
            await asyncio.sleep(0)
            self._health.stop()
            await stopping
        self._connections.stop()
