"""Two versions beside each other, by the command and on the page, and model.yaml as it runs."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from typer.testing import CliRunner

from mlplatform import commands as command_line
from mlplatform.learning.registry.versions import Version
from mlplatform.model.folders import folder_digest, model_folder
from mlplatform.observing.page.model_views import ModelViews
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.operations import wiring
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import InputInvalid, NotFound
from support.carded_version import version
from support.home_world import HomeWorld
from support.scoring_world import write_amount_bundle

HOSTILE = "<script>alert(1)</script>\x1b[31m"


class TwoVersions:
    """A registry that holds versions 1 and 2, whose bundles are in the home."""

    def __init__(self, *held: Version) -> None:
        self._held = {found.version: found for found in held}

    def get(self, model: str, number: int) -> Version:
        if model != "fraud" or number not in self._held:
            raise NotFound(f"{model} has no version {number}")
        return self._held[number]


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    world = HomeWorld(tmp_path / "home")
    world.promote(1)
    found = Platform(load({"MLPLATFORM_HOME": str(world.home.root)}))
    draft = tmp_path / "draft"
    digest = write_amount_bundle(draft)
    world.home.bundles.mkdir(parents=True, exist_ok=True)
    if not (world.home.bundles / digest).exists():
        draft.rename(world.home.bundles / digest)
    champion = version(digest, 1, folder=folder_digest(model_folder("fraud")))
    second = version(digest, 2, author=HOSTILE, data_digest="e" * 64)
    found.__dict__["registry"] = TwoVersions(champion, second)
    monkeypatch.setattr(wiring, "existing_platform", lambda: found)
    yield found
    world.close()


class Page:
    """The views of a model, without the page's gate before them."""

    def __init__(self, platform: Platform) -> None:
        self._views = Starlette(routes=ModelViews(Sources(platform)).routes())

    def get(self, path: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._views)
            async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
                return await client.get(path)

        return asyncio.run(ask())


@pytest.fixture
def page(platform: Platform) -> Page:
    return Page(platform)


def asked(*words: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(command_line.app, ["models", "compare", "fraud", *words])
    return result.exit_code, " ".join(result.stdout.split()), result.exception


def test_the_command_shows_what_differs_and_counts_the_rest(platform: Platform) -> None:
    code, shown, _ = asked("1", "2")
    assert code == 0
    assert "Versions 1 and 2 of fraud" in shown
    assert "author of the version" in shown
    assert "\x1b" not in shown
    assert "label mature after" not in shown
    assert "more figures are equal; `--all` shows them" in shown
    assert "Only version 2: " in shown, "a sentence is in a list, and in no table"
    code, every, _ = asked("1", "2", "--all")
    assert code == 0
    assert "mature after" in every
    assert "more figures are equal" not in every


def test_its_json_is_one_value(platform: Platform) -> None:
    result = CliRunner().invoke(
        command_line.app, ["models", "compare", "fraud", "1", "2", "--json"]
    )
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert (told["model"], told["versions"]) == ("fraud", [1, 2])
    data = next(s for s in told["sections"] if s["title"] == "Data")
    digests = next(f for f in data["figures"] if f["name"] == "digest")
    assert digests == {
        "name": "digest", "first": "d" * 64, "second": "e" * 64, "differs": True,
    }  # fmt: skip


def test_one_version_twice_and_one_that_is_not_there_are_refused(platform: Platform) -> None:
    _, _, error = asked("1", "1")
    assert isinstance(error, InputInvalid)
    _, _, error = asked("1", "3")
    assert isinstance(error, NotFound)


def test_the_page_shows_the_same_and_nothing_of_it_is_markup(page: Page) -> None:
    answer = page.get("/models/fraud/compare?first=v1&second=2")
    assert answer.status_code == 200
    assert "<script" not in answer.text
    assert "&lt;script&gt;" in answer.text
    assert "\x1b" not in answer.text
    assert f'<td data-head="v2">{"e" * 64}</td>' in answer.text
    assert "<summary>Data: " in answer.text
    section = answer.text.split("<h2>Limits: ")[1].split("<h2>")[0]
    assert "What only the card of v2 says" in section, "a sentence is in a list, and in no table"
    assert "not there" not in section
    shown = int(re.search(r"They differ in (\d+) figures", answer.text)[1])  # type: ignore[index]
    differing = answer.text.split("Where nothing differs")[0]
    rows = re.sub(r"<details>.*?</details>", "", differing, flags=re.S).count('<th scope="row">')
    assert shown == rows > 3
    assert "/models/fraud/compare?first=2&amp;second=1" in answer.text


def test_the_page_asks_the_registry_for_a_version_once(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    held = platform.registry.get

    def get(model: str, number: int) -> Version:
        asked.append(number)
        return held(model, number)

    monkeypatch.setattr(platform.registry, "get", get)
    sources = Sources(platform)
    for _ in range(3):
        assert [one.version for one in sources.versions("fraud", [2, 3, 1])] == [2, 1]
    assert sorted(asked) == [1, 2, 3, 3, 3], "what is not there may come"
    monkeypatch.setattr("mlplatform.observing.page.queries.sources.MOST_VERSIONS", 1)
    assert [one.version for one in Sources(platform).versions("fraud", [2, 1])] == [2, 1]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("compare?first=1", "second is ''; wanted: the number of a version, like 2 or v2"),
        ("compare?first=x&second=2", "first is 'x'; wanted: the number of a version"),
        ("compare?first=2&second=v2", "first and second are 2; wanted: two versions of fraud"),
        ("compare?first=1&second=9", "fraud has no version 9"),
    ],
)
def test_a_comparison_that_cannot_be_made_says_what_is_wanted(
    page: Page, path: str, said: str
) -> None:
    answer = page.get(f"/models/fraud/{path}")
    assert answer.status_code == 404
    assert said in html.unescape(answer.text)
    assert page.get(f"/models/none/{path}").status_code == 404


def test_model_yaml_is_shown_as_it_runs_with_its_digest(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = page.get("/models/fraud/source")
    text = html.unescape(answer.text)
    assert answer.status_code == 200
    assert (model_folder("fraud") / "model.yaml").read_text() in text
    assert folder_digest(model_folder("fraud")) in text
    assert "fitted by this folder" in text
    source = "mlplatform.observing.page.queries.model_source"
    monkeypatch.setattr(f"{source}.folder_digest", lambda folder: "0" * 64)
    assert "fitted by another state of the folder" in page.get("/models/fraud/source").text
    assert page.get("/models/none/source").status_code == 404
