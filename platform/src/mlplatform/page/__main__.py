"""`python -m mlplatform.page`: serves the platform's own page until told to stop."""

from __future__ import annotations

import os

from mlplatform.supervisor.lifeline import follow_parent, step_back
from mlplatform.telemetry import logs

MAX_REQUESTS = 64
"""At a time; who comes after them is told to come again (503)."""


def main() -> None:
    """Serves; the token is that of this start (`run/page.token`)."""
    follow_parent()
    step_back()
    logs.configure("page")
    os.umask(0o077)
    import uvicorn

    from mlplatform import wiring
    from mlplatform.page.app import application
    from mlplatform.page.sources import Sources

    settings = wiring.settings()
    logs.set_level(settings.log_level)
    uvicorn.run(
        application(
            Sources(wiring.platform()),
            token=settings.home.page_token.read_text().strip(),
            port=settings.page_port,
            links={"Prefect": settings.prefect_url, "MLflow": settings.mlflow_url},
        ),
        host="127.0.0.1",
        port=settings.page_port,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_REQUESTS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
