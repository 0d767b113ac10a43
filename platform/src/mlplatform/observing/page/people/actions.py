"""The actions of people on the page: a form that shows what it confirms, and then the same function
as a command.

A form is shown before anything is done. It is for one act on the state that it showed, and it
counts once. When it comes back, the journal and not the form decides what is true.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, cast

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mlplatform.model.routes import Routes
from mlplatform.observing.page.people import acts, forms
from mlplatform.observing.page.people.acts import Act, Button
from mlplatform.observing.page.people.form_checks import CONFLICT, KEPT, WrongForm, check_own
from mlplatform.observing.page.people.gate import PageAccess
from mlplatform.observing.page.people.provider import Provider
from mlplatform.observing.page.people.reader import READER, Reader, may_see
from mlplatform.observing.page.people.sessions import Sessions
from mlplatform.observing.page.people.sign_in import Show
from mlplatform.observing.page.people.waiting_rollouts import (
    WaitingRollout,
    until_ms,
    waiting_rollout,
)
from mlplatform.observing.page.queries.platform_reads import translated
from mlplatform.observing.page.queries.rollouts import EvidenceDetail, evidence
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.operations.actions import controls
from mlplatform.operations.actions import rollouts as job
from mlplatform.operations.actions.person_fields import REASON
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal.approval_codes import Approver, Question
from mlplatform.rollouts.journal.state import RolloutState, fold
from mlplatform.rollouts.journal.transitions import Transition
from mlplatform.rollouts.passes import summary
from mlplatform.runtime.errors import (
    Busy,
    ConfigInvalid,
    InputInvalid,
    NotFound,
    PlatformError,
    Refused,
    Unavailable,
)
from mlplatform.runtime.telemetry.refusals import UNKNOWN
from mlplatform.runtime.times import utc_minute_text

log = logging.getLogger(__name__)

MOST_SHOWN: Final = 64
CODE: Final = "code"
"""Value of the form button that asks only for a code."""
KINDS: Final[Mapping[str, tuple[Act, ...]]] = {"rollouts": acts.OF_ROLLOUT, "models": acts.OF_MODEL}


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of an act, in its present state by the journal.

    Args:
        kind: `rollouts` or `models`: the first part of the page's path.
        offered: acts that the present state allows.
        before: version of the champion before this one, which is kept ready; None if none is.
        seen: returns the state to which a form of an act is bound.
        state, facts: state and journal of a rollout; None and empty for a model.
    """

    kind: str
    name: str
    model: str
    offered: tuple[Act, ...]
    seen: Callable[[Act], str]
    says: str
    state: RolloutState | None = None
    facts: tuple[Transition, ...] = ()
    before: int | None = None

    @property
    def path(self) -> str:
        return f"/{self.kind}/{self.name}"


class Actions:
    """The forms of acts and their answers, and the parts of them that other pages show.

    Args:
        show: renders a template with a status.
        provider: identity provider whose people may act too; None if there is none.
    """

    def __init__(
        self,
        platform: Platform,
        sources: Sources,
        access: PageAccess,
        show: Show,
        provider: Provider | None = None,
    ) -> None:
        self._platform = platform
        self._sources = sources.without_restriction()
        self._access = access
        self._show = show
        self._provider = provider

    def routes(self) -> list[Route]:
        found = []
        for kind in KINDS:
            path = f"/{kind}/{{name}}/act/{{act}}"
            found.append(Route(path, self.ask, methods=["GET"]))
            found.append(Route(path, self.carry_out, methods=["POST"]))
        return found

    # What other pages show.

    def waiting_rollouts(self) -> list[WaitingRollout]:
        """The rollouts that wait for a person's answer, the first to end at the top.

        Raises:
            Unavailable: journal or keys can't be read.
        """
        asking = [
            s
            for s in self._sources.rollouts_under_way()
            if s.awaits_answer and s.answer is None and may_see(s.model)
        ]
        if not asking:
            return []
        keys, now_ms = self._platform.keys.all_keys(), self._platform.clock.wall_ms()
        found = [
            waiting_rollout(
                *(s, self._platform.definition(s.model).rollout, keys, now_ms),
                () if self._provider is None else self._provider.groups_that_approve(s.model),
            )
            for s in asking
        ]
        return sorted((w for w in found if w is not None), key=lambda w: w.until_ms)

    def buttons(self, kind: str, name: str) -> tuple[Button, ...]:
        """The acts that the reader of this page may do now on a rollout or a model."""
        reader = READER.get()
        if reader is None or reader.client is None:
            return ()
        found = self._subject(kind, name)
        return tuple(
            Button(act, acts.WORDS[act][0], f"{found.path}/act/{act}")
            for act in found.offered
            if self._may(reader, found, act)
        )

    def buttons_of_model(self, routes: Routes) -> tuple[Button, ...]:
        """The acts on a model, with the roll back of its champion, which is an act on a rollout."""
        own = self.buttons("models", routes.model)
        if routes.rollout_id is None:
            return own
        others = self.buttons("rollouts", routes.rollout_id)
        return (*(button for button in others if button.act == "roll-back"), *own)

    def _may(self, reader: Reader, subject: Subject, act: Act) -> bool:
        """Whether this person may do an act that the state allows."""
        if reader.client is None or not acts.may(reader.client, act, subject.model):
            return False
        return not self._answer_refusal(subject, act, reader)

    # Forms.

    async def ask(self, request: Request) -> Response:
        """The form that confirms an act, with what it is about."""
        return await run_in_threadpool(self._ask, request)

    async def carry_out(self, request: Request) -> Response:
        """Do what a form asks for, once; the journal has it on return."""
        try:
            fields = await forms.read(request)
        except InputInvalid as error:
            reader = READER.get()
            who = UNKNOWN if reader is None else reader.name
            self._access.refuse(who, f"POST {request.url.path}", str(error))
            return self._problem(400, str(error), "/")
        says_origin = forms.says_its_origin(request.scope["headers"])
        return await run_in_threadpool(self._carry_out, request, dict(fields), says_origin)

    def _ask(self, request: Request) -> Response:
        def respond(reader: Reader, subject: Subject, act: Act) -> Response:
            typed = "" if reader.refreshes else reader.session.take_draft(request.url.path)
            return self._form(reader, subject, act, problem="", reason=typed, status=200)

        return self._response_to(request, respond)

    def _carry_out(self, request: Request, fields: dict[str, str], says_origin: bool) -> Response:
        typed = fields.get("reason", "")[: REASON.most] if says_origin else ""

        def respond(reader: Reader, subject: Subject, act: Act) -> Response:
            try:
                check_form(self._access.sessions, reader, subject, act, fields, says_origin)
            except WrongForm as wrong:
                if wrong.status != CONFLICT or act not in subject.offered:
                    raise
                self._access.refuse(reader.name, f"{act} of {subject.name}", str(wrong))
                problem = f"Nothing was done: {wrong}. {KEPT}"
                shown = {"problem": problem, "reason": typed}
                return self._form(reader, subject, act, **shown, status=CONFLICT)
            if fields.get("as") == CODE and act in acts.ANSWERS:
                return self._code(reader, subject, act, fields["seen"])
            try:
                reason = REASON.checked("the reason", fields.get("reason", ""))
            except InputInvalid as error:
                problem = f"Nothing was done: {error}."
                return self._form(reader, subject, act, problem=problem, reason=typed, status=400)
            done, after = self._done(reader, subject, act, fields["seen"], reason)
            log.info("%s: %s of %s", reader.name, act, subject.name)
            reader.session.notice = done
            return RedirectResponse(subject.path, 303, background=after)

        return self._response_to(request, respond, typed)

    def _response_to(
        self,
        request: Request,
        respond: Callable[[Reader, Subject, Act], Response],
        typed: str = "",
    ) -> Response:
        """The response to a request; each refusal is stored with the person's name.

        Args:
            typed: the reason that the person has typed, which a refusal shows again.
        """
        kind, name = request.url.path.split("/")[1], request.path_params["name"]
        reader, back = READER.get(), f"/{kind}/{name}"
        act = cast(Act, request.path_params["act"])
        asked, who = f"{act} of {name}", UNKNOWN if reader is None else reader.name
        try:
            if act not in KINDS[kind]:
                wanted = ", ".join(KINDS[kind])
                raise NotFound(f"act is {act[:MOST_SHOWN]!a}; wanted: one of {wanted}")
            with translated():
                subject = self._subject(kind, name)
            if reader is None:
                raise WrongForm(
                    403, "sign in with your own name and key: each action is kept with who did it"
                )
            self._check_right(reader, subject, act)
            with translated():
                return respond(reader, subject, act)
        except WrongForm as wrong:
            self._access.refuse(who, asked, str(wrong))
            return self._problem(wrong.status, str(wrong), back, typed)
        except Refused as refused:  # it was kept where it was refused
            return self._problem(CONFLICT, str(refused), back, typed)
        except NotFound as missing:
            return self._problem(404, str(missing), "/", typed)
        except (InputInvalid, ConfigInvalid) as wrong:
            return self._problem(400, str(wrong), back, typed)
        except (Unavailable, Busy) as error:
            return self._problem(503, str(error), back, typed)

    def _check_right(self, reader: Reader, subject: Subject, act: Act) -> None:
        if not acts.may(reader.client, act, subject.model):
            wanted = acts.scope_of(act, subject.model)
            title, _ = acts.WORDS[act]
            able = f'only {acts.role_for(act)} of {subject.model} may press "{title}"'
            raise WrongForm(403, f"{reader.lacks(wanted)}: {able}")
        if why := self._answer_refusal(subject, act, reader):
            raise WrongForm(403, why)

    def _form(
        self, reader: Reader, subject: Subject, act: Act, *, problem: str, reason: str, status: int
    ) -> Response:
        if act not in subject.offered:
            mine = [one for one in subject.offered if self._may(reader, subject, one)]
            able = ", ".join(f'"{acts.WORDS[one][0]}"' for one in mine) or "nothing here"
            able += self._possible_elsewhere(subject)
            title, _ = acts.WORDS[act]
            way = acts.WAY_OUT.get(act, "")
            raise WrongForm(
                CONFLICT,
                f'{subject.says}, so "{title}" is not possible now. You can press {able}{way}',
            )
        seen = subject.seen(act)
        number = self._access.offer(reader, act, subject.name, seen)
        shown = _evidence(subject) if act in acts.ANSWERS else None
        title, does = acts.WORDS[act]
        rejected = ""
        if shown is not None:
            approved, rejected = summary.consequences(shown.rest)
            does = approved if act == "approve" else rejected
        elif act == "roll-back" and subject.before is not None:
            does = f"version {subject.before} answers again in place of this one, within a second"
        return self._show(
            "people/confirm.html",
            status,
            here=subject.kind,
            act=act,
            title=title,
            does=does,
            rejected=rejected,
            subject=subject,
            seen=seen,
            basis=seen if act in acts.BOUND else subject.says,
            number=number,
            token=reader.session.form_token,
            found=shown,
            silent_ms=self._silent_ms(subject) if shown is not None else None,
            next_step=summary.step_if_approved(shown.rest) if shown is not None else "",
            problem=problem,
            reason=reason,
            least=REASON.least,
            most=REASON.most,
        )

    def _silent_ms(self, subject: Subject) -> int | None:
        """Wall time after which silence counts as a rejection."""
        if subject.state is None:
            return None
        policy = self._platform.definition(subject.model).rollout
        return until_ms(subject.state, policy, self._platform.clock.wall_ms())

    def _possible_elsewhere(self, subject: Subject) -> str:
        """The acts that the reader may do on the page of a rollout's model, as the rest of a
        sentence."""
        buttons = () if subject.kind == "models" else self.buttons("models", subject.model)
        if not buttons:
            return ""
        names = ", ".join(f'"{button.title}"' for button in buttons)
        return f"; on the page of model {subject.model}: {names}"

    def _code(self, reader: Reader, subject: Subject, act: Act, seen: str) -> Response:
        """A response with the code by which the reader gives this answer in Prefect's form or by
        the command."""
        assert act == "approve" or act == "reject"
        question = Question(subject.name, seen, act)
        proof = _provider_proof(reader)
        entered, until_s = job.code_for(
            self._platform, question, reader.approver, provider_proof=proof
        )
        log.info("%s: a code to %s %s", reader.name, act, subject.name)
        until = datetime.fromtimestamp(until_s, UTC).strftime("%H:%M:%S")
        shown = {"act": act, "subject": subject, "code": entered, "until": until}
        return self._show("people/code.html", 200, here=subject.kind, **shown)

    # The same functions as commands call.

    def _done(
        self, reader: Reader, subject: Subject, act: Act, seen: str, reason: str
    ) -> tuple[str, BackgroundTask | None]:
        """The result of an act in words, and a task to run after the response."""
        platform, actor, identity = self._platform, reader.name, reader.identity
        if act == "approve" or act == "reject":
            question = Question(subject.name, seen, act)
            proven, how = reader.approver, f"session of {reader.approver.proof} on the page"
            job.record_answer(
                *(platform, question, proven),
                reason=reason,
                proven_by=how,
                provider_proof=_provider_proof(reader),
            )
            after = BackgroundTask(self._finish_form, question, proven, reason)
            then = "The next pass acts on it, within a minute."
            notice = f"Your answer, {act}, stands in the journal. {then}"
            return notice, after
        if act == "roll-back":
            only = subject.name
            job.take_back(
                *(platform, subject.model), actor=actor, reason=reason, only=only, identity=identity
            )
            return f"{subject.name} is rolled back. Gateways follow within a second.", None
        if act == "pause" or act == "resume" or act == "abort":
            state = controls.control_rollout(
                *(platform, subject.name, act), actor=actor, reason=reason, identity=identity
            )
            phase = acts.phase_words(state.phase)
            paused = ", paused" if state.paused is not None else ""
            return f"Done: {subject.name} is {phase}{paused}.", None
        generation = controls.control_model(
            *(platform, subject.name, act), actor=actor, reason=reason, identity=identity
        )
        return f"Done, from generation {generation} of the routes of {subject.name} on.", None

    def _finish_form(self, question: Question, proven: Approver, reason: str) -> None:
        """End Prefect's form of this question, so that its run starts a pass; otherwise the next
        scheduled pass reads the answer."""
        try:
            job.answer_form(self._platform, question, proven, reason=reason)
        except PlatformError as error:
            log.info("the form of %s in Prefect waits on: %s", question.rollout_id, error)

    def _subject(self, kind: str, name: str) -> Subject:
        if kind == "models":
            model = self._sources.model(name)
            routes, by = model.routes, model.killed
            gateways = self._platform.rollouts.gateways(name) if routes.generation else ()
            is_stopped = any(routes.services & gateway.stopped.keys() for gateway in gateways)
            offered = acts.of_model(routes, is_stopped=is_stopped)
            seen = acts.state_id_of_model(routes)
            says = f"model {name} is {'switched off' if routes.killed else routes.phase}"
            if by is not None:
                says += f' by {by.actor} ({utc_minute_text(by.wall_ms)}: "{by.reason}")'
            return Subject(kind, name, name, offered, lambda act: seen, says)
        facts = self._sources.rollout(name)
        state = fold(facts)
        routes = self._sources.model(state.model).routes
        says = f"rollout {name} is {acts.phase_words(state.phase)}"
        if state.awaits_answer and state.answer is not None:
            says += f", and {state.answer.approver} has given the answer {state.answer.answer}"
        return Subject(
            kind,
            name,
            state.model,
            acts.of_rollout(state, routes),
            lambda act: acts.state_id_of_rollout(state, len(facts), act),
            says,
            state,
            facts,
            None if routes.previous is None else routes.previous.version,
        )

    @staticmethod
    def _answer_refusal(subject: Subject, act: Act, reader: Reader) -> str:
        """Why this person may not answer, because they made what is asked about; empty if they
        may."""
        if act not in acts.ANSWERS or subject.state is None:
            return ""
        return acts.answer_refusal(subject.state, reader.name, reader.identity)

    def _problem(self, status: int, why: str, back: str, typed: str = "") -> Response:
        title = "You may not do this" if status == 403 else "Nothing was done"
        detail = why[:1].upper() + why[1:] + ("" if why.endswith(".") else ".")
        shown = {"title": title, "detail": detail, "back": back, "typed": typed}
        return self._show("people/refused.html", status, **shown)


def check_form(
    kept: Sessions,
    reader: Reader,
    subject: Subject,
    act: Act,
    fields: Mapping[str, str],
    says_origin: bool,
) -> None:
    """Raises unless a form is this session's, unused, and about the present state.

    Args:
        fields: the form's fields: the session's `token`, the `form` as it was offered, and the
            state `seen`.
        says_origin: whether the browser states that a page of this server sent the form.

    Raises:
        WrongForm: the form is not valid.
    """
    seen = check_own(kept, reader, act, subject.name, fields, says_origin)
    if act in acts.BOUND and subject.seen(act) != seen:
        what = "evidence" if act in acts.ANSWERS else "journal"
        raise WrongForm(
            CONFLICT,
            f"the {what} of {subject.name} has changed since the form was shown: read what"
            " holds now and answer that",
        )


def _provider_proof(reader: Reader) -> job.ProviderProof | None:
    identity, client = reader.identity, reader.client
    if identity is None or client is None:
        return None
    return job.ProviderProof(identity, client)


def _evidence(subject: Subject) -> EvidenceDetail | None:
    """The evidence with which a rollout's journal asked last; None if it has not asked."""
    assert subject.state is not None
    for fact in reversed(subject.facts):
        if fact.evidence_digest == subject.state.asked_digest:
            return evidence(fact)
    return None
