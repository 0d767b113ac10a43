"""The rows of an Iceberg table's files that its delete files take away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.runtime.errors import InputInvalid

MOST_DELETED_ROWS: Final = 20_000_000
"""Most rows that delete files name together: each takes eight bytes of memory, twice for a time."""
OPEN_FILES: Final = 200
REWRITE: Final = (
    "have the table's engine apply them: rewrite_data_files with delete-file-threshold 1"
)
_PATH: Final = "file_path"
_POSITION: Final = "pos"
_PATH_TYPES: Final[Mapping[str, pa.DataType]] = {
    "string": pa.string(),
    "large_string": pa.large_string(),
}


@dataclass(frozen=True, slots=True)
class LiveFile:
    """A file that a snapshot has, of rows or of deletes.

    Args:
        name: its path below the table's folder.
        spec: the number of its partition spec.
        partition: id of a field of the spec → value.
        sequence: of the commit that added its content.
    """

    name: str
    size_bytes: int
    spec: int
    partition: Mapping[str, bool | int | str | None]
    sequence: int


def refuse_equality(
    deletes: Sequence[LiveFile], data: Sequence[LiveFile], unpartitioned: set[int], source: str
) -> None:
    """Raise for a file of deletes by values that takes rows away from a file of rows. Those that
    take none are left behind where an engine has applied them.

    Args:
        unpartitioned: the specs without a field, whose deletes are for all partitions.

    Source: the Iceberg specification, "Scan Planning".
    """
    if not deletes:
        return
    oldest = dict[Any, int]()
    for file in data:
        for scope in (None, _scope(file)):
            oldest[scope] = min(file.sequence, oldest.get(scope, file.sequence))
    for one in deletes:
        scope = None if one.spec in unpartitioned else _scope(one)
        if oldest.get(scope, one.sequence) < one.sequence:
            problem = (
                "it has equality deletes, which name rows by their values, and are not read here"
                f" ({len(deletes)} files); {REWRITE}"
            )
            raise InputInvalid(source, None, problem)


def _scope(file: LiveFile) -> Any:
    return file.spec, tuple(sorted(file.partition.items()))


def deleted_rows(
    folder: Path,
    deletes: Sequence[LiveFile],
    data: Sequence[LiveFile],
    name_of: Callable[[str], str | None],
    source: str,
) -> Mapping[int, NDArray[np.int64]]:
    """Place of a file of rows → the numbers of its rows that are deleted, in order.

    Args:
        folder: a folder with the delete files.
        deletes: files of deletes by position.
        name_of: a path as manifests have it → the path below the table's folder.
        source: the table's place, for messages.

    Raises:
        InputInvalid: a file is damaged, or they name too many rows; the message says which.
    """
    places = {file.name: place for place, file in enumerate(data)}
    found, total = dict[int, list[NDArray[np.int64]]](), 0
    for sequence, paths, positions in _positions(folder, deletes):
        total += len(positions)
        if total > MOST_DELETED_ROWS:
            problem = f"its delete files name more than {MOST_DELETED_ROWS} rows; {REWRITE}"
            raise InputInvalid(source, None, problem)
        encoded: Any = paths.dictionary_encode()
        codes = encoded.indices.to_numpy()
        for code, path in enumerate(encoded.dictionary.to_pylist()):
            place = places.get(name_of(path) or "")
            if place is not None and data[place].sequence <= sequence:
                found.setdefault(place, []).append(positions[codes == code])
    return {place: np.unique(np.concatenate(parts)) for place, parts in found.items()}


def _positions(
    folder: Path, deletes: Sequence[LiveFile]
) -> Iterator[tuple[int, pa.Array[Any], NDArray[np.int64]]]:
    """The sequence number of each delete file with batches of its paths and row numbers."""
    for start in range(0, len(deletes), OPEN_FILES):
        group = deletes[start : start + OPEN_FILES]
        with ParquetFiles([folder / one.name for one in group], rows_of_each=True) as parquet:
            for place, one in enumerate(group):
                name = one.name.rsplit("/", 1)[-1]
                types = parquet.types(place)
                kind = _PATH_TYPES.get(types.get(_PATH, ""))
                if kind is None or types.get(_POSITION) != "int64":
                    lacking = (
                        f"it has no columns {_PATH} and {_POSITION} of texts and int64, as delete"
                        f" files have; {REWRITE}"
                    )
                    raise InputInvalid(name, None, lacking)
                for batch in parquet.batches(place, {_PATH: kind, _POSITION: pa.int64()}):
                    if batch.column(0).null_count or batch.column(1).null_count:
                        missing = f"{_PATH} or {_POSITION} is missing in a row; {REWRITE}"
                        raise InputInvalid(name, None, missing)
                    yield one.sequence, batch.column(0), batch.column(1).to_numpy()
