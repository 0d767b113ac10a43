"""Where the vectors lie that say which rows of a Delta table are deleted, by its log.

deltalake reads a vector wherever the log says it is, so its place is checked before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec
import pyarrow as pa

from mlplatform.learning.features import parquet_work
from mlplatform.learning.features.input_files import PARQUET, open_files
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.sandbox.limits import ProcessLimits
from mlplatform.runtime.sandbox.process import Sandbox, WorkRefused
from mlplatform.runtime.sandbox.protocol import Frame
from mlplatform.runtime.units import GIB

LIMITS: Final = ProcessLimits(memory_bytes=GIB, cpu_s=600)
FILE_CPU_S: Final = 60.0
"""Processor time for one file of a checkpoint."""
OPEN_FILES: Final = 200
REPLY_BYTES: Final = 4096
_ID_CHARACTERS: Final = 20
"""Characters of an id at the end of a vector's path that is relative to the table."""
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]*")
_ROWS: Final = 8192
_COLUMNS: Final = ("add.deletionVector.storageType", "add.deletionVector.pathOrInlineDv")


class _Vector(msgspec.Struct):
    kind: str = msgspec.field(name="storageType")
    path: str = msgspec.field(name="pathOrInlineDv")


class _Add(msgspec.Struct):
    path: str
    vector: _Vector | None = msgspec.field(name="deletionVector", default=None)


class _Remove(msgspec.Struct):
    path: str


class _Action(msgspec.Struct):
    add: _Add | None = None
    remove: _Remove | None = None


def lies_outside(kind: str, path: str, folders: Sequence[str]) -> bool:
    """Whether a vector lies in none of these folders.

    Args:
        kind: "i" for a vector in the log itself, "u" for one whose path is relative to the table,
            "p" for an absolute one.
        path: for "u", the name of a folder, or nothing, and an id.
        folders: the table's, with no link in them; none where only the table's own may count.

    Source: the Delta protocol, "Deletion Vectors".
    """
    if kind == "u":
        return _PREFIX.fullmatch(path[:-_ID_CHARACTERS]) is None
    if kind != "p":
        return False
    found = urlsplit(path)
    place = os.path.normpath(unquote(found.path))
    is_local = found.scheme in ("", "file") and found.netloc in ("", "localhost")
    return not (is_local and any(place.startswith(f"{folder}/") for folder in folders))


def vector_outside(logs: Sequence[Path], folders: Sequence[str] | None) -> str | None:
    """The path of a vector that lies in none of these folders; None if there is no such vector.

    Args:
        logs: commits and checkpoints, oldest first.
        folders: as `lies_outside` takes them; None if every vector is wanted.

    Raises:
        InputInvalid: a file is no log; the message names it.
    """
    for vector in _in_lines([path for path in logs if path.suffix != PARQUET]):
        if _is_wanted(vector.kind, vector.path, folders):
            return vector.path
    checkpoints = [path for path in logs if path.suffix == PARQUET]
    for start in range(0, len(checkpoints), OPEN_FILES):
        found = _in_checkpoints(checkpoints[start : start + OPEN_FILES], folders)
        if found is not None:
            return found
    return None


def _is_wanted(kind: str, path: str, folders: Sequence[str] | None) -> bool:
    return folders is None or lies_outside(kind, path, folders)


def _in_lines(paths: Sequence[Path]) -> list[_Vector]:
    """Vectors of the files that these commits leave in the table."""
    found: dict[str, _Vector | None] = {}
    decoder = msgspec.json.Decoder(_Action)
    for path in paths:
        adds: dict[str, _Vector | None] = {}
        with path.open("rb") as file:
            for number, line in enumerate(file):
                try:
                    action = decoder.decode(line) if line.strip() else _Action()
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    problem = f"not an action of a Delta log: {error}; restore it from a backup"
                    raise InputInvalid(path.name, number, problem) from error
                if action.remove is not None:
                    found.pop(action.remove.path, None)
                if action.add is not None:
                    adds[action.add.path] = action.add.vector
        found |= adds  # a commit that deletes rows removes a file and adds it, in any order
    return [vector for vector in found.values() if vector is not None]


def _in_checkpoints(paths: Sequence[Path], folders: Sequence[str] | None) -> str | None:
    with ExitStack() as until:
        sandbox = Sandbox(prepare, LIMITS, open_files(paths, until))
        until.callback(sandbox.close)
        for number, path in enumerate(paths):
            asked = {"file": number, "folders": None if folders is None else list(folders)}
            try:
                reply = sandbox.ask(asked, cpu_s=FILE_CPU_S, reply_bytes=REPLY_BYTES)
            except WorkRefused as error:
                raise InputInvalid(path.name, None, str(error)) from None
            if (found := reply.body.get("outside")) is not None:
                return str(found)
    return None


def prepare(files: Sequence[int]) -> Callable[[Frame], Frame]:
    """The function of the confined process that reads these open checkpoints."""
    parquet_work.prepare([])
    opened = [os.fdopen(number, "rb", buffering=0) for number in files]

    def handle(frame: Frame) -> Frame:
        folders = frame.body["folders"]
        try:
            for kind, path in _vectors(opened[frame.body["file"]]):
                if _is_wanted(kind, path, folders):
                    return Frame({"outside": path[: REPLY_BYTES // 8]})
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputInvalid("", None, "no readable Parquet") from error
        return Frame({})

    return handle


def _vectors(file: Any) -> Iterator[tuple[str, str]]:
    """Kind and path of each vector of a checkpoint's files."""
    found = parquet_work.parquet_file(file)
    there = {found.schema.column(n).path for n in range(found.metadata.num_columns)}
    if not there.issuperset(_COLUMNS):
        return
    for batch in found.iter_batches(_ROWS, columns=list(_COLUMNS)):
        for add in batch.column(0).to_pylist():
            vector = None if add is None else add["deletionVector"]
            if vector is not None:
                yield str(vector["storageType"]), str(vector["pathOrInlineDv"])
