"""Two versions side by side: whatever their cards show, with what differs."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from mlplatform.model.policies.cut_offs import SegmentThresholds
from mlplatform.model.routes import no_routes
from mlplatform.operations.card import comparison
from mlplatform.operations.card.assembly import VersionRecords, card
from mlplatform.operations.card.card import Card
from mlplatform.operations.card.comparison import ABSENT, Comparison, compare
from mlplatform.operations.card.sections import sections
from mlplatform.runtime.errors import InputInvalid
from support.carded_version import recorded, version


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> VersionRecords:
    return recorded(tmp_path_factory.mktemp("bundles") / "bundle")


def later(known: VersionRecords, **facts: Any) -> Card:
    """Version 3, of which little is on record."""
    found = version(known.version.digest, 3, **facts)
    bare = {"routes": no_routes("fraud"), "journals": (), "incidents": (), "tenure": None}
    return card(dataclasses.replace(known, version=found, **bare))


def figure(found: Comparison, title: str, name: str) -> tuple[str, str]:
    section = next(s for s in found.sections if s.title == title)
    one = next(f for f in section.figures if f.name == name)
    return one.first, one.second


def test_every_figure_of_both_cards_is_compared(known: VersionRecords) -> None:
    first, second = card(known), later(known, alert_high=0.05, data_digest="e" * 64, seed=8)
    found = compare(first, second)
    assert (found.first, found.second) == (2, 3)
    assert figure(found, "Data", "digest") == ("d" * 64, "e" * 64)
    assert figure(found, "Data", "seed") == ("7", "8")
    purpose = "What it decides, and for what"
    alerts = figure(found, purpose, "alerts expected in traffic")
    assert alerts == ("0.50 % to 2.00 %", "0.50 % to 5.00 %")
    assert figure(found, "Who answers for it", "author of the version") == ("ana", "ana")
    shown = {s.title: s.figures for s in found.sections}
    for made in (first, second):
        for section in sections(made):
            if section.title in comparison.SAME_FOR_BOTH or section.title.startswith("Rollout "):
                continue
            names = {f.name for f in shown[section.title]}
            assert {name for name, _ in section.fields} <= names
            assert set(section.lines) <= names


def test_thresholds_gates_and_inputs_are_compared_by_their_names(known: VersionRecords) -> None:
    changed = [{"name": "quality", "verdict": "failed", "reason": "it is worse", "observed": 0.1}]
    found = compare(card(known), later(known, report={"gates": changed}))
    outcomes = [f.name for f in found.sections[0].figures if f.name.endswith(": from score")]
    assert len(outcomes) > 1
    gates = next(s for s in found.sections if s.title == "Gates of validation")
    assert any(f.second == "it is worse" for f in gates.differing)
    inputs = next(s for s in found.sections if s.title == "Inputs")
    assert inputs.figures
    assert not inputs.differing, "they have the same inputs"


def test_thresholds_of_a_segment_are_compared_by_its_name(known: VersionRecords) -> None:
    own = SegmentThresholds(
        name="large", input="amount", at_least=5.0, thresholds={"review": 0.25, "decline": 0.5}
    )
    assert known.bundle is not None
    bundles = [
        msgspec.structs.replace(
            known.bundle,
            segment_thresholds=(msgspec.structs.replace(own, thresholds=thresholds),),
        )
        for thresholds in (own.thresholds, {"review": 0.3, "decline": 0.5})
    ]
    first, second = (card(dataclasses.replace(known, bundle=bundle)) for bundle in bundles)
    identity = msgspec.structs.replace(second.identity, version=9)
    found = compare(first, msgspec.structs.replace(second, identity=identity))
    changed = [(f.name, f.first, f.second) for f in found.sections[0].changed]
    assert ("large: review from", "0.25", "0.3") in changed
    assert not any("decline from" in name for name, _, _ in changed)


def test_what_only_one_version_has_says_so(known: VersionRecords) -> None:
    found = compare(card(known), later(known))
    rollout = next(s for s in found.sections if s.title == "Rollout 1 of the version")
    assert {f.second for f in rollout.figures} == {ABSENT}
    assert [f.second for f in rollout.equal] == []
    other = compare(later(known), card(known))
    assert figure(other, "Rollout 1 of the version", "phase")[0] == ABSENT


def test_measures_of_different_days_are_said_not_to_be_comparable(known: VersionRecords) -> None:
    first, second = card(known), later(known)
    assert compare(first, second).notes == (
        "The two were made from the same data.",
        "The two are the same bundle.",
    )
    moved = msgspec.structs.replace(second.data, to_ms=second.data.to_ms + 1, digest="e" * 64)
    (note, _) = compare(first, msgspec.structs.replace(second, data=moved)).notes
    assert "measured on different days" in note


def test_a_sentence_of_one_card_is_no_figure(known: VersionRecords) -> None:
    found = compare(card(known), later(known))
    limits = next(s for s in found.sections if s.title.startswith("Limits"))
    said = [dict.fromkeys(_lines(made)) for made in (card(known), later(known))]
    assert limits.only_first == tuple(line for line in said[0] if line not in said[1])
    assert limits.only_second == tuple(line for line in said[1] if line not in said[0])
    assert limits.only_second
    assert limits.changed == (), "this section has sentences alone"
    assert {s.title for s in found.differing} | {s.title for s in found.equal} == {
        s.title for s in found.sections
    }
    assert all(not s.differing for s in found.equal)


def _lines(made: Card) -> tuple[str, ...]:
    return next(s for s in sections(made) if s.title.startswith("Limits")).lines


def test_a_version_beside_itself_is_refused(known: VersionRecords) -> None:
    with pytest.raises(InputInvalid, match="version 2 twice; wanted: two versions"):
        compare(card(known), card(known))


def test_the_plain_value_says_of_each_figure_whether_it_differs(known: VersionRecords) -> None:
    found = compare(card(known), later(known, seed=8))
    plain = msgspec.json.decode(msgspec.json.encode(comparison.plain(found)))
    assert plain["versions"] == [2, 3]
    figures = [f for s in plain["sections"] for f in s["figures"]]
    assert len(figures) == sum(len(s.figures) for s in found.sections)
    assert all(f["differs"] == (f["first"] != f["second"]) for f in figures)
    assert {"name": "seed", "first": "7", "second": "8", "differs": True} in figures
