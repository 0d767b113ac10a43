"""What the overview makes of counted traffic: the newest numbers, each with its course."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.support.class_model import class_definition, real_definition

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.routes import no_routes
from mlplatform.observing.page import traffic
from mlplatform.observing.page.pictures.lines import HEIGHT, WIDTH, spark
from mlplatform.observing.page.pictures.scales import percents
from mlplatform.observing.page.queries.sources import ModelRow
from mlplatform.observing.page.rendering import render
from mlplatform.observing.page.traffic import Metric, TrafficDetail
from mlplatform.operations.actions.traffic import AGES, CHECK
from mlplatform.operations.traffic.buckets import BINS, EDGES, Counts
from mlplatform.operations.traffic.projection import TrafficBucket, TrafficReport
from mlplatform.runtime.units import DAY_MS, HOUR_MS
from rollout_world import fraud

NEWEST_MS = 20_000 * DAY_MS + 7 * HOUR_MS


def counts(requests: int, *, degraded: int = 0, alerts: int = 0, took_us: int = 4000) -> Counts:
    latency = np.zeros(BINS, dtype=np.int64)
    latency[np.searchsorted(EDGES, took_us, side="right")] = requests
    return Counts(requests, degraded, alerts, latency)


def read(buckets: list[TrafficBucket], **samples: Any) -> TrafficReport:
    found = {of: tuple(values) for of, values in samples.items()}
    return TrafficReport(300_000, NEWEST_MS, {}, tuple(buckets), found)


def day() -> TrafficReport:
    """A busy day: 10 requests/s, and a challenger that is asked a fifth of them, slowly."""
    buckets = []
    for start_ms in range(NEWEST_MS - DAY_MS, NEWEST_MS + 1, 300_000):
        buckets.append(TrafficBucket(start_ms, "champion", 1, counts(2400, degraded=24, alerts=48)))
        slow = counts(600, alerts=30, took_us=20_000)
        buckets.append(TrafficBucket(start_ms, "challenger", 2, slow))
    checked = [(NEWEST_MS - hours * HOUR_MS, CHECKED_BODY) for hours in (20, 10, 0)]
    ages = [(NEWEST_MS, {"customer_stats": 3 * HOUR_MS, "terminal_stats": 50 * HOUR_MS})]
    return read(buckets, **{CHECK: checked, AGES: ages})


CHECKED_BODY: dict[str, Any] = {
    "at_ms": 1,
    "verdict": "steady",
    "inputs": {
        "amount": {"psi": 0.05, "psi_limit": 0.2, "distance": 0.03, "distance_limit": 0.15,
                   "missing_share": 0.0},
        "count": {"psi": 0.1, "psi_limit": 0.2, "distance": 0.0, "distance_limit": 0.15,
                  "missing_share": 0.0},
    },
    "outcomes": {"matured": 900, "positives": 80, "alerts": 100, "hits": 60, "late": 0,
                 "newest_label_ms": 1},
}  # fmt: skip


def metrics(
    found: TrafficReport,
    period: str = "day",
    definition: ModelDefinition | None = None,
    now_ms: int = NEWEST_MS,
) -> dict[str, Metric]:
    shown = traffic.traffic_detail(definition or fraud(), found, period, now_ms)
    assert shown is not None
    return {metric.key: metric for metric in shown.metrics}


def test_variants_of_a_test_have_a_line_beside_the_champions() -> None:
    buckets = []
    for start_ms in range(NEWEST_MS - DAY_MS, NEWEST_MS + 1, 300_000):
        buckets.append(TrafficBucket(start_ms, "champion", 1, counts(2400, alerts=48)))
        for version, alerts in ((2, 30), (3, 10)):
            found = counts(400, alerts=alerts, took_us=20_000)
            buckets.append(TrafficBucket(start_ms, "variant", version, found))
    found = metrics(read(buckets))
    assert (found["alerts"].text, found["alerts"].note) == ("2 %", "variants 5 %")
    assert found["p99"].tone == "good", "the goal is the champion's"


def test_the_newest_numbers_are_those_of_the_traffic() -> None:
    found = metrics(day())
    assert {key: metric.text for key, metric in found.items()} == {
        "rate": "10 a second", "p50": "4.0 ms", "p99": "4.0 ms", "alerts": "2 %",
        "degraded": "0.8 %", "precision": "60 %", "recall": "75 %", "drift": "steady",
        "ages": "2.1 days",
    } | {key: found[key].text for key in ("p50", "p99")}  # fmt: skip
    assert float(found["p50"].text.split()[0]) == pytest.approx(4.0, rel=0.09)
    assert found["p99"].tone == "good"
    assert found["p99"].note.startswith("goal 10.0 ms: met; challenger ")
    assert found["alerts"].note == "challenger 5 %"
    assert found["recall"].note == "60 of 80; 95 % interval 65 % to 83 %"
    assert found["drift"].note == "count is at 50 % of its limit"
    assert found["ages"].note == "customer_stats 3 h, terminal_stats 2.1 days"


def test_what_a_model_of_classes_or_numbers_does_not_have_is_not_awaited() -> None:
    """No label ever gives it precision and recall, and without alerts none is flagged."""
    classes, real = class_definition(), real_definition()
    assert not classes.decision.alerts
    assert list(metrics(day(), definition=classes)) == [
        "rate", "p50", "p99", "degraded", "drift", "ages"
    ]  # fmt: skip
    shown = traffic.traffic_detail(classes, day(), "day", NEWEST_MS)
    assert shown is not None
    assert shown.columns == (
        "requests", "usual latency (p50)", "slowest answers (p99)", "degraded"
    )  # fmt: skip
    assert {len(values) for _, values in shown.rows} == {4}
    assert real.decision.alerts
    assert "alerts" in metrics(day(), definition=real)
    assert "recall" not in metrics(day(), definition=real)


def test_a_point_that_has_hardly_begun_is_told_with_the_one_before() -> None:
    before = TrafficBucket(NEWEST_MS - 300_000, "champion", 1, counts(1800))
    found = metrics(read([before, TrafficBucket(NEWEST_MS, "champion", 1, counts(1, degraded=1))]))
    assert found["degraded"].text == "0.056 %"
    assert found["rate"].text == "51 a minute", "1,801 requests in 35 minutes"


def test_a_goal_that_is_missed_is_told() -> None:
    slow = read([TrafficBucket(NEWEST_MS - 300_000, "champion", 1, counts(900, took_us=30_000))])
    assert metrics(slow)["p99"].tone == "bad"
    assert "missed" in metrics(slow)["p99"].note


@pytest.mark.parametrize(("answers", "is_judged"), [(5, False), (99, False), (100, True)])
def test_a_goal_is_not_judged_by_a_few_answers(answers: int, *, is_judged: bool) -> None:
    few = counts(answers, took_us=30_000)
    found = metrics(read([TrafficBucket(NEWEST_MS - 300_000, "champion", 1, few)]))["p99"]
    assert (found.tone == "bad") is is_judged
    assert ("missed" in found.note) is is_judged
    assert (f"{answers} answers are too few to judge (100 wanted)" in found.note) is not is_judged
    one = read([TrafficBucket(NEWEST_MS, "champion", 1, counts(1))])
    assert "1 answer is too few to judge" in metrics(one)["p99"].note


@pytest.mark.parametrize("period", traffic.PERIODS)
def test_every_line_lies_in_its_picture_and_gaps_stay_gaps(period: str) -> None:
    back_ms, point_ms = traffic.PERIODS[period]
    starts = [NEWEST_MS - back_ms, NEWEST_MS - 4 * point_ms, NEWEST_MS]
    found = metrics(read([TrafficBucket(s, "champion", 1, counts(5)) for s in starts]), period)
    drawn = found["p50"].spark
    assert drawn is not None
    assert len(drawn.lines[0].stretches) == 3
    later = metrics(read([TrafficBucket(s, "champion", 1, counts(5)) for s in starts]), period,
                    now_ms=NEWEST_MS + 7 * 60_000)["p50"].spark  # fmt: skip
    assert later is not None
    for stretch in drawn.lines[0].stretches + later.lines[0].stretches:
        for point in stretch.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


def test_ages_that_no_pass_has_sampled_lately_say_when_they_were_sampled() -> None:
    old_ms = NEWEST_MS - 20 * HOUR_MS
    found = read([], **{AGES: [(old_ms, {"customer_stats": 9 * HOUR_MS})]})
    note = metrics(found)["ages"].note
    assert note.startswith("customer_stats 9 h at ")
    assert note.endswith(" UTC; no newer decision was sampled")
    assert metrics(read([]))["ages"].note == "no pass has seen a decision that read a feature"


def test_the_rate_names_its_window() -> None:
    note = metrics(day())["rate"].note
    assert re.fullmatch(r"[\d,]+ requests in the last \d+ minutes that were counted", note)


@pytest.mark.parametrize(
    ("count", "seconds", "told"),
    [(90_000, 1800, "50 a second"), (420, 1800, "14 a minute"), (20, 1800, "40 an hour"),
     (3, 43_200, "6 a day"), (1, 86_400, "less than 2 a day"), (0, 1800, "none")],
)  # fmt: skip
def test_a_rate_has_the_unit_in_which_a_person_counts(count: int, seconds: int, told: str) -> None:
    assert traffic.rate_text(count / seconds) == told


def test_one_measurement_is_told_in_words_and_not_drawn() -> None:
    one = read([TrafficBucket(NEWEST_MS - 300_000, "champion", 1, counts(900))])
    shown = spark([("all", [(1, None), (60_000, 3.0)])], percents, (0, 120_000))
    assert shown is not None
    assert shown.once_ms == 60_000
    many = metrics(one)["rate"].spark
    assert many is not None
    assert many.once_ms is None, "each point of the period before it counted nothing"
    told = metrics(one)["p50"].spark
    assert told is not None
    assert told.once_ms is not None
    drawn = page(traffic.traffic_detail(fraud(), one, "day", NEWEST_MS))
    assert drawn.count("Measured once so far, at") >= 2
    assert "UTC.</span> A course takes two measurements." in drawn, "no line begins with a mark"


def test_what_nobody_measured_is_said() -> None:
    empty = metrics(read([]))
    assert empty["recall"].text == "not known yet"
    assert empty["drift"].text == "not checked yet"
    assert empty["p50"].text == "nothing asked"
    assert empty["rate"].text == "none"
    assert spark([("all", [(1, None)])], percents, (0, 1)) is None
    assert traffic.traffic_detail(fraud(), None, "day", NEWEST_MS) is None


def until(found: TrafficReport, counted_ms: int) -> TrafficReport:
    """The same counts, and that nothing came until a later time."""
    return replace(found, counted_ms=counted_ms)


def newest(found: TrafficReport, now_ms: int) -> traffic.NewestRecord:
    shown = traffic.traffic_detail(fraud(), found, "day", now_ms)
    assert shown is not None
    assert shown.to_ms == now_ms
    return shown.newest


@pytest.mark.parametrize("period", traffic.PERIODS)
def test_traffic_that_has_stopped_falls_to_zero_and_the_axis_ends_now(period: str) -> None:
    back_ms, point_ms = traffic.PERIODS[period]
    now_ms = NEWEST_MS + 3 * point_ms + 60_000
    rate = metrics(until(day(), now_ms), period, now_ms=now_ms)["rate"]
    assert rate.text == "none"
    assert rate.spark is not None
    course = rate.spark.lines[0].stretches[-1].split()
    assert float(course[-1].split(",")[1]) == pytest.approx(rate.spark.height - 6)
    assert "the last value is none" in rate.spark.description
    long_after = NEWEST_MS + 2 * back_ms
    assert metrics(until(day(), long_after), period, now_ms=long_after)["p50"].text == (
        "nothing asked"
    )


def test_a_busy_model_that_nobody_asks_any_more_is_a_warning() -> None:
    now_ms = NEWEST_MS + 14 * 60_000
    told = newest(until(day(), now_ms - 30_000), now_ms)
    assert told.age == "14 min"
    assert told.warning.startswith("No request was counted in the last 14 min, and about 8,")
    assert "traffic has stopped, or is not logged" in told.warning
    assert "14 min old" in page(traffic.traffic_detail(fraud(), day(), "day", now_ms))


def test_a_pause_of_a_model_that_is_seldom_asked_is_no_warning() -> None:
    seldom = read([TrafficBucket(NEWEST_MS - 3_600_000, "champion", 1, counts(20))])
    now_ms = NEWEST_MS + 30 * 60_000
    assert newest(until(seldom, now_ms), now_ms).warning == ""
    assert newest(until(day(), NEWEST_MS + 200_000), NEWEST_MS + 200_000).warning == ""


def test_counts_that_are_late_do_not_say_that_traffic_has_stopped() -> None:
    now_ms = NEWEST_MS + 14 * 60_000
    found = until(day(), NEWEST_MS + 1000)
    assert newest(found, now_ms).warning == (
        "Nothing was counted for 14 min: passes are late, and newer traffic is not shown"
    )
    assert metrics(found, now_ms=now_ms)["rate"].text != "0", "nobody knows"
    long_after = NEWEST_MS + 3 * DAY_MS
    assert metrics(found, now_ms=long_after)["rate"].text == "nothing asked"


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (10, 10), (1, 3)])
def test_an_interval_holds_its_share_and_stays_a_share(hits: int, trials: int) -> None:
    low, high = traffic.share_interval(hits, trials)
    assert 0 <= low <= hits / trials <= high <= 1


def page(shown: TrafficDetail | None, definition: ModelDefinition | None = None) -> str:
    model = ModelRow(definition or fraud(), no_routes("fraud"))
    return render("model.html", here="", model=model, traffic=shown, versions=[], rollouts=[],
                  buttons=(), budgets="away", tones={})  # fmt: skip


def test_the_page_leads_to_a_review_only_where_people_look_at_decisions() -> None:
    assert "/models/fraud/review" in page(None)
    assert "/review" not in page(None, class_definition())


def test_the_page_has_each_number_with_its_picture_and_a_table() -> None:
    text = page(traffic.traffic_detail(fraud(), day(), "day", NEWEST_MS))
    assert text.count('<svg class="spark"') == 8
    assert text.count("Measured once so far, at") == 1, "features' ages were sampled once"
    assert text.count('<tr><th scope="row" class="n">') == traffic.TABLE_ROWS
    assert 'href="/models/fraud?period=week"' in text
    assert "Nothing has been counted yet" in page(None)
