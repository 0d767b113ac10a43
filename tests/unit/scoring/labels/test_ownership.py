"""Whose decisions a client may speak for: a reviewer's word is a label, and takes nothing back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.refusals import Refusal
from mlplatform.scoring.labels.ownership import Ownership
from mlplatform.scoring.labels.voids import Voids
from mlplatform.scoring.request.decision_ids import new_decision_id
from mlplatform.scoring.request.payloads import VoidBody
from mlplatform.scoring.request.times import EventTimes
from support.review_world import person

KEY = b"k" * 32


def nobody(model: str, ids: Sequence[str]) -> Mapping[str, str]:
    return {}


def test_who_reviews_takes_no_decision_of_others_back() -> None:
    kept: list[Refusal] = []
    clock = SystemClock()
    ownership = Ownership(nobody, clock, KEY, kept.append)
    recorder: Any = None  # nothing may be recorded
    voids = Voids(recorder, EventTimes("system", clock.event_ms), clock, ownership)
    name = new_decision_id("fraud", "shop", 1, KEY)
    ana = person("ana", "fraud:review", "fraud:void")
    with pytest.raises(Problem, match="was given to ana"):
        asyncio.run(voids.add("fraud", ana, VoidBody(decision_id=name, reason="a test")))
    assert len(kept) == 1
