"""A batch over a table: a row out for each row in, as a gateway decides, whatever ends it."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support import table_world
from tests.support.table_world import MEAN, read, table, world, write

from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.learning.features.columns import ExpectedColumn
from mlplatform.learning.features.parquet_work import BATCH_ROWS
from mlplatform.learning.features.rows import request_schema
from mlplatform.learning.training_sets.join import training_join
from mlplatform.model.definition import ModelDefinition
from mlplatform.operations import wiring
from mlplatform.operations.tables import batch as table_batch
from mlplatform.operations.tables.batch import TableBatch, score_table
from mlplatform.operations.tables.conversion import Conversion
from mlplatform.operations.tables.plan import Partition
from mlplatform.runtime.errors import Busy, ConfigInvalid, InputInvalid, Refused
from mlplatform.scoring.arms.reasons import drivers, ordinary_row, without_each
from mlplatform.scoring.request.explain import load_decider

ROWS = 2_300
KILLS = 20


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> wiring.Platform:
    return world(tmp_path_factory.mktemp("home"))


def scored(
    platform: wiring.Platform, source: Path, output: Path, rows: int = 1000, **more: Any
) -> dict[str, Any]:
    asked = TableBatch("fraud", str(source), str(output), partition_rows=rows, **more)
    return score_table(platform, asked, lambda one: None)


def online(platform: wiring.Platform, given: pa.Table) -> list[tuple[Any, ...]]:
    """Score, decision and reasons of each row, by the functions of a gateway, one by one."""
    digest = platform.rollouts.routes("fraud").champion.bundle  # type: ignore[union-attr]
    decider = load_decider(platform.settings.home.bundles, "fraud", digest)
    bundle, key = decider.bundle, platform.pseudonym_key()
    ids = pa.array([pseudonym(v, key) for v in given.column("customer_id").to_pylist()])
    requests = given.set_column(2, "customer_id", ids).cast(request_schema(_definition(platform)))
    views = [v for v in platform.views("fraud") if v.name == "customer_stats"]
    joined = training_join(platform.offline("fraud"), views, requests)
    found = []
    for row in joined.to_pylist():
        event_ms = round(
            (row["event_time"] - np.datetime64(0, "us").astype(object)).total_seconds() * 1000
        )
        inputs = decider.plan.row(row, event_ms, {name: row[name] for name in MEAN})
        raw = float(decider.score(np.array([inputs], np.float32))[0])
        score = bundle.calibrate(raw)
        decision, codes = bundle.decide(score, inputs), []
        if decision in bundle.scale.alerts:
            others = decider.score(np.array(without_each(inputs, ordinary_row(bundle)), np.float32))
            shares = [raw - other for other in others.astype(np.float64).tolist()]
            codes = [driver.reason.code for driver in drivers(bundle, shares)]
        found.append((row["request_id"], score, decision, codes))
    return found


def _definition(platform: wiring.Platform) -> ModelDefinition:
    return platform.definition("fraud")


def test_each_row_is_answered_as_a_gateway_answers_it_in_the_inputs_order(
    platform: wiring.Platform, tmp_path: Path
) -> None:
    first, second = table(ROWS), table(1_700, 1, first=ROWS)
    write(tmp_path / "in" / "a.parquet", first)
    write(tmp_path / "in" / "b.parquet", second)
    (tmp_path / "in" / "_SUCCESS").touch()
    manifest = scored(platform, tmp_path / "in", tmp_path / "out")
    expected = online(platform, pa.concat_tables([first, second]))
    out = read(tmp_path / "out")
    names = ("request_id", "score", "decision", "reasons")
    given = list(zip(*(out.column(name).to_pylist() for name in names), strict=True))
    assert [(i, pytest.approx(s, abs=1e-6), d, c) for i, s, d, c in expected] == given
    assert {"approve", "review", "decline"} == {decision for _, _, decision, _ in given}
    assert out.column("row").to_pylist() == [*range(ROWS), *range(1_700)]
    assert manifest["output"]["rows"] == len(out) == ROWS + 1_700
    assert manifest["plan"]["bundle"] == platform.rollouts.routes("fraud").champion.bundle  # type: ignore[union-attr]
    lacking = sum("customer_stats" in names for names in out.column("without_features").to_pylist())
    assert manifest["output"]["without_features"] == {"customer_stats": lacking}
    assert 0 < lacking < len(out)
    files = {path.name for path in (tmp_path / "out").glob("part-*")}
    assert files == {
        f"part-0000{f}-0000{n}.parquet" for f, n in [*((0, n) for n in range(3)), (1, 0), (1, 1)]
    }
    assert pq.read_table(tmp_path / "out").num_rows == len(out)  # readers leave out what is ours


def test_a_bad_row_has_an_error_and_loses_no_other(
    platform: wiring.Platform, tmp_path: Path
) -> None:
    rows = table(1_500).to_pylist()
    good = scored(platform, write(tmp_path / "good.parquet", table(1_500)), tmp_path / "good")
    rows[3]["amount"] = None
    rows[700]["amount"] = -5.0
    rows[1_200]["customer_id"] = None
    rows[1_201]["event_time"] = table(1)["event_time"][0].as_py().replace(year=2190)
    rows[1_499]["request_id"] = None
    bad = write(tmp_path / "bad.parquet", pa.Table.from_pylist(rows, table(1).schema))
    manifest = scored(platform, bad, tmp_path / "out")
    out, expected = read(tmp_path / "out").to_pylist(), read(tmp_path / "good").to_pylist()
    wrong = {
        3: "amount is missing",
        700: "amount is less than 0: -5.0",
        1_200: "customer_id is missing",
        1_201: "event_time is in the future: 2190",
        1_499: "request_id is missing",
    }
    assert {n: r["error"][: len(wrong[n])] for n, r in enumerate(out) if r["error"]} == wrong
    assert all(out[n]["decision"] is None and out[n]["score"] is None for n in wrong)
    same = [n for n in range(1_500) if n not in wrong]
    assert [out[n] for n in same] == [expected[n] for n in same]
    assert manifest["output"]["errors"] == len(wrong)
    assert [e[:2] for e in manifest["output"]["first_errors"]] == [
        ["bad.parquet", n] for n in wrong
    ]
    assert good["output"]["errors"] == 0


def test_csv_gives_what_parquet_gives_and_a_cut_line_is_an_error_of_its_own(
    platform: wiring.Platform, tmp_path: Path
) -> None:
    given = table(1_200)
    scored(platform, write(tmp_path / "a.parquet", given), tmp_path / "parquet")
    with (tmp_path / "a.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", *given.column_names[1:]])
        writer.writerows([list(row.values()) for row in given.to_pylist()])
        file.write("cut,line\n")
        writer.writerow(["last", given["event_time"][0].as_py(), 1, 2, "many"])
    scored(platform, tmp_path / "a.csv", tmp_path / "csv", columns={"request_id": "ID"})
    out = read(tmp_path / "csv").to_pylist()
    assert out[:1_200] == read(tmp_path / "parquet").to_pylist()
    assert [row["error"] for row in out[1_200:]] == [
        "it has 2 cells; wanted: 5, as the first line",
        "amount is 'many'; wanted: a number, with a point before its decimals",
    ]


def in_cents(rows: pa.Table) -> pa.Table:
    amounts = [None if n is None else n / 64 for n in rows["cents"].to_pylist()]
    return rows.drop_columns(["cents"]).append_column("amount", pa.array(amounts, pa.float64()))


def test_a_table_in_other_columns_gets_the_answers_of_its_requests(
    platform: wiring.Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = table(1_200)
    units = np.round(other["amount"].to_numpy() * 64).astype(np.int64)
    other = other.drop_columns(["amount"]).append_column("cents", pa.array(units))
    own = in_cents(other)
    scored(platform, write(tmp_path / "own.parquet", own), tmp_path / "own")
    expected = [ExpectedColumn(n, ("int64",), (n,), frozenset(), "") for n in other.column_names]
    for place, name in enumerate(other.column_names[:2]):
        kind = str(other.schema.field(name).type)
        expected[place] = ExpectedColumn(name, (kind,), (name,), frozenset(), "")
    for digest, function in (("1", in_cents), ("2", lambda rows: rows)):
        conversion = Conversion(tuple(expected), function, digest)
        monkeypatch.setattr(table_batch, "conversion_of", lambda model, found=conversion: found)
        path = write(tmp_path / "other.parquet", other)
        if digest == "1":
            scored(platform, path, tmp_path / "out")
            continue
        with pytest.raises(Refused, match=r"features\.json and what sources\.py makes of tables"):
            scored(platform, path, tmp_path / "out")
        with pytest.raises(Refused, match=r"batch_requests of sources\.py gives no column amount"):
            scored(platform, path, tmp_path / "again")
    assert read(tmp_path / "out").to_pylist() == read(tmp_path / "own").to_pylist()


def test_an_input_that_holds_no_request_is_refused_and_the_output_is_free_for_the_next_try(
    platform: wiring.Platform, tmp_path: Path
) -> None:
    given = table(1_000)
    swapped = given.rename_columns(["request_id", "event_time", "customer_id", "terminal_id", "x"])
    path = write(tmp_path / "a.parquet", swapped)
    with pytest.raises(InputInvalid, match="--map amount="):
        scored(platform, path, tmp_path / "out")
    negative = swapped.append_column("wrong", pa.array(np.full(1_000, -1.0)))
    write(path, negative)
    with pytest.raises(
        InputInvalid,
        match=r"a.parquet, row 0, counted from 0: "
        r"amount is less than 0",
    ):
        scored(platform, path, tmp_path / "out", columns={"amount": "wrong"})
    assert (
        scored(platform, path, tmp_path / "out", columns={"amount": "x"})["output"]["errors"] == 0
    )


def test_an_output_is_of_one_input_alone(platform: wiring.Platform, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", table(1_500))
    manifest = scored(platform, path, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("part-*")}
    assert scored(platform, path, tmp_path / "out") == manifest
    write(path, table(1_500, seed=9))
    with pytest.raises(Refused, match=r"a\.parquet with other content.*another --output"):
        scored(platform, path, tmp_path / "out")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("part-*")} == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(Refused, match=r"mine\.txt"):
        scored(platform, path, tmp_path / "full")


def test_rows_under_two_rules_of_model_yaml_are_not_in_one_output(
    platform: wiring.Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = write(tmp_path / "a.parquet", table(1_500)), _definition(platform)
    scored(platform, path, tmp_path / "out")
    amount = msgspec.structs.replace(before.request["amount"], maximum=5.0)
    after = msgspec.structs.replace(before, request=before.request | {"amount": amount})
    monkeypatch.setattr(wiring.Platform, "definition", lambda *_: after)
    with pytest.raises(Refused, match=r"model\.yaml.* as they were then"):
        scored(platform, path, tmp_path / "out")


def test_a_partition_that_was_damaged_or_removed_is_scored_again_and_no_other(
    platform: wiring.Platform, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.parquet", table(3_500))
    manifest, out = scored(platform, path, tmp_path / "out"), tmp_path / "out"
    parts = sorted(out.glob("part-*"))
    kept = {p: p.stat().st_mtime_ns for p in (parts[0], parts[3])}
    parts[1].write_bytes(b"?" * parts[1].stat().st_size)
    parts[2].unlink()
    assert scored(platform, path, out)["output"] == manifest["output"]
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_stale_features_ask_no_model_as_online(platform: wiring.Platform, tmp_path: Path) -> None:
    given = table(1_000)
    late = pa.array([t + timedelta(days=30) for t in given["event_time"].to_pylist()])
    path = write(tmp_path / "a.parquet", given.set_column(1, "event_time", late))
    manifest = scored(platform, path, tmp_path / "out")
    assert manifest["output"]["answered_by"] == {"default": 1_000}
    row = read(tmp_path / "out").to_pylist()[0]
    told = {name: row[name] for name in ("score", "decision", "degraded", "reasons", "error")}
    assert told == {
        "score": None, "decision": "review", "degraded": True, "reasons": ["NO_FEATURES"],
        "error": None,
    }  # fmt: skip
    assert row["without_features"] == ["customer_stats"]


def test_rows_without_a_time_have_that_of_the_first_run(
    platform: wiring.Platform, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.parquet", table(1_500).drop_columns(["event_time"]))
    first = scored(platform, path, tmp_path / "out")
    for name in ("_manifest.json", "part-00000-00001.parquet"):
        (tmp_path / "out" / name).unlink()
    again = scored(platform, path, tmp_path / "out")
    assert again["plan"]["as_of_ms"] == first["plan"]["as_of_ms"]
    assert again["output"] == first["output"]


def until(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.001)


def has_gone_on(process: Any, out: Path, partitions: int) -> bool:
    return len(list(out.glob("_done/*"))) >= partitions or not process.is_alive()


def test_killed_twenty_times_it_gives_what_an_undisturbed_run_gives(tmp_path: Path) -> None:
    platform = world(tmp_path / "home")
    given, chance = table(45_400), random.Random(5)
    write(tmp_path / "in" / "a.parquet", given.slice(0, 30_400))
    write(tmp_path / "in" / "b.parquet", given.slice(30_400))
    undisturbed = scored(platform, tmp_path / "in", tmp_path / "whole")
    out, context = tmp_path / "out", multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.table_world"])
    words = (str(platform.settings.home.root), str(tmp_path / "in"), str(out), 1000)
    kills = 0
    while not (out / "_manifest.json").exists():
        process = context.Process(target=table_world.run, args=words)
        process.start()
        if kills < KILLS:
            done = len(list(out.glob("_done/*")))
            until(partial(has_gone_on, process, out, done + chance.randrange(3)))
            time.sleep(chance.random() * 0.05)
            if process.is_alive() and process.pid:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
        process.join(60)
    assert kills == KILLS
    manifest = json.loads((out / "_manifest.json").read_bytes())
    assert manifest["output"] == undisturbed["output"]
    assert read(out).column("request_id") == given.column("request_id")


def test_two_batches_into_one_folder_do_not_meet(platform: wiring.Platform, tmp_path: Path) -> None:
    from mlplatform.operations.tables import outputs

    path = write(tmp_path / "a.parquet", table(1_000))
    with outputs.opened(tmp_path / "out"), pytest.raises(Busy, match="another batch"):
        scored(platform, path, tmp_path / "out")


def test_a_folder_of_somebody_else_stays_as_it_was(
    platform: wiring.Platform, tmp_path: Path
) -> None:
    path, theirs = write(tmp_path / "a.parquet", table(1_000)), tmp_path / "theirs"
    kept = {"_drafts/thesis.txt": "mine", "_lock": "mine too", "data.txt": "and mine"}
    for name, content in kept.items():
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        (theirs / name).write_text(content)
    with pytest.raises(Refused, match=r"theirs holds _drafts, which no batch wrote"):
        scored(platform, path, theirs)
    found = {p.relative_to(theirs).as_posix(): p for p in theirs.rglob("*") if p.is_file()}
    assert {name: p.read_text() for name, p in found.items()} == kept
    with pytest.raises(ConfigInvalid, match=r"--output.*a folder that this user can write into"):
        scored(platform, path, theirs / "data.txt")


def test_the_platforms_home_is_no_place_of_a_table(
    platform: wiring.Platform, tmp_path: Path
) -> None:
    home = platform.settings.home
    path = write(tmp_path / "a.parquet", table(1_000))
    (tmp_path / "way").symlink_to(home.root)
    before = sorted(home.root.rglob("*"))
    for output in (home.secrets, home.root / "new", tmp_path / "way" / "new", home.bundles / "x"):
        with pytest.raises(ConfigInvalid, match=r"--output.*outside of the platform's home"):
            scored(platform, path, output)
    with pytest.raises(ConfigInvalid, match=r"--input.*outside of the platform's home"):
        scored(platform, next(home.root.rglob("*.parquet")), tmp_path / "out")
    assert sorted(home.root.rglob("*")) == before


@pytest.mark.parametrize("output", ["s3://bank/in", "s3://bank/in/out"])
def test_results_do_not_become_their_own_input(platform: wiring.Platform, output: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"--output.*outside of the input"):
        score_table(platform, TableBatch("fraud", "s3://bank/in", output), lambda one: None)


def test_no_output_is_made_in_the_folder_that_is_read(
    platform: wiring.Platform, tmp_path: Path
) -> None:
    source = write(tmp_path / "in" / "a.parquet", table(1_000)).parent
    for output in (source, source / "scores", source / "x" / "scores"):
        with pytest.raises(ConfigInvalid, match=r"--output.*outside of the input's"):
            scored(platform, source, output)
    assert [one.name for one in source.iterdir()] == ["a.parquet"]
    assert scored(platform, source, tmp_path / "scores")["output"]["rows"] == 1_000


def test_rows_of_a_file_that_changes_meanwhile_are_not_kept(
    platform: wiring.Platform, tmp_path: Path
) -> None:
    """The batch reads a file in pieces: what it read of another content may not count as done."""
    path, rows = tmp_path / "a.parquet", table(6 * BATCH_ROWS)

    def content_with(amount: float) -> bytes:
        amounts = pa.array(np.full(len(rows), amount))
        written = rows.set_column(4, "amount", amounts)
        pq.write_table(written, path, BATCH_ROWS, compression="none", use_dictionary=False)
        return path.read_bytes()

    changed, content = content_with(0.5), content_with(0.25)
    assert len(content) == len(changed)  # so that the rows that are read meanwhile are rows
    expected = scored(platform, path, tmp_path / "whole", BATCH_ROWS)

    def change(one: Partition) -> None:
        if one.number == 0:
            with path.open("r+b") as file:
                file.write(changed)

    asked = TableBatch("fraud", str(path), str(tmp_path / "out"), partition_rows=BATCH_ROWS)
    with pytest.raises(Refused, match="was changed while it was read"):
        score_table(platform, asked, change)
    path.write_bytes(content)
    again = scored(platform, path, tmp_path / "out", BATCH_ROWS)
    assert again["output"] == expected["output"]


def test_what_a_kill_left_half_written_is_nothing(
    platform: wiring.Platform, tmp_path: Path
) -> None:
    path, out = write(tmp_path / "a.parquet", table(2_500)), tmp_path / "out"
    out.mkdir()
    (out / "._plan.json.draft").write_bytes(b"{")
    manifest = scored(platform, path, out)
    for name in ("_manifest.json", "_done/part-00000-00001.json"):
        (out / name).unlink()
    for name in ("._done.part-00000-00001.json.draft", "_done/.part-00000-00001.json.x.draft"):
        (out / name).touch()
    assert scored(platform, path, out)["output"] == manifest["output"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_no_message_holds_a_customers_id(
    platform: wiring.Platform, tmp_path: Path, suffix: str
) -> None:
    rows = table(1_000).to_pylist()
    secret = "DE89370400440532013000" if suffix == "csv" else -8937040044
    rows[5]["customer_id"] = secret
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        with path.open("w") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        write(path, pa.Table.from_pylist(rows, table(1).schema))
    manifest = scored(platform, path, tmp_path / "out")
    assert manifest["output"]["errors"] == 1
    assert read(tmp_path / "out")["error"][5].as_py().startswith("customer_id")
    for file in (tmp_path / "out").rglob("*"):
        assert file.is_dir() or str(secret).encode() not in file.read_bytes()
