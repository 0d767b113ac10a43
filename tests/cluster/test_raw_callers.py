"""Raw callers through the real Envoy: shares, copies, testers, and orders that lose requests."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from scipy.stats import binom
from tests.cluster import envoy_gateway, gateway
from tests.cluster.kubernetes import TestCluster
from tests.cluster.layout import layout

from mlplatform.model.routes import Routes
from mlplatform.rollouts.kubernetes.api import HTTP_ROUTES, Conflict, KubernetesApi
from mlplatform.rollouts.serving.httproute import HttpRoutes
from mlplatform.rollouts.serving.raw_route import (
    ANSWERED_BY,
    Keep,
    Wait,
    Write,
    applied_generation,
    next_write,
    read,
)
from mlplatform.runtime.configuration.entrance import Entrance
from mlplatform.runtime.errors import NotFound, Refused
from rollout_world import ENTRANCE, arm
from support.kserve_world import any_cluster, is_ours, test_cluster
from support.platform_process import wait
from support.raw_world import Backends, Caller, Load

GATEWAY, GATEWAY_URL = "MLPLATFORM_TEST_GATEWAY", "MLPLATFORM_TEST_GATEWAY_URL"
CHAMPION, CHALLENGER = arm(1), arm(2)
FRONTS = ["the named one"] if os.environ.get(GATEWAY) else ["stand-in", "Envoy Gateway"]
FALSE_ALARMS = 1e-6
"""Of each count: a test that fails by chance once in a million runs."""
SETTLED_S = 1.0


@dataclass(frozen=True)
class Front:
    """A Gateway of the cluster.

    Args:
        spares: a weight on what is not ready goes to what is; else those requests are lost. None:
            nobody knows.
    """

    entrance: Entrance
    url: str
    spares: bool | None


@pytest.fixture(scope="module")
def begun() -> Iterator[bool]:
    """Whether there is an Envoy Gateway; its pods start while the stand-in is tested."""
    api, _ = any_cluster()
    built = is_ours() and envoy_gateway.is_built(layout())
    if built:
        envoy_gateway.begin(TestCluster(layout()))
    yield built
    if built:
        envoy_gateway.remove(api)


@pytest.fixture(scope="module", params=FRONTS)
def front(request: pytest.FixtureRequest, begun: bool) -> Front:
    if request.param == "the named one":
        return named()
    api, place = test_cluster()
    if request.param == "stand-in":
        return Front(ENTRANCE, gateway.url(place), spares=False)
    if not begun:
        pytest.skip("ENVOY GATEWAY IS NOT TESTED: FULL=1 make test-cluster builds it")
    entrance = Entrance(envoy_gateway.NAMESPACE, envoy_gateway.NAME, ENTRANCE.domain)
    return Front(entrance, envoy_gateway.url(api), spares=True)


def named() -> Front:
    """The Gateway of a cluster that is not ours; what it makes of weights is not known."""
    place, url = (os.environ.get(name, "") for name in (GATEWAY, GATEWAY_URL))
    if not place or not url:
        pytest.skip(f"NO GATEWAY IS NAMED: {GATEWAY} (namespace/name) and {GATEWAY_URL}")
    namespace, _, name = place.partition("/")
    return Front(Entrance(namespace, name, ENTRANCE.domain), url, spares=None)


class Edge:
    """One model's raw callers in a namespace of their own; generations go on from test to test."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.backends = Backends("raw-callers")
        self.routes = HttpRoutes(self.backends.api, self.namespace, front.entrance)
        self.caller = Caller("fraud", front.url)
        self.generation = 0

    @property
    def namespace(self) -> str:
        return self.backends.namespace

    @property
    def api(self) -> KubernetesApi:
        return self.backends.api

    def picture(self, phase: Literal["steady", "shadow", "canary"], percent: float = 0.0) -> Routes:
        challenger = None if phase == "steady" else CHALLENGER
        rollout = None if phase == "steady" else "r-2"
        self.generation += 1
        return Routes("fraud", self.generation, CHAMPION, challenger, None, rollout, phase, percent)

    def step(self, routes: Routes) -> Write | Keep | Wait:
        """What a pass does about the route, with services that answer as their endpoints say."""
        found = self.routes.find("fraud")
        seen = None if found is None else read(found)
        step = next_write(routes, seen, self.front.entrance, self.ready)
        if isinstance(step, Write):
            self.routes.write(step.body, step.version)
        return step

    def ready(self, service: str) -> bool:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"
        found = self.api.find(f"{path}/{service}-predictor")
        return found is not None and found["endpoints"][0]["conditions"]["ready"]

    def applied(self) -> int | None:
        found = self.routes.find("fraud")
        return applied_generation(None if found is None else read(found))

    def follow(self, routes: Routes) -> None:
        """Written, and followed by Envoy, of which Envoy Gateway speaks some milliseconds early."""
        assert isinstance(self.step(routes), Write)
        wait(lambda: self.applied() == routes.generation, "the Gateway", within_s=20)
        wait(self.answers, "Envoy", within_s=20)
        self.backends.forget()

    def answers(self) -> bool:
        tester = self.caller.post(mlplatform_version=str(CHAMPION.version))
        return tester.text == CHAMPION.service

    def load(self) -> Load:
        return Load("fraud", per_s=100, at=self.front.url)

    def close(self) -> None:
        self.api.delete(HTTP_ROUTES.path(self.namespace, "fraud-raw-callers"))
        self.backends.close()


@pytest.fixture
def edge(front: Front) -> Iterator[Edge]:
    made = Edge(front)
    for each in (CHAMPION, CHALLENGER):
        made.backends.add(each)
    yield made
    made.close()


def within(count: int, requests: int, share: float) -> bool:
    low, high = binom.interval(1 - FALSE_ALARMS, requests, share)
    return bool(low <= count <= high)


def test_shares_are_those_of_the_routes(edge: Edge) -> None:
    requests = 2000
    for percent in (1, 5, 25, 50):
        edge.follow(edge.picture("canary", percent))

        answers = edge.caller.answers(requests)

        assert set(answers) <= {CHAMPION.service, CHALLENGER.service}
        assert answers.total() == requests
        assert within(answers[CHALLENGER.service], requests, percent / 100), (percent, answers)


def test_the_interval_tells_neighbouring_shares_apart() -> None:
    assert within(100, 2000, 0.05)
    assert not within(20, 2000, 0.05)
    assert not within(100, 2000, 0.01)


def test_in_a_shadow_the_challenger_gets_a_marked_copy_of_every_request(edge: Edge) -> None:
    edge.follow(edge.picture("shadow"))

    answers = edge.caller.answers(300)

    assert answers == {CHAMPION.service: 300}
    champion, challenger = (edge.backends.of[a.service] for a in (CHAMPION, CHALLENGER))
    wait(lambda: len(challenger.seen) == 300, "the copies", within_s=10)
    ids, copied = (sorted(h["x-request-id"] for h in b.seen) for b in (champion, challenger))
    assert ids == copied
    for backend in (champion, challenger):
        assert {h[ANSWERED_BY] for h in backend.seen} == {CHAMPION.service}
        # What the mark is for: nothing else tells a copy from its original.
        assert {h["host"] for h in backend.seen} == {"fraud.models.example.com"}


def test_nobody_can_pass_a_request_off_as_a_copy(edge: Edge) -> None:
    edge.follow(edge.picture("canary", 50))

    edge.caller.answers(50, mlplatform_answered_by="somebody-else")

    for each in (CHAMPION, CHALLENGER):
        seen = edge.backends.of[each.service].seen
        assert seen
        assert not any(ANSWERED_BY in headers for headers in seen)


@pytest.mark.parametrize("phase", ["shadow", "canary"])
def test_a_tester_reaches_the_version_that_is_asked_for(edge: Edge, phase: Any) -> None:
    edge.follow(edge.picture(phase, 1 if phase == "canary" else 0))

    for each in (CHAMPION, CHALLENGER):
        answers = edge.caller.answers(100, mlplatform_version=str(each.version))
        assert answers == {each.service: 100}
    counts = {s: len(b.seen) for s, b in edge.backends.of.items()}
    assert counts == {CHAMPION.service: 100, CHALLENGER.service: 100}  # and nothing is copied


def test_a_whole_rollout_in_the_platforms_order_loses_nothing(edge: Edge) -> None:
    edge.follow(edge.picture("steady"))
    edge.backends.remove(CHALLENGER.service)
    with edge.load() as load:
        shadow = edge.picture("shadow")
        assert isinstance(edge.step(shadow), Wait)  # there is no service yet
        edge.backends.add(CHALLENGER, ready=False)
        assert isinstance(edge.step(shadow), Wait)  # and now one that is not ready
        edge.backends.add(CHALLENGER)
        edge.follow(shadow)
        for percent in (1, 5, 25, 50):
            edge.follow(edge.picture("canary", percent))
            load.until_more()
        edge.follow(edge.picture("steady"))  # rolled back
        edge.backends.remove(CHALLENGER.service)
        load.until_more()
        time.sleep(SETTLED_S)

    assert load.failed == {}
    assert load.by[CHALLENGER.service] > 0


def test_a_service_that_goes_before_its_weight_loses_requests(edge: Edge) -> None:
    """KServe's own order at a promotion, and why retiring waits for the Gateway."""
    edge.follow(edge.picture("canary", 50))
    with edge.load() as load:
        edge.backends.remove(CHALLENGER.service)
        wait(lambda: load.failed.total() > 10, "lost requests", within_s=20)
        edge.follow(edge.picture("steady"))

    assert all(status.startswith("5") for status in load.failed)


def test_a_weight_on_a_service_that_is_not_ready_is_as_good_as_its_gateway(edge: Edge) -> None:
    """Why the route waits for a new service: what becomes of its share is not ours to say."""
    edge.follow(edge.picture("steady"))
    edge.backends.add(CHALLENGER, ready=False)
    routes = edge.picture("canary", 50)
    assert isinstance(edge.step(routes), Wait)
    found = edge.routes.find("fraud")
    assert found is not None
    forced = next_write(routes, read(found), edge.front.entrance, lambda service: True)
    assert isinstance(forced, Write)
    with edge.load() as load:
        edge.routes.write(forced.body, forced.version)
        wait(lambda: edge.applied() == routes.generation, "the Gateway", within_s=20)
        if edge.front.spares is False:
            wait(lambda: load.failed.total() > 10, "lost requests", within_s=20)
        else:
            time.sleep(SETTLED_S)
        edge.follow(edge.picture("steady"))

    assert all(status.startswith("5") for status in load.failed)
    assert set(load.by) == {CHAMPION.service}
    assert load.failed == {} or not edge.front.spares


def test_a_backend_without_a_service_is_not_followed(edge: Edge) -> None:
    edge.backends.remove(CHALLENGER.service)
    routes = edge.picture("shadow")
    step = next_write(routes, None, edge.front.entrance, lambda service: True)
    assert isinstance(step, Write)

    edge.routes.write(step.body, step.version)

    def told() -> bool:
        found = edge.routes.find("fraud")
        problem = "" if found is None else read(found).problem
        return "ResolvedRefs is False" in problem and CHALLENGER.service in problem

    wait(told, "the Gateway's objection", within_s=20)
    assert edge.applied() is None


def test_an_older_pass_overwrites_nothing(edge: Edge) -> None:
    older, newer = edge.picture("canary", 5), edge.picture("canary", 25)
    edge.follow(edge.picture("steady"))  # of a generation that is newer still
    found = edge.routes.find("fraud")
    assert found is not None
    assert isinstance(next_write(older, read(found), edge.front.entrance, edge.ready), Wait)
    assert isinstance(next_write(newer, read(found), edge.front.entrance, edge.ready), Wait)

    # One that has decided already, and writes after another did.
    late, now = edge.picture("canary", 5), edge.picture("canary", 25)
    decided = next_write(late, read(found), edge.front.entrance, edge.ready)
    assert isinstance(decided, Write)
    edge.follow(now)
    with pytest.raises((Refused, NotFound)):
        edge.routes.write(decided.body, decided.version)
    assert edge.applied() == now.generation


def test_a_field_that_somebody_took_over_is_told(edge: Edge) -> None:
    edge.follow(edge.picture("steady"))
    path = HTTP_ROUTES.path(edge.namespace, "fraud-raw-callers")
    body = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "spec": {"hostnames": ["other.example.com"]},
    }
    edge.api.apply(path, body, force=True, manager="somebody")

    with pytest.raises(Conflict, match="somebody"):
        edge.step(edge.picture("canary", 5))
