"""`python -m mlplatform.process flow-deployments`: registers the flows and a pool with a Prefect
server.

On one machine the process that serves flows runs them too (`local_flows`). On Kubernetes a worker
makes a Job of each run, and this says, once at each start of that worker, what such a Job is.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from mlplatform.model.declarations import AGAIN_S, POLL_S
from mlplatform.model.folders import model_names
from mlplatform.operations import wiring
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server import choices, local_flows
from mlplatform.rollouts.serving.placement import PRODUCTION
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import ConfigUnusable, Unavailable

if TYPE_CHECKING:  # Prefect reads its environment when it is imported
    from prefect.client.orchestration import SyncPrefectClient

POOL: Final = "kubernetes"
DEFAULT: Final = "default"
"""The queue that every Prefect pool has."""
HEAVY: Final = "heavy"
START_LIMIT_S: Final = 300
BUNDLES: Final = "bundles"
"""The claim of bundles."""
KEYS: Final = "s3"
"""The Secret with keys of object storage."""
PASSES: Final = frozenset({"rollout", "promote", "rollback", names.APPROVAL_FLOW})
"""Flows that take a pass over rollouts and so create and remove services. Their pods have
production priority: a rollback does not wait for a retrain."""
STARTS_JOBS: Final = frozenset({"batch", "retrain"})
"""Flows whose heavy work is a job, on Argo if the settings name it."""

log = logging.getLogger(__name__)


def job_variables(name: str) -> dict[str, str]:
    """Variables of a flow's Kubernetes Jobs that differ from the template's defaults."""
    if name in STARTS_JOBS:
        return {
            "service_account_name": "batches",
            "asks_api_server": "true",
            "keys_secret": KEYS,
        }
    if name not in PASSES:
        return {}
    return {
        "service_account_name": "rollouts",
        "asks_api_server": "true",
        "asks_predictors": "true",
        "priority_class_name": PRODUCTION,
    }


def template(path: Path, image: str, bundle_cache: str = "") -> dict[str, Any]:
    """The base job template in a file.

    Args:
        image: image of flow runs, unless a deployment names another one.
        bundle_cache: size limit, as Kubernetes writes it, of the cache that each run then has in
            place of the claim of bundles; empty: runs mount that claim.

    Raises:
        ConfigInvalid: the file is not a base job template.
    """
    found = yaml.safe_load(path.read_text())
    if not isinstance(found, dict) or set(found) != {"job_configuration", "variables"}:
        wanted = "an object of job_configuration and variables"
        raise ConfigUnusable(str(path), "it is not a base job template", wanted)
    found["variables"]["properties"]["image"] = {"type": "string", "default": image}
    if bundle_cache:
        _give_cache(found, bundle_cache)
    return found


def _give_cache(job_template: dict[str, Any], size_limit: str) -> None:
    """Give runs a cache of bundles of their own, and the keys of the store that fills it."""
    pod = job_template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    for volume in pod["volumes"]:
        if volume.get("persistentVolumeClaim") == {"claimName": BUNDLES}:
            del volume["persistentVolumeClaim"]
            volume["emptyDir"] = {"sizeLimit": size_limit}
    job_template["variables"]["properties"]["keys_secret"]["default"] = KEYS


def register(settings: Settings, job_template: Mapping[str, Any]) -> None:
    """Register the pool, a deployment of each flow and model, and the automations that start
    retrains.

    To be called in the folder that holds `flows`: runs find them from there.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    pool = WorkPoolCreate(
        name=POOL,
        type="kubernetes",
        base_job_template=dict(job_template),
        concurrency_limit=local_flows.RUNS_AT_A_TIME,
    )
    with get_client(sync_client=True) as client:
        client.create_work_pool(pool, overwrite=True)
        _keep_heavy_queue(client)
    models = model_names()
    local_flows.settle(models)
    register_models(settings, models)


def register_models(settings: Settings, models: Sequence[str]) -> None:
    """Register a deployment of each flow for these models, and the automations that start their
    retrains; the pool must be there."""
    # This process may not ask the registry; runs that register a version may.
    offered = {model: choices.offered_versions(model) for model in models}
    for model, name in itertools.product(models, names.RUNS):
        placed = {
            "work_pool_name": POOL,
            "work_queue_name": HEAVY if name in names.HEAVY else DEFAULT,
            # A scheduled run has a random name until it starts, and its Job and pod would keep that
            # name.
            "job_variables": {"name": f"{model}-{name}", **job_variables(name)},
        }
        deployment = local_flows.deployment(name, model, settings, Path("flows"), **placed)
        deployment.apply()
        log.info("registered %s", deployment.full_name)
    for model, versions in offered.items():
        if versions:
            choices.write_versions(model, versions)
    local_flows.keep_automations(models)


def follow_folders(settings: Settings) -> None:
    """Register the flows of models whose folders appear, until the process is ended. What fails is
    tried again. Models whose flows the server has already are left as they are. The schedules of a
    model whose folder goes are paused until it is back."""
    known: set[str] | None = None
    pause_s, absent = 0.0, local_flows.AbsentFolders()
    while True:
        time.sleep(pause_s)
        pause_s = POLL_S
        try:
            present = model_names()
            known = _registered(present) if known is None else known
            absent.look(known, present)
            new = [model for model in present if model not in known]
            if new:
                register_models(settings, new)
                known.update(new)
        except Exception:  # the outer loop of a process: it goes on after any error
            log.exception("flows of new folders are not registered yet")
            pause_s = AGAIN_S


def _registered(models: Sequence[str]) -> set[str]:
    """The models whose flows the server has, the approval of which is registered last."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    found = set()
    with get_client(sync_client=True) as client:
        for model in models:
            last = names.deployment(names.APPROVAL_FLOW, model)
            with suppress(ObjectNotFound):
                client.read_deployment_by_name(f"{names.APPROVAL_FLOW}/{last}")
                found.add(model)
    return found


def _keep_heavy_queue(client: SyncPrefectClient) -> None:
    from prefect.exceptions import ObjectNotFound

    limit = local_flows.HEAVY_ELSEWHERE
    try:
        queue = client.read_work_queue_by_name(HEAVY, work_pool_name=POOL)
    except ObjectNotFound:
        client.create_work_queue(HEAVY, concurrency_limit=limit, work_pool_name=POOL)
    else:
        client.update_work_queue(queue.id, concurrency_limit=limit)


def await_server(settings: Settings) -> None:
    """Return when the server answers.

    Raises:
        Unavailable: the server did not answer in time.
    """
    api, deadline = wiring.prefect_api(settings), time.monotonic() + START_LIMIT_S
    while not api.healthy():
        if time.monotonic() > deadline:
            raise Unavailable(f"Prefect at {settings.prefect_url} does not answer")
        time.sleep(1.0)
    api.close()


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; the settings name the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--template", type=Path, required=True, help="The file of the base job template."
    )
    parser.add_argument("--image", required=True, help="The image of flow runs.")
    parser.add_argument(
        "--folder", type=Path, required=True, help="The folder where runs begin, with flows/ in it."
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="Register what is new while it runs, in the pool that is there. Uses no template.",
    )
    parser.add_argument(
        "--bundle-cache",
        default="",
        metavar="SIZE",
        help="The size limit of each run's own cache of bundles (6Gi, say), where a bundle store"
        " is. Without it, runs mount the claim of bundles.",
    )
    return parser


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Register everything and return; or follow the folders until a signal comes."""
    job_template = template(options.template, options.image, options.bundle_cache)
    # Before Prefect is imported, which reads it then.
    os.environ["PREFECT_API_URL"] = f"{settings.prefect_url}/api"
    os.chdir(options.folder)
    await_server(settings)
    if options.follow:
        follow_folders(settings)
    register(settings, job_template)
