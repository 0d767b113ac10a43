"""The CloudEvent of a journal's fact, made from the fact alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, assert_never

from mlplatform.rollouts.drift.incidents import IncidentFact
from mlplatform.rollouts.journal.controls import (
    Control,
    Killed,
    KillLifted,
    StopsCleared,
    VariantRemoved,
    VariantsAnswering,
    VariantsEnded,
    VariantsRaised,
    VariantsStarted,
)
from mlplatform.rollouts.journal.journal import JournalFact
from mlplatform.rollouts.journal.transitions import (
    Answered,
    ApprovalAsked,
    CanaryStepped,
    Confirmed,
    DeployRefused,
    Opened,
    Paused,
    Promoted,
    Resumed,
    RolledBack,
    ShadowStarted,
    Superseded,
    Transition,
)
from mlplatform.runtime.times import rfc3339_text

Fact = JournalFact | IncidentFact
PREFIX: Final = "mlplatform"
MOST_REASON: Final = 500
"""Most characters of a reason in an event; the page shows all of it."""
DIGITS: Final = 16
"""Number of digits of a digest in an id. They tell apart two journals with the same numbers (a
restored one, or another home's)."""


@dataclass(frozen=True, slots=True)
class EventType:
    """One kind of event.

    Args:
        name: the CloudEvent's `type`.
        meaning: text that says what has happened; it heads a message to people.
        action: text that says what a person must do; empty if nothing.
    """

    name: str
    meaning: str
    action: str = ""


def _rollout(name: str, meaning: str, action: str = "") -> EventType:
    return EventType(f"{PREFIX}.rollout.{name}", meaning, action)


def _model(name: str, meaning: str, action: str = "") -> EventType:
    return EventType(f"{PREFIX}.model.{name}", meaning, action)


def _incident(name: str, meaning: str, action: str = "") -> EventType:
    return EventType(f"{PREFIX}.incident.{name}", meaning, action)


OPENED: Final = _rollout("opened", "A rollout was opened")
EMERGENCY: Final = _rollout(
    "emergency-opened", "One person promotes a version at once",
    "A second person confirms it with `mlplatform rollouts approve`, or it is undone after a day.",
)  # fmt: skip
DEPLOY_REFUSED: Final = _rollout(
    "deploy-refused", "The service of a version can't be started",
    "Make room for it, or abort the rollout (`mlplatform rollouts abort`). Until the deadline the "
    "start is tried again.",
)  # fmt: skip
SHADOW: Final = _rollout("shadow-started", "A challenger gets copies of answered requests")
APPROVAL_ASKED: Final = _rollout(
    "approval-asked", "A rollout waits for an approval",
    "Look at the evidence, and approve or reject it. The author of the version can't.",
)  # fmt: skip
APPROVED: Final = _rollout("approved", "A person approved a rollout")
REJECTED: Final = _rollout("rejected", "A person rejected a rollout")
CANARY: Final = _rollout("canary-stepped", "A challenger answers a share of the customers")
PROMOTED: Final = _rollout(
    "promoted-provisionally", "A challenger became champion for now: labels will confirm it or not",
    "Watch it: until it is confirmed, `mlplatform rollouts rollback` undoes it at once.",
)  # fmt: skip
CONFIRMED: Final = _rollout("confirmed", "A promotion stands")
SUPERSEDED: Final = _rollout("superseded", "A later champion was confirmed before this one")
ROLLED_BACK: Final = _rollout(
    "rolled-back", "A rollout was rolled back: its version answers no customers any more",
    "See why with `mlplatform rollouts show ID` before another version is rolled out.",
)  # fmt: skip
PAUSED: Final = _rollout(
    "paused", "A person paused a rollout", "Resume or abort it once the reason is gone."
)
RESUMED: Final = _rollout("resumed", "A rollout goes on")
KILLED: Final = _model(
    "killed", "A model is switched off: the fallback of its chain decides",
    "Find out why, and switch it on again with `mlplatform rollouts lift`.",
)  # fmt: skip
LIFTED: Final = _model("kill-lifted", "A model is switched on again")
CLEARED: Final = _model("stops-cleared", "Versions that gateways had stopped are asked again")
TEST_STARTED: Final = _model("variants-started", "A person started an A/B/n test")
TEST_ANSWERS: Final = _model("variants-answering", "The variants of a test answer customers")
TEST_RAISED: Final = _model("variants-raised", "Variants of a test get more customers")
TEST_REMOVED: Final = _model(
    "variant-removed", "A variant was taken out of a test: the champion answers its customers",
    "Read why with `mlplatform variants show MODEL`; the other variants of the test go on.",
)  # fmt: skip
TEST_ENDED: Final = _model(
    "variants-ended", "An A/B/n test is over: the champion answers everybody",
    "Compare the versions with `mlplatform variants show MODEL`, and roll out the better one.",
)  # fmt: skip
INCIDENT_OPENED: Final = _incident(
    "opened", "A model has drifted, finds less than before, or gets broken data",
    "Look at the incident. Mend broken data at its source; otherwise a retrain follows by itself.",
)  # fmt: skip
INCIDENT_CLAIMED: Final = _incident("claimed", "A retrain works on an incident")
INCIDENT_ANSWERED: Final = _incident(
    "answered", "A retrain has ended",
    "See how it ended. A new version rolls out; where there is none, a person has to decide.",
)  # fmt: skip
INCIDENT_CLOSED: Final = _incident("closed", "An incident is closed")
TEST: Final = EventType(f"{PREFIX}.test", "A test of this receiver, by `mlplatform events test`")
TYPES: Final = (
    OPENED, EMERGENCY, DEPLOY_REFUSED, SHADOW, APPROVAL_ASKED, APPROVED, REJECTED, CANARY, PROMOTED,
    CONFIRMED, SUPERSEDED, ROLLED_BACK, PAUSED, RESUMED, KILLED, LIFTED, CLEARED, TEST_STARTED,
    TEST_ANSWERS, TEST_RAISED, TEST_REMOVED, TEST_ENDED, INCIDENT_OPENED, INCIDENT_CLAIMED,
    INCIDENT_ANSWERED, INCIDENT_CLOSED, TEST,
)  # fmt: skip
"""All types of events; docs/events.md lists them."""

_INCIDENT: Final = {
    "open": INCIDENT_OPENED,
    "claimed": INCIDENT_CLAIMED,
    "answered": INCIDENT_ANSWERED,
    "closed": INCIDENT_CLOSED,
}


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """An event as CloudEvents 1.0 has it.

    Args:
        id: id of the fact, made from the journal's numbers and digests; a repeated event has the
            same id.
        source: address of the platform's page.
        subject: id of the rollout or incident; events of one subject keep their order.
        time_ms: wall time of the fact.
        data: plain JSON: `model`, `reason`, `link`, and further fields that depend on the kind of
            fact.
    """

    id: str
    type: EventType
    source: str
    subject: str
    time_ms: int
    data: Mapping[str, Any]

    def to_structured(self) -> dict[str, Any]:
        """The event in structured mode. Source: CloudEvents 1.0.2, JSON event format, section 3."""
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type.name,
            "subject": self.subject,
            "time": rfc3339_text(self.time_ms),
            "datacontenttype": "application/json",
            "data": {"meaning": self.type.meaning, "action": self.type.action, **self.data},
        }


def event_of(fact: Fact, page: str, redacted: Callable[[str], str]) -> CloudEvent:
    """The event of a fact.

    It holds no evidence, no names of people, and only texts that the platform wrote: the page shows
    what people typed.

    Args:
        page: address of the platform's page, without a slash at its end.
        redacted: removes personal values from a text.
    """
    match fact:
        case JournalFact(position, chain, transition):
            rollout = getattr(transition, "rollout_id", None)
            link = page if rollout is None else f"{page}/rollouts/{rollout}"
            return CloudEvent(
                id=f"rollout-{position}-{chain[:DIGITS]}",
                type=_type_of(transition),
                source=page,
                subject=rollout or transition.model,
                time_ms=transition.wall_ms,
                data={
                    **_data(transition.model, _reason(transition), link, redacted),
                    **_details(transition),
                },
            )
        case IncidentFact(position, name, model, kind, champion, change):
            data = _data(model, change.note, f"{page}/incidents/{name}", redacted)
            return CloudEvent(
                id=f"incident-{position}-{name}-{change.number}-{change.at_ms}",
                type=_INCIDENT[change.state],
                source=page,
                subject=name,
                time_ms=change.at_ms,
                data={**data, "kind": kind, "champion_version": champion, "claim": change.claim},
            )
        case _:
            assert_never(fact)


def event_of_test(receiver: str, page: str, now_ms: int) -> CloudEvent:
    """The event that `mlplatform events test` sends; each has an id of its own."""
    data = {"model": "", "reason": f"sent to {receiver} by hand", "link": f"{page}/"}
    return CloudEvent(f"test-{receiver}-{now_ms}", TEST, page, receiver, now_ms, data)


def _data(model: str, reason: str, link: str, redacted: Callable[[str], str]) -> dict[str, Any]:
    return {"model": model, "reason": redacted(reason)[:MOST_REASON], "link": link}


def _type_of(transition: Transition | Control) -> EventType:
    match transition:
        case Opened():
            return EMERGENCY if transition.emergency else OPENED
        case Paused():
            return PAUSED
        case Resumed():
            return RESUMED
        case Killed():
            return KILLED
        case KillLifted():
            return LIFTED
        case StopsCleared():
            return CLEARED
        case VariantsStarted():
            return TEST_STARTED
        case VariantsAnswering():
            return TEST_ANSWERS
        case VariantsRaised():
            return TEST_RAISED
        case VariantRemoved():
            return TEST_REMOVED
        case VariantsEnded():
            return TEST_ENDED
        case DeployRefused():
            return DEPLOY_REFUSED
        case ShadowStarted():
            return SHADOW
        case ApprovalAsked():
            return APPROVAL_ASKED
        case Answered():
            return APPROVED if transition.answer == "approve" else REJECTED
        case CanaryStepped():
            return CANARY
        case Promoted():
            return PROMOTED
        case Confirmed():
            return CONFIRMED
        case Superseded():
            return SUPERSEDED
        case RolledBack():
            return ROLLED_BACK
        case _:
            assert_never(transition)


def _details(transition: Transition | Control) -> dict[str, Any]:
    match transition:
        case Opened():
            return {"challenger_version": transition.challenger.version}
        case ApprovalAsked():
            return {"evidence_digest": transition.evidence_digest}
        case Answered():
            return {"evidence_digest": transition.bound_to}
        case CanaryStepped():
            return {"step": transition.step, "percent": transition.percent}
        case VariantsStarted() | VariantsRaised():
            shares = {str(v.arm.version): v.percent for v in transition.variants}
            return {"test": transition.test_id, "percent_by_version": shares}
        case VariantsAnswering() | VariantsEnded():
            return {"test": transition.test_id}
        case VariantRemoved():
            return {"test": transition.test_id, "version": transition.version}
        case _:
            return {}


def _reason(transition: Transition | Control) -> str:
    """The transition's reason; empty if a person may have typed it or is named in it."""
    typed = Opened | Answered | Paused | Resumed | Killed | KillLifted | StopsCleared
    of_test = VariantsStarted | VariantsRaised | VariantsEnded
    if isinstance(transition, typed | of_test):
        return ""
    if isinstance(transition, VariantsAnswering | VariantRemoved):  # a pass wrote it
        return transition.reason
    moved = isinstance(transition, CanaryStepped | Promoted | RolledBack)
    is_verdict = not isinstance(transition, typed) and bool(
        {"verdict", "stopped"} & set(transition.evidence)
    )
    return "" if moved and not is_verdict else transition.reason
