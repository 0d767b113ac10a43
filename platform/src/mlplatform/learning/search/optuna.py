"""The parameters to try next, by Optuna: a function of the trials before and of the seed.

No study of Optuna is stored. For each trial a new study is made of the trials that have ended, with
a seed of its own, so that a search that was killed continues as if it had not been.

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
"""Number of complete trials before any trial is stopped."""
LEAST_COMPLETE: Final = 10
"""Least number of complete trials for importances, of which a tenth is one. With fewer, importances
show the sampler and not the model."""
_STATES: Final = {
    "complete": optuna.trial.TrialState.COMPLETE,
    "pruned": optuna.trial.TrialState.PRUNED,
    "failed": optuna.trial.TrialState.FAIL,
}


class Suggestion:
    """The parameters of the next trial, and the test of whether it is worth continuing."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial
        self.parameters: dict[str, Choice] = dict(trial.params)

    def is_worse(self, step: int, value: float) -> bool:
        """Whether a trial with this value at this step is to be stopped."""
        self._trial.report(value, step)
        return bool(self._trial.should_prune())


def suggestion(policy: SearchPolicy, done: Sequence[Trial], seed: int) -> Suggestion:
    """The suggestion after these trials; the same trials and seed give the same one."""
    study = _study(policy, done, seed)
    return Suggestion(study.ask(fixed_distributions=_distributions(policy)))


def importances(policy: SearchPolicy, done: Sequence[Trial], seed: int) -> dict[str, float]:
    """Importance of each parameter for the best tenth of the trials, as shares of 1, largest first;
    empty for fewer than `LEAST_COMPLETE` complete trials, or for equal ones."""
    values = [trial.value for trial in done if trial.state == "complete"]
    if len(values) < LEAST_COMPLETE or len({*values}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()  # takes next to no time
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
