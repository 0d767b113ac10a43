"""A bundle is data under one digest: what is changed is noticed, what is equal is the same."""

import json
import math
import timeit
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.bundle import (
    BUNDLE_FILE,
    MODEL_FILE,
    AlertBand,
    Bundle,
    BundleCorrupt,
    DataWindow,
    Golden,
    View,
    load_bundle,
    problems,
    write_bundle,
)
from mlplatform.model.definition import InputSpec
from mlplatform.model.findings import DocumentInvalid
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.policies.calibration import Calibration
from mlplatform.model.policies.cut_offs import SegmentThresholds
from mlplatform.model.policies.decision_scale import DecisionScale
from mlplatform.model.profile import Column, Profile
from mlplatform.model.rhythm import Rhythm
from mlplatform.model.rules import Condition, Reason, Rule, parse_reasons
from mlplatform.model.windows.declaration import Filter, Window
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.errors import ConfigInvalid, Corrupt

MODEL = b"an ONNX file"
EARLIER_BUNDLE = Path(__file__).parent / "earlier_bundle.json"
COLUMN = Column(
    edges=(1.0, 2.0),
    shares=(0.5, 0.25, 0.25),
    quantiles=tuple(float(i) for i in range(100)),
    mean=1.0,
    std=1.0,
    missing_share=0.0,
)
BUNDLE = Bundle(
    model="fraud",
    inputs=(
        InputSpec(name="amount", kind="field", of="amount"),
        InputSpec(name="risk", kind="view", of="terminal_stats"),
    ),
    calibration=Calibration(x=(0.0, 0.5, 1.0), y=(0.0, 0.1, 0.9)),
    thresholds={"review": 0.1, "decline": 0.5},
    reasons={
        "amount": Reason(code="AMOUNT", customer="The amount", analyst="Amount"),
        "risk": Reason(code="RISK", customer="The shop", analyst="Risk"),
    },
    rules=(
        Rule(
            code="HIGH",
            text="A high amount",
            when=(Condition(input="amount", op=">", value=220.0),),
            decision="review",
        ),
    ),
    reference={"amount": 50.0, "risk": None},
    golden=Golden(rows=((1.5, None), (2.5, 0.0)), scores=(0.25, 0.5), tolerance=1e-5),
    views=(View(name="terminal_stats", ttl_ms=1000),),
    profile=Profile(rows=10, units=5, alert_share=0.1, inputs={"amount": COLUMN}, score=COLUMN),
    alert_band=AlertBand(low=0.01, high=0.2, share=0.05, how="by hand"),
    data=DataWindow(
        from_ms=0,
        holdout_from_ms=1,
        gates_from_ms=2,
        to_ms=3,
        as_of_ms=4,
        rows=5,
        digest="data",
    ),
    seed=1,
    origin="a test",
    files={MODEL_FILE: digest(MODEL)},
)


def changed(**fields):
    return msgspec.structs.replace(BUNDLE, **fields)


def test_a_bundle_read_back_is_the_bundle_written(tmp_path):
    folder = tmp_path / "bundle"
    written = write_bundle(BUNDLE, MODEL, folder)
    read = load_bundle(folder, written)
    assert (read, read.digest) == (BUNDLE, written)
    assert digest((folder / BUNDLE_FILE).read_bytes()) == written
    assert [f.name for f in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_of_the_words_of_earlier_releases_keeps_the_digest_that_they_gave_it():
    assert BUNDLE.digest == "dec4dbf432701edde294847490bede6cc7cf33c2bce41e1eaca2aecdcf19cfdc"
    assert b'"scale"' not in BUNDLE.content


def test_a_bundle_with_windows_of_earlier_releases_keeps_the_digest_that_they_gave_it(tmp_path):
    large = Filter(field="amount", op=">=", value=100)
    window = Window(
        name="n_1h", entity="customer", aggregate="count", window="1h", resolution="1m", where=large
    )
    bundle = changed(windows=(window,))
    assert bundle.digest == "aa665764e0b611bfb6790222c0b79e0c521b4a86321fef80bad863de11429c67"
    share = msgspec.structs.replace(window, aggregate="share", matching=large)
    with_share = changed(windows=(window, share))
    written = write_bundle(with_share, MODEL, tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle", written) == with_share


def test_a_bundle_from_before_there_were_classes_keeps_its_bytes(tmp_path):
    """Its file was written before `task: classes` came, and has all that two outcomes can have."""
    (tmp_path / BUNDLE_FILE).write_bytes(EARLIER_BUNDLE.read_bytes())
    (tmp_path / MODEL_FILE).write_bytes(MODEL)
    expected = "46545d086ea2b56a1016eacfd3dec9e07d1b88bef5e5536ca95560a364ef935e"
    bundle = load_bundle(tmp_path, expected)
    assert (bundle.content, bundle.digest) == (EARLIER_BUNDLE.read_bytes(), expected)
    assert (bundle.classes, bundle.golden.scores) == (0, (0.0, 1.0))
    assert [bundle.decide(score, ()) for score in (0.0, 0.1, 0.5)] == ["grant", "refer", "refuse"]


def test_a_bundle_carries_its_own_outcomes(tmp_path):
    scale = DecisionScale(("grant", "refer", "refuse"), ("refer", "refuse"))
    rules = tuple(msgspec.structs.replace(rule, decision="refer") for rule in BUNDLE.rules)
    own = {"scale": scale, "thresholds": {"refuse": 0.5, "refer": 0.1}, "rules": rules}
    small = BUNDLE.small_model and msgspec.structs.replace(
        BUNDLE.small_model, thresholds=own["thresholds"]
    )
    bundle = changed(**own, small_model=small)
    read = load_bundle(tmp_path / write_bundle(bundle, MODEL, tmp_path / bundle.digest))
    assert [read.decide(score, ()) for score in (0.0, 0.1, 0.5)] == ["grant", "refer", "refuse"]
    for wrong in (
        {"scale": BUNDLE.scale},
        {"thresholds": {"refuse": 0.1, "refer": 0.5}},
        {"thresholds": {"refuse": 0.1}},
        {"rules": BUNDLE.rules},
        {"scale": DecisionScale(("grant", "refer", "refuse"), ("grant",))},
    ):
        assert problems(msgspec.structs.replace(bundle, **wrong)) != []


def test_whole_numbers_where_fractions_are_meant_do_not_change_the_digest():
    assert changed(thresholds={"review": 0, "decline": 1}).digest == (
        changed(thresholds={"review": 0.0, "decline": 1.0}).digest
    )


def test_every_field_is_under_the_digest():
    others = [
        changed(thresholds={"review": 0.1, "decline": 0.6}),
        changed(rules=()),
        changed(reference={"amount": 51.0, "risk": None}),
        changed(inputs=BUNDLE.inputs[::-1]),
        changed(files={MODEL_FILE: digest(b"another")}),
    ]
    assert len({b.digest for b in [BUNDLE, *others]}) == len(others) + 1


def test_rhythms_are_under_the_digest_and_an_earlier_bundle_has_none(tmp_path):
    known = {"amount": Rhythm(weekdays=(), spread=0.1, psi=0.01, degrees=9)}
    with_rhythms = changed(rhythms=known)
    assert b"rhythms" not in BUNDLE.content
    assert with_rhythms.digest != BUNDLE.digest
    write_bundle(with_rhythms, MODEL, tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle").rhythms == known


def test_rhythms_are_of_inputs_that_the_profile_has(tmp_path):
    known = {"height": Rhythm(weekdays=(), spread=0.1, psi=0.01, degrees=9)}
    with pytest.raises(BundleCorrupt, match="rhythms are of inputs"):
        write_bundle(changed(rhythms=known), MODEL, tmp_path / "bundle")


def test_writing_the_same_bundle_again_changes_nothing(tmp_path):
    folder = tmp_path / "bundle"
    assert write_bundle(BUNDLE, MODEL, folder) == write_bundle(BUNDLE, MODEL, folder)


def test_another_bundle_in_the_same_place_is_refused(tmp_path):
    write_bundle(BUNDLE, MODEL, tmp_path / "bundle")
    with pytest.raises(BundleCorrupt):
        write_bundle(changed(seed=2), MODEL, tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle") == BUNDLE


@pytest.mark.parametrize("granted", [0o700, 0o750, 0o755, 0o775])
def test_a_bundle_is_as_readable_as_the_folder_that_it_is_in(tmp_path, granted):
    tmp_path.chmod(granted)
    folder = tmp_path / "bundle"
    write_bundle(BUNDLE, MODEL, folder)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (folder, *folder.iterdir())}
    wanted = granted & 0o755  # nobody else ever gets to change one
    files = oct(wanted & 0o644)
    assert modes == {"bundle": oct(wanted), BUNDLE_FILE: files, MODEL_FILE: files}


def test_a_model_that_is_not_the_bundle_s_is_never_written(tmp_path):
    with pytest.raises(BundleCorrupt, match=MODEL_FILE):
        write_bundle(BUNDLE, b"another", tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [MODEL_FILE, BUNDLE_FILE])
def test_a_changed_byte_is_noticed(tmp_path, name):
    expected = write_bundle(BUNDLE, MODEL, tmp_path / "b")
    file = tmp_path / "b" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(BundleCorrupt, match=name):
        load_bundle(tmp_path / "b", expected)


@pytest.mark.parametrize("name", [MODEL_FILE, BUNDLE_FILE])
def test_a_missing_file_is_noticed(tmp_path, name):
    write_bundle(BUNDLE, MODEL, tmp_path / "b")
    (tmp_path / "b" / name).unlink()
    with pytest.raises(BundleCorrupt, match=name):
        load_bundle(tmp_path / "b")


def test_corrupt_bundles_are_corrupt_to_callers_who_know_no_bundles():
    assert issubclass(BundleCorrupt, Corrupt)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda b: b | {"surprise": 1}, id="an unknown key"),
        pytest.param(lambda b: {k: v for k, v in b.items() if k != "seed"}, id="a missing key"),
        pytest.param(lambda b: b | {"seed": "one"}, id="a wrong type"),
        pytest.param(lambda b: b | {"files": {"../model.onnx": "0"}}, id="a path outside"),
        pytest.param(
            lambda b: b | {"thresholds": {"review": 0.9, "decline": 0.5}}, id="review over decline"
        ),
        pytest.param(
            lambda b: b | {"calibration": {"x": [0.0, 1.0], "y": [0.9, 0.1]}}, id="falling table"
        ),
        pytest.param(lambda b: b | {"reasons": {}}, id="an input without a reason"),
    ],
)
def test_a_bundle_that_cannot_be_is_refused(tmp_path, edit):
    write_bundle(BUNDLE, MODEL, tmp_path / "b")
    file = tmp_path / "b" / BUNDLE_FILE
    plain = edit(json.loads(file.read_text()))
    file.write_text(json.dumps(plain, sort_keys=True, separators=(",", ":")))
    with pytest.raises(BundleCorrupt):
        load_bundle(tmp_path / "b")


def test_a_bundle_in_another_form_than_the_canonical_one_is_refused(tmp_path):
    write_bundle(BUNDLE, MODEL, tmp_path / "b")
    file = tmp_path / "b" / BUNDLE_FILE
    file.write_text(json.dumps(json.loads(file.read_text()), indent=1))
    with pytest.raises(BundleCorrupt, match="canonical"):
        load_bundle(tmp_path / "b")


@given(st.floats(-0.5, 1.5))
def test_one_score_is_calibrated_as_many_are(raw):
    assert BUNDLE.calibrate(raw) == pytest.approx(BUNDLE.calibrate_many(np.array([raw]))[0])


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_raw_score_is_never_a_lower_probability(a, b):
    low, high = sorted([a, b])
    assert BUNDLE.calibrate(low) <= BUNDLE.calibrate(high)


def test_what_is_no_score_is_not_calibrated():
    for raw in (math.nan, math.inf):
        with pytest.raises(ValueError, match="raw score"):
            BUNDLE.calibrate(raw)
    assert np.isnan(BUNDLE.calibrate_many(np.array([math.nan, math.inf]))).all()


def test_thresholds_are_the_first_score_of_their_decision():
    scores = [0.0, 0.0999, 0.1, 0.4999, 0.5, 1.0]
    decisions = [BUNDLE.decide(s, ()) for s in scores]
    assert decisions == ["approve", "approve", "review", "review", "decline", "decline"]
    assert BUNDLE.decide_many(np.array(scores), np.zeros((6, 2))).tolist() == [0, 0, 1, 1, 2, 2]


def test_calibrating_one_score_costs_next_to_nothing():
    grid = np.linspace(0, 1, 99)
    table = Calibration(x=tuple(grid.tolist()), y=tuple((grid**2).tolist()))
    bundle = changed(calibration=table)
    best_s = min(timeit.repeat(lambda: bundle.calibrate(0.37), number=1000, repeat=20)) / 1000
    assert best_s < 10e-6


def test_every_input_of_every_model_has_its_own_reason():
    definition = load_definition("fraud")
    text = (model_folder("fraud") / "reasons.yaml").read_text()
    names = [i.name for i in definition.inputs]
    assert list(parse_reasons(text, source="reasons.yaml", inputs=names)) == names


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: {code: A, customer: x, analyst: y}", "b"),
        (
            "a: {code: A, customer: x, analyst: y}\nb: {code: A, customer: z, analyst: y}",
            "differ",
        ),
        ("a: {code: A, customer: x}\nb: {code: B, customer: x, analyst: y}", "analyst"),
        ("a: [", "reasons"),
    ],
)
def test_reasons_that_do_not_fit_the_inputs_are_refused(text, named):
    with pytest.raises(ConfigInvalid, match=named):
        parse_reasons(text, source="reasons.yaml", inputs=["a", "b"])


def test_all_that_is_wrong_in_reasons_is_told_at_once_by_its_line() -> None:
    text = """
height: {code: A, customer: x, analyst: y}
b: {code: A, customer: z, analyst: y}
c: {code: C, customer: " z", analist: y}
"""
    with pytest.raises(DocumentInvalid) as refused:
        parse_reasons(text, source="reasons.yaml", inputs=["a", "b", "c"])
    assert [finding.key for finding in refused.value.findings] == [
        *("a", "height", "b.code", "c.analist", "c.analyst", "c.customer"),
    ]
    assert "line 2: height is an unknown key; wanted: an input of the model: a, b, c" in str(
        refused.value
    )


def test_a_bundle_of_numbers_alone_says_nothing_of_words():
    """Older bundles keep the digests that routes and records name them by."""
    assert BUNDLE.digest == ("dec4dbf432701edde294847490bede6cc7cf33c2bce41e1eaca2aecdcf19cfdc")


LARGE = SegmentThresholds(
    name="large",
    input="amount",
    at_least=500.0,
    thresholds={"review": 0.05, "decline": 0.1},
    rows=1234,
    positives=56,
)


def test_thresholds_of_segments_are_under_the_digest_and_an_earlier_bundle_has_none(tmp_path):
    segmented = changed(segment_thresholds=(LARGE,))
    assert b"segment" not in BUNDLE.content
    assert segmented.digest != BUNDLE.digest
    write_bundle(segmented, MODEL, tmp_path / "bundle")
    read = load_bundle(tmp_path / "bundle", segmented.digest)
    assert read.segment_thresholds == (LARGE,)
    rows = [(500.0, 0.0), (499.9, 0.0), (math.nan, 0.0)]
    assert [read.decide(0.07, row) for row in rows] == ["review", "approve", "approve"]
    assert read.decide_many(np.full(3, 0.07), np.array(rows)).tolist() == [1, 0, 0]
    assert [read.segment(row) for row in rows] == ["large", None, None]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"input": "height"}, "segment_thresholds.large is of no input that is a number"),
        ({"at_least": None}, "large is not of bounds or of values"),
        ({"values": (1.0,)}, "large is not of bounds or of values"),
        ({"at_least": None, "values": ("web",)}, "large has a value that its input can't have"),
        ({"thresholds": {"review": 0.5}}, "large.thresholds are not one of 0 or more"),
        ({"thresholds": {"review": 0.5, "decline": 0.1}}, "large.thresholds are not one of"),
    ],
)
def test_a_segment_that_can_not_be_decided_by_is_no_bundle(tmp_path, wrong, told):
    segment = msgspec.structs.replace(LARGE, **wrong)
    with pytest.raises(BundleCorrupt, match=told):
        write_bundle(changed(segment_thresholds=(segment,)), MODEL, tmp_path / "bundle")


def test_segments_have_names_that_differ_and_are_not_too_many(tmp_path):
    for count, told in ((2, "a name twice"), (17, "more than 16")):
        with pytest.raises(BundleCorrupt, match=told):
            write_bundle(changed(segment_thresholds=(LARGE,) * count), MODEL, tmp_path / "bundle")
