"""Rows that a caller made are in the champion's inputs and words: arms of others are not asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Arm, Routes
from mlplatform.scoring.arms.live import Live, Target
from mlplatform.scoring.predictor_client.bulkhead import Bulkhead

FRAUD = load_definition("fraud")
NAMES, WORDS = ("amount", "channel"), {"channel": ("web", "shop")}


def target(names: tuple[str, ...], words: dict[str, tuple[str, ...]]) -> Target:
    plan, bundle = SimpleNamespace(names=names), SimpleNamespace(vocabularies=words)
    return cast(Target, SimpleNamespace(plan=plan, bundle=bundle))


def test_an_arm_is_alike_by_its_inputs_in_their_order_and_by_their_words() -> None:
    champion = Arm(1, "00", "champion")
    routes = Routes("fraud", 1, champion, None, None, None, "steady", 0.0)
    targets = {
        "champion": target(NAMES, WORDS),
        "same": target(NAMES, dict(WORDS)),
        "other order": target(NAMES[::-1], WORDS),
        "other words": target(NAMES, {"channel": ("shop", "web")}),
    }
    live = Live(routes, targets, FRAUD.chain, Bulkhead(1), "approve")
    assert live.alike == {"champion", "same"}


def test_without_a_champion_none_is_alike() -> None:
    routes = Routes("fraud", 1, None, None, None, None, "steady", 0.0)
    assert Live(routes, {}, FRAUD.chain, Bulkhead(1), "approve").alike == frozenset()
