"""The page as an application: a template for each path, forms for people's actions, one script."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mlplatform.observing.page import incidents, system_summary, traffic
from mlplatform.observing.page.decision_views import DecisionViews
from mlplatform.observing.page.model_views import ModelViews, score_word, trains
from mlplatform.observing.page.people.actions import Actions
from mlplatform.observing.page.people.gate import SAFE_METHODS, PageAccess, SessionGate
from mlplatform.observing.page.people.provider import Provider
from mlplatform.observing.page.people.provider_sign_in import ProviderSignIn
from mlplatform.observing.page.people.refreshes import Refreshes
from mlplatform.observing.page.people.sign_in import SignIn
from mlplatform.observing.page.queries import rollouts
from mlplatform.observing.page.queries.error_budget import BudgetTable
from mlplatform.observing.page.queries.sources import ModelRow, Sources
from mlplatform.observing.page.queries.system_state import SystemState, or_why
from mlplatform.observing.page.rendering import render, script, style
from mlplatform.observing.page.responses import Show, answering, html, problem
from mlplatform.observing.page.review.views import Reviews
from mlplatform.observing.page.traffic import TrafficDetail
from mlplatform.operations.card.sections import sections
from mlplatform.runtime.errors import (
    ConfigUnusable,
    NotFound,
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
_VERSION: Final = re.compile(r"[1-9][0-9]{0,9}")
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cache-Control": "no-store",
    # Without a referrer a browser would say `Origin: null` of this page's own forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Headers of every answer: a browser runs no script but the page's own file, whatever a template
let through, and stores nothing."""

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
    }
    routes = [Route(path, answering(show), methods=["GET"]) for path, show in shown.items()]
    routes += [*DecisionViews(sources).routes(), *ModelViews(sources).routes()]
    sign_in = SignIn(access, token, _page, provider)
    routes += [*sign_in.routes(), *actions.routes()]
    if provider is not None:
        routes += ProviderSignIn(access, provider, sign_in).routes()
    routes += reviews.routes()
    routes.append(Route("/style.css", _style, methods=["GET"]))
    routes.append(Route("/live.js", _script, methods=["GET"]))
    routes.append(Route("/health", _health, methods=["GET"]))
    inner = Refreshes(
        Starlette(
            routes=routes,
            exception_handlers={HTTPException: _show_refusal, Exception: _show_failure},
        )
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
        models, period = or_why(self._sources.models), _period(request)
        each = [] if isinstance(models, str) else models
        return render(
            "overview.html",
            here="overview",
            waiting=or_why(self._actions.waiting_rollouts),
            reviews=or_why(self._reviews.review_queues),
            status=self._sources.processes(),
            refused=self._sources.refusal_counts(),
            models=models,
            traffic={m.definition.name: self._traffic(m, period) for m in each},
            budgets={m.definition.name: self._budgets(m) for m in each},
            rollouts=or_why(self._sources.rollouts_under_way),
            incidents=or_why(lambda: self._sources.incidents(closed=False)),
            tones=rollouts.TONES,
            links=self._links,
        )

    def system(self, request: Request) -> str:
        """The state behind the models. A part that can't be read now says so beside the others."""
        alerts, disk = or_why(self._sources.alerts), or_why(self._system.disk)
        lags, queues = or_why(self._system.log), or_why(self._system.queues)
        schedules, status = or_why(self._sources.schedules), self._sources.processes()
        return render(
            "system.html",
            here="system",
            concerns=system_summary.concerns(alerts, disk, lags, queues, schedules, status),
            alerts=alerts,
            disk=disk,
            lags=lags,
            queues=queues,
            schedules=schedules,
            prefect=self._links.get("Prefect", ""),
            status=status,
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
            buttons=self._actions.buttons_of_model(found.routes),
            versions=or_why(lambda: self._sources.versions(name, wanted)),
            rollouts=own,
            tones=rollouts.TONES,
        )

    def card(self, request: Request) -> str:
        name, version = request.path_params["name"], request.path_params["version"]
        if not _VERSION.fullmatch(version):
            raise NotFound(f"{name} has no version {version[:MOST_SHOWN]!a}; wanted: a number")
        found = self._sources.card(name, int(version))
        return render(
            "card.html",
            here="overview",
            card=found,
            sections=sections(found),
            champion=self._sources.model(name).routes.champion,
            mlflow=self._links.get("MLflow", ""),
        )

    def _traffic(self, model: ModelRow, period: str) -> TrafficDetail | str | None:
        definition, (back_ms, _) = model.definition, traffic.PERIODS[period]
        return or_why(
            lambda: traffic.traffic_detail(
                definition,
                self._sources.traffic(definition.name, back_ms),
                period,
                self._sources.event_ms(),
            )
        )

    def _budgets(self, model: ModelRow) -> BudgetTable | str:
        return or_why(lambda: self._sources.error_budgets(model.definition))

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
        waiting = or_why(
            lambda: [w for w in self._actions.waiting_rollouts() if w.rollout_id == name]
        )
        return render(
            "rollout.html",
            here="rollouts",
            shown=shown,
            killed=self._sources.killed(facts[0].model) if shown.state.ramping else None,
            waiting=waiting,
            buttons=self._actions.buttons("rollouts", name),
        )

    def evidence(self, request: Request) -> str:
        found = self._sources.evidence(request.path_params["name"])
        return render("evidence.html", here="rollouts", found=found)

    def incidents(self, request: Request) -> str:
        rows, older = _part(self._sources.incidents(), _offset(request))
        return render("incidents.html", here="incidents", incidents=rows, older=older)

    def incident(self, request: Request) -> str:
        found = self._sources.incident(request.path_params["name"])
        now_ms, model = self._sources.platform.clock.wall_ms(), found.found.model
        word = score_word(self._sources, model)
        own = or_why(lambda: self._sources.rollouts(model, most=PAGE_ROWS))
        shown = incidents.incident(
            *(found, now_ms),
            trains=trains(model),
            score_word=word,
            rollouts=None if isinstance(own, str) else own,
        )
        return render("incident.html", here="incidents", shown=shown)


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


async def _show_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return problem(
            request, 405, "This address takes no such request", "", headers={"Allow": "GET, HEAD"}
        )
    return problem(request, error.status_code, "There is nothing of that name here", "")


async def _show_failure(request: Request, error: Exception) -> Response:
    # The error is in the log: the server writes it there after this answer.
    return problem(request, 500, "This page failed", "The page's log says why.")


async def _health(request: Request) -> Response:
    return PlainTextResponse("ok")


async def _style(request: Request) -> Response:
    return Response(style(), media_type="text/css")


async def _script(request: Request) -> Response:
    return Response(script(), media_type="text/javascript")


def _foreign(access: PageAccess, scope: Scope) -> None:
    """A page of somebody else's that a browser shows has sent a form here: browsers name it."""
    names_a_page = any(name == b"origin" for name, _ in scope["headers"])
    if scope["type"] == "http" and scope["method"] not in SAFE_METHODS and names_a_page:
        why = "another site's page sent it, or it asked for another Host"
        access.refuse(UNKNOWN, f"{scope['method']} {scope['path']}", why)


def _page(template: str, status: int, **shown: Any) -> Response:
    return html(render(template, **{"here": "", **shown}), status)
