"""A predictor process of a test, on the accelerator that the environment names.

`MLPLATFORM_TEST_ACCELERATOR=cuda pytest tests/contract/scoring/predictor` runs the predictor's
contracts on a GPU machine; without such a runtime they are skipped, and say so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import httpx
import pytest

from mlplatform.scoring.predictor import providers
from mlplatform.scoring.predictor.providers import Accelerator
from support.onnx_bundles import sigmoid_bundle

DEADLINE_S = 30
TOKEN = "a-token"
ACCELERATOR = cast(Accelerator, os.environ.get("MLPLATFORM_TEST_ACCELERATOR", "cpu"))


class Process:
    """A predictor process, and a client that knows its token."""

    def __init__(self, folder: Path, *args: str, heaviness: int = 0, shift: float = 0.0) -> None:
        if (reason := providers.accelerator_problem(ACCELERATOR)) is not None:
            pytest.skip(f"MLPLATFORM_TEST_ACCELERATOR: {reason}")
        self.digest = sigmoid_bundle(folder / "bundle", heaviness=heaviness, shift=shift)
        self.name = f"fraud-v1-{self.digest[:8]}"
        self.address = folder / "address.json"
        self.log = folder / "predictor.log"
        (folder / "token").write_text(TOKEN)
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlplatform.process", "predictor"),
                    f"--model-dir={folder / 'bundle'}",
                    f"--model-name={self.name}",
                    f"--digest={self.digest}",
                    f"--address-file={self.address}",
                    f"--token-file={folder / 'token'}",
                    f"--accelerator={ACCELERATOR}",
                    "--grpc-port=0",
                    "--drain-s=2",
                    *args,
                ],
                stderr=log,
            )
        wait(self.address.exists)
        address = json.loads(self.address.read_text())
        self.grpc_url = f"127.0.0.1:{address['grpc_port']}"
        self.authority = f"127.0.0.1:{address['port']}"
        self.client = httpx.Client(
            base_url=f"http://{self.authority}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=DEADLINE_S,
            verify=False,  # no TLS on loopback, and reading certificates takes 30 ms a client
        )

    @property
    def path(self) -> str:
        return f"/v2/models/{self.name}"

    def ready(self) -> bool:
        return self.client.get(f"{self.path}/ready").status_code == 200

    def infer(self, rows: list[list[float]], **request: object) -> httpx.Response:
        tensor = {"name": "inputs", "shape": [len(rows), 3], "datatype": "FP32", "data": rows}
        return self.client.post(f"{self.path}/infer", json={"inputs": [tensor], **request})

    def metric(self, line: str) -> float:
        """The sum of all samples that begin so."""
        text = self.client.get("/metrics").text
        return sum(float(row.split()[-1]) for row in text.splitlines() if row.startswith(line))

    def close(self) -> None:
        self.client.close()
        self.popen.kill()
        self.popen.wait()


def wait(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.02)
