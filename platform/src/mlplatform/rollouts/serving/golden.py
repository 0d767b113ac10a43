"""Whether a service scores its bundle's golden rows, asked over the Open Inference Protocol.

The platform's own predictor asks itself before it is ready. Triton does not: the code that
manages its service asks in its place.
"""

from __future__ import annotations

import http.client
import math
import socket
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from mlplatform.model.bundle import Bundle
from mlplatform.model.oip import PredictionFailed, Reply, infer_request, scores
from mlplatform.runtime.errors import Unavailable

TIMEOUT_S: Final = 2.0
ANSWER_BYTES: Final = 1 << 20
Row = Sequence[float]
Score = Callable[[Sequence[Row]], list[float]]


def wrong(bundle: Bundle, score: Score) -> str:
    """What is scored otherwise than the bundle says, in one batch or one by one; empty: nothing."""
    rows = [[math.nan if v is None else v for v in row] for row in bundle.golden.rows]
    together = score(rows)
    alone = [score([row])[0] for row in rows]
    for scored, how in ((together, "in a batch"), (alone, "alone")):
        for number, (found, told) in enumerate(zip(scored, bundle.golden.scores, strict=True)):
            if not abs(found - told) <= bundle.golden.tolerance:
                return (
                    f"golden row {number} scores {found:.6g} {how}; the bundle says {told:.6g}"
                    f" within {bundle.golden.tolerance:g}"
                )
    return ""


def ask(url: str, service: str, rows: Sequence[Row]) -> list[float]:
    """The raw scores that a service gives rows.

    Args:
        url: http://host:port.

    Raises:
        Unavailable: it gave no answer, or one that is no scores.
    """
    at = urlsplit(url)
    try:
        with socket.create_connection((at.hostname, at.port or 80), TIMEOUT_S) as connection:
            connection.sendall(infer_request(service, at.netloc, "", rows, "Connection: close\r\n"))
            response = http.client.HTTPResponse(connection)
            response.begin()
            headers = {k.lower().encode(): v.encode() for k, v in response.getheaders()}
            reply = Reply(response.status, headers, response.read(ANSWER_BYTES))
        return scores(reply, len(rows))
    except (OSError, http.client.HTTPException, PredictionFailed) as error:
        raise Unavailable(f"{service} at {url}: {error}") from error
