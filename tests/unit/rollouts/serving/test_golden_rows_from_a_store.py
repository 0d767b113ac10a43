"""A machine that asks another server's golden rows gets their bundle from the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlplatform.model.bundle import Bundle
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.model_server import ModelServer
from mlplatform.rollouts.bundles.cache import BundleCache
from mlplatform.rollouts.bundles.folder_store import FolderStore
from mlplatform.rollouts.bundles.store import put_bundle
from mlplatform.rollouts.serving import kserve
from mlplatform.rollouts.serving.kserve import KServePlane
from mlplatform.rollouts.serving.manifest import render
from mlplatform.rollouts.serving.plane import ServiceStatus
from support.stored_bundles import weighty_bundle

SERVER = ModelServer(
    runtime="bank-sklearn", format="sklearn/1", storage="s3://models/limits/3", tolerance=1e-4
)


class Api:
    """One InferenceService, and nothing else."""

    def __init__(self, service: dict[str, Any]) -> None:
        self.service = service

    def find(self, path: str) -> dict[str, Any] | None:
        return self.service if path.split("/")[-2] == "inferenceservices" else None

    def items(self, path: str, **query: str) -> list[dict[str, Any]]:
        return []


def test_it_is_not_ready_until_the_store_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, store, machine = (tmp_path / name for name in ("made", "store", "machine"))
    store.mkdir()
    machine.mkdir()
    bundle = weighty_bundle(made, 1000)
    service = render(load_definition("fraud"), 1, bundle, "pvc://x", server=SERVER)
    service["metadata"]["uid"] = "one"
    asked: list[str] = []

    def problem_of(loaded: Bundle, url: str, name: str) -> str:
        asked.append(loaded.digest)
        return ""

    monkeypatch.setattr(kserve.golden, "problem_of", problem_of)
    monkeypatch.setattr(kserve, "diagnose", lambda name, *objects: ServiceStatus(name, True, ""))
    cache = BundleCache(machine, FolderStore(store))
    api: Any = Api(service)
    plane = KServePlane(api, "models", bundles=machine, fetch=cache.get)
    monkeypatch.setattr(plane, "endpoint", lambda name: "http://127.0.0.1:1")
    name = service["metadata"]["name"]

    before = plane.status(name)
    assert (before.ready, before.failed, asked) == (False, False, [])
    assert f"{bundle}/bundle.json is not in the bundle store" in before.reason

    put_bundle(FolderStore(store), made / bundle, bundle)
    assert plane.status(name).ready
    assert asked == [bundle]
