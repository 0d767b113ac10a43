"""One drift check of a model: observe, decide, carry out, and return the requests to others.

Every check may be the first after a crash. It reads the journal and takes the steps that are due; a
step that is taken twice changes nothing. A request names the incident and its claim, so that a
repeated request counts once.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final, assert_never

from mlplatform.model.definition import ModelDefinition
from mlplatform.rollouts.drift.incidents import (
    KINDS,
    FinishedIncident,
    HeldClaim,
    Incident,
    IncidentClaim,
)
from mlplatform.rollouts.drift.next_step import (
    CloseIncident,
    IncidentStatus,
    Observation,
    OpenIncident,
    OpenRollout,
    next_step,
)
from mlplatform.rollouts.drift.observe import Champion, champion_of, incident_status, observe
from mlplatform.rollouts.drift.ports import DriftPorts
from mlplatform.rollouts.drift.retrain import Page, Retrain, RetrainDecision, Wait
from mlplatform.runtime.errors import Busy

MAX_STEPS: Final = 5
"""Most steps of one kind in a check: close an incident, open another, open its answer's rollout,
and the step that is due then."""


@dataclass(frozen=True, slots=True)
class RetrainRequest:
    """A request for a retrain, one for each claim of an incident; `as_of_ms` is event time."""

    model: str
    incident: str
    claim: int
    as_of_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class PersonRequest:
    """A request that a person looks at an incident, one for each state of the incident's
    journal."""

    model: str
    incident: str
    change: int
    reason: str


@dataclass(frozen=True, slots=True)
class IncidentCheck:
    """An incident that is still open when a check ends.

    Args:
        opened: this check opened the incident.
        decision: next action for the incident.
        request: request that the caller must pass on; None if there is none.
    """

    incident: Incident
    opened: bool
    decision: RetrainDecision
    request: RetrainRequest | PersonRequest | None


@dataclass(frozen=True, slots=True)
class DriftCheck:
    """The observations and actions of one check; `incidents` has at most one incident of each
    kind."""

    observation: Observation
    champion: Champion
    wall_ms: int
    incidents: tuple[IncidentCheck, ...] = ()

    @property
    def opened(self) -> bool:
        """Whether this check opened an incident."""
        return any(f.opened for f in self.incidents)

    @property
    def requests(self) -> tuple[RetrainRequest | PersonRequest, ...]:
        """The requests that the caller passes on."""
        return tuple(f.request for f in self.incidents if f.request is not None)

    @property
    def summary(self) -> str:
        """The verdicts, the incidents and what was decided, in a few sentences."""
        observation = self.observation
        verdict, performance = observation.verdict, observation.performance
        sentences = [
            f"{verdict.outcome}: {'; '.join(verdict.reasons)}",
            f"performance {performance.health}: {'; '.join(performance.reasons)}",
        ]
        sentences += [
            f"Incident {f.incident.id} is {f.incident.state}. "
            f"{type(f.decision).__name__}: {f.decision.reason}"
            for f in self.incidents
        ]
        return ". ".join(sentences)


def run_check(definition: ModelDefinition, ports: DriftPorts, *, holder: str) -> DriftCheck:
    """Take every step that is due for a model, and return the requests to others.

    Args:
        holder: name under which an incident is claimed.

    Raises:
        NotFound: the model has no champion yet.
    """
    now_ms, wall_ms = ports.clock.event_ms(), ports.clock.wall_ms()
    champion = champion_of(definition.name, ports)
    observation = observe(definition, ports, champion, now_ms)
    found = [
        _check_incident(
            definition, ports, observation, kind, holder=holder, now_ms=now_ms, wall_ms=wall_ms
        )
        for kind in KINDS
    ]
    return DriftCheck(observation, champion, wall_ms, tuple(f for f in found if f is not None))


def _check_incident(
    definition: ModelDefinition,
    ports: DriftPorts,
    observation: Observation,
    kind: str,
    *,
    holder: str,
    now_ms: int,
    wall_ms: int,
) -> IncidentCheck | None:
    """Take every step that is due for one kind of incident. Returns None if no incident of this
    kind is open at the end."""
    opened = False
    refusal: str | None = None
    for _ in range(MAX_STEPS):
        under_way = ports.incidents.list(definition.name, closed=False)
        incident = next((i for i in under_way if i.found.kind == kind), None)
        status = IncidentStatus()
        if incident is not None:
            status = incident_status(definition, ports, incident, now_ms)
        step = next_step(
            *(definition, observation, kind, incident, status),
            wall_ms=wall_ms,
            refusal=refusal,
        )
        match step:
            case OpenIncident(found):
                ports.incidents.open(found, now_ms=wall_ms)
                opened = True
            case CloseIncident(closed, resolution, ended_ms):
                ports.incidents.close(closed, resolution, now_ms=wall_ms, ended_ms=ended_ms)
            case OpenRollout(version):
                refusal = ""
                with contextlib.suppress(Busy):  # the next check tries again
                    refusal = ports.open_rollout(version) or ""
            case Wait() | Page() | Retrain():
                break
            case _:
                assert_never(step)
    else:
        raise AssertionError(f"the drift check of {definition.name} does not end")
    if incident is None:
        return None
    if isinstance(step, Wait) and step.noted:
        ports.incidents.note(incident.id, step.reason, now_ms=wall_ms)
    claim_s = definition.drift.claim_s
    request = ask(ports, incident, step, holder=holder, claim_s=claim_s, wall_ms=wall_ms)
    return IncidentCheck(incident, opened, step, request)


def ask(
    ports: DriftPorts,
    incident: Incident,
    decision: RetrainDecision,
    *,
    holder: str,
    claim_s: int,
    wall_ms: int,
) -> RetrainRequest | PersonRequest | None:
    """The request that a decision makes, after taking the claim that it needs.

    While a claim holds, every check makes the same request again. A repeated request starts nothing
    new, and a lost one starts then. Once the claim has expired without an answer, the next claim
    makes a new request.
    """
    model = incident.found.model
    match decision:
        case Retrain():
            until_ms = wall_ms + claim_s * 1000
            outcome = ports.incidents.claim(incident.id, holder, until_ms=until_ms, now_ms=wall_ms)
            match outcome:
                case IncidentClaim(claim=claim) | HeldClaim(claim=claim):
                    as_of_ms, reason = decision.as_of_ms, decision.reason
                    return RetrainRequest(model, incident.id, claim, as_of_ms, reason)
                case FinishedIncident():
                    return None
        case Page():
            return PersonRequest(model, incident.id, len(incident.changes), decision.reason)
        case Wait():
            return None
