"""Callers of the Open Inference Protocol: rows of inputs in, raw scores out, by the same routes.

They name a customer by the parameter `assignment_key`; without it the champion answers, and the
records stay outside every analysis.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final, get_args

import numpy as np

from mlplatform.model.definition import REQUEST_UNIT
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.arms.fallback import ModelStep
from mlplatform.scoring.arms.live import Target, no_champion
from mlplatform.scoring.arms.named_versions import named_assignment
from mlplatform.scoring.predictor.protocol import Floats, RequestRefused
from mlplatform.scoring.request.decision import Caller, DecidedRequest
from mlplatform.scoring.request.payloads import INT64, MAX_TEXT
from mlplatform.scoring.request.scoring import Scoring

MAX_ROWS: Final = 128
PARAMETER: Final = "assignment_key"
MODEL_STEPS: Final = get_args(ModelStep)
PLATFORM: Final = "mlplatform_gateway"


@dataclass(frozen=True, slots=True)
class RawScores:
    """The raw scores of the rows, or their probabilities by class, in order, and the version that
    gave the last of them."""

    scores: Floats
    version: str


async def infer(
    scoring: Scoring, rows: Floats, assignment_key: Any | None, caller: Caller
) -> RawScores:
    """Raw scores, each row decided and recorded by itself; they leave for the predictor together.

    Raises:
        Problem: 422 for too many rows or a key of another type; 503 if a row got no score; 404 for
            a version that is not served.
    """
    if caller.key is not None:
        detail = "inference requests have no Idempotency-Key: score by /api for that"
        raise Problem(422, "invalid-header", detail, field="Idempotency-Key")
    if len(rows) > MAX_ROWS:
        raise Problem(422, "invalid-field", f"{len(rows)} rows; at most {MAX_ROWS}", field="inputs")
    value = _unit_value(scoring, assignment_key)
    decided = await asyncio.gather(
        *(scoring.infer(row, value, caller) for row in rows.astype(np.float64).tolist())
    )
    return RawScores(np.array([_raw(one) for one in decided], np.float32), _version(decided[-1]))


def width(scoring: Scoring) -> int:
    """The number of inputs of the champion.

    Raises:
        Problem: 503 if there is no champion.
    """
    return len(champion_of(scoring).plan.names)


def champion_of(scoring: Scoring) -> Target:
    """The arm whose inputs requests must have: the champion.

    Raises:
        Problem: 503 if there is no champion.
    """
    champion = scoring.live.current.champion
    if champion is None:
        raise no_champion(scoring.live)
    return champion


def target_of(scoring: Scoring, version: str | None) -> Target:
    """The arm whose inputs requests must have: that of the version that they name, or the champion.

    Raises:
        Problem: 503 if there is no champion; 404 if the version is not served.
    """
    champion = champion_of(scoring)
    if version is None:
        return champion
    live = scoring.live.current
    return live.targets[named_assignment(live.routes, 0, version).target.service]


def problem_of(error: RequestRefused) -> Problem:
    return Problem(error.status, "invalid-inference", str(error))


def _raw(decided: DecidedRequest) -> float | tuple[float, ...]:
    raw, prediction = decided.verdict.raw, decided.prediction
    if raw is None or decided.verdict.answered_by not in MODEL_STEPS:
        # the small model's raw scores are on another scale
        detail = f"no predictor gave a score: {decided.degraded_reason}"
        raise Problem(503, "no-score", detail, retry_after_s=1)
    return raw if prediction is None else prediction.raw


def _version(decided: DecidedRequest) -> str:
    return decided.arm.bundle if decided.arm else ""


def _unit_value(scoring: Scoring, key: Any | None) -> Any | None:
    """The key as a value of the model's assignment unit, as a score request would hold it."""
    name = scoring.definition.assignment_unit
    if key is None or name == REQUEST_UNIT:
        return None
    kind = scoring.definition.request[name].type
    if kind == "int64":
        if isinstance(key, str) and key.isascii() and key.removeprefix("-").isdigit():
            key = int(key) if len(key) <= 20 else INT64
        if type(key) is int and -INT64 <= key < INT64:
            return key
    elif isinstance(key, str) and 0 < len(key) <= MAX_TEXT:
        return key
    raise Problem(422, "invalid-field", f"{PARAMETER} must be {kind}", field=PARAMETER)
