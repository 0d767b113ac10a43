"""The table of all listeners of a platform on one machine, with their callers and limits.

The table of docs/security.md is rendered from this; a test compares it with the sockets that the
processes of a running platform hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlplatform.operations.prefect_server import control_channel
from mlplatform.runtime.configuration.declarations import PORTS
from mlplatform.runtime.http import grpc_connections, listener, uvicorn_limits
from mlplatform.runtime.http.connection import MAX_HEAD_BYTES, MAX_HEADERS, HttpLimits
from mlplatform.scoring.predictor.grpc_server import HANDSHAKE_MS, IDLE_MS, MAX_STREAMS

ADDRESS: Final = "127.0.0.1"
"""Address of all listeners on one machine; a pod's process has `--host` instead
(docs/cluster.md)."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One kind of listener.

    Args:
        name: the name that people use.
        process: name of the process: a child of the supervisor, in which `*` stands for any end;
            `predictor` for processes that have the name of a service.
        variable: the setting of its port; empty: any free port.
        where: where its port can be found; beside a setting, its default.
        asks: how a caller proves who it is.
        is_open: what anybody may get without a proof.
        limits: its limits, as a sentence.
    """

    name: str
    process: str
    variable: str
    where: str
    asks: str
    is_open: str
    limits: str


def _own(limits: HttpLimits) -> str:
    """Limits of the platform's own HTTP server."""
    return (
        f"{limits.connections:,} connections a process, {limits.strangers:,} of them strangers';"
        f" {limits.arrival_s:g} s for a request, {limits.idle_s:g} s idle and for reading an"
        f" answer; {_HEAD}"
    )


def _uvicorn(limits: uvicorn_limits.UvicornLimits) -> str:
    return (
        f"{limits.connections} connections, {limits.strangers} of them strangers';"
        f" a stranger has {limits.arrival_s:g} s for a request and for reading the answer,"
        f" others {limits.transfer_s:g} s; {limits.idle_s} s idle;"
        f" {uvicorn_limits.MAX_PIPELINED} requests waiting; {_HEAD}"
    )


def _by_setting(name: str) -> tuple[str, str]:
    """Variable of a port's setting, and what holds where it is not set."""
    (setting,) = (one for one in PORTS if one.name == name)
    return setting.variable, f"{setting.shown} unless set" if setting.shown else setting.default


_HEAD: Final = f"{MAX_HEADERS} headers and {MAX_HEAD_BYTES // 1024} KiB of head"
_GRPC: Final = (
    f"{grpc_connections.MAX_CONNECTIONS} connections, {grpc_connections.MAX_STRANGERS} of them"
    f" strangers', which end after {grpc_connections.ARRIVAL_S:g} s; {MAX_STREAMS} calls at a time"
    f" on each; {HANDSHAKE_MS // 1000} s for a handshake, {IDLE_MS // 1000} s without a call"
)
_CONTROL: Final = (
    f"{control_channel.CONNECTION_LIMITS.connections} connections,"
    f" {control_channel.CONNECTION_LIMITS.strangers} of them strangers';"
    f" {control_channel.TOKEN_S} s for the token"
)
_KEY: Final = "an API key, or an issuer's token"
_OPEN_PATHS: Final = (
    "`/healthz`, `/readyz`, `/v2/health/live`, `/v2/health/ready`, "
    "`/openapi.json`, `/openapi.html`, `/openapi/*`"
)
_START: Final = "the token of this start"

LISTENERS: Final = (
    Listener(
        *("gateway, scoring API", "gateway-*", *_by_setting("GATEWAY_PORT")),
        *(_KEY, _OPEN_PATHS, _own(HttpLimits())),
    ),
    Listener(
        *("each gateway process", "gateway-*", "", "`run/gateways/<name>.json`"),
        *("as above", "as above", "as above"),
    ),
    Listener(
        *("gateway, gRPC", "gateway-*", *_by_setting("GATEWAY_GRPC_PORT")),
        *(f"{_KEY}, in the metadata", "`ServerLive`, `ServerReady`, `Health`", _GRPC),
    ),
    Listener(
        *("Prefect, UI and API", "prefect", *_by_setting("PREFECT_PORT")),
        "name and key of a person, or `run/prefect.token`; its own processes: a secret",
        *("`/health`", _uvicorn(uvicorn_limits.LIMITS)),
    ),
    Listener(
        *("Prefect, control of flow runs", "prefect", "", "of its own for each run"),
        *("a token for each run", "nothing", _CONTROL),
    ),
    Listener(
        *("Prefect, control of heavy runs", "prefect", "", "of its own for each run"),
        *("as above", "as above", "as above"),
    ),
    Listener(
        *("MLflow", "mlflow", *_by_setting("MLFLOW_PORT")),
        *(f"{_START}, `run/mlflow.token`", "`/health`", _uvicorn(uvicorn_limits.LIMITS)),
    ),
    Listener(
        *("the platform's own page", "page", *_by_setting("PAGE_PORT")),
        "a session of a person, by key or identity provider; to look, `run/page.token` too",
        *(
            "`/health`, `/sign-in`, `/sign-in/*`, `/session-ended`, `/style.css`, `/live.js`",
            _uvicorn(uvicorn_limits.LIMITS),
        ),
    ),
    Listener(
        *("predictors, HTTP", "predictor", "", "`run/predictors/<service>.json`"),
        *(f"{_START}, `run/predictor.token`", "`/v2/health/live`", _own(HttpLimits())),
    ),
    Listener(
        *("predictors, gRPC", "predictor", "", "the same file"),
        *("the same, in the metadata", "`ServerLive`", _GRPC),
    ),
    Listener(
        *("exporter, metrics", "exporter", "", "`run/exporter.json`"),
        *(f"{_START}, `run/exporter.token`", "`/healthz`", _own(listener.LIMITS)),
    ),
    Listener(
        *("async worker, metrics", "worker-*", "", "`run/workers/<model>.json`"),
        *(f"{_START}, `run/worker.token`", "`/healthz`", _own(listener.LIMITS)),
    ),
)


def render() -> str:
    """The table as Markdown."""
    lines = [
        "| listener | port | proves who calls | open to anybody | limits |",
        "|---|---|---|---|---|",
    ]
    for one in LISTENERS:
        port = f"`{one.variable}`, {one.where}" if one.variable else f"a free one, {one.where}"
        lines.append(f"| {one.name} | {port} | {one.asks} | {one.is_open} | {one.limits} |")
    return "\n".join(lines)
