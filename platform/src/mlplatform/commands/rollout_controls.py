"""Commands by which a person stops what runs, and starts it again: of a model, at once."""

from __future__ import annotations

import typer

from mlplatform.commands.arguments import Actor, Model, Reason
from mlplatform.commands.terminal.output import AsJson, print_json, print_line
from mlplatform.operations import wiring
from mlplatform.operations.actions import controls as job
from mlplatform.operations.actions.controls import OfModel


def add_to(app: typer.Typer) -> None:
    """Have a group of commands hold these."""
    for command in (kill, lift, clear):
        app.command()(command)


def kill(model: Model, actor: Actor, reason: Reason, json: AsJson = False) -> None:
    """Switch a model off: no version of it is asked, and the fallback of its chain decides.

    Gateways follow within a second. Neither champion nor rollout moves until `rollouts lift`.
    It needs the journal alone: neither Prefect nor a pass.

    Example: mlplatform rollouts kill fraud --actor ana --reason "it declines whole countries"
    """
    _of_model(model, "kill", "is switched off", actor, reason, json)


def lift(model: Model, actor: Actor, reason: Reason, json: AsJson = False) -> None:
    """Switch a killed model on again: its versions answer as its routes say.

    Example: mlplatform rollouts lift fraud --actor ana --reason "the data are right again"
    """
    _of_model(model, "lift", "is switched on", actor, reason, json)


def clear(model: Model, actor: Actor, reason: Reason, json: AsJson = False) -> None:
    """Ask again the versions that gateways stopped, as they declined or alerted on too many.

    Example: mlplatform rollouts clear fraud --actor ana --reason "a real attack, by the analysts"
    """
    _of_model(model, "clear", "asks its stopped versions again", actor, reason, json)


def _of_model(model: str, act: OfModel, done: str, actor: str, reason: str, as_json: bool) -> None:
    generation = job.control_model(wiring.platform(), model, act, actor=actor, reason=reason)
    if as_json:
        print_json({"model": model, "act": act, "actor": actor, "generation": generation})
        return
    print_line(f"{model} {done}, from generation {generation} of its routes on")
