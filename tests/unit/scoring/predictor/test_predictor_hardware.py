"""The hardware that a predictor takes by `accelerator` of model.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.scoring.predictor import providers

GPU = "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("devices", "available", "runs_on", "said"),
    [
        (["nvidia0"], [GPU], "cuda", ""),
        (["nvidiactl"], [GPU], "cpu", "because this machine has no GPU of NVIDIA"),
        (["nvidia0"], [], "cpu", f"because cuda needs {GPU}; this ONNX Runtime has CPU"),
    ],
    ids=["a GPU and its provider", "no GPU", "no provider"],
)
def test_gpu_is_a_gpu_where_one_can_be_used_and_else_the_processor_aloud(
    devices: list[str],
    available: list[str],
    runs_on: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in devices:
        (tmp_path / name).touch()
    known = [*available, "CPUExecutionProvider"]
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: known)
    assert providers.hardware("gpu", tmp_path) == runs_on
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


@pytest.mark.parametrize("named", ["cpu", "cuda", "tensorrt"])
def test_hardware_that_is_named_is_never_another(named: providers.Hardware, tmp_path: Path) -> None:
    assert providers.hardware(named, tmp_path) == named
