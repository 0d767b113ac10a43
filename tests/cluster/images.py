"""Container images packed from folders and files, without a registry or a daemon."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CHUNK_BYTES: Final = 1 << 20
PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Image:
    """What an image's configuration says."""

    name: str
    entrypoint: Sequence[str]
    environment: Sequence[str] = ()
    user: str = "65532:65532"
    layers: Sequence[Path] = field(default_factory=list)


def layer(target: Path, contents: dict[Path, str], *, skip: Sequence[str] = ()) -> Path:
    """A layer: files and folders of this machine, each at its path in the image.

    Owners are root and times zero: the same contents make the same bytes.

    Args:
        skip: names of files and folders that are left out, wherever they are.
    """

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if Path(entry.name).name in skip:
            return None
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    partial = target.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
        for source, path in contents.items():
            archive.add(source, path.lstrip("/"), filter=plain)
    partial.replace(target)
    return target


def pack(target: Path, *images: Image) -> Path:
    """Write an archive as `ctr images import` and `docker load` take it.

    A layer that several images have is in it once.
    """
    digests = {path: _sha256(path) for image in images for path in image.layers}
    configurations = [_configuration(image, digests) for image in images]
    files = [f"{hashlib.sha256(each).hexdigest()}.json" for each in configurations]
    manifest = [
        {
            "Config": file,
            "RepoTags": [image.name],
            "Layers": [_place(digests[path]) for path in image.layers],
        }
        for file, image in zip(files, images, strict=True)
    ]
    partial = target.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (
            *zip(files, configurations, strict=True),
            ("manifest.json", _json(manifest)),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for path, digest in digests.items():
            entry = tarfile.TarInfo(_place(digest))
            entry.size = path.stat().st_size
            with path.open("rb") as content:
                archive.addfile(entry, content)
    partial.replace(target)
    return target


def _configuration(image: Image, digests: Mapping[Path, str]) -> bytes:
    return _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Env": [PATH, *image.environment],
                "Entrypoint": list(image.entrypoint),
                "User": image.user,
                "WorkingDir": "/",
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{digests[path]}" for path in image.layers],
            },
        }
    )


def _place(digest: str) -> str:
    return f"{digest}/layer.tar"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
