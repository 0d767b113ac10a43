"""Commands about a Kubernetes cluster."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Final

import typer

from mlplatform.cli.exit_codes import FAILED
from mlplatform.cli.output import AsJson, print_json, print_table
from mlplatform.cluster.check import check as judge
from mlplatform.serving.manifest import RUNTIME
from mlplatform.serving.placement import DEVELOPMENT, PRODUCTION

POLICY: Final = "mlplatform-immutable-services"
IMAGE: Final = "mlplatform/predictor:0.1.0"

app = typer.Typer(help="A Kubernetes cluster that the platform is to run on.")


@app.callback()
def group() -> None:
    """A Kubernetes cluster that the platform is to run on."""


@app.command()
def check(
    kubeconfig: Annotated[str | None, typer.Option(help="Default: kubectl's own.")] = None,
    context: Annotated[str | None, typer.Option(help="Default: the current one.")] = None,
    namespace: Annotated[str, typer.Option(help="Of the models.")] = "mlplatform-models",
    json: AsJson = False,
) -> None:
    """Say what a cluster lacks, and what to do about it; changes nothing. Exit code 1: something.

    Example: mlplatform cluster check --context production
    """
    from mlplatform.cluster import facts  # imports the Kubernetes client
    from mlplatform.cluster.api import KubernetesApi

    api = KubernetesApi.connect(kubeconfig, context)
    found = judge(
        facts.read(api, namespace, RUNTIME),
        priorities=(PRODUCTION, DEVELOPMENT),
        policy=POLICY,
        image=IMAGE,
    )
    if json:
        print_json([dataclasses.asdict(f) for f in found])
    else:
        rows = [(f.state, f.what, f.seen, f.do) for f in found]
        print_table(("state", "what", "seen", "to do"), rows, prose="to do")
    if any(f.state == "lacking" for f in found):
        raise typer.Exit(FAILED)
