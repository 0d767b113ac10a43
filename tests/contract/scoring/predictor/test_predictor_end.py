"""How a predictor ends when its model can't be served."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx

from support.onnx_bundles import sigmoid_bundle
from support.predictor_process import wait


def predictor(folder: Path, *args: str) -> subprocess.CompletedProcess[bytes]:
    digest = sigmoid_bundle(folder / "bundle", shift=0.1)
    command = [
        *(sys.executable, "-m", "mlplatform.process", "predictor"),
        f"--model-dir={folder / 'bundle'}",
        f"--model-name=fraud-v1-{digest[:8]}",
        *args,
    ]
    return subprocess.run(command, timeout=60, capture_output=True)


def test_with_a_termination_log_a_failed_self_test_ends_it_with_the_reason(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"

    done = predictor(tmp_path, f"--termination-log={log}", "--grpc-port=0")

    assert done.returncode == 1
    assert "golden row" in log.read_text()


DYING = """
import dataclasses, sys
from pathlib import Path
from mlplatform.scoring.predictor import server
from mlplatform.scoring.predictor.model import Timing

def dying(*arguments):
    return dataclasses.replace(load(*arguments), score=sys.exit, timings=(Timing(1, 1.0),))

load, server.load = server.load, dying
folder, name, address = sys.argv[1:]
server.serve(server.Arguments(Path(folder), name, address_file=Path(address)))
"""


def test_it_ends_by_itself_once_nothing_can_be_scored_any_more(tmp_path: Path) -> None:
    """Whoever watches it starts it again; who asked is told."""
    name = f"fraud-v1-{sigmoid_bundle(tmp_path / 'bundle')[:8]}"
    address = tmp_path / "address.json"
    command = [sys.executable, "-c", DYING, str(tmp_path / "bundle"), name, str(address)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait(address.exists)
            url = f"http://127.0.0.1:{json.loads(address.read_text())['port']}/v2"
            wait(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
            width = httpx.get(f"{url}/models/{name}").json()["inputs"][0]["shape"][1]
            tensor = {"name": "inputs", "shape": [1, width], "datatype": "FP32"}
            body = {"inputs": [{**tensor, "data": [0.0] * width}]}
            assert httpx.post(f"{url}/models/{name}/infer", json=body).status_code == 500
            assert process.wait(30) == 1
        finally:
            process.kill()
