"""The part of MLflow's REST API that passes and commands use: importing MLflow costs 3 s.

Source: MLflow REST API 2.0, model-versions/get and registered-models/alias.
"""

from __future__ import annotations

from typing import Any

import httpx

from mlplatform.learning.registry.mlflow_errors import database_away
from mlplatform.learning.registry.versions import Version, read_version
from mlplatform.runtime.errors import NotFound, Unavailable

ALIAS = "/api/2.0/mlflow/registered-models/alias"
VERSION = "/api/2.0/mlflow/model-versions/get"


class MlflowRest:
    """Reads versions and shows aliases; nothing is decided from an alias.

    Args:
        token: the server's bearer token.
    """

    def __init__(self, uri: str, token: str, timeout_s: float = 5.0) -> None:
        self._uri = uri
        headers = {"Authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=uri, timeout=timeout_s, headers=headers)

    def get(self, model: str, version: int) -> Version:
        """One version, as `Registry.get`.

        Raises:
            NotFound: there is no such version, or it was not registered by this platform.
            Unavailable: MLflow does not answer.
        """
        asked = {"name": model, "version": str(version)}
        response = self._call("GET", VERSION, params=asked)
        found = None
        if response.is_success:
            data = response.json()["model_version"]
            found = read_version(
                data["name"],
                int(data["version"]),
                {tag["key"]: tag["value"] for tag in data.get("tags", [])},
                run_id=data.get("run_id", ""),
                created_at_ms=int(data["creation_timestamp"]),
            )
        if found is None:
            raise NotFound(f"version {version} of {model} was not registered by this platform")
        return found

    def show(self, model: str, alias: str, version: int) -> None:
        """Point an alias at a version; the same again changes nothing.

        Raises:
            Unavailable: MLflow does not answer, or not as expected.
        """
        asked = {"name": model, "alias": alias}
        present = self._call("GET", ALIAS, params=asked)
        shown = present.json().get("model_version", {}).get("version") if present.is_success else ""
        if str(shown) == str(version):
            return
        answer = self._call("POST", ALIAS, json={**asked, "version": str(version)})
        if answer.is_error:
            raise Unavailable(f"MLflow at {self._uri} refused the alias {alias}: {answer.text}")

    def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise Unavailable(f"MLflow at {self._uri}") from error
        if response.is_server_error or response.status_code == httpx.codes.UNAUTHORIZED:
            raise Unavailable(f"MLflow at {self._uri} answered {response.status_code}")
        if response.status_code == httpx.codes.BAD_REQUEST and _tells_of_database(response):
            raise Unavailable(f"the database of MLflow at {self._uri}")
        return response


def _tells_of_database(response: httpx.Response) -> bool:
    try:
        said = response.json()
    except ValueError:
        return False
    if not isinstance(said, dict):
        return False
    return database_away(str(said.get("error_code")), str(said.get("message")))
