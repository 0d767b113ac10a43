"""Delta tables: a version's rows and no others are imported, or the import is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace
from tests.support.delta_tables import (
    actions_of,
    appended,
    commit_file,
    needs,
    renamed,
    rewrite,
    source_of,
    with_deleted,
    with_deleted_by,
)
from tests.support.external_world import BUREAU, Row, fraud_like, table, written
from tests.support.lake_world import FIRST, MORE, NOW_MS, LakeWorld, expected

from mlplatform.learning.features.external import compaction, delta_log, snapshot_rows
from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.compaction import compact
from mlplatform.learning.features.external.delta_log import log_files
from mlplatform.learning.features.external.delta_vectors import lies_outside
from mlplatform.learning.features.external.snapshot_rows import read_version
from mlplatform.learning.features.external.table_import import ImportReport, import_table
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.input_files import DELTA_LOG
from mlplatform.model.features.views import FeatureView
from mlplatform.operations.backup.snapshot import offline_files
from mlplatform.runtime.errors import Corrupt, InputInvalid
from mlplatform.runtime.units import DAY_S


def world_of(folder: Path, view: FeatureView = BUREAU, **field: Any) -> LakeWorld:
    return LakeWorld(folder, source_of, view, **field)


@pytest.fixture
def world(tmp_path: Path) -> LakeWorld:
    return world_of(tmp_path)


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


def test_an_import_reads_only_files_that_none_read_before(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    assert world.take() == ImportReport(rows=3, new=3, entities=3, resumed=0)
    appended(world.table, table(MORE))
    source = world.source()
    assert (source.snapshot.order, len(source.snapshot.files), len(source.files)) == (1, 2, 1)
    assert world.take() == ImportReport(rows=2, new=2, entities=2, resumed=0)
    assert world.take() == ImportReport(rows=0, new=0, entities=0, resumed=0)
    assert world.rows() == expected(FIRST + MORE)


def test_a_version_is_read_as_it_was_and_then_the_newest(world: LakeWorld) -> None:
    for rows in (FIRST, MORE, [(7, 0, 0, 1.0)]):
        appended(world.table, table(rows))
    assert world.take(version=1).rows == 5
    noted = read_version(world.columns, world.parts, str(world.table), "delta")
    assert noted is not None
    assert (noted.version, len(noted.files)) == (1, 2)
    assert world.rows() == expected(FIRST + MORE)
    assert world.take(version=0).rows == 0
    assert world.take() == ImportReport(rows=1, new=1, entities=1, resumed=0)
    assert world.take(version=0).rows == 0
    assert world.take().rows == 0


@pytest.mark.parametrize("declared", ["event_time", "available_time"])
def test_a_view_with_another_time_reads_every_file_again(world: LakeWorld, declared: str) -> None:
    assert BUREAU.external is not None
    known = {"event_time": [10, 5, DAY_S], "available_time": [100, 100, DAY_S + 100]}[declared]
    loaded = table([(1, 0, second, 1.0) for second in known])["known_at"]
    appended(world.table, table(FIRST).append_column("loaded", loaded))
    assert world.take().new == 3
    changed = replace(BUREAU.external, **{declared: "loaded"})
    other = world_of(world.folder, replace(BUREAU, external=changed))
    assert other.take().new == {"event_time": 1, "available_time": 3}[declared]
    assert other.take().rows == 0


def test_a_view_with_another_kind_of_key_reads_every_file_again(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    world.take()
    place = str(world.table)
    assert read_version(world.columns, world.parts, place, "delta") is not None
    other = ExternalColumns.of(BUREAU, fraud_like(), bytes(32), NOW_MS)
    assert read_version(other, world.parts, place, "delta") is None


def test_parts_of_another_moment_under_the_same_names_are_not_what_was_noted(
    world: LakeWorld,
) -> None:
    def take_plain(key: int) -> None:
        path = written(world.folder / "plain.parquet", table([(key, 0, 0, 1.0)]))
        source = source_of(world.columns, path, world.parts)
        with closing(FeastSqlite(world.folder / "online.db", "fraud", [BUREAU])) as online:
            import_table(world.columns, source, world.parts, online, lambda: NOW_MS)

    take_plain(100)
    appended(world.table, table(FIRST))
    assert world.take().new == 3
    part = world.parts.files()[-1]
    for file in (part, part.with_suffix(".json")):
        file.unlink()
    take_plain(101)
    assert world.parts.files()[-1] == part
    assert world.take().new == 3
    assert world.rows() == expected([*FIRST, (100, 0, 0, 1.0), (101, 0, 0, 1.0)])


def test_rows_that_were_merged_or_partly_erased_are_not_read_again(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MOST_SMALL", 2)
    monkeypatch.setattr(compaction, "READ_S", -DAY_S)
    for rows in (FIRST, MORE, [(7, 0, 0, 1.0)]):
        appended(world.table, table(rows))
        world.take()
        compact(BUREAU, world.parts, horizon_ms=None)
    compact(BUREAU, world.parts, horizon_ms=None)
    (part,) = world.parts.every()
    left = pq.read_table(part)
    pq.write_table(left.slice(1), part)  # as an erasure does
    assert world.take().rows == 0


def test_an_import_that_lost_its_rows_meanwhile_notes_nothing(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    world.take()
    source = world.source()
    assert source.files == ()
    for part in world.parts.files():
        part.unlink()
    source.note_read(world.columns, world.parts)
    assert world.take().new == 3


def test_rows_that_were_deleted_or_overwritten_before_are_not_read(world: LakeWorld) -> None:
    appended(world.table, table([(8, 0, 0, 1.0)]))
    appended(world.table, table(FIRST), mode="overwrite")
    deltalake.DeltaTable(str(world.table)).delete("customer_id = 2")
    assert world.take().rows == 2
    assert world.rows() == expected([FIRST[0], FIRST[2]])


def test_rows_that_are_deleted_or_compacted_later_change_nothing(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    appended(world.table, table(MORE))
    world.take()
    found = deltalake.DeltaTable(str(world.table))
    found.delete("customer_id = 2")
    found.optimize.compact()
    found.vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert len(files_of(world.table)) == 1
    assert world.take() == ImportReport(rows=4, new=0, entities=0, resumed=0)
    assert world.rows() == expected(FIRST + MORE)


def test_a_row_that_was_changed_without_a_later_availability_is_refused(
    world: LakeWorld,
) -> None:
    appended(world.table, table(FIRST))
    world.take()
    deltalake.DeltaTable(str(world.table)).update(
        {"bureau_score": "7.0"}, predicate="customer_id = 1"
    )
    with pytest.raises(InputInvalid, match=r"bureau/part-.*other values than a row that is there"):
        world.take()
    assert world.rows() == expected(FIRST)


def test_a_table_that_was_made_anew_is_read_whole(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    world.take()
    shutil.rmtree(world.table)
    appended(world.table, table(FIRST + MORE))
    assert world.take() == ImportReport(rows=5, new=2, entities=2, resumed=0)


def test_a_view_that_lost_its_parts_is_given_all_rows_again(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    world.take()
    for part in world.parts.files():
        part.unlink()
    assert world.take().new == 3
    (note,) = world.parts.folder.glob("delta-*")
    held = offline_files(world.folder)  # of a backup, which might have parts of another moment
    assert any(name.endswith(".parquet") for name in held)
    assert not any(note.name in name for name in held)
    note.write_text("{")
    with pytest.raises(Corrupt, match="remove it, and the next import reads all of the table"):
        world.take()


@pytest.mark.parametrize("by", [("bureau_score", "is_listed"), ("as_of",), ("day",)])
def test_partition_columns_are_columns(world: LakeWorld, by: tuple[str, ...]) -> None:
    day = pa.array(["of a / day", "%2F", None])
    appended(world.table, table(FIRST).append_column("day", day), by=by)
    assert world.source().unread(world.columns) == ["day"]
    assert world.take().rows == 3
    assert world.rows() == expected(FIRST)


def test_names_of_files_that_hold_pseudonymous_keys_are_in_no_message(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    world.columns = ExternalColumns.of(BUREAU, fraud_like(), bytes(32), NOW_MS)
    appended(world.table, table(FIRST), by=("customer_id",))
    with pytest.raises(InputInvalid, match="it is partitioned by customer_id") as refused:
        world.take()
    assert "customer_id=" not in str(refused.value)


def test_a_column_that_the_table_was_given_later_is_null_in_older_files(
    world: LakeWorld,
) -> None:
    appended(world.table, table(FIRST).drop_columns("is_listed"))
    with pytest.raises(InputInvalid, match=r"at version 0.*there is no column is_listed"):
        world.take()
    appended(world.table, table(MORE), schema_mode="merge")
    world.take()
    without = [(*row[:5], None) for row in expected(FIRST)]
    assert world.rows() == sorted([*without, *expected(MORE)], key=repr)


def test_a_feature_that_the_view_was_given_later_is_read_from_later_files(tmp_path: Path) -> None:
    world = world_of(tmp_path, replace(BUREAU, fields=BUREAU.fields[:1]))
    appended(world.table, table(FIRST))
    world.take()
    world = world_of(tmp_path)
    (tmp_path / "online.db").unlink()
    appended(world.table, table(MORE))
    assert world.take() == ImportReport(rows=2, new=2, entities=2, resumed=1)


def test_columns_that_were_renamed_are_found_by_their_names_in_the_files(
    world: LakeWorld,
) -> None:
    appended(world.table, table(FIRST).rename_columns({"as_of": "col-7"}), by=("is_listed",))
    rewrite(world.table, 0, renamed({"col-7": "as_of"}))
    world.take()
    assert world.rows() == expected(FIRST)


def test_rows_that_a_vector_deletes_are_not_read_and_are_once_it_is_gone(
    world: LakeWorld,
) -> None:
    appended(world.table, table(FIRST), configuration={"delta.enableDeletionVectors": "true"})
    rewrite(world.table, 0, needs("deletionVectors"))
    whole = commit_file(world.table, 0).read_text()
    rewrite(world.table, 0, with_deleted([0, 2]))
    assert world.take().rows == 1
    assert world.rows() == expected(FIRST[1:2])
    assert world.take().rows == 0
    commit_file(world.table, 0).write_text(whole)
    assert world.take() == ImportReport(rows=3, new=2, entities=2, resumed=0)
    assert world.rows() == expected(FIRST)


def deleted_by(world: LakeWorld, vector: Path) -> None:
    appended(world.table, table(FIRST))
    rewrite(world.table, 0, needs("deletionVectors"))
    rewrite(world.table, 0, with_deleted_by(vector, [0]))


@pytest.mark.parametrize("in_checkpoint", [False, True])
def test_a_vector_in_another_folder_is_refused_and_one_in_the_tables_is_read(
    world: LakeWorld, in_checkpoint: bool
) -> None:
    deleted_by(world, world.folder / "outside.bin")
    if in_checkpoint:
        deltalake.DeltaTable(str(world.table)).create_checkpoint()
        commit_file(world.table, 0).unlink()
    with pytest.raises(InputInvalid, match=r"vector file:///.*outside\.bin lies outside"):
        world.take()
    shutil.rmtree(world.table)
    world.table.mkdir()
    deleted_by(world, world.table / "vector one.bin")
    if in_checkpoint:
        deltalake.DeltaTable(str(world.table)).create_checkpoint()
    with pytest.raises(InputInvalid, match="an absolute path in a bucket"):
        delta_log.snapshot(world.table, None, "s3://bank/bureau", is_copy=True)
    assert world.take().rows == 2
    assert world.rows() == expected(FIRST[1:])


@pytest.mark.parametrize(
    ("kind", "path", "outside"),
    [
        ("i", "file:///etc/x", False),
        ("p", "file:///lake/t/v.bin", False),
        ("p", "file:///lake/t/a%20b/../v.bin", False),
        ("p", "file:///lake/t/../v.bin", True),
        ("p", "file:///lake/t/%2e%2e/v.bin", True),
        ("p", "file:///lake/tt/v.bin", True),
        ("p", "file://elsewhere/lake/t/v.bin", True),
        ("p", "s3://lake/t/v.bin", True),
        ("p", "/etc/v.bin", True),
        ("p", "v.bin", True),
        ("u", "ab^-aqEH.-t@S}K{vb[*k^", False),
        ("u", "../^-aqEH.-t@S}K{vb[*k^", True),
        ("u", "%2e%2e/x^-aqEH.-t@S}K{vb[*k^", True),
        ("u", "file:///x^-aqEH.-t@S}K{vb[*k^", True),
    ],
)
def test_a_vectors_place_is_told_by_its_kind_and_path(kind: str, path: str, outside: bool) -> None:
    assert lies_outside(kind, path, ["/lake/t"]) == outside


def test_vectors_of_a_table_that_does_not_declare_them_are_refused(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    rewrite(world.table, 0, with_deleted([0]))
    for _ in ("of a commit", "of a checkpoint"):
        with pytest.raises(InputInvalid, match="its protocol lacks deletionVectors"):
            world.take()
        deltalake.DeltaTable(str(world.table)).create_checkpoint()
    assert world.rows() == []


def test_a_refused_row_has_its_number_in_a_file_of_which_rows_are_deleted(
    world: LakeWorld,
) -> None:
    wrong: list[Row] = [*FIRST[:2], (3, 5, 0, 1.0)]
    appended(world.table, table(wrong))
    rewrite(world.table, 0, needs("deletionVectors"))
    rewrite(world.table, 0, with_deleted([0]))
    with pytest.raises(InputInvalid, match="row 2, counted from 0: as_of is after known_at"):
        world.take()
    rewrite(world.table, 0, with_deleted([0, 2]))
    assert world.take().rows == 1
    appended(world.table, table([(8, 0, 0, 1.0), (9, 0, 0, 1.0), (2, 5, 5, 7.0)]))
    rewrite(world.table, 1, with_deleted([1]))
    with pytest.raises(
        InputInvalid, match="row 2, counted from 0: it has other values than a row that is there"
    ):
        world.take()


def test_a_vector_deletes_rows_beyond_the_first_batch(world: LakeWorld) -> None:
    count = 70_000
    appended(world.table, table([(key, 0, 0, 1.0) for key in range(count)]))
    rewrite(world.table, 0, needs("deletionVectors"))
    rewrite(world.table, 0, with_deleted([3, 65_535]))
    assert world.take().rows == count - 2
    assert not {3, 65_535} & {row[0] for row in world.rows()}


def test_a_table_of_more_files_than_are_opened_at_a_time(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_rows, "OPEN_FILES", 2)
    for key in range(5):
        appended(world.table, table([(key, 0, 0, 1.0)]))
    assert world.take().rows == 5
    monkeypatch.setattr(delta_log, "MOST_TABLE_FILES", 4)
    with pytest.raises(InputInvalid, match=r"5 files in version 4; the limit is 4.*OPTIMIZE"):
        world.take()


def test_a_version_stays_as_it_was_while_writers_go_on(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    source = world.source()
    appended(world.table, table(MORE))
    deltalake.DeltaTable(str(world.table)).delete(predicate="customer_id = 1")
    found = [row for batch in source.rows(world.columns) for row in batch.rows.to_pylist()]
    assert sorted(row["customer_id"] for row in found) == [1, 2, 3]


def test_a_checkpoint_stands_for_the_commits_before_it(world: LakeWorld) -> None:
    for rows in (FIRST, MORE):
        appended(world.table, table(rows))
    deltalake.DeltaTable(str(world.table)).create_checkpoint()
    appended(world.table, table([(7, 0, 0, 1.0)]))
    for version in (0, 1):
        commit_file(world.table, version).unlink()
    assert world.take().rows == 6
    with pytest.raises(InputInvalid, match="no version 0: the oldest is 1, the newest is 2"):
        world.take(version=0)


@pytest.mark.parametrize("has_sidecar", [False, True])
def test_a_checkpoint_of_the_second_kind_is_read(world: LakeWorld, has_sidecar: bool) -> None:
    for rows in (FIRST, MORE):
        appended(world.table, table(rows))
    rewrite(world.table, 0, needs("v2Checkpoint"))
    log = world.table / DELTA_LOG
    lines = [line for version in (0, 1) for line in actions_of(world.table, version)]
    kept = [line for line in lines if {"protocol", "metaData", "add"} & set(line)]
    if has_sidecar:
        deltalake.DeltaTable(str(world.table)).create_checkpoint()
        (classic,) = log.glob("*.checkpoint.parquet")
        (log / "_sidecars").mkdir()
        adds = pq.read_table(classic, columns=["add"])
        pq.write_table(adds.filter(pc.is_valid(adds["add"])), log / "_sidecars" / "s.parquet")
        size = (log / "_sidecars" / "s.parquet").stat().st_size
        sidecar = {"path": "s.parquet", "sizeInBytes": size, "modificationTime": 1}
        kept = [*(line for line in kept if "add" not in line), {"sidecar": sidecar}]
        classic.unlink()
        (log / "_last_checkpoint").unlink()
    checkpoint = log / f"{1:020d}.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json"
    told = [{"checkpointMetadata": {"version": 1}}, *kept]
    checkpoint.write_text("\n".join(map(json.dumps, told)))
    for version in (0, 1):
        commit_file(world.table, version).unlink()
    assert world.take().rows == 5
    assert world.rows() == expected(FIRST + MORE)


def test_a_column_whose_type_was_widened_is_read_from_old_files(world: LakeWorld) -> None:
    small = table(FIRST)["open_loans"].cast(pa.int16())
    appended(world.table, table(FIRST, open_loans=small))
    rewrite(world.table, 0, needs("typeWidening"))

    def widened(action: dict[str, Any]) -> None:
        if "metaData" in action:
            text = action["metaData"]["schemaString"]
            action["metaData"]["schemaString"] = text.replace('"short"', '"long"')

    rewrite(world.table, 0, widened)
    assert world.source().snapshot.types["open_loans"] == "int64"
    world.take()
    assert world.rows() == expected(FIRST)


def gone(folder: Path) -> None:
    files_of(folder)[0].unlink()


def cut_file(folder: Path) -> None:
    file = files_of(folder)[0]
    file.write_bytes(file.read_bytes()[:-1])


def other_file(folder: Path) -> None:
    file = files_of(folder)[0]
    file.write_bytes(bytes(file.stat().st_size))


def cut_commit(folder: Path) -> None:
    file = commit_file(folder, 1)
    file.write_bytes(file.read_bytes()[:-20])


def cut_checkpoint(folder: Path) -> None:
    deltalake.DeltaTable(str(folder)).create_checkpoint()
    (file,) = (folder / DELTA_LOG).glob("*.checkpoint.parquet")
    file.write_bytes(file.read_bytes()[:-20])


def outside(path: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        def moved(action: dict[str, Any]) -> None:
            if "add" in action:
                action["add"]["path"] = path

        rewrite(folder, 0, moved)

    return change


def needed(*features: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, 0, needs(*features))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file is gone": (gone, "part-.* is gone: VACUUM"),
    "a file is cut": (cut_file, r"part-.* has \d+ bytes; its log says"),
    "a file is another": (other_file, "no readable Parquet"),
    "a commit is cut": (cut_commit, "its log .* is not readable"),
    "a commit is empty": (lambda f: commit_file(f, 1).write_bytes(b"") and None, "is empty"),
    "a commit is blank": (lambda f: commit_file(f, 1).write_bytes(b" \n\t\n") and None, "is empty"),
    "a commit is gone": (lambda f: commit_file(f, 1).unlink(), "not readable.*gap"),
    "the first commit is gone": (lambda f: commit_file(f, 0).unlink(), "is not readable"),
    "a checkpoint is cut": (cut_checkpoint, "is not readable"),
    "a file of another folder": (outside("../other/part-0.parquet"), "outside of its folder"),
    "a file of a clone": (outside("file:///other/part-0.parquet"), "a shallow clone"),
    "a file of too long a name": (outside("x" * 256), "x{200} has too long a name.* 255 bytes"),
    "a file of too long a path": (outside("x" * 200 + "/" + "y/" * 500), "too long a name.*1024"),
    "a feature that the library lacks": (needed("strange"), "not readable.*'strange'"),
    "a feature that is not read here": (needed("variantType"), "it needs variantType"),
    "columns by their ids": (
        lambda folder: rewrite(folder, 0, renamed({}, mode="id")),
        "columnMapping.mode is id; wanted: name or none",
    ),
    "a column of another type": (
        lambda folder: appended(
            folder, table(FIRST, known_at=pa.array(["soon"] * 3)),
            mode="overwrite", schema_mode="overwrite",
        ) and None,
        "bureau at version 3, column known_at is string|column known_at is string",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_what_is_damaged_or_not_read_here_is_named_and_nothing_is_taken_in(
    world: LakeWorld, case: str
) -> None:
    damage, problem = DAMAGES[case]
    for rows in (FIRST, MORE, [(7, 0, 0, 1.0)]):
        appended(world.table, table(rows))
    damage(world.table)
    with pytest.raises(InputInvalid, match=problem) as refused:
        world.take()
    assert re.search("bureau|part-", str(refused.value))
    assert len(str(refused.value)) < 1_000
    assert world.rows() == []
    assert not list(world.parts.folder.glob("delta-*"))


def test_a_version_that_is_not_there_and_an_empty_table_are_refused(world: LakeWorld) -> None:
    appended(world.table, table([]))
    with pytest.raises(InputInvalid, match=r"at version 0.*there is no row in it"):
        world.take()
    with pytest.raises(InputInvalid, match=r"no version 9.*the newest is 0.*--version"):
        world.take(version=9)
    for far in (2**62, 2**63, 10**30):  # the library would look for each number in between
        with pytest.raises(InputInvalid, match=f"no version {far}"):
            world.take(version=far)


def test_a_file_of_another_case_of_letters_is_the_tables_column(world: LakeWorld) -> None:
    """Spark tells no case of letters apart, and writes a file as a query spells its columns."""
    appended(world.table, table(FIRST))
    (file,) = files_of(world.table)
    written(file, table(FIRST).rename_columns({"bureau_score": "Bureau_Score"}))

    def sized(action: dict[str, Any]) -> None:
        if "add" in action:
            action["add"]["size"] = file.stat().st_size

    rewrite(world.table, 0, sized)
    world.take()
    assert world.rows() == expected(FIRST)


N = "{:020d}.json".format
C = "{:020d}.checkpoint.parquet".format


@pytest.mark.parametrize(
    ("names", "version", "wanted"),
    [
        ([N(0), N(1), N(2)], None, [N(0), N(1), N(2)]),
        ([N(0), N(1), N(2)], 1, [N(0), N(1)]),
        ([N(0), N(1), C(1), N(2), "_last_checkpoint"], None, [C(1), N(1), N(2)]),
        ([N(0), N(1), C(1), N(2)], 0, [N(0)]),
        ([C(1), C(3), N(3), N(4), N(5)], 4, [C(3), N(3), N(4)]),
        (
            [N(2), *(f"{2:020d}.checkpoint.{n:010d}.{2:010d}.parquet" for n in (1, 2)), N(3)],
            None,
            [*(f"{2:020d}.checkpoint.{n:010d}.{2:010d}.parquet" for n in (1, 2)), N(2), N(3)],
        ),
        ([C(1), N(2), f"{2:020d}.checkpoint.{1:010d}.{2:010d}.parquet"], None, [C(1), N(2)]),
        (
            [N(1), f"{1:020d}.checkpoint.80a083e8.json", "_sidecars/3.parquet", N(2)],
            None,
            [f"{1:020d}.checkpoint.80a083e8.json", N(1), N(2), "_sidecars/3.parquet"],
        ),
        ([], None, []),
    ],
)
def test_a_versions_log_is_its_last_checkpoint_and_the_commits_after_it(
    names: list[str], version: int | None, wanted: list[str]
) -> None:
    assert log_files(names, version) == sorted(wanted)
