"""`python -m tests.observability.build`: the servers of `make test-observability`, into a cache."""

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
PACKAGES: Final = {"prometheus": "prometheus", "promtool": "prometheus"}
"""Program → the Debian package that has it; it is unpacked, not installed, so nothing starts."""
BUILT: Final = {
    # Debian's Alertmanager wants its templates where only an installed package has them
    "alertmanager": ("alertmanager", "github.com/prometheus/alertmanager/cmd/alertmanager"),
    "amtool": ("alertmanager", "github.com/prometheus/alertmanager/cmd/amtool"),
    # they stand in for Tempo and Loki, which can be had as images alone
    "victoria-logs": ("victorialogs", "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs"),
    "jaeger": ("jaeger", "github.com/jaegertracing/jaeger/cmd/jaeger"),
}
"""Program → the folder of `tools` that locks its modules, and its package."""


def main() -> None:
    """Gets what is not here yet, or ends with what this machine lacks for it."""
    missing = _packages() + _programs()
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


def _programs() -> list[str]:
    """What Go builds: the collector, and what is not installed. Each profits from those before."""
    wanted = [name for name in BUILT if shutil.which(name) is None]
    stale = [name for name in ("otelcol", *wanted) if not _is_current(name)]
    if not stale:
        return []
    if shutil.which("go") is None:
        return [f"Go 1.26 or newer: {', '.join(stale)} are built from modules, once"]
    for name in stale:
        began = time.monotonic()
        output = cache() / "bin" / name
        output.parent.mkdir(parents=True, exist_ok=True)
        if name == "otelcol":
            _build(output)
        else:
            folder, package = BUILT[name]
            _go(TOOLS / folder, output, package)
        _mark(name).write_text(_digest(name))
        print(f"observability: built {name}, {time.monotonic() - began:.0f} s", flush=True)
    return []


def _is_current(name: str) -> bool:
    mark = _mark(name)
    made = (cache() / "bin" / name).exists() and mark.exists()
    return made and mark.read_text() == _digest(name)


def _mark(name: str) -> Path:
    return cache() / "bin" / f"{name}.made-of"


def _digest(name: str) -> str:
    folders = ("ocb", "otelcol") if name == "otelcol" else (BUILT[name][0],)
    files = [path for folder in folders for path in sorted((TOOLS / folder).iterdir())]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


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
