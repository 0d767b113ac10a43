"""How a predictor ends when its model can't be served."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.onnx_bundles import sigmoid_bundle


def predictor(folder: Path, *args: str) -> subprocess.CompletedProcess[bytes]:
    digest = sigmoid_bundle(folder / "bundle", shift=0.1)
    command = [
        *(sys.executable, "-m", "mlplatform.predictor"),
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
