"""A table of the bank from features.py to Feast's SDK: declared, imported by a command, read."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.support import feast_sdk
from tests.support.external_world import BUREAU, NAME, T_S, model_with_table, table, written
from tests.support.team_folder import command, team_folder
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.learning.features import feast_repo
from mlplatform.learning.features.external.point_in_time_join import NEVER_MS, newest_ms
from mlplatform.learning.features.feast_redis import FeastRedis
from mlplatform.learning.training_sets.dataset import input_plan
from mlplatform.learning.training_sets.join import training_join
from mlplatform.model.features.views import check_purposes, load_views
from mlplatform.model.folders import model_folder
from mlplatform.operations import wiring
from mlplatform.operations.actions.features import (
    external_columns,
    import_history,
    materialize,
)
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.units import DAY_S
from models.fraud.generator import Population, generate

pytestmark = pytest.mark.slow
COUNT = 2_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("external")
    model_with_table(root / "models")
    with team_folder(root / "models", root / "home"):
        yield root


def rows(seed: int) -> pa.Table:
    draw = random.Random(seed)
    found = [
        (key, draw.randrange(5 * DAY_S), 6 * DAY_S, draw.choice([None, 0.0, draw.gauss(0, 1e3)]))
        for key in range(COUNT)
    ]
    return table(found)  # type: ignore[arg-type]


def test_what_features_py_declares_is_what_is_rendered(home: Path) -> None:
    (bureau,) = [view for view in feast_repo.views(NAME) if view.name == "bureau"]
    assert bureau == BUREAU
    assert json.loads(feast_repo.render(NAME)) == {
        **json.loads((model_folder(NAME) / "features.json").read_text()),
        "generated": json.loads(feast_repo.render(NAME))["generated"],
    }
    assert "external" not in json.loads(feast_repo.render(NAME))["views"][0]


def test_a_purpose_that_the_owner_does_not_allow_is_refused() -> None:
    check_purposes([BUREAU], ["fraud-prevention"])
    for purposes, problem in ((["marketing"], "bureau: purpose is 'marketing'"), ([], "PURPOSES")):
        with pytest.raises(ConfigInvalid, match=problem):
            check_purposes([BUREAU], purposes)


def test_a_command_takes_a_table_in_and_feasts_sdk_reads_it(home: Path) -> None:
    path = written(home / "bureau.parquet", rows(1).append_column("more", [[1] * COUNT]))
    dry = json.loads(
        command("features", "import", NAME, "bureau", str(path), "--dry-run", "--json")
    )
    assert (dry["new"], dry["dry run"], dry["not read"]) == (COUNT, True, ["more"])
    done = json.loads(command("features", "import", NAME, "bureau", str(path), "--json"))
    assert (done["rows"], done["new"], done["entities served"]) == (COUNT, COUNT, COUNT)
    again = json.loads(command("features", "import", NAME, "bureau", str(path), "--json"))
    assert (again["new"], again["entities served"]) == (0, 0)
    assert "known_at" in command("features", "schema", NAME, "bureau")
    platform = wiring.platform()
    store = feast_sdk.store(platform.settings.home.root, NAME, _sqlite(platform))
    assert mismatches(store, platform.online(NAME), platform.pseudonym_key(), rows(1)) == []


def test_a_refusal_says_file_row_and_value_and_ends_with_two(home: Path) -> None:
    bad = written(home / "bad.parquet", table([(1, 0, 0, 1.0), (2, 5, 0, 1.0)]))
    words = ["features", "import", NAME, "bureau", str(bad)]
    done = CliRunner().invoke(commands.app, words)
    assert "bad.parquet" in str(done.exception)
    assert "row 1" in str(done.exception)
    unknown = CliRunner().invoke(commands.app, [*words[:3], "customer_stats", str(bad)])
    assert "there are: bureau" in str(unknown.exception)


@pytest.mark.redis
def test_feasts_sdk_reads_the_same_values_of_a_server(home: Path, redis: Any) -> None:
    redis.empty()
    (home / "redis" / "feast").mkdir(parents=True)
    address = redis.address
    views = load_views(model_folder(NAME))
    project = NAME.replace("-", "_")
    where = f"{address.host}:{address.port},password={address.password() or ''}"
    online = {"type": "redis", "redis_type": "redis", "connection_string": where}
    store = feast_sdk.store(home / "redis", NAME, online)
    with closing(FeastRedis(address, project, views, answer_s=10)) as ours:
        key = wiring.platform().pseudonym_key()
        checked = external_columns(wiring.platform(), NAME, "bureau")
        (batch,) = rows(2).combine_chunks().to_batches()
        stored = pa.Table.from_batches([checked.stored(batch, "", range(COUNT))])
        assert ours.write("bureau", stored) == COUNT
        assert mismatches(store, ours, key, rows(2)) == []


def _sqlite(platform: wiring.Platform) -> dict[str, str]:
    return {"type": "sqlite", "path": str(platform.settings.home.online_db)}


def mismatches(store: Any, ours: Any, key: bytes, given: pa.Table) -> list[Any]:
    """Cells that Feast's SDK or our reader gives otherwise than the bank's table."""
    names = BUREAU.feature_names
    keys = [pseudonym(customer, key) for customer in given.column("customer_id").to_pylist()]
    answer: dict[str, list[Any]] = {name: [] for name in names}
    for first in range(0, len(keys), 1_000):
        part = store.get_online_features(
            features=[f"bureau:{name}" for name in names],
            entity_rows=[{"customer_id": key} for key in keys[first : first + 1_000]],
        ).to_dict()
        for name in names:
            answer[name] += part[name]
    found = []
    for place, row in enumerate(given.to_pylist()):
        read = ours.read({"customer": keys[place]}, (T_S + 8 * DAY_S) * 1000).values
        for name in names:
            sdk = answer[name][place]
            number = None if row[name] is None else float(row[name])
            if sdk != row[name] or type(sdk) is not type(row[name]) or read[name] != number:
                found.append((name, place, row[name], sdk, read[name]))
    return found


def test_feasts_registry_has_the_table_and_its_owner(home: Path) -> None:
    folder = json.loads(command("models", "feast", NAME, "--json"))["folder"]
    code = f"""
import feast
from mlplatform.learning.features.feast_repo import feast_objects
store = feast.FeatureStore(repo_path={folder!r})
(wanted,) = [o for o in feast_objects({NAME!r}) if getattr(o, "name", "") == "bureau"]
found = store.get_feature_view("bureau")
assert [(f.name, f.dtype, f.tags) for f in found.features] == [
    (f.name, f.dtype, f.tags) for f in wanted.features], found.features
assert (found.ttl, found.entities, found.owner) == (wanted.ttl, wanted.entities, wanted.owner)
assert found.tags == wanted.tags, found.tags
"""
    kept = {name: value for name, value in os.environ.items() if "PROMETHEUS" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=kept, check=False
    )
    assert done.returncode == 0, done.stderr


def test_training_and_batches_read_the_table_beside_snapshots(home: Path) -> None:
    platform = wiring.platform()
    start_ms = T_S * 1000
    population = Population(customers=20, payments_per_day=30)
    history = generate(seed=1, start_ms=start_ms, days=3, population=population)
    import_history(platform, NAME, history, "march")
    customers = sorted(set(history.column("customer_id").to_pylist()))
    known = table([(key, 0, DAY_S, float(key)) for key in customers[1:]])
    command("features", "import", NAME, "bureau", str(written(home / "few.parquet", known)))
    definition, views = platform.definition(NAME), platform.views(NAME)
    offline = platform.offline(NAME)
    asked = offline.requests(start_ms, start_ms + 3 * DAY_S * 1000).to_arrow_table()
    joined = training_join(offline, views, asked)
    assert joined.num_rows == asked.num_rows == history.num_rows
    score = {pseudonym(key, platform.pseudonym_key()): float(key) for key in customers[1:]}
    for row in joined.select(["customer_id", "event_time", "bureau_score"]).to_pylist():
        is_known = row["event_time"].timestamp() >= T_S + DAY_S
        expected = score.get(row["customer_id"]) if is_known else None
        assert row["bureau_score"] == expected
    plan = input_plan(definition, views)
    x = plan.matrix(joined)[:, plan.names.index("bureau_score")]
    assert (x[joined.column("bureau_score").is_null().to_numpy()] == 500.0).all()  # the default
    found = newest_ms(offline.external("bureau"), np.array([start_ms, start_ms + 2 * DAY_S * 1000]))
    assert found.tolist() == [NEVER_MS, start_ms]


def test_a_lost_online_store_has_the_table_again_after_the_daily_run(home: Path) -> None:
    platform = wiring.platform()
    path = written(home / "last.parquet", table([(7, 5 * DAY_S, 6 * DAY_S, 7.0)]))
    command("features", "import", NAME, "bureau", str(path))
    for file in platform.settings.home.online_db.parent.glob("online.db*"):
        file.unlink()
    parts = len(platform.offline(NAME).external("bureau").served_parts())
    assert materialize(platform, NAME)["bureau"] == parts
    key = pseudonym(7, platform.pseudonym_key())
    read = platform.online(NAME).read({"customer": key}, (T_S + 7 * DAY_S) * 1000)
    assert read.values["bureau_score"] == 7.0
    assert "bureau" not in materialize(platform, NAME)
