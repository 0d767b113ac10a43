"""The review queue as the page shows it: rows, the decision that is asked about, answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mlplatform.model.definition import ModelDefinition
from mlplatform.operations.actions.review import ReviewResult
from mlplatform.operations.review.opinions import (
    Account,
    CorrectionOpinion,
    PendingCorrection,
    ReviewableDecision,
    asks_otherwise,
    last_opinion,
    outcome_text,
    words,
)
from mlplatform.operations.review.queue import QueueCursor, QueuedDecision
from mlplatform.runtime.errors import InputInvalid

MOST_ID: Final = 64
_PLACE: Final = re.compile(r"(-?\d[\d.e+-]{0,30}):([\x21-\x7e]{1,64})")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the two answers, with its key on the keyboard.

    Args:
        word: the value that the form sends.
        says: the text of its button.
    """

    word: str
    says: str
    key: str


@dataclass(frozen=True, slots=True)
class PastOpinion:
    """An earlier opinion on a decision."""

    analyst: str
    says: str
    note: str


@dataclass(frozen=True, slots=True)
class Row:
    """One decision of the queue.

    Args:
        fields: name and value of the request fields that model.yaml allows to show.
        reasons: reasons in words if the model's folder has them, otherwise their codes.
        opinions: opinions of analysts, oldest first.
        mine: whether the reader has stated an opinion on it.
    """

    decision_id: str
    event_ms: int
    decision: str
    score: float | None
    version: int | None
    fields: tuple[tuple[str, object], ...]
    reasons: tuple[str, ...]
    opinions: tuple[PastOpinion, ...]
    mine: bool


@dataclass(frozen=True, slots=True)
class CorrectionRow:
    """A correction that waits for a second person.

    Args:
        now, wanted: the label, and what it would become.
        by: names of those who ask for it, and what each said.
        against: names of those who say that the label is right, and what each said.
        asked_ms: wall time since which it waits.
        mine: whether the reader has stated an opinion on it.
    """

    decision_id: str
    decision: str
    labelled_by: str
    now: str
    wanted: str
    by: tuple[PastOpinion, ...]
    against: tuple[PastOpinion, ...]
    asked_ms: int
    mine: bool


def correction_row(
    found: PendingCorrection, label: str, reader: str, account: Account | None = None
) -> CorrectionRow:
    """A correction as one person sees it; `reader` and `account` are those of `row`."""

    def past(held: Sequence[CorrectionOpinion]) -> tuple[PastOpinion, ...]:
        each = (one.opinion for one in held)
        return tuple(PastOpinion(o.analyst, outcome_text(o.outcome, label), o.note) for o in each)

    return CorrectionRow(
        found.decision_id,
        found.decision,
        found.labelled_by,
        outcome_text(found.label, label),
        outcome_text(1 - found.label, label),
        past(found.asks),
        past(found.keeps),
        found.asked_ms,
        any(one.opinion.is_by(reader, account) for one in found.opinions),
    )


def correction_choices(
    found: ReviewableDecision, label: str, reader: str, account: Account | None = None
) -> tuple[Choice, ...]:
    """The answers about a label that a person may give: the other outcome, and the label itself if
    somebody asks for the other one; not what the person has said last."""
    mine = last_opinion(found.opinions, reader, account)
    asked = asks_otherwise(found.opinions, found.label)
    able = (o for o in (0, 1) if o != found.label or asked)
    by_outcome = {outcome: word for word, outcome in words(label).items()}
    return tuple(
        Choice(
            by_outcome[o],
            f"{'Keep it' if o == found.label else 'Correct it to'}: {outcome_text(o, label)}",
            "",
        )
        for o in able
        if mine is None or mine.outcome != o
    )


def choices(label: str) -> tuple[Choice, ...]:
    """The two answers; the keys are the label's values."""
    known = words(label).items()
    return tuple(Choice(word, outcome_text(value, label), str(value)) for word, value in known)


def row(
    found: QueuedDecision,
    label: str,
    reasons: Mapping[str, str],
    reader: str,
    account: Account | None = None,
) -> Row:
    """A decision of the queue as one person sees it.

    Args:
        reasons: code → words for analysts.
        account: the reader's account at an identity provider; None if a key proved the reader.
    """
    return Row(
        found.decision_id,
        found.event_ms,
        found.decision,
        found.score,
        found.version,
        found.shown.fields,
        tuple(reasons.get(code, code) for code in found.shown.reasons),
        tuple(
            PastOpinion(o.analyst, outcome_text(o.outcome, label), o.note) for o in found.opinions
        ),
        any(o.is_by(reader, account) for o in found.opinions),
    )


def result_sentence(done: ReviewResult, definition: ModelDefinition) -> str:
    """The result of an answer, in words."""
    what = outcome_text(done.outcome, definition.label.name)
    if done.keeps:
        return _kept_sentence(done, what)
    if done.is_label:
        agreed = f", as {' and '.join(done.agreed)} said before" if done.agreed else ""
        return f"{done.decision_id} is labelled: {what}{agreed}."
    if done.differs:
        return (
            f"You say of {done.decision_id}: {what}. Somebody else says the opposite: one more"
            " person has to look at it."
        )
    return f"You say of {done.decision_id}: {what}. Another person has to confirm it."


def _kept_sentence(done: ReviewResult, what: str) -> str:
    if done.is_label:
        agreed = f", as {' and '.join(done.agreed)} said before" if done.agreed else ""
        return f"The label of {done.decision_id} stays: {what}{agreed}."
    if done.differs:
        return (
            f"You say that the label of {done.decision_id} is right: {what}. Somebody else asks"
            " for the opposite: one more person has to look at it."
        )
    return f"The label of {done.decision_id} stays: {what}. You ask for no correction any more."


def place(text: str) -> QueueCursor | None:
    """The place where a page of the queue begins, from a link; None for its beginning.

    Raises:
        InputInvalid: no page of this queue made this link.
    """
    if not text:
        return None
    found = _PLACE.fullmatch(text)
    try:
        key = None if found is None else float(found[1])
    except ValueError:
        key = None
    if found is None or key is None:
        raise InputInvalid("the link", None, f"after is {text[:MOST_ID]!a}, as no page here has it")
    return QueueCursor(key, found[2])


def link(at: QueueCursor) -> str:
    """The text that `place` reads."""
    return f"{at.key!r}:{at.decision_id}"
