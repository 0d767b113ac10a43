"""What people see of a run never keeps its version from being registered."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from mlplatform.learning.registry.mlflow_runs import (
    MOST_DESCRIPTION,
    VersionLinks,
    batches,
    description,
    observed,
    purpose,
    run_tags,
)
from mlplatform.learning.registry.run_record import RunRecord
from mlplatform.learning.training import drawings, retrain, run_figures
from mlplatform.runtime.text import markdown


def test_a_description_fits_into_mlflows_database() -> None:
    """PostgreSQL refuses a version whose description is longer; SQLite takes any."""
    short, long = RunRecord(description="a" * MOST_DESCRIPTION), RunRecord(description="a" * 9_000)
    assert description(short) == short.description
    assert description(long) == "a" * (MOST_DESCRIPTION - 1) + "…"
    tags = {tag["key"]: tag["value"] for tag in run_tags(long, "ana")}
    assert tags["mlflow.note.content"] == description(long)
    linked = description(long, VersionLinks("fraud", 12))
    assert (len(linked), linked[-1]) == (MOST_DESCRIPTION, "…")


def test_links_come_after_the_purpose_and_before_the_report() -> None:
    record = RunRecord(description="What it is for.\n\n## A report\n- passed")
    here = description(record, VersionLinks("fraud", 12))
    there = description(record, VersionLinks("fraud", 12, "https://page.invalid"))
    for text in (here, there):
        assert text.startswith("What it is for.\n\nModel card: ")
        assert text.endswith("\n\n## A report\n- passed")
        assert 'load_model("models:/fraud/12")' in text
    assert "`mlplatform models card fraud 12`. Rollouts: `mlplatform rollouts list fraud`." in here
    assert "](https://page.invalid/models/fraud/versions/12)" in there
    assert "Rollouts: [on the page of fraud](https://page.invalid/models/fraud)." in there
    alone = description(RunRecord(), VersionLinks("fraud", 1))
    assert alone.startswith("Model card: `mlplatform models card fraud 1`")
    assert description(RunRecord()) == ""
    assert purpose(record) == "What it is for."


def test_an_escape_that_mlflows_pages_show_is_none() -> None:
    """What `markdown` escapes is text, and no markup, there too."""
    text = markdown("a@b & <i> *c* \\@ ~d~ [e](f)")
    shown = description(RunRecord(description=text))
    assert shown == r"a@b &amp; &lt;i\> \*c\* \\@ &#126;d&#126; \[e\](f)"
    assert (
        html.unescape(re.sub(r"\\([\\`*_\[\]>|])", r"\1", shown)) == "a@b & <i> *c* \\@ ~d~ [e](f)"
    )


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


def test_the_figures_of_the_record_come_first_and_those_of_gates_are_named_so() -> None:
    """MLflow's comparison begins with the first metric."""
    found = observed({"latency": 1.0, "auc": 0.5}, ["latency", "rows"])
    assert found == {"gates/latency": 1.0, "measures/auc": 0.5}
    record = RunRecord(metrics={"candidate/roc_auc": 0.6, "measures/auc": 0.5})
    (batch,) = batches(found, record, now_ms=7)
    names = [metric["key"] for metric in batch["metrics"]]
    assert names == ["candidate/roc_auc", "measures/auc", "gates/latency"]
