"""A rendered folder is a repository to Feast's own command line, over what gateways read."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.learning.features.feast_folder.folder import ONLINE_LINK, STORE_FILE, store_text
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import model_folder
from mlplatform.operations import wiring
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.storage.addresses import redis
from support.ports import free_port
from support.scoring_world import wait_for

pytestmark = pytest.mark.slow

VIEWS = load_views(model_folder("fraud"))
FEAST = Path(sys.executable).with_name("feast")
CUSTOMER = 7
NAMES = VIEWS[0].feature_names


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a home whose online store has one customer's row."""
    patch = pytest.MonkeyPatch()
    home = tmp_path_factory.mktemp("home")
    patch.setenv("MLPLATFORM_HOME", str(home))
    Home(home).create()
    wiring.settings.cache_clear()
    wiring.platform.cache_clear()
    store = FeastSqlite(home / "online.db", "fraud", VIEWS)
    now = datetime.now(UTC).replace(tzinfo=None)
    row = {"customer_id": [CUSTOMER], "event_timestamp": [now], "created": [now]}
    row |= {name: [float(place)] for place, name in enumerate(NAMES)}
    store.write(VIEWS[0].name, pa.table(row))
    done = CliRunner().invoke(commands.app, ["models", "feast", "fraud", "--json"])
    assert done.exit_code == 0, done.output
    yield Path(json.loads(done.output)["folder"])
    patch.undo()
    wiring.settings.cache_clear()
    wiring.platform.cache_clear()


def feast(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [FEAST, "-c", folder, *words], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment() -> dict[str, str]:
    """Feast makes a folder for Prometheus's files where none is named."""
    return {name: value for name, value in os.environ.items() if "PROMETHEUS" not in name}


def test_feast_lists_views_and_entities(folder):
    listed = feast(folder, "feature-views", "list")
    assert all(re.search(rf"^{v.name}\s+.*{v.entity}", listed, re.M) for v in VIEWS), listed
    entities = feast(folder, "entities", "list")
    assert all(re.search(rf"^{v.entity}\s.*INT64", entities, re.M) for v in VIEWS), entities


def test_the_registry_is_what_feast_makes_of_the_definitions_and_reads_what_gateways_read(folder):
    """Every field of a view that Feast compares, and a row by its SDK."""
    code = f"""
import json, feast
from mlplatform.learning.features.feast_repo import feast_objects
store = feast.FeatureStore(repo_path={str(folder)!r})
for wanted in feast_objects("fraud"):
    if isinstance(wanted, feast.FeatureView):
        found = store.get_feature_view(wanted.name)
        assert [(f.name, f.dtype, f.tags) for f in found.features] == [
            (f.name, f.dtype, f.tags) for f in wanted.features], (found, wanted)
        assert (found.ttl, found.entities, found.tags) == (
            wanted.ttl, wanted.entities, wanted.tags)
        assert [c.name for c in found.entity_columns] == [
            e.join_key for e in feast_objects("fraud")
            if isinstance(e, feast.Entity) and e.name in found.entities]
        assert found.batch_source.timestamp_field == wanted.batch_source.timestamp_field
        assert found.batch_source.path.endswith(wanted.batch_source.path)
    elif isinstance(wanted, feast.Entity):
        found = store.get_entity(wanted.name)
        assert (found.join_key, found.value_type) == (wanted.join_key, wanted.value_type)
names = [f"{VIEWS[0].name}:" + n for n in {list(NAMES)!r}]
row = store.get_online_features(features=names, entity_rows=[dict(customer_id={CUSTOMER})])
print(json.dumps(row.to_dict()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert {name: row[name] for name in NAMES} == {n: [float(i)] for i, n in enumerate(NAMES)}


def test_neither_apply_nor_teardown_takes_away_what_gateways_read(folder):
    """Feast's own commands that drop what is not in a repository's Python files, of which there
    are none here."""
    home = folder.parents[1]
    try:
        for words in (("apply",), ("teardown",)):
            subprocess.run(
                [FEAST, "-c", folder, *words], capture_output=True, env=environment(), input=b"y\n"
            )
            read = FeastSqlite(home / "online.db", "fraud", VIEWS).read(
                {"customer": CUSTOMER}, int(datetime.now(UTC).timestamp() * 1000)
            )
            assert read.values[NAMES[1]] == 1.0, words
    finally:
        done = CliRunner().invoke(commands.app, ["models", "feast", "fraud"])
        assert done.exit_code == 0, done.output


def test_feasts_pages_start_and_know_the_project(folder):
    port = free_port()
    words = [FEAST, "-c", folder, "ui", "--host", "127.0.0.1", "--port", str(port)]
    pages = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    )
    try:
        listed = wait_for(lambda: _page(f"http://127.0.0.1:{port}/projects-list.json"), 90)
        assert [p["id"] for p in listed.json()["projects"] if p["id"] != "all"] == ["fraud"]
        assert "<html" in _page(f"http://127.0.0.1:{port}/").text
    finally:
        pages.terminate()
        pages.wait(30)


def _page(url: str) -> httpx.Response | None:
    try:
        answered = httpx.get(url, timeout=10)
    except httpx.HTTPError:
        return None
    return answered if answered.is_success else None


def test_a_folder_of_somebody_elses_is_left_alone(folder, tmp_path):
    (tmp_path / STORE_FILE).write_text("project: theirs\n")
    done = CliRunner().invoke(commands.app, ["models", "feast", "fraud", "--into", str(tmp_path)])
    assert done.exit_code != 0
    assert [p.name for p in tmp_path.iterdir()] == [STORE_FILE]
    assert (tmp_path / STORE_FILE).read_text() == "project: theirs\n"
    assert (folder / ONLINE_LINK).is_symlink()


def test_a_servers_password_is_named_and_not_written(tmp_path):
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    variables = {
        "R": "rediss://reader@cache.bank:6380/2?ssl_ca_certs=/etc/ca.pem",
        "R_PASSWORD_FILE": str(secret),
    }
    text = store_text("fraud", redis("R", variables))
    wanted = (
        "cache.bank:6380,db=2,username=reader,password=${FEAST_REDIS_PASSWORD},ssl=true,"
        "ssl_ca_certs=/etc/ca.pem"
    )
    assert wanted in text
    assert "s3cret" not in text
