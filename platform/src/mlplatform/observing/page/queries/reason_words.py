"""The codes of reasons in records, and their words from a model's present folder."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import ANSWERED
from mlplatform.model.definition import ModelDefinition, declared_names
from mlplatform.model.folders import model_folder
from mlplatform.model.rules import parse_reasons, parse_rules
from mlplatform.runtime.errors import PlatformError

MOST_FILES: Final = 64
"""Most files that stay parsed, because parsing takes ten times as long as the rest of a page."""


class _ReasonsPayload(msgspec.Struct):
    """The part of a payload that is read here; the rest is skipped."""

    reasons: list[Any] | None = None


_decode = msgspec.json.Decoder(_ReasonsPayload).decode


def codes_of(payload: str | None) -> tuple[str, ...]:
    """The codes of the reasons in a record's payload; empty if the payload is erased, or holds
    none."""
    try:
        held = _ReasonsPayload() if payload is None else _decode(payload)
    except msgspec.DecodeError:
        return ()
    return tuple(map(str, held.reasons or ()))


def with_code(table: pa.Table, code: str) -> pa.Table:
    """The records of which a reason has this code.

    Args:
        table: records with their payloads.
    """
    # Most payloads are told apart by their text alone, which takes a tenth of the time.
    written = msgspec.json.encode(code).decode()
    near = table.filter(pc.match_substring(pc.field("payload"), written))
    payloads = near.column("payload").to_pylist()
    return near.filter(pa.array([code in codes_of(text) for text in payloads], pa.bool_()))


def with_reasons(
    read: Callable[[RecordQuery], pa.Table], rows: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], ...]:
    """The rows of a search with the codes of their reasons; the payloads of these rows alone are
    read, and none if the search has read them."""
    without = [row for row in rows if "reasons" not in row]
    if not without:
        return tuple(rows)
    times, models = [row["event_ms"] for row in without], {row["model"] for row in without}
    held = read(
        RecordQuery(
            model=models.pop() if len(models) == 1 else None,
            kinds=ANSWERED,
            from_ms=min(times),
            to_ms=max(times) + 1,
            decision_ids=tuple(dict.fromkeys(row["decision_id"] for row in without)),
            columns=("writer", "seq", "payload"),
        )
    )
    codes = {(one["writer"], one["seq"]): codes_of(one["payload"]) for one in held.to_pylist()}
    return tuple({"reasons": codes.get((row["writer"], row["seq"]), ()), **row} for row in rows)


def reason_words(definition: ModelDefinition) -> Mapping[str, str]:
    """Code → words for analysts, of reasons and rules; codes of a file that can't be read are
    missing.

    A code of an earlier bundle may no longer be in the folder, and then has no words.
    """
    folder = model_folder(definition.name)
    inputs = declared_names(definition.inputs)
    found: dict[str, str] = {}
    with contextlib.suppress(OSError, PlatformError):
        path = folder / "reasons.yaml"
        found |= _reasons(path, _status(path), inputs)
    with contextlib.suppress(OSError, PlatformError):
        path = folder / "rules.yaml"
        found |= _rules(path, _status(path), inputs, definition.decision.scale.names)
    return found


def _status(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


@functools.lru_cache(maxsize=MOST_FILES)
def _reasons(
    path: Path, status: tuple[int, int, int], inputs: tuple[str, ...]
) -> Mapping[str, str]:
    found = parse_reasons(path.read_text(), source=path.name, inputs=inputs)
    return {reason.code: reason.analyst for reason in found.values()}


@functools.lru_cache(maxsize=MOST_FILES)
def _rules(
    path: Path, status: tuple[int, int, int], inputs: tuple[str, ...], decisions: tuple[str, ...]
) -> Mapping[str, str]:
    found = parse_rules(path.read_text(), source=path.name, inputs=inputs, decisions=decisions)
    return {rule.code: rule.text for rule in found}
