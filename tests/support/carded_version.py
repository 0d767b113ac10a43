"""Everything on record about a version of fraud, made by hand: a card can be made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mlplatform.learning.registry.versions import TRAINED_HERE, Version, VersionFacts
from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.routes import Arm, Routes
from mlplatform.operations.card.assembly import VersionRecords
from mlplatform.rollouts.drift.incidents import Change, Incident, IncidentFinding
from mlplatform.rollouts.drift.tenure import MaturedMetric, MaturedStretch, MaturedTenure
from mlplatform.rollouts.journal.transitions import (
    Answered,
    ApprovalAsked,
    CanaryStepped,
    Confirmed,
    Opened,
    Promoted,
    RolloutPlan,
    ShadowStarted,
    Transition,
)
from mlplatform.runtime.units import DAY_MS
from rollout_world import gate_report
from support.scoring_world import write_amount_bundle

FOLDER = "f" * 64
RECALL = {
    "verdict": "HEALTHY",
    "reason": "It finds no more than 2 points fewer of the frauds (95 % certain). More.",
    "values": {
        "positives": 80, "hidden": 7, "caught": 50, "positive_labels_share": 0.97,
        "positive_labels_low": 0.94, "positive_labels_high": 0.99,
        "positive_labels_within_days": 3.0,
        **{f"{arm}_{what}_{end}": value
           for arm in ("challenger", "champion") for what in ("recall", "precision")
           for end, value in (("value", 0.61), ("low", 0.5), ("high", 0.72))},
    },
}  # fmt: skip
ALERTS = {
    "verdict": "INCONCLUSIVE", "holds": False, "values": {},
    "reason": "It may raise up to 0.4 points more alerts (95 % certain). Figures.",
}  # fmt: skip


def amount_bundle(folder: Path) -> Bundle:
    """A whole bundle of the fraud model, as if its own folder had fitted it."""
    found = load_bundle(folder, write_amount_bundle(folder))
    return msgspec.structs.replace(found, origin=TRAINED_HERE, folder=FOLDER)


def version(bundle: str, number: int = 2, **changes: Any) -> Version:
    facts = VersionFacts(
        bundle=bundle, data_from_ms=0, data_to_ms=21 * DAY_MS, data_digest="d" * 64,
        code_version="1.4.0", metrics={}, report=gate_report(bundle, "c" * 64), author="ana",
        reason="new terminals",
        validated=True, alert_low=0.005, alert_high=0.02, seed=7, folder=FOLDER,
    )  # fmt: skip
    return Version(
        "fraud", number, bundle, "run-1", 30 * DAY_MS, msgspec.structs.replace(facts, **changes)
    )


def promoted_journal(bundle: str, *, number: int = 2, text: str = "as planned") -> list[Transition]:
    """Shadow, an approval, a canary step, a promotion and its confirmation."""
    shared: dict[str, Any] = {"rollout_id": f"fraud-v{number}-1", "model": "fraud"}

    def at(day: int) -> dict[str, Any]:
        return shared | {"event_ms": day * DAY_MS, "wall_ms": day * DAY_MS, "reason": text}

    def judged(**gates: Any) -> dict[str, Any]:
        return {"verdict": "HEALTHY", "records": 4_000, "generation": 3, "gates": gates}

    opened = Opened(
        **at(30), actor="ana", challenger=Arm(number, bundle, "fraud-v2"), author="ana",
        alert_low=0.005, alert_high=0.02, bootstrap=False, validation=gate_report(bundle),
        approval="required", plan=RolloutPlan(history_h=72.0, requests_h=400.0),
    )  # fmt: skip
    asked = ApprovalAsked(**at(32), actor="pass 2", evidence=judged(alerts=ALERTS))
    answer = Answered(
        **at(33), actor=text, answer="approve", approver="ben", bound_to=asked.evidence_digest,
        proven_by="code of key 12ab",
    )  # fmt: skip
    return [
        opened,
        ShadowStarted(**at(31), actor="pass 1", displaced=None),
        asked,
        answer,
        CanaryStepped(**at(34), actor="pass 3", step=0, percent=5.0),
        Promoted(**at(36), actor="pass 4", predecessor=None, evidence=judged(alerts=ALERTS)),
        Confirmed(**at(43), actor="pass 5", evidence=judged(recall=RECALL)),
    ]


def tenure(number: int = 2) -> MaturedTenure:
    recall = MaturedMetric("recall", 30, 50.0, 0.6, 0.41, 0.77)
    calibration = MaturedMetric("calibration", 50, 55.0, 50 / 55, 0.6, 1.3)
    stretch = MaturedStretch(36 * DAY_MS, 41 * DAY_MS, 5, 9_000, 12, (recall, calibration))
    gaps = ("labels have stopped coming",)
    return MaturedTenure(number, 36 * DAY_MS, 44 * DAY_MS, (stretch,), gaps)


def incident(text: str = "a retrain is due") -> Incident:
    found = IncidentFinding("fraud", "drift", 45 * DAY_MS, 44 * DAY_MS, 2, {})
    change = Change(1, 1, "open", 0, None, text)
    return Incident("fraud-drift-1", found, "open", 0, None, 0, None, (change,))


def recorded(folder: Path, *, text: str = "as planned", **changes: Any) -> VersionRecords:
    """Version 2, the champion, with everything that there can be.

    Args:
        text: what people wrote.
        changes: of the fields of `VersionRecords`.
    """
    bundle = amount_bundle(folder)
    arm = Arm(2, bundle.digest, "fraud-v2")
    plain: dict[str, Any] = {
        "definition": load_definition("fraud"),
        "folder": FOLDER,
        "views": load_views(model_folder("fraud")),
        "version": version(bundle.digest),
        "bundle": bundle,
        "routes": Routes("fraud", 4, arm, None, None, "fraud-v2-1", "steady", 0.0),
        "journals": (promoted_journal(bundle.digest, text=text),),
        "analyses": {},
        "incidents": (incident(text),),
        "tenure": tenure(),
    }
    return VersionRecords(**plain | changes)
