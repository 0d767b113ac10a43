"""The page in a real browser: nothing is refused, nothing overflows, and axe finds nothing serious.

`MLPLATFORM_TEST_AXE` names axe-core's axe.min.js (`make test-page` gets one); pictures of each page
are left in the folder that `MLPLATFORM_TEST_PICTURES` names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import page as report
from demo.charts import Picture
from mlplatform.rollouts.drift.incidents import Finding
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.rollouts.journal.transitions import Opened
from rollout_world import gate_report
from support import chromium
from support.chromium import Chromium
from support.home_world import HomeWorld
from support.page_process import PageProcess

AXE = os.environ.get("MLPLATFORM_TEST_AXE", "")
PICTURES = os.environ.get("MLPLATFORM_TEST_PICTURES", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="chromium is not installed"),
]
PAGES = {
    "overview": "/",
    "model": "/models/fraud",
    "rollouts": "/rollouts",
    "rollout": "/rollouts/fraud-v2-1",
    "incidents": "/incidents",
    "incident": "/incidents/fraud-drift-1",
    "decisions": "/decisions",
    "decision": "/decisions/d1",
    "nothing": "/rollouts/none",
}
SHIFT = {"psi": 0.4, "psi_limit": 0.2, "distance": 1.0, "distance_limit": 0.15}
WINDOW = {
    "start_ms": 0,
    "end_ms": 86_400_000,
    "rows": 5000,
    "health": "UNHEALTHY",
    "reasons": ["amount moved"],
    "shifts": {"amount": {**SHIFT, "missing_share": 0.1, "drifted": True}},
    "alert_share": {"share": 0.09, "low": 0.08, "high": 0.1, "band": [0.0, 0.03], "outside": True},
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageProcess]:
    world = HomeWorld(tmp_path_factory.mktemp("home") / "home")
    world.fill()
    champion = world.rollouts.routes("fraud").champion
    assert champion is not None
    opened = Opened(
        rollout_id="fraud-v2-1",
        model="fraud",
        event_ms=1,
        wall_ms=1,
        actor="ana",
        reason="a second version",
        challenger=champion,
        author="ana",
        alert_low=0.0,
        alert_high=0.05,
        bootstrap=False,
        validation=gate_report("b" * 64),
        evidence={
            "verdict": "HEALTHY",
            "gates": {
                "alerts": {
                    "verdict": "HEALTHY",
                    "reason": "as predicted",
                    "values": {
                        "share": 0.01,
                        "low": 0.001,
                        "high": 0.04,
                        "band_low": 0.0,
                        "band_high": 0.03,
                    },
                }
            },
            "arms": {"challenger": {"units": 5}, "champion": {"units": 9}},
        },
    )
    world.rollouts.commit(opened, None)
    incidents = SqliteIncidents(world.home.rollouts_db)
    found = Finding("fraud", "drift", 1, 1, 1, {"reasons": ["moved"], "windows": [WINDOW]})
    incidents.open(found, now_ms=1)
    PAGES["evidence"] = f"/evidence/{opened.evidence_digest}"
    process = PageProcess(world.home)
    yield process
    process.close()
    world.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, page: PageProcess) -> Iterator[Chromium]:
    started = Chromium(tmp_path_factory.mktemp("chromium"))
    started.log_in(page.token)
    yield started
    started.close()


def test_every_page_is_drawn_as_it_was_meant(page: PageProcess, browser: Chromium) -> None:
    for name, path in PAGES.items():
        for width in (1200, 390):
            browser.open(f"{page.url}{path}", width=width)
            assert browser.run("document.styleSheets.length") == 1, name
            assert browser.run("document.documentElement.scrollWidth") <= width, (name, width)
            complaints = [c for c in browser.complaints() if name != "nothing" or "404" not in c]
            assert complaints == [], name
            if PICTURES:
                browser.picture(Path(PICTURES) / f"{name}-{width}.png")


@pytest.mark.skipif(not AXE, reason="MLPLATFORM_TEST_AXE does not say where axe-core is")
def test_axe_finds_nothing_serious(page: PageProcess, browser: Chromium, tmp_path: Path) -> None:
    written = tmp_path / "report.html"
    picture = Picture("Traffic", "By version.", "<svg viewBox='0 0 9 9'><text>v1</text></svg>")
    found = {
        "closed": False,
        "problems": ["2 requests lost"],
        "source": "generated payments",
        "wall_s": 1.0,
        "totals": {"requests": 10},
        "champions": [],
        "rollouts": [],
    }
    html = report.render(found, timeline=[("a", "b", "c")], pictures=[picture], notes=["a note"])
    written.write_text(html)
    urls = {name: f"{page.url}{path}" for name, path in PAGES.items()}
    for name, url in {**urls, "report": written.as_uri()}.items():
        browser.open(url, width=390)
        browser.run(Path(AXE).read_text() + ";0")
        text = browser.run("axe.run({resultTypes: ['violations']}).then(JSON.stringify)")
        looked = json.loads(text)
        violations = looked["violations"]
        assert len(looked["passes"]) > 5, "it did look"
        serious = [
            (v["id"], v["nodes"][0]["html"])
            for v in violations
            if v["impact"] in ("serious", "critical")
        ]
        assert serious == [], name
