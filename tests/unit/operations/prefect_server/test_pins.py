"""A run executes the file that was registered, with the content that it had then."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.operations.prefect_server.pins import Pin, pin_of_flow
from mlplatform.runtime.errors import Refused


def test_a_file_that_changed_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "retrain.py"
    file.write_text("flow = 1")
    pin = Pin.of(f"{file}:retrain")
    assert pin.checked_entrypoint() == f"{file}:retrain"
    file.write_text("flow = 2")
    with pytest.raises(Refused, match=r"retrain\.py has changed"):
        pin.checked_entrypoint()


def test_only_flows_of_the_platform_have_a_pin(tmp_path: Path) -> None:
    (tmp_path / "retrain.py").write_text("flow = 1")
    assert pin_of_flow("retrain", tmp_path).function == "retrain"
    with pytest.raises(Refused, match="is not a flow of this platform"):
        pin_of_flow("../evil", tmp_path)
