"""Feast's registry of a model as the bytes of its file, written without importing Feast.

Source: Feast 0.67, protos/feast/core: Registry, Project, Entity, FeatureView, Feature, DataSource
and DataFormat; numbers below are of their fields.
`tests/contract/learning/features/feast_folder/test_feast_folder.py` reads it by Feast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from mlplatform.model.features.views import FeatureField, FeatureView, KeyType, ValueType

SCHEMA: Final = "1"
INT64: Final = 4
KEYS: Final[Mapping[KeyType, int]] = {"int64": INT64, "string": 2}
TYPES: Final[Mapping[ValueType, int]] = {"float64": 5, "int64": INT64, "bool": 7}
BATCH_FILE: Final = 1
FILE_SOURCE: Final = "feast.infra.offline_stores.file_source.FileSource"
EVENT_TIMESTAMP, CREATED = "event_timestamp", "created"
_VARINT, _BYTES = 0, 2


def registry(
    project: str,
    views: Sequence[FeatureView],
    *,
    owner: str,
    description: str,
    rows: Path,
    made_ms: int,
) -> bytes:
    """The registry of one project.

    Args:
        rows: the model's offline folder, with the views' Parquet files.
        made_ms: when it was rendered, epoch milliseconds.
    """
    made = _time(made_ms)
    entities = {view.entity: view for view in views}
    sources = {view.name: _source(project, view, rows, made) for view in views}
    spec = _text(1, project) + _text(2, description) + _text(4, owner)
    return b"".join(
        (
            *(_part(1, _entity(project, view, made)) for view in entities.values()),
            *(_part(6, _view(project, view, sources[view.name], owner, made)) for view in views),
            *(_part(12, source) for source in sources.values()),
            _text(3, SCHEMA),
            _text(4, str(made_ms)),
            _part(5, made),
            _part(17, _part(1, spec) + _meta(made)),
        )
    )


def _entity(project: str, view: FeatureView, made: bytes) -> bytes:
    names = _text(1, view.entity) + _number(2, _key_type(view)), _text(4, view.join_key)
    spec = b"".join((*names, _text(9, project)))
    return _part(1, spec) + _meta(made)


def _view(project: str, view: FeatureView, source: bytes, owner: str, made: bytes) -> bytes:
    key = _text(1, view.join_key) + _number(2, _key_type(view))
    seconds, ms = divmod(view.ttl_ms, 1000)
    spec = (
        _text(1, view.name),
        _text(2, project),
        _text(3, view.entity),
        *(_part(4, _feature(field)) for field in view.fields),
        *_tags(5, {"stale": view.stale, **_external(view)}),
        _part(6, _number(1, seconds) + _number(2, ms * 1_000_000)),
        _part(7, source),
        _number(8, 1),
        _text(11, owner if view.external is None else view.external.owner),
        _part(12, key),
    )
    return _part(1, b"".join(spec)) + _meta(made)


def _feature(field: FeatureField) -> bytes:
    tags = {
        "aggregate": field.aggregate or "",
        "window_days": str(field.window_days) if field.aggregate else "",
        "delay_days": str(field.delay_days) if field.aggregate else "",
        "missing": field.missing,
        "column": field.column or "",
        "default": "" if field.default is None else repr(field.default),
    }
    filled = {name: value for name, value in tags.items() if value}
    return b"".join((_text(1, field.name), _number(2, TYPES[field.dtype]), *_tags(3, filled)))


def _external(view: FeatureView) -> dict[str, str]:
    source = view.external
    return {} if source is None else {"external": "true", "purposes": ", ".join(source.purposes)}


def _key_type(view: FeatureView) -> int:
    return INT64 if view.external is None else KEYS[view.external.key]


def _source(project: str, view: FeatureView, rows: Path, made: bytes) -> bytes:
    kind = "snapshots" if view.external is None else "external"
    parquet = _part(1, _part(1, b""))
    options = parquet + _text(2, str(rows / kind / view.name / "*.parquet"))
    return b"".join(
        (
            _number(1, BATCH_FILE),
            _text(3, EVENT_TIMESTAMP),
            _text(5, CREATED),
            _part(11, options),
            _text(17, FILE_SOURCE),
            _text(20, f"{view.name}_{'snapshots' if view.external is None else 'table'}"),
            _text(21, project),
            _part(50, _part(3, made) + _part(4, made)),
        )
    )


def _meta(made: bytes) -> bytes:
    return _part(2, _part(1, made) + _part(2, made))


def _time(epoch_ms: int) -> bytes:
    seconds, ms = divmod(epoch_ms, 1000)
    return _number(1, seconds) + _number(2, ms * 1_000_000)


def _tags(number: int, tags: Mapping[str, str]) -> Iterator[bytes]:
    return (_part(number, _text(1, name) + _text(2, value)) for name, value in tags.items())


def _text(number: int, value: str) -> bytes:
    return _part(number, value.encode()) if value else b""


def _part(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value) if value else b""


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
