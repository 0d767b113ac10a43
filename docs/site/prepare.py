"""`python docs/site/prepare.py FOLDER`: the documents as the site's generator takes them.

The documents cite one another in backticks, as code does. Here each citation becomes a link, so
that the generator refuses one that leads nowhere. `menu.yaml` becomes the pages with the menus, and
each OpenAPI document the page that a gateway shows, without its script.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from typing import Final

import yaml

from mlplatform.scoring.api.reference.page import render

ROOT: Final = Path(__file__).parents[2]
MENU: Final = Path(__file__).parent / "menu.yaml"
DOCS: Final = "docs/"
_MENU_PAGE: Final = "index" + ".md"
API: Final = f"openapi/{_MENU_PAGE}"
COPIED: Final = ("openapi/*.json", "*.http")
_SPAN: Final = re.compile(r"(?<!`)`([\w./-]+\.(?:md|json))`(?!`)")
_DECISION: Final = re.compile(r"\b([Dd]ecision) (\d{4})\b")
_FENCE: Final = re.compile(r"\s*(```|~~~)")
_INDENTED: Final = ("    ", "\t")
_TITLES: Final = {
    "README.md": "The first hour",
    "docs/openapi/": "The API",
    "docs/runbooks/": "Runbooks",
    "docs/decisions/": "Decisions",
}
_INTRODUCTION: Final = {
    "decisions/": "# Decisions\n\nWhat was chosen, what was turned down, and what it costs.",
    "runbooks/": "# Runbooks\n\nA page for each alert: what it means, how to look, what to do.",
}


@dataclass(frozen=True, slots=True)
class Group:
    """A part of the menu.

    Args:
        pages: paths below the repository; one that ends in / is a folder.
    """

    title: str
    says: str
    pages: tuple[str, ...]


def menu() -> list[Group]:
    written = yaml.safe_load(MENU.read_text())
    return [Group(g["title"], g["says"], tuple(g["pages"])) for g in written]


def documents() -> dict[str, str]:
    """Path of each document below the repository → that of its page below the site."""
    own = (p.relative_to(ROOT).as_posix() for p in sorted((ROOT / DOCS).rglob("*.md")))
    return {
        **{name: name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")},
        **{path: path.removeprefix(DOCS) for path in own},
    }


def targets() -> dict[str, str]:
    """What a document may cite → the page that shows it."""
    described = (path.relative_to(ROOT).as_posix() for path in (ROOT / DOCS / "openapi").iterdir())
    return documents() | dict.fromkeys(described, API)


def linked(text: str, page: str, known: Mapping[str, str]) -> str:
    """A document whose citations are links.

    Args:
        page: its own path below the site.
        known: as `targets`.
    """
    here, lines, fenced = Path(page).parent, [], False
    for line in text.splitlines(keepends=True):
        if _FENCE.match(line):
            fenced = not fenced
        if not fenced and not line.startswith(_INDENTED):
            line = _SPAN.sub(lambda cited: _link(cited[0], cited[1], page, here, known), line)
            line = _DECISION.sub(lambda cited: _decision(cited, page, here, known), line)
        lines.append(line)
    return "".join(lines)


def _link(shown: str, cited: str, page: str, here: Path, known: Mapping[str, str]) -> str:
    places = (cited, f"{DOCS}{cited}", f"{DOCS}{here.as_posix()}/{cited}")
    found = next((known[place] for place in places if place in known), page)
    return shown if found == page else f"[{shown}]({relpath(found, here)})"


def _decision(cited: re.Match[str], page: str, here: Path, known: Mapping[str, str]) -> str:
    start = f"{DOCS}decisions/{cited[2]}-"
    found = next((known[path] for path in known if path.startswith(start)), page)
    return cited[0] if found == page else f"[{cited[0]}]({relpath(found, here)})"


def menu_pages() -> dict[str, str]:
    """Path below the site → the pages that hold nothing but a menu."""
    pages = documents()
    parts = ["# mlplatform", "Documents, by what you want to do."]
    for group in menu():
        shown = {
            (f"{p.removeprefix(DOCS)}{_MENU_PAGE}" if p.endswith("/") else pages[p]): _title(p)
            for p in group.pages
        }
        links = "\n".join(f"- [{title}]({page})" for page, title in shown.items())
        entries = (f"{title} <{page}>" for page, title in shown.items())
        hidden = f":hidden:\n:caption: {group.title}\n"
        parts += [f"## {group.title}", group.says, links, _toctree(entries, hidden)]
    folders = {
        f"{folder}{_MENU_PAGE}": f"{text}\n\n{_toctree(_below(folder, pages))}\n"
        for folder, text in _INTRODUCTION.items()
    }
    return {_MENU_PAGE: "\n\n".join(parts) + "\n", **folders}


def api_pages() -> dict[str, str]:
    """Path below the site → the page of each OpenAPI document."""
    found = {}
    for path in sorted((ROOT / DOCS / "openapi").glob("*.json")):
        page = render(json.loads(path.read_text()), sends=False)
        found[f"openapi/{path.stem}.html"] = page.html.decode()
    return found


def _api(names: Sequence[str]) -> str:
    links = "".join(
        f'- <a href="{name}.html">{name}</a>, <a href="{name}.json">as JSON</a>\n' for name in names
    )
    return (
        "# The API\n\nWhat each call takes and answers, generated from the models. A running"
        " gateway shows the same pages at `/openapi/<name>.html`, where examples can be sent.\n\n"
        f'{links}- <a href="../calls.http">calls.http</a>: a request for each call, for editors\n'
    )


def _title(path: str) -> str:
    """As a menu says it: a document's own, but for those that are named for what they are about."""
    if path in _TITLES:
        return _TITLES[path]
    lines = (ROOT / path).read_text().splitlines()
    return next(line.removeprefix("# ") for line in lines if line.startswith("# "))


def _toctree(pages: Iterator[str], options: str = "") -> str:
    return "```{toctree}\n:maxdepth: 1\n" + options + "\n" + "\n".join(pages) + "\n```"


def _below(folder: str, pages: Mapping[str, str]) -> Iterator[str]:
    return (page.removeprefix(folder) for page in pages.values() if page.startswith(folder))


def write(folder: Path) -> None:
    """`pages` gets what the generator reads, `extra` what is copied as it is."""
    shutil.rmtree(folder, ignore_errors=True)
    known, api = targets(), api_pages()
    texts = {
        page: linked((ROOT / path).read_text(), page, known) for path, page in documents().items()
    }
    texts |= menu_pages() | {API: _api([Path(path).stem for path in api])}
    found = (p for pattern in COPIED for p in (ROOT / DOCS).glob(pattern))
    raw = {path.relative_to(ROOT / DOCS).as_posix(): path.read_text() for path in found}
    for place, files in (("pages", texts), ("extra", api | raw)):
        for name, text in files.items():
            (folder / place / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / place / name).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
