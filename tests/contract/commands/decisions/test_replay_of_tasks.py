"""`mlplatform replay` of classes and of numbers: whole bundles on logged requests, by command."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.support.class_model import class_definition
from tests.support.labelled_rollout import FLIPS, World, affordable, class_pairs
from tests.support.team_folder import command, team_folder
from typer.testing import CliRunner

from mlplatform.commands import app
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.model.bundle import MODEL_FILE, AlertBand, Bundle, DataWindow, Golden, write_bundle
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.calibration import UNCHANGED
from mlplatform.model.policies.decision_scale import Quantity
from mlplatform.model.profile import Column, Profile
from mlplatform.model.routes import Arm
from mlplatform.model.rules import Reason
from mlplatform.operations import wiring
from mlplatform.operations.whatif import decided_pages, logged_requests
from mlplatform.operations.whatif import replay as whatif
from mlplatform.rollouts.journal.transitions import Opened
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.errors import ConfigInvalid, Refused
from mlplatform.runtime.units import DAY_MS

NOW_MS = 20_000 * DAY_MS
REQUESTS = 600
UNITS = 71
CHANNELS = ("web", "shop")
SIZES = ("small", "usual", "large")
RNG = np.random.default_rng(7)
AMOUNTS = RNG.uniform(0, 9000, REQUESTS).round(2)
CHANNEL = RNG.integers(0, 2, REQUESTS)
EVENT_MS = NOW_MS - 6 * DAY_MS + np.arange(REQUESTS) * (6 * DAY_MS // REQUESTS)
LABELLED = np.arange(REQUESTS) % 3 == 0
LARGE, FROM, EDGE = (3000.0, 6000.0), 500.0, 4600.0


def sizes(amounts: Any, large: float = LARGE[1]) -> Any:
    return np.where(amounts < LARGE[0], "small", np.where(amounts > large, "large", "usual"))


def graph(place: Any, nodes: list[Any], weights: Mapping[str, Any], shape: list[Any]) -> bytes:
    """A graph of the amount, which `place` gathers as [n], or as [n, 1]."""
    made = helper.make_graph(
        [helper.make_node("Gather", ["inputs", "place"], ["amount"], axis=1), *nodes],
        "amount",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array(place, np.int64), "place")]
        + [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def class_graph(large: float) -> bytes:
    """Small below 3000, large above another amount, sure within some hundreds."""
    steepness = 0.01
    nodes = [
        helper.make_node("MatMul", ["amount", "w"], ["weighted"]),
        helper.make_node("Add", ["weighted", "b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    begins = [LARGE[0] * steepness, 0, -large * steepness]
    weights = {"w": [[-steepness, 0, steepness]], "b": begins}
    return graph([1], nodes, weights, [None, 3])


def number_graph(more: float) -> bytes:
    """A tenth of the amount, and something more where it is above 4600."""
    nodes = [
        helper.make_node("Mul", ["amount", "tenth"], ["plain"]),
        helper.make_node("Greater", ["amount", "edge"], ["above"]),
        helper.make_node("Cast", ["above"], ["one"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["one", "more"], ["added"]),
        helper.make_node("Add", ["plain", "added"], ["scores"]),
    ]
    return graph(1, nodes, {"tenth": 0.1, "edge": EDGE, "more": more}, [None])


def numbers(more: float = 0.0) -> Any:
    return 0.1 * AMOUNTS + np.where(AMOUNTS > EDGE, more, 0.0)


@dataclass
class Kind:
    """A model from its template, with a champion and another version.

    Args:
        graphs: of both. golden: their scores of a row with an amount of 1000.
        decisions, scores: that the champion gave; labels: by their column.
    """

    name: str
    template: str
    changes: Mapping[str, str]
    graphs: tuple[bytes, bytes]
    golden: Any
    decisions: Any
    scores: Any
    labels: Any
    label_column: str


def softmax(amount: float, large: float) -> tuple[float, ...]:
    logits = np.array([(LARGE[0] - amount) * 0.01, 0, (amount - large) * 0.01])
    found = np.exp(logits - logits.max())
    return tuple((found / found.sum()).tolist())


WITHOUT_OUTCOMES = {
    "  outcomes:": "  #",
    "  alerts:": "  #",
    "  safe:": "  #",
    "  thresholds:": "  #",
}
CLASSES = Kind(
    "purchase-size", "classes", {"alerts: []": "alerts: [large]", "top: 3": "top: 2"},
    (class_graph(6000), class_graph(5000)), tuple(softmax(1000, x) for x in (6000, 5000)),
    sizes(AMOUNTS), np.full(REQUESTS, 0.9), sizes(AMOUNTS, 5000), "decision",
)  # fmt: skip
NUMBERS = Kind(
    "amount-at-risk", "real", WITHOUT_OUTCOMES, (number_graph(0), number_graph(50)),
    (100.0, 100.0), np.full(REQUESTS, "none"), numbers(), numbers(50), "score",
)  # fmt: skip
RISKS = Kind(
    "risk-class", "real", {}, (number_graph(0), number_graph(50)), (100.0, 100.0),
    np.where(numbers() >= FROM, "high", "usual"), numbers(), numbers(50), "score",
)  # fmt: skip


def records(kind: Kind) -> Iterator[Record]:
    for i in range(REQUESTS):
        shared = {"decision_id": f"d{i:05d}", "model": kind.name}
        request = {"channel": CHANNELS[CHANNEL[i]], "amount": float(AMOUNTS[i]), "customer_id": 1}
        yield Record(
            **shared, kind="decision", event_ms=int(EVENT_MS[i]), recorded_ms=int(EVENT_MS[i]),
            arm="champion", answered_by="champion", unit=i % UNITS, version=1, bundle="0" * 64,
            score=float(kind.scores[i]), decision=str(kind.decisions[i]), degraded=False,
            payload={"request": request, "features": {}},
        )  # fmt: skip
        if LABELLED[i]:
            later = int(EVENT_MS[i]) + 1000
            value = {kind.label_column: kind.labels[i].item()}
            yield Record(**shared, kind="label", event_ms=later, recorded_ms=later, **value)


def bundle(kind: Kind, number: int, folder: Path) -> str:
    definition = load_definition(kind.name)
    names, data = [i.name for i in definition.inputs], kind.graphs[number]
    scale = definition.decision.scale
    flat = Column((4500.0,), (0.5, 0.5), (0.5,), 0.5, 0.2, 0.0)
    found = Bundle(
        model=kind.name, inputs=definition.inputs, calibration=UNCHANGED,
        thresholds=dict.fromkeys(scale.names[1:], FROM) if not scale.by_class else {},
        reasons={n: Reason(code=n.upper(), customer=n, analyst=n) for n in names}, rules=(),
        reference=dict.fromkeys(names, 0.0),
        golden=Golden(rows=((2.0, 1000.0, 12.0),), scores=(kind.golden[number],), tolerance=1e-3),
        views=(),
        profile=Profile(
            rows=100, units=50, alert_share=0.01, score=flat,
            inputs={n: Column((1.5,), (0.5, 0.5), (), 0.5, 0.2, 0.0) if n == "channel" else flat
                    for n in names},
        ),
        alert_band=AlertBand(low=0.0, high=0.1, share=0.01, how="by hand"),
        data=DataWindow(from_ms=0, holdout_from_ms=1, gates_from_ms=2, to_ms=3, as_of_ms=4,
                        rows=100, digest="0"),
        seed=0, origin="test", files={MODEL_FILE: digest(data)}, scale=scale,
        vocabularies={"channel": CHANNELS},
    )  # fmt: skip
    written = write_bundle(found, data, folder / "draft")
    (folder / "draft").rename(folder / written)
    return written


@pytest.fixture(
    scope="module", params=[CLASSES, NUMBERS, RISKS], ids=["classes", "numbers", "with outcomes"]
)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Kind, wiring.Platform]]:
    kind: Kind = request.param
    root = tmp_path_factory.mktemp("team")
    with ExitStack() as held:
        held.enter_context(team_folder(root, root / "var"))
        command("new-model", kind.name, "--template", kind.template, "--into", str(root))
        file = root / kind.name / "model.yaml"
        text = file.read_text()
        for before, after in kind.changes.items():
            assert before in text
            text = text.replace(before, after)
        file.write_text(text)
        log = SqliteDecisionLog(root / "log")
        held.callback(log.close)
        log.append("gateway-0", [Entry(record) for record in records(kind)])
        arms = [Arm(n + 1, d, d) for n in (0, 1) for d in [bundle(kind, n, root / "bundles")]]
        found = SimpleNamespace(
            log=log,
            definition=load_definition,
            views=lambda model: (),
            clock=SimpleNamespace(event_ms=lambda: NOW_MS),
            registry=SimpleNamespace(
                get=lambda model, version: SimpleNamespace(
                    version=version, digest=arms[version - 1].bundle
                )
            ),
            rollouts=SimpleNamespace(routes=lambda model: SimpleNamespace(champion=arms[0])),
            settings=SimpleNamespace(
                postgres=None, home=SimpleNamespace(rollouts_db=root / "rollouts.db")
            ),
            bundle=lambda model, arm: root / "bundles" / arm.bundle,
        )
        patch = held.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(wiring, "existing_platform", functools.cache(lambda: found))
        patch.setattr(logged_requests, "PAGE", 40)
        yield kind, cast(wiring.Platform, found)


@pytest.fixture(scope="module")
def found(world: tuple[Kind, wiring.Platform]) -> tuple[Kind, whatif.Replay]:
    kind, _ = world
    told = command("replay", kind.name, "--version", "2", "--json")
    return kind, msgspec.json.decode(told.encode(), type=whatif.Replay)


def test_it_decides_what_was_decided_and_counts_what_another_would(
    found: tuple[Kind, whatif.Replay],
) -> None:
    kind, told = found
    seen = told.what_if
    assert (seen.requests, told.served, told.alike) == (REQUESTS,) * 3
    channel = [s for s in seen.segments if s.input == "channel"]
    assert {s.value for s in channel} == {*CHANNELS}
    assert sum(s.flips for s in channel) == seen.flips.count
    assert told.shadow == ()
    if kind is CLASSES:
        moved = (sizes(AMOUNTS) != sizes(AMOUNTS, 5000)).sum()
        assert seen.changes is not None
        assert [(c.reference, c.candidate, c.requests) for c in seen.changes] == [
            ("usual", "large", moved)
        ]
        assert seen.top is not None
        assert seen.top.classes == 2
    else:
        moved = (AMOUNTS > EDGE).sum()
        assert seen.differences is not None
        assert seen.differences.higher == moved
        assert seen.differences.quantiles["most"] == pytest.approx(50, abs=1e-3)
    assert seen.flips.count == moved
    assert seen.disagreement is not None
    assert (seen.disagreement.count, seen.disagreement.trials) == (moved, REQUESTS)


def test_alerts_and_their_reasons_are_told_where_there_are_some(
    found: tuple[Kind, whatif.Replay],
) -> None:
    kind, told = found
    seen = told.what_if
    if kind is NUMBERS:
        plain = msgspec.to_builtins(told)
        assert not {"added", "dropped"} & plain.keys()
        assert not {"reference_alerts", "candidate_alerts", "decisions"} & plain["what_if"].keys()
        return
    assert seen.candidate_alerts is not None
    if kind is CLASSES:
        wanted = (AMOUNTS > 5000).sum()
        assert seen.decisions is None
    else:
        wanted = (numbers(50) >= FROM).sum()
        assert seen.decisions is not None
        assert seen.decisions["usual"]["high"] == wanted - (numbers() >= FROM).sum() > 10
    assert seen.candidate_alerts.count == wanted
    assert isinstance(told.added, whatif.Reasons)
    assert told.added.first == {"AMOUNT": told.added.requests}


def test_labels_measure_both_by_the_measures_of_the_task(
    found: tuple[Kind, whatif.Replay],
) -> None:
    kind, told = found
    measured = told.what_if.measured
    assert told.what_if.known is None
    assert measured is not None
    assert (measured.labelled, measured.requests) == (LABELLED.sum(), LABELLED.sum())
    assert measured.immature + measured.unlabelled == (~LABELLED).sum()
    maturity_ms = load_definition(kind.name).label.maturity_days * DAY_MS
    assert measured.immature == (~LABELLED & (NOW_MS - maturity_ms <= EVENT_MS)).sum()
    by_name = {m.name: m for m in measured.measures}
    if kind is CLASSES:
        right = (sizes(AMOUNTS) == sizes(AMOUNTS, 5000))[LABELLED].mean()
        assert by_name["accuracy"].reference.value == pytest.approx(right)
        assert by_name["accuracy"].candidate.value == 1
        assert by_name["accuracy"].difference.low > 0
    else:
        off = 50 * (AMOUNTS > EDGE)[LABELLED].mean()
        assert by_name["mae"].reference.value == pytest.approx(off, rel=1e-4)
        assert by_name["mae"].candidate.value == pytest.approx(0, abs=1e-3)
        assert by_name["mae"].difference.high < 0


def test_what_shadow_saw_of_the_two_stands_beside_the_prediction(
    world: tuple[Kind, wiring.Platform], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, platform = world
    ramp = World(tmp_path, affordable(class_definition())).first_version()
    facts = ramp.rollouts.read(ramp.promoted(lambda: class_pairs(ramp, FLIPS)))
    opened, *later = facts
    assert isinstance(opened, Opened)
    bundles = [platform.registry.get(kind.name, version).digest for version in (1, 2)]
    of_pair = msgspec.structs.replace(
        opened,
        challenger=Arm(2, bundles[1], bundles[1]),
        validation=opened.validation | {"champion": bundles[0]},
    )
    journals = {"m-v2-1": [of_pair, *later], "m-v2-2": facts}
    asked = SimpleNamespace(
        routes=platform.rollouts.routes,
        active=lambda model, finished: [
            SimpleNamespace(rollout_id=name, challenger=found[0].challenger)
            for name, found in journals.items()
        ],
        read=journals.__getitem__,
    )
    monkeypatch.setattr(platform, "rollouts", asked)
    told = command("replay", kind.name, "--version", "2", "--json")
    assert msgspec.json.decode(told.encode(), type=whatif.Replay).shadow == (), (
        "there is no journal"
    )
    journal = tmp_path / "rollouts.db"
    monkeypatch.setattr(platform.settings.home, "rollouts_db", journal)
    assert journal.exists()
    told = command("replay", kind.name, "--version", "2", "--json")
    (seen,) = msgspec.json.decode(told.encode(), type=whatif.Replay).shadow
    assert seen.share == pytest.approx(FLIPS)
    assert "shadow saw, " in command("replay", kind.name, "--version", "2")


def test_very_many_labels_of_classes_are_measured_on_a_share_of_the_customers(
    world: tuple[Kind, wiring.Platform], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, _ = world
    monkeypatch.setattr(decided_pages, "MOST_MEASURED", 50)
    told = command("replay", kind.name, "--version", "2", "--json")
    measured = msgspec.json.decode(told.encode(), type=whatif.Replay).what_if.measured
    assert measured is not None
    assert measured.labelled == LABELLED.sum()
    assert (20 < measured.requests < 100) == (kind is CLASSES), "numbers need no probabilities"


def test_the_command_tells_it_in_words(world: tuple[Kind, wiring.Platform]) -> None:
    kind, _ = world
    said = command("replay", kind.name, "--version", "2")
    assert "version 2 beside version 1" in said
    assert "predicted for shadow" in said
    assert ("of another class" in said) == (kind is CLASSES)
    assert ("moved by more than 20 EUR" in said) == (kind is not CLASSES)
    assert ("alerts" in said) == (kind is not NUMBERS)
    assert "positive" not in said


def test_a_folder_from_anywhere_is_decided_by_too(
    world: tuple[Kind, wiring.Platform], tmp_path: Path
) -> None:
    kind, _ = world
    folder = tmp_path / bundle(kind, 1, tmp_path)
    told = command("replay", kind.name, "--bundle", str(folder), "--json")
    seen = msgspec.json.decode(told.encode(), type=whatif.Replay)
    assert seen.candidate.startswith("bundle ")
    assert seen.what_if.flips.count > 50
    if kind is not NUMBERS:
        assert seen.added is None, "its reasons are not explained"


def test_other_thresholds_are_those_of_numbers(world: tuple[Kind, wiring.Platform]) -> None:
    kind, _ = world

    def ask(begin: str) -> Any:
        return CliRunner().invoke(app, ["replay", kind.name, "--from", begin, "--json"])

    if kind is RISKS:
        seen = msgspec.json.decode(ask("high=800").stdout.encode(), type=whatif.Replay).what_if
        assert seen.decisions is not None
        assert seen.decisions["high"]["usual"] == ((numbers() >= 500) & (numbers() < 800)).sum()
        refused = ask("high=nan").exception
        assert isinstance(refused, ConfigInvalid)
        assert "numbers in EUR" in str(refused)
        return
    refused = ask("high=800").exception
    assert isinstance(refused, ConfigInvalid)
    assert ("largest probability" in str(refused)) == (kind is CLASSES)


def test_bundles_of_another_task_are_refused(world: tuple[Kind, wiring.Platform]) -> None:
    kind, platform = world
    one = whatif.side_of_version(platform, kind.name, None)
    task = "real" if kind is CLASSES else "classes"
    other = msgspec.structs.replace(one.bundle.scale, by_class=task == "classes", number=None)
    if task == "real":
        other = msgspec.structs.replace(other, number=Quantity("EUR", 1.0))
    changed = msgspec.structs.replace(one.bundle, scale=other)
    side = whatif.Side("bundle x", None, changed, one.model, None)
    try:
        with pytest.raises(Refused, match="a replay compares bundles of one task"):
            whatif.replay(platform, kind.name, one, side, days=7)
        with pytest.raises(Refused, match="name a version of that task by --against"):
            whatif.replay(platform, kind.name, side, one, days=7)
    finally:
        one.model.close()
