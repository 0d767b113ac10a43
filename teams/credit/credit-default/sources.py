"""Where the history comes from: UCI's file of card clients by its path, or the generator.

UCI's 30,000 clients are of one month, and their rows have no time. They are taken to have asked
evenly over the days of a training set, the last of which has just matured, in an order that their
numbers do not tell. Marital status is not read: it is protected as sex and age are, and no table
of its groups is asked for here.

Source: Yeh and Lien, The comparisons of data mining techniques for the predictive accuracy of
probability of default of credit card clients (Expert Systems with Applications 36, 2009); UCI
Machine Learning Repository, "default of credit card clients".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.authoring import InputInvalid, load_definition
from mlplatform.authoring.history import (
    Check,
    ExpectedColumn,
    FileCheck,
    ParquetFiles,
    is_missing,
    kept_refusals,
    match_columns,
    unique_values,
    within_bounds,
)

from .generator import (
    AGE_GROUPS,
    DAY_US,
    EDUCATIONS,
    MONTHS,
    SEXES,
    Population,
    generate,
)

__all__ = [
    "BATCH_COLUMNS",
    "COLUMNS",
    "Population",
    "batch_requests",
    "examine_transactions",
    "generate",
]

MODEL: Final = "credit-default"
MOST_REFUSALS: Final = 1_000
END_MS: Final = 1_130_803_200_000
"""2005-11-01, when the outcomes of UCI's clients were known; for a platform that replays."""
WHOLE: Final = ("int64", "int32", "int16", "int8")
NUMBERS: Final = ("double", "float", *WHOLE)
YOUNGEST, OLDEST = 18, 120
AGES: Final = (30, 40, 50, 60)
"""From which ages on the groups of `AGE_GROUPS` but the first begin."""
NO_COLUMNS: Final[Mapping[str, str]] = MappingProxyType({})


def _column(name: str, usual: str, meaning: str, kinds: tuple[str, ...] = NUMBERS) -> Any:
    words = frozenset(name.split("_"))
    return ExpectedColumn(name, kinds, (usual,), words, meaning)


COLUMNS: Final = (
    _column("customer_id", "ID", "the client's number, stored as a pseudonym", WHOLE),
    _column("limit_balance", "LIMIT_BAL", "credit given, in New Taiwan dollars"),
    _column("sex", "SEX", "1 male, 2 female; compared, and no input", WHOLE),
    _column("education", "EDUCATION", "1 graduate school, 2 university, 3 high school", WHOLE),
    _column("age", "AGE", "in years; compared by group, and no input", WHOLE),
    *(
        _column(
            f"status_{month}",
            "PAY_0" if month == 1 else f"PAY_{month}",
            "months in arrears; 0 paid in part, -1 in full, -2 not used",
            WHOLE,
        )
        for month in range(1, MONTHS + 1)
    ),
    *(
        _column(f"bill_{month}", f"BILL_AMT{month}", "statement; month 1 is the newest")
        for month in range(1, MONTHS + 1)
    ),
    *(
        _column(f"paid_{month}", f"PAY_AMT{month}", "paid in the month")
        for month in range(1, MONTHS + 1)
    ),
    _column("label", "default.payment.next.month", "1: default in the next month, 0: none", WHOLE),
)
"""What a file of clients needs; usual names are UCI's."""


BATCH_COLUMNS: Final = tuple(one for one in COLUMNS if one.name != "label")
"""What a table of clients needs for a batch: whether they default is to be said."""


def batch_requests(table: pa.Table) -> pa.Table:
    """Requests of some clients, in their order; a value that UCI does not have is missing."""
    education, age = (table.column(name) for name in ("education", "age"))
    sexes: dict[int | None, str] = {1: "male", 2: "female"}
    words = [
        None if n is None else EDUCATIONS[n - 1 if 1 <= n <= 3 else 3]
        for n in education.to_pylist()
    ]
    groups = [
        None if n is None else AGE_GROUPS[int(np.searchsorted(AGES, n, side="right"))]
        for n in age.to_pylist()
    ]
    made: dict[str, Any] = {
        "education": pa.array(words, pa.string()),
        "sex": pa.array([sexes.get(n) for n in table.column("sex").to_pylist()], pa.string()),
        "age_group": pa.array(groups, pa.string()),
    }
    ids = table.column("customer_id")
    numbers = [f"uci-{n}" if n is not None else None for n in ids.to_pylist()]
    made["request_id"] = pa.array(numbers, pa.string())
    made |= {n: table.column(n) for n in load_definition(MODEL).request if n not in made}
    return pa.table(made)


def examine_transactions(
    path: Path, *, now_ms: int | None = None, columns: Mapping[str, str] = NO_COLUMNS
) -> FileCheck:
    """The clients of a Parquet file, with a refusal for each row that can't be taken in.

    Args:
        now_ms: their labels have just matured then; None: in UCI's month.
        columns: of `COLUMNS` → the file's, where its names are not UCI's.

    Raises:
        InputInvalid: there is no such file, or its columns are not what is wanted.
    """
    if not path.is_file():
        problem = "there is no such file; wanted: one Parquet file"
        raise InputInvalid(str(path.absolute()), None, problem)
    with ParquetFiles([path]) as parquet:
        found = parquet.types(0)
        names = match_columns(COLUMNS, found, columns, path.name)
        for one in COLUMNS:
            kind = found[names[one.name]]
            if kind not in one.kinds:
                wanted = " or ".join(one.kinds)
                problem = f"column {names[one.name]} is {kind}; wanted: {wanted}"
                raise InputInvalid(path.name, None, problem)
        aliases: dict[str, Any] = {column: found[column] for column in names.values()}
        kinds = {column: pa.type_for_alias(alias) for column, alias in aliases.items()}
        table = parquet.read(0, kinds).select(list(names.values())).rename_columns(list(names))
    refusals, refused = kept_refusals(_refusals(table, names, path.name), MOST_REFUSALS)
    unread = tuple(name for name in found if name not in names.values())
    taken = table.slice(0, 0) if refusals else table
    return FileCheck(_history(taken, now_ms), refusals, names, unread, refused)


def _refusals(table: pa.Table, names: Mapping[str, str], source: str) -> Iterator[InputInvalid]:
    every = np.arange(table.num_rows)
    whole = np.ones(table.num_rows, bool)
    for name, column in names.items():
        missing = is_missing(table.column(name))
        whole &= ~missing
        yield from Check(missing, f"{column} is missing").refusals(source, every)
    table, request = table.filter(pa.array(whole)), load_definition(MODEL).request
    checks = [unique_values(table.column("customer_id"), names["customer_id"])]
    for name in (n for n in names if n in request and request[n].type != "string"):
        checks += within_bounds(table.column(name), names[name], request[name])
    for name, low, high in (
        ("sex", 1, 2), ("age", YOUNGEST, OLDEST), ("education", 0, 6), ("label", 0, 1),
    ):  # fmt: skip
        values = table.column(name)
        outside = (values.to_numpy() < low) | (values.to_numpy() > high)
        checks.append(Check(outside, f"{names[name]} is not {low} to {high}", values))
    for check in checks:
        yield from check.refusals(source, every[whole])


def _history(table: pa.Table, now_ms: int | None) -> pa.Table:
    """The clients in the columns of the model's history, in order of their times."""
    definition = load_definition(MODEL)
    mixed = _mixed(table.column("customer_id").to_numpy().astype(np.uint64))
    table = table.take(np.argsort(mixed, kind="stable"))
    days, count = definition.training.window_days, max(1, table.num_rows)
    known_us = (END_MS if now_ms is None else now_ms) * 1000 // DAY_US * DAY_US
    maturity_us = definition.label.maturity_days * DAY_US
    place = np.arange(table.num_rows, dtype=np.int64)
    event_us = known_us - maturity_us - days * DAY_US + place * (days * DAY_US // count)
    education = table.column("education").to_numpy()
    education = np.where((education >= 1) & (education <= 3), education - 1, 3)
    sex = np.where(table.column("sex").to_numpy() == 1, SEXES.index("male"), 0)
    age = np.searchsorted(AGES, table.column("age").to_numpy(), side="right")
    numbers = table.column("customer_id")
    columns: dict[str, Any] = {
        "request_id": pa.array([f"uci-{n}" for n in numbers.to_pylist()], pa.string()),
        "event_time": pa.array(event_us, pa.timestamp("us")),
        "customer_id": numbers.cast(pa.int64()),
        "limit_balance": table.column("limit_balance").cast(pa.float64()),
        "education": _words(EDUCATIONS, education),
        **{
            f"status_{month}": table.column(f"status_{month}").cast(pa.int64())
            for month in range(1, MONTHS + 1)
        },
        **{
            f"{kind}_{month}": table.column(f"{kind}_{month}").cast(pa.float64())
            for kind in ("bill", "paid")
            for month in range(1, MONTHS + 1)
        },
        "sex": _words(SEXES, sex),
        "age_group": _words(AGE_GROUPS, age),
        "label": table.column("label").cast(pa.int8()),
        "label_time": pa.array(event_us + maturity_us, pa.timestamp("us")),
    }
    return pa.table(columns)


def _words(words: tuple[str, ...], places: NDArray[Any]) -> Any:
    return pa.array([words[place] for place in places.tolist()], pa.string())


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """For each number another one, in no order that it tells.

    Source: the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    with np.errstate(over="ignore"):
        mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return found
