"""No library that the platform runs keeps events for its maker."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    ["scoring.predictor.providers", "learning.onnx.onnx_file", "operations.compute.scoring"],
)
def test_onnx_runtime_keeps_no_events(tmp_path, module):
    code = f"import mlplatform.{module}, onnxruntime"
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
