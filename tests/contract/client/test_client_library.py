"""The client library against a real gateway, and against one whose parts fail one by one.

No fault may make a wrong answer (`support/library_calls.py`), and each error has its type.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pytest
import typer
from tests.drills.scoring_faults import DRILLS, OneGateway
from typer.testing import CliRunner

from demo.traffic import Player, Recording
from mlplatform.commands import score
from mlplatform.operations import wiring
from mlplatform.runtime.errors import InputInvalid
from mlplatform.scoring.admission.clients import Scope
from mlplatform.scoring.admission.keyring import create_key
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from mlplatform_client import (
    AsyncClient,
    Client,
    Conflict,
    InputRefused,
    Label,
    NotAllowed,
    NotAuthenticated,
    NotExplained,
    NotFound,
    Retries,
    Settings,
    Terms,
    Unavailable,
)
from support.faulty_way import LARGE_BYTES, Fault, FaultyWay
from support.library_calls import asked, asked_again, kinds, payments, wrong
from support.scoring_world import MODEL, START_S, payment, wait_for

pytestmark = pytest.mark.slow
ROOT: Final = Path(__file__).parents[3]
EXAMPLE: Final = ROOT / "clients" / "python" / "examples" / "score_payments.py"
FAULTS: Final[tuple[Fault, ...]] = (
    *("well", "lost", "cut", "refused", "busy", "well", "page", "late"),
    *("lost", "garbage", "well", "large", "cut", "well", "redirect", "well", "well", "well"),
)
LATE_S: Final = 0.3
PATIENT: Final = Settings(
    deadline_s=5.0,
    retries=Retries(attempts=6, first_s=0.01, longest_s=0.1, attempt_s=0.2),
    most_bytes=LARGE_BYTES // 2,
)
PAYMENTS: Final = 180
UNHURRIED: Final = Terms(within_ms=5000)
"""Enough for the champion itself on a busy machine."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneGateway]:
    world = OneGateway(tmp_path_factory.mktemp("asked"))
    try:
        world.start_worker()
        yield world
    finally:
        world.close()


class ByAsyncio:
    """The asyncio client, with the other one's methods."""

    def __init__(self, url: str, key: str, settings: Settings | None = None) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._made(url, key, settings))

    @staticmethod
    async def _made(url: str, key: str, settings: Settings | None) -> AsyncClient:
        return AsyncClient(url, key, settings)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **named: self._runner.run(method(*args, **named))


def api_key(world: OneGateway) -> str:
    return world.home.api_key.read_text()


@pytest.fixture(params=[Client, ByAsyncio], ids=["threads", "asyncio"])
def client(request: pytest.FixtureRequest, world: OneGateway) -> Iterator[Any]:
    made = request.param(world.url, api_key(world))
    yield made
    made.close()


def test_each_call_of_the_api_is_answered(client: Any, world: OneGateway) -> None:
    kind = type(client).__name__
    sent = payment(620.0, customer=4711)
    answer = client.score(MODEL, sent, key=f"{kind}-1", terms=UNHURRIED)
    assert (answer.decision, answer.replayed, answer.answered_by) == ("review", False, "champion")
    assert answer.score == pytest.approx(0.63, abs=1e-6)
    assert answer.reasons
    again = client.score(MODEL, sent, key=f"{kind}-1")
    assert (again.decision_id, again.replayed) == (answer.decision_id, True)

    results = client.score_batch(
        MODEL, [payment(20.0), {"amount": "x"}, payment(950.0)], terms=UNHURRIED
    )
    assert [r.answer.decision if r.answer else type(r.error) for r in results] == [
        "approve", InputRefused, "decline",
    ]  # fmt: skip

    pending = client.score_later(MODEL, payment(640.0), key=f"{kind}-2")
    decided = client.wait(pending.decision_id, deadline_s=START_S)
    assert (decided.decision_id, decided.decision) == (pending.decision_id, "review")
    assert client.decision(pending.decision_id) == decided

    now_ms = int(time.time() * 1000)
    labels = [
        Label(label=0, decision_id=answer.decision_id, event_time=now_ms),
        Label(label=1, idempotency_key=f"{kind}-1", event_time=now_ms),
    ]
    receipts = [client.label(MODEL, labels) for _ in range(2)]
    assert [(r.stored, r.repeated) for r in receipts] == [(2, 0), (0, 2)]
    voids = [client.void(MODEL, answer.decision_id, "a test") for _ in range(2)]
    assert [v.repeated for v in voids] == [False, True]


def test_a_decision_is_explained_by_its_inputs_or_by_its_rules(
    client: Any, world: OneGateway
) -> None:
    answer = client.score(MODEL, payment(950.0), terms=UNHURRIED)
    found = client.explain(MODEL, answer.decision_id, deadline_s=START_S)
    assert found.decision == answer.decision == "decline"
    assert (found.score, found.model, found.reasons) == (answer.score, answer.model, answer.reasons)
    strongest = max(found.contributions, key=lambda one: one.contribution)
    assert (strongest.input, strongest.value, strongest.ordinary) == ("amount", 950.0, 0.0)
    assert client.explain(MODEL, answer.decision_id) == found
    pending = client.score_later(MODEL, payment(640.0))
    assert client.explain(MODEL, pending.decision_id, deadline_s=START_S).decision == "review"

    with DRILLS["predictors_frozen"].fault(world):
        wait_for(lambda: client.score(MODEL, payment(800.0)).answered_by == "rules")
        by_rules = client.score(MODEL, payment(800.0))
        by_nobody = client.score(MODEL, payment(30.0))
    told = client.explain(MODEL, by_rules.decision_id)
    assert (told.answered_by, told.method, told.contributions) == ("rules", None, ())
    assert told.rules[0].values["amount"] == 800.0
    assert by_nobody.answered_by == "default"
    with pytest.raises(NotExplained, match="safe default") as unexplained:
        client.explain(MODEL, by_nobody.decision_id)
    assert (unexplained.value.status, unexplained.value.problem) == (422, "decided-without-model")
    with pytest.raises(NotFound, match="unknown-decision"):
        client.explain(MODEL, "f" * 42)
    other = type(client)(world.url, reader(world, f"why-{type(client).__name__}"))
    with pytest.raises(NotAllowed, match="--scope explain"):
        other.explain(MODEL, by_rules.decision_id)
    other.close()


def test_each_refusal_comes_as_its_type(client: Any, world: OneGateway) -> None:
    kind = type(client)
    key = f"{kind.__name__}-again"
    client.score(MODEL, payment(10.0), key=key)
    with pytest.raises(InputRefused, match=r"amount.*422 invalid-field") as refused:
        client.score(MODEL, payment(-5.0))
    assert (refused.value.field, refused.value.attempts) == ("amount", 1)
    with pytest.raises(Conflict, match="belongs to another request: give this one a new"):
        client.score(MODEL, payment(11.0), key=key)
    with pytest.raises(NotFound, match="unknown-model"):
        client.score("nobodys", payment())
    with pytest.raises(NotFound, match="unknown-decision"):
        client.wait("f" * 42)
    with pytest.raises(NotFound, match=r"labels\[0\]"):
        client.label(MODEL, [Label(label=1, decision_id="f" * 42)])
    for secret, error in (("nobody", NotAuthenticated), (reader(world, kind.__name__), NotAllowed)):
        other = kind(world.url, secret)
        with pytest.raises(error) as failed:
            other.score(MODEL, payment())
        assert secret not in str(failed.value)
        other.close()
    nowhere = kind("http://127.0.0.1:1", "x", PATIENT)
    with pytest.raises(Unavailable, match="not reached") as gone:
        nowhere.score(MODEL, payment())
    assert gone.value.attempts == PATIENT.retries.attempts
    nowhere.close()


def reader(world: OneGateway, name: str) -> str:
    """A key that may look and not ask, once the gateway knows it."""
    store = SqliteAdmission(world.home.admission_db)
    scopes = frozenset({Scope(MODEL, "read")})
    _, secret = create_key(store, name.lower(), scopes, priority="standard", limit=None, now_ms=0)
    store.close()
    with Client(world.url, secret) as client:

        def is_known() -> bool:
            try:
                client.score(MODEL, payment())
            except NotAuthenticated:
                return False
            except NotAllowed:
                return True
            raise AssertionError("it may score")

        wait_for(is_known)
    return secret


def test_the_command_asks_by_it(world: OneGateway) -> None:
    app = typer.Typer()
    score.add_to(app)
    environment = {
        "MLPLATFORM_HOME": str(world.home.root), "MLPLATFORM_GATEWAY_PORT": str(world.port)
    }  # fmt: skip
    wiring.settings.cache_clear()
    try:
        command = ["fraud", json.dumps(payment(950.0)), "--key", "typed"]
        told = CliRunner().invoke(app, [*command, "--json"], env=environment)
        answer = json.loads(told.stdout)
        [row] = decided(world, {"typed"})
        assert (answer["decision_id"], answer["decision"]) == (row["decision_id"], row["decision"])
        refused = CliRunner().invoke(app, ["fraud", '{"amount": "x"}'], env=environment)
        assert isinstance(refused.exception, InputInvalid)
        assert "422" in str(refused.exception)
    finally:
        wiring.settings.cache_clear()


async def test_the_demo_plays_by_it(world: OneGateway) -> None:
    now_s = int(time.time())
    times = pa.array([now_s * 1_000_000] * 30, pa.timestamp("us", "UTC"))
    table = pa.table(
        {
            "request_id": [f"played-{n}" for n in range(30)],
            "event_time": times,
            "customer_id": list(range(30)),
            "terminal_id": [3] * 30,
            "amount": [float(n) for n in range(30)],
            "label": [n % 2 for n in range(30)],
            "label_time": times,
        }
    )
    recording = Recording(table, ("customer_id", "terminal_id", "amount"))
    async with Player(recording, world.url, MODEL, api_key(world).strip()) as player:
        await player.play(30, 1000.0, lambda: True)
        await player.send_labels(now_s * 1000, lambda: True)
    counts = player.counts
    assert (counts.requests, counts.answers, counts.labels) == (30, 30, 30)
    assert sum(counts.by_route.values()) == 30
    assert len(decided(world, recording.keys)) == 30


def decided(world: OneGateway, keys: Collection[str]) -> list[dict[str, Any]]:
    """Records of the decisions that were asked for by these keys."""
    rows = world.records("decision")
    return [row for row in rows if row["payload"].get("idempotency_key") in keys]


def test_the_example_runs(world: OneGateway) -> None:
    command = [sys.executable, str(EXAMPLE), world.url, str(world.home.api_key)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "LabelReceipt(stored=1, repeated=0)"


def test_no_fault_on_the_way_makes_a_wrong_answer(world: OneGateway) -> None:
    sent = payments("way", PAYMENTS)
    way = FaultyWay(world.port, FAULTS, LATE_S)
    try:
        found = asked(way.url, api_key(world), sent, PATIENT)
    finally:
        way.close()
    assert way.met.keys() == set(FAULTS)
    assert wrong(world, sent, found) == []
    seen = kinds(found)
    assert seen["AnswerNotUnderstood"] > 0
    assert seen["Answer"] > PAYMENTS / 3
    again = asked_again(world, sent, found)
    assert wrong(world, sent, again) == []
    assert kinds(again) == {"Answer": PAYMENTS}


def test_a_gateway_that_is_killed_and_started_again_leaves_no_payment_without_an_answer(
    world: OneGateway,
) -> None:
    sent = payments("killed", PAYMENTS)
    patient = Settings(deadline_s=20.0, retries=Retries(attempts=1000, longest_s=0.2))
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(asked, world.url, api_key(world), sent, patient)
        wait_for(lambda: decided(world, sent.keys()))
        world.kill_gateway()
        world.start_gateway()
        found = asking.result()
    assert wrong(world, sent, found) == []
    assert kinds(found) == {"Answer": PAYMENTS}


@pytest.mark.parametrize(
    ("fault", "refuses"),
    [
        ("features_gone", False),
        ("log_full", True),
        ("log_held", True),
        ("predictors_frozen", False),
    ],
)
def test_a_part_that_fails_makes_no_wrong_answer(
    world: OneGateway, fault: str, refuses: bool
) -> None:
    sent = payments(fault, 60)
    brief = Settings(deadline_s=0.8, retries=Retries(attempt_s=0.4))
    with DRILLS[fault].fault(world):
        found = asked(world.url, api_key(world), sent, brief)
    assert wrong(world, sent, found) == []
    seen = kinds(found)
    # Conflict: an attempt that was given up is still being answered
    assert seen.keys() <= {"Answer", "Unavailable", "DeadlineExceeded", "Conflict"}
    assert seen["Answer" if not refuses else "Unavailable"] > 0
    again = asked_again(world, sent, found)
    assert wrong(world, sent, again) == []
    assert kinds(again) == {"Answer": 60}
