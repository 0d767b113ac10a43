"""A team's own gates: what they are given, and that nothing but a result with a number passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.support.training_rows import payments

from mlplatform.learning.training import own_gates as running
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import Candidate, train
from mlplatform.learning.training.evaluate import load_runnable
from mlplatform.learning.training.folder import ModelFolder, load_folder
from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.learning.validation.measures import Measure, mean_measure
from mlplatform.learning.validation.own_gates import (
    Arm,
    HeldOut,
    OwnGates,
    declared_gates,
    judge_own,
)
from mlplatform.learning.validation.report import to_dict, to_markdown
from mlplatform.learning.validation.statistics import Interval
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.decision_scale import (
    DecisionPolicy,
    LabelCosts,
    ThresholdPolicy,
    ThresholdSegment,
)

NAN = float("nan")
FRAUD = load_definition("fraud").decision
COSTS = {
    "approve": LabelCosts(negative=-1, positive=10),
    "review": LabelCosts(negative=0, positive=2),
    "decline": LabelCosts(negative=1, positive=0),
}
DECISION = DecisionPolicy(
    outcomes=FRAUD.outcomes,
    alerts=FRAUD.alerts,
    hides_outcome=FRAUD.hides_outcome,
    safe=FRAUD.safe,
    thresholds=ThresholdPolicy(costs=COSTS, currency="EUR"),
    capacity=0.5,
)


def arm(*decisions: str) -> Arm:
    return Arm(np.full(len(decisions), 0.5), np.array(decisions, object))


ROWS = HeldOut(
    y=np.array([0, 1, 0, 1], np.int8),
    unit=np.arange(4),
    event_ms=np.arange(4),
    candidate=arm("approve", "decline", "review", "approve"),
    champion=None,
    is_first=True,
    columns={},
    decision=DECISION,
    seed=1,
)


def answered(answer: Any) -> GateResult:
    """What becomes of an answer of a gate that is called `own`."""

    def own(rows: HeldOut) -> Any:
        return answer

    (found,) = judge_own(OwnGates(gates=(own,)), ROWS).gates
    return found


GOOD = GateResult("own", "passed", 0.5, 1.0, "half of one")


def test_a_result_is_taken_as_it_is() -> None:
    assert answered(GOOD) == GOOD
    assert answered(replace(GOOD, observed=np.float32(0.5), interval=[0, 1])) == replace(
        GOOD, interval=(0.0, 1.0)
    )
    assert answered(replace(GOOD, verdict="failed")).verdict == "failed"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "gave a value of type NoneType; wanted: a GateResult"),
        (True, "gave a value of type bool"),
        (Measure("own", Interval(1, 0, 2)), "gave a value of type Measure"),
        (replace(GOOD, name="other"), "names its result 'other'; wanted: 'own'"),
        (replace(GOOD, observed=NAN), "gave nan as observed; wanted: a finite number"),
        (replace(GOOD, observed=None), "passed without an observed number"),
        (replace(GOOD, limit="1"), "gave a value of type str as limit"),
        (replace(GOOD, interval=(NAN, 1)), "gave nan as interval"),
        (replace(GOOD, interval=(1,)), "no two ends"),
        (replace(GOOD, interval=(2, 1)), "lower end is above its upper one"),
        (replace(GOOD, verdict="ok"), "gave the verdict 'ok'"),
        (replace(GOOD, reason=" "), "gave no reason"),
    ],
)
def test_an_answer_that_is_no_result_is_never_a_pass(answer: Any, told: str) -> None:
    found = answered(answer)
    assert (found.name, found.verdict, found.observed) == ("own", "inconclusive", None)
    assert told in found.reason


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "error", [ValueError("no\nrows"), SystemExit(0), AssertionError(), Silent()]
)
def test_a_gate_that_raises_is_told_and_takes_no_other_with_it(error: BaseException) -> None:
    def bad(rows: HeldOut) -> GateResult:
        raise error

    def own(rows: HeldOut) -> GateResult:
        return GOOD

    found = judge_own(OwnGates(gates=(bad, own)), ROWS)
    assert [gate.verdict for gate in found.gates] == ["inconclusive", "passed"]
    assert found.gates[0].reason.startswith(f"gates.py: bad raised {type(error).__name__}: ")
    assert "\n" not in found.gates[0].reason


@pytest.mark.parametrize("changed", [{"name": "n" * 10**5}, {"verdict": "\x1b" * 10**5}])
def test_what_is_told_of_a_wrong_answer_is_short_and_plain(changed: dict[str, str]) -> None:
    reason = answered(replace(GOOD, **changed)).reason  # type: ignore[arg-type]
    assert len(reason) < 600
    assert reason.isprintable()


def test_a_result_in_texts_of_numpy_can_be_written() -> None:
    own, passed = np.array(["own", "passed"])
    found = answered(replace(GOOD, name=own, verdict=passed))
    assert (type(found.name), type(found.verdict)) == (str, str)


def test_no_function_changes_the_rows_of_the_next() -> None:
    """The rows that `mlplatform check-model` makes up are frozen as a candidate's are."""
    seen: list[HeldOut] = []

    def own(rows: HeldOut) -> GateResult:
        seen.append(rows)
        return GOOD

    made = ModuleType("gates")
    made.__dict__.update(GATES=(own,), COLUMNS=("amount",))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(running, "load_module", lambda model, name: made)
        inputs = {"amount": np.linspace(0, 100, running.MADE_UP_ROWS)}
        assert running.try_own_gates(load_definition("fraud"), inputs, 1).wrong == ()
    rows = seen[0]
    for held in (rows.y, rows.candidate.decisions, rows.columns["amount"]):
        with pytest.raises(ValueError, match="read-only"):
            held[:] = held[0]
        with pytest.raises(ValueError, match="WRITEABLE"):
            held.flags.writeable = True
    with pytest.raises(TypeError):
        rows.columns["amount"] = rows.y  # type: ignore[index]


def test_a_measure_without_a_value_stops_the_version() -> None:
    def own(rows: HeldOut) -> Measure:
        return Measure("own", Interval(NAN, NAN, NAN))

    found = judge_own(OwnGates(measures=(own,)), ROWS)
    assert found.measures == ()
    assert [gate.verdict for gate in found.gates] == ["inconclusive"]


def module(**names: Any) -> ModuleType:
    made = ModuleType("gates")
    made.__dict__.update(names)
    return made


def quality(rows: HeldOut) -> GateResult:
    return GOOD


def two(rows: HeldOut, more: int) -> GateResult:
    return GOOD


def fine(rows: HeldOut) -> GateResult:
    return GOOD


def segment_large(rows: HeldOut) -> GateResult:
    return GOOD


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({}, "1 gate or more"),
        ({"MEASURES": (fine,)}, "1 gate or more"),
        ({"GATES": fine}, "GATES is a value of type function; wanted: a tuple"),
        ({"GATES": ("fine",)}, "hold a value of type str; wanted: functions"),
        ({"GATES": (quality,)}, "quality is a name of the platform's own"),
        ({"GATES": (segment_large,)}, "segment_large is a name of the platform's own"),
        ({"GATES": (two,)}, "two can't be called with one argument"),
        ({"GATES": (fine, fine)}, "fine is named twice"),
        ({"GATES": (lambda rows: GOOD,)}, "<lambda> is not a result's name"),
        ({"GATES": (fine,), "COLUMNS": (1,)}, "COLUMNS holds a value of type int"),
    ],
)
def test_a_file_that_declares_no_gates_is_told(names: dict[str, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        declared_gates(module(**names))
    assert told in str(raised.value)


def test_costs_are_those_of_model_yaml_by_label() -> None:
    assert ROWS.costs(ROWS.candidate.decisions).tolist() == [-1, 0, 0, 10]
    assert ROWS.costs("review").tolist() == [0, 2, 0, 2]
    with pytest.raises(ValueError, match=r"lacks refuse"):
        ROWS.costs("refuse")


def test_costs_in_a_segment_with_costs_of_its_own_are_those() -> None:
    own = {**COSTS, "decline": LabelCosts(negative=100, positive=-7)}
    by_shares = ThresholdSegment(name="far", input="amount", below=5.0, shares={})
    segments = (ThresholdSegment(name="large", input="amount", below=1.0, costs=own), by_shares)
    thresholds = msgspec.structs.replace(DECISION.thresholds, segments=segments)
    rows = replace(
        ROWS,
        decision=msgspec.structs.replace(DECISION, thresholds=thresholds),
        segments=np.array(["large", "large", "far", ""], object),
    )
    assert rows.costs("decline").tolist() == [100, -7, 1, 0]
    assert rows.costs("review").tolist() == [0, 2, 0, 2]


def test_a_mean_has_the_interval_of_its_units_and_the_difference_that_of_pairs() -> None:
    random = np.random.default_rng(3)
    unit, shift = np.repeat(np.arange(400), 5), np.repeat(random.normal(0, 1, 400), 5)
    found = mean_measure("cost", shift, unit, seed=1, champion=shift + 1)
    half = 1.645 / np.sqrt(400)
    own, gap = found.candidate, found.difference
    assert own.high - own.low == pytest.approx(2 * half, rel=0.15), "1/sqrt(2000) would be half"
    assert gap is not None
    assert gap.value == pytest.approx(-1)
    assert -1.02 < gap.low < gap.value < gap.high < -0.98, "pairs differ by 1, and one more by 2"


# The two gates of a folder, over a candidate that is fitted to made-up payments.
OF_A_TEAM = """
import numpy as np
from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.learning.validation.measures import mean_measure

COLUMNS = ("amount",)

def stopped_amount(rows):
    amount = np.nan_to_num(rows.columns["amount"])
    stopped = [amount * (a.decisions == "decline") for a in (rows.candidate, rows.champion) if a]
    return mean_measure("stopped_amount", stopped[0], rows.unit, seed=rows.seed,
                        champion=stopped[1] if len(stopped) > 1 else None)

def ranks(rows):
    gap = rows.candidate.scores[rows.y == 1].mean() - rows.candidate.scores[rows.y == 0].mean()
    return GateResult("ranks", "passed" if gap > LIMIT else "failed", gap, LIMIT, "mean scores")

LIMIT = 0.01
GATES, MEASURES = (ranks,), (stopped_amount,)
"""


@pytest.fixture(scope="module")
def fraud(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, Candidate]:
    folder = load_folder("fraud")
    return folder, train(folder, payments(1), bundles=tmp_path_factory.mktemp("b"), seed=7)


def judged(
    monkeypatch: pytest.MonkeyPatch,
    fraud: tuple[ModelFolder, Candidate],
    tmp_path: Path,
    text: str,
    champion: Any = None,
) -> Any:
    """The report with a `gates.py` of this text in the folder."""
    (tmp_path / "gates.py").write_text(text)
    namespace: dict[str, Any] = {}
    made = ModuleType("gates")

    def load(model: str, name: str) -> ModuleType:
        exec(compile(text, str(tmp_path / "gates.py"), "exec"), namespace)
        made.__dict__.update(namespace)
        return made

    monkeypatch.setattr(running, "model_folder", lambda name: tmp_path)
    monkeypatch.setattr(running, "folder_digest", lambda path: fraud[0].digest)
    monkeypatch.setattr(running, "load_module", load)
    return retrain.validate(*fraud, payments(1), champion=champion)


def test_own_results_stand_beside_the_platforms(
    monkeypatch: pytest.MonkeyPatch, fraud: tuple[ModelFolder, Candidate], tmp_path: Path
) -> None:
    report = judged(monkeypatch, fraud, tmp_path, OF_A_TEAM, load_runnable(fraud[1].folder))
    gates = {gate.name: gate for gate in report.gates}
    assert {"quality", "ranks"} <= set(gates)
    assert gates["ranks"].verdict == "passed"
    found = {measure.name: measure for measure in report.measures}["stopped_amount"]
    assert found.candidate.value > 0
    assert found.difference is not None
    assert found.difference.value == 0
    assert found.difference.high == -found.difference.low > 0
    page = to_markdown(to_dict(report))
    assert "**ranks**" in page
    assert "- stopped\\_amount: " in page
    told = retrain.metrics(report)
    assert told["ranks"] == gates["ranks"].observed
    assert told["stopped_amount"] == found.candidate.value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (OF_A_TEAM.replace("LIMIT = 0.01", "LIMIT = 2.0"), "ranks: mean scores"),
        (OF_A_TEAM.replace('"amount",', '"amuont",'), "own_gates: gates.py: raised ValueError: C"),
        ("import numpy\n1 / 0\n", "ZeroDivisionError: division by zero (line 2)"),
        ("GATES = (\n", "own_gates: gates.py: raised SyntaxError"),
        ("", "own_gates: gates.py: raised ValueError: GATES and MEASURES name 0 and 0"),
        (OF_A_TEAM.replace("    gap = ", "    rows.y[:] = 1; gap = "), "read-only (line "),
    ],
)
def test_what_own_gates_refuse_is_no_version(
    monkeypatch: pytest.MonkeyPatch,
    fraud: tuple[ModelFolder, Candidate],
    tmp_path: Path,
    text: str,
    told: str,
) -> None:
    report = judged(monkeypatch, fraud, tmp_path, text)
    assert not retrain.version_facts(fraud[1], report, author="ana").validated
    assert told in " ".join(report.reasons)


def test_gates_of_another_content_than_the_candidates_are_not_run(
    monkeypatch: pytest.MonkeyPatch, fraud: tuple[ModelFolder, Candidate], tmp_path: Path
) -> None:
    folder, candidate = fraud
    bundle = replace_folder(candidate)
    report = judged(monkeypatch, (folder, bundle), tmp_path, OF_A_TEAM)
    assert "the candidate was fitted by content 0000" in " ".join(report.reasons)


def test_a_candidate_of_a_folder_that_had_gates_is_no_version_once_they_are_gone(
    monkeypatch: pytest.MonkeyPatch, fraud: tuple[ModelFolder, Candidate], tmp_path: Path
) -> None:
    """The file went between fit and gates: nobody can tell what it would have said."""
    monkeypatch.setattr(running, "model_folder", lambda name: tmp_path)
    folder, candidate = fraud
    found = running.own_findings(
        folder, replace_folder(candidate), payments(1), champion=None, seed=1
    )
    assert [gate.verdict for gate in found.gates] == ["inconclusive"]
    assert "the candidate was fitted by content 0000" in found.gates[0].reason


def replace_folder(candidate: Candidate) -> Any:
    class ChangedBundle:
        folder = "0" * 64

        def __getattr__(self, name: str) -> Any:
            return getattr(candidate.bundle, name)

    return replace(candidate, bundle=ChangedBundle())  # type: ignore[arg-type]


@pytest.fixture
def credit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    teams = Path(__file__).parents[4] / "teams" / "credit"
    monkeypatch.setenv("MLPLATFORM_MODELS", str(teams))
    return load_module("credit-default", "gates")


def clients(unsure: float, seed: int = 1) -> HeldOut:
    """4,000 clients, of whom 22 % default; a candidate that knows, but for a share of them, and a
    champion that knows."""
    random, count = np.random.default_rng(seed), 4000
    y = (random.random(count) < 0.22).astype(np.int8)
    right = np.where(y == 1, "refuse", "grant").astype(object)
    wrong = np.where(y == 1, "grant", "refuse").astype(object)
    decisions = np.where(random.random(count) < unsure, wrong, right)
    scores = y.astype(np.float64)
    return HeldOut(
        y=y,
        unit=np.arange(count),
        event_ms=np.arange(count),
        candidate=Arm(scores, decisions),
        champion=Arm(scores, right),
        is_first=False,
        columns={},
        decision=load_definition("credit-default").decision,
        seed=seed,
    )


@pytest.mark.parametrize(
    ("unsure", "verdict"), [(0.0, "passed"), (0.023, "inconclusive"), (0.2, "failed")]
)
def test_the_credit_teams_gate_holds_cost_to_the_champions(
    credit: ModuleType, unsure: float, verdict: str
) -> None:
    found = judge_own(declared_gates(credit), clients(unsure))
    assert found.wrong == ()
    (gate,), (measure,) = found.gates, found.measures
    assert (gate.name, gate.verdict) == ("decision_cost", verdict)
    assert measure.difference is not None
    assert gate.observed == pytest.approx(measure.difference.value)


def test_a_first_credit_version_must_be_cheaper_than_no_model(credit: ModuleType) -> None:
    first = replace(clients(0.0), champion=None, is_first=True)
    assert credit.decision_cost(first).verdict == "passed"
    dull = replace(first, candidate=Arm(first.candidate.scores, np.full(4000, "grant", object)))
    assert credit.decision_cost(dull).verdict != "passed"
    gone = replace(clients(0.0), champion=None)
    assert credit.decision_cost(gone).verdict == "inconclusive"
