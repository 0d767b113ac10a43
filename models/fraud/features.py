"""Feast definitions of the fraud model's features; `make generate` renders features.json from them.

Tags say how each feature is computed: `aggregate` (count, mean, std, max, label_share), `column`,
`window_days` and `delay_days`; and what happens where an entity has no row: `missing` (default,
degrade, refuse) and, where the model is to see a number then, `default`. A view's tag says what
happens where its snapshots are too old: `stale` (fallback, degrade, refuse). Imported by the
generator and by tests only: Feast is no part of any process that serves or trains.
"""

from __future__ import annotations

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

WINDOWS_DAYS = (1, 7, 30)
# Risk is by the labels that had arrived at the snapshot: a wait until all of them have would throw
# away what is known, which is the newest frauds (decision 0072). Training sees the same gaps.
# Several spans, some of which ended days ago, tell how long a terminal's frauds have gone on and
# whether they are over (decision 0097): days, and days since their end.
RISK_SPANS = ((1, 0), (3, 0), (7, 0), (30, 0), (7, 7), (7, 14))
# A customer or terminal without payments in 30 days has no row: that is ordinary, the model has
# learned from such payments, and no number would say it better than a missing value does.
MISSING = "default"
VALID_FOR = timedelta(days=3)  # snapshots are daily; two may fail before a view is stale
# A stale view is another thing: to the model its features would look like those of a customer who
# never paid. Asked so, it finds none of the frauds that it finds otherwise, and holds up nobody
# (decision 0058): the small model, the rules and in the end a person decide instead.
STALE = {"stale": "fallback"}


def _window(name: str, days: int, aggregate: str, column: str = "", delay: int = 0) -> Field:
    tags = {"aggregate": aggregate, "window_days": str(days), "delay_days": str(delay)}
    tags["missing"] = MISSING
    if column:
        tags["column"] = column
    ended = f"_ago_{delay}d" if delay else ""
    return Field(name=f"{name}_{days}d{ended}", dtype=Float64, tags=tags)


def _snapshots(view: str) -> FileSource:
    return FileSource(
        name=f"{view}_snapshots",
        path=f"offline/fraud/snapshots/{view}/*.parquet",
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )


customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
terminal = Entity(name="terminal", join_keys=["terminal_id"], value_type=ValueType.INT64)

customer_stats = FeatureView(
    name="customer_stats",
    description="How often, how much and how evenly a customer paid.",
    entities=[customer],
    ttl=VALID_FOR,
    schema=[
        *(_window("customer_count", days, "count") for days in WINDOWS_DAYS),
        *(_window("customer_mean", days, "mean", "amount") for days in WINDOWS_DAYS),
        _window("customer_std", 30, "std", "amount"),
        *(_window("customer_max", days, "max", "amount") for days in (7, 30)),
    ],
    source=_snapshots("customer_stats"),
    tags=STALE,
)

terminal_stats = FeatureView(
    name="terminal_stats",
    description="How busy a terminal was, and what share of its payments is known to be fraud.",
    entities=[terminal],
    ttl=VALID_FOR,
    schema=[
        *(_window("terminal_count", days, "count") for days in WINDOWS_DAYS),
        *(_window("terminal_risk", days, "label_share", delay=ago) for days, ago in RISK_SPANS),
    ],
    source=_snapshots("terminal_stats"),
    tags=STALE,
)

FEATURE_VIEWS = (customer_stats, terminal_stats)
