"""`python -m mlplatform.orchestration.server`: Prefect's server behind its gate, for a pod.

On one machine the process that serves flows has the server in it (`served`). Here flows are Jobs.
The platform's own calls have the token of PREFECT_API_AUTH_STRING, which is Prefect's own variable.
"""

from __future__ import annotations

import argparse
import os
import sys
from urllib.parse import urlsplit

from mlplatform import wiring
from mlplatform.errors import ConfigInvalid, PlatformError
from mlplatform.http.uvicorn_limits import Door
from mlplatform.models.personal import personal_fields
from mlplatform.refusals import Refusals
from mlplatform.servers import PREFECT_AUTH
from mlplatform.settings import Settings
from mlplatform.supervisor import prefect_server
from mlplatform.supervisor.prefect_gate import DOOR, PLATFORM, Tokens
from mlplatform.telemetry import logs


def parser() -> argparse.ArgumentParser:
    """The command line; all else are settings."""
    parser = argparse.ArgumentParser(prog="mlplatform.orchestration.server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="where it listens")
    parser.add_argument("--port", type=int, default=4200, help="of the UI and the API")
    return parser


def tokens(settings: Settings) -> Tokens:
    """The token of the platform's own calls; nobody else has one here.

    Raises:
        ConfigInvalid: there is none.
    """
    name, _, token = settings.servers.prefect_auth.partition(":")
    if name != PLATFORM or not token:
        raise ConfigInvalid(PREFECT_AUTH, "...", f"{PLATFORM}:a secret of some length")
    return Tokens(token, "")


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    options = parser().parse_args()
    logs.configure("flows", personal_fields(), "server")
    os.umask(0o077)
    settings = wiring.settings()
    logs.set_level(settings.log_level)
    try:
        known = tokens(settings)
        with prefect_server.people_of(settings) as people:
            import uvicorn
            from prefect.server.api.server import create_app

            door = Door(DOOR, Refusals(settings.home.audit))
            hosts = [urlsplit(settings.prefect_url).netloc]
            gated = prefect_server.gate(create_app(), settings, known, people, door, hosts)
            shown = prefect_server.configuration(gated, door, options.host, options.port)
            uvicorn.Server(shown).run()
    except PlatformError as error:
        sys.exit(f"Prefect's server cannot start: {error}")


if __name__ == "__main__":
    main()
