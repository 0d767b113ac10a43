"""The receivers of events: the file that MLPLATFORM_RECEIVERS names, checked as a whole."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from mlplatform.model import document
from mlplatform.observing.events import signature
from mlplatform.rollouts.events.event import TEST, TYPES, CloudEvent
from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.configuration.kinds import is_trustworthy
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import ConfigInvalid, NotFound

VARIABLE: Final = f"{PREFIX}RECEIVERS"
MOST: Final = 16
MOST_URL_BYTES: Final = 2048
KEYS: Final = ("name", "kind", "url", "url_file", "secret_files", "types", "authority")
NAMES: Final = tuple(kind.name for kind in TYPES if kind is not TEST)
_PAGE: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")

Kind = Literal["webhook", "slack"]


@dataclass(frozen=True, slots=True)
class Receiver:
    """One receiver of events.

    Args:
        url: of a webhook; empty for Slack, whose url is a secret.
        url_file: of Slack's url; read at each attempt.
        secret_files: of signatures, one or two; read at each attempt, so that they can be changed.
        types: of the events that it wants.
        authority: PEM file of the authority of its certificate; None: those of this machine.
    """

    name: str
    kind: Kind
    url: str
    url_file: Path | None
    secret_files: tuple[Path, ...]
    types: frozenset[str]
    authority: Path | None = None

    def wants(self, event: CloudEvent) -> bool:
        return event.type.name in self.types

    def address(self) -> str:
        """The receiver's URL, read from its file now.

        Raises:
            ConfigInvalid: the file holds no valid url; the message does not show the content.
        """
        if self.url_file is None:
            return self.url
        url = _read(self.url_file)
        if not _is_url(url):
            wanted = "an https URL in it, alone, without user, query and fragment"
            raise ConfigInvalid(f"{self.name}: url_file", str(self.url_file), wanted)
        return url


@dataclass(frozen=True, slots=True)
class ReceiversFile:
    """The content of the receivers' file.

    Args:
        page: where people open the platform's page, without a slash at its end.
    """

    receivers: tuple[Receiver, ...]
    page: str


def declared_receivers(settings: Settings) -> ReceiversFile:
    """The receivers of this installation; none if no file is named.

    Raises:
        ConfigInvalid: for the reasons given in `parse`, or because the file can't be read.
    """
    if settings.receivers is None:
        return ReceiversFile((), settings.page_url)
    try:
        text = settings.receivers.read_text()
    except (OSError, UnicodeDecodeError) as error:
        wanted = "a file of receivers that can be read (docs/events.md)"
        raise ConfigInvalid(VARIABLE, str(settings.receivers), wanted) from error
    return parse(text, settings.receivers, settings.page_url)


def receiver_named(settings: Settings, name: str) -> Receiver:
    """One receiver of this installation.

    Raises:
        NotFound: there is no such receiver; the message names those that exist.
    """
    known = {one.name: one for one in declared_receivers(settings).receivers}
    if name not in known:
        there = ", ".join(known) or f"none, as {VARIABLE} names no file"
        raise NotFound(f"no receiver {name!r}; there are: {there}")
    return known[name]


def parse(text: str, file: Path, page: str) -> ReceiversFile:
    """The receivers of a file.

    Args:
        file: where the text is from; paths in it are relative to its folder.
        page: of the installation, where the file names none.

    Raises:
        ConfigInvalid: something is wrong; the message has a line for each wrong key, with its value
            and what is wanted. A url that may hold a secret is not shown.
    """
    found = document.read(text, f"{VARIABLE}: {file}", "YAML as docs/events.md shows it")
    if not isinstance(found, dict) or not {"receivers"} <= found.keys() <= {"receivers", "page"}:
        raise ConfigInvalid(VARIABLE, str(file), "keys receivers and page (docs/events.md)")
    listed, page = found["receivers"], found.get("page", page)
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST:
        raise ConfigInvalid(VARIABLE, str(file), f"a list of 1 to {MOST} receivers in it")
    problems = [p for number, one in enumerate(listed) for p in _problems(number, one, file.parent)]
    if not isinstance(page, str) or not _PAGE.fullmatch(page):
        problems.append(f"page is {page!r}; wanted: https://host, where people open the page")
    names = [one.get("name") for one in listed if isinstance(one, dict)]
    problems += [
        f"receivers.{number}.name is {name!r}; wanted: another one, as it stands there twice"
        for number, name in enumerate(names)
        if name in names[:number]
    ]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise ConfigInvalid(VARIABLE, str(file), f"a file without these mistakes:{lines}")
    return ReceiversFile(tuple(_receiver(one, file.parent) for one in listed), page)


def _receiver(found: Mapping[str, Any], folder: Path) -> Receiver:
    url_file, authority = found.get("url_file"), found.get("authority")
    return Receiver(
        name=found["name"],
        kind=found["kind"],
        url=found.get("url", ""),
        url_file=None if url_file is None else folder / url_file,
        secret_files=tuple(folder / one for one in found.get("secret_files", ())),
        types=frozenset(found.get("types", NAMES)),
        authority=None if authority is None else folder / authority,
    )


def _problems(number: int, found: Any, folder: Path) -> Iterator[str]:
    at = f"receivers.{number}"
    if not isinstance(found, dict):
        yield f"{at} is {found!r}; wanted: keys {', '.join(KEYS)}"
        return
    for key in found:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1) or [", ".join(KEYS)]
            yield f"{at}.{key} is not known; wanted: {near[0]}"
    name, kind = found.get("name"), found.get("kind")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"{at}.name is {name!r}; wanted: 1 to 40 of a-z, 0-9 and -"
    if kind == "webhook":
        yield from _webhook_problems(at, found, folder)
    elif kind == "slack":
        yield from _slack_problems(at, found, folder)
    else:
        yield f"{at}.kind is {kind!r}; wanted: webhook or slack"
    yield from _type_problems(at, found.get("types", list(NAMES)))
    yield from _file_problems(f"{at}.authority", found.get("authority", ""), folder)


def _webhook_problems(at: str, found: Mapping[str, Any], folder: Path) -> Iterator[str]:
    url, files = found.get("url"), found.get("secret_files")
    if not isinstance(url, str) or not _is_url(url):
        shown = url if isinstance(url, str) and not _may_hold_secret(url) else "not shown"
        yield (
            f"{at}.url is {shown!r}; wanted: an https URL without user, query and fragment (http on"
            " this machine)"
        )
    if "url_file" in found:
        yield f"{at}.url_file is set; wanted: url, as a webhook's url is not a secret"
    if not isinstance(files, list) or not 1 <= len(files) <= 2:
        wanted = "a list of one file, or of two while a secret is changed"
        yield f"{at}.secret_files is {files!r}; wanted: {wanted}"
        return
    for place, one in enumerate(files):
        try:
            signature.secret(folder / str(one))
        except ConfigInvalid as error:
            yield f"{at}.secret_files.{place}: {error}"


def _slack_problems(at: str, found: Mapping[str, Any], folder: Path) -> Iterator[str]:
    if "url" in found:
        yield f"{at}.url is set; wanted: url_file, as anybody who has Slack's url can write there"
    if "secret_files" in found:
        yield f"{at}.secret_files is set; wanted: none, as Slack looks at no signature"
    file = found.get("url_file")
    if not isinstance(file, str) or not file:
        yield f"{at}.url_file is {file!r}; wanted: a file that holds the incoming webhook's url"
        return
    try:
        url = _read(folder / file)
    except ConfigInvalid as error:
        yield f"{at}.url_file: {error}"
        return
    if not _is_url(url):
        yield f"{at}.url_file is {file!r}; wanted: an https URL in it, and nothing else"


def _type_problems(at: str, types: Any) -> Iterator[str]:
    if not isinstance(types, list) or not types:
        yield f"{at}.types is {types!r}; wanted: a list of types, or no such key: all of them"
        return
    for one in types:
        if one not in NAMES:
            near = difflib.get_close_matches(str(one), NAMES, n=1) or [
                "one that docs/events.md has"
            ]
            yield f"{at}.types has {one!r}; wanted: {near[0]}"


def _file_problems(key: str, file: Any, folder: Path) -> Iterator[str]:
    if not isinstance(file, str) or (file and not (folder / file).is_file()):
        yield f"{key} is {file!r}; wanted: a file that is there"


def _is_url(url: str) -> bool:
    if not is_trustworthy(url) or not re.fullmatch(rf"[!-~]{{1,{MOST_URL_BYTES}}}", url):
        return False
    try:
        return urlsplit(url).port != 0
    except ValueError:  # beyond 65535
        return False


def _may_hold_secret(url: str) -> bool:
    parts = re.split(r"[?#]", url, maxsplit=1)
    return len(parts) > 1 or "@" in url


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(MOST_URL_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise ConfigInvalid("a file of a url", str(file), f"a file to read ({why})") from None


def host(receiver: Receiver) -> str:
    """The receiver's host as it may be shown, without the path, which may be a secret."""
    return urlsplit(receiver.address()).netloc
