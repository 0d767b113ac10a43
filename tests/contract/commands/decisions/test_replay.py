"""`mlplatform replay`: two bundles on logged payments whose outcomes are known by construction."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from mlplatform.commands import app
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.routes import Arm
from mlplatform.operations import wiring
from mlplatform.operations.whatif import logged_requests
from mlplatform.operations.whatif import replay as whatif
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid
from mlplatform.runtime.units import DAY_MS
from support.scoring_world import MODEL, write_amount_bundle

NOW_MS = 20_000 * DAY_MS
PAYMENTS = 900
FEATURES = {name: 1.0 for view in load_views(model_folder(MODEL)) for name in view.feature_names}
AMOUNTS = np.random.default_rng(7).uniform(0, 1000, PAYMENTS).round(2)
DECISIONS = np.where(AMOUNTS >= 900, "decline", np.where(AMOUNTS >= 500, "review", "approve"))
EVENT_MS = NOW_MS - 6 * DAY_MS + np.arange(PAYMENTS) * (6 * DAY_MS // PAYMENTS)
FRAUDS = range(0, PAYMENTS // 2, 15)
STALE, VOID = 3, 4
AMOUNT_CODE = yaml.safe_load((model_folder(MODEL) / "reasons.yaml").read_text())["amount"]["code"]


def _record(number: int) -> Record:
    amount = float(AMOUNTS[number])
    stale = number == STALE
    return Record(
        kind="decision",
        decision_id=f"d{number:05d}",
        model=MODEL,
        event_ms=int(EVENT_MS[number]),
        recorded_ms=int(EVENT_MS[number]),
        arm="champion",
        answered_by="champion",
        unit=number % 97,
        version=1,
        bundle="0" * 64,
        score=amount / 1000,
        decision=str(DECISIONS[number]),
        degraded=stale,
        degraded_reason="features" if stale else None,
        payload={"request": {"amount": amount, "customer_id": 1}, "features": FEATURES},
    )


def _about(number: int, kind: Any, **fields: Any) -> Record:
    event_ms = int(EVENT_MS[number]) + 1000
    return Record(
        kind=kind,
        decision_id=f"d{number:05d}",
        model=MODEL,
        event_ms=event_ms,
        recorded_ms=event_ms,
        **fields,
    )


def _bundle(folder: Path, offset: float) -> str:
    """A bundle in a folder that is named by its digest, which is given back."""
    digest = write_amount_bundle(folder / "draft", offset)
    (folder / "draft").rename(folder / digest)
    return digest


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[wiring.Platform]:
    home = tmp_path_factory.mktemp("home")
    log = SqliteDecisionLog(home / "decisions")
    arms = {
        version: Arm(version, digest, digest)
        for version, offset in ((1, 0.0), (2, 0.1))
        for digest in [_bundle(home / "bundles", offset)]
    }
    entries = [Entry(_record(number)) for number in range(PAYMENTS)]
    entries += [Entry(_about(number, "label", label=1)) for number in FRAUDS]
    entries.append(Entry(_about(VOID, "void")))
    log.append("gateway-0", entries)
    found = SimpleNamespace(
        log=log,
        definition=load_definition,
        views=lambda model: load_views(model_folder(model)),
        clock=SimpleNamespace(event_ms=lambda: NOW_MS),
        registry=SimpleNamespace(
            get=lambda model, version: SimpleNamespace(version=version, digest=arms[version].bundle)
        ),
        rollouts=SimpleNamespace(routes=lambda model: SimpleNamespace(champion=arms[1])),
        settings=SimpleNamespace(
            postgres=None, home=SimpleNamespace(rollouts_db=home / "rollouts.db")
        ),
        bundle=lambda model, arm: home / "bundles" / arm.bundle,
    )
    with closing(log):
        yield cast(wiring.Platform, found)


def _replay(platform: wiring.Platform, candidate: whatif.Side, days: int = 7) -> whatif.Replay:
    reference = whatif.side_of_version(platform, MODEL, None)
    with closing(reference.model), closing(candidate.model):
        return whatif.replay(platform, MODEL, reference, candidate, days=days)


def _counted() -> np.ndarray:
    kept = np.ones(PAYMENTS, dtype=bool)
    kept[[STALE, VOID]] = False
    return kept


@pytest.fixture(scope="module")
def found(platform: wiring.Platform) -> whatif.Replay:
    """Version 2 beside version 1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logged_requests, "PAGE", 3)  # pages end within an hour too
        return _replay(platform, whatif.side_of_version(platform, MODEL, 2))


def test_every_number_is_that_of_the_payments(found: whatif.Replay) -> None:
    kept, seen = _counted(), found.what_if
    own, other = DECISIONS[kept] != "approve", AMOUNTS[kept] >= 400
    assert (seen.requests, found.left_out) == (PAYMENTS - 2, 1)
    assert (found.served, found.alike) == (PAYMENTS - 2, PAYMENTS - 2)
    assert seen.reference_alerts.count == own.sum()
    assert seen.candidate_alerts.count == other.sum()
    assert seen.both_alerts == (own & other).sum()
    assert seen.decisions["approve"]["review"] == (~own & other).sum()
    assert (
        seen.decisions["review"]["decline"]
        == ((AMOUNTS[kept] >= 800) & (AMOUNTS[kept] < 900)).sum()
    )
    assert seen.flips.count == (~own & other).sum() + seen.decisions["review"]["decline"]
    low, high = seen.flips.low, seen.flips.high
    assert low is not None
    assert high is not None
    assert low < seen.flips.share < high
    by_amount = [s for s in seen.segments if s.input == "amount"]
    assert sum(s.requests for s in by_amount) == seen.requests
    assert [(s.above, s.upto) for s in by_amount] == [(1.0, None)], "none is as small as 1"
    assert sum(s.flips for s in by_amount) == seen.flips.count


def test_outcomes_are_known_where_labels_are_and_hidden_where_declined(
    found: whatif.Replay,
) -> None:
    known = found.what_if.known
    assert known is not None
    kept, fraud = _counted(), np.isin(np.arange(PAYMENTS), FRAUDS)
    declined = (DECISIONS == "decline") & ~fraud & kept
    young = (EVENT_MS >= NOW_MS - 3 * DAY_MS) & ~fraud & ~declined & kept
    assert known.positives == (fraud & kept).sum()
    assert (known.hidden, known.immature) == (declined.sum(), young.sum())
    assert known.requests == (kept & ~declined & ~young).sum()
    assert known.reference.caught == (fraud & kept & (DECISIONS != "approve")).sum()
    assert known.candidate.caught == (fraud & kept & (AMOUNTS >= 400)).sum()
    assert known.low is not None
    assert known.high is not None
    assert known.low < 0 < known.high, "both rank alike, but for ties at a score of 1"


def test_a_threshold_alone_is_another_bundle(platform: wiring.Platform) -> None:
    champion = whatif.side_of_version(platform, MODEL, None)
    found = _replay(platform, whatif.with_thresholds(champion, {"review": 0.8}))
    kept = _counted()
    assert found.what_if.candidate_alerts.count == (AMOUNTS[kept] >= 800).sum()
    assert "review from 0.8" in found.candidate
    assert found.added is None
    dropped = found.dropped
    assert dropped is not None
    assert dropped.requests == whatif.EXPLAINED < found.what_if.reference_alerts.count
    assert dropped.first == {AMOUNT_CODE: dropped.requests}
    with (
        closing(champion.model),
        pytest.raises(ConfigInvalid, match=r"is 'review=0\.95'.*review 0\.95, "),
    ):
        whatif.with_thresholds(champion, {"review": 0.95})


def test_a_folder_from_anywhere_is_checked_and_confined(
    platform: wiring.Platform, tmp_path: Path
) -> None:
    folder = tmp_path / _bundle(tmp_path, 0.1)
    found = _replay(platform, whatif.side_of_folder(folder))
    assert found.what_if.candidate_alerts.count == (AMOUNTS[_counted()] >= 400).sum()
    assert found.added is None
    (folder / "model.onnx").write_bytes(b"something else")
    with pytest.raises(Exception, match=r"model\.onnx"):
        whatif.side_of_folder(folder)


@pytest.mark.parametrize("name", ["bundle.json", "model.onnx", "weights.bin"])
def test_a_folder_from_outside_has_plain_files_of_bounded_size(name: str, tmp_path: Path) -> None:
    folder = tmp_path / _bundle(tmp_path, 0.1)
    file = folder / name
    file.unlink(missing_ok=True)
    os.mkfifo(file)  # whoever opened it to read would wait for ever
    with pytest.raises(InputInvalid, match="not a plain file"):
        whatif.side_of_folder(folder)
    file.unlink()
    file.touch()
    os.truncate(file, 1 << 40)
    if name == "weights.bin":  # of a size that memory bounds, and never read: no bundle names it
        whatif.side_of_folder(folder)
        return
    with pytest.raises(InputInvalid, match="wanted: 1 to"):
        whatif.side_of_folder(folder)


def test_nothing_to_replay_is_an_error_and_not_a_zero(platform: wiring.Platform) -> None:
    later = SimpleNamespace(**vars(platform))
    later.clock = SimpleNamespace(event_ms=lambda: NOW_MS + 90 * DAY_MS)
    candidate = whatif.side_of_version(platform, MODEL, 2)
    with pytest.raises(InputInvalid, match="no request in the last 1 days"):
        _replay(cast(wiring.Platform, later), candidate, days=1)


def test_the_command_says_it_all_and_its_json_is_the_replay(
    platform: wiring.Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "existing_platform", lambda: platform)
    runner = CliRunner()
    said = runner.invoke(app, ["replay", MODEL, "--version", "2"])
    assert said.exit_code == 0, said.output
    assert "version 2 beside version 1" in said.output
    assert "decided otherwise" in said.output
    found = runner.invoke(app, ["replay", MODEL, "--from", "review=0.8", "--json"])
    again = msgspec.json.decode(found.stdout.encode(), type=whatif.Replay)
    assert again.what_if.requests == PAYMENTS - 2
    refused = runner.invoke(app, ["replay", MODEL])
    assert isinstance(refused.exception, ConfigInvalid)


def test_two_versions_are_compared_by_number_alone(
    platform: wiring.Platform, found: whatif.Replay
) -> None:
    again = whatif.replay_versions(platform, MODEL, 2, against=None, begins={}, days=7)
    assert again.what_if == found.what_if
    stricter = whatif.replay_versions(platform, MODEL, 1, against=1, begins={"review": 0.4}, days=7)
    assert stricter.candidate == "version 1, review from 0.4, decline from 0.9"
    with pytest.raises(ConfigInvalid, match="version is 1; wanted: a version other than"):
        whatif.replay_versions(platform, MODEL, 1, against=None, begins={}, days=7)
