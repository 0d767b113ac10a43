"""What a gateway counts of a decision, and that callers can't make series by naming things."""

from __future__ import annotations

from typing import Any, cast

from prometheus_client.parser import text_string_to_metric_families

from mlplatform.learning.features.online import OnlineRow
from mlplatform.learning.features.policy import NO_GAPS, FeaturePolicies, Gaps
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import model_folder
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.model.routes import Arm
from mlplatform.scoring.arms.live import Live
from mlplatform.scoring.arms.routing import Assignment
from mlplatform.scoring.request.decision import DecidedRequest, RoutedRequest
from mlplatform.scoring.request.metrics import Metrics, ModelMetrics
from mlplatform.scoring.request.prediction import Failure, RequestFacts, Verdict

MODEL = "fraud"
NOW_MS = 10_000_000


def decided(
    *,
    times: dict[str, int | None] | None = None,
    gaps: Gaps = NO_GAPS,
    arm: Any = "champion",
    failures: tuple[Failure, ...] = (),
) -> DecidedRequest:
    """A decision with a score of 0.3."""
    assignment = Assignment(arm, 0, Arm(1, "b", "fraud-v1-b"), None)
    facts = RequestFacts({}, NOW_MS, OnlineRow({}, times or {}))
    routed = RoutedRequest("d", cast(Live, None), facts, 1, assignment, gaps)
    return DecidedRequest(routed, Verdict("approve", "champion", None, 0.3, 0.3), failures)


class GatewayMetrics:
    """What a gateway shows."""

    def __init__(self, metrics: Metrics) -> None:
        families = text_string_to_metric_families(metrics.text([]).decode())
        self._samples = [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """None where there is no such series."""
        return next((s.value for s in self.series(name) if s.labels == labels), None)

    def series(self, name: str) -> list[Any]:
        return [s for s in self._samples if s.name == f"mlplatform_gateway_{name}"]


def counted(*decisions: DecidedRequest) -> GatewayMetrics:
    """What is shown after these decisions."""
    metrics = Metrics([MODEL])
    of_model = ModelMetrics(metrics, MODEL, EARLIER.alerts)
    for decision in decisions:
        of_model.count_decision(decision, latency_s=0.001, late=False)
    return GatewayMetrics(metrics)


def test_a_score_is_counted_for_the_arm_that_was_assigned() -> None:
    seen = counted(decided(), decided(arm="challenger"), decided(arm="challenger"))
    assert seen.value("score_count", model=MODEL, arm="champion") == 1
    assert seen.value("score_count", model=MODEL, arm="challenger") == 2
    assert seen.value("score_bucket", model=MODEL, arm="champion", le="0.2") == 0
    assert seen.value("score_bucket", model=MODEL, arm="champion", le="0.3") == 1


def test_the_score_of_a_variant_is_its_own_arms() -> None:
    seen = counted(decided(arm="variant"))
    assert seen.value("score_count", model=MODEL, arm="variant") == 1
    assert seen.value("score_count", model=MODEL, arm="champion") == 0


def test_a_degraded_answer_leaves_the_scores() -> None:
    seen = counted(decided(arm="challenger", failures=(Failure("challenger", "deadline"),)))
    assert seen.value("score_count", model=MODEL, arm="challenger") == 0
    assert seen.value("degraded_total", model=MODEL, reason="deadline") == 1


def test_the_score_of_a_version_that_the_request_named_is_no_arms() -> None:
    seen = counted(decided(arm="named"))
    assert [s.value for s in seen.series("score_count")] == [0, 0, 0]
    assert [s.value for s in seen.series("decisions_total")] == [1]


def test_features_are_as_old_as_their_view_and_never_younger_than_now() -> None:
    old, new, none = NOW_MS - 7_200_000, NOW_MS + 5_000, None
    seen = counted(decided(times={"daily": old, "late": new, "unknown": none}))
    assert seen.value("feature_age_seconds_sum", model=MODEL, view="daily") == 7200.0
    assert seen.value("feature_age_seconds_sum", model=MODEL, view="late") == 0.0
    assert seen.value("feature_age_seconds_count", model=MODEL, view="unknown") is None


def test_a_feature_that_is_not_there_is_counted_with_its_cause() -> None:
    gaps = FeaturePolicies(load_views(model_folder(MODEL)), ("customer_count_1d",)).unavailable()
    seen = counted(decided(gaps=gaps), decided(gaps=gaps))
    labels = {"model": MODEL, "feature": "customer_count_1d", "cause": "unavailable"}
    assert seen.value("features_missing_total", **labels) == 2


def test_models_that_callers_make_up_are_counted_as_none() -> None:
    metrics = Metrics([MODEL])
    for name in (MODEL, "made-up", "other", None):
        metrics.count_answer("grpc_Score", 404, name)
    shown = {s.labels["model"]: s.value for s in GatewayMetrics(metrics).series("requests_total")}
    assert shown == {MODEL: 1, "": 3}
