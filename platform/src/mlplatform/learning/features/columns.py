"""The match between the columns of a file from outside and those that a history needs, with
proposals."""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid

INTEGERS: Final = (pa.int64(), pa.int32(), pa.int16(), pa.int8())
TIMES: Final = tuple(pa.timestamp(unit) for unit in ("us", "ns", "ms", "s"))
UNITS: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Unit of a time → how many of it are a second."""
_OF_PANDAS: Final = {"double": "float64", "int64": "Int64", "bool": "boolean"}
"""Arrow's name of a type → pandas' name of the one that may have missing values."""
NO_VALUE: Final = "null"
"""Arrow's type of a column without a value; it is as good as none where none is needed."""
LEAST_LIKENESS: Final = 0.5
UNKNOWN: Final = "?"
"""The column of a proposal that nothing in the file is like."""
LABEL: Final = "label"
MOST_NAMED: Final = 20
MOST_SHOWN: Final = 3
"""Most names of a list in a refusal whose proposal names each of them again."""
MOST_CHOSEN: Final = 8
"""Most columns of a file that are offered in a refusal, and most `--map` options."""
SHOWN: Final = 60
"""Most characters of a value in a refusal."""
MOST_ALIKE: Final = 100
"""Most refusals of one kind that are kept, so that refusals of other kinds are kept too."""
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclass(frozen=True, slots=True)
class ExpectedColumn:
    """A column that is expected in a file.

    Args:
        name: the name of the history's column.
        kinds: the types that it may have in a file, as Arrow names them.
        usual: the names by which a file's column is recognised without a question to the user.
        words: words that other names of this column often contain; used to propose a column only.
        meaning: a description for people, with unit and bounds.
        is_needed: whether a file without it is refused.
        without: what is assumed of a file without it, for a column that is not needed.
    """

    name: str
    kinds: tuple[str, ...]
    usual: tuple[str, ...]
    words: frozenset[str]
    meaning: str
    is_needed: bool = True
    without: str = ""

    @property
    def is_time(self) -> bool:
        return self.kinds[0].startswith("timestamp")


@dataclass(frozen=True, slots=True)
class FileCheck:
    """The content of some files, and the refusals.

    Args:
        table: the rows with the history's column names. If there are refusals, only the files and
            rows that could be read.
        refusals: in the order of the files, up to a limit. Import the rows only if there are none.
        names: column of the history → column of the first file.
        unread: columns of the first file that no history needs.
        refused: file and kind of refusal → number of rows, including refusals beyond the limit.
        left_out: number of rows that are not in the table, as they are of earlier days than wanted.
    """

    table: pa.Table
    refusals: tuple[InputInvalid, ...]
    names: Mapping[str, str]
    unread: tuple[str, ...]
    refused: Mapping[tuple[str, str], int] = field(default_factory=dict)
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """A check of rows: which are wrong, and the problem; with `values`, a refusal shows the row's
    value."""

    wrong: NDArray[np.bool_]
    problem: str
    values: pa.ChunkedArray[Any] | None = None

    def refusals(self, source: str, numbers: NDArray[np.int64]) -> Iterator[InputInvalid]:
        """One refusal for each wrong row, with its number in the source."""
        for row in map(int, np.flatnonzero(self.wrong)):
            yield self.refusal(source, row, int(numbers[row]))

    def refusal(self, source: str, row: int, number: int) -> InputInvalid:
        """The refusal of a row.

        Args:
            number: its number in the source.
        """
        problem = self.problem
        if self.values is not None:
            problem = value_problem(problem, self.values[row])
        return InputInvalid(source, number, problem, self.problem)


def value_problem(problem: str, value: pa.Scalar[Any]) -> str:
    """The problem with its value, cut to what fits a line."""
    is_time = pa.types.is_timestamp(value.type) and value.is_valid
    text = _time_text(value) if is_time else repr(value.as_py())
    return f"{problem}: {text if len(text) <= SHOWN else f'{text[:SHOWN]}…'}"


def _time_text(time: pa.Scalar[Any]) -> str:
    """The time; beyond Python's calendar, its count and unit."""
    kind: Any = time.type
    try:
        return str(time.as_py().isoformat())
    except (OverflowError, ValueError):
        return f"{time.cast(pa.int64()).as_py()} {kind.unit}"


def kept_refusals(
    refusals: Iterable[InputInvalid], most: int
) -> tuple[tuple[InputInvalid, ...], Mapping[tuple[str, str], int]]:
    """The first refusals of each kind, `most` in all, and the number of rows of each kind in a
    file."""
    kept, refused = list[InputInvalid](), Counter[tuple[str, str]]()
    for one in refusals:
        refused[one.source, one.kind] += 1
        if refused[one.source, one.kind] <= MOST_ALIKE and len(kept) < most:
            kept.append(one)
    return tuple(kept), refused


def fields_of_empty_texts(definition: ModelDefinition) -> frozenset[str]:
    """Request fields of which an empty cell of CSV is an empty text. Of all others it is a missing
    value, because CSV does not tell the two apart."""
    fields = {n: f for n, f in definition.request.items() if f.type == "string"}
    needed = fields.keys() - definition.optional - definition.keys
    return frozenset(n for n in needed if "" in (fields[n].values or ("",)))


def match_columns(
    wanted: Sequence[ExpectedColumn],
    found: Mapping[str, str],
    overrides: Mapping[str, str],
    source: str,
) -> dict[str, str]:
    """Column of the history → column of the file.

    Args:
        found: the file's columns and their types.
        overrides: column of the history → the file's column that a person named for it, or an empty
            text if the file has none. For a column without an entry, only the usual names match.

    Raises:
        ConfigInvalid: `overrides` names a column that no history has.
        InputInvalid: a column is missing (the message proposes one), a file's column is named
            twice, the file lacks a named column, or a column of it may be one that need not be
            there.
    """
    for name, column in overrides.items():
        if name not in {w.name for w in wanted}:
            known = [w.name for w in wanted]
            options = f"{' or '.join(known)} before the ={_nearest(name, known)}"
            raise ConfigInvalid("--map", f"{name}={column}", options)
        if column == UNKNOWN:
            ways = f"the name of a column in its place, or --map {name}= if there is none"
            there = f"it has {_column_list(found)}"
            raise InputInvalid(source, None, f"--map {name}=?; wanted: {ways}; {there}")
        if column and column not in found:
            there = f"it has {_column_list(found)}{_nearest(column, list(found))}"
            raise InputInvalid(source, None, f"column {column} is not in it; {there}")
    names = {name: column for name, column in overrides.items() if column}
    for one in wanted:
        if one.name in overrides:
            continue
        usual = next((u for u in one.usual if u in found and u not in names.values()), None)
        if usual is not None:
            names[one.name] = usual
    for one in wanted:
        if not one.is_needed and found.get(names.get(one.name, "")) == NO_VALUE:
            del names[one.name]
    twice = sorted({c for c in names.values() if list(names.values()).count(c) > 1})
    if twice:
        both = " and ".join(name for name, column in names.items() if column == twice[0])
        raise InputInvalid(source, None, f"column {twice[0]} is mapped to {both}; map it to one")
    missing = [w for w in wanted if w.is_needed and w.name not in names]
    lacking = [
        w
        for w in wanted
        if not w.is_needed
        and (w.without or not w.is_time)
        and w.name not in {*names, *overrides, *found}
    ]
    for one in missing:
        own = next((u for u in one.usual if u in found), None)
        for other in (name for name, column in names.items() if column == own):
            problem = f"column {own} is mapped to {other}, so {one.name} has none; wanted: another"
            ways = f"column for one of them, as --map {one.name}=COLUMN"
            raise InputInvalid(source, None, f"{problem} {ways}")
    if missing:
        raise InputInvalid(source, None, _missing_text(missing, lacking, found, names))
    likely = propose_columns(lacking, found, list(names.values()))
    for one in (w for w in lacking if w.name in likely):
        ways = f"`--map {one.name}={likely[one.name]}`, or `--map {one.name}=` if it is something"
        without = f" ({one.without})" if one.without else ""
        problem = f"column {likely[one.name]} may be {one.name}, which is optional: {ways} else"
        raise InputInvalid(source, None, f"{problem}{without}")
    return names


def zoneless(kind: str) -> str:
    """The type without a time zone: values of a zoned time are UTC, and the zone only affects
    display."""
    return f"{kind.partition(',')[0]}]" if kind.startswith("timestamp[") and "," in kind else kind


def type_problem(column: str, found: str, wanted: Sequence[object]) -> str:
    """The problem of a column of another type than those that are wanted, and the way out in
    pandas."""
    types = list(map(str, wanted))
    if types[0].startswith("timestamp"):
        cast = f'pandas.to_datetime(table["{column}"], utc=True)'
    elif types[0].startswith("list"):
        cast = f'table["{column}"].map(list), of numbers'
    else:
        cast = f'table["{column}"].astype("{_OF_PANDAS.get(types[0], types[0])}")'
    return f"column {column} is {found}; wanted: {' or '.join(types)}; in pandas {cast}"


def propose_columns(
    missing: Sequence[ExpectedColumn], found: Mapping[str, str], taken: Sequence[str] = ()
) -> dict[str, str]:
    """The likeliest column of the file for each missing one that has a likely one. Of columns that
    are equally likely, none is proposed."""
    pairs = sorted(
        (
            (-_likeness(one, column), one.name, column)
            for one in missing
            for column, kind in found.items()
            if column not in taken and zoneless(kind) in one.kinds
        )
    )
    names: dict[str, str] = {}
    unclear: set[str] = set()
    for unlikeness, alike in itertools.groupby(pairs, key=lambda pair: pair[0]):
        open_ = [
            (name, column)
            for _, name, column in alike
            if -unlikeness >= LEAST_LIKENESS and name not in {*names, *unclear}
            if column not in {*names.values(), *unclear}
        ]
        often = Counter(one for pair in open_ for one in set(pair))
        for pair in open_:
            if any(often[one] > 1 for one in pair):
                unclear.update(pair)
            else:
                names[pair[0]] = pair[1]
    names |= _only_ones_left(
        [one for one in missing if one.name not in names],
        {c: zoneless(k) for c, k in found.items() if c not in {*taken, *names.values()}},
    )
    return names


def _only_ones_left(
    missing: Sequence[ExpectedColumn], left: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield each missing time, and each needed column, that one column of the file alone can be, if
    it can be no other needed one."""
    needed = [one for one in missing if one.is_needed]
    for one in missing:
        fitting = [column for column, kind in left.items() if kind in one.kinds]
        if len(fitting) == 1 and (one.is_time or one.is_needed):
            kind = left[fitting[0]]
            if not any(kind in other.kinds for other in needed if other is not one):
                yield one.name, fitting[0]


def _missing_text(
    missing: Sequence[ExpectedColumn],
    lacking: Sequence[ExpectedColumn],
    found: Mapping[str, str],
    names: Mapping[str, str],
) -> str:
    """The columns that are missing, with a proposal for them and for optional ones with a likely
    column, unless one of those would take what a needed one needs."""
    needed = propose_columns(missing, found, list(names.values()))
    every = propose_columns([*missing, *lacking], found, list(names.values()))
    guess = every if needed.keys() <= every.keys() else needed
    optional = [w for w in lacking if w.name in guess]
    options = " ".join(
        f"--map {w.name}={guess.get(w.name, UNKNOWN)}" for w in [*missing, *optional][:MOST_CHOSEN]
    )
    if (more := len(missing) + len(optional) - MOST_CHOSEN) > 0:
        options += f" … and so on for {more} more, named by `mlplatform history schema`"
    lacks = _first(MOST_SHOWN, [w.name for w in missing])
    assumed = "".join(f"{w.name} is optional ({w.without}); " for w in optional if w.without)
    remedy = "a proposal" if guess else "say which it is"
    if not guess and any(w.name == LABEL for w in missing):
        options += "; labels in another file are joined first (docs/history.md)"
    used = {*names.values(), *guess.values()}
    unused = [f"{name} ({kind})" for name, kind in found.items() if name not in used]
    left = f"unused in it: {_first(MOST_CHOSEN, unused)}" if unused else "it has no other column"
    return f"there is no column for {lacks}; {left}; {assumed}{remedy}: {options}"


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; the nearest is {near[0]}" if near else ""


def _first(most: int, named: Sequence[str]) -> str:
    """The first ones, and how many more there are."""
    more = f" and {len(named) - most} more" if len(named) > most else ""
    return ", ".join(named[:most]) + more


def _column_list(found: Mapping[str, str]) -> str:
    return _first(MOST_NAMED, [f"{name} ({kind})" for name, kind in found.items()])


def _likeness(one: ExpectedColumn, column: str) -> float:
    """Likeness, 0 to 1: the share of the file's column name that the expected column's words cover,
    or the likeness of the names."""
    words = [word.lower() for word in _WORDS.findall(column)]
    known = sum(word in one.words for word in words) / max(1, len(words))
    alike = max(
        difflib.SequenceMatcher(None, column.lower(), name.lower()).ratio()
        for name in (one.name, *one.usual)
    )
    return max(known, alike - 0.2)
