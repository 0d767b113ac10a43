"""`python -m mlplatform.process page`: serves the platform's own page until it is stopped."""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mlplatform.observing.page import warm_up
from mlplatform.observing.page.app import application
from mlplatform.observing.page.people import roles
from mlplatform.observing.page.people.gate import SURFACE, Identities, PageAccess
from mlplatform.observing.page.people.provider import Provider
from mlplatform.observing.page.people.reader import may_see
from mlplatform.observing.page.people.sessions import Sessions
from mlplatform.observing.page.queries.burn_rates import BurnRates
from mlplatform.observing.page.queries.schedules import TIMEOUT_S, Schedules
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.operations import wiring
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.configuration.kinds import is_trustworthy
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.http.listener import read_token
from mlplatform.runtime.http.uvicorn_limits import ListenerConnections, serve
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.runtime.telemetry.sign_ins import SignIns
from mlplatform.scoring import wiring as scoring_wiring

API_PAGE: Final = "/openapi.html"
"""Page of the gateway's newest API (`scoring.api.reference`)."""


def parser() -> argparse.ArgumentParser:
    """The command line; all else are settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--host", default="127.0.0.1", help="The address on which the page listens."
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        help="A file with the page's password; without it, run/page.token of the home.",
    )
    return parser


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    refusals = Refusals(settings.home.audit)
    connections = ListenerConnections(SURFACE, refusals)
    identities = Identities(partial(scoring_wiring.keys, settings), SystemClock().wall_ms)
    access = PageAccess(
        identities,
        Sessions(),
        refusals,
        cookie=cookie_of(settings),
        sign_ins=SignIns(settings.home.audit),
        secure=_is_secure(settings),
    )
    settings.home.create()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a view's questions are no news
    schedules = schedules_of(settings)
    sources = Sources(wiring.Platform(settings), may_see, burn_rates_of(settings), schedules)
    shown = application(
        sources,
        token=read_token(options.token_file or settings.home.page_token),
        hosts=accepted_hosts(settings),
        links=_links(settings),
        access=access,
        admit=connections.admit,
        provider=provider_of(settings),
    )
    warm_up.prepare(sources, schedules)
    serve(shown, connections, host=options.host, port=settings.page_port, stop_s=1)


def burn_rates_of(settings: Settings) -> BurnRates | None:
    """The burn rates that the settings' Prometheus has; None if they name none."""
    url = settings.servers.prometheus
    return BurnRates(url) if url else None


def schedules_of(settings: Settings) -> Schedules | None:
    """The schedules of this platform's Prefect; None in a pod without Prefect's password."""
    if settings.servers.page and not settings.servers.prefect_auth:
        return None
    opened = partial(wiring.prefect_api, settings, timeout_s=TIMEOUT_S, tries=1)
    return Schedules(opened, SystemClock().wall_ms)


def provider_of(settings: Settings) -> Provider | None:
    """The identity provider of the settings; None if they name none.

    Raises:
        ConfigInvalid: the file of roles is wrong, or browsers reach the page by plain http, so that
            somebody who reads the network traffic could take the session.
    """
    provider, page = settings.identity_provider, settings.page_url
    if provider is None:
        return None
    if not is_trustworthy(page):
        wanted = "https, or http on this machine, where people sign in at a provider"
        raise ConfigInvalid(f"{PREFIX}PAGE_URL", page, wanted)
    return Provider(provider, roles.read(provider.roles), page)


def cookie_of(settings: Settings) -> str:
    """The name of a session's cookie.

    Source: RFC 6265bis section 4.1.3.2.
    """
    name = f"mlplatform-page-{settings.page_port}"
    return f"__Host-{name}" if _is_secure(settings) else name


def _is_secure(settings: Settings) -> bool:
    return settings.page_url.startswith("https://")


def accepted_hosts(settings: Settings) -> list[str]:
    """The accepted values of a request's `Host`: the address of `MLPLATFORM_PAGE_URL`, else this
    machine."""
    if settings.servers.page:
        return [urlsplit(settings.page_url).netloc.lower()]
    return [f"{name}:{settings.page_port}" for name in ("127.0.0.1", "localhost")]


def _links(settings: Settings) -> dict[str, str]:
    """Other pages of the installation, at addresses that a browser reading this one can reach."""
    if settings.servers.page:  # a browser can't resolve a cluster's names
        return {}
    return {
        "Prefect": settings.prefect_url,
        "MLflow": settings.mlflow_url,
        "The gateway's API": f"{settings.gateway_url}{API_PAGE}",
    }
