"""Bodies of pushes: right ones become stored rows, wrong ones name the row and the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.external_world import BUREAU

from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.learning.features.pushes.journal import PushedRow
from mlplatform.model.definition import RequestField
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.pushes.rows import RowsBody

KEY = bytes(32)
NOW_MS = 1_800_000_000_500
FIELD = RequestField(type="int64", minimum=0, maximum=9, pseudonymous=True)
ROW: dict[str, Any] = {
    "customer_id": 7,
    "as_of": NOW_MS - 5_000,
    "bureau_score": 612.5,
    "open_loans": 2,
    "is_listed": None,
}


def rows(*sent: Any, field: RequestField = FIELD, **more: Any) -> tuple[PushedRow, ...]:
    body = json.dumps({"rows": list(sent), **more}).encode()
    return RowsBody("a-model", BUREAU, field, KEY).rows(body, NOW_MS)


def test_a_row_is_stored_with_a_pseudonym_and_whole_seconds() -> None:
    later = ROW | {"as_of": "2027-01-15T09:00:00+01:00", "bureau_score": 3, "is_listed": True}
    assert rows(ROW, later) == (
        PushedRow(pseudonym(7, KEY), 1_799_999_995, (612.5, 2.0, None)),
        PushedRow(pseudonym(7, KEY), 1_800_000_000, (3.0, 2.0, 1.0)),
    )


def test_a_text_key_that_is_no_pseudonym_is_stored_as_it_is() -> None:
    field = RequestField(type="string", values=("a", "b"))
    assert rows(ROW | {"customer_id": "a"}, field=field)[0].key == "a"
    for key in ("c", ""):
        with pytest.raises(Problem, match=r"rows\[0\]: customer_id must"):
            rows(ROW | {"customer_id": key}, field=field)


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"customer_id": -1}, "rows[0].customer_id", "0 or more"),
    ({"customer_id": "7"}, "rows[0].customer_id", ""),
    ({"customer_id": None}, "rows[0].customer_id", ""),
    ({"customer_id": 7.5}, "rows[0].customer_id", ""),
    ({"as_of": NOW_MS + 1_000}, "rows[0].as_of", "1 s after the platform's clock"),
    ({"as_of": -1}, "rows[0].as_of", ""),
    ({"as_of": 2**70}, "rows[0].as_of", ""),
    ({"as_of": "1969-01-01T00:00:00Z"}, "rows[0].as_of", "1970"),
    ({"as_of": "2026-01-01T00:00:00"}, "rows[0].as_of", ""),
    ({"as_of": True}, "rows[0].as_of", ""),
    ({"bureau_score": "1"}, "rows[0].bureau_score", ""),
    ({"bureau_score": [1]}, "rows[0].bureau_score", ""),
    ({"open_loans": 1.5}, "rows[0].open_loans", ""),
    ({"open_loans": 2**53 + 1}, "rows[0].open_loans", ""),
    ({"is_listed": 1}, "rows[0].is_listed", ""),
    ({"known_at": NOW_MS}, "rows[0].known_at", ""),
]


@pytest.mark.parametrize(("change", "field", "words"), WRONG, ids=lambda one: str(one)[:40])
def test_a_wrong_row_is_named_with_its_field(
    change: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(Problem) as refused:
        rows(ROW | change)
    assert (refused.value.status, refused.value.details.field) == (422, field)
    assert words in refused.value.details.detail


def test_a_message_of_a_clock_that_is_ahead_holds_from_its_arrival() -> None:
    body = RowsBody("a-model", BUREAU, FIELD, KEY)
    for ahead_s in (0, 1, 30):
        sent = json.dumps(ROW | {"as_of": NOW_MS + ahead_s * 1_000}).encode()
        assert body.row(sent, NOW_MS).event_s == NOW_MS // 1000
    with pytest.raises(Problem, match="31 s after the platform's clock"):
        body.row(json.dumps(ROW | {"as_of": NOW_MS + 31_000}).encode(), NOW_MS)


@pytest.mark.parametrize("name", ROW)
def test_a_row_without_a_column_is_refused(name: str) -> None:
    with pytest.raises(Problem, match=f"field {name} is missing"):
        rows({key: value for key, value in ROW.items() if key != name})


def test_one_wrong_row_of_a_thousand_refuses_all_and_more_are_too_many() -> None:
    sent = [ROW | {"as_of": NOW_MS - 1_000 * n} for n in range(1_000)]
    assert len(rows(*sent)) == 1_000
    with pytest.raises(Problem, match=r"rows\[999\]"):
        rows(*sent[:-1], sent[0])
    for wrong in ([], [*sent, ROW]):
        with pytest.raises(Problem) as refused:
            rows(*wrong)
        assert refused.value.details.field == "rows"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", b'{"rows": 1}', b'{"rows": [1]}', b"[" * 10_000, b"null",
     b'{"rows": [], "rows": []}', b'{"rows": [{"customer_id": 7, "customer_id": 7}]}',
     b'{"rows": [{"bureau_score": 1e999}]}', b'{"rows": [{"bureau_score": NaN}]}'],
    ids=lambda one: one[:24].decode("latin-1"),
)  # fmt: skip
def test_what_is_no_push_is_refused(body: bytes) -> None:
    with pytest.raises(Problem) as refused:
        RowsBody("a-model", BUREAU, FIELD, KEY).rows(body, NOW_MS)
    assert refused.value.status in (400, 422)


def test_a_member_that_stands_twice_is_refused() -> None:
    text = json.dumps({"rows": [ROW]}).replace(
        '"open_loans": 2', '"open_loans": 2, "open_loans": 3'
    )
    with pytest.raises(Problem, match="open_loans"):
        RowsBody("a-model", BUREAU, FIELD, KEY).rows(text.encode(), NOW_MS)


def test_no_message_shows_a_key_that_is_a_pseudonym() -> None:
    field = replace(FIELD, maximum=None)
    twice = ROW | {"customer_id": 424242}
    with pytest.raises(Problem) as refused:
        rows(twice, twice, field=field)
    assert "424242" not in refused.value.details.detail
