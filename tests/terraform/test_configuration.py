"""Every module and root: formatted, valid by its providers' schemas, and as its own tests say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.terraform import tools
from tests.terraform.conftest import InstalledTerraform

FOLDERS = sorted({str(f.parent.relative_to(tools.INFRA)) for f in tools.INFRA.rglob("versions.tf")})
TESTED = sorted(
    {str(f.parents[1].relative_to(tools.INFRA)) for f in tools.INFRA.rglob("*.tftest.hcl")}
)
ROOTS = ("local", "cloud")


@pytest.fixture
def broken(installed: InstalledTerraform) -> Iterator[Path]:
    """A folder of its own with a module that a test writes something wrong into."""
    folder = installed.infra / "modules" / "broken"
    folder.mkdir()
    (folder / "versions.tf").write_bytes(
        (installed.infra / "modules" / "network" / "versions.tf").read_bytes()
    )
    yield folder
    for file in folder.glob("*.tf"):
        file.unlink()
    for made in sorted(folder.rglob("*"), reverse=True):
        made.rmdir() if made.is_dir() and not made.is_symlink() else made.unlink()
    folder.rmdir()


def test_all_files_are_formatted(installed: InstalledTerraform) -> None:
    told = tools.run(
        installed.cli, installed.infra, installed.environment, "fmt", "-check", "-recursive"
    )
    assert (told.status, told.text) == (0, "")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_is_valid(installed: InstalledTerraform, folder: str) -> None:
    told = installed.run(folder, "validate")
    assert told.status == 0, told.text


@pytest.mark.parametrize("folder", TESTED)
def test_every_module_passes_its_own_tests(installed: InstalledTerraform, folder: str) -> None:
    """With providers that plan nothing by themselves; plans of roots are kept to be read."""
    told = installed.run(folder, "test", "-verbose")
    if folder in ROOTS:
        tools.OUTPUT.mkdir(parents=True, exist_ok=True)
        (tools.OUTPUT / f"plan-{folder}-{installed.cli.name}.txt").write_text(told.text)
        whole = re.search(r"^Plan: .*$", told.text, re.M)  # of the first run, which changes nothing
        print(f"{installed.cli}: {folder}: {whole and whole[0]}")
    errors = re.findall(r"^.*\bError: .*(?:\n.*){0,20}", told.text, re.M)
    assert told.status == 0, "\n".join((*errors, told.text[-2000:]))
    assert re.search(r"Success! [1-9]\d* passed, 0 failed", told.text), told.text[-2000:]


def test_roots_and_modules_with_logic_have_tests() -> None:
    assert set(ROOTS) < set(TESTED)
    assert {f"modules/{m}" for m in ("cluster", "manifests", "platform", "signals")} < set(TESTED)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ('resource "aws_vpc" "x" {\n  cidr_blok = "10.0.0.0/16"\n}\n', "cidr_blok"),
        ('resource "aws_eks_cluster" "x" {\n  name = "x"\n}\n', "role_arn"),
        ('output "x" {\n  value = aws_vpc.x.ident\n}\nresource "aws_vpc" "x" {\n}\n', "ident"),
    ],
    ids=["an argument misspelt", "a required one missing", "an attribute that is none"],
)
def test_what_a_provider_does_not_have_is_found(
    installed: InstalledTerraform, broken: Path, wrong: str, told: str
) -> None:
    """The schemas are read from wheels: they must refuse what the provider would."""
    (broken / "main.tf").write_text(wrong)
    with tools.providers(installed.cli, broken) as environment:
        begun = tools.run(installed.cli, broken, environment, "init", "-input=false")
        assert begun.status == 0, begun.text
        found = tools.run(installed.cli, broken, environment, "validate")

    assert found.status != 0
    assert told in found.text
