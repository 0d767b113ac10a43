"""`mlplatform log erase` over real stores: every place of a customer's rows, and those it names."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.external_world import BUREAU, NAME, T_S, model_with_table, table, written
from tests.support.team_folder import command, team_folder
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.commands.decisions import erasure
from mlplatform.decisions.log.lookup import logged_records
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.topics.messages import Message
from mlplatform.decisions.topics.wiring import open_topics
from mlplatform.learning.features.external.files import PlainFiles
from mlplatform.learning.features.pushes.journal import Push, PushedRow
from mlplatform.operations import wiring
from mlplatform.operations.actions import features
from mlplatform.operations.erasure.feature_rows import erase_feature_rows
from mlplatform.runtime.storage import addresses
from mlplatform.scoring.worker.feature_stream import letters_of, specs_of

SERVERS = pytest.param(True, marks=[pytest.mark.postgres, pytest.mark.redis], id="servers")
TOPIC = "bank.bureau"
WHO = ["--reason", "request 4711", "--actor", "Ann Lee"]
CUSTOMER, OTHER, NEW = 471_108_15, 7, 8
LETTER_KEYS = [b"471108.15e2", b"47110815.0", b"7.5", b"1e999", b"1" * 5_000, b"[1]"]
"""The first two are the customer's."""
IN_TOPICS = 3
PLACES = ["journal of pushes", "table", "online store"]


class World:
    def __init__(self) -> None:
        self.platform = wiring.platform()
        key = self.platform.pseudonym_key()
        self.unit, self.other = pseudonym(CUSTOMER, key), pseudonym(OTHER, key)

    def fill(self, folder: Path) -> None:
        imported = [(CUSTOMER, 0, 0, 1.0), (CUSTOMER, 1, 2, 2.0), (OTHER, 0, 0, 3.0)]
        source = PlainFiles(written(folder / "table.parquet", table(imported)))
        features.import_external(
            self.platform, NAME, "bureau", source, dry_run=False, progress=lambda _: None
        )
        self.push(T_S + 10, 4.0)
        self.platform.with_pushes(NAME)
        self.push(T_S + 20, 5.0)
        row = {"customer_id": CUSTOMER, "as_of": 1, "bureau_score": "high"}
        values = [json.dumps(row).encode(), b"{", json.dumps(row | {"customer_id": OTHER}).encode()]
        values += [b'{"customer_id": %s, "bureau_score": 1e999}' % key for key in LETTER_KEYS]
        if not self.platform.settings.kafka:
            with closing(open_topics(self.platform.settings, specs_of(TOPIC))) as topics:
                for topic in (TOPIC, letters_of(TOPIC)):
                    topics.publish([Message(topic, b"1", value) for value in values])
        record = Record(
            kind="decision", decision_id="a" * 42, model=NAME, event_ms=1, recorded_ms=2,
            unit=self.unit, payload={"request": {"customer_id": self.unit}},
        )  # fmt: skip
        self.platform.log.append("gw", [Entry(record)])

    def push(self, event_s: int, score: float) -> None:
        rows = tuple(PushedRow(key, event_s, (score, 1.0, 0.0)) for key in (self.unit, self.other))
        push = Push(NAME, "bureau", "feed", None, "digest", BUREAU.feature_names, rows)
        (added,) = self.platform.pushes.add([push], int(time.time() * 1000))  # type: ignore[misc]
        with closing(self.platform.online(NAME)) as online:
            online.put("bureau", [(row.key, event_s * 10**6, 1, row.values) for row in rows])
        self.platform.pushes.mark_served(added.number, added.arrived_ms)

    def score(self, key: int) -> float | None:
        with closing(self.platform.online(NAME)) as online:
            return online.read({"customer": key}, (T_S + 30) * 1000).values["bureau_score"]


@pytest.fixture(params=[pytest.param(False, id="embedded"), SERVERS])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    model_with_table(tmp_path / "models", TOPIC)
    with team_folder(tmp_path / "models", tmp_path / "var"), pytest.MonkeyPatch.context() as patch:
        if request.param:
            redis = request.getfixturevalue("redis")
            redis.empty()
            database = request.getfixturevalue("postgres").database()
            found = addresses.variables("MLPLATFORM_POSTGRES", database)
            found |= addresses.variables("MLPLATFORM_REDIS", redis.address)
            for name, value in found.items():
                patch.setenv(name, value)
            wiring.settings.cache_clear()
        world = World()
        world.fill(tmp_path)
        yield world


def counts(output: str) -> dict[str, int]:
    return {one["place"]: one["rows"] for one in json.loads(output)["features"]}


@pytest.mark.parametrize("how", ["unit", "entity"])
def test_every_place_is_emptied_counted_and_the_rest_is_named(world: World, how: str) -> None:
    asked = {"unit": str(world.unit), "entity": f"customer={CUSTOMER}"}[how]
    erase = ["log", "erase", f"--{how}", asked, *WHO]
    there = dict.fromkeys((f"topic {TOPIC}", f"topic {letters_of(TOPIC)}"), IN_TOPICS)
    there |= dict(zip(PLACES, (1, 3, 1), strict=True))
    preview = json.loads(command(*erase, "--dry-run", "--json"))
    assert counts(json.dumps(preview)) == there
    assert preview["records"] == 1
    assert world.score(world.unit) == 5.0
    done = command(*erase, "--json")
    assert counts(done) == there
    assert json.loads(done)["records"] == 1
    assert counts(command(*erase, "--json")) == dict.fromkeys(there, 0)
    assert (world.score(world.unit), world.score(world.other)) == (None, 5.0)
    world.platform.with_pushes(NAME)
    written = [str(world.unit).encode(), str(CUSTOMER).encode(), struct.pack("<q", world.unit)]
    for path in world.platform.settings.home.root.glob("*.db*"):
        assert not any(key in path.read_bytes() for key in written), path
    remaining = json.loads(done)["remaining"]
    assert any(f"{NAME}/bureau (ask bureau-data@bank.example)" in one for one in remaining)
    is_shared = world.platform.settings.postgres is not None
    assert any("VACUUM FULL pushes" in one for one in remaining) == is_shared
    assert any("other homes" in one for one in remaining) == is_shared
    (record,) = logged_records(world.platform.log, json.loads(done)["act"])
    assert (record["unit"], record["model"]) == (world.unit, NAME)
    assert record["payload"]["views"] == ["bureau"]
    assert record["payload"]["by"] == "Ann Lee"
    assert world.platform.log.check(None).findings == ()


def test_a_view_whose_first_row_an_import_brings_meanwhile_is_on_record(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of somebody new: none was there when the act looked, and the import is waited for."""
    importing, looked = threading.Event(), threading.Event()
    source = written(tmp_path / "new.parquet", table([(NEW, 0, 0, 9.0)]))

    def slow(_: str) -> None:
        importing.set()
        assert looked.wait(60)

    def erased(*of: Any) -> Any:
        looked.set()
        return erase_feature_rows(*of)

    monkeypatch.setattr(erasure, "erase_feature_rows", erased)
    importer = threading.Thread(
        target=features.import_external,
        args=(world.platform, NAME, "bureau", PlainFiles(source)),
        kwargs={"dry_run": False, "progress": slow},
    )
    importer.start()
    assert importing.wait(60)
    done = json.loads(command("log", "erase", "--entity", f"customer={NEW}", *WHO, "--json"))
    importer.join()
    assert {one["place"]: one["rows"] for one in done["features"] if one["rows"]} == {
        "table": 1,
        "online store": 1,
    }
    (record,) = logged_records(world.platform.log, done["act"])
    assert record["payload"]["views"] == ["bureau"]
    assert world.score(pseudonym(NEW, world.platform.pseudonym_key())) is None


def test_somebody_without_a_decision_is_known_by_the_key_alone(world: World) -> None:
    done = command("log", "erase", "--entity", f"customer={OTHER}", *WHO)
    assert "payloads erased" in done
    assert (world.score(world.unit), world.score(world.other)) == (5.0, None)
    nobody = json.loads(command("log", "erase", "--entity", "customer=9", *WHO, "--json"))
    assert {one["rows"] for one in nobody["features"]} == {0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--entity", "customer"], "NAME=KEY"),
        (["--entity", "customer=48151a"], "not a whole number; wanted: one, as customer_id of"),
        (["--entity", "shop=1"], "one of customer, terminal"),
        (["--entity", "customer=1", "--unit", "1"], "one of the three"),
        ([], "one of the three"),
    ],
)
def test_what_names_nobody_is_refused_and_no_key_is_shown(
    world: World, words: list[str], said: str
) -> None:
    done = CliRunner().invoke(commands.app, ["log", "erase", *words, *WHO], env={"COLUMNS": "300"})
    assert done.exit_code == 2
    assert said in done.output
    assert "48151" not in done.output


def test_kafka_and_what_no_model_declares_are_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = world.platform.settings.home.offline("gone") / "external" / "master"
    old = world.platform.settings.home.offline(NAME) / "external" / "master"
    for folder in (gone, old):
        folder.mkdir(parents=True)
    monkeypatch.setenv("MLPLATFORM_KAFKA", "localhost:1")
    wiring.settings.cache_clear()
    erase = ["log", "erase", "--entity", f"customer={CUSTOMER}", *WHO, "--json"]
    done = CliRunner().invoke(commands.app, erase)
    assert done.exit_code == 1
    assert [one["place"] for one in json.loads(done.stdout)["features"]] == PLACES
    said: Any = "\n".join(json.loads(done.stdout)["remaining"])
    assert f"Kafka, topics {TOPIC} and {letters_of(TOPIC)}" in said
    assert f"{old}: rows of a view that {NAME} does not declare" in said
    assert f"{gone.parent.parent}: of a model that has no folder" in said
