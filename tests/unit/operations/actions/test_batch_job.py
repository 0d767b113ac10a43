"""A batch of past days: shards as serving read the inputs, results taken over whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.jobs_world import pool
from tests.support.onnx_bundles import sigmoid_bundle

from mlplatform.model.bundle import View
from mlplatform.operations import wiring
from mlplatform.operations.actions import batch
from mlplatform.operations.actions.features import import_history
from mlplatform.operations.compute.scoring import SCORES
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import InputInvalid, NotFound
from mlplatform.runtime.units import DAY_MS
from models.fraud.generator import Population, generate

START_MS = 20_000 * DAY_MS
DAYS = ("2024-10-04.parquet", "2024-10-05.parquet", "2024-10-06.parquet")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> wiring.Platform:
    settings = load({"MLPLATFORM_HOME": str(tmp_path_factory.mktemp("home"))})
    settings.home.create()
    made = wiring.Platform(settings)
    population = Population(customers=20, payments_per_day=30)
    import_history(
        made, "fraud", generate(seed=1, start_ms=START_MS, days=3, population=population), "history"
    )
    return made


def order(platform: wiring.Platform, name: str, days: int = 3) -> batch.Batch:
    """A batch of the history's days with a bundle whose score is the sigmoid of its inputs."""
    draft = platform.settings.home.bundles / "draft"
    digest = sigmoid_bundle(draft)
    target = platform.settings.home.bundles / digest
    if not target.exists():
        draft.rename(target)
    end_ms = START_MS + days * DAY_MS
    return batch.Batch(name, "fraud", 4, digest, START_MS, end_ms, deadline_s=120)


def test_a_shard_holds_a_days_requests_with_the_bundles_inputs(platform: wiring.Platform) -> None:
    job = batch.prepare(platform, order(platform, "shards"))
    assert job.items == DAYS
    tables = [pq.read_table(job.inputs / "items" / day) for day in DAYS]
    assert [t.column_names for t in tables] == [["request_id", "amount", "hour", "night"]] * 3
    offline = platform.offline("fraud").requests().order("event_time, request_id").to_arrow_table()
    ids = pa.concat_tables(tables).column("request_id").to_pylist()
    assert ids == offline.column("request_id").to_pylist()
    amounts = pa.concat_tables(tables).column("amount").to_pylist()
    assert amounts == pytest.approx(offline.column("amount").to_pylist(), rel=1e-6)


def test_inputs_that_a_job_may_be_reading_are_left_as_they_are(platform: wiring.Platform) -> None:
    asked = order(platform, "twice")
    first = batch.prepare(platform, asked)
    written = (first.inputs / "items" / DAYS[0]).stat().st_mtime_ns
    assert batch.prepare(platform, asked) == first
    assert (first.inputs / "items" / DAYS[0]).stat().st_mtime_ns == written


def test_results_are_kept_with_a_manifest_and_inputs_are_removed(platform: wiring.Platform) -> None:
    asked = order(platform, "kept")
    job = batch.prepare(platform, asked)
    with pool(platform.settings.home.jobs):
        folder = batch.score(platform, asked, job, lambda status: None)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert (manifest["version"], manifest["bundle"]) == (4, asked.bundle)
    rows = {day: pq.read_table(folder / day).num_rows for day in DAYS}
    assert {day: file["rows"] for day, file in manifest["files"].items()} == rows
    assert sum(rows.values()) == platform.offline("fraud").requests().count("*").fetchall()[0][0]
    assert not job.inputs.exists()
    assert batch.score(platform, asked, job, lambda status: None) == folder  # no job is needed
    assert "| 2024-10-05 |" in batch.page(folder)


@pytest.mark.parametrize(
    ("alerts", "title", "day"),
    [
        (
            ["review"],
            "| day | requests | review | without features |",
            "| 2024-10-04 | 9 | 4 | - |",
        ),
        ([], "| day | requests | without features |", "| 2024-10-04 | 9 | - |"),
    ],
    ids=["alerts", "none"],
)
def test_the_table_of_a_batch_has_a_column_for_each_alert_that_a_model_has(
    tmp_path: Path, alerts: list[str], title: str, day: str
) -> None:
    """Markdown takes lines of other widths than the line below the titles for no table."""
    file = {"rows": 9, "decisions": {"approve": 5, "review": 4}}
    content = {"version": 1, "model": "fraud", "alerts": alerts}
    content["files"] = {"2024-10-04.parquet": file}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    lines = batch.page(tmp_path).splitlines()
    assert lines[-3:] == [title, "| " + " | ".join(["---"] * title.count(" | ")) + " | --- |", day]


def test_results_that_were_changed_on_the_way_are_refused(
    platform: wiring.Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = order(platform, "changed")
    job = batch.prepare(platform, asked)

    def tampered(*given: object) -> Path:
        from mlplatform.operations.compute.job_run import run

        outputs = run(*given)  # type: ignore[arg-type]
        with (outputs / DAYS[0] / SCORES).open("ab") as file:
            file.write(b"!")
        return outputs

    monkeypatch.setattr(batch, "run", tampered)
    with pool(platform.settings.home.jobs), pytest.raises(InputInvalid, match="digest"):
        batch.score(platform, asked, job, lambda status: None)


@pytest.mark.parametrize(
    ("from_ms", "to_ms"), [(0, 0), (1, DAY_MS), (0, DAY_MS // 2), (DAY_MS, 0), (0, 1001 * DAY_MS)]
)
def test_only_whole_days_are_scored(platform: wiring.Platform, from_ms: int, to_ms: int) -> None:
    with pytest.raises(InputInvalid, match="whole days"):
        batch.batch(platform, "fraud", 1, name="days", from_ms=from_ms, to_ms=to_ms, deadline_s=60)


def test_a_batch_without_a_version_needs_a_champion(platform: wiring.Platform) -> None:
    with pytest.raises(NotFound, match="no champion"):
        batch.batch(platform, "fraud", None, name="none", from_ms=0, to_ms=DAY_MS, deadline_s=60)


def test_days_without_requests_are_no_batch(platform: wiring.Platform) -> None:
    asked = order(platform, "empty")
    later = batch.Batch("empty", "fraud", 4, asked.bundle, 0, DAY_MS, 60)
    with pytest.raises(InputInvalid, match="no request"):
        batch.prepare(platform, later)
    assert not list(platform.settings.home.staging.glob("*empty*"))


def test_days_without_features_are_told_and_a_batch_of_nothing_else_is_refused(
    platform: wiring.Platform, tmp_path: Path
) -> None:
    terminals = next(v for v in platform.views("fraud") if v.name == "terminal_stats")
    digest = sigmoid_bundle(tmp_path / "b", views=(View(name=terminals.name, ttl_ms=3 * DAY_MS),))
    (tmp_path / "b").rename(platform.settings.home.bundles / digest)
    asked = replace(order(platform, "gaps"), bundle=digest)
    folder = platform.offline("fraud").snapshot_folder(terminals.name)
    for path in folder.glob("*.parquet"):  # the view is valid for three days: two days lack it
        if path.stem <= "2024-10-05":
            path.rename(tmp_path / path.name)
    try:
        with pool(platform.settings.home.jobs):
            scored = batch.score(platform, asked, batch.prepare(platform, asked), lambda _: None)
        early = replace(asked, name="early", to_ms=START_MS + 2 * DAY_MS)
        with pytest.raises(InputInvalid, match="none of the 2 days from 2024-10-04 to 2024-10-05"):
            batch.prepare(platform, early)
    finally:
        for path in tmp_path.glob("*.parquet"):
            path.rename(folder / path.name)
    files = json.loads((scored / "manifest.json").read_bytes())["files"]
    found = {day: file.get("without_features") for day, file in files.items()}
    assert found == {DAYS[0]: ["terminal_stats"], DAYS[1]: ["terminal_stats"], DAYS[2]: None}
    assert "Warning: 2 of 3 days have no features." in batch.page(scored)
