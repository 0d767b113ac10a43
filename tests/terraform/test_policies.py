"""What must hold of all HCL here: checkov's checks and rules of our own, each seen to find some."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.terraform import tools
from tests.terraform.conftest import HERE

PYTHON = tools.INSTALLED / "bin" / "python"


def broken(found: Path) -> list[str]:
    """Findings of our own rules."""
    command = [str(PYTHON), str(HERE / "rules.py"), str(found)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(json.loads(told.stdout))


def checkov(folder: Path) -> tuple[int, list[str]]:
    """How many checks passed, and those that did not, each with its resource."""
    command = [
        *(
            str(PYTHON),
            "-m",
            "checkov.main",
            "--directory",
            str(folder),
            "--framework",
            "terraform",
        ),
        *("--skip-download", "--output", "json", "--quiet"),
    ]
    told = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    report = json.loads(told.stdout)
    failed = [
        f"{c['check_id']} {c['resource']}: {c['check_name']}"
        for c in report["results"]["failed_checks"]
    ]
    return report["summary"]["passed"], failed


def test_our_own_rules_hold() -> None:
    assert broken(tools.INFRA) == []


WRONG = {
    "variable x has no description": 'variable "x" {\n  type = string\n}\n',
    "variable x has no type": 'variable "x" {\n  description = "x"\n}\n',
    "variable db_password sounds like a secret, and is not sensitive and ephemeral": (
        'variable "db_password" {\n  description = "x"\n  type = string\n  sensitive = true\n}\n'
    ),
    "output x has no description": 'output "x" {\n  value = 1\n}\n',
    "helm_release x has no exact version: ~> 1.0": (
        'resource "helm_release" "x" {\n  version = "~> 1.0"\n  atomic = true\n}\n'
    ),
    "helm_release x has no exact version: none": (
        'resource "helm_release" "x" {\n  atomic = true\n}\n'
    ),
    "helm_release x is not atomic": 'resource "helm_release" "x" {\n  version = "1.0.0"\n}\n',
    "node group gpu of GPUs has no taint": (
        'resource "aws_eks_node_group" "gpu" {\n  scaling_config {\n    max_size = 1\n  }\n}\n'
    ),
    "node group gpu has no upper bound": (
        'resource "aws_eks_node_group" "gpu" {\n  taint {\n    key = "x"\n  }\n}\n'
    ),
    "provider aws is not held to a line of versions (~>)": (
        'terraform {\n  required_providers {\n    aws = { source = "hashicorp/aws" }\n  }\n}\n'
    ),
    "a module configures a provider: that is its root's to do": 'provider "aws" {\n}\n',
}


@pytest.mark.parametrize("told", WRONG)
def test_each_of_our_rules_finds_what_it_is_for(tmp_path: Path, told: str) -> None:
    folder = tmp_path / "modules" / "wrong"
    folder.mkdir(parents=True)
    (folder / "main.tf").write_text(WRONG[told])

    assert f"modules/wrong/main.tf: {told}" in broken(tmp_path)


def test_checkov_finds_nothing_that_was_not_accepted_with_a_reason() -> None:
    """Reasons stand beside the resources that they are about: `#checkov:skip=…`."""
    with tools.workspace() as root:
        passed, failed = checkov(root / "infra" / "terraform")

    print(f"checkov: {passed} checks passed, {len(failed)} failed")
    assert failed == []
    assert passed > 100


def test_checkov_finds_an_open_bucket(tmp_path: Path) -> None:
    shutil.copy(tools.INFRA / "modules" / "data-aws" / "versions.tf", tmp_path)
    (tmp_path / "main.tf").write_text('resource "aws_s3_bucket" "x" {\n  bucket = "x"\n}\n')

    _, failed = checkov(tmp_path)
    assert any("aws_s3_bucket.x" in f for f in failed)
