"""k6 against real gateways: each script counts what happened, and its thresholds are slo.yaml's."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.load import k6, profiles, runs
from tests.load.objectives import SURFACES, Surface
from tests.load.report import Report, Status, lines

from mlplatform.decisions.records.tables import DATABASE
from mlplatform.model.folders import load_definition
from mlplatform.observing.slo import objectives as slo
from support.scoring_world import MODEL, ScoringWorld

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get(k6.REQUIRED) != "required",
        reason="k6 is built from its Go module: make test-load",
    ),
]
RATE_PER_S, SECONDS, ITEMS = 20.0, 5.0, 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringWorld]:
    world = ScoringWorld(tmp_path_factory.mktemp("load"))
    try:
        world.promote(world.deploy(1))
        world.start_gateway()
        world.start_worker()
        yield world
    finally:
        world.close()


def loaded(world: ScoringWorld, surface: Surface, key: str | None = None) -> Report:
    key_file = world.home.api_key
    if key is not None:
        key_file = world.home.root / "other.key"
        key_file.write_text(key)
    load = runs.Load(
        surface=surface,
        urls=(world.url,),
        key_file=key_file,
        stages=profiles.stages("steady", rate_per_s=RATE_PER_S, seconds=SECONDS),
        warm_up_s=1.0,
        items=ITEMS if surface == "batch" else 1,
        wait_s=15.0,
        held_s=2.0,
    )
    return runs.run(load, load_definition(MODEL), slo.load(slo.SHIPPED), k6.build())


def kept_keys(world: ScoringWorld) -> int:
    with contextlib.closing(sqlite3.connect(world.home.decisions / DATABASE)) as db:
        count = "SELECT count(*) FROM (SELECT key FROM kept_keys UNION SELECT key FROM recent_keys)"
        return int(db.execute(count).fetchone()[0])


@pytest.mark.parametrize("surface", SURFACES)
def test_every_due_request_is_counted_and_recorded(world: ScoringWorld, surface: Surface) -> None:
    before, keys_before = len(world.records("decision")), kept_keys(world)
    found = loaded(world, surface)
    items = ITEMS if surface == "batch" else 1
    sent = round(RATE_PER_S * (SECONDS + 1.0))
    assert found.requests + found.dropped == pytest.approx(RATE_PER_S * SECONDS, abs=2)
    assert found.lost == 0
    recorded = len(world.records("decision")) - before
    assert kept_keys(world) - keys_before >= recorded  # each with a key of its own, as clients send
    assert found.latency_ms["med"] >= found.duration_ms["med"]
    counted = {outcome.name: outcome for outcome in found.outcomes}
    taken = counted["availability"].good  # a busy machine's gateway may refuse some, as late
    assert taken > 0
    if surface == "async":
        answered = counted["answered"]
        assert answered.good + answered.bad == taken
        assert answered.good <= recorded <= sent + 2
        assert found.answered_ms is not None
    else:
        for name in ("latency", "deadline", "freshness"):
            assert counted[name].good + counted[name].bad == found.decisions
        assert taken * items <= found.decisions <= found.requests * items
        assert found.decisions <= recorded <= (sent + 2) * items


def test_a_key_that_is_refused_fails_the_test_and_is_in_no_report(world: ScoringWorld) -> None:
    secret = "mlp_wrong_secret_of_nobody"
    found = loaded(world, "score", key=secret)
    shares = {outcome.name: outcome.share for outcome in found.outcomes}
    assert (shares["accepted"], shares["latency"]) == (0.0, None)
    assert found.status is not Status.MET
    assert secret.encode() not in msgspec.json.encode(found)


def test_a_predictor_that_stands_still_shows_as_degraded_decisions(world: ScoringWorld) -> None:
    champion = next(iter(world.predictors.values())).arm
    with world.frozen_predictor(champion):
        found = loaded(world, "score")
    assert 0 < found.degraded <= found.decisions
    assert "degraded)" in lines(found)[0]


def test_the_command_says_what_it_found_and_ends_by_the_objectives(
    world: ScoringWorld, tmp_path: Path
) -> None:
    """A key that nobody made: every request is refused, and the command's status says so."""
    report, key_file = tmp_path / "report.json", tmp_path / "other.key"
    key_file.write_text("mlp_wrong_secret_of_nobody")
    command = ["score", "--url", world.url, "--rate", "10", "--seconds", "3", "--warm-up-s", "0"]
    command += ["--key-file", str(key_file), "--json", str(report)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.load", *command],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode in (Status.MISSED, Status.GENERATOR_BEHIND), done.stderr
    assert "objective" in done.stdout
    assert "mlp_wrong" not in done.stdout + done.stderr + report.read_text()
    document = msgspec.json.decode(report.read_bytes())
    assert document["status"] == Status(done.returncode).name.lower()
    met = {outcome["name"]: outcome["met"] for outcome in document["outcomes"]}
    assert (met["availability"], met["accepted"], met["latency"]) == (True, False, False)
