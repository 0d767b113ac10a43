"""One HTTP request and its answer, as far as the gateway looks into them: no framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from mlplatform.admission.clients import Operation
from mlplatform.admission.gate import Admitted
from mlplatform.gateway.decided import Finished
from mlplatform.gateway.problems import Problem
from mlplatform.gateway.trace import TraceContext

MAX_BODY_BYTES = 1024 * 1024
MAX_DISCARDED_BYTES = 16 * MAX_BODY_BYTES

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")


@dataclass(slots=True)
class Request:
    """One HTTP request.

    Args:
        headers: names in lower case; of a repeated header the last counts.
        started_s: when it arrived, on the monotonic clock.
        client: who asks, once admitted.
        trace: the trace that it belongs to, with this gateway's span.
        admitted: what was let in, until it is answered; None for open paths.
        finished: gets its decisions, where somebody wants their timings.
    """

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    receive: Receive
    started_s: float
    client: str = ""
    trace: TraceContext | None = None
    is_body_read: bool = False
    admitted: Admitted | None = None
    finished: list[Finished] | None = None

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            Problem: 413, it is larger than this gateway takes; 408, its sender ended before it
                did, whatever came until then.
        """
        length = self.headers.get(b"content-length", b"0")
        if length.isdigit() and (len(length) > 12 or int(length) > MAX_BODY_BYTES):
            raise _too_large()
        message = await self.receive()
        body: bytes = message.get("body", b"")
        while message.get("more_body", False) and len(body) <= MAX_BODY_BYTES:
            message = await self.receive()
            body += message.get("body", b"")
        self.is_body_read = not message.get("more_body", False)
        if message["type"] == "http.disconnect":
            raise Problem(408, "incomplete", "the connection ended before the body did")
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        return body

    async def discard(self) -> None:
        """Read the rest of a refused body, so that its sender gets to read the answer."""
        size = 0
        while not self.is_body_read and size <= MAX_DISCARDED_BYTES:
            message = await self.receive()
            size += len(message.get("body", b""))
            self.is_body_read = not message.get("more_body", False)


@dataclass(slots=True)
class Reply:
    """An answer; its length is added when it is sent."""

    body: bytes
    headers: Headers = field(default_factory=lambda: [JSON])
    status: int = 200


Answerer = Callable[[Request], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is found at one path.

    Args:
        operation: names it in the metrics.
        methods: those it takes, as the Allow header names them.
        answer: makes the reply.
        is_open: whether it answers callers that name no key.
        takes: media types of the body; none where it takes no body.
        headers: what every answer carries, refusals too.
        model: the model it is about; None for the whole installation.
        scope: what the caller's scopes must cover.
        refusal: the body of a problem.
    """

    operation: str
    methods: tuple[str, ...]
    answer: Answerer
    is_open: bool = False
    takes: tuple[bytes, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()
    model: str | None = None
    scope: Operation = "read"
    refusal: Callable[[Problem], bytes] = attrgetter("body")

    def check(self, request: Request) -> None:
        """Raises Problem: 405 for another method, 415 for another kind of body."""
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


def reading(
    operation: str,
    body: Callable[[], bytes],
    content_type: bytes = JSON[1],
    *,
    is_open: bool,
    model: str | None = None,
    scope: Operation = "read",
) -> Endpoint:
    """An endpoint that shows something and takes nothing."""

    async def answer(request: Request) -> Reply:
        return Reply(body(), [(b"content-type", content_type)])

    return Endpoint(operation, ("GET", "HEAD"), answer, is_open, model=model, scope=scope)


def _too_large() -> Problem:
    return Problem(413, "too-large", f"the body is larger than {MAX_BODY_BYTES} bytes")
