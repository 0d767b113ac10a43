"""Feast lists a model's real-time windows, and its SDK reads what a gateway would read then."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mlplatform.learning.features.windows.online import Windows
from mlplatform.model.definition import ModelDefinition
from mlplatform.operations import wiring
from mlplatform.runtime.storage import addresses
from support.model_folders import windowed
from support.shared_windows_world import SharedGateway
from support.team_folder import command, team_folder
from support.windows_world import Gateway, bits

pytestmark = pytest.mark.slow

NAME = "fraud"
FEAST = Path(sys.executable).with_name("feast")
CUSTOMERS, TERMINALS, PAYMENTS = 12, 5, 300
OF = {"customer": "customer_id", "terminal": "terminal_id"}
READ = """
import asyncio, feast, json, sys
store = feast.FeatureStore(repo_path=sys.argv[1])
is_async, found, loop = sys.argv[2:] == ["async"], {}, asyncio.new_event_loop()
for entity, most in (("customer", 14), ("terminal", 6)):
    view, key = f"{entity}_windows", f"{entity}_id"
    names = [f.name for f in store.get_feature_view(view).features]
    asked = [{key: number} for number in range(most)]
    wanted = [f"{view}:{name}" for name in names]
    if is_async:  # a view that is stored, in the same request
        wanted.append(f"{entity}_stats:{entity}_count_7d")
        answer = loop.run_until_complete(store.get_online_features_async(wanted, asked))
        assert answer.to_dict()[f"{entity}_count_7d"] == [None] * most
    else:
        answer = store.get_online_features(wanted, asked)
    vectors = dict(zip(answer.proto.metadata.feature_names.val, answer.proto.results))
    values = answer.to_dict()
    for name in names:
        found[name] = [
            (number, moment.ToMilliseconds(), value)
            for number, moment, value in zip(
                range(most), vectors[name].event_timestamps, values[name])]
print(json.dumps(found))
"""


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "PROMETHEUS" not in name}


def run(*words: Any) -> str:
    done = subprocess.run([*words], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pay(gateway: Gateway) -> None:
    """Some payments of the last hours, a few of them seconds old."""
    draw, now_ms = random.Random(5), time.time_ns() // 1_000_000
    for number in range(PAYMENTS):
        request = {
            "customer_id": draw.randrange(CUSTOMERS),
            "terminal_id": draw.randrange(TERMINALS),
            "amount": round(draw.random() * 200, 2),
        }
        ago_ms = draw.randrange(1_000, draw.choice([60_000, 3_600_000, 86_400_000]))
        gateway.write([gateway.answer(f"{number:032x}", now_ms - ago_ms, request)])


def folder_of(root: Path) -> Iterator[Path]:
    """Where the folder for Feast is rendered."""
    windowed(root / "models", NAME)
    with team_folder(root / "models", root / "var"):
        yield root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from folder_of(tmp_path_factory.mktemp("windows"))


@pytest.fixture(scope="module")
def embedded(home: Path) -> Iterator[tuple[Path, Windows]]:
    """A rendered folder, and what a gateway reads by; the state is in SQLite."""
    platform = wiring.platform()
    command("history", "windows", NAME)
    gateway = Gateway(platform.settings.home.decisions, platform.definition(NAME), "gateway-0")
    with closing(gateway):
        pay(gateway)
        yield Path(json.loads(command("models", "feast", NAME, "--json"))["folder"]), gateway.reads


def test_feast_lists_windows_beside_views_with_what_declares_them(
    embedded: tuple[Path, Windows],
) -> None:
    folder, _ = embedded
    listed = run(FEAST, "-c", folder, "feature-views", "list")
    names = ("customer_stats", "terminal_stats", "customer_windows", "terminal_windows")
    assert all(re.search(rf"^{name}\s", listed, re.M) for name in names), listed
    described = run(FEAST, "-c", folder, "feature-views", "describe", "terminal_windows")
    assert "window: 1h" in described
    assert '"op":">="' in described.replace(" ", "")
    assert "counted from their tiles at each read" in described


def assert_equal(found: Any, reads: Windows, definition: ModelDefinition) -> None:
    """Every value is, bit for bit, what a request of its moment would read."""
    cells = 0
    for window in definition.windows:
        for key, at_ms, value in found.pop(window.name):
            other = next(entity for entity in OF if entity != window.entity)
            row = reads.read({window.entity: key, other: -1}, at_ms)
            assert bits(value) == bits(row.values[window.name]), (window.name, key, at_ms)
            cells += value is not None
            assert abs(time.time() * 1000 - at_ms) < 300_000
    assert not found
    assert cells > 40


def test_the_sdk_reads_what_a_gateway_reads_at_that_moment(
    embedded: tuple[Path, Windows],
) -> None:
    folder, reads = embedded
    found = json.loads(run(sys.executable, "-c", READ, folder).splitlines()[-1])
    assert_equal(found, reads, wiring.platform().definition(NAME))


def test_there_are_no_rows_of_windows_to_join_and_feast_says_so(
    embedded: tuple[Path, Windows],
) -> None:
    folder, _ = embedded
    code = """
import feast, pandas, sys
store = feast.FeatureStore(repo_path=sys.argv[1])
rows = pandas.DataFrame({"customer_id": [1], "event_timestamp": [pandas.Timestamp.now("UTC")]})
try:
    store.get_historical_features(rows, ["customer_windows:customer_payments_10m"]).to_df()
except Exception as error:
    print(type(error).__name__, error)
"""
    assert "no batch_source" in run(sys.executable, "-c", code, folder)


@pytest.mark.redis
def test_the_sdk_reads_windows_on_a_server_as_gateways_do(
    tmp_path: Path, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.empty()
    for name, value in addresses.variables("MLPLATFORM_REDIS", redis.address).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FEAST_REDIS_PASSWORD", redis.address.password() or "")
    for root in folder_of(tmp_path):
        command("history", "windows", NAME)
        definition = wiring.platform().definition(NAME)
        with closing(SharedGateway(redis.address, root, definition, "gateway-0")) as gateway:
            pay(gateway)
            folder = json.loads(command("models", "feast", NAME, "--json"))["folder"]
            for way in ((), ("async",)):
                found = json.loads(run(sys.executable, "-c", READ, folder, *way).splitlines()[-1])
                assert_equal(found, gateway.reads, definition)
