"""The serving plane of a cluster: one immutable InferenceService for each bundle version."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from mlplatform.model.bundle import load_bundle
from mlplatform.rollouts.kubernetes import supply
from mlplatform.rollouts.kubernetes.api import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    INFERENCE_SERVICES,
    PODS,
    SCALED_OBJECTS,
    SERVICES,
    AlreadyThere,
    Conflict,
    KubernetesApi,
    Object,
)
from mlplatform.rollouts.kubernetes.capacity import CapacityShortage, room_for, within_quotas
from mlplatform.rollouts.serving import golden
from mlplatform.rollouts.serving.autoscaling import declared_scaling
from mlplatform.rollouts.serving.companions import autoscaler, disruption_budget
from mlplatform.rollouts.serving.diagnosis import diagnose, ready_pods
from mlplatform.rollouts.serving.ignored_fields import refuse_ignored
from mlplatform.rollouts.serving.manifest import BUNDLE_LABEL, DIGEST_ANNOTATION, PREDICTORS, read
from mlplatform.rollouts.serving.names import ServiceName, cluster_url
from mlplatform.rollouts.serving.plane import Manifest, ServiceStatus
from mlplatform.runtime.canonical import canonical_json
from mlplatform.runtime.canonical import digest as digest_of
from mlplatform.runtime.errors import ConfigInvalid, Corrupt, NotFound, Refused, Unavailable

MANIFEST_DIGEST: Final = "mlplatform/manifest-digest"
"""Annotation with the digest of the manifest as applied, before KServe's defaults. A service's name
keeps one digest for ever."""
SCHEMES: Final = frozenset({"s3", "gs", "pvc", "hdfs", "https", "oci"})
OF_SERVICE: Final = "serving.kserve.io/inferenceservice"
ASK_AGAIN_S: Final = 300.0
"""Interval in seconds between two tests of another server by golden rows while its pods stay the
same. It may load another artefact without a restart, which the API server does not show."""


@dataclass(frozen=True, slots=True)
class _SelfTest:
    """A passed test of golden rows: the service's uid, its pods, and the time."""

    uid: str
    pods: frozenset[tuple[str, int]]
    at_s: float

    def holds(self, uid: str, pods: frozenset[tuple[str, int]], now_s: float) -> bool:
        """Whether the test still covers these pods; pods that have gone since do not matter."""
        return uid == self.uid and pods <= self.pods and now_s - self.at_s < ASK_AGAIN_S


class KServePlane:
    """A `ServingPlane` whose services are pods that KServe makes.

    Args:
        namespace: namespace of its services; InferenceServices of others in it are left alone.
        counts_gpus: refuse a service if the GPUs that it needs are not free. Set it to False if an
            autoscaler adds GPU nodes on demand, or if the platform may not list nodes and pods. The
            namespace's quotas are checked in any case.
        by_address: reach services at their cluster addresses, for callers that cannot resolve the
            cluster's names.
        prometheus_url: address at which KEDA's operator reads the metrics of services with an
            autoscaler; None means that such services are refused.
        bundles: folder of bundles, whose golden rows are sent to services of other servers as a
            test; None means that such services are refused.
        fetch: called with a bundle's digest before it is read there.
        now_s: returns the time of a monotonic clock, in seconds.
    """

    def __init__(
        self,
        api: KubernetesApi,
        namespace: str,
        *,
        counts_gpus: bool = True,
        by_address: bool = False,
        prometheus_url: str | None = None,
        bundles: Path | None = None,
        fetch: Callable[[str], object] = lambda bundle: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._counts_gpus = counts_gpus
        self._by_address = by_address
        self._prometheus_url = prometheus_url
        self._bundles, self._fetch = bundles, fetch
        self._now_s = now_s
        self._scored: dict[str, _SelfTest] = {}
        """Last passed test of golden rows, by the name of a service of another server."""

    def apply(self, manifest: Manifest) -> None:
        name = _checked(manifest)
        self._check_autoscaler(manifest)
        if self._bundles is None and not _is_own(manifest):
            raise Refused(f"{name} runs on another server, and its golden rows are not here")
        wanted = _signed(manifest)
        found = self._find(name)
        if found is None:
            self._check_room(manifest)
            found = self._create(wanted)
        if _digest(found) != _digest(wanted):
            raise Refused(
                f"{name} runs from another manifest, and services are immutable; "
                "register a new version"
            )
        self._hold(name, wanted, found["metadata"]["uid"])

    def status(self, name: str) -> ServiceStatus:
        service = self._find(name)
        if service is None:
            raise NotFound(f"no service {name!r}; there are: {', '.join(self.names()) or 'none'}")
        deployment = self._api.find(DEPLOYMENTS.path(self._namespace, f"{name}-predictor"))
        pods = self._api.items(PODS.path(self._namespace), labelSelector=f"{OF_SERVICE}={name}")
        found = diagnose(name, service, deployment, pods)
        if self._bundles is None or _is_own(service):
            return found
        return self._self_tested(found, service, pods, self._bundles)

    def endpoint(self, name: str) -> str | None:
        if self._find(name) is None:
            return None
        return self._address(name) if self._by_address else cluster_url(name, self._namespace)

    def remove(self, name: str) -> None:
        service = self._find(name)
        if service is not None:
            # Only the object that was read: a newer object of that name stays.
            self._api.delete(self._path(name), uid=service["metadata"]["uid"])

    def names(self) -> list[str]:
        found = self._api.items(
            INFERENCE_SERVICES.path(self._namespace), labelSelector=BUNDLE_LABEL
        )
        return sorted(s["metadata"]["name"] for s in found if not _leaving(s))

    def _self_tested(
        self, found: ServiceStatus, service: Object, pods: Sequence[Object], bundles: Path
    ) -> ServiceStatus:
        """The status of a service of another server: ready only once it scores its bundle's golden
        rows, because other servers test nothing. The test is repeated when a pod is new or has
        restarted, and every ASK_AGAIN_S."""
        name, metadata = found.name, service["metadata"]
        uid, ready, now_s = metadata["uid"], ready_pods(pods), self._now_s()
        scored = self._scored.get(name)
        if found.ready and scored is not None and scored.holds(uid, ready, now_s):
            return found
        self._scored.pop(name, None)
        if not found.ready:
            return found
        url = self.endpoint(name)
        if url is None:
            return replace(found, ready=False, reason="it has no address yet")
        digest = metadata["annotations"][DIGEST_ANNOTATION]
        try:
            self._fetch(digest)
            problem = golden.problem_of(load_bundle(bundles / digest, digest), url, name)
        except (Corrupt, NotFound, Unavailable) as error:
            return replace(found, ready=False, reason=f"its golden rows can't be asked: {error}")
        if problem:
            return replace(found, ready=False, reason=problem, failed=True)
        self._scored[name] = _SelfTest(uid, ready, now_s)
        return found

    def _address(self, name: str) -> str | None:
        """The address of the Service that KServe has made; it does not change while the Service
        exists."""
        made = self._api.find(SERVICES.path(self._namespace, f"{name}-predictor"))
        if made is None:
            return None
        if (address := made["spec"]["clusterIP"]) == "None":
            problem = "has no address of its own: KServe must not make headless Services"
            raise Refused(f"Service {name}-predictor {problem} (serviceClusterIPNone: false)")
        return f"http://{address}:80"

    def _find(self, name: str) -> Object | None:
        service = self._api.find(self._path(name))
        return None if service is None or _leaving(service) else service

    def _check_autoscaler(self, manifest: Manifest) -> None:
        """Refuses a service that asks for an autoscaler if there is none: it would stay at one pod
        under any load."""
        if declared_scaling(manifest) is None:
            return
        name = manifest["metadata"]["name"]
        if self._prometheus_url is None:
            raise Refused(
                f"{name} is to be scaled, and nothing says where KEDA reads its metrics "
                "(MLPLATFORM_KSERVE_PROMETHEUS); nothing was changed"
            )
        if not self._api.serves(SCALED_OBJECTS):
            raise Refused(
                f"{name} is to be scaled (serving.scaling of model.yaml), and this cluster has no "
                f"{SCALED_OBJECTS.plural} of {SCALED_OBJECTS.group_version}: install KEDA, or "
                "leave MLPLATFORM_KSERVE_PROMETHEUS out; nothing was changed"
            )

    def _check_room(self, manifest: Manifest) -> None:
        """Checks the namespace's quotas, and for services with GPUs the nodes: no autoscaler raises
        quotas, and GPU nodes are few and come slowly."""
        predictor = manifest["spec"]["predictor"]
        asked = predictor["model"]["resources"]["requests"]
        quotas = supply.quotas(self._api, self._namespace)
        if self._counts_gpus and any(name.startswith("nvidia.com/") for name in asked):
            value, preempts = supply.priority(self._api, predictor.get("priorityClassName"))
            need = supply.need_of(manifest, value, preempts)
            room = room_for(need, supply.nodes(self._api), quotas)
        else:
            room = within_quotas(supply.need_of(manifest, 0, preempts=False), quotas)
        if isinstance(room, CapacityShortage):
            raise Refused(f"{room.reason}; nothing was changed")

    def _create(self, wanted: Object) -> Object:
        """Create a service's object. Returns the object that exists then: of two that race with one
        name, the first."""
        try:
            return self._api.create(INFERENCE_SERVICES.path(self._namespace), wanted)
        except AlreadyThere:
            name = wanted["metadata"]["name"]
            return self._api.get(self._path(name))

    def _hold(self, name: str, wanted: Object, uid: str) -> None:
        """Apply the service's objects again, so that lost ones come back; changes by others are not
        overruled."""
        again = copy.deepcopy(wanted)
        again["metadata"]["uid"] = uid
        try:
            self._api.apply(self._path(name), again)
        except Conflict as error:
            raise Refused(f"{name} was changed by somebody else: {error}") from error
        budget = disruption_budget(wanted, uid)
        if budget is not None:
            self._api.apply(DISRUPTION_BUDGETS.path(self._namespace, name), budget)
        scaler = autoscaler(wanted, uid, self._prometheus_url or "")
        if scaler is not None:
            self._api.apply(SCALED_OBJECTS.path(self._namespace, name), scaler)

    def _path(self, name: str) -> str:
        if ServiceName.parse(name) is None:
            raise NotFound(f"{name!r} is not a service's name")
        return INFERENCE_SERVICES.path(self._namespace, name)


def _checked(manifest: Manifest) -> str:
    service = read(manifest)
    refuse_ignored(manifest)
    scheme = urlsplit(service.storage_uri).scheme
    if scheme not in SCHEMES and not service.is_own:
        raise Refused(
            f"{service.name} has nothing that {service.runtime} loads on a cluster: "
            "serving.storage of model.yaml names it; nothing was changed"
        )
    if scheme not in SCHEMES:
        raise ConfigInvalid(
            "spec.predictor.model.storageUri",
            service.storage_uri,
            f"where pods can read it: {', '.join(sorted(SCHEMES))}",
        )
    return service.name


def _signed(manifest: Manifest) -> dict[str, Any]:
    """The manifest with its own digest written on it."""
    signed: dict[str, Any] = copy.deepcopy(dict(manifest))
    signed["metadata"]["annotations"][MANIFEST_DIGEST] = digest_of(canonical_json(manifest))
    return signed


def _digest(service: Object) -> object:
    return service["metadata"].get("annotations", {}).get(MANIFEST_DIGEST)


def _is_own(service: Manifest) -> bool:
    return bool(service["spec"]["predictor"].get("model", {}).get("runtime") in PREDICTORS)


def _leaving(service: Object) -> bool:
    return service["metadata"].get("deletionTimestamp") is not None
