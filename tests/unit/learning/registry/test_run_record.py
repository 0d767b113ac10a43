"""What people see of a run never keeps its version from being registered."""

from __future__ import annotations

from typing import Any

import pytest

from mlplatform.learning.registry.mlflow_runs import MOST_DESCRIPTION, description, run_tags
from mlplatform.learning.registry.run_record import RunRecord
from mlplatform.learning.training import drawings, retrain, run_figures


def test_a_description_fits_into_mlflows_database() -> None:
    """PostgreSQL refuses a version whose description is longer; SQLite takes any."""
    short, long = RunRecord(description="a" * MOST_DESCRIPTION), RunRecord(description="a" * 9_000)
    assert description(short) == short.description
    assert description(long) == "a" * (MOST_DESCRIPTION - 1) + "…"
    tags = {tag["key"]: tag["value"] for tag in run_tags(long, "ana")}
    assert tags["mlflow.note.content"] == description(long)


def test_a_retrain_goes_on_where_a_picture_can_not_be_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def record(*_: object, **__: object) -> RunRecord:
        raise OSError(drawings.__name__)

    monkeypatch.setattr(run_figures, "run_record", record)
    nothing: Any = type("Folder", (), {"definition": None})
    found = retrain.describe(nothing, nothing, nothing, nothing, champion=None)
    assert found == RunRecord()
    assert "no figures of this run" in caplog.text
