"""From payments to a registered version: what is learned, what is judged, and what is refused."""

import dataclasses
import shutil
from dataclasses import replace

import msgspec
import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper
from tests.support.training_rows import DEFINITION, NAMES, TO_MS, payments

from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.snapshots import materialize
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.learning.registry.versions import Rejection, Version
from mlplatform.learning.training import external_model, retrain
from mlplatform.learning.training.candidate import GOLDEN_ROWS, train
from mlplatform.learning.training.evaluate import load_runnable
from mlplatform.learning.training.external_model import candidate_from_onnx
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.training_sets.dataset import dataset, window
from mlplatform.learning.training_sets.join import training_join
from mlplatform.learning.validation.gates import MINIMUM_POSITIVES
from mlplatform.learning.validation.report import to_dict, to_markdown
from mlplatform.model.bundle import MODEL_FILE, BundleCorrupt, load_bundle
from mlplatform.model.inputs import InputPlan
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.arms.reasons import NotExplained, tree_shap
from models.fraud.generator import Population, generate

FOLDER = load_folder("fraud")
AS_OF_MS = TO_MS + DEFINITION.label.maturity_days * DAY_MS
SEED = 7


DATA = payments(1)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def trained(bundles):
    return train(FOLDER, DATA, bundles=bundles, seed=SEED)


def linear_model(output: str = "scores", width: int = len(NAMES), high: float = 220.0) -> bytes:
    """An ONNX model that somebody made elsewhere: the amount alone, squeezed to 0-1."""
    weights = np.zeros((width, 1), np.float32)
    weights[0] = 0.02
    nodes = [
        helper.make_node("IsNaN", ["inputs"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "inputs"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["product"]),
        helper.make_node("Sub", ["product", "shift"], ["shifted"]),
        helper.make_node("Sigmoid", ["shifted"], ["column"]),
        helper.make_node("Reshape", ["column", "flat"], [output]),
    ]
    constants = {
        "zero": np.zeros((), np.float32),
        "weights": weights,
        "shift": np.array(0.02 * high, np.float32),
        "flat": np.array([-1], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def test_a_trained_bundle_is_complete_on_disk(trained):
    bundle = load_bundle(trained.folder, trained.bundle.digest)
    assert trained.folder.name == bundle.digest
    assert bundle == trained.bundle
    assert bundle.input_names == NAMES
    assert set(bundle.profile.inputs) == set(DEFINITION.drift.inputs)
    assert {v.name for v in bundle.views} == {v.name for v in FOLDER.views}
    assert bundle.data == DATA.data_window()


def test_the_same_data_and_seed_give_the_same_digest(trained, tmp_path):
    assert train(FOLDER, DATA, bundles=tmp_path, seed=SEED).bundle.digest == trained.bundle.digest


def test_the_onnx_file_scores_as_the_fitted_model_does_also_with_holes(trained):
    assert trained.parity.against == "the fitted model"
    assert trained.parity.difference < 1e-5
    assert trained.parity.rows > 1000


def test_thresholds_keep_their_shares_on_the_calibration_days(trained):
    x = DATA.calibrating.matrix.x
    bundle = trained.bundle
    decisions = bundle.decide_many(bundle.calibrate_many(trained.model.scores(x)), x)
    shares = DEFINITION.decision.thresholds.shares
    assert (decisions == 2).mean() == pytest.approx(shares["decline"], abs=1 / len(x))
    assert (decisions == 1).mean() == pytest.approx(shares["review"], abs=2 / len(x))


def test_golden_rows_cover_every_decision_and_a_row_of_nothing(trained):
    bundle = trained.bundle
    decisions = {bundle.decide(bundle.calibrate(s), ()) for s in bundle.golden.scores}
    assert decisions == {"approve", "review", "decline"}
    assert bundle.golden.rows[0] == (None,) * len(NAMES)
    assert len(bundle.golden.rows) == GOLDEN_ROWS


def test_fit_calibration_and_gates_see_different_days():
    parts = [DATA.fitting, DATA.calibrating, DATA.judging]
    days = [set((p.matrix.event_ms // DAY_MS).tolist()) for p in parts]
    held_out = DEFINITION.training.holdout_days
    assert [len(d) for d in days] == [
        DEFINITION.training.window_days - held_out,
        (held_out + 1) // 2,
        held_out // 2,
    ]
    assert max(days[0]) < min(days[1]) <= max(days[1]) < min(days[2])
    assert sum(len(p) for p in parts) == len(DATA.rows)


def test_a_good_first_version_passes_every_gate(trained):
    report = retrain.validate(FOLDER, trained, DATA, champion=None)
    assert report.reasons == ()
    assert report.passed
    assert report.stability is not None
    moved = to_dict(report)["stability"]
    assert set(moved["indices"]) == {i.name for i in DEFINITION.inputs} - {
        "hour",
        "weekend",
        "night",
    }
    assert "- ✔ passed: **inputs over time**." in to_markdown(to_dict(report))


def test_a_candidate_of_the_champions_rows_and_seed_is_named_as_such(trained, bundles):
    champion = load_runnable(trained.folder)
    again = train(FOLDER, replace(DATA, as_of_ms=DATA.as_of_ms + 1), bundles=bundles, seed=SEED)
    assert again.bundle.digest != trained.bundle.digest
    report = retrain.validate(FOLDER, again, DATA, champion=champion)
    assert report.same_rows
    assert "The rows and the seed are those of this champion." in to_markdown(to_dict(report))
    brought = candidate_from_onnx(
        linear_model(), champion.bundle, DEFINITION, DATA, bundles=bundles, origin="x", seed=SEED
    )
    report = retrain.validate(FOLDER, brought, DATA, champion=champion)
    assert not report.same_rows
    assert "those of this champion" not in to_markdown(to_dict(report))


def test_a_worse_challenger_is_stopped_by_quality_alone(trained, bundles):
    champion = load_runnable(trained.folder)
    data = payments(2, to_ms=TO_MS + 7 * DAY_MS)
    worse = candidate_from_onnx(
        linear_model(), champion.bundle, DEFINITION, data, bundles=bundles, origin="x", seed=SEED
    )
    report = retrain.validate(FOLDER, worse, data, champion=champion)
    assert {g.name for g in report.gates if g.verdict == "failed"} == {"quality"}


def test_a_model_made_elsewhere_gets_a_bundle_of_its_own(trained, bundles):
    made = candidate_from_onnx(
        linear_model(),
        trained.bundle,
        DEFINITION,
        DATA,
        bundles=bundles,
        origin="a notebook",
        seed=SEED,
    )
    bundle = load_bundle(made.folder)
    assert bundle.origin == "a notebook"
    assert (bundle.inputs, bundle.rules) == (trained.bundle.inputs, trained.bundle.rules)
    assert bundle.calibration != trained.bundle.calibration
    assert (made.folder / MODEL_FILE).read_bytes() == linear_model()
    assert made.customers == 1.0


def test_a_model_too_slow_for_all_rows_is_measured_on_some_customers(trained, bundles, monkeypatch):
    monkeypatch.setattr(external_model, "SCORING_BUDGET_S", 1e-4)
    monkeypatch.setattr(external_model, "MOST_HALVINGS", 1)
    many = payments(3, per_day=6000)
    made = candidate_from_onnx(
        linear_model(), trained.bundle, DEFINITION, many, bundles=bundles, origin="x", seed=SEED
    )
    assert made.customers == 0.5
    assert made.bundle.profile.units < trained.bundle.profile.units
    report = retrain.validate(FOLDER, made, many, champion=None)
    assert "of the customers" in next(g.reason for g in report.gates if g.name == "alert_share")
    assert next(g for g in report.gates if g.name == "volume_limit").limit is None


def test_however_slow_a_model_is_the_gates_find_the_frauds_that_they_ask_for(
    trained, bundles, monkeypatch
):
    monkeypatch.setattr(external_model, "SCORING_BUDGET_S", 0.0)
    many = payments(3, per_day=6000)
    made = candidate_from_onnx(
        linear_model(), trained.bundle, DEFINITION, many, bundles=bundles, origin="x", seed=SEED
    )
    found = [int(part.share(made.customers).y.sum()) for part in (many.calibrating, many.judging)]
    assert made.customers < 1
    assert min(found) >= MINIMUM_POSITIVES
    half = [
        int(part.share(made.customers / 2).y.sum()) for part in (many.calibrating, many.judging)
    ]
    assert min(half) < MINIMUM_POSITIVES


@pytest.mark.parametrize(
    ("content", "named"),
    [
        pytest.param(b"no model at all", "ONNX", id="not ONNX"),
        pytest.param(linear_model(output="probability"), "scores", id="another output"),
        pytest.param(linear_model(width=3), "inputs", id="another number of inputs"),
    ],
)
def test_a_model_with_another_signature_is_refused(trained, tmp_path, content, named):
    with pytest.raises(InputInvalid, match=named):
        candidate_from_onnx(
            content, trained.bundle, DEFINITION, DATA, bundles=tmp_path, origin="x", seed=SEED
        )
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_changed_after_training_is_not_judged(trained, tmp_path):
    folder = shutil.copytree(trained.folder, tmp_path / trained.folder.name)
    (folder / MODEL_FILE).write_bytes(linear_model())
    with pytest.raises(BundleCorrupt):
        retrain.validate(FOLDER, replace(trained, folder=folder), DATA, champion=None)


@pytest.mark.parametrize("part", ["fitting", "calibrating"])
def test_days_without_a_fraud_cannot_be_learned_from(tmp_path, part):
    bounds = DATA.window
    first, last = {
        "fitting": (bounds.from_ms, bounds.holdout_from_ms),
        "calibrating": (bounds.holdout_from_ms, bounds.gates_from_ms),
    }[part]
    event_ms = DATA.rows.matrix.event_ms
    y = np.where((event_ms >= first) & (event_ms < last), 0, DATA.rows.y).astype(np.int8)
    with pytest.raises(InputInvalid, match="0 positives"):
        train(FOLDER, replace(DATA, rows=replace(DATA.rows, y=y)), bundles=tmp_path, seed=SEED)


def test_many_rows_are_scored_once():
    model = OnnxFile(linear_model(), inputs=len(NAMES))
    x = DATA.rows.matrix.x[:2000]
    first = model.scores(x)
    model._session = None
    again = model.scores(x.copy())
    assert (again == first).all()
    again[:] = 0
    assert (model.scores(x) == first).all()


class MemoryRegistry:
    """A registry of one process: versions in a list."""

    def __init__(self):
        self.kept = []

    def register(self, folder, facts, record=None):
        bundle = load_bundle(folder, facts.bundle)
        if not facts.validated:
            return Rejection(bundle.model, facts.bundle, "run", ("because",))
        self.kept.append(Version(bundle.model, len(self.kept) + 1, facts.bundle, "run", 0, facts))
        return self.kept[-1]


def test_only_a_candidate_whose_own_report_passed_becomes_a_version(trained):
    report = retrain.validate(FOLDER, trained, DATA, champion=None)
    registry = MemoryRegistry()
    version = retrain.register(trained, report, registry, author="ana", reason="new terminals")
    assert (version.facts.author, version.facts.reason) == ("ana", "new terminals")
    assert version.facts.metrics["quality"] > 0
    assert version.facts.data_digest == DATA.digest
    stopped = replace(report, gates=())
    foreign = replace(report, bundle="another")
    for other in (stopped, foreign):
        outcome = retrain.register(trained, other, registry, author="somebody")
        assert isinstance(outcome, Rejection)
    assert len(registry.kept) == 1


def table(rows: list[tuple[str, int, int | None, int | None]]) -> pa.Table:
    """Joined rows: id, event, label and its arrival; every feature is 1."""
    time = pa.timestamp("us")
    features = {n: pa.array([1.0] * len(rows)) for v in FOLDER.views for n in v.feature_names}
    micro = [
        [None if v is None else v * 1000 for v in column]
        for column in zip(*rows, strict=True)
        if not isinstance(column[0], str)
    ]
    return pa.table(
        {
            "request_id": [r[0] for r in rows],
            "event_time": pa.array(micro[0], time),
            "customer_id": pa.array(range(len(rows)), pa.int64()),
            "terminal_id": pa.array(range(len(rows)), pa.int64()),
            "amount": pa.array([10.0] * len(rows)),
            "label": pa.array([r[2] for r in rows], pa.int8()),
            "label_time": pa.array(micro[2], time),
            **features,
        }
    )


def test_labels_of_the_future_do_not_exist_and_silence_means_genuine():
    rows = [
        ("a", TO_MS - 5000, 1, AS_OF_MS),
        ("b", TO_MS - 4000, 1, AS_OF_MS + 1),
        ("c", TO_MS - 3000, None, None),
        ("d", TO_MS - 2000, 0, AS_OF_MS - 9),
        ("too new", TO_MS, 1, TO_MS),
    ]
    built = dataset(
        DEFINITION, FOLDER.views, table(rows), as_of_ms=AS_OF_MS, labels_until_ms=AS_OF_MS
    )
    assert built.rows.y.tolist() == [1, 0, 0, 0]


def test_the_order_of_rows_does_not_change_the_digest():
    rows = [(str(i), TO_MS - 1000 * (i % 3 + 1), i % 2, AS_OF_MS) for i in range(9)]
    one, other = (
        dataset(DEFINITION, FOLDER.views, t, as_of_ms=AS_OF_MS, labels_until_ms=None)
        for t in (table(rows), table(rows).take(list(range(9))[::-1]))
    )
    assert one.digest == other.digest
    assert dataclasses.replace(one, digest="").window == other.window


@pytest.mark.parametrize("past_midnight_ms", [0, 1, DAY_MS - 1])
def test_a_window_ends_at_the_last_midnight_that_has_matured(past_midnight_ms):
    bounds = window(DEFINITION, AS_OF_MS + past_midnight_ms)
    assert bounds.to_ms == TO_MS
    assert bounds.to_ms - bounds.from_ms == DEFINITION.training.window_days * DAY_MS
    assert all(v % DAY_MS == 0 for v in (bounds.from_ms, bounds.holdout_from_ms, bounds.to_ms))


def test_inputs_of_a_champion_are_kept_beside_the_declared_ones():
    extra = msgspec.structs.replace(DEFINITION.inputs[1], name="weekday", kind="day_of_week")
    feature = next(i for i in DEFINITION.inputs if i.kind == "view")
    gone = msgspec.structs.replace(feature, name="no_such_feature")
    built = dataset(
        DEFINITION,
        FOLDER.views,
        table([("a", TO_MS - 5000, 1, AS_OF_MS)]),
        as_of_ms=AS_OF_MS,
        labels_until_ms=None,
        also=[*DEFINITION.inputs, extra, gone],
    )
    assert built.rows.matrix.names == (*NAMES, "weekday")
    assert built.rows.matrix.columns(NAMES).shape == (1, len(NAMES))
    with pytest.raises(InputInvalid, match="no_such_feature"):
        built.rows.matrix.columns([*NAMES, "no_such_feature"])


PLAYED_MS = TO_MS
REPLAY_TO_MS = PLAYED_MS + 11 * DAY_MS
REPLAY_DAYS = DEFINITION.training.holdout_days + DEFINITION.label.maturity_days
REPLAY_FROM_MS = REPLAY_TO_MS - REPLAY_DAYS * DAY_MS
IN_THE_MORNING_MS = 5 * 3_600_000
SNAPSHOT_LAG_MS = 2 * 3_600_000


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """An offline table of 12 days, and the inputs that serving read on the days of a replay."""
    folder = tmp_path_factory.mktemp("played")
    population = Population(customers=40, terminals=30, payments_per_day=60, fraud_share=0.1)
    offline = history(folder, population, days=12)
    online = FeastSqlite(folder / "online.db", "fraud", FOLDER.views)
    plan = InputPlan(DEFINITION, FOLDER.views)
    served, midnight_ms = [], PLAYED_MS
    for event_ms, payment in replayable(offline):
        while midnight_ms + SNAPSHOT_LAG_MS <= event_ms:
            available_ms = midnight_ms + SNAPSHOT_LAG_MS
            materialize(offline, FOLDER.views, midnight_ms, online, available_ms)
            midnight_ms += DAY_MS
        keys = {entity: payment[name] for entity, name in DEFINITION.entities.items()}
        served.append(plan.row(payment, event_ms, online.read(keys, event_ms).values))
    online.close()
    return offline, np.array(served, np.float32)


def history(folder, population: Population, days: int) -> OfflineTable:
    offline = OfflineTable(folder / "fraud", DEFINITION)
    table = generate(seed=4, start_ms=PLAYED_MS, days=days, population=population)
    offline.import_history(table, b"k" * 32)
    return offline


def replayable(offline: OfflineTable) -> list[tuple[int, dict]]:
    """Event time and payment, as they came."""
    asked = offline.requests(REPLAY_FROM_MS, REPLAY_TO_MS).order("event_time, request_id")
    rows = asked.to_arrow_table()
    times_ms = rows.column("event_time").cast(pa.int64()).to_numpy() // 1000
    return list(zip(times_ms.tolist(), rows.to_pylist(), strict=True))


def recent_of(offline: OfflineTable, champion=None, as_of_ms=REPLAY_TO_MS + IN_THE_MORNING_MS):
    return retrain.recent_requests(
        FOLDER, offline, as_of_ms=as_of_ms, champion=champion, join=training_join
    )


def test_a_replay_covers_the_whole_days_that_no_fit_has_seen_matured_or_not(played):
    offline, _ = played
    bounds = window(DEFINITION, REPLAY_TO_MS + IN_THE_MORNING_MS)
    recent = recent_of(offline)
    days = (REPLAY_TO_MS - 1 - recent.matrix.event_ms) // DAY_MS
    assert sorted(set(days.tolist())) == list(range(REPLAY_DAYS))
    assert bounds.holdout_from_ms == REPLAY_FROM_MS
    assert bounds.to_ms == REPLAY_TO_MS - DEFINITION.label.maturity_days * DAY_MS
    assert recent.matrix.event_ms.tolist() == [event_ms for event_ms, _ in replayable(offline)]
    assert recent.source == f"requests of the last {REPLAY_DAYS} days"


def test_a_replay_has_the_inputs_that_serving_read(played):
    offline, served = played
    recent = recent_of(offline)
    assert recent.matrix.names == NAMES
    np.testing.assert_array_equal(recent.matrix.x, served)
    assert 0 < np.isnan(served).mean() < 0.5
    customers = [payment["customer_id"] for _, payment in replayable(offline)]
    assert recent.matrix.unit.tolist() == customers


def test_a_replay_has_the_inputs_of_the_champion_too(played, trained):
    offline, _ = played
    weekday = msgspec.structs.replace(DEFINITION.inputs[1], name="weekday", kind="day_of_week")
    own = load_runnable(trained.folder)
    inputs = (*own.bundle.inputs, weekday)
    champion = replace(own, bundle=msgspec.structs.replace(own.bundle, inputs=inputs))
    recent = recent_of(offline, champion)
    assert recent.matrix.names == (*NAMES, "weekday")
    expected = (recent.matrix.event_ms // DAY_MS + 3) % 7
    np.testing.assert_array_equal(recent.matrix.columns(["weekday"])[:, 0], expected)


def test_fewer_than_two_whole_days_are_not_replayed(tmp_path):
    assert recent_of(OfflineTable(tmp_path / "nothing", DEFINITION)) is None
    offline = history(tmp_path, Population(customers=5, terminals=5, payments_per_day=40), days=2)
    second_ms = PLAYED_MS + DAY_MS
    assert recent_of(offline, as_of_ms=second_ms + DAY_MS - 1) is None
    assert recent_of(offline, as_of_ms=second_ms + DAY_MS).source == "requests of the last 2 days"


def test_a_bundle_of_trees_carries_tree_shap_that_adds_up_and_refuses_another_score(trained):
    attribution = trained.bundle.attribution
    assert (attribution.method, attribution.link, attribution.why) == ("tree_shap", "logistic", "")
    contributions = tree_shap(trained.bundle, trained.folder)
    golden = trained.bundle.golden
    for row, raw in zip(golden.rows, golden.scores, strict=True):
        values = [float("nan") if v is None else v for v in row]
        margin = attribution.base + sum(contributions(values, raw))
        assert 1 / (1 + np.exp(-margin)) == pytest.approx(raw, abs=1e-5)
        with pytest.raises(NotExplained, match="not_additive"):
            contributions(values, raw + 0.01)


def test_a_model_that_is_not_trees_keeps_reference_values_and_says_why(trained, tmp_path):
    made = candidate_from_onnx(
        linear_model(), trained.bundle, DEFINITION, DATA, bundles=tmp_path, origin="x", seed=SEED
    )
    attribution = made.bundle.attribution
    assert attribution.method == "reference_values"
    assert "0 tree ensembles" in attribution.why
    assert tree_shap(made.bundle, made.folder) is None
