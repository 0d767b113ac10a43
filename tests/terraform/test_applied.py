"""A real apply, drift and destroy of what needs no registry, on the test cluster's API server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.layout import layout
from tests.terraform import tools
from tests.terraform.conftest import HERE, InstalledTerraform

KUBECONFIG = "MLPLATFORM_TEST_KUBECONFIG"
DEFINITIONS = {
    "clusterservingruntimes.serving.kserve.io": ("v1alpha1", "ClusterServingRuntime", "Cluster"),
    "externalsecrets.external-secrets.io": ("v1", "ExternalSecret", "Namespaced"),
    "workflowtemplates.argoproj.io": ("v1alpha1", "WorkflowTemplate", "Namespaced"),
    "prometheusrules.monitoring.coreos.com": ("v1", "PrometheusRule", "Namespaced"),
}
NAMESPACES = ("mlplatform", "mlplatform-models", "mlplatform-jobs", "telemetry")


@dataclass(frozen=True, slots=True)
class AppliedPlan:
    installed: InstalledTerraform
    folder: Path
    kubeconfig: str
    variables: tuple[str, ...]
    log: list[str]

    def run(self, *arguments: str) -> tools.Result:
        made = tools.run(
            self.installed.cli, self.folder, self.installed.environment, *arguments, timeout_s=280
        )
        self.log.append(f"$ {self.installed.cli.name} {' '.join(arguments)}\n{made.text}")
        return made

    def kubectl(self, *arguments: str) -> str:
        found = shutil.which("kubectl") or str(layout().bin / "kubectl")
        command = [found, f"--kubeconfig={self.kubeconfig}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def applied(installed: InstalledTerraform) -> Iterator[AppliedPlan]:
    """Everything applied once; what is left of it is destroyed at the end."""
    kubeconfig = os.environ.get(KUBECONFIG)
    if not kubeconfig:
        pytest.skip(
            f"NOTHING IS APPLIED: make cluster-up LEVEL=control says how to set {KUBECONFIG}"
        )
    folder = installed.root / "tests" / "terraform" / "applied"
    shutil.copytree(HERE / "applied", folder)
    world = AppliedPlan(installed, folder, kubeconfig, (), [])
    there = set(world.kubectl("get", "namespaces", "-o", "name").split())
    taken = {f"namespace/{n}" for n in NAMESPACES} & there
    assert not taken, f"the cluster has {', '.join(sorted(taken))} already, and a test would end it"

    known = world.kubectl("get", "customresourcedefinitions", "-o", "name")
    lacks = {
        name: {"version": v, "kind": k, "scope": s}
        for name, (v, k, s) in DEFINITIONS.items()
        if f"/{name}\n" not in known
    }
    (folder / "cluster.auto.tfvars.json").write_text(
        json.dumps({"kubeconfig": kubeconfig, "definitions": lacks})
    )
    if "clusterservingruntimes.serving.kserve.io" not in lacks:
        # The test cluster has it already, under another owner, whose fields an apply leaves alone.
        world.kubectl("delete", "clusterservingruntimes", "--all")
    begun = world.run("init", "-input=false")
    assert begun.status == 0, begun.text
    try:
        made = world.run("apply", "-auto-approve", "-input=false")
        assert made.status == 0, made.text[-6000:]
        yield world
    finally:
        world.run("destroy", "-auto-approve", "-input=false")
        tools.OUTPUT.mkdir(parents=True, exist_ok=True)
        (tools.OUTPUT / f"applied-{installed.cli.name}.txt").write_text("\n".join(world.log))


def objects(world: AppliedPlan) -> list[str]:
    return re.findall(r"^\s*(?:#|)?\s*(\S+): Creation complete", "\n".join(world.log), re.M)


def test_what_was_applied_is_there(applied: AppliedPlan) -> None:
    """Each object of the manifests, asked of the API server by its name."""
    names = json.loads(applied.run("output", "-json", "objects").text)
    for name in names:
        kind, namespace, called = name.split("/")
        of = ["-n", namespace] if namespace else []
        assert applied.kubectl("get", kind, called, *of, "-o", "name").strip(), name

    print(f"{applied.installed.cli}: applied {len(objects(applied))} objects")
    for name in [*names, *sorted(set(objects(applied)))]:
        print(f"  {name}")


def test_settings_of_the_installation_are_what_the_cluster_has(applied: AppliedPlan) -> None:
    settings = json.loads(
        applied.kubectl("get", "configmap", "platform", "-n", "mlplatform", "-o", "json")
    )["data"]
    assert settings["MLPLATFORM_POSTGRES"] == "postgresql://mlplatform@db.example:5432/mlplatform"
    assert settings["MLPLATFORM_DURABILITY"] == "disk"


def test_dashboards_and_rules_are_read_by_their_files(applied: AppliedPlan) -> None:
    """A file of promtool's tests beside the rules is none of them."""
    told = json.loads(applied.run("output", "-json", "signals").text)
    assert told == {"dashboards": ["dashboards/one.json"], "rules": ["alerts/one_slo.yaml"]}

    labels = json.loads(
        applied.kubectl("get", "configmap", "dashboards-one", "-n", "telemetry", "-o", "json")
    )["metadata"]["labels"]
    assert labels["grafana_dashboard"] == "1"


def test_a_second_plan_changes_nothing(applied: AppliedPlan) -> None:
    plan = applied.run("plan", "-detailed-exitcode", "-input=false")
    assert plan.status == 0, plan.text[-4000:]


def test_a_change_by_hand_is_found_and_not_overruled_but_told(applied: AppliedPlan) -> None:
    """Who took a field over is named; once it is as it was, there is nothing to do."""
    named = ("configmap", "platform", "-n", "mlplatform")

    def change(durability: str) -> None:
        patch = json.dumps({"data": {"MLPLATFORM_DURABILITY": durability}})
        applied.kubectl("patch", *named, "--type=merge", "-p", patch)

    change("process")
    found = applied.run("plan", "-detailed-exitcode", "-input=false")
    refused = applied.run("apply", "-auto-approve", "-input=false")
    assert found.status == 2, found.text[-4000:]
    assert refused.status == 1
    assert 'conflict with "kubectl-patch"' in refused.text

    change("disk")
    assert applied.run("apply", "-auto-approve", "-input=false").status == 0
    assert applied.run("plan", "-detailed-exitcode", "-input=false").status == 0


def test_a_changed_address_changes_the_settings_and_nothing_else(applied: AppliedPlan) -> None:
    plan = applied.run(
        "plan", "-input=false", "-var=redis=rediss://mlplatform@other.example:6379/0"
    )
    assert "Plan: 0 to add, 1 to change, 0 to destroy" in plan.text


def test_destroy_leaves_nothing(applied: AppliedPlan) -> None:
    """Last of all: volumes, definitions and namespaces are gone."""
    ended = applied.run("destroy", "-auto-approve", "-input=false")
    assert ended.status == 0, ended.text[-4000:]
    assert re.search(r"Destroy complete! Resources: \d+ destroyed", ended.text)

    left = applied.kubectl(
        "get", "namespaces,persistentvolumes,clusterroles,priorityclasses", "-o", "name"
    )
    assert [n for n in left.split() if "mlplatform" in n or n.endswith("/telemetry")] == []
    print(f"{applied.installed.cli}: destroyed: {ended.text.strip().splitlines()[-1]}")
