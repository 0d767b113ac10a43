"""KServe's controller that runs here, real or stand-in, does what the stand-in is written to do."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from tests.cluster.standin.controller import MADE, RUNTIMES
from tests.cluster.standin.objects import (
    Object,
    Variant,
    autoscaler,
    deployment,
    grpc_port_of,
    network_service,
    routes,
    variants,
)
from tests.cluster.test_standin import differences

from mlplatform.model.folders import load_definition
from mlplatform.rollouts.kubernetes.api import INFERENCE_SERVICES
from mlplatform.rollouts.serving.manifest import RUNTIME
from support.kserve_world import KServe
from support.platform_process import wait

NAMESPACE = "controller"
DEFINITION = msgspec.structs.replace(load_definition("fraud"), tier=3)


class Split:
    """One InferenceService with a canary: what the platform never makes, and others do."""

    def __init__(self) -> None:
        self.kserve = KServe(DEFINITION, NAMESPACE)
        self.manifest = self.kserve.manifest(1)
        self.challenger = self.kserve.manifest(2)["spec"]["predictor"]["model"]["storageUri"]
        self.name = self.manifest["metadata"]["name"]
        self.manifest["metadata"]["labels"].pop("networking.kserve.io/visibility")
        self.manifest["metadata"]["annotations"].pop("serving.kserve.io/autoscalerClass")
        self.path = INFERENCE_SERVICES.path(NAMESPACE, self.name)

    def write(self, percent: int | None) -> None:
        body = msgspec.json.decode(msgspec.json.encode(self.manifest))
        if percent is not None:
            predictor = {"name": "next", "minReplicas": 1, "model": self._model()}
            body["spec"]["canary"] = [{"trafficPercent": percent, "predictor": predictor}]
        self.kserve.api.apply(self.path, body, manager="tests", force=True)

    def promote(self) -> None:
        """At once, as one edit: the canary becomes the predictor, under its own name."""
        body = msgspec.json.decode(msgspec.json.encode(self.manifest))
        body["spec"]["predictor"] |= {"name": "next", "model": self._model()}
        self.kserve.api.apply(self.path, body, manager="tests", force=True)

    def live(self) -> Object:
        return self.kserve.api.get(self.path)

    def found(self, kind: str, name: str) -> Object | None:
        return self.kserve.api.find(MADE[kind].path(NAMESPACE, name))

    def weights(self) -> dict[str, int]:
        route = self.found("HTTPRoute", self.name)
        rules = [] if route is None else route["spec"]["rules"]
        return {b["name"]: b.get("weight", 1) for rule in rules for b in rule["backendRefs"]}

    def _model(self) -> Object:
        """The same but for its bundle: one service has one name, also in its probes."""
        return {**self.manifest["spec"]["predictor"]["model"], "storageUri": self.challenger}

    def close(self) -> None:
        self.kserve.api.delete(self.path)
        self.kserve.end_pods()


@pytest.fixture
def split() -> Iterator[Split]:
    made = Split()
    made.write(None)
    wait(made.weights, "the first route", within_s=KServe.deadline_s)
    yield made
    made.close()


def expected(split: Split, variant: Variant, runtime: Object) -> Iterator[Object]:
    source = split.live()
    made = deployment(source, variant, runtime)
    # A webhook of KServe's adds the volume to each pod; the stand-in has none and does it here.
    made["spec"]["template"]["spec"].pop("volumes")
    made["spec"]["template"]["spec"]["containers"][0].pop("volumeMounts")
    yield made
    yield network_service(source, variant, runtime)
    scaler = autoscaler(source, variant, runtime)
    assert scaler is not None
    yield scaler


def test_it_makes_these_objects(split: Split) -> None:
    split.write(25)
    stable, canary = f"{split.name}-predictor", f"{split.name}-next-predictor"
    wait(lambda: split.weights() == {stable: 75, canary: 25}, within_s=KServe.deadline_s)

    runtime = split.kserve.api.get(f"{RUNTIMES}/{RUNTIME}")
    made = [o for v in variants(split.live()) for o in expected(split, v, runtime)]
    [port] = {grpc_port_of(o) for o in made if o["kind"] == "Service"}
    for own in (*made, *routes(split.live(), port)):
        live = split.found(own["kind"], own["metadata"]["name"])
        assert live is not None, own["metadata"]["name"]
        assert differences(own, live) == [], (own["kind"], own["metadata"]["name"])


def test_a_promoted_canary_keeps_its_name_and_the_route_its_own(split: Split) -> None:
    """KServe's order is not asked here; what it can cost is shown in test_raw_callers."""
    split.write(25)
    canary = f"{split.name}-next-predictor"
    wait(lambda: split.weights().get(canary) == 25, within_s=KServe.deadline_s)

    split.promote()

    wait(lambda: set(split.weights()) == {canary}, within_s=KServe.deadline_s)
    wait(lambda: split.found("Service", f"{split.name}-predictor") is None, within_s=60)
    assert split.found("Deployment", canary) is not None
