"""Export of spans to a collector by OTLP/HTTP, in the JSON form that files have too.

Source: OpenTelemetry Protocol 1.x, OTLP/HTTP, JSON Protobuf encoding; which answers may be asked
again is its section "Retryable response codes".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import urllib3

from mlplatform.runtime.telemetry.span_files import encoded
from mlplatform.runtime.telemetry.spans import ProcessIdentity, Trace

TIMEOUT_S: Final = 5.0
_RETRIES: Final = urllib3.Retry(
    total=3,
    redirect=0,
    backoff_factor=0.2,
    status_forcelist=(429, 502, 503, 504),
    allowed_methods=None,
    respect_retry_after_header=False,  # a stopping process waits for this
    raise_on_status=False,
)
_JSON: Final = {"Content-Type": "application/json"}


class OtlpSender:
    """Sends spans to a collector.

    Args:
        endpoint: "http://host:port"; spans go to its /v1/traces.
        identity: process of the spans that name none themselves.
    """

    def __init__(self, endpoint: str, identity: ProcessIdentity) -> None:
        self._identity = identity
        self._url = f"{endpoint.rstrip('/')}/v1/traces"
        self._pool = urllib3.PoolManager(num_pools=1, retries=_RETRIES, timeout=TIMEOUT_S)

    def send(self, traces: Sequence[Trace]) -> bool:
        body = encoded(traces, self._identity)
        try:
            answer = self._pool.request("POST", self._url, body=body, headers=_JSON)
        except urllib3.exceptions.HTTPError:
            return False
        return 200 <= answer.status < 300

    def close(self) -> None:
        self._pool.clear()
