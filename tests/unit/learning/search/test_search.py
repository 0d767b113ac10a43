"""A search of hyper-parameters: on days to fit alone, within its budget, and the same if killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.train_libraries import needed
from tests.support.training_rows import DEFINITION, NAMES, payments

from mlplatform.learning.search.context import Context, last_fit
from mlplatform.learning.search.dataset import Dataset
from mlplatform.learning.search.folds import search_folds
from mlplatform.learning.search.study import Study
from mlplatform.learning.training import handover
from mlplatform.learning.training.candidate import fit_rows
from mlplatform.learning.training_sets.dataset import LabelledRows, TrainingSet
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.measures import plain_measures
from mlplatform.learning.validation.report import to_dict, to_markdown
from mlplatform.learning.validation.search_report import SearchReport, Trial
from mlplatform.model.policies.search import SearchParameter, SearchPolicy
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS

MATURE = DEFINITION.label.maturity_days
HONEST, LEAKING = 0, 1
SPACE = {
    "column": SearchParameter(type="categorical", choices=(2, LEAKING, 3, HONEST)),
    "power": SearchParameter(type="float", low=0.1, high=10, log=True),
    "depth": SearchParameter(type="int", low=1, high=9),
}
POLICY = SearchPolicy(space=SPACE, trials=14, budget_s=600)


class Killed(BaseException):
    """The process ends here."""


def rows(seed: int = 1) -> TrainingSet:
    """Payments of which one input tells a little, and another is the label, but on the held-out
    days alone."""
    built = payments(seed, per_day=250)
    matrix = built.rows.matrix
    rng = np.random.default_rng(seed)
    y = (rng.random(len(built.rows)) < 0.1).astype(np.int8)
    x = rng.random(matrix.x.shape).astype(np.float32)
    x[:, HONEST] += 0.5 * y
    held_out = matrix.event_ms >= built.window.holdout_from_ms
    x[held_out, LEAKING] = y[held_out]
    return replace(built, rows=LabelledRows(replace(matrix, x=x), y))


DATA = rows()


def score(x: NDArray[np.float32], parameters: Any) -> NDArray[np.float64]:
    column = np.clip(x[:, int(parameters["column"])].astype(np.float64), 0, 1.5) / 1.5
    return column ** float(parameters["power"])


def fit(fitted: LabelledRows, context: Context) -> Callable[..., NDArray[np.float64]]:
    for step in range(3):
        context.report(step, score(context.rows, context.parameters))
    return lambda x: score(x, context.parameters)


@pytest.fixture
def searching() -> ModuleType:
    needed("optuna")
    from mlplatform.learning.search import search

    return search


def found(
    searching: ModuleType,
    policy: SearchPolicy = POLICY,
    data: TrainingSet = DATA,
    study: Study | None = None,
    fit: Any = fit,
    **more: Any,
) -> SearchReport:
    folds = search_folds(DEFINITION, data, policy)
    asked = searching.Search(
        policy, DEFINITION, folds, NAMES, fit, 7, **{"clock_s": lambda: 0.0, **more}
    )
    report: SearchReport = searching.search(asked, study)
    return report


def changed(**parts: Any) -> SearchPolicy:
    return msgspec.structs.replace(POLICY, **parts)


def test_folds_are_of_days_to_fit_with_the_gap_of_service() -> None:
    folds = search_folds(DEFINITION, DATA, changed(folds=4, fold_days=2))
    assert len(folds) == 4
    for number, fold in enumerate(folds):
        first = DATA.window.holdout_from_ms - (4 - number) * 2 * DAY_MS
        tested, fitted = fold.tested.matrix.event_ms, fold.fitted.matrix.event_ms
        assert first <= tested.min() < tested.max() < first + 2 * DAY_MS
        assert DATA.window.from_ms <= fitted.min() < fitted.max() < first - MATURE * DAY_MS


def test_a_fold_of_one_label_is_refused_with_the_way_out() -> None:
    data = replace(DATA, rows=replace(DATA.rows, y=np.zeros(len(DATA.rows), np.int8)))
    with pytest.raises(InputInvalid, match=r"0 positives .* in fold 1 .*; raise fold_days"):
        search_folds(DEFINITION, data, POLICY)


def test_a_parameter_that_leaks_the_test_days_is_not_chosen(searching: ModuleType) -> None:
    """On the held-out days the leaking input is perfect; a search that saw them would take it."""
    held = DATA.holdout
    leaked, honest = (
        plain_measures(score(held.matrix.x, {"column": c, "power": 1.0}), held.y)
        for c in (LEAKING, HONEST)
    )
    assert leaked["average_precision"] == 1.0 > honest["average_precision"]

    report = found(searching)
    assert report.best.parameters["column"] == HONEST
    assert LEAKING in {trial.parameters["column"] for trial in report.trials}


def test_labels_and_inputs_of_the_held_out_days_change_no_trial(searching: ModuleType) -> None:
    held_out = DATA.rows.matrix.event_ms >= DATA.window.holdout_from_ms
    x, y = DATA.rows.matrix.x.copy(), DATA.rows.y.copy()
    x[held_out], y[held_out] = 9, 1 - y[held_out]
    other = replace(DATA, rows=LabelledRows(replace(DATA.rows.matrix, x=x), y))
    assert found(searching, data=other) == found(searching)


def test_killed_at_any_trial_it_goes_on_to_the_same_trials(
    searching: ModuleType, tmp_path: Path
) -> None:
    policy, calls = changed(trials=6, folds=2), []

    def dying(fitted: LabelledRows, context: Context) -> Any:
        calls.append(context.parameters)
        if len(calls) in deaths:
            raise Killed
        return fit(fitted, context)

    undisturbed = found(searching, policy)
    deaths = {1, 4, 5, 9, 12}
    kills = 0
    while True:
        try:
            report = found(searching, policy, study=Study(tmp_path), fit=dying)
        except Killed:
            kills += 1
        else:
            break
    assert kills == len(deaths)
    assert report == undisturbed
    assert len(calls) <= 2 * 6 + 2 * kills, "trials that had ended were made again"


def test_a_search_that_sigkill_ended_takes_up_what_it_had_done(
    searching: ModuleType, tmp_path: Path
) -> None:
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from tests.unit.learning.search import test_search as here\n"
        "from mlplatform.learning.search import search\n"
        "count = [0]\n"
        "def dying(fitted, context):\n"
        "    count[0] += 1\n"
        "    if count[0] == 8: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return here.fit(fitted, context)\n"
        f"here.found(search, study=here.Study(Path({str(tmp_path)!r})), fit=dying)\n"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=Path(__file__).parents[4], check=False)
    assert done.returncode == -signal.SIGKILL
    assert 0 < len(Study(tmp_path).trials(POLICY)) < POLICY.trials
    assert found(searching, study=Study(tmp_path)) == found(searching)


def test_the_budget_ends_a_search_and_the_report_says_so(searching: ModuleType) -> None:
    now_s = [0.0]

    def slow(fitted: LabelledRows, context: Context) -> Any:
        now_s[0] += 10
        return fit(fitted, context)

    policy = changed(budget_s=100, pruning="none")
    report = found(searching, policy, fit=slow, clock_s=lambda: now_s[0])
    assert len(report.trials) == 3, "30 s a trial; the fourth would end after 120 s"
    told = to_markdown(to_dict(GateReport("m", "b" * 64, None, (), search=report)))
    assert "3 of 14 trials in 90 s (3 complete, 0 pruned, 0 failed); the budget of 100 s" in told


def test_a_search_whose_budget_ended_within_a_trial_is_over_for_the_next_run(
    searching: ModuleType, tmp_path: Path
) -> None:
    """The trial that was given up is on no record, and its time is spent all the same."""
    now_s, fits = [0.0], [0]

    def slow(fitted: LabelledRows, context: Context) -> Any:
        now_s[0] += 10
        fits[0] += 1
        return fit(fitted, context)

    policy = changed(budget_s=100, pruning="none")

    def run() -> SearchReport:
        return found(searching, policy, fit=slow, study=Study(tmp_path), clock_s=lambda: now_s[0])

    first, made = run(), fits[0]
    assert [run() for _ in range(4)] == [first] * 4
    assert fits[0] == made


def test_time_of_killed_runs_counts(searching: ModuleType, tmp_path: Path) -> None:
    policy = changed(budget_s=50)
    first = Trial(
        number=0,
        state="complete",
        parameters={"column": 2, "power": 1.0, "depth": 3},
        seconds=51.0,
        value=0.3,
    )
    Study(tmp_path).keep(first)
    assert found(searching, policy, study=Study(tmp_path)).trials == (first,)


def test_rows_that_a_fit_changes_in_place_are_those_of_no_other_trial(
    searching: ModuleType,
) -> None:
    def spoiling(fitted: LabelledRows, context: Context) -> Any:
        score_of = fit(fitted, context)
        context.rows[:] = 0

        def spoiled(x: NDArray[np.float32]) -> NDArray[np.float64]:
            scores = score_of(x)
            x[:] = 0
            return scores

        return spoiled

    plain = found(searching, changed(pruning="none"))
    other = found(searching, changed(pruning="none"), fit=spoiling)
    assert [(t.parameters, t.value) for t in other.trials] == [
        (t.parameters, t.value) for t in plain.trials
    ]


def test_a_fit_has_rows_of_its_own() -> None:
    def spoiling(dataset: Dataset, context: Context) -> Any:
        dataset.x[:], dataset.y[:] = 0, 0
        return SimpleNamespace(scores=lambda rows: rows[:, 0], onnx=lambda: b"")

    rows = DATA.fitting
    before = rows.matrix.x.copy(), rows.y.copy()
    training: Any = SimpleNamespace(fit=spoiling)
    fit_rows(training, rows, rows.matrix.names, seed=1)
    assert np.array_equal(rows.matrix.x, before[0], equal_nan=True)
    assert np.array_equal(rows.y, before[1])


def test_a_failed_trial_is_told_and_the_search_goes_on(searching: ModuleType) -> None:
    def failing(fitted: LabelledRows, context: Context) -> Any:
        if context.parameters["column"] == 2:
            raise ValueError("no such\ncolumn")
        return fit(fitted, context)

    report = found(searching, fit=failing)
    failed = [trial for trial in report.trials if trial.state == "failed"]
    assert failed
    assert {trial.reason for trial in failed} == {"ValueError: no such column"}
    assert report.best.parameters["column"] == HONEST
    told = to_markdown(to_dict(GateReport("m", "b" * 64, None, (), search=report)))
    assert f"{len(failed)} failed" in told
    assert "ValueError: no such column" in told


@pytest.mark.parametrize("wrong", [np.nan, 2.0, "few"])
def test_scores_that_are_none_fail_a_trial(searching: ModuleType, wrong: Any) -> None:
    def bad(fitted: LabelledRows, context: Context) -> Any:
        return lambda x: np.full(3 if wrong == "few" else len(x), 0.0 if wrong == "few" else wrong)

    with pytest.raises(InputInvalid, match=r"all 14 trials failed; the last one: .*scores"):
        found(searching, fit=bad)


def test_a_search_of_failures_alone_is_not_kept(searching: ModuleType, tmp_path: Path) -> None:
    def failing(fitted: LabelledRows, context: Context) -> Any:
        raise ModuleNotFoundError("no library")

    with pytest.raises(InputInvalid, match=r"all 14 trials failed; .* no library"):
        found(searching, study=Study(tmp_path), fit=failing)
    assert found(searching, study=Study(tmp_path)) == found(searching)


def test_a_trial_that_ends_its_process_again_and_again_has_failed(
    searching: ModuleType, tmp_path: Path
) -> None:
    def deadly(fitted: LabelledRows, context: Context) -> Any:
        if len(Study(tmp_path).trials(POLICY)) == 1:
            raise Killed
        return fit(fitted, context)

    for _ in range(searching.MOST_STARTS):
        with pytest.raises(Killed):
            found(searching, study=Study(tmp_path), fit=deadly)
    report = found(searching, study=Study(tmp_path), fit=deadly)
    assert report.trials[1].reason == "its process ended 3 times during this trial"
    assert len(report.trials) == POLICY.trials


def test_a_trial_worse_than_the_median_is_stopped_on_the_way(searching: ModuleType) -> None:
    assert found(searching).count("pruned") > 0
    assert found(searching, changed(pruning="none")).count("pruned") == 0


@pytest.mark.parametrize("step", [-1, 999, 0])
def test_steps_rise_within_a_fold(searching: ModuleType, step: int) -> None:
    def twice(fitted: LabelledRows, context: Context) -> Any:
        context.report(0, score(context.rows, context.parameters))
        context.report(step, score(context.rows, context.parameters))

    with pytest.raises(InputInvalid, match=f"step: is {step}; wanted: 0 to 998"):
        found(searching, fit=twice)


def test_the_last_fit_reports_to_nobody() -> None:
    context = last_fit({"depth": 3}, inputs=4)
    assert context.rows.shape == (0, 4)
    context.report(0, np.empty(0))


def test_less_is_better_of_a_loss_and_more_of_an_own_measure(searching: ModuleType) -> None:
    of_loss = found(searching, changed(measure="log_loss"))
    complete = [t.value for t in of_loss.trials if t.state == "complete" and t.value is not None]
    assert of_loss.best.value == min(complete)

    def own(y: NDArray[np.int8], scores: NDArray[np.float64]) -> float:
        return float(scores[y == 1].mean() - scores[y == 0].mean())

    report = found(searching, changed(measure="own"), own=own)
    assert report.best.parameters["column"] == HONEST


def test_importances_name_what_mattered(searching: ModuleType) -> None:
    assert found(searching, changed(trials=9, pruning="none")).importances == {}
    shares = found(searching, changed(trials=30, pruning="none")).importances
    assert next(iter(shares)) == "column"
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"number": 5}', b"\xff", b'{"number": 0, "state": "complete"}']
)
def test_what_is_no_trial_is_made_again(tmp_path: Path, content: bytes) -> None:
    study = Study(tmp_path)
    study.keep(
        Trial(
            number=0,
            state="complete",
            parameters={"column": 2, "power": 1.0, "depth": 3},
            seconds=1.0,
            value=0.5,
        )
    )
    assert len(study.trials(POLICY)) == 1
    (tmp_path / "trial-0000.json").write_bytes(content)
    assert study.trials(POLICY) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"column": 9, "power": 1.0, "depth": 3},
        {"column": 2, "power": 11.0, "depth": 3},
        {"column": 2, "power": 1.0, "depth": 3.5},
        {"column": 2, "power": 1.0},
    ],
)
def test_a_trial_outside_the_space_is_none(tmp_path: Path, parameters: Any) -> None:
    study = Study(tmp_path)
    study.keep(Trial(number=0, state="complete", parameters=parameters, seconds=1.0, value=0.5))
    assert study.trials(POLICY) == []


def test_a_report_survives_the_way_from_the_job(searching: ModuleType) -> None:
    report = found(searching)
    sent = handover._without_steps(report)
    assert sent is not None
    taken = msgspec.json.decode(msgspec.json.encode(sent), type=SearchReport)
    assert taken == sent
    assert taken.best.number == report.best.number
