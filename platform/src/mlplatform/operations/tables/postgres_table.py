"""A PostgreSQL table as one Parquet file, read in one transaction and sorted by row id."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import pg8000.native
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from pg8000.exceptions import DatabaseError, Error

from mlplatform.learning.features.columns import match_columns
from mlplatform.learning.features.input_files import MOST_FILE_BYTES
from mlplatform.learning.features.parquet_work import VECTORS
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.tensors.vectors import NotAVector, vector_of_text
from mlplatform.operations.tables.columns import ROW_ID, column_types, expected_columns
from mlplatform.operations.tables.conversion import Conversion, table_columns
from mlplatform.operations.tables.locations import Table
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, NotFound
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.postgres import connect, unavailable
from mlplatform.runtime.units import MIB

_VECTOR: Final = ("array_to_json({})::text", VECTORS[1])
_TYPES: Final[Mapping[str, tuple[str, pa.DataType]]] = {
    "smallint": ("{}::bigint", pa.int64()),
    "integer": ("{}::bigint", pa.int64()),
    "bigint": ("{}", pa.int64()),
    "real": ("{}::double precision", pa.float64()),
    "double precision": ("{}", pa.float64()),
    "numeric": ("{}::double precision", pa.float64()),
    "text": ("{}", pa.string()),
    "character varying": ("{}::text", pa.string()),
    "character": ("{}::text", pa.string()),
    "uuid": ("{}::text", pa.string()),
    "boolean": ("{}::int", pa.int64()),
    "date": ("{}::timestamp", pa.timestamp("us")),
    "timestamp without time zone": ("{}", pa.timestamp("us")),
    "timestamp with time zone": ("({} AT TIME ZONE 'UTC')", pa.timestamp("us")),
    **dict.fromkeys(("real[]", "double precision[]", "numeric[]"), _VECTOR),
}
"""PostgreSQL type → the expression that is selected, and the type of its result."""
_COLUMNS: Final = (
    "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
    " WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)
SORTED_S: Final = 600.0
"""Seconds to wait for each answer: the first row comes after the server has sorted the table."""
MOST_TEXT_BYTES: Final = 4 * MOST_FILE_BYTES
"""Most bytes of a table as text: it lies on the disk of the home folder, which records need too."""
_BLOCK_BYTES: Final = 4 * MIB


class ColumnSelection(NamedTuple):
    """The columns to read from a table.

    Args:
        columns: names of the columns, in the order of the file.
        order: columns by which the rows are sorted.
        truths: columns that are booleans in the file; other booleans become the numbers 0 and 1.
    """

    columns: Sequence[str]
    order: Sequence[str]
    truths: Collection[str] = ()


def export(
    table: Table,
    definition: ModelDefinition,
    overrides: Mapping[str, str],
    target: Path,
    conversion: Conversion | None = None,
) -> str:
    """Write the request's columns of a table to a Parquet file, under their names in the table.

    Rows are in the order of the row id, and of all other columns where it is repeated. The rest is
    the same as in `export_columns`.

    Args:
        conversion: what makes requests of tables with other columns; the rows of those are in the
            order of its first column.
    """

    def chosen(kinds: Mapping[str, str]) -> ColumnSelection:
        names = _wanted_columns(definition, conversion, kinds, overrides, table.name)
        first = names.get(ROW_ID, next(iter(names.values())))
        return ColumnSelection(
            list(names.values()), [first, *sorted(set(names.values()) - {first})]
        )

    return export_columns(table, chosen, target)


def export_columns(
    table: Table, choose: Callable[[Mapping[str, str]], ColumnSelection], target: Path
) -> str:
    """Write columns of a table to a Parquet file, as of one moment.

    Args:
        choose: returns the columns to read, from the table's columns and their PostgreSQL types.
        target: the Parquet file to create; meanwhile the rows are in a text file beside it.

    Returns the SHA-256 of what the server sent, hexadecimal: the same for the same rows.

    Raises:
        NotFound: there is no such table.
        ConfigInvalid, InputInvalid: the table lacks a column, or is too large.
        Unavailable: the server does not answer, or refuses the request.
    """
    text = target.with_suffix(".text")
    try:
        with _connected(table.address) as connection:
            connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            found = connection.run(_COLUMNS, name=_regclass(table.name)) or []
            if not found:
                raise NotFound(f"there is no table {table.name} in {table.address}")
            kinds = {str(name): str(kind) for name, kind in found}
            chosen = choose(kinds)
            with text.open("wb") as file:
                sink = _DigestingFile(file, table.name)
                connection.run(_copy(table.name, chosen, kinds), stream=sink)
        _to_parquet(
            text,
            {
                column: pa.bool_() if column in chosen.truths else _TYPES[kinds[column]][1]
                for column in chosen.columns
            },
            target,
            table.name,
        )
    finally:
        text.unlink(missing_ok=True)
    return sink.digest


def arrow_types(kinds: Mapping[str, str], truth: pa.DataType) -> dict[str, str]:
    """Column → Arrow's name of the type in which it is read; PostgreSQL's own name if that type is
    not supported.

    Args:
        truth: the type to use for a boolean.
    """
    return {
        name: str(truth if kind == "boolean" else _TYPES[kind][1]) if kind in _TYPES else kind
        for name, kind in kinds.items()
    }


class _DigestingFile:
    """A file with a size limit that computes the digest of what is written."""

    def __init__(self, file: IO[bytes], source: str) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self._source, self._bytes = source, 0

    def write(self, data: bytes) -> int:
        self._bytes += len(data)
        if self._bytes > MOST_TEXT_BYTES:
            problem = (
                f"its columns take more than {MOST_TEXT_BYTES} bytes: name a view of fewer rows"
            )
            raise InputInvalid(self._source, None, problem)
        self._hash.update(data)
        return self._file.write(data)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def _wanted_columns(
    definition: ModelDefinition,
    conversion: Conversion | None,
    kinds: Mapping[str, str],
    overrides: Mapping[str, str],
    source: str,
) -> dict[str, str]:
    arrow = arrow_types(kinds, pa.int64())
    if conversion is not None:
        found = table_columns(definition, conversion, arrow, overrides, source, is_text=False)
        return {name: column for name, (column, _) in found.columns.items()}
    names = match_columns(expected_columns(definition), arrow, overrides, source)
    for name, column in names.items():
        taken = tuple(map(str, column_types(definition)[name]))
        if arrow[column] not in taken:
            listed = ", ".join(kind for kind, (_, a) in _TYPES.items() if str(a) in taken)
            problem = f"column {column} is {kinds[column]}; wanted: {listed}"
            raise InputInvalid(source, None, problem)
    return names


def _copy(name: str, chosen: ColumnSelection, kinds: Mapping[str, str]) -> str:
    asked = []
    for column in chosen.columns:
        quoted = _quoted(column)
        asked.append(f"{_TYPES[kinds[column]][0].format(quoted)} AS {quoted}")
    ordered = ", ".join(_collated(column, kinds[column]) for column in chosen.order)
    parts = ".".join(map(_quoted, _folded(name).split(".")))
    return (
        f"COPY (SELECT {', '.join(asked)} FROM {parts} ORDER BY {ordered}) TO STDOUT (FORMAT csv)"
    )


def _collated(column: str, kind: str) -> str:
    is_text = _TYPES[kind][1] == pa.string()
    return f'{_quoted(column)}::text COLLATE "C"' if is_text else _quoted(column)


def _to_parquet(text: Path, kinds: Mapping[str, pa.DataType], target: Path, source: str) -> None:
    schema = pa.schema(list(kinds.items()))
    if not text.stat().st_size:
        pq.write_table(schema.empty_table(), target)
        return
    try:
        reader = pc.open_csv(
            text,
            pc.ReadOptions(column_names=list(kinds), block_size=_BLOCK_BYTES),
            pc.ParseOptions(newlines_in_values=True),
            pc.ConvertOptions(
                column_types=pa.schema(
                    [(f.name, pa.string() if f.type in VECTORS else f.type) for f in schema]
                ),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        with pq.ParquetWriter(target, schema) as writer:
            first = 0
            for batch in reader:
                writer.write_batch(_with_vectors(batch, schema, source, first))
                first += batch.num_rows
    except pa.ArrowInvalid as error:
        raise InputInvalid(
            source,
            None,
            "it holds a value that cannot be read, such as an infinite time",
        ) from error


def _with_vectors(
    batch: pa.RecordBatch, schema: pa.Schema, source: str, first: int
) -> pa.RecordBatch:
    """The batch with lists of numbers in place of the texts of its vectors."""
    columns: list[Any] = list(batch.columns)
    for place, field in enumerate(schema):
        if field.type not in VECTORS:
            continue
        found: list[list[float] | None] = []
        for row, text in enumerate(columns[place].to_pylist(), start=first):
            try:
                found.append(None if text is None else vector_of_text(text))
            except NotAVector as error:
                problem = f"column {field.name}{error.place} is {error.shown}"
                raise InputInvalid(source, row, f"{problem}; wanted: {error.wanted}") from error
        columns[place] = pa.array(found, field.type)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@contextmanager
def _connected(address: Address) -> Iterator[pg8000.native.Connection]:
    connection = None
    try:
        secret = password(address) or ""  # a server that needs a password refuses an empty one
        connection = connect(address, "table", secret, answer_s=SORTED_S)
        yield connection
    except DatabaseError as error:
        fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        raise unavailable(address, f"{fields.get('M')} ({fields.get('C')})") from error
    except (Error, OSError) as error:
        raise unavailable(address, error) from error
    finally:
        if connection is not None:
            _close(connection)


def _close(connection: pg8000.native.Connection) -> None:
    try:
        connection.close()
    except (Error, OSError):
        return  # the connection is broken; another error says why


def password(address: Address) -> str | None:
    """The password from the file that PGPASSFILE names, or ~/.pgpass; None if it has no line for
    the user.

    Raises:
        ConfigInvalid: others may read the file.

    Source: https://www.postgresql.org/docs/current/libpq-pgpass.html
    """
    named = os.environ.get("PGPASSFILE")
    path = Path(named) if named else Path.home() / ".pgpass"
    if not path.is_file():
        if named:
            raise ConfigInvalid("PGPASSFILE", named, "a file that is there")
        return None
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigInvalid(
            "PGPASSFILE", str(path), "a file of mode 0600, which only its owner can read"
        )
    asked = (address.host, str(address.port), address.name, address.user or "")
    for line in path.read_text().splitlines():
        parts = [re.sub(r"\\(.)", r"\1", part) for part in re.split(r"(?<!\\):", line, maxsplit=4)]
        pairs = zip(parts, asked, strict=False)
        if len(parts) == 5 and all(part in ("*", wanted) for part, wanted in pairs):
            return parts[4]
    return None


def _folded(name: str) -> str:
    """The name as PostgreSQL reads it without quotes: in lower case."""
    return name.lower()


def _regclass(name: str) -> str:
    return ".".join(map(_quoted, _folded(name).split(".")))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
