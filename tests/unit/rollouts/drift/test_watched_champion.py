"""The champion as drift is measured against it, by what its model decides."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from mlplatform.model.policies.decision_scale import EARLIER, DecisionScale, Quantity
from mlplatform.rollouts.drift.observe import champion_of
from mlplatform.rollouts.drift.ports import DriftPorts
from mlplatform.rollouts.drift.verdict import Band

NUMBERS = DecisionScale(("none",), (), number=Quantity("EUR", 20.0))
FLAGGED = DecisionScale(("a", "b"), ("b",), by_class=True)
BAND = Band(0.01, 0.05)


@pytest.mark.parametrize(
    ("scale", "band", "word"),
    [(EARLIER, BAND, "score"), (NUMBERS, None, "number"), (FLAGGED, BAND, "probability")],
    ids=["outcomes", "numbers", "classes with alerts"],
)
def test_the_share_of_alerts_is_watched_where_there_are_alerts(
    scale: DecisionScale, band: Band | None, word: str
) -> None:
    bundle: Any = SimpleNamespace(
        inputs=(), profile=None, rhythms=None, vocabularies={}, scale=scale,
        alert_band=SimpleNamespace(low=0.01, high=0.05),
    )  # fmt: skip
    routes = SimpleNamespace(champion=SimpleNamespace(version=1))
    ports = SimpleNamespace(
        rollouts=SimpleNamespace(routes=lambda model: routes, active=lambda *_, **__: []),
        bundle=lambda arm: bundle,
    )
    found = champion_of("m", cast(DriftPorts, ports))
    assert (found.band, found.score_word) == (band, word)
