"""The training data of a model, the resources of its fit, and a candidate's gates, as model.yaml
declares them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from mlplatform.model.policies.decision_scale import Decision
from mlplatform.model.policies.search import SearchPolicy
from mlplatform.model.policies.segments import FairnessPolicy
from mlplatform.model.policies.values import Count, FieldName, Positive, Section, Share


class SmallModelPolicy(Section, frozen=True):
    """The scorecard that is fitted beside every model, for the time when no predictor answers."""

    inputs: Count
    bins: Annotated[int, Meta(ge=2, le=50)]


class ExplorationPolicy(Section, frozen=True):
    """A share of the requests whose outcome a model's decision would hide is let through, so that
    their outcomes stand for those of the rest.

    Args:
        share: of such requests, drawn by a hash: the propensity in their records.
        decision: that such a request gets in place of the one that hides its outcome.
        amount: the request field that holds what may be lost by one request.
        maximum_amount: of one request; larger ones are never let through.
        maximum_sum: of all requests let through in `hours` of event time, in one gateway machine
            or pod, whose processes hold equal parts of it.
    """

    share: Annotated[float, Meta(gt=0, le=0.5)]
    decision: Decision
    amount: FieldName
    maximum_amount: Positive
    maximum_sum: Positive
    hours: Annotated[int, Meta(ge=1, le=24 * 7)] = 24


class GatePolicy(Section, frozen=True):
    """The limits of a candidate before it becomes a version.

    Args:
        average_precision_drop: against the champion, that the low end of the interval may reach.
        average_precision_loss: a loss that is proven to be larger, by the high end, is refused.
        single_input_average_precision: of one input alone; from there on it is leaked.
        skew: what follows where decisions did not read what they should have: it is
            reported, or nothing is trained from them.
        fairness: how far the outcomes of protected groups may lie apart; None: it is reported.
    """

    average_precision_drop: Share
    minimum_average_precision: Share
    small_model_lift: Annotated[float, Meta(ge=1)]
    calibration_error: Share
    latency_p99_ms: Positive
    onnx_difference: Positive
    missing_share: Share
    alert_share_minimum: Share
    alert_share_maximum: Share
    decision_flip_share: Share
    alert_band_factor: Annotated[float, Meta(ge=1)]
    average_precision_loss: Share = 0.01
    single_input_average_precision: Share = 0.9
    skew: Literal["tell", "refuse"] = "tell"
    fairness: FairnessPolicy | None = None


class GpuPolicy(Section, frozen=True):
    """The GPU that each pod of a model holds.

    Args:
        resource: a whole GPU, a slice of one with memory of its own (MIG), or a share of one that
            others use too, without memory of its own (time-slicing, MPS).
        count: how many; more than one only of whole GPUs.
        product: the kind of GPU, as NVIDIA's feature discovery labels its nodes; None means any.
    """

    resource: Annotated[
        str, Meta(pattern=r"^nvidia\.com/(gpu|gpu\.shared|mig-[1-7]g\.[1-9][0-9]{0,2}gb)$")
    ]
    count: Annotated[int, Meta(ge=1, le=8)] = 1
    product: str | None = None


class TrainingPolicy(Section, frozen=True):
    """The training data of a model, and the resources of its fit.

    Args:
        folds: fits of earlier days that are tested on the days after them; 1: one hold-out.
        deadline_s: of a fit from when it is asked for, its wait included; then it has failed.
        gpu: that a fit on Kubernetes holds; None means the one that the model's pods hold.
        hidden_outcomes: what a stopped request without a known outcome teaches: nothing
            (`leave_out`), what those say that chance let through in its place (`weight`), or, where
            there are none, that it is positive (`pseudo_label`).
        pseudo_label_precision: share of stopped requests of known outcome that must be shown to be
            positive before one without counts as such.
        search: of hyper-parameters, before the fit; None: `fit` takes its own.
        vocabulary: most words of a category that are learned, where none are declared.
    """

    window_days: Count
    holdout_days: Count
    minimum_rows: Count
    minimum_positives: Count
    small_model: SmallModelPolicy
    folds: Annotated[int, Meta(ge=1, le=20)] = 1
    hidden_outcomes: Literal["leave_out", "pseudo_label", "weight"] = "pseudo_label"
    pseudo_label_precision: Share = 0.8
    deadline_s: Annotated[int, Meta(ge=60, le=86_400)] = 1200
    gpu: GpuPolicy | None = None
    vocabulary: Annotated[int, Meta(ge=1, le=10_000)] = 100
    search: SearchPolicy | None = None
