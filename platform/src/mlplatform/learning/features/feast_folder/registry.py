"""Feast's registry of a model as the bytes of its file, written without importing Feast.

Source: Feast 0.67, protos/feast/core: Registry, Project, Entity, FeatureView, Feature, DataSource
and DataFormat; numbers below are of their fields.
`tests/contract/learning/features/feast_folder/test_feast_folder.py` reads it by Feast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from mlplatform.learning.features.feast_values import INT64, STRING
from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP
from mlplatform.model.features.views import FeatureField, FeatureView, KeyType, ValueType
from mlplatform.model.windows.declaration import EntityWindows, Window

SCHEMA: Final = "1"
KEYS: Final[Mapping[KeyType, int]] = {"int64": INT64, "string": STRING}
TYPES: Final[Mapping[ValueType, int]] = {"float64": 5, "int64": INT64, "bool": 7}
BATCH_FILE: Final = 1
FILE_SOURCE: Final = "feast.infra.offline_stores.file_source.FileSource"
WINDOWS: Final = "windows"
"""The tag of a view whose features are real-time windows, which are counted when they are read."""
COUNTED: Final = "Real-time windows: counted from their tiles at each read, as of then."
_VARINT, _BYTES = 0, 2


def registry(
    project: str,
    views: Sequence[FeatureView],
    windows: Sequence[EntityWindows] = (),
    *,
    keys: Mapping[str, KeyType] = MappingProxyType({}),
    owner: str,
    description: str,
    rows: Path,
    made_ms: int,
) -> bytes:
    """The registry of one project.

    Args:
        windows: the windows of each entity, which become a view without a source, as no rows are
            stored.
        keys: entity's join key → its type, for the entities of windows.
        rows: the model's offline folder, which has the views' Parquet files.
        made_ms: when the registry was rendered, epoch milliseconds.
    """
    made = _duration(made_ms)
    entities = {one.entity: (one.key, keys[one.key]) for one in windows}
    entities |= {view.entity: (view.join_key, _key_type(view)) for view in views}
    sources = {view.name: _source(project, view, rows, made) for view in views}
    spec = _text(1, project) + _text(2, description) + _text(4, owner)
    return b"".join(
        (
            *(_part(1, _entity(project, name, *of, made)) for name, of in entities.items()),
            *(_part(6, _view(project, view, sources[view.name], owner, made)) for view in views),
            *(_part(6, _windows(project, one, keys[one.key], owner, made)) for one in windows),
            *(_part(12, source) for source in sources.values()),
            _text(3, SCHEMA),
            _text(4, str(made_ms)),
            _part(5, made),
            _part(17, _part(1, spec) + _meta(made)),
        )
    )


def _entity(project: str, name: str, join_key: str, key: KeyType, made: bytes) -> bytes:
    spec = _text(1, name) + _number(2, KEYS[key]) + _text(4, join_key) + _text(9, project)
    return _part(1, spec) + _meta(made)


def _view(project: str, view: FeatureView, source: bytes, owner: str, made: bytes) -> bytes:
    key = _text(1, view.join_key) + _number(2, KEYS[_key_type(view)])
    spec = (
        _text(1, view.name),
        _text(2, project),
        _text(3, view.entity),
        *(_part(4, _feature(field)) for field in view.fields),
        *_tags(5, {"stale": view.stale, **_external(view)}),
        _part(6, _duration(view.ttl_ms)),
        _part(7, source),
        _number(8, 1),
        _text(11, owner if view.external is None else view.external.owner),
        _part(12, key),
    )
    return _part(1, b"".join(spec)) + _meta(made)


def _windows(project: str, one: EntityWindows, key: KeyType, owner: str, made: bytes) -> bytes:
    spec = (
        _text(1, one.name),
        _text(2, project),
        _text(3, one.entity),
        *(_part(4, _window(window)) for window in one.fields),
        *_tags(5, {WINDOWS: "true", "stale": one.stale}),
        _part(6, _duration(one.ttl_ms)),
        _number(8, 1),
        _text(10, COUNTED),
        _text(11, owner),
        _part(12, _text(1, one.key) + _number(2, KEYS[key])),
    )
    return _part(1, b"".join(spec)) + _meta(made)


def _window(window: Window) -> bytes:
    """A feature, with all of its declaration as its tags."""
    declared: dict[str, Any] = msgspec.to_builtins(window)
    tags = {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in declared.items()
        if value is not None and name not in ("name", "entity", "stale")
    }
    return b"".join((_text(1, window.name), _number(2, TYPES["float64"]), *_tags(3, tags)))


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


def _key_type(view: FeatureView) -> KeyType:
    return "int64" if view.external is None else view.external.key


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


def _duration(span_ms: int) -> bytes:
    """A Duration, or the Timestamp of so long after the epoch."""
    seconds, ms = divmod(span_ms, 1000)
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
