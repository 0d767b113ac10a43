"""One HTTP request as the gateway sees it, and the endpoint of a path, without a framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import msgspec

from mlplatform.runtime.http import messages
from mlplatform.runtime.http.messages import Line, Refusal, Reply, line
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.context import TraceContext
from mlplatform.scoring.admission.clients import Operation
from mlplatform.scoring.admission.gate import AdmittedRequest
from mlplatform.scoring.request.decision import RequestOutcome

SHOWN: Final = "/openapi.html shows what there is"
"""The hint in the answer to an unknown path."""
JSON_TYPE: Final = b"application/json"


class Request(msgspec.Struct):
    """One HTTP request.

    Args:
        headers: lower-case name → value; the last one of a repeated header.
        started_s: when the request arrived, on the monotonic clock.
        client: name of the client, once admitted; empty before.
        trace: the request's trace, with this gateway's span; None if there is none.
        admitted: the admission, until the request is answered; None for open paths.
        finished: list that receives the request's decisions for their timings; None if nobody needs
            them.
    """

    message: messages.Request
    method: str
    path: str
    headers: Mapping[bytes, bytes]
    started_s: float
    client: str = ""
    trace: TraceContext | None = None
    admitted: AdmittedRequest | None = None
    finished: list[RequestOutcome] | None = None

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            Problem: 413 if the body is larger than this gateway accepts; 408 if the connection
                ended before the body did, even if a part has come.
        """
        try:
            return await self.message.body()
        except Refusal as refused:
            raise problem_of(refused) from refused


Answerer = Callable[[Request], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The endpoint of one path.

    Args:
        operation: its name in the metrics.
        methods: allowed methods, as in the Allow header.
        answer: returns the reply.
        is_open: whether it answers callers without a key.
        takes: allowed media types of the body; empty if it takes no body.
        headers: headers of every answer, including refusals.
        model: name of the model; None if it concerns the whole installation.
        scope: the operation that the caller's scopes must allow.
        refusal: returns the body for a problem.
    """

    operation: str
    methods: tuple[str, ...]
    answer: Answerer
    is_open: bool = False
    takes: tuple[bytes, ...] = ()
    headers: tuple[Line, ...] = ()
    model: str | None = None
    scope: Operation = "read"
    refusal: Callable[[Problem], bytes] = attrgetter("body")

    def check(self, request: Request) -> None:
        """Check method and body. Raises Problem: 405 for another method, 415 for another type or
        coding of the body."""
        if request.method not in self.methods:
            allow = ", ".join(self.methods)
            detail = f"{request.path} takes {allow}, not {request.method}"
            raise Problem(405, "wrong-method", detail, allow=allow)
        if not self.takes:
            return
        media_type = request.headers.get(b"content-type", b"")
        if media_type not in self.takes:
            media_type = media_type.split(b";")[0].strip().lower()
            if media_type not in self.takes:
                wanted = " or ".join(t.decode() for t in self.takes if t) or "nothing"
                detail = f"the body must be {wanted}, not {media_type.decode('latin-1')!r}"
                raise Problem(415, "wrong-content-type", detail, field="Content-Type")
        coding = request.headers.get(b"content-encoding")
        if coding is not None and coding.strip().lower() != b"identity":
            detail = f"the body must not be encoded, and is {coding.decode('latin-1')!r}"
            raise Problem(415, "wrong-content-coding", detail, field="Content-Encoding")


def problem_of(refused: Refusal) -> Problem:
    """The gateway's problem for a request that the connection refused."""
    retry_after_s = refused.retry_after_s
    return Problem(refused.status, refused.name, refused.detail, retry_after_s=retry_after_s)


def reading(
    operation: str,
    body: Callable[[], bytes],
    content_type: bytes = JSON_TYPE,
    *,
    is_open: bool,
    model: str | None = None,
    scope: Operation = "read",
) -> Endpoint:
    """An endpoint that shows a body and accepts none."""

    kind = line(b"content-type", content_type)

    async def show(request: Request) -> Reply:
        return Reply(body(), [kind])

    return Endpoint(operation, ("GET", "HEAD"), show, is_open, model=model, scope=scope)
