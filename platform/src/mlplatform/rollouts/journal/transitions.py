"""The transitions of a rollout: the closed union of facts that its journal holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mlplatform.learning.validation.report_entries import ValidationReport
from mlplatform.model.routes import Arm
from mlplatform.runtime.canonical import digest

if TYPE_CHECKING:  # msgspec drops what a TypedDict does not name, and digests are of all of it
    from mlplatform.rollouts.journal.evidence import Evidence
else:
    Evidence = dict[str, Any]
Answer = Literal["approve", "reject"]


class ProvenIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a person that an identity provider has proven.

    Args:
        issuer, subject: issuer and subject of the proof; together they identify one account
            permanently.
        known_as: other names of that account by which a reader may know the person.
    """

    issuer: str
    subject: str
    known_as: tuple[str, ...] = ()

    @property
    def account(self) -> tuple[str, str]:
        """Issuer and subject."""
        return self.issuer, self.subject

    def __str__(self) -> str:
        return f"subject {self.subject} of {self.issuer}"


class _Fact(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """The fields of every transition.

    Args:
        event_ms, wall_ms: event time and wall time of the transition.
        actor: pass or person that made the transition.
        evidence: canonical JSON values: counts per arm, gate values, watermarks, log ranges.
        identity: identity of the actor that an identity provider proved; None for a pass or a key.
    """

    rollout_id: str
    model: str
    event_ms: int
    wall_ms: int
    actor: str
    reason: str
    evidence: Evidence = {}
    identity: ProvenIdentity | None = None

    @property
    def evidence_digest(self) -> str:
        """The digest that an approval is bound to."""
        return digest(self.evidence)


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """A plan's statement about shadow (`percent` None) or about a canary step.

    Args:
        hours: median duration in event time; None means far beyond the deadline.
        passes: chance (0-1) that a challenger as good as the champion passes by the deadline.
        decides: name of the gate, or of the sample, that is complete last.
        exposed: number of customers that a harmful challenger (twice the stop limit) has answered
            by the end of the step, on average, at the gate that lets most through.
    """

    percent: float | None
    hours: float | None
    deadline_h: float
    passes: float
    decides: str
    exposed: int


class RolloutPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of a rollout when it was opened.

    Args:
        history_h: number of hours of the log from which the plan was made.
        requests_h: requests per hour.
        refusal: reason why the rollout can't decide in time; empty if it can.
        missing: reason why there is no plan; empty if there is one.
        despite: reason why somebody opened the rollout although the plan refused it.
    """

    history_h: float = 0.0
    requests_h: float = 0.0
    steps: tuple[PlannedStep, ...] = ()
    refusal: str = ""
    missing: str = ""
    despite: str = ""


class Opened(_Fact, frozen=True, tag="opened"):
    """A rollout of this version was opened; a bootstrap has no champion to compare with.

    Args:
        validation: gate report of the version as the registry held it; empty if an earlier release
            opened the rollout.
        approval: setting of model.yaml at that time; None if an earlier release opened the rollout
            and did not record it.
        plan: plan of the rollout; None if an earlier release opened it.
        emergency: the version is promoted at once; the promotion is undone unless a second person
            confirms it in time.
    """

    challenger: Arm
    author: str
    alert_low: float
    alert_high: float
    bootstrap: bool
    validation: ValidationReport = {}
    approval: Literal["required", "none"] | None = None
    plan: RolloutPlan | None = None
    emergency: bool = False


class DeployRefused(_Fact, frozen=True, tag="deploy-refused"):
    """The service can't be started now; the reason has the numbers. It begins no phase."""


class ShadowStarted(_Fact, frozen=True, tag="shadow"):
    """Copies of answered requests go to the challenger; `displaced` is the rollout that the routes
    named before."""

    displaced: str | None


class ApprovalAsked(_Fact, frozen=True, tag="approval-asked"):
    """A person is asked for an approval; the answer must name the digest of this transition's
    evidence."""


class Answered(_Fact, frozen=True, tag="answered"):
    """A person's answer, written before anything follows from it.

    Args:
        bound_to: digest of the evidence that the approver was shown.
        proven_by: how the platform proved the approver; empty if an earlier release accepted a
            name.
    """

    answer: Answer
    approver: str
    bound_to: str
    proven_by: str = ""


class Paused(_Fact, frozen=True, tag="paused"):
    """A person paused the rollout: it takes no step forward until it is resumed."""


class Resumed(_Fact, frozen=True, tag="resumed"):
    """The rollout goes on; the time of the pause counts for no deadline."""


class CanaryStepped(_Fact, frozen=True, tag="canary"):
    """The challenger answers a share of the customers."""

    step: int
    percent: float


class Promoted(_Fact, frozen=True, tag="promoted"):
    """The challenger is champion, provisionally; its predecessor stays deployed."""

    predecessor: Arm | None


class Confirmed(_Fact, frozen=True, tag="confirmed"):
    """The promotion stands."""


class Superseded(_Fact, frozen=True, tag="superseded"):
    """A later champion was confirmed before this promotion was."""


class RolledBack(_Fact, frozen=True, tag="rolled-back"):
    """The challenger answers no requests any more."""


Transition = (
    Opened
    | DeployRefused
    | ShadowStarted
    | ApprovalAsked
    | Answered
    | Paused
    | Resumed
    | CanaryStepped
    | Promoted
    | Confirmed
    | Superseded
    | RolledBack
)

_decoder: msgspec.json.Decoder[Transition] = msgspec.json.Decoder(Transition)


def encode(transition: Transition) -> bytes:
    """The transition in the journal's encoding."""
    return msgspec.json.encode(transition, order="sorted")


def decode(text: bytes) -> Transition:
    """The transition that a journal row holds.

    Raises:
        msgspec.ValidationError: the row holds no transition that this release knows.
    """
    return _decoder.decode(text)
