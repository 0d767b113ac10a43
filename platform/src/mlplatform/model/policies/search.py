"""A search of hyper-parameters, as `training.search` of model.yaml declares it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from mlplatform.model.policies.values import Count, FieldName, Rule, Section
from mlplatform.runtime.units import DAY_S

Choice = Annotated[str, Meta(max_length=100)] | int | float | bool
SearchMeasure = Literal["average_precision", "auc", "gini", "ks", "brier", "log_loss", "own"]
ClassMeasure = Literal["accuracy", "macro_f1", "log_loss", "own"]
NumberMeasure = Literal["mae", "rmse", "quantile_loss", "own"]
OWN: Final = "own"
"""Name of the measure that is the function `measure(y, scores)` of training.py; larger values are
better."""


class SearchParameter(Section, frozen=True):
    """One hyper-parameter, with the range of its values.

    Args:
        type: the kind of the values.
        low: least value of a number; None for a categorical parameter.
        high: largest value of a number; None for a categorical parameter.
        log: whether values are drawn evenly on a logarithmic scale.
        choices: the values of a categorical parameter; None for others.
    """

    type: Literal["float", "int", "categorical"]
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: Annotated[tuple[Choice, ...], Meta(max_length=100)] | None = None


class SearchPolicy(Section, frozen=True):
    """The hyper-parameters to try before a model is fitted, and the budget for that.

    Args:
        space: the hyper-parameters by name, each with its range.
        trials: largest number of trials.
        budget_s: seconds for all trials together, including trials of killed runs. No trial begins
            later; a trial that still runs then ends at its next report.
        measure: the measure by which trials are compared; `own` is the function `measure(y,
            scores)` of training.py.
        folds: number of fits of each trial.
        fold_days: number of days on which each fit is tested; they are among the days to fit.
        pruning: `median` ends a trial that is worse than the median of the earlier trials.
    """

    space: Annotated[dict[FieldName, SearchParameter], Meta(min_length=1, max_length=50)]
    trials: Annotated[int, Meta(ge=1, le=1000)]
    budget_s: Annotated[int, Meta(ge=1, le=DAY_S)]
    measure: SearchMeasure = "average_precision"
    folds: Annotated[int, Meta(ge=1, le=10)] = 3
    fold_days: Count = 1
    pruning: Literal["median", "none"] = "median"


class ClassSearch(SearchPolicy, frozen=True, kw_only=True):
    """The hyper-parameters to try before a model of classes is fitted.

    Args:
        measure: the measure by which trials are compared; `own` is the function `measure(y,
            scores)` of training.py, which gets places of classes and probabilities [n, classes].
    """

    measure: ClassMeasure = "accuracy"  # type: ignore[assignment]  # names of this task alone


class NumberSearch(SearchPolicy, frozen=True, kw_only=True):
    """The hyper-parameters to try before a model of numbers is fitted.

    Args:
        measure: the measure by which trials are compared; the quantile loss is of the `quantile` of
            the gates. `own` is the function `measure(y, scores)` of training.py, which gets labels
            and numbers in the unit.
    """

    measure: NumberMeasure = "mae"  # type: ignore[assignment]  # names of this task alone


def search_rules(policy: SearchPolicy, *, days: int, deadline_s: int) -> Iterator[Rule]:
    """The rules of a search: whether each holds, the key, the value, and what is wanted.

    Args:
        days: days of a training set, without the held-out days and `label.maturity_days`.
        deadline_s: seconds for the whole fit.
    """
    key, tested = "training.search", policy.folds * policy.fold_days
    most = max(0, days - 1)
    wanted = f"with folds at most {most} days: those to fit, less maturity_days and one to learn"
    yield tested <= most, f"{key}.fold_days", policy.fold_days, wanted
    wanted = f"less than training.deadline_s ({deadline_s}), within which the last fit lies too"
    yield policy.budget_s < deadline_s, f"{key}.budget_s", policy.budget_s, wanted
    for name, parameter in policy.space.items():
        yield from _parameter(f"{key}.space.{name}", parameter)


def _parameter(key: str, parameter: SearchParameter) -> Iterator[Rule]:
    low, high, choices = parameter.low, parameter.high, parameter.choices
    if parameter.type == "categorical":
        for part in ("low", "high", "log"):
            value = getattr(parameter, part)
            wanted = "nothing: a categorical parameter has choices"
            yield value is None or value is False, f"{key}.{part}", value, wanted
        listed = choices or ()
        differ = len({(type(choice), choice) for choice in listed}) == len(listed)
        differ = differ and len({*listed}) == len(listed)  # to Python 1, 1.0 and true are equal
        yield len(listed) >= 2 and differ, f"{key}.choices", choices, "2 values or more that differ"
        return
    wanted = f"nothing: a parameter of type {parameter.type} has low and high"
    yield choices is None, f"{key}.choices", choices, wanted
    kind = "a whole number" if parameter.type == "int" else "a number"
    for part, value in (("low", low), ("high", high)):
        fits = value is not None and (parameter.type == "float" or isinstance(value, int))
        yield fits and abs(value or 0) <= 2**53, f"{key}.{part}", value, kind
    if low is not None and high is not None:
        yield low < high, f"{key}.low", low, f"less than high ({high})"
        wanted = "more than 0, where log is true"
        yield not parameter.log or low > 0, f"{key}.low", low, wanted


def is_within(space: dict[str, SearchParameter], values: dict[str, Choice]) -> bool:
    """Whether these are values of each parameter of a space, and of no other."""
    return set(space) == set(values) and all(
        _holds(parameter, values[name]) for name, parameter in space.items()
    )


def _holds(parameter: SearchParameter, value: Choice) -> bool:
    if parameter.type == "categorical":
        return any(value == c and type(value) is type(c) for c in parameter.choices or ())
    if isinstance(value, (bool, str)) or parameter.low is None or parameter.high is None:
        return False
    is_kind = parameter.type == "float" or isinstance(value, int)
    return is_kind and parameter.low <= value <= parameter.high
