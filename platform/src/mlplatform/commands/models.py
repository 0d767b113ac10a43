"""Commands that show models and their versions."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mlplatform.commands.terminal.arguments import Model, OnlyModel
from mlplatform.commands.terminal.card import print_card, print_comparison
from mlplatform.commands.terminal.output import (
    AsJson,
    print_fields,
    print_json,
    print_line,
    print_table,
    progress,
)
from mlplatform.learning.registry.versions import Version
from mlplatform.learning.validation.report import TITLES
from mlplatform.model.folders import check_folders, load_definition, model_names
from mlplatform.model.routes import Routes, no_routes
from mlplatform.model.weights.memory import folder_needs_mib
from mlplatform.operations import wiring
from mlplatform.operations.actions.features import feast_folder
from mlplatform.operations.card import comparison
from mlplatform.operations.card.records import read_card
from mlplatform.rollouts.bundles.store import is_complete
from mlplatform.runtime.errors import ConfigInvalid, NotFound
from mlplatform.runtime.processes.memory import memory_bytes
from mlplatform.runtime.times import second_text
from mlplatform.runtime.units import MIB

app = typer.Typer(help="Models of this installation and their versions.", no_args_is_help=True)


@app.command("list")
def list_models(model: OnlyModel = None, json: AsJson = False) -> None:
    """List the model folders, each with its champion.

    Example: mlplatform models list fraud
    """
    check_folders()
    routes_of, problem = _routes()
    rows = []
    for name in model_names() if model is None else (model,):
        definition, routes = load_definition(name), routes_of(name)
        champion = routes.champion.version if routes.champion else None
        rows.append(
            {
                "model": name,
                "owner": definition.owner,
                "tier": definition.tier,
                "champion": champion,
                "phase": routes.phase,
            }
        )
    if json:
        print_json(rows)
    else:
        print_table(list(rows[0]), [list(r.values()) for r in rows])
        if problem is not None:
            print_line(f"no champion is known: {problem}")


def _routes() -> tuple[Callable[[str], Routes], NotFound | None]:
    """Function that gives a model's routes, or routes without a champion and the reason: there are
    models before the first start of a platform."""
    try:
        return wiring.existing_platform().rollouts.routes, None
    except NotFound as error:
        return no_routes, error


@app.command()
def show(
    model: Model,
    version: Annotated[
        int | None, typer.Argument(min=1, help="A version; default: list them.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Show the versions of a model, or everything that the registry holds of one.

    If the version's bundle is in the home folder, this includes the memory that serving it needs.

    Example: mlplatform models show fraud 2 --json
    """
    platform = wiring.existing_platform()
    registry = platform.registry
    if version is not None:
        found = registry.get(model, version)
        needed_mib = folder_needs_mib(platform.settings.home.bundles / found.digest)
        if json:
            memory = {"memory_mib": needed_mib, "machine_mib": memory_bytes() // MIB}
            print_json({**msgspec.to_builtins(found), **memory})
        else:
            _print_version(found, needed_mib)
        return
    versions = registry.versions(model)
    if json:
        print_json([msgspec.to_builtins(v) for v in versions])
        return
    rows = [
        (
            v.version,
            v.digest[:12],
            v.facts.author,
            second_text(v.created_at_ms),
            v.facts.code_version,
        )
        for v in versions
    ]
    print_table(("version", "bundle", "author", "registered (UTC)", "code"), rows)


def _print_version(found: Version, needed_mib: int | None) -> None:
    facts = found.facts
    of_machine = f"{needed_mib} MiB of this machine's {memory_bytes() // MIB} MiB"
    print_fields(
        {
            "version": f"{found.version} of {found.model}",
            "bundle": found.digest,
            "author": facts.author,
            "reason": facts.reason or None,
            "registered (UTC)": second_text(found.created_at_ms),
            "data (UTC)": f"{second_text(facts.data_from_ms)} to {second_text(facts.data_to_ms)}",
            "data digest": facts.data_digest,
            "model folder": facts.folder or None,
            "code": facts.code_version,
            "seed": facts.seed,
            "alerts expected": f"{100 * facts.alert_low:.2f} to {100 * facts.alert_high:.2f} %",
            "MLflow run": found.run_id,
            "memory to serve it": "its bundle is not here" if needed_mib is None else of_machine,
        }
    )
    if facts.metrics:
        figures = [(name, f"{value:.4g}") for name, value in sorted(facts.metrics.items())]
        print_table(("measure", "value"), figures)
    if gates := facts.report.get("gates"):
        rows = [(TITLES.get(g["name"], g["name"]), g["verdict"], g["reason"]) for g in gates]
        print_table(("gate", "verdict", "reason"), rows, prose="reason")
    print_line(f"next: `mlplatform models card {found.model} {found.version}` says more")


@app.command()
def store(
    model: OnlyModel = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read what is there, and replace what was changed.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Put the bundles of all versions into the bundle store; those that it has are left alone.

    Bundles that are not on this machine come from the registry.

    Example: mlplatform models store fraud --check
    """
    platform = wiring.existing_platform()
    target = platform.bundles.store
    if target is None:
        raise ConfigInvalid("MLPLATFORM_BUNDLE_STORE", None, "s3://bucket/prefix, or a folder")
    rows, here = [], platform.settings.home.bundles
    for name in model_names() if model is None else (model,):
        for found in reversed(platform.registry.versions(name)):
            put: list[str] = []
            is_here = (here / found.digest).is_dir()
            if check or is_here or not is_complete(target, found.digest):
                with progress(f"version {found.version} of {name}"):
                    if not is_here:
                        platform.registry.fetch(name, found.version, here)
                    put = platform.bundles.put(found.digest, reads=check)
            rows.append((name, found.version, put))
    if json:
        print_json([{"model": m, "version": version, "put": put} for m, version, put in rows])
        return
    print_table(
        ("model", "version", "put into the store"),
        [(model_name, version, ", ".join(put) or "nothing") for model_name, version, put in rows],
    )


@app.command()
def card(
    model: Model,
    version: Annotated[int, typer.Argument(min=1, help="A version of the registry.")],
    json: AsJson = False,
) -> None:
    """Show what is on record about a version, and what is not, for those responsible for its risk.

    The card is made from the registry, the journals, and what passes and drift checks keep, not
    from the log.

    Example: mlplatform models card fraud 2
    """
    found = read_card(wiring.existing_platform(), model, version, fetches=True)
    if json:
        print_json(msgspec.to_builtins(found))
    else:
        print_card(found)


@app.command()
def compare(
    model: Model,
    first: Annotated[int, typer.Argument(min=1, help="A version of the registry.")],
    second: Annotated[int, typer.Argument(min=1, help="Another version.")],
    every: Annotated[
        bool, typer.Option("--all", help="Also figures that are equal in the two.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Compare two versions: gates, measures, thresholds, inputs, alerts, data, and what else their
    cards show.

    Example: mlplatform models compare fraud 1 2
    """
    platform = wiring.existing_platform()
    found = comparison.compare(
        read_card(platform, model, first, fetches=True),
        read_card(platform, model, second, fetches=True),
    )
    if json:
        print_json(comparison.plain(found))
    else:
        print_comparison(found, every=every)


@app.command()
def feast(
    model: Model,
    into: Annotated[
        Path | None,
        typer.Option(help="The folder; default: feast/MODEL in the home folder.", dir_okay=True),
    ] = None,
    json: AsJson = False,
) -> None:
    """Write a folder for Feast's own commands, over the online store that gateways read.

    It holds feature_store.yaml, and a registry of the model's feature views and windows.

    Example: mlplatform models feast fraud
    """
    platform = wiring.opened_platform()
    folder = feast_folder(platform, model, into)
    if json:
        print_json({"model": model, "folder": str(folder)})
        return
    print_line(f"{folder} is written. With Feast installed beside this platform:")
    for words in ("feature-views list", "entities list", "ui --host 127.0.0.1"):
        print_line(f"  feast -c {shlex.quote(str(folder))} {words}")
