"""The body of a request that names several items: the fields that they share, and those of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from mlplatform.model.definition import EVENT_TIME, ModelDefinition
from mlplatform.model.policies.ranking import ITEMS, RankingPolicy
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.request.payloads import (
    EventTime,
    ScoreRequest,
    body_struct,
    decoded_once,
    epoch_ms,
    field_type,
    not_listed,
)

_SOME: Final = f"{ITEMS}[...]"
"""What msgspec calls an item in its messages, whichever it is."""


class _Items(msgspec.Struct, frozen=True):
    items: list[msgspec.Raw]


_items = msgspec.json.Decoder(_Items).decode


class RankRequest(ScoreRequest, frozen=True, gc=False):
    """One request with several items, as it was sent, validated.

    Args:
        items: for each item, the fields of a request about it alone, not pseudonymised.
    """

    items: tuple[dict[str, Any], ...]


class RankingBodies:
    """Parses the bodies of one model that puts items in order."""

    def __init__(self, definition: ModelDefinition, policy: RankingPolicy) -> None:
        self.policy = policy
        optional, unit = definition.optional, definition.assignment_unit
        fields: dict[str, Any] = {}
        for name, field in definition.request.items():
            kind = field_type(field, is_unit=name == unit)
            fields[name] = (name, kind | None, None) if name in optional else (name, kind)
        own = [shape for name, shape in fields.items() if name in policy.items]
        shared = [shape for name, shape in fields.items() if name not in policy.items]
        self.item: type[msgspec.Struct] = body_struct(definition.name, "Item", own)
        listed = Annotated[list[self.item], Meta(min_length=1, max_length=policy.most)]  # type: ignore[name-defined]
        shape = [*shared, (EVENT_TIME, EventTime), (ITEMS, listed)]
        self.request: type[msgspec.Struct] = body_struct(definition.name, "Ranking", shape)
        self._decoder = msgspec.json.Decoder(self.request)
        self._item = msgspec.json.Decoder(self.item)
        self._encoder = msgspec.json.Encoder()
        self._names = tuple(definition.request)
        self._added = definition.declared_optional
        self._closed = {
            name: frozenset(field.values)
            for name, field in definition.request.items()
            if field.values is not None
        }

    def parse(self, body: bytes) -> RankRequest:
        """The request in a body.

        Raises:
            Problem: 400 (not JSON), or 422 with the name of the field, `items[3].offer` for one of
                an item.
        """
        try:
            shared = msgspec.structs.asdict(decoded_once(self._decoder, body))
        except Problem as problem:
            raise self._numbered(body, problem) from problem
        items = [msgspec.structs.asdict(item) for item in shared.pop(ITEMS)]
        event_ms = epoch_ms(shared.pop(EVENT_TIME))
        self._check_listed(shared, "")
        for number, item in enumerate(items):
            self._check_listed(item, f"{ITEMS}[{number}].")
        sent = self._sent(shared)
        canonical = self._encoder.encode((sent, event_ms, [self._sent(item) for item in items]))
        whole = tuple(
            {n: (item if n in item else shared)[n] for n in self._names} for item in items
        )
        return RankRequest(shared, sent, event_ms, canonical, None, items=whole)

    def _numbered(self, body: bytes, problem: Problem) -> Problem:
        """The problem with the number of the item that it is about."""
        details = problem.details
        if _SOME not in (details.field or ""):
            return problem
        for number, item in enumerate(_items(body).items):
            try:
                self._item.decode(item)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                detail, field = (
                    text.replace(_SOME, f"{ITEMS}[{number}]")
                    for text in (details.detail, details.field or "")
                )
                return Problem(details.status, problem.name, detail, field=field)
        return problem

    def _check_listed(self, fields: Mapping[str, Any], prefix: str) -> None:
        for name, value in fields.items():
            allowed = self._closed.get(name)
            if allowed is not None and value is not None and value not in allowed:
                raise not_listed(f"{prefix}{name}", allowed)

    def _sent(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        left_out = {name for name in self._added if fields.get(name, name) is None}
        return {name: value for name, value in fields.items() if name not in left_out}
