"""The state of a predictor, for all protocols: its model, its queue, and whether it is ready."""

from __future__ import annotations

import hmac
from typing import Final

from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.runtime.units import MIB
from mlplatform.scoring.predictor.batching import RETRY_AFTER_S, BatchLimits, ScoreQueue
from mlplatform.scoring.predictor.metrics import Metrics
from mlplatform.scoring.predictor.model import Model
from mlplatform.scoring.predictor.protocol import RequestRefused

SERVER_NAME: Final = "mlplatform-predictor"
PROTOCOL_VERSION: Final = "2"
PLATFORM: Final = "onnxruntime_onnx"
MAX_BODY_BYTES: Final = MIB


class ServedModel:
    """One model under one name; it is ready once `serve` gives it the model.

    Args:
        name: name of the service in requests. Raw callers, who know no versions and use a route
            that several services share, use the model's name.
        token: bearer token that callers must send; None if they need none.
    """

    def __init__(
        self,
        name: str,
        token: str | None = None,
        limits: BatchLimits | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.name = name
        parsed = ServiceName.parse(name)
        self._names = {name} if parsed is None else {name, parsed.model}
        self.draining = False
        self.max_body_bytes = max_body_bytes
        self.metrics = Metrics(name)
        self._authorization = None if token is None else f"Bearer {token}".encode()
        self._limits = limits or BatchLimits()
        self._served: tuple[Model, ScoreQueue] | None = None
        self._problem = "the model is being loaded"

    def serve(self, model: Model) -> None:
        """Become ready with this model; called on the event loop."""
        queue = ScoreQueue(model, self.metrics, self._limits)
        self._served = (model, queue)
        if len(self._names) > 1:  # a model's name may have `_`
            self._names.add(model.served.model)
        self.metrics.on_loaded(model, queue.depth)

    def fail(self, problem: str) -> None:
        """Never become ready; the problem is the answer to every request."""
        self._problem = problem

    def drain(self) -> None:
        """End readiness; requests are still answered."""
        self.draining = True
        self._problem = "shutting down"
        self.metrics.ready.set(0)

    @property
    def alive(self) -> bool:
        """False once nothing can be scored any more, which only a new process mends."""
        return self._served is None or self._served[1].alive

    @property
    def ready(self) -> bool:
        return self._served is not None and self.alive and not self.draining

    def model_and_queue(self) -> tuple[Model, ScoreQueue]:
        """The model and its queue.

        Raises:
            RequestRefused: 503 with the reason, while there is none.
        """
        if self._served is None:
            raise self.not_ready()
        return self._served

    def not_ready(self) -> RequestRefused:
        problem = self._problem if self.alive else "the thread that scores has ended"
        return RequestRefused(503, f"{self.name} is not ready: {problem}", RETRY_AFTER_S)

    def check_token(self, authorization: bytes | None) -> None:
        """Check the caller's token.

        Raises:
            RequestRefused: 401.
        """
        if self._authorization is None:
            return
        if authorization is None or not hmac.compare_digest(authorization, self._authorization):
            raise RequestRefused(401, "the bearer token of this predictor is needed")

    def check_name(self, name: str, version: str = "") -> None:
        """Check that the name is the service's or its model's, and the version is its own if one is
        named.

        Raises:
            RequestRefused: 404, naming what there is.
        """
        if name not in self._names:
            raise RequestRefused(404, f"no model {name!r}; there is {self.name!r}")
        if version and self._served is not None and version != self._served[0].served.digest:
            raise RequestRefused(404, f"no version {version!r} of {name!r}")
