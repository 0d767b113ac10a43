"""The work of the confined process on an Iceberg table's manifests and lists of them: Avro files,
whose fields are known by their ids."""

from __future__ import annotations

import io
import itertools
import lzma
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec
import numpy as np

from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.sandbox.protocol import Frame
from mlplatform.runtime.units import DAY_S, KIB, MIB

CODECS: Final = ("null", "deflate", "bzip2", "xz")
"""Compressions of Avro that need no other library; Iceberg's own default is the second."""
REPLY_BYTES: Final = 4 * MIB
MOST_RECORD_BYTES: Final = 8 * KIB
"""Most bytes that are used of one entry: a path, and the values of its partition."""
MOST_RECORDS: Final = 1_000_000
"""Most records of one file, those of removed files included."""
DELETED: Final = 2
"""The status of an entry whose file the snapshot has no longer."""
_LIST: Final = {
    500: "path", 501: "length", 502: "spec", 517: "content", 515: "sequence", 504: "added",
    505: "existing",
}  # fmt: skip
_ENTRY: Final = {0: "status", 3: "sequence"}
_DATA_FILE: Final = 2
_FILE: Final = {134: "content", 100: "path", 101: "format", 104: "size"}
_PARTITION: Final = 102
_UNREADABLE: Final = (
    *(ValueError, TypeError, LookupError, AttributeError, EOFError, OSError, ArithmeticError),
    *(RecursionError, struct.error, zlib.error, lzma.LZMAError),
)
_FIRST_DAY: Final = date(1970, 1, 1).toordinal()


def prepare(files: Sequence[int]) -> Callable[[Frame], Frame]:
    """The function of the confined process that reads these open files."""
    _try_out()
    return _Work([os.fdopen(number, "rb", buffering=0) for number in files]).handle


class _Work:
    """Open files, and the records of the one that is being read."""

    def __init__(self, files: Sequence[Any]) -> None:
        self._files = files
        self._lines: Iterator[bytes] = iter(())
        self._left: bytes | None = None

    def handle(self, frame: Frame) -> Frame:
        body = frame.body
        try:
            if body["deed"] != "next":
                reader = _reader(self._files[body["file"]])
                pick = _manifest_of if body["deed"] == "list" else _entry_of
                self._lines, self._left = _lines(reader, pick(reader.writer_schema)), None
                return Frame({})
            return self._next()
        except _UNREADABLE as error:
            raise InputInvalid("", None, "no readable Avro of an Iceberg table") from error

    def _next(self) -> Frame:
        """The next records, as lines of JSON in bytes; no array after the last one."""
        lines, size = [] if self._left is None else [self._left], 0
        self._left = None
        for line in self._lines:
            size += len(line)
            if size > REPLY_BYTES - MOST_RECORD_BYTES:
                self._left = line
                break
            lines.append(line)
        return Frame({}, [np.frombuffer(b"".join(lines), np.uint8)] if lines else [])


def _reader(file: Any) -> Any:
    import fastavro  # only where there is an Iceberg table
    from fastavro.schema import SchemaParseException

    file.seek(0)
    try:
        reader = fastavro.reader(io.BufferedReader(file))
    except SchemaParseException as error:
        raise ValueError("no schema of Avro") from error
    if reader.codec not in CODECS:
        problem = (
            f"it is compressed by {reader.codec[:20]}; wanted: {', '.join(CODECS)}. Have the"
            " table's engine compress Avro by gzip, and rewrite its manifests (rewrite_manifests)"
        )
        raise InputInvalid("", None, problem)
    return reader


def _lines(reader: Any, pick: Callable[[Any], Any]) -> Iterator[bytes]:
    encoder = msgspec.json.Encoder()
    for number, record in enumerate(reader):
        if number >= MOST_RECORDS:
            raise InputInvalid("", None, f"it has more than {MOST_RECORDS} entries")
        if (found := pick(record)) is None:
            continue
        line = encoder.encode(found) + b"\n"
        if len(line) > MOST_RECORD_BYTES:
            problem = f"entry {number} has {len(line)} bytes; the limit is {MOST_RECORD_BYTES}"
            raise InputInvalid("", None, problem)
        yield line


def _manifest_of(schema: Any) -> Callable[[Any], Any]:
    names = _names(schema, _LIST)
    return lambda record: {ours: record[name] for name, ours in names.items()}


def _entry_of(schema: Any) -> Callable[[Any], Any]:
    """A function that takes out of a record what is used: most of a manifest are bounds of columns,
    which are not."""
    names = _names(schema, _ENTRY)
    (status,) = (name for name, ours in names.items() if ours == "status")
    (file,) = _names(schema, {_DATA_FILE: "file"})
    of_file = _type_of(schema, file)
    fields = _names(of_file, _FILE)
    partition = next(iter(_names(of_file, {_PARTITION: "partition"})), None)
    ids = {} if partition is None else _partition_ids(_type_of(of_file, partition))

    def pick(record: Any) -> Any:
        if record[status] == DELETED:
            return None
        held = record[file]
        values = {} if partition is None else held[partition] or {}
        return {
            **{ours: record[name] for name, ours in names.items()},
            **{ours: held[name] for name, ours in fields.items()},
            "partition": {str(one): _plain(values[name]) for name, one in ids.items()},
        }

    return pick


def _names(schema: Any, wanted: Mapping[int, str]) -> dict[str, str]:
    """Name of a field in the file → our own, of those that are there."""
    found = {field["name"]: field.get("field-id") for field in schema["fields"]}
    return {name: wanted[one] for name, one in found.items() if one in wanted}


def _type_of(schema: Any, name: str) -> Any:
    (kind,) = (field["type"] for field in schema["fields"] if field["name"] == name)
    if isinstance(kind, list):
        (kind,) = (one for one in kind if one != "null")
    return kind


def _partition_ids(schema: Any) -> dict[str, int]:
    return {field["name"]: int(field["field-id"]) for field in schema["fields"]}


def _plain(value: Any) -> bool | int | str | None:
    """A partition's value for JSON: days, microseconds, a number's own text, or bytes as hex."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value.hex()
        case bytes():
            return value.hex()
        case datetime():
            since = value.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
            return (since.days * DAY_S + since.seconds) * 10**6 + since.microseconds
        case date():
            return value.toordinal() - _FIRST_DAY
        case time():
            seconds = (value.hour * 60 + value.minute) * 60 + value.second
            return seconds * 10**6 + value.microsecond
        case Decimal() | UUID():
            return str(value)
        case _:
            raise TypeError(type(value).__name__)


def _try_out() -> None:
    """Read a small file of every compression. Libraries import at their first use, which must come
    before this process is locked."""
    import fastavro  # only where there is an Iceberg table

    kinds = {
        "a": "long", "b": "string", "c": {"type": "int", "logicalType": "date"},
        "d": {"type": "long", "logicalType": "timestamp-micros"},
        "e": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 1},
    }  # fmt: skip
    fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
    schema: Any = {"type": "record", "name": "r", "fields": fields}
    now = datetime(2020, 1, 1, tzinfo=UTC)
    rows = [{"a": 1, "b": "b", "c": now.date(), "d": now, "e": Decimal("1.5")}]
    for codec in CODECS:
        sink = io.BytesIO()
        fastavro.writer(sink, schema, itertools.chain(rows), codec=codec)
        sink.seek(0)
        if list(fastavro.reader(sink)) != rows:
            raise AssertionError(f"fastavro does not read what it wrote, by {codec}")
