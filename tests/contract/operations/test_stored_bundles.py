"""A machine without bundles serves versions from the store, and goes on without the store."""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Arm
from mlplatform.rollouts.bundles.cache import BundleCache
from mlplatform.rollouts.bundles.store import BundleStore
from mlplatform.rollouts.serving.local import bundle_uri
from mlplatform.rollouts.serving.manifest import render
from support.gateways_world import START_S, GatewaysWorld
from support.scoring_world import MODEL, payment, wait_for, write_amount_bundle
from support.stored_bundles import store_at

pytestmark = pytest.mark.slow


class Machine(GatewaysWorld):
    """A machine whose bundles lie in a store alone."""

    def __init__(self, root: Path, place: str) -> None:
        self.store: BundleStore = store_at(place)
        super().__init__(root, 1, MLPLATFORM_BUNDLE_STORE=place)

    def stored(self, offset: float = 0.0) -> str:
        """A bundle that another machine has put; this one has nothing."""
        made = self.home.root.parent / f"made-{offset}"
        bundle = write_amount_bundle(made / "draft", offset)
        (made / "draft").rename(made / bundle)
        BundleCache(made, self.store).put(bundle)
        return bundle

    def desired(self, version: int, bundle: str) -> Arm:
        uri = bundle_uri(self.home.bundles / bundle, self.home.bundles)
        manifest = render(load_definition(MODEL), version, bundle, uri)
        self.plane.apply(manifest)
        return Arm(version, bundle, manifest["metadata"]["name"])

    def score(self, amount: float) -> float:
        """The champion's; a predictor that has just started may answer too late at first."""
        answers: list[dict[str, Any]] = []

        def is_champions() -> bool:
            with self.client() as client:
                answer = client.post("/score", json=payment() | {"amount": amount})
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())
            return bool(answers[-1]["answered_by"] == "champion")

        wait_for(is_champions, START_S)
        return float(answers[-1]["score"])

    def forget(self, bundle: str) -> None:
        shutil.rmtree(self.home.bundles / bundle)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def machine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    if request.param == "folder":
        (tmp_path / "store").mkdir()
        place = str(tmp_path / "store")
    else:
        s3: Any = request.getfixturevalue("s3")
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        place = f"s3://{s3.bucket()}/{uuid.uuid4().hex}"
    made = Machine(tmp_path, place)
    yield made
    made.close()


def test_a_machine_without_bundles_serves_from_the_store_and_then_from_its_cache(
    machine: Machine,
) -> None:
    bundle = machine.stored()
    arm = machine.desired(1, bundle)
    assert not (machine.home.bundles / bundle).exists()
    machine.start_predictor(arm)  # ready: it has scored its golden rows
    assert (machine.home.bundles / bundle).is_dir()

    machine.forget(bundle)
    machine.promote(arm)  # the gateway fetches it for itself
    assert machine.score(300.0) == pytest.approx(0.3, abs=1e-4)
    assert (machine.home.bundles / bundle).is_dir()

    if Path(machine.store.uri).is_dir():
        shutil.rmtree(machine.store.uri)  # from now on, only the cache has it
    pid = machine.plane.status(arm.service).pid
    assert pid is not None
    gateway = machine.kill("gateway-0")
    os.kill(pid, signal.SIGKILL)
    machine.await_successor("gateway-0", gateway)
    wait_for(lambda: machine.plane.status(arm.service).pid not in (pid, None), START_S)
    machine.start_predictor(arm)
    wait_for(lambda: machine.answered_by() == "champion", START_S)


def test_a_version_that_the_store_lacks_is_told_and_served_once_it_is_there(
    machine: Machine,
) -> None:
    first = machine.desired(1, machine.stored())
    machine.start_predictor(first)
    machine.promote(first)

    made = machine.home.root.parent / "made"
    late = write_amount_bundle(made / "draft", 0.05)
    (made / "draft").rename(made / late)
    second = machine.desired(2, late)
    wait_for(lambda: "is not in the bundle store" in machine.plane.status(second.service).reason)
    assert not machine.plane.status(second.service).ready
    assert machine.score(300.0) == pytest.approx(0.3, abs=1e-4)

    BundleCache(made, machine.store).put(late)
    machine.start_predictor(second)
    machine.promote(second)
    assert machine.score(300.0) == pytest.approx(0.35, abs=1e-4)
