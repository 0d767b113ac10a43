"""Opinions of analysts on one decision, and when they make a label: pure rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlplatform.rollouts.journal.state import appearances
from mlplatform.runtime.errors import InputInvalid, Refused

REVIEW: Final = "review"
"""Key of a label's payload that holds an analyst's opinion."""
_BY_APPLICATION: Final = "the application corrects it by sending the right one (docs/calling.md)"


@dataclass(frozen=True, slots=True)
class Account:
    """A person's account at an identity provider; it identifies the person even if the name
    changes."""

    issuer: str
    subject: str

    def __str__(self) -> str:
        return f"subject {self.subject} of {self.issuer}"


@dataclass(frozen=True, slots=True)
class Opinion:
    """One analyst's opinion on a decision.

    Args:
        outcome: 1 if the request was what the model looks for, otherwise 0.
        note: the reason in the analyst's words; may be empty.
        account: the analyst's account at an identity provider; None if a key proved the analyst.
    """

    analyst: str
    outcome: int
    note: str = ""
    account: Account | None = None

    def is_by(self, analyst: str, account: Account | None) -> bool:
        """Whether this person stated the opinion. Two accounts of one provider are compared by
        subject, two keys by name, and any other pair by names that look alike to a reader."""
        own = self.account
        if own is not None and account is not None and own.issuer == account.issuer:
            return own == account
        if own is None and account is None:
            return self.analyst == analyst
        return bool(appearances(self.analyst) & appearances(analyst))

    def is_by_author_of(self, other: Opinion) -> bool:
        """Whether the same person stated both opinions."""
        return self.is_by(other.analyst, other.account)


@dataclass(frozen=True, slots=True)
class Consensus:
    """The opinion becomes the decision's label.

    Args:
        agreed: names of the others who said the same before, in order.
    """

    agreed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OpenOpinion:
    """The opinion is stored, and becomes a label when another person states the same.

    Args:
        differs: whether somebody stated the opposite before.
    """

    differs: bool


def weigh(opinions: Sequence[Opinion], now: Opinion, *, four_eyes: bool) -> Consensus | OpenOpinion:
    """The result of an opinion after those on record; only each person's last opinion counts.

    Args:
        opinions: earlier opinions, oldest first.
        four_eyes: whether a label needs the same answer of two people.

    Raises:
        Refused: this person has given the same answer already, and nobody can confirm their own
            answer.
    """
    if not four_eyes:
        return Consensus(())
    last = _last_opinions(opinions)
    mine = [o for o in last if o.is_by_author_of(now)]
    others = [o for o in last if not o.is_by_author_of(now)]
    agreed = tuple(sorted(o.analyst for o in others if o.outcome == now.outcome))
    if agreed:
        return Consensus(agreed)
    if any(o.outcome == now.outcome for o in mine):
        raise Refused(
            f"{now.analyst} has given this answer already: another person has to confirm it"
        )
    return OpenOpinion(differs=bool(others))


def is_disputed(opinions: Sequence[Opinion]) -> bool:
    """Whether people's last opinions contradict each other."""
    return len({o.outcome for o in _last_opinions(opinions)}) > 1


def _last_opinions(opinions: Sequence[Opinion]) -> list[Opinion]:
    found: list[Opinion] = []
    for now in opinions:
        found = [*(o for o in found if not o.is_by_author_of(now)), now]
    return found


def payload(now: Opinion, agreed: Sequence[str] = ()) -> dict[str, Any]:
    """The part of a record's payload that holds an opinion, or the opinion that became a label."""
    answer: dict[str, Any] = {"outcome": now.outcome}
    if now.note:
        answer["note"] = now.note
    if now.account is not None:
        answer["issuer"], answer["subject"] = now.account.issuer, now.account.subject
    if agreed:
        answer["agreed"] = list(agreed)
    return {REVIEW: answer}


def opinion(held: Mapping[str, Any]) -> Opinion | None:
    """The opinion in the payload of a label's record; None if no analyst stated it.

    Args:
        held: the payload, with the name of its client.
    """
    answer = held.get(REVIEW)
    if not isinstance(answer, Mapping) or answer.get("outcome") not in (0, 1):
        return None
    analyst, note = held.get("client"), answer.get("note", "")
    issuer, subject = answer.get("issuer"), answer.get("subject")
    account = Account(str(issuer), str(subject)) if issuer and subject else None
    return Opinion(str(analyst), int(answer["outcome"]), str(note), account)


def words(label: str) -> dict[str, int]:
    """Word → outcome, by the name of the model's label: `NAME` is 1, `not-NAME` is 0."""
    return {label: 1, f"not-{label}": 0}


def outcome_text(outcome: int, label: str) -> str:
    """The word for an outcome, as people read it."""
    name = label.replace("_", " ")
    return name if outcome else f"not {name}"


def outcome_of(text: str, label: str) -> int:
    """The outcome that a person's text names: by word, or by the stored label 1 or 0.

    Raises:
        InputInvalid: the text names no outcome.
    """
    known = {**words(label), "1": 1, "0": 0}
    by_word = {word.casefold(): outcome for word, outcome in known.items()}
    found = by_word.get(text.strip().casefold())
    if found is None:
        wanted = ", ".join(known)
        raise InputInvalid(
            "the outcome", None, f"{text[:40]!a} is not an outcome; wanted: {wanted}"
        )
    return found


@dataclass(frozen=True, slots=True)
class ReviewableDecision:
    """A decision that can be reviewed, and its opinions, oldest first.

    Args:
        label: the label that an analyst gave it and another opinion may correct, 0 or 1; None if
            it has none. Opinions are then those since that label.
        labelled_by: name of the analyst who gave that label; empty if it has none.
    """

    decision_id: str
    model: str
    decision: str
    opinions: tuple[Opinion, ...]
    label: int | None = None
    labelled_by: str = ""


def reviewable_decision(
    decision_id: str, model: str, records: Iterable[Mapping[str, Any]], reviewed: Sequence[str]
) -> ReviewableDecision:
    """The decision and its opinions, from the log's records.

    Args:
        records: records with every column and the payload parsed, in any order.
        reviewed: names of the outcomes that are reviewed.

    Raises:
        Refused: the decision has a label, was taken back, or is not one that is reviewed.
    """
    decision, labels = _decision_and_labels(decision_id, model, records)
    valued = [r for r in labels if r["label"] is not None]
    if valued:
        held = valued[-1]["payload"] or {}
        known = f"{decision_id} has a label by now, from {held.get('client') or 'an application'}"
        if opinion(held) is None:
            raise Refused(f"{known}: {_BY_APPLICATION}")
        raise Refused(
            f"{known}; if it is wrong, `mlplatform review correct {decision_id} OUTCOME` or the"
            " review page corrects it"
        )
    if decision not in reviewed:
        if not reviewed:
            why = "reviewers answer yes or no, and its labels are classes or numbers"
            raise Refused(f"decisions of {model} are not reviewed: {why}")
        known = ", ".join(reviewed)
        what = f"decided {decision}" if decision else "not a decision"
        raise Refused(f"{decision_id} is {what}; people review only decisions of {known}")
    return ReviewableDecision(decision_id, model, decision, _opinions(labels))


@dataclass(frozen=True, slots=True)
class CorrectionOpinion:
    """One person's opinion on a label since it was given.

    Args:
        at_ms: wall time of it.
    """

    opinion: Opinion
    at_ms: int


@dataclass(frozen=True, slots=True)
class PendingCorrection:
    """A label that somebody asks to correct, and which waits for another person.

    Args:
        label: the label that the decision has, 0 or 1.
        labelled_by: name of the analyst who gave it.
        opinions: the last opinion of each person since then, oldest first: who asks for the other
            outcome, and who says that the label is right.
        event_ms: event time of the newest of them.
    """

    decision_id: str
    decision: str
    label: int
    labelled_by: str
    opinions: tuple[CorrectionOpinion, ...]
    event_ms: int

    @property
    def asks(self) -> tuple[CorrectionOpinion, ...]:
        """The opinions that ask for the other outcome."""
        return tuple(one for one in self.opinions if one.opinion.outcome != self.label)

    @property
    def keeps(self) -> tuple[CorrectionOpinion, ...]:
        """The opinions that the label is right."""
        return tuple(one for one in self.opinions if one.opinion.outcome == self.label)

    @property
    def asked_ms(self) -> int:
        """Wall time since which the correction waits."""
        return min(one.at_ms for one in self.asks)


def pending_correction(
    decision_id: str, model: str, records: Iterable[Mapping[str, Any]]
) -> PendingCorrection | None:
    """The correction of a label that waits for another person; None if none does.

    Args:
        records: records with every column and the payload parsed, in any order.
    """
    try:
        found, since = _label_and_since(decision_id, model, records)
    except Refused:
        return None
    held = [(row, opinion(row["payload"] or {})) for row in since]
    last = _last_opinions([one for _, one in held if one is not None])
    if not asks_otherwise(last, found.label):
        return None
    at_ms = {id(one): int(row["recorded_ms"]) for row, one in held}
    return PendingCorrection(
        decision_id,
        found.decision,
        int(found.label or 0),
        found.labelled_by,
        tuple(CorrectionOpinion(one, at_ms[id(one)]) for one in last),
        max(int(row["event_ms"]) for row, one in held if one is not None),
    )


def asks_otherwise(opinions: Sequence[Opinion], label: int | None) -> bool:
    """Whether the last opinion of anybody is another outcome than the label."""
    return any(one.outcome != label for one in _last_opinions(opinions))


def last_opinion(
    opinions: Sequence[Opinion], analyst: str, account: Account | None
) -> Opinion | None:
    """The last of these opinions that this person stated; None if there is none."""
    return next((one for one in reversed(opinions) if one.is_by(analyst, account)), None)


def labelled_decision(
    decision_id: str, model: str, records: Iterable[Mapping[str, Any]]
) -> ReviewableDecision:
    """The decision with the label that an analyst gave it, which another opinion may correct.

    Args:
        records: records with every column and the payload parsed, in any order.

    Raises:
        Refused: the decision has no label, has one of an application, or was taken back.
    """
    return _label_and_since(decision_id, model, records)[0]


def _label_and_since(
    decision_id: str, model: str, records: Iterable[Mapping[str, Any]]
) -> tuple[ReviewableDecision, Sequence[Mapping[str, Any]]]:
    """The labelled decision, and the records of opinions since that label."""
    decision, labels = _decision_and_labels(decision_id, model, records)
    last = max((n for n, r in enumerate(labels) if r["label"] is not None), default=None)
    if last is None:
        raise Refused(
            f"{decision_id} has no label to correct: `mlplatform review record {decision_id}"
            " OUTCOME` says how it turned out"
        )
    held = labels[last]["payload"] or {}
    current = opinion(held)
    if current is None:
        client = held.get("client") or "an application"
        raise Refused(f"the label of {decision_id} is of {client}: {_BY_APPLICATION}")
    since, value = labels[last + 1 :], int(labels[last]["label"])
    found = ReviewableDecision(
        decision_id, model, decision, _opinions(since), value, current.analyst
    )
    return found, since


def _decision_and_labels(
    decision_id: str, model: str, records: Iterable[Mapping[str, Any]]
) -> tuple[str, list[Mapping[str, Any]]]:
    """The outcome of a decision, and the records of its labels and opinions in order of arrival."""
    own = [r for r in records if r["model"] == model and r["decision_id"] == decision_id]
    decided = [r["decision"] for r in own if r["kind"] == "decision"]
    if not decided:
        raise Refused(f"no decision {decision_id!a} of {model} is in the log")
    if any(r["kind"] == "void" for r in own):
        raise Refused(f"decision {decision_id} was voided: its outcome can't be given any more")
    labels = (r for r in own if r["kind"] == "label")
    return decided[0], sorted(
        labels, key=lambda r: (r["event_ms"], r["recorded_ms"], r["seq"] or 0)
    )


def _opinions(labels: Iterable[Mapping[str, Any]]) -> tuple[Opinion, ...]:
    found = (opinion(r["payload"] or {}) for r in labels)
    return tuple(one for one in found if one is not None)
