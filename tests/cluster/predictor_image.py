"""The predictor's image without a daemon or a registry: Debian's Python, serve lock, our wheel."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

from tests.cluster.images import Image, layer, pack
from tests.cluster.layout import ROOT, Layout

NAME: Final = "mlplatform/predictor:0.1.0"
"""As kserve/runtimes/mlplatform-onnx.yaml names it."""
VENV: Final = "opt/venv"
SUITE: Final = "bookworm"


def base(layout: Layout) -> None:
    """The smallest Debian with its Python, from the mirror that this machine's apt uses."""
    archive = layout.cache / "base.tar"
    if archive.exists():
        return
    tree = layout.cache / "base"
    shutil.rmtree(tree, ignore_errors=True)
    packages = "--include=ca-certificates,python3-minimal,libpython3-stdlib"
    with (layout.cache / "base.log").open("wb") as log:
        subprocess.run(
            ["debootstrap", "--variant=minbase", packages, SUITE, str(tree), _mirror()],
            **{"stdout": log, "stderr": log, "check": True},
        )
    # Device nodes are the container runtime's; the rest is what no process reads.
    for path in ("dev", "var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
        shutil.rmtree(tree / path)
        (tree / path).mkdir()
    shutil.rmtree(tree / "usr/share/locale")
    layer(archive, {entry: entry.name for entry in sorted(tree.iterdir())})
    shutil.rmtree(tree)


def build(layout: Layout) -> None:
    """The image's archive; its layer of libraries is made again when the lock changes."""
    archive = layout.images / "predictor.tar"
    libraries, code = _libraries(layout), _code(layout)
    stamp = layout.cache / "predictor.digest"
    made_of = hashlib.sha256(code.read_bytes()).hexdigest() + libraries.name
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
    image = Image(
        NAME,
        ["python", "-m", "mlplatform.predictor"],
        environment,
        layers=[layout.cache / "base.tar", libraries, code],
    )
    pack(archive, image)
    stamp.write_text(made_of)


def _libraries(layout: Layout) -> Path:
    lock = ROOT / "requirements" / "serve.txt"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    target = layout.cache / f"libraries-{digest[:16]}.tar"
    if target.exists():
        return target
    for former in layout.cache.glob("libraries-*.tar"):
        former.unlink()
    tree = layout.cache / "libraries"
    shutil.rmtree(tree, ignore_errors=True)
    packages = tree / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (tree / "bin").mkdir()
    (tree / "bin" / "python").symlink_to("/usr/bin/python3")
    (tree / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    pip = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
    flags = ("--no-deps", "--no-compile", "--require-hashes", "--only-binary=:all:")
    subprocess.run([*pip, *flags, "--target", str(packages), "-r", str(lock)], check=True)
    _compile(packages)
    layer(target, {tree: VENV}, skip=("tests",))
    shutil.rmtree(tree)
    return target


def _code(layout: Layout) -> Path:
    folder = layout.cache / "code"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    wheel = (sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--quiet")
    flags = ("--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    subprocess.run([*wheel, *flags, str(ROOT)], check=True)
    [built] = folder.glob("*.whl")
    tree = folder / "tree"
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tree)
    _compile(tree)
    return layer(layout.cache / "code.tar", {tree: f"{VENV}/lib/python3.11/site-packages"})


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
