"""Spans on disk: as a collector would read them, bounded, and found again."""

from __future__ import annotations

import multiprocessing
import os
import stat
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from mlplatform.runtime.telemetry import retention, signals, span_files
from mlplatform.runtime.telemetry.span_files import FileSender, encoded, find
from mlplatform.runtime.telemetry.spans import Link, ProcessIdentity, Span, Trace
from support.otlp_receiver import export_request

US = ProcessIdentity("gateway", "gateway-0")
OTHER = ProcessIdentity("predictor", "fraud-v1-0a0b0c0d")
ROOT, INNER = "1" * 16, "2" * 16


def trace(number: int = 1) -> Trace:
    """One span of ours and one of a predictor's."""
    own = {signals.HTTP_STATUS: 200, signals.MODEL_NAME: "fraud", signals.ERROR_TYPE: None}
    told = {signals.QUEUE_MS: 0.25}
    links = (Link("a" * 32, "b" * 16),)
    return Trace(
        f"{number:032x}",
        (
            Span(signals.REQUEST_SPAN, "score fraud", ROOT, None, 1.0, 2.0, own, True, links),
            Span(signals.INFER_SPAN, "infer x", INNER, ROOT, 1.2, 1.4, told, of=OTHER),
        ),
    )


def test_a_line_is_what_a_collector_reads() -> None:
    line = export_request(encoded([trace()], US))
    first, second = line.resource_spans
    assert [a.value.string_value for a in first.resource.attributes] == [
        "mlplatform-gateway", "gateway-0",
    ]  # fmt: skip
    (root,) = first.scope_spans[0].spans
    assert (root.name, root.kind, root.status.code) == ("score fraud", 2, 2)
    assert root.end_time_unix_nano - root.start_time_unix_nano == 1_000_000_000
    assert {a.key for a in root.attributes} == {
        "http.response.status_code",
        "mlplatform.model.name",
    }
    assert (root.trace_id.hex(), root.links[0].trace_id.hex()) == (f"{1:032x}", "a" * 32)
    assert second.resource.attributes[0].value.string_value == "mlplatform-predictor"


def test_what_is_written_is_found_by_trace_and_by_link(tmp_path: Path) -> None:
    sender = FileSender(tmp_path, US)
    assert sender.send([trace(1), trace(2)])
    root, inner = find(tmp_path, [f"{2:032x}"])
    assert (root.trace_id, root.span_id, root.parent_id) == (f"{2:032x}", ROOT, None)
    assert (root.name, root.kind, root.is_error) == ("score fraud", "SERVER", True)
    assert root.attributes == {"http.response.status_code": 200, "mlplatform.model.name": "fraud"}
    assert root.links == (("a" * 32, "b" * 16),)
    assert (inner.service, inner.instance) == ("mlplatform-predictor", OTHER.instance)
    assert inner.attributes == {"mlplatform.predictor.queue_ms": 0.25}
    assert root.start_ns < inner.start_ns < inner.end_ns < root.end_ns
    assert len(list(find(tmp_path, ["b" * 16]))) == 4
    assert list(find(tmp_path, ["c" * 32])) == []


def test_files_are_private_bounded_and_an_end_that_was_cut_off_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "TRACES", retention.Retention(20_000, 3))
    sender = FileSender(tmp_path / "traces", US)
    for number in range(200):
        sender.send([trace(number + 1)])
    files = sorted((tmp_path / "traces").iterdir())
    assert 2 <= len(files) <= 3
    assert all(file.stat().st_size < 22_000 for file in files)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert len(list(find(tmp_path / "traces", [f"{200:032x}"]))) == 2
    span_files.append(tmp_path / "traces" / "gateway-0.jsonl", b'{"resourceSpans":[{"x' + b"\n")
    sender.send([trace(7_777)])
    assert len(list(find(tmp_path / "traces", [f"{7_777:032x}"]))) == 2


def test_a_flood_of_traces_that_are_alike_turns_out_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "TRACES", retention.Retention(20_000, 3))
    sender = FileSender(tmp_path, US)
    sender.send([trace(1), replace(trace(2), is_spare=True)])
    for number in range(10, 200):
        sender.send([replace(trace(number), is_spare=True)])
    assert len(list(find(tmp_path, [f"{1:032x}"]))) == 2
    assert list(find(tmp_path, [f"{2:032x}"])) == []


def test_a_file_that_two_find_full_at_one_moment_is_turned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first moved away stays there, and what was written since stays in the new file."""
    path, kept = tmp_path / "flows-runs.jsonl", retention.Retention(10, 3)
    path.write_bytes(b"all that was kept so far\n")
    ages, is_midway, is_other_done = retention._age, threading.Event(), threading.Event()

    def ages_slowly(aged: Path, retained: retention.Retention) -> None:
        ages(aged, retained)
        if threading.current_thread() is first:
            is_midway.set()
            is_other_done.wait(20)

    def turn_and_go_on() -> None:
        retention.rotate(path, kept)
        if not path.exists():
            span_files.append(path, b"new\n")

    monkeypatch.setattr(retention, "_age", ages_slowly)
    first = threading.Thread(target=retention.rotate, args=(path, kept))
    first.start()
    assert is_midway.wait(20)
    turn_and_go_on()
    is_other_done.set()
    first.join()
    turn_and_go_on()
    turn_and_go_on()
    names = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert names == {
        "flows-runs.jsonl": b"new\n",
        "flows-runs.jsonl.1": b"all that was kept so far\n",
    }


def test_processes_that_write_to_one_file_lose_no_line_when_it_is_turned(tmp_path: Path) -> None:
    """As those of flow runs do; there may be more files here than they can fill."""
    context, path = multiprocessing.get_context("spawn"), tmp_path / "flows-runs.jsonl"
    writers = [context.Process(target=_write, args=(path, number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    files = [file.read_text().splitlines() for file in tmp_path.iterdir()]
    assert len(files) > 5
    found = sorted(line for lines in files for line in lines)
    assert found == sorted(f"{number} {line}" for number in range(3) for line in range(LINES))


LINES = 500


def _write(path: Path, number: int) -> None:
    retention.TRACES = retention.Retention(400, 100)  # type: ignore[misc]
    for line in range(LINES):
        span_files.append(path, f"{number} {line}\n".encode())


def test_a_folder_that_is_not_there_has_no_spans(tmp_path: Path) -> None:
    assert not os.path.exists(tmp_path / "none")
    assert list(find(tmp_path / "none", ["a"])) == []
