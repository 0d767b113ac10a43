"""Protected groups and folds in time of classes and of numbers, from a template to all gates."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.team_folder import command, team_folder

from mlplatform.learning.training import evaluate, retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training_sets.dataset import TrainingSet
from mlplatform.learning.validation.fold_gate import FoldFinding
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.learning.validation.report import to_dict, to_markdown
from mlplatform.model.folds import folds
from mlplatform.operations.actions import fitting, training
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load

pytestmark = pytest.mark.slow

NAME = "amounts"
AGES = ("18-39", "40 and over")
CHANNELS, CLASSES = ("web", "shop", "phone"), ("small", "usual", "large")
PER_DAY, DAYS, DAY_US = 400, 26, 86_400_000_000
LIMITS = {"classes": "accuracy_difference: 0.15", "real": "mae_ratio: 1.5, bias_difference: 8"}
REFERENCE = f"reference: {{age_group: {AGES[0]}}}"
MEASURES = {"classes": ("accuracy",), "real": ("mae", "bias")}


@dataclass(frozen=True)
class FirstVersion:
    """A first version with its report, and what it was made of."""

    task: str
    candidate: Candidate
    report: GateReport
    prepared: training.TrainingInputs
    found: tuple[FoldFinding, ...]

    def gate(self, name: str) -> GateResult:
        return next(gate for gate in self.report.gates if gate.name == name)


def history(task: str, until_us: int) -> pa.Table:
    """Requests whose label their channel tells but for chance, alike in both age groups; of one in
    ten no label is known, and of one in twenty no age group."""
    random = np.random.default_rng(3)
    count = PER_DAY * DAYS
    event_us = np.sort(random.integers(until_us - DAYS * DAY_US, until_us, count))
    channel, customer = random.integers(0, 3, count), random.integers(0, 900, count)
    age = pa.array(np.array(AGES)[customer % 2].tolist(), pa.string(), mask=customer % 20 == 0)
    unknown = random.random(count) < 0.1
    place = np.where(random.random(count) < 0.8, channel, random.integers(0, 3, count))
    label = pa.array(np.array(CLASSES)[place].tolist(), pa.string(), mask=unknown)
    if task == "real":
        risk = np.where(channel == 2, 600.0, 20.0 * channel + 50) + random.normal(0, 15, count)
        label = pa.array(np.maximum(risk, 0).round(2), pa.float64(), mask=unknown)
    known_us = np.minimum(event_us + 2 * DAY_US, until_us)
    return pa.table(
        {
            "request_id": np.arange(count),
            "event_time": pa.array(event_us, pa.timestamp("us")),
            "customer_id": customer,
            "age_group": age,
            "channel": pa.array(np.array(CHANNELS)[channel].tolist(), pa.string()),
            "amount": random.lognormal(3, 1, count).round(2),
            "label": label,
            "label_time": pa.array(known_us, pa.timestamp("us"), mask=unknown),
        }
    )


def changes(task: str) -> dict[str, str]:
    """What a team writes into model.yaml of the template."""
    return {
        "request:\n": f"request:\n  age_group: {{type: string, values: [{', '.join(AGES)}]}}\n",
        "inputs:\n": "protected: [age_group]\ninputs:\n",
        "gates:\n": f"gates:\n  fairness: {{{LIMITS[task]}, {REFERENCE}}}\n",
        "window_days: 21 ": "folds: 2\n  window_days: 12 ",
        "holdout_days: 3 ": "holdout_days: 4 ",
        "minimum_rows: 5000": "minimum_rows: 2000",
    }


@pytest.fixture(scope="module", params=[*LIMITS])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FirstVersion]:
    """Written from the template, checked, its history taken in, fitted as jobs, validated."""
    task, root = request.param, tmp_path_factory.mktemp("team")
    with team_folder(root, root / ".home" / "var", NAME):
        command("new-model", NAME, "--template", task, "--into", str(root))
        path = root / NAME / "model.yaml"
        text = path.read_text()
        for before, after in changes(task).items():
            assert before in text, before
            text = text.replace(before, after, 1)
        path.write_text(text)
        assert "nothing is wrong" in command("check-model", str(root / NAME))
        until_us = time.time_ns() // 1000 // DAY_US * DAY_US
        pq.write_table(history(task, until_us), root / "history.parquet")
        command("history", "import", NAME, str(root / "history.parquet"))
        platform = Platform(load(os.environ))
        prepared = training.prepare_training(platform, NAME, until_us // 1000)
        found = training.try_folds(platform, NAME, prepared, lambda status: None)
        candidate = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
        folder, recent = training.load_folder(NAME), prepared.recent
        report = retrain.validate(
            folder, candidate, prepared.dataset, champion=None, recent=recent, folds=found
        )
        yield FirstVersion(task, candidate, report, prepared, found)


def test_a_first_version_passes_all_gates_with_groups_and_folds(made: FirstVersion) -> None:
    assert made.report.reasons == ()
    assert retrain.version_facts(made.candidate, made.report, author="ana").validated
    assert made.gate("fairness").reason.endswith("requests is not known")
    page = to_markdown(to_dict(made.report))
    assert "### Protected attributes: errors by group" in page
    assert f" {AGES[0]}, " in page
    assert "### Folds in time: " in page


def test_the_groups_are_those_of_the_history_and_no_fit_saw_them(made: FirstVersion) -> None:
    found = made.report.group_measures
    assert found is not None
    (by_age,) = found.attributes
    days = made.prepared.dataset.holdout.known
    assert found.rows == len(days) == by_age.unknown + sum(g.rows for g in by_age.groups)
    assert by_age.unknown == (days.groups["age_group"] < 0).sum() > 0
    assert tuple(group.group for group in by_age.groups) == AGES
    for group in by_age.groups:
        assert tuple(m.name for m in group.measures) == MEASURES[made.task]
        assert all(m.is_known for m in group.measures)
    assert "age_group" not in made.candidate.bundle.input_names


def test_folds_are_measured_by_the_task(made: FirstVersion) -> None:
    definition = training.load_folder(NAME).definition
    wanted = folds(definition, made.prepared.dataset.as_of_ms)
    assert [(f.from_ms, f.to_ms) for f in made.found] == [(f.as_of_ms, f.to_ms) for f in wanted]
    values = []
    for fold in made.found:
        assert (fold.problem, fold.positives) == ("", fold.rows)
        assert fold.rows > 500
        assert fold.quality is not None
        assert fold.quality.name == MEASURES[made.task][0]
        values.append(fold.quality.candidate.value)
    gate = made.gate("folds")
    worst = min(values) if made.task == "classes" else max(values)
    assert (gate.verdict, gate.observed) == ("passed", worst)


def test_folds_beside_a_champion_that_was_fitted_to_none_of_them(made: FirstVersion) -> None:
    """The champion ends before the test days begin, so it can be compared in all of them."""
    champion = evaluate.load_runnable(made.candidate.folder)
    early = msgspec.structs.replace(champion.bundle.data, holdout_from_ms=made.found[0].from_ms)
    bundle = msgspec.structs.replace(champion.bundle, data=early)
    beside = replace(made.prepared, champion=replace(champion, bundle=bundle))
    again = training.try_folds(Platform(load(os.environ)), NAME, beside, lambda status: None)
    judged = retrain.validate(
        training.load_folder(NAME),
        made.candidate,
        made.prepared.dataset,
        champion=beside.champion,
        folds=again,
    )
    gate = next(gate for gate in judged.gates if gate.name == "folds")
    assert "The champion was not fitted to 2 of the folds" in gate.reason
    assert gate.verdict == "passed"


def spoiled(made: FirstVersion) -> TrainingSet:
    """The same requests, of whose older customers more labels are not as the channel tells."""
    dataset, random = made.prepared.dataset, np.random.default_rng(5)
    rows = dataset.rows
    changed = rows.groups["age_group"] == 1
    y = rows.y + random.normal(0, 60, len(rows))
    if made.task == "classes":
        changed &= random.random(len(rows)) < 0.4
        y = (rows.y + 1) % len(CLASSES)
    return replace(dataset, rows=replace(rows, y=np.where(changed, y, rows.y).astype(rows.y.dtype)))


def test_a_version_that_errs_more_for_one_group_is_refused_beside_its_champion(
    made: FirstVersion,
) -> None:
    folder, champion = training.load_folder(NAME), evaluate.load_runnable(made.candidate.folder)
    found = retrain.validate(
        folder, made.candidate, spoiled(made), champion=champion, folds=made.found
    )
    gate = next(gate for gate in found.gates if gate.name == "fairness")
    assert gate.verdict == "failed"
    assert f"age_group {AGES[1]}" in gate.reason
    assert not retrain.version_facts(made.candidate, found, author="ana").validated
    assert found.group_measures is not None
    for group in found.group_measures.attributes[0].groups:
        assert all(m.difference is not None and m.difference.value == 0 for m in group.measures)


def test_a_candidate_that_reads_what_became_protected_is_refused(made: FirstVersion) -> None:
    folder = training.load_folder(NAME)
    changed = msgspec.structs.replace(folder.definition, protected=("channel",))
    found = retrain.validate(
        replace(folder, definition=changed),
        made.candidate,
        made.prepared.dataset,
        champion=None,
        folds=made.found,
    )
    schema = next(gate for gate in found.gates if gate.name == "schema")
    assert schema.verdict == "failed"
    assert "channel read what model.yaml calls protected" in schema.reason
