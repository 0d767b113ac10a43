"""`python -m mlplatform.process page` in a process of its own, for tests."""

from __future__ import annotations

import os
import subprocess
import sys

import httpx

from mlplatform.runtime.configuration.settings import Home
from support.platform_process import wait
from support.ports import free_port
from support.probe import status_of

TOKEN = "a token of this start"


class PageProcess:
    """`python -m mlplatform.process page` on a home folder.

    Args:
        port: None: any that is free.
    """

    def __init__(self, home: Home, *, port: int | None = None, **told: str) -> None:
        self.port, self.token = port or free_port(), TOKEN
        self.url = f"http://127.0.0.1:{self.port}"
        home.page_token.parent.mkdir(parents=True, exist_ok=True)
        home.page_token.write_text(TOKEN)
        self.home = home
        self.log = home.root / "logs" / "page.log"
        environment = {
            **os.environ,
            "MLPLATFORM_HOME": str(home.root),
            "MLPLATFORM_PAGE_PORT": str(self.port),
            "MLPLATFORM_MLFLOW_PORT": str(free_port()),
            **told,
        }
        named = told.get("MLPLATFORM_PAGE_URL", "").removeprefix("http://")
        self.names = {"Host": named} if named else None
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "mlplatform.process", "page"]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        wait(lambda: status_of(f"{self.url}/health", self.names) == 200, "the page answers")

    def get(self, path: str, **how: object) -> httpx.Response:
        given = {"auth": ("anybody", TOKEN), "headers": self.names, "timeout": 60.0} | how
        return httpx.get(f"{self.url}{path}", **given)  # type: ignore[arg-type]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
