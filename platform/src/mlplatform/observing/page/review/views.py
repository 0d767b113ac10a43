"""The pages of the review queue: waiting decisions, a form about one of them, and the result."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mlplatform.model.definition import ModelDefinition
from mlplatform.observing.page.people import forms
from mlplatform.observing.page.people.form_checks import CONFLICT, KEPT, WrongForm, check_own
from mlplatform.observing.page.people.gate import PageAccess
from mlplatform.observing.page.people.reader import READER, Reader
from mlplatform.observing.page.people.sign_in import Show
from mlplatform.observing.page.queries.log_lag import unread
from mlplatform.observing.page.queries.reason_words import reason_words
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.observing.page.review import queue_rows, selection_form
from mlplatform.operations.actions import last_results
from mlplatform.operations.actions import review as job
from mlplatform.operations.actions.person_fields import REASON
from mlplatform.operations.review.opinions import (
    Account,
    ReviewableDecision,
    is_disputed,
    outcome_of,
    outcome_text,
)
from mlplatform.operations.review.queue import QueuedDecision
from mlplatform.operations.review.selection import EVERYTHING, Selection
from mlplatform.runtime.errors import (
    ConfigInvalid,
    Corrupt,
    InputInvalid,
    NotFound,
    PlatformError,
    Refused,
)
from mlplatform.runtime.telemetry.refusals import UNKNOWN

ROWS: Final = 25
MOST_CORRECTIONS: Final = 50
ACT: Final = "review"
CORRECTS: Final = "correct"
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

log = logging.getLogger(__name__)


class Reviews:
    """The review queue of each model.

    Args:
        show: renders a template with a status.
    """

    def __init__(self, sources: Sources, access: PageAccess, show: Show) -> None:
        self._sources = sources
        self._access = access
        self._show = show

    def routes(self) -> list[Route]:
        path = "/models/{name}/review"
        return [
            Route(path, self.show_queue, methods=["GET"]),
            Route(path, self.record, methods=["POST"]),
        ]

    def review_queues(self) -> list[tuple[str, int, int]]:
        """The models that the reader may review, each with the number of its waiting decisions and
        of its waiting corrections.

        Raises:
            Unavailable: a queue can't be read now.
        """
        names = [model.definition.name for model in self._sources.models()]
        able = [name for name in names if _may_answer(READER.get(), name)]
        platform = self._sources.platform
        return [
            (
                name,
                job.review_queue(platform, name, 1).total,
                job.pending_corrections(platform, name, 1)[1],
            )
            for name in able
        ]

    async def show_queue(self, request: Request) -> Response:
        """A page of the queue, and the form about one decision for a person who may answer."""
        return await run_in_threadpool(self._show_queue, request)

    async def record(self, request: Request) -> Response:
        """Record a form's opinion on a decision; the log has it on return."""
        try:
            fields: Mapping[str, str] = await forms.read(request)
        except InputInvalid as error:
            self._refuse(request.path_params["name"], str(error))
            return self._problem(400, str(error), "/")
        if "look" in fields:  # an id that was typed: nothing is recorded
            looked = quote(fields["look"].strip()[: queue_rows.MOST_ID], safe="")
            return RedirectResponse(f"{request.url.path}?look={looked}", 303)
        if "filter" in fields:
            return RedirectResponse(request.url.path + selection_form.link(fields), 303)
        says_origin = forms.says_its_origin(request.scope["headers"])
        return await run_in_threadpool(self._record, request, fields, says_origin)

    def _show_queue(self, request: Request) -> Response:
        name, query = request.path_params["name"], request.query_params
        try:
            definition = self._sources.model(name).definition
            wanted = query.get("look", "")[: queue_rows.MOST_ID]
            reader = READER.get()
            draws = reader is not None and not reader.refreshes
            typed = reader.session.take_draft(request.url.path) if reader and draws else ""
            try:
                selected = selection_form.selection(query, definition)
            except InputInvalid as wrong:
                text = f"{wrong}."
                return self._queue(definition, wanted, "", problem=text, status=400, typed=query)
            after = query.get("after", "")
            return self._queue(definition, wanted, after, note=typed, typed=query, only=selected)
        except NotFound as missing:
            return self._problem(404, str(missing), "/")
        except InputInvalid as wrong:
            return self._problem(400, str(wrong), f"/models/{name}/review")
        except PlatformError as error:
            return self._problem(503, str(error), "/")

    def _queue(
        self, definition: ModelDefinition, wanted: str, after: str, *, problem: str = "",
        note: str = "", status: int = 200, typed: Mapping[str, str] = NOTHING,
        only: Selection = EVERYTHING,
    ) -> Response:  # fmt: skip
        platform, model, label = self._sources.platform, definition.name, definition.label
        reader, words = READER.get(), reason_words(definition)
        name = "" if reader is None else reader.name
        account = _account(reader)
        may_answer = _may_answer(reader, model)
        found = job.review_queue(platform, model, ROWS, queue_rows.place(after), only)
        chosen = None
        if wanted:
            chosen = job.queued_decision(platform, model, wanted)
        elif may_answer and not after:
            chosen = job.first(platform, model, name, account, only)
        about = None
        if chosen is not None:
            about = queue_rows.row(chosen, label.name, words, name, account)
        last_pass = last_results.last(platform.settings.home.measured, model, last_results.Pass)
        waits_for_others = about is not None and about.mine and label.review.four_eyes
        disputed = chosen is not None and is_disputed(chosen.opinions)
        has_answered = waits_for_others and not disputed
        is_asked = chosen is not None and may_answer and not has_answered
        waiting, corrections = job.pending_corrections(platform, model, MOST_CORRECTIONS)
        labelled, gone = None, ""
        if wanted and chosen is None:
            labelled, gone = self._labelled(model, wanted)
        return self._show(
            "review/queue.html",
            status,
            here="review",
            model=model,
            outcomes=label.review.reviewed(definition.decision),
            four_eyes=label.review.four_eyes,
            days=label.review.days,
            rows=[queue_rows.row(one, label.name, words, name, account) for one in found.rows],
            total=found.total,
            selected=found.selected,
            selection=only,
            codes=_codes(found.codes, words, only.reason),
            **_form(typed, definition),
            answered=_answered(reader, model),
            complete=found.complete,
            unread=unread(self._sources.log_heads(), found.position),
            passed_ms=None if last_pass is None else last_pass.at_ms,
            after=after,
            newer=None if found.newer is None else queue_rows.link(found.newer),
            about=about,
            has_answered=has_answered,
            gone=gone,
            labelled=labelled,
            corrects=self._correction(reader, labelled) if labelled and may_answer else None,
            correction_choices=(
                queue_rows.correction_choices(labelled, label.name, name, account)
                if labelled
                else ()
            ),
            corrections=[queue_rows.correction_row(c, label.name, name, account) for c in waiting],
            correction_count=corrections,
            may_answer=may_answer,
            asks=self._offer(reader, chosen) if is_asked else None,
            choices=queue_rows.choices(label.name),
            says=partial(outcome_text, label=label.name),
            problem=problem,
            note=note,
            most=job.NOTE.most,
            least_reason=REASON.least,
        )

    def _labelled(self, model: str, wanted: str) -> tuple[ReviewableDecision | None, str]:
        """A decision that has an analyst's label; otherwise None, and why it is not asked about."""
        try:
            return job.labelled_decision(self._sources.platform, model, wanted), ""
        except (NotFound, Refused) as error:
            return None, str(error)

    def _correction(self, reader: Reader | None, labelled: ReviewableDecision) -> dict[str, str]:
        """The hidden fields of a form that corrects a label, bound to it and the opinions since."""
        assert reader is not None
        seen = job.correction_digest(labelled)
        number = self._access.offer(reader, CORRECTS, labelled.decision_id, seen)
        token, about = reader.session.form_token, labelled.decision_id
        return {"token": token, "form": number, "seen": seen, "about": about, "act": CORRECTS}

    def _offer(self, reader: Reader | None, chosen: QueuedDecision | None) -> dict[str, str]:
        """The hidden fields of a form about this decision, bound to its present opinions."""
        assert reader is not None
        assert chosen is not None
        seen = job.opinions_digest(chosen.opinions)
        number = self._access.offer(reader, ACT, chosen.decision_id, seen)
        token = reader.session.form_token
        return {"token": token, "form": number, "seen": seen, "about": chosen.decision_id}

    def _record(self, request: Request, fields: Mapping[str, str], says_origin: bool) -> Response:
        name, reader = request.path_params["name"], READER.get()
        query = request.query_params
        back = f"/models/{name}/review{selection_form.link(query)}"
        typed = fields.get("note", "")[: job.NOTE.most] if says_origin else ""
        try:
            definition = self._sources.model(name).definition
            only = selection_form.selection(query, definition)
            if reader is None or reader.client is None:
                raise WrongForm(
                    403, "sign in with your own name and key: each answer is kept with who gave it"
                )
            if not _may_answer(reader, name):
                able = f"an analyst of {name} may answer"
                raise WrongForm(403, f"{reader.lacks(f'{name}:review')}: {able}")
            about = fields.get("about", "")
            act = CORRECTS if fields.get("act") == CORRECTS else ACT
            try:
                seen = check_own(self._access.sessions, reader, act, about, fields, says_origin)
            except WrongForm as wrong:
                if wrong.status != CONFLICT:
                    raise
                self._refuse(name, str(wrong))
                text = f"Nothing was recorded: {wrong}. {KEPT}"
                return self._queue(
                    definition, about, "", problem=text, note=typed, status=CONFLICT, typed=query,
                    only=only,
                )  # fmt: skip
            return self._response_to(definition, reader, fields, about, seen, back)
        except WrongForm as wrong:
            self._refuse(name, str(wrong))
            return self._problem(wrong.status, str(wrong), back, typed)
        except Refused as refused:  # kept where it was refused
            return self._problem(CONFLICT, str(refused), back, typed)
        except NotFound as missing:
            return self._problem(404, str(missing), "/")
        except (InputInvalid, ConfigInvalid) as wrong_field:
            return self._problem(400, str(wrong_field), back, typed)
        except Corrupt as error:
            log.exception("a record of %s is damaged", name)
            return self._problem(500, str(error), back, typed)
        except PlatformError as error:
            return self._problem(503, str(error), back, typed)

    def _response_to(
        self, definition: ModelDefinition, reader: Reader, fields: Mapping[str, str], about: str,
        seen: str, back: str,
    ) -> Response:  # fmt: skip
        assert reader.client is not None
        note, corrects = fields.get("note", ""), fields.get("act") == CORRECTS
        try:
            outcome = outcome_of(fields.get("outcome", ""), definition.label.name)
            length = REASON if corrects else job.NOTE
            note = length.checked("the reason" if corrects else "the note", note)
        except InputInvalid as error:
            short = note[: job.NOTE.most]
            text = f"Nothing was recorded: {error}."
            return self._queue(definition, about, "", problem=text, note=short, status=400)
        done = job.record(
            self._sources.platform, definition.name, about, outcome,
            analyst=reader.client, account=_account(reader), note=note, seen=seen,
            corrects=corrects,
        )  # fmt: skip
        reader.session.notice = queue_rows.result_sentence(done, definition)
        reader.session.answered = (definition.name, done.decision_id)
        return RedirectResponse(back, 303)

    def _refuse(self, model: str, why: str) -> None:
        reader = READER.get()
        who = UNKNOWN if reader is None else reader.name
        self._access.refuse(who, f"review of a decision of {model}", why)

    def _problem(self, status: int, why: str, back: str, typed: str = "") -> Response:
        title = "You may not do this" if status == 403 else "Nothing was recorded"
        detail = why[:1].upper() + why[1:] + ("" if why.endswith(".") else ".")
        shown = {"title": title, "detail": detail, "back": back, "typed": typed}
        return self._show("people/refused.html", status, **shown)


def _account(reader: Reader | None) -> Account | None:
    """The reader's account, if an identity provider proved it; else None."""
    if reader is None or reader.identity is None:
        return None
    return Account(reader.identity.issuer, reader.identity.subject)


def _codes(found: Iterable[str], words: Mapping[str, str], chosen: str) -> dict[str, str]:
    """Code → words, of the reasons that a filter offers: those of the queue, in words' order."""
    codes = dict.fromkeys((*found, chosen) if chosen else found)
    return dict(sorted(((c, words.get(c, c)) for c in codes), key=lambda one: one[1]))


def _form(typed: Mapping[str, str], definition: ModelDefinition) -> dict[str, object]:
    """The form that narrows the queue, for its template."""
    return {
        "typed": selection_form.typed(typed),
        "at": selection_form.link(typed),
        "numbers": selection_form.numbers(definition),
        "orders": selection_form.orders(definition),
    }


def _answered(reader: Reader | None, model: str) -> str:
    """The decision of this model that the reader answered for last; empty if none."""
    of, decision_id = ("", "") if reader is None else reader.session.answered
    return decision_id if of == model else ""


def _may_answer(reader: Reader | None, model: str) -> bool:
    return reader is not None and reader.may_review(model)
