"""Each role's way through the page in Chromium, by a mouse and by a keyboard alone.

What a role may do is done, to its fact in the journal or the log; what it may not is no button, a
forged form is refused and kept. Steps and seconds are left in build/page/ways.json, and in ways.txt
as the table of docs/console.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from mlplatform.decisions.records.port import RecordQuery
from support import chromium
from support.chromium import Chromium, looked_at
from support.hands import Hands
from support.platform_process import wait
from support.roles_world import CUSTOMER, ROLES, RolesWorld

WAYS: Final = Path(__file__).parents[5] / "build" / "page" / "ways.json"
MAY: Final = {
    "approve": {"approver"},
    "reject": {"approver"},
    "pause": {"engineer", "operator"},
    "resume": {"engineer", "operator"},
    "abort": {"engineer", "operator"},
    "roll-back": {"engineer", "operator"},
    "review": {"analyst"},
}
WHO: Final = {"approve": "an approver", "reject": "an approver", "review": "an analyst"}
WIDTHS: Final = (1400, 1000, 390)
UNMET: Final = """[...document.querySelectorAll(
  'a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex="0"]'
)].filter(e => !e.disabled && e.checkVisibility() && !e.dataset.met).map(e => e.outerHTML)"""
"""What a mouse can press, and Tab did not come to."""
SIDEWAYS: Final = """[...document.querySelectorAll('.stacked, .rows')]
  .map(e => e.scrollWidth - e.clientWidth)"""
"""By how much tables are wider than their place: what lies beyond its edge is not seen."""
EVERYBODY: Final = ("find by id", "find by customer", "find by time", "drift")
WHY: Final = "Amount of the payment"
"""What raised the score of the request that was declined, in words."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RolesWorld]:
    made = RolesWorld(tmp_path_factory.mktemp("roles"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def ways() -> Iterator[list[dict[str, Any]]]:
    """What each way took, kept at the end."""
    found: list[dict[str, Any]] = []
    yield found
    WAYS.parent.mkdir(parents=True, exist_ok=True)
    WAYS.write_text(json.dumps(found, indent=1) + "\n")
    WAYS.with_suffix(".md").write_text("\n".join(table(found)) + "\n")


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of a table: each way with its steps, its stops of Tab and the seconds it took."""
    yield "| way | who did it | steps | s, mouse | Tab stops | s, keyboard |"
    yield "|---|---|---|---|---|---|"
    for way in dict.fromkeys(one["way"] for one in found):
        of = [one for one in found if one["way"] == way]
        who = ", ".join(dict.fromkeys(str(one["role"]) for one in of))
        mouse = [one for one in of if one["by"] == "mouse"]
        keys = [one for one in of if one["by"] == "keyboard"]
        cells = (
            span([one["steps"] for one in of]), span([one["s"] for one in mouse]),
            span([one["tab_stops"] for one in keys]), span([one["s"] for one in keys]),
        )  # fmt: skip
        yield f"| {way} | {who} | {' | '.join(cells)} |"


def span(values: list[float]) -> str:
    """The least and the most, if they differ."""
    ends = [f"{value:g}" for value in (min(values), max(values))] if values else ["none"]
    return " to ".join(dict.fromkeys(ends))


def test_the_table_of_ways_has_the_least_and_the_most_of_each() -> None:
    told = {"way": "drift", "steps": 2}
    found = [
        told | {"role": "viewer", "by": "mouse", "s": 0.4, "tab_stops": 0},
        told | {"role": "analyst", "by": "mouse", "s": 0.2, "tab_stops": 0},
        told | {"role": "viewer", "by": "keyboard", "s": 0.5, "tab_stops": 14},
    ]
    assert list(table(found))[2:] == ["| drift | viewer, analyst | 2 | 0.2 to 0.4 | 14 | 0.5 |"]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    started = Chromium(tmp_path)
    yield started
    started.close()


class Visit:
    """Somebody of a role at the page.

    Args:
        hands: of a browser that knows nobody yet.
    """

    def __init__(self, world: RolesWorld, hands: Hands, role: str) -> None:
        self.world, self.hands, self.role = world, hands, role

    def sign_in(self) -> None:
        self.hands.browser.open(f"{self.world.page.url}/")
        self.hands.begin()
        self.hands.write("#name", self.role)
        self.hands.write("#key", self.world.keys[self.role])
        self.hands.press(".form button")
        assert f"Signed in as {self.role}, {self.role}" in self.text

    @property
    def text(self) -> str:
        return str(self.hands.browser.run("document.body.innerText"))

    @property
    def path(self) -> str:
        return str(self.hands.browser.run("location.pathname"))

    def home(self) -> None:
        """Go to the overview; a way begins there."""
        self.hands.browser.open(f"{self.world.page.url}/")
        self.hands.begin()

    # The ways.

    def find_by_id(self) -> None:
        self._searched({"decision_id": self.world.declined})
        self._explained()

    def find_by_customer(self) -> None:
        self._searched({"customer": str(CUSTOMER)})
        self.hands.press("tbody a")
        self._explained()

    def find_by_time(self) -> None:
        self.hands.press("nav a[href='/decisions']")
        at = datetime.fromtimestamp(self._declined_ms / 1000, UTC)
        day = (f"{at:%m}", f"{at:%d}", f"{at:%Y}")
        self.hands.date("[name=from_ms]", *day, f"{at:%I%M%p}")
        self.hands.choose("[name=outcome]", "decline")
        self.hands.press(".search button")
        self.hands.press("tbody a")
        self._explained()

    def drift(self) -> None:
        self.hands.press("nav a[href='/incidents']")
        self.hands.press(f"a[href='/incidents/{self.world.incident}']")
        assert "Inputs that moved furthest: amount, up by 0.5" in self.text
        assert "a retrain needs 80 positive ones" in self.text

    def answer(self, act: str) -> None:
        rollout = self.world.waits()
        self.home()
        self.hands.press(f".asks a[href='/rollouts/{rollout}']")
        self._acts(act, rollout)
        given = self.world.state(rollout).answer
        assert given is not None
        assert (given.answer, given.approver) == (act, self.role)
        self.world.end(rollout)

    def pause_resume_abort(self) -> Iterator[str]:
        rollout = self.world.ramps()
        for act in ("pause", "resume", "abort"):
            self.home()
            self.hands.press("nav a[href='/rollouts']")
            self.hands.press(f"a[href='/rollouts/{rollout}']")
            self._acts(act, rollout)
            yield act
        assert self.world.state(rollout).phase == "rolled_back"

    def roll_back(self) -> None:
        before = self.world.home.rollouts.routes("fraud").champion
        rollout = self.world.promoted()
        self.home()
        self.hands.press("nav a[href='/rollouts']")
        self.hands.press(f"a[href='/rollouts/{rollout}']")
        self._acts("roll-back", rollout)
        assert self.world.home.rollouts.routes("fraud").champion == before

    def review(self, count: int) -> None:
        before = self._labels()
        self.hands.press(".asks a[href='/models/fraud/review']")
        assert "sends nothing" not in self.text, "a button that is hidden is not seen"
        for number in range(count):
            if self.hands.by_keys:
                self.hands.access(str(number % 2))
            else:
                self.hands.press(f"button[value='{'fraud' if number % 2 else 'not-fraud'}']")
            assert "is labelled: " in self.text
        assert self._labels() == before + count

    def correct(self) -> None:
        """Confirm the correction that somebody has asked for."""
        before = self.world.label_now()
        self.hands.press(".asks a[href='/models/fraud/review#corrections']")
        look = f"/models/fraud/review?look={self.world.labelled}"
        self.hands.press(f"a[href='{look}']")
        assert "Somebody asks to correct this label" in self.text
        self.hands.write("#reason", "I have looked at it")
        self.hands.press(f"button[value='{'not-fraud' if before else 'fraud'}']")
        assert f"{self.world.labelled} is labelled: " in self.text
        assert "Confirm or keep" not in self.text
        assert self.world.label_now() == 1 - (before or 0)
        self.world.ask_correction()

    def _searched(self, fields: dict[str, str]) -> None:
        self.hands.press("nav a[href='/decisions']")
        for name, text in fields.items():
            self.hands.write(f"[name={name}]", text)
        self.hands.press(".search button")

    def _explained(self) -> None:
        """The page says what was decided, when, by which model, and why in words."""
        assert self.path == f"/decisions/{self.world.declined}"
        lead = self.hands.browser.run("document.querySelector('p.lead').innerText")
        at = datetime.fromtimestamp(self._declined_ms / 1000, UTC)
        for part in (f"{at:%Y-%m-%d %H:%M:%S}", "fraud", "decline", WHY):
            assert part in lead

    def _acts(self, act: str, rollout: str) -> None:
        self.hands.press(f"a.act.{act}")
        self.hands.write("#reason", "the gates are read")
        self.hands.press("button.act")
        assert self.path == f"/rollouts/{rollout}"
        assert self.hands.browser.run("document.querySelector('[role=status]') !== null")

    @property
    def _declined_ms(self) -> int:
        query = RecordQuery(decision_id=self.world.declined, columns=("event_ms",))
        return int(self.world.home.log.read(query)["event_ms"][0].as_py())

    def _labels(self) -> int:
        return len(self.world.home.log.read(RecordQuery(kinds=("label",), columns=("seq",))))


@pytest.mark.parametrize("by_keys", [False, True], ids=["mouse", "keyboard"])
@pytest.mark.parametrize("role", ROLES)
def test_each_role_goes_its_ways(
    world: RolesWorld, browser: Chromium, ways: list[dict[str, Any]], role: str, by_keys: bool
) -> None:
    hands = Hands(browser, by_keys=by_keys)
    visit = Visit(world, hands, role)

    def kept(way: str) -> None:
        took = {"steps": hands.steps, "tab_stops": hands.stops, "s": round(hands.took_s, 2)}
        by = "keyboard" if by_keys else "mouse"
        ways.append({"role": role, "way": way, "by": by, **took})

    visit.sign_in()
    kept("sign in")
    looks: dict[str, Callable[[], None]] = {
        "find by id": visit.find_by_id,
        "find by customer": visit.find_by_customer,
        "find by time": visit.find_by_time,
        "drift": visit.drift,
    }
    for way in EVERYBODY:
        visit.home()
        looks[way]()
        kept(way)
    for act in ("approve", "reject"):
        if role in MAY[act]:
            visit.answer(act)
            kept(act)
    if role in MAY["pause"]:
        for act in visit.pause_resume_abort():
            kept(act)
        visit.roll_back()
        kept("roll-back")
    if role in MAY["review"]:
        visit.home()
        visit.review(10)
        kept("review ten")
        visit.home()
        visit.correct()
        kept("confirm a correction")


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_may_not_do_is_no_button_and_a_forged_form_is_refused_and_kept(
    world: RolesWorld, browser: Chromium, role: str
) -> None:
    rollout = world.waits()
    visit = Visit(world, Hands(browser, by_keys=False), role)
    visit.sign_in()
    browser.open(f"{world.page.url}/rollouts/{rollout}")
    offered = "[...document.querySelectorAll('a.act')].map(a => a.className.split(' ')[1])"
    may = {act for act, roles in MAY.items() if role in roles}
    assert set(browser.run(offered)) == may - {"resume", "roll-back", "review"}
    browser.open(f"{world.page.url}/models/fraud/review")
    answers = browser.run("document.querySelectorAll('button[name=outcome]').length")
    assert answers == (2 if "review" in may else 0)
    facts = len(world.home.rollouts.read(rollout))
    for act in sorted(set(MAY) - may):
        asked = f"/rollouts/{rollout}/act/{act}"
        path = "/models/fraud/review" if act == "review" else asked
        assert forged(browser, path, world.declined) == 403
        assert "You may not do this" in visit.text
        who = f"{WHO.get(act, 'an operator or an engineer')} of fraud may"
        assert f"The key of {role} has no scope fraud:" in visit.text
        assert who in visit.text
        of = "review of a decision of fraud" if act == "review" else f"{act} of {rollout}"
        assert any(asked == of and who in why for asked, why in world.refused(role))
    assert len(world.home.rollouts.read(rollout)) == facts
    world.end(rollout)


def forged(browser: Chromium, path: str, about: str) -> int:
    """The status of a form that this page never offered, with the session's own token."""
    fields = {"form": "made up", "seen": "x", "reason": "a forged form", "about": about,
              "outcome": "fraud"}  # fmt: skip
    browser.run(f"""(() => {{
      const form = document.createElement('form');
      form.method = 'post'; form.action = {json.dumps(path)};
      const token = document.querySelector('[name=token]').value;
      for (const [name, value] of Object.entries({{token, ...{json.dumps(fields)}}})) {{
        const field = document.createElement('input');
        field.type = 'hidden'; field.name = name; field.value = value; form.append(field);
      }}
      window.before = true;
      document.body.append(form); form.submit();
    }})()""")
    wait(lambda: browser.run("!window.before && document.readyState == 'complete'"), path)
    status = "performance.getEntriesByType('navigation')[0].responseStatus"
    return int(browser.run(status))


def test_every_view_is_reached_by_tab_fits_and_has_no_fault_of_accessibility(
    world: RolesWorld, browser: Chromium
) -> None:
    world.keys["everybody"] = world.key("everybody", *(f"fraud:{s}" for s in ROLES.values()))
    rollout = world.waits()
    asked = world.state(rollout).asked_digest
    browser.open(f"{world.page.url}/sign-in")
    looked_at(browser, "sign-in", WIDTHS)
    hands = Hands(browser, by_keys=True)
    hands.write("#name", "everybody")
    hands.write("#key", world.keys["everybody"])
    hands.press(".form button")
    # a refresh amid a slow walk would take away the marks of what Tab came to
    browser.run("sessionStorage.setItem('refreshing', 'paused')")
    views = {
        "overview": "/",
        "model": "/models/fraud",
        "card": "/models/fraud/versions/2",
        "compare": "/models/fraud/compare?first=1&second=2",
        "data": "/models/fraud/data",
        "source": "/models/fraud/source",
        "review": "/models/fraud/review",
        "correction": f"/models/fraud/review?look={world.labelled}",
        "system": "/system",
        "rollouts": "/rollouts",
        "rollout": f"/rollouts/{rollout}",
        "approve": f"/rollouts/{rollout}/act/approve",
        "pause": f"/rollouts/{rollout}/act/pause",
        "evidence": f"/evidence/{asked}",
        "incidents": "/incidents",
        "incident": f"/incidents/{world.incident}",
        "decisions": "/decisions",
        "search": "/decisions?outcome=decline",
        "decision": f"/decisions/{world.declined}",
        "why": f"/decisions/{world.declined}?why=yes",
        "refused": f"/rollouts/{rollout}/act/resume",
        "nothing": "/rollouts/none",
    }
    for name, path in views.items():
        browser.open(f"{world.page.url}{path}")
        browser.seen.clear()  # a status of 404 is a complaint
        browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
        looked_at(browser, name, WIDTHS)
        for width in WIDTHS:
            browser.resize(width)
            assert all(beyond <= 0 for beyond in browser.run(SIDEWAYS)), (name, width)
        browser.run("document.addEventListener('focusin', e => { e.target.dataset.met = 'yes' })")
        unseen = [stop for stop in hands.walk() if not (stop["seen"] and stop["ringed"])]
        assert unseen == [], name
        assert browser.run(UNMET) == [], name
    world.end(rollout)
