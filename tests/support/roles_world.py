"""A home that a gateway has answered from: decisions, a queue, evidence, an incident, five roles.

All of it is made by the platform's own functions: requests are scored by a gateway and a predictor,
evidence is the judge's, the incident is opened and noted by a drift check's own steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

from mlplatform.decisions.records.last_labels import LABEL_COLUMNS, last_labels
from mlplatform.decisions.records.port import Entry, RecordQuery
from mlplatform.decisions.records.pseudonym import load_or_create_key
from mlplatform.decisions.records.record import Record
from mlplatform.model import profile as profiles
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.model.routes import Arm
from mlplatform.operations.actions import interim_analyses, review
from mlplatform.operations.review import opinions
from mlplatform.operations.review.opinions import Opinion
from mlplatform.operations.traffic import input_windows, projection
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.drift import verdict
from mlplatform.rollouts.drift.incidents import DRIFT, Incident
from mlplatform.rollouts.drift.next_step import (
    IncidentStatus,
    Observation,
    incident_finding,
    next_step,
)
from mlplatform.rollouts.drift.retrain import MaturedRequests, Wait
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.rollouts.drift.verdict import Band, Window
from mlplatform.rollouts.journal.transitions import (
    Answered,
    ApprovalAsked,
    CanaryStepped,
    Opened,
    Promoted,
    Transition,
)
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.units import DAY_MS
from rollout_world import fraud
from support import journal_steps, kept_windows
from support.home_world import HomeWorld
from support.judged_rollout import JudgedRollout
from support.page_process import PageProcess
from support.people_world import PeopleWorld
from support.registered_versions import registered_versions
from support.scoring_world import ScoringWorld, payment

ROLES = {"viewer": "view", "engineer": "run", "approver": "approve", "analyst": "review",
         "operator": "operate"}  # fmt: skip
"""The scope of a person of each role; the person is called as the role is."""
CUSTOMER = 4711
"""Whose request was declined."""
REVIEWED = 21
"""Requests that were flagged; the first one has a label that somebody asks to correct."""


class RolesWorld(PeopleWorld):
    """A page over a home with real content, and people of each role."""

    def __init__(self, root: Path) -> None:
        self.declined = self.labelled = ""
        home = self._scored(root)
        self.home = HomeWorld(home)
        self.version = 1
        self.keys = {role: self.key(role, f"fraud:{scope}") for role, scope in ROLES.items()}
        self.platform = Platform(load({"MLPLATFORM_HOME": str(home)}))
        self.ask_correction()
        counted = projection.file_of(self.home.home.counted, "fraud")
        projection.advance(counted, self.home.log, "fraud", alerting=EARLIER.alerts, budget_s=60.0)
        self.incident = self._drifted().id
        self.judged = JudgedRollout()
        input_windows.keep(self.home.home.measured, "fraud", kept_windows.history(31))
        self._registry = contextlib.ExitStack()
        told = self._registry.enter_context(registered_versions(self.home.home))
        self.page = PageProcess(self.home.home, **told)

    def close(self) -> None:
        super().close()
        self._registry.close()

    def _scored(self, root: Path) -> Path:
        """A home whose gateway answered forty requests, of which a tenth and one were declined."""
        world = ScoringWorld(root)
        with contextlib.closing(world):
            world.promote(world.deploy(1))
            world.start_gateway()
            with world.client() as client:
                for number in range(40):
                    flagged = number < REVIEWED
                    amount = 610.0 + number if flagged else 20.0 + number
                    found = _answer(client, payment(amount, customer=100 + number % 9))
                    self.labelled = self.labelled or str(found["decision_id"])
                refused = _answer(client, payment(955.5, customer=CUSTOMER))
            assert refused["decision"] == "decline", refused
            self.declined = str(refused["decision_id"])
            world.stop_gateway()
            load_or_create_key(world.home.pseudonym_key)
        return world.home.root

    def label_now(self) -> int | None:
        """The label of the decision that people disagree about; None before the first."""
        query = RecordQuery(kinds=("label",), decision_id=self.labelled, columns=LABEL_COLUMNS)
        return last_labels(self.home.log.read(query)).get(self.labelled)

    def ask_correction(self) -> None:
        """Ana asks for the other label of that decision; at first ben has labelled it fraud."""
        now_ms = SystemClock().wall_ms()
        if self.label_now() is None:
            self._say(Opinion("ben", 1), now_ms, label=1)
        note = "the customer's own card, she called"
        self._say(Opinion("ana", 1 - (self.label_now() or 0), note), now_ms + 1, label=None)
        self.home.log.close_writer("desk")
        assert review.advance(self.platform, "fraud")

    def _say(self, said: Opinion, at_ms: int, *, label: int | None) -> None:
        told = Record(
            kind="label", decision_id=self.labelled, model="fraud", event_ms=at_ms,
            recorded_ms=at_ms, label=label,
            payload={"client": said.analyst, **opinions.payload(said)},
        )  # fmt: skip
        self.home.log.append("desk", [Entry(told)])

    def _drifted(self) -> Incident:
        """Amounts have risen in the last two of three days, and the check of today waits."""
        model, now_ms = fraud(), SystemClock().wall_ms()
        rng = np.random.default_rng(11)
        days = ((3, 1.0), (2, 1.5), (1, 1.5))
        shown = [_window(rng, now_ms - ago * DAY_MS, rise) for ago, rise in days]
        usual = _window(rng, 0, 1.0, rows=40_000)
        names = list(usual.inputs)
        matrix = np.column_stack([usual.inputs[name] for name in names])
        known = profiles.profile(matrix, names, usual.scores, usual.alerts, usual.units)
        verdicts = [verdict.window_verdict(known, w, model.drift, Band(0.004, 0.02)) for w in shown]
        whole = verdict.drift_verdict(verdicts, model.drift)
        seen = Observation(1, now_ms, tuple(shown), tuple(verdicts), whole)
        found = incident_finding("fraud", seen, DRIFT)
        assert found is not None, [v.reasons for v in verdicts]
        incidents = SqliteIncidents(self.home.home.rollouts_db)
        opened = incidents.open(found, now_ms=now_ms)
        status = IncidentStatus(MaturedRequests(5_210, 31))
        step = next_step(model, seen, DRIFT, opened, status, wall_ms=now_ms)
        assert isinstance(step, Wait), step
        incidents.note(opened.id, step.reason, now_ms=now_ms)
        return opened

    # Rollouts, each of a version of its own.

    def waits(self) -> str:
        """A rollout whose shadow phase has been judged, and which waits for an answer."""
        return self._renamed(until=ApprovalAsked)

    def ramps(self) -> str:
        """A rollout in its first canary step."""
        return self._renamed(until=CanaryStepped)

    def promoted(self) -> str:
        """A rollout whose version has just become champion."""
        rollout = self._renamed(until=CanaryStepped)
        before = self.home.rollouts.routes("fraud")
        now_ms = SystemClock().wall_ms()
        fact = Promoted(rollout_id=rollout, model="fraud", event_ms=now_ms, wall_ms=now_ms,
                        actor="a pass", reason="every gate passed",
                        predecessor=before.champion)  # fmt: skip
        self._commit(fact)
        return rollout

    def _renamed(self, until: type[Transition]) -> str:
        """The judged rollout's journal up to a step, as if that step had been an hour ago."""
        self.version += 1
        name = f"fraud-v{self.version}-1"
        facts = list(self.judged.facts)
        facts = facts[: next(n for n, f in enumerate(facts) if type(f) is until) + 1]
        later_ms = SystemClock().wall_ms() - 3_600_000 - facts[-1].wall_ms
        asked = ""
        for fact in facts:
            new: dict[str, Any] = {"rollout_id": name, "event_ms": fact.event_ms + later_ms,
                                   "wall_ms": fact.wall_ms + later_ms}  # fmt: skip
            if isinstance(fact, Opened):
                digest = f"{self.version:02x}" * 32
                service = f"fraud-v{self.version}-{digest[:8]}"
                new["challenger"] = Arm(self.version, digest, service)
            if isinstance(fact, ApprovalAsked):
                new["evidence"] = {**(fact.evidence or {}), "version": self.version}
            if isinstance(fact, Answered):
                new |= {"bound_to": asked, "approver": "ben"}
            moved = msgspec.structs.replace(fact, **new)
            if isinstance(moved, ApprovalAsked):
                asked = moved.evidence_digest
            self._commit(moved)
        steps = 2 if until is CanaryStepped else 1
        for history in self.judged.histories[:steps]:
            seen = history.analyses
            later = (msgspec.structs.replace(s, event_ms=s.event_ms + later_ms) for s in seen)
            renamed = msgspec.structs.replace(history, rollout_id=name, analyses=tuple(later))
            interim_analyses.keep(self.home.home.interim_analyses, "fraud", renamed)
        return name

    def _commit(self, fact: Transition) -> None:
        fence = self.home.rollouts.acquire("fraud", "a pass", 10.0, steal=True)
        assert fence is not None
        journal_steps.commit(self.home.rollouts, fact, fence)
        self.home.rollouts.release(fence)


def _answer(client: httpx.Client, body: Mapping[str, Any]) -> dict[str, Any]:
    found = client.post("/score", json=body)
    assert found.status_code == 200, found.text
    answer: dict[str, Any] = found.json()
    return answer


def _window(rng: np.random.Generator, start_ms: int, rise: float, rows: int = 5_000) -> Window:
    """A day of requests: amounts times `rise`, the other inputs as ever."""
    units = rng.integers(0, 2_000, rows)
    inputs = {"amount": np.exp(rng.normal(3.5, 0.8, rows)) * rise}
    for name in ("customer_count_1d", "terminal_count_1d"):
        inputs[name] = rng.poisson(1.2, rows).astype(float)
    inputs["customer_mean_1d"] = np.exp(rng.normal(3.4, 0.5, rows))
    scores = np.clip(inputs["amount"] / 1000 + rng.normal(0, 0.01, rows), 0, 1)
    alerts = scores >= 0.24
    return Window(start_ms, start_ms + DAY_MS, inputs, units, scores, alerts, units)
