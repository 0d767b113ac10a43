"""How requests of a model are accepted and answered, as model.yaml declares it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta

from mlplatform.model.policies.values import Count, ErrorShare, Positive, Section, Share
from mlplatform.runtime.units import HOUR_S

OWN_RUNTIMES: Final = ("mlplatform", "triton")
"""Runtimes that get the bundle itself, or a repository made from it."""
RUNTIME_NAME: Final = r"\A[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?\Z"
FORMAT: Final = r"\A[a-z][a-z0-9-]{0,62}(/[0-9][0-9A-Za-z.-]{0,15})?\Z"
STORAGE: Final = r"\A(s3|gs|pvc|hdfs|https|oci)://[!-~]{1,1000}\Z"
ADDRESS: Final = "http://host:port, a host of names between single dots and a port up to 65535"
SERVED_AS: Final = r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z"
_LabelName = Annotated[str, Meta(pattern=r"\A[A-Za-z][A-Za-z0-9]{0,62}\Z")]
_LabelValue = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z")]
MAX_BATCH: Final = 10_000
BatchSize = Annotated[int, Meta(ge=1, le=MAX_BATCH)]
"""Messages in one commit of a worker: of model.yaml, and of the worker's command lines."""
Labels = Annotated[Mapping[_LabelName, _LabelValue], Meta(max_length=8)]


_LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_AND_PORT: Final = re.compile(rf"http://({_LABEL}(\.{_LABEL})*):([1-9][0-9]{{0,4}})")


def is_address(text: str) -> bool:
    """Whether a text is the `ADDRESS` of a server.

    Source: RFC 1123, section 2.1 (host names).
    """
    found = _HOST_AND_PORT.fullmatch(text)
    return found is not None and len(found[1]) <= 253 and int(found[5]) <= 65_535


class AdmissionPolicy(Section, frozen=True):
    """Limits of all clients of this model together. A client's own limit is part of its key.

    Args:
        rate_per_s: requests a second, on average.
        burst: requests that may come at once.
    """

    rate_per_s: Annotated[float, Meta(gt=0, le=1_000_000)]
    burst: Annotated[int, Meta(ge=1, le=1_000_000)]


class ChainPolicy(Section, frozen=True):
    """The parts of a request's deadline (`deadline_ms`), and the share of a gateway that the model
    may use.

    Args:
        reserve_share: share of the deadline that is kept for what follows the predictors (small
            model, rules, safe default) and for the record.
        step_share: share of the time until the reserve that a predictor gets if another one can be
            asked after it; the last one gets all of it.
        features_share: share of the deadline within which a thread must have read the stored
            features.
        concurrent: requests that wait for predictors at a time, in each gateway process; a further
            one is decided without them.
        retry_share: share of the calls that may be repeated after a broken connection.
        retry_burst: unused repeats that can be saved up.
    """

    reserve_share: Annotated[float, Meta(gt=0, lt=1)]
    step_share: Annotated[float, Meta(gt=0, lt=1)]
    features_share: Annotated[float, Meta(gt=0, lt=1)]
    concurrent: Count
    retry_share: Share
    retry_burst: Count


class FeaturesPolicy(Section, frozen=True):
    """The freshness of features that the model requires.

    Args:
        stale_share_limit: largest share of one minute's decisions that may lack fresh features.
        late_share: share of a view's ttl; a newest snapshot that is older is reported as late.
        skew_share: tolerated share of a feature's values that differ from the correct ones.
        window_late_s: a decision's windows should include records that are at least this many
            seconds older.
        snapshot_late_h: hours after its midnight by which a snapshot should be served.
    """

    stale_share_limit: Share = 0.05
    late_share: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    skew_share: ErrorShare = 0.01
    window_late_s: Positive = 60
    snapshot_late_h: Annotated[float, Meta(gt=0, le=24)] = 6


class BreakerPolicy(Section, frozen=True):
    """When a gateway process stops calling a predictor, and when it tries again.

    Args:
        window_calls: the newest calls that are counted.
        minimum_calls: with fewer calls counted, the breaker does not open.
        failure_share: share of failed calls from which on it opens. A call without a usable answer
            in its slice of the deadline has failed.
        slow_share: share of failed and slow calls together from which on it opens.
        slow_ms: milliseconds over which an answered call is slow; one that takes longer than its
            slice is slow too.
        open_s: seconds for which it stays open before probes are sent.
        half_open_probes: probes that must all answer, none slowly, before it closes; one that does
            not opens it again.
    """

    window_calls: Count
    minimum_calls: Count
    failure_share: Annotated[float, Meta(gt=0, le=1)]
    slow_share: Annotated[float, Meta(gt=0, le=1)]
    slow_ms: Annotated[float, Meta(gt=0, le=200)]
    open_s: Positive
    half_open_probes: Count


class ScalingPolicy(Section, frozen=True):
    """The range of pods of an autoscaler, and the targets that it holds a version to.

    Args:
        minimum_replicas: least pods of a version.
        maximum_replicas: most pods of a version.
        queued_requests: requests that wait in one predictor, above which pods are added.
        latency_p99_ms: milliseconds from a request's headers to the predictor's answer (99th
            percentile), above which pods are added.
    """

    minimum_replicas: Annotated[int, Meta(ge=1, le=1000)]
    maximum_replicas: Annotated[int, Meta(ge=1, le=1000)]
    queued_requests: Count
    latency_p99_ms: Positive


class ServingPolicy(Section, frozen=True):
    """How a predictor of this model collects requests into calls of the model, and its resources.

    Args:
        queue_requests: requests that may wait in one predictor; more are refused with 503.
        batch_rows: most rows in one call of the model.
        batch_delay_us: microseconds that a batch may wait for more rows, under load only.
        load_deadline_s: seconds after its start by which a predictor must be ready, or it is
            started again; a bundle has a second more for each 50 MB.
        cpus: processors of each pod, as request and limit; without it, the platform's default.
        memory_mib: memory of each pod in MiB, as request and limit; without it, the platform's
            default. A model needs part of it twice while it loads.
        scaling: range and targets of the autoscaler; without it, none is made.
        runtime: the server: the platform's own predictor, Triton (on Kubernetes; on one machine the
            own predictor runs), or the name of another ServingRuntime.
        format: `modelFormat` of what another runtime loads on Kubernetes, as `name` or
            `name/version`.
        storage: URI of the artefact that another runtime loads on Kubernetes.
        address: address of another server, for an installation on one machine.
        served_as: the model's name at another server; without it, the name of the service.
        labels: labels of the InferenceService, for a runtime that reads them.
    """

    queue_requests: Count
    batch_rows: Count
    batch_delay_us: Annotated[int, Meta(ge=0)]
    load_deadline_s: Annotated[int, Meta(ge=1, le=HOUR_S)] = 60
    cpus: Annotated[float, Meta(ge=0.1, le=128)] | None = None
    memory_mib: Annotated[int, Meta(ge=128, le=1_048_576)] | None = None
    scaling: ScalingPolicy | None = None
    runtime: Annotated[str, Meta(pattern=RUNTIME_NAME)] = "mlplatform"
    format: Annotated[str, Meta(pattern=FORMAT)] | None = None
    storage: Annotated[str, Meta(pattern=STORAGE)] | None = None
    address: str | None = None
    served_as: Annotated[str, Meta(pattern=SERVED_AS)] | None = None
    labels: Labels | None = None


class CachePolicy(Section, frozen=True):
    """Limits of the cache of scores of equal rows; a model.yaml without it caches none.

    Args:
        entries: most rows whose scores are cached, of one bundle in one gateway process.
        keep_s: seconds after which a cached score is not used any more.
    """

    entries: Count
    keep_s: Positive


class AsyncPolicy(Section, frozen=True):
    """How requests that are to be scored later are processed; a model.yaml without it accepts none.

    Args:
        enabled: whether gateways take such requests and the platform runs a worker for them.
        batch: messages in one commit, and the largest number that a worker holds.
        chunk: items in one call of the gateway.
        connections: number of simultaneous calls of the gateway.
    """

    enabled: bool
    batch: BatchSize
    chunk: Annotated[int, Meta(ge=1, le=1_000)]
    connections: Annotated[int, Meta(ge=1, le=64)]
