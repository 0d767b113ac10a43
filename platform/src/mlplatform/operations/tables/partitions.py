"""Execution of a batch's remaining partitions: read, score and store one after the other.

Three steps overlap, each in a thread of its own: rows are read and made inputs of, a model scores
and explains them, and results are written. Each holds one partition, so that memory is that of
a few of them, however large the input is.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import pyarrow.parquet as pq

from mlplatform.model.definition import ModelDefinition
from mlplatform.operations.tables.conversion import Conversion
from mlplatform.operations.tables.input_files import RowBlock, TableFiles
from mlplatform.operations.tables.outputs import DONE, MANIFEST, PLAN, Results
from mlplatform.operations.tables.plan import (
    Partition,
    Plan,
    difference,
    first_unfinished,
    partition_name,
)
from mlplatform.operations.tables.request_rows import Requests, requests_of
from mlplatform.operations.tables.row_decisions import REPEATED, BlockDecisions, RowDecisions
from mlplatform.operations.tables.row_features import Inputs, RowFeatures
from mlplatform.operations.tables.sources import Source
from mlplatform.runtime.canonical import NOT_JSON, canonical_json
from mlplatform.runtime.errors import Corrupt, InputInvalid, Refused

_POLL_S: Final = 0.2
_Item = TypeVar("_Item")
Report = Callable[[Partition], None]


@dataclass(frozen=True, slots=True)
class Work:
    """Everything needed to score the rows of a plan."""

    plan: Plan
    definition: ModelDefinition
    features: RowFeatures
    decisions: RowDecisions
    key: bytes
    conversion: Conversion | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _BlockInputs:
    file: int
    block: RowBlock
    requests: Requests
    inputs: Inputs


def stored_plan(results: Results, where: str) -> Plan | None:
    """The plan stored in an output; None if the output has no plan yet.

    Raises:
        Corrupt: the plan can't be read.
    """
    if PLAN not in results.sizes():
        return None
    return _decoded(results.read(PLAN), Plan, f"{where}: {PLAN}")


def agreed(there: Plan | None, plan: Plan, results: Results, where: str) -> Plan:
    """The plan to carry out: the stored one if it is for the same work.

    A stored plan of which nothing is done yet is replaced, so that a wrong --map can be corrected.

    Raises:
        Refused: the output belongs to other work.
    """
    if there is None or not any(name.startswith(f"{DONE}/") for name in results.sizes()):
        results.write(PLAN, canonical_json(msgspec.to_builtins(plan)))
        return plan
    if other := difference(there, plan):
        raise Refused(
            f"{where} is the output of {other}; name another --output, or remove this one to score"
            " everything anew"
        )
    return there


def finished_partitions(results: Results, plan: Plan) -> dict[tuple[int, int], Partition]:
    """File and number → finished partition, if its file is unchanged."""
    sizes = results.sizes()
    found = {}
    for name in sorted(sizes):
        if not name.startswith(f"{DONE}/"):
            continue
        one = _decoded(results.read(name), Partition, name)
        is_whole = sizes.get(one.name) == one.size_bytes and one.file < len(plan.files)
        if is_whole and results.sha256(one.name) in (None, one.sha256):
            found[one.file, one.number] = one
    return found


def carry_out(work: Work, source: Source, results: Results, report: Report) -> list[Partition]:
    """Score the remaining partitions; returns all partitions, including those of earlier runs.

    Raises:
        InputInvalid: a file is damaged, or not one row of the first partition is a request.
        Refused: the input was changed meanwhile.
        Unavailable: a store did not answer. Finished partitions stay, whatever error is raised.
    """
    done = finished_partitions(results, work.plan)
    for one in done.values():
        report(one)
    prepared = _ahead(_prepared(work, source, done))
    with ThreadPoolExecutor(1, "results") as writer:
        writing: Future[Partition] | None = None
        try:
            for block in prepared:
                scored = work.decisions.scored(block.inputs)
                if writing is not None:
                    _note(writing.result(), done, report)
                writing = writer.submit(_keep, work, results, block, scored)
            if writing is not None:
                _note(writing.result(), done, report)
        finally:
            prepared.close()
    return list(done.values())


def finish(results: Results, content: Mapping[str, object]) -> None:
    """Write the manifest, the last file, which says that the output is complete."""
    results.write(MANIFEST, canonical_json(content))


def _note(one: Partition, done: dict[tuple[int, int], Partition], report: Report) -> None:
    done[one.file, one.number] = one
    report(one)


def _prepared(
    work: Work, source: Source, done: Mapping[tuple[int, int], Partition]
) -> Generator[_BlockInputs]:
    plan = work.plan
    finished = dict(done)  # other threads change `done`
    rows, conversion = plan.partition_rows, work.conversion
    with TableFiles(work.definition, plan.columns, rows=rows, conversion=conversion) as files:
        for file, described in enumerate(plan.files):
            first = first_unfinished(finished, file)
            if first is None:
                continue
            with source.local_file(file) as path:
                for block in files.blocks(path, described.name, first, source.later(file)):
                    source.check(file)  # else rows of a changed file would be kept as done
                    if (file, block.number) not in finished:
                        yield _inputs(work, file, block)


def _inputs(work: Work, file: int, block: RowBlock) -> _BlockInputs:
    plan = work.plan
    requests = requests_of(
        block.rows, block.unread, work.definition, as_of_ms=plan.as_of_ms, key=work.key
    )
    if (file, block.number) == (0, 0) and block.rows.num_rows and not len(requests.good):
        row = min(requests.problems)
        problem = f"{requests.problems[row]}. None of the first {len(requests.problems)} rows"
        raise InputInvalid(plan.files[0].name, row, f"{problem} is valid: nothing was scored")
    return _BlockInputs(file, block, requests, work.features.inputs(requests.table))


def _keep(work: Work, results: Results, one: _BlockInputs, scored: BlockDecisions) -> Partition:
    """Store a partition's results, then the note that says so."""
    block, requests = one.block, one.requests
    table, tally = work.decisions.results(
        scored, requests.ids, requests.good, requests.problems, block.first_row
    )
    name = partition_name(one.file, block.number)
    draft = results.drafts / name
    facts = {
        "input": work.plan.files[one.file].name,
        "version": str(work.plan.version),
        "bundle": work.plan.bundle,
    }
    dictionary: Any = list(REPEATED)  # the stubs allow only booleans
    pq.write_table(table.replace_schema_metadata(facts), draft, use_dictionary=dictionary)
    with draft.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    partition = Partition(
        file=one.file,
        number=block.number,
        rows=table.num_rows,
        is_last=block.is_last,
        sha256=sha256,
        size_bytes=draft.stat().st_size,
        decisions=dict(tally.decisions),
        answered_by=dict(tally.answered_by),
        errors=tally.errors,
        first_errors=tally.first_errors,
        without_features=dict(tally.without_features),
    )
    results.put(name, draft)
    content = canonical_json(msgspec.to_builtins(partition))
    results.write(f"{DONE}/{name.removesuffix('.parquet')}.json", content)
    return partition


def _ahead(items: Generator[_Item]) -> Generator[_Item]:
    """Yield the same items; a thread makes the next item while one is in use.

    Close the generator: after that its thread has ended, and the items' own clean-up has run.
    """
    waiting: queue.Queue[tuple[_Item | None, BaseException | None]] = queue.Queue(1)
    stopped = threading.Event()

    def put(found: tuple[_Item | None, BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                waiting.put(found, timeout=_POLL_S)
            except queue.Full:
                continue
            return

    def make() -> None:
        failure: BaseException | None = None
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    break
        except BaseException as error:  # noqa: BLE001  it is raised where items are taken
            failure = error
        finally:
            items.close()
        put((None, failure))

    thread = threading.Thread(target=make, name="rows")
    thread.start()
    try:
        while True:
            item, failure = waiting.get()
            if failure is not None:
                raise failure
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        thread.join()


def _decoded(content: bytes, kind: type[_Item], where: str) -> _Item:
    try:
        return msgspec.json.decode(content, type=kind)
    except NOT_JSON as error:
        raise Corrupt(f"{where} is not what a batch wrote: {error}") from error
