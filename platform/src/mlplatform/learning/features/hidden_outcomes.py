"""Requests whose outcome the platform's own decision hid, and how a training set treats them.

A stopped request gets no positive label, so without a label its outcome is unknown, not negative.
If such requests are left out, a model sees less of what it stops; if they count as negative, it
learns the opposite; if they count as positive, it may learn its own beliefs. So each is marked, and
model.yaml says how it is treated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.policies.training import TrainingPolicy
from mlplatform.runtime.figures import percent

if TYPE_CHECKING:  # a model's folder is read without pyarrow
    import pyarrow as pa


Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

MOST_WEIGHT: Final = 100.0
"""Largest weight of one request that was let through by chance, so that a few of them do not
outweigh a training set."""
LEAST_EXPLORED: Final = 30
"""Least number of explored requests that can stand for all stopped ones, where stopped ones may
count as positive instead."""
Z_ONE_SIDED_95: Final = 1.6449


@dataclass(frozen=True, slots=True, eq=False)
class Interventions:
    """The effect of our decisions on the rows of a training set, one element a row.

    Args:
        stopped: somebody or something stopped the request, so its outcome could not happen.
        by_model: a model stopped it: the score reached the threshold of that decision at that time.
        labelled: the outcome is known.
        propensity: the chance (0-1) with which exploration lets such a request through; NaN where
            exploration does not apply.
        explored: exploration let the request through, although the decision would have stopped it.
    """

    stopped: Flags
    by_model: Flags
    labelled: Flags
    propensity: Floats
    explored: Flags

    @property
    def hidden(self) -> Flags:
        return self.stopped & ~self.labelled & ~self.explored


@dataclass(frozen=True, slots=True)
class HiddenOutcomes:
    """The number of hidden outcomes in a training set, and their treatment.

    Args:
        hidden: stopped requests whose outcome nobody knows.
        as_positive: how many of the hidden ones count as positive.
        explored: requests that exploration let through and that count with a weight of
            1/propensity.
        known: stopped or explored requests whose outcome is known; `positives` of them are
            positive.
        precision: lower end of the one-sided 95 % interval of the share of positives among `known`;
            None if none is known.
        warning: why hidden outcomes could not be treated as model.yaml asks; None if they could.
    """

    hidden: int
    as_positive: int
    explored: int
    known: int
    positives: int
    precision: float | None
    warning: str | None

    @property
    def sentence(self) -> str:
        """The treatment in a sentence, for the report."""
        left_out = self.hidden - self.as_positive
        text = (
            f"{self.hidden:,} requests that were stopped have no known outcome: "
            f"{self.as_positive:,} of them count as positive and {left_out:,} are left out. None "
            "counts as negative, and no gate judges by them"
        )
        if self.explored:
            text += (
                f". {self.explored:,} requests that were let through at random represent them, by"
                " weight"
            )
        if self.precision is not None:
            text += (
                f". {self.positives:,} of {self.known:,} stopped requests with a known outcome "
                f"were positive, which proves a share of {percent(self.precision)} or more"
            )
        return f"{text}. Warning: {self.warning}" if self.warning else text


NOTHING_HIDDEN: Final = HiddenOutcomes(0, 0, 0, 0, 0, None, None)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingLabels:
    """Labels for training, and each row's weight; a row of weight 0 teaches nothing."""

    y: NDArray[np.int8]
    weight: Floats
    found: HiddenOutcomes


def interventions(table: pa.Table, labelled: Flags) -> Interventions | None:
    """The interventions in a joined table of requests; None if there are none.

    Args:
        table: requests with the columns of `rows.DECIDED` except its id. They are null where no
            decision hid the outcome and exploration did not let the request through.
        labelled: for each row, whether its outcome is known.
    """
    if "decision" not in table.column_names:
        return None
    explored = _flags(table, "explored")
    stopped = table.column("decision").is_valid().to_numpy() & ~explored
    return Interventions(
        stopped=stopped,
        by_model=_flags(table, "by_model") & stopped,
        labelled=labelled,
        propensity=table.column("propensity").to_numpy().astype(np.float64),
        explored=explored,
    )


def training_labels(
    y: NDArray[np.int8], done: Interventions, policy: TrainingPolicy
) -> TrainingLabels:
    """The labels and weights for training, treated as model.yaml declares.

    Under `weight` those that chance let through stand for hidden requests by weights of
    1/propensity; under `pseudo_label` too, once there are `LEAST_EXPLORED`. Others count as
    positive under `pseudo_label`, only if a model stopped them by the threshold that was in force,
    and only while stopped requests with a known outcome show `pseudo_label_precision`. All else is
    left out.

    Source: Horvitz and Thompson, A Generalization of Sampling Without Replacement (JASA, 1952).
    """
    hidden = done.hidden
    weight = np.where(hidden, 0.0, 1.0)
    sampled = (done.propensity > 0) & (done.propensity < 1)
    covered, stands = np.zeros(len(y), bool), done.explored & sampled
    least = {"weight": 1, "pseudo_label": LEAST_EXPLORED}.get(policy.hidden_outcomes)
    if least is not None and int(stands.sum()) >= least:
        weight[stands] = np.minimum(1.0 / done.propensity[stands], MOST_WEIGHT)
        covered = hidden & sampled
    known, positives = _known_outcomes(y, done)
    precision = _lowest_share(positives, known)
    trusted = precision is not None and precision >= policy.pseudo_label_precision
    warning, as_positive = None, np.zeros(len(y), bool)
    if policy.hidden_outcomes == "pseudo_label":
        open_ = hidden & ~covered
        if trusted:
            as_positive = open_ & done.by_model
        elif open_.any():
            warning = _untrusted(precision, known, policy.pseudo_label_precision)
    elif policy.hidden_outcomes == "weight" and (hidden & ~covered).any():
        warning = "the requests let through at random do not represent all that were stopped"
    taught = np.where(as_positive, 1, y).astype(np.int8)
    weight[as_positive] = 1.0
    found = HiddenOutcomes(
        hidden=int(hidden.sum()),
        as_positive=int(as_positive.sum()),
        explored=int((done.explored & (weight > 1)).sum()),
        known=known,
        positives=positives,
        precision=precision,
        warning=warning,
    )
    return TrainingLabels(taught, weight, found)


def _known_outcomes(y: NDArray[np.int8], done: Interventions) -> tuple[int, int]:
    """The number of stopped requests with a known outcome, and of the positives among them.

    Requests that chance let through are known whatever became of them. Stopped ones are known only
    if somebody reports negative requests too: with positive labels alone, all known ones would be
    positive.
    """
    known = done.explored.copy()
    if (done.labelled & done.stopped & (y == 0)).any():
        known |= done.labelled & done.stopped
    return int(known.sum()), int((known & (y == 1)).sum())


def _lowest_share(hits: int, trials: int) -> float | None:
    """Lower end of the one-sided 95 % interval of a share; None without trials.

    Source: Wilson, Probable Inference (JASA, 1927).
    """
    if not trials:
        return None
    z2 = Z_ONE_SIDED_95**2
    share = hits / trials
    spread = Z_ONE_SIDED_95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return (share + z2 / (2 * trials) - spread) / (1 + z2 / trials)


def _untrusted(precision: float | None, known: int, floor: float) -> str:
    hint = "let some through at random (`exploration`), or have people label stopped requests"
    if precision is None:
        return f"no stopped request has a known outcome, so none counts as positive: {hint}"
    return (
        f"{known:,} stopped requests with a known outcome prove only that {percent(precision)} or "
        f"more of those stopped are positive, and pseudo_label_precision asks for "
        f"{percent(floor)}: {hint}"
    )


def _flags(table: pa.Table, name: str) -> Flags:
    """The column's flags, False where it is null."""
    column = table.column(name).to_numpy(zero_copy_only=False)
    return np.array([bool(flag) for flag in column], dtype=bool)
