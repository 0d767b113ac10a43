"""What installations begin with, held to any real API server: nothing is created."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.cluster.layout import ROOT

from support.kserve_world import any_cluster, is_ours

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
        *("platform/manifests/components/backup", "kserve/examples", "kserve/runtimes"),
    ],
)
def test_manifests_are_taken_as_they_are(kubectl: list[str], folder: str) -> None:
    """By schema and admission, Pod Security among it; nobody's field is taken over."""
    flag = "-f" if folder.startswith("kserve") else "-k"

    assert "(server dry run)" in tried(kubectl, flag, ROOT / folder)


def test_an_installation_of_several_gateways_is_taken_as_it_is(
    kubectl: list[str], tmp_path: Path
) -> None:
    """What the component patches has to be there, so it is not asked for alone."""
    places = {
        "resources": ["workloads"],
        "components": ["components/gateways"],
    }
    overlay = {
        name: [os.path.relpath(MANIFESTS / place, tmp_path.resolve()) for place in listed]
        for name, listed in places.items()
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))

    taken = tried(kubectl, "-k", tmp_path)

    assert "statefulset.apps/gateway-more serverside-applied (server dry run)" in taken


def tried(kubectl: list[str], flag: str, path: Path) -> str:
    """What a strict dry run says of it, if it has no word against it."""
    asked = ["apply", "--server-side", "--dry-run=server", "--validate=strict"]
    command = [*kubectl, *asked, "--force-conflicts", flag, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (0, "")
    return answer.stdout
