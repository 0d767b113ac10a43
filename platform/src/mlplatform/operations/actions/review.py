"""Actions of analysts: list the decisions that wait for review, and record what is said of one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from mlplatform.decisions.log.lookup import logged_records
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import AppendReceipt, Entry
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.operations.actions.person_fields import REASON, Length
from mlplatform.operations.review import corrections, opinions, queue, queue_file, recording
from mlplatform.operations.review.opinions import (
    Account,
    Consensus,
    OpenOpinion,
    Opinion,
    PendingCorrection,
    ReviewableDecision,
)
from mlplatform.operations.review.queue import Queue, QueueCursor, QueuedDecision
from mlplatform.operations.review.selection import EVERYTHING, Selection
from mlplatform.operations.wiring import Platform
from mlplatform.runtime import text
from mlplatform.runtime.errors import NotFound, Refused, Unavailable
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.refusals import UNKNOWN, Refusal
from mlplatform.runtime.times import rfc3339_text
from mlplatform.scoring.admission.clients import Client
from mlplatform.scoring.admission.people import people

NOTE: Final = Length(0, 500, text.cleaned)
UNAVAILABLE: Final = 503
SURFACE: Final = "review"
"""Surface of the refusals of commands; refusals of the page have the page's."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReviewResult:
    """The result of recording an analyst's opinion.

    Args:
        is_label: whether the opinion is now the decision's label; otherwise another person must
            agree.
        agreed: names of people who stated the same before.
        differs: whether somebody stated the opposite before.
        keeps: whether the opinion says that the label which the decision has is right.
    """

    decision_id: str
    model: str
    outcome: int
    is_label: bool
    agreed: tuple[str, ...] = ()
    differs: bool = False
    keeps: bool = False


def advance(platform: Platform, model: str, *, budget_s: float = queue.BUDGET_S) -> bool:
    """Read new records of the log into a model's queue; returns whether all were read.

    Raises:
        Unavailable: the log or the queue can't be read or written now.
    """
    definition = platform.definition(model)
    return queue.advance(_file(platform, model), platform.log, definition, budget_s=budget_s)


def review_queue(
    platform: Platform,
    model: str,
    rows: int,
    after: QueueCursor | None = None,
    wanted: Selection = EVERYTHING,
) -> Queue:
    """A page of the decisions that wait for review, oldest first unless another order is wanted.

    Raises:
        Unavailable: the queue can't be read now.
    """
    return queue.page(_file(platform, model), rows, after, wanted)


def queued_decision(platform: Platform, model: str, decision_id: str) -> QueuedDecision | None:
    """A decision of the queue; None if it does not wait for review.

    Raises:
        Unavailable: the queue can't be read now.
    """
    return queue.find(_file(platform, model), decision_id)


def pending_corrections(
    platform: Platform, model: str, rows: int
) -> tuple[tuple[PendingCorrection, ...], int]:
    """The corrections of labels that wait for a second person, the oldest first, and their number.

    Raises:
        Unavailable: the queue can't be read now.
    """
    return corrections.pending(_file(platform, model), rows)


def first(
    platform: Platform,
    model: str,
    analyst: str,
    account: Account | None = None,
    wanted: Selection = EVERYTHING,
) -> QueuedDecision | None:
    """The first decision that waits for this person's opinion; None if there is none.

    Args:
        account: the analyst's account at an identity provider; None if a key proved the analyst.

    Raises:
        Unavailable: the queue can't be read now.
    """
    path = _file(platform, model)
    if platform.definition(model).label.review.four_eyes:
        return queue.first(path, analyst, account, wanted)
    return next(iter(queue.page(path, 1, None, wanted).rows), None)


def model_of(platform: Platform, decision_id: str) -> str:
    """The model that made a decision.

    Raises:
        NotFound: the log has none of this id.
    """
    return str(_records(platform, decision_id)[0]["model"])


def person(platform: Platform, name: str, secret: bytes, asked: str) -> Client:
    """The client that a key proves a person to be.

    Args:
        asked: what the person wants to do, in words, for the record of a refusal.

    Raises:
        Refused: nobody has that name and key.
    """
    keys, now_ms = platform.keys.all_keys(), platform.clock.wall_ms()
    found = people(keys, now_ms).authenticate(name, secret)
    if found is None:
        why = f"no person has the name {name!a} and this key; see `mlplatform keys list`"
        _keep(platform, UNKNOWN, asked, why)
        raise Refused(why)
    return found


def record(
    platform: Platform,
    model: str,
    decision_id: str,
    outcome: int,
    *,
    analyst: Client,
    account: Account | None = None,
    note: str = "",
    seen: str | None = None,
    corrects: bool = False,
) -> ReviewResult:
    """Record what a proven person says of a decision: as its label, or as one of two opinions.

    Args:
        outcome: 1 if the request was what the model looks for, otherwise 0.
        account: the analyst's account at an identity provider; None if a key proved the analyst.
        note: why; a correction needs 5 characters at least.
        seen: digest of the opinions that this person was shown (`opinions_digest`, of a correction
            `correction_digest`); None if none were shown.
        corrects: whether the decision has a label of an analyst, which this one is to replace, or
            to keep against somebody who asks for the other outcome. The former label stays in the
            log.

    Raises:
        InputInvalid: the note is too long or too short, or has characters that are not allowed.
        NotFound: the log has no such decision.
        Refused: the person may not do this, the decision can't be reviewed any more, there is no
            label to correct or it is the same, or another opinion came since it was shown.
        Busy, Unavailable: nothing was recorded; the call can be repeated.
    """
    reason = REASON.checked("the reason", note) if corrects else NOTE.checked("the note", note)
    now = Opinion(analyst.name, outcome, reason, account)
    asked = f"say how {model} decision {decision_id} turned out"
    if corrects:
        asked = f"correct the label of {model} decision {decision_id}"
    with keep_refusals(platform, analyst.name, asked, account):
        check_may_review(analyst, model)
        with recording.turn(platform.settings.home.run), closing(platform.opened_log()) as opened:
            session = _ReviewSession(platform, opened, model)
            act = session.correct if corrects else session.record
            return act(decision_id, now, analyst, seen)


def labelled_decision(platform: Platform, model: str, decision_id: str) -> ReviewableDecision:
    """A decision with the label that an analyst gave it, and the opinions since.

    Raises:
        NotFound: the log has no such decision.
        Refused: there is no label of an analyst to correct; the message says what can be done.
    """
    return opinions.labelled_decision(decision_id, model, _records(platform, decision_id))


def check_may_review(client: Client, model: str) -> None:
    """Raises unless this person may record outcomes of the model's decisions.

    Raises:
        Refused: the person lacks the scope; the message names it, and the command that gives it.
    """
    if not client.may(model, "review"):
        command = f"mlplatform keys create --name {client.name} --model {model} --scope review"
        raise Refused(f"{client.name} has no scope {model}:review: `{command}`")


def opinions_digest(held: tuple[Opinion, ...]) -> str:
    """Digest of the opinions on a decision; an answer names the digest that its author saw."""
    return f"opinions {len(held)}"


def correction_digest(found: ReviewableDecision) -> str:
    """Digest of a label and the opinions since; a correction names the digest that its author
    saw."""
    return f"label {found.label} of {found.labelled_by}, {opinions_digest(found.opinions)}"


@contextmanager
def keep_refusals(
    platform: Platform, who: str, asked: str, account: Account | None = None
) -> Iterator[None]:
    """Record a refusal raised in the block where people can find it."""
    try:
        yield
    except Refused as refused:
        _keep(platform, who, asked, str(refused), account)
        raise


class _ReviewSession:
    """One person's turn at the log.

    Args:
        decisions: the decision log, opened as gateways open it.
    """

    def __init__(self, platform: Platform, decisions: SqliteDecisionLog, model: str) -> None:
        self._platform = platform
        self._decisions = decisions
        self._definition = platform.definition(model)
        self._now_ms = platform.clock.event_ms()

    def record(
        self, decision_id: str, now: Opinion, analyst: Client, seen: str | None
    ) -> ReviewResult:
        model, review = self._definition.name, self._definition.label.review
        found = self._reviewable_decision(decision_id)
        if seen is not None and seen != opinions_digest(found.opinions):
            raise Refused("another answer came since this decision was shown: look at it again")
        match opinions.weigh(found.opinions, now, four_eyes=review.four_eyes):
            case Consensus(agreed):
                asyncio.run(self._label(found, now, analyst, agreed))
                self._show(lambda path: queue.end(path, decision_id, self._now_ms))
                log.info("%s has labelled decision %s", analyst.name, decision_id)
                return ReviewResult(decision_id, model, now.outcome, True, agreed)
            case OpenOpinion(differs):
                place = (recording.WRITER, asyncio.run(self._keep_opinion(found, now)))
                self._show(
                    lambda path: queue.add_opinion(path, place, decision_id, self._now_ms, now)
                )
                log.info(
                    "%s has answered for decision %s, and it has no label yet",
                    analyst.name,
                    decision_id,
                )
                return ReviewResult(decision_id, model, now.outcome, False, differs=differs)

    def correct(
        self, decision_id: str, now: Opinion, analyst: Client, seen: str | None
    ) -> ReviewResult:
        definition = self._definition
        records = logged_records(self._decisions, decision_id)
        found = opinions.labelled_decision(decision_id, definition.name, records)
        if seen is not None and seen != correction_digest(found):
            raise Refused("another answer came since this label was shown: look at it again")
        keeps = now.outcome == found.label
        if keeps and not opinions.asks_otherwise(found.opinions, found.label):
            word = opinions.outcome_text(now.outcome, definition.label.name)
            raise Refused(f"{decision_id} is labelled {word}: a correction says the other outcome")
        four_eyes = definition.label.review.four_eyes
        match opinions.weigh(found.opinions, now, four_eyes=four_eyes):
            case Consensus(agreed):
                asyncio.run(self._label(found, now, analyst, agreed, at_ms=self._now_ms))
                done = ReviewResult(
                    decision_id, definition.name, now.outcome, True, agreed, keeps=keeps
                )
            case OpenOpinion(differs):
                asyncio.run(self._keep_opinion(found, now))
                done = ReviewResult(
                    decision_id, definition.name, now.outcome, False, differs=differs, keeps=keeps
                )
        self._show(
            lambda path: corrections.follow(path, self._decisions, definition.name, decision_id)
        )
        log.info(
            "%s has answered for the label of decision %s: %s",
            analyst.name,
            decision_id,
            "it is kept" if keeps else "corrected" if done.is_label else "a correction waits",
        )
        return done

    def _reviewable_decision(self, decision_id: str) -> ReviewableDecision:
        """The decision as the log holds it; a decision that can't be reviewed leaves the queue."""
        records = logged_records(self._decisions, decision_id)
        reviewed = self._definition.label.review.reviewed(self._definition.decision)
        try:
            return opinions.reviewable_decision(
                decision_id, self._definition.name, records, reviewed
            )
        except Refused:
            self._show(lambda path: queue.end(path, decision_id, self._now_ms))
            raise

    async def _label(
        self,
        found: ReviewableDecision,
        now: Opinion,
        analyst: Client,
        agreed: tuple[str, ...],
        at_ms: int | None = None,
    ) -> None:
        """Store the label on the same path as labels of applications.

        Args:
            at_ms: event time of a correction: with it, a value that the same person gave the
                decision before is not taken for a repetition.

        Raises:
            Refused: the rules of labels refuse it. Unavailable: the log can't store it.
        """
        recorder = recording.recorder(self._decisions)
        labels = self._platform.labels(self._definition.name, self._decisions, recorder)
        label: dict[str, Any] = {"decision_id": found.decision_id, "label": now.outcome}
        if at_ms is not None:
            label["event_time"] = rfc3339_text(at_ms)
        item, beside = msgspec.Raw(msgspec.json.encode(label)), opinions.payload(now, agreed)
        try:
            await labels.add(found.model, analyst, [item], beside=beside)
        except Problem as problem:
            wrong = Unavailable if problem.status == UNAVAILABLE else Refused
            raise wrong(str(problem)) from problem

    async def _keep_opinion(self, found: ReviewableDecision, now: Opinion) -> int:
        """Store the opinion as a label without a value, which no reader counts.

        Returns the number of its record.

        Raises:
            Unavailable: the log can't store it.
        """
        entry = Entry(
            Record(
                kind="label",
                decision_id=found.decision_id,
                model=found.model,
                event_ms=self._now_ms,
                recorded_ms=self._platform.clock.wall_ms(),
                payload={"client": now.analyst, **opinions.payload(now)},
            )
        )
        outcome = await recording.recorder(self._decisions).append(entry)
        if not isinstance(outcome, AppendReceipt):
            raise Unavailable("the decision log did not record the answer")
        return outcome.seq

    def _show(self, change: Callable[[Path], None]) -> None:
        """Change the queue at once; otherwise it would follow when it next reads the log."""
        try:
            change(_file(self._platform, self._definition.name))
        except Unavailable as error:
            log.info("the review queue of %s follows later: %s", self._definition.name, error)


def _records(platform: Platform, decision_id: str) -> list[dict[str, Any]]:
    if not (platform.settings.home.decisions / DATABASE).is_file():
        raise NotFound(f"the decision log has no decision {decision_id}")
    return logged_records(platform.log, decision_id)


def _keep(
    platform: Platform, who: str, asked: str, why: str, account: Account | None = None
) -> None:
    proof = "" if account is None else str(account)
    refusal = Refusal(platform.clock.wall_ms(), SURFACE, who, asked, why, proof)
    platform.refusals.keep(refusal)


def _file(platform: Platform, model: str) -> Path:
    return queue_file.file_of(platform.settings.home.counted, model)
