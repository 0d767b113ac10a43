"""The report of a GPU machine: each check is told, whatever became of the others."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.drills import gpu


def of(name: str, *, raises: Exception | None = None) -> gpu.Result:
    if raises is not None:
        raise raises
    return f"{name} is well", {"s": 1}


def test_a_check_that_fails_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "driver", lambda: of("driver", raises=gpu.LeftOut("no program")))
    monkeypatch.setattr(gpu, "provider", lambda _: of("provider", raises=OSError("no library")))
    for name in ("contract", "scores", "fit", "image"):
        monkeypatch.setattr(gpu, name, lambda _, name=name: of(name))
    monkeypatch.setattr(gpu, "nodes", lambda: of("cluster"))

    found = gpu.report("cuda", tmp_path)

    outcomes = [one.outcome for one in found]
    assert outcomes == ["left out", "failed", *["passed"] * 5]
    written = json.loads((tmp_path / "report.json").read_text())
    assert [one["outcome"] for one in written["checks"]] == outcomes
    text = (tmp_path / "report.txt").read_text()
    assert "| driver | left out | no program |" in text
    assert "| provider | failed | OSError: no library |" in text
    assert "fit, s: 1" in text


def test_scores_that_differ_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network with another weight stands for hardware that computes wrong."""
    made = gpu.providers.session
    networks = iter([1.0, 1.5])

    def session(path: Path, options: Any, accelerator: Any) -> Any:
        model = gpu.onnx.load(path)
        [last] = [one for one in model.graph.initializer if one.name == "last"]
        scaled = gpu.numpy_helper.to_array(last) * np.float32(next(networks))
        last.CopyFrom(gpu.numpy_helper.from_array(scaled, "last"))
        path.write_bytes(model.SerializeToString())
        return made(path, options, "cpu")

    monkeypatch.setattr(gpu.providers, "session", session)
    monkeypatch.setattr(gpu, "CALLS", 1)
    monkeypatch.setattr(gpu, "BATCHES", (1,))
    monkeypatch.setattr(gpu, "LAYERS", 1)
    with pytest.raises(gpu.Failed, match="scores differ from the processor's by"):
        gpu.scores("cuda")


def test_a_machine_without_a_gpu_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "has_gpu", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 2
    assert "has no GPU of NVIDIA" in capsys.readouterr().out
