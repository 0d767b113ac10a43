"""What Prefect plans and has run, and how long the page waits for it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import pytest

from mlplatform.observing.page.queries import schedules
from mlplatform.observing.page.queries.schedules import Schedules, ScheduleTable, ask
from mlplatform.observing.page.rendering import render
from mlplatform.observing.page.system_summary import concerns
from mlplatform.operations.prefect_client.prefect import Deployment, FlowRun
from mlplatform.runtime.errors import Refused, Unavailable

NOW_MS = 1_000_000_000


def run(
    name: str, of: str, start_ms: int | None, state: str = "COMPLETED", message: str = ""
) -> FlowRun:
    return FlowRun(name, name, state, state.capitalize(), message, {}, 0, of, start_ms)


@dataclass
class FakePrefect:
    """Prefect's answers from lists; runs are newest first, as Prefect sorts them."""

    own: list[Deployment] = field(default_factory=list)
    begun: list[FlowRun] = field(default_factory=list)
    coming: list[FlowRun] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    fails: Exception | None = None
    closed: int = 0
    waits: threading.Event | None = None

    def deployments(self) -> list[Deployment]:
        self.asked.append("deployments")
        if self.waits is not None:
            assert self.waits.wait(30)
        if self.fails is not None:
            raise self.fails
        return self.own

    def newest_runs(self, flows: Sequence[str], most: int) -> list[FlowRun]:
        self.asked.append(f"newest {flows[0]}")
        return [r for r in self.begun if r.deployment.endswith(f"-{flows[0]}")][:most]

    def newest_run_of(self, deployment: str) -> FlowRun | None:
        self.asked.append(f"newest of {deployment}")
        return next((r for r in self.begun if r.deployment == deployment), None)

    def next_runs(self, flows: Sequence[str], most: int) -> list[FlowRun]:
        self.asked.append(f"next {flows[0]}")
        return [r for r in self.coming if r.deployment.endswith(f"-{flows[0]}")][:most]

    def close(self) -> None:
        self.closed += 1


def deployment(name: str, *schedules: str) -> Deployment:
    return Deployment(name, name, schedules)


def world() -> FakePrefect:
    return FakePrefect(
        own=[
            deployment("fraud-batch"),
            deployment("fraud-drift", "20 0 * * * UTC"),
            deployment("credit-drift", "20 0 * * * UTC"),
            deployment("fraud-rollout", "every 60 s"),
            deployment("fraud-retrain"),
            deployment("of-somebody-else"),
        ],
        begun=[
            run("pass 2", "fraud-rollout", NOW_MS - 10),
            run("pass 1", "fraud-rollout", NOW_MS - 60_010),
            run("check", "fraud-drift", NOW_MS - 20, "FAILED",
                "Flow run encountered an exception: Unavailable: the log"),
        ],
        coming=[
            run("pass 3", "fraud-rollout", NOW_MS + 50_000, "SCHEDULED"),
            run("check tomorrow", "fraud-drift", NOW_MS + 9_000_000, "SCHEDULED"),
            run("check of credit", "credit-drift", NOW_MS - 70_000, "SCHEDULED"),
        ],
    )  # fmt: skip


def table(prefect: FakePrefect) -> ScheduleTable:
    return ask(prefect, NOW_MS, lambda: False)


def test_each_flow_of_each_model_has_its_last_and_its_next_run() -> None:
    found = {(row.flow, row.model): row for row in table(world()).active}
    assert set(found) == {("drift", "fraud"), ("drift", "credit"), ("rollout", "fraud")}
    passes = found["rollout", "fraud"]
    assert (passes.every, passes.last and passes.last.name, passes.next and passes.next.name) == (
        "every 60 s", "pass 2", "pass 3",
    )  # fmt: skip
    assert found["drift", "fraud"].every == "daily at 00:20 UTC"


def test_a_failed_run_says_why_and_a_run_past_its_time_is_late() -> None:
    found = {(row.flow, row.model): row for row in table(world()).active}
    last, late = found["drift", "fraud"].last, found["drift", "credit"].next
    assert last is not None
    assert late is not None
    assert (last.state, last.tone, last.why) == ("Failed", "bad", "Unavailable: the log")
    assert (late.state, late.tone) == ("Late", "bad")


def test_a_planned_run_has_the_platforms_name_and_not_the_random_one() -> None:
    planned = FlowRun(
        "r", "calm-lynx", "SCHEDULED", "Scheduled", "", {"model": "fraud"}, 0, "fraud-drift", NOW_MS
    )
    prefect = FakePrefect(own=[deployment("fraud-drift")], coming=[planned])
    (row,) = table(prefect).rows
    assert row.next is not None
    assert row.next.name == "drift check fraud"


def test_flows_that_nobody_has_asked_for_are_named_apart() -> None:
    found = table(world())
    assert [(row.flow, row.model) for row in found.idle] == [
        ("retrain", "fraud"), ("batch", "fraud"),
    ]  # fmt: skip
    hidden = found.without({"fraud"})
    assert {row.model for row in hidden.rows} == {"credit"}


def test_runs_of_one_model_do_not_hide_those_of_another() -> None:
    prefect = FakePrefect(
        own=[deployment("fraud-retrain"), deployment("credit-retrain")],
        begun=[run(f"fraud {n}", "fraud-retrain", NOW_MS - n) for n in range(20)]
        + [run("credit long ago", "credit-retrain", 5)],
    )
    found = {row.model: row.last for row in table(prefect).rows}
    assert found["credit"] is not None
    assert found["credit"].name == "credit long ago"
    assert prefect.asked.count("newest of credit-retrain") == 1
    assert "newest of fraud-retrain" not in prefect.asked


def test_no_more_is_asked_one_by_one_than_the_limit() -> None:
    own = [deployment(f"m{n}-retrain") for n in range(schedules.MOST_SINGLE + 3)]
    many = [run(f"{n}", "m0-retrain", NOW_MS - n) for n in range(schedules.EACH * len(own))]
    prefect = FakePrefect(own=own, begun=many)
    found = table(prefect)
    singles = [asked for asked in prefect.asked if asked.startswith("newest of")]
    assert (len(singles), found.not_asked) == (schedules.MOST_SINGLE, True)


def test_questions_end_with_their_time() -> None:
    prefect = world()
    with pytest.raises(Unavailable, match="longer than 30 s"):
        ask(prefect, NOW_MS, lambda: True)
    assert prefect.asked == ["deployments"]


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def known(prefect: FakePrefect, clock: Clock) -> Schedules:
    return Schedules(lambda: prefect, lambda: NOW_MS, clock)


def test_an_answer_is_kept_for_a_while_and_each_client_is_closed() -> None:
    prefect, clock = world(), Clock()
    read = known(prefect, clock)
    assert read.read() == table(world())
    clock.now_s += schedules.KEPT_S - 1
    read.read()
    assert prefect.asked.count("deployments") == 1
    clock.now_s += 2
    read.read()
    assert (prefect.asked.count("deployments"), prefect.closed) == (2, 2)


def test_a_server_that_is_slow_again_leaves_the_last_answer_with_its_time() -> None:
    prefect, clock = world(), Clock()
    read = known(prefect, clock)
    first = read.read()
    clock.now_s += schedules.KEPT_S + 1
    prefect.waits = threading.Event()
    try:
        assert read.read() is first
        clock.now_s += schedules.STALE_S
        with pytest.raises(Unavailable, match="has not answered in 2 s, and is still asked"):
            read.read()
    finally:
        prefect.waits.set()


def test_an_absence_is_kept_too_and_ends_with_the_next_answer() -> None:
    prefect, clock = world(), Clock()
    prefect.fails = Refused("Prefect's gate refused")
    read = known(prefect, clock)
    for _ in range(3):
        with pytest.raises(Refused, match="gate"):
            read.read()
    assert prefect.asked == ["deployments"]
    prefect.fails = None
    clock.now_s += schedules.KEPT_S + 1
    assert read.read().rows


def test_an_answer_of_another_form_is_no_data() -> None:
    prefect = world()
    prefect.fails = KeyError("id")
    with pytest.raises(Unavailable, match="can't be read"):
        known(prefect, Clock()).read()


def page(found: object, prefect: str = "http://127.0.0.1:4200") -> str:
    return render(
        "system.html", here="system", concerns=(),
        alerts=None, disk="not asked", lags=None, queues=[],
        schedules=found, prefect=prefect, status=None,
    )  # fmt: skip


def test_the_page_leads_to_each_run_and_deployment_in_prefect() -> None:
    text = page(table(world()))
    for path in (
        "runs/flow-run/pass%202",
        "runs/flow-run/pass%203",
        "deployments/deployment/fraud-drift",
    ):
        assert f'href="http://127.0.0.1:4200/{path}"' in text
    assert "Unavailable: the log" in text
    assert "<a href" not in page(table(world()), prefect="").partition("<h2>Schedules")[2]


def test_the_page_says_that_there_is_no_data_and_why() -> None:
    text = page("the platform has not started Prefect: `mlplatform up`")
    assert "No data: the platform has not started Prefect: <code>mlplatform up</code>" in text
    assert "this page has no token of Prefect's server" in page(None)
    assert "no flow of this platform yet" in page(ScheduleTable((), NOW_MS))


def test_what_runs_say_is_text() -> None:
    prefect = world()
    prefect.begun[2] = run("<b>", "fraud-drift", 1, "CRASHED", "<script>alert(1)</script>")
    text = page(table(prefect))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def too_late() -> Unavailable:
    """What the client of Prefect raises if no answer comes in time."""
    error = Unavailable("Prefect does not answer")
    error.__cause__ = httpx.ReadTimeout("read")
    return error


def test_a_view_that_shows_no_schedules_learns_of_the_silence_without_waiting() -> None:
    prefect, clock = world(), Clock()
    prefect.waits = threading.Event()
    read = known(prefect, clock)
    try:
        assert read.silence() == ""
        clock.now_s += schedules.SILENT_S - 1
        assert read.silence() == "", "a question that is late is not yet a server that is away"
        clock.now_s += 1
        assert read.silence() == "no answer to this page for 60 s"
    finally:
        prefect.waits.set()
    with pytest.raises(Unavailable, match="longer than 30 s"):
        read.read()
    assert read.silence() == "", "it has answered, though late"
    clock.now_s += schedules.FAILED_S
    assert read.read().rows


def test_a_server_that_is_away_is_silent_at_once_with_the_time_of_its_last_answer() -> None:
    prefect, clock = world(), Clock()
    read = known(prefect, clock)
    read.read()
    prefect.fails = Unavailable("nobody listens")
    clock.now_s += schedules.KEPT_S + 1
    found = read.read()
    told = "its last answer came at 1970-01-12 13:46:40 UTC"
    assert read.silence() == f"no answer to this page: nobody listens; {told}"
    assert found.late == f"Prefect does not answer: {told}"
    assert f"{found.late}. Until it answers again" in page(found)


def test_a_server_under_load_answers_late_and_is_never_called_silent() -> None:
    """Each question takes longer than the time for it, and answers come all the same."""
    prefect, clock = world(), Clock()
    read = known(prefect, clock)
    read.read()
    prefect.fails = too_late()
    for _ in range(3):
        clock.now_s += schedules.KEPT_S
        found = read.read()
        assert found.late.startswith("Prefect answers late: its last answer came at 1970-01-12")
        assert read.silence() == ""
    told = concerns(None, "not asked", None, [], found, None)
    assert [one.part for one in told if "Prefect answers late" in one.text] == ["schedules"]
    prefect.fails = None
    clock.now_s += schedules.FAILED_S
    assert (read.read().late, read.silence()) == ("", ""), "it recovers at the next question"


def test_answers_to_a_part_of_the_questions_are_answers() -> None:
    prefect, clock = world(), Clock()
    read = known(prefect, clock)
    read.read()

    def slow() -> list[Deployment]:
        clock.now_s += schedules.ASKED_S + 1
        return prefect.own

    prefect.deployments = slow  # type: ignore[method-assign]
    for _ in range(5):
        clock.now_s += schedules.KEPT_S
        assert read.read().late.startswith("Prefect answers late")
        assert read.silence() == ""


def test_a_failure_of_long_ago_says_nothing_now() -> None:
    prefect, clock = world(), Clock()
    prefect.fails = too_late()
    read = known(prefect, clock)
    with pytest.raises(Unavailable):
        read.read()
    prefect.fails, prefect.waits = None, threading.Event()
    clock.now_s += 10 * schedules.SILENT_S
    try:
        assert read.silence() == ""
    finally:
        prefect.waits.set()
