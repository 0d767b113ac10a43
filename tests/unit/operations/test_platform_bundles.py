"""Where the platform's own parts get a bundle from, and when the store gets it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.model.routes import Arm
from mlplatform.operations import wiring
from mlplatform.operations.actions import training
from mlplatform.rollouts.bundles.store import is_complete
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import ConfigInvalid, Corrupt, Unavailable
from support.stored_bundles import WEIGHTS, WatchedStore, store_at, weighty_bundle

SIZE = 50_000


@dataclass
class Registry:
    """Versions, with their bundles in a folder."""

    folder: Path
    digests: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def fetch(self, model: str, version: int, into: Path) -> Path:
        bundle = self.digests[version - 1]
        self.fetched.append(bundle)
        into.mkdir(exist_ok=True, parents=True)
        return Path(shutil.copytree(self.folder / bundle, into / bundle))

    def versions(self, model: str) -> list[Any]:
        numbered = enumerate(self.digests, 1)
        return [SimpleNamespace(model=model, version=n, digest=d) for n, d in numbered][::-1]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = tmp_path / "registry"
    return Registry(made, [weighty_bundle(made, SIZE, seed) for seed in range(2)])


@pytest.fixture
def platform(tmp_path: Path, registry: Registry) -> wiring.Platform:
    (tmp_path / "store").mkdir()
    variables = {
        "MLPLATFORM_HOME": str(tmp_path / "home"),
        "MLPLATFORM_BUNDLE_STORE": str(tmp_path / "store"),
    }
    found = wiring.Platform(load(variables))
    found.settings.home.create()
    found.__dict__["registry"] = registry
    return found


def test_a_deployment_gives_the_store_what_only_the_registry_has(
    platform: wiring.Platform, registry: Registry
) -> None:
    bundle, bundles = registry.digests[0], platform.settings.home.bundles
    store = platform.bundles.store
    assert store is not None
    versions = platform.ports("fraud").versions
    assert versions.fetch("fraud", 1, bundles / bundle) == bundles / bundle
    assert registry.fetched == [bundle]
    assert is_complete(store, bundle)

    shutil.rmtree(bundles / bundle)
    assert platform.bundle("fraud", Arm(1, bundle, "")) == bundles / bundle
    assert registry.fetched == [bundle], "the store comes first"


def test_a_changed_bundle_of_the_store_is_refused_and_not_taken_from_elsewhere(
    platform: wiring.Platform, registry: Registry, tmp_path: Path
) -> None:
    bundle = registry.digests[0]
    store = platform.bundles.store
    assert store is not None
    shutil.copytree(registry.folder / bundle, tmp_path / "store" / bundle)
    (tmp_path / "store" / bundle / WEIGHTS).write_bytes(bytes(SIZE))
    with pytest.raises(Corrupt, match=f"{bundle}/{WEIGHTS} was changed"):
        platform.bundle("fraud", Arm(1, bundle, ""))
    assert registry.fetched == []


def test_a_version_is_registered_once_the_store_has_its_bundle(
    platform: wiring.Platform, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = registry.digests[0]
    shutil.copytree(registry.folder / bundle, platform.settings.home.bundles / bundle)
    seen: list[bool] = []

    def registers(candidate: Any, report: Any, *_: object, **__: object) -> str:
        seen.append(is_complete(store_at(platform.settings.bundle_store), bundle))
        return "version"

    monkeypatch.setattr(training.retrain, "register", registers)
    candidate: Any = SimpleNamespace(bundle=SimpleNamespace(digest=bundle))

    def judged(*, passed: bool) -> Any:
        return SimpleNamespace(report=SimpleNamespace(passed=passed), record=None)

    training.register(platform, candidate, judged(passed=False), author="a")
    training.register(platform, candidate, judged(passed=True), author="a")
    assert seen == [False, True]

    def away(name: str) -> None:
        raise Unavailable("the store does not answer")

    store = platform.bundles.store
    assert store is not None
    platform.bundles.store = WatchedStore(store, on_put=away)
    shutil.rmtree(platform.settings.bundle_store + f"/{bundle}")
    with pytest.raises(Unavailable):
        training.register(platform, candidate, judged(passed=True), author="a")
    assert seen == [False, True]


def stored(monkeypatch: pytest.MonkeyPatch, platform: wiring.Platform, *options: str) -> Any:
    monkeypatch.setattr(wiring, "existing_platform", lambda: platform)
    return CliRunner().invoke(commands.app, ["models", "store", "fraud", *options])


def test_the_command_puts_every_version_and_mends_what_was_changed(
    platform: wiring.Platform,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = stored(monkeypatch, platform)
    assert first.exit_code == 0, first.output
    store = platform.bundles.store
    assert store is not None
    assert store.bundles() == sorted(registry.digests)
    assert "bundle.json" in first.output

    again = stored(monkeypatch, platform)
    assert "nothing" in again.output

    (tmp_path / "store" / registry.digests[1] / WEIGHTS).write_bytes(bytes(SIZE))
    assert WEIGHTS not in stored(monkeypatch, platform).output
    mended = stored(monkeypatch, platform, "--check", "--json")
    assert [row["put"] for row in json.loads(mended.output)] == [[], [WEIGHTS]]
    assert WEIGHTS not in stored(monkeypatch, platform, "--check").output


def test_without_a_store_the_command_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = wiring.Platform(load({"MLPLATFORM_HOME": str(tmp_path / "home")}))
    refused = stored(monkeypatch, plain).exception
    assert isinstance(refused, ConfigInvalid)
    assert "MLPLATFORM_BUNDLE_STORE is missing; wanted: s3://bucket/prefix" in str(refused)
