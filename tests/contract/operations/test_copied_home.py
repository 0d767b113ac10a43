"""A home that was copied serves from its own bundles, wherever the one it came from is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from mlplatform.model.folders import load_definition
from mlplatform.rollouts.serving.local import LocalPlane, bundle_uri
from mlplatform.rollouts.serving.manifest import render
from mlplatform.runtime.canonical import canonical_json
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.storage.files import write_atomically
from support.onnx_bundles import sigmoid_bundle
from support.platform_process import PlatformProcess, wait

pytestmark = pytest.mark.slow
ROW = {"name": "inputs", "shape": [1, 3], "datatype": "FP32", "data": [0.0, 0.0, 0.0]}


@contextmanager
def running(home: Home) -> Iterator[LocalPlane]:
    process = PlatformProcess(home)
    try:
        wait(process.started)
        yield LocalPlane(home.serving)
    finally:
        process.close()


def deployed(home: Home, *, by_path: bool) -> str:
    """The name of a service whose bundle is the home's."""
    home.create()
    draft = home.bundles / "draft"
    digest = sigmoid_bundle(draft)
    folder = draft.rename(home.bundles / digest)
    uri = folder.as_uri() if by_path else bundle_uri(folder, home.bundles)
    manifest = render(load_definition("fraud"), 1, digest, uri)
    name: str = manifest["metadata"]["name"]
    # As an earlier version wrote it, which is no longer the way.
    write_atomically(home.serving / "desired" / f"{name}.json", canonical_json(manifest))
    return name


def asked(plane: LocalPlane, home: Home, name: str) -> Any:
    headers = {"Authorization": f"Bearer {home.predictor_token.read_text()}"}
    url = f"{plane.endpoint(name)}/v2/models/{name}/infer"
    return httpx.post(url, json={"inputs": [ROW]}, headers=headers, timeout=30).json()


@pytest.mark.parametrize("by_path", [False, True], ids=["as now", "with a path, as before"])
@pytest.mark.parametrize("old_home", ["is gone", "is changed"])
def test_a_copied_home_serves_its_own_bundles(
    tmp_path: Path, old_home: str, *, by_path: bool
) -> None:
    old, new = Home(tmp_path / "old"), Home(tmp_path / "elsewhere" / "new")
    name = deployed(old, by_path=by_path)
    with running(old) as plane:
        wait(lambda: plane.status(name).ready)
        before = asked(plane, old, name)["outputs"]
    shutil.copytree(old.root, new.root)
    if old_home == "is gone":
        shutil.rmtree(old.root)
    else:
        for file in old.bundles.rglob("*"):
            if file.is_file():
                file.chmod(0o600)
                file.write_bytes(b"changed")

    with running(new) as plane:
        wait(lambda: plane.status(name).ready, "the copy's predictor is ready")

        pid = plane.status(name).pid
        assert asked(plane, new, name)["outputs"] == before
        assert not [part for part in psutil.Process(pid).cmdline() if str(old.root) in part]


def test_a_copy_that_lacks_a_bundle_serves_nothing_of_its_former_home(tmp_path: Path) -> None:
    old, new = Home(tmp_path / "old"), Home(tmp_path / "new")
    name = deployed(old, by_path=True)
    shutil.copytree(old.root, new.root, ignore=shutil.ignore_patterns("bundles"))
    new.create()

    with running(new) as plane:
        wait(lambda: "no bundle" in plane.status(name).reason, "the copy says what it lacks")

        status = plane.status(name)
        assert not status.ready
        assert status.pid is None
        assert str(new.bundles) in status.reason
        shutil.copytree(old.bundles, new.bundles, dirs_exist_ok=True)
        wait(lambda: plane.status(name).ready, "once it has it, it serves it")


def test_the_same_version_is_deployed_again_whichever_way_its_manifest_names_the_bundle(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path / "home")
    name = deployed(home, by_path=True)
    file = home.serving / "desired" / f"{name}.json"
    before = file.read_bytes()
    digest = json.loads(before)["spec"]["predictor"]["model"]["storageUri"].rpartition("/")[2]

    LocalPlane(home.serving).apply(render(load_definition("fraud"), 1, digest, f"bundle:{digest}"))

    assert file.read_bytes() == before
