"""The columns of a sealed file: those of a stored record, without what the others determine.

A digest follows from the other fields, and the chain covers it; a payload's digest is kept once the
payload is gone. The id of a decision is hexadecimal text, and is kept as the bytes that it stands
for. Files of earlier releases hold every column of a stored record, and are read alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlplatform.decisions.records.record import SCALARS, STORED, arrow_schema, record_digest

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa

ID: Final = "decision_id"
ID_BYTES: Final = "decision_id_bytes"
"""The column of ids as bytes. It is null where an id has another form, and `ID` where it has
this."""
_LENGTH: Final = 21
_HEXADECIMAL: Final = f"^[0-9a-f]{{{2 * _LENGTH}}}$"
_PAIRS: Final = np.frombuffer(b"".join(b"%02x" % one for one in range(256)), np.uint16)
_NIBBLES: Final = np.zeros(256, np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_SCALARS: Final = slice(2, len(SCALARS))
_DEGRADED: Final = SCALARS.index("degraded") - 2
_PAYLOAD_DIGEST, _DIGEST, _PAYLOAD = map(STORED.index, ("payload_digest", "digest", "payload"))
_Row = tuple[Any, ...]


def sealed_schema() -> pa.Schema:
    """The Arrow schema of a sealed file."""
    import pyarrow as pa

    fields = list(arrow_schema(SCALARS))
    fields.insert(SCALARS.index(ID) + 1, pa.field(ID_BYTES, pa.binary(_LENGTH)))
    fields += [pa.field(name, pa.binary(32)) for name in ("payload_digest", "chain")]
    return pa.schema([*fields, pa.field("payload", pa.string())])


def sealed(table: pa.Table) -> pa.Table:
    """Records in the form of a sealed file.

    Args:
        table: records with the columns of `STORED`, or of a sealed file of any release.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = sealed_schema()
    columns: dict[str, pa.Array[Any] | pa.ChunkedArray[Any]]
    columns = {name: table.column(name) for name in table.column_names if name in schema.names}
    if ID_BYTES not in columns:
        texts = table.column(ID).combine_chunks()
        fits = pc.match_substring_regex(texts, _HEXADECIMAL)
        columns[ID_BYTES] = _bytes_of(pc.if_else(fits, texts, "0" * 2 * _LENGTH), fits)
        columns[ID] = pc.if_else(fits, pa.scalar(None, pa.string()), texts)
    kept = pc.is_null(columns["payload"])
    nothing = pa.scalar(None, schema.field("payload_digest").type)
    columns["payload_digest"] = pc.if_else(kept, columns["payload_digest"], nothing)
    arrays = [columns[field.name] for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema).combine_chunks()


def without_payloads(table: pa.Table, goes: pa.BooleanArray | pa.ChunkedArray[Any]) -> pa.Table:
    """The records of a sealed file, some without their payload, whose digest stays in its place.

    Args:
        goes: whether each record loses its payload.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    payloads = table.column("payload")
    digests = [
        hashlib.sha256(payload.encode()).digest() if gone and payload is not None else known
        for payload, gone, known in zip(
            payloads.to_pylist(),
            goes.to_pylist(),
            table.column("payload_digest").to_pylist(),
            strict=True,
        )
    ]
    left = pc.if_else(goes, pa.scalar(None, pa.string()), payloads)
    for name, column in (("payload", left), ("payload_digest", pa.array(digests, pa.binary(32)))):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), column)
    return table.combine_chunks()


def id_columns(columns: Sequence[str]) -> list[str]:
    """The columns of a sealed file that hold these of a record."""
    return [*columns, ID_BYTES] if ID in columns else list(columns)


def with_ids(table: pa.Table) -> pa.Table:
    """Records as read from sealed files, with every id as text."""
    import pyarrow.compute as pc

    if ID_BYTES not in table.column_names:
        return table
    place = table.column_names.index(ID)
    held = table.column(ID_BYTES).combine_chunks()
    texts = _texts_of(held)
    if held.null_count:
        texts = pc.if_else(pc.is_valid(held), texts, table.column(ID).combine_chunks())
    return table.set_column(place, table.schema.field(place), texts).drop_columns([ID_BYTES])


def matching_ids(
    batch: pa.RecordBatch, *, one_of: Sequence[str] | None, starts: str | None
) -> pa.BooleanArray:
    """Whether each id of a batch is one of these, or starts so; without decoding the ids where
    whole ones are asked for."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = batch.column(ID)
    held = batch.column(ID_BYTES) if ID_BYTES in batch.schema.names else None
    if starts is not None:
        found = pc.starts_with(texts, starts)
        return (
            found
            if held is None
            else pc.if_else(pc.is_valid(held), pc.starts_with(_texts_of(held), starts), found)
        )
    wanted = [] if one_of is None else one_of
    found = pc.is_in(texts, value_set=pa.array(wanted, pa.string()))
    if held is None:
        return found
    packed = [data for one in wanted if (data := _packed(one)) is not None]
    return pc.or_(found, pc.is_in(held, value_set=pa.array(packed, held.type)))


def rows(batch: pa.RecordBatch) -> Iterator[_Row]:
    """The records of a batch in the form of SQLite's rows; None for a digest that the file does not
    hold."""
    import pyarrow as pa

    table = with_ids(pa.Table.from_batches([batch]))
    nothing = [None] * len(table)
    held = set(table.column_names)
    columns = [table.column(name).to_pylist() if name in held else nothing for name in STORED]
    return zip(*columns, strict=True)


def whole(row: _Row) -> _Row:
    """A record as `rows` gives it, or unsealed, with the digests that are not stored."""
    if row[_DIGEST] is not None:
        return row
    payload_digest = row[_PAYLOAD_DIGEST]
    if payload_digest is None:
        payload_digest = hashlib.sha256(row[_PAYLOAD].encode()).digest()
    scalars = [*row[_SCALARS]]
    scalars[_DEGRADED] = bool(scalars[_DEGRADED])  # of an unsealed row it is 0 or 1
    digest = record_digest(row[0], row[1], scalars, payload_digest)
    return (*row[:_PAYLOAD_DIGEST], payload_digest, digest, *row[_DIGEST + 1 :])


def _packed(text: str) -> bytes | None:
    """The bytes that an id stands for; None if it has another form."""
    if len(text) != 2 * _LENGTH or text.strip("0123456789abcdef"):
        return None
    return bytes.fromhex(text)


def _bytes_of(texts: pa.Array[Any], valid: pa.Array[Any]) -> pa.Array[Any]:
    import pyarrow as pa

    data = "".join(map(str, texts.to_pylist())).encode()
    nibbles = _NIBBLES[np.frombuffer(data, np.uint8)]
    held = (nibbles[0::2] << 4) | nibbles[1::2]
    bits = np.packbits(valid.to_numpy(zero_copy_only=False), bitorder="little")
    buffers: list[pa.Buffer | None] = [pa.py_buffer(one.tobytes()) for one in (bits, held)]
    return pa.Array.from_buffers(pa.binary(_LENGTH), len(texts), buffers)


def _texts_of(ids: pa.Array[Any]) -> pa.Array[Any]:
    """The texts of ids; of a null any text."""
    import pyarrow as pa

    count = len(ids)
    data = ids.buffers()[1]
    if count == 0 or data is None:
        return pa.array([""] * count, pa.string())
    held = np.frombuffer(memoryview(data), np.uint8)[ids.offset * _LENGTH :][: count * _LENGTH]
    ends = np.arange(count + 1, dtype=np.int32) * (2 * _LENGTH)
    buffers = [None, *(pa.py_buffer(one.tobytes()) for one in (ends, _PAIRS[held]))]
    return pa.Array.from_buffers(pa.string(), count, buffers)
