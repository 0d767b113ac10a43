"""An acquirer's topic feeds `fraud`: docs/features.md, its archive, gates, answers, skew.

What a request should have read is counted from the archive and the messages by pandas.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.support.documented_views import known_rows, with_documented_view
from tests.support.scoring_world import ScoringWorld, wait_for
from tests.support.team_folder import command, team_folder

from mlplatform.decisions.topics.kafka_access import Access
from mlplatform.decisions.topics.messages import Message
from mlplatform.decisions.topics.wiring import open_topics
from mlplatform.learning.training import evaluate, retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.model.inputs import InputPlan
from mlplatform.operations import wiring
from mlplatform.operations.actions import fitting, training
from mlplatform.operations.actions.features import import_history
from mlplatform.runtime.storage import addresses
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.worker.feature_stream import letters_of, specs_of
from models.fraud.generator import Population, generate

pytestmark = pytest.mark.slow

NAME, SHIPPED, VIEW, TOPIC = "fraud", "models/fraud", "acquirer", "acquirer.terminals"
FEATURE = "acquirer_risk"
TIMES, TTL = ("seen_at", "told_at"), pd.Timedelta(days=14)
POPULATION = Population(customers=1_500, terminals=400, payments_per_day=1_500, fraud_share=0.02)
DAYS = 27
TAKEN_S = 120.0

Publish = Callable[[list[bytes]], None]


class FedModel(NamedTuple):
    """A model whose view has a topic.

    Args:
        topic: its name; on Kafka, which may be somebody else's, one of this test's own.
        archive: of the topic's past, as the acquirer kept it.
        publish: gives messages to the topic, in their order.
    """

    root: Path
    topic: str
    history: pa.Table
    archive: pd.DataFrame
    publish: Publish


@pytest.fixture(scope="module", params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def fed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FedModel]:
    """The folder of the document, its history, and the archive of the topic."""
    root = tmp_path_factory.mktemp("fed")
    folder = with_documented_view(root / "models", SHIPPED)
    with team_folder(root / "models", root / "var", NAME), pytest.MonkeyPatch.context() as patch:
        publish: Publish = published_here
        topic = TOPIC
        if request.param == "kafka":
            topic = f"{TOPIC}-{uuid.uuid4().hex[:8]}"
            definitions = folder / "features.py"
            definitions.write_text(definitions.read_text().replace(TOPIC, topic))
            publish = BankProducer(request.getfixturevalue("kafka"), topic, patch)
        command("features", "render", NAME)
        wiring.settings().home.create()  # as `mlplatform up` does
        (told,) = json.loads(command("features", "status", NAME, "--json"))
        assert (told["view"], told["topic"]) == (VIEW, topic)
        assert "nothing is wrong" in command("check-model", str(folder))
        until_ms = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
        start_ms = until_ms - DAYS * DAY_MS
        history = generate(seed=4, start_ms=start_ms, days=DAYS, population=POPULATION)
        import_history(wiring.platform(), NAME, history, "generated")
        archive = archived(history, pd.Timestamp(until_ms, unit="ms"))
        path = root / "archive.parquet"
        pq.write_table(pa.Table.from_pandas(archive, preserve_index=False), path)
        done = json.loads(command("features", "import", NAME, VIEW, str(path), "--json"))
        assert done["new"] == len(archive)
        yield FedModel(root, topic, history, archive, publish)


def archived(history: pa.Table, until: pd.Timestamp) -> pd.DataFrame:
    """What the acquirer said of terminals until then: often high before a fraud; some of it said
    again with another risk, or said late."""
    draw, paid = np.random.default_rng(6), history.to_pandas()
    shown = (paid["label"] == 1) & (draw.random(len(paid)) < 0.6) | (draw.random(len(paid)) < 0.1)
    paid = paid[shown].reset_index(drop=True)
    count = len(paid)

    def seconds(low: int, high: int) -> pd.Series:
        return pd.Series(pd.to_timedelta(draw.integers(low, high, count), unit="s"))

    told = pd.DataFrame({"terminal_id": paid["terminal_id"]})
    told["seen_at"] = paid["event_time"].dt.floor("s") - seconds(60, 20 * 3600)
    told["told_at"] = told["seen_at"] + seconds(0, 3 * 3600)
    told["acquirer_risk"] = (0.1 + 0.5 * paid["label"] + 0.3 * draw.random(count)).round(3)
    again = told.assign(
        told_at=told["told_at"] + seconds(600, 86_400),
        acquirer_risk=(told["acquirer_risk"] + 0.05).round(3),
    )
    late = told.assign(
        seen_at=told["seen_at"] + seconds(60, 3600),
        told_at=told["told_at"] + seconds(86_400, 172_800),
        acquirer_risk=(told["acquirer_risk"] / 2).round(3),
    )
    rows = pd.concat([told, again[draw.random(count) < 0.2], late[draw.random(count) < 0.15]])
    rows = rows[rows["told_at"] <= until].drop_duplicates(["terminal_id", *TIMES])
    return rows.astype({"seen_at": "datetime64[us]", "told_at": "datetime64[us]"})


def published_here(messages: list[bytes]) -> None:
    with closing(open_topics(wiring.settings(), specs_of(TOPIC))) as topics:
        topics.publish([Message(TOPIC, _key(one), one) for one in messages])


class BankProducer:
    """The acquirer's own program and topic, on brokers that the platform is told of."""

    def __init__(self, brokers: Any, topic: str, patch: pytest.MonkeyPatch) -> None:
        for name, value in addresses.variables("MLPLATFORM_KAFKA", brokers).items():
            patch.setenv(name, value)
        wiring.settings.cache_clear()
        wiring.platform.cache_clear()
        self._access, self._topic = Access(brokers), topic
        admin = self._access.client(AdminClient)
        for made in admin.create_topics([NewTopic(topic, 3, 1)]).values():
            made.result()

    def __call__(self, messages: list[bytes]) -> None:
        producer = self._access.client(Producer)
        for one in messages:
            producer.produce(self._topic, one, _key(one))
        assert producer.flush(30) == 0


def _key(message: bytes) -> bytes:
    return str(json.loads(message)["terminal_id"]).encode() if message[-1:] == b"}" else b"0"


@pytest.fixture(scope="module")
def prepared(fed: FedModel) -> training.TrainingInputs:
    now_ms = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
    return training.prepare_training(wiring.platform(), NAME, now_ms)


@pytest.fixture(scope="module")
def validated(prepared: training.TrainingInputs) -> tuple[Candidate, GateReport]:
    platform = wiring.platform()
    made = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
    return made, training.validate(NAME, made, prepared).report


def test_training_has_of_each_payment_what_the_acquirer_had_said_by_then(
    fed: FedModel, prepared: training.TrainingInputs
) -> None:
    matrix, window = prepared.dataset.rows.matrix, prepared.dataset.window
    paid = fed.history.sort_by([("event_time", "ascending"), ("request_id", "ascending")])
    asked = paid.to_pandas().rename(columns={"event_time": "at"})[["terminal_id", "at"]]
    begin, end = (pd.Timestamp(ms, unit="ms") for ms in (window.from_ms, window.to_ms))
    asked = asked[(asked["at"] >= begin) & (asked["at"] < end)].reset_index(drop=True)
    assert len(asked) == len(matrix) > 20_000
    expected = known_rows(asked, fed.archive, "terminal_id", TIMES, TTL)[FEATURE]
    found = matrix.columns([FEATURE])[:, 0]
    np.testing.assert_array_equal(found, expected.to_numpy("float32"))
    early = known_rows(
        asked, fed.archive.assign(told_at=fed.archive["seen_at"]), "terminal_id", TIMES, TTL
    )
    assert (early[FEATURE].fillna(-1) != expected.fillna(-1)).sum() > 300
    assert expected.notna().sum() > 300


def test_it_passes_its_gates_and_decides_by_what_it_was_fed(
    validated: tuple[Candidate, GateReport], prepared: training.TrainingInputs
) -> None:
    made, report = validated
    assert report.reasons == ()
    assert retrain.version_facts(made, report, author="ana").validated
    x = prepared.dataset.judging.matrix.of(made.bundle)
    without = x.copy()
    without[:, made.bundle.input_names.index(FEATURE)] = np.nan
    model = evaluate.load_runnable(made.folder).model
    assert np.mean(np.abs(model.scores(x) - model.scores(without))) > 0.001


@pytest.fixture(scope="module")
def world(fed: FedModel, validated: tuple[Candidate, GateReport]) -> Iterator[ScoringWorld]:
    world = ScoringWorld(fed.root, has_snapshots=False)
    try:
        world.promote(world.serve(1, validated[0].bundle.digest))
        world.start_gateway()
        world.start_worker()
        wait_for(lambda: score(world, 1).get("answered_by") == "champion")
        yield world
    finally:
        world.close()


def score(world: ScoringWorld, terminal: int) -> dict[str, Any]:
    body = {"customer_id": 5, "terminal_id": terminal, "amount": 260.0}
    body["event_time"] = time.time_ns() // 1_000_000
    url = f"{world.url}/api/v1/models/{NAME}/score"
    sent = world.headers | {"X-Request-Timeout-Ms": "5000"}
    found: dict[str, Any] = httpx.post(url, json=body, headers=sent, timeout=10).json()
    return found


class Stream:
    """The messages of the topic, and which of them the worker has to have taken."""

    def __init__(self, fed: FedModel) -> None:
        self._fed, self.rows, self._taken = fed, fed.archive, 0

    def say(
        self, *said: tuple[int, pd.Timestamp, float | None], wrong: tuple[bytes, ...] = ()
    ) -> None:
        """Publish risks of terminals, seen at a time, and wait until they are served."""
        bodies = [
            json.dumps({"terminal_id": n, "seen_at": int(at.timestamp() * 1000), FEATURE: risk})
            for n, at, risk in said
        ]
        self._fed.publish([*(body.encode() for body in bodies), *wrong])
        self._taken += len(said)
        wait_for(lambda: served_rows() == self._taken, TAKEN_S)
        rows = pd.DataFrame(said, columns=["terminal_id", "seen_at", FEATURE])
        told = pd.Timestamp.utcnow().tz_localize(None).floor("ms")  # as an answer's event time
        self.rows = pd.concat([self.rows, rows.assign(told_at=told)])


def served_rows() -> int:
    """Rows of the topic that requests read by now."""
    waiting = wiring.platform().pushes.waiting(NAME, VIEW, most=1_000)
    return sum(len(one.push.rows) for one in waiting if one.served_ms is not None)


def test_answers_are_by_what_was_said_last_of_the_newest_time(
    fed: FedModel, world: ScoringWorld, validated: tuple[Candidate, GateReport]
) -> None:
    stream, made = Stream(fed), validated[0]
    now = pd.Timestamp.utcnow().tz_localize(None).floor("s")
    seen = {int(n) for n in fed.archive["terminal_id"]}
    risky, new, late = min(seen), max(seen) + 1_000, sorted(seen)[1]
    first = {n: asserted(world, made, stream.rows, n) for n in (risky, new, late)}
    minute = pd.Timedelta(minutes=1)
    stream.say((risky, now - 2 * minute, 0.2), (new, now - minute, 0.85), (late, now - minute, 0.6))
    second = {n: asserted(world, made, stream.rows, n) for n in (risky, new, late)}
    assert second[new] != first[new]
    stream.say((new, now - minute, 0.2), (late, now - 5 * minute, 0.2), wrong=WRONG)
    stream.say((risky, now, 0.85))
    third = {n: asserted(world, made, stream.rows, n) for n in (risky, new, late)}
    assert (third[new] != second[new], third[late] == second[late]) == (True, True)
    assert third[risky] > second[risky]
    assert sorted(dead_letters(fed.topic)) == sorted(WRONG)
    found = json.loads(command("skew", NAME, "--json"))
    assert FEATURE in {one["name"] for one in found["features"]}
    for one in found["features"]:
        wrong = {kind: one[kind] for kind in ("late", "missing", "different")}
        assert wrong == {"late": 0, "missing": 0, "different": 0}, one
        assert one["equal"] == one["sampled"] == len(world.records("decision")) >= 9


WRONG = (b'{"terminal_id": 1', b'{"terminal_id": 1, "seen_at": 1, "acquirer_risk": "high"}')


def dead_letters(topic: str) -> list[bytes]:
    found: list[bytes] = []
    with (
        closing(open_topics(wiring.settings(), specs_of(topic))) as topics,
        closing(topics.subscribe([letters_of(topic)], f"g-{time.time_ns()}", "test")) as reader,
    ):
        until_s = time.monotonic() + TAKEN_S
        while len(found) < len(WRONG) and time.monotonic() < until_s:
            found += [one.value for one in reader.consume(100, 1.0)]
    return found


def asserted(world: ScoringWorld, made: Candidate, raw: pd.DataFrame, terminal: int) -> float:
    """The score of an answer now, which is the model's of what was said of the terminal."""
    answer = score(world, terminal)
    assert answer["answered_by"] == "champion", answer
    (record,) = [
        one for one in world.records("decision") if one["decision_id"] == answer["decision_id"]
    ]
    at = pd.Timestamp(record["event_ms"], unit="ms")
    asked = pd.DataFrame({"terminal_id": [terminal], "at": [at]})
    risk = known_rows(asked, raw, "terminal_id", TIMES, TTL)[FEATURE].iloc[0]
    read = None if pd.isna(risk) else float(risk)
    features = record["payload"]["features"]
    assert features[FEATURE] == read
    platform = wiring.platform()
    plan = InputPlan(platform.definition(NAME), platform.views(NAME), made.bundle.inputs)
    row = plan.row(record["payload"]["request"], record["event_ms"], features | {FEATURE: read})
    by_model = evaluate.load_runnable(made.folder).model.scores(np.array([row], np.float32))
    expected = made.bundle.calibration.probability(float(by_model[0]))
    assert answer["score"] == pytest.approx(expected, abs=1e-5)
    return float(answer["score"])
