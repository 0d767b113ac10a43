"""Values pushed to gateways: durable, read by the next request, and joined by training as read."""

from __future__ import annotations

import json
import random
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from mlplatform.learning.training_sets.join import view_join
from mlplatform.model.features.views import external
from mlplatform.operations import wiring
from mlplatform.operations.actions import skew
from support.external_world import NAME
from support.http_file import calls, filled
from support.pushes_world import NAMES, PushedWorld, pushed_world, row, values
from support.scoring_world import wait_for
from support.team_folder import command

pytestmark = pytest.mark.slow
SERVERS = pytest.param(True, marks=[pytest.mark.postgres, pytest.mark.redis], id="servers")
CALLS = Path(__file__).parents[4] / "docs" / "calls.http"
CALLING = Path(__file__).parents[4] / "docs" / "calling.md"
PUSHES, KILLED_AT = 40, (8, 15, 22, 30)


@pytest.fixture(scope="module", params=[pytest.param(False, id="embedded"), SERVERS])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PushedWorld]:
    servers: list[Any] = [None, None]
    if request.param:
        servers = [request.getfixturevalue(name) for name in ("postgres", "redis")]
    with pushed_world(tmp_path_factory.mktemp("pushed"), *servers) as world:
        yield world


def test_the_next_request_reads_what_was_pushed_at_any_gateway(world: PushedWorld) -> None:
    expected = {}
    for score in range(1, 7):
        gateways = random.Random(score).sample(list(world.ports), 2)
        answer = world.push(row(1, float(score)), to=gateways[0])
        assert answer.status_code == 200, answer.text
        assert answer.json() == {
            "view": "bureau", "rows": 1, "available_time": answer.json()["available_time"]
        }  # fmt: skip
        assert abs(answer.json()["available_time"] - time.time() * 1000) < 5_000
        expected[world.score(1, to=gateways[1])] = values(float(score))
    assert {one: world.served()[one] for one in expected} == expected


def test_a_key_gives_the_same_answer_again_and_other_rows_are_a_conflict(
    world: PushedWorld,
) -> None:
    sent = row(2, 1.0)
    first = world.push(sent, key="once")
    again = world.push(sent, key="once", to="gateway-1")
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    other = world.push(sent | {"open_loans": 5}, key="once", to="gateway-1")
    assert (other.status_code, other.json()["field"]) == (422, "Idempotency-Key")
    assert other.json()["type"].endswith("idempotency-key-reused")


def test_one_wrong_row_refuses_all_and_is_named(world: PushedWorld) -> None:
    refused = world.push(row(3, 1.0), row(3, 1.0, as_of=int(time.time() * 1000) + 60_000))
    assert (refused.status_code, refused.json()["field"]) == (422, "rows[1].as_of")
    decision = world.score(3, to="gateway-0")
    assert world.served()[decision] == dict.fromkeys(NAMES)


def test_who_may_push_and_where(world: PushedWorld) -> None:
    answers = []
    for model, scope in ((NAME, "push"), (NAME, "score"), (NAME, "labels")):
        secret = world.home.root.parent / f"{model}-{scope}.key"
        words = ("--name", secret.stem, "--model", model, "--scope", scope, "--to", str(secret))
        command("keys", "create", *words)
        headers = {"Authorization": f"Bearer {secret.read_text().strip()}"}
        wait_for(lambda h=headers: world.push(row(4, 1.0), **h).status_code != 401)
        answers.append(world.push(row(4, 1.0), **headers).status_code)
    assert answers == [200, 403, 403]
    assert world.push(row(4, 1.0), Authorization="Bearer no").status_code == 401
    for path, status in (("features/nothing", 404), ("features/customer_stats", 404),
                         ("features/", 404), ("features", 404)):  # fmt: skip
        url = f"{world.url}/api/v2/{path}"
        found = httpx.post(url, json={"rows": [row(4, 1.0)]}, headers=world.headers)
        assert found.status_code == status, path
    assert (
        httpx.get(f"{world.url}/api/v2/features/bureau", headers=world.headers).status_code == 405
    )


def test_the_call_of_the_file_for_editors_is_taken(world: PushedWorld) -> None:
    given = {
        "gateway": world.url,
        "key": world.headers["Authorization"].removeprefix("Bearer "),
        "$timestamp": str(int(time.time())),
    }
    (call,) = [c for c in calls(CALLS.read_text()) if "/features/" in c.address]
    headers = {name: filled(value, given) for name, value in call.headers.items()}
    url, body = filled(call.address, given), filled(call.body, given)
    answer = httpx.request(call.method, url, headers=headers, content=body)
    assert (answer.status_code, answer.json()["rows"]) == (200, 1), answer.text


def test_a_body_that_is_too_large_is_refused(world: PushedWorld) -> None:
    url = f"{world.url}/api/v2/features/bureau"
    kind = {"Content-Type": "application/json"}
    found = httpx.post(url, content=b" " * 2**24, headers=world.headers | kind)
    assert found.status_code == 413
    assert world.push(*[row(4, 1.0)] * 1_001).json()["field"] == "rows"


def test_the_document_of_the_gateway_describes_the_view(world: PushedWorld) -> None:
    document = httpx.get(f"{world.url}/openapi/v2.json").json()
    described = document["paths"]["/api/v2/features/bureau"]["post"]
    schema = document["components"]["schemas"]["ScoredByBureauBureauRow"]
    assert set(schema["required"]) == {"customer_id", "as_of", *NAMES}
    assert described["responses"].keys() >= {"200", "401", "403", "404", "413", "422", "503"}
    v1 = httpx.get(f"{world.url}/openapi/v1.json").json()
    assert not any("features" in path for path in v1["paths"])


def test_gateways_that_are_killed_lose_and_double_nothing(world: PushedWorld) -> None:
    """Clients push again with the same key; then training joins what decisions read."""
    draw, expected = random.Random(5), {}
    before = _joinable(world)
    with ThreadPoolExecutor(1) as thread:
        for number in range(PUSHES):
            name, other = draw.sample(list(world.ports), 2)
            score, sent = number + 0.25, row(10 + number % 3, number + 0.25)
            pushed = thread.submit(_until_taken, world, (name, other), sent, f"k{number}")
            if number in KILLED_AT:
                time.sleep(draw.random() * 0.02)
                world.kill(name)
                world.start(name)
            pushed.result()
            if number in KILLED_AT:
                world.wait(name)
            expected[world.score(10 + number % 3, to=other)] = values(score)
    served = world.served()
    assert {one: served[one] for one in expected} == expected
    after = _joinable(world)
    assert after - before == PUSHES
    assert _joined(world, list(expected)) == list(expected.values())
    report = skew.check_period(wiring.platform(), NAME)
    found = {one.name: one for one in report.features if one.name in NAMES}
    assert all(one.different == one.missing == 0 for one in found.values()), found


def test_what_the_document_shows_is_taken(world: PushedWorld) -> None:
    """The command and the program of docs/calling.md, with this gateway's address and key."""
    text = CALLING.read_text().partition("## Values of features")[2]
    text = text.replace("http://127.0.0.1:8080", world.url)
    (shell,), (program,) = (
        re.findall(rf"```{kind}\n(.*?)```", text, re.S)[:1] for kind in ("sh", "python")
    )
    shell = shell.replace("${MLPLATFORM_HOME:-var}/secrets/api.key", str(world.home.api_key))
    done = subprocess.run(["bash", "-ec", shell], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["rows"] == 1, done.stdout
    found: dict[str, Any] = {"api_key": world.home.api_key.read_text().strip()}
    exec(program, found)
    assert found["receipt"].rows == 1
    decision = world.score(7, to="gateway-1")
    assert world.served()[decision] == {"bureau_score": 612.5, "open_loans": 2.0, "is_listed": None}


def _until_taken(world: PushedWorld, names: tuple[str, str], sent: Any, key: str) -> None:
    for attempt in range(200):
        try:
            if world.push(sent, key=key, to=names[attempt % 2]).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError("it was not taken")


def _joinable(world: PushedWorld) -> int:
    """Rows that training's table has of what was pushed with all that came before."""
    wiring.platform.cache_clear()
    parts = wiring.platform().with_pushes(NAME).external("bureau")
    return sum(by.rows for note in parts.notes() for by in note.pushed.values())


def _joined(world: PushedWorld, decisions: list[str]) -> list[dict[str, float | None]]:
    platform = wiring.platform()
    records = {one["decision_id"]: one for one in world.records("decision")}
    keys = [records[one]["payload"]["request"]["customer_id"] for one in decisions]
    times = [records[one]["recorded_ms"] * 1000 for one in decisions]
    events = pa.table({"event_time": pa.array(times, pa.timestamp("us")), "customer_id": keys})
    views = external(platform.views(NAME))
    found = view_join(platform.offline(NAME), views, events).select(list(NAMES)).to_pylist()
    return [{n: None if one[n] is None else float(one[n]) for n in NAMES} for one in found]
