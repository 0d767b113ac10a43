"""The page as an application: one template for each path, forms for people's actions, no script."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import is_ready, model_folder
from mlplatform.model.rhythm import SCORE
from mlplatform.observing.page import exports, incidents, traffic
from mlplatform.observing.page.causes import explanation_details
from mlplatform.observing.page.people import forms
from mlplatform.observing.page.people.actions import Actions
from mlplatform.observing.page.people.gate import SAFE_METHODS, PageAccess, SessionGate
from mlplatform.observing.page.people.provider import Provider
from mlplatform.observing.page.people.provider_sign_in import ProviderSignIn
from mlplatform.observing.page.people.sign_in import SignIn
from mlplatform.observing.page.queries import decisions, rollouts, search
from mlplatform.observing.page.queries.error_budget import BudgetTable
from mlplatform.observing.page.queries.sources import ModelRow, Sources
from mlplatform.observing.page.queries.system_state import SystemState
from mlplatform.observing.page.rendering import render, style
from mlplatform.observing.page.review.views import Reviews
from mlplatform.observing.page.traffic import TrafficDetail
from mlplatform.operations.card.sections import sections
from mlplatform.runtime.errors import (
    ConfigInvalid,
    ConfigUnusable,
    Corrupt,
    InputInvalid,
    NotFound,
    PlatformError,
)
from mlplatform.runtime.http.cross_site_guard import (
    Application,
    CrossSiteGuard,
    Receive,
    Scope,
    Send,
)
from mlplatform.runtime.http.token_gate import TokenGate
from mlplatform.runtime.telemetry.refusals import UNKNOWN

log = logging.getLogger(__name__)

PAGE_ROWS: Final = 50
MOST_SHOWN: Final = 64
"""Most characters of a value in a message."""
MAX_OFFSET: Final = 1_000_000
MAX_VERSIONS: Final = 10
LISTS: Final = ("rollouts", "incidents", "decisions")
"""Paths of lists; a problem below one leads back to it."""
_VERSION: Final = re.compile(r"[1-9][0-9]{0,9}")
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    # Without a referrer a browser would say `Origin: null` of this page's own forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Headers of every answer: a browser runs no script, whatever a template let through, and stores
nothing."""

Show = Callable[[Request], str]
T = TypeVar("T")


def application(
    sources: Sources,
    *,
    token: str,
    hosts: Sequence[str],
    links: Mapping[str, str],
    access: PageAccess,
    admit: Callable[[Scope], None] = lambda scope: None,
    provider: Provider | None = None,
) -> Application:
    """The page behind its token and people's sessions.

    Args:
        hosts: allowed values of a request's `Host`, each with its port.
        links: name → address of other pages.
        access: the people who may sign in, and the sessions.
        admit: called with each request of a reader who knows the token or has signed in.
        provider: identity provider at which people can sign in, besides by their keys; None if
            there is none.

    Raises:
        ConfigInvalid: the token is empty.
    """
    if not token:
        raise ConfigUnusable(
            "the token of the page", "its file is empty", "a file that holds a secret"
        )
    actions = Actions(sources.platform, sources, access, _page, provider)
    reviews = Reviews(sources, access, _page)
    pages = Pages(sources, links, actions, reviews)
    shown: dict[str, Show] = {
        "/": pages.overview,
        "/models/{name}": pages.model,
        "/models/{name}/versions/{version}": pages.card,
        "/system": pages.system,
        "/rollouts": pages.rollouts,
        "/rollouts/{name}": pages.rollout,
        "/evidence/{name}": pages.evidence,
        "/incidents": pages.incidents,
        "/incidents/{name}": pages.incident,
        "/decisions": pages.decisions,
        "/decisions/{name}": pages.decision,
    }
    routes = [Route(path, _answering(show), methods=["GET"]) for path, show in shown.items()]
    routes.append(Route("/decisions", _finding(pages.find), methods=["POST"]))
    sign_in = SignIn(access, token, _page, provider)
    routes += [*sign_in.routes(), *actions.routes()]
    if provider is not None:
        routes += ProviderSignIn(access, provider, sign_in).routes()
    routes += reviews.routes()
    routes.append(Route("/decisions.csv", _exported(pages.export), methods=["GET"]))
    routes.append(Route("/style.css", _style, methods=["GET"]))
    routes.append(Route("/health", _health, methods=["GET"]))
    inner = Starlette(
        routes=routes,
        exception_handlers={HTTPException: _show_refusal, Exception: _show_failure},
    )
    by_token = TokenGate(inner, token, "page", "run/page.token", admit)
    gated = SessionGate(inner, by_token, access, admit)
    scheme = "https" if access.secure else "http"
    return Headers(CrossSiteGuard(gated, hosts, scheme=scheme, refused=partial(_foreign, access)))


class Pages:
    """The content of each path. Methods run on threads; each raises as its source does."""

    def __init__(
        self, sources: Sources, links: Mapping[str, str], actions: Actions, reviews: Reviews
    ) -> None:
        self._sources = sources
        self._system = SystemState(sources)
        self._reviews = reviews
        self._links = links
        self._actions = actions

    def overview(self, request: Request) -> str:
        """The overview. A part that can't be read now says so beside the others."""
        models, period = _or_why(self._sources.models), _period(request)
        each = [] if isinstance(models, str) else models
        return render(
            "overview.html",
            here="overview",
            waiting=_or_why(self._actions.waiting_rollouts),
            reviews=_or_why(self._reviews.review_queues),
            status=self._sources.processes(),
            refused=self._sources.refusal_counts(),
            models=models,
            traffic={m.definition.name: self._traffic(m, period) for m in each},
            budgets={m.definition.name: self._budgets(m) for m in each},
            rollouts=_or_why(self._sources.rollouts_under_way),
            incidents=_or_why(lambda: self._sources.incidents(closed=False)),
            tones=rollouts.TONES,
            links=self._links,
        )

    def system(self, request: Request) -> str:
        """The state behind the models. A part that can't be read now says so beside the others."""
        return render(
            "system.html",
            here="system",
            alerts=_or_why(self._sources.alerts),
            disk=_or_why(self._system.disk),
            lags=_or_why(self._system.log),
            queues=_or_why(self._system.queues),
            schedules=_or_why(self._sources.schedules),
            prefect=self._links.get("Prefect", ""),
            status=self._sources.processes(),
        )

    def model(self, request: Request) -> str:
        name = request.path_params["name"]
        found = self._sources.model(name)
        own = self._sources.rollouts(name, most=PAGE_ROWS)
        numbers = [arm.version for arm in (*found.routes.arms, *found.routes.starting)]
        numbers += [s.challenger.version for s in own]
        wanted = list(dict.fromkeys(numbers))[:MAX_VERSIONS]
        return render(
            "model.html",
            here="overview",
            model=found,
            traffic=self._traffic(found, _period(request)),
            budgets=self._budgets(found),
            buttons=self._actions.buttons("models", name),
            versions=_or_why(lambda: self._sources.versions(name, wanted)),
            rollouts=own,
            tones=rollouts.TONES,
        )

    def card(self, request: Request) -> str:
        name, version = request.path_params["name"], request.path_params["version"]
        if not _VERSION.fullmatch(version):
            raise NotFound(f"{name} has no version {version[:MOST_SHOWN]!a}; wanted: a number")
        found = self._sources.card(name, int(version))
        return render("card.html", here="overview", card=found, sections=sections(found))

    def _traffic(self, model: ModelRow, period: str) -> TrafficDetail | str | None:
        definition, (back_ms, _) = model.definition, traffic.PERIODS[period]
        return _or_why(
            lambda: traffic.traffic_detail(
                definition,
                self._sources.traffic(definition.name, back_ms),
                period,
                self._sources.event_ms(),
            )
        )

    def _budgets(self, model: ModelRow) -> BudgetTable | str:
        return _or_why(lambda: self._sources.error_budgets(model.definition))

    def rollouts(self, request: Request) -> str:
        offset = _offset(request)
        rows, older = _part(self._sources.rollouts(skip=offset, most=PAGE_ROWS + 1))
        more = None if older is None else offset + older
        return render(
            "rollouts.html", here="rollouts", rollouts=rows, older=more, tones=rollouts.TONES
        )

    def rollout(self, request: Request) -> str:
        name = request.path_params["name"]
        facts = self._sources.rollout(name)
        shown = rollouts.rollout(facts, self._sources.histories(facts[0]))
        waiting = _or_why(
            lambda: [w for w in self._actions.waiting_rollouts() if w.rollout_id == name]
        )
        buttons = self._actions.buttons("rollouts", name)
        return render(
            "rollout.html", here="rollouts", shown=shown, waiting=waiting, buttons=buttons
        )

    def evidence(self, request: Request) -> str:
        found = self._sources.evidence(request.path_params["name"])
        return render("evidence.html", here="rollouts", found=found)

    def incidents(self, request: Request) -> str:
        rows, older = _part(self._sources.incidents(), _offset(request))
        return render("incidents.html", here="incidents", incidents=rows, older=older)

    def incident(self, request: Request) -> str:
        found = self._sources.incident(request.path_params["name"])
        now_ms, trains = self._sources.platform.clock.wall_ms(), _trains(found.found.model)
        scale = self._sources.scale(found.found.model)
        word = SCORE if scale is None else scale.score_word
        shown = incidents.incident(found, now_ms, trains=trains, score_word=word)
        return render("incident.html", here="incidents", shown=shown)

    def decisions(self, request: Request) -> str:
        query = search.query(dict(request.query_params))
        known = _definitions(self._sources.models)
        found = self._sources.decisions(query, PAGE_ROWS)
        scales = {name: self._sources.scale(name) for name in {row["model"] for row in found.rows}}
        return render(
            "decisions.html",
            here="decisions",
            query=query,
            found=found,
            tone=lambda model, decision: decisions.tone(scales[model], decision),
            score=lambda model, score: decisions.score_text(scales[model], score),
            score_heading=decisions.score_heading(scales.values()),
            names=[model.name for model in known],
            outcomes=list(dict.fromkeys(name for m in known for name in m.decision.scale.names)),
            most_exported=exports.MOST_ROWS,
            minute=search.minute,
        )

    def export(self, request: Request) -> exports.Export:
        query = search.query(dict(request.query_params))
        found = self._sources.decisions(query, exports.MOST_ROWS, search.READ, exports.BUDGET_S)
        return exports.export(found)

    def find(self, form: Mapping[str, str]) -> str:
        """The path that a search form leads to. A customer's id goes no further than its
        pseudonym."""
        fields = dict(form)
        decision_id = fields.pop("decision_id", "").strip()
        if decision_id:
            return f"/decisions/{quote(decision_id, safe='')}"
        customer = fields.pop("customer", "").strip()
        query = search.query(fields)
        if customer:
            query = replace(query, unit=self._sources.pseudonym(customer))
        return f"{query.link()}#found"

    def decision(self, request: Request) -> str:
        name = request.path_params["name"]
        found = self._sources.decision(name)
        label = self._sources.label(found[0].model) if found else ""
        shown = decisions.decision(found, label)
        decided = shown.decided
        word = "" if decided is None else decided.score.word
        asks_why = "why" in request.query_params
        return render(
            "decision.html",
            here="decisions",
            name=name,
            shown=shown,
            reasons={} if decided is None else self._sources.reasons(decided.model),
            why=_or_why(lambda: explanation_details(self._sources.why(name), word))
            if asks_why
            else None,
        )


class Headers:
    """Sets the headers of every answer, refusals included."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._added = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self._added]}
            await send(message)

        await self._application(scope, receive, with_headers)


def _answering(show: Show) -> Callable[[Request], Response]:
    return _or_problem(lambda request: _html(show(request)))


def _exported(export: Callable[[Request], exports.Export]) -> Callable[[Request], Response]:
    def file(request: Request) -> Response:
        made = export(request)
        named = {"Content-Disposition": f'attachment; filename="{made.name}"'}
        return Response(made.text, 200, named, "text/csv; charset=utf-8")

    return _or_problem(file)


def _or_problem(make: Callable[[Request], Response]) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        try:
            return make(request)
        except NotFound as error:
            return _problem(request, 404, "There is nothing of that name here", str(error))
        except InputInvalid as error:
            return _problem(request, 400, "This search can't be read", str(error))
        except Corrupt as error:
            log.exception("%s is damaged", request.url.path)
            return _problem(request, 500, "What is stored is damaged", str(error))
        except PlatformError as error:
            return _problem(request, 503, "This cannot be read now", str(error))

    return endpoint


def _trains(model: str) -> bool:
    """Whether the model's folder trains it, as far as the folder is here."""
    try:
        return not is_ready(model_folder(model))
    except (NotFound, ConfigInvalid):
        return True


def _definitions(models: Callable[[], list[ModelRow]]) -> list[ModelDefinition]:
    found = _or_why(models)
    return [] if isinstance(found, str) else [model.definition for model in found]


def _or_why(read: Callable[[], T]) -> T | str:
    """The result of a read, or a sentence on why it failed."""
    try:
        return read()
    except PlatformError as error:
        return str(error)


def _part(rows: list[T], offset: int = 0) -> tuple[list[T], int | None]:
    """The rows of one part, and the offset of the next part."""
    end = offset + PAGE_ROWS
    return rows[offset:end], end if end < len(rows) else None


def _period(request: Request) -> str:
    """The period that a request asks for.

    Raises:
        NotFound: there is no period of this name.
    """
    period = request.query_params.get("period", "day")
    if period not in traffic.PERIODS:
        wanted = ", ".join(traffic.PERIODS)
        raise NotFound(f"period is {period[:MOST_SHOWN]!a}; wanted: one of {wanted}")
    return period


def _offset(request: Request) -> int:
    text = request.query_params.get("from", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 8) or int(text) > MAX_OFFSET:
        wanted = f"a whole number up to {MAX_OFFSET:,}"
        raise NotFound(f"from is {text[:MOST_SHOWN]!a}; wanted: {wanted}")
    return int(text)


def _finding(find: Callable[[Mapping[str, str]], str]) -> Callable[[Request], Awaitable[Response]]:
    """The response that turns a form's search into a link, so that no address and no log holds what
    was typed."""

    async def endpoint(request: Request) -> Response:
        try:
            path = await run_in_threadpool(find, await forms.read(request))
        except InputInvalid as error:
            return _problem(request, 400, "This search can't be read", str(error))
        except NotFound as error:
            return _problem(request, 404, "There is nothing of that name here", str(error))
        except PlatformError as error:
            return _problem(request, 503, "This cannot be read now", str(error))
        return Response(status_code=303, headers={"Location": path})

    return endpoint


async def _show_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return _problem(
            request, 405, "This address takes no such request", "", headers={"Allow": "GET, HEAD"}
        )
    return _problem(request, error.status_code, "There is nothing of that name here", "")


async def _show_failure(request: Request, error: Exception) -> Response:
    # The error is in the log: the server writes it there after this answer.
    return _problem(request, 500, "This page failed", "The page's log says why.")


async def _health(request: Request) -> Response:
    return PlainTextResponse("ok")


async def _style(request: Request) -> Response:
    return Response(style(), media_type="text/css")


def _foreign(access: PageAccess, scope: Scope) -> None:
    """A page of somebody else's that a browser shows has sent a form here: browsers name it."""
    names_a_page = any(name == b"origin" for name, _ in scope["headers"])
    if scope["type"] == "http" and scope["method"] not in SAFE_METHODS and names_a_page:
        why = "another site's page sent it, or it asked for another Host"
        access.refuse(UNKNOWN, f"{scope['method']} {scope['path']}", why)


def _page(template: str, status: int, **shown: Any) -> Response:
    return _html(render(template, **{"here": "", **shown}), status)


def _problem(
    request: Request,
    status: int,
    title: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    above = request.url.path.split("/")[1].removesuffix(".csv")
    back = above if above in LISTS else "overview"
    text = render("problem.html", here="", status=status, title=title, detail=detail, back=back)
    return _html(text, status, headers)


def _html(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(text, status, headers, "text/html; charset=utf-8")
