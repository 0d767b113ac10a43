"""Judge and register an ONNX model made elsewhere, with the champion's inputs and rules, or with
those of the folder that holds it ready."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from mlplatform.learning.validation.report import to_dict
from mlplatform.operations import wiring
from mlplatform.operations.actions import next_commands
from mlplatform.operations.actions import training as job
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_client.retries import unavailable
from mlplatform.operations.prefect_server import artifacts, choices
from mlplatform.operations.prefect_server.forms import Actor

if TYPE_CHECKING:
    from mlplatform.learning.registry.versions import Version
    from mlplatform.learning.training.candidate import Candidate

# What a task returns here stays in this process: training sets and models are not Prefect results.
LIMIT_S = 1200


@task(persist_result=False, cache_policy=NO_CACHE, timeout_seconds=LIMIT_S)
def prepare(model: str) -> job.TrainingInputs:
    return job.prepare_training(wiring.platform(), model, None)


@task(persist_result=False, cache_policy=NO_CACHE, timeout_seconds=LIMIT_S)
def bring(model: str, onnx_path: str, author: str, prepared: job.TrainingInputs) -> Candidate:
    return job.bring(wiring.platform(), model, Path(onnx_path), author, prepared)


@task(persist_result=False, cache_policy=NO_CACHE, timeout_seconds=LIMIT_S)
def judge(
    model: str, author: str, candidate: Candidate, prepared: job.TrainingInputs
) -> job.GateOutcome:
    return job.judge_brought(wiring.platform(), model, author, candidate, prepared)


@task(
    retries=3,
    retry_delay_seconds=3,
    retry_condition_fn=unavailable,
    persist_result=False,
    cache_policy=NO_CACHE,
    timeout_seconds=LIMIT_S,
)
def register(candidate: Candidate, judged: job.GateOutcome, author: str) -> Version:
    platform = wiring.platform()
    version = job.register(platform, candidate, judged, author=author)
    choices.offer_versions(platform, version.model)
    return version


@flow(name="validate", flow_run_name=names.RUNS["validate"], persist_result=False)
def validate(
    model: str,
    onnx_path: Annotated[str, Field(description="An ONNX file on the machine of the flows")],
    actor: Actor,
) -> State[int]:
    """Register a given ONNX model as a version if it passes every gate; fails with a report if not.

    Args:
        model: a model folder's name.
        onnx_path: input "inputs" float32 [n, F] in the champion's order, output "scores" [n]; or as
            the signature says.
        actor: who brings it (self-declared): the author of the version, who may not approve it.
    """
    prepared = prepare(model)
    candidate = bring(model, onnx_path, actor, prepared)
    judged = judge(model, actor, candidate, prepared)
    artifacts.keep_gates(model, to_dict(judged.report))
    version = register(candidate, judged, actor).version
    artifacts.keep_links(artifacts.version_links(wiring.platform().settings, model, version))
    return Completed(message=next_commands.of_version(model, version), data=version)
