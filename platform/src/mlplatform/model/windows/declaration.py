"""A real-time window: an aggregate over an entity's requests until this one, in tiles."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Protocol

import msgspec
from msgspec import Meta

from mlplatform.model.features.views import MissingPolicy, StalePolicy
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.units import DAY_MS, HOUR_MS, MINUTE_MS

LONGEST_MS: Final = 90 * DAY_MS
MOST_TILES: Final = 400
"""Most tiles of one window, so that an entity takes bounded space however many requests it has."""
MOST_WINDOWS: Final = 100
MOST_STEPS: Final = 2**36
"""Largest value in steps of its last digit. A number this large, squared and added 8 million times,
is exact."""
_UNIT_MS: Final = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}

Span = Annotated[str, Meta(pattern=r"\A[1-9][0-9]{0,4}[mhd]\Z")]
"""A whole number of minutes, hours or days, like `10m`, `6h` or `30d`."""
Aggregate = Literal[
    "count",
    "sum",
    "mean",
    "std",
    "min",
    "max",
    "seconds_since",
    "rate",
    "share",
    "first",
    "last",
    "distinct",
    "ratio",
]
OF_VALUES: Final[frozenset[Aggregate]] = frozenset(
    ("sum", "mean", "std", "min", "max", "first", "last")
)
"""Aggregates of a number; the others count requests, or divide two windows."""
Comparison = Literal["==", "!=", ">", ">=", "<", "<="]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown and missing keys are errors."""


class Filter(_Strict, frozen=True):
    """A filter on requests: a window counts those whose request field compares as declared.

    Args:
        field: name of the request field.
        op: how the field is compared with the value.
        value: what the field is compared with, of the field's own kind.
    """

    field: str
    op: Comparison
    value: float | int | str | bool


class Window(_Strict, frozen=True):
    """One feature: an aggregate over the requests of an entity before this one.

    Time is cut into tiles of `resolution`. A window at t covers the tile of t - delay as far as it
    is known, and the window/resolution tiles before it: the window, and up to a tile more.

    Args:
        name: name of the feature, which inputs of kind `window` name.
        entity: an entity that a request field declares; the window counts requests with the same
            key.
        aggregate: what is computed: `first` and `last` are the oldest and newest value, `distinct`
            the number of different ones.
        window: length of the window: a whole number of minutes, hours or days (`10m`, `6h`, `30d`),
            90 days at most; None for `ratio`, which uses those of its two windows.
        resolution: length of a tile, of which a window has 400 at most; None for `ratio`.
        of: the request field that is aggregated: a number, or for `distinct` a text or a whole
            number; None where requests are counted. For `ratio`, the window that is divided.
        to: for `ratio`, the window by which it is divided.
        digits: decimal places of `of` that are used, so that sums are exact in any order.
        where: the condition on requests that count; None: all count.
        matching: for `share`, the condition on the counted requests.
        per: for `rate`, the time to which the number of requests refers.
        delay: time before the request at which the window ends; None: it ends at the request.
        missing: what happens if nothing is known of the entity: the default is used and the answer
            reports it (`default`), the answer is degraded (`degrade`), or there is no answer
            (`refuse`).
        default: value in training and serving if there is none, such as the mean of no requests;
            None: the model gets a missing value.
        stale: what happens if the state is missing or behind the log: the fallback decides instead
            of the model (`fallback`), the model decides without these features (`degrade`), or
            there is no answer (`refuse`). It is the same for all windows of an entity.
    """

    name: str
    entity: str
    aggregate: Aggregate
    window: Span | None = None
    resolution: Span | None = None
    of: str | None = None
    to: str | None = None
    digits: Annotated[int, Meta(ge=0, le=6)] = 2
    where: Filter | None = None
    matching: Filter | None = None
    per: Span | None = None
    delay: Span | None = None
    missing: MissingPolicy = "default"
    default: float | None = None
    stale: StalePolicy = "fallback"

    @property
    def length_ms(self) -> int:
        """The window's length in milliseconds; 0 for a ratio, which has no length of its own."""
        return span_ms(self.window) if self.window else 0

    @property
    def tile_ms(self) -> int:
        return span_ms(self.resolution) if self.resolution else 0

    @property
    def tiles(self) -> int:
        """The number of whole tiles before the open one."""
        return self.length_ms // self.tile_ms

    @property
    def delay_tiles(self) -> int:
        return span_ms(self.delay) // self.tile_ms if self.delay else 0


_LATER: Final = ("to", "matching", "per")
"""Keys that windows of earlier releases do not have."""


def as_written(windows: Sequence[Window]) -> dict[str, list[dict[str, Any]]]:
    """`windows` in plain values, without later keys that they do not use, so that what an earlier
    release digested keeps its digest; empty if there are none."""
    written = [
        {key: value for key, value in plain.items() if key not in _LATER or value is not None}
        for plain in map(msgspec.to_builtins, windows)
    ]
    return {"windows": written} if written else {}


class EntityWindows(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of one entity, which are present together or not at all."""

    name: str
    entity: str
    key: str
    ttl_ms: int
    fields: tuple[Window, ...]
    stale: StalePolicy

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields)


def by_entity(windows: Sequence[Window], keys: Mapping[str, str]) -> tuple[EntityWindows, ...]:
    """The windows of each entity, in the order in which entities are first named.

    Args:
        keys: entity → the request field that holds its key.
    """
    found: dict[str, list[Window]] = {}
    for window in windows:
        found.setdefault(window.entity, []).append(window)
    return tuple(
        EntityWindows(
            name=source_name(entity),
            entity=entity,
            key=keys[entity],
            ttl_ms=max(w.length_ms for w in members),
            fields=tuple(members),
            stale=members[0].stale,
        )
        for entity, members in found.items()
    )


def source_name(entity: str) -> str:
    """The name of an entity's windows in gaps."""
    return f"{entity}_windows"


def read_by(names: Collection[str], windows: Sequence[Window]) -> tuple[Window, ...]:
    """The windows of these names, and those that their ratios divide."""
    divided = {
        n for w in windows if w.aggregate == "ratio" and w.name in names for n in (w.of, w.to)
    }
    return tuple(w for w in windows if w.name in names or w.name in divided)


def check_same(trained: Sequence[Window], declared: Sequence[Window]) -> None:
    """Raise if windows are declared differently from those that a bundle was trained with.

    Raises:
        ConfigInvalid: a window is declared differently, or no longer declared; the message names
            it.
    """
    by_name = {window.name: window for window in declared}
    for window in trained:
        found = by_name.get(window.name)
        if found is None or msgspec.structs.replace(found, default=window.default) != window:
            wanted = "as in the bundle that reads it; a changed window gets a new name"
            raise ConfigInvalid(f"windows: {window.name}", found, wanted)


def span_ms(span: str) -> int:
    """Milliseconds of a `Span`."""
    return int(span[:-1]) * _UNIT_MS[span[-1]]


class _Field(Protocol):
    """The properties of a request field that are needed here; `model.definition.RequestField` has
    them."""

    @property
    def type(self) -> str: ...
    @property
    def entity(self) -> str | None: ...
    @property
    def pseudonymous(self) -> bool: ...
    @property
    def optional(self) -> bool: ...
    @property
    def minimum(self) -> float | None: ...
    @property
    def maximum(self) -> float | None: ...


Rule = tuple[bool, str, Any, str]


def rules(windows: Sequence[Window], request: Mapping[str, _Field]) -> Iterator[Rule]:
    """The rules of declared windows: whether each holds, the key, the value, and what is wanted."""
    names = [w.name for w in windows]
    differ = len({name.lower() for name in names}) == len(names)  # SQL ignores case
    yield differ, "windows", names, "names that differ in more than case"
    enough = len(windows) <= MOST_WINDOWS
    yield enough, "windows", len(windows), f"at most {MOST_WINDOWS}"
    entities = {f.entity for f in request.values() if f.entity is not None}
    for position, window in enumerate(windows):
        key = f"windows.{position}"
        named = window.name.isidentifier() and not window.name.startswith("_")
        named = named and window.name.lower() not in request
        wanted = "letters, digits and _, a letter first, and no request field's name"
        yield named, f"{key}.name", window.name, wanted
        known = window.entity in entities
        yield known, f"{key}.entity", window.entity, "an entity that a request field declares"
        yield from _needs(window, key)
        same = {w.stale for w in windows if w.entity == window.entity} == {window.stale}
        yield same, f"{key}.stale", window.stale, f"the same for all windows of {window.entity}"
        if window.aggregate == "ratio":
            yield from _divided(window, key, windows)
            continue
        yield from _lengths(window, key)
        yield from _value(window, key, request)
        for name in ("where", "matching"):
            yield from _filter(getattr(window, name), f"{key}.{name}", request)


_OF_SOME: Final[Mapping[str, tuple[frozenset[Aggregate], str]]] = {
    "of": (OF_VALUES | {"distinct", "ratio"}, "a request field"),
    "to": (frozenset(("ratio",)), "the window that is divided by"),
    "matching": (
        frozenset(("share",)),
        "a filter {field, op, value}: which requests are the share",
    ),
    "per": (frozenset(("rate",)), "a span like 1h: the time that the rate is for"),
}
"""Keys that some aggregates need and others must not have, and what is needed there."""


def _needs(window: Window, key: str) -> Iterator[Rule]:
    aggregate = window.aggregate
    for name, (of, wanted) in _OF_SOME.items():
        value = getattr(window, name)
        if aggregate not in of:
            wanted = f"no field for {aggregate}" if name == "of" else f"nothing for {aggregate}"
            yield value is None, f"{key}.{name}", value, wanted
        elif name != "of":  # the check of its type covers `of`
            yield value is not None, f"{key}.{name}", value, wanted
    is_ratio = aggregate == "ratio"
    for name in ("window", "resolution"):
        value = getattr(window, name)
        wanted = (
            "nothing for ratio: of and to have theirs" if is_ratio else "a span like 10m, 6h, 30d"
        )
        yield (value is None) == is_ratio, f"{key}.{name}", value, wanted
    if is_ratio:
        for name in ("where", "delay"):
            value = getattr(window, name)
            yield value is None, f"{key}.{name}", value, "nothing for ratio: of and to have theirs"


def _divided(window: Window, key: str, windows: Sequence[Window]) -> Iterator[Rule]:
    known = [w.name for w in windows if w.entity == window.entity and w.aggregate != "ratio"]
    wanted = f"a window of {window.entity} that is not a ratio: of {', '.join(known) or 'none'}"
    for name in ("of", "to"):
        value = getattr(window, name)
        yield value in known, f"{key}.{name}", value, wanted


def _lengths(window: Window, key: str) -> Iterator[Rule]:
    length_ms, tile_ms = window.length_ms, window.tile_ms
    if not length_ms or not tile_ms:
        return  # already reported
    yield length_ms <= LONGEST_MS, f"{key}.window", window.window, "at most 90d"
    whole = length_ms % tile_ms == 0
    yield whole, f"{key}.resolution", window.resolution, f"a whole part of {window.window}"
    few = length_ms // tile_ms <= MOST_TILES
    wanted = f"{window.window} in at most {MOST_TILES} parts"
    yield few, f"{key}.resolution", window.resolution, wanted
    if window.delay is not None:
        delay_ms = span_ms(window.delay)
        wanted = f"a multiple of the resolution {window.resolution}, at most 90d"
        fits = delay_ms % tile_ms == 0 and delay_ms <= LONGEST_MS
        fits = fits and delay_ms // tile_ms <= MOST_TILES
        yield fits, f"{key}.delay", window.delay, wanted


def _value(window: Window, key: str, request: Mapping[str, _Field]) -> Iterator[Rule]:
    of = window.of
    field = None if of is None else request.get(of)
    if window.aggregate == "distinct":
        is_countable = field is not None and (
            field.pseudonymous or field.type in ("int64", "string")
        )
        yield is_countable, f"{key}.of", of, "a request field of type int64 or string"
    if window.aggregate not in OF_VALUES:
        return
    numeric = field is not None and field.type in ("int64", "float64") and not field.pseudonymous
    yield numeric, f"{key}.of", of, "a request field of type int64 or float64"
    if field is None or not numeric:
        return
    # Windows share tiles, and a tile of values has no place for a request without one
    wanted = f"a field without request.{of}.optional: a request without it would count nowhere"
    yield not field.optional, f"{key}.of", of, wanted
    low, high = field.minimum, field.maximum
    most = MOST_STEPS / 10**window.digits
    bounded = low is not None and high is not None and max(abs(low), abs(high)) <= most
    wanted = (
        f"a field with request.{of}.minimum and .maximum within {most:.0f}"
        f" (or fewer digits than {window.digits}): its sums are exact then"
    )
    yield bounded, f"{key}.of", of, wanted


_MOST: Final = 1e300
"""Largest whole number that is accepted: YAML has whole numbers that no float holds."""


def _filter(where: Filter | None, key: str, request: Mapping[str, _Field]) -> Iterator[Rule]:
    if where is None:
        return
    field = request.get(where.field)
    known = field is not None and not field.pseudonymous
    yield known, f"{key}.field", where.field, "a request field that is not a pseudonym"
    if field is None:
        return
    kinds = {"string": str, "bool": bool}
    kind = kinds.get(field.type)
    if kind is not None:
        equal = where.op in ("==", "!=")
        yield equal, f"{key}.op", where.op, f"== or != for a field of type {field.type}"
        fits = type(where.value) is kind
    else:
        value = where.value
        fits = type(value) in (int, float) and abs(value) <= _MOST  # type: ignore[arg-type]
    yield fits, f"{key}.value", where.value, f"a value of type {field.type}"


def protected_rules(windows: Sequence[Window], protected: Collection[str]) -> Iterator[Rule]:
    """The rules that no window reads a protected field."""
    wanted = "nothing that is `protected`: take it out here, or out of protected"
    for position, window in enumerate(windows):
        read = {"of": window.of}
        for name in ("where", "matching"):
            found = getattr(window, name)
            read |= {} if found is None else {f"{name}.field": found.field}
        for name, value in read.items():
            yield value not in protected, f"windows.{position}.{name}", value, wanted
