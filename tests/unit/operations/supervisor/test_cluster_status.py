"""What the supervisor says of a cluster's services, for the gateways of its machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mlplatform.operations.supervisor.cluster_status import REFRESH_S, ClusterStatusMirror
from mlplatform.rollouts.serving.golden import WITHIN_S
from mlplatform.rollouts.serving.kserve import KServePlane
from mlplatform.rollouts.serving.local import STALE_MS, ServiceStatusFile, StatusStore
from mlplatform.rollouts.serving.plane import Manifest, ServiceStatus
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import NotFound, Unavailable

ONE, TWO = "fraud-v1-0123abcd", "fraud-v2-4567cdef"


class Pods:
    """A plane whose services are as a test says: name → (ready, address)."""

    def __init__(self) -> None:
        self.services: dict[str, tuple[bool, str | None]] = {}
        self.is_away = False

    def apply(self, manifest: Manifest) -> None:
        raise AssertionError("whoever follows changes nothing")

    def remove(self, name: str) -> None:
        raise AssertionError("whoever follows changes nothing")

    def status(self, name: str) -> ServiceStatus:
        if name not in self.services:
            raise NotFound(name)
        ready, _ = self.services[name]
        return ServiceStatus(name, ready, "" if ready else "is pulling its image", restarts=2)

    def endpoint(self, name: str) -> str | None:
        return self.services[name][1]

    def names(self) -> list[str]:
        if self.is_away:
            raise Unavailable("the Kubernetes API did not answer")
        return sorted(self.services)


@pytest.fixture
def pods() -> Pods:
    return Pods()


@pytest.fixture
def followed(tmp_path: Path, pods: Pods) -> ClusterStatusMirror:
    return ClusterStatusMirror(Home(tmp_path), pods)


@pytest.fixture
def told(tmp_path: Path) -> StatusStore:
    return StatusStore(Home(tmp_path).serving)


def test_a_service_is_told_with_its_address_before_it_is_ready(
    followed: ClusterStatusMirror, pods: Pods, told: StatusStore
) -> None:
    pods.services[ONE] = (False, "http://10.96.0.7:80")
    followed.refresh()
    assert told.endpoint(ONE) == "http://10.96.0.7:80"
    assert told.status(ONE) == ServiceStatus(ONE, False, "is pulling its image", restarts=2)

    pods.services[ONE] = (True, "http://10.96.0.7:80")
    followed.refresh()
    assert told.status(ONE).ready


def test_a_service_without_an_address_yet_is_nowhere(
    followed: ClusterStatusMirror, pods: Pods, told: StatusStore
) -> None:
    pods.services[ONE] = (False, None)
    followed.refresh()
    assert told.endpoint(ONE) is None


def test_a_service_that_is_gone_is_told_no_more(
    followed: ClusterStatusMirror, pods: Pods, told: StatusStore
) -> None:
    pods.services = {ONE: (True, "http://10.96.0.7:80"), TWO: (True, "http://10.96.0.8:80")}
    followed.refresh()
    del pods.services[ONE]
    followed.refresh()
    assert (told.names(), told.endpoint(ONE)) == ({TWO}, None)


def test_one_that_goes_between_two_questions_is_left_out(
    followed: ClusterStatusMirror, pods: Pods, told: StatusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.services[TWO] = (True, "http://10.96.0.8:80")
    monkeypatch.setattr(pods, "names", lambda: [ONE, TWO])
    followed.refresh()
    assert told.names() == {TWO}


def test_while_the_cluster_cannot_be_asked_the_addresses_stay(
    followed: ClusterStatusMirror, pods: Pods, told: StatusStore
) -> None:
    pods.services[ONE] = (True, "http://10.96.0.7:80")
    followed.refresh()
    pods.is_away = True
    with pytest.raises(Unavailable):
        followed.refresh()
    assert told.endpoint(ONE) == "http://10.96.0.7:80"


def test_one_that_is_slow_holds_up_no_other_status(
    followed: ClusterStatusMirror, pods: Pods, told: StatusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.services = {ONE: (True, "http://10.96.0.7:80"), TWO: (True, "http://10.96.0.8:80")}
    has_told_two, plain = threading.Event(), StatusStore.write

    def status(name: str) -> ServiceStatus:
        if name == ONE and not has_told_two.wait(5):
            raise Unavailable("the other one was not told")
        return ServiceStatus(name, True, "")

    def say(store: StatusStore, status: ServiceStatusFile) -> None:
        plain(store, status)
        if status.name == TWO:
            has_told_two.set()

    monkeypatch.setattr(pods, "status", status)
    monkeypatch.setattr(StatusStore, "write", say)
    followed.refresh()
    assert told.names() == {ONE, TWO}


def test_one_that_cannot_be_asked_keeps_no_other_from_its_status(
    followed: ClusterStatusMirror, pods: Pods, told: StatusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.services = {ONE: (True, "http://10.96.0.7:80"), TWO: (True, "http://10.96.0.8:80")}
    plain = pods.status

    def status(name: str) -> ServiceStatus:
        if name == ONE:
            raise Unavailable("the Kubernetes API did not answer")
        return plain(name)

    monkeypatch.setattr(pods, "status", status)
    with pytest.raises(Unavailable):
        followed.refresh()
    assert told.names() == {TWO}


def test_a_refresh_that_waits_for_a_server_ends_before_statuses_are_stale() -> None:
    assert REFRESH_S + WITHIN_S < STALE_MS / 1000


class Api:
    """The two objects of a service, as an API server gives them; either may be missing."""

    def __init__(self, *kinds: str) -> None:
        self._kinds = kinds

    def find(self, path: str) -> dict[str, object] | None:
        kind, name = path.split("/")[-2:]
        if kind not in self._kinds:
            return None
        return {"metadata": {"name": name}, "spec": {"clusterIP": f"address-of-{name}"}}


@pytest.mark.parametrize(
    ("kinds", "by_address", "expected"),
    [
        (("inferenceservices", "services"), True, f"http://address-of-{ONE}-predictor:80"),
        (("inferenceservices",), True, None),
        (("services",), True, None),
        (
            ("inferenceservices",),
            False,
            f"http://{ONE}-predictor.models.svc.cluster.local:80",
        ),
    ],
)
def test_where_a_service_of_kserve_listens(
    kinds: tuple[str, ...], by_address: bool, expected: str | None
) -> None:
    plane = KServePlane(Api(*kinds), "models", by_address=by_address)  # type: ignore[arg-type]
    assert plane.endpoint(ONE) == expected
