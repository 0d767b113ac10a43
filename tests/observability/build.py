"""`python -m tests.observability.build`: Prometheus, Alertmanager, collector, into a cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.observability.binaries import cache, find

TOOLS: Final = Path(__file__).parent / "tools"
PACKAGES: Final = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}
"""Program → the Debian package that has it; they are unpacked, not installed, so nothing starts."""


def main() -> None:
    """Gets what is not here yet, or ends with what this machine lacks for it."""
    missing = _packages() + _collector()
    if missing:
        lines = [f"- {line}" for line in missing]
        sys.exit("\n".join(["make test-observability cannot run here. Lacking:", *lines]))


def _packages() -> list[str]:
    packages = sorted({package for name, package in PACKAGES.items() if find(name) is None})
    if not packages:
        return []
    names = " ".join(packages)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return [f"the programs of Debian's packages {names}: install them (this is no Debian)"]
    folder = cache() / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    got = subprocess.run(["apt-get", "download", *packages], cwd=folder, capture_output=True)
    if got.returncode:
        return [f"packages, named as in Debian: apt-get update; apt-get install {names}"]
    for file in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(file), str(cache() / "unpacked")], check=True)
    print(f"observability: unpacked {names}", flush=True)
    return [f"{name}: its package did not have it" for name in PACKAGES if find(name) is None]


def _collector() -> list[str]:
    if os.environ.get("OTELCOL"):
        return []
    output, mark = cache() / "bin" / "otelcol", cache() / "bin" / "otelcol.made-of"
    parts = [path.read_bytes() for path in sorted(TOOLS.glob("*/*"))]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
    if output.exists() and mark.exists() and mark.read_text() == digest:
        return []
    if shutil.which("go") is None:
        return ["Go 1.26 or newer: the collector is built from its modules, once (four minutes)"]
    began = time.monotonic()
    output.parent.mkdir(parents=True, exist_ok=True)
    _build(output)
    mark.write_text(digest)
    print(f"observability: built the collector, {time.monotonic() - began:.0f} s", flush=True)
    return []


def _build(output: Path) -> None:
    """ocb writes the program; its modules are the locked ones."""
    ocb, source = output.parent / "ocb", cache() / "otelcol"
    _go(TOOLS / "ocb", ocb, "go.opentelemetry.io/collector/cmd/builder")
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    written = (TOOLS / "otelcol" / "builder.yaml").read_text()
    config = source / "builder.yaml"
    config.write_text(written.replace("dist:\n", f"dist:\n  output_path: {source}\n"))
    # its own "go mod tidy" asks for modules of tests that no proxy serves
    options = ("--skip-compilation", "--skip-get-modules")
    subprocess.run([str(ocb), "--config", str(config), *options], check=True, capture_output=True)
    for name in ("go.mod", "go.sum"):
        shutil.copyfile(TOOLS / "otelcol" / name, source / name)
    _go(source, output, ".")


def _go(folder: Path, output: Path, package: str) -> None:
    flags = f"{os.environ.get('GOFLAGS', '')} -mod=readonly -buildvcs=false".strip()
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": flags}
    command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(output), package]
    subprocess.run(command, cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    main()
