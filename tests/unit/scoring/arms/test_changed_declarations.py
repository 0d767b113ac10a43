"""A model whose declaration changes keeps its arms' state as far as its limits are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as changed

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import FeatureView, load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.oip import Codec
from mlplatform.model.policies.decision_scale import VolumeLimit
from mlplatform.model.policies.volume import VolumeStop
from mlplatform.model.routes import Arm, Routes
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.scoring.arms.live import LiveModel, Target
from mlplatform.scoring.predictor_client.predictor import ClientLimits, Predictor
from support.scoring_world import write_amount_bundle

FRAUD = load_definition("fraud")
VIEWS = load_views(model_folder("fraud"))
LIMIT = VolumeLimit(
    shares={"decline": 0.02}, alert_share=0.1, once_per_s=60, decisions_per_false_stop=1_000_000
)
STOP = VolumeStop("decided decline for 16 of 16 customers", 1.0, 0.02)


class ClosablePredictor(Predictor):
    """Notes that it is closed."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True
        super().close()


def _predictor(service: str, limits: ClientLimits, codec: Codec) -> Predictor:
    return ClosablePredictor(service, lambda _: None, str, limits, codec)


def limited(limit: VolumeLimit | None) -> ModelDefinition:
    return changed(FRAUD, decision=changed(FRAUD.decision, limit=limit))


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    digest = write_amount_bundle(tmp_path / "made")
    return (tmp_path / "made").rename(tmp_path / digest)


def made(
    bundle: Path,
    definition: ModelDefinition,
    views: tuple[FeatureView, ...] = VIEWS,
    former: LiveModel | None = None,
) -> LiveModel:
    """One that has the routes of its former, or those of a champion and its predecessor."""
    model = LiveModel(definition, views, bundle.parent, _predictor, former)
    if former is None:
        champion, previous = (Arm(v, bundle.name, f"fraud-v{v}") for v in (2, 1))
        routes = Routes("fraud", 4, champion, None, previous, "fraud-v2-1", "steady", 0.0)
        model.apply(model.prepared(routes))
    return model


def champion(model: LiveModel) -> Target:
    found = model.current.champion
    assert found is not None
    return found


def test_what_the_declaration_leaves_alone_goes_on(bundles: Path) -> None:
    first = made(bundles, limited(LIMIT))
    before = champion(first)
    assert before.volume is not None
    before.volume.stopped = STOP
    second = made(bundles, changed(limited(LIMIT), purpose="Another one."), former=first)
    after = champion(second)
    assert second.current.routes == first.current.routes
    assert second.current.bulkhead is first.current.bulkhead
    for name in ("predictor", "shadow", "breaker", "cache", "explainer", "volume", "bundle"):
        assert getattr(after, name) is getattr(before, name), name
    assert second.state is not None
    before.close_without(after)
    assert not after.predictor.is_closed  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("part", "change", "others"),
    [
        ("breaker", {"breaker": changed(FRAUD.breaker, minimum_calls=99)}, "predictor"),
        ("predictor", {"chain": changed(FRAUD.chain, retry_burst=99)}, "breaker"),
    ],
)
def test_a_changed_limit_begins_anew(
    bundles: Path, part: str, change: dict[str, Any], others: str
) -> None:
    first = made(bundles, FRAUD)
    second = made(bundles, changed(FRAUD, **change), former=first)
    before, after = champion(first), champion(second)
    assert getattr(after, part) is not getattr(before, part)
    assert getattr(after, others) is getattr(before, others)
    before.close_without(after)
    assert before.predictor.is_closed == (part == "predictor")  # type: ignore[attr-defined]


def test_a_stopped_arm_stays_stopped_by_another_limit_and_not_by_none(bundles: Path) -> None:
    first = made(bundles, limited(LIMIT))
    volume = champion(first).volume
    assert volume is not None
    volume.stopped = STOP
    other = changed(LIMIT, alert_share=0.2)
    assert champion(made(bundles, limited(other), former=first)).stopped == STOP
    assert champion(made(bundles, limited(None), former=first)).stopped is None


def test_without_what_the_champion_reads_it_is_refused(bundles: Path) -> None:
    first = made(bundles, FRAUD)
    with pytest.raises(ConfigInvalid):
        made(bundles, FRAUD, (), first)
    assert champion(first).plan.views


def test_a_predecessor_that_cannot_follow_keeps_nobody_from_it(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(bundles, FRAUD)
    plan = LiveModel._continued

    def refusing(self: LiveModel, former: Target, declared: ModelDefinition) -> Target:
        if former.arm.version == 1:
            raise ConfigInvalid("inputs", "x", "y")
        return plan(self, former, declared)

    monkeypatch.setattr(LiveModel, "_continued", refusing)
    second = made(bundles, changed(FRAUD, purpose="Another one."), former=first)
    assert second.current.routes == replace(first.current.routes, previous=None)
    assert list(second.current.targets) == ["fraud-v2"]
