"""The training data of a model, the resources of its fit, and a candidate's gates, as model.yaml
declares them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from mlplatform.model.policies.decision_scale import Decision
from mlplatform.model.policies.search import SearchPolicy
from mlplatform.model.policies.segments import FairnessPolicy, SegmentGates
from mlplatform.model.policies.values import Count, FieldName, Positive, Section, Share
from mlplatform.runtime.units import DAY_S


class SmallModelPolicy(Section, frozen=True):
    """The scorecard that is fitted beside every model, for the time when no predictor answers.

    Args:
        inputs: number of inputs of the scorecard: those that rank requests best alone.
        bins: most intervals into which the values of one input are cut, at their quantiles.
    """

    inputs: Count
    bins: Annotated[int, Meta(ge=2, le=50)]


class ExplorationPolicy(Section, frozen=True):
    """A share of the requests whose outcome a model's decision would hide is let through, so that
    their outcomes stand for those of the rest.

    Args:
        share: share of such requests that are let through. A hash draws them; their records hold
            the share as the propensity.
        decision: the outcome that such a request gets instead of the one that hides its outcome.
        amount: name of the request field with the amount that one request can lose.
        maximum_amount: largest amount of one request; larger requests are never let through.
        maximum_sum: largest sum of the amounts of all requests let through in `hours` of event
            time, in one gateway machine or pod. Its processes share it equally.
        hours: hours of event time over which the amounts add up.
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
        average_precision_drop: largest tolerated loss against the champion; the low end of the
            interval must be within it.
        minimum_average_precision: least average precision of a first version.
        small_model_lift: least average precision of the small model, divided by the share of
            positives.
        calibration_error: largest expected calibration error on the held-out days; the low end of
            its interval must be within it.
        latency_p99_ms: largest 99th percentile of the time of the ONNX file alone, in milliseconds,
            for one row on one thread.
        onnx_difference: largest difference between a score of the fitted model and of its ONNX
            form.
        missing_share: largest share of the training rows that may lack one input.
        alert_share_minimum: least share of the replayed requests that get an alert.
        alert_share_maximum: largest share of the replayed requests that get an alert.
        decision_flip_share: largest share of the replayed requests whose decision differs from the
            champion's.
        alert_band_factor: factor by which the predicted range of the share of alerts is widened on
            either side.
        average_precision_loss: a loss is refused if it is proven to be larger: if the high end is
            beyond this.
        single_input_average_precision: average precision of one input alone from which on the input
            counts as leaked.
        skew: what happens if decisions did not read the correct values: it is reported (`tell`), or
            the candidate is refused (`refuse`).
        fairness: how much the outcomes of protected groups may differ; None: differences are only
            reported.
        segments: segments in which the candidate is compared with the champion by themselves.
        stability_index: largest population stability index (PSI) of an input between the first
            fifth of the window's days and a later one; None: it is only reported.
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
    segments: SegmentGates | None = None
    stability_index: Positive | None = None


class GpuPolicy(Section, frozen=True):
    """The GPU that each pod of a model holds.

    Args:
        resource: resource name of a whole GPU, of a slice with memory of its own (MIG), or of a
            share of a GPU without memory of its own (time-slicing, MPS).
        count: number of GPUs; more than one is allowed for whole GPUs only.
        product: kind of GPU, as NVIDIA's feature discovery labels its nodes; None means any.
    """

    resource: Annotated[
        str, Meta(pattern=r"\Anvidia\.com/(gpu|gpu\.shared|mig-[1-7]g\.[1-9][0-9]{0,2}gb)\Z")
    ]
    count: Annotated[int, Meta(ge=1, le=8)] = 1
    product: str | None = None


ClassWeight = Literal["none", "square_root", "balanced"]


class TrainingPolicy(Section, frozen=True):
    """The training data of a model, and the resources of its fit.

    Args:
        window_days: days of matured requests that a model learns from, the held-out days included.
        holdout_days: number of the last of these days, which are held out: one half for calibration
            and thresholds, the other for the gates.
        minimum_rows: least number of requests in the window; with fewer, there is no version.
        minimum_positives: least number of positives in the window; with fewer, there is no version.
        small_model: the size of the scorecard that decides while no predictor answers.
        maximum_rows: most requests that are read; of more, those of a share of the units of
            assignment, the same units each time.
        folds: number of fits of earlier days, each tested on the days after them; 1: one hold-out
            only.
        hidden_outcomes: how to train with a stopped request whose outcome is unknown: leave it out
            (`leave_out`), let explored requests stand for it (`weight`), or count it as positive if
            there are none (`pseudo_label`).
        pseudo_label_precision: share of positives that must be shown among stopped requests with a
            known outcome, before one without may count as positive.
        deadline_s: seconds for a fit from its request on, waiting time included; later it has
            failed.
        gpu: GPU for a fit on Kubernetes; None means the same as for the model's pods.
        vocabulary: largest number of words that are learned for a category without declared words.
        search: the search for hyper-parameters before the fit; None: `fit` chooses its own.
        class_weight: weight of a row of a rare class in a fit: as many times that of the most
            frequent class as the latter has more rows (`balanced`), the square root of that
            (`square_root`), or the same (`none`). The calibration has no weights, so that scores
            are probabilities all the same.
    """

    window_days: Count
    holdout_days: Count
    minimum_rows: Count
    minimum_positives: Count
    small_model: SmallModelPolicy
    maximum_rows: Annotated[int, Meta(ge=10_000, le=100_000_000)] = 1_000_000
    folds: Annotated[int, Meta(ge=1, le=20)] = 1
    hidden_outcomes: Literal["leave_out", "pseudo_label", "weight"] = "pseudo_label"
    pseudo_label_precision: Share = 0.8
    deadline_s: Annotated[int, Meta(ge=60, le=DAY_S)] = 1200
    gpu: GpuPolicy | None = None
    vocabulary: Annotated[int, Meta(ge=1, le=10_000)] = 100
    search: SearchPolicy | None = None
    class_weight: ClassWeight = "none"
