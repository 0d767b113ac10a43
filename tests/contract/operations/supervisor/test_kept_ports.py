"""Where a predictor is started again, nobody else can listen meanwhile and be told the token."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mlplatform.model.folders import load_definition
from mlplatform.rollouts.serving.local import LocalPlane, bundle_uri
from mlplatform.rollouts.serving.manifest import render
from mlplatform.runtime.configuration.settings import Home
from support.onnx_bundles import sigmoid_bundle
from support.platform_process import PlatformProcess, wait

pytestmark = pytest.mark.slow


def deployed(home: Home) -> str:
    home.create()
    draft = home.bundles / "draft"
    digest = sigmoid_bundle(draft)
    folder = draft.rename(home.bundles / digest)
    manifest = render(load_definition("fraud"), 1, digest, bundle_uri(folder, home.bundles))
    LocalPlane(home.serving).apply(manifest)
    return str(manifest["metadata"]["name"])


def test_the_port_of_a_predictor_that_is_killed_is_nobody_elses(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    name = deployed(home)
    plane, process = LocalPlane(home.serving), PlatformProcess(home)
    taken: list[int] = []
    try:
        wait(process.started)
        wait(lambda: plane.status(name).ready, "it is ready")
        first, port = plane.status(name), urlsplit(plane.endpoint(name) or "").port
        assert first.pid is not None

        def is_ready_again() -> bool:
            try:
                socket.create_server(("127.0.0.1", port or 0)).close()
            except OSError:
                pass
            else:
                taken.append(1)
            now = plane.status(name)
            return now.ready and now.pid != first.pid

        os.kill(first.pid, signal.SIGKILL)
        wait(is_ready_again, "it is ready again")
        assert urlsplit(plane.endpoint(name) or "").port == port
    finally:
        process.close()
    assert not taken
