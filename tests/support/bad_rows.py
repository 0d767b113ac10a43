"""Rows of the view `bureau` that no sender may bring in, as bytes of JSON, each for one reason."""

from __future__ import annotations

import json
from typing import Any

FAULTS: dict[str, dict[str, Any]] = {
    "a key of text": {"customer_id": "7"},
    "a key that is null": {"customer_id": None},
    "a key of fractions": {"customer_id": 7.5},
    "a key below its bounds": {"customer_id": -1},
    "a key beyond 64 bits": {"customer_id": 2**63},
    "a key that is a truth": {"customer_id": True},
    "a key that is a list": {"customer_id": [7]},
    "a time without a zone": {"as_of": "2026-01-01T00:00:00"},
    "a time that is no day": {"as_of": "2026-02-30T00:00:00Z"},
    "a time of 1969": {"as_of": "1969-12-31T23:59:59Z"},
    "a time below 0": {"as_of": -1},
    "a time beyond all clocks": {"as_of": 2**70},
    "a time that is a truth": {"as_of": True},
    "a time that is null": {"as_of": None},
    "a number as text": {"bureau_score": "612.5"},
    "a number as a list": {"bureau_score": [612.5]},
    "a number as a truth": {"bureau_score": True},
    "a whole number of fractions": {"open_loans": 1.5},
    "a whole number beyond floats": {"open_loans": 2**53 + 1},
    "a whole number as text": {"open_loans": "2"},
    "a truth as a number": {"is_listed": 1},
    "a truth as text": {"is_listed": "true"},
    "a column that the view does not have": {"known_at": 1},
}


def bad_rows(good: dict[str, Any], later_ms: int) -> dict[str, bytes]:
    """What is wrong → the row.

    Args:
        good: a right row.
        later_ms: an event time that is to come.
    """
    text = json.dumps(good)
    number = json.dumps(good["bureau_score"])
    found = {name: json.dumps(good | change).encode() for name, change in FAULTS.items()}
    found["a time to come"] = json.dumps(good | {"as_of": later_ms}).encode()
    for name in good:
        rest = {key: value for key, value in good.items() if key != name}
        found[f"no {name}"] = json.dumps(rest).encode()
    for name in ("NaN", "Infinity", "-Infinity", "1e999"):
        found[name] = text.replace(f'"bureau_score": {number}', f'"bureau_score": {name}').encode()
    found |= {
        "a column twice": text.replace('"open_loans"', '"open_loans": 1, "open_loans"').encode(),
        "two rows in one": f"{text}{text}".encode(),
        "a row that is cut": text[:-9].encode(),
        "a comma too many": text.replace("}", ",}").encode(),
        "a list of rows": f"[{text}]".encode(),
        "null": b"null",
        "a number alone": b"1",
        "nothing": b"",
        "bytes that are no text": b"\xff\xfe" + text.encode(),
        "lists without end": b"[" * 10_000,
    }
    assert len(set(found.values())) == len(found) >= 40
    return found
