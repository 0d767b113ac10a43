"""What installations begin with, held to any real API server: nothing is created."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.cluster.layout import ROOT

from support.kserve_world import any_cluster, is_ours
from support.kustomize import write_overlay

MANIFESTS = ROOT / "platform" / "manifests"
BASE = MANIFESTS / "base"


@pytest.fixture(scope="module")
def kubectl() -> list[str]:
    """For a cluster that has the base, without which the rest has no namespace."""
    api, command = any_cluster()
    if is_ours():
        subprocess.run([*command, "apply", "--server-side", "-k", str(BASE)], check=True)
    elif api.find("/api/v1/namespaces/mlplatform") is None:
        pytest.skip("THE BASE IS NOT THERE: kubectl apply -k platform/manifests/base")
    return command


@pytest.mark.parametrize(
    "folder",
    [
        *("platform/manifests/base", "platform/manifests/workloads", "platform/manifests/restore"),
        *("kserve/examples", "kserve/runtimes", "kserve/bundle-store.yaml"),
    ],
)
def test_manifests_are_taken_as_they_are(kubectl: list[str], folder: str) -> None:
    """By schema and admission, Pod Security among it; nobody's field is taken over."""
    flag = "-f" if folder.startswith("kserve") else "-k"

    assert "(server dry run)" in tried(kubectl, flag, ROOT / folder)


@pytest.mark.parametrize(
    "components",
    [("gateways",), ("backup",), ("gateways", "backup", "bundle-store")],
    ids="+".join,
)
def test_an_installation_of_components_is_taken_as_it_is(
    kubectl: list[str], tmp_path: Path, components: tuple[str, ...]
) -> None:
    """What they patch has to be there, so they are not asked for alone."""
    write_overlay(tmp_path, components, ["workloads"])

    taken = tried(kubectl, "-k", tmp_path)

    made = [line.split()[0] for line in taken.splitlines()]
    assert ("statefulset.apps/gateway-more" in made) == ("gateways" in components)
    assert ("cronjob.batch/backup" in made) == ("backup" in components)
    assert ("persistentvolumeclaim/bundles" in made) == ("bundle-store" not in components)


def tried(kubectl: list[str], flag: str, path: Path) -> str:
    """What a strict dry run says of it, if it has no word against it."""
    asked = ["apply", "--server-side", "--dry-run=server", "--validate=strict"]
    command = [*kubectl, *asked, "--force-conflicts", flag, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (0, "")
    return answer.stdout
