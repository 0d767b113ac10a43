"""Which parameters to try next, by Optuna: a function of the trials before and of the seed.

No study of Optuna's is kept. One is made of the trials that have ended, for each trial anew, with a
seed of its own; so a search that was killed goes on as if it had not been.

Source: TPE; Bergstra et al., NeurIPS 24 (2011). PED-ANOVA; Watanabe et al., IJCAI 2023.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import optuna

from mlplatform.learning.validation.measures import LESS_IS_BETTER
from mlplatform.learning.validation.search_report import Trial
from mlplatform.model.policies.search import Choice, SearchParameter, SearchPolicy
from mlplatform.runtime.canonical import digest

STARTUP_TRIALS: Final = 5
"""Complete ones, before any trial is stopped."""
LEAST_COMPLETE: Final = 10
"""Trials, of which a tenth is one: of fewer, importances are the sampler's and not the model's."""
_STATES: Final = {
    "complete": optuna.trial.TrialState.COMPLETE,
    "pruned": optuna.trial.TrialState.PRUNED,
    "failed": optuna.trial.TrialState.FAIL,
}


class Suggestion:
    """The parameters of the next trial, and whether it is worth to go on with."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial
        self.parameters: dict[str, Choice] = dict(trial.params)

    def is_worse(self, step: int, value: float) -> bool:
        """Whether a trial that has this value at this step is to be stopped."""
        self._trial.report(value, step)
        return bool(self._trial.should_prune())


def suggestion(policy: SearchPolicy, done: Sequence[Trial], seed: int) -> Suggestion:
    """What to try after these trials; the same ones and the same seed give the same."""
    study = _study(policy, done, seed)
    return Suggestion(study.ask(fixed_distributions=_distributions(policy)))


def importances(policy: SearchPolicy, done: Sequence[Trial], seed: int) -> dict[str, float]:
    """How much each parameter matters for the best tenth of the trials, shares of 1, the largest
    first; none of fewer than `LEAST_COMPLETE` complete ones, or of equal ones."""
    values = [trial.value for trial in done if trial.state == "complete"]
    if len(values) < LEAST_COMPLETE or len({*values}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()  # in a time that does not matter
    found = optuna.importance.get_param_importances(_study(policy, done, seed), evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def _study(policy: SearchPolicy, done: Sequence[Trial], seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    of_trial = int(digest([seed, len(done)])[:8], 16)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if policy.pruning == "median":
        pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS)
    study = optuna.create_study(
        direction="minimize" if policy.measure in LESS_IS_BETTER else "maximize",
        sampler=optuna.samplers.TPESampler(seed=of_trial),
        pruner=pruner,
    )
    distributions = _distributions(policy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        study.add_trials([_frozen(trial, distributions) for trial in done])
    return study


def _frozen(trial: Trial, distributions: dict[str, Any]) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(
        state=_STATES[trial.state],
        value=trial.value if trial.state == "complete" else None,
        params=dict(trial.parameters),
        distributions=distributions,
        intermediate_values=dict(trial.steps),
    )


def _distributions(policy: SearchPolicy) -> dict[str, Any]:
    return {name: _distribution(parameter) for name, parameter in policy.space.items()}


def _distribution(parameter: SearchParameter) -> optuna.distributions.BaseDistribution:
    low, high = parameter.low or 0, parameter.high or 0
    match parameter.type:
        case "float":
            return optuna.distributions.FloatDistribution(low, high, log=parameter.log)
        case "int":
            return optuna.distributions.IntDistribution(int(low), int(high), log=parameter.log)
        case "categorical":
            return optuna.distributions.CategoricalDistribution(parameter.choices or ())
