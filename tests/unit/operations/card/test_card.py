"""A model card tells what is on record, and says of everything else that it is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import msgspec
import numpy as np
import pytest

from mlplatform.learning.fairness.errors import MeasuredRows, group_measures
from mlplatform.learning.registry.versions import Version
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.report import to_dict
from mlplatform.model.bundle import Bundle
from mlplatform.model.definition import InputSpec, ModelDefinition
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.cut_offs import SegmentThresholds
from mlplatform.model.policies.training import ExplorationPolicy
from mlplatform.model.routes import no_routes
from mlplatform.model.windows.declaration import Aggregate, Filter, Window
from mlplatform.operations.actions import interim_analyses
from mlplatform.operations.actions.interim_analyses import InterimAnalysis, StepHistory
from mlplatform.operations.card.assembly import VersionRecords, card
from mlplatform.operations.card.card import Card, Explanations
from mlplatform.operations.card.inputs import AGGREGATES, card_inputs
from mlplatform.operations.card.limits import limits
from mlplatform.operations.card.records import _analyses
from mlplatform.operations.card.sections import NOT_RECORDED, Section, sections
from mlplatform.rollouts.journal.evidence import EARLIER_NAMES
from mlplatform.rollouts.journal.transitions import Answered, Opened, RolledBack
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.units import DAY_MS
from support.carded_version import promoted_journal, recorded, tenure, version
from support.class_model import class_definition, real_definition


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> VersionRecords:
    return recorded(tmp_path_factory.mktemp("bundles") / "bundle")


def bare(known: VersionRecords, **facts: Any) -> VersionRecords:
    """The same version with nothing on record but that it was registered."""
    changed = msgspec.structs.replace(known.version.facts, report={}, folder="", **facts)
    return dataclasses.replace(
        known,
        version=dataclasses.replace(known.version, facts=changed),
        bundle=None,
        routes=no_routes("fraud"),
        journals=(),
        incidents=(),
        tenure=None,
    )


def told(card_of: Card, title: str) -> Section:
    return next(section for section in sections(card_of) if section.title == title)


def words(section: Section) -> str:
    cells = [cell for t in section.tables for row in (t.head, *t.rows) for cell in row]
    fields = [text for field in section.fields for text in field]
    return "\n".join([*fields, *section.lines, *(t.caption for t in section.tables), *cells])


def test_it_is_one_value_that_json_holds(known: VersionRecords) -> None:
    made = card(known)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Card) == made
    assert card(known) == made


SHARE = {"value": 0.2, "low": 0.1, "high": 0.3}
FAIR = {
    "adverse": ["decline"],
    "rows": 300,
    "ratio_level": 0.9,
    "attributes": [
        {
            "attribute": "sex",
            "reference": "female",
            "unknown": 20,
            "groups": [
                {
                    "group": group,
                    "rows": rows,
                    "units": rows,
                    "known": rows,
                    "positives": 9,
                    "adverse_share": SHARE,
                    "true_positive_rate": SHARE,
                    "false_positive_rate": SHARE,
                    "observed": SHARE,
                    "calibration_gap": SHARE,
                    "mean_score": 0.2,
                    "favourable_ratio": favourable,
                    "adverse_share_ratio": ratio,
                    "false_positive_ratio": ratio,
                }
                for group, rows, favourable, ratio in (
                    ("female", 260, 1.0, None),
                    ("male", 20, 0.7, {"value": 1.4, "low": None, "high": None}),
                )
            ],
        }
    ],
}
MEASURES = [
    {
        "name": "auc",
        "candidate": {"value": 0.78, "low": 0.76, "high": 0.8},
        "champion": {"value": 0.77, "low": 0.75, "high": 0.79},
        "difference": {"value": 0.01, "low": 0.002, "high": 0.018},
    }
]


def test_measures_and_protected_groups_stand_beside_what_they_do_not_show(
    known: VersionRecords,
) -> None:
    report = {**known.version.facts.report, "measures": MEASURES, "fairness": FAIR}
    facts = msgspec.structs.replace(known.version.facts, report=report)
    version = dataclasses.replace(known.version, facts=facts)
    made = card(dataclasses.replace(known, version=version))
    assert "+0.010 (+0.002 to +0.018)" in words(told(made, "On held-out requests"))
    groups = words(told(made, "Protected attributes"))
    assert "1.400 (too few for an interval)" in groups
    assert "0.70 (under four fifths)" in groups
    assert "The sex of 20 of the requests is not known." in groups
    assert any("There were too few requests of male" in limit for limit in made.limits)
    without = card(known)
    assert "no groups were compared" in words(told(without, "Protected attributes"))


def test_errors_of_protected_groups_are_shown_beside_each_other_and_the_champions(
    known: VersionRecords,
) -> None:
    random, unit = np.random.default_rng(1), np.repeat(np.arange(200), 4)
    errors = {name: random.normal(0, 10, 800) for name in ("own", "champion")}
    rows = {name: {"mae": np.abs(found), "bias": found} for name, found in errors.items()}
    groups = {"sex": np.where(unit < 90, 0, np.where(unit < 180, 1, -1))}
    groups["age"] = np.where(unit < 180, 0, 1)
    values = {"sex": ("female", "male"), "age": ("young", "old")}
    for champion in (rows["champion"], None):
        measured = MeasuredRows(rows["own"], champion, unit)
        found = group_measures(measured, groups, values, policy=None, unit="EUR", seed=1)
        written = to_dict(GateReport("m", "b", None, (), group_measures=found))
        report = {**known.version.facts.report, "group_measures": written["group_measures"]}
        facts = msgspec.structs.replace(known.version.facts, report=report)
        version = dataclasses.replace(known.version, facts=facts)
        made = card(dataclasses.replace(known, version=version))
        section = told(made, "Protected attributes")
        by_sex, by_age = section.tables
        assert by_sex.caption == "By sex; the reference is female"
        assert by_sex.head[:5] == ("group", "requests", "customers", "mean absolute error", "bias")
        assert by_sex.head[-1] == "bias beside that of female"
        assert ("bias, to the champion's" in by_sex.head) == (champion is not None)
        assert {len(row) for row in by_sex.rows} == {len(by_sex.head)}
        assert by_sex.rows[0][-2:] == ("reference", "reference")
        assert "(too few for an interval)" in by_age.rows[1][-1]
        assert dict(section.fields)["unit"] == "EUR"
        assert "The sex of 80 of the requests is not known." in section.lines
        assert any("too few requests of old (by age)" in limit for limit in made.limits)
        assert "no groups were compared" not in words(section)


def test_a_version_is_shown_beside_the_baseline_of_its_folder(known: VersionRecords) -> None:
    assert "baseline" not in words(told(card(known), "On held-out requests"))
    report = {**known.version.facts.report, "baseline": MEASURES}
    facts = msgspec.structs.replace(known.version.facts, report=report)
    version = dataclasses.replace(known.version, facts=facts)
    made = card(dataclasses.replace(known, version=version))
    table = told(made, "On held-out requests").tables[-1]
    assert table.head == ("measure", "this version", "the baseline", "difference")
    ((name, *_, difference),) = table.rows
    assert (name, difference) == ("AUC", "+0.010 (+0.002 to +0.018)")


def test_it_says_who_answers_and_how_an_approver_was_known(known: VersionRecords) -> None:
    made = card(known)
    (approval,) = made.approvals
    assert (approval.approver, approval.answer) == ("ben", "approve")
    assert approval.proven_by == "code of key 12ab"
    assert approval.bound_to == known.journals[0][2].evidence_digest
    assert (made.identity.author, made.identity.place) == ("ana", "champion")
    assert "code of key 12ab" in words(told(made, "Who answers for it"))
    assert "new terminals" in words(told(made, "Who answers for it"))


def test_outcomes_have_their_thresholds_and_planned_shares(known: VersionRecords) -> None:
    found = [(o.name, o.from_score, o.share) for o in card(known).deciding.outcomes]
    assert found == [
        ("approve", None, pytest.approx(0.987)),
        ("review", 0.5, 0.01),
        ("decline", 0.9, 0.003),
    ]


SEGMENT = SegmentThresholds(
    name="large",
    input="amount",
    at_least=500.0,
    below=900.5,
    thresholds={"review": 0.25, "decline": 0.75},
    rows=1234,
    positives=56,
)


def test_segments_with_thresholds_of_their_own_are_shown(known: VersionRecords) -> None:
    listed = SegmentThresholds(
        name="some", input="hour", values=(1.0, 23.0), thresholds=SEGMENT.thresholds
    )
    made = card(dataclasses.replace(known, bundle=segmented(known, SEGMENT, listed)))
    table = told(made, "What it decides, and for what").tables[1]
    assert table.head == (
        *("segment", "requests with", "review from", "decline from"),
        *("held-out requests", "positives"),
    )
    assert table.rows == (
        ("large", "amount at least 500 and below 900.5", "0.25", "0.75", "1,234", "56"),
        ("some", "hour 1, 23", "0.25", "0.75", "0", "0"),
    )
    whole = told(made, "What it decides, and for what").tables[0]
    assert "of requests in no segment" in whole.caption
    assert len(told(card(known), "What it decides, and for what").tables) == 1


def segmented(known: VersionRecords, *segments: SegmentThresholds) -> Bundle:
    assert known.bundle is not None
    return msgspec.structs.replace(known.bundle, segment_thresholds=segments)


def test_a_gate_of_validation_that_had_nothing_to_check_has_no_tick(known: VersionRecords) -> None:
    gates = [
        {"name": "decision_flips", "verdict": "passed", "reason": "there is no champion"},
        {"name": "rows", "verdict": "passed", "observed": 9.0, "limit": 5.0, "reason": "enough"},
        {"name": "volume_limit", "verdict": "passed", "reason": "the policy has a limit"},
    ]
    facts = msgspec.structs.replace(known.version.facts, report={"champion": "", "gates": gates})
    version = dataclasses.replace(known.version, facts=facts)
    made = card(dataclasses.replace(bare(known), version=version))
    (table,) = told(made, "Gates of validation").tables
    assert [row[1] for row in table.rows] == ["\N{EN DASH} nothing to check yet", *["✔ passed"] * 2]


def test_numbers_are_shown_with_their_unit_and_moved_ones_are_counted(
    known: VersionRecords,
) -> None:
    definition = real_definition()
    gate = {"name": "mae", "verdict": "passed", "observed": -0.4, "limit": 0.6,
            "interval": [-0.9, 0.1], "reason": "as near as the champion"}  # fmt: skip
    counts = {"requests": 900, "alerts": 0, "champion_alerts": 0, "both_alerts": 0, "flips": 12}
    facts = msgspec.structs.replace(
        known.version.facts, report={"champion": "c", "gates": [gate], "replayed": counts}
    )
    plain = dataclasses.replace(bare(known), definition=definition)
    made = card(dataclasses.replace(plain, version=dataclasses.replace(plain.version, facts=facts)))
    held_out = words(told(made, "On held-out requests"))
    assert "900 requests: 12 whose number moved by more than the tolerance" in held_out
    assert "mean absolute error, less the champion's" in held_out
    purpose = told(made, "What it decides, and for what")
    gives = dict(purpose.fields)["gives"]
    assert gives == "0 or more and 100000 or less, in EUR; up to 20 apart counts as no change"
    (table,) = purpose.tables
    assert table.caption == "Outcomes, from the lowest number to the highest"
    assert table.rows[0][1] == "the lowest"
    assert msgspec.json.decode(msgspec.json.encode(made), type=Card) == made


def test_classes_have_no_scores_and_no_outcome_without_a_label(known: VersionRecords) -> None:
    definition = class_definition()
    gate = {"name": "accuracy", "verdict": "passed", "observed": 0.01, "limit": -0.02,
            "interval": [-0.01, 0.03], "reason": "as right as the champion"}  # fmt: skip
    counts = {"requests": 900, "alerts": 0, "champion_alerts": 0, "both_alerts": 0, "flips": 12}
    facts = msgspec.structs.replace(
        known.version.facts, report={"champion": "c", "gates": [gate], "replayed": counts}
    )
    plain = dataclasses.replace(bare(known), definition=definition)
    made = card(dataclasses.replace(plain, version=dataclasses.replace(plain.version, facts=facts)))
    held_out = words(told(made, "On held-out requests"))
    assert "900 requests: 12 of another class" in held_out
    assert "accuracy, less the champion's" in held_out
    (table,) = told(made, "What it decides, and for what").tables
    assert table.caption == "Classes, of which the most probable one is decided"
    assert [row[0] for row in table.rows] == list(definition.classes)
    assert table.head == ("class", "alert")
    days = definition.label.maturity_days
    label = dict(told(made, "Labels and hidden outcomes").fields)["mature after"]
    assert label == f"{days} days; without a label by then the outcome is unknown"
    unknown = f"A request without a label counts as unknown after {days} days:"
    assert any(limit.startswith(unknown) for limit in made.limits)
    assert [c for c, _ in made.replay if c.startswith("mlplatform replay fraud --version 2")]
    assert dict(told(made, "What it decides, and for what").fields)["alerts"].startswith("none")
    assert "positive labels" not in dict(told(made, "Labels and hidden outcomes").fields)
    watched = card(dataclasses.replace(plain, tenure=tenure()))
    assert not [line for line in told(watched, "Matured performance").lines if "ecall" in line]
    assert [line for line in told(card(known), "Matured performance").lines if "Recall" in line]
    assert [c for c, _ in card(known).replay if c.startswith("mlplatform replay fraud ")]
    assert msgspec.json.decode(msgspec.json.encode(made), type=Card) == made


@pytest.mark.parametrize("method", ["tree_shap", "reference_values"])
@pytest.mark.parametrize(
    ("definition", "word"),
    [(real_definition(), "number"), (class_definition(), "probability")],
    ids=["numbers", "classes"],
)
def test_what_a_model_gives_has_the_word_of_its_kind(
    known: VersionRecords, definition: ModelDefinition, word: str, method: str
) -> None:
    made = card(dataclasses.replace(bare(known), definition=definition))
    found = Explanations(method=method, link="identity", why="")
    made = msgspec.structs.replace(made, explanations=found)
    made = msgspec.structs.replace(made, limits=limits(made, definition))
    shown = [
        told(made, "Explanations of its decisions"),
        told(made, "What it decides, and for what"),
    ]
    said = " ".join((*map(words, shown), *(line for line in made.limits if "reasons" in line)))
    assert word in said
    assert "score" not in said


def test_each_input_says_what_happens_where_it_is_missing_and_where_it_is_stale(
    known: VersionRecords,
) -> None:
    found = {i.name: i for i in card(known).inputs}
    assert list(found) == [i.name for i in known.definition.inputs]
    assert "refused" in found["amount"].missing
    assert found["amount"].stale is None
    assert found["hour"].missing == "never: each request has a time"
    risk = found["terminal_risk_7d"]
    assert "share of requests labelled positive over 7 days" in risk.made_of
    assert "the answer names the view" in risk.missing
    assert risk.stale is not None
    assert "no model is asked" in risk.stale
    assert "divisor" in found["amount_to_mean_30d"].missing


def test_what_holds_for_many_inputs_is_said_once_above_their_table(known: VersionRecords) -> None:
    made = card(known)
    shown = told(made, "Inputs")
    rules = dict(line.removesuffix(".").split(": ", 1) for line in shown.lines)
    (table,) = shown.tables
    assert rules
    for row, of in zip(table.rows, made.inputs, strict=True):
        missing, stale = (rules.get(cell.capitalize(), cell) for cell in row[2:4])
        assert (missing, stale) == (of.missing, of.stale or "does not apply")
    cells = [cell for row in table.rows for cell in row[2:4] if not cell.startswith("rule ")]
    assert max(cells.count(c) for c in cells if c != "does not apply") <= 2


def test_inputs_say_how_much_they_moved_where_the_report_has_it(known: VersionRecords) -> None:
    assert {i.stability for i in card(known).inputs} == {None}
    moved = {"from_ms": [0, 1], "indices": {"amount": [0.1, 0.25], "terminal_risk_7d": [None]}}
    facts = known.version.facts
    facts = msgspec.structs.replace(facts, report={**facts.report, "stability": moved})
    later = dataclasses.replace(known, version=dataclasses.replace(known.version, facts=facts))
    found = {i.name: i.stability for i in card(later).inputs}
    assert (found["amount"], found["terminal_risk_7d"]) == (0.25, None)
    (table,) = told(card(later), "Inputs").tables
    assert table.head[-1] == "moved over time (PSI)"
    assert next(row for row in table.rows if row[0] == "amount")[-1] == "0.25"


def test_a_card_says_how_rare_classes_weigh_in_a_fit(known: VersionRecords) -> None:
    assert card(known).labels.class_weight == "square_root"
    assert "square root of how much rarer" in words(told(card(known), "Labels and hidden outcomes"))


def test_a_window_of_every_aggregate_is_told_in_words(known: VersionRecords) -> None:
    small = Filter(field="amount", op="<", value=5)
    same: dict[str, Any] = {"entity": "customer", "window": "1h", "resolution": "1m"}
    windows = (
        Window(name="small", aggregate="share", matching=small, **same),
        Window(name="pace", aggregate="rate", per="1d", **same),
        Window(name="shops", aggregate="distinct", of="terminal_id", **same),
        Window(name="burst", entity="customer", aggregate="ratio", of="pace", to="shops"),
    )
    inputs = tuple(InputSpec(name=w.name, kind="window", of="customer") for w in windows)
    definition = msgspec.structs.replace(known.definition, windows=windows, inputs=inputs)

    assert [i.made_of for i in card_inputs(definition, (), None)] == [
        "share of requests that match amount < 5 over 1h by customer",
        "number of requests in 1d over 1h by customer",
        "estimated number of distinct values of terminal_id over 1h by customer",
        "pace divided by shops, by customer",
    ]
    assert {*get_args(Aggregate)} - {"ratio"} < {*AGGREGATES}


def test_inputs_whose_features_are_declared_no_more_are_told(known: VersionRecords) -> None:
    found = {i.name: i for i in card_inputs(known.definition, (), None)}
    assert "no longer declares" in found["terminal_risk_7d"].made_of
    assert "not recorded" in found["terminal_risk_7d"].missing


def test_measures_have_their_interval_and_what_they_were_held_against(
    known: VersionRecords,
) -> None:
    made = card(known)
    quality, latency = made.validation.gates
    assert (quality.observed, quality.low, quality.high) == (0.612, 0.55, 0.67)
    assert (latency.low, latency.high) == (None, None)
    (table,) = told(made, "On held-out requests").tables
    ((*shown, days),) = table.rows
    assert shown == [
        "average precision, less the champion's",
        "0.612",
        "0.55 to 0.67",
        "all of the interval at least 0.1",
    ]
    assert days.startswith("all held-out days (")


GATES = (
    ("positives", "passed", 385.0, 200.0, "385 positives in the window (at least 200 wanted)"),
    ("label_maturity", "passed", 0.0, 0.0, "labels came until the window's end"),
    ("quality", "passed", 0.7019, 0.1, "average precision 0.702 on 57 positives"),
    ("calibration", "passed", 0.01, 0.05, "the shares lie near each other over 25 positives"),
    ("small_model", "passed", 0.4, 0.1, "better than guessing"),
    ("leakage", "passed", 0.5, 0.9, "no input knows too much"),
    ("alert_share", "failed", 0.001, 0.002, "too few alerts"),
    ("decision_flips", "passed", 0.01, 0.05, "few decisions change"),
)


def first_version(known: VersionRecords, *, gates_days: int) -> VersionRecords:
    """A first version whose gates had the last days of its held-out ones to judge by."""
    names = ("name", "verdict", "observed", "limit", "reason")
    gates = [dict(zip(names, gate, strict=True)) for gate in GATES]
    alone = {**MEASURES[0], "champion": None, "difference": None}
    report = {"champion": None, "gates": gates, "measures": [alone]}
    facts = msgspec.structs.replace(known.version.facts, report=report)
    assert known.bundle is not None
    data = known.bundle.data
    held = {"gates_from_ms": 21 * DAY_MS - gates_days * DAY_MS, "holdout_from_ms": 7 * DAY_MS}
    bundle = msgspec.structs.replace(known.bundle, data=msgspec.structs.replace(data, **held))
    return dataclasses.replace(
        known, version=dataclasses.replace(known.version, facts=facts), bundle=bundle
    )


def test_each_measure_says_on_which_days_and_to_which_side_it_is_limited(
    known: VersionRecords,
) -> None:
    made = card(first_version(known, gates_days=1))
    section = told(made, "On held-out requests")
    gates, measures = section.tables
    assert [(row[0], *row[3:]) for row in gates.rows] == [
        (
            "average precision",
            "all of the interval at least 0.1",
            "all held-out days (1970-01-08 to 1970-01-21)",
        ),
        ("calibration", "low end at most 0.05", "the days for the gates (1970-01-21)"),
        ("small model", "at least 0.1", "the days for the gates (1970-01-21)"),
        (
            "inputs that know too much",
            "less than 0.9",
            "all held-out days (1970-01-08 to 1970-01-21)",
        ),
        (
            "share of alerts",
            "0.002; the gate below says whether it is the least or the most",
            "replayed requests; the gate below says which",
        ),
        ("changed decisions", "at most 0.05", "replayed requests; the gate below says which"),
    ]
    assert "the days for the gates (1970-01-21)" in measures.caption
    assert "both models" not in measures.caption
    assert any("different numbers of positives" in line for line in section.lines)


def test_both_models_are_named_where_there_are_two(known: VersionRecords) -> None:
    report = {**known.version.facts.report, "measures": MEASURES, "champion_version": 1}
    facts = msgspec.structs.replace(known.version.facts, report=report)
    version = dataclasses.replace(known.version, facts=facts)
    made = card(dataclasses.replace(known, version=version))
    section = told(made, "On held-out requests")
    assert "; both models on the same rows" in words(section)
    assert dict(section.fields)["held against"] == f"version 1, the champion {'c' * 64}"


@pytest.mark.parametrize(("days", "is_told"), [(1, True), (6, True), (7, False)])
def test_a_calibration_judged_on_few_days_is_a_limit(
    known: VersionRecords, days: int, *, is_told: bool
) -> None:
    limits = "\n".join(card(first_version(known, gates_days=days)).limits)
    assert ("alone, less than a week: the shares lie near each other over 25" in limits) is is_told


def test_positive_labels_are_counted_and_their_arrival_is_another_fact(
    known: VersionRecords,
) -> None:
    made = card(dataclasses.replace(first_version(known, gates_days=1), journals=()))
    labels = dict(told(made, "Labels and hidden outcomes").fields)
    assert labels["positive labels in its data"] == "385"
    assert labels["arrival of positive labels"].startswith("not judged: no gate on labels")
    (limit,) = [limit for limit in made.limits if limit.startswith("How fast its labels come")]
    assert "in traffic was not judged" in limit
    assert "mature labels says only that labels came until the end of its data" in limit


def test_an_interim_analysis_is_told_where_no_step_has_ended(known: VersionRecords) -> None:
    journal = promoted_journal(known.version.digest)[:2]
    under_way = dataclasses.replace(known, journals=(journal,), tenure=None)
    assert "fraud-v2-1: no gate has judged it in traffic." in card(under_way).limits
    analysis = InterimAnalysis(32 * DAY_MS, "INCONCLUSIVE", 1_200, ())
    made = card(dataclasses.replace(under_way, analyses={"fraud-v2-1": analysis}))
    found = "INCONCLUSIVE (1970-02-02 00:00 UTC, 1,200 records)"
    assert dict(told(made, "Rollout fraud-v2-1").fields)["newest interim analysis"] == found
    limits = "\n".join(made.limits)
    assert "no gate has judged it" not in limits
    assert f"the newest interim analysis was {found}." in limits


def test_a_champion_of_a_model_that_is_switched_off_is_said_to_answer_nobody(
    known: VersionRecords,
) -> None:
    off = dataclasses.replace(known, routes=dataclasses.replace(known.routes, killed=True))
    assert card(off).identity.place == "champion; the model is switched off, and answers nobody"


def test_a_rollout_tells_each_step_with_the_headline_of_each_gate(known: VersionRecords) -> None:
    (rollout,) = card(known).rollouts
    assert [step.what for step in rollout.steps] == [
        "opened", "shadow began", "an approval was asked for", "ben answered: approve",
        "canary of 5 % began", "promoted, provisionally", "confirmed",
    ]  # fmt: skip
    assert (rollout.promoted_ms, rollout.ended_ms) == (36 * DAY_MS, 43 * DAY_MS)
    (gate,) = rollout.steps[-1].gates
    assert gate.headline == "It finds no more than 2 points fewer of the frauds (95 % certain)."


def test_matured_performance_has_its_intervals(known: VersionRecords) -> None:
    made = card(known)
    shown = words(told(made, "Matured performance"))
    assert "41.00 % to 77.00 %" in shown
    assert "0.60 to 1.30 times what the scores said" in shown
    assert made.pairs is not None
    assert [(k.name, k.value, k.low) for k in made.pairs.champion] == [
        ("recall", 0.61, 0.5),
        ("precision", 0.61, 0.5),
    ]


def test_labels_say_when_they_come_and_what_declines_hide(known: VersionRecords) -> None:
    labels = card(known).labels
    assert (labels.maturity_days, labels.hides, labels.come_share) == (3, ("decline",), 0.97)
    shown = words(told(card(known), "Labels and hidden outcomes"))
    assert "97.00 % of the labels that come within 3 days had arrived" in shown


def named_before(fact: Any) -> Any:
    """A fact whose gates name their values as 0.3 did."""
    earlier = {name: before for before, name in EARLIER_NAMES.items()}
    gates = {
        name: gate | {"values": {earlier.get(n, n): v for n, v in gate["values"].items()}}
        for name, gate in fact.evidence.get("gates", {}).items()
    }
    return msgspec.structs.replace(fact, evidence=fact.evidence | {"gates": gates})


def test_a_journal_of_an_earlier_release_tells_the_same(known: VersionRecords) -> None:
    journals = tuple([named_before(fact) for fact in facts] for facts in known.journals)
    assert "fraud_labels_share" in repr(journals)
    made, before = card(known), card(dataclasses.replace(known, journals=journals))
    assert (before.labels, before.pairs) == (made.labels, made.pairs)
    assert made.pairs is not None
    assert made.pairs.positives == 80


def test_what_is_not_on_record_is_said_to_be_so_everywhere(known: VersionRecords) -> None:
    made = card(bare(known))
    shown = {section.title: words(section) for section in sections(made)}
    for title in (
        "Who answers for it", "Data", "Labels and hidden outcomes", "On held-out requests",
        "Gates of validation", "Rollouts", "Matured performance", "Explanations of its decisions",
    ):  # fmt: skip
        assert NOT_RECORDED in shown[title], title
    assert "None is on record" in shown["Incidents"]
    assert [o.from_score for o in made.deciding.outcomes] == [None, None, None]
    assert made.identity.place == "answers nobody"
    limits = "\n".join(made.limits)
    for said in (
        "What the model itself was fitted to is not recorded",
        "bundle is not on this machine",
        "No gate report is recorded",
        "It was never rolled out",
        "It was never champion",
        "No label was judged of a request that both this version and its champion scored",
        "How it treats groups of customers of any kind is not recorded",
    ):
        assert said in limits, said


def test_a_card_claims_no_more_of_a_model_s_making_than_is_on_record(known: VersionRecords) -> None:
    def limits_of(**changes: Any) -> str:
        return "\n".join(card(dataclasses.replace(known, **changes)).limits)

    brought = msgspec.structs.replace(known.version.facts, folder="")
    of_old = dataclasses.replace(known.version, facts=brought)
    assert known.bundle is not None
    bundle = msgspec.structs.replace(known.bundle, origin="a vendor", folder="")
    assert "It has learned from no request after" in limits_of()
    foreign = limits_of(version=of_old, bundle=bundle)
    assert "it was brought from outside" in foreign
    assert "It has learned from no request after" not in foreign
    assert "Its calibration and thresholds have learned from no request after" in foreign
    for of in (known.version, of_old):  # a ready model has a folder; earlier releases kept none
        absent = limits_of(version=of, bundle=None)
        assert "it was brought from outside" not in absent
        assert "It has learned from no request after" not in absent


def test_limits_of_a_confirmed_champion(known: VersionRecords) -> None:
    limits = "\n".join(card(known).limits)
    for said in (
        "The outcome of a request can't become known after decline, except where a person's review",
        "how many were stopped wrongly can't be known",
        "12 requests that were stopped while it was champion have no known outcome",
        "7 requests that both versions scored were stopped, and have no known outcome",
        "Matured days: labels have stopped coming.",
        "share of alerts: not shown. It may raise up to 0.4 points more alerts (95 % certain).",
        "Incident fraud-drift-1 (drift) is open",
        "Its reasons do not add up to the score",
    ):
        assert said in limits, said
    for silent in ("not on this machine", "never", "no approval is recorded", "has changed since"):
        assert silent not in limits, silent


def test_limits_follow_what_is_on_record(known: VersionRecords) -> None:
    explored = ExplorationPolicy(
        share=0.02, decision="review", amount="amount", maximum_amount=200.0, maximum_sum=2000.0
    )
    definition = msgspec.structs.replace(known.definition, exploration=explored)
    first = msgspec.structs.replace(
        known.version.facts, report=known.version.facts.report | {"champion": None}
    )
    changed = dataclasses.replace(
        known,
        definition=definition,
        folder="0" * 64,
        version=dataclasses.replace(known.version, facts=first),
        tenure=None,
    )
    limits = "\n".join(card(changed).limits)
    assert "follows from the share that is let through" in limits
    assert "stopped wrongly" not in limits
    assert "The model's folder has changed since this version was fitted" in limits
    assert "validated without a champion to compare with" in limits
    assert "No drift check has kept what matured labels say" in limits


def test_a_harm_that_stopped_it_and_an_approver_without_proof_are_limits(
    known: VersionRecords,
) -> None:
    facts = promoted_journal(known.version.digest)[:5]
    answer = facts[3]
    assert isinstance(answer, Answered)
    facts[3] = msgspec.structs.replace(answer, proven_by="")
    gate = {"verdict": "UNHEALTHY", "reason": "At least 3 points more fail. Figures.", "values": {}}
    evidence = {"verdict": "UNHEALTHY", "records": 9, "gates": {"failures": gate}}
    shared = {"rollout_id": "fraud-v2-1", "model": "fraud", "event_ms": 1, "wall_ms": 1}
    facts.append(RolledBack(**shared, actor="pass", reason="harm", evidence=evidence))
    made = card(dataclasses.replace(known, journals=(facts,), tenure=None))
    limits = "\n".join(made.limits)
    assert "answers in time: a harm is proven. At least 3 points more fail." in limits
    assert "how ben was known to be that person is not recorded" in limits
    assert "It was never champion" in limits
    assert made.approvals[0].proven_by is None
    assert f"ben\napprove\n{NOT_RECORDED}" in words(told(made, "Who answers for it"))


def test_a_rollout_of_an_earlier_release_records_less(known: VersionRecords) -> None:
    opened = promoted_journal(known.version.digest)[0]
    assert isinstance(opened, Opened)
    earlier = msgspec.structs.replace(opened, plan=None, approval=None, actor="")
    made = card(dataclasses.replace(known, journals=([earlier],), tenure=None))
    (rollout,) = made.rollouts
    assert (rollout.approval, rollout.planned) == (None, None)
    shown = words(told(made, "Rollout fraud-v2-1"))
    assert shown.count(NOT_RECORDED) == 3
    assert "no approval is recorded, nor whether one was required" in "\n".join(made.limits)


def test_another_version_s_incident_is_not_its_own(known: VersionRecords) -> None:
    other = dataclasses.replace(known, version=version(known.version.digest, 3))
    assert card(other).incidents == ()
    (incident,) = known.incidents
    answered = dataclasses.replace(incident, answer=3, state="answered")
    (noted,) = card(dataclasses.replace(other, incidents=(answered,))).incidents
    assert noted.relation == "this version was trained for it"


@pytest.mark.parametrize(
    "report",
    [{"gates": "none"}, {"gates": [{"name": 1}]}, {"gates": [3]}, {"replayed": "x"}],
    ids=["a text for gates", "a gate without a verdict", "a number for a gate", "no counts"],
)
def test_a_report_that_is_none_is_damage_and_not_silence(
    known: VersionRecords, report: dict[str, Any]
) -> None:
    changed: Version = version(known.version.digest, report=report)
    with pytest.raises(Corrupt, match="gate report of version 2 of fraud"):
        card(dataclasses.replace(known, version=changed))


def test_a_stretch_without_a_label_is_told_as_not_known(known: VersionRecords) -> None:
    nothing = dataclasses.replace(tenure(), stretches=())
    made = card(dataclasses.replace(known, tenure=nothing))
    assert f"As champion: {NOT_RECORDED}." in words(told(made, "Matured performance"))
    assert "No day on which it was champion has all labels yet" in "\n".join(made.limits)


def test_every_table_is_as_wide_as_its_head(known: VersionRecords, tmp_path: Path) -> None:
    for each in (
        known,
        bare(known),
        dataclasses.replace(known, definition=load_definition("fraud")),
    ):
        tables = [t for section in sections(card(each)) for t in section.tables]
        assert tables
        assert all(len(row) == len(t.head) for t in tables for row in t.rows)


def test_the_newest_analysis_of_all_steps_is_read(known: VersionRecords, tmp_path: Path) -> None:
    for generation, hour in ((3, 9), (4, 8)):
        found = InterimAnalysis(hour, "INCONCLUSIVE", hour, ())
        history = StepHistory("fraud-v2-1", generation, "shadow", None, (found,))
        interim_analyses.keep(tmp_path, "fraud", history)
    home = SimpleNamespace(interim_analyses=tmp_path)
    platform = cast(Any, SimpleNamespace(settings=SimpleNamespace(home=home)))
    (newest,) = _analyses(platform, "fraud", known.journals).values()
    assert newest.event_ms == 9
    assert _analyses(platform, "fraud", ()) == {}
