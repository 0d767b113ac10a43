"""The thresholds by which the log's records were decided, without deciding again."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.inputs import recorded_plan
from mlplatform.model.policies.cut_offs import RowThresholds
from mlplatform.runtime.errors import PlatformError

MOST_BUNDLES: Final = 8
"""Bundles that are kept in memory; one has a few hundred kilobytes."""
_DECIDED: Final = ("decision", "shadow")


def record_thresholds(
    rows: Sequence[Mapping[str, Any]], bundles: Path
) -> list[RowThresholds | None]:
    """The thresholds that decided each record of one decision; None where no thresholds did, and
    where its bundle or its payload is not here.

    Args:
        rows: records of the decision as the log returns them, with parsed payloads.
    """
    payloads = (row["payload"] for row in rows if row["kind"] == "decision")
    asked = next(payloads, None) or {}
    return [_thresholds(row, asked, bundles) for row in rows]


def _thresholds(
    row: Mapping[str, Any], asked: Mapping[str, Any], bundles: Path
) -> RowThresholds | None:
    if row["kind"] not in _DECIDED or row["score"] is None or row["bundle"] is None:
        return None
    folder = bundles / row["bundle"]
    if not folder.is_dir():
        return None
    try:
        bundle = _bundle(folder, row["bundle"])
        return None if bundle.scale.by_class else _of_bundle(bundle, row, asked)
    except PlatformError:
        return None  # an explanation, which a person asks for, tells what is wrong


def _of_bundle(
    bundle: Bundle, row: Mapping[str, Any], asked: Mapping[str, Any]
) -> RowThresholds | None:
    small = bundle.small_model if row["answered_by"] == "small_model" else None
    if not bundle.segment_thresholds:
        return bundle.row_thresholds((), small)
    if "request" not in asked:
        return None
    views = load_views(model_folder(row["model"]))
    plan = recorded_plan(load_definition(row["model"]), views, bundle)
    values = plan.row(asked["request"], row["event_ms"], asked.get("features") or {})
    return bundle.row_thresholds(values, small)


@functools.lru_cache(maxsize=MOST_BUNDLES)
def _bundle(folder: Path, digest: str) -> Bundle:
    return load_bundle(folder, digest, data=False)
