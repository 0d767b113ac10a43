"""Commands about a Kubernetes cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final

import typer

from mlplatform.commands.terminal.exit_codes import FAILED
from mlplatform.commands.terminal.output import AsJson, print_json, print_table
from mlplatform.model.folders import load_definition, model_names
from mlplatform.model.policies.serving import OWN_RUNTIMES
from mlplatform.operations import wiring
from mlplatform.operations.cluster.check import check as judge
from mlplatform.operations.cluster.finding import ClusterRequirements, Gpu
from mlplatform.rollouts.serving.manifest import GPU_RUNTIME, RUNTIME, predictor_runtime
from mlplatform.rollouts.serving.placement import DEVELOPMENT, PRODUCTION, gpu_of, priority_class

POLICY: Final = "mlplatform-immutable-services"
IMAGES: Final[Mapping[str, str]] = MappingProxyType(
    {RUNTIME: "mlplatform/predictor:0.3.0", GPU_RUNTIME: "mlplatform/predictor-gpu:0.3.0"}
)
"""Serving runtime of the platform → the image that its manifest names."""
BUNDLES: Final = "pvc://bundles"

app = typer.Typer(help="A Kubernetes cluster that the platform is to run on.")


@app.callback()
def group() -> None:
    """A Kubernetes cluster that the platform is to run on."""


@app.command()
def check(
    kubeconfig: Annotated[
        str | None, typer.Option(help="Default: the one that kubectl uses.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="Default: the current one.")] = None,
    namespace: Annotated[
        str, typer.Option(help="The namespace of the models.")
    ] = "mlplatform-models",
    platform_namespace: Annotated[
        str, typer.Option(help="The namespace of the platform's processes.")
    ] = "mlplatform",
    kserve_namespace: Annotated[
        str, typer.Option(help="The namespace of KServe's controller.")
    ] = "kserve",
    json: AsJson = False,
) -> None:
    """Show what a cluster lacks, and what to do about it. Changes nothing.

    MLPLATFORM_KSERVE_BUNDLES names the claim of bundles, and MLPLATFORM_ARGO_NAMESPACE the
    namespace of heavy jobs. The check reads the names of a Secret's keys, never a value. Exit code
    1: something is missing, or could not be checked.

    Example: mlplatform cluster check --context production
    """
    from mlplatform.operations.cluster import facts  # imports the Kubernetes client

    wanted = _requirements(namespace, platform_namespace, kserve_namespace)
    found = judge(facts.read(wiring.kubernetes_api(kubeconfig, context), wanted), wanted)
    if json:
        print_json([dataclasses.asdict(f) for f in found])
    else:
        rows = [(f.state, f.what, f.seen, f.do) for f in found]
        print_table(("state", "what", "seen", "to do"), rows, prose="to do")
    if any(f.state in ("lacking", "unknown") for f in found):
        raise typer.Exit(FAILED)


def _requirements(models: str, platform: str, kserve: str) -> ClusterRequirements:
    settings = wiring.settings()
    bundles = settings.kserve.bundles if settings.kserve else BUNDLES
    definitions = [load_definition(name) for name in model_names()]
    asked = [(model.name, gpu_of(model)) for model in definitions]
    own = [model for model in definitions if model.serving.runtime == OWN_RUNTIMES[0]]
    needed = {RUNTIME, *map(predictor_runtime, own)}
    return ClusterRequirements(
        models=models,
        platform=platform,
        kserve=kserve,
        jobs=settings.argo.namespace if settings.argo else None,
        priorities=(PRODUCTION, DEVELOPMENT),
        team_priorities=tuple(sorted({priority_class(m) for m in definitions if m.team})),
        policy=POLICY,
        images={name: image for name, image in IMAGES.items() if name in needed},
        bundles=bundles.removeprefix("pvc://").partition("/")[0],
        gpus=tuple(Gpu(name, gpu.resource, gpu.product) for name, gpu in asked if gpu),
    )
