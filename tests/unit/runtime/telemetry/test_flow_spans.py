"""Of Prefect's spans what signals.py lists is kept, and nothing that a run was given."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest
from opentelemetry import trace

from mlplatform.operations.compute.work import traced
from mlplatform.runtime.configuration.settings import Settings, load
from mlplatform.runtime.telemetry import signals, span_files
from mlplatform.runtime.telemetry.flow_spans import (
    CurrentTrace,
    current_traceparent,
    link_to,
    provider,
)
from mlplatform.runtime.telemetry.span_files import FileSender, StoredSpan
from mlplatform.runtime.telemetry.spans import ProcessIdentity

ASKED = f"00-{'d' * 32}-{'e' * 16}-01"
GIVEN = {
    "prefect.run.name": "retrain fraud",
    "prefect.run.type": "flow",
    "prefect.run.id": "6b0f",
    "prefect.run.parameter.actor": "str",
    "mlplatform.customer": "8675309",
}


def spans(folder: Path, any_id: str) -> list[StoredSpan]:
    return list(span_files.find(folder, [any_id]))


def test_a_run_and_its_task_are_one_trace_with_listed_attributes_alone(tmp_path: Path) -> None:
    made = provider(FileSender(tmp_path, ProcessIdentity("flows", "runs")))
    tracer = made.get_tracer("prefect")
    with (
        contextlib.suppress(ValueError),
        tracer.start_as_current_span("retrain fraud", attributes=GIVEN) as run,
    ):
        link_to(ASKED)
        with tracer.start_as_current_span("fit-1", attributes={"prefect.run.type": "task"}):
            record = logging.LogRecord("a", logging.INFO, "f.py", 1, "m", (), None)
            assert CurrentTrace().filter(record)
            told = current_traceparent()
        raise ValueError("8675309")
    trace_id = f"{run.get_span_context().trace_id:032x}"
    made.shutdown()
    flow, task = sorted(spans(tmp_path, trace_id), key=lambda span: span.start_ns)
    assert (flow.name, flow.is_error, task.parent_id) == ("retrain fraud", True, flow.span_id)
    assert flow.attributes == {"prefect.run.type": "flow", "prefect.run.id": "6b0f"}
    assert flow.links == (("d" * 32, "e" * 16),)
    assert told.startswith(f"00-{trace_id}-{task.span_id}-")
    assert vars(record)["trace_id"] == trace_id
    assert not any("8675309" in path.read_text() for path in tmp_path.iterdir())


@pytest.mark.parametrize("told", ["", "none", f"00-{'0' * 32}-{'e' * 16}-01"])
def test_what_names_no_span_links_nothing(told: str) -> None:
    link_to(told)
    assert current_traceparent() == ""
    assert not trace.get_current_span().get_span_context().is_valid


def of_home(folder: Path) -> Settings:
    return load({"MLPLATFORM_HOME": str(folder)})


def test_an_item_of_a_job_lies_below_the_task_that_asked_for_it(tmp_path: Path) -> None:
    with traced("score", of_home(tmp_path), ASKED):
        pass
    with pytest.raises(SystemExit), traced("score", of_home(tmp_path), ASKED):
        raise SystemExit("it failed")
    done, failed = spans(tmp_path / "traces", "d" * 32)
    assert (done.name, done.parent_id, done.service) == ("work score", "e" * 16, "mlplatform-jobs")
    assert (done.is_error, failed.is_error) == (False, True)
    assert done.name == signals.ITEM_SPAN.name.format(work="score")


def test_an_item_that_nobody_traces_has_no_span(tmp_path: Path) -> None:
    with traced("score", of_home(tmp_path), ""):
        pass
    assert not (tmp_path / "traces").exists()
