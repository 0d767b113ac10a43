"""The rows of one external view as an application sends them; errors name the row and field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.learning.features.pushes.journal import PushedRow
from mlplatform.model.definition import RequestField, dns_name
from mlplatform.model.features.views import MOST_WHOLE, FeatureView, ValueType
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.times import duration_text, rfc3339_text, text_of_any
from mlplatform.scoring.request.payloads import (
    MAX_ITEMS,
    EventTime,
    decoded_once,
    epoch_ms,
    field_type,
)

SKEW_S: Final = 30
"""Seconds by which clocks of a topic's producers may be ahead, as for token issuers."""
_VALUES: Final[Mapping[ValueType, Any]] = {
    "float64": float | None,
    "int64": Annotated[int, Meta(ge=-MOST_WHOLE, le=MOST_WHOLE)] | None,
    "bool": bool | None,
}


class RowsBody:
    """Parses the bodies of pushes to one view. `types` are those of a row and of the body with its
    rows.

    Args:
        model: name of the model; with the view's name it names the types in documents.
        field: the request field whose value is the key.
        pseudonym_key: the secret by which keys become pseudonyms, if the field is pseudonymous.
    """

    def __init__(
        self, model: str, view: FeatureView, field: RequestField, pseudonym_key: bytes
    ) -> None:
        assert view.external is not None
        self._pseudonym_key = pseudonym_key
        self._event_time = view.external.event_time
        self._allowed = None if field.values is None else frozenset(field.values)
        title = "".join(p.capitalize() for p in dns_name(f"{model}-{view.name}").split("-"))
        columns: list[Any] = [
            (view.join_key, field_type(field)),
            (self._event_time, EventTime),
            *((f.name, _VALUES[f.dtype]) for f in view.fields),
        ]
        row: Any = msgspec.defstruct(
            f"{title}Row", columns, frozen=True, kw_only=True, forbid_unknown_fields=True
        )
        rows: Any = Annotated[list[row], Meta(min_length=1, max_length=MAX_ITEMS)]
        body = msgspec.defstruct(
            f"{title}Push", [("rows", rows)], frozen=True, forbid_unknown_fields=True
        )
        self.types: tuple[type[msgspec.Struct], type[msgspec.Struct]] = (row, body)
        self.field, self.view, self.owner = field, view, view.external.owner
        self._row_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(row)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(body)

    def rows(self, body: bytes, now_ms: int) -> tuple[PushedRow, ...]:
        """The rows of a body, with their keys in stored form.

        Args:
            now_ms: the present event time; a row with a later time is refused.

        Raises:
            Problem: 400 for a body that is not JSON; 422 with the row and field that is wrong.
        """
        sent = decoded_once(self._decoder, body).rows
        found: dict[tuple[int | str, int], PushedRow] = {}
        for number, row in enumerate(sent):
            try:
                stored = self._row_of(row, now_ms)
                if (stored.key, stored.event_s) in found:
                    name, time = self.view.join_key, self._event_time
                    detail = f"{name} and {time} (in whole seconds) are those of an earlier row"
                    raise Problem(422, "invalid-field", detail, field=name)
            except Problem as problem:
                raise problem.within(f"rows[{number}]") from problem
            found[stored.key, stored.event_s] = stored
        return tuple(found.values())

    def row(self, text: bytes, now_ms: int) -> PushedRow:
        """The row of a message. If its event time is up to `SKEW_S` ahead, it holds from now on,
        because nobody can send it again.

        Raises:
            Problem: for the same reasons as in `rows`.
        """
        return self._row_of(decoded_once(self._row_decoder, text), now_ms, SKEW_S)

    def _row_of(self, row: Any, now_ms: int, skew_s: int = 0) -> PushedRow:
        key, name = getattr(row, self.view.join_key), self.view.join_key
        if key == "":
            raise Problem(422, "invalid-field", f"{name} must not be empty", field=name)
        if self._allowed is not None and key not in self._allowed:
            detail = f"{name} must be one that model.yaml lists"
            raise Problem(422, "invalid-field", detail, field=name)
        event_s = self._event_s(getattr(row, self._event_time), now_ms, skew_s)
        values = tuple(
            None if (value := getattr(row, field)) is None else float(value)
            for field in self.view.feature_names
        )
        stored = pseudonym(key, self._pseudonym_key) if self.field.pseudonymous else key
        return PushedRow(stored, event_s, values)

    def _event_s(self, value: Any, now_ms: int, skew_s: int) -> int:
        name = self._event_time
        try:
            event_s = epoch_ms(value) // 1000
        except Problem as problem:
            detail = f"{name} must be from 1970 to now, in UTC"
            raise Problem(422, "invalid-field", detail, field=name) from problem
        if event_s > now_ms // 1000 + skew_s:
            detail = (
                f"{name} is {text_of_any(event_s * 1000, rfc3339_text)},"
                f" {duration_text(event_s - now_ms // 1000)} after the platform's clock: values"
                " that do not hold yet are not features; send them when they do"
            )
            raise Problem(422, "event-time", detail, field=name)
        return min(event_s, now_ms // 1000)
