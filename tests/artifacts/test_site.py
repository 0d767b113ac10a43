"""The documents as a site: its menu has each of them, and no link in it leads nowhere.

`MLPLATFORM_TEST_SITE` names the folder that `make docs` built; `make test-docs` sets it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest
from docs.site import prepare

ROOT: Final = Path(__file__).parents[2]
SITE: Final = os.environ.get("MLPLATFORM_TEST_SITE", "")
HIDDEN: Final = "decisions/0071-what-a-decline-hides-is-known-as-hidden.md"
KNOWN: Final = {
    "docs/faults.md": "faults.md",
    "README.md": "README.md",
    f"docs/{HIDDEN}": HIDDEN,
    "docs/openapi/v2.json": "openapi/index.html",
}
built = pytest.mark.skipif(not SITE, reason="MLPLATFORM_TEST_SITE names no built site")


def test_each_document_is_in_the_menu_once() -> None:
    shown = [path for group in prepare.menu() for path in group.pages]
    folders = [path for path in shown if path.endswith("/")]
    alone = [p for p in prepare.documents() if not p.startswith(tuple(folders))]
    assert sorted(p for p in shown if not p.endswith("/")) == sorted(alone)
    assert len(shown) == len(set(shown))
    assert all((ROOT / folder).is_dir() for folder in folders)


@pytest.mark.parametrize(
    ("text", "page", "link"),
    [
        ("see `docs/faults.md`", "backup.md", "see [`docs/faults.md`](faults.md)"),
        ("see `faults.md`", "backup.md", "see [`faults.md`](faults.md)"),
        ("(`README.md`)", "runbooks/BreakerOpen.md", "([`README.md`](../README.md))"),
        ("by decision 0071.", "backup.md", f"by [decision 0071]({HIDDEN})."),
        ("`docs/openapi/v2.json`", "backup.md", "[`docs/openapi/v2.json`](openapi/index.html)"),
    ],
)
def test_a_citation_becomes_a_link(text: str, page: str, link: str) -> None:
    assert prepare.linked(text, page, KNOWN) == link


@pytest.mark.parametrize(
    "text",
    ["`docs/faults.md`", "`model/bundle.py`", "    `docs/faults.md`", "```\n`docs/faults.md`\n```"],
    ids=["of the page itself", "of no document", "in a block", "in a fence"],
)
def test_what_is_no_citation_stays_as_it_is(text: str) -> None:
    assert prepare.linked(text, "faults.md", KNOWN) == text


class Links(HTMLParser):
    """What a page leads to, what it fetches, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found["id"]} if "id" in found else set()
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("next", "prev", "index", "search"):
            self.fetched.append(found.get("href", ""))
        else:
            self.fetched += [found[name] for name in ("src", "srcset", "data") if name in found]


def pages() -> dict[Path, Links]:
    return {path: Links(path.read_text()) for path in sorted(Path(SITE).rglob("*.html"))}


def leading_nowhere(pages: dict[Path, Links]) -> Iterator[str]:
    for path, page in pages.items():
        for link in (*page.links, *page.fetched):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(parts.fragment)
            known = pages[target].anchors if target in pages else {anchor}
            if not target.is_file() or (anchor and anchor not in known):
                yield f"{path.name}: {link}"


@built
def test_every_link_and_anchor_leads_somewhere() -> None:
    found = pages()
    assert len(found) > 140
    assert sum(len(page.links) for page in found.values()) > 5000
    assert list(leading_nowhere(found)) == []


@built
def test_nothing_is_fetched_from_elsewhere() -> None:
    for path, page in pages().items():
        assert [one for one in page.fetched if re.match(r"(\w+:)?//", one)] == [], path
    for path in Path(SITE).rglob("*.css"):
        assert re.findall(r"url\(\s*['\"]?(?:https?:)?//|@import", path.read_text()) == [], path


@built
@pytest.mark.parametrize("name", ["v1", "v2", "inference"])
def test_the_pages_of_the_api_are_there_without_their_script(name: str) -> None:
    text = (Path(SITE) / "openapi" / f"{name}.html").read_text()
    assert "<script" not in text
    assert "/models/fraud" in text
