"""`python -m mlplatform.process prefect`: Prefect's server behind its gate, for a pod.

On one machine the process that serves flows has the server in it (`local_flows`). Here flows are
Jobs. The platform's own calls have the token of PREFECT_API_AUTH_STRING, which is Prefect's own
variable.
"""

from __future__ import annotations

import argparse
from urllib.parse import urlsplit

import uvicorn

from mlplatform.operations.prefect_server import prefect_server, run_names
from mlplatform.operations.prefect_server.prefect_gate import PLATFORM, SURFACE, PrefectSecrets
from mlplatform.runtime.configuration.declarations import DEFAULTS
from mlplatform.runtime.configuration.servers import PREFECT_AUTH
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.http.uvicorn_limits import ListenerConnections
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.scoring import wiring as scoring_wiring


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; all but host and port are settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="The address on which it listens.")
    port = int(DEFAULTS["PREFECT_PORT"])
    parser.add_argument("--port", type=int, default=port, help="The port of the UI and the API.")
    return parser


def tokens(settings: Settings) -> PrefectSecrets:
    """The token of the platform's own calls; there is no operator's token here.

    Raises:
        ConfigInvalid: the variable holds no such token.
    """
    name, _, token = settings.servers.prefect_auth.partition(":")
    if name != PLATFORM or not token:
        raise ConfigInvalid(PREFECT_AUTH, "...", f"{PLATFORM}:a secret of some length")
    return PrefectSecrets(token, "")


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    known = tokens(settings)
    with prefect_server.people_of(scoring_wiring.keys(settings)) as people:
        # Prefect reads its environment when it is imported
        from prefect.server.api.server import create_app

        run_names.install()
        connections = ListenerConnections(SURFACE, Refusals(settings.home.audit))
        hosts = [urlsplit(settings.prefect_url).netloc]
        gated = prefect_server.gate(create_app(), settings, known, people, connections, hosts)
        shown = prefect_server.configuration(gated, connections, options.host, options.port)
        uvicorn.Server(shown).run()
