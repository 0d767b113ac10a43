"""Explanations for clients: whose decisions they are, and how many may be asked for at a time."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from mlplatform.runtime.configuration.kinds import ClockMode
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.scoring.admission.clients import Client
from mlplatform.scoring.explanations.answer import (
    ExplanationReply,
    ExplanationRequest,
    NoExplanation,
)
from mlplatform.scoring.labels.ownership import Ownership, event_span

MOST_WAITING: Final = 8
"""Most explanations under way in one gateway process; further ones are refused. One is computed at
a time, within some hundredths of a second."""
LIMIT_S: Final = 5.0
"""Seconds after which a client is asked to come back; by then the process has started."""
LATE_S: Final = 2
"""Seconds after which such a client should try again."""
IDLE_S: Final = 300.0
"""Seconds without a request after which the process that explains is ended."""
_ID: Final = re.compile(r"[0-9a-f]{1,64}")
_SHOWN: Final = 64

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


class Explainer(Protocol):
    """The adapter to what explains; for one thread."""

    def explain(self, request: ExplanationRequest) -> ExplanationReply: ...

    def close(self) -> None: ...


class Explanations:
    """Answers why decisions came out as they did, to the clients that asked for them.

    Explanations are computed one at a time beside the event loop, and a client waits no longer than
    `LIMIT_S`: no score waits for an explanation.
    """

    def __init__(self, explainer: Explainer, ownership: Ownership, mode: ClockMode) -> None:
        self._explainer = explainer
        self._ownership = ownership
        self._mode = mode
        self._thread = ThreadPoolExecutor(1, "explanations")
        self._waiting = 0
        self._idle: asyncio.TimerHandle | None = None

    async def explain(
        self, model: str, client: Client, decision_id: str, *, leave: Callable[[], None]
    ) -> bytes:
        """The explanation of a decision, as JSON.

        Args:
            leave: called before the wait begins: what waits here is no request in flight, whose
                record a commit may wait for.

        Raises:
            Problem: 404 if the client was given no such decision; 422 if nothing explains it; 409
                if it is still to come; 503 if too many explanations are under way, or this one was
                not ready in time.
        """
        is_id = _ID.fullmatch(decision_id) is not None
        if not is_id or not await self._ownership.of(model, client, (decision_id,)):
            shown = decision_id[:_SHOWN]
            raise await self._ownership.refuse("explanations", model, client, shown, 404)
        if self._waiting >= MOST_WAITING:
            detail = f"{MOST_WAITING} explanations are under way; ask again"
            raise Problem(503, "overloaded", detail, retry_after_s=1)
        leave()
        request = ExplanationRequest(model, decision_id, *event_span(self._mode, (decision_id,)))
        reply = await self._reply(request)
        if reply.problem is not None:
            raise _problem(reply.problem)
        return bytes(reply.answer)

    async def stop(self) -> None:
        """End the process that explains; a request that waits is not answered."""
        if self._idle is not None:
            self._idle.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._explainer.close)

    async def _reply(self, request: ExplanationRequest) -> ExplanationReply:
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            # One whose time is over while it waits is cancelled, and never computed.
            async with asyncio.timeout(LIMIT_S):
                return await loop.run_in_executor(self._thread, self._explainer.explain, request)
        except TimeoutError as error:
            detail = f"the explanation was not ready within {LIMIT_S:g} s; ask again"
            raise Problem(503, "explanation-late", detail, retry_after_s=LATE_S) from error
        except Unavailable as error:
            log.error("decision %s is not explained: %s", request.decision_id, error)
            detail = "explanations cannot be computed now; ask again"
            raise Problem(503, "explanation-unavailable", detail, retry_after_s=LATE_S) from error
        finally:
            self._waiting -= 1
            self._end_when_idle(loop)

    def _end_when_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = loop.call_later(IDLE_S, self._thread.submit, self._explainer.close)


def _problem(why: NoExplanation) -> Problem:
    return Problem(why.status, why.name, why.detail, retry_after_s=why.retry_after_s)
