"""What flow runs leave in Prefect: links to the right pages, and tables of what happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flows.plan
import flows.promote
import flows.replay
import pytest
from prefect.artifacts import Artifact

from mlplatform.operations import wiring
from mlplatform.operations.actions import rollouts
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server import artifacts
from mlplatform.operations.whatif.decided_pages import Speed
from mlplatform.operations.whatif.replay import Replay
from mlplatform.rollouts.whatif.report import Segment, Share, WhatIf
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.errors import PlanRefused

SETTINGS = Settings(Home(Path("home")), "replay", 1, prefect_port=2, mlflow_port=3, page_port=4)
PAGE, MLFLOW = "http://127.0.0.1:4", "http://127.0.0.1:3"


@dataclass
class RunArtifacts:
    """The artifacts of a run, by key."""

    links: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> RunArtifacts:
    found = RunArtifacts()

    def link(address: str, *, link_text: str, key: str, description: str) -> None:
        assert link_text
        assert description
        found.links[key] = address

    def table(rows: list[dict[str, str]], *, key: str, description: str) -> None:
        assert description
        found.tables[key] = rows

    def page(text: str, *, key: str, description: str) -> None:
        assert description
        found.pages[key] = text

    monkeypatch.setattr(artifacts, "create_link_artifact", link)
    monkeypatch.setattr(artifacts, "create_table_artifact", table)
    monkeypatch.setattr(artifacts, "create_markdown_artifact", page)
    monkeypatch.setattr(wiring, "platform", lambda: SimpleNamespace(settings=SETTINGS))
    return found


@pytest.fixture
def replayed() -> Replay:
    """50 of 1,000 requests come out otherwise, all of them in one segment."""
    decisions = {"grant": {"grant": 940, "refuse": 30}, "refuse": {"grant": 20, "refuse": 10}}
    segment = Segment("amount", None, 50.0, 100, 50)
    share = Share(50, 0.05, 0.03, 0.07)
    found = WhatIf(1000, 700, 0, 1, share, (segment,), decisions=decisions)
    speed = Speed(0.2, 0.5, 100_000.0)
    sides = ("version 1", "version 2")
    return Replay("fraud", *sides, 3, 0, 900, 890, found, speed, speed, ())


def check_keys(kept: RunArtifacts) -> None:
    """Prefect's server takes each key."""
    for key in (*kept.links, *kept.tables, *kept.pages):
        assert Artifact(key=key, type="link", data="").key == key
        assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_a_promotion_leads_to_its_rollout_its_version_and_mlflow(
    kept: RunArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "open_rollout", lambda *_, **__: "fraud-v3-1")
    monkeypatch.setattr(rollouts, "rollout_pass", lambda *_: {})
    monkeypatch.setattr(rollouts, "facts", lambda *_: [("rollout", "fraud-v3-1")])
    state = flows.promote.promote.fn("fraud", 3, "ana", "new terminals")
    assert "fraud-v3-1" in str(state.message)
    assert kept.links == {
        "rollout-fraud": f"{PAGE}/rollouts/fraud-v3-1",
        "card-fraud": f"{PAGE}/models/fraud/versions/3",
        "mlflow-fraud": f"{MLFLOW}/#/models/fraud/versions/3",
    }
    assert kept.tables == {"opened-fraud": [{"what": "rollout", "is": "fraud-v3-1"}]}
    check_keys(kept)


def test_a_promotion_that_is_refused_leaves_nothing(
    kept: RunArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise PlanRefused("too little traffic")

    monkeypatch.setattr(rollouts, "open_rollout", refuse)
    with pytest.raises(PlanRefused):
        flows.promote.promote.fn("fraud", 3, "ana", "new terminals")
    assert kept == RunArtifacts()


def test_an_incident_is_one_link_away_and_a_steady_model_too() -> None:
    (one, two) = artifacts.incident_links(SETTINGS, "fraud", ["fraud-1", "fraud-2"])
    assert [one.address, two.address] == [f"{PAGE}/incidents/fraud-{n}" for n in (1, 2)]
    assert one.key != two.key
    (steady,) = artifacts.incident_links(SETTINGS, "fraud", [])
    assert steady.address == f"{PAGE}/models/fraud"


def test_gates_are_a_page_and_a_table_with_what_stopped_the_candidate_first(
    kept: RunArtifacts,
) -> None:
    def gate(name: str, verdict: str, observed: float | None) -> dict[str, Any]:
        return {
            **{"name": name, "verdict": verdict, "observed": observed, "limit": 0.5},
            **{"interval": None, "reason": "as it was"},
        }

    gates = [gate("quality", "passed", 0.75), gate("own|gate", "failed", None)]
    report: Any = {
        **{"model": "fraud", "bundle": "0" * 64, "champion": None, "passed": False},
        "gates": gates,
    }
    artifacts.keep_gates("fraud", report)
    first, second = kept.tables["gate-table-fraud"]
    assert list(first.values()) == ["own|gate", "failed", "", "0.5", "as it was"]
    assert list(second.values()) == ["ranking of positives", "passed", "0.75", "0.5", "as it was"]
    assert "did not pass" in kept.pages["gates-fraud"]
    check_keys(kept)


def test_a_plan_without_enough_traffic_says_so(
    kept: RunArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "fraud had no traffic in 7 days"
    monkeypatch.setattr(flows.plan, "make", lambda *_: missing)
    state = flows.plan.plan.fn("fraud")
    assert state.message == missing
    assert missing in kept.pages["plan-fraud"]
    assert kept.tables == {}
    check_keys(kept)


def test_a_replay_is_a_page_and_tables_beside_the_version(
    kept: RunArtifacts, monkeypatch: pytest.MonkeyPatch, replayed: Replay
) -> None:
    monkeypatch.setattr(flows.replay, "decide", lambda *_: replayed)
    state = flows.replay.replay.fn("fraud", 2)
    assert state.message == (
        "version 2 beside version 1: 50 of 1,000 requests are moved by more than the tolerance"
    )
    assert kept.pages["replay-fraud"].startswith("## version 2 beside version 1")
    assert kept.links["card-fraud"] == f"{PAGE}/models/fraud/versions/2"
    matrix, segments = kept.tables["replay-1-fraud"], kept.tables["replay-2-fraud"]
    assert [row["refuse"] for row in matrix] == ["30", "10"]
    assert segments[0]["most changed"] == "amount up to 50"
    check_keys(kept)


def test_a_model_with_an_underscore_has_artifacts_and_a_question(kept: RunArtifacts) -> None:
    model = "loan_book"
    artifacts.keep_links(artifacts.rollout_links(SETTINGS, model, 3, f"{model}-v3-1"))
    artifacts.keep_links(artifacts.incident_links(SETTINGS, model, [f"{model}-drift-1"]))
    artifacts.keep_page(f"batch-{model}", "text", about="what it says")
    artifacts.keep_table(f"windows-{model}", ("day",), [("1",)], about="what they are")
    artifacts.keep_page(names.evidence_key(f"{model}-v3-1", "0" * 64), "text", about="evidence")
    check_keys(kept)
    assert kept.links["rollout-loan-book"] == f"{PAGE}/rollouts/loan_book-v3-1"
    assert set(kept.pages) == {"batch-loan-book", "evidence-loan-book-v3-1-00000000"}


def test_flows_keep_artifacts_in_one_place() -> None:
    """There keys are made for Prefect's server, which refuses a model's `_`."""
    found = {
        path.name for path in Path("flows").glob("*.py") if "prefect.artifacts" in path.read_text()
    }
    assert not found
