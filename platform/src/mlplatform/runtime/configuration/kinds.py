"""The types of settings: the texts that each accepts, as msgspec parses them.

A type is one that `msgspec.convert` takes; its `description` says in words what is wanted.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from mlplatform.runtime.configuration.installed_models import installed_models

Profile = Literal["embedded", "cluster"]
ClockMode = Literal["system", "replay"]
Durability = Literal["process", "disk"]
KeyClaims = Literal["own", "shared", "strict"]
TrainingEngine = Literal["duckdb", "spark"]
Level = Literal["debug", "info", "warning"]


class TrustworthyUrl(str):
    """A URL of keys that certainly belong to their owner: see `is_trustworthy`."""

    __slots__ = ()


class Folders(tuple[Path, ...]):
    """Absolute folders, each once; as text with the system's separator between them."""

    __slots__ = ()

    def __str__(self) -> str:
        return os.pathsep.join(map(str, self))


NO_FOLDERS: Final = Folders()
OF_SHIPPED: Final = "examples"
"""Word for `SHIPPED` in a list of folders; a folder of that name is written `./examples`."""
OF_INSTALLED: Final = "installed"
"""Word for the folders of installed packages (`installed_models`) in a list of folders."""


def _shipped(package: Path) -> Path:
    installed = package / "examples"
    return installed if installed.is_dir() else package.parents[2] / "models"


SHIPPED: Final = _shipped(Path(__file__).parents[2])
"""The folder of the example models: in the wheel, or `models/` of the repository."""


def number(least: int, most: int, what: str) -> Any:
    """The type of a whole number, both bounds within."""
    return Annotated[int, Meta(ge=least, le=most, description=f"{what}, {least} to {most}")]


def text(pattern: str, wanted: str) -> Any:
    """The type of a text that matches as a whole."""
    return Annotated[str, Meta(pattern=rf"\A(?:{pattern})\Z", description=wanted)]


PORT: Final = number(1, 65_535, "a port")
SHARE: Final = Annotated[float, Meta(ge=0, le=1, description="a share, 0 to 1")]
FILE: Final = Annotated[Path, Meta(description="a file")]
FOLDER: Final = Annotated[Path, Meta(description="a folder")]
FOLDERS: Final = Annotated[Folders, Meta(description=f"folders, with {os.pathsep!r} between them")]
SECRET_FILE: Final = Annotated[Path, Meta(description="a file with a secret")]
NAMESPACE: Final = text("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "a namespace of Kubernetes")
SERVER: Final = text(
    "https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?", "http://host:port, without a path or password"
)
ENDPOINT: Final = text(r"https?://[^/\s?#@]+(/[^\s?#]*)?", "http(s)://host:port")
ISSUER: Final = Annotated[TrustworthyUrl, Meta(description="an https URL, or http on this machine")]
VOLUME: Final = text(
    r"pvc://[a-z0-9][-a-z0-9.]*(/[-A-Za-z0-9._]+)*", "pvc://claim or pvc://claim/folder"
)
ENTRANCE: Final = text(
    "[a-z0-9][-a-z0-9]{0,62}/[a-z0-9][-a-z0-9.]{0,252}", "namespace/name of a Gateway"
)
DOMAIN: Final = text(
    r"[a-z0-9][-a-z0-9]*(\.[a-z0-9][-a-z0-9]*)*", "a domain, such as models.example.com"
)
CLAIM: Final = text("[A-Za-z0-9_:/.-]{1,128}", "the name of a claim")


def address(form: str) -> Any:
    """The type of a server's URL, which `runtime.storage.addresses` parses."""
    return Annotated[str, Meta(description=form)]


def parse(kind: Any, text: str) -> Any:
    """The value of a text; paths become absolute.

    Raises:
        msgspec.ValidationError: the text is not a value of that type.
    """
    return msgspec.convert(text, kind, strict=False, dec_hook=_own)


def kind_in_words(kind: Any) -> str:
    """The texts of a type, in words."""
    if hasattr(kind, "__metadata__"):
        return str(kind.__metadata__[0].description)
    *others, last = get_args(kind)
    return f"{', '.join(others)} or {last}"


def is_trustworthy(url: str) -> bool:
    """Whether keys from a URL certainly belong to its owner: by https, or by http within this
    machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if not host or parts.username is not None or parts.query or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and names_loopback(host))


def _own(kind: type, text: str) -> Any:
    if kind is TrustworthyUrl and not is_trustworthy(text):
        raise ValueError(text)
    if kind is Folders:
        parts = text.split(os.pathsep)
        if not all(part.strip() for part in parts):
            raise ValueError(text)
        return Folders(dict.fromkeys(folder for part in parts for folder in _folders(part)))
    return Path(text).absolute() if kind is Path else kind(text)


def _folders(part: str) -> tuple[Path, ...]:
    if part == OF_INSTALLED:
        return installed_models()
    return (SHIPPED if part == OF_SHIPPED else Path(part).absolute(),)


def names_loopback(host: str) -> bool:
    """Whether a URL's host is this machine by its name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
