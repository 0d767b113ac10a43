"""Commands by which a person stops what runs, and starts it again: a rollout or a model, at once.

They write the journal and need nothing else: neither Prefect nor a pass.
"""

from __future__ import annotations

import typer

from mlplatform.commands.terminal.arguments import Actor, Model, Reason, RolloutId
from mlplatform.commands.terminal.output import AsJson, print_json, print_line
from mlplatform.operations import wiring
from mlplatform.operations.actions import controls as job
from mlplatform.operations.actions.controls import OfModel, OfRollout


def add_to(app: typer.Typer) -> None:
    """Add these commands to a group."""
    for command in (pause, resume, abort, kill, lift, clear):
        app.command()(command)


def pause(rollout_id: RolloutId, actor: Actor, reason: Reason, json: AsJson = False) -> None:
    """Pause a rollout: it takes no step forward until it is resumed. Guardrails still roll it back.

    Its deadlines do not run meanwhile. An approval given in that time counts afterwards.

    Example: mlplatform rollouts pause fraud-v2-1 --actor ana --reason "waits for the analysts"
    """
    _of_rollout(rollout_id, "pause", "is paused", actor, reason, json)


def resume(rollout_id: RolloutId, actor: Actor, reason: Reason, json: AsJson = False) -> None:
    """Resume a paused rollout, with the time that its phase had left.

    Example: mlplatform rollouts resume fraud-v2-1 --actor ana --reason "the analysts are back"
    """
    _of_rollout(rollout_id, "resume", "goes on", actor, reason, json)


def abort(rollout_id: RolloutId, actor: Actor, reason: Reason, json: AsJson = False) -> None:
    """End a rollout at once: its version no longer answers anybody.

    Example: mlplatform rollouts abort fraud-v2-1 --actor ana --reason "the wrong training data"
    """
    _of_rollout(rollout_id, "abort", "is ended", actor, reason, json)


def kill(model: Model, actor: Actor, reason: Reason, json: AsJson = False) -> None:
    """Switch a model off: no version of it is asked, and the fallback of its chain decides.

    Gateways follow within a second. Neither champion nor rollout moves until `rollouts lift`.
    It needs only the journal: neither Prefect nor a pass.

    Example: mlplatform rollouts kill fraud --actor ana --reason "it declines whole countries"
    """
    _of_model(model, "kill", "is switched off", actor, reason, json)


def lift(model: Model, actor: Actor, reason: Reason, json: AsJson = False) -> None:
    """Switch a model on again that was switched off: its versions answer as its routes say.

    Example: mlplatform rollouts lift fraud --actor ana --reason "the data are right again"
    """
    _of_model(model, "lift", "is switched on", actor, reason, json)


def clear(model: Model, actor: Actor, reason: Reason, json: AsJson = False) -> None:
    """Let gateways ask versions again that they stopped for raising too many alerts.

    Example: mlplatform rollouts clear fraud --actor ana --reason "a real attack, by the analysts"
    """
    _of_model(model, "clear", "asks its stopped versions again", actor, reason, json)


def _of_rollout(
    rollout_id: str, act: OfRollout, done: str, actor: str, reason: str, as_json: bool
) -> None:
    state = job.control_rollout(
        wiring.existing_platform(), rollout_id, act, actor=actor, reason=reason
    )
    if as_json:
        facts = {"rollout": rollout_id, "act": act, "actor": actor, "phase": state.phase}
        print_json(facts | {"paused": state.paused is not None})
        return
    print_line(f"{rollout_id} {done}; its phase is {state.phase}")


def _of_model(model: str, act: OfModel, done: str, actor: str, reason: str, as_json: bool) -> None:
    generation = job.control_model(
        wiring.existing_platform(), model, act, actor=actor, reason=reason
    )
    if as_json:
        print_json({"model": model, "act": act, "actor": actor, "generation": generation})
        return
    print_line(f"{model} {done}, from generation {generation} of its routes on")
    if act == "kill":
        print_line(f"next: `mlplatform rollouts lift {model}` switches it on again")
