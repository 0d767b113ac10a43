"""Feature definitions: what cannot be compiled is refused by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.external_world import BUREAU

from mlplatform.model.features.views import FILE, FeatureField, FeatureView, check, load_views
from mlplatform.runtime.errors import ConfigInvalid

FIELD = FeatureField(
    name="seen",
    dtype="float64",
    aggregate="count",
    column=None,
    window_days=1,
    delay_days=0,
    missing="default",
    default=None,
)
VIEW = FeatureView(
    name="stats", entity="customer", join_key="customer_id", ttl_ms=1, fields=(FIELD,)
)


def changed(**changes: Any) -> FeatureField:
    return msgspec.structs.replace(FIELD, **changes)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ((), "view stats: fields"),
        ((FIELD, FIELD), "feature seen"),
        ((changed(window_days=0),), "seen: window_days is 0"),
        ((changed(delay_days=-1),), "seen: delay_days is -1"),
        ((changed(aggregate="mean"),), "seen: column is missing"),
        ((changed(column="amount"),), "seen: column is 'amount'"),
        ((changed(default=math.inf),), "seen: default is inf"),
        ((changed(name="1; DROP"),), "name is '1; DROP'"),
        ((FIELD, changed(name="Seen")), r"features is \('Seen', 'seen'\)"),
    ],
    ids=[
        "no feature",
        "a name twice",
        "an empty window",
        "a look into the future",
        "a mean of nothing",
        "a count of a column",
        "a default that is no number",
        "a name that is none",
        "names that differ in case",
    ],
)
def test_a_view_that_cannot_be_compiled_is_refused(
    fields: tuple[FeatureField, ...], problem: str
) -> None:
    with pytest.raises(ConfigInvalid, match=problem):
        check((msgspec.structs.replace(VIEW, fields=fields),))


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("Bureau_Score", r"features is \('Bureau_Score', 'bureau_score'\)"),
        ("AS_OF", r"view bureau: columns is \('AS_OF', 'as_of'\)"),
        ("Customer_id", r"columns is \('Customer_id', 'customer_id'\)"),
        ("Created", "feature is 'Created'"),
    ],
)
def test_columns_of_a_bank_that_differ_in_case_alone_are_refused_by_name(
    column: str, problem: str
) -> None:
    fields = BUREAU.fields
    named = (*fields[:2], msgspec.structs.replace(fields[2], name=column))
    with pytest.raises(ConfigInvalid, match=problem):
        check((msgspec.structs.replace(BUREAU, fields=named),))
    check((BUREAU,))


def test_views_whose_names_differ_in_case_alone_are_refused() -> None:
    other = msgspec.structs.replace(VIEW, name="Stats", fields=(changed(name="other"),))
    with pytest.raises(ConfigInvalid, match=r"views is \('Stats', 'stats'\)"):
        check((VIEW, other))


@pytest.mark.parametrize("content", [None, "{", '{"model": "fraud"}'])
def test_a_missing_or_broken_file_says_how_to_make_it(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "features.py").touch()
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(ConfigInvalid, match="mlplatform features render"):
        load_views(tmp_path)


def test_a_folder_that_defines_no_views_has_none(tmp_path: Path) -> None:
    assert load_views(tmp_path) == ()
