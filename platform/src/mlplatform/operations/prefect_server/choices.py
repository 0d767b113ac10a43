"""Choices of the forms that start flows: the versions that a model has.

A form is of a deployment, and so of one model. Its versions are written when the flows of this
machine are registered, and again by each run that registers a version. Where the registry does not
answer, a form takes any number, and the flow says which versions there are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import httpx

from mlplatform.operations.prefect_client import names
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.errors import PlatformError

if TYPE_CHECKING:  # Prefect reads its environment when it is imported
    from prefect.client.orchestration import SyncPrefectClient

VERSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "promote": ("version",),
    "batch": ("version",),
    "replay": ("version", "against"),
    "plan": ("version",),
}
"""Flow → parameters that are a version of the registry."""
MOST: Final = 500
"""Most versions to choose from. A model with more of them has a field for a number: no version may
be out of reach."""

RETRIES: Final = 2
ANSWER_S: Final = 10.0

log = logging.getLogger(__name__)


def with_versions(
    schema: Mapping[str, Any], fields: Sequence[str], versions: Sequence[int]
) -> dict[str, Any]:
    """A form's schema with these versions to choose from in the named fields.

    Args:
        versions: numbers in the order in which they are shown; none, or more than `MOST`: the
            fields take any number.
    """
    offered = list(versions) if len(versions) <= MOST else []
    properties = dict(schema["properties"])
    for name in fields:
        properties[name] = _offering(properties[name], offered)
    return {**schema, "properties": properties}


def _offering(field: Mapping[str, Any], versions: list[int]) -> dict[str, Any]:
    if "anyOf" in field:
        return {**field, "anyOf": [_offering(one, versions) for one in field["anyOf"]]}
    if field.get("type") != "integer":
        return dict(field)
    free = {key: value for key, value in field.items() if key != "enum"}
    return {**free, "enum": versions} if versions else free


def offer_versions(platform: Platform, model: str) -> bool:
    """Write a model's versions, the newest first, into the forms of its flows. Returns False if the
    registry does not answer: the forms then take any version.

    A form that can't be written is logged and stays as it is: what was registered before this is
    in the registry.
    """
    try:
        found = [version.version for version in platform.registry.versions(model)]
    except PlatformError as error:
        log.info("the forms of %s take any version: %s", model, error)
        write_versions(model, ())
        return False
    write_versions(model, sorted(found, reverse=True))
    return True


def offered_versions(model: str) -> list[int]:
    """The versions in the forms of a model's flows; none if they take any number, or are not
    registered yet."""
    from prefect.client.orchestration import get_client  # reads its environment at import
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(f"promote/{names.deployment('promote', model)}")
        except ObjectNotFound:
            return []
    schema = found.parameter_openapi_schema or {}
    return list(schema.get("properties", {}).get("version", {}).get("enum", ()))


def write_versions(model: str, versions: Sequence[int]) -> None:
    """Write these versions into the forms of a model's flows; no version: any number.

    A form must not hold up the run that registered a version. So a busy server is asked for seconds
    and not for minutes, and after the first form that it does not answer the others stay too.
    """
    from prefect.client.orchestration import get_client  # reads its environment at import
    from prefect.exceptions import ObjectNotFound, PrefectException
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: RETRIES}),
        get_client(sync_client=True, httpx_settings={"timeout": ANSWER_S}) as client,
    ):
        for flow, fields in VERSIONS.items():
            try:
                _write(client, f"{flow}/{names.deployment(flow, model)}", fields, versions)
            except ObjectNotFound:
                log.warning("the flow %s of %s is not registered: it has no form", flow, model)
            except (httpx.HTTPError, PrefectException) as error:
                log.warning(
                    "the forms of %s, from %s on, keep the versions that they have until one is"
                    " registered or the flows start again: %s",
                    model,
                    flow,
                    error,
                )
                return


def _write(
    client: SyncPrefectClient, deployment: str, fields: Sequence[str], versions: Sequence[int]
) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate  # reads its environment at import

    found = client.read_deployment_by_name(deployment)
    present = found.parameter_openapi_schema or {}
    wanted = with_versions(present, fields, versions)
    if wanted != present:
        update = DeploymentUpdate.model_validate({"parameter_openapi_schema": wanted})
        client.update_deployment(found.id, update)
