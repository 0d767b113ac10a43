"""What a feature is: an aggregate over a window of an entity's past, read from features.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import ConfigInvalid

FILE = "features.json"
Aggregate = Literal["count", "mean", "std", "max", "label_share"]
OF_COLUMN: Final[frozenset[Aggregate]] = frozenset(("mean", "std", "max"))
MissingPolicy = Literal["default", "degrade", "refuse"]
StalePolicy = Literal["fallback", "degrade", "refuse"]


class Feature(Protocol):
    """What serving asks of a feature's declaration."""

    @property
    def name(self) -> str: ...
    @property
    def missing(self) -> MissingPolicy: ...
    @property
    def default(self) -> float | None: ...


class FeatureSource(Protocol):
    """Features that are there together or not at all: a view, or the windows of an entity."""

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
    """One feature: the aggregate of a column over `window_days` that end `delay_days` ago.

    Args:
        aggregate: requests counted, the mean, population standard deviation or largest of
            `column`, or the share labelled 1.
        column: a request field for those three, otherwise None.
        delay_days: how many days before the snapshot the window ends. A label_share needs none: it
            counts the labels that had arrived.
        missing: what happens where the entity has no row: that is ordinary, and the answer says
            so (`default`), the answer is degraded (`degrade`), or there is none (`refuse`).
        default: the value that training and serving put where there is none; None leaves it
            missing to the model.
    """

    name: str
    dtype: Literal["float64"]
    aggregate: Aggregate
    column: str | None
    window_days: int
    delay_days: int
    missing: MissingPolicy
    default: float | None


class FeatureView(_Strict, frozen=True):
    """The features of one entity, written together and valid for `ttl_ms`.

    Args:
        stale: what happens where the view's newest snapshot is older than that, or the store does
            not answer: no model is asked, and what stands behind the models decides (`fallback`),
            the model is asked without these features (`degrade`), or there is no answer (`refuse`).
            The first two degrade the answer.
    """

    name: str
    entity: str
    join_key: str
    ttl_ms: int
    fields: tuple[FeatureField, ...]
    stale: StalePolicy = "fallback"

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields)


class FeatureFile(_Strict, frozen=True):
    """A features.json: rendered from a model's Feast definitions, which are the source of truth."""

    generated: str
    model: str
    views: tuple[FeatureView, ...]


def load_views(folder: Path) -> tuple[FeatureView, ...]:
    """The feature views of a model folder, in the order of its definitions; none of a folder that
    defines none.

    Raises:
        ConfigInvalid: names the file, the key and what is wanted.
    """
    path = folder / FILE
    if not path.exists() and not (folder / "features.py").exists():
        return ()
    try:
        content = msgspec.json.decode(path.read_bytes(), type=FeatureFile)
    except (OSError, *NOT_JSON) as error:
        raise ConfigInvalid(
            f"{folder.name}/{FILE}",
            str(error),
            "the output of python -m mlplatform.learning.features.feast_repo",
        ) from error
    check(content.views)
    return content.views


def check(views: tuple[FeatureView, ...]) -> None:
    """Refuse definitions that cannot be compiled.

    Raises:
        ConfigInvalid: names the feature and what is wanted.
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
    for field in (f for v in views for f in v.fields):
        key = f"feature {field.name}"
        if field.window_days <= 0:
            raise ConfigInvalid(f"{key}: window_days", field.window_days, "1 or more")
        if field.delay_days < 0:
            raise ConfigInvalid(f"{key}: delay_days", field.delay_days, "0 or more")
        if field.default is not None and not math.isfinite(field.default):
            raise ConfigInvalid(f"{key}: default", field.default, "a finite number or null")
        if (field.column is not None) != (field.aggregate in OF_COLUMN):
            wanted = "a request field, for mean, std and max alone"
            raise ConfigInvalid(f"{key}: column", field.column, wanted)
