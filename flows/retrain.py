"""Build a training set, fit, judge, register; with a rollout opened on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from mlplatform.learning.validation.report import to_dict
from mlplatform.operations import wiring
from mlplatform.operations.actions import drift, fitting, next_commands
from mlplatform.operations.actions import training as job
from mlplatform.operations.compute.jobs import JobStatus
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_client.retries import unavailable
from mlplatform.operations.prefect_server import artifacts, choices
from mlplatform.operations.prefect_server.forms import Actor, Reason, Time
from mlplatform.runtime.telemetry.flow_spans import link_to

if TYPE_CHECKING:
    from mlplatform.learning.registry.versions import Version
    from mlplatform.learning.training.candidate import Candidate
    from mlplatform.learning.validation.fold_gate import FoldFinding

# What a task returns here stays in this process: training sets and models are not Prefect results.
LIMIT_S = 1200


@task(persist_result=False, cache_policy=NO_CACHE, timeout_seconds=LIMIT_S)
def prepare(model: str, as_of_ms: int | None) -> job.TrainingInputs:
    """Too little data is refused here, before anything is fitted."""
    prepared = job.prepare_training(wiring.platform(), model, as_of_ms)
    job.check_holds_enough(wiring.platform(), model, prepared)
    return prepared


@task(persist_result=False, cache_policy=NO_CACHE)
def fit(prepared: job.TrainingInputs) -> Candidate:
    """Its own deadline is the job's; a cancelled run cancels the job."""
    log = get_run_logger()

    def report(status: JobStatus) -> None:
        log.info("the fit is %s. %s", status.state, status.reason)

    platform = wiring.platform()
    return fitting.fit(platform, prepared.dataset, prepared.recent, report)


@task(persist_result=False, cache_policy=NO_CACHE)
def try_folds(model: str, prepared: job.TrainingInputs) -> tuple[FoldFinding, ...]:
    """Their own deadlines are those of their jobs."""
    log = get_run_logger()

    def report(status: JobStatus) -> None:
        log.info("the fit of a fold is %s. %s", status.state, status.reason)

    return job.try_folds(wiring.platform(), model, prepared, report)


@task(persist_result=False, cache_policy=NO_CACHE, timeout_seconds=LIMIT_S)
def validate(
    model: str, candidate: Candidate, prepared: job.TrainingInputs, folds: tuple[FoldFinding, ...]
) -> job.GateOutcome:
    return job.validate(model, candidate, prepared, folds)


@task(
    retries=3,
    retry_delay_seconds=3,
    retry_condition_fn=unavailable,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def made_before(model: str, candidate: Candidate, prepared: job.TrainingInputs) -> str:
    """What to say of a candidate that is a version already; empty for a new one. It is asked before
    the registration, whose other tries find the version of the first."""
    known = job.version_of(wiring.platform(), model, candidate.bundle.digest)
    if known is None:
        return ""
    last_day_ms, champion = prepared.dataset.window.to_ms - 1, prepared.champion_version
    return next_commands.of_known_version(known, last_day_ms=last_day_ms, champion=champion)


@task(
    retries=3,
    retry_delay_seconds=3,
    retry_condition_fn=unavailable,
    persist_result=False,
    cache_policy=NO_CACHE,
    timeout_seconds=LIMIT_S,
)
def register(candidate: Candidate, judged: job.GateOutcome, author: str, reason: str) -> Version:
    platform = wiring.platform()
    version = job.register(platform, candidate, judged, author=author, reason=reason)
    choices.offer_versions(platform, version.model)
    return version


@flow(name="retrain", flow_run_name=names.RUNS["retrain"], persist_result=False)
def retrain(
    model: str,
    actor: Actor,
    reason: Reason,
    as_of: Time | None = None,
    open_rollout: bool = False,
    incident: str | None = None,
    claim: int = 0,
    traceparent: str = "",
) -> State[int]:
    """Train a version on what had matured by a moment; fails with a report if a gate does.

    Args:
        model: a model folder's name.
        actor: who asks (self-declared): the author of the version, who may not approve it.
        reason: why.
        as_of: train as if it were this moment of event time; default: now.
        open_rollout: open a rollout if every gate passes.
        incident: the drift incident that this answers; only a drift check sets it.
        claim: the number of the claim on that incident; only a drift check sets it.
        traceparent: of the drift check that asked for it; its trace is linked with this run's.
    """
    link_to(traceparent)
    job.check_trains(model)
    with job.incident_answer(wiring.platform(), model, incident, claim) as answer:
        prepared = prepare(model, job.milliseconds(as_of))
        candidate = fit(prepared)
        judged = validate(model, candidate, prepared, try_folds(model, prepared))
        artifacts.keep_gates(model, to_dict(judged.report))
        nothing_new = made_before(model, candidate, prepared)
        version = register(candidate, judged, actor, reason).version
        is_champion = version == prepared.champion_version
        answer(version, nothing_new if is_champion else "")
    platform = wiring.platform()
    if is_champion or not open_rollout:
        artifacts.keep_links(artifacts.version_links(platform.settings, model, version))
        message = (
            nothing_new if is_champion else next_commands.of_version(model, version, nothing_new)
        )
        return Completed(message=message, data=version)
    rollout_id = drift.open_retrained(
        platform, model, version, actor=actor, reason=reason, incident=incident
    )
    artifacts.keep_links(artifacts.rollout_links(platform.settings, model, version, rollout_id))
    message = next_commands.of_retrained(version, rollout_id, nothing_new)
    return Completed(message=message, data=version)
