"""`python -m mlplatform.process prefect`: Prefect's server behind its gate, for a pod.

On one machine the process that serves flows has the server in it (`local_flows`). Here flows are
Jobs. The platform's own calls have the token of PREFECT_API_AUTH_STRING, which is Prefect's own
variable. The page has one of its own, which lists deployments and runs, and starts nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from mlplatform.operations.prefect_server import prefect_server, run_names
from mlplatform.operations.prefect_server.prefect_gate import (
    PLATFORM,
    READER,
    SURFACE,
    PrefectSecrets,
)
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
    parser.add_argument(
        "--reader-file",
        type=Path,
        help="The file of reader:token, by which the page asks; it may be missing.",
    )
    return parser


def tokens(settings: Settings, reader_file: Path | None = None) -> PrefectSecrets:
    """The tokens of the platform's own calls and of the page; there is no operator's token here.

    Args:
        reader_file: holds the page's; None, or a file that is not there: the page has none.

    Raises:
        ConfigInvalid: the variable or the file holds no such token, or they hold the same.
    """
    name, _, token = settings.servers.prefect_auth.partition(":")
    if name != PLATFORM or not token:
        raise ConfigInvalid(PREFECT_AUTH, "...", f"{PLATFORM}:SECRET, with a secret of your own")
    reader = _reader_token(reader_file) if reader_file is not None else ""
    if reader == token:
        wanted = f"another token than that of {PREFECT_AUTH}, which may start everything"
        raise ConfigInvalid(str(reader_file), "the same token", wanted)
    return PrefectSecrets(token, "", reader)


def _reader_token(file: Path) -> str:
    """The token of a file; empty if it is not there."""
    try:
        text = file.read_text().strip()
    except FileNotFoundError:
        return ""
    name, _, token = text.partition(":")
    if name != READER or not token:
        raise ConfigInvalid(str(file), "...", f"{READER}:SECRET, with a secret of your own")
    return token


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    known = tokens(settings, options.reader_file)
    with prefect_server.people_of(scoring_wiring.keys(settings)) as people:
        # Prefect reads its environment when it is imported
        from prefect.server.api.server import create_app

        run_names.install()
        connections = ListenerConnections(SURFACE, Refusals(settings.home.audit))
        hosts = [urlsplit(settings.prefect_url).netloc]
        gated = prefect_server.gate(create_app(), settings, known, people, connections, hosts)
        shown = prefect_server.configuration(gated, connections, options.host, options.port)
        uvicorn.Server(shown).run()
