"""MLflow's aliases over its REST API: what every pass shows, without importing MLflow (3 s).

Source: MLflow REST API 2.0, registered-models/alias.
"""

from __future__ import annotations

import httpx

from mlplatform.errors import Unavailable

PATH = "/api/2.0/mlflow/registered-models/alias"


class MlflowAliases:
    """Names of versions, shown to people; nothing is decided from an alias.

    Args:
        token: the server's bearer token.
    """

    def __init__(self, uri: str, token: str, timeout_s: float = 5.0) -> None:
        self._uri = uri
        headers = {"Authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=uri, timeout=timeout_s, headers=headers)

    def show(self, model: str, alias: str, version: int) -> None:
        """Point an alias at a version; the same again changes nothing.

        Raises:
            Unavailable: MLflow does not answer, or not as expected.
        """
        asked = {"name": model, "alias": alias}
        present = self._call("GET", params=asked)
        shown = present.json().get("model_version", {}).get("version") if present.is_success else ""
        if str(shown) != str(version):
            self._call("POST", json={**asked, "version": str(version)}).raise_for_status()

    def _call(self, method: str, **arguments: dict[str, str]) -> httpx.Response:
        try:
            response = self._client.request(method, PATH, **arguments)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            raise Unavailable(f"MLflow at {self._uri}") from error
        if response.is_server_error or response.status_code == httpx.codes.UNAUTHORIZED:
            raise Unavailable(f"MLflow at {self._uri} answered {response.status_code}")
        return response
