"""A training set that holds too little is refused before the fit, with the days that would do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from msgspec import structs
from tests.support.training_rows import DEFINITION, NAMES, TO_MS, payments

from mlplatform.learning.training_sets.dataset import TrainingSet
from mlplatform.learning.training_sets.shortage import (
    FirstDays,
    Holdings,
    holdings,
    short_history,
    shortage,
)
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.runtime.times import day_text
from mlplatform.runtime.units import DAY_MS

ENOUGH = payments(1)
FROM_MS = TO_MS - DEFINITION.training.window_days * DAY_MS
WHOLE = FirstDays(FROM_MS - 9 * DAY_MS, {"customer_stats": FROM_MS - 9 * DAY_MS})


def without_values(data: TrainingSet, name: str) -> TrainingSet:
    x = data.rows.matrix.x.copy()
    x[:, NAMES.index(name)] = np.nan
    return replace(data, rows=replace(data.rows, matrix=replace(data.rows.matrix, x=x)))


def told_of(data: TrainingSet, first: FirstDays) -> str:
    return shortage(DEFINITION, holdings(DEFINITION, data), first, data.as_of_ms)


def test_a_training_set_that_holds_enough_lacks_nothing() -> None:
    assert told_of(ENOUGH, WHOLE) == ""


def test_few_rows_of_a_whole_window_are_counted() -> None:
    few = payments(1, per_day=20)
    positives = int(few.rows.y.sum())
    assert told_of(few, WHOLE) == (
        "420 requests; wanted: 5000 (training.minimum_rows); "
        f"{positives} positives; wanted: 50 (training.minimum_positives); "
        f"wanted: the 21 days (training.window_days) from {day_text(FROM_MS)} on, whose labels"
        f" matured by {day_text(few.as_of_ms)}; wait for more requests, train as of another day,"
        " or lower what is wanted in model.yaml"
    )


def test_a_history_that_begins_late_is_told_with_the_day_to_train_as_of() -> None:
    begins_ms = FROM_MS + 10 * DAY_MS + 1
    told = told_of(payments(1, per_day=20), FirstDays(begins_ms, {}))
    assert f"requests begin {day_text(begins_ms)}; wanted: the 21 days" in told
    could_ms = FROM_MS + (11 + 21 + DEFINITION.label.maturity_days) * DAY_MS
    assert (
        f"; train as of {day_text(could_ms)} or later (--as-of), with the requests until then"
        in told
    )
    assert told.endswith("or import the longer history into another home (MLPLATFORM_HOME=FOLDER)")


def test_an_input_without_a_value_is_named_with_the_snapshots_that_begin_late() -> None:
    empty = without_values(ENOUGH, "customer_count_1d")
    begins_ms = TO_MS + DAY_MS
    first = FirstDays(WHOLE.request_ms, {"customer_stats": begins_ms})
    told = told_of(empty, first)
    assert told.startswith("no value of customer_count_1d on the held-out days; ")
    assert f"; snapshots of customer_stats begin {day_text(begins_ms)}; wanted: " in told


def test_counts_alone_say_what_a_fit_would_say() -> None:
    """An import counts before anything is joined, by the same rule."""
    few = payments(1, per_day=20)
    counted = Holdings(len(few.rows), int(few.rows.y.sum()))
    assert shortage(DEFINITION, counted, WHOLE, few.as_of_ms) == told_of(few, WHOLE)


def test_a_history_without_values_of_a_feature_says_how_many_days_are_enough() -> None:
    fraud, views = load_definition("fraud"), load_views(model_folder("fraud"))
    told = short_history(fraud, views, 5, 19 * DAY_MS + 7)
    assert told.startswith(
        "it has 20 days, and terminal_risk_7d_ago_14d looks 14 to 21 days back: "
    )
    assert "about 100% of the requests" in told
    assert "(at most 80%: gates.missing_share). Bring 25 days or more" in told
    assert short_history(fraud, views, 5, 23 * DAY_MS + 7) != ""
    assert short_history(fraud, views, 5, 24 * DAY_MS + 7) == ""
    assert short_history(fraud, (), 0, 0) == "", "without features nothing looks back"


def test_a_feature_with_a_default_is_never_without_a_value() -> None:
    fraud, views = load_definition("fraud"), load_views(model_folder("fraud"))
    filled = tuple(
        structs.replace(
            view, fields=tuple(structs.replace(field, default=0.0) for field in view.fields)
        )
        for view in views
    )
    assert short_history(fraud, filled, 0, 19 * DAY_MS) == ""
