"""A feature, as features.json declares it: an aggregate over a window of an entity's past, or a
column of a table that the bank already has."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable, NotFound

FILE: Final = "features.json"
SOURCE: Final = "features.py"
MOST_WHOLE: Final = 2**53
"""Largest whole number that is exact as a float, which is what a model reads."""
Aggregate = Literal["count", "mean", "std", "max", "label_share"]
OF_COLUMN: Final[frozenset[Aggregate]] = frozenset(("mean", "std", "max"))
MissingPolicy = Literal["default", "degrade", "refuse"]
StalePolicy = Literal["fallback", "degrade", "refuse"]
ValueType = Literal["float64", "int64", "bool"]
KeyType = Literal["int64", "string"]


class Feature(Protocol):
    """The part of a feature's declaration that serving needs."""

    @property
    def name(self) -> str: ...
    @property
    def missing(self) -> MissingPolicy: ...
    @property
    def default(self) -> float | None: ...


class FeatureSource(Protocol):
    """Features that are present together or not at all: a view, or the windows of an entity."""

    @property
    def name(self) -> str: ...
    @property
    def ttl_ms(self) -> int: ...
    @property
    def stale(self) -> StalePolicy: ...
    @property
    def fields(self) -> Sequence[Feature]: ...
    @property
    def feature_names(self) -> tuple[str, ...]: ...


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown and missing keys are errors."""


class FeatureField(_Strict, frozen=True):
    """One feature: the aggregate of a column over `window_days` that end `delay_days` ago; in an
    external view, the column of its name.

    Args:
        dtype: type of the value; float64 for every aggregate.
        aggregate: number of requests, or mean, population standard deviation or maximum of
            `column`, or share of label 1. None in an external view, where `window_days` and
            `delay_days` are 0.
        column: the request field that is aggregated; None if the aggregate uses no field.
        delay_days: number of days between the end of the window and the snapshot. A label_share
            needs none, because it counts only labels that had arrived.
        missing: what happens if the entity has no row: the default is used and the answer reports
            it (`default`), the answer is degraded (`degrade`), or there is no answer (`refuse`).
        default: value in training and serving if there is none; None: the model gets a missing
            value.
    """

    name: str
    dtype: ValueType
    aggregate: Aggregate | None
    column: str | None
    window_days: int
    delay_days: int
    missing: MissingPolicy
    default: float | None


class ExternalSource(_Strict, frozen=True, omit_defaults=True):
    """The table of the bank whose columns are a view's features.

    Args:
        key: type of the join key in its files.
        event_time: name of the column with the time from which on a row's values hold.
        available_time: name of the column with the time at which the values became known.
        owner: the person or team to ask about the table.
        purposes: allowed uses of its values; every purpose of the model must be among them.
        topic: name of the topic whose messages are also rows of the table; None if there is none.
        keep_days: days for which a row that no request can read any more is kept; None: without
            limit.
    """

    key: KeyType
    event_time: str
    available_time: str
    owner: str
    purposes: tuple[str, ...]
    topic: str | None = None
    keep_days: int | None = None


class FeatureView(_Strict, frozen=True):
    """The features of one entity, written together and valid for `ttl_ms`.

    Args:
        external: the table with the values; None if they are computed from requests.
        stale: what happens if the view's newest snapshot is older than `ttl_ms`, or if the store
            does not answer: the fallback decides instead of the model (`fallback`), the model
            decides without these features (`degrade`), or there is no answer (`refuse`). The first
            two degrade the answer.
    """

    name: str
    entity: str
    join_key: str
    ttl_ms: int
    fields: tuple[FeatureField, ...]
    stale: StalePolicy = "fallback"
    external: ExternalSource | None = None

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields)


class FeatureFile(_Strict, frozen=True):
    """A features.json: rendered from a model's Feast definitions, which are the source of truth.

    Args:
        purposes: the purposes for which the model uses features.
        source: SHA-256 of the features.py that was rendered; empty where an earlier release did.
    """

    generated: str
    model: str
    views: tuple[FeatureView, ...]
    purposes: tuple[str, ...] = ()
    source: str = ""


def quote(*names: str) -> str:
    """Names as quoted for SQL, also ones like `limit`; no name has a quotation mark."""
    return ", ".join(f'"{name}"' for name in names)


def request_views(views: Sequence[FeatureView]) -> tuple[FeatureView, ...]:
    """The views whose snapshots are computed from requests."""
    return tuple(view for view in views if view.external is None)


def external(views: Sequence[FeatureView]) -> tuple[FeatureView, ...]:
    """The external views, whose values are imported."""
    return tuple(view for view in views if view.external is not None)


def view_named(name: str, views: Mapping[str, FeatureView]) -> FeatureView:
    """The view of this name.

    Args:
        views: name → view.

    Raises:
        NotFound: there is none; the message names those that there are.
    """
    if name not in views:
        raise NotFound(f"no view {name!r}; there are: {', '.join(views)}")
    return views[name]


def load_views(folder: Path) -> tuple[FeatureView, ...]:
    """The feature views of a model folder, in the order of its definitions; empty if it defines
    none.

    Raises:
        ConfigInvalid: features.json is wrong; the message names the file, the key and what is
            wanted.
    """
    if not (folder / FILE).exists() and not (folder / SOURCE).exists():
        return ()
    content = read_file(folder)
    check(content.views)
    check_purposes(content.views, content.purposes)
    return content.views


def check_rendered(folder: Path) -> None:
    """Raise if a model folder's features.py has changed since its features.json was rendered.

    Raises:
        ConfigInvalid: features.py has changed; the message names the file and the command that
            renders it.
    """
    if (folder / FILE).exists() and (folder / SOURCE).exists():
        rendered = read_file(folder).source
        if rendered and rendered != source_digest(folder):
            raise ConfigUnusable(
                f"{folder.name}/{FILE}", f"{SOURCE} has changed since it was rendered", _how(folder)
            )


def source_digest(folder: Path) -> str:
    """SHA-256 of a model folder's features.py, in hexadecimal."""
    return hashlib.sha256((folder / SOURCE).read_bytes()).hexdigest()


def read_file(folder: Path) -> FeatureFile:
    """The features.json of a model folder as it is written; what it says is not checked.

    Raises:
        ConfigInvalid: the file is missing, or has another form.
    """
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=FeatureFile)
    except (OSError, *NOT_JSON) as error:
        raise ConfigUnusable(f"{folder.name}/{FILE}", str(error), _how(folder)) from error


def _how(folder: Path) -> str:
    return f"what `mlplatform features render {folder.name}` writes (docs/features.md)"


def check(views: tuple[FeatureView, ...]) -> None:
    """Raise for definitions that cannot be compiled.

    Raises:
        ConfigInvalid: a definition can't be compiled; the message names the feature and what is
            wanted.
    """
    for view in views:
        if not view.fields:
            raise ConfigInvalid(f"view {view.name}: fields", (), "one or more")
    features = [f.name for v in views for f in v.fields]
    columns = [f.column for v in views for f in v.fields if f.column is not None]
    for name in (*features, *columns, *(n for v in views for n in (v.name, v.join_key))):
        if not name.isidentifier():
            raise ConfigInvalid("name", name, "letters, digits and _: it is put into SQL")
    for name in sorted({n for n in features if features.count(n) > 1}):
        raise ConfigInvalid(f"feature {name}", name, "a name that no other view uses")
    for kind, named in (("features", features), ("views", [v.name for v in views])):
        if alike := _alike(named):
            raise ConfigInvalid(kind, alike, _APART)
    topics = [v.external.topic for v in views if v.external is not None and v.external.topic]
    for name in sorted({n for n in topics if topics.count(n) > 1}):
        raise ConfigInvalid("topic", name, "a topic of its own for each view")
    for view in views:
        for field in view.fields:
            key = f"feature {field.name}"
            if field.default is not None and not math.isfinite(field.default):
                raise ConfigInvalid(f"{key}: default", field.default, "a finite number or null")
            if view.external is None:
                _check_computed(field, key)
            elif field.aggregate is not None or field.column is not None:
                wanted = "none: an external view's features are columns of its table"
                raise ConfigInvalid(f"{key}: aggregate", field.aggregate or field.column, wanted)
        if view.external is not None:
            _check_external(view, view.external)


_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
_APART: Final = "names that differ in more than the case of letters, which databases ignore"


def _alike(names: Sequence[str]) -> tuple[str, ...]:
    """The first names that differ only in the case of letters; empty if there are none."""
    spelled: dict[str, set[str]] = {}
    for name in names:
        spelled.setdefault(name.casefold(), set()).add(name)
    return next((tuple(sorted(found)) for found in spelled.values() if len(found) > 1), ())


def _check_computed(field: FeatureField, key: str) -> None:
    if field.aggregate is None:
        raise ConfigInvalid(f"{key}: aggregate", None, "one, or `external` among the view's tags")
    if field.dtype != "float64":
        raise ConfigInvalid(f"{key}: dtype", field.dtype, "float64, for aggregates")
    if field.window_days <= 0:
        raise ConfigInvalid(f"{key}: window_days", field.window_days, "1 or more")
    if field.delay_days < 0:
        raise ConfigInvalid(f"{key}: delay_days", field.delay_days, "0 or more")
    if (field.column is not None) != (field.aggregate in OF_COLUMN):
        wanted = "a request field, and only for mean, std and max"
        raise ConfigInvalid(f"{key}: column", field.column, wanted)


def _check_external(view: FeatureView, source: ExternalSource) -> None:
    key = f"view {view.name}"
    columns = [view.join_key, source.event_time, source.available_time, *view.feature_names]
    for name in sorted({n for n in columns if columns.count(n) > 1}):
        raise ConfigInvalid(f"{key}: columns", name, "a column of its own for each")
    if alike := _alike(columns):
        raise ConfigInvalid(f"{key}: columns", alike, _APART)
    if not (source.event_time and source.available_time):
        times = (source.event_time, source.available_time)
        raise ConfigInvalid(f"{key}: source", times, "columns of event and availability time")
    for name in view.feature_names:
        if name.casefold() in ("event_timestamp", "created") or name.endswith("_"):
            raise ConfigInvalid(
                f"{key}: feature", name, "a name that the stored table does not use"
            )
    if view.ttl_ms < 1000 or view.ttl_ms % 1000:
        raise ConfigInvalid(f"{key}: ttl", view.ttl_ms / 1000, "whole seconds, 1 or more")
    if not source.owner.strip():
        raise ConfigInvalid(f"{key}: owner", source.owner, "whom to ask about the table")
    if source.topic is not None and not _TOPIC.fullmatch(source.topic):
        wanted = "1 to 200 letters, digits, '.', '_' and '-'"
        raise ConfigInvalid(f"{key}: topic", source.topic, wanted)
    if source.keep_days is not None and source.keep_days < 1:
        raise ConfigInvalid(f"{key}: keep_days", source.keep_days, "1 or more")
    if not source.purposes or not all(purpose.strip() for purpose in source.purposes):
        wanted = "one or more words, such as credit-decision"
        raise ConfigInvalid(f"{key}: purposes", source.purposes, wanted)


def check_purposes(views: Sequence[FeatureView], purposes: Sequence[str]) -> None:
    """Raise for an external view that may not be used for what the model uses features for.

    Raises:
        ConfigInvalid: a purpose is not allowed; the message names the view, its owner and the
            purpose.
    """
    for view in external(views):
        assert view.external is not None
        if not purposes:
            wanted = f"the model's purposes, as view {view.name} may be used for some purposes only"
            raise ConfigInvalid("PURPOSES in features.py", (), wanted)
        for purpose in sorted({*purposes} - {*view.external.purposes}):
            allowed = ", ".join(view.external.purposes)
            wanted = f"one of {allowed}; {view.external.owner} may allow more in the view's tags"
            raise ConfigInvalid(f"view {view.name}: purpose", purpose, wanted)
