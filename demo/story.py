"""The demo's chapters: what is done, what must come of it, and how it goes on after a stop.

Every step first looks whether it was done, so that a resumed demo does nothing twice.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from demo.late_runs import late_here
from demo.next_model import RUN_LIMIT_S, AwaitedModel, LoopNotClosed
from demo.process import PlatformProcess
from demo.state import Diary
from demo.timeline import phase_lines
from mlplatform.model.bundle import MODEL_FILE
from mlplatform.model.routes import Arm
from mlplatform.operations.actions import rollouts as approvals
from mlplatform.operations.prefect_client.names import DRIFT_WATCH
from mlplatform.operations.prefect_client.prefect import FlowRun
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.rollouts.journal.transitions import Promoted, RolledBack, Transition
from mlplatform.runtime.errors import InputInvalid, NotFound, Refused, Unavailable
from mlplatform.runtime.times import iso_text
from mlplatform.runtime.units import DAY_MS, HOUR_MS
from mlplatform.scoring.admission.clients import Scope
from mlplatform.scoring.admission.keyring import create_key

ENGINEER, BRINGER, APPROVER = "demo.engineer", "demo.modeller", "demo.approver"
POLL_S = 0.3
PASS_PAUSE_S = 0.5
PASS_WITHIN_MS = 12 * HOUR_MS
SLOW_SHARE_OF_GATE = 0.2

STOPPED_IN_SHADOW = "shadow is to stop it, whether or not the steps behind could decide in time"
"""Why a bad version is opened where the failures of a drill make for a plan that is refused."""


class Story:
    """Drives flows and answers forms, as a scheduler and two people would.

    Args:
        event_ms: event time that traffic has reached.
    """

    def __init__(
        self,
        platform: Platform,
        process: PlatformProcess,
        diary: Diary,
        event_ms: Callable[[], int],
        folder: Path,
    ) -> None:
        self._platform = platform
        self.model = diary.state.model
        self._process = process
        self._diary = diary
        self._event_ms = event_ms
        self._folder = folder
        self._making = False
        self._seen: dict[str, tuple[str, int | None]] = {}
        self._judged_ms = event_ms()
        self.awaited = AwaitedModel(platform, self.model, event_ms)
        self._approver_secret = _new_key(platform, self.model)

    # What the scheduler does

    async def midnight(self, at_ms: int) -> None:
        """The snapshot of the day's end; traffic waits for it, as a bank's day does."""
        at = iso_text(at_ms)
        await self.run_flow("materialize", {"model": self.model, "at": at})

    async def watch_drift(self) -> None:
        """The nightly drift check."""
        before = {i.id: i.state for i in self._platform.incidents.list(self.model)}
        await self.run_flow("drift", {"model": self.model})
        for incident in self._platform.incidents.list(self.model):
            if before.get(incident.id) != incident.state:
                self._diary.tell(self._event_ms(), _incident_words(incident))

    async def passes(self) -> None:
        """Passes over the rollouts for as long as one is under way.

        Raises:
            LoopNotClosed: a gateway asks the champion no more.
        """
        while True:
            looked_ms = self._event_ms()
            if self.is_ramping():
                await self.run_flow("rollout", {"model": self.model})
            self._judged_ms = looked_ms
            self.tell_phases()
            self._expect_champion_asked()
            await asyncio.sleep(PASS_PAUSE_S)

    async def wait_for_pass(self) -> None:
        """Wait while a rollout under way has not been looked at for `PASS_WITHIN_MS` of event time.

        On a slow machine days would go by unjudged, and the payments end before the story.
        """
        while self._event_ms() - self._judged_ms > PASS_WITHIN_MS and self.is_ramping():
            await asyncio.sleep(POLL_S)

    def is_ramping(self) -> bool:
        """Whether a rollout is on its way to a promotion."""
        return any(state.ramping for state in self._platform.rollouts.active(self.model))

    async def run_flow(self, flow: str, parameters: Mapping[str, Any]) -> FlowRun:
        """A run of a flow that completed; one that was lost is started again.

        Raises:
            LoopNotClosed: it failed, or none completed in time.
        """
        deadline, reasons = time.monotonic() + RUN_LIMIT_S, list[str]()
        while time.monotonic() < deadline:
            run = await self._follow(flow, parameters)
            if not isinstance(run, str) and run.state == "COMPLETED":
                return run
            if not isinstance(run, str) and run.state == "FAILED":
                raise LoopNotClosed(f"{run.name} failed: {run.message}")
            reasons.append(run if isinstance(run, str) else f"{run.name} is {run.state.lower()}")
        raise LoopNotClosed(late_here(flow, reasons, limit_s=RUN_LIMIT_S, model=self.model))

    async def _follow(self, flow: str, parameters: Mapping[str, Any]) -> FlowRun | str:
        """The run at its end; where Prefect went away under it, what was seen of that."""
        prefect, restarts = self._platform.prefect, self._process.restarts("prefect")
        try:
            run = await asyncio.to_thread(prefect.start, flow, parameters)
            while not run.final:
                await asyncio.sleep(POLL_S)
                run = await asyncio.to_thread(prefect.run, run.id)
                lost = self._process.restarts("prefect") != restarts
                if lost and run.state == "RUNNING":
                    return f"Prefect was started again under {run.name}"
        except Unavailable as error:
            if not self._process.alive():
                raise
            await asyncio.sleep(1.0)
            return str(error)
        return run

    # Chapters

    async def bootstrap(self) -> None:
        """The first version: trained on history, approved, champion."""
        state = self._diary.state
        champion = self._platform.rollouts.routes(self.model).champion
        if champion is not None:
            state.first_version = state.first_version or champion.version
            return
        if not self._platform.rollouts.active(self.model, finished=True):
            self._diary.tell(
                self._platform.clock.event_ms(), "history is in; the first version is trained on it"
            )
            asked = {"model": self.model, "actor": ENGINEER, "reason": "first version"}
            await self.run_flow("retrain", {**asked, "open_rollout": True})
        await self.approve(await self._rollout_of(lambda s: s.bootstrap))
        promoted = await self._until("promoted", lambda s: s.bootstrap and s.phase == "promoted")
        state.first_version = promoted.challenger.version
        self._diary.save()

    async def stale_candidate(self) -> None:
        """A version validated before the pattern changes, which nobody rolls out yet."""
        state = self._diary.state
        if state.stale_version is not None:
            return
        as_of = iso_text(state.go_live_ms + DAY_MS)
        run = await self.run_flow(
            "retrain",
            {"model": self.model, "actor": ENGINEER, "reason": "one for later", "as_of": as_of},
        )
        state.stale_version = await self._version_of(run, ENGINEER)
        text = (
            f"version {state.stale_version} is validated; the demo rolls it out once the pattern"
            " has changed, for shadow to stop it"
        )
        self._diary.tell(self._event_ms(), text)

    async def follow_learned_challenger(self) -> None:
        """Drift leads to a retrain by itself; its version goes through to promotion."""
        rollout = await self._rollout_of(lambda s: s.author == DRIFT_WATCH)
        self._diary.state.learned_version = rollout.challenger.version
        self._diary.save()
        await self._to_the_end(rollout, "promoted")

    async def stale_challenger(self) -> None:
        """The version of before the change: in shadow its alerts are not as replay predicted."""
        version = self._diary.state.stale_version
        if version is None:
            raise LoopNotClosed("there is no version of before the change")
        rollout = await self._open(version, "staged by the demo: it knows only the old pattern")
        ended = await self._to_the_end(rollout, "rolled_back")
        self._expect_in_history(ended, never="CanaryStepped")
        self._expect_stopped_by(ended, {"alerts", "disagreement"})

    async def slow_candidate(self) -> None:
        """A model made elsewhere, which passes every gate: alone, one row is fast enough."""
        state = self._diary.state
        if state.slow_version is None:
            path = await self._write_slow_model()
            run = await self.run_flow(
                "validate", {"model": self.model, "onnx_path": str(path), "actor": BRINGER}
            )
            state.slow_version = await self._version_of(run, BRINGER)
            self._making = False
            text = (
                f"version {state.slow_version} is a slow model that the demo made: it passes every"
                " gate, for shadow to stop it under all of the traffic"
            )
            self._diary.tell(self._event_ms(), text)

    async def slow_challenger(self) -> None:
        """The version that all of the traffic would be too much for: rolled back in shadow."""
        version = self._diary.state.slow_version
        if version is None:
            raise LoopNotClosed("there is no version with the slow model")
        rollout = await self._open(version, "staged by the demo: too slow for all of the traffic")
        ended = await self._to_the_end(rollout, "rolled_back")
        self._expect_in_history(ended, never="CanaryStepped")
        self._expect_stopped_by(ended, {"utilisation", "failures"})
        champion = self._platform.rollouts.routes(self.model).champion
        learned = self._diary.state.learned_version
        if champion is None or champion.version != learned:
            raise LoopNotClosed(
                f"version {learned} was to stay champion; the routes say {champion}"
            )

    async def next_version(self) -> None:
        """One more version, trained by request: through shadow and canary to promotion."""
        champion = self._diary.state.first_version
        known = [s for s in self._all() if s.challenger.version != champion]
        if not known:
            self._diary.tell(self._event_ms(), "the next version is trained")
            asked = {"model": self.model, "actor": ENGINEER, "reason": "the next version"}
            await self.run_flow("retrain", {**asked, "open_rollout": True})
        rollout = await self._rollout_of(lambda s: s.challenger.version != champion)
        self._diary.state.learned_version = rollout.challenger.version
        if not self._is_taken_back(rollout):
            await self._to_the_end(rollout, "promoted")

    async def take_back(self) -> None:
        """A person takes the promoted version back; the one before it is champion again."""
        state = self._diary.state
        asked = {"model": self.model, "actor": ENGINEER, "reason": "to show the way back"}
        if not self._is_first(self._platform.rollouts.routes(self.model).champion):
            await self.run_flow("rollback", asked)
        champion = self._platform.rollouts.routes(self.model).champion
        if not self._is_first(champion):
            raise LoopNotClosed(
                f"version {state.first_version} was to answer again, not {champion}"
            )
        state.is_back = True
        text = (
            f"version {state.learned_version} is taken back; version {state.first_version} answers"
        )
        self._diary.tell(self._event_ms(), text)

    def _is_first(self, arm: Arm | None) -> bool:
        return arm is not None and arm.version == self._diary.state.first_version

    async def approve(self, rollout: RolloutState) -> None:
        """Answer the question of a rollout as a second person, once it is asked."""
        await self._until(
            f"{rollout.rollout_id} asks for approval or ends",
            lambda s: (
                s.rollout_id == rollout.rollout_id
                and s.phase in ("awaiting_approval", "promoted", "confirmed", "rolled_back")
            ),
        )
        while not self._answered(rollout.rollout_id):
            for run in await self._list_suspended():
                if run.parameters.get("rollout_id") == rollout.rollout_id:
                    await self._answer(run)
            await asyncio.sleep(POLL_S)

    async def _to_the_end(self, rollout: RolloutState, phase: str) -> RolloutState:
        ends = ("promoted", "confirmed", "superseded", "rolled_back")
        approving = asyncio.create_task(self.approve(rollout))
        try:
            ended = await self._until(
                f"{rollout.rollout_id} ends",
                lambda s: s.rollout_id == rollout.rollout_id and s.phase in ends,
            )
        finally:
            approving.cancel()
        good = ended.phase == phase or (phase == "promoted" and ended.phase == "confirmed")
        if not good:
            raise LoopNotClosed(
                f"{rollout.rollout_id} was to end {phase}, is {ended.phase}: {ended.reason}"
            )
        return ended

    def _is_taken_back(self, rollout: RolloutState) -> bool:
        """Whether the story's engineer took the promoted version back: a demo that was stopped then
        goes on from there. A pass that takes it back is another story."""
        *before, last = self._platform.rollouts.read(rollout.rollout_id)
        was_promoted = any(isinstance(fact, Promoted) for fact in before)
        return was_promoted and isinstance(last, RolledBack) and last.actor == ENGINEER

    async def _open(self, version: int, reason: str) -> RolloutState:
        known = [s for s in self._all() if s.challenger.version == version]
        if not known:
            parameters = {
                "model": self.model,
                "version": version,
                "actor": ENGINEER,
                "reason": reason,
            }
            await self.run_flow("promote", {**parameters, "despite_plan": STOPPED_IN_SHADOW})
        return await self._rollout_of(lambda s: s.challenger.version == version)

    async def _version_of(self, run: FlowRun, author: str) -> int:
        """The version that a run registered: the newest of its author."""
        versions = await asyncio.to_thread(self._platform.registry.versions, self.model)
        own = [v.version for v in versions if v.facts.author == author]
        if not own:
            raise LoopNotClosed(f"{run.name} completed and registered nothing")
        return max(own)

    async def _write_slow_model(self) -> Path:
        """The slow twin of the version that drift brought, made by another process."""
        learned = await self._rollout_of(lambda s: s.author == DRIFT_WATCH)
        self._making = True
        bundle = self._platform.bundle(self.model, learned.challenger)
        gate_ms = self._platform.definition(self.model).gates.latency_p99_ms
        path = self._folder / "slow.onnx"
        command = ("-m", "demo.slow_model", str(bundle / MODEL_FILE), str(path))
        made = await asyncio.create_subprocess_exec(
            sys.executable, *command, str(gate_ms * SLOW_SHARE_OF_GATE)
        )
        if await made.wait() != 0:
            raise LoopNotClosed("the slow model could not be made")
        return path

    # What the journal says

    def _slow_meets_traffic(self) -> bool:
        slow = self._diary.state.slow_version
        return slow is not None and any(
            s.phase == "shadow" and s.challenger.version == slow
            for s in self._platform.rollouts.active(self.model)
        )

    def awaits_a_model(self) -> bool:
        """Whether a model is being made, and nothing else is under way."""
        return self._making and not self.is_ramping()

    def awaits_an_answer(self) -> bool:
        """Whether a person is asked: a day of traffic must not pass with each of their seconds."""
        ramping = self._platform.rollouts.active(self.model)
        return any(s.phase == "awaiting_approval" for s in ramping)

    def busy(self) -> bool:
        """Whether a model is being made or a rollout is under way, but for the slow one's shadow.

        The slow model meets the traffic of a busy hour.
        """
        if self._slow_meets_traffic():
            return False
        if self._making or any(
            i.state == "claimed" for i in self._platform.incidents.list(self.model, closed=False)
        ):
            return True
        return self.is_ramping()

    def _all(self) -> list[RolloutState]:
        return self._platform.rollouts.active(self.model, finished=True)

    async def _rollout_of(self, wanted: Callable[[RolloutState], bool]) -> RolloutState:
        return await self._until("a rollout", wanted)

    async def _until(self, what: str, wanted: Callable[[RolloutState], bool]) -> RolloutState:
        """The newest rollout of which this is true, as soon as there is one.

        Raises:
            Unavailable: the platform is gone.
        """
        while True:
            for state in reversed(self._all()):
                if wanted(state):
                    return state
            if not self._process.alive():
                raise Unavailable(f"the platform is gone; the demo waited for: {what}")
            await asyncio.sleep(POLL_S)

    def _answered(self, rollout_id: str) -> bool:
        state = next(s for s in self._all() if s.rollout_id == rollout_id)
        return state.answer is not None or state.finished

    async def _list_suspended(self) -> list[FlowRun]:
        try:
            return await asyncio.to_thread(self._platform.prefect.suspended)
        except Unavailable:
            return []

    async def _answer(self, run: FlowRun) -> None:
        try:
            await asyncio.to_thread(self._fill_in_form, run)
        except (Unavailable, InputInvalid, NotFound, Refused):
            return  # asked again, or answered by now: the journal tells
        for _ in range(60):
            if self._answered(str(run.parameters["rollout_id"])):
                return
            await asyncio.sleep(POLL_S)

    def _fill_in_form(self, run: FlowRun) -> None:
        """The approver gets a code for what is asked now, and types it into Prefect's form."""
        rollout = str(run.parameters["rollout_id"])
        question, _ = approvals.question(self._platform, rollout, "approve")
        if question.evidence != run.parameters["evidence_digest"]:
            return
        code, _ = approvals.approval_code(
            self._platform, question, approver=APPROVER, secret=self._approver_secret
        )
        reason = "the demo's second person read the evidence"
        form = {"decision": "approve", "code": code, "reason": reason}
        self._platform.prefect.submit_input(run.id, form)

    def _expect_in_history(
        self, state: RolloutState, *, wanted: str | None = None, never: str | None = None
    ) -> None:
        names = [type(f).__name__ for f in self._platform.rollouts.read(state.rollout_id)]
        if (wanted and wanted not in names) or (never and never in names):
            raise LoopNotClosed(f"{state.rollout_id} went another way: {', '.join(names)}")

    def _expect_stopped_by(self, state: RolloutState, wanted: set[str]) -> None:
        """One of these gates must have been UNHEALTHY: any other end is another story."""
        gates = gates_that_stopped(self._platform.rollouts.read(state.rollout_id))
        if not gates & wanted:
            found = ", ".join(sorted(gates)) or "no gate"
            raise LoopNotClosed(
                f"{state.rollout_id} was to be stopped by {' or '.join(sorted(wanted))}, "
                f"and was by {found}: {state.reason}"
            )

    def _expect_champion_asked(self) -> None:
        """Others decide in the place of a stopped champion: what follows is not its story."""
        champion = self._platform.rollouts.routes(self.model).champion
        if champion is None:
            return
        for lease in self._platform.rollouts.gateways(self.model):
            if (reason := lease.stopped.get(champion.service)) is not None:
                raise LoopNotClosed(
                    f"{lease.gateway} no longer asks {champion.service}, the champion: its bundle "
                    f"{reason}. decision.limit in model.yaml is too low for these payments, or the "
                    "model is wrong about them (docs/controls.md, The volume of decisions)"
                )

    def tell_phases(self) -> None:
        """Add to the timeline every phase that a journal holds and the timeline lacks."""
        known = {(entry.event_ms, entry.text) for entry in self._diary.state.entries}
        lines: list[tuple[int, str]] = []
        for state in self._all():
            if self._seen.get(state.rollout_id) != (state.phase, state.step):
                lines += phase_lines(self._platform.rollouts.read(state.rollout_id))
                self._seen[state.rollout_id] = (state.phase, state.step)
        for event_ms, text in sorted(lines, key=lambda line: line[0]):
            if (event_ms, text) not in known:
                self._diary.tell(event_ms, text)


def _new_key(platform: Platform, model: str) -> bytes:
    """The secret of a new key of the second person, good only for rollouts of the model."""
    now_ms = platform.clock.wall_ms()
    with suppress(NotFound):
        platform.keys.revoke(APPROVER, now_ms)  # of a demo that was stopped
    scopes = frozenset({Scope(model, "approve")})
    _, secret = create_key(
        platform.keys, APPROVER, scopes, priority="background", limit=None, now_ms=now_ms
    )
    return secret.encode()


def _incident_words(incident: Any) -> str:
    changed = datetime.fromtimestamp(incident.found.changed_ms / 1000, UTC).strftime("%d %b")
    if incident.state == "open":
        reasons = "; ".join(incident.found.evidence.get("reasons", [])[:2])
        return f"{incident.found.kind} since {changed}: incident {incident.id} opened ({reasons})"
    return f"incident {incident.id}: {incident.state}, {incident.note}"


def gates_that_stopped(facts: Sequence[Transition]) -> set[str]:
    """Names of the gates that were UNHEALTHY when a rollout was rolled back."""
    last = facts[-1] if facts else None
    if not isinstance(last, RolledBack):
        return set()
    gates: dict[str, Any] = last.evidence.get("gates", {})
    return {name for name, gate in gates.items() if gate["verdict"] == "UNHEALTHY"}
