"""The page of the API in a real browser: its buttons send the examples, and axe finds nothing.

`MLPLATFORM_TEST_AXE` names axe-core's axe.min.js (`make test-page` gets one); pictures are left in
the folder that `MLPLATFORM_TEST_PICTURES` names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import chromium
from support.chromium import Chromium
from support.platform_process import wait
from support.scoring_world import ScoringWorld, serving

AXE = os.environ.get("MLPLATFORM_TEST_AXE", "")
PICTURES = os.environ.get("MLPLATFORM_TEST_PICTURES", "")
PAGES = ("/openapi.html", "/openapi/v1.html", "/openapi/inference.html")
READY = ("list_models", "score_fraud", "score_fraud_batch", "label_fraud", "void_fraud")
ANSWERED = "document.querySelector('#{} [role=status]').textContent"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringWorld]:
    with serving(tmp_path_factory.mktemp("reference")) as world:
        yield world


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    started = Chromium(tmp_path)
    yield started
    started.close()


def sent(browser: Chromium, operation: str) -> str:
    """What the page shows once the example of an operation was sent."""
    browser.run(f"document.querySelector('#{operation} button').click()")
    button = f"document.querySelector('#{operation} button')"
    shown = ANSWERED.format(operation)
    wait(lambda: not browser.run(f"{button}.disabled") and browser.run(shown), operation)
    return str(browser.run(shown))


def test_examples_are_sent_from_the_page(world: ScoringWorld, browser: Chromium) -> None:
    browser.open(f"{world.url}/openapi.html")
    assert "needs a key" in sent(browser, "score_fraud")
    assert sent(browser, "readyz").startswith("200")
    browser.fill("#key", world.headers["Authorization"].removeprefix("Bearer "))
    assert "Send score:async first" in sent(browser, "get_decision")
    assert sent(browser, "explain_fraud").startswith("Send score first")
    for operation in READY:
        assert sent(browser, operation).startswith("200"), operation
    assert sent(browser, "score_fraud").startswith("200")
    wait(lambda: sent(browser, "explain_fraud").startswith("200"), "an explanation")
    assert sent(browser, "score_fraud_async").startswith("202")
    assert sent(browser, "get_decision").startswith("202"), "no worker runs here"
    assert browser.run("location.href + document.cookie + localStorage.length") == (
        f"{world.url}/openapi.html0"
    ), "the key is in no address, cookie or storage"
    assert browser.complaints() == []


def test_a_page_reaches_no_other_place(world: ScoringWorld, browser: Chromium) -> None:
    browser.open(f"{world.url}/openapi.html")
    asked = "new Promise(done => { const s = document.createElement('script');"
    asked += " s.textContent = 'window.ran = true'; document.body.append(s); done(!!window.ran) })"
    assert browser.run(asked) is False, "a script that the policy does not name"


def test_every_page_is_drawn_and_axe_finds_nothing(world: ScoringWorld, browser: Chromium) -> None:
    for path in PAGES:
        for width, scheme in ((1400, "light"), (390, "dark")):
            browser.prefer(scheme)
            browser.open(f"{world.url}{path}", width=width)
            assert browser.run("document.styleSheets.length") == 1
            assert browser.run("document.documentElement.scrollWidth") <= width, (path, width)
            assert browser.complaints() == [], path
            name = path.strip("/").replace("/", "-")
            if PICTURES:
                browser.picture(Path(PICTURES) / f"{name}-{width}-{scheme}.png")
            if AXE:
                browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
                browser.run(Path(AXE).read_text() + ";0")
                told = browser.run("axe.run({resultTypes: ['violations']}).then(JSON.stringify)")
                looked = json.loads(told)
                assert len(looked["passes"]) > 5, "it did look"
                found = [(v["id"], v["nodes"][0]["html"]) for v in looked["violations"]]
                assert found == [], (path, width)
