"""One HTTP request to a child, answered in time or not at all."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.runtime.canonical import NOT_JSON

TIMEOUT_S: Final = 2.0
REASON_BYTES: Final = 2000


@dataclass(frozen=True, slots=True)
class ProbeReply:
    """An answer of the child; `ok` for 2xx. `reason` says what is wrong, if the child said so."""

    ok: bool
    reason: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No answer: refused, cut off or too late."""

    reason: str


class _Error(msgspec.Struct):
    """An error of the Open Inference Protocol, or problem details (RFC 9457)."""

    error: str = ""
    detail: str = ""


def ask(
    port: int, path: str, token_file: Path | None = None, *, absent: str = ""
) -> ProbeReply | NoAnswer:
    """The answer of the child on this port to a GET request.

    Args:
        absent: the reason to report for status 404; empty: the reason in the child's answer.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        headers = {}
        if token_file is not None:
            headers["Authorization"] = f"Bearer {token_file.read_text().strip()}"
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read(REASON_BYTES)
    except (OSError, http.client.HTTPException) as error:
        return NoAnswer(f"no answer on port {port}: {error or type(error).__name__}")
    finally:
        connection.close()
    if 200 <= response.status < 300:
        return ProbeReply(True, _error_of(body).detail)
    if response.status == HTTPStatus.NOT_FOUND and absent:
        return ProbeReply(False, absent)
    return ProbeReply(False, _reason(response.status, body))


def _error_of(body: bytes) -> _Error:
    try:
        return msgspec.json.decode(body, type=_Error)
    except NOT_JSON:
        return _Error()


def _reason(status: int, body: bytes) -> str:
    error = _error_of(body)
    return error.error or error.detail or f"answers {status}"
