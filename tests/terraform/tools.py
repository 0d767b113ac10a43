"""Programs and providers that the checks of `infra/terraform` use, and where they come from.

Terraform is the user's own program and is taken where it is found; OpenTofu too, or it is built
from its module. The provider that speaks to Kubernetes is built from its module, once, and applies
for real. Those of AWS and Helm can be had nowhere but from a registry: for them a process serves
their schemas, read from wheels (`schemas`, `stub_provider`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
INFRA: Final = ROOT / "infra" / "terraform"
INSTALLED: Final = ROOT / "build" / "terraform"
"""A virtual environment of requirements/terraform.txt; `make test-terraform` makes it."""
OUTPUT: Final = ROOT / "build" / "terraform-output"
READ_BY_PLANS: Final = ("platform/manifests", "kserve", "argo", "observability")
"""Folders of the repository that modules read."""

KUBECTL: Final = ("gavinbunney/kubectl", "1.19.0")
OLDEST: Final = (1, 11)
MODULES: Final = {
    "terraform-provider-kubectl": (
        "kubectl-provider",
        "github.com/gavinbunney/terraform-provider-kubectl",
        "-s -w",
    ),
    "tofu": (
        "tofu",
        "github.com/opentofu/opentofu/cmd/tofu",
        "-s -w -X github.com/opentofu/opentofu/version.dev=no",
    ),
}
"""Binary → folder below `tools`, package, linker flags."""


@dataclass(frozen=True, slots=True)
class Cli:
    """A program that reads HCL.

    Args:
        name: terraform or tofu.
    """

    name: str
    path: Path
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).absolute() / "mlplatform" / "terraform"


def build() -> list[str]:
    """Build what is missing from modules; what could not be had, in words."""
    lacking = []
    cache().mkdir(parents=True, exist_ok=True)
    for binary, (folder, package, flags) in MODULES.items():
        if binary == "tofu" and shutil.which("tofu"):
            continue
        if shutil.which("go") is None and not (cache() / binary).exists():
            lacking.append(f"Go 1.26 or newer: {binary} is built from its module, once")
        elif shutil.which("go") is not None:
            _build(binary, folder, package, flags)
    return lacking


def _build(binary: str, folder: str, package: str, flags: str) -> None:
    source, mark = HERE / "tools" / folder, cache() / f"{binary}.made"
    parts = [path.read_bytes() for path in sorted(source.iterdir())]
    digest = hashlib.sha256(b"\0".join([*parts, flags.encode()])).hexdigest()
    if (cache() / binary).exists() and mark.exists() and mark.read_text() == digest:
        return
    print(f"build: {binary} (minutes the first time)", flush=True)
    command = ["go", "build", "-trimpath", "-ldflags", flags, "-o", str(cache() / binary), package]
    given = os.environ.get("GOFLAGS", "")
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": f"{given} -mod=readonly -buildvcs=false".strip(),
    }
    subprocess.run(command, cwd=source, env=environment, check=True)
    mark.write_text(digest)


def clis() -> list[Cli]:
    """What is here of Terraform and OpenTofu, new enough."""
    found = []
    for name, path in (
        ("terraform", shutil.which("terraform")),
        ("tofu", shutil.which("tofu") or str(cache() / "tofu")),
    ):
        if path and Path(path).exists():
            told = subprocess.run([path, "version"], capture_output=True, text=True, check=True)
            version = re.search(r"v(\d+)\.(\d+)\.\d+", told.stdout)
            if version and (int(version[1]), int(version[2])) >= OLDEST:
                found.append(Cli(name, Path(path), version[0]))
    return found


def lacking() -> list[str]:
    """What the checks lack on this machine, each with what to do; empty where all of them run."""
    missing = []
    if not (INSTALLED / "bin" / "python").exists():
        missing.append("requirements/terraform.txt: make test-terraform installs it")
    if not clis():
        missing.append("terraform or tofu, 1.11 or newer: install one, or Go to build tofu")
    if not (cache() / "terraform-provider-kubectl").exists():
        missing.append("the kubectl provider: Go 1.26 or newer builds it from its module")
    return missing


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A copy of `infra/terraform` and of what it reads, to initialize and plan in; its root."""
    with tempfile.TemporaryDirectory(prefix="mlplatform-terraform-") as made:
        root = Path(made)
        ignored = shutil.ignore_patterns(".terraform*", "*.tfstate*")
        shutil.copytree(INFRA, root / "infra" / "terraform", ignore=ignored)
        for folder in READ_BY_PLANS:
            if (ROOT / folder).exists():
                shutil.copytree(ROOT / folder, root / folder)
        yield root


@contextlib.contextmanager
def providers(cli: Cli, folder: Path) -> Iterator[dict[str, str]]:
    """Environment in which that CLI finds providers for what the .tf files below a folder use.

    Args:
        folder: also where the mirror and the CLI's configuration are put.
    """
    mirror = _mirror(cli, folder / ".mirror")
    environment = {**os.environ, "TF_CLI_CONFIG_FILE": str(mirror), "CHECKPOINT_DISABLE": "1"}
    environment["TF_IN_AUTOMATION"] = "1"
    packages = next((INSTALLED / "lib").glob("python*/site-packages"))
    wheels = [f"{n}={packages / f'cdktn_provider_{n}'}" for n in ("aws", "helm")]
    command = [sys.executable, "-m", "tests.terraform.stub_provider", *wheels]
    paths = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=folder, env=paths, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as served:
        assert served.stdin is not None
        assert served.stdout is not None
        try:
            environment["TF_REATTACH_PROVIDERS"] = served.stdout.readline().strip()
            yield environment
        finally:
            served.stdin.close()


def _mirror(cli: Cli, folder: Path) -> Path:
    """A file of CLI configuration that names a mirror with the built provider.

    The host that a short source address has is the CLI's own; it is asked for.
    """
    source, version = KUBECTL
    asked = folder / "asked"
    asked.mkdir(parents=True)
    block = f'terraform {{\n required_providers {{\n kubectl = {{ source = "{source}" }}\n }}\n}}\n'
    (asked / "main.tf").write_text(block)
    nothing = {**os.environ, "TF_CLI_CONFIG_FILE": os.devnull}
    told = subprocess.run(
        [cli.path, f"-chdir={asked}", "providers"],
        capture_output=True,
        text=True,
        env=nothing,
        check=True,
    )
    address = re.search(rf"[^\[\] ]+/{source}", told.stdout)
    assert address is not None, told.stdout
    place = folder / address[0] / version / "linux_amd64"
    place.mkdir(parents=True)
    (place / f"terraform-provider-kubectl_v{version}").symlink_to(
        cache() / "terraform-provider-kubectl"
    )
    file = folder / "cli.tfrc"
    file.write_text(
        "provider_installation {\n"
        f"  filesystem_mirror {{\n    path = {json.dumps(str(folder))}\n"
        '    include = ["*/*/*"]\n  }\n}\ndisable_checkpoint = true\n'
    )
    return file


@dataclass(frozen=True, slots=True)
class Result:
    status: int
    text: str


def run(
    cli: Cli, folder: Path, environment: dict[str, str], *arguments: str, timeout_s: int = 240
) -> Result:
    """One command in one folder, without colours; its output and errors together."""
    command = [str(cli.path), f"-chdir={folder}", *arguments, "-no-color"]
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
    )
    return Result(done.returncode, done.stdout)
