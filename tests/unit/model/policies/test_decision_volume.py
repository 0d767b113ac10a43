"""A bundle that declines or alerts far more than planned is stopped, and no other one is."""

from __future__ import annotations

import random
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.folders import load_definition, parse
from mlplatform.model.policies.decision_scale import EARLIER, VolumeLimit
from mlplatform.model.policies.volume import DecisionVolume, Excess
from mlplatform.model.routes import BUCKETS
from mlplatform.runtime.errors import ConfigInvalid

FRAUD = load_definition("fraud")


LIMIT = cast(VolumeLimit, FRAUD.decision.limit)


def decided(volume: DecisionVolume, decisions: list[str]) -> int | None:
    """How many customers, one a millisecond, had decided when it stopped."""
    for number, decision in enumerate(decisions, start=1):
        if volume.count(number % BUCKETS, decision, number / 1000):
            return number
    return None


def drawn(count: int, *, declines: float, alerts: float, seed: int = 3) -> list[str]:
    draw = random.Random(seed).random
    found = []
    for _ in range(count):
        number = draw()
        found.append("decline" if number < declines else "review" if number < alerts else "approve")
    return found


def test_a_bundle_that_declines_everybody_is_stopped_within_25_customers() -> None:
    volume = DecisionVolume(LIMIT, EARLIER, BUCKETS)
    assert decided(volume, ["decline"] * 100) == 25
    assert volume.stopped is not None
    assert (
        volume.stopped.reason
        == "decided decline for 25 of 25 customers (100.00 %); at most 5.00 % are allowed"
    )


def test_few_declines_prove_nothing() -> None:
    volume = DecisionVolume(LIMIT, EARLIER, BUCKETS)
    assert decided(volume, ["decline", "decline", "approve", "decline", "approve"]) is None


def test_reviews_alone_stop_too() -> None:
    volume = DecisionVolume(LIMIT, EARLIER, BUCKETS)
    assert decided(volume, drawn(2000, declines=0, alerts=0.5)) is not None
    assert volume.stopped is not None
    assert volume.stopped.reason.startswith("decided review or decline for ")


@pytest.mark.parametrize(
    ("share", "within"), [(1.0, 25), (0.5, 100), (0.2, 400)], ids=["all", "half", "a fifth"]
)
def test_the_more_it_declines_the_fewer_customers_it_meets(share: float, within: int) -> None:
    for seed in range(20):
        found = decided(
            DecisionVolume(LIMIT, EARLIER, BUCKETS),
            drawn(2000, declines=share, alerts=share, seed=seed),
        )
        assert found is not None
        assert found <= within


def test_a_bundle_as_planned_is_not_stopped() -> None:
    planned = FRAUD.decision
    assert planned.thresholds.shares is not None
    declines = planned.thresholds.shares["decline"]
    seen = drawn(100_000, declines=declines, alerts=planned.alert_share)
    assert decided(DecisionVolume(LIMIT, EARLIER, BUCKETS), seen) is None


def test_at_the_limit_itself_a_false_stop_comes_no_sooner_than_said() -> None:
    """Run lengths have about their mean as spread: 60 of them know theirs to an eighth."""
    said, draw = 500.0, random.Random(11).random
    lengths = []
    for _ in range(60):
        seen, length = Excess(0.05, said), 1
        while not seen.add(draw() < 0.05):
            length += 1
        lengths.append(length)
    assert sum(lengths) / len(lengths) >= said


@given(st.lists(st.sampled_from(["approve", "review", "decline"]), max_size=300))
def test_one_customer_alone_stops_nothing(decisions: list[str]) -> None:
    volume = DecisionVolume(LIMIT, EARLIER, BUCKETS)
    for number, decision in enumerate(decisions):
        assert not volume.count(7, decision, number / 10)


def test_a_customer_counts_again_when_the_time_is_over() -> None:
    volume = DecisionVolume(LIMIT, EARLIER, BUCKETS)
    stops = [volume.count(7, "decline", LIMIT.once_per_s * number) for number in range(25)]
    assert stops == [False] * 24 + [True]


def test_what_was_stopped_stays_so_until_it_is_cleared() -> None:
    volume = DecisionVolume(LIMIT, EARLIER, BUCKETS)
    decided(volume, ["decline"] * 25)
    assert decided(volume, ["approve"] * 1000) is None
    assert volume.stopped is not None
    volume.clear()
    assert volume.stopped is None
    assert decided(volume, ["decline"] * 24) is None


MODEL_YAML = msgspec.to_builtins(FRAUD)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"shares": {"decline": 0.003}}, "decision.limit.shares.decline"),
        ({"alert_share": 0.013}, "decision.limit.alert_share"),
        ({"shares": {"decline": 0.4}}, "decision.limit.shares.decline"),
        ({"shares": {"approve": 0.1}}, "decision.limit.shares.approve"),
        ({"alert_share": 1.0}, "decision.limit.alert_share"),
        ({"once_per_s": 0}, "decision.limit.once_per_s"),
        ({"decisions_per_false_stop": 10}, "decision.limit.decisions_per_false_stop"),
        ({"per_s": 1}, "decision.limit"),
    ],
)
def test_a_limit_that_can_not_be_meant_is_refused_by_its_key(
    changes: dict[str, float], key: str
) -> None:
    import yaml

    decision = MODEL_YAML["decision"] | {"limit": MODEL_YAML["decision"]["limit"] | changes}
    with pytest.raises(ConfigInvalid, match=key.replace(".", r"\.")):
        parse(yaml.safe_dump(MODEL_YAML | {"decision": decision}), "model.yaml")
