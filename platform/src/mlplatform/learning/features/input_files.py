"""Files from outside, opened as plain ones within limits."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.storage import plain_files
from mlplatform.runtime.units import GIB

PARQUET: Final = ".parquet"
CSV: Final = ".csv"
CSV_IN_FOLDERS: Final = (CSV, ".tsv")
"""Ends of names of CSV files; in a folder, a .txt may be something to read."""
CSV_FILES: Final = (*CSV_IN_FOLDERS, ".txt")
BESIDE: Final = (".", "_", "readme", "license")
"""Beginnings of the names, in lower case, of what engines and people put beside files of rows."""
CHECKSUMS: Final = ".crc"
DELTA_LOG: Final = "_delta_log"
"""The folder in a Delta table's folder that says which files hold its rows."""
ICEBERG_METADATA: Final = "metadata"
"""The folder in an Iceberg table's folder that says which files hold its rows."""
_METADATA_FILE: Final = re.compile(r"(?:.*/)?[^/]+\.metadata\.json(?:\.gz)?")
MOST_FILES: Final = 1_000
MOST_NAMED: Final = 5
MOST_FILE_BYTES: Final = 2 * GIB


def is_delta(folder: Path) -> bool:
    """Whether a folder is that of a Delta table."""
    return (folder / DELTA_LOG).is_dir()


def delta_problem(source: str) -> InputInvalid:
    """The error for a Delta table where files are wanted: some of its files hold rows that the
    table has no longer."""
    return InputInvalid(
        source,
        None,
        f"it has a Delta table's log ({DELTA_LOG}), and files with rows that the table has no"
        " longer; wanted: Parquet or CSV files that its engine exports. Only `mlplatform features"
        " import` reads the table, by its own folder or prefix",
    )


def is_metadata_file(name: str) -> bool:
    """Whether a file says what an Iceberg table is, by its path."""
    return _METADATA_FILE.fullmatch(name) is not None


def is_iceberg(folder: Path) -> bool:
    """Whether a folder is that of an Iceberg table."""
    metadata = folder / ICEBERG_METADATA
    return metadata.is_dir() and any(is_metadata_file(one.name) for one in metadata.iterdir())


def iceberg_problem(source: str) -> InputInvalid:
    """The error for an Iceberg table where files are wanted: some of its files hold rows that the
    table has no longer."""
    return InputInvalid(
        source,
        None,
        f"it has an Iceberg table's {ICEBERG_METADATA}, and files with rows that the table has no"
        " longer; wanted: Parquet or CSV files that its engine exports. Only `mlplatform features"
        " import` reads the table, by its own folder or prefix",
    )


def refuse_tables(folder: Path) -> None:
    """
    Raises:
        InputInvalid: the folder is that of a Delta or Iceberg table, and files are wanted.
    """
    if is_delta(folder):
        raise delta_problem(str(folder))
    if is_iceberg(folder):
        raise iceberg_problem(str(folder))


def refuse_tables_in(names: Sequence[str], source: str) -> None:
    """
    Args:
        names: paths of all objects below a prefix.

    Raises:
        InputInvalid: there is a Delta or Iceberg table below the prefix, and files are wanted.
    """
    for name in names:
        folders = name.split("/")[:-1]
        if DELTA_LOG in folders:
            raise delta_problem(source)
        if folders and folders[-1] == ICEBERG_METADATA and is_metadata_file(name):
            raise iceberg_problem(source)


def table_files(folder: Path) -> list[Path]:
    """The Parquet and CSV files of a folder by name; what engines and people put beside them is
    left out.

    Raises:
        InputInvalid: there is something else in it, such as a folder, whose rows would be missed.
    """
    files, others = list[Path](), list[str]()
    for one in sorted(folder.iterdir()):
        if is_beside(one.name):
            continue
        if one.is_dir():
            others.append(f"{one.name}/")
        elif one.suffix.lower() in (PARQUET, *CSV_IN_FOLDERS):
            files.append(one)
        else:
            others.append(one.name)
    refuse_others(str(folder), others, (PARQUET, *CSV_IN_FOLDERS))
    return files


def is_beside(name: str) -> bool:
    """Whether engines or people put a file of that name beside files of rows."""
    last = name.rsplit("/", 1)[-1].lower()
    return last.startswith(BESIDE) or last.endswith(CHECKSUMS)


def refuse_others(source: str, others: Sequence[str], ends: Sequence[str]) -> None:
    """
    Args:
        others: names of files and folders of the source that are not read.
        ends: ends of the names of files that are.

    Raises:
        InputInvalid: there are others, whose rows would be missed.
    """
    if not others:
        return
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    raise InputInvalid(
        source,
        None,
        f"it has {', '.join(others[:MOST_NAMED])}{more}, whose rows would be missed; wanted: only"
        f" files whose names end with {', '.join(ends[:-1])} or {ends[-1]}, not packed (files whose"
        " names begin with _ are left out)",
    )


def open_files(paths: Sequence[Path], until: ExitStack) -> list[int]:
    """A descriptor of each file, closed with the context.

    Raises:
        InputInvalid: a file is not a plain file or is too large, or there are too many files.
        NotFound: a file can't be read.
    """
    if len(paths) > MOST_FILES:
        problem = f"{len(paths)} files; the limit is {MOST_FILES}"
        raise InputInvalid(str(paths[0].parent), None, problem)
    rule = plain_files.Rule(most_bytes=MOST_FILE_BYTES, anyones=True)
    descriptors = []
    for path in paths:
        descriptors.append(plain_files.open_plain(path.resolve(), rule))
        until.callback(os.close, descriptors[-1])
    return descriptors
