"""`python -m mlplatform.page`: serves the platform's own page until told to stop."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from mlplatform.errors import PlatformError
from mlplatform.models.personal import personal_fields
from mlplatform.refusals import Refusals
from mlplatform.settings import Settings
from mlplatform.supervisor.parent_death import follow_parent, lower_priority
from mlplatform.telemetry import logs


def parser() -> argparse.ArgumentParser:
    """The command line; all else are settings."""
    parser = argparse.ArgumentParser(prog="mlplatform.page", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="where it listens")
    parser.add_argument(
        "--token-file", type=Path, help="holds its password; without: run/page.token of the home"
    )
    return parser


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    options = parser().parse_args()
    follow_parent()
    lower_priority()
    logs.configure("page", personal_fields())
    os.umask(0o077)
    from mlplatform import wiring
    from mlplatform.http.uvicorn_limits import Door, serve
    from mlplatform.page.app import application
    from mlplatform.page.sources import Sources

    settings = wiring.settings()
    logs.set_level(settings.log_level)
    door = Door("page", Refusals(settings.home.audit))
    token_file: Path = options.token_file or settings.home.page_token
    try:
        shown = application(
            Sources(wiring.platform()),
            token=token_file.read_text().strip(),
            hosts=asked_for_as(settings),
            links=_links(settings),
            let_in=door.let_in,
        )
    except (PlatformError, OSError) as error:
        sys.exit(f"the page cannot start: {error}")
    serve(shown, door, host=options.host, port=settings.page_port, stop_s=1)


def asked_for_as(settings: Settings) -> list[str]:
    """What a request's `Host` may say: the address of `MLPLATFORM_PAGE_URL`, else this machine."""
    if settings.servers.page:
        return [urlsplit(settings.page_url).netloc]
    return [f"{name}:{settings.page_port}" for name in ("127.0.0.1", "localhost")]


def _links(settings: Settings) -> dict[str, str]:
    """Pages beside this one, where a browser that reads this one reaches them."""
    if settings.servers.page:  # a cluster's names mean nothing to it
        return {}
    return {"Prefect": settings.prefect_url, "MLflow": settings.mlflow_url}


if __name__ == "__main__":
    main()
