"""The gates of a model's own `gates.py`: their arguments, and the checks of their answers.

```python
def cost(rows: HeldOut) -> Measure: ...
def cheaper(rows: HeldOut) -> GateResult: ...
COLUMNS = ("amount",)  # may be left out
MEASURES = (cost,)
GATES = (cheaper,)
```

Each function gives one result, whose name is the function's. One that raises, or whose answer is no
such result, is a gate that did not pass.
"""

from __future__ import annotations

import inspect
import math
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.validation.gate_result import OF_A_SEGMENT, GateResult, Verdict
from mlplatform.learning.validation.measures import Measure
from mlplatform.learning.validation.report import MEASURES, TITLES
from mlplatform.learning.validation.statistics import Interval
from mlplatform.model.folders import GATES_FILE
from mlplatform.model.policies.decision_scale import DecisionPolicy

NAME: Final = "own_gates"
"""Name of the gate for a file that can't be read."""
VERDICTS: Final[Mapping[str, Verdict]] = {verdict: verdict for verdict in get_args(Verdict)}
MOST_FUNCTIONS: Final = 50
MOST_CHARACTERS: Final = 500
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Arm:
    """The answers of one model on the rows.

    Args:
        scores: calibrated scores, float64 [n] of 0-1, or numbers in the model's unit; for a model
            of classes the probabilities, float64 [n, classes], in the order of model.yaml.
        decisions: names of outcomes [n]: by the bundle's own thresholds, or the most probable
            class.
    """

    scores: NDArray[np.float64]
    decisions: NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Requests of the days for the gates whose outcome is known; no fit and no calibration saw
    them. Arrays are in order of event time and can't be written.

    Args:
        y: labels 0 or 1, int8 [n]; positions of classes, int8 [n]; or numbers, float64 [n].
        unit: the customer or other unit of each row, int64 [n]. Requests of one unit are alike, so
            intervals are computed by unit.
        event_ms: event times in epoch milliseconds, int64 [n].
        champion: the champion's answers on the same rows; None for a first version, or if the
            champion can't be run.
        is_first: whether there is no champion.
        columns: name in `COLUMNS` → values: inputs as float32 [n], NaN where a value is missing;
            categories and protected fields as texts [n], empty where a value is missing or unknown.
        decision: the `decision` section of model.yaml.
        segments: name of the segment whose own thresholds decide each row [n], empty for the
            model's; None if model.yaml has no such segments.
    """

    y: NDArray[Any]
    unit: NDArray[np.int64]
    event_ms: NDArray[np.int64]
    candidate: Arm
    champion: Arm | None
    is_first: bool
    columns: Mapping[str, NDArray[Any]]
    decision: DecisionPolicy
    seed: int
    segments: NDArray[np.object_] | None = None

    def costs(self, decisions: NDArray[np.object_] | str) -> NDArray[np.float64]:
        """The cost of each request by its label, float64 [n], in the currency of model.yaml; in a
        segment with costs of its own, by those.

        Args:
            decisions: the decision of each row [n], or one decision for all rows.

        Raises:
            ValueError: model.yaml has no costs, or none for one of the decisions.
        """
        policy, found = self.decision.thresholds, np.zeros(len(self.y))
        costs = policy.costs or {}
        outcomes = np.broadcast_to(np.asarray(decisions, object), np.shape(self.y))
        if lacking := sorted({str(name) for name in set(outcomes.tolist()) - set(costs)}):
            raise ValueError(f"decision.thresholds.costs of model.yaml lacks {', '.join(lacking)}")
        of_segments = [(s.name, s.costs) for s in policy.segments if s.costs is not None]
        for segment, own in ((None, costs), *of_segments):
            inside = np.ones(len(self.y), bool) if segment is None else self.segments == segment
            for name, cost in own.items():
                of_one = np.where(self.y == 1, cost.positive, cost.negative)
                found = np.where(inside & (outcomes == name), of_one, found)
        return found


Function = Callable[[HeldOut], Any]


@dataclass(frozen=True, slots=True)
class OwnGates:
    """The functions of a `gates.py`, checked."""

    gates: Sequence[Function] = ()
    measures: Sequence[Function] = ()
    columns: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class OwnFindings:
    """The results of a model's own functions; `wrong` are invalid answers, which are also among
    `gates`."""

    gates: tuple[GateResult, ...] = ()
    measures: tuple[Measure, ...] = ()
    wrong: tuple[GateResult, ...] = ()


def declared_gates(module: Any) -> OwnGates:
    """The functions and columns that a module declares.

    Raises:
        TypeError, ValueError: a declaration is wrong; the message says which name, and what is
            wanted.
    """
    parts: dict[str, Sequence[Any]] = {}
    for key in ("GATES", "MEASURES", "COLUMNS"):
        parts[key] = getattr(module, key, ())
        if not isinstance(parts[key], (tuple, list)):
            raise TypeError(f"{key} is {_kind(parts[key])}; wanted: a tuple")
    functions = [*parts["GATES"], *parts["MEASURES"]]
    if not parts["GATES"] or len(functions) > MOST_FUNCTIONS:
        named = " and ".join(str(len(parts[key])) for key in ("GATES", "MEASURES"))
        raise ValueError(
            f"GATES and MEASURES name {named} functions; wanted: 1 gate or more, "
            f"{MOST_FUNCTIONS} functions at most"
        )
    for function in functions:
        _check_function(function)
    names = [function.__name__ for function in functions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} is named twice in GATES and MEASURES")
    for column in parts["COLUMNS"]:
        if not isinstance(column, str):
            raise TypeError(f"COLUMNS holds {_kind(column)}; wanted: names of inputs")
    return OwnGates(tuple(parts["GATES"]), tuple(parts["MEASURES"]), tuple(parts["COLUMNS"]))


def _check_function(function: Any) -> None:
    if not inspect.isfunction(function):
        raise TypeError(f"GATES or MEASURES hold {_kind(function)}; wanted: functions")
    name = function.__name__
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name} is not a result's name; wanted: {_NAME.pattern}")
    if name in {*TITLES, *MEASURES} or name.startswith(OF_A_SEGMENT):
        raise ValueError(f"{name} is a name of the platform's own; wanted: another one")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        wanted = f"wanted: {name}(rows: HeldOut)"
        raise TypeError(f"{name} can't be called with one argument ({error}); {wanted}") from error


def judge_own(own: OwnGates, rows: HeldOut) -> OwnFindings:
    """The result of every function; an invalid answer is inconclusive under the function's name."""
    gates, measures, wrong = [], [], []
    for function in (*own.gates, *own.measures):
        try:
            found = _answer(function, rows, GateResult if function in own.gates else Measure)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a team's Python
            reason = f"{GATES_FILE}: {function.__name__} {error_line(error)}"
            found = GateResult(function.__name__, "inconclusive", None, None, reason)
            wrong.append(found)
        if isinstance(found, Measure):
            measures.append(found)
        else:
            gates.append(found)
    return OwnFindings(tuple(gates), tuple(measures), tuple(wrong))


class _WrongAnswer(Exception):
    """A function returned something that is no result."""


def unreadable(why: str) -> OwnFindings:
    """The findings if the functions can't be run."""
    found = GateResult(NAME, "inconclusive", None, None, f"{GATES_FILE}: {why}")
    return OwnFindings((found,), (), (found,))


def _answer(function: Function, rows: HeldOut, kind: type[Any]) -> GateResult | Measure:
    found = function(rows)
    if not isinstance(found, kind):
        raise _WrongAnswer(f"gave {_kind(found)}; wanted: a {kind.__name__}")
    if found.name != function.__name__:
        raise _WrongAnswer(f"names its result {found.name!r}; wanted: {function.__name__!r}")
    return _checked_gate(found) if isinstance(found, GateResult) else _checked_measure(found)


def _checked_gate(found: GateResult) -> GateResult:
    if found.verdict not in VERDICTS:
        wanted = f"one of {', '.join(VERDICTS)}"
        raise _WrongAnswer(f"gave the verdict {found.verdict!r}; wanted: {wanted}")
    if not isinstance(found.reason, str) or not found.reason.strip():
        raise _WrongAnswer("gave no reason; wanted: a sentence for people who answer for a version")
    if found.verdict == "passed" and found.observed is None:
        raise _WrongAnswer("passed without an observed number; a gate without data can't pass")
    ends = None
    if found.interval is not None:
        if len(found.interval) != 2:
            raise _WrongAnswer("gave an interval that has no two ends")
        low, high = (_number("interval", end) for end in found.interval)
        if low > high:
            raise _WrongAnswer("gave an interval whose lower end is above its upper one")
        ends = low, high
    return GateResult(
        name=str(found.name),
        verdict=VERDICTS[found.verdict],
        observed=None if found.observed is None else _number("observed", found.observed),
        limit=None if found.limit is None else _number("limit", found.limit),
        interval=ends,
        reason=_printable(found.reason.strip()),
    )


def _checked_measure(found: Measure) -> Measure:
    """The measure, checked. The ends of its interval may be NaN, if there is too little data for
    one."""
    return Measure(
        str(found.name),
        _interval("candidate", found.candidate),
        None if found.champion is None else _interval("champion", found.champion),
        None if found.difference is None else _interval("difference", found.difference),
    )


def _interval(name: str, found: Any) -> Interval:
    if not isinstance(found, Interval):
        raise _WrongAnswer(f"gave {_kind(found)} as {name}; wanted: an Interval")
    ends = (_number(name, end, finite=False) for end in (found.low, found.high))
    return Interval(_number(name, found.value), *ends)


def _number(name: str, value: Any, *, finite: bool = True) -> float:
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    if not is_number or isinstance(value, bool):
        raise _WrongAnswer(f"gave {_kind(value)} as {name}; wanted: a number")
    if finite and not math.isfinite(value):
        raise _WrongAnswer(f"gave {value} as {name}; wanted: a finite number")
    return float(value)


def error_line(error: BaseException) -> str:
    """An error of a team's Python in one line, with the line of `gates.py` that it came from."""
    if isinstance(error, _WrongAnswer):
        return _printable(str(error))
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).name == GATES_FILE]
    where = f" (line {own[-1].lineno})" if own else ""
    return f"raised {_printable(type(error).__name__)}: {_printable(_message(error))}{where}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as other:  # noqa: BLE001 - also a team's Python
        return f"its message can't be read ({type(other).__name__})"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:MOST_CHARACTERS])


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"
