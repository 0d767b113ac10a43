"""Where the platform's own servers are when they do not run on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.errors import ConfigInvalid

PREFECT_AUTH: Final = "PREFECT_API_AUTH_STRING"
"""Prefect's own variable, which its client in a flow run needs too."""


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers that are somewhere else; what is left empty is on this machine.

    Args:
        gateway: http://host:port of the scoring API.
        prefect: http://host:port of Prefect's server.
        mlflow: http://host:port of the registry.
        page: http://host:port of the platform's own page, as who shows it to people asks for it.
        prefect_auth: user:password that Prefect's server asks for; empty: it asks for none.
        mlflow_token_file: of the registry's token; None: the one in the home folder.
    """

    gateway: str = ""
    prefect: str = ""
    mlflow: str = ""
    page: str = ""
    prefect_auth: str = field(default="", repr=False)
    mlflow_token_file: Path | None = None

    def environment(self) -> dict[str, str]:
        """The variables that give a child process the same; the password is inherited."""
        return {
            f"{PREFIX}GATEWAY_URL": self.gateway,
            f"{PREFIX}PREFECT_URL": self.prefect,
            f"{PREFIX}MLFLOW_URL": self.mlflow,
            f"{PREFIX}PAGE_URL": self.page,
            f"{PREFIX}MLFLOW_TOKEN_FILE": str(self.mlflow_token_file or ""),
        }


HERE: Final = Servers()


def servers(environment: Mapping[str, str]) -> Servers:
    """From `MLPLATFORM_GATEWAY_URL`, `_PREFECT_URL`, `_MLFLOW_URL`, `_PAGE_URL` and
    `_MLFLOW_TOKEN_FILE`.

    Raises:
        ConfigInvalid: names the variable and what is wanted.
    """
    auth, file = environment.get(PREFECT_AUTH, ""), environment.get(f"{PREFIX}MLFLOW_TOKEN_FILE")
    if auth and ":" not in auth:
        raise ConfigInvalid(PREFECT_AUTH, "...", "user:password")
    return Servers(
        gateway=_url(environment, "GATEWAY_URL"),
        prefect=_url(environment, "PREFECT_URL"),
        mlflow=_url(environment, "MLFLOW_URL"),
        page=_url(environment, "PAGE_URL"),
        prefect_auth=auth,
        mlflow_token_file=Path(file) if file else None,
    )


def _url(environment: Mapping[str, str], name: str) -> str:
    url = environment.get(PREFIX + name, "")
    if url and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?", url):
        raise ConfigInvalid(PREFIX + name, url, "http://host:port, without a path or password")
    return url
