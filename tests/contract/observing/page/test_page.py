"""A page process on a home folder: who gets in, what it shows, and what it never does."""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import cast

import httpx
import msgspec
import pytest

from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.observing.page.app import application
from mlplatform.observing.page.people.gate import PageAccess
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.operations.traffic import input_windows
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.drift.incidents import IncidentFinding
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.runtime.configuration.settings import Home, load
from mlplatform.runtime.errors import ConfigInvalid
from support.home_world import HomeWorld
from support.kept_windows import history
from support.page_process import TOKEN, PageProcess
from support.platform_process import wait
from support.prefect_standin import prefect_standin

pytestmark = pytest.mark.slow
VOID = {"meta", "link", "br", "rect", "line", "circle", "path", "polyline", "polygon", "input"}
HOSTILE = "<script>alert(1)</script>"
LISTS = ("/rollouts", "/incidents", "/decisions")
PAGES = [
    "/",
    "/models/fraud",
    "/models/fraud/data",
    "/models/fraud/source",
    "/models/fraud/review",
    "/system",
    "/rollouts",
    "/rollouts/fraud-v1-1",
    "/incidents",
    "/incidents/fraud-drift-1",
    "/decisions",
    "/decisions/d1",
]


class MarkupChecker(HTMLParser):
    """Every element that is opened is closed, in order; ids are unique; no style, no script but
    the page's own."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("style", "iframe")
        if tag == "script":
            assert attrs == [("src", "/live.js"), ("defer", None)]
        if tag == "form":
            assert dict(attrs)["method"] == "post"
            assert str(dict(attrs)["action"]).startswith("/")
        assert not [name for name, _ in attrs if name == "style" or name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageProcess]:
    world = HomeWorld(tmp_path_factory.mktemp("home") / "home")
    world.fill()
    world.decide(60)
    incidents = SqliteIncidents(world.home.rollouts_db)
    incidents.open(IncidentFinding("fraud", "drift", 1, 1, 1, {"reasons": [HOSTILE]}), now_ms=1)
    input_windows.keep(world.home.measured, "fraud", history(5))
    (world.home.root / "run" / "mlflow.token").unlink()
    process = PageProcess(world.home)
    yield process
    process.close()
    world.close()


def test_nobody_gets_in_without_the_token(page: PageProcess) -> None:
    for path in [*PAGES, "/nothing"]:
        refused = page.get(path, auth=None)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic ")
        assert "fraud" not in refused.text
    assert page.get("/", auth=("anybody", "another")).status_code == 401
    assert page.get("/", auth=None, headers={"Authorization": "Basic !"}).status_code == 401
    assert page.get("/", auth=None, headers={"Authorization": f"Bearer {TOKEN}"}).is_success


def test_a_name_made_to_mean_this_machine_is_refused(page: PageProcess) -> None:
    assert page.get("/", headers={"Host": f"evil.example:{page.port}"}).status_code == 403
    assert page.get("/", headers={"Origin": "http://evil.example"}).status_code == 403
    assert page.get("/", headers={"Host": f"localhost:{page.port}"}).is_success


def test_beside_pods_it_answers_to_its_services_name_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    process = PageProcess(home, MLPLATFORM_PAGE_URL="http://page.mlplatform:8090")
    try:
        shown = process.get("/")
        assert (shown.status_code, "They are pods" in shown.text) == (200, True)
        assert "127.0.0.1" not in shown.text
        for name in (f"127.0.0.1:{process.port}", "page.mlplatform", "evil.example"):
            assert process.get("/health", headers={"Host": name}).status_code == 403
        assert process.get("/", auth=("anybody", "")).status_code == 401
    finally:
        process.close()


def test_a_password_that_is_empty_opens_no_page() -> None:
    with pytest.raises(ConfigInvalid, match="token of the page"):
        application(
            Sources(Platform(load({}))),
            token="",
            hosts=[],
            links={},
            access=cast(PageAccess, None),
        )


@pytest.mark.parametrize("path", PAGES)
def test_every_page_answers_in_well_formed_html_that_runs_nothing(
    page: PageProcess, path: str
) -> None:
    answer = page.get(path)
    assert answer.status_code == 200
    MarkupChecker(answer.text)
    assert HOSTILE not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'self'; connect-src 'self'" in policy
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/models/none",
        "/models/none/data",
        "/models/none/source",
        "/models/fraud/compare",
        "/models/none/versions/1",
        "/models/fraud/versions/one",
        "/models/fraud/versions/-1",
        "/rollouts/none",
        "/rollouts/%3Cscript%3Ealert(1)%3C/script%3E",
        "/incidents/none",
        "/decisions/none",
        "/evidence/none",
        "/?period=year",
        "/models/fraud?period=",
        "/rollouts?from=-1",
        "/rollouts?from=99999999999999999999",
    ],
)
def test_what_is_not_there_is_said_on_a_page(page: PageProcess, path: str) -> None:
    answer = page.get(path)
    assert answer.status_code == 404
    MarkupChecker(answer.text)
    assert "There is nothing of that name here" in answer.text
    assert "Traceback" not in answer.text
    assert "<script>" not in answer.text


def test_nothing_can_be_written_through_it(page: PageProcess) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = httpx.request(method, f"{page.url}/rollouts", auth=("x", TOKEN))
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD"
    assert httpx.head(f"{page.url}/", auth=("x", TOKEN)).text == ""


def test_a_registry_that_is_away_is_said_beside_the_rest(page: PageProcess) -> None:
    text = page.get("/models/fraud").text
    assert "This cannot be read now: the platform has not started MLflow" in text
    assert "fraud-v1-1" in text


def test_a_card_without_the_registry_says_so(page: PageProcess) -> None:
    answer = page.get("/models/fraud/versions/1")
    assert answer.status_code == 503
    MarkupChecker(answer.text)
    assert "the platform has not started MLflow" in answer.text


def test_the_system_is_shown_beside_a_prefect_that_is_away(page: PageProcess) -> None:
    text = page.get("/system").text
    assert "No data: the platform has not started Prefect: <code>mlplatform up</code>" in text
    assert '<th scope="row">gateway-0</th>' in text
    assert "fraud: decisions to review" in text
    assert f"on the disk of <code>{page.home.root}</code>" in text


def test_the_system_shows_what_prefect_plans_and_has_run(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.prefect_token.write_text("a token of this start")
    with prefect_standin() as port:
        process = PageProcess(home, MLPLATFORM_PREFECT_PORT=str(port))
        try:
            wait(lambda: "run-failed-of" in process.get("/system").text, "Prefect has answered")
            text = process.get("/system").text
        finally:
            process.close()
    MarkupChecker(text)
    prefect = f"http://127.0.0.1:{port}"
    assert f'href="{prefect}/runs/flow-run/run-failed-of-fraud-drift"' in text
    assert "2036-12-02 00:20 drift check fraud</a>" in text
    assert "Unavailable: the decision log does not answer" in text
    assert '<b class="bad">Late</b>' in text


def test_older_links_lead_through_all_decisions(page: PageProcess) -> None:
    path: str | None = "/decisions"
    seen: list[str] = []
    for _ in range(9):
        if path is None:
            break
        text = page.get(path).text
        seen += re.findall(r'href="/decisions/(d\d+)"', text)
        found = re.search(r'class="older"><a href="([^"]+)"', text)
        path = html.unescape(found.group(1)) if found else None
    assert path is None
    assert seen[:2] == ["d68", "d67"]
    assert len(seen) == len(set(seen)) == 68


@pytest.mark.parametrize(
    "asked",
    [
        "until=x",
        "from_ms=yesterday",
        "outcome=Maybe",
        "degraded=1",
        "version=x1",
        "unit=1e3",
        "before=1:a",
        "from_ms=5&to_ms=5",
        "model=<script>",
        f"reason={'x' * 65}",
    ],
)
def test_a_search_that_cannot_be_read_names_the_field_and_what_is_wanted(
    page: PageProcess, asked: str
) -> None:
    answer = page.get(f"/decisions?{asked}")
    assert answer.status_code == 400
    MarkupChecker(answer.text)
    assert asked.partition("=")[0] in answer.text or "to_ms" in answer.text
    assert "<script>" not in answer.text


def test_a_form_becomes_a_link_without_the_customer(page: PageProcess) -> None:
    def post(**form: str) -> httpx.Response:
        return httpx.post(f"{page.url}/decisions", data=form, auth=("x", TOKEN), timeout=60.0)

    key = (page.home.pseudonym_key).read_bytes()
    asked = post(customer=" 4711 ", outcome="decline", from_ms="2026-01-02T03:04", model="")
    assert asked.status_code == 303
    where = asked.headers["location"]
    assert "4711" not in where.replace(str(pseudonym("4711", key)), "")
    assert f"unit={pseudonym('4711', key)}" in where
    assert "outcome=decline" in where
    assert page.get(where).status_code == 200
    assert post(decision_id="d1").headers["location"] == "/decisions/d1"
    assert post(decision_id="../x").headers["location"] == "/decisions/..%2Fx"
    assert post(version="many").status_code == 400
    assert post(reason="HOUR").headers["location"] == "/decisions?reason=HOUR#found"
    assert post(version="v3").headers["location"] == "/decisions?version=3#found"
    typed = {"customer": "4711", "from_ms": "2026-11-02T00:00", "to_ms": "2026-11-01T00:00"}
    again = post(**typed, degraded="yes", version="v3")
    assert again.status_code == 400
    told = "Before is 2026-11-01 00:00 UTC; wanted: a time after From, 2026-11-02 00:00 UTC"
    assert told in again.text
    for value in (*typed.values(), "v3"):
        assert f'value="{value}"' in again.text, "what was typed is still in the form"
    assert '<option value="yes" selected>' in again.text
    MarkupChecker(again.text)
    assert post(outcome="x" * 20_000).status_code == 400
    assert "4711" not in page.log.read_text()


def test_a_form_of_another_site_and_one_without_the_token_are_refused(page: PageProcess) -> None:
    url = f"{page.url}/decisions"
    foreign = {"Origin": "http://evil.example"}
    assert httpx.post(url, data={}, auth=("x", TOKEN), headers=foreign).status_code == 403
    assert httpx.post(url, data={}).status_code == 401


def test_what_drove_a_decision_is_told_once_it_is_asked_for(page: PageProcess) -> None:
    text = page.get("/decisions/d1?why=yes", timeout=120.0).text
    MarkupChecker(text)
    assert "<h2>What drove it</h2>" in text


def test_a_decision_shows_what_was_decided_before_and_after_it(page: PageProcess) -> None:
    text = page.get("/decisions/d30").text
    MarkupChecker(text)
    beside = text.partition("<h2>Before and after it</h2>")[2].partition("as recorded</h2>")[0]
    around = re.findall(r'href="/decisions/(d\d+)"', beside)
    assert {"d29", "d31"} <= set(around)
    assert "d30" not in around
    assert "Of fraud: search further" in beside
    assert "Of the same customer" not in beside, "these decisions are nobody's"


def test_the_list_says_nothing_of_whom_a_decision_was_about(page: PageProcess) -> None:
    assert "amount" not in page.get("/decisions").text.partition('id="found"')[2]
    assert "amount" in page.get("/decisions/d1").text


def test_a_search_is_a_file_for_who_may_search(page: PageProcess) -> None:
    assert page.get("/decisions.csv", auth=None).status_code == 401
    file = page.get("/decisions.csv?model=fraud")
    assert (file.status_code, file.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert file.headers["content-disposition"] == 'attachment; filename="decisions.csv"'
    assert file.headers["cache-control"] == "no-store"
    head, *rows = file.text.splitlines()
    assert "amount" not in head
    assert any(row.startswith("d1,fraud,") for row in rows)
    assert page.get("/decisions.csv?customer=7").status_code == 400


def test_decisions_are_found_by_a_reason_and_listed_with_its_words(tmp_path: Path) -> None:
    world = HomeWorld(tmp_path / "home")
    world.fill()
    for reasons in (["HOUR", "RETIRED"], ["NIGHT"]):
        entry = world.entry(1)
        held = {**entry.record.payload, "reasons": reasons}
        record = msgspec.structs.replace(entry.record, payload=held)
        world.log.append("gateway-0", [msgspec.structs.replace(entry, record=record)])
    process = PageProcess(world.home)
    try:
        answer = process.get("/decisions?reason=HOUR")
        MarkupChecker(answer.text)
        assert '<option value="HOUR" selected>Hour of the day (UTC)</option>' in answer.text
        assert re.findall(r'href="/decisions/(d\d+)"', answer.text) == ["d9"]
        assert '<td data-head="Reasons">Hour of the day (UTC); RETIRED</td>' in answer.text
        every = process.get("/decisions").text
        assert '<td data-head="Reasons">Payment at night (UTC)</td>' in every
        assert every.count("</td></tr>") == 10
        assert every.count("Hour of the day (UTC); RETIRED") == 1
        head, *rows = csv.reader(process.get("/decisions.csv?reason=HOUR").text.splitlines())
        assert [dict(zip(head, row, strict=True))["reasons"] for row in rows] == ["HOUR, RETIRED"]
        retired = process.get("/decisions?reason=RETIRED&model=fraud").text
        MarkupChecker(retired)
        assert "No model has the reason <code>RETIRED</code> now." in retired
        assert '<option value="RETIRED" selected>' in retired
        assert re.findall(r'href="/decisions/(d\d+)"', retired) == ["d9"]
        link = '<a href="/decisions?model=fraud&amp;reason=RETIRED"><code>RETIRED</code></a>'
        assert link in process.get("/decisions/d9").text
        assert "No model has the reason" not in every + answer.text
        assert process.get("/decisions.csv?reason=NONE").status_code == 200
    finally:
        process.close()
        world.close()


def test_a_home_folder_where_nothing_ran_yet_is_shown_and_left_as_it_is(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    process = PageProcess(home)
    try:
        for path in ("/", "/models/fraud", "/models/fraud/data", *LISTS):
            assert process.get(path).status_code == 200
        assert process.get("/rollouts/none").status_code == 404
        assert process.get("/decisions/none").status_code == 404
        assert not home.rollouts_db.exists()
        assert not (home.decisions / "decisions.db").exists()
        home.rollouts_db.write_bytes(b"this is no database" * 100)
        answer = process.get("/rollouts")
        assert answer.status_code in (500, 503)
        assert "Traceback" not in answer.text
        assert "cannot be read now" in answer.text or "damaged" in answer.text
        assert process.get("/").status_code == 200
    finally:
        process.close()
