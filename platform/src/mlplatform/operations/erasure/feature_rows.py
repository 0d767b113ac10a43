"""An entity's rows of external views over all models: found, counted, erased, and the places not
reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec

from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.decisions.topics.local_erasure import empty_messages
from mlplatform.learning.features.pushes.erasure import (
    IsAbout,
    Keys,
    RowCounts,
    ViewStores,
    erase_rows,
    known_keys,
    rows_of,
)
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import FeatureView, external
from mlplatform.model.folders import model_names
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable
from mlplatform.scoring import wiring as scoring_wiring
from mlplatform.scoring.worker.feature_stream import letters_of, topic_of

MOST_DIGITS: Final = 20
"""Most characters of a numeric key, including its sign."""
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""Decode a message to its raw fields: fields of a dead letter other than the key may hold invalid
values."""


class PlaceCount(msgspec.Struct, frozen=True):
    """The number of rows that one place held of an entity.

    Args:
        place: "journal of pushes", "table", "online store", or "topic NAME".
    """

    model: str
    view: str
    place: str
    rows: int


@dataclass(frozen=True, slots=True)
class Entity:
    """The entity of one model whose rows are meant.

    Args:
        field: name of the request field with the entity's key.
        unit: keyed hash of the key.
        key: the key as a request holds it; None if only its hash is known.
    """

    model: str
    field: str
    unit: int
    key: int | str | None = None


@dataclass(frozen=True, slots=True)
class FoundEntities:
    """One person as the entity of each model.

    Args:
        unread: sentences about models that can't be read now.
    """

    entities: Sequence[Entity]
    unread: Sequence[str]


@dataclass(frozen=True, slots=True)
class FoundViews:
    """External views that may hold rows of a person.

    Args:
        views: pairs of the model's entity and a view.
        unread: sentences about folders that are not searched.
    """

    views: Sequence[tuple[Entity, FeatureView]]
    unread: Sequence[str]

    @property
    def by_model(self) -> dict[str, list[str]]:
        """Model → names of its views."""
        found: dict[str, list[str]] = {}
        for entity, view in self.views:
            found.setdefault(entity.model, []).append(view.name)
        return found


def entities_of_unit(platform: Platform, unit: int, model: str | None) -> FoundEntities:
    """The entity of each model whose assignment unit is a field of the request."""
    definitions, unread = _definitions(platform, model)
    return FoundEntities(
        [
            Entity(name, one.assignment_unit, unit)
            for name, one in definitions.items()
            if one.assignment_unit in one.request
        ],
        unread,
    )


def entities_named(platform: Platform, named: str, model: str | None) -> FoundEntities:
    """The entity of that name in each model that declares it.

    Args:
        named: name and key of the entity, such as `customer=4711`.

    Raises:
        ConfigInvalid: the text is not a name and a key, the key has another type, or no model
            declares the entity.
    """
    name, separator, text = named.partition("=")
    if not separator or not name or not text:
        raise ConfigInvalid("--entity", name, "NAME=KEY, for example customer=4711")
    definitions, unread = _definitions(platform, model)
    there = {known for one in definitions.values() for known in one.entities}
    if name not in there:
        wanted = f"one of {', '.join(sorted(there))}" if there else "no entity, as no model has one"
        raise ConfigInvalid("--entity", name, wanted)
    found, secret = [], platform.pseudonym_key()
    for of, definition in definitions.items():
        if name in definition.entities:
            field = definition.entities[name]
            key = _key_of(text, definition.request[field].type, f"as {field} of {of} is")
            found.append(Entity(of, field, pseudonym(key, secret), key))
    return FoundEntities(found, unread)


def _key_of(text: str, kind: str, why: str) -> int | str:
    """A key in the type of the request's field; messages never contain it."""
    if kind != "int64":
        return text
    is_whole = text.isascii() and text.removeprefix("-").isdecimal() and len(text) <= MOST_DIGITS
    if not is_whole:
        raise ConfigUnusable("--entity", "its key is not a whole number", f"one, {why}")
    return int(text)


def views_of(platform: Platform, found: FoundEntities) -> FoundViews:
    """External views whose join key is one of these entities."""
    views, unread = list[tuple[Entity, FeatureView]](), list(found.unread)
    for entity in found.entities:
        declared = external(platform.views(entity.model))
        views += [(entity, view) for view in declared if view.join_key == entity.field]
        folder = platform.settings.home.offline(entity.model) / "external"
        known = {view.name for view in declared}
        unread += [
            f"{one}: rows of a view that {entity.model} does not declare any more; remove it"
            for one in sorted(folder.glob("*"))
            if one.name not in known
        ]
    models = set(model_names())
    unread += [
        f"{one}: of a model that has no folder any more; put its folder back, or remove it"
        for one in sorted((platform.settings.home.root / "offline").glob("*"))
        if one.name not in models and (one / "external").is_dir()
    ]
    return FoundViews(views, unread)


def count_rows(platform: Platform, found: FoundViews) -> list[PlaceCount]:
    """The number of rows in each place; erases nothing."""
    counted: list[PlaceCount] = []
    for entity, view in found.views:
        counted += _letters(platform, entity, view, dry_run=True)
        with _stores(platform, entity, view) as stores:
            whose = _row_match(platform, entity)
            keys = known_keys(stores, whose) if callable(whose) else whose
            at_ms = platform.clock.event_ms()
            counted += _places(entity, view, rows_of(stores, keys, at_ms))
    return counted


def erase_feature_rows(
    platform: Platform,
    found: FoundViews,
    known: Set[tuple[str, str]],
    record: Callable[[str, str], None],
) -> list[PlaceCount]:
    """Erase all these rows; returns the number of rows erased from each place.

    If it is killed at any point, the next call does the rest.

    Args:
        known: model and view of each erasure that is recorded already.
        record: called with model and view before the first row is erased from a view that is not in
            `known`. Such a row may come from an import that ends while this function waits for it.

    Raises:
        Unavailable: a store does not answer; call again.
    """
    erased: list[PlaceCount] = []
    for entity, view in found.views:
        # first: unread messages would otherwise arrive after the rest is erased
        erased += _letters(platform, entity, view, dry_run=False)
        with _stores(platform, entity, view) as stores:
            is_known = (entity.model, view.name) in known
            before = None if is_known else partial(record, entity.model, view.name)
            gone = erase_rows(stores, _row_match(platform, entity), platform.clock.event_ms, before)
            erased += _places(entity, view, gone)
    return erased


def not_reached(platform: Platform, found: FoundViews) -> list[str]:
    """Sentences on places outside of the platform that may hold such rows, and what to do about
    each."""
    settings, sentences = platform.settings, list(found.unread)
    for entity, view in found.views:
        assert view.external is not None
        named = f"{entity.model}/{view.name}"
        sentences.append(
            f"the table behind {named} (ask {view.external.owner}): take the rows out there first;"
            " an import or push brings them back"
        )
        topic = topic_of(view)
        if topic is not None and settings.kafka:
            sentences.append(
                f"Kafka, topics {topic} and {letters_of(topic)}: messages stay for their retention"
                " (dead letters 14 days); kafka-delete-records.sh removes the messages of a"
                " partition up to an offset"
            )
        elif topic is not None:
            sentences.append(
                f"dead letters of {topic} that are not a JSON object, or have no key in"
                f" {view.join_key}: nobody can tell whose they are; they go after 14 days"
            )
    if found.views and settings.postgres is not None:
        sentences.append(
            "PostgreSQL: `VACUUM FULL pushes` removes old versions of rows; its archives of changes"
            " and copies go by their own rules"
        )
    if found.views and settings.redis is not None:
        sentences.append("Redis: its snapshot and append-only file, until it writes them anew")
    if found.views and (settings.postgres is not None or settings.redis is not None):
        sentences.append("other homes at these servers: tables that they took; run it there too")
    copies = sorted(settings.home.staging.glob("features-*"))
    sentences += [f"{one}: a copy of an import that was killed; remove it" for one in copies]
    return sentences


def _definitions(
    platform: Platform, model: str | None
) -> tuple[dict[str, ModelDefinition], list[str]]:
    """Definitions of one model, or of all readable ones, and sentences on the unreadable ones."""
    if model is not None:
        return {model: platform.definition(model)}, []
    found, unread = {}, []
    for name in model_names():
        try:
            platform.views(name)
            found[name] = platform.definition(name)
        except (ConfigInvalid, OSError) as error:
            unread.append(
                f"rows of {name}: its folder cannot be read ({error}); correct that, then erase"
                " again"
            )
    return found, unread


def _row_match(platform: Platform, entity: Entity) -> Keys | IsAbout:
    """The entity's key as its rows hold it, or a function that recognises it among theirs."""
    if platform.definition(entity.model).request[entity.field].pseudonymous:
        return {entity.unit}
    if entity.key is not None:
        return {entity.key}
    secret = platform.pseudonym_key()
    return lambda key: pseudonym(key, secret) == entity.unit


@contextmanager
def _stores(platform: Platform, entity: Entity, view: FeatureView) -> Iterator[ViewStores]:
    pushes = platform.pushes if scoring_wiring.has_pushes(platform.settings) else None
    online = platform.online(entity.model, [view])
    parts = platform.offline(entity.model).external(view.name)
    try:
        yield ViewStores(entity.model, view, pushes, parts, online)
    finally:
        online.close()


def _letters(
    platform: Platform, entity: Entity, view: FeatureView, *, dry_run: bool
) -> Iterator[PlaceCount]:
    """Count or erase messages in embedded topics, which hold keys as they were sent."""
    topic = topic_of(view)
    if topic is None or platform.settings.kafka:
        return
    is_about = _is_about(entity, platform.pseudonym_key())
    path = platform.settings.home.topics_db
    for name in (topic, letters_of(topic)):
        count = empty_messages(path, name, is_about, dry_run=dry_run)
        yield PlaceCount(entity.model, view.name, f"topic {name}", count)


def _is_about(entity: Entity, secret: bytes) -> Callable[[bytes], bool]:
    def is_about(value: bytes) -> bool:
        try:
            raw = _fields(value).get(entity.field)
            key = None if raw is None else msgspec.json.decode(raw)
        except NOT_JSON:
            return False
        if isinstance(key, float) and key.is_integer():  # 4711.0
            key = int(key)
        return key is not None and pseudonym(key, secret) == entity.unit

    return is_about


def _places(entity: Entity, view: FeatureView, counts: RowCounts) -> list[PlaceCount]:
    named: Mapping[str, int] = {
        "journal of pushes": counts.journal,
        "table": counts.table,
        "online store": counts.online,
    }
    return [PlaceCount(entity.model, view.name, place, n) for place, n in named.items()]
