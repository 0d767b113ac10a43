"""Images without a daemon or a registry: Debian's Python, the serve lock, our wheel; and for the
page what it imports of the flows lock besides, as that lock is too large for a test cluster."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.cluster import last_release
from tests.cluster.images import Image, layer, pack
from tests.cluster.layout import ROOT, Layout
from tests.cluster.processes import Failed

NAME: Final = "mlplatform/predictor:0.3.0"
"""As kserve/runtimes/mlplatform-onnx.yaml names it."""
PAGE: Final = "mlplatform.test/page:1"
FLOWS: Final = "mlplatform/flows:0.3.0"
"""As platform/manifests/workloads name it: 1.6 GB, so the suite that needs it brings it in."""
BACKUP: Final = "mlplatform/backup:0.3.0"
"""The same with PostgreSQL's client programs, as platform/manifests/components/backup names it."""
LAST: Final = {
    "mlplatform/gateway": "mlplatform.test/last-gateway:1",
    "mlplatform/predictor": "mlplatform.test/last-gateway:1",
    "mlplatform/flows": "mlplatform.test/last-flows:1",
}
"""What the last release's manifests name, by the image here that has its code and its locks."""
CLIENTS: Final = "postgresql-client"
OF_THE_PAGE: Final = (
    *("anyio", "certifi", "click", "h11", "httpcore", "httpx", "idna", "jinja2", "markupsafe"),
    *("opentelemetry-api", "opentelemetry-sdk", "opentelemetry-semantic-conventions"),
    *("psutil", "scipy", "starlette", "uvicorn", "websockets"),
)
"""What it imports, and what that imports, beyond the serve lock."""
REQUIREMENTS: Final = ROOT / "requirements"
VENV: Final = "opt/venv"
SUITE: Final = "bookworm"
LATER_PYTHON: Final = re.compile(r" ; python_full_version < '3\.\d+\.\d+'")
"""Pip would judge these by the Python of this machine; the image's is the older one."""


def base(layout: Layout) -> None:
    """The smallest Debian with its Python, from the mirror that this machine's apt uses."""
    archive = layout.cache / "base.tar"
    if archive.exists():
        return
    tree = _debian(layout, "base")
    layer(archive, {entry: entry.name for entry in sorted(tree.iterdir())})
    shutil.rmtree(tree)


def _clients(layout: Layout) -> Path:
    """A layer of what PostgreSQL's client programs add to that Debian."""
    archive = layout.cache / "clients.tar"
    if archive.exists():
        return archive
    tree = _debian(layout, "clients", CLIENTS)
    with tarfile.open(layout.cache / "base.tar") as held:
        for entry in held:
            path = tree / entry.name
            if not entry.isdir() and (path.is_symlink() or path.exists()):
                path.unlink()
    for folder in sorted(tree.rglob("*"), reverse=True):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()
    layer(archive, {entry: entry.name for entry in sorted(tree.iterdir())})
    shutil.rmtree(tree)
    return archive


def _debian(layout: Layout, name: str, *packages: str) -> Path:
    """The tree of the smallest Debian with its Python and these packages."""
    tree = layout.cache / name
    shutil.rmtree(tree, ignore_errors=True)
    included = ",".join(("ca-certificates", "python3-minimal", "libpython3-stdlib", *packages))
    flags = ("--variant=minbase", f"--include={included}")
    with (layout.cache / f"{name}.log").open("wb") as log:
        subprocess.run(
            ["debootstrap", *flags, SUITE, str(tree), _mirror()],
            **{"stdout": log, "stderr": log, "check": True},
        )
    # Device nodes are the container runtime's; the rest is what no process reads.
    for path in ("dev", "var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
        shutil.rmtree(tree / path)
        (tree / path).mkdir()
    shutil.rmtree(tree / "usr/share/locale")
    return tree


def build(layout: Layout) -> None:
    """Both archives; layers of libraries are made again when their locks change."""
    base_, code = layout.cache / "base.tar", _code(layout, "code", ROOT)
    libraries = _libraries(layout, "libraries", (REQUIREMENTS / "serve.txt").read_text())
    lock = _entries((REQUIREMENTS / "flows.txt").read_text(), OF_THE_PAGE)
    of_page = _libraries(layout, "page-libraries", lock)
    _image(layout, "predictor", NAME, [base_, libraries, code])
    _image(layout, "page", PAGE, [base_, libraries, of_page, code])


def build_flows(layout: Layout) -> None:
    """The archive of the flow runner's image, as platform/images/flows.Dockerfile makes it, of the
    backups', which is another layer on it, and of the last release's."""
    layout.flow_images.mkdir(exist_ok=True)
    libraries = _libraries(layout, "flow-libraries", (REQUIREMENTS / "flows.txt").read_text())
    flows = layer(layout.cache / "flows.tar", {ROOT / "flows": "opt/mlplatform/flows"})
    code = _code(layout, "flow-code", ROOT, ROOT / "clients/python")
    layers = [layout.cache / "base.tar", libraries, flows, code]
    images = {FLOWS: layers, BACKUP: [*layers, _clients(layout)], **_last(layout)}
    _images(layout, "flow-run", images, layout.flow_images)


def _last(layout: Layout) -> dict[str, list[Path]]:
    """The layers of each image of the last release; none where its commit is not here."""
    try:
        tree = last_release.tree(layout)
    except last_release.LastReleaseMissing as missing:
        print(f"build: no images of the last release: {missing}", flush=True)
        return {}
    flows = layer(layout.cache / "last-flows.tar", {tree / "flows": "opt/mlplatform/flows"})
    code = _code(layout, "last-code", tree, tree / "clients/python")
    base_, lock = layout.cache / "base.tar", tree / "requirements"
    gateway = _last_libraries(layout, "libraries", lock / "serve.txt")
    flow_run = _last_libraries(layout, "flow-libraries", lock / "flows.txt")
    return {
        LAST["mlplatform/gateway"]: [base_, gateway, code],
        LAST["mlplatform/flows"]: [base_, flow_run, flows, code],
    }


def _last_libraries(layout: Layout, kind: str, lock: Path) -> Path:
    """The layer of a lock of the last release: today's where that has all of it, to the hash."""
    today, wanted = (REQUIREMENTS / lock.name).read_text(), lock.read_text()
    if set(_split(wanted)) <= set(_split(today)):
        return _libraries(layout, kind, today)
    return _libraries(layout, f"last-{kind}", wanted)


def has_flows(layout: Layout) -> bool:
    return (layout.flow_images / "flow-run.tar").exists()


def _image(layout: Layout, module: str, name: str, layers: list[Path]) -> None:
    _images(layout, module, {name: layers}, layout.images)


def _images(layout: Layout, module: str, layers_of: Mapping[str, list[Path]], folder: Path) -> None:
    """One archive, packed anew where the code or the names of layers, which say what is in them,
    changed."""
    archive, stamp = folder / f"{module}.tar", layout.cache / f"{module}.digest"
    command = ["python", "-m", "mlplatform.process", module]
    parts = list(command)
    for layers in layers_of.values():
        parts += [each.name for each in layers]
        parts += [
            hashlib.sha256(each.read_bytes()).hexdigest() for each in layers if _code_in(each)
        ]
    made_of = " ".join(parts)
    if archive.exists() and stamp.exists() and stamp.read_text() == made_of:
        return
    environment = [
        f"PATH=/{VENV}/bin:/usr/bin:/bin",
        *(
            "PYTHONUNBUFFERED=1",
            "OMP_NUM_THREADS=1",
            "OPENBLAS_NUM_THREADS=1",
            "MALLOC_ARENA_MAX=2",
        ),
    ]
    pack(archive, *(Image(n, command, environment, layers=of) for n, of in layers_of.items()))
    stamp.write_text(made_of)


def _code_in(archive: Path) -> bool:
    """Whether a layer has code of this repository, which its name does not tell."""
    return archive.name.removeprefix("last-") in ("code.tar", "flow-code.tar", "flows.tar")


def _entries(lock: str, names: Sequence[str]) -> str:
    """The entries of these packages, with their hashes: one of several may be of each Python.

    Raises:
        Failed: one is not locked.
    """
    entries = [e for e in _split(lock) if e.partition("==")[0] in names]
    if missing := set(names) - {e.partition("==")[0] for e in entries}:
        raise Failed(f"requirements/flows.txt does not lock {', '.join(sorted(missing))}")
    return "".join(f"{entry}\n" for entry in entries)


def _split(lock: str) -> list[str]:
    """The entries of a lock, each with its hashes."""
    return [entry.rstrip() for entry in re.split(r"\n(?=[a-z0-9])", lock)]


def _libraries(layout: Layout, kind: str, lock: str) -> Path:
    """A layer of what a lock holds, named by its digest."""
    lock = LATER_PYTHON.sub("", lock)
    digest = hashlib.sha256(lock.encode()).hexdigest()
    target = layout.cache / f"{kind}-{digest[:16]}.tar"
    if target.exists():
        return target
    for former in layout.cache.glob(f"{kind}-*.tar"):
        former.unlink()
    tree, locked = layout.cache / kind, layout.cache / f"{kind}.txt"
    shutil.rmtree(tree, ignore_errors=True)
    packages = tree / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (tree / "bin").mkdir()
    (tree / "bin" / "python").symlink_to("/usr/bin/python3")
    (tree / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    locked.write_text(lock)
    pip = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
    flags = ("--no-deps", "--no-compile", "--require-hashes", "--only-binary=:all:")
    subprocess.run([*pip, *flags, "--target", str(packages), "-r", str(locked)], check=True)
    _compile(packages)
    layer(target, {tree: VENV}, skip=("tests",))
    shutil.rmtree(tree)
    return target


def _code(layout: Layout, name: str, *packages: Path) -> Path:
    """A layer of our own packages, which lie in these folders."""
    folder = layout.cache / "code"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    wheel = (sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--quiet")
    flags = ("--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    subprocess.run([*wheel, *flags, *map(str, packages)], check=True)
    tree = folder / "tree"
    for built in folder.glob("*.whl"):
        with zipfile.ZipFile(built) as archive:
            archive.extractall(tree)
    _compile(tree)
    target = layout.cache / f"{name}.tar"
    return layer(target, {tree: f"{VENV}/lib/python3.11/site-packages"})


def _compile(folder: Path) -> None:
    """Byte code that is believed unseen: the root is read-only, and all times are 0."""
    mode = ("--invalidation-mode", "unchecked-hash", "-q", "-q", "-s", str(folder))
    subprocess.run([sys.executable, "-m", "compileall", *mode, str(folder)], check=False)


def _mirror() -> str:
    """The archive that this machine's apt is set to."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    lines = sources.read_text().splitlines() if sources.exists() else []
    named = [line.split()[1] for line in lines if line.startswith("URIs:")]
    if not named:
        lines = Path("/etc/apt/sources.list").read_text().splitlines()
        named = [line.split()[1] for line in lines if line.startswith("deb ")]
    return named[0]
