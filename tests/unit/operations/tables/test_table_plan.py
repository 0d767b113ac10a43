"""What a batch over a table has done and what is left: plan, resume, and where things lie."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.operations.tables.locations import ObjectPrefix, Table, input_of, output_of
from mlplatform.operations.tables.plan import (
    FORMAT,
    InputFile,
    Partition,
    Plan,
    difference,
    first_unfinished,
    is_complete,
    totals,
)
from mlplatform.runtime.errors import ConfigInvalid

FILES = tuple(InputFile(name=n, identity=f"sha256:{n}", size_bytes=1) for n in ("a", "b"))
PLAN = Plan(
    format=FORMAT,
    model="fraud",
    version=3,
    bundle="ab" * 32,
    rules="cd" * 32,
    files=FILES,
    columns={"amount": "AMT"},
    as_of_ms=7,
    partition_rows=1000,
)


def partition(file: int, number: int, *, is_last: bool = False) -> Partition:
    return Partition(
        file=file,
        number=number,
        rows=10,
        is_last=is_last,
        sha256=f"{file}.{number}",
        size_bytes=5,
        decisions={"approve": 9},
        answered_by={"model": 9},
        errors=1,
    )


def everything(counts: tuple[int, ...]) -> list[Partition]:
    return [
        partition(file, number, is_last=number == count - 1)
        for file, count in enumerate(counts)
        for number in range(count)
    ]


@given(st.tuples(st.integers(1, 4), st.integers(1, 4)), st.data())
def test_a_batch_goes_on_with_the_first_partition_that_is_not_done(
    counts: tuple[int, int], data: st.DataObject
) -> None:
    all_of_them = everything(counts)
    kept = data.draw(st.lists(st.sampled_from(all_of_them), unique_by=lambda p: p.name))
    done = {(p.file, p.number): p for p in kept}
    for file, count in enumerate(counts):
        missing = [n for n in range(count) if (file, n) not in done]
        assert first_unfinished(done, file) == (missing[0] if missing else None)
    assert is_complete(PLAN, done) == (len(done) == sum(counts))


@given(st.permutations(everything((2, 3))))
def test_totals_and_digest_do_not_depend_on_which_partition_was_done_first(
    partitions: list[Partition],
) -> None:
    found = totals(PLAN, partitions)
    assert found == totals(PLAN, everything((2, 3)))
    assert (found.rows, found.errors, found.decisions) == (50, 5, {"approve": 45})


def test_a_digest_tells_any_two_outputs_apart() -> None:
    every = everything((2, 2))
    others = [every[:3], [msgspec.structs.replace(every[0], sha256="x"), *every[1:]]]
    digests = [totals(PLAN, one).digest for one in (every, *others)]
    assert len(set(digests)) == 3


def changed(**changes: Any) -> Plan:
    return msgspec.structs.replace(PLAN, **changes)


OTHER = InputFile(name="b", identity="sha256:other", size_bytes=1)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (changed(files=(FILES[0], OTHER)), "b with other content"),
        (changed(files=FILES[:1]), "an input with b, which is not in it any more"),
        (changed(files=(*FILES, InputFile(name="c", identity="", size_bytes=0))), "without c"),
        (changed(version=4), "version 3 "),
        (
            changed(rules="other"),
            "model.yaml, features.json and what sources.py makes of tables as",
        ),
        (changed(partition_rows=2000), "partitions of 1000 rows, not 2000"),
        (changed(columns={}), "columns amount=AMT, not as named"),
    ],
)
def test_other_work_is_told_by_what_differs(asked: Plan, told: str) -> None:
    found = difference(PLAN, asked)
    assert found is not None
    assert told in found


def test_the_same_work_at_a_later_time_goes_on() -> None:
    assert difference(PLAN, changed(as_of_ms=8)) is None


def test_an_output_that_an_earlier_release_began_is_told_as_that() -> None:
    plain = msgspec.to_builtins(PLAN)
    del plain["rules"]
    found = difference(msgspec.convert(plain, Plan), PLAN)
    assert found is not None
    assert "earlier release" in found


def test_inputs_are_told_apart_by_how_they_are_written(tmp_path: Path) -> None:
    found = input_of("postgresql://me@db:6432/bank?sslmode=disable&table=credit.clients")
    assert isinstance(found, Table)
    assert (found.name, found.address.port, found.address.tls) == ("credit.clients", 6432, False)
    assert input_of("s3://bucket/a/b/") == ObjectPrefix("s3://bucket/a/b")
    assert input_of(str(tmp_path)) == tmp_path == output_of(str(tmp_path))


WRONG = (
    "postgresql://me@db/bank",
    "postgresql://me@db/bank?table=a;drop",
    "http://bucket/a",
    "s3://",
    "s3://bucket/a/../b",
    "s3://[bucket/a",
    "postgresql://[me@db/bank?table=t",
    "",
)


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="--input"):
        input_of(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("s3://x/y", "the bucket of 3 to 63 lower-case letters, digits, dots and hyphens"),
        ("postgresql://db/bank?table=t", "wanted: a user, as in postgresql://user@host:port"),
        ("postgresql://me@db?table=t", "wanted: a database, as in postgresql://user@host:port"),
    ],
)
def test_what_a_place_lacks_is_told(text: str, wanted: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        input_of(text)
    assert wanted in str(refused.value)


def test_a_password_is_refused_and_not_repeated() -> None:
    urls = (
        "postgresql://me:hunter2@db/bank?table=t",
        "s3://key:hunter2@bucket/a",
        "x://a:hunter2@b",
    )
    for url, place in itertools.product(urls, (input_of, output_of)):
        with pytest.raises(ConfigInvalid) as refused:
            place(url)
        assert "hunter2" not in str(refused.value)
