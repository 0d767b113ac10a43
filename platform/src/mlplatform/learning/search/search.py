"""Trials of hyper-parameters on the days to fit, until all are done or the budget is spent."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.search.context import Context, Device, TrialStopped
from mlplatform.learning.search.folds import SearchFold
from mlplatform.learning.search.optuna import Suggestion, importances, suggestion
from mlplatform.learning.search.scores import OwnMeasure, checked_scores, plain_of_task
from mlplatform.learning.search.study import Study
from mlplatform.learning.training_sets.dataset import LabelledRows
from mlplatform.learning.training_sets.known_labels import Labels
from mlplatform.learning.validation.measures import LESS_IS_BETTER
from mlplatform.learning.validation.search_report import (
    MOST_REASON,
    SearchReport,
    Trial,
    TrialState,
)
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.calibration import UNCHANGED, score_map
from mlplatform.model.policies.search import OWN, SearchPolicy
from mlplatform.runtime.errors import InputInvalid

log = logging.getLogger(__name__)

STEPS: Final = 1000
"""Steps of one fold; step 999 is its end."""
MOST_STARTS: Final = 3
"""Number of starts after which a trial has failed: its process ran out of memory or crashed each
time."""

Scorer = Callable[[NDArray[np.float32]], NDArray[np.float64]]
Fit = Callable[[LabelledRows, Context], Scorer]


@dataclass(frozen=True, slots=True)
class Search:
    """The parts that all trials of a search share.

    Args:
        definition: the model, whose task says what scores are and how they are measured.
        names: names of the inputs, in the order in which a fit takes them.
        fit: fits a model that gives raw scores.
        own: the measure function of training.py; None unless model.yaml asks for it.
        device: the device of every fit.
        clock_s: returns seconds of the monotonic clock.
    """

    policy: SearchPolicy
    definition: ModelDefinition
    folds: Sequence[SearchFold]
    names: Sequence[str]
    fit: Fit
    seed: int
    own: OwnMeasure | None = None
    device: Device = "cpu"
    clock_s: Callable[[], float] = time.monotonic

    def measured(self, scores: NDArray[np.float64], y: Labels) -> float:
        """The measure of raw scores of rows with these labels.

        Raises:
            InputInvalid: the scores are not what the task wants, or the measure is not a finite
                number.
        """
        raw = checked_scores("training.py", scores, len(y), self.definition)
        scores = score_map(self.definition.decision.scale, UNCHANGED).many(raw)
        measure = self.policy.measure
        if measure == OWN and self.own is not None:
            value = float(self.own(y.copy(), scores))
        else:
            value = plain_of_task(self.definition, scores, y)[measure]
        if not math.isfinite(value):
            raise InputInvalid(f"training.search.measure {measure}", None, f"is {value}")
        return value


@dataclass(slots=True)
class _TrialRun:
    """One trial from its first fit to its end."""

    search: Search
    suggested: Suggestion
    ends_s: float
    values: list[float] = field(default_factory=list)
    steps: list[tuple[int, float]] = field(default_factory=list)
    is_over_budget: bool = False

    def run(self) -> float:
        """The mean of the measure over all folds.

        Raises:
            TrialStopped: the trial was stopped before its last fold.
        """
        for number, fold in enumerate(self.search.folds):
            x = fold.tested.matrix.columns(self.search.names)

            def judge(step: int, scores: NDArray[np.float64], number: int = number) -> None:
                self._report(number, step, scores)

            context = Context(
                self.suggested.parameters,
                x.copy(),
                judge,
                seed=self.search.seed,
                device=self.search.device,
                budget_s=self.search.policy.budget_s,
            )
            score = self.search.fit(fold.fitted, context)
            scores = np.asarray(score(x.copy()), np.float64)  # both may change rows in place
            self.values.append(self.search.measured(scores, fold.tested.y))
            if number + 1 < len(self.search.folds):
                self._went_on((number + 1) * STEPS - 1, self.values)
        return math.fsum(self.values) / len(self.values)

    def _report(self, number: int, step: int, scores: NDArray[np.float64]) -> None:
        at = number * STEPS + step
        if not 0 <= step < STEPS - 1 or (self.steps and self.steps[-1][0] >= at):
            problem = f"is {step}; wanted: 0 to {STEPS - 2}, more than the one before"
            raise InputInvalid("context.report: step", None, problem)
        value = self.search.measured(scores, self.search.folds[number].tested.y)
        self._went_on(at, [*self.values, value])

    def _went_on(self, at: int, values: Sequence[float]) -> None:
        mean = math.fsum(values) / len(values)
        self.steps.append((at, mean))
        if self.search.clock_s() > self.ends_s:
            self.is_over_budget = True
            raise TrialStopped
        if self.suggested.is_worse(at, mean):
            raise TrialStopped


def search(plan: Search, study: Study | None) -> SearchReport:
    """Run the trials of a search, and continue those that a killed run had made.

    The budget binds once one trial is complete. The same folds, policy and seed give the same
    trials where it does not bind.

    Args:
        study: where ended trials are stored; None: they are not stored.

    Raises:
        InputInvalid: all trials failed; they are not stored.
    """
    policy = plan.policy
    done = [] if study is None else study.trials(policy)
    if done:
        log.info("search goes on after %d of %d trials", len(done), policy.trials)
    while len(done) < policy.trials:
        left_s = policy.budget_s - math.fsum(trial.seconds for trial in done)
        binds = any(trial.state == "complete" for trial in done)
        if binds and (left_s <= 0 or (study is not None and study.is_spent())):
            break
        trial = _trial(plan, done, study, left_s if binds else math.inf)
        if trial is None:
            if study is not None:
                study.note_spent()
            break
        if study is not None:
            study.keep(trial)
        done.append(trial)
        _say(trial, policy)
    if not any(trial.state == "complete" for trial in done):
        if study is not None:
            study.forget()
        problem = f"all {len(done)} trials failed; the last one: {done[-1].reason}"
        raise InputInvalid("training.search", None, problem)
    return SearchReport(
        measure=policy.measure,
        wanted=policy.trials,
        budget_s=policy.budget_s,
        seconds=math.fsum(trial.seconds for trial in done),
        trials=tuple(done),
        importances=importances(policy, done, plan.seed),
    )


def _trial(plan: Search, done: Sequence[Trial], study: Study | None, left_s: float) -> Trial | None:
    """Run one trial. Returns None if the budget ended before it."""
    suggested, begin_s = suggestion(plan.policy, done, plan.seed), plan.clock_s()
    running = _TrialRun(plan, suggested, begin_s + left_s)
    state: TrialState = "complete"
    value, reason = None, ""
    if study is not None and study.begin(len(done)) > MOST_STARTS:
        state, reason = "failed", f"its process ended {MOST_STARTS} times during this trial"
    else:
        try:
            value = running.run()
        except TrialStopped:
            if running.is_over_budget:
                return None
            state, value = "pruned", running.steps[-1][1]
        except Exception as error:  # the team's code: any error is a failed trial
            log.exception("trial %d failed", len(done))
            state, reason = "failed", f"{type(error).__name__}: {error}"
    return Trial(
        number=len(done),
        state=state,
        parameters=suggested.parameters,
        seconds=max(0.0, plan.clock_s() - begin_s),
        value=value,
        steps=tuple(running.steps),
        reason=" ".join(reason.split())[:MOST_REASON],
    )


def _say(trial: Trial, policy: SearchPolicy) -> None:
    outcome: Any = trial.reason if trial.value is None else f"{policy.measure} {trial.value:.4g}"
    more = ", less is better" if policy.measure in LESS_IS_BETTER else ""
    place = f"{trial.number + 1} of {policy.trials}"
    log.info("trial %s: %s, %s%s", place, trial.state, outcome, more)
