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
        issuer, subject: of the proof: together they name one account, for ever.
        known_as: other names of that account there, by which a reader may know the person.
    """

    issuer: str
    subject: str
    known_as: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"subject {self.subject} of {self.issuer}"


class _Fact(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """The fields of every transition.

    Args:
        event_ms, wall_ms: when it happened, on both clocks.
        actor: the pass or the person behind it.
        evidence: canonical JSON values: counts per arm, gate values, watermarks, log ranges.
        identity: of the actor, where an identity provider proved it; None: a pass or a key.
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
        hours: median, of event time; None: far beyond the deadline.
        passes: chance (0-1) that a challenger as good as the champion passes by the deadline.
        decides: the gate, or the sample, that is shown last.
        exposed: customers whom a challenger with twice the harm that stops has answered by the
            step's end, on average, at the gate that lets most through.
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
        history_h: hours of the log that it was made from.
        requests_h: requests in one of them.
        refusal: why it can't decide in time; empty: it can.
        missing: why there is no plan; empty: there is one.
        despite: why somebody opened the rollout though it was refused.
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
        validation: the version's gate report as the registry kept it. Empty where an earlier
            release opened the rollout.
        approval: what model.yaml asked for then; None: an earlier release opened it, which did not
            record that.
        plan: None where an earlier release opened it.
        emergency: it is promoted at once, and undone unless a second person confirms it in time.
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
        bound_to: digest of the evidence that was shown.
        proven_by: how the platform knew the approver; empty where an earlier release took a name.
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
        msgspec.ValidationError: the row holds no transition that this version knows.
    """
    return _decoder.decode(text)
