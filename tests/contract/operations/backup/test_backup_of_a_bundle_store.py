"""A backup holds the bundles of the store, and is restored with a store or without one."""

from __future__ import annotations

import dataclasses
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlplatform.model.bundle import BUNDLE_FILE, load_bundle
from mlplatform.operations.backup.restore import restore
from mlplatform.operations.backup.take import back_up
from mlplatform.rollouts.bundles.store import is_complete, put_bundle
from mlplatform.runtime.configuration.settings import Home, Settings, load
from support.home_world import HomeWorld
from support.stored_bundles import WEIGHTS, store_at, weighty_bundle

Places = Callable[[], str]


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def places(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Places:
    """Gives the place of a new and empty store."""
    if request.param == "folder":

        def new_folder() -> str:
            made = tmp_path / f"store-{uuid.uuid4().hex}"
            made.mkdir()
            return str(made)

        return new_folder
    s3: Any = request.getfixturevalue("s3")
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket = s3.bucket()
    return lambda: f"s3://{bucket}/{uuid.uuid4().hex}"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[HomeWorld]:
    made = HomeWorld(tmp_path / "home")
    made.fill()
    yield made
    made.close()


def settings_of(root: Path, place: str = "") -> Settings:
    return dataclasses.replace(load({}), home=Home(root), bundle_store=place)


def test_what_only_the_store_has_is_in_the_backup_and_goes_into_the_new_store(
    world: HomeWorld, places: Places, tmp_path: Path
) -> None:
    place = places()
    stored, kept, half = (weighty_bundle(tmp_path / "made", 50_000, seed) for seed in range(3))
    store = store_at(place)
    for bundle in (stored, kept):
        put_bundle(store, tmp_path / "made" / bundle, bundle)
    shutil.copytree(tmp_path / "made" / kept, world.home.bundles / kept)
    weights = tmp_path / "made" / half / WEIGHTS
    store.put(half, weights, load_bundle(weights.parent).files[WEIGHTS])

    taken = back_up(settings_of(world.home.root, place), tmp_path / "backup.tar", now_ms=7)

    names = [file.name for file in taken.files]
    assert len(names) == len(set(names))
    assert {f"bundles/{b}/{BUNDLE_FILE}" for b in (stored, kept)} <= set(names)
    assert not [name for name in names if half in name]

    plain = settings_of(tmp_path / "plain")
    assert restore(tmp_path / "backup.tar", plain, now_ms=7).findings == ()
    assert load_bundle(plain.home.bundles / stored, stored).digest == stored

    other = places()
    with_store = settings_of(tmp_path / "with-store", other)
    assert restore(tmp_path / "backup.tar", with_store, now_ms=7).findings == ()
    assert store_at(other).bundles() == sorted((stored, kept))
    assert all(is_complete(store_at(other), bundle) for bundle in (stored, kept))


def test_a_restore_leaves_the_cache_of_a_pod_empty(
    world: HomeWorld, places: Places, tmp_path: Path
) -> None:
    """It may have less room than all bundles need: they are in the store, which it is for."""
    bundle = weighty_bundle(world.home.bundles, 50_000)
    repository = world.home.bundles / f"fraud-v1-{bundle[:8]}"
    repository.mkdir()
    (repository / "config.pbtxt").write_text("")
    back_up(settings_of(world.home.root), tmp_path / "backup.tar", now_ms=7)

    only_here = {"ab", repository.name}  # the first is damaged, and no store takes it

    for place, left in ((places(), only_here), ("", {*only_here, bundle})):
        home = Home(tmp_path / f"home-{bool(place)}", tmp_path / f"cache-{bool(place)}")
        settings = dataclasses.replace(load({}), home=home, bundle_store=place)
        assert restore(tmp_path / "backup.tar", settings, now_ms=7).findings == ()
        assert {p.name for p in home.bundles.iterdir()} == left
        assert not place or is_complete(store_at(place), bundle)
