"""A home with a champion, people with keys of each kind, a page, and rollouts that wait."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mlplatform.model.routes import Arm
from mlplatform.rollouts.journal.state import RolloutState, fold
from mlplatform.rollouts.journal.transitions import ApprovalAsked, Opened, ShadowStarted
from mlplatform.rollouts.passes.controls import abort
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.scoring.admission.clients import parse_scope
from mlplatform.scoring.admission.keyring import create_key
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from rollout_world import gate_report
from support import journal_steps
from support.home_world import HomeWorld
from support.page_process import PageProcess

SCOPES = {
    "vera": ("fraud:view",),
    "otto": ("fraud:operate",),
    "eva": ("fraud:run",),
    "bo": ("fraud:approve",),
    "ana": ("fraud:approve", "fraud:run"),
    "cy": ("other:approve", "other:run"),
    "dora": ("fraud:approve",),
}
EVIDENCE = {
    "version": 2,
    "model": "fraud",
    "author": "ana",
    "verdict": "HEALTHY",
    "gates": {"alerts": {"verdict": "HEALTHY", "reason": "no more than planned", "values": {}}},
    "arms": {"challenger": {"requests": 523}, "champion": {"requests": 525}},
}


class PeopleWorld:
    """A home with a champion, people with keys, a page, and rollouts that wait for an answer."""

    def __init__(self, root: Path) -> None:
        self.home = HomeWorld(root)
        self.home.fill()
        self.version = 1
        self.keys: dict[str, str] = {}
        for name, scopes in SCOPES.items():
            self.keys[name] = self.key(name, *scopes)
        self.page = PageProcess(self.home.home)

    def key(self, name: str, *scopes: str) -> str:
        made = frozenset(map(parse_scope, scopes))
        now_ms = SystemClock().wall_ms()
        with contextlib.closing(SqliteAdmission(self.home.home.admission_db)) as keys:
            return create_key(keys, name, made, priority="standard", limit=None, now_ms=now_ms)[1]

    def revoke(self, name: str) -> None:
        with contextlib.closing(SqliteAdmission(self.home.home.admission_db)) as keys:
            keys.revoke(name, SystemClock().wall_ms())

    def ask(self, evidence: dict[str, object] | None = None) -> str:
        """A rollout of another version, by ana, that waits for an answer."""
        self.version += 1
        rollout = f"fraud-v{self.version}-1"
        now_ms = SystemClock().wall_ms()
        facts = {
            "rollout_id": rollout,
            "model": "fraud",
            "event_ms": now_ms,
            "wall_ms": now_ms,
            "actor": "ana",
            "reason": "a test",
        }
        opened = Opened(
            **facts,  # type: ignore[arg-type]
            challenger=Arm(self.version, "cd", f"fraud-v{self.version}-cdcdcdcd"),
            author="ana",
            alert_low=0.0,
            alert_high=0.05,
            bootstrap=False,
            validation=gate_report("b" * 64),
            approval="required",
        )
        self.home.rollouts.commit(opened, None)
        fence = self.home.rollouts.acquire("fraud", "a pass", 10.0, steal=True)
        assert fence is not None
        shadow = ShadowStarted(**facts, displaced=None)  # type: ignore[arg-type]
        asked = ApprovalAsked(**facts, evidence=evidence or EVIDENCE)  # type: ignore[arg-type]
        for fact in (shadow, asked):
            journal_steps.commit(self.home.rollouts, fact, fence)
        self.home.rollouts.release(fence)
        return rollout

    def state(self, rollout: str) -> RolloutState:
        return fold(self.home.rollouts.read(rollout))

    def refused(self, who: str) -> list[tuple[str, str]]:
        """What was refused to somebody, and why."""
        kept = Refusals(self.home.home.audit).since(0)
        return [(r.asked, r.why) for r in kept if r.who == who]

    def end(self, rollout: str) -> None:
        """So that another version can be rolled out."""
        if self.state(rollout).ramping:
            clock = SystemClock()
            abort(self.home.rollouts, rollout, actor="test", reason="its test ended", clock=clock)

    def close(self) -> None:
        self.page.close()
        self.home.close()
