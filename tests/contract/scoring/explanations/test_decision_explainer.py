"""The explanation that an application gets is the one that `log explain` and the page show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.contract.commands.test_log_explain import (
    FRAUD,
    VIEWS,
    Shop,
    changed,
    explain,
    tree_bundle,
)

from mlplatform.decisions.log.lookup import logged_records
from mlplatform.decisions.records.port import Entry, SpillReceipt
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.spill.writer import SpillingLog, SpillPolicy
from mlplatform.model.bundle import MODEL_FILE
from mlplatform.model.inputs import InputPlan
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.operations import wiring
from mlplatform.rollouts.bundles.folder_store import FolderStore
from mlplatform.rollouts.bundles.store import put_bundle
from mlplatform.runtime.errors import NotFound
from mlplatform.scoring.explanations.answer import (
    ExplanationAnswer,
    ExplanationRequest,
    NoExplanation,
)
from mlplatform.scoring.explanations.decision_explainer import DecisionExplainer
from mlplatform.scoring.predictor.model import scorer
from support.scoring_world import MODEL


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path))
    wiring.settings.cache_clear()
    shop = Shop(tmp_path)
    with closing(shop.log):
        yield shop
    wiring.settings.cache_clear()


def asked(shop: Shop, decision_id: str, model: str = MODEL) -> ExplanationAnswer | NoExplanation:
    return DecisionExplainer(shop.log, shop.bundles).explain(ExplanationRequest(model, decision_id))


def answered(shop: Shop, decision_id: str) -> dict[str, Any]:
    """As a client reads it."""
    found = asked(shop, decision_id)
    assert isinstance(found, ExplanationAnswer), found
    answer: dict[str, Any] = json.loads(msgspec.json.encode(found))
    return answer


def unexplained(shop: Shop, decision_id: str) -> NoExplanation:
    found = asked(shop, decision_id)
    assert isinstance(found, NoExplanation), found
    return found


def of_command(decision_id: str) -> dict[str, Any]:
    """What the command prints of the decision."""
    _, found = explain(decision_id)
    first: dict[str, Any] = found["explanations"][0]
    return first


def shared(explanation: dict[str, Any]) -> dict[str, Any]:
    """The part of an explanation that is an application's too."""
    names = ("input", "value", "ordinary", "contribution")
    causes = explanation["causes"]
    return {
        "decision_id": explanation["decision_id"],
        "decision": explanation["logged"]["decision"],
        "score": explanation["logged"]["score"],
        "thresholds": explanation["thresholds"],
        "answered_by": explanation["answered_by"],
        "model": {"version": explanation["version"], "bundle": explanation["bundle"]},
        "method": explanation["method"],
        "baseline": explanation["base"],
        "contributions": [{n: one[n] for n in names} for one in explanation["contributions"]],
        "rules": [
            {n: one[n] for n in ("code", "text", "values")} for one in causes if one["by"] == "rule"
        ],
        "note": explanation["note"],
    }


def of_page(decision_id: str) -> dict[str, Any]:
    """What the page draws from."""
    found = Sources(wiring.platform()).why(decision_id)
    first: dict[str, Any] = json.loads(msgspec.json.encode(found[0]))
    return first


@pytest.mark.parametrize(
    ("amount", "features"),
    [
        pytest.param(120.0, {}, id="an approval"),
        pytest.param(510.0, {"terminal_risk_7d": 0.5}, id="a review"),
        pytest.param(0.1 + 0.2, {"terminal_risk_7d": 1.0 / 3.0}, id="values that float32 rounds"),
        pytest.param(950.0, {}, id="a decline"),
    ],
)
def test_a_models_decision_is_told_alike_to_applications_and_to_people(
    shop: Shop, amount: float, features: dict[str, float]
) -> None:
    logged = shop.decide("d1", amount, **features)
    answer = answered(shop, "d1")
    reasons, degraded = answer.pop("reasons"), answer.pop("degraded")
    assert answer == shared(of_command("d1")) == shared(of_page("d1"))
    assert [one["code"] for one in reasons] == logged.payload["reasons"]
    assert degraded is None
    assert [one["input"] for one in answer["contributions"]] == [i.name for i in FRAUD.inputs]
    by_name = {one["input"]: one for one in answer["contributions"]}
    assert by_name["amount"]["value"] == amount
    assert answer["thresholds"] == shop.champion.bundle.thresholds
    assert by_name["amount"]["ordinary"] == 50.0
    assert by_name["customer_count_1d"]["value"] is None


def test_reasons_are_in_the_words_that_the_answer_had(shop: Shop) -> None:
    shop.decide("d1", 950.0)
    (reason,) = answered(shop, "d1")["reasons"]
    assert reason == {"code": "AMOUNT", "text": shop.champion.bundle.reasons["amount"].customer}


def test_contributions_of_trees_add_up_to_the_margin(shop: Shop) -> None:
    bundle = tree_bundle(shop.bundles)
    logged = shop.decide("d1", 600.0)
    row = InputPlan(FRAUD, VIEWS, bundle.inputs).row(
        logged.payload["request"], logged.event_ms, logged.payload["features"]
    )
    score = scorer(shop.bundles / bundle.digest / MODEL_FILE)
    raw = float(score(np.array([row], np.float32))[0])
    payload = {"raw": raw, "reasons": ["AMOUNT"], "attribution": "tree_shap"}
    shop.append(changed(logged, bundle=bundle.digest, score=raw, payload=payload))
    answer = answered(shop, "d2")
    shares = [one["contribution"] for one in answer["contributions"]]
    assert (answer["method"], answer["baseline"]) == ("tree_shap", bundle.attribution.base)
    assert bundle.attribution.adds_up(shares, raw)
    answer.pop("reasons"), answer.pop("degraded")
    assert answer == shared(of_command("d2")) == shared(of_page("d2"))


def test_rules_that_decided_are_told_with_what_they_read(shop: Shop) -> None:
    shop.fail("unavailable", shop.champion, shop.challenger)
    logged = shop.decide("d1", 300.0)
    assert logged.answered_by == "rules"
    answer = answered(shop, "d1")
    assert (answer["method"], answer["contributions"]) == (None, [])
    assert answer["degraded"] == {"reason": "unavailable"}
    assert [one["code"] for one in answer["rules"]] == ["RULE_HIGH_AMOUNT", "RULE_NEW_CUSTOMER"]
    assert answer["rules"][-1]["values"] == {"customer_count_30d": None, "amount": 300.0}
    assert [one["text"] for one in answer["reasons"]] == [one["text"] for one in answer["rules"]]
    answer.pop("reasons"), answer.pop("degraded")
    assert answer == shared(of_command("d1"))


def test_an_answer_of_another_arm_is_explained_by_that_arms_bundle(shop: Shop) -> None:
    shop.fail("deadline", shop.challenger)
    shop.decide("d1", 700.0, arm="challenger", customer_count_1d=9.0)
    answer = answered(shop, "d1")
    assert answer["model"] == {"version": 1, "bundle": shop.champion.bundle.digest}
    assert answer["degraded"] == {"reason": "deadline"}
    assert answer["note"] == "challenger: deadline"


def test_the_copy_of_a_shadow_is_nothing_for_applications(shop: Shop) -> None:
    shop.decide("d1", 620.0)
    shop.copy("d1", 620.0, 0.71, None)  # which does not come out again
    assert answered(shop, "d1")["model"]["bundle"] == shop.champion.bundle.digest


def test_a_safe_default_has_no_score_to_explain(shop: Shop) -> None:
    shop.fail("unavailable", shop.champion, shop.challenger)
    assert shop.decide("d1", 30.0).answered_by == "default"
    found = unexplained(shop, "d1")
    assert (found.name, found.status) == ("decided-without-model", 422)
    assert "the safe default (unavailable)" in found.detail


def test_an_erased_record_explains_nothing(shop: Shop) -> None:
    logged = shop.decide("d1", 600.0)
    shop.append(msgspec.structs.replace(logged, decision_id="d2", payload={}))
    found = unexplained(shop, "d2")
    assert (found.name, found.status) == ("payload-erased", 422)
    assert "erased" in found.detail


def test_a_bundle_that_is_gone_is_brought_back_by_a_command_that_is_named(shop: Shop) -> None:
    shop.decide("d1", 600.0)
    explainer = DecisionExplainer(shop.log, shop.bundles)
    request = ExplanationRequest(MODEL, "d1")
    assert isinstance(explainer.explain(request), ExplanationAnswer)
    away = shop.bundles.parent / "away"
    shutil.move(shop.bundles / shop.champion.bundle.digest, away)
    found = explainer.explain(request)
    assert isinstance(found, NoExplanation)
    assert found.name == "bundle-gone"
    assert "`mlplatform models card fraud 1`" in found.detail
    shutil.move(away, shop.bundles / shop.champion.bundle.digest)
    assert isinstance(explainer.explain(request), ExplanationAnswer)


def test_a_bundle_whose_file_is_gone_or_changed_explains_nothing(shop: Shop) -> None:
    shop.decide("d1", 600.0)
    (shop.bundles / shop.champion.bundle.digest / MODEL_FILE).unlink()
    found = unexplained(shop, "d1")
    assert found.name == "not-reproduced"
    assert "mlplatform log explain d1" in found.detail
    assert str(shop.bundles) not in found.detail, "a path is for operators"


@pytest.mark.parametrize(
    "fields", [{"score": 0.61}, {"decision": "approve"}, {"payload": {"reasons": ["HOUR"]}}]
)
def test_what_does_not_come_out_again_is_not_explained(shop: Shop, fields: dict[str, Any]) -> None:
    shop.append(changed(shop.decide("d1", 600.0), **fields))
    found = unexplained(shop, "d2")
    assert (found.name, found.status) == ("not-reproduced", 422)
    assert "in the log" in found.detail


def test_a_decision_that_waits_beside_the_log_is_explained_as_it_is_later(shop: Shop) -> None:
    logged = msgspec.structs.replace(shop.decide("d1", 600.0), decision_id="d2")
    spilling = SpillingLog(
        shop.log, "gateway-9", SpillPolicy(1 << 20, frozenset(), durable=False), lambda count: None
    )
    assert isinstance(spilling.relieve([Entry(logged)])[0], SpillReceipt)
    waiting = answered(shop, "d2")
    assert waiting["decision"] == "review"
    while spilling.catch_up():
        pass
    assert logged_records(shop.log, "d2")
    assert answered(shop, "d2") == waiting


def test_what_is_no_decision_says_what_it_is(shop: Shop) -> None:
    kinds: Any = ("inference", "accepted", "label")
    for number, kind in enumerate(kinds):
        label = 1 if kind == "label" else None
        fields = {"model": MODEL, "event_ms": 1, "recorded_ms": 1, "label": label}
        shop.append(Record(kind=kind, decision_id=f"k{number}", payload={"client": "x"}, **fields))
    found = [unexplained(shop, f"k{number}") for number in range(len(kinds))]
    assert [(one.name, one.status, one.retry_after_s) for one in found] == [
        ("raw-scores", 422, None),
        ("decision-pending", 409, 1),
        ("record-not-here", 404, None),
    ]
    assert unexplained(shop, "nobody").name == "record-not-here"
    shop.decide("d1", 600.0)
    other = asked(shop, "d1", "credit")
    assert isinstance(other, NoExplanation)
    assert other.name == "record-not-here"


def test_the_page_fetches_the_bundle_of_a_decision_that_it_explains(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pod has a cache of its own, in which no gateway puts bundles."""
    shop.decide("d1", 120.0)
    kept = of_page("d1")
    bundles, digest = shop.bundles, kept["bundle"]
    (tmp_path / "store").mkdir()
    put_bundle(FolderStore(tmp_path / "store"), bundles / digest, digest)
    shutil.rmtree(bundles / digest)
    with pytest.raises(NotFound, match=digest):
        of_page("d1")
    monkeypatch.setenv("MLPLATFORM_BUNDLE_STORE", str(tmp_path / "store"))
    wiring.settings.cache_clear()
    wiring.platform.cache_clear()
    assert of_page("d1") == kept
    assert (bundles / digest).is_dir()
